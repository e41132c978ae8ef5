"""Item-item: the neighbours of a user's newest items, by directed, damped, decayed co-occurrence. Pure.

    f(j) = Σ_k r^k · S(i_k → j)

over the profile i_0 (newest), i_1, …, with S of `Neighborhood`, in three channels: "far"
with r = 0.8, "near" with r = 0.4, and "last", the newest item's part alone (a Markov chain of first order);
the mixture finds what is between. A fourth, "alike", is "far" with each part times the cosine of the two
items by what the catalogue says of them. The k-th item gives fewer of its
neighbours, from all K down to twenty: what is left out counts least.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

NAME = "item-item"
DISCOUNTS = (0.8, 0.4)
"""r of the channels far and near."""
_FEWEST = 20


@lru_cache(maxsize=16)
def taper(items: int, neighbors: int) -> tuple[I64, I64]:
    """Which entries are looked at: number of the profile item, place in its list: two arrays [w]."""
    lengths = np.linspace(neighbors, min(_FEWEST, neighbors), items).round().astype(np.int64)
    of = np.repeat(np.arange(items), lengths)
    return of, np.concatenate([np.arange(length) for length in lengths])


def entries(hood: Neighborhood, query: Query) -> Entries:
    """Channels "item-item far" and "item-item near". ~4 µs a user with 10 items of 50 neighbours."""
    of, place = taper(query.profile.shape[1], hood.cols.shape[1])
    owner = query.profile.take(of, axis=1)
    flat = np.maximum(owner, 0) * np.int64(hood.cols.shape[1]) + place
    cols = hood.cols.reshape(-1).take(flat)
    parts = hood.scores.reshape(-1).take(flat)
    parts *= hood.column.take(cols, mode="clip")
    item = np.where((parts > 0) & (owner >= 0), cols, np.int32(-1))
    parts *= item >= 0
    values = [parts * (discount**of).astype(np.float32) for discount in DISCOUNTS]
    alike = values[0] * hood.likeness.reshape(-1).take(flat) if hood.content.known else None
    if alike is not None:
        alike *= np.float32(1 / 255)
    return Entries(item, (*values, parts * (of == 0), alike), owner)
