"""User-user: what the users most like this one had to do with. Pure.

    f(j) = Σ_v sim(u, v) · w_v(j)

over the 20 users v most similar to u among the recent users of the items in u's profile, with w_v the
interest of v, its 32 heaviest items scaled to length 1. What u has himself is left out: that is for `repeat`.

    cosine:   Σ_i w_u(i) · w_v(i)
    pearson:  Σ_i d_u(i) · d_v(i) / sqrt(Σ_i d_u(i)² · Σ_i d_v(i)²),   d_u(i) = w_u(i) − mean of w_u

with the sums over the n items that both have (Resnick et al., CSCW 1994), both times min(n, γ)/γ: few items
in common may be chance (significance weighting: Herlocker et al., SIGIR 1999). Only a positive
similarity counts. Neighbours are not looked for among all users, but among those met where the profile leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream.core.interest import Interest, interest_top
from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

NAME = "user-user"
ITEMS = 32
"""Items kept of a user's interest."""
RECENT = 16
"""Recent users kept of an item."""
COMPARED = 64
"""Users compared with one: those who share most of his profile."""
NEIGHBORS = 20
SIGNIFICANT = 5
"""γ: so many items in common are no chance."""
MOST_USERS = 1 << 20
_FEW = 64
"""Users at a time whose interests fit into the cache as a dense matrix."""
_LEAST = 1e-6
"""What is below has no meaning: a similarity, or squared deviations of a vector of length 1."""
_NONE = np.uint32(0xFFFF_FFFF)

Likeness = Literal["cosine", "pearson"]


class Peers:
    """The users seen last, at most ``users``, and for each item the last 16 users of it. Soft state.

    ``item``, ``weight`` [S, 32]: interest, heaviest first, −1 and 0 padded; ``number`` [S] is who has the
    slot: another number with every new owner, so that what names the old one leads nowhere. ``recent``
    [cap, 16] numbers of users by item, newest last, −1 padded at the left. 0.3 kB a slot, taken at once, and
    128 bytes an item of the dictionary.
    """

    def __init__(self, users: int, likeness: Likeness = "cosine") -> None:
        if not 0 < users <= MOST_USERS:
            raise ValueError(f"peers = {users}: must be from 1 to {MOST_USERS}")
        self.likeness = likeness
        self.item: I32 = np.full((users, ITEMS), -1, dtype=np.int32)
        self.weight: F32 = np.zeros((users, ITEMS), dtype=np.float32)
        self.number: I64 = np.arange(users)
        self.recent: I64 = np.full((1, RECENT), -1, dtype=np.int64)
        self._slots: dict[str, int] = {}
        self._names = [""] * users
        self._free = list(range(users - 1, -1, -1))
        self._part: I32 = np.full(users, -1, dtype=np.int32)
        self._used: I64 = np.zeros(users, dtype=np.int64)
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self, names: Iterable[str]) -> I64:
        """Slots [n] of users, −1 for those not here. ~60 ns a user."""
        get = self._slots.get
        return np.array([get(name, -1) for name in names], dtype=np.int64)

    def note(self, part: int, names: Sequence[str], interest: Interest, user: I64, item: I32) -> None:
        """Users [n] of a partition had to do with items: ``user`` [m] (place in names), ``item`` [m].

        All in order, the newest last. ``interest`` is theirs. Of more users than slots the last stay.
        ~4 µs a user with 2 items and 30 entries, in batches of 1,000.
        """
        if (over := len(names) - len(self._names)) > 0:
            stays = user >= over
            interest = interest.take(np.arange(over, len(names)))
            names, user, item = names[over:], user[stays] - over, item[stays]
        slot = self._seat(part, names)
        self.item[slot], self.weight[slot] = vectors(interest)
        self._meet(item, slot[user])

    def forget(self, names: Iterable[str]) -> None:
        """Nothing of these users is left, nor any way to them."""
        self._clear([slot for name in names if (slot := self._slots.pop(name, None)) is not None])

    def release(self, part: int) -> None:
        """Forget the users of a partition: it went to another worker, or starts over."""
        self.forget([self._names[slot] for slot in np.flatnonzero(self._part == part).tolist()])

    def reserve(self, items: int) -> None:
        """Room for so many items; grows by doubling."""
        if items > len(self.recent):
            more = max(items, 2 * len(self.recent)) - len(self.recent)
            self.recent = np.concatenate([self.recent, np.full((more, RECENT), -1, dtype=np.int64)])

    def _seat(self, part: int, names: Sequence[str]) -> I64:
        """Slots of users, the newest last; those who are new get the ones unused for longest."""
        slot = self.slots(names)
        known = slot >= 0
        self._used[slot[known]] = self._clock
        if new := int(np.count_nonzero(~known)):
            if (lack := new - len(self._free)) > 0:
                used = np.where(self._part >= 0, self._used, self._clock)
                self.forget([self._names[at] for at in np.argpartition(used, lack - 1)[:lack].tolist()])
            for at in np.flatnonzero(~known).tolist():
                slot[at] = self._slots[names[at]] = self._free.pop()
                self._names[slot[at]] = names[at]
        self._part[slot] = part
        self._used[slot] = self._clock + np.arange(len(slot))
        self._clock += len(slot)
        return slot

    def _clear(self, slots: list[int]) -> None:
        self.item[slots], self.weight[slots], self._part[slots], self._used[slots] = -1, 0, -1, 0
        self.number[slots] += len(self._names)
        self._free += slots
        for slot in slots:
            self._names[slot] = ""

    def _meet(self, item: I32, slot: I64) -> None:
        """Lines [m] in order into ``recent``: whoever is there already moves to the end."""
        if not len(item):
            return
        self.reserve(int(item.max()) + 1)
        pair = item.astype(np.int64) << 32 | slot
        newest = len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1]
        newest = newest[np.lexsort((newest, item[newest]))]
        touched, row = np.unique(item[newest], return_inverse=True)
        number, old = self.number[slot[newest]], self.recent[touched]
        old[(old >= 0) & (self.number[old % len(self.number)] != old)] = -1
        again, column = np.nonzero(old[row] == number[:, None])
        old[row[again], column] = -1
        old = np.take_along_axis(old, np.argsort(old >= 0, axis=1, kind="stable"), axis=1)
        self.recent[touched] = _appended(old, row, number)


def vectors(interest: Interest) -> tuple[I32, F32]:
    """The heaviest items of users, scaled to length 1: items [U, 32], −1 padded, weights [U, 32]."""
    item, weight = interest_top(interest, ITEMS)
    length = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return item, (weight / np.maximum(length, 1)).astype(np.float32)


def _appended(old: I64, row: I64, new: I64) -> I64:
    """Rows [t, w] with values [m] after theirs, sorted by row: the last w of each."""
    width = old.shape[1]
    count = np.bincount(row, minlength=len(old))
    left = np.cumsum(count)[row] - 1 - np.arange(len(row))
    last = left < width
    shift = np.minimum(count, width)
    wide = np.concatenate([old, np.full_like(old, -1)], axis=1)
    wide[row[last], width + shift[row[last]] - 1 - left[last]] = new[last]
    return np.take_along_axis(wide, shift[:, None] + np.arange(width), axis=1)


# What the component gives


def entries(hood: Neighborhood, peers: Peers | None, query: Query) -> Entries:
    """Channel "user-user". Raises ValueError when it is not known who the users are.

    ~45 µs a user with 10 profile items and 30 entries by cosine, ~65 by Pearson's correlation.
    """
    if peers is None or query.own is None:
        raise ValueError("user-user needs peers, and a query that tells who of them its users are")
    peers.reserve(len(hood.items))
    cuts = [slice(low, low + _FEW) for low in range(0, max(len(query), 1), _FEW)]
    parts = [_few(hood, peers, query.take(at)) for at in cuts]
    item, value, because = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Entries(item, (value,), because)


def _few(hood: Neighborhood, peers: Peers, query: Query) -> tuple[I32, F32, I32]:
    """Items, values and reasons [U, w] of few users."""
    assert query.own is not None
    mine = _Dense.of(*vectors(query.interest), len(hood.items))
    found = compared(peers, query.profile, query.own)
    near = similarity(peers, mine, found)
    order = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBORS]
    near, slot = np.take_along_axis(near, order, axis=1), np.take_along_axis(found, order, axis=1)
    item, weight = peers.item[slot], peers.weight[slot]
    common = mine.weights(item)
    best = np.argmax(common * weight, axis=2)[:, :, None]
    value = near[:, :, None] * weight
    value *= (common == 0) & (hood.column.take(item, mode="wrap") > 0)
    because = np.broadcast_to(np.take_along_axis(item, best, axis=2), item.shape)
    item, shape = np.where(value > 0, item, np.int32(-1)), (len(query), -1)
    return item.reshape(shape), value.reshape(shape), because.reshape(shape)


@dataclass(frozen=True, slots=True)
class _Dense:
    """Vectors of U users as a matrix over the items that any of them has; column 0 is for all others.

    ``column`` [items + 1]: the column of each item; that of no item (−1) comes last.
    """

    matrix: F32
    column: I32
    mean: F64

    @classmethod
    def of(cls, item: I32, weight: F32, items: int) -> _Dense:
        """From sparse vectors [U, 32] of a dictionary of so many items."""
        distinct = np.unique(item[item >= 0])
        column = np.zeros(items + 1, dtype=np.int32)
        column[distinct] = np.arange(1, len(distinct) + 1)
        matrix = np.zeros((len(item), len(distinct) + 1), dtype=np.float32)
        row, place = np.nonzero(item >= 0)
        matrix[row, column[item[row, place]]] = weight[row, place]
        return cls(matrix, column, _means(item, weight))

    def weights(self, item: I32) -> F32:
        """What each user has of items [U, c, 32]: 0 where he has them not."""
        at = self.column.take(item, mode="wrap")
        at += (np.arange(len(item), dtype=np.int32) * self.matrix.shape[1])[:, None, None]
        return self.matrix.ravel().take(at)


def _means(item: I32, weight: F32) -> F64:
    """Mean weight of the items of each vector."""
    means: F64 = weight.sum(axis=-1, dtype=np.float64) / np.maximum(np.count_nonzero(item >= 0, axis=-1), 1)
    return means


def similarity(peers: Peers, mine: _Dense, slot: I64) -> F32:
    """Of U users to those in slots [U, c]: the module's, 0 where it is not positive or the slot is −1."""
    item, theirs = peers.item[slot], peers.weight[slot]
    own = mine.weights(item)
    common = own > 0
    if peers.likeness == "cosine":
        alike = np.einsum("uci,uci->uc", own, theirs)
    else:
        alike = _pearson(own - mine.mean[:, None, None], theirs - _means(item, theirs)[:, :, None], common)
    n = np.minimum(np.count_nonzero(common, axis=2), SIGNIFICANT)
    found = (alike * (n / np.float32(SIGNIFICANT))).astype(np.float32)
    return np.where((found > _LEAST) & (slot >= 0), found, np.float32(0))


def _pearson(own: F64, theirs: F64, common: Bool) -> F64:
    """Correlation of deviations [U, c, 32] over what is common; 0 where one of the two has none."""
    own, theirs = np.where(common, own, 0.0), np.where(common, theirs, 0.0)
    squares = (own**2).sum(axis=2), (theirs**2).sum(axis=2)
    told = np.minimum(*squares) > _LEAST
    alike: F64 = (own * theirs).sum(axis=2) / np.sqrt(np.where(told, squares[0] * squares[1], 1.0))
    return np.where(told, alike, 0.0)


def compared(peers: Peers, profile: I32, own: I64) -> I64:
    """The slots [U, 64] of the users to compare with, −1 padded: those recent with most of the profile.

    Of equals those who come first by the newest profile item, then as the newest user of it. Never ``own``.
    """
    number = peers.recent[profile][:, :, ::-1].reshape(len(profile), -1)
    slot = number % len(peers.number)
    held = (number >= 0) & (peers.number[slot] == number) & (slot != own[:, None])
    held &= np.repeat(profile >= 0, RECENT, axis=1)
    bits = max(slot.shape[1] - 1, 1).bit_length()
    place = np.arange(slot.shape[1], dtype=np.uint32)
    words = np.where(held, slot.astype(np.uint32) << np.uint32(bits) | place, _NONE)
    words.sort(axis=1)
    first = np.ones(words.shape, dtype=np.bool_)
    np.not_equal(words[:, 1:] >> np.uint32(bits), words[:, :-1] >> np.uint32(bits), out=first[:, 1:])
    at = np.flatnonzero(first)
    lacks = (slot.shape[1] - np.diff(at, append=words.size)).astype(np.uint32)
    ranks = np.full(words.shape, _NONE)
    of = words.ravel()[at]
    ranks.ravel()[at] = np.where(of == _NONE, _NONE, lacks << np.uint32(bits) | of & _low(bits))
    ranks.sort(axis=1)
    ranks = ranks[:, :COMPARED]
    found = np.take_along_axis(slot, (ranks & _low(bits)).astype(np.int64) % slot.shape[1], axis=1)
    return np.where(ranks == _NONE, -1, found)


def _low(bits: int) -> np.uint32:
    """A word of low bits."""
    return np.uint32((1 << bits) - 1)
