"""Personal repeat and return: what the user had to do with before. Pure.

Three channels: "repeat", the decayed interest (each event counts 1/√size of its type's weight: personal
frequency weighted by basket size, half-life 90 days); "lately", the same with a half-life of 10 days;
"return", 1/(1 + age) with the age in the user's own events.

The interest keeps one half-life h. Of the other, k, it knows enough: of n events from first to last, the gap
G apart and the newest A ago, a half-life x leaves g(x) = 2^(−A/x) · (1 − q^n)/(1 − q), q = 2^(−G/x), so
"lately" is "repeat" · g(k)/g(h). On Complete Journey that ranks as well as sums kept with both half-lives.

The features say when it is due again: `FEATURES`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.interest import Interest
from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NAME = "repeat"
FEATURES = (
    "seen",
    "in newest event",
    "log count",
    "square of log count",
    "log age in events",
    "square of log age in events",
    "log count x log age in events",
    "log age in minutes",
    "square of log age in minutes",
    "log age / gap",
    "square of log age / gap",
    "had once",
    "seen x log events",
)
LATELY_DAYS = 10.0
_MOST_LOG = 3.0
_HOUR_MIN = 60.0
_DAY_S = 86_400.0
_LEAST_GAP = 1e-6


def entries(hood: Neighborhood, query: Query) -> Entries:
    """Channels "repeat", "lately", "return" of what the user had and may be shown.

    ~1.5 µs a user with 30 entries.
    """
    own = shown(hood, query)
    row, days = own.row, query.decay.half_life_ms / 1000 / _DAY_S
    repeat = own.weight * query.decay.age_factors(own.base, query.time_ms)[row]
    lately = repeat * _left(query, own, LATELY_DAYS) / _left(query, own, days)
    back = 1 / (1 + _age(own))
    place = np.arange(len(row)) - own.start[row]
    shape = (len(query), int(own.length.max(initial=0)))
    item = np.full(shape, -1, dtype=np.int32)
    item[row, place] = own.item
    values = np.zeros((3, *shape), dtype=np.float32)
    values[:, row, place] = repeat, lately, back
    return Entries(item, tuple(values), item, distinct=True)


def shown(hood: Neighborhood, query: Query) -> Interest:
    """The interest of users in what may be recommended: not blocked, the name known."""
    return query.interest.only(np.flatnonzero(hood.column.take(query.interest.item) > 0))


def features(hood: Neighborhood, query: Query) -> F32:
    """`FEATURES` of what `entries` gives: [13, m]. ~1.5 µs a user with 30 entries."""
    own = shown(hood, query)
    age, count = np.log1p(_age(own)), np.log(own.count)
    minutes = np.log1p(_seconds(query, own) / 60)
    due = np.log((_seconds(query, own) / 60 + _HOUR_MIN) / (_gap(own) / 60 + _HOUR_MIN))
    due = np.where(own.count > 1, np.clip(due, -_MOST_LOG, _MOST_LOG), 0.0)
    columns = (
        np.ones(len(age)), age == 0, count, count**2, age, age**2, count * age, minutes, minutes**2 / 10,
        due, due**2, own.count == 1, np.log1p(own.events)[own.row],
    )  # fmt: skip
    return np.stack([column.astype(np.float32) for column in columns])


def _age(own: Interest) -> F64:
    """Events of the user since each entry's newest: [m], 0 for those in his newest event."""
    return (own.events[own.row] - own.at).astype(np.float64)


def _seconds(query: Query, own: Interest) -> F64:
    """Time since each entry's newest event: [m]."""
    return np.maximum(query.time_ms[own.row] / 1000 - own.last, 0)


def _gap(own: Interest) -> F64:
    """Mean time between the events of each entry, in s: [m], 0 for those that had but one."""
    gaps: F64 = (own.last.astype(np.float64) - own.first) / np.maximum(own.count.astype(np.float64) - 1, 1)
    return gaps


def _left(query: Query, own: Interest, half_life_days: float) -> F64:
    """What a half-life leaves of the events of each entry, g of the module: [m]."""
    ratio = np.exp2(-np.maximum(_gap(own) / _DAY_S, _LEAST_GAP) / half_life_days)
    series = np.where(own.count > 1, (1 - ratio**own.count) / (1 - ratio), 1.0)
    left: F64 = np.exp2(-_seconds(query, own) / _DAY_S / half_life_days) * series
    return left
