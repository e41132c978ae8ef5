"""Popularity: what everybody turns to now: candidates for all users, evidence for all candidates. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

NAME = "popular"
CANDIDATES = 60
"""Trending items that are candidates for everyone."""


def entries(hood: Neighborhood, query: Query, trending: I32) -> Entries:
    """The best trending items for each user; the evidence is that of all candidates (`evidence`)."""
    items = trending[hood.column.take(trending) > 0][:CANDIDATES]
    return Entries(items[None].repeat(len(query), axis=0), (None,), None)


def evidence(hood: Neighborhood, item: I32, trending: I32) -> F32:
    """Popularity of candidates [J], as a share of what all trending items have together."""
    total = float(hood.heat.take(trending).sum())
    if not total > 0:
        return np.zeros(len(item), dtype=np.float32)
    # In 64 bits: heat grows by a factor of up to 2^500 (`Neighborhood`).
    shares = hood.heat.take(item)
    shares /= total
    return shares.astype(np.float32)
