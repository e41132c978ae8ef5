"""Pairs of interactions: each with the last W of the same user before it. Pure, vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs, ordered by their later interaction, nearest first.

    ``earlier``, ``later`` [P] items; ``gap`` [P] how many interactions apart, 1..W; ``at`` [P] the later
    interaction's place in the batch.
    """

    earlier: I32
    later: I32
    gap: I64
    at: I64


def window_pairs(tail: I32, user: I64, item: I32) -> Pairs:
    """Pairs of a batch of N interactions, in log order.

    ``tail`` [U, W] each user's last W items before the batch, newest last, −1 padded at the left; ``user``
    [N] row in tail; ``item`` [N]. An item makes no pair with itself, but takes up a gap. Any cutting into
    batches gives the same pairs. About 0.4 µs an interaction at W = 10.
    """
    window = tail.shape[1]
    flat, place = _laid_out(tail, user, item)
    before = flat[place[:, None] - np.arange(1, window + 1)]
    found = np.flatnonzero((before >= 0) & (before != item[:, None]))
    at = found // window
    return Pairs(before.reshape(-1)[found], item[at], found - at * window + 1, at)


def _laid_out(tail: I32, user: I64, item: I32) -> tuple[I32, I64]:
    """[W of history | batch] of each user in one flat array, and each interaction's place in it [N]."""
    users, window = tail.shape
    counts = np.bincount(user, minlength=users)
    starts = np.cumsum(counts) - counts + np.arange(users) * window
    flat = np.empty(len(user) + users * window, dtype=np.int32)
    flat[starts[:, None] + np.arange(window)] = tail
    # Sorting (user, place) as one number is cheaper than a stable argsort.
    order = np.sort(user << 32 | np.arange(len(user))) & 0xFFFF_FFFF
    nth = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(user), dtype=np.int64)
    place[order] = starts[user[order]] + window + nth
    flat[place] = item
    return flat, place
