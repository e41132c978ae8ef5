"""Lift: what messages add, by comparing users who may get them with those held out. Pure.

One holdout for all lists and nudges (`stream.core.guards.bucket`, a hash of user and salt) is the coin toss
of an experiment that always runs. Users are compared **by intention to treat**, as they were drawn:

* A user enters with his first *eligible* decision: one that came as far as the guard `holdout`. What objects
  before it (`expired`, `identified`, `consent`, `audience`) objects to both groups alike; what was
  cancelled met no guard, and what is revoked was sent before.
* Of the **holdout** is whose first eligible decision was suppressed by `holdout`; **treated** is everybody
  else: sent, held, or suppressed by a later guard (the trigger's own condition, priority, cap, quiet hours,
  budget). Those who got no message stay in: nobody knows who of the holdout would have got none either.
* He counts once, with what he buys within the window after that decision, (time, time + window]. He
  **converted** if he bought at all; who bought nothing counts with revenue 0. Refunds are not taken off.

By campaign, a user enters with his first eligible decision of the campaign; in all, with his first of any
that holds somebody out: campaigns do not add up, since a user may be in several. Campaigns may hold out
different shares; the smaller one's users are among the greater one's. In all, the holdout is the least share:
whom all of these campaigns leave alone. There the groups differ by the coin alone. By campaign they may
differ by what *other* campaigns did before: whom one made buy leaves no cart behind.

Sums are integers (cents), so they are exact in any order. Intervals are of 95 %, at one look: who looks daily
and stops when he likes what he sees errs more often.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

from scipy.special import bdtr, bdtrc, chdtrc, stdtrit

from stream.core.guards import BUCKETS, DAY_MS, GUARDS, holdout
from stream.core.sequential import Estimate

ALL = ""
"""The name under which `tallies` and `lift_of` have all campaigns together."""
SPLIT_ALARM = 0.001
"""A split less probable than this is broken."""
FEW = 10
"""With fewer users expected in a group, the chi-square distribution is too far from the binomial one."""
_BEFORE = frozenset(guard.__name__ for guard in GUARDS[: GUARDS.index(holdout)])
_PASSED = frozenset(["sent", "held"])
_Z = NormalDist().inv_cdf(0.975)
_Z_POWER = NormalDist().inv_cdf(0.8)

Entry = tuple[int, bool]
"""When a user entered (ms), and whether he is held out."""


class Terms(NamedTuple):
    """How a campaign is measured: attribution window in ms; held-out buckets of `guards.BUCKETS`."""

    window_ms: int
    holdout: int

    @property
    def share(self) -> float:
        """Of users who are held out, 0 to 1."""
        return self.holdout / BUCKETS


class Purchase(NamedTuple):
    """A purchase: its event time in ms, its user, its revenue in cents (0 when no event told one)."""

    time: int
    user: str
    cents: int


# Sums


@dataclass(slots=True)
class Tally:
    """Exact sums over the users of a group; revenue in cents, ``squares`` of each user's revenue."""

    users: int = 0
    converters: int = 0
    revenue: int = 0
    squares: int = 0

    def add(self, bought: Iterable[int]) -> None:
        """Count a user, by the cents of each of his purchases within the window; none: he did not convert."""
        each = tuple(bought)
        cents = sum(each)
        self.merge(Tally(1, int(bool(each)), cents, cents * cents))

    def merge(self, other: Tally) -> None:
        """Add the sums of other users."""
        self.users += other.users
        self.converters += other.converters
        self.revenue += other.revenue
        self.squares += other.squares

    @property
    def mean(self) -> float:
        """Revenue a user, in cents; 0 without users."""
        return self.revenue / self.users if self.users else 0.0

    @property
    def variance(self) -> float:
        """Unbiased variance of the users' revenue, in cents²; 0 with fewer than two users. One rounding."""
        n = self.users
        return (n * self.squares - self.revenue**2) / (n * (n - 1)) if n > 1 else 0.0


@dataclass(slots=True)
class Groups:
    """The sums of both groups."""

    treated: Tally = field(default_factory=Tally)
    holdout: Tally = field(default_factory=Tally)


def held_out(decision: Mapping[str, Any]) -> bool | None:
    """Whether a decision (JSON of topic `decisions`) puts its user into the holdout; None: not eligible."""
    outcome, reason = decision["outcome"], decision["reason"]
    if outcome == "suppressed":
        return None if reason in _BEFORE else bool(reason == holdout.__name__)
    return False if outcome in _PASSED else None


def tallies(
    decisions: Iterable[Mapping[str, Any]],
    purchases: Iterable[Purchase],
    terms: Mapping[str, Terms],
) -> dict[str, Groups]:
    """The sums by campaign, and of all together under `ALL`. At most ~8 µs a decision.

    ``terms`` by campaign; decisions of others are passed over. Both in any order; decisions told twice
    change nothing, purchases told twice count twice. Windows still open count with what they have so far, in
    both groups alike; to leave them out, leave out their decisions.
    """
    entered = _entries(decisions, terms)
    bought = _bought(purchases, set().union(*entered.values()))
    found: dict[str, Groups] = {}
    for name, users in sorted(entered.items()):
        groups, window = found.setdefault(name, Groups()), _terms(terms)[name].window_ms
        for user, (time, held) in users.items():
            tally = groups.holdout if held else groups.treated
            tally.add(cents for when, cents in bought.get(user, ()) if time < when <= time + window)
    return found


def _terms(terms: Mapping[str, Terms]) -> dict[str, Terms]:
    """With those of `ALL`: the longest window, and the least share of those that hold anybody out."""
    window = max((each.window_ms for each in terms.values()), default=0)
    least = min((each.holdout for each in terms.values() if each.holdout), default=0)
    return {**terms, ALL: Terms(window, least)}


def _entries(
    decisions: Iterable[Mapping[str, Any]], terms: Mapping[str, Terms]
) -> dict[str, dict[str, Entry]]:
    """The users of each campaign, and of all, with their first eligible decision."""
    found: dict[str, dict[str, Entry]] = {}
    least = _terms(terms)[ALL].holdout
    for decision in decisions:
        name, held = decision["campaign"], held_out(decision)
        if held is None or name not in terms:
            continue
        _enter(found, name, decision, held)
        if terms[name].holdout or not least:
            _enter(found, ALL, decision, held and decision["counters"]["bucket"] < least)
    return found


def _enter(found: dict[str, dict[str, Entry]], name: str, decision: Mapping[str, Any], held: bool) -> None:
    users, user, entry = found.setdefault(name, {}), decision["user"], (decision["time"], held)
    users[user] = min(entry, users.get(user, entry))


def _bought(purchases: Iterable[Purchase], users: Container[str]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for time, user, cents in purchases:
        if user in users:
            found.setdefault(user, []).append((time, cents))
    return found


# What they say


@dataclass(frozen=True, slots=True)
class Group:
    """A group as people read it: revenue in the shop's currency, the conversion rate with its interval."""

    users: int
    converters: int
    revenue: float
    conversion: Estimate


@dataclass(frozen=True, slots=True)
class Lift:
    """What the messages of a campaign, or of all, add. Ends are ±inf where the data cannot tell yet.

    ``difference`` is of conversion rates, treated less holdout; ``relative`` the same as a share of the
    holdout's rate (None: nobody of it converted). ``per_user`` is incremental revenue a treated user and
    ``in_total`` that times the treated users, both in the shop's currency. ``detectable``: a true difference
    of this size would be found about 80 times of 100 (None: unknown). ``split_p`` is the probability of a
    split at least so far from the configured one; below `SPLIT_ALARM` ``broken``: do not trust the rest.
    """

    treated: Group
    holdout: Group
    difference: Estimate
    relative: float | None
    per_user: Estimate
    in_total: Estimate
    detectable: float | None
    split_p: float
    broken: bool
    sentence: str


def lift_of(
    decisions: Iterable[Mapping[str, Any]], purchases: Iterable[Purchase], terms: Mapping[str, Terms]
) -> dict[str, Lift]:
    """Lift by campaign, and of all together under `ALL`; see `tallies`.

    Shares and salt must have been the same at all decisions given. Raises ValueError as `lift` does.
    """
    of = _terms(terms)
    return {name: lift(groups, of[name]) for name, groups in tallies(decisions, purchases, terms).items()}


def lift(groups: Groups, terms: Terms) -> Lift:
    """What a campaign's sums say. ~0.1 ms.

    Raises ValueError when the share is not one, or sums have more converters than users.
    """
    treated, held = _group(groups.treated), _group(groups.holdout)
    rate = held.conversion.value
    difference = newcombe(treated.converters, treated.users, held.converters, held.users)
    per_user = _times(welch(groups.treated, groups.holdout), 0.01)
    split_p = split(treated.users, held.users, terms.share)
    found = Lift(
        treated=treated,
        holdout=held,
        difference=difference,
        relative=difference.value / rate if rate else None,
        per_user=per_user,
        in_total=_times(per_user, treated.users),
        detectable=detectable(treated.converters + held.converters, treated.users, held.users),
        split_p=split_p,
        broken=split_p < SPLIT_ALARM,
        sentence="",
    )
    return replace(found, sentence=sentence(found, terms))


def _group(tally: Tally) -> Group:
    conversion = wilson(tally.converters, tally.users)
    return Group(tally.users, tally.converters, tally.revenue / 100, conversion)


def _times(estimate: Estimate, factor: float) -> Estimate:
    low, high = (end * factor if isfinite(end) else end for end in (estimate.low, estimate.high))
    return Estimate(estimate.value * factor, low, high)


def wilson(successes: int, n: int) -> Estimate:
    """A rate with its 95 % score interval (Wilson, JASA 1927); 0 in [0, 1] without tries.

    Raises ValueError unless 0 ≤ successes ≤ n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"of {n} users {successes} cannot convert")
    if not n:
        return Estimate(0.0, 0.0, 1.0)
    p, z2 = successes / n, _Z * _Z
    middle, half = p + z2 / (2 * n), _Z * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z2 / n) for sign in (-1, 1))
    # At 0 and n the end is the rate itself, but for rounding.
    return Estimate(p, low if successes else 0.0, high if successes < n else 1.0)


def newcombe(a: int, n_a: int, b: int, n_b: int) -> Estimate:
    """The difference of rates a / n_a − b / n_b with its 95 % interval, the hybrid of both score intervals.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine
    1998, method 10. Raises ValueError as `wilson` does.
    """
    one, two = wilson(a, n_a), wilson(b, n_b)
    value = one.value - two.value
    low = value - sqrt((one.value - one.low) ** 2 + (two.high - two.value) ** 2)
    high = value + sqrt((one.high - one.value) ** 2 + (two.value - two.low) ** 2)
    return Estimate(value, low, high) if n_a and n_b else Estimate(0.0, -1.0, 1.0)


def welch(a: Tally, b: Tally) -> Estimate:
    """The difference of mean revenue a user, a − b, in cents, with its 95 % interval (Welch's t).

    Welch, Biometrika 1947. Variances may differ. It assumes independent users and means that are about
    normal: revenue is mostly zeros with a long tail, so the smaller group should have some fifty buyers. A
    group without variance (nobody bought, or one user) does not tell how far its mean may be off: then the
    ends are infinite.
    """
    value = a.mean - b.mean if a.users and b.users else 0.0
    if not a.variance or not b.variance:
        return Estimate(value, -inf, inf)
    each = a.variance / a.users, b.variance / b.users
    freedom = sum(each) ** 2 / (each[0] ** 2 / (a.users - 1) + each[1] ** 2 / (b.users - 1))
    half = float(stdtrit(freedom, 0.975)) * sqrt(sum(each))
    return Estimate(value, value - half, value + half)


def detectable(converters: int, n_a: int, n_b: int) -> float | None:
    """The difference of rates found with a power of 80 % at a level of 5 %, two-sided; None: unknown.

    (z₀.₉₇₅ + z₀.₈) times its standard error at the rate of both groups together (Bloom, Evaluation Review
    1995); unknown while nobody, or everybody, converted.
    """
    if not n_a or not n_b or not 0 < converters < n_a + n_b:
        return None
    rate = converters / (n_a + n_b)
    return (_Z + _Z_POWER) * sqrt(rate * (1 - rate) * (1 / n_a + 1 / n_b))


def split(treated: int, held: int, share: float) -> float:
    """The p-value of the split when each user is held out with probability ``share``: the sample-ratio check.

    Chi-square with one degree of freedom (Fabijan et al., KDD 2019); with fewer than `FEW` users expected in
    a group, twice the smaller tail of the binomial distribution. Raises ValueError unless 0 ≤ share ≤ 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the held-out share is {share}, not between 0 and 1")
    n, expected = treated + held, (treated + held) * share
    if min(expected, n - expected) < FEW:
        return min(1.0, 2 * float(min(bdtr(held, n, share), bdtrc(held - 1, n, share))))
    return float(chdtrc(1, (held - expected) ** 2 / (expected * (1 - share))))


# In words


def sentence(lift: Lift, terms: Terms) -> str:
    """What a marketer should know, in plain English."""
    treated, held = lift.treated, lift.holdout
    if lift.broken:
        return (
            f"Do not trust these figures: {held.users:,} of {treated.users + held.users:,} users are held "
            f"out, which does not fit the configured {terms.share:.2%}. Were share and salt always the same?"
        )
    if not held.users or not treated.users:
        missing = "held out" if treated.users else "who may get messages"
        return (
            f"Nothing to compare: there are no users {missing} yet; the held-out share is {terms.share:.2%}."
        )
    return f"{_bought_words(lift, terms.window_ms)} {_revenue_words(lift)}"


def _bought_words(lift: Lift, window_ms: int) -> str:
    treated, held = lift.treated, lift.holdout
    return (
        f"Within {window_ms / DAY_MS:g} days {treated.conversion.value:.2%} of {treated.users:,} users who "
        f"may get messages bought, and {held.conversion.value:.2%} of {held.users:,} held out: "
        f"{_verdict(lift)}."
    )


def _verdict(lift: Lift) -> str:
    points = _times(lift.difference, 100)
    told = f"{points.value:+.2f} percentage points ({points.low:+.2f} to {points.high:+.2f})"
    if not points.low <= 0 <= points.high:
        return f"{told}, more than chance explains"
    if lift.detectable is None:
        return f"{told}, which may be chance"
    return f"{told}, which may be chance: among so few, {100 * lift.detectable:.2f} would be found reliably"


def _revenue_words(lift: Lift) -> str:
    user, total = lift.per_user, lift.in_total
    if not isfinite(user.low):
        return "Too few have bought to tell what that is in money."
    return (
        f"In money: {user.value:+,.2f} a user ({user.low:+,.2f} to {user.high:+,.2f}), "
        f"{total.value:+,.0f} in all ({total.low:+,.0f} to {total.high:+,.0f})."
    )
