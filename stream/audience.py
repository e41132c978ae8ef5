"""Whom to address, about an item, for a campaign, or of a segment: what `tidewise audience` tells.

Reads what the store keeps of users, some at a time, beside running workers; sends and changes nothing. Time
is the newest that any partition has seen. Who has not granted a channel and the purpose, and who is held out,
is left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappush, heapreplace

import msgspec
import numpy as np

from state.keys import Keys
from state.store import Store
from stream.core import noise
from stream.core.campaigns import Campaign
from stream.core.engaged import UserState
from stream.core.guards import EngagementConfig, held_out
from stream.core.items import Items
from stream.core.noise import Noise
from stream.core.preferences import preferred
from stream.core.recommend.explain import explain
from stream.core.recommend.query import Query
from stream.core.recommend.wanting import chances, speaking
from stream.core.rfm import DAY_MS, Judge, Ranks
from stream.core.users import Rows, bought, unpack
from stream.events import CODE
from stream.follower import Followed
from stream.lister import Lister, bounds_of
from stream.settings import Settings
from stream.shopper import Meta
from stream.times import time_text

PORTION = 1000
"""Users read in one trip."""
REASONS, LEAST_SHARE = 3, 0.01
"""Reasons told of a user for an item, and the least share of the score that is told."""

_DID = {
    "purchase": "bought",
    "add_to_cart": "put into the cart",
    "add_to_wishlist": "wished for",
    "rate": "rated",
    "share": "shared",
    "view_item": "looked at",
    "select_item": "looked at",
}


class Nobody(Exception):
    """There is nothing to select from: the message says why."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody to address: by which channel, how strongly, and why."""

    user: str
    score: float
    channel: str
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Audience:
    """The best, by falling score and then by name; ``left_out`` counts who would else be in question."""

    time: str
    users: list[Person]
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class Terms:
    """Who may be addressed: who granted one of the channels (the first is taken) and the purpose, and is not
    held out."""

    channels: tuple[str, ...]
    purpose: str
    config: EngagementConfig

    @classmethod
    def of(cls, settings: Settings, campaign: Campaign | None, channel: str | None) -> Terms:
        """A campaign's own; without one, those of the settings, and email for personalisation."""
        config = EngagementConfig.of(settings).of_campaign(campaign)
        channels = ("email",) if campaign is None else campaign.channels
        purpose = "personalisation" if campaign is None else campaign.purpose
        return cls((channel,) if channel else channels, purpose, config)

    def objection(self, user: str, state: UserState) -> str:
        """Why a user may not be addressed; "": he may. Names are those of the guards, in their order."""
        if not state.identified:
            return "identified"
        if self.channel(state) is None:
            return "consent"
        return "holdout" if held_out(user, self.config) else ""

    def channel(self, state: UserState) -> str | None:
        """The first channel that a user granted."""
        return next((name for name in self.channels if state.granted(name, self.purpose)), None)


@dataclass(frozen=True, slots=True)
class _Met:
    """A user in question: partition, name, what engagement knows of him, and his packed record if it is
    needed."""

    part: str
    user: str
    state: UserState
    packed: bytes = b""


@dataclass(frozen=True, slots=True)
class _Held:
    """One of the best so far; the least has the lowest score and of equals the last name."""

    score: float
    met: _Met

    def __lt__(self, other: _Held) -> bool:
        return (self.score, other.met.user) < (other.score, self.met.user)


@dataclass(slots=True)
class _Best:
    """The ``top`` best of any number, in memory for as many."""

    top: int
    heap: list[_Held] = field(default_factory=list)

    def add(self, score: float, met: _Met) -> None:
        new = _Held(score, met)
        if len(self.heap) < self.top:
            heappush(self.heap, new)
        elif self.heap[0] < new:
            heapreplace(self.heap, new)

    def ranked(self) -> list[_Held]:
        return sorted(self.heap, reverse=True)


# Three questions


async def of_segment(
    settings: Settings, store: Store, segment: str, top: int, channel: str | None = None
) -> Audience:
    """The customers of a segment, among all partitions' customers, by money. Raises Nobody.

    About 50 µs a user in the store.
    """
    reading = await _Reading.begin(settings, store, Terms.of(settings, None, channel))
    judge, best = Judge(reading.ranks), _Best(top)
    async for some in reading.people(lambda state: _in((segment,), state, judge)):
        for met in some:
            best.add(_money(met.state), met)
    return reading.audience(best, lambda held: _worth(held.met.state, judge, reading.now_ms))


async def of_campaign(
    settings: Settings,
    store: Store,
    rule: str,
    campaign: Campaign | None,
    top: int,
    channel: str | None = None,
) -> Audience:
    """Whose nudge is pending, or, where the campaign has an audience, who is in it; by money. Raises Nobody.

    ``campaign`` None: a rule that has none, such as the default one.
    """
    reading = await _Reading.begin(settings, store, Terms.of(settings, campaign, channel))
    judge, best = Judge(reading.ranks), _Best(top)
    segments = None if campaign is None else campaign.audience

    def wanted(state: UserState) -> bool:
        return rule in state.pending if segments is None else _in(segments, state, judge)

    def reasons(held: _Held) -> list[str]:
        timer = held.met.state.pending.get(rule)
        due = [] if timer is None else [f"due {time_text(timer.due)}"]
        return [*due, *_worth(held.met.state, judge, reading.now_ms)]

    async for some in reading.people(wanted):
        for met in some:
            best.add(_money(met.state), met)
    return reading.audience(best, reasons)


async def for_item(
    settings: Settings,
    store: Store,
    items: Items,
    told: Followed,
    item: str,
    top: int,
    channel: str | None = None,
) -> Audience:
    """Who is likely to do something with an item next, by that chance (`chances`). Raises Nobody.

    ``items`` and ``told`` are what somebody follows. Who bought it within ``exclude_bought_s`` is left out.
    About 50 µs a user who may be addressed, and 3 ms more for each who is told.
    """
    reading = await _Reading.begin(settings, store, Terms.of(settings, None, channel))
    wanting = _Wanting.of(reading, items, told, item)
    best = _Best(top)
    async for some in reading.people(lambda state: True):
        known = await reading.packed(some)
        for met, score in zip(known, wanting.scores(known), strict=True):
            if score > 0:
                best.add(score, met)
    return reading.audience(best, wanting.reasons)


def _in(segments: Collection[str], state: UserState, judge: Judge) -> bool:
    values = state.rfm.values()
    return values is not None and judge.scores(values).segment in segments


def _money(state: UserState) -> float:
    values = state.rfm.values()
    return 0.0 if values is None else values.cents / 100


def _worth(state: UserState, judge: Judge, now_ms: int) -> list[str]:
    """Segment and values in words."""
    values = state.rfm.values()
    if values is None:
        return []
    days = max(now_ms // DAY_MS - values.day, 0)
    orders = f"{values.orders} order{'' if values.orders == 1 else 's'}"
    return [judge.scores(values).segment, f"recency {days} d, {orders}, {values.cents / 100:.2f}"]


# Reading


@dataclass(slots=True)
class _Reading:
    """The store as it is read, and who was left out so far."""

    settings: Settings
    store: Store
    terms: Terms
    now_ms: int
    mixtures: list[bytes]
    ranks: Ranks
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    async def begin(cls, settings: Settings, store: Store, terms: Terms) -> _Reading:
        """Read what there is once a partition. Raises Nobody."""
        agreed = await store.deployment({})
        keys, ranks = Keys(settings.prefix), Ranks()
        parts = [f"u{at}" for at in range(int(agreed.get("partitions", settings.partitions)))]
        found = await store.get([key(part) for part in parts for key in (keys.meta, keys.mixture)])
        metas = [msgspec.msgpack.decode(blob, type=Meta) for blob in found[::2] if blob]
        if not metas:
            raise Nobody("nothing is known of anybody yet")
        for part in parts:
            session = store.session(part)
            ranks.merge(Ranks.of(await session.fields(keys.rfm(part))))
            await session.close()
        now_ms, mixtures = max(meta.watermark for meta in metas), [blob for blob in found[1::2] if blob]
        return cls(settings, store, terms, now_ms, mixtures, ranks)

    async def people(self, wanted: Callable[[UserState], bool]) -> AsyncIterator[list[_Met]]:
        """Users who are wanted and may be addressed, some at a time; those who may not are counted."""
        async for names in self._names():
            keys = Keys(self.settings.prefix)
            blobs = await self.store.get([keys.engagement(part, user) for part, user in names])
            met = [
                _Met(part, user, UserState.unpack(blob))
                for (part, user), blob in zip(names, blobs, strict=True)
            ]
            yield [each for each in met if wanted(each.state) and self._may(each)]

    def _may(self, met: _Met) -> bool:
        objection = self.terms.objection(met.user, met.state)
        if objection:
            self.left_out[objection] += 1
        return not objection

    async def _names(self) -> AsyncIterator[list[tuple[str, str]]]:
        """Partitions and names of users of whom engagement knows anything, no test accounts, each once."""
        begin = re.compile(re.escape(self.settings.prefix) + r":\{(u\d+)\}:engagement:")
        waiting, seen = list[tuple[str, str]](), set[str]()
        async for key in self.store.scan(Keys(self.settings.prefix).engagement("u*", "*")):
            at = begin.match(key)
            if at is not None and key not in seen:
                seen.add(key)
                waiting.append((at[1], key[at.end() :]))
            if len(waiting) == PORTION:
                yield self._no_tests(waiting)
                waiting = []
        if waiting:
            yield self._no_tests(waiting)

    def _no_tests(self, names: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        tests = noise.test_accounts(Noise.of(self.settings), [user for _, user in names])
        return [name for name, test in zip(names, tests.tolist(), strict=True) if not test]

    async def packed(self, some: Sequence[_Met]) -> list[_Met]:
        """The same with their records; who has none is left out."""
        keys = Keys(self.settings.prefix)
        blobs = await self.store.get([keys.user(met.part, met.user) for met in some])
        return [replace(met, packed=blob) for met, blob in zip(some, blobs, strict=True) if blob]

    def audience(self, best: _Best, reasons: Callable[[_Held], list[str]]) -> Audience:
        """What was found, with reasons."""
        users = [
            Person(held.met.user, held.score, self.terms.channel(held.met.state) or "", reasons(held))
            for held in best.ranked()
        ]
        return Audience(time_text(self.now_ms), users, dict(sorted(self.left_out.items())))


# Who wants an item


@dataclass(frozen=True, slots=True)
class _Wanting:
    """Scores users for an item, and says why, by the worker's own recommender."""

    reading: _Reading
    items: Items
    lister: Lister
    item: int

    @classmethod
    def of(cls, reading: _Reading, items: Items, told: Followed, item: str) -> _Wanting:
        """Raises Nobody for an item that is not known."""
        at = items.get(item)
        if at is None:
            raise Nobody(f"nothing is known of item {item} yet")
        lister = Lister(reading.settings, items, told)
        for mixture in reading.mixtures:
            lister.adopt(mixture)
        return cls(reading, items, lister, at)

    def scores(self, some: Sequence[_Met]) -> list[float]:
        """The chance [U] that each does something with the item next; 0 and counted: who bought it lately."""
        if not some:
            return []
        rows = self._rows(some)
        found = chances(self.lister.recommender, self.lister.sources, self._query(some, rows), self.item)
        since = self.reading.now_ms // 1000 - int(self.reading.settings.exclude_bought_s)
        row, item = bought(rows, since)
        out = np.unique(row[item == self.item])
        found[out] = 0
        self.reading.left_out.update({"bought": len(out)} if len(out) else {})
        return [float(score) for score in found]

    def _rows(self, some: Sequence[_Met]) -> Rows:
        settings = self.reading.settings
        bounds = bounds_of(settings)
        return unpack([met.packed for met in some], self.items, bounds)

    def _query(self, some: Sequence[_Met], rows: Rows) -> Query:
        names = [met.user for met in some]
        liked = preferred(names, rows.seen, {met.user: met.state for met in some})
        return self.lister.query(names, rows, np.full(len(some), self.reading.now_ms), liked)

    def reasons(self, held: _Held) -> list[str]:
        """What speaks for the item, with its share of the score: "bought A (0.42)"."""
        rows = self._rows([held.met])
        query = self._query([held.met], rows)
        said = speaking(explain(self.lister.recommender, self.lister.sources, query, self.item))
        return [
            f"{strategy if because is None else self._did(rows, because)} ({share:.2f})"
            for because, strategy, share in said[:REASONS]
            if share >= LEAST_SHARE
        ]

    def _did(self, rows: Rows, name: str) -> str:
        """What a user did with an item: the weightiest that his history holds."""
        kinds = set(rows.kind[0, rows.item[0] == self.items.get(name)].tolist())
        done = next((said for kind, said in _DID.items() if CODE[kind] in kinds), "had to do with")
        return f"{done} {name}"
