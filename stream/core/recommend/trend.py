"""Trend: what rises, what is in season, which categories move: candidates and evidence for everyone. Pure.

With now_j, usual_j the popularity of item j and its usual (`stream.core.usual`), both as of the newest hour
of all items, and season_j what the same weeks of last year had:

    rising_j   = max(0, now_j − usual_j) / sqrt(usual_j + 1)
    season_j   = max(0, season_j − usual_j) / sqrt(usual_j + 1)
    category_j = now_j / Σ now · (Σ_C now + 1) / (Σ_C usual + 1)

The first two are, but for a factor, how many standard deviations of a Poisson variable the one is above the
other; the 1 damps what is hardly ever seen. The third is the item's share, times the momentum of its category
C; 0 for an item of which the catalogue names none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.interest import Interest
from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

NAME = "trend"
CHANNELS = ("rising", "season", "category")
SEGMENTS = CHANNELS[:2]
"""Channels that are views of their own."""
CANDIDATES = 40
"""Items that are candidates for everyone, a channel."""
DAMPING = 1.0


class Trends:
    """Evidence by channel and item, made anew when records came: ~0.05 µs an item.

    ``values`` [channels, items]; ``best`` [≤ 3 · 40] the candidates for everyone, all different. 28 bytes an
    item.
    """

    def __init__(self) -> None:
        self.values: F32 = np.zeros((len(CHANNELS), 0), dtype=np.float32)
        self.best: I32 = np.zeros(0, dtype=np.int32)
        self._of = -1
        self._category: U64 = np.zeros(0, dtype=np.uint64)
        self._number: I64 = np.zeros(0, dtype=np.int64)

    def learn(self, hood: Neighborhood) -> None:
        """Bring it up to date."""
        hood.reserve()
        if self._of == hood.renewals:
            return
        self._of = hood.renewals
        n = len(hood.items)
        now, usual = (values.astype(np.float64) for values in hood.at_once(n))
        spread = np.sqrt(usual + DAMPING)
        rising = np.maximum(now - usual, 0) / spread
        season = np.maximum(hood.season[:n] - usual, 0) / spread
        self.values = np.array([rising, season, self._momentum(hood.category[:n], now, usual)], np.float32)
        self.best = np.unique(np.concatenate([self.top(hood, name, CANDIDATES)[0] for name in CHANNELS]))

    def _momentum(self, category: U64, now: NDArray[np.float64], usual: NDArray[np.float64]) -> F32:
        if not np.array_equal(category, self._category):
            self._category = category.copy()
            self._number = np.unique(category, return_inverse=True)[1]
        momentum = (np.bincount(self._number, now) + DAMPING) / (np.bincount(self._number, usual) + DAMPING)
        share = now / max(float(now.sum()), np.finfo(np.float64).tiny)
        return np.where(category > 0, share * momentum[self._number], 0).astype(np.float32)

    def top(self, hood: Neighborhood, channel: str, n: int) -> tuple[I32, F32]:
        """The ``n`` best items of a channel that may be shown, and their evidence; ties by ascending hash."""
        values = self.values[CHANNELS.index(channel)]
        shown = np.where(hood.column[: len(values)] > 0, values, np.float32(0))
        least = np.partition(shown, -n)[-n] if n < len(shown) else np.float32(0)
        reach = np.flatnonzero((shown >= least) & (shown > 0))
        best = reach[np.lexsort((hood.items.hashes[reach], -shown[reach]))[:n]].astype(np.int32)
        return best, shown[best]

    def rising_for(self, hood: Neighborhood, interest: Interest, met: I32, n: int) -> tuple[I32, F32]:
        """For one user the ``n`` items that rise most of the category he likes most, and their evidence.

        The category is that of the greatest sum of weights in his interest, ties by ascending hash; ``met``
        [m] are items that he has seen or bought. Nothing without a category. ~5 ns an item of the shop.
        """
        self.learn(hood)
        category = hood.category[interest.item]
        known, which = np.unique(category[category > 0], return_inverse=True)
        if not len(known):
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        liked = known[np.argmax(np.bincount(which, interest.weight[category > 0].astype(np.float64)))]
        values = np.where(hood.column[: self.values.shape[1]] > 0, self.values[0], np.float32(0))
        values[hood.category[: len(values)] != liked] = 0
        values[met[met < len(values)]] = 0
        some = np.flatnonzero(values)
        best = some[np.lexsort((hood.items.hashes[some], -values[some]))[:n]].astype(np.int32)
        return best, values[best]

    def of(self, items: I32) -> F32:
        """Evidence of items [J]: [channels, J]; 0 for what came since."""
        if not self.values.shape[1]:
            return np.zeros((len(CHANNELS), len(items)), dtype=np.float32)
        found: F32 = self.values.take(items, axis=1, mode="clip")
        found[:, items >= self.values.shape[1]] = 0
        return found


def entries(hood: Neighborhood, query: Query, trends: Trends) -> Entries:
    """The best of each channel, the same for each user; the evidence is that of `Trends.of`."""
    trends.learn(hood)
    item = trends.best[None].repeat(len(query), axis=0)
    return Entries(item, (None,) * len(CHANNELS), None)
