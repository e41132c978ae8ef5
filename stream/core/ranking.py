"""Lists as they are shown, similar items, and the best of many by score. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core.neighborhood import Neighborhood

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

ITEM_ITEM, TRENDING, CONTENT = 0, 1, 2
"""Codes of ``Ranked.strategy``: places in `stream.core.views.STRATEGIES`."""

_SCORE_BITS = 31
_HASH_BITS = 64 - 8 - _SCORE_BITS


@dataclass(frozen=True, slots=True)
class Ranked:
    """Lists of U users: ``items`` [U, size] local ids, best first, −1 padded; ``scores`` [U, size];
    ``because`` [U, size] the item of the user's own that is the evidence (−1 = none); ``strategy`` [U, size]
    code.
    """

    items: I32
    scores: F32
    because: I32
    strategy: U8

    def part(self, start: int, end: int) -> Ranked:
        """The lists of users start to end."""
        at = slice(start, end)
        return Ranked(self.items[at], self.scores[at], self.because[at], self.strategy[at])


_NO_ROWS = np.zeros((0, 0), dtype=np.int32)
NO_LISTS = Ranked(_NO_ROWS, _NO_ROWS.astype(np.float32), _NO_ROWS, _NO_ROWS.astype(np.uint8))
"""Those of no users."""


def nearest(hood: Neighborhood, subjects: I32, size: int) -> Ranked:
    """The ``size`` most similar items of each of ``subjects`` [U]: its list by S, without blocked items.

    An item that has no list of its own gets the items whose content is most like its.
    """
    hood.fill_cold(subjects)
    scores = hood.similarities(subjects)
    # A list stands heaviest first, ties by hash; a stable sort keeps that order among equals.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    found = np.take_along_axis(scores, order, axis=1)
    items = np.take_along_axis(hood.cols[subjects], order, axis=1)
    held = found > 0
    return Ranked(
        np.where(held, items, np.int32(-1)),
        found,
        np.where(held, subjects[:, None], np.int32(-1)),
        np.where(hood.by_content[subjects][:, None] & held, CONTENT, ITEM_ITEM).astype(np.uint8),
    )


def reaching(bits: I32, size: int) -> I64:
    """Flat positions of the scores > 0 that reach the size-th best of their row; more where tied."""
    width = bits.shape[1]
    least = np.ones((len(bits), 1), dtype=np.int32)
    if width > size:
        cut = width - size
        bits_partitioned = bits.copy()
        bits_partitioned.partition(cut, axis=1)
        np.maximum(least, bits_partitioned[:, cut : cut + 1], out=least)
    return (bits >= least).ravel().nonzero()[0]


def best_first(row: I64, scores: F32, hashes: U64) -> I64:
    """Order by row, falling score, rising hash."""
    falling = np.uint32((1 << _SCORE_BITS) - 1) - scores.view(np.uint32)
    words = row.astype(np.uint64) << np.uint64(_SCORE_BITS + _HASH_BITS)
    words |= falling.astype(np.uint64) << np.uint64(_HASH_BITS)
    words |= hashes >> np.uint64(64 - _HASH_BITS)
    order = np.argsort(words)
    ordered = words[order]
    # The word holds the hash's top 25 bits: enough nearly always.
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((hashes, falling, row))
    return order
