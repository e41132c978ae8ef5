"""A shopper partition's side of segments: it counts and tells the others; one owner makes the views."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from state.keys import Keys
from state.model import View, version
from stream.codec import Columns
from stream.core import views
from stream.core.items import Items
from stream.core.segments import LEAST, Everywhere, Segments, segment_record
from stream.core.step import Result
from stream.delivery import Output, Ports
from stream.follower import Followed
from stream.settings import Settings
from stream.topics import TRENDING

I64 = NDArray[np.int64]

PACE = 15
"""Segments are told and shown once in so many rounds of `trending_s`."""
LIVES_S = 72 * 3600
"""A view lives this long after it changed last: so long is the memory of `trending`."""
_AT_ONCE = 20


class SegmentBoard:
    """``counts`` are soft state: what a partition told last is what its next owner begins with."""

    def __init__(self, partition: int, keys: Keys, items: Items, settings: Settings) -> None:
        self.partition, self._keys, self._settings, self._items = partition, keys, settings, items
        self.counts = Segments(items, settings.segments, settings.trending_half_life_s)
        self._told: set[str] = set()
        self._merged: dict[str, list[tuple[str, float]]] = {}
        self._published, self._next_ms = 0, 0.0

    def take(self, followed: Followed) -> None:
        """Begin with what was told of the partition."""
        parts = {
            name: parts[self.partition]
            for name, parts in followed.segments.items()
            if self.partition in parts
        }
        self.counts.restore(parts)
        self._told = set(parts)

    def note(self, columns: Columns, result: Result, user: I64) -> None:
        """Count a batch's interactions, but what is noise."""
        if not self._settings.segments:
            return
        counts = result.fresh & ~result.uncounted & (columns.units > 0)
        counts[counts] &= ~result.tests[user[counts]]
        held = counts[columns.event]
        event = columns.event[held]
        self.counts.add(
            columns.contexts, event, columns.item[held], columns.time[event], columns.units[event]
        )

    async def publish(self, ports: Ports, followed: Followed, term: int) -> None:
        """At intervals: the partition's segments; the owner of partition 0 makes the views of all."""
        now_ms = ports.now_ms()
        if now_ms < self._next_ms or not self._settings.segments:
            return
        self._next_ms = now_ms + PACE * self._settings.trending_s * 1000
        await self._tell(ports, term)
        if self.partition == 0:
            await self._show(ports, followed, term, now_ms)

    async def _tell(self, ports: Ports, term: int) -> None:
        """What changed since it was told, and what is kept no more."""
        telling = {name for name, total in self.counts.heaviest().items() if total >= LEAST}
        tops = self.counts.tops((self.counts.changed & telling) | (telling - self._told))
        tops |= {name: [] for name in self._told - telling}
        if tops:
            records = [
                Output(TRENDING.name, *record)
                for record in self._records(tops, version(*self._version(term)))
            ]
            await ports.sender.publish(self.partition, records)
        self.counts.changed.clear()
        self._told = telling

    def _records(
        self, tops: dict[str, list[tuple[str, float]]], at_version: str
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values for the topic."""
        hour, half_life_s = self.counts.hour, self._settings.trending_half_life_s
        for name, top in sorted(tops.items()):
            value = segment_record(self.partition, name, at_version, hour, half_life_s, top)
            yield f"{self.partition}:{name}".encode(), value

    async def _show(self, ports: Ports, followed: Followed, term: int, now_ms: float) -> None:
        """The views that changed, some at a time."""
        every = Everywhere(followed.segments, followed.top)
        names, hour, size = every.heaviest(), every.hour(), self._settings.list_items
        self._merged = {name: self._merged[name] for name in names if name in self._merged}
        for start in range(0, len(names), _AT_ONCE):
            some = {
                name: every.merged(name, hour, size, followed.allowed)
                for name in names[start : start + _AT_ONCE]
            }
            new = {name: top for name, top in some.items() if top and top != self._merged.get(name)}
            at_version = version(*self._version(term))
            await ports.store.put_views(
                [self._view(name, top, at_version, int(now_ms)) for name, top in new.items()]
            )
            self._merged |= new

    def _view(self, name: str, top: list[tuple[str, float]], at_version: str, now_ms: int) -> View:
        identity = f"trending-{at_version}-{name}"
        view = views.trending_view(at_version, identity, now_ms, top, name)
        return View(self._keys.trending(name), view, LIVES_S)

    def _version(self, term: int) -> tuple[int, int]:
        """Versions of a term: they grow with every publication."""
        self._published += 1
        return term, self._published
