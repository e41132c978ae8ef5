"""A user's interest: a sparse, bounded vector of decayed integer weights, one entry an item he had to do
with.

It carries personal repeat (personal frequency by baskets, weighted by 1/√basket size and decayed) and what
tells when an item is due again. An interaction of an event with n distinct counted items adds ``units ·
1/√n`` (`weights.Decay.weigh`) to its item's entry, relative to the user's ``base`` period; base is ℓ − 1 at
first. A weight more than ``SPAN − 1`` periods newer than base moves base up to it less ``SPAN − 1``,
shifting every entry right; an older one than base is itself shifted right. What becomes 0 is no entry.
After an event in which a user's number of interactions ``added`` reached a multiple of ⌊K/2⌋, the K
heaviest entries stay (of equal weights, those with the smaller 64-bit item hash); so between events a user
never has 1.5 K. Entries stand by ascending hash, and all of it depends on the user's own events and their
order alone: cutting batches otherwise changes no bit.

A weight stops at 2^44 − 1 (one interaction is at most 2^26 relative to its base), a count at 2^20 − 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.core.runs import lengths
from stream.core.weights import PERIOD, SPAN, WEIGHT_BITS, Decay, gap_table

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)

COUNT_BITS = 20
_MOST_WEIGHT = (1 << WEIGHT_BITS) - 1
_MOST_COUNT = (1 << COUNT_BITS) - 1
_MOST_SIZE = 1024
"""Larger events weigh as one of this size."""


@dataclass(frozen=True, slots=True)
class Interest:
    """Interest vectors of U users, M entries in all: 28 bytes an entry, 32 a user.

    The entries of user u are ``start[u]:start[u + 1]`` [U + 1], by ascending hash: ``item`` [M] local ids,
    ``weight`` [M] > 0 relative to the user's ``base``; ``count`` [M] events that had the item; ``first``,
    ``last`` [M] the least and the greatest time of one in s; ``at`` [M] the greatest of their numbers among
    the user's events, which count from 1. ``added`` [U] counts interactions with a weight, ``events`` [U]
    events that had any, ever; ``base`` [U] is the landmark period the weights are relative to (0 while
    ``added`` is 0). ``keep`` is K.
    """

    start: I64
    item: I32
    weight: I64
    count: U32
    first: U32
    last: U32
    at: U32
    added: I64
    base: I64
    events: I64
    keep: int = 128

    @classmethod
    def blank(cls, users: int, keep: int) -> Interest:
        """Interest of new users: no entries."""
        start, none = np.zeros(users + 1, dtype=np.int64), np.zeros(0, dtype=np.uint32)
        zeros = np.zeros(users, dtype=np.int64)
        item, weight = none.astype(np.int32), none.astype(np.int64)
        return cls(start, item, weight, none, none, none, none, zeros, zeros, zeros, keep)

    def __len__(self) -> int:
        return len(self.added)

    @property
    def length(self) -> I64:
        """Entries a user: [U]."""
        return self.start[1:] - self.start[:-1]

    @property
    def row(self) -> I64:
        """The user of each entry: [M]."""
        return np.arange(len(self)).repeat(self.length)

    def take(self, at: I64) -> Interest:
        """A copy of the users ``at`` [n]."""
        which, start = spans(self.start, at)
        scalars = (self.added[at], self.base[at], self.events[at])
        return Interest(start, *self._entries(which), *scalars, self.keep)

    def part(self, low: int, high: int) -> Interest:
        """The users from ``low`` to ``high``, not copied."""
        some, users = slice(int(self.start[low]), int(self.start[high])), slice(low, high)
        start = self.start[low : high + 1] - self.start[low]
        entries = (self.item[some], self.weight[some], self.count[some], self.first[some], self.last[some])
        scalars = (self.added[users], self.base[users], self.events[users])
        return Interest(start, *entries, self.at[some], *scalars, self.keep)

    def replaced(self, at: I64, users: Interest) -> Interest:
        """A copy in which the users ``at`` [n] are these."""
        which = np.arange(len(self))
        which[at] = len(self) + np.arange(len(at))
        return joined([self, users]).take(which)

    def only(self, which: I64) -> Interest:
        """A copy with the entries ``which`` [m], ascending."""
        start = np.searchsorted(which, self.start)
        scalars = (self.added, self.base, self.events)
        return Interest(start, *self._entries(which), *scalars, self.keep)

    def _entries(self, which: I64) -> tuple[I32, I64, U32, U32, U32, U32]:
        sums = self.item.take(which), self.weight.take(which), self.count.take(which)
        return *sums, self.first.take(which), self.last.take(which), self.at.take(which)


def joined(parts: Sequence[Interest]) -> Interest:
    """All users of the parts, in order."""
    length = np.concatenate([part.length for part in parts])
    return Interest(
        _starts(length),
        np.concatenate([part.item for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.count for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.last for part in parts]),
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.added for part in parts]),
        np.concatenate([part.base for part in parts]),
        np.concatenate([part.events for part in parts]),
        parts[0].keep,
    )


def add(
    old: Interest, row: I64, item: I32, event: I64, time_ms: I64, units: I64, decay: Decay, hashes: U64
) -> Interest:
    """Interest after more interactions, sorted by user and then in the order they came.

    ``row`` [n] user, ``item`` [n], ``event`` [n] a number of the event, one for the interactions of an event
    and another for those of the next of the same user; ``time_ms`` [n] the event's time, ``units`` [n] type
    weights in eighths (0 adds nothing); ``hashes`` by local item id. An event must not be cut. Passes: 1 +
    how often, at most, a user's base moves or he reaches a cut with more than K entries in sight.
    ~0.8 µs an interaction in batches of 2,000 with half as many users of 30 entries (1.6 µs such a user),
    0.3 µs without entries, ~4 to 10 µs when each user stands near his bound.
    """
    counted = np.flatnonzero(units > 0)
    if not counted.size:
        return old
    columns = (row[counted], item[counted], event[counted], time_ms[counted], units[counted])
    events, touches, added, numbers = _plan(old, *columns, decay)
    new = _run(old, events, touches, hashes)
    return replace(new, added=added, events=numbers)


def cut(users: Interest, rows: I64) -> Interest:
    """The users with the K heaviest entries of those in ``rows`` [n]; equal weights: the smaller hashes."""
    which, start = spans(users.start, rows)
    of = np.repeat(np.arange(len(rows)), start[1:] - start[:-1])
    # Stable, and entries stand by hash.
    order = np.lexsort((-users.weight[which], of))
    rank = np.arange(len(which)) - start[of]
    stays = np.ones(len(users.item), dtype=np.bool_)
    stays[which[order[rank >= users.keep]]] = False
    return users.only(np.flatnonzero(stays))


def interest_top(users: Interest, n: int) -> tuple[I32, I64]:
    """The ``n`` heaviest items a user, heaviest first, −1 padded: items [U, n], weights [U, n].

    Equal weights: the smaller hash first.
    """
    row = users.row
    order = np.lexsort((-users.weight, row))
    rank = np.arange(len(row)) - users.start[row]
    order, row, rank = (part[rank < n] for part in (order, row, rank))
    item = np.full((len(users), n), -1, dtype=np.int32)
    weight = np.zeros((len(users), n), dtype=np.int64)
    item[row, rank], weight[row, rank] = users.item[order], users.weight[order]
    return item, weight


# What a batch adds


@lru_cache
def _roots() -> I64:
    """``round(2^12 / √n)`` for n in 1..1024."""
    return gap_table(_MOST_SIZE, 0.5)


@dataclass(frozen=True, slots=True)
class _Events:
    """The events [E] of a batch, by user, then in order: the base they count from, whether a cut follows.

    ``round`` [E]: events of a user with one base and no cut before the last are counted in one pass.
    """

    row: I64
    base: I64
    cuts: Bool
    round: I64

    def take(self, at: I64, row: I64) -> _Events:
        return _Events(row, self.base[at], self.cuts[at], self.round[at])


@dataclass(frozen=True, slots=True)
class _Touches:
    """The distinct items of the events [T]: what each adds, its event's second, number and round."""

    row: I64
    item: I32
    weight: I64
    second: U32
    number: U32
    round: I64

    def take(self, at: I64, row: I64) -> _Touches:
        second, number = self.second[at], self.number[at]
        return _Touches(row, self.item[at], self.weight[at], second, number, self.round[at])


def _plan(
    old: Interest, row: I64, item: I32, event: I64, time_ms: I64, units: I64, decay: Decay
) -> tuple[_Events, _Touches, I64, I64]:
    """What to count in which pass, and the users' new ``added`` and ``events`` [U]."""
    users, n = len(old), len(row)
    begins = np.ones(n, dtype=np.bool_)
    begins[1:] = (row[1:] != row[:-1]) | (event[1:] != event[:-1])
    first, of = np.flatnonzero(begins), np.cumsum(begins) - 1
    order = np.argsort(of << 32 | item, kind="stable")
    fresh = np.ones(n, dtype=np.bool_)
    fresh[1:] = (of[order[1:]] != of[order[:-1]]) | (item[order[1:]] != item[order[:-1]])
    size = np.minimum(np.bincount(of[order[fresh]]), _MOST_SIZE)
    period, weight = decay.weigh(time_ms, units, _roots()[size[of]])

    user, lines = row[first], np.bincount(row, minlength=users)
    count = np.bincount(user, minlength=users)
    ordinal = np.arange(len(first)) - (np.cumsum(count) - count)[user]
    before = old.added[user] + first - (np.cumsum(lines) - lines)[user]
    after = before + lengths(first, n)
    base = _bases(old, user, period[first], ordinal)
    # Who stays below the bound is never cut, wherever multiples fall.
    near = old.length + np.bincount(row[order[fresh]], minlength=users) > old.keep
    step = max(old.keep // 2, 1)
    mark = np.where(near[user], before // step, 0)
    round_ = _rounds(np.arange(len(first)) - ordinal, base, mark)
    events = _Events(user, base, near[user] & (after // step > before // step), round_)

    shifts = PERIOD * (period - base[of])
    weight = np.where(shifts >= 0, weight << np.maximum(shifts, 0), weight >> np.clip(-shifts, 0, 63))
    lead = np.flatnonzero(fresh)
    weight = np.add.reduceat(weight[order], lead)
    lead, weight = lead[weight > 0], weight[weight > 0]
    at = order[lead]
    number = (old.events[user] + ordinal + 1).astype(np.uint32)[of[at]]
    second = (time_ms[at] // 1000).astype(np.uint32)
    touches = _Touches(row[at], item[at], weight, second, number, round_[of[at]])
    return events, touches, old.added + lines, old.events + count


def _bases(old: Interest, user: I64, period: I64, ordinal: I64) -> I64:
    """The period that each event [E] counts from."""
    first = np.where(old.added[user] > 0, old.base[user], period - 1)[np.arange(len(user)) - ordinal]
    # Rows ascend, so one running maximum over (row, period) starts afresh with every row.
    peak: I64 = np.maximum.accumulate((user << 32) + period) - (user << 32)
    bases: I64 = np.maximum(first, peak - (SPAN - 1))
    return bases


def _rounds(start: I64, *marks: I64) -> I64:
    """Number of the stretch of equal marks within its row, for each event; ``start`` [n] of its row."""
    change = np.zeros(len(start), dtype=np.bool_)
    for mark in marks:
        change[1:] |= mark[1:] != mark[:-1]
    number = np.cumsum(change)
    rounds: I64 = number - number[start]
    return rounds


# Passes


def _run(users: Interest, events: _Events, touches: _Touches, hashes: U64) -> Interest:
    """Count round after round; those who have no further round stand aside."""
    aside: list[tuple[Interest, I64]] = []
    while True:
        now, later = _split(events.round)
        on, off = _split(touches.round)
        users = _pass(users, events.take(now, events.row[now]), touches.take(on, touches.row[on]), hashes)
        if not later.size:
            break
        rows = np.unique(events.row[later])
        if len(rows) < len(users):
            aside.append((users, rows))
            users = users.take(rows)
        events = events.take(later, np.searchsorted(rows, events.row[later]))
        touches = touches.take(off, np.searchsorted(rows, touches.row[off]))
        events, touches = replace(events, round=events.round - 1), replace(touches, round=touches.round - 1)
    for others, rows in reversed(aside):
        users = others.replaced(rows, users)
    return users


def _split(round_: I64) -> tuple[I64, I64]:
    """Positions of the round 0, and of those after it."""
    return np.flatnonzero(round_ == 0), np.flatnonzero(round_)


def _pass(users: Interest, events: _Events, touches: _Touches, hashes: U64) -> Interest:
    """Count one stretch a user: move bases, add, cut."""
    users = _moved(users, events.row, events.base)
    users = _merged(users, touches, hashes)
    rows = events.row[events.cuts]
    rows = rows[users.length[rows] > users.keep]
    return cut(users, rows) if rows.size else users


def _moved(users: Interest, row: I64, base: I64) -> Interest:
    """Users at the base of their stretch, their weights shifted; who has none only gets it."""
    new = users.base.copy()
    new[row] = base
    shifts = np.where(users.length > 0, np.minimum(PERIOD * (new - users.base), 63), 0)
    users = replace(users, base=new)
    if not shifts.any():
        return users
    weight = users.weight >> np.repeat(shifts, users.length)
    return replace(users, weight=weight).only(np.flatnonzero(weight))


def _merged(users: Interest, touches: _Touches, hashes: U64) -> Interest:
    """Users with touches added to their entries, or as new ones."""
    if not touches.row.size:
        return users
    row, item = np.concatenate([users.row, touches.row]), np.concatenate([users.item, touches.item])
    order, again = _order(row, item, hashes, len(users))
    lead, rest = np.delete(order, again), order[again]
    owner = again - np.arange(len(again)) - 1
    weight = np.concatenate([users.weight, touches.weight])
    count = np.concatenate([users.count, np.ones(len(touches.row), dtype=np.uint32)])
    first, last = (np.concatenate([part, touches.second]) for part in (users.first, users.last))
    at = np.concatenate([users.at, touches.number])
    return replace(
        users,
        start=_starts(np.bincount(row[lead], minlength=len(users))),
        item=item[lead],
        weight=np.minimum(_folded(np.add, weight, lead, owner, rest), _MOST_WEIGHT),
        count=np.minimum(_folded(np.add, count, lead, owner, rest), _MOST_COUNT),
        first=_folded(np.minimum, first, lead, owner, rest),
        last=_folded(np.maximum, last, lead, owner, rest),
        at=_folded(np.maximum, at, lead, owner, rest),
    )


def _folded(how: np.ufunc, column: NDArray[T], lead: I64, owner: I64, rest: I64) -> NDArray[T]:
    folded = column[lead]
    how.at(folded, owner, column[rest])
    return folded


def _order(row: I64, item: I32, hashes: U64, users: int) -> tuple[I64, I64]:
    """Order [n] by user, then by hash, then as they stand; and the places in it that repeat the one before.

    One word a key, with as many bits of the hash as fit beside the user. Where these do not tell two items
    of a user apart, all is sorted by whole hashes.
    """
    bits = max(users - 1, 1).bit_length()
    hashed = hashes[item]
    key = row.astype(np.uint64) << np.uint64(64 - bits) | hashed >> np.uint64(bits)
    order = np.argsort(key, kind="stable")
    again = _repeats(key, order)
    ordered = item[order[again]] == item[order[again - 1]]
    if not ordered.all():
        order = np.lexsort((hashed, row))
        again = np.intersect1d(_repeats(row, order), _repeats(item, order))
    return order, again


def _repeats(column: NDArray[T], order: I64) -> I64:
    """Places in the order whose value is that of the one before."""
    column = column[order]
    repeats: I64 = np.flatnonzero(column[1:] == column[:-1]) + 1
    return repeats


def spans(start: I64, rows: I64) -> tuple[I64, I64]:
    """Positions of the entries of some users, and where each user's begin among them."""
    length = start[rows + 1] - start[rows]
    new = _starts(length)
    return np.arange(new[-1]) + np.repeat(start[rows] - new[:-1], length), new


def _starts(length: I64) -> I64:
    start = np.zeros(len(length) + 1, dtype=np.int64)
    np.cumsum(length, out=start[1:])
    return start
