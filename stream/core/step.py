"""The shopper side's step: what a batch of events changes, and what follows from it. Pure.

The same step runs in the worker, in replay, in evaluation and in a campaign's dry run. It reads no clock:
event time decides everything. Cutting batches otherwise changes nothing in the state it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.codec import Columns
from stream.core import engagement, noise
from stream.core.attribution import ATTRIBUTED, Attributed, Rules, Told, Touches, attribute
from stream.core.coupons import GRANT, TO_LEDGER, Ledgers, Pool, Terms, Wallet, parties
from stream.core.engaged import Seen, UserState
from stream.core.engagement import Clock, Engine
from stream.core.merge import Asked, Facts, Handover, hand_over, logins, seen_of, take_over
from stream.core.messages import Decision, Message, Revoke
from stream.core.noise import Noise
from stream.core.notices import Notice
from stream.core.offers import Ask
from stream.core.pairs import Pairs, window_pairs
from stream.core.rfm import Ranks, Shift
from stream.core.runs import lengths, starts
from stream.core.users import Rows, advance, fresh, joined, tail
from stream.core.watchers import Interest
from stream.core.weights import Decay, apply, gap_table
from stream.events import CODE, MERGED, NOTICE, REQUEST
from stream.events import Told as Heard
from stream.mail import BACKWARD, FORWARD, HIT, Increments, join, source_of
from stream.settings import Settings

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]
Bool = NDArray[np.bool_]

PURCHASE = CODE["purchase"]
LIST_SHOWN = CODE["recommendation_shown"]
_ENDS_ROUND: Bool = np.isin(np.arange(256), [CODE["forget"], REQUEST, MERGED])


@dataclass(frozen=True, slots=True)
class Counting:
    """The constants of counting: window, decay, gap tables (forward, backward), whether order within an event
    says nothing, allowed lateness in ms, and what is noise."""

    window: int
    decay: Decay
    interest: Decay
    forward: I64
    backward: I64
    undirected_baskets: bool
    lateness_ms: int
    noise: Noise
    attribution: Rules

    @classmethod
    def of(cls, settings: Settings) -> Counting:
        """From the settings."""
        return cls(
            settings.window,
            Decay(int(settings.half_life_s * 1000)),
            Decay(int(settings.interest_half_life_s * 1000)),
            gap_table(settings.window, settings.gap_exponent),
            gap_table(settings.window, settings.gap_exponent, settings.backward),
            settings.undirected_baskets,
            int(settings.lateness_s * 1000),
            Noise.of(settings),
            Rules.of(settings),
        )


@dataclass(frozen=True, slots=True)
class View:
    """What the step sees of the state: users by row, their engagement by name, the partition's watermark.

    ``hashes`` are those of all items, by local id. ``preferring`` are the states of users of whom little is
    known, where anybody ever said what he prefers: for lists alone. ``touches`` by user are what attribution
    knows; who is not in it was shown nothing. ``ranks`` are the partition's customers,
    ``pools`` and ``wallets`` the ledgers of coupons (`stream.core.coupons`) that the batch has to do with.
    """

    names: list[str]
    rows: Rows
    engaged: Mapping[str, UserState]
    watermark: int
    hashes: U64
    preferring: Mapping[str, UserState] = field(default_factory=dict)
    touches: Mapping[str, Touches] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    wallets: Mapping[tuple[str, str], Wallet] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """What the step makes: new state, increments, messages.

    ``last`` [U] is each user's newest fresh event (number in the batch, −1 = none), ``raised`` the event
    that last raised the watermark (None: none did), ``fresh`` [E] which events are accepted,
    ``uncounted`` [E] which of these act on items and count for none, or are lists shown to bots (`noise`),
    ``tests`` [U] the test accounts, ``forgotten`` the users whose last word was `forget`, or who were handed
    over; ``asking`` the numbers of logins that ask for an anonymous user, ``handovers`` what is handed over
    of such users here, ``attributed`` what lists brought about, ``asks`` what nudges need to know of lists,
    ``notices`` what other users are told, ``interests`` what items are told, ``shifts`` customers whose RFM
    values changed, ``pools`` and ``wallets`` the ledgers of coupons that changed.
    """

    rows: Rows
    increments: Increments | None
    engaged: dict[str, UserState]
    alarms: dict[str, int | None]
    messages: list[Message | Revoke]
    decisions: list[Decision]
    watermark: int
    raised: int | None
    fresh: Bool
    uncounted: Bool
    tests: Bool
    last: I64
    forgotten: set[str] = field(default_factory=set)
    asking: list[int] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    attributed: Attributed = field(default_factory=Attributed)
    notices: list[Notice] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    interests: list[Interest] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    pools: dict[str, Pool] = field(default_factory=dict)
    wallets: dict[tuple[str, str], Wallet] = field(default_factory=dict)


def step(counting: Counting, engine: Engine, view: View, columns: Columns, user: I64) -> Result:
    """Process a batch. ``user`` [E] is the row of each event's user in ``view.rows`` (−1 for ticks).

    Events before a `forget` count as they would in a batch of their own, those after it begin from nothing,
    and likewise where an anonymous user is handed over or taken over: such a user's events are processed
    in rounds, which such events end.
    """
    after = _watermarks(view.watermark, columns, counting.lateness_ms)
    result = _blank(counting, view, columns, after)
    facts = Facts(view.engaged, columns, result.fresh)
    parts: list[Increments] = []
    rounds = _rounds(columns, user)
    for each in range(int(rounds.max(initial=0)) + 1):
        events = np.flatnonzero(rounds == each)
        _count(counting, view.hashes, result, columns, user, events, parts)
        _end_round(counting, view.hashes, result, facts, columns, user, events)
    if parts:
        whole = join(parts)
        result.increments = whole if len(parts) == 1 else whole.take(np.argsort(whole.source, kind="stable"))
    result.asking = logins(columns, result.fresh)
    _engage(engine, view, result, facts, columns, Clock(view.watermark, after, columns.received))
    result.attributed = attribute(counting.attribution, view.touches, _told(result, columns, user))
    return result


def _told(result: Result, columns: Columns, user: I64) -> dict[str, list[Told]]:
    """What attribution looks at, by user and in order, without what is noise."""
    events = columns.lists | {at: e for at, e in columns.details.items() if e.type in ATTRIBUTED}
    told: dict[str, list[Told]] = {}
    for at in sorted(events):
        if result.fresh[at] and not result.uncounted[at] and not result.tests[user[at]]:
            told.setdefault(columns.user[at], []).append(Told(at, int(columns.time[at]), events[at]))
    return told


def _rounds(columns: Columns, user: I64) -> I64:
    """Number of events before each [E], of the same user, that end a round."""
    ends = _ENDS_ROUND[columns.kind]
    rounds = np.zeros(len(ends), dtype=np.int64)
    if not ends.any():
        return rounds
    order = np.argsort(user, kind="stable")
    before: I64 = np.cumsum(ends[order]) - ends[order]
    first = starts(user[order])
    rounds[order] = before - np.repeat(before[first], lengths(first, len(order)))
    return rounds


def _watermarks(before: int, columns: Columns, lateness_ms: int) -> I64:
    """The watermark after each event: the greatest min(time, received) so far, less the allowed lateness."""
    reached = np.minimum(columns.time, columns.received) - lateness_ms
    return np.maximum(np.maximum.accumulate(reached), before)


def _raised(before: int, after: I64) -> int | None:
    raised = starts(np.append(before, after))[1:] - 1
    return int(raised[-1]) if len(raised) else None


def _blank(counting: Counting, view: View, columns: Columns, after: I64) -> Result:
    n = len(columns.time)
    return Result(
        rows=view.rows,
        increments=None,
        engaged={},
        alarms={},
        messages=[],
        decisions=[],
        watermark=int(after[-1]) if n else view.watermark,
        raised=_raised(view.watermark, after),
        fresh=np.zeros(n, dtype=bool),
        uncounted=np.zeros(n, dtype=bool),
        tests=noise.test_accounts(counting.noise, view.names),
        last=np.full(len(view.names), -1, dtype=np.int64),
    )


def _count(
    counting: Counting,
    hashes: U64,
    result: Result,
    columns: Columns,
    user: I64,
    events: I64,
    parts: list[Increments],
) -> None:
    """Histories, interest vectors and increments of the events of a round [n] that are no repeats."""
    events = events[user[events] >= 0]
    is_fresh, rows = fresh(result.rows, user[events], columns.id[events])
    events = events[is_fresh]
    result.fresh[events] = True
    events = events[columns.kind[events] != NOTICE]  # no doing of the user's
    result.last[user[events]] = events
    if result.forgotten:
        result.forgotten.difference_update([columns.user[at] for at in events.tolist()])
    now = np.zeros(len(user), dtype=np.bool_)
    # A type of weight 0 (an item taken out of the cart) is no sign of interest; a purchase is remembered.
    now[events] = (columns.units[events] > 0) | (columns.kind[events] == PURCHASE)
    held = now[columns.event]
    event, item = columns.event[held], columns.item[held]
    if columns.lists and counting.noise.most:
        _shown_to_bots(counting.noise, rows, result, columns, user, events, event)
    rows, event, item = _without_noise(counting.noise, rows, result, columns, user, event, item)
    counts = ~result.tests[user[event]]
    parts.extend(_increments(counting, rows, columns, user, event[counts], item[counts]))
    time, kind, units = columns.time[event], columns.kind[event], columns.units[event]
    result.rows = advance(rows, user[event], item, kind, time, units, event, counting.interest, hashes)


def _without_noise(
    rules: Noise, rows: Rows, result: Result, columns: Columns, user: I64, event: I32, item: I32
) -> tuple[Rows, I32, I32]:
    """The users with their new rates, and the interactions [n] of which histories are made.

    Events none of whose interactions counts for items are noted as uncounted.
    """
    of, kind, time = user[event], columns.kind[event], columns.time[event]
    kept, rate = noise.judge(rules, rows, of, item, kind, time, event)
    counts = kept & ~result.tests[of]
    if not counts.all():
        result.uncounted[event] = True
        result.uncounted[event[counts]] = False
    return replace(rows, rate=rate), event[kept], item[kept]


def _shown_to_bots(
    rules: Noise, rows: Rows, result: Result, columns: Columns, user: I64, events: I64, event: I32
) -> None:
    """Note lists shown to bots as uncounted, of events [n] of which ``event`` [m] act on items."""
    acts = np.isin(events, event)
    told = np.flatnonzero(acts | (columns.kind[events] == LIST_SHOWN))
    at = events[told]
    beyond = noise.shown_to_bots(rules, rows.rate, user[at], columns.time[at], acts[told])
    result.uncounted[at[beyond]] = True


def _increments(
    counting: Counting, rows: Rows, columns: Columns, user: I64, event: I32, item: I32
) -> list[Increments]:
    """Hits and pairs of interactions [n], in source order."""
    if not len(event):
        return []
    period, scaled = counting.decay.base(columns.time[event])
    units, source = columns.units[event], source_of(columns.offset[event], columns.index[event])
    pairs, forward, backward = _pairs(counting, tail(rows, counting.window), user[event], event, item)
    at = pairs.at

    def part(which: I64, row: I32, col: I32, kind: int, weight: I64) -> Increments:
        kinds = np.full(len(which), kind, dtype=np.uint8)
        return Increments(row, col, kinds, weight, source[which], columns.time[event[which]], period[which])

    everything = join(
        [
            part(np.arange(len(event)), item, item, HIT, units),
            part(at, pairs.earlier, pairs.later, FORWARD, apply(scaled[at], units[at], forward)),
            part(at, pairs.later, pairs.earlier, BACKWARD, apply(scaled[at], units[at], backward)),
        ]
    )
    return [everything.take(np.argsort(everything.source, kind="stable"))]


def _pairs(counting: Counting, before: I32, user: I64, event: I32, item: I32) -> tuple[Pairs, I64, I64]:
    """Pairs of interactions [n] and what each weighs, forward and backward, by `gap_table`.

    Where baskets are undirected, a pair within an event counts half, and so does its reverse.
    """
    pairs = window_pairs(before, user, item)
    forward, backward = counting.forward[pairs.gap], counting.backward[pairs.gap]
    if not counting.undirected_baskets:
        return pairs, forward, backward
    within = pairs.gap <= (np.arange(len(event)) - np.searchsorted(event, event))[pairs.at]
    inside = np.flatnonzero(within)
    whole = Pairs(
        np.concatenate([pairs.earlier, pairs.later[inside]]),
        np.concatenate([pairs.later, pairs.earlier[inside]]),
        np.concatenate([pairs.gap, pairs.gap[inside]]),
        np.concatenate([pairs.at, pairs.at[inside]]),
    )
    halved = np.concatenate([within, within[inside]]).astype(np.int64)
    return whole, counting.forward[whole.gap] >> halved, counting.backward[whole.gap] >> halved


def _end_round(
    counting: Counting,
    hashes: U64,
    result: Result,
    facts: Facts,
    columns: Columns,
    user: I64,
    events: I64,
) -> None:
    """What the events that end a round do; it is the last of its user in the round."""
    ends = events[_ENDS_ROUND[columns.kind[events]] & result.fresh[events]]
    if not ends.size:
        return
    changed: dict[int, Rows] = {}
    for at in ends.tolist():
        name, row = columns.user[at], int(user[at])
        told = columns.handed.get(at)
        if told is None:
            changed[row] = _begin_anew(result, name)
        elif isinstance(told, Asked):
            changed[row] = _hand_over(result, facts.until(name, at), at, told, name, row)
        elif told.position in facts.until(name, at).asked:
            only = result.rows.take(np.array([row]))
            changed[row] = take_over(only, told, counting.interest, hashes)
    if changed:
        result.rows = result.rows.replaced(np.array(list(changed)), joined(list(changed.values())))


def _hand_over(result: Result, state: UserState, at: int, told: Asked, name: str, row: int) -> Rows:
    """Of who was handed over the last event ids stay: what he sent twice still counts once."""
    result.handovers.append(hand_over(result.rows, row, state, at, told))
    only = result.rows.take(np.array([row]))
    return only if state.identified else replace(_begin_anew(result, name), ids=only.ids)


def _begin_anew(result: Result, name: str) -> Rows:
    """What counting holds of a forgotten user. What his events added to the items' sums stays there."""
    result.forgotten.add(name)
    return Rows.blank(1, result.rows.bounds)


def _engage(engine: Engine, view: View, result: Result, facts: Facts, columns: Columns, clock: Clock) -> None:
    """Run the triggers over what concerns them: their events, and the timers that fall due."""
    asked = facts.asked()
    seen: dict[str, list[Seen]] = {}
    for at in columns.details:
        if result.fresh[at] and at not in facts.void:
            seen.setdefault(columns.user[at], []).extend(seen_of(columns, at))
    outcome = engagement.run(engine, view.engaged, seen, clock, view.ranks)
    result.engaged, result.alarms = outcome.states, outcome.alarms
    result.messages, result.decisions = outcome.messages, outcome.decisions
    result.notices, result.interests = outcome.notices, outcome.interests
    result.asks, result.shifts = outcome.asks, outcome.shifts
    _settle(engine, view, result, columns, clock)
    for name, positions in asked.items():
        state = result.engaged.get(name) or view.engaged.get(name) or UserState()
        if state.asked != positions:
            state = state.copy()
            state.asked = positions
            result.engaged[name] = state


def _settle(engine: Engine, view: View, result: Result, columns: Columns, clock: Clock) -> None:
    """What ledgers of coupons are told, in order; their answers are notices to the users."""
    heard = {
        at: each
        for at, each in columns.details.items()
        if each.type in TO_LEDGER and isinstance(each, Heard) and result.fresh[at]
    }
    if not heard:
        return
    held = dict.fromkeys(parties(told.type, told.body) for told in heard.values())
    pools = {name: view.pools[name] for name, _ in held}
    ledgers, answers = Ledgers(pools, {at: view.wallets[at] for at in held}), list[Notice]()
    for at, told in sorted(heard.items()):
        now = int(clock.after[at])
        holds = engine if engine.plan is None else engine.plan.at(now)
        terms = Terms.of(holds.campaigns.get(told.body["campaign"]), holds.config.coupon_secret)
        grant = ledgers.hear(told.type, told.body, terms, now)
        if grant is not None:
            body = msgspec.to_builtins(grant)
            answers.append(Notice(at, grant.request.user, GRANT, now, body))
    result.pools = {name: ledgers.pools[name] for name in sorted(ledgers.changed)}
    result.wallets = {at: ledgers.wallets[at] for at in sorted(ledgers.changed_wallets)}
    result.notices = sorted([*result.notices, *answers], key=lambda notice: notice.at)
