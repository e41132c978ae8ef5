"""Which of several coupons a user gets: the one with the greatest propensity × gain. Pure and deterministic.

The user's partition keeps what he bought (`Taste`), while a campaign with several offers runs, and tells with
each request how much of it each offer is good for. The ledger of the campaign, which knows how often each
offer was redeemed, weighs them. So a choice rests on what stands in the log, and a replay makes it again:

    own(u, o)    = Σ over u's purchases of o's items of 2^(−age / 365 d) / √(lines of the order)
    σ(u, o)      = logistic of `WEIGHTS` · (1, log(own + .01), log((used + ½) / (hoped + ½)), log offers)
    chance(u, o) = min(1, σ(u, o) · r(o)),  score = chance · gain
    r(o)         = (redeemed(o) + 2) / (Σ σ of o's grants + 2 / r),  r likewise over all offers, toward 1

``used`` are coupons that u redeemed, ``hoped`` the chances of those he was sent. r is the offer's redemption
rate by what σ expected, shrunk to the campaign's (Gamma-Poisson, as in `stream.core.propensity`): it is what
learns; what was given and cannot have been redeemed yet counts as not redeemed. `WEIGHTS` stay: they are the
logistic regression of `stream.core.propensity` with these features on Complete Journey's campaigns that were
over before 2017-08-01.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.items import item_hash

if TYPE_CHECKING:
    from stream.core.campaigns import Campaign
    from stream.core.engaged import Seen

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

WEIGHTS = (-1.38, 0.63, 1.08, -0.57)
HALF_LIFE_MS = 365 * 86_400_000
ITEMS = 512
"""Items that are kept of a user: those of the greatest decayed purchases."""
MICRO = 1_000_000
_LEAST, _USED, _REDEEMED = 0.01, 0.5, 2.0
_LANDMARK_MS = 946_684_800_000
_BOUGHT = np.dtype([("item", "<u8"), ("weight", "<f4")])


class Taste(msgspec.Struct, frozen=True, array_like=True):
    """What a user bought and redeemed: at most 6 kB.

    ``bought`` has by ascending item (u64 hash) its decayed purchases (f32), as of 2000-01-01 (forward decay:
    Cormode et al., ICDE 2009; no number grows beyond 2^100 before 2100). ``used`` counts redeemed coupons of
    several, ``hoped`` is the sum of the chances of those that were sent, in millionths.
    """

    bought: bytes = b""
    used: int = 0
    hoped: int = 0


NO_TASTE = Taste()


def tasted(taste: Taste, seen: Seen) -> Taste:
    """What a known user bought, after an event; only a purchase changes it. ~50 µs an order."""
    lines = seen.event.lines()
    if seen.type != "purchase" or seen.event.user is None or not lines:
        return taste
    known = np.frombuffer(taste.bought, dtype=_BOUGHT)
    weight = 2 ** ((seen.time - _LANDMARK_MS) / HALF_LIFE_MS) / sqrt(len(lines))
    hashes = np.array([item_hash(line.item) for line in lines], dtype=np.uint64)
    items, place = np.unique(np.concatenate((known["item"], hashes)), return_inverse=True)
    weights = np.concatenate((known["weight"].astype(np.float64), np.full(len(lines), weight)))
    summed = np.bincount(place.ravel(), weights)
    kept = np.sort(np.lexsort((items, -summed))[:ITEMS])
    bought = np.empty(len(kept), dtype=_BOUGHT)
    bought["item"], bought["weight"] = items[kept], summed[kept]
    return msgspec.structs.replace(taste, bought=bought.tobytes())


@dataclass(frozen=True, slots=True)
class Offers:
    """The offers of a campaign by item: ``names`` of offers, ``items`` [n] ascending hashes, ``of`` [n] the
    offer's place in ``names``; an item of two offers stands there twice."""

    names: tuple[str, ...]
    items: U64
    of: I64

    @classmethod
    def of_campaign(cls, campaign: Campaign) -> Offers | None:
        """None: it does not give one of several coupons. ~1 µs an item."""
        several = () if campaign.coupon is None else campaign.coupon.offers
        if not several:
            return None
        pairs = sorted({(item_hash(item), at) for at, each in enumerate(several) for item in each.items})
        items = np.array([item for item, _ in pairs], dtype=np.uint64)
        names = tuple(each.name for each in several)
        return cls(names, items, np.array([at for _, at in pairs], dtype=np.int64))

    def own(self, taste: Taste, time: int) -> dict[str, int]:
        """A user's decayed purchases of each offer's items, in millionths; offers of which he has none are
        left out. 20 to 150 µs."""
        bought = np.frombuffer(taste.bought, dtype=_BOUGHT)
        first = np.searchsorted(self.items, bought["item"], side="left")
        after = np.searchsorted(self.items, bought["item"], side="right")
        met = np.flatnonzero(after > first)
        at = np.concatenate(
            [np.arange(first[n], after[n]) for n in met.tolist()] or [np.zeros(0, dtype=np.int64)]
        )
        weight = np.repeat(bought["weight"].astype(np.float64)[met], (after - first)[met])
        summed = np.bincount(self.of[at], weight, minlength=len(self.names))
        now = summed * 2 ** ((_LANDMARK_MS - time) / HALF_LIFE_MS) * MICRO
        return {
            name: value
            for name, value in zip(self.names, np.rint(now).astype(int).tolist(), strict=True)
            if value
        }


class Known(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request tells of the user: ``own`` by offer, ``hoped`` in millionths (`Taste`)."""

    own: dict[str, int] = {}
    used: int = 0
    hoped: int = 0


class Weighed(msgspec.Struct, frozen=True, omit_defaults=True):
    """An offer as it was weighed: the user's own purchases, the chance that he redeems it, chance × gain, and
    why it was not to be had ("": it was)."""

    offer: str
    own: float
    chance: float
    score: float
    refused: str = ""


def expected(known: Known, offers: Sequence[str]) -> list[float]:
    """σ of each offer: what is to be expected of the user, without how the offer has done so far."""
    one, own, used, many = WEIGHTS
    usual = log((known.used + _USED) / (known.hoped / MICRO + _USED))
    rest = one + used * usual + many * log(len(offers))
    return [1 / (1 + exp(-(rest + own * log(known.own.get(name, 0) / MICRO + _LEAST)))) for name in offers]


def rates(counts: Iterable[tuple[int, int]]) -> list[float]:
    """r of each offer, from what was redeemed of it and what was expected, in millionths."""
    told = [(redeemed, hoped / MICRO) for redeemed, hoped in counts]
    usual = _rate(sum(redeemed for redeemed, _ in told), sum(hoped for _, hoped in told), 1.0)
    return [_rate(redeemed, hoped, usual) for redeemed, hoped in told]


def _rate(redeemed: int, hoped: float, toward: float) -> float:
    return (redeemed + _REDEEMED) / (hoped + _REDEEMED / toward)
