"""Position bias: what a list showed on top is chosen also because it stood there. Pure.

A target that the user's newest list had at place p (from 0) of n counts for the mixture with weight

    w = min(1, ((p + 1) / n)^0.5),

one that no list had with 1: inverse propensity, with an examination that falls with the root of the place,
and clipped at what nobody was led to (Joachims, Swaminathan, Schnabel, WSDM 2017). So a mixture does not
learn from its own echo; what was shown and passed over is, as a candidate not chosen, evidence against it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.attribution import Impressions

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

_POWER = 0.5


def weights(row: I64, item: U64, seen: Impressions, size: int) -> F64:
    """Weights [t] of targets: users ``row`` [t] and hashes ``item`` [t], by what those users were shown.

    ``size`` is the length of a list. ~0.1 µs a target and impression.
    """
    found = np.ones(len(row))
    if not len(seen.row) or not len(row):
        return found
    shown = pairs(seen.row, seen.item)
    order = np.argsort(shown)
    wanted = pairs(row, item)
    at = order[np.minimum(np.searchsorted(shown, wanted, sorter=order), len(shown) - 1)]
    held = shown[at] == wanted
    share = (seen.place[at[held]].astype(np.float64) + 1) / size
    found[held] = np.minimum(share, 1.0) ** _POWER
    return found


def pairs(row: I64, item: U64) -> U64:
    """User and item as one word: hashes have 64 bits, so two of a batch never meet."""
    return item ^ row.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
