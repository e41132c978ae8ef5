"""The recommender in one process, as evaluation drives it: the worker's own code, on memory, in steps.

A *step* is a run of events in which no user occurs twice. Before it counts, its users can be asked for their
lists as they are then; afterwards all that it changed has reached the neighbour lists. So in a prequential
test each list is made from nothing after its moment, and all before it but what is in the same step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.codec import Record
from stream.core.recommend.query import Query
from stream.core.users import Rows, joined
from stream.evaluation.history import History
from stream.lister import Lister
from stream.local import LocalWorker, bundle
from stream.ownership import partition_of
from stream.settings import Settings
from stream.times import time_text
from stream.topics import CATALOG, EVENTS, TRENDING
from stream.transport import StockRecord

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_KEY = b"evaluation"
_TRENDING_MS = 600_000


@dataclass(frozen=True, slots=True)
class Lines:
    """Interactions [N] in order of events: ``user`` and ``item`` [N] by number, ``time_ms`` [N] and ``event``
    [N] (rising by event), all of one event type ``kind``."""

    user: I32
    item: I32
    time_ms: I64
    event: I64
    kind: str

    @classmethod
    def of(cls, history: History, at: slice) -> Lines:
        """Some of a history."""
        return cls(history.user[at], history.item[at], history.time_ms[at], history.event[at], history.kind)


class Engine:
    """A deployment in this process. ``users`` and ``items`` are names by number."""

    def __init__(self, settings: Settings, users: Sequence[str], items: Sequence[str]) -> None:
        self.worker = LocalWorker(settings, _KEY)
        self.users, self.names = users, items
        self._lister.publishing = False
        self._partition = np.array([partition_of(user, settings.partitions) for user in users])
        self._trended = -1
        self._offset = [0] * settings.partitions

    @property
    def _lister(self) -> Lister:
        return self.worker.contexts.shopping.lister

    async def open(self, catalog: Sequence[bytes] = ()) -> None:
        """Begin; ``catalog`` are catalogue events, which count first."""
        await self.worker.take()
        self.local = self.worker.items.ids(self.names)
        self._number = np.empty(len(self.worker.items), dtype=np.int32)
        self._number[self.local] = np.arange(len(self.names))
        parts: dict[int, list[Record]] = {}
        for event in catalog:
            name = msgspec.json.decode(event, type=_Named).item
            records = parts.setdefault(partition_of(name, len(self._offset)), [])
            records.append(StockRecord(len(records), 0, name.encode(), event, ()))
        for partition, records in parts.items():
            await self.worker.shelves[partition].handle([bundle(CATALOG.name, partition, records)])
        await self._settle(0)

    async def count(self, lines: Lines, learn: bool = True, pairs: bool = True) -> None:
        """Let events count. ``learn``: the mixture learns from them. Without ``pairs`` only the users
        themselves change, and nothing of items: what a static test needs.
        """
        self._lister.learning = learn
        for partition, records in self._records(lines).items():
            await self.worker.shoppers[partition].handle([bundle(EVENTS.name, partition, records)])
        if pairs:
            await self.worker.fold()
            await self._settle(int(lines.time_ms.max()))
        self.worker.outputs.sent.clear()

    async def refresh(self) -> None:
        """Fit the models that lists are made from, from the users as they are now; nothing without any."""
        await self.worker.refresh()

    async def _settle(self, time_ms: int) -> None:
        """Publish changed lists; what is popular, once in ten minutes of event time."""
        for shelf in self.worker.shelves:
            await shelf.publish()
        if time_ms // _TRENDING_MS != self._trended:
            self._trended = time_ms // _TRENDING_MS
            await self._trend()

    async def _trend(self) -> None:
        for shelf in self.worker.shelves:
            await shelf.publish_trending()
            for output in self.worker.outputs.take(TRENDING.name, shelf.partition):
                self.worker.follower.rise(shelf.partition, output)

    def _records(self, lines: Lines) -> dict[int, list[Record]]:
        parts: dict[int, list[Record]] = {}
        begins = np.flatnonzero(np.diff(lines.event, prepend=lines.event[:1] - 1)).tolist()
        for low, high in zip(begins, [*begins[1:], len(lines.event)], strict=True):
            user, time = self.users[lines.user[low]], int(lines.time_ms[low])
            items = [{"item": self.names[at]} for at in lines.item[low:high].tolist()]
            event = {"type": lines.kind, "time": time_text(time), "user": user, "items": items}
            partition = int(self._partition[lines.user[low]])
            record = StockRecord(self._offset[partition], time, user.encode(), msgspec.json.encode(event), ())
            self._offset[partition] += 1
            parts.setdefault(partition, []).append(record)
        return parts

    async def rank(self, users: Sequence[int], time_ms: I64, exclude: tuple[I32, I32] | None) -> I32:
        """The lists of users [U] at times [U], ranked and shaped: item numbers [U, `list_items`], −1 padded.

        ``exclude`` rows [m] and item numbers [m] that must not appear.
        """
        out = (np.zeros(0, np.int32),) * 2 if exclude is None else (exclude[0], self.local[exclude[1]])
        rows = await self._rows(users)
        return self._numbers(self._lister.lists(self._named(users), rows, time_ms, exclude=out).items)

    def cut(self) -> list[str]:
        """Items whose rows were ever cut."""
        rows = self.worker.contexts.shelving.rows
        return [name for name, cut in zip(self.names, rows.were_cut(self.local).tolist(), strict=True) if cut]

    async def query(self, users: Sequence[int], time_ms: I64) -> Query:
        """What components are asked about users [U] at times [U]."""
        return self._lister.query(self._named(users), await self._rows(users), time_ms)

    async def alone(self, users: Sequence[int], time_ms: I64, size: int) -> dict[str, I32]:
        """The lists that each channel of the mixture would make by itself."""
        lister, query = self._lister, await self.query(users, time_ms)
        found = lister.recommender.alone(lister.sources, query, size)
        return {channel: self._numbers(items) for channel, items in found.items()}

    async def shown(self, users: Sequence[int], time_ms: I64, mixture: bytes | None) -> list[list[str]]:
        """Names in the lists that users [U] are shown at times [U] by a stored mixture."""
        await self._trend()
        self._lister.recommender.mixture = self._lister.recommender.fresh()
        self._lister.adopt(mixture)
        names = self._named(users)
        found = self._lister.lists(names, await self._rows(users), time_ms)
        return [[self.worker.items.name(at) for at in row if at >= 0] for row in found.items.tolist()]

    def _named(self, users: Sequence[int]) -> list[str]:
        return [self.users[user] for user in users]

    async def _rows(self, users: Sequence[int]) -> Rows:
        of = self._partition[np.asarray(users)]
        parts = np.unique(of).tolist()
        held = [np.flatnonzero(of == part) for part in parts]
        names = [[self.users[users[at]] for at in some.tolist()] for some in held]
        found = [
            await self.worker.shoppers[part].users(some) for part, some in zip(parts, names, strict=True)
        ]
        return joined(found).take(np.argsort(np.concatenate(held)))

    def _numbers(self, items: I32) -> I32:
        return np.where(items >= 0, self._number[items], np.int32(-1))


class _Named(msgspec.Struct):
    item: str


def steps(user: I32, event: I64, most: int = 64) -> Iterator[slice]:
    """Cut lines into runs of whole events in which no user has two events, of at most ``most`` events."""
    if not len(user):
        return
    begins = np.flatnonzero(np.diff(event, prepend=event[:1] - 1)).tolist()
    seen: set[int] = set()
    low = 0
    for at, who in zip(begins, user[begins].tolist(), strict=True):
        if who in seen or len(seen) == most:
            yield slice(low, at)
            low, seen = at, set()
        seen.add(who)
    yield slice(low, len(user))
