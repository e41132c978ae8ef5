"""What only the command line needs of sources: a simulated shop, the beginning of a log, a log in memory."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from producers.simulator import Shop
from producers.source import Entry, Source
from stream.codec import Record
from stream.offline import CHUNK, Chunks
from stream.ownership import partition_of
from stream.times import time_ms
from stream.topics import CATALOG, EVENTS
from stream.transport import StockRecord

RATE = 20.0
"""Events a second of event time in the simulated shop."""


class Simulated:
    """A simulated shop's catalogue and then its events; the last one is dated when it is sent."""

    name = "simulator"
    note = "The shop is simulated."

    def __init__(self, seed: int, events: int, speed: float | None, now_ms: int) -> None:
        self._shop = Shop(seed)
        self._events = events
        span_ms = events / RATE * 1000
        ahead_ms = span_ms / speed if speed is not None else 0.0
        self._start_ms = int(now_ms + min(0.0, ahead_ms - span_ms))
        self.identity = f"simulator-{seed}-{self._start_ms}"

    @property
    def total(self) -> int:
        """Items and events."""
        return self._shop.items + self._events

    def entries(self) -> Iterator[Entry]:
        """The catalogue, dated at the start, then the events."""
        line = 0
        for line, item in enumerate(self._shop.catalog(self._start_ms), 1):
            yield Entry(self._start_ms, line, item["item"], msgspec.json.encode(item), True)
        events = self._shop.events(self._events, self._start_ms, RATE)
        for number, event in enumerate(events, line + 1):
            key = event.get("user") or event["anonymous"]
            data = msgspec.json.encode({"id": f"{self.identity}-{number}", **event})
            yield Entry(time_ms(event["time"]), number, key, data, False)


@dataclass(frozen=True)
class First:
    """The first ``limit`` events of a source."""

    source: Source
    limit: int

    @property
    def name(self) -> str:
        """As the source is called."""
        return self.source.name

    @property
    def identity(self) -> str:
        """That of the source: a replay without limit may go on."""
        return self.source.identity

    @property
    def note(self) -> str:
        """What must be said of the source."""
        return self.source.note

    @property
    def total(self) -> int | None:
        """Not known: the log may be shorter."""
        return None

    def entries(self) -> Iterator[Entry]:
        """They."""
        return islice(self.source.entries(), self.limit)


def in_memory(source: Source, partitions: int) -> Chunks:
    """A source as the log that sending it would make, each event received at its own time."""
    logs: dict[tuple[str, int], list[Record]] = defaultdict(list)
    now_ms = time.time_ns() // 1_000_000
    for entry in source.entries():
        topic = CATALOG if entry.is_item else EVENTS
        log = logs[topic.name, partition_of(entry.key, partitions)]
        received = (("received", b"%d" % entry.time),) if entry.time else ()
        log.append(StockRecord(len(log), entry.time or now_ms, entry.key.encode(), entry.data, received))

    async def chunks(topic: str, partition: int) -> AsyncIterator[Sequence[Record]]:
        log = logs[topic, partition]
        for start in range(0, len(log), CHUNK):
            yield log[start : start + CHUNK]

    return chunks
