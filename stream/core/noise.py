"""What users do that says nothing about items: bots, repeated clicks, test accounts. Pure.

All of it is judged by the user's own stream in its order, so that cutting batches changes nothing:

* **Bots.** Event time is cut into windows of W ms from 1970. ``n(w)`` is how many events that act on items a
  user has sent in window w so far, and w the newest window of all. His rate when an event of time t comes is
  ``n(w) + n(w − 1) · (1 − f)``, with f the part of w that has passed at t: a sliding window, counted in two
  whole ones (the sliding window counter of rate limiters). An event that takes it above the setting does not
  count. Events that do not count are part of the rate: who goes on as fast stays out. Late events are
  judged as of the beginning of w. A list that is shown to a user while he is above it does not count either,
  and is no part of the rate. One word a user: w · 2^32 + n(w) · 2^16 + n(w − 1).
* **Repeats.** An interaction is a repeat when one of the user's history (the last L that counted) has the
  same item and type and is less than R whole seconds away, the unit in which histories tell time. What
  one event names twice is no repeat.
* **Tests.** Users whose id matches a pattern. They have history and lists like everybody; nothing of theirs
  reaches the items.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

import numpy as np
from numpy.typing import NDArray

from stream.core.runs import begins
from stream.core.users import Rows
from stream.settings import Settings

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

_MOST = 0xFFFF
"""Where a count of the rate stops; the setting lies far below."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What is noise: more than ``most`` events in ``window_ms`` (0: never), the same within ``repeat_s``
    seconds (0: never), users whose whole id ``tests`` matches (None: nobody)."""

    most: int
    window_ms: int
    repeat_s: int
    tests: re.Pattern[str] | None

    @classmethod
    def of(cls, settings: Settings) -> Noise:
        """From the settings."""
        patterns = "|".join(translate(pattern) for pattern in settings.test_users)
        tests = re.compile(patterns) if patterns else None
        return cls(settings.bot_events, int(settings.bot_window_s * 1000), settings.repeat_s, tests)


def test_accounts(noise: Noise, names: Sequence[str]) -> Bool:
    """Which users [U] are test accounts. Free without patterns, else 0.5 µs a user."""
    if noise.tests is None:
        return np.zeros(len(names), dtype=np.bool_)
    match = noise.tests.match
    return np.array([match(name) is not None for name in names], dtype=np.bool_)


test_accounts.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def judge(
    noise: Noise, rows: Rows, user: I64, item: I32, kind: U8, time_ms: I64, event: I32
) -> tuple[Bool, I64]:
    """Which interactions [N] are no noise, and the users' new rates [U].

    ``user`` [N] row of each interaction, ``item`` [N], ``kind`` [N], ``time_ms`` [N], ``event`` [N] number of
    its event, ascending. ~0.2 µs an interaction; users who may be bots or repeat themselves go
    one by one, ~2 µs each.
    """
    if not len(user):
        return np.ones(0, dtype=np.bool_), rows.rate
    counts = np.ones(len(user), dtype=np.bool_)
    rate = rows.rate
    if noise.most:
        new = begins(event)
        first = np.flatnonzero(new)
        fast, rate = _bots(noise, rate, user[first], time_ms[first])
        counts = ~fast[np.cumsum(new) - 1]
    if noise.repeat_s:
        at = np.flatnonzero(counts)
        second = time_ms // 1000
        suspects = _suspects(noise.repeat_s, rows, user[at], item[at], kind[at], second[at])
        if suspects.any():
            at = at[suspects[user[at]]]
            repeats = _repeats(noise.repeat_s, rows, user[at], item[at], kind[at], second[at], event[at])
            counts[at[repeats]] = False
    return counts, rate


# Bots


def shown_to_bots(noise: Noise, rate: I64, user: I64, time_ms: I64, acts: Bool) -> Bool:
    """Which events [n], in order, are lists shown to users above the rate.

    ``rate`` [U] before them, ``user`` [n] rows, ``time_ms`` [n]; ``acts`` [n]: the others, of which the rate
    is made. ~0.1 µs an event; those of users who may be bots go one by one, ~1 µs each.
    """
    _, now, before = _unpacked(rate)
    suspects = now + before + np.bincount(user[acts], minlength=len(rate)) > noise.most
    beyond = np.zeros(len(user), dtype=np.bool_)
    at = np.flatnonzero(suspects[user])
    beyond[at] = _beyond(noise, rate, user[at], time_ms[at], acts[at])
    return beyond & ~acts


def _unpacked(rate: I64) -> tuple[I64, I64, I64]:
    """Newest window, events in it, events in the one before."""
    return rate >> 32, rate >> 16 & _MOST, rate & _MOST


def _bots(noise: Noise, rate: I64, user: I64, time_ms: I64) -> tuple[Bool, I64]:
    """Which events [n] are beyond the rate, and the new rates [U]."""
    window = time_ms // noise.window_ms
    old, now, before = _unpacked(rate)
    newest = old.copy()
    np.maximum.at(newest, user, window)
    size, last = len(rate), newest[user]
    # Both counts are of whole windows, whatever came in which order.
    held = np.bincount(user[window == last], minlength=size)
    held_before = np.bincount(user[window == last - 1], minlength=size)
    moved = newest - old
    held += np.where(moved == 0, now, 0)
    held_before += np.where(moved == 0, before, np.where(moved == 1, now, 0))
    new = newest << 32 | np.minimum(held, _MOST) << 16 | np.minimum(held_before, _MOST)
    fast = np.zeros(len(user), dtype=np.bool_)
    suspects = now + before + np.bincount(user, minlength=size) > noise.most
    if suspects.any():
        at = np.flatnonzero(suspects[user])
        fast[at] = _beyond(noise, rate, user[at], time_ms[at], np.ones(len(at), dtype=np.bool_))
    return fast, new


def _beyond(noise: Noise, rate: I64, user: I64, time_ms: I64, acts: Bool) -> list[bool]:
    """Which events, in order, find their user above the rate, those that act counted in: one by one."""
    size, found = noise.window_ms, []
    states: dict[int, tuple[int, int, int]] = {}
    for row, time, act in zip(user.tolist(), time_ms.tolist(), acts.tolist(), strict=True):
        if row not in states:
            packed = int(rate[row])
            states[row] = packed >> 32, packed >> 16 & _MOST, packed & _MOST
        window, now, before = _counted(states[row], time // size, int(act))
        if act:
            states[row] = window, now, before
        left = size - max(time - window * size, 0)
        found.append(now * size + before * left > noise.most * size)
    return found


def _counted(state: tuple[int, int, int], window: int, more: int) -> tuple[int, int, int]:
    """The rate of a user after ``more`` events in a window."""
    newest, now, before = state
    if window > newest:
        return window, more, now if window == newest + 1 else 0
    if window == newest:
        return newest, min(now + more, _MOST), before
    return newest, now, min(before + more * (window == newest - 1), _MOST)


# Repeats


def _suspects(within: int, rows: Rows, user: I64, item: I32, kind: U8, second: I64) -> Bool:
    """Users [U] one of whose interactions may repeat one of the history, or of the batch."""
    suspects = np.zeros(len(rows), dtype=np.bool_)
    near = np.flatnonzero(second - rows.newest[user] // 1000 < within)
    if near.size:
        row = user[near]
        same = (rows.item[row] == item[near, None]) & (rows.kind[row] == kind[near, None])
        close = np.abs(rows.time[row].astype(np.int64) - second[near, None]) < within
        suspects[row[(same & close).any(axis=1)]] = True
    key = user << 40 | item.astype(np.int64) << 8 | kind
    ordered = np.sort(key)
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((second, key))
        key, second = key[order], second[order]
        close = (key[1:] == key[:-1]) & (np.diff(second) < within)
        suspects[user[order[1:][close]]] = True
    return suspects


def _repeats(within: int, rows: Rows, user: I64, item: I32, kind: U8, second: I64, event: I32) -> Bool:
    """Which interactions, in order, are repeats: exact, one by one."""
    histories: dict[int, deque[tuple[int, int, int]]] = {}
    earlier: tuple[tuple[int, int, int], ...] = ()
    repeats: list[bool] = []
    now = -1
    columns = (user, item, kind, second, event)
    for row, what, how, when, number in zip(*(column.tolist() for column in columns), strict=True):
        if (history := histories.get(row)) is None:
            history = histories[row] = deque(_history(rows, row), maxlen=rows.item.shape[1])
        if number != now:
            earlier, now = tuple(history), number
        again = any(w == what and h == how and abs(s - when) < within for w, h, s in earlier)
        repeats.append(again)
        if not again:
            history.append((what, how, when))
    return np.array(repeats, dtype=np.bool_)


def _history(rows: Rows, row: int) -> list[tuple[int, int, int]]:
    """A user's history: item, kind, second; oldest first."""
    held = np.flatnonzero(rows.item[row] >= 0)
    columns = (rows.item[row, held], rows.kind[row, held], rows.time[row, held])
    return list(zip(*(column.tolist() for column in columns), strict=True))
