"""PureSVD: the best approximation of the user-item matrix of a given rank. Pure.

Cremonesi, Koren, Turrin: Performance of recommender algorithms on top-N recommendation tasks, RecSys 2010.
X ≈ U·S·Vᵀ; missing entries count as 0. A user with the row x has the vector x·V, so whoever comes after the
fit has one, too; the score of item j is x·V·V_jᵀ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from stream.core.models.matrix import Csr

    Exact = csr_array[np.float64, tuple[int, int]]

F32 = NDArray[np.float32]

NAME = "pure-svd"
_DENSE = 64
"""A side of the matrix that is shorter is no work for an iterative method."""
_LEAST = 1e-6
"""Singular values below this share of the greatest are rounding: entries are floats of 32 bits."""


def fit(rows: Csr, factors: int) -> F32:
    """V [I, f] with orthonormal columns, largest singular value first, f at most ``factors``.

    f is less where the matrix has a smaller rank. The start vector is fixed, and the largest element of each
    column is positive: equal matrices give equal factors. Memory: 4·f bytes an item for what is kept, during
    the fit 8·f a user and item besides the matrix.
    """
    values, right = _decomposed(rows.astype(np.float64), factors)
    order = np.argsort(-values, kind="stable")[:factors]
    right = right[order[values[order] > _LEAST * values.max(initial=0)]]
    return _signed(right.T).astype(np.float32)


def _decomposed(rows: Exact, factors: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values [n] and right singular vectors [n, I], the ``factors`` greatest or more."""
    users, items = rows.shape
    few = max(factors, _DENSE)
    if items <= few:
        # However many users: the eigenvectors of XᵀX.
        squares, vectors = np.linalg.eigh((rows.T @ rows).toarray())
        return np.sqrt(np.maximum(squares, 0)), vectors.T
    if users <= few:
        _, values, right = np.linalg.svd(rows.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(0).standard_normal(min(users, items))
        _, values, right = svds(rows, k=factors, v0=start)
    return values, right


def _signed(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    if not columns.size:
        return columns
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None, :], axis=0)
    signed: NDArray[np.float64] = columns * np.where(largest < 0, -1.0, 1.0)
    return signed


def vectors(rows: Csr, factors: F32) -> F32:
    """Vectors [U, f] of users by their rows [U, I]."""
    found: F32 = rows @ factors
    return found
