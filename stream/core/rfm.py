"""RFM: how recently, how often and for how much customers bought, kept per event; segments by rank. Pure.

Frequency and monetary are orders and money of the 52 weeks that end with the week of the customer's newest
order. So they change by his own events alone, never because time passes, and tell of those who left what they
were when they still came. Only events that name a user count; who is anonymous is nobody's customer.

Scores 1 to 5 compare customers: 5 is the best fifth. Ranks come from three histograms of exact counts
(`Ranks`), which merge by adding. A customer whose values change leaves his old buckets and enters new ones.
Recency is bucketed by the day of the last order, the others by a logarithm (DDSketch: Masson, Rim & Lee, VLDB
2019), so that whoever is ranked alike has less than 2.2 % more than the other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isqrt
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.items import item_hash

if TYPE_CHECKING:
    from stream.core.engaged import Seen, UserState
    from stream.events import Event

I64 = NDArray[np.int64]
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
WEEKS = 52
"""Weeks that frequency and monetary count, the one of the newest order included."""
ORDERS = 8
"""Newest orders that are kept one by one, so that a refund finds the one it is about."""
MOST_CENTS = 10**13
"""Cents of an order, so that sums fit into 64 bits."""
STEPS = 32
"""Buckets of the histograms between a value and its double."""

_FIFTHS = 5
_BITS = 52

GRID = (
    ("hibernating", "hibernating", "at-risk", "at-risk", "cannot-lose"),
    ("hibernating", "hibernating", "at-risk", "at-risk", "cannot-lose"),
    ("about-to-sleep", "about-to-sleep", "need-attention", "loyal", "loyal"),
    ("promising", "potential-loyalists", "potential-loyalists", "loyal", "loyal"),
    ("new", "potential-loyalists", "potential-loyalists", "champions", "champions"),
)
"""The segment by recency score (rows, 1 first) and worth (columns): the map that is common in practice, whose
columns are frequency alone. Worth is the mean of the scores of frequency and monetary, halves rounded up."""


def segment(recency: int, frequency: int, monetary: int) -> str:
    """The segment of three scores, each 1 to 5."""
    return GRID[recency - 1][(frequency + monetary + 1) // 2 - 1]


# One customer


class Order(msgspec.Struct, frozen=True, array_like=True, order=True):
    """An order that a refund may be about: when, the hash of its id (0: it has none), cents not refunded."""

    time: int
    id: int
    cents: int


class Week(msgspec.Struct, frozen=True, array_like=True):
    """Orders of a week (number since 1970) and their money in cents."""

    week: int
    orders: int
    cents: int


class Values(NamedTuple):
    """What ranks compare: day of the last order (since 1970), orders, cents."""

    day: int
    orders: int
    cents: int


class Rfm(msgspec.Struct, frozen=True, array_like=True):
    """What a customer bought: at most about 1 kB.

    ``end`` is the week of the newest order ever, refunded or not, ``last`` the time of the newest one that
    was not refunded (0: none); ``weeks`` and ``orders`` ascend.
    """

    last: int = 0
    end: int = 0
    weeks: tuple[Week, ...] = ()
    orders: tuple[Order, ...] = ()

    def values(self) -> Values | None:
        """None: no customer, or everything was refunded."""
        if not self.weeks:
            return None
        orders, cents = sum(each.orders for each in self.weeks), sum(each.cents for each in self.weeks)
        return Values(self.last // DAY_MS, orders, cents)


NOBODY = Rfm()
KINDS = frozenset({"purchase", "refund"})
ENDS = frozenset({"forget", "merged"})
"""Events after which a user begins anew; an anonymous user's ends where a known one takes it over."""


def after(rfm: Rfm, seen: Seen) -> Rfm:
    """What a customer bought after an event; the order in which late orders come changes nothing."""
    event = seen.event
    if seen.type not in KINDS or event.user is None:
        return rfm
    id_ = item_hash(event.order) if event.order is not None else 0
    cents = cents_of(event)
    if seen.type == "purchase":
        return _bought(rfm, Order(seen.time, id_, cents or 0))
    return _refunded(rfm, seen.time, id_, cents)


def cents_of(event: Event) -> int | None:
    """What an event is worth: what it says itself, else its lines; None: neither tells."""
    told = [line.price * line.quantity for line in event.lines() if line.price is not None]
    amount = sum(told) if event.value is None else event.value
    return min(round(amount * 100), MOST_CENTS) if told or event.value is not None else None


def _bought(rfm: Rfm, order: Order) -> Rfm:
    week = order.time // WEEK_MS
    end = max(rfm.end, week)
    weeks = _changed(rfm.weeks, week, 1, order.cents)
    return Rfm(
        last=max(rfm.last, order.time) if week > end - WEEKS else rfm.last,
        end=end,
        weeks=tuple(each for each in weeks if each.week > end - WEEKS),
        orders=tuple(sorted(o for o in (*rfm.orders, order) if o.time // WEEK_MS > end - WEEKS)[-ORDERS:]),
    )


def _refunded(rfm: Rfm, time: int, id_: int, cents: int | None) -> Rfm:
    """Money off the order that is named, else the newest before; nothing told, or all: the order goes."""
    found = next((o for o in reversed(rfm.orders) if o.time <= time and id_ in (0, o.id)), None)
    if found is None:
        return rfm
    whole = cents is None or cents >= found.cents
    taken = found.cents if cents is None else min(cents, found.cents)
    weeks = _changed(rfm.weeks, found.time // WEEK_MS, -whole, -taken)
    rest = [each for each in rfm.orders if each is not found]
    if not whole:
        rest.append(Order(found.time, found.id, found.cents - taken))
        return Rfm(rfm.last, rfm.end, weeks, tuple(sorted(rest)))
    older = weeks[-1].week * WEEK_MS if weeks else 0  # of orders that are not kept the week is known
    return Rfm(rest[-1].time if rest else older, rfm.end, weeks, tuple(rest))


def _changed(weeks: tuple[Week, ...], week: int, orders: int, cents: int) -> tuple[Week, ...]:
    by_week = {each.week: each for each in weeks}
    old = by_week.get(week, Week(week, 0, 0))
    by_week[week] = Week(week, old.orders + orders, old.cents + cents)
    return tuple(by_week[at] for at in sorted(by_week) if by_week[at].orders)


# All customers


def _roots() -> list[int]:
    """2^(j/STEPS) in fixed point, by whole square roots alone: the same on every machine."""
    found = []
    for j in range(STEPS):
        root = 1 << (j + _BITS * STEPS)
        for _ in range(STEPS.bit_length() - 1):
            root = isqrt(root)
        found.append(root)
    return found


_ROOTS = _roots()


@lru_cache(maxsize=65_536)
def bucket(value: int) -> int:
    """The bucket of a whole number: 0 for 0, else 1 + ⌊STEPS·log2(value)⌋."""
    if value <= 0:
        return 0
    exponent = value.bit_length() - 1
    mantissa = (value << _BITS) >> exponent
    return STEPS * exponent + bisect_right(_ROOTS, mantissa)


@dataclass(slots=True)
class Histogram:
    """How many customers are in each bucket. Adding, merging and taking away are exact."""

    counts: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Customers."""
        return sum(self.counts.values())

    def add(self, number: int, by: int = 1) -> None:
        """Let customers enter a bucket, or leave it."""
        now = self.counts.get(number, 0) + by
        if now:
            self.counts[number] = now
        else:
            self.counts.pop(number, None)

    def merge(self, other: Histogram) -> None:
        """Take another's customers in."""
        for number, by in other.counts.items():
            self.add(number, by)


class Scores(NamedTuple):
    """Scores 1 to 5."""

    recency: int
    frequency: int
    monetary: int

    @property
    def segment(self) -> str:
        """The segment they mean."""
        return segment(*self)


_NAMES = "rfm"
Shift = tuple[Values | None, Values | None]
"""A customer's values before and after; None: he was, or is, none."""


@dataclass(slots=True)
class Ranks:
    """The customers of a partition, or of several: histograms of day of last order, orders and cents."""

    parts: tuple[Histogram, Histogram, Histogram] = field(
        default_factory=lambda: (Histogram(), Histogram(), Histogram())
    )

    @classmethod
    def of(cls, stored: Mapping[str, bytes]) -> Ranks:
        """From the fields of the store (`moved`)."""
        made = cls()
        for name, count in stored.items():
            made.parts[_NAMES.index(name[0])].add(int(name[1:]), int(count))
        return made

    def merge(self, other: Ranks) -> None:
        """Take another partition's customers in."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)

    def move(self, shifts: Iterable[Shift]) -> None:
        """Let customers change their buckets."""
        for part, number, by in moves(shifts):
            self.parts[part].add(number, by)

    def moved(self, shifts: Iterable[Shift]) -> dict[str, int]:
        """The new counts of all fields that would change, as they are stored; 0: none any more."""
        found: dict[str, int] = {}
        for part, number, by in moves(shifts):
            name = f"{_NAMES[part]}{number}"
            found[name] = found.get(name, self.parts[part].counts.get(number, 0)) + by
        return found


def buckets(values: Values) -> tuple[int, int, int]:
    """A customer's bucket in each histogram."""
    return values.day, bucket(values.orders), bucket(values.cents)


def moves(shifts: Iterable[Shift]) -> Iterator[tuple[int, int, int]]:
    """Histogram, bucket, and by how many it changes."""
    for old, new in shifts:
        for values, by in ((old, -1), (new, 1)):
            if values is not None:
                yield from ((part, at, by) for part, at in enumerate(buckets(values)))


class Judge:
    """Scores customers by ``ranks`` as they are after any event of a batch.

    ``states`` are the users before the batch, ``seen`` their events in order. Nothing is computed before
    the first question; then 20 µs a question, and 5 µs for each order of the batch.
    """

    def __init__(
        self,
        ranks: Ranks,
        states: Mapping[str, UserState] | None = None,
        seen: Mapping[str, Sequence[Seen]] | None = None,
    ) -> None:
        self._ranks, self._states, self._seen = ranks, states or {}, seen or {}
        self._parts: list[_Part] = []

    def scores(self, values: Values, at: int = -1) -> Scores:
        """Scores of a customer after event number ``at``; who is equal has the same score.

        Frequency and monetary: 1 plus the fifths of customers that lie wholly below, since many bought once.
        Recency: 5 less the fifths that lie wholly above, since many bought today.
        """
        if not self._parts:
            moved = np.array([*self._moves()], dtype=np.int64).reshape(-1, 4)
            self._parts = [
                _Part.of(histogram, moved[moved[:, 1] == part])
                for part, histogram in enumerate(self._ranks.parts)
            ]
        day, orders, cents = buckets(values)
        recency, frequency, monetary = self._parts
        return Scores(
            _FIFTHS - recency.fifths_above(day, at),
            1 + frequency.fifths_below(orders, at),
            1 + monetary.fifths_below(cents, at),
        )

    def _moves(self) -> Iterator[tuple[int, int, int, int]]:
        """Event, histogram, bucket, and by how many it changes."""
        for user, events in self._seen.items():
            state = self._states.get(user)
            rfm = NOBODY if state is None else state.rfm
            for each in events:
                new = NOBODY if each.type in ENDS else after(rfm, each)
                if new is not rfm:
                    yield from ((each.at, *move) for move in moves([(rfm.values(), new.values())]))
                rfm = new


@dataclass(frozen=True, slots=True)
class _Part:
    """A histogram before a batch, buckets ascending with the customers below each, and its changes [M]."""

    numbers: I64
    below: I64
    moved: I64
    """Event, histogram, bucket, by how many."""

    @classmethod
    def of(cls, histogram: Histogram, moved: I64) -> _Part:
        numbers = np.array(sorted(histogram.counts), dtype=np.int64)
        counts = [histogram.counts[at] for at in numbers.tolist()]
        return cls(numbers, np.cumsum([0, *counts]), moved)

    def fifths_below(self, number: int, at: int) -> int:
        """Fifths of the customers that lie wholly in lower buckets, 0 to 4."""
        below, total = self._below(number, at)
        return min(_FIFTHS * below // max(total, 1), _FIFTHS - 1)

    def fifths_above(self, number: int, at: int) -> int:
        """Fifths that lie wholly in higher buckets, 0 to 4."""
        below, total = self._below(number + 1, at)
        return min(_FIFTHS * (total - below) // max(total, 1), _FIFTHS - 1)

    def _below(self, number: int, at: int) -> tuple[int, int]:
        """Customers in lower buckets, and all, after an event."""
        moved = self.moved[self.moved[:, 0] <= at]
        below = int(self.below[np.searchsorted(self.numbers, number)])
        below += int(moved[moved[:, 2] < number, 3].sum())
        return below, int(self.below[-1]) + int(moved[:, 3].sum())
