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
from stream.core.ranking import Ranked, best_first, reaching
from stream.core.recommend import alike, kernel, peers, personal, popular, trend
from stream.core.recommend.candidates import Candidates, Entries, evidence, unite
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
    models: Mapping[str, placed.Placed] | None = None
    trends: trend.Trends = field(default_factory=trend.Trends)


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
        self.names = tuple(names)
        self.components = tuple(COMPONENTS[name] for name in names)
        self.channels = tuple(channel for part in self.components for channel in part.channels)
        shown = [strategy for part in self.components for strategy in part.strategies]
        self._strategy = np.array([STRATEGIES.index(name) for name in shown], dtype=np.uint8)
        self._of = [(p, c) for p, part in enumerate(self.components) for c in range(len(part.channels))]
        self.mixture = self.fresh()

    def fresh(self) -> Mixture:
        """A mixture that has learned nothing."""
        mixture = Mixture(self.channels, personal.FEATURES)
        # Until it knows better, what he looks at right now comes late in his list.
        mixture.v[personal.FEATURES.index("in newest event")] = -1.0
        return mixture

    def search(self, sources: Sources, query: Query) -> Found:
        """The candidates of users, at most `CHUNK`, with their evidence and features."""
        parts = [part.entries(sources, query) for part in self.components]
        candidates = unite(parts)
        begin = 0
        for part in self.components:
            end = begin + len(part.channels)
            if part.evidence is not None:
                candidates.values[begin:end] = part.evidence(sources, candidates.item)
            begin = end
        return Found(candidates, self._features(sources, query, candidates), kind_of(query.interest.events))

    def _features(self, sources: Sources, query: Query, candidates: Candidates) -> Features:
        if personal.NAME not in self.names:
            return Features(np.zeros(0, np.int64), np.zeros((len(personal.FEATURES), 0), np.float32))
        at = candidates.places(self.names.index(personal.NAME))
        return Features(at, personal.features(sources.hood, query))

    def learn(self, sources: Sources, query: Query, targets: Targets) -> None:
        """Test, then learn: ``query`` are users as they were before they did what ``targets`` says."""
        sources.hood.reserve()
        for low, chunk in _chunks(query):
            found = self.search(sources, chunk)
            mine = (targets.row >= low) & (targets.row < low + len(chunk))
            near = Targets(targets.row[mine] - low, targets.item[mine], targets.weight[mine])
            self.mixture.learn(found.candidates, found.features, found.kind, near)

    def rank(self, sources: Sources, query: Query, exclude: tuple[I32, I32], size: int) -> Ranked:
        """The best ``size`` items of each of U users, ties by ascending hash.

        ``exclude`` rows [m] and items [m] that must not appear. Items that are blocked or nameless are not
        ranked. A score is exp(s) of `Mixture`; its strategy is the channel with the largest share.
        """
        sources.hood.reserve()
        ranked = blank(len(query), size)
        order = np.argsort(exclude[0], kind="stable")
        row, item = exclude[0][order].astype(np.int64), exclude[1][order]
        for low, chunk in _chunks(query):
            found = self.search(sources, chunk)
            scores = self.mixture.scores(found.candidates, found.features, found.kind)
            begin, end = np.searchsorted(row, [low, low + len(chunk)])
            out = found.candidates.find(row[begin:end] - low, item[begin:end])
            scores[out[out >= 0]] = 0
            self._write(sources, found, scores, ranked, low)
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

    def _write(self, sources: Sources, found: Found, scores: F32, ranked: Ranked, low: int) -> None:
        """The best of a chunk into the lists from row ``low`` on."""
        hashes = sources.hood.items.hashes
        at, place = best(found.candidates, scores, hashes, ranked.items.shape[1])
        to = (found.candidates.row[at] + low, place)
        ranked.items[to], ranked.scores[to] = found.candidates.item[at], scores[at]
        channel = self._main(found, at)
        ranked.strategy[to] = self._strategy[channel]
        because = np.full(len(at), -1, dtype=np.int32)
        for number, (part, own) in enumerate(self._of):
            mine = np.flatnonzero(channel == number)
            if len(mine):
                because[mine] = evidence(found.candidates, at[mine], part, own)
        ranked.because[to] = because

    def _main(self, found: Found, at: I64) -> I64:
        """The channel with the largest share in the score of candidates ``at`` [n]: [n]."""
        factors = self.mixture.factors(found.candidates, found.kind).astype(np.float32)
        shares = found.candidates.values[:, at] * factors[:, found.candidates.row[at]]
        main: I64 = shares.argmax(axis=0)
        return main


def blank(users: int, size: int) -> Ranked:
    """Empty lists."""
    shape = (users, size)
    return Ranked(
        np.full(shape, -1, dtype=np.int32),
        np.zeros(shape, dtype=np.float32),
        np.full(shape, -1, dtype=np.int32),
        np.zeros(shape, dtype=np.uint8),
    )


def best(found: Candidates, scores: F32, hashes: U64, size: int) -> tuple[I64, I64]:
    """The best ``size`` candidates of each user by falling score, ties by ascending hash.

    Candidates that score 0 are never taken. Returns their places [n] and ranks [n]. ~1.5 µs a user.
    """
    wide = np.zeros(found.run.shape, dtype=np.float32)
    wide.ravel()[found.first] = scores
    at = reaching(wide.view(np.int32), size)
    place = found.run.ravel()[found.order[at]]
    row = found.row[place]
    order = best_first(row, scores[place], hashes[found.item[place]])
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(len(wide)))[row]
    order, rank = order[rank < size], rank[rank < size]
    return place[order], rank


def _chunks(query: Query) -> Iterator[tuple[int, Query]]:
    for low in range(0, len(query), CHUNK):
        yield low, query.take(slice(low, low + CHUNK))
