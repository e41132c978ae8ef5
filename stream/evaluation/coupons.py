"""Coupons of Complete Journey: which of the coupons that a household was sent will it redeem?

Candidates are all coupons of the campaigns a household was targeted in; features come strictly from before
the campaign begins; tested on campaigns that begin from 2017-08-01. Campaigns are gone through in order of
their begin, as live: `stream.core.propensity` scores each before it begins, and learns from it when its last
day is over.
Measures: area under the ROC curve (ties count half) and average precision (ties as one block).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

from producers.datasets.complete_journey import DAY_MS, CompleteJourney
from stream.core.propensity import Evidence, Propensity, alike, features
from stream.evaluation.measures import Measure

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

TEST_MS = 1_501_545_600_000
"""2017-08-01."""
_HALF_LIFE_MS = 365 * DAY_MS
_LEAST_HISTORY_MS = 28 * DAY_MS
_RESAMPLES = 50
_CODES = 1 << 40
"""More than any upc."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Households and coupons, a score and whether it was redeemed, [n] each."""

    household: I64
    score: F64
    redeemed: Bool


def coupons() -> dict[str, Measure]:
    """AUC and average precision with 95 % intervals by bootstrap over households. Ten seconds."""
    found = pairs(CompleteJourney(), TEST_MS)
    value = np.array([auc(found.score, found.redeemed), average_precision(found.score, found.redeemed)])
    drawn = np.array([resampled(found, seed) for seed in range(_RESAMPLES)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {name: Measure(*map(float, (value[n], low[n], high[n]))) for n, name in enumerate(("auc", "ap"))}


def pairs(source: CompleteJourney, from_ms: int, until_ms: int | None = None) -> Pairs:
    """All candidates of the campaigns that begin from one moment until another, with their scores."""
    journey, model = Journey(source), Propensity()
    starts, ends = journey.coupons.start_ms, journey.coupons.end_ms
    scored, waiting = list[Pairs](), dict[int, _Campaign]()
    for at in journey.campaigns():
        if until_ms is not None and starts[at] >= until_ms:
            break
        for over in [other for other in waiting if ends[other] <= starts[at]]:
            taught = waiting.pop(over)
            model.learn(taught.features, taught.redeemed)
        found = waiting[at] = journey.campaign(at)
        if starts[at] >= from_ms:
            scored.append(Pairs(found.household, model.score(found.features), found.redeemed))
    return Pairs(*(np.concatenate([getattr(part, name) for part in scored]) for name in Pairs.__slots__))


@dataclass(frozen=True, slots=True)
class _Campaign:
    """All pairs of a campaign, [n] each: known before it begins, but for what was redeemed."""

    household: I64
    features: F64
    redeemed: Bool


class Journey:
    """The data by number of household, product and coupon; a coupon is one code (upc) of one campaign."""

    def __init__(self, source: CompleteJourney) -> None:
        self.coupons = told = source.coupons()
        self.household, basket, product, self.time_ms = source.baskets()
        self.households = int(max(self.household.max(), told.sent_household.max())) + 1
        self.products, number = np.unique(np.concatenate((product, told.product)), return_inverse=True)
        self.product = number[: len(product)]
        self.types = _types(self.products, *source.types())
        _, first, which, sizes = np.unique(basket, return_index=True, return_inverse=True, return_counts=True)
        self.weight = 1 / np.sqrt(sizes[which])
        self.reduced = source.reduced()
        self.basket_household, self.basket_ms = self.household[first], self.time_ms[first]
        self.with_coupon = np.bincount(which, source.with_coupon()) > 0
        codes, self.coupon = np.unique(_code(told.campaign, told.upc), return_inverse=True)
        self.campaign_of, self.upc = np.divmod(codes, _CODES)
        self.redeemed_coupon = np.searchsorted(codes, _code(told.redeemed_campaign, told.redeemed_upc))
        cell = np.unique(self.coupon * len(self.products) + number[len(product) :])
        self.covers = _ones(*np.divmod(cell, len(self.products)), (len(codes), len(self.products)))

    def campaigns(self) -> list[int]:
        """Those with four weeks of baskets before them, in order of their begin."""
        starts = self.coupons.start_ms
        order = np.argsort(starts, kind="stable")
        return [int(at) for at in order if starts[at] >= self.time_ms[0] + _LEAST_HISTORY_MS]

    def campaign(self, at: int) -> _Campaign:
        """Each household that was sent it with each of its coupons."""
        told, of = self.coupons, np.flatnonzero(self.campaign_of == at)
        households = np.unique(told.sent_household[told.sent_campaign == at])
        known = self.evidence(households, of, int(told.start_ms[at]))
        pair = households[:, None] * len(self.campaign_of) + of
        redeemed = np.isin(pair, told.redeemed_household * len(self.campaign_of) + self.redeemed_coupon)
        return _Campaign(np.repeat(households, len(of)), features(known), redeemed.ravel())

    def evidence(self, households: I64, of: I64, time_ms: int) -> Evidence:
        """What is known before a moment of households [h] and coupons [c]: [h × c], row by row."""
        covers, before = self.covers[of], self.time_ms < time_ms
        own = self.purchases(before, time_ms)[households]
        reduced = self.purchases(before & self.reduced, time_ms)[households]
        visits, baskets, with_coupon = self.baskets(time_ms)
        redeemed, expected = self.redemptions(time_ms)
        alike_redeemed, alike_expected = alike(covers, *self.earlier(time_ms))

        def tall(by_household: F64) -> F64:
            return np.repeat(by_household[households], len(of))

        return Evidence(
            own=(own @ covers.T).toarray().ravel(),
            reduced=(reduced @ covers.T).toarray().ravel(),
            of_type=_held((own @ self.types) @ (covers @ self.types).T).toarray().ravel(),
            again=self.again(households, of, time_ms),
            visits=tall(visits),
            baskets=tall(baskets),
            with_coupon=tall(with_coupon),
            usual_use=with_coupon.sum() / max(baskets.sum(), 1),
            redeemed=tall(redeemed),
            expected=tall(expected),
            coupons=np.asarray(float(len(of))),
            alike_redeemed=np.tile(alike_redeemed, len(households)),
            alike_expected=np.tile(alike_expected, len(households)),
        )

    def purchases(self, lines: Bool, time_ms: int) -> sparse.csr_array:
        """Lines decayed until a moment: [households, products]."""
        decayed = self.weight[lines] * np.exp2((self.time_ms[lines] - time_ms) / _HALF_LIFE_MS)
        shape = (self.households, len(self.products))
        return sparse.csr_array((decayed, (self.household[lines], self.product[lines])), shape=shape)

    def again(self, households: I64, of: I64, time_ms: int) -> F64:
        """1 where a household redeemed a coupon of the same code before a moment."""
        told = self.coupons
        before = told.redeemed_ms < time_ms
        had = _code(told.redeemed_household[before], told.redeemed_upc[before])
        again: F64 = np.isin(_code(households[:, None], self.upc[of]).ravel(), had).astype(np.float64)
        return again

    def baskets(self, time_ms: int) -> tuple[F64, F64, F64]:
        """Baskets before a moment by household: decayed, all, and those with a coupon."""
        before = self.basket_ms < time_ms
        decayed = np.exp2((self.basket_ms[before] - time_ms) / _HALF_LIFE_MS)
        of, used = self.basket_household[before], self.basket_household[before & self.with_coupon]
        visits = np.bincount(of, decayed, minlength=self.households)
        return visits.astype(np.float64), self._counted(of), self._counted(used)

    def redemptions(self, time_ms: int) -> tuple[F64, F64]:
        """Redemptions before a moment, and how many those sent the same had, by household."""
        told = self.coupons
        before = told.redeemed_ms < time_ms
        mean = self._mean(told.sent_campaign, time_ms)
        sent = told.start_ms[told.sent_campaign] < time_ms
        usual = np.bincount(
            told.sent_household[sent], mean[told.sent_campaign[sent]], minlength=self.households
        )
        return self._counted(told.redeemed_household[before]), usual.astype(np.float64)

    def earlier(self, time_ms: int) -> tuple[sparse.csr_array, F64, F64]:
        """Coupons of campaigns begun before: what they cover, redemptions, the mean of their campaign."""
        told = self.coupons
        begun = np.flatnonzero(told.start_ms[self.campaign_of] < time_ms)
        before = self.redeemed_coupon[told.redeemed_ms < time_ms]
        redeemed = np.bincount(before, minlength=len(self.campaign_of)).astype(np.float64)
        mean = self._mean(self.campaign_of, time_ms)
        return self.covers[begun], redeemed[begun], mean[self.campaign_of[begun]]

    def _mean(self, among: I64, time_ms: int) -> F64:
        """Redemptions before a moment, of each campaign, by how often it is among ``among``."""
        told = self.coupons
        before, campaigns = told.redeemed_ms < time_ms, len(told.start_ms)
        redeemed = np.bincount(told.redeemed_campaign[before], minlength=campaigns)
        mean: F64 = redeemed / np.maximum(np.bincount(among, minlength=campaigns), 1)
        return mean

    def _counted(self, households: I64) -> F64:
        return np.bincount(households, minlength=self.households).astype(np.float64)


def _code(of: I64, upc: I64) -> I64:
    """A campaign or a household with a code of a coupon."""
    return of * _CODES + upc


def _types(products: I64, known: I64, kind: I64) -> sparse.csr_array:
    """Products' types: [products, types]; some have none."""
    place = np.minimum(np.searchsorted(known, products), len(known) - 1)
    held = np.flatnonzero(known[place] == products)
    return _ones(held, kind[place[held]], (len(products), int(kind.max()) + 1))


def _ones(row: I64, column: I64, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)


def _held(counts: sparse.csr_array) -> sparse.csr_array:
    """1 where there is anything."""
    held: sparse.csr_array = (counts > 0).astype(np.float64)
    return held


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


def resampled(found: Pairs, seed: int) -> tuple[float, float]:
    """AUC and average precision with households drawn anew."""
    households, which = np.unique(found.household, return_inverse=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(households), np.full(len(households), 1 / len(households)))[which]
    at = np.repeat(np.arange(len(which)), times)
    score, redeemed = found.score[at], found.redeemed[at]
    return auc(score, redeemed), average_precision(score, redeemed)
