"""Coupons of Complete Journey, ranked as a live campaign weighs several offers: ``python -m
stream.evaluation.live_coupons``.

Protocol and measures are those of `stream.evaluation.coupons`; what ranks is `stream.core.choice`, the same
code that runs live: what engagement keeps of each household's purchases, in order of time, and the chances of
the coupons that it was sent before. No rate of an offer is known, as each campaign has a ledger of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from producers.datasets.complete_journey import CompleteJourney
from stream.core.choice import MICRO, NO_TASTE, Known, Offers, Taste, expected, tasted
from stream.core.engaged import Seen
from stream.core.items import item_hash
from stream.core.propensity import best
from stream.evaluation.coupons import TEST_MS, Journey, Pairs, auc, average_precision, resampled
from stream.events import Event, Line

I64 = NDArray[np.int64]


def pairs(source: CompleteJourney, from_ms: int) -> tuple[Pairs, I64]:
    """All candidates of the campaigns that begin from a moment on with their chances, and the campaign of
    each [n]. ~15 s for the year."""
    journey, households = Journey(source), _Households(source)
    told, found, campaigns = journey.coupons, list[Pairs](), list[I64]()
    for at in journey.campaigns():
        start = int(told.start_ms[at])
        households.come_to(start)
        of = np.flatnonzero(journey.campaign_of == at)
        offers = _offers(journey, of)
        sent = np.unique(told.sent_household[told.sent_campaign == at])
        chances = np.array([households.chances(each, offers, start) for each in sent.tolist()])
        households.hope(sent, chances)
        if start >= from_ms:
            coupon = sent[:, None] * len(journey.campaign_of) + of
            redeemed = told.redeemed_household * len(journey.campaign_of) + journey.redeemed_coupon
            had = np.isin(coupon, redeemed).ravel()
            found.append(Pairs(np.repeat(sent, len(of)), chances.ravel(), had))
            campaigns.append(np.full(len(had), at))
    columns = (np.concatenate([getattr(part, name) for part in found]) for name in Pairs.__slots__)
    return Pairs(*columns), np.concatenate(campaigns)


def _offers(journey: Journey, of: I64) -> Offers:
    """A campaign's coupons [c] as its offers."""
    place, product = journey.covers[of].nonzero()
    items = np.array([item_hash(str(each)) for each in journey.products[product].tolist()], dtype=np.uint64)
    order = np.argsort(items, kind="stable")
    names = tuple(str(each) for each in journey.upc[of].tolist())
    return Offers(names, items[order], place.astype(np.int64)[order])


class _Households:
    """What is known of households as time passes."""

    def __init__(self, source: CompleteJourney) -> None:
        told = source.coupons()
        self.tastes, self.used, self.hoped = dict[int, Taste](), Counter[int](), Counter[int]()
        self._orders = _orders(source)
        self._next = next(self._orders, None)
        self._redeemed = sorted(zip(told.redeemed_ms.tolist(), told.redeemed_household.tolist(), strict=True))

    def come_to(self, time: int) -> None:
        """Everything before a moment happens."""
        while self._next is not None and self._next[1].time < time:
            household, seen = self._next
            self.tastes[household] = tasted(self.tastes.get(household, NO_TASTE), seen)
            self._next = next(self._orders, None)
        while self._redeemed and self._redeemed[0][0] < time:
            self.used[self._redeemed.pop(0)[1]] += 1

    def chances(self, household: int, offers: Offers, time: int) -> list[float]:
        """Of each offer [c]."""
        own = offers.own(self.tastes.get(household, NO_TASTE), time)
        return expected(Known(own, self.used[household], self.hoped[household]), offers.names)

    def hope(self, sent: I64, chances: NDArray[np.float64]) -> None:
        """Households were sent all coupons of a campaign."""
        for household, chance in zip(sent.tolist(), chances.sum(axis=1).tolist(), strict=True):
            self.hoped[household] += round(chance * MICRO)


def _orders(source: CompleteJourney) -> Iterator[tuple[int, Seen]]:
    """Household and purchase of each basket, in order of time."""
    household, basket, product, time = source.baskets()
    starts = np.flatnonzero(np.diff(basket, prepend=basket[0] - 1))
    for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(basket)], strict=True):
        lines = [Line(str(each)) for each in product[begin:end].tolist()]
        event = Event(type="purchase", time="", user=str(household[begin]), items=lines)
        at = int(time[begin])
        yield int(household[begin]), Seen(0, at, at, event.type, event)


def main() -> None:
    """Print the measures."""
    found, campaign = pairs(CompleteJourney(), TEST_MS)
    low, high = np.quantile([resampled(found, seed) for seed in range(50)], [0.025, 0.975], axis=0)
    for n, (name, measure) in enumerate((("auc", auc), ("ap", average_precision))):
        print(f"{name} {measure(found.score, found.redeemed):.4f} ({low[n]:.4f} to {high[n]:.4f})")
    chooser = campaign * (int(found.household.max()) + 1) + found.household
    first = int(found.redeemed[best(chooser, found.score)].sum())
    print(f"first {first} of {len(np.unique(chooser[found.redeemed]))}")
    print(f"expected {found.score.sum():.0f}, redeemed {int(found.redeemed.sum())}")


if __name__ == "__main__":
    main()
