"""Exploration: a bounded share of places for items that are too new to have earned one. Pure.

An item is *young* while its first event is less than so many days ago and fewer than `FEW` interactions are
known of it. A list of n places lends ⌊s·n + h⌋ of them to young items, s the share, h in [0, 1) by a hash of
the user and the day of his newest event: never more than one above s·n in a list, exactly s·n where that is
whole, and s·n expected over users and days. The places lie in the lower half of the list.

Which young item gets the place is drawn without replacement by weights (Efraimidis and Spirakis, 2006: the
greatest h^(1/w)), h by a hash of user, item and day, so that a replay draws the same:

    w = (1 + 4 · [of a category of the list's first eight]) / (1 + popularity)

Items of which less is known are tried more, in the spirit of upper confidence bounds, and rather with users
who look at their kind.
"""

from __future__ import annotations

import numpy as np

from stream.core.slate.facts import DAY_MS, F64, I32, I64, U64, Bool, Facts, Slates, mix, picked, uniform

FEW = 20.0
"""Decayed interactions from which on an item is no longer young."""
_KIN = 4.0
_LOOKED_AT = 8
_ITEM, _LIST, _PLACE = np.uint64(1), np.uint64(2), np.uint64(3)
_LAST = np.iinfo(np.uint64).max


def young(facts: Facts, items: I32, time_ms: I64 | int, days: float) -> Bool:
    """Which items are young at ``time_ms``; both of shapes that broadcast together."""
    born = facts.born[items]
    age = time_ms - born
    return (born > 0) & (age >= 0) & (age < days * DAY_MS) & (facts.popularity[items] < FEW)


def pool(facts: Facts, now_ms: int, days: float, most: int = 64) -> I32:
    """Young items not blocked: the ``most`` of the fewest interactions, ties by hash.

    ~0.5 ns an item, and 20 ns one that was born in so many days.
    """
    since = now_ms - int(days * DAY_MS)
    fresh = np.flatnonzero(facts.born[: len(facts)] >= max(since, 1)).astype(np.int32)
    fresh = fresh[young(facts, fresh, now_ms, days) & ~facts.blocked[fresh]]
    if len(fresh) > most:
        fresh = _fewest(facts, fresh, most)
    order = np.lexsort((facts.hashes[fresh], facts.popularity[fresh]))
    return fresh[order]


def _fewest(facts: Facts, items: I32, most: int) -> I32:
    """The ``most`` of more items of the fewest interactions, ties by hash: in linear time."""
    known = facts.popularity[items]
    limit = np.partition(known, most - 1)[most - 1]
    below, ties = items[known < limit], items[known == limit]
    left = most - len(below)
    return np.concatenate([below, ties[np.argpartition(facts.hashes[ties], left - 1)[:left]]])


def counts(slates: Slates, share: float, size: int) -> I64:
    """How many places each list lends: [U]."""
    lot = uniform(mix(slates.user, _day(slates), _LIST))
    return np.floor(share * size + lot).astype(np.int64)


def draw(facts: Facts, slates: Slates, able: Bool, listed: Bool, wanted: I64) -> I32:
    """Columns of the young items drawn for each list: [U, most wanted], −1 padded.

    ``able`` [U, N] may be drawn; ``listed`` [U, N] are in the list by their scores, and say what it is of;
    ``wanted`` [U] how many to draw. ~2 µs a user that has any.
    """
    drawn = np.full((len(slates), int(wanted.max(initial=0))), -1, dtype=np.int32)
    rows = np.flatnonzero(able.any(axis=1) & (wanted > 0))
    if not len(rows):
        return drawn
    key = np.full((len(rows), able.shape[1]), -1.0)
    row, column = able[rows].nonzero()
    key[row, column] = _keys(facts, slates, rows[row], column, listed)
    order = (-key).argsort(axis=1, kind="stable")[:, : drawn.shape[1]]
    held = picked(key, order) >= 0
    held &= np.arange(order.shape[1]) < wanted[rows, None]
    drawn[rows, : order.shape[1]] = np.where(held, order, -1)
    return drawn


def _keys(facts: Facts, slates: Slates, row: I64, column: I64, listed: Bool) -> F64:
    """Keys of candidates ``row``, ``column`` [n]: the greatest are drawn."""
    item = slates.items[row, column]
    lot = uniform(mix(facts.hashes[item], slates.user[row], _day(slates)[row], _ITEM))
    category = facts.category[item]
    among = _looked_at(facts, slates.items, listed)[row]
    kin = (among == category[:, None]).any(axis=1) & (category > 0)
    weight = np.where(kin, 1 + _KIN, 1.0) / (1 + facts.popularity[item])
    keys: F64 = lot ** (1 / weight)
    return keys


def _looked_at(facts: Facts, items: I32, listed: Bool) -> U64:
    """The categories of each list's first eight items: [U, ≤ 8]."""
    if listed[:, :_LOOKED_AT].all():
        return facts.category[items[:, :_LOOKED_AT]]
    first = (~listed).argsort(axis=1, kind="stable")[:, :_LOOKED_AT]
    return np.where(picked(listed, first), facts.category[picked(items, first)], np.uint64(0))


def places(slates: Slates, size: int, free: Bool, drawn: int) -> I32:
    """Places [U, drawn] of the lower half of the list, drawn by a hash among ``free`` [U, size]; −1: none."""
    lower = np.arange(size // 2, size)
    hashes = mix(slates.user[:, None], _day(slates)[:, None], lower.astype(np.uint64), _PLACE) >> np.uint64(1)
    free = free[:, size // 2 :]
    hashes[~free] = _LAST
    order = hashes.argsort(axis=1, kind="stable")[:, :drawn]
    found = np.full((len(slates), drawn), -1, dtype=np.int32)
    found[:, : order.shape[1]] = np.where(picked(free, order), lower[order], -1)
    return found


def _day(slates: Slates) -> U64:
    return (slates.time_ms // DAY_MS).astype(np.uint64)
