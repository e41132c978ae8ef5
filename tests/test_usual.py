"""What is usual and what last year had, against sums written out in plain Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.items import Items
from stream.core.trending import Popularity
from stream.core.usual import last_year, per_day, steady
from tests.test_trending import HOUR, NAMES, Events, fresh, week_of

DAY_S = 86_400
DAY, WEEK = 24 * HOUR, 168 * HOUR
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * 1000
USUAL = 28.0 * DAY_S
TIME = st.integers(MONDAY - 60 * WEEK, MONDAY + WEEK - 1)
EVENT = st.tuples(st.sampled_from(NAMES), TIME, st.integers(1, 128))


def in_week(events: Events, name: str, week: int) -> int:
    """Units of an item in a week that its window still has."""
    mine = [(week_of(time), units) for item, time, units in events if item == name]
    newest = max((at for at, _ in mine), default=0)
    return sum(units for at, units in mine if at == week and at > newest - 54)


def usual_of(events: Events, name: str, now_ms: int, born_ms: int, half_life_weeks: float) -> float:
    now, monday = week_of(now_ms), MONDAY + (week_of(now_ms) - week_of(MONDAY)) * WEEK
    passed = (now_ms - monday) / WEEK
    weeks = min(max((monday - born_ms) / WEEK, half_life_weeks - passed), 53)
    counted = sum(in_week(events, name, now - age) * 2 ** (-age / half_life_weeks) for age in range(54)) / 8
    past = sum(min(weeks - age + 1, 1) * 2 ** (-age / half_life_weeks) for age in range(1, ceil(weeks) + 1))
    return float(counted / 7 / (passed + past))


@given(st.lists(EVENT, max_size=40), st.sampled_from([1.0, 2.5, 4.0, 52.0]), st.integers(0, WEEK - 1), TIME)
def test_usual_is_that_of_plain_python(events: Events, weeks: float, later: int, born: int) -> None:
    popularity, items = fresh(events)
    now = MONDAY + later
    events = [event for event in events if event[1] <= now]
    popularity, items = fresh(events)
    ids, n = items.ids(NAMES), len(NAMES)
    found = per_day(popularity.weeks, ids, np.full(n, now), np.full(n, born), weeks * 7 * DAY_S)
    expected = [usual_of(events, name, now, born, weeks) for name in NAMES]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@given(st.lists(EVENT, max_size=40))
def test_last_year_is_the_mean_of_three_weeks_around_this_one(events: Events) -> None:
    popularity, items = fresh(events)
    now = week_of(MONDAY)
    found = last_year(popularity.weeks, items.ids(NAMES), np.full(len(NAMES), MONDAY + WEEK - 1))
    expected = [sum(in_week(events, name, now - age) for age in (51, 52, 53)) / 8 / 21 for name in NAMES]
    np.testing.assert_array_equal(found, expected)


def stream_of(per_day: int, days: int, until: int = MONDAY) -> Events:
    """So many views a day, evenly, up to a moment."""
    every = DAY // per_day
    return [("i0", at, 8) for at in range(until - days * DAY, until, every)]


@pytest.mark.parametrize("half_life_s", [6 * 3600.0, 86_400.0, 10 * 86_400.0])
def test_as_always_is_one(half_life_s: float) -> None:
    """Popularity and usual of a steady stream are the same, in a young shop and in an old one."""
    for days in (30, 100, 400):
        popularity, items = fresh(stream_of(24, days))
        ids, last = items.ids(["i0"]), MONDAY - HOUR
        born = np.array([MONDAY - days * DAY])
        usual = per_day(popularity.weeks, ids, np.array([last]), born, USUAL) * steady(half_life_s)
        now = popularity.rested(ids, half_life_s, np.array([last]))[0]
        assert now == pytest.approx(usual[0], rel=0.05)
        later = popularity.rested(ids, half_life_s, np.array([last + 6 * HOUR]))[0]
        assert later == pytest.approx(now * 2 ** (-6 * 3600 / half_life_s))


def test_one_a_day_is_steady_at_the_sum_over_its_hours() -> None:
    expected = sum(2 ** (-hour / 24) for hour in range(72)) / 24
    assert steady(86_400.0) == pytest.approx(expected, rel=1e-5)
    assert steady(86_400.0) == pytest.approx(1.28, abs=0.005)


def test_a_new_item_had_nothing_before_and_an_old_one_that_sleeps_fades() -> None:
    popularity, items = fresh([("i0", MONDAY - DAY, 8 * 28)])
    ids, now = items.ids(["i0"]), np.array([MONDAY])
    new = per_day(popularity.weeks, ids, now, now - DAY, USUAL)[0]
    old = per_day(popularity.weeks, ids, now, np.array([0]), USUAL)[0]
    assert old < new < 28 / 14, "28 within a day, against at least a half-life"
    asleep = per_day(popularity.weeks, ids, now + 4 * WEEK, np.array([0]), USUAL)[0]
    assert asleep == pytest.approx(old / 2, rel=0.01)


def test_a_yearly_peak_is_found_when_its_weeks_come_again() -> None:
    """An item is sold every November, and nothing of it since; a window of 54 weeks still knows."""
    peak = datetime(2025, 11, 17, tzinfo=UTC)
    sold = [("i0", int((peak + timedelta(days=day)).timestamp()) * 1000, 80) for day in range(7)]
    popularity, items = fresh(sold)
    ids, found = items.ids(["i0"]), {}
    for week in range(60):
        at = peak + timedelta(weeks=week)
        moment = np.array([int(at.timestamp()) * 1000])
        found[week] = float(last_year(popularity.weeks, ids, moment)[0])
    assert {week for week, rate in found.items() if rate > 0} == {51, 52, 53}
    assert found[52] == pytest.approx(70 / 21)


def test_an_item_that_is_not_known_has_nothing() -> None:
    items = Items()
    weeks = Popularity(items).weeks
    ids, now = items.ids(["x"]), np.array([MONDAY])
    assert per_day(weeks, ids, now, np.array([0]), USUAL).tolist() == [0.0]
    assert last_year(weeks, ids, now).tolist() == [0.0] and not isnan(steady(3600.0))
