"""A model in a worker, by local ids, and the candidates it gives: the best of all its items, a user. Pure.

The scores of chunks of users for all items of the model are worked out as a dense matrix, and its best are
taken. Amazon Beauty, users of 7 items, one core: `pure-svd` with 64 factors of 12,000 items about 100 µs a
user, `nmf` 270, `autoencoder` with 5,000 items 55. So these components are none of the default ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stream.core.interest import Interest
from stream.core.items import Items
from stream.core.models import nmf, pure_svd
from stream.core.models.matrix import rows_by_column, value
from stream.core.models.model import Model
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import best_first, reaching
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

if TYPE_CHECKING:
    from stream.core.models.matrix import Csr

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

MOST = 50
"""Candidates a user."""
CHUNK = 64
"""Users at a time, so that their scores for all items stay in the cache."""
_GROUP = 16
_NOISE = np.float32(1e-5)
"""Less than this share of a user's best score is but rounding."""


@dataclass(frozen=True, slots=True)
class Placed:
    """``model`` by local ids: ``items`` [I] of its columns; ``column`` [items + 1] of local ids, −1 for those
    that have none (the last one is for all that came later). ``matrix`` [I, I] of an autoencoder."""

    model: Model
    items: I32
    column: I32
    matrix: Csr | None

    @classmethod
    def of(cls, model: Model, items: Items) -> Placed:
        """Resolve the hashes of a model. ~0.5 µs an item."""
        local = items.ids_of_hashes(model.hashes)
        column = np.full(len(items) + 1, -1, dtype=np.int32)
        column[local] = np.arange(len(local))
        return cls(model, local, column, _matrix(model))

    def rows(self, interest: Interest) -> Csr:
        """The rows [U, I] of users: what the model knows of what they had."""
        column = self.column.take(interest.item, mode="clip").astype(np.int64)
        return rows_by_column(len(self.items), interest.length, column, value(interest.count))

    def vectors(self, interest: Interest) -> F32:
        """Users folded in: vectors [U, f] for a factorisation. Raises ValueError for an autoencoder."""
        if self.model.columns is not None:
            raise ValueError(f"{self.model.name} has no vectors of users")
        return self._fold(self.rows(interest))

    def _fold(self, rows: Csr) -> F32:
        fold = nmf.vectors if self.model.name == nmf.NAME else pure_svd.vectors
        return fold(rows, self.model.values)

    def scores(self, rows: Csr) -> F32:
        """Scores [U, I] of all items for users by their rows."""
        if self.matrix is not None:
            dense: F32 = (rows @ self.matrix).toarray()
            return dense
        found: F32 = self._fold(rows) @ self.model.values.T
        return found

    def main(self, rows: Csr, found: I32) -> I32:
        """The column of the own item that adds most to each of ``found`` [U, n] columns, −1 padded: [U, n].

        −1 where none adds anything. Of a factorisation an item adds its weight times the product of the
        factors of both.
        """
        return (
            _by_entries(self.model, rows, found) if self.matrix is not None else self._by_factors(rows, found)
        )

    def _by_factors(self, rows: Csr, found: I32) -> I32:
        own = _padded(rows)
        if not own.shape[1]:
            return np.full_like(found, -1)
        factors = self.model.values
        weight = np.where(own >= 0, rows.data.take(own, mode="clip"), np.float32(0))
        columns = rows.indices.take(own, mode="clip")
        mine = factors[columns] * weight[:, :, None]
        parts = mine @ factors[np.maximum(found, 0)].transpose(0, 2, 1)
        best = parts.argmax(axis=1)
        adds = np.take_along_axis(parts, best[:, None], axis=1)[:, 0] > 0
        return np.where(adds & (found >= 0), np.take_along_axis(columns, best, axis=1), -1).astype(np.int32)


def _matrix(model: Model) -> Csr | None:
    if model.columns is None:
        return None
    n, width = model.columns.shape
    start = np.arange(n + 1, dtype=np.int64) * width
    return csr_array((model.values.ravel(), model.columns.ravel(), start), shape=(n, n))


def _padded(rows: Csr) -> I64:
    """Positions of the entries of each row among all: [U, m], −1 padded."""
    length = np.diff(rows.indptr)
    place = np.arange(int(length.max(initial=0)))
    return np.where(place < length[:, None], rows.indptr[:-1, None].astype(np.int64) + place, -1)


def _by_entries(model: Model, rows: Csr, found: I32) -> I32:
    """Look at the entries of the own items' rows that lead to one of ``found``."""
    assert model.columns is not None
    width = found.shape[1]
    rank = np.full((rows.shape[0], len(model.hashes)), -1, dtype=np.int32)
    user, place = np.nonzero(found >= 0)
    rank[user, found[user, place]] = place
    of = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    at = rank[of[:, None], model.columns[rows.indices]]
    entry, column = np.nonzero(at >= 0)
    target = of[entry] * width + at[entry, column]
    part = rows.data[entry] * model.values[rows.indices[entry], column]
    order = np.lexsort((-part, target))
    order = order[part[order] > 0]
    hit, first = np.unique(target[order], return_index=True)
    main = np.full(found.shape, -1, dtype=np.int32)
    main.ravel()[hit] = rows.indices[entry[order[first]]]
    return main


# What the components give


def entries(hood: Neighborhood, models: Mapping[str, Placed] | None, name: str, query: Query) -> Entries:
    """The channel of a model: nothing before it was fitted. Evidence is the score, where it is above 0."""
    placed = (models or {}).get(name)
    if placed is None or not len(placed.items):
        none = np.full((len(query), 0), -1, dtype=np.int32)
        return Entries(none, (none.astype(np.float32),), none)
    hidden = hood.column.take(placed.items, mode="clip") <= 0
    rows = placed.rows(query.interest)
    parts = [_best(placed, rows[low : low + CHUNK], hidden) for low in range(0, max(len(query), 1), CHUNK)]
    item, values, because = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Entries(item, (values,), because)


def _best(placed: Placed, rows: Csr, hidden: Bool) -> tuple[I32, F32, I32]:
    """The best items [u, n] that a user does not have and may be shown, by local id; values, reasons."""
    scores = np.ascontiguousarray(placed.scores(rows), dtype=np.float32)
    scores[np.repeat(np.arange(len(scores)), np.diff(rows.indptr)), rows.indices] = 0
    scores[:, hidden] = 0
    width = min(MOST, scores.shape[1])
    found = np.full((len(scores), width), -1, dtype=np.int32)
    values = np.zeros((len(scores), width), dtype=np.float32)
    row, column = np.divmod(_reaching(scores.view(np.int32), width), scores.shape[1])
    score = scores[row, column]
    order = best_first(row, score, placed.model.hashes[column])
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(len(scores)))[row]
    order, to = order[rank < width], (row[rank < width], rank[rank < width])
    found[to], values[to] = column[order], score[order]
    noise = values < _NOISE * values[:, :1]
    found[noise], values[noise] = -1, 0
    main = placed.main(rows, found)
    return _local(placed, found), values, _local(placed, main)


def _reaching(bits: I32, size: int) -> I64:
    """`stream.core.ranking.reaching` for wide rows: some more positions, and no partition of them.

    The size-th largest of the maxima of disjoint groups of scores is reached by size scores at least.
    """
    groups = bits.shape[1] // _GROUP
    if groups <= size:
        return reaching(bits, size)
    most = bits[:, : groups * _GROUP].reshape(len(bits), _GROUP, groups).max(axis=1)
    least = np.partition(most, groups - size, axis=1)[:, groups - size, None]
    return np.flatnonzero(bits >= np.maximum(least, 1))


def _local(placed: Placed, column: I32) -> I32:
    return np.where(column >= 0, placed.items.take(column, mode="clip"), np.int32(-1))
