"""A shopper partition's side of attribution: counts, its users' touches, and what it publishes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from state.keys import Keys
from state.model import Delete, DeleteField, Put, PutField, View, Write, version
from state.store import Session
from stream.core.arms import Arms
from stream.core.attribution import (
    NOTHING,
    Attributed,
    Counts,
    Days,
    Touches,
    flat,
    grown,
    pack_day,
    unpack_day,
)
from stream.core.metrics import Measured, metrics_view, record, total
from stream.delivery import Output, Ports
from stream.follower import Followed
from stream.topics import METRICS

METRICS_EVERY_MS = 1000
"""Between two records of a partition on `metrics`, and two views."""


class Ledger:
    """Counts (by ``days``) are as of the newest transaction; ``touches`` those of the users in memory.

    While a partition has counted nothing, no user can have touches: then none are looked for.
    """

    def __init__(self, partition: int, part: str, keys: Keys, arms: Arms) -> None:
        self.partition, self.part, self.keys, self.arms = partition, part, keys, arms
        self.days: Days = {}
        self.touches: dict[str, Touches] = {}
        self._told: Days = {}
        self._merged: dict[int, str] = {}
        self._published, self._next_ms = 0, 0

    async def take(self, session: Session) -> None:
        """Start from what the store holds."""
        self.days, self.touches, self._told, self._merged = {}, {}, {}, {}
        self._published, self._next_ms = 0, 0
        for day, data in (await session.fields(self.keys.counts(self.part))).items():
            self.days[int(day)] = unpack_day(int(day), data)

    @property
    def counts(self) -> Counts:
        """All rows; they are shared."""
        return flat(self.days)

    # A batch

    def missing(self, names: Iterable[str]) -> list[str]:
        """Users whose touches must come from the store."""
        return [name for name in names if name not in self.touches] if self.days else []

    def load(self, names: Sequence[str], blobs: Sequence[bytes | None]) -> None:
        """Take in what the store has of users."""
        for name, blob in zip(names, blobs, strict=True):
            self.touches[name] = Touches.unpack(blob) if blob else NOTHING

    def writes(self, attributed: Attributed) -> Iterable[Write]:
        """What a batch changes in the store: touches of users, and the days whose counts grew or left.

        Adds up the days that it counts in.
        """
        for name, state in attributed.states.items():
            key, packed = self.keys.attribution(self.part, name), state.pack()
            yield Put(key, packed) if packed else Delete(key)
        new, counts = grown(self.days, attributed.counts), self.keys.counts(self.part)
        for day in sorted({key.day for key in attributed.counts} & new.keys()):
            yield PutField(counts, str(day), pack_day(new[day]))
        for day in sorted(self.days.keys() - new.keys()):
            yield DeleteField(counts, str(day))

    def keep(self, attributed: Attributed, most_users: int) -> None:
        """Remember it, after its transaction."""
        if len(self.touches) > most_users:
            self.touches.clear()
        self.touches.update(attributed.states)
        if attributed.counts:
            self.days = grown(self.days, attributed.counts)

    def touched(self, names: Sequence[str], attributed: Attributed) -> list[Touches]:
        """What is known of users of a batch, as of its end; [] while nobody was shown anything."""
        before, after = self.touches, attributed.states
        return [after.get(name) or before.get(name, NOTHING) for name in names] if self.days else []

    # What goes out

    async def publish(self, ports: Ports, followed: Followed, term: int) -> None:
        """At intervals: the partition's counts; the owner of partition 0 makes the view of all."""
        now_ms = ports.now_ms()
        if now_ms < self._next_ms:
            return
        self._next_ms = now_ms + METRICS_EVERY_MS
        again = self.partition in followed.outdated
        if self.days and (again or self.days is not self._told):
            told, at_version = self.counts, self._version(term)
            value = record(self.partition, at_version, now_ms, told)
            await ports.sender.publish(self.partition, [Output(METRICS.name, b"%d" % self.partition, value)])
            self._told = self.days
            followed.measured[self.partition] = Measured(at_version, told)
            followed.outdated.discard(self.partition)
        if self.partition == 0:
            await self._publish_merged(ports, followed, term, now_ms)

    async def _publish_merged(self, ports: Ports, followed: Followed, term: int, now_ms: int) -> None:
        versions = {partition: part.version for partition, part in followed.measured.items()}
        if versions and versions != self._merged:
            counts = total(followed.measured.values())
            view = metrics_view(self._version(term), now_ms, counts, self.arms)
            await ports.store.put_views([View(self.keys.metrics(), view)])
            self._merged = versions

    def _version(self, term: int) -> str:
        """Versions of a term: they grow with every publication."""
        self._published += 1
        return version(term, self._published)
