"""EASE: a linear autoencoder without hidden layer, in closed form. Pure.

Steck: Embarrassingly shallow autoencoders for sparse data, WWW 2019. B minimises ‖X − X·B‖² + λ·‖B‖² with a
diagonal of 0:

    P = (Xᵀ·X + λ·I)⁻¹,    B_ij = −P_ij / P_jj for i ≠ j

The scores of a user with the row x are x·B. Only the largest entries of each row of B are kept, so that they
are a sparse product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

if TYPE_CHECKING:
    from stream.core.models.matrix import Csr

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

NAME = "autoencoder"
_ROWS = 256


def weights(rows: Csr, penalty: float) -> F32:
    """B [I, I] of X [U, I], I > 0; ``penalty`` is λ > 0, so that single precision is enough.

    5,000 items and 22,000 users: about 2.5 s on one core. Memory: 4·I² bytes, and meanwhile XᵀX as a sparse
    matrix, 8 bytes a pair of items that a user had both. Raises ValueError where λ is too small.
    """
    gram: F32 = (rows.T @ rows).toarray().T  # symmetric: LAPACK's order of the same numbers
    np.fill_diagonal(gram, gram.diagonal() + np.float32(penalty))
    factor, failed = lapack.spotrf(gram, lower=1, overwrite_a=1, clean=0)
    inverse, singular = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or singular:
        raise ValueError(f"X'X + {penalty:g} cannot be inverted: set autoencoder_penalty higher")
    for low in range(0, len(inverse), _ROWS):  # the lower triangle is what stands there; by blocks
        high = min(low + _ROWS, len(inverse))
        inverse[low:high, high:] = inverse[high:, low:high].T
        block = np.tril(inverse[low:high, low:high])
        inverse[low:high, low:high] = block + np.tril(block, -1).T
    found: F32 = inverse
    found /= -found.diagonal().copy()
    np.fill_diagonal(found, 0)
    return found


def largest(dense: F32, keep: int) -> tuple[I32, F32]:
    """The ``keep`` entries of greatest magnitude in each row [I, I]: columns, ascending, values, [I, keep].

    Of equal ones some; 0 where a row has fewer.
    """
    keep = min(keep, dense.shape[1])
    columns = np.empty((len(dense), keep), dtype=np.int32)
    for low in range(0, len(dense), _ROWS):
        block = np.abs(dense[low : low + _ROWS])
        columns[low : low + _ROWS] = np.argpartition(-block, max(keep - 1, 0), axis=1)[:, :keep]
    columns.sort(axis=1)
    values: F32 = np.take_along_axis(dense, columns.astype(np.int64), axis=1)
    return columns, values
