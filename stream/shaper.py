"""Shapes ranked lists: rules, rotation, diversity, exposure bounds, exploration (`stream.core.slate`).

Ranks more than a list holds where a step may choose among them, hands facts of items to the steps, and keeps
what they remember: the exposure of groups, soft state of the worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core.attribution import Impressions
from stream.core.items import Items, item_hash
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import Ranked
from stream.core.recommend.position import pairs
from stream.core.slate import exploration, guests
from stream.core.slate.choose import EXPLORED, PINNED, Chosen, choose
from stream.core.slate.exposure import Exposure
from stream.core.slate.facts import Facts, Slates, context_of, flat
from stream.core.slate.knobs import Knobs
from stream.core.slate.prepared import Prepared
from stream.core.views import STRATEGIES
from stream.settings import Settings

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

CANDIDATES = 60
"""Items a list is chosen from, where steps may choose."""
YOUNG = 4
"""Items offered for exploration, a user."""
_HOUR_MS = 3_600_000
_EXPLORE, _PIN = STRATEGIES.index("new"), STRATEGIES.index("pinned")


class Shaper:
    """``knobs`` and ``rules`` of a configuration; ``exposure`` is what groups have been given so far,
    ``excluded`` how many candidates rules have taken out of ``lists`` lists: all since the worker began."""

    def __init__(self, settings: Settings, items: Items, hood: Neighborhood) -> None:
        self.knobs = Knobs.of(settings)
        self._items, self._hood, self._bounds = items, hood, settings.exposure
        self.lists = self.excluded = 0
        self._prepared = Prepared(settings.rules, self.knobs.diversity > 0)
        hood.watched = bool(settings.rules) or self.knobs.diversity > 0
        self.exposure = Exposure.empty(self.knobs.bounds)
        self._pool: tuple[int, I32] = (-1, np.zeros(0, dtype=np.int32))

    def width(self, seen: Impressions | None) -> int:
        """How many items to rank for a list, of users of whom it is known what they saw."""
        knobs = self.knobs
        rotates = knobs.rotation < 1 and seen is not None and len(seen.row) > 0
        return max(CANDIDATES, knobs.size) if self._chooses or rotates else knobs.size

    @property
    def _chooses(self) -> bool:
        """Whether a step may choose among more than a list holds, whoever it is for."""
        return bool(self._prepared.rules or self.knobs.diversity or len(self.knobs.bounds))

    def facts(self) -> Facts:
        """What is known of items, as it is now."""
        hood, content = self._hood, self._hood.content
        hood.reserve()
        return Facts(
            self._items.hashes,
            hood.price,
            hood.popularity,
            hood.born,
            hood.group,
            hood.category,
            hood.column <= 0,
            content.tokens,
            content.units(),
            content.vocabulary.hashes,
        )

    def shape(
        self,
        ranked: Ranked,
        users: Sequence[str],
        time_ms: I64,
        barred: tuple[I32, I32],
        seen: Impressions | None = None,
        told: Sequence[Mapping[str, Any]] = (),
    ) -> Ranked:
        """The lists that are shown, from the best candidates of users [U]; ``barred`` are never guests.

        ``told`` [U] are the contexts of their newest events; empty: none has any.
        """
        facts = self.facts()
        if changed := self._hood.changes():
            self._prepared.learn(facts, np.unique(np.concatenate(changed)))
        hashes = np.array([item_hash(user) for user in users], dtype=np.uint64)
        context = context_of(told) if self._prepared.rules and told else {}
        slates = Slates(ranked.items, ranked.scores, ranked.strategy, hashes, time_ms, context)
        if seen is not None:
            slates = self._remember(self._cut(slates, seen), seen)
        slates = self._invite(facts, slates, barred)
        chosen = choose(slates, facts, self._prepared, self.knobs, self.exposure)
        self.exposure = chosen.state
        self.lists += len(slates)
        self.excluded += chosen.excluded
        return _listed(ranked, slates, chosen)

    def report(self) -> dict[str, Any]:
        """What the steps did, as `/ready` tells it: counts, and of each group its share and its bounds."""
        state = self.exposure
        shares, missed = state.shares.round(6).tolist(), state.missed_shares.round(6).tolist()
        at = {group: number for number, group in enumerate(state.groups.tolist())}
        groups = {
            name: {"share": shares[n], "min": bound.min, "max": bound.max, "missed": missed[n]}
            for name, bound in self._bounds.items()
            for n in [at[item_hash(name)]]
        }
        return {"made": self.lists, "excluded": self.excluded, "exposure": groups}

    def _invite(self, facts: Facts, slates: Slates, barred: tuple[I32, I32]) -> Slates:
        """Items that may be pinned, and young ones that may be tried."""
        pins = self._prepared.pinned(facts)
        invited = np.broadcast_to(pins, (len(slates), len(pins)))
        if self.knobs.explore_share and len(slates):
            hour = int(slates.time_ms.max()) // _HOUR_MS
            if hour != self._pool[0]:
                self._pool = hour, exploration.pool(facts, hour * _HOUR_MS, self.knobs.explore_days)
            young = self._pool[1]
            if len(pins) and len(young):
                young = young[~np.isin(young, pins)]
            if len(young):
                drawn = guests.drawn(facts, slates, young, YOUNG)
                invited = np.concatenate([invited, drawn], axis=1)
        return guests.invite(slates, invited, _EXPLORE, barred)

    def _cut(self, slates: Slates, seen: Impressions) -> Slates:
        """Who was shown nothing has as many candidates as without the others of the batch."""
        size = self.knobs.size
        if self._chooses or slates.items.shape[1] <= size:
            return slates
        strange = np.bincount(seen.row, minlength=len(slates)) == 0
        if not strange.any():
            return slates
        out = strange[:, None] & (np.arange(slates.items.shape[1]) >= size)
        items, scores = np.where(out, np.int32(-1), slates.items), np.where(out, 0, slates.scores)
        return replace(slates, items=items, scores=scores)

    def _remember(self, slates: Slates, seen: Impressions) -> Slates:
        """How often each candidate was shown and not clicked, and when last."""
        if not len(seen.row) or not len(self._items):
            return slates
        key = pairs(seen.row, seen.item)
        order = key.argsort()
        hashes = self._items.hashes.take(slates.items, mode="wrap")
        wanted = pairs(np.arange(len(slates))[:, None], hashes)
        at = order[np.minimum(key.searchsorted(wanted, sorter=order), len(key) - 1)]
        hit = (key[at] == wanted) & (slates.items >= 0)
        if not hit.any():
            return slates
        ignored = np.where(seen.clicked > 0, 0, seen.shown).astype(np.float32)
        return replace(
            slates,
            ignored=np.where(hit, ignored[at], np.float32(0)),
            shown_ms=np.where(hit, seen.last[at] * 1000, 0),
        )


def _listed(ranked: Ranked, slates: Slates, chosen: Chosen) -> Ranked:
    """The chosen candidates of slates, which are those ranked and, behind them, guests."""
    own, wide, column = ranked.items.shape[1], slates.items.shape[1], chosen.positions
    at, none = flat(column, wide), column < 0
    items, scores, strategy = slates.items.take(at), slates.scores.take(at), slates.strategy.take(at)
    because = ranked.because.take(at if own == wide else flat(np.minimum(column, own - 1), own))
    if none.any():
        items[none], scores[none], strategy[none] = -1, 0, 0
    because[none | (column >= own)] = -1
    if chosen.why.any():
        strategy[(chosen.why & EXPLORED) > 0] = _EXPLORE
        strategy[(chosen.why & PINNED) > 0] = _PIN
    return Ranked(items, scores, because, strategy)
