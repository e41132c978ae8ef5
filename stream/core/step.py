"""The shopper side's step: what a batch of events changes, and what follows from it. Pure.

The same step runs in the worker, in replay, in evaluation and in a campaign's dry run. It reads no clock:
event time decides everything. Cutting batches otherwise changes nothing in the state it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from stream.codec import Columns
from stream.core import engagement, noise
from stream.core.engaged import Seen, UserState
from stream.core.engagement import Clock, Engine
from stream.core.messages import Decision, Message
from stream.core.noise import Noise
from stream.core.pairs import window_pairs
from stream.core.users import Rows, advance, fresh, tail
from stream.core.weights import Decay, apply, gap_table
from stream.events import CODE
from stream.mail import BACKWARD, FORWARD, HIT, Increments, join, source_of
from stream.settings import Settings

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]
Bool = NDArray[np.bool_]

FORGET, PURCHASE = CODE["forget"], CODE["purchase"]


@dataclass(frozen=True, slots=True)
class Counting:
    """The constants of counting: window, decay, gap tables (forward, backward), allowed lateness in ms, and
    what is noise."""

    window: int
    decay: Decay
    interest: Decay
    forward: I64
    backward: I64
    lateness_ms: int
    noise: Noise

    @classmethod
    def of(cls, settings: Settings) -> Counting:
        """From the settings."""
        return cls(
            settings.window,
            Decay(int(settings.half_life_s * 1000)),
            Decay(int(settings.interest_half_life_s * 1000)),
            gap_table(settings.window, settings.gap_exponent),
            gap_table(settings.window, settings.gap_exponent, settings.backward),
            int(settings.lateness_s * 1000),
            Noise.of(settings),
        )


@dataclass(frozen=True, slots=True)
class View:
    """What the step sees of the state: users by row, their engagement by name, the partition's watermark.

    ``hashes`` are those of all items, by local id.
    """

    names: list[str]
    rows: Rows
    engaged: Mapping[str, UserState]
    watermark: int
    hashes: U64


@dataclass(slots=True)
class Result:
    """What the step makes: new state, increments, messages.

    ``last`` [U] is each user's newest fresh event (number in the batch, −1 = none), ``raised`` the event
    that last raised the watermark (None: none did), ``fresh`` [E] which events are accepted,
    ``uncounted`` [E] which of these act on items and count for none (`noise`), ``tests`` [U] the test
    accounts, ``forgotten`` the users whose last word was `forget`.
    """

    rows: Rows
    increments: Increments | None
    engaged: dict[str, UserState]
    alarms: dict[str, int | None]
    messages: list[Message]
    decisions: list[Decision]
    watermark: int
    raised: int | None
    fresh: Bool
    uncounted: Bool
    tests: Bool
    last: I64
    forgotten: set[str] = field(default_factory=set)


def step(counting: Counting, engine: Engine, view: View, columns: Columns, user: I64) -> Result:
    """Process a batch. ``user`` [E] is the row of each event's user in ``view.rows`` (−1 for ticks).

    Events before a `forget` count as they would in a batch of their own, those after it begin from nothing:
    the batch is cut after each `forget`.
    """
    after = _watermarks(view.watermark, columns, counting.lateness_ms)
    result = _blank(counting, view, columns, after)
    parts: list[Increments] = []
    begin = 0
    for end in [*(np.flatnonzero(columns.kind == FORGET) + 1).tolist(), len(columns.time)]:
        _count(counting, view.hashes, result, columns, user, slice(begin, end), parts)
        if begin < end and columns.kind[end - 1] == FORGET and result.fresh[end - 1]:
            _forget(result, columns.user[end - 1], int(user[end - 1]))
        begin = end
    result.increments = join(parts) if parts else None
    _engage(engine, view, result, columns, Clock(view.watermark, after, columns.received))
    return result


def _watermarks(before: int, columns: Columns, lateness_ms: int) -> I64:
    """The watermark after each event: the greatest min(time, received) so far, less the allowed lateness."""
    reached = np.minimum(columns.time, columns.received) - lateness_ms
    return np.maximum(np.maximum.accumulate(reached), before)


def _raised(before: int, after: I64) -> int | None:
    raised = np.flatnonzero(np.diff(after, prepend=before) > 0)
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
    piece: slice,
    parts: list[Increments],
) -> None:
    """Histories, interest vectors and increments of the events of a piece that are no repeats."""
    of = user[piece]
    known = of >= 0
    is_fresh = np.zeros(len(of), dtype=bool)
    is_fresh[known], rows = fresh(result.rows, of[known], columns.id[piece][known])
    result.fresh[piece] = is_fresh
    events = np.flatnonzero(is_fresh) + piece.start
    result.last[user[events]] = events
    if result.forgotten:
        result.forgotten.difference_update([columns.user[at] for at in events.tolist()])
    low, high = np.searchsorted(columns.event, [piece.start, piece.stop])
    event, item = columns.event[low:high], columns.item[low:high]
    # A type of weight 0 (an item taken out of the cart) is no sign of interest; a purchase is remembered.
    held = result.fresh[event] & ((columns.units[event] > 0) | (columns.kind[event] == PURCHASE))
    event, item = event[held], item[held]
    rows, event, item = _without_noise(counting.noise, rows, result, columns, user, event, item)
    counts = ~result.tests[user[event]]
    parts.extend(_increments(counting, rows, columns, user, event[counts], item[counts]))
    time, kind, units = columns.time[event], columns.kind[event], columns.units[event]
    result.rows = advance(rows, user[event], item, kind, time, units, counting.interest, hashes)


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


def _increments(
    counting: Counting, rows: Rows, columns: Columns, user: I64, event: I32, item: I32
) -> list[Increments]:
    """Hits and pairs of interactions [n], in source order."""
    if not len(event):
        return []
    period, scaled = counting.decay.base(columns.time[event])
    units, source = columns.units[event], source_of(columns.offset[event], columns.index[event])
    pairs = window_pairs(tail(rows, counting.window), user[event], item)
    at, gap = pairs.at, pairs.gap

    def part(which: I64, row: I32, col: I32, kind: int, weight: I64) -> Increments:
        kinds = np.full(len(which), kind, dtype=np.uint8)
        return Increments(row, col, kinds, weight, source[which], columns.time[event[which]], period[which])

    everything = join(
        [
            part(np.arange(len(event)), item, item, HIT, units),
            part(
                at, pairs.earlier, pairs.later, FORWARD, apply(scaled[at], units[at], counting.forward[gap])
            ),
            part(
                at, pairs.later, pairs.earlier, BACKWARD, apply(scaled[at], units[at], counting.backward[gap])
            ),
        ]
    )
    return [everything.take(np.argsort(everything.source, kind="stable"))]


def _engage(engine: Engine, view: View, result: Result, columns: Columns, clock: Clock) -> None:
    """Run the triggers over what concerns them: their events, and the timers that fall due."""
    seen: dict[str, list[Seen]] = {}
    for at, event in columns.details.items():
        if result.fresh[at]:
            time, received = int(columns.time[at]), int(columns.received[at])
            seen.setdefault(columns.user[at], []).append(Seen(at, time, received, event.type, event))
    outcome = engagement.run(engine, view.engaged, seen, clock)
    result.engaged, result.alarms = outcome.states, outcome.alarms
    result.messages, result.decisions = outcome.messages, outcome.decisions


def _forget(result: Result, name: str, row: int) -> None:
    """Erase what counting holds of a user. What his events added to the items' sums stays there."""
    result.rows = result.rows.take(np.arange(len(result.rows)))
    result.rows.put(np.array([row]), Rows.blank(1, result.rows.bounds))
    result.forgotten.add(name)
