"""The deterministic replay: the log as it now stands, in one process and in memory, by the worker's own code.

Every partition of `events` is read from its beginning to its end, recorded mail and ticks included, through
the very same `Shopper`; what it makes for item partitions goes through the very same `Shelf`; the catalogue
comes first. The result depends on the log alone, so its digest is what every live run over that log must
have reached, whatever workers, batches and failures did on the way. Lists are not part of that: no
neighbours are followed here while users are ranked.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from state.keys import Keys
from state.memory import MemoryStore
from stream.codec import Record
from stream.contexts import Contexts
from stream.core.items import Items
from stream.delivery import Output, Ports
from stream.digest import Digest, sum_up
from stream.follower import Followed
from stream.settings import Settings
from stream.shelf import Shelf
from stream.shopper import Shopper
from stream.status import tallies
from stream.topics import CATALOG, EVENTS, INCREMENTS
from stream.transport import FETCH_WAIT_MS, Bundle, StockRecord

Chunks = Callable[[str, int], AsyncIterator[Sequence[Record]]]
"""(topic, partition) → its records in order, some at a time."""

MAIL = b'{"type":"tidewise.mail"'
"""How mail begins, by which it is told from clients' events in a log."""
CHUNK = 8000
"""Records in one step."""
_READ_S, _NONE_S = 5.0, 0.3
"""Waits for a record that must be there, and for one behind the end that the broker tells."""


@dataclass
class Replayed:
    """What a log makes.

    ``outputs`` are all messages by topic, in order of partition; ``missing`` the mail to `events` (target
    partition, bytes) that the log should hold and does not, ``strange`` what it holds and no event explains.
    """

    digest: Digest
    store: MemoryStore
    outputs: dict[str, list[Output]]
    missing: list[tuple[int, bytes]]
    strange: list[tuple[int, bytes]]


async def replay_topics(settings: Settings, signing_key: bytes) -> Replayed:
    """Replay what stands on the broker. About 50 µs an event; memory grows with users and items."""
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=int(settings.connect_timeout_s * 1000),
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=8 * settings.max_message_bytes,
    ) as consumer:
        return await replay(settings, signing_key, lambda t, p: _chunks(consumer, settings, t, p))


async def _chunks(
    consumer: AIOKafkaConsumer, settings: Settings, topic: str, partition: int
) -> AsyncIterator[Sequence[Record]]:
    """All records, until none comes: behind the last there may be transaction markers."""
    at = TopicPartition(settings.topic_prefix + topic, partition)
    consumer.assign([at])
    await consumer.seek_to_beginning(at)
    end = (await consumer.end_offsets([at]))[at]
    while True:
        wait_s = _READ_S if await consumer.position(at) < end else _NONE_S
        found = await consumer.getmany(at, timeout_ms=int(wait_s * 1000), max_records=CHUNK)
        if not found:
            return
        yield found[at]


async def replay(settings: Settings, signing_key: bytes, chunks: Chunks) -> Replayed:
    """Replay any log. ``chunks`` yields the records of `events` and `catalog`."""
    return await _Replay(settings, signing_key).run(chunks)


@dataclass
class _Outputs:
    """The sender's port: keeps what is published, by topic and partition."""

    sent: dict[tuple[str, int], list[Output]] = field(default_factory=dict)

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self.sent.setdefault((output.topic, partition), []).append(output)

    def take(self, topic: str, partition: int) -> list[Output]:
        return self.sent.pop((topic, partition), [])


class _NewLog:
    """The log's port: every log begins at 0, and nothing is ever read a second time."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, 0

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        raise AssertionError("a replay reads in order")


class _Replay:
    def __init__(self, settings: Settings, signing_key: bytes) -> None:
        items = Items()
        contexts = Contexts(settings, items, Followed(settings, items), signing_key)
        self._settings = settings
        self._store = MemoryStore(Keys(settings.prefix))
        self._outputs = _Outputs()
        # A clock that leaps lets everything that is done at intervals be due whenever it is asked for.
        leaps = itertools.count(1, 1_000_000)
        ports = Ports(_NewLog(), self._store, self._outputs, lambda: next(leaps), contexts.dead_letters)
        self._shoppers = [Shopper(p, ports, contexts.shopping) for p in range(settings.partitions)]
        self._shelves = [Shelf(p, ports, contexts.shelving) for p in range(settings.partitions)]
        self._increments = [itertools.count() for _ in self._shelves]

    async def run(self, chunks: Chunks) -> Replayed:
        for shopper, shelf in zip(self._shoppers, self._shelves, strict=True):
            await shopper.take()
            await shelf.take()
        recorded: set[tuple[int, bytes]] = set()
        for shelf in self._shelves:
            async for records in chunks(CATALOG.name, shelf.partition):
                await shelf.handle([_bundle(CATALOG.name, shelf.partition, records)])
        for shopper in self._shoppers:
            async for records in chunks(EVENTS.name, shopper.partition):
                values = (record.value or b"" for record in records)
                recorded.update((shopper.partition, value) for value in values if value.startswith(MAIL))
                await shopper.handle([_bundle(EVENTS.name, shopper.partition, records)])
                await self._fold()
        for shelf in self._shelves:
            await shelf.pulse(busy=False)
        return await self._result(recorded)

    async def _fold(self) -> None:
        """Hand the mail that the shoppers made to the item partitions."""
        for shelf in self._shelves:
            mail = self._outputs.take(INCREMENTS.name, shelf.partition)
            offsets = self._increments[shelf.partition]
            records = [StockRecord(next(offsets), 0, None, each.value, ()) for each in mail]
            if records:
                await shelf.handle([_bundle(INCREMENTS.name, shelf.partition, records)])

    async def _result(self, recorded: set[tuple[int, bytes]]) -> Replayed:
        outputs: dict[str, list[Output]] = {}
        made: set[tuple[int, bytes]] = set()
        for (topic, partition), sent in sorted(self._outputs.sent.items()):
            if topic == EVENTS.name:
                made.update((partition, output.value) for output in sent)
            else:
                outputs.setdefault(topic, []).extend(sent)
        summed, _ = await tallies(self._settings, self._store)
        digest = await sum_up(self._settings, self._store, summed)
        return Replayed(digest, self._store, outputs, sorted(made - recorded), sorted(recorded - made))


def _bundle(topic: str, partition: int, records: Sequence[Record]) -> Bundle:
    return Bundle(topic, partition, records, None, records[-1].offset + 1)
