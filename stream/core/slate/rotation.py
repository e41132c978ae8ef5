"""Rotation: what was shown and not clicked steps back, and returns with time. Pure."""

from __future__ import annotations

import numpy as np

from stream.core.slate.facts import F32, I64

_MOST = 64


def fatigue(ignored: F32, shown_ms: I64, time_ms: I64, factor: float, half_life_ms: float) -> F32:
    """Factors [U, N] of the scores: factor^n, n the impressions without a click, decayed since the last.

        n = min(ignored, 64) · 2^(−(time − last shown) / half-life)

    ``ignored``, ``shown_ms`` [U, N]; ``time_ms`` [U]. An item shown later than ``time_ms`` has not rested at
    all. As the discount of repeated impressions in Lee, Lakshmanan et al. ("Modeling impression discounting
    in large-scale recommender systems", KDD 2014), exponential in the count. ~0.5 µs a user.
    """
    found = np.ones(ignored.shape, dtype=np.float32)
    row, column = np.nonzero(ignored > 0)
    rested = np.maximum(time_ms[row] - shown_ms[row, column], 0)
    times = np.minimum(ignored[row, column], _MOST) * np.exp2(-rested / half_life_ms)
    found[row, column] = np.power(factor, times)
    return found
