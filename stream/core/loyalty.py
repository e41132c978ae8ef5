"""Loyalty: points that expire, tiers, milestones and entries into contests, by user in event time. Pure.

A program (`Program`) says what earns points. Only events that name a user count; who is anonymous earns
nothing. Points of a week (from Monday, UTC) are a lot and expire together, ``life`` after the week's end, so
that a user has at most as many lots as weeks fit into the longest life. Every event counts at its own time:
lots, totals and counters are the same whatever the order in which points are earned. Redemptions and refunds
take what is there when they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from stream.core.campaigns import Count, Duration, Instant, Name
from stream.core.rfm import DAY_MS, WEEK_MS, Order, Rfm, cents_of

if TYPE_CHECKING:
    from stream.core.engaged import Seen

MOST_LIFE_MS = 1096 * DAY_MS
"""The longest that points may live, and the longest window of tiers: three years."""
LATE_MS = 4 * WEEK_MS
"""Lots are kept so long after they expired, in case a redemption comes late."""
NEAR_PERCENT = 10
"""So little of a tier's threshold may be missing to be near it."""
MOST_POINTS = 10**12
"""Points of one event."""
_MONDAY_MS = 4 * DAY_MS  # 1970-01-05
_MANY = 50

Rate = Annotated[float, Meta(ge=0, le=10_000, description="a number from 0 to 10000")]
EventType = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^(?!tidewise\.)")]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a program's parts."""


class Tier(_Part, frozen=True, kw_only=True):
    """A tier: reached with this many points earned."""

    name: Name
    points: Count


class Milestone(_Part, frozen=True, kw_only=True):
    """A counter that crosses ``at``: ``orders``, ``spend`` (in the shop's currency), or an event type."""

    name: Name
    counter: EventType
    at: Count


class Contest(_Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Entries by event type, for events within [from, until)."""

    name: Name
    from_: Instant
    until: Instant
    entries: Annotated[dict[EventType, Count], Meta(min_length=1, max_length=_MANY)]

    def __post_init__(self) -> None:
        if self.from_ >= self.until:
            raise ValueError(f"from {self.from_} is not before until {self.until}: give an earlier from")


class Program(_Part, frozen=True, kw_only=True):
    """A loyalty program. ``docs/engagement.md`` has the reference of all fields."""

    per_unit: Rate = 1.0
    events: Annotated[dict[EventType, Count], Meta(max_length=_MANY)] = {}
    redeem: EventType = "redeem_points"
    life: Duration = Duration(365 * DAY_MS)
    tiers: Annotated[tuple[Tier, ...], Meta(max_length=_MANY)] = ()
    within: Duration | None = None
    milestones: Annotated[tuple[Milestone, ...], Meta(max_length=_MANY)] = ()
    contests: Annotated[tuple[Contest, ...], Meta(max_length=_MANY)] = ()

    def __post_init__(self) -> None:
        for what, span in (("life", self.life), ("within", self.within)):
            if span is not None and not 0 < span <= MOST_LIFE_MS:
                raise ValueError(f"{what} {span} is not allowed: give 1s to 1096d")
        if any(one.points >= two.points for one, two in zip(self.tiers, self.tiers[1:], strict=False)):
            raise ValueError("the tiers do not rise: give each more points than the one before it")
        for parts in (self.tiers, self.milestones, self.contests):
            names = [each.name for each in parts]
            if len(set(names)) < len(names):
                raise ValueError(f"of {', '.join(names)} two are the same: give other names")
        if self.redeem in ("purchase", "refund", *self.events):
            raise ValueError(f"{self.redeem} cannot redeem points, too: give another event type")

    def kinds(self) -> frozenset[str]:
        """The event types that it looks at."""
        counted = {each.counter for each in self.milestones} - {"orders", "spend"}
        entered = {kind for each in self.contests for kind in each.entries}
        return frozenset({"purchase", "refund", self.redeem, *self.events, *counted, *entered})


class Lot(Struct, frozen=True, array_like=True):
    """Points of a week: its begin, when they expire, what was earned less refunds, and what is left."""

    began: int
    expires: int
    earned: int
    left: int


class Loyalty(Struct, frozen=True, array_like=True):
    """What a program knows of a user. In points: earned = left in lots + spent + expired + taken.

    ``taken`` was taken back by refunds; ``newest`` is the time of the newest event; ``lots`` ascend.
    ``counters`` has points (less refunds), orders, spend (in cents) and ``event:…``; ``crossed`` when
    something was first reached (``tier:gold``, ``near:gold``, ``milestone:ten``, ``contest:summer``);
    ``entries`` counts by contest, ``since`` is the time of the newest order from before the program.
    """

    earned: int = 0
    spent: int = 0
    expired: int = 0
    taken: int = 0
    newest: int = 0
    lots: tuple[Lot, ...] = ()
    counters: dict[str, int] = {}
    crossed: dict[str, int] = {}
    entries: dict[str, int] = {}
    since: int = 0

    def balance(self, time: int) -> int:
        """Points that can be redeemed at a moment."""
        return sum(lot.left for lot in self.lots if lot.expires > time)


NO_POINTS = Loyalty()


def tier_points(program: Program, loyalty: Loyalty, time: int) -> int:
    """Points that count for tiers: earned in the weeks that began within the window, or in all."""
    if program.within is None:
        return loyalty.counters.get("points", 0)
    return sum(lot.earned for lot in loyalty.lots if time - program.within < lot.began + WEEK_MS)


def tier(program: Program, loyalty: Loyalty, time: int) -> Tier | None:
    """The highest tier at a moment."""
    points = tier_points(program, loyalty, time)
    return next((each for each in reversed(program.tiers) if each.points <= points), None)


def points_of(program: Program, cents: int) -> int:
    """Points for money: whole ones, by a rate in thousandths."""
    return min(cents * round(program.per_unit * 1000) // 100_000, MOST_POINTS)


# Events


def after(program: Program, loyalty: Loyalty, seen: Seen, before: Rfm, now: Rfm) -> Loyalty:
    """What is known after an event of the program's `kinds`; ``before`` and ``now`` are what the user bought
    before and after it. About 40 µs."""
    if seen.event.user is None:
        return loyalty
    if not loyalty.newest and before.orders:
        loyalty = replace(loyalty, since=before.orders[-1].time)
    changed = replace(loyalty, newest=max(loyalty.newest, seen.time))
    if seen.type == "refund":
        changed = _refunded(program, changed, before, now)
    elif seen.type == program.redeem:
        changed = _spent(changed, _wanted(seen), seen.time)
    else:
        changed = _earned(program, changed, seen)
    changed = _entered(program, changed, seen)
    return _settled(program, _crossed(program, loyalty, changed, seen.time))


def _earned(program: Program, loyalty: Loyalty, seen: Seen) -> Loyalty:
    ordered = seen.type == "purchase"
    cents = (cents_of(seen.event) or 0) if ordered else 0
    points = points_of(program, cents) + program.events.get(seen.type, 0)
    by = {"points": points, "orders": int(ordered), "spend": cents}
    if any(goal.counter == seen.type for goal in program.milestones):
        by[f"event:{seen.type}"] = 1
    return replace(
        loyalty,
        earned=loyalty.earned + points,
        lots=_into(program, loyalty.lots, seen.time, points),
        counters=_counted(loyalty.counters, by),
    )


def _into(program: Program, lots: tuple[Lot, ...], time: int, points: int) -> tuple[Lot, ...]:
    if not points:
        return lots
    began = _week(time)
    old = next((lot for lot in lots if lot.began == began), Lot(began, began + WEEK_MS + program.life, 0, 0))
    new = replace(old, earned=old.earned + points, left=old.left + points)
    return tuple(sorted((*(lot for lot in lots if lot is not old), new), key=lambda lot: lot.began))


def _counted(counters: Mapping[str, int], by: Mapping[str, int]) -> dict[str, int]:
    changed = {name: counters.get(name, 0) + more for name, more in by.items() if more}
    return {**counters, **changed}


def _wanted(seen: Seen) -> int:
    """Points that an event redeems: its attribute ``points``; 0 if that is no whole number above 0."""
    told = (seen.event.attributes or {}).get("points")
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 0


def _spent(loyalty: Loyalty, points: int, time: int) -> Loyalty:
    """Oldest lots first; of more points than there are, those that there are."""
    lots, gone = _drawn(loyalty.lots, points, time)
    return replace(loyalty, lots=lots, spent=loyalty.spent + gone)


def _drawn(lots: Sequence[Lot], points: int, time: int) -> tuple[tuple[Lot, ...], int]:
    """Lots without so many points, and how many came out of those that live at a moment."""
    left, made = points, list[Lot]()
    for lot in lots:
        part = min(lot.left, left) if lot.expires > time else 0
        left -= part
        made.append(replace(lot, left=lot.left - part) if part else lot)
    return tuple(made), points - left


def _refunded(program: Program, loyalty: Loyalty, before: Rfm, now: Rfm) -> Loyalty:
    """Points and money of the order that was refunded, as RFM found it; a lot that has too few is made up for
    by others, oldest first. An order from before the program earned nothing."""
    order, rest = _refund_of(before, now)
    if order is None or order.time <= loyalty.since:
        return loyalty
    points = points_of(program, order.cents) - points_of(program, rest or 0)
    whole = program.events.get("purchase", 0) if rest is None else 0
    lots, taken = _taken(loyalty.lots, _week(order.time), points + whole, loyalty.newest)
    by = {"points": -points - whole, "spend": (rest or 0) - order.cents, "orders": -(rest is None)}
    return replace(loyalty, lots=lots, taken=loyalty.taken + taken, counters=_counted(loyalty.counters, by))


def _refund_of(before: Rfm, now: Rfm) -> tuple[Order | None, int | None]:
    """The order that a refund was about, and what is left of it in cents; None: nothing."""
    gone = Counter(before.orders) - Counter(now.orders)
    left = Counter(now.orders) - Counter(before.orders)
    return next(iter(gone), None), next((order.cents for order in left), None)


def _taken(lots: tuple[Lot, ...], began: int, points: int, time: int) -> tuple[tuple[Lot, ...], int]:
    """Lots without points that a week should not have earned, and how many could be taken; none of a week
    whose points are long expired."""
    made = list(lots)
    at = next((at for at, lot in enumerate(lots) if lot.began == began), None)
    if at is None:
        return lots, 0
    taken = min(points, lots[at].left)
    made[at] = replace(lots[at], earned=max(lots[at].earned - points, 0), left=lots[at].left - taken)
    others, more = _drawn(made, points - taken, time)
    return others, taken + more


def _week(time: int) -> int:
    """The Monday that a week began with."""
    return time - (time - _MONDAY_MS) % WEEK_MS


def _entered(program: Program, loyalty: Loyalty, seen: Seen) -> Loyalty:
    by = {
        contest.name: contest.entries.get(seen.type, 0)
        for contest in program.contests
        if contest.from_ <= seen.time < contest.until
    }
    return replace(loyalty, entries=_counted(loyalty.entries, by)) if by else loyalty


def _crossed(program: Program, old: Loyalty, new: Loyalty, time: int) -> Loyalty:
    """Note what was reached for the first time: prev < x <= new."""
    found = {name: time for name in _reached(program, old, new) if name not in new.crossed}
    return replace(new, crossed={**new.crossed, **found}) if found else new


def _reached(program: Program, old: Loyalty, new: Loyalty) -> Iterator[str]:
    prev, now = tier_points(program, old, new.newest), tier_points(program, new, new.newest)
    for each in program.tiers:
        near = each.points - each.points * NEAR_PERCENT // 100
        if prev < each.points <= now:
            yield f"tier:{each.name}"
        elif prev < near <= now < each.points:
            yield f"near:{each.name}"
    for goal in program.milestones:
        x = goal.at * (100 if goal.counter == "spend" else 1)
        name = goal.counter if goal.counter in ("orders", "spend") else f"event:{goal.counter}"
        if old.counters.get(name, 0) < x <= new.counters.get(name, 0):
            yield f"milestone:{goal.name}"
    yield from (f"contest:{name}" for name in new.entries if name not in old.entries)


def _settled(program: Program, loyalty: Loyalty) -> Loyalty:
    """Without lots that are over: their points have expired."""
    span = 0 if program.within is None else int(program.within) + WEEK_MS
    over = [
        lot
        for lot in loyalty.lots
        if max(lot.expires, lot.began + WEEK_MS + span) + LATE_MS <= loyalty.newest
    ]
    if not over:
        return loyalty
    lots = tuple(lot for lot in loyalty.lots if lot not in over)
    return replace(loyalty, lots=lots, expired=loyalty.expired + sum(lot.left for lot in over))


# Contests


class Entries(NamedTuple):
    """What a user has in a contest."""

    user: str
    number: int


class Drawn(NamedTuple):
    """A winner, by the entry that was drawn (from 0)."""

    user: str
    entry: int
    ticket: str


def entry_list(entries: Iterable[Entries]) -> bytes:
    """Lines ``user TAB entries``, by user."""
    return "".join(f"{user}\t{number}\n" for user, number in sorted(entries)).encode()


def entries_hash(entries: Iterable[Entries]) -> str:
    """The hash of an entry list: blake2b-256, in hex."""
    return blake2b(entry_list(entries), digest_size=32).hexdigest()


def ticket(seed: str, contest: str, user: str, entry: int) -> str:
    """An entry's ticket: blake2b-128 of seed, contest, user and number, each ended by NUL, in hex."""
    text = "".join(f"{part}\0" for part in (seed, contest, user, entry))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def draw(entries: Iterable[Entries], contest: str, seed: str, winners: int) -> list[Drawn]:
    """The winners in order: the users whose lowest tickets are lowest, each once. About 5 µs an entry."""
    best = [
        min((Drawn(user, at, ticket(seed, contest, user, at)) for at in range(count)), key=_by_ticket)
        for user, count in entries
        if count > 0
    ]
    return sorted(best, key=_by_ticket)[:winners]


def _by_ticket(drawn: Drawn) -> tuple[str, str, int]:
    return drawn.ticket, drawn.user, drawn.entry
