"""Vectors that the shop gives of its items: small whole numbers, compared by cosine. Pure.

A vector is kept as int8, in 127ths of its largest component: `tests/test_vectors.py` bounds what that costs.
Of more than 256 dimensions it is first projected to 256 by random signs,

    y = R x / sqrt(256), R[r, c] = ±1

which keeps cosines up to about 1/sqrt(256) = 0.06 (Johnson–Lindenstrauss; signs: Achlioptas, JCSS 2003). The
signs of column c come from blake2b of c, so that they are the same for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from stream.core.neighbor_format import MOST_DIMS

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_MOST = 127
_BLOCK = 4096


def quantised(vector: Sequence[float] | None) -> I8:
    """A given vector as int8 [≤ 256]; empty for none, for one of length 0 and for one that is not finite."""
    values = np.asarray(vector if vector is not None else (), dtype=np.float64)
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest) or largest == 0:
        return np.zeros(0, dtype=np.int8)
    # Divided before it is summed: a sum of great numbers would not be finite.
    values = values / largest
    if len(values) > MOST_DIMS:
        values = _signs(len(values)) @ values
        largest = float(np.abs(values).max())
        values = values / (largest or 1.0)
    return np.rint(values * _MOST).astype(np.int8)


@lru_cache(maxsize=8)
def _signs(dims: int) -> NDArray[np.float64]:
    """Signs [256, dims] of the projection: column c from the 256 bits of blake2b of c."""
    drawn = b"".join(
        blake2b(c.to_bytes(4, "little"), digest_size=MOST_DIMS // 8).digest() for c in range(dims)
    )
    bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).reshape(dims, MOST_DIMS)
    return bits.T.astype(np.float64) * 2 - 1


class Vectors:
    """Vectors by local item id; those of one number of dimensions D are one matrix. D + 10 bytes an item."""

    def __init__(self) -> None:
        self.dims: I16 = np.zeros(0, dtype=np.int16)
        self._place: I32 = np.zeros(0, dtype=np.int32)
        self._groups: dict[int, _Group] = {}

    def reserve(self, items: int) -> None:
        """Make room for local ids below ``items``."""
        if (more := items - len(self.dims)) > 0:
            self.dims = np.concatenate([self.dims, np.zeros(more, dtype=np.int16)])
            self._place = np.concatenate([self._place, np.zeros(more, dtype=np.int32)])

    def any(self, items: I32) -> bool:
        """Whether one of the items has a vector."""
        return bool(self._groups) and bool(self.dims[items].any())

    def learn(self, items: I32, dims: I64, vectors: I8) -> None:
        """Vectors [m, D] of items [m], all different, of which the first ``dims`` [m] count; 0: no vector."""
        had = self.dims[items]
        for size in np.unique(had[had > 0]).tolist():
            self._groups[size].items[self._place[items[had == size]]] = -1
        self.dims[items] = dims
        for size in np.unique(dims[dims > 0]).tolist():
            group = self._groups.setdefault(size, _Group(size))
            at = np.flatnonzero(dims == size)
            self._place[items[at]] = group.append(items[at], vectors[at, :size], self._place)

    def cosine(self, i: I32, j: I32) -> F32:
        """Cosine of pairs of items ``i``, ``j`` [m]: [m]; 0 unless both have a vector of the same length."""
        found = np.zeros(len(i), dtype=np.float32)
        same = (self.dims[i] == self.dims[j]) & (self.dims[i] > 0)
        for size in np.unique(self.dims[i[same]]).tolist():
            at = np.flatnonzero(same & (self.dims[i] == size))
            for start in range(0, len(at), _BLOCK):
                part = at[start : start + _BLOCK]
                found[part] = self._groups[size].cosine(self._place[i[part]], self._place[j[part]])
        return found

    def nearest(self, items: I32, k: int, popularity: F32, shown: Bool) -> I32:
        """The ``k`` best items for items [m] by cosine · sqrt(1 + popularity): [m, k], −1 padded, unordered.

        ``popularity``, ``shown`` [cap] by local id. Every item of the same number of dimensions is
        compared, in blocks: ~0.1 µs a pair of 256 dimensions for one item, less for many.
        """
        found = np.full((len(items), k), -1, dtype=np.int32)
        for size in np.unique(self.dims[items]).tolist():
            if size:
                at = np.flatnonzero(self.dims[items] == size)
                found[at] = self._groups[size].nearest(self._place[items[at]], k, popularity, shown)
        return found


class _Group:
    """Vectors of one length: ``items`` [cap] local ids, −1 for those given up or free; ``rows`` [cap, D]."""

    def __init__(self, dims: int) -> None:
        self.items: I32 = np.full(64, -1, dtype=np.int32)
        self.rows: I8 = np.zeros((64, dims), dtype=np.int8)
        self.inverse: F32 = np.zeros(64, dtype=np.float32)
        self._used = 0

    def append(self, items: I32, vectors: I8, place: I32) -> I32:
        """Take vectors of items [m]: their places [m]. Moves the others (``place``) together when full."""
        if self._used + len(items) > len(self.items):
            self._pack(place, len(items))
        at = np.arange(self._used, self._used + len(items), dtype=np.int32)
        self._used += len(items)
        self.items[at], self.rows[at] = items, vectors
        exact = vectors.astype(np.float32)
        lengths = np.sqrt(np.einsum("md,md->m", exact, exact))
        self.inverse[at] = np.where(lengths > 0, 1 / np.maximum(lengths, 1), 0)
        return at

    def _pack(self, place: I32, more: int) -> None:
        kept = np.flatnonzero(self.items >= 0)
        size = 2 * (len(kept) + more)
        items, rows, inverse = self.items[kept], self.rows[kept], self.inverse[kept]
        self.items = np.full(size, -1, dtype=np.int32)
        self.rows = np.zeros((size, rows.shape[1]), dtype=np.int8)
        self.inverse = np.zeros(size, dtype=np.float32)
        self._used = len(kept)
        self.items[: len(kept)], self.rows[: len(kept)], self.inverse[: len(kept)] = items, rows, inverse
        place[items] = np.arange(len(kept))

    def cosine(self, a: I32, b: I32) -> F32:
        """Of the vectors at places ``a``, ``b`` [m]: [m]."""
        products = np.einsum("md,md->m", self.rows[a].astype(np.float32), self.rows[b].astype(np.float32))
        found: F32 = products * self.inverse[a] * self.inverse[b]
        return found

    def nearest(self, places: I32, k: int, popularity: F32, shown: Bool) -> I32:
        """The best items for the vectors at ``places`` [m]: [m, k] ids, −1 padded."""
        # Products of such small integers are exact: what is orthogonal is 0. A query's length orders nothing.
        queries = self.rows[places].astype(np.float32).T
        ids = np.full((len(places), k), -1, dtype=np.int32)
        best = np.zeros((len(places), k), dtype=np.float32)
        for start in range(0, self._used, _BLOCK):
            part = slice(start, min(start + _BLOCK, self._used))
            items = self.items[part]
            factor = self.inverse[part] * np.sqrt(1 + np.maximum(popularity.take(items, mode="wrap"), 0))
            factor = np.where((items >= 0) & shown.take(items, mode="wrap"), factor, np.float32(0))
            values = (self.rows[part].astype(np.float32) @ queries * factor[:, None]).T
            values[items == self.items[places][:, None]] = 0
            best, ids = _best(np.concatenate([best, values], axis=1), ids, items, k)
        return np.where(best > 0, ids, np.int32(-1))


def _best(values: F32, ids: I32, items: I32, k: int) -> tuple[F32, I32]:
    """The ``k`` greatest of values [m, k + b], of ``ids`` [m, k] and then ``items`` [b]."""
    order = np.argpartition(-values, k - 1, axis=1)[:, :k]
    every = np.concatenate([ids, np.broadcast_to(items, (len(ids), len(items)))], axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(every, order, axis=1)
