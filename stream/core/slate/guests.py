"""Guests: items that no score brought into a slate, for pins and exploration to place. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream.core.slate.facts import DAY_MS, I32, I64, Bool, Facts, Slates, mix, uniform

_LOT = np.uint64(5)


def invite(slates: Slates, guests: I32, strategy: int, barred: tuple[I32 | I64, I32]) -> Slates:
    """Add guests [U, g] (−1: none, all different in a row) behind the candidates, with score 0.

    Those that stand in the slate already, or are ``barred`` (rows [m] and items [m]), are left out. Positions
    that `choose` returns from N on are guests. ~0.1 µs a user and guest.
    """
    width = guests.shape[1]
    if not width:
        return slates
    twice = np.stack([(slates.items == guests[:, [at]]).any(axis=1) for at in range(width)], axis=1)
    added = np.where(twice | _barred(guests, *barred), np.int32(-1), guests)
    return replace(
        slates,
        items=np.concatenate([slates.items, added], axis=1),
        scores=np.pad(slates.scores, ((0, 0), (0, width))),
        strategy=np.pad(slates.strategy, ((0, 0), (0, width)), constant_values=strategy),
        ignored=None if slates.ignored is None else np.pad(slates.ignored, ((0, 0), (0, width))),
        shown_ms=None if slates.shown_ms is None else np.pad(slates.shown_ms, ((0, 0), (0, width))),
    )


def _barred(guests: I32, row: I32 | I64, item: I32) -> Bool:
    keys = np.arange(len(guests), dtype=np.int64)[:, None] << 32 | guests
    return np.isin(keys, row.astype(np.int64) << 32 | item)


def drawn(facts: Facts, slates: Slates, pool: I32, most: int) -> I32:
    """Items of a pool [p] for each user, by a hash of user, item and day: [U, most]. ~3 ns a pair."""
    day = (slates.time_ms // DAY_MS).astype(np.uint64)
    lots = uniform(mix(facts.hashes[pool], slates.user[:, None], day[:, None], _LOT))
    order = np.argsort(-lots, axis=1, kind="stable")[:, :most]
    return pool[order]
