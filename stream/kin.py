"""Which lists are due because the catalogue says something new: those of items like the newly described.

An item without a list of its own gets the items most like it (`stream.core.neighborhood`). When one more
becomes known, the lists of those like it may change. A whole catalogue may come at once, so newly described
items are looked at once no more come, and only some lists are due at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.neighborhood import Neighborhood

I32 = NDArray[np.int32]

AT_ONCE = 128
"""Lists due in one round (0.2 ms each); if more items are newly described, all such lists are due."""
ROUNDS = 100
"""So many rounds in which something came are waited for one in which nothing does."""


class Kin:
    """Gathers ``described`` items; `due` is asked for in every round of following."""

    def __init__(self, hood: Neighborhood) -> None:
        self._hood = hood
        self.described: set[int] = set()
        self._due: set[int] = set()
        self._before = self._rounds = 0

    def due(self) -> I32:
        """Local ids whose lists are due now, ascending: at most `AT_ONCE`. ~0.1 ms a described item."""
        came = len(self.described)
        self._rounds = self._rounds + 1 if came else 0
        if came and (came == self._before or self._rounds >= ROUNDS):
            self._due.update(self._like(np.array(sorted(self.described), dtype=np.int32)).tolist())
            self.described.clear()
            self._rounds = 0
        self._before = len(self.described)
        taken = sorted(self._due)[:AT_ONCE]
        self._due.difference_update(taken)
        return np.array(taken, dtype=np.int32)

    def _like(self, described: I32) -> I32:
        if len(described) <= AT_ONCE:
            return self._hood.cold_kin(described)
        return self._hood.cold(np.arange(len(self._hood.items), dtype=np.int32))
