"""A worker in this process on a real store, without broker: for what CPU time and memory depend on.

The worker's own shoppers and shelves (`stream.local`), on the embedded store. Events come in batches, and
what they change is published and written at once after each: nothing waits, so each run does the same work.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import cpu_s
from state.keys import Keys
from state.redis import RedisStore
from stream.allocator import keep_freed_memory
from stream.codec import Record
from stream.delivery import Output, Ports
from stream.embedded import EmbeddedStore
from stream.local import LocalWorker, NewLog, bundle
from stream.ownership import partition_of
from stream.settings import Settings
from stream.shelf import Shelf
from stream.shopper import Shopper
from stream.topics import EVENTS, NEIGHBORS
from stream.transport import StockRecord

I64 = NDArray[np.int64]

BATCH = 2000
"""Events between two publications of lists, as of a busy worker."""
START_MS = 1_760_000_000_000


@dataclass(frozen=True)
class Load:
    """N events in order of time: ``user``, ``item``, ``time_ms`` [N]."""

    user: I64
    item: I64
    time_ms: I64

    def __len__(self) -> int:
        return len(self.user)

    def batches(self, size: int) -> Iterator[Load]:
        """Some events at a time."""
        for low in range(0, len(self), size):
            at = slice(low, low + size)
            yield Load(self.user[at], self.item[at], self.time_ms[at])


def visits(
    users: int, items: int, each: int, seed: int = 7, start_ms: int = START_MS, zipf: float = 0.0
) -> Load:
    """Every user once, ``each`` views of items of a category of 100 that is his own, 3 s apart.

    So histories are of equal length however many users there are, and rows hold at most 99 pairs however many
    events there are. One visit after the other; items are skewed by ``zipf``, 0: not at all.
    """
    random = np.random.default_rng(seed)
    user = np.repeat(random.permutation(users), each)
    within = np.minimum(random.zipf(zipf, len(user)) - 1, 99) if zipf else random.integers(0, 100, len(user))
    item = (user * 7919 % max(items // 100, 1)) * 100 + within
    return Load(user, item % items, start_ms + 3000 * np.arange(len(user)))


class InProcess:
    """A worker on a store. ``published``: lists of neighbours so far; ``tap``: is shown all that is sent.

    What is done at intervals is done as at ``rate`` events/s; 0: whenever it may.
    """

    def __init__(self, settings: Settings, store: RedisStore, store_pid: int, rate: float) -> None:
        self.settings, self.store, self._store_pid = settings, store, store_pid
        self.worker = LocalWorker(settings, b"benchmark")
        contexts, self._rate, self._now_ms = self.worker.contexts, rate, 0.0
        ports = Ports(NewLog(), store, self, self._now, contexts.dead_letters)
        parts = range(settings.partitions)
        self.worker.shoppers = [Shopper(p, ports, contexts.shopping) for p in parts]
        self.worker.shelves = [Shelf(p, ports, contexts.shelving) for p in parts]
        self._offsets = [0] * settings.partitions
        self._encoded = 0.0
        self.published = 0
        self.tap: Callable[[Sequence[Output]], object] = len

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        """The sender's port."""
        self.tap(outputs)
        await self.worker.outputs.publish(partition, outputs)

    def _now(self) -> int:
        self._now_ms += 0 if self._rate else 1_000_000
        return int(self._now_ms)

    async def feed(self, load: Load, size: int = BATCH) -> None:
        """Let events count, ``size`` at a time; their lists are in the store afterwards."""
        for batch in load.batches(size):
            begun = time.process_time()
            parts = self._records(batch)
            self._encoded += time.process_time() - begun
            self._now_ms += len(batch) / self._rate * 1000 if self._rate else 0
            for partition, records in parts.items():
                await self.worker.shoppers[partition].handle([bundle(EVENTS.name, partition, records)])
            await self.worker.fold()
            for shelf in self.worker.shelves:
                await shelf.publish()
            sent = self.worker.outputs.sent.items()
            self.published += sum(len(some) for (topic, _), some in sent if topic == NEIGHBORS.name)
            self.worker.outputs.sent.clear()
        for shelf in self.worker.shelves:
            await shelf.pulse(busy=False)

    def _records(self, batch: Load) -> dict[int, list[Record]]:
        parts: dict[int, list[Record]] = {}
        stamps = np.datetime_as_string(batch.time_ms.astype("datetime64[ms]"))
        rows = zip(batch.user.tolist(), batch.item.tolist(), batch.time_ms.tolist(), stamps, strict=True)
        for user, item, at, stamp in rows:
            name = f"user-{user:07d}"
            partition = partition_of(name, self.settings.partitions)
            offset = self._offsets[partition]
            self._offsets[partition] += 1
            value = (
                f'{{"id":"{offset:012d}","type":"view_item","time":"{stamp}Z","user":"{name}",'
                f'"item":"item-{item:06d}","price":19.99}}'
            )
            records = parts.setdefault(partition, [])
            records.append(StockRecord(offset, at, name.encode(), value.encode(), ()))
        return parts

    def cpu(self) -> SimpleNamespace:
        """CPU seconds so far: ``worker`` without making the events, ``store``."""
        return SimpleNamespace(worker=time.process_time() - self._encoded, store=cpu_s(self._store_pid))


@asynccontextmanager
async def inprocess(rate: float = 0.0, **changes: object) -> AsyncIterator[InProcess]:
    """A new one, with a store of its own. ``changes``: of settings."""
    keep_freed_memory()
    async with EmbeddedStore() as server:
        settings = Settings.model_validate({"partitions": 1, "store_url": server.url} | changes)
        store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 60.0)
        one = InProcess(settings, store, server.pid or 0, rate)
        await one.worker.take()
        try:
            yield one
        finally:
            await store.close()
