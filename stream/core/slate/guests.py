"""Guests: items that no score brought into a slate, for pins and exploration to place. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream.core.slate.facts import DAY_MS, I32, I64, Bool, Facts, Slates, T, mix, uniform

_LOT = np.uint64(5)


def invite(slates: Slates, guests: I32, strategy: int, barred: tuple[I32 | I64, I32]) -> Slates:
    """Add guests [U, g] (−1: none, all different in a row) behind the candidates, with score 0.

    Those that stand in the slate already, or are ``barred`` (rows [m] and items [m]), are left out. Positions
    that `choose` returns from N on are guests. ~0.1 µs a user and guest.
    """
    width = guests.shape[1]
    if not width:
        return slates
    out = (slates.items[:, None] == guests[:, :, None]).any(axis=2)
    if len(barred[0]):
        out |= _barred(guests, *barred)
    return replace(
        slates,
        items=np.concatenate([slates.items, np.where(out, np.int32(-1), guests)], axis=1),
        scores=_wider(slates.scores, width),
        strategy=_wider(slates.strategy, width, strategy),
        ignored=None if slates.ignored is None else _wider(slates.ignored, width),
        shown_ms=None if slates.shown_ms is None else _wider(slates.shown_ms, width),
    )


def _wider(values: NDArray[T], more: int, by: int = 0) -> NDArray[T]:
    return np.concatenate([values, np.full((len(values), more), by, dtype=values.dtype)], axis=1)


def _barred(guests: I32, row: I32 | I64, item: I32) -> Bool:
    keys = np.arange(len(guests), dtype=np.int64)[:, None] << 32 | guests
    return np.isin(keys, row.astype(np.int64) << 32 | item)


def drawn(facts: Facts, slates: Slates, pool: I32, most: int) -> I32:
    """Items of a pool [p] for each user, by a hash of user, item and day: [U, most]. ~3 ns a pair."""
    if not len(pool):
        return np.zeros((len(slates), 0), dtype=np.int32)
    day = (slates.time_ms // DAY_MS).astype(np.uint64)
    lots = uniform(mix(facts.hashes[pool], slates.user[:, None], day[:, None], _LOT))
    return pool[(-lots).argsort(axis=1, kind="stable")[:, :most]]
