"""What is usual for an item, and what the same weeks of last year had: from its weekly counts. Pure.

Popularity is a decayed sum; to be set against it, both are told as the popularity that a steady stream of so
many interactions a day would have,

    steady = Σ_{h<72} 2^(−h / half-life) / 24        (1.28 for one a day and a half-life of a day),

so that popularity / usual = 1 says "as always". With c_w the counts of week w, W the week of now, e the part
of it that has passed, H the long half-life in weeks, and K the weeks before it since the item's first event
(a part of a week counts for so much):

    usual  = steady / 7 · Σ_w c_w · 2^(−(W − w)/H) / (e + Σ_{a=1..K} 2^(−a/H))
    season = steady · (c_{W−53} + c_{W−52} + c_{W−51}) / 21

K + e is at least H: an item younger than one half-life is taken to have had nothing before, so that a new one
can be on the rise. 52 weeks are 364 days: a Monday is compared with Mondays.

Sums are whole numbers below 2^53, and so the same on every machine (`stream.core.trending`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.buckets import Buckets
from stream.core.trending import HOURS, WEEKS, factors
from stream.core.weights import TYPE_BITS

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_WEEK_S = 7 * 86_400
_SAME_WEEKS = range(51, 54)
"""Ages of last year's weeks that are compared with now."""


def steady(half_life_s: float) -> float:
    """The popularity of one interaction a day, that never changed."""
    table = factors(half_life_s, 3600, HOURS)
    return float(table.sum() / table[0] / 24)


def per_day(weeks: Buckets, items: I32, time_ms: I64, born_ms: I64, half_life_s: float) -> F64:
    """Interactions a day of items [m] at times [m] with the long half-life: [m]. ~0.6 µs an item.

    ``born_ms`` [m] the times of their first events, 0 unknown: long ago.
    """
    now = np.maximum(weeks.of(time_ms), weeks.newest_of(items))
    table = factors(half_life_s, _WEEK_S, WEEKS)
    counted = weeks.aged(items, now).astype(np.float64) @ table
    begins = weeks.start_ms(now)
    passed = np.clip((time_ms - begins) / weeks.span_ms, 0, 1)
    observed = np.maximum((begins - born_ms) / weeks.span_ms, half_life_s / _WEEK_S - passed)
    past = np.interp(observed, np.arange(WEEKS), np.cumsum(table) - table[0])
    found: F64 = counted / (7 * (table[0] * passed + past)) / (1 << TYPE_BITS)
    return found


def last_year(weeks: Buckets, items: I32, time_ms: I64) -> F64:
    """Interactions a day of items [m] in the same three weeks of last year as of times [m]: [m].

    0 where there were none, or nothing was counted then. ~0.1 µs an item.
    """
    now = np.maximum(weeks.of(time_ms), weeks.newest_of(items))
    counted = weeks.aged(items, now, _SAME_WEEKS)
    found: F64 = counted.sum(axis=1) / ((1 << TYPE_BITS) * 7 * counted.shape[1])
    return found
