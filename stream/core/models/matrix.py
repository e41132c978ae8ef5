"""The user-item matrix: a row a user, a column an item, log2(1 + n) where n events of his had the item. Pure.

So an item he had to do with once counts 1, as in the papers, and more of the same counts less and less. There
is no time in it: a user's row changes only when he does something, and equal histories give equal models.
Columns stand by ascending item hash: ties by column are ties by hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

if TYPE_CHECKING:
    Csr = csr_array[np.float32, tuple[int, int]]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Matrix:
    """``rows`` [U, I] float32 > 0, without repeats and with sorted columns; ``hashes`` [I] ascending."""

    rows: Csr
    hashes: U64


def matrix(length: I64, item: U64, count: U32, most: int) -> Matrix:
    """The matrix of U users with ``length`` [U] entries each: ``item`` [M] hashes, ``count`` [M] > 0 events.

    An item stands at most once with a user. Only the ``most`` items of most users are columns (ties by
    hash); users with none of them keep an empty row. ~0.2 µs and, meanwhile, 32 bytes an entry.
    """
    hashes, users = np.unique(item, return_counts=True)
    hashes = np.sort(hashes[np.argsort(-users, kind="stable")[:most]])
    return Matrix(rows_of(hashes, length, item, value(count)), hashes)


def rows_of(hashes: U64, length: I64, item: U64, values: F32) -> Csr:
    """Rows [U, I] of users with ``length`` [U] entries; entries of items that are no column are left out."""
    column = columns(hashes, item)
    return rows_by_column(len(hashes), length, column, values)


def rows_by_column(items: int, length: I64, column: I64, values: F32) -> Csr:
    """Rows [U, items] of entries by column, −1 for those to leave out. ~20 ns an entry."""
    held = np.flatnonzero((column >= 0) & (values > 0))
    start = np.zeros(len(length) + 1, dtype=np.int64)
    np.cumsum(length, out=start[1:])
    row = np.searchsorted(held, start)
    made = csr_array((values[held], column[held], row), shape=(len(length), items))
    made.sort_indices()
    return made


def columns(hashes: U64, item: U64) -> I64:
    """The column [n] of each item [n] by its hash, −1 where it has none."""
    if not len(hashes):
        return np.full(len(item), -1, dtype=np.int64)
    at: I64 = np.searchsorted(hashes, item)
    np.minimum(at, len(hashes) - 1, out=at)
    at[hashes[at] != item] = -1
    return at


def value(count: U32) -> F32:
    """What ``count`` [n] events with an item are worth: log2(1 + count)."""
    worth: F32 = np.log2(1.0 + count).astype(np.float32)
    return worth
