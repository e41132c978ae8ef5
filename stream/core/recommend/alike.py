"""Content: items most like a user's newest ones by the catalogue, or like what he says he likes. Pure.

    f(j) = Σ_k r^k · cos(i_k, j) · sqrt(1 + n_j) + r^m · cos(a, j) · sqrt(1 + n_j)

over his m newest items, at most three, with n_j the decayed column sum of j and the cosine of `Content`.
Whoever is most like an item is found in an inverted index and kept for a day of event time: finding costs 0.1
ms an item. The answers a of a questionnaire (`Query.preferred`), where there are any, stand behind the items
as one more of them: the only one at first, and of less weight with each that comes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

NAME = "content"
KIN = 20
"""Items kept of those most like an item."""
_ITEMS = 3
_DISCOUNT = 0.8
_DAY_MS = 86_400_000
_NEVER = np.iinfo(np.int64).min


class Kin:
    """For each item those most like it: ``items`` [cap, 20] local ids, −1 padded, ``values`` [cap, 20].

    168 bytes an item that was asked for, or has a smaller local id than one that was.
    """

    def __init__(self) -> None:
        self.items: I32 = np.full((0, KIN), -1, dtype=np.int32)
        self.values: F32 = np.zeros((0, KIN), dtype=np.float32)
        self._day: I64 = np.zeros(0, dtype=np.int64)

    def learn(self, hood: Neighborhood, items: I32, today: int) -> None:
        """Bring items [m] up to a day (of event time, since 1970). ~0.1 ms an item that is not."""
        self._reserve(len(hood.cols))
        items = np.unique(items[(items >= 0) & (self._day.take(items, mode="clip") != today)])
        items = items[hood.content.described(items)]
        if len(items):
            found, values = hood.content.neighbors(
                items, KIN, hood.col_sum.astype(np.float32), hood.column > 0
            )
            self.items[items], self.values[items], self._day[items] = found, values, today

    def _reserve(self, items: int) -> None:
        if (more := items - len(self._day)) > 0:
            self.items = np.concatenate([self.items, np.full((more, KIN), -1, dtype=np.int32)])
            self.values = np.concatenate([self.values, np.zeros((more, KIN), dtype=np.float32)])
            self._day = np.concatenate([self._day, np.full(more, _NEVER)])


def entries(hood: Neighborhood, kin: Kin, query: Query) -> Entries:
    """Channel "content". Free without a catalogue; ~1 µs a user once the kin of his items are known, and
    ~0.2 ms one who told what he likes."""
    if not hood.content.known:
        return Entries(np.empty((len(query), 0), dtype=np.int32), (None,), None)
    own = _like_items(hood, kin, query)
    return own if query.preferred is None else _beside(own, _like_answers(hood, query, *query.preferred))


def _like_items(hood: Neighborhood, kin: Kin, query: Query) -> Entries:
    owner = query.profile[:, :_ITEMS]
    kin.learn(hood, owner.ravel(), int(query.time_ms.max(initial=0)) // _DAY_MS)
    shape = (len(query), owner.shape[1] * KIN)
    held = np.repeat(owner >= 0, KIN, axis=1)
    item, value = kin.items[owner].reshape(shape), kin.values[owner].reshape(shape)
    held &= hood.column.take(item, mode="wrap") > 0
    discount = np.repeat(_DISCOUNT ** np.arange(owner.shape[1]), KIN).astype(np.float32)
    value = np.where(held & (item >= 0), value * discount, np.float32(0))
    return _entries(item, value, np.repeat(owner, KIN, axis=1))


def _like_answers(hood: Neighborhood, query: Query, tokens: U32, weights: F32) -> Entries:
    """What matches the preferred tokens [U, T] of users; no item of their own speaks for it."""
    told = np.flatnonzero((weights > 0).any(axis=1))
    shape = (len(query), KIN)
    item, value = np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.float32)
    popularity = hood.col_sum.astype(np.float32)
    item[told], value[told] = hood.content.matching(
        tokens[told], weights[told], KIN, popularity, hood.column > 0
    )
    items = np.count_nonzero(query.profile[:, :_ITEMS] >= 0, axis=1)
    return _entries(item, value * (_DISCOUNT**items).astype(np.float32)[:, None])


def _entries(item: I32, value: F32, because: I32 | None = None) -> Entries:
    item = np.where(value > 0, item, np.int32(-1))
    return Entries(item, (value,), np.full_like(item, -1) if because is None else because)


def _beside(one: Entries, other: Entries) -> Entries:
    """The entries of both, of one channel."""
    (a,), (b,) = one.values, other.values
    assert a is not None and b is not None and one.because is not None and other.because is not None
    return Entries(
        np.concatenate([one.item, other.item], axis=1),
        (np.concatenate([a, b], axis=1),),
        np.concatenate([one.because, other.because], axis=1),
    )
