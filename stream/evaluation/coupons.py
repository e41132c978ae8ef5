"""Coupons of Complete Journey: which of the coupons that a household was sent will it redeem?

Candidates are all coupons of the campaigns a household was targeted in; features come strictly from before
the campaign begins; tested on campaigns that begin from 2017-08-01. The score needs no fitting:

    s(h, c) = Σ_{p of c} w(h, p) · (0.02 + redemptions of h so far / campaigns of h so far)

with w the decayed purchases of the household (half-life 90 days, each basket counting 1/√size of a purchase),
as its interest counts them. Measures: area under the ROC curve (ties count half) and average precision (ties
as one block).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

from producers.datasets.complete_journey import CompleteJourney, Coupons
from stream.evaluation.measures import Measure

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

TEST_MS = 1_501_545_600_000
"""2017-08-01."""
_DAY_MS = 86_400_000
_HALF_LIFE_MS = 90 * _DAY_MS
_LEAST_HISTORY_MS = 28 * _DAY_MS
_SMALL = 0.02
_RESAMPLES = 50


@dataclass(frozen=True, slots=True)
class Pairs:
    """Households and coupons, a score and whether it was redeemed, [n] each."""

    household: I64
    score: F64
    redeemed: Bool


def coupons() -> dict[str, Measure]:
    """AUC and average precision with 95 % intervals by bootstrap over households. About a minute."""
    found = pairs()
    value = np.array([auc(found.score, found.redeemed), average_precision(found.score, found.redeemed)])
    drawn = np.array([_resampled(found, seed) for seed in range(_RESAMPLES)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {name: Measure(*map(float, (value[n], low[n], high[n]))) for n, name in enumerate(("auc", "ap"))}


def pairs() -> Pairs:
    """All candidates of the test campaigns with their scores."""
    source = CompleteJourney()
    bought, coupons = _Purchases(*source.baskets()), source.coupons()
    begin = max(TEST_MS, int(bought.time_ms[0]) + _LEAST_HISTORY_MS)
    parts = [_campaign(bought, coupons, at) for at in np.flatnonzero(coupons.start_ms >= begin).tolist()]
    return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in Pairs.__slots__))


class _Purchases:
    """Lines with their weights; products by number."""

    def __init__(self, household: I64, basket: I64, product: I64, time_ms: I64) -> None:
        _, which, sizes = np.unique(basket, return_inverse=True, return_counts=True)
        self.household, self.time_ms = household, time_ms
        self.products, self.product = np.unique(product, return_inverse=True)
        self.weight = 1 / np.sqrt(sizes[which])

    def as_of(self, time_ms: int) -> sparse.csr_array:
        """Decayed purchases before a moment: [households, products]."""
        before = self.time_ms < time_ms
        decayed = self.weight[before] * np.exp2((self.time_ms[before] - time_ms) / _HALF_LIFE_MS)
        shape = (int(self.household.max()) + 1, len(self.products))
        return sparse.csr_array((decayed, (self.household[before], self.product[before])), shape=shape)


def _campaign(bought: _Purchases, coupons: Coupons, at: int) -> Pairs:
    """The pairs of one campaign: each household that was sent it with each of its coupons."""
    start = int(coupons.start_ms[at])
    households = np.unique(coupons.sent_household[coupons.sent_campaign == at])
    mine = coupons.campaign == at
    upcs, coupon = np.unique(coupons.upc[mine], return_inverse=True)
    product = np.searchsorted(bought.products, coupons.product[mine])
    product = np.minimum(product, len(bought.products) - 1)
    known = bought.products[product] == coupons.product[mine]
    shape = (len(bought.products), len(upcs))
    cell = np.unique(product[known] * len(upcs) + coupon[known])
    covers = sparse.csr_array((np.ones(len(cell)), np.divmod(cell, len(upcs))), shape=shape)
    own = bought.as_of(start)[np.minimum(households, bought.household.max())]
    score = (own @ covers).toarray() * (_SMALL + _rate(coupons, households, start))[:, None]
    of, which = coupons.redeemed_household, coupons.redeemed_campaign == at
    hit = np.isin(
        households[:, None] * np.int64(1 << 40) + upcs,
        of[which] * np.int64(1 << 40) + coupons.redeemed_upc[which],
    )
    return Pairs(np.repeat(households, len(upcs)), score.ravel(), hit.ravel())


def _rate(coupons: Coupons, households: I64, start_ms: int) -> F64:
    """Redemptions of households [h] before a moment, by campaigns they were sent before it."""
    redeemed = coupons.redeemed_household[coupons.redeemed_ms < start_ms]
    sent = coupons.sent_household[coupons.start_ms[coupons.sent_campaign] < start_ms]
    most = int(max(households.max(), redeemed.max(initial=0), sent.max(initial=0))) + 1
    count, of = np.bincount(redeemed, minlength=most), np.bincount(sent, minlength=most)
    rate: F64 = count[households] / np.maximum(of[households], 1)
    return rate


def auc(score: F64, positive: Bool) -> float:
    """Probability that a positive scores above a negative; ties count half (Mann-Whitney)."""
    n = int(np.count_nonzero(positive))
    ranks = rankdata(score)[positive].sum()
    return float((ranks - n * (n + 1) / 2) / max(n * (len(score) - n), 1))


def average_precision(score: F64, positive: Bool) -> float:
    """Mean precision at the positives by falling score; those of equal score count as one block."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(positive[order])[ends]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (ends + 1)).sum() / max(int(hits[-1]), 1))


def _resampled(found: Pairs, seed: int) -> tuple[float, float]:
    households, which = np.unique(found.household, return_inverse=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(households), np.full(len(households), 1 / len(households)))[which]
    at = np.repeat(np.arange(len(which)), times)
    score, redeemed = found.score[at], found.redeemed[at]
    return auc(score, redeemed), average_precision(score, redeemed)
