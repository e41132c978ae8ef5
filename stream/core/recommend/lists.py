"""Personal lists from all components: candidates, scores by the mixture, the best, their reasons. Pure.

The one place where a list is made: the worker, the deterministic replay, evaluation and `tidewise explain`
all come here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.core.models import ease, external, nmf, placed, pure_svd
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import Ranked, best_first
from stream.core.recommend import alike, kernel, lean, peers, personal, popular, trend
from stream.core.recommend.candidates import Candidates, Entries, Weighed, unite
from stream.core.recommend.mixture import Features, Mixture, Targets, kind_of
from stream.core.recommend.query import Query
from stream.core.views import STRATEGIES

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

CHUNK = 256
"""Users at a time, so that their candidates stay in cache."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What candidates are made from besides the users: neighbours, trending items (best first), the alike,
    and the users seen last, where lists are made from them."""

    hood: Neighborhood
    trending: I32
    kin: alike.Kin
    peers: peers.Peers | None = None
    trends: trend.Trends = field(default_factory=trend.Trends)
    models: Mapping[str, placed.Placed] | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """What gives candidates: its channels, each with the strategy it is shown as.

    ``evidence`` [channels, J], where a component has any that is the same for all users, is given for all
    candidates, not only for its own.
    """

    channels: tuple[str, ...]
    strategies: tuple[str, ...]
    entries: Callable[[Sources, Query], Entries]
    evidence: Callable[[Sources, I32], F32] | None = None


def _modelled(name: str, strategy: str) -> Component:
    """What a model gives that is fitted now and then; nothing before its first fit."""
    return Component(
        (name,), (strategy,), lambda sources, query: placed.entries(sources.hood, sources.models, name, query)
    )


COMPONENTS: dict[str, Component] = {
    kernel.NAME: Component(
        ("item-item far", "item-item near", "item-item last", "item-item alike"),
        ("item-item",) * 4,
        lambda sources, query: kernel.entries(sources.hood, query),
    ),
    personal.NAME: Component(
        ("repeat", "lately", "return"),
        ("repeat", "repeat", "return"),
        lambda sources, query: personal.entries(sources.hood, query),
    ),
    alike.NAME: Component(
        ("content",), ("content",), lambda sources, query: alike.entries(sources.hood, sources.kin, query)
    ),
    popular.NAME: Component(
        ("popular",),
        ("trending",),
        lambda sources, query: popular.entries(sources.hood, query, sources.trending),
        lambda sources, item: popular.evidence(sources.hood, item, sources.trending)[None],
    ),
    trend.NAME: Component(
        trend.CHANNELS,
        ("trending",) * len(trend.CHANNELS),
        lambda sources, query: trend.entries(sources.hood, query, sources.trends),
        lambda sources, item: sources.trends.of(item),
    ),
    peers.NAME: Component(
        ("user-user",),
        ("user-user",),
        lambda sources, query: peers.entries(sources.hood, sources.peers, query),
    ),
    pure_svd.NAME: _modelled(pure_svd.NAME, "factors"),
    nmf.NAME: _modelled(nmf.NAME, "factors"),
    ease.NAME: _modelled(ease.NAME, "autoencoder"),
    lean.NAME: Component(
        lean.CHANNELS,
        ("item-item", "return", "trending"),
        lambda sources, query: lean.entries(sources.hood, query, sources.trending),
    ),
    external.NAME: Component(
        (external.NAME,), ("model",), lambda sources, query: external.entries(sources.hood, query)
    ),
}
"""All components by name, as the setting `components` names them."""


@dataclass(frozen=True, slots=True)
class Found:
    """The candidates of a batch of users, and what scores them."""

    candidates: Candidates
    features: Features
    kind: I64


class Recommender:
    """The components of a configuration and the mixture that weighs them."""

    def __init__(self, names: Sequence[str]) -> None:
        # What has features gives its candidates first: `Candidates.leading`.
        self.names = tuple(sorted(names, key=lambda name: name != personal.NAME))
        self.components = tuple(COMPONENTS[name] for name in self.names)
        self.channels = tuple(channel for part in self.components for channel in part.channels)
        self._strategies = [[STRATEGIES.index(name) for name in part.strategies] for part in self.components]
        self.mixture = self.fresh()

    def fresh(self) -> Mixture:
        """A mixture that has learned nothing."""
        mixture = Mixture(self.channels, personal.FEATURES, fixed=lean.NAME in self.names)
        # Until it knows better, what he looks at right now comes late in his list.
        mixture.v[personal.FEATURES.index("in newest event")] = -1.0
        return mixture

    def search(self, sources: Sources, query: Query) -> Found:
        """The candidates of users, at most `CHUNK`, with their evidence and features."""
        parts = [part.entries(sources, query) for part in self.components]
        candidates = unite(parts, lambda item: self._everywhere(sources, item))
        return Found(candidates, self._features(candidates), kind_of(query.interest.events))

    def _everywhere(self, sources: Sources, item: I32) -> dict[int, F32]:
        """The evidence [J], by number of the channel, of components that speak of every candidate."""
        found: dict[int, F32] = {}
        begin = 0
        for part in self.components:
            if part.evidence is not None:
                found |= enumerate(part.evidence(sources, item), begin)
            begin += len(part.channels)
        return found

    def _features(self, candidates: Candidates) -> Features:
        values = candidates.parts[0].features
        if values is None:
            none = np.zeros(0, dtype=np.int64)
            return Features(none, none, np.zeros((len(personal.FEATURES), 0), dtype=np.float32))
        return Features(*candidates.leading(), values)

    def learn(self, sources: Sources, query: Query, targets: Targets) -> None:
        """Test, then learn: ``query`` are users as they were before they did what ``targets`` says."""
        if self.mixture.fixed:
            return
        sources.hood.reserve()
        for low, chunk in _chunks(query):
            found = self.search(sources, chunk)
            mine = (targets.row >= low) & (targets.row < low + len(chunk))
            near = Targets(targets.row[mine] - low, targets.item[mine], targets.weight[mine])
            self.mixture.learn(found.candidates, found.features, found.kind, near)

    def rank(self, sources: Sources, query: Query, exclude: tuple[I32, I32], size: int) -> Ranked:
        """The best ``size`` items of each of U users, ties by ascending hash.

        ``exclude`` rows [m] and items [m] that must not appear. Items that are blocked or nameless are not
        ranked. A score is exp(s) of `Mixture`; strategy and evidence are those of `Weighed.reasons`.
        """
        sources.hood.reserve()
        ranked = blank(len(query), size)
        row, item = exclude
        for low, chunk in _chunks(query):
            found = self.search(sources, chunk)
            weighed = found.candidates.weighed(self.mixture.factors(found.candidates, found.kind))
            scores = self.mixture.scores(weighed, found.features)
            mine = ((row >= low) & (row < low + len(chunk))).nonzero()[0]
            out = found.candidates.find(row.take(mine).astype(np.int64) - low, item.take(mine))
            scores[out[out >= 0]] = 0
            at, place = best(found.candidates, scores, sources.hood.items.hashes, size)
            to = (found.candidates.row.take(at) + low) * size + place
            write(ranked, to, weighed, at, scores, self._strategies)
        return ranked

    def alone(self, sources: Sources, query: Query, size: int) -> dict[str, I32]:
        """The lists that each channel by itself would make, by its evidence alone: [U, size] a channel."""
        sources.hood.reserve()
        made = {name: np.full((len(query), size), -1, dtype=np.int32) for name in self.channels}
        for low, chunk in _chunks(query):
            found = self.search(sources, chunk).candidates
            for name, values in zip(self.channels, found.values, strict=True):
                at, place = best(found, values, sources.hood.items.hashes, size)
                made[name][found.row[at] + low, place] = found.item[at]
        return made


def blank(users: int, size: int) -> Ranked:
    """Empty lists."""
    shape = (users, size)
    return Ranked(
        np.full(shape, -1, dtype=np.int32),
        np.zeros(shape, dtype=np.float32),
        np.full(shape, -1, dtype=np.int32),
        np.zeros(shape, dtype=np.uint8),
    )


def write(
    ranked: Ranked, to: I64, weighed: Weighed, at: I64, scores: F32, strategies: Sequence[Sequence[int]]
) -> None:
    """Write candidates ``at`` [n] to places ``to`` [n] of lists, which count row by row."""
    ranked.items.ravel()[to], ranked.scores.ravel()[to] = weighed.found.item.take(at), scores.take(at)
    ranked.strategy.ravel()[to], ranked.because.ravel()[to] = weighed.reasons(at, strategies)


def best(found: Candidates, scores: F32, hashes: U64, size: int) -> tuple[I64, I64]:
    """The best ``size`` candidates of each user by falling score, ties by ascending hash.

    Candidates that score 0 are never taken. Returns their places [n] and ranks [n]. ~1.5 µs a user.
    """
    row, place = found.reaching(scores, size)
    order = best_first(row, scores.take(place), hashes.take(found.item.take(place)))
    rank = np.arange(len(row)) - row.searchsorted(np.arange(found.users)).take(row)
    stays = (rank < size).nonzero()[0]
    return place.take(order.take(stays)), rank.take(stays)


def _chunks(query: Query) -> Iterator[tuple[int, Query]]:
    if 0 < len(query) <= CHUNK:
        yield 0, query
        return
    for low in range(0, len(query), CHUNK):
        yield low, query.take(slice(low, low + CHUNK))
