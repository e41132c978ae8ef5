"""How likely an item is what each user does next: lists the other way round. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.recommend.explain import Explanation
from stream.core.recommend.lists import CHUNK, Recommender, Sources
from stream.core.recommend.query import Query

F64 = NDArray[np.float64]


def chances(recommender: Recommender, sources: Sources, query: Query, item: int) -> F64:
    """The chance [U] that ``item`` (local id) is the next of a user's candidates: its share of their scores.

    Scores of `Mixture` are those of a conditional logit, so a share is what one user can be compared with
    another by. 0 where nothing speaks for it. As long as lists take, some 60 µs a user.
    """
    sources.hood.reserve()
    made = np.zeros(len(query))
    for low in range(0, len(query), CHUNK):
        some = query.take(slice(low, low + CHUNK))
        found = recommender.search(sources, some)
        weighed = found.candidates.weighed(recommender.mixture.factors(found.candidates, found.kind))
        scores = recommender.mixture.scores(weighed, found.features).astype(np.float64)
        every = np.arange(len(some), dtype=np.int64)
        at = found.candidates.find(every, np.full(len(some), item, dtype=np.int32))
        total = np.bincount(found.candidates.row, weights=scores, minlength=len(some))
        held = np.flatnonzero((at >= 0) & (total > 0))
        made[low + held] = scores[at[held]] / total[held]
    return made


def speaking(said: Explanation) -> list[tuple[str | None, str, float]]:
    """What speaks for an item, the strongest first: an item of the user's own, or, where there is none
    (None), a strategy; and its share of all that does."""
    shares: dict[tuple[str | None, str], float] = {}
    for channel in said.channels:
        for entry in channel.entries:
            key = entry.because, channel.strategy if entry.because is None else ""
            shares[key] = shares.get(key, 0.0) + channel.weight * entry.value
    total = sum(shares.values())
    ranked = sorted(shares.items(), key=lambda each: -each[1])
    return [(because, strategy, share / total) for (because, strategy), share in ranked]
