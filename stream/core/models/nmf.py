"""Non-negative matrix factorisation by multiplicative updates. Pure.

Lee and Seung: Algorithms for non-negative matrix factorization, NIPS 2000. X ≈ H·Wᵀ with H, W ≥ 0:

    W ← W ∘ (Xᵀ·H) / (W·(Hᵀ·H)),    H ← H ∘ (X·W) / (H·(Wᵀ·W))

‖X − H·Wᵀ‖² never rises. A user who comes after the fit is folded in: the update of his row of H alone, W
being fixed, `STEPS` times, for all users of a batch at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stream.core.models.matrix import Csr

F32 = NDArray[np.float32]

NAME = "nmf"
ROUNDS = 60
"""Updates of a fit."""
STEPS = 10
"""Updates of a user who is folded in."""
_TINY = np.float32(1e-9)


def fit(rows: Csr, factors: int, rounds: int = ROUNDS) -> F32:
    """W [I, f] ≥ 0. Memory: 4·f bytes an item for what is kept; during the fit 12·f a user and item.

    It begins at fixed random numbers: equal matrices give equal factors.
    """
    users, items = rows.shape
    rng = np.random.default_rng(0)
    scale = np.sqrt(rows.sum() / max(users * items, 1) / max(factors, 1))
    w: F32 = (scale * rng.uniform(0.5, 1.5, (items, factors))).astype(np.float32)
    h: F32 = (scale * rng.uniform(0.5, 1.5, (users, factors))).astype(np.float32)
    columns = rows.T.tocsr()
    for _ in range(rounds):
        h *= _ratio(rows @ w, h, w)
        w *= _ratio(columns @ h, w, h)
    return w


def vectors(rows: Csr, factors: F32, steps: int = STEPS) -> F32:
    """Vectors [U, f] ≥ 0 of users by their rows [U, I]; 0 for those with empty rows."""
    toward: F32 = rows @ factors
    found: F32 = np.ones_like(toward)
    for _ in range(steps):
        found *= _ratio(toward, found, factors)
    return found


def _ratio(toward: F32, mine: F32, other: F32) -> F32:
    gram: F32 = other.T @ other
    ratio: F32 = toward / np.maximum(mine @ gram, _TINY)
    return ratio
