"""What an event sends: messages and bytes by topic, bytes to and from the store, and what following costs.

``python -m benchmarks.traffic --json [--partitions 4 64] [--events 100000]``: the clicks of
`benchmarks.kernel` (20,000 users, 50,000 items, W = 20) in this process, on a real store, ``BATCH`` a
partition at a time; the last half is counted, when histories are there. Bytes are of keys and values,
before compression, without the broker's frames (about 10 a message). These clicks come session by
session: so there are fewer lists and records of neighbours an event than where users are many. Another
follower takes every record of neighbours, as each worker does: the time of that is CPU of this process.
Most depends on the data alone, so there are no repeats. `docs/scaling.md` reckons with these figures.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from redis import Redis

from benchmarks.inprocess import InProcess, Load, inprocess
from benchmarks.kernel import clicks
from benchmarks.report import Report, arguments, figure, tell
from stream.core.items import Items
from stream.delivery import Output
from stream.follower import Followed
from stream.mail import unpack
from stream.topics import INCREMENTS, NEIGHBORS

BATCH = 500
"""Events of a partition at a time: those of about 0.1 s where a worker is half busy."""
_RECORDS = f"{NEIGHBORS.name}: messages"
Found = dict[str, float]


class Tally:
    """Counts what is sent, and follows it as another worker would. ``watching_s``: CPU of all that."""

    def __init__(self, one: InProcess) -> None:
        self._items = Items()
        self._other = Followed(one.settings, self._items)
        self.reset()

    def reset(self) -> None:
        """Begin to count."""
        self.counts: Counter[str] = Counter()
        self.follow_s = self.watching_s = 0.0

    def __call__(self, outputs: Sequence[Output]) -> None:
        begun = time.process_time()
        for each in outputs:
            self.counts[f"{each.topic}: messages"] += 1
            self.counts[f"{each.topic}: bytes"] += len(each.key or b"") + len(each.value or b"")
            if each.topic == INCREMENTS.name:
                self._entries(each.value or b"")
        self._follow([each for each in outputs if each.topic == NEIGHBORS.name])
        self.watching_s += time.process_time() - begun

    def _entries(self, value: bytes) -> None:
        _, found = unpack(value, self._items)
        self.counts["increments: entries"] += len(found.row)
        self.counts["increments: rows"] += len(np.unique(found.source * (1 << 20) + found.row))

    def _follow(self, records: Sequence[Output]) -> None:
        names = [(each.key or b"").decode() for each in records]
        begun = time.process_time()
        if records:
            self._other.hood.apply(names, [each.value or b"" for each in records])
        self.follow_s += time.process_time() - begun

    def of_event(self, events: int) -> Found:
        """Figures of an event, and µs to follow a record."""
        told = {name: count / events for name, count in sorted(self.counts.items())}
        return told | {"a record of neighbours: follow": self.follow_s / self.counts[_RECORDS] * 1e6}


async def measure(partitions: int, events: int) -> Found:
    """Figures of an event; partitions whose events come ``BATCH`` at a time."""
    stream = clicks(2 * events)
    load = Load(stream.user, stream.item.astype(np.int64), stream.time)
    first, last = load.batches(len(load) // 2)
    async with inprocess(partitions=partitions) as one:
        one.tap = tally = Tally(one)
        await one.feed(first, BATCH * partitions)
        tally.reset()
        before, begun = _store(one), one.cpu()
        await one.feed(last, BATCH * partitions)
        after, ended = _store(one), one.cpu()
    cpu = (ended.worker - begun.worker - tally.watching_s) / len(last) * 1e6
    store = {name: (after[name] - before[name]) / len(last) for name in after}
    return tally.of_event(len(last)) | store | {"worker, CPU": cpu}


def _store(one: InProcess) -> Found:
    """Bytes of commands and replies so far."""
    with Redis.from_url(one.settings.store_url) as redis:
        told = redis.info("stats")
    return {"store: written": told["total_net_input_bytes"], "store: read": told["total_net_output_bytes"]}


UNITS = {"messages": "messages", "entries": "entries", "rows": "rows", "CPU": "us", "follow": "us"}


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--partitions", type=int, nargs="*", default=[4, 64])
    parser.add_argument("--events", type=int, default=100_000)
    given = parser.parse_args()
    figures = {
        f"{name}, {partitions} partitions": figure([value], UNITS.get(name.split()[-1], "bytes"))
        for partitions in given.partitions
        for name, value in asyncio.run(measure(partitions, given.events)).items()
    }
    tell(Report("traffic", figures, {"events of a partition at a time": BATCH}), given)


if __name__ == "__main__":
    main()
