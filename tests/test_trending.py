from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.items import Items, item_hash
from stream.core.leaders import Leaders, falling
from stream.core.trending import HOURS, WEEKS, Popularity, merge, read_top, top_record

HOUR = 3_600_000
FIRST = 490_000
NAMES = [f"i{at}" for at in range(5)]
EVENT = st.tuples(
    st.sampled_from(NAMES),
    st.one_of(
        st.integers(FIRST * HOUR, (FIRST + 100) * HOUR), st.integers(FIRST * HOUR, (FIRST + 13_000) * HOUR)
    ),
    st.integers(0, 128),
)
Events = list[tuple[str, int, int]]


def add(popularity: Popularity, items: Items, events: Events) -> None:
    popularity.add(
        items.ids(name for name, _, _ in events),
        np.array([time for _, time, _ in events], dtype=np.int64),
        np.array([units for _, _, units in events], dtype=np.int64),
    )


def fresh(events: Events = []) -> tuple[Popularity, Items]:  # noqa: B006 - never changed
    items = Items()
    items.ids(NAMES)
    popularity = Popularity(items)
    add(popularity, items, events)
    return popularity, items


def everything(items: Items) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.arange(len(items), dtype=np.int32)


def buckets(events: Events) -> dict[str, dict[int, int]]:
    """Oracle: (item → hour → units) within 72 hours of each item's newest hour."""
    return windows(events, lambda time: time // HOUR, HOURS)


def weekly(events: Events) -> dict[str, dict[int, int]]:
    """Oracle: (item → week → units) within 54 weeks of each item's newest week."""
    return windows(events, week_of, WEEKS)


def week_of(time_ms: int) -> int:
    """Weeks since the one of 1 January 1970, by the calendar."""
    day = date(1970, 1, 1) + timedelta(days=time_ms // (24 * HOUR))
    monday = day - timedelta(days=day.weekday())
    return (monday - date(1969, 12, 29)).days // 7


def windows(events: Events, bucket: Callable[[int], int], most: int) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for name, time, units in events:
        if units:
            found[name][bucket(time)] += units
    return {
        name: {at: min(units, 2**28 - 1) for at, units in each.items() if at > max(each) - most}
        for name, each in found.items()
    }


def section(hours: dict[int, int], form: str = "<iI") -> bytes:
    return struct.pack("<H", len(hours)) + b"".join(
        struct.pack(form, *pair) for pair in sorted(hours.items())
    )


def sections(events: Events, names: list[str]) -> list[bytes]:
    """What is stored of items: hours, then weeks."""
    hours, weeks = buckets(events), weekly(events)
    return [section(hours.get(name, {})) + section(weeks.get(name, {}), "<HI") for name in names]


@given(st.lists(EVENT, max_size=40))
def test_buckets_are_those_of_a_dictionary(events: Events) -> None:
    popularity, items = fresh(events)
    assert popularity.pack(items.ids(NAMES)) == sections(events, NAMES)


@given(
    st.lists(EVENT, max_size=30), st.randoms(use_true_random=False), st.lists(st.integers(0, 30), max_size=4)
)
def test_order_and_cuts_change_nothing(events: Events, random: object, cuts: list[int]) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined] # Hypothesis gives a random.Random
    popularity, items = fresh()
    bounds = [0, *sorted(cuts), len(shuffled)]
    for start, end in pairwise(bounds):
        add(popularity, items, shuffled[start:end])
    expected, others = fresh(events)
    np.testing.assert_array_equal(popularity.hours.newest, expected.hours.newest)
    assert popularity.pack(everything(items)) == expected.pack(everything(others))


@given(st.lists(EVENT, max_size=30), st.integers(0, 2), st.sampled_from([3600.0, 86_400.0, 200_000.0]))
def test_top_is_that_of_brute_force(events: Events, later: int, half_life_s: float) -> None:
    popularity, items = fresh(events)
    held = buckets(events)
    newest = max((max(hours) for hours in held.values()), default=0)
    now = newest + later * 10
    exact = {
        name: sum(
            units * 2.0 ** (-(now - hour) * 3600 / half_life_s)
            for hour, units in hours.items()
            if hour > now - HOURS
        )
        / 8
        for name, hours in held.items()
    }
    top, scores = popularity.top(everything(items), 3, half_life_s, now)
    names = [items.name(at) for at in top.tolist()]
    # The table rounds a factor to 2^-18, so each count may be off by half of that.
    slack = {name: sum(hours.values()) * 2.0**-19 / 8 + 1e-9 for name, hours in held.items()}
    for name, score in zip(names, scores.tolist(), strict=True):
        assert abs(score - exact[name]) <= slack[name]
    left = [exact[name] - slack[name] for name in exact if name not in names]
    if len(names) == 3:
        assert all(score <= scores[-1] + max(slack.values()) for score in left)
    else:
        assert all(score <= max(slack.values()) for score in left)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    np.testing.assert_array_equal(popularity.scores(top, half_life_s, now), scores)
    if not later:
        same, _ = popularity.top(everything(items), 3, half_life_s)
        np.testing.assert_array_equal(same, top)


@given(st.lists(EVENT, max_size=30), st.lists(EVENT, max_size=10))
def test_what_is_packed_goes_on_as_if_it_had_stayed(before: Events, after: Events) -> None:
    popularity, items = fresh(before)
    stored = popularity.pack(everything(items))
    loaded, others = fresh([("i0", (FIRST + 20_000) * HOUR, 8)])
    loaded.unpack(others.ids(NAMES), stored)
    for one, dictionary in ((popularity, items), (loaded, others)):
        add(one, dictionary, after)
    for name in ("hours", "weeks"):
        for array in ("newest", "counts"):
            found, expected = (getattr(getattr(of, name), array) for of in (loaded, popularity))
            np.testing.assert_array_equal(found, expected)


def test_ties_go_by_ascending_hash_and_dropped_items_are_gone() -> None:
    popularity, items = fresh([(name, FIRST * HOUR, 8) for name in NAMES])
    top, scores = popularity.top(everything(items), 9, 86_400.0)
    assert [items.name(at) for at in top.tolist()] == sorted(NAMES, key=item_hash)
    assert scores.tolist() == [1.0] * 5
    popularity.drop(items.ids(NAMES[:3]))
    top, _ = popularity.top(everything(items), 9, 86_400.0)
    assert {items.name(at) for at in top.tolist()} == set(NAMES[3:])
    assert popularity.pack(items.ids(NAMES[:1])) == [b"\0\0" * 2]


def test_what_comes_after_its_window_is_dropped_and_counted() -> None:
    first = [("i0", (FIRST + HOURS) * HOUR, 8)]
    late = [("i0", (FIRST + 1) * HOUR - 1, 8), ("i0", (FIRST + 1) * HOUR, 8), ("i1", FIRST * HOUR, 8)]
    popularity, items = fresh(first)
    add(popularity, items, late)
    assert popularity.dropped == 1
    assert popularity.pack(items.ids(["i0"])) == sections(first + late, ["i0"])
    hours = section({FIRST + 1: 8, FIRST + HOURS: 8})
    assert popularity.pack(items.ids(["i0"]))[0].startswith(hours)


def test_a_bucket_saturates() -> None:
    popularity, items = fresh([("i0", FIRST * HOUR, 2**28 - 5), ("i0", FIRST * HOUR, 128)])
    add(popularity, items, [("i0", FIRST * HOUR, 128)])
    most, week = 2**28 - 1, week_of(FIRST * HOUR)
    assert popularity.pack(items.ids(["i0"])) == [section({FIRST: most}) + section({week: most}, "<HI")]


def test_scores_of_full_buckets_are_exact() -> None:
    """The largest sums there can be, against integers of any size."""
    hours = {FIRST + at: 2**28 - 1 - at for at in range(HOURS)}
    popularity, items = fresh()
    popularity.unpack(items.ids(["i0"]), [section(hours)])
    now = FIRST + HOURS - 1
    factors = [round(2 ** (18 - (now - hour) / 24)) for hour in hours]
    expected = sum(count * factor for count, factor in zip(hours.values(), factors, strict=True))
    (score,) = popularity.scores(items.ids(["i0"]), 86_400.0, now).tolist()
    assert int(score * 2**21) == expected


def test_the_newest_hour_stands_for_an_earlier_one() -> None:
    popularity, items = fresh([("i0", (FIRST + 9) * HOUR, 8), ("i1", FIRST * HOUR, 8)])
    asked = popularity.scores(items.ids(["i0", "i1"]), 3 * 3600.0, FIRST)
    assert asked.tolist() == [1.0, 0.125]


def test_the_arrays_grow_with_the_dictionary() -> None:
    popularity, items = fresh()
    names = [f"n{at}" for at in range(5000)]
    add(popularity, items, [(name, FIRST * HOUR, 8) for name in names])
    assert len(popularity.top(everything(items), 10_000, 86_400.0)[0]) == 5000
    items.add("later")
    assert popularity.scores(items.ids(["later"]), 86_400.0, FIRST).tolist() == [0.0]


WHOLE = section({FIRST: 1}) + section({2916: 1}, "<HI")


@pytest.mark.parametrize(
    "damaged",
    [
        *(b"\1\0", b"\0\0x", b"\1", WHOLE[:9], WHOLE[:-1], WHOLE + b"x", section({FIRST: 2**28})),
        section(dict.fromkeys(range(FIRST, FIRST + 73), 1)),
        b"\0\0" + section(dict.fromkeys(range(55), 1), "<HI"),
    ],
)
def test_damaged_sections_are_refused(damaged: bytes) -> None:
    popularity, items = fresh()
    with pytest.raises(ValueError, match="damaged"):
        popularity.unpack(items.ids(["i0", "i1"]), [WHOLE, damaged])


def test_an_item_never_seen_has_no_section() -> None:
    popularity, items = fresh([("i0", FIRST * HOUR, 8)])
    stored = section({FIRST: 4}) + section({2916: 8}, "<HI")
    popularity.unpack(items.ids(["i0", "i1"]), [b"", stored])
    assert popularity.pack(items.ids(["i0", "i1"])) == [b"\0\0" * 2, stored]


def test_before_format_2_no_weeks_were_counted() -> None:
    popularity, items = fresh([("i0", FIRST * HOUR, 8)])
    popularity.unpack(items.ids(["i0"]), [section({FIRST: 4})])
    assert popularity.pack(items.ids(["i0"])) == [section({FIRST: 4}) + b"\0\0"]


def test_merging_brings_partitions_to_one_hour() -> None:
    records = [
        read_top(top_record(0, "v", FIRST, 86_400.0, [("a", 8.0), ("b", 2.0)])),
        read_top(top_record(1, "v", FIRST + 24, 86_400.0, [("c", 3.0), ("d", 1.0)])),
    ]
    assert merge(records, 3) == [
        ("a", 4.0),
        ("c", 3.0),
        *sorted([("b", 1.0), ("d", 1.0)], key=lambda x: item_hash(x[0]))[:1],
    ]
    assert merge([], 3) == []
    assert merge(records[::-1], 9) == merge(records, 9)


ROUND = st.lists(
    st.tuples(st.integers(0, 39), st.integers(-80, 5), st.sampled_from([0, 1, 8, 9, 64, 800])), max_size=25
)


@given(st.lists(ROUND, max_size=12), st.lists(st.integers(0, 80), min_size=12), st.integers(1, 3))
def test_leaders_are_those_of_all_items(
    rounds: list[list[tuple[int, int, int]]], rests: list[int], half_life_h: int
) -> None:
    items, now = Items(), FIRST
    items.ids(f"i{at}" for at in range(40))
    popularity, half_life_s = Popularity(items), half_life_h**3 * 3600.0
    leaders = Leaders(popularity, 2, half_life_s)
    for events, rest in zip(rounds, rests, strict=False):
        now += rest
        add(popularity, items, [(f"i{at}", (now + hour) * HOUR, units) for at, hour, units in events])
        leaders.touch(np.array([at for at, _, _ in events], dtype=np.int32))
        found, scores = leaders.top(lambda: everything(items))
        expected, best = popularity.top(everything(items), 2, half_life_s)
        assert found.tolist() == expected.tolist()
        assert scores.tolist() == best.tolist()
        assert leaders.hour == popularity.newest_hour(everything(items))


def test_leaders_seldom_look_at_all_items() -> None:
    items, random = Items(), np.random.default_rng(3)
    names = [f"i{at}" for at in range(2000)]
    items.ids(names)
    popularity = Popularity(items)
    leaders = Leaders(popularity, 10, 86_400.0)
    for turn in range(300):
        at = (random.pareto(1.0, 50) * 20).astype(np.int64) % 2000
        popularity.add(at.astype(np.int32), np.full(50, (FIRST + turn) * HOUR), np.full(50, 8))
        leaders.touch(at.astype(np.int32))
        found, _ = leaders.top(lambda: everything(items))
        assert found.tolist() == popularity.top(everything(items), 10, 86_400.0)[0].tolist()
    assert leaders.wholes <= 3


@pytest.mark.parametrize("half_life_s", [1800.0, 86_400.0, 1e6])
def test_no_rest_keeps_more_of_a_score_than_the_bound_says(half_life_s: float) -> None:
    popularity, items = fresh()
    for age in range(HOURS):
        add(popularity, items, [("i0", (FIRST + 1000 * age) * HOUR, 8)])
        at, now = items.ids(["i0"]), FIRST + 1000 * age
        before = popularity.scores(at, half_life_s, now + age)[0]
        for rest in (0, 1, 5, HOURS - 1, HOURS, 2 * HOURS):
            after = popularity.scores(at, half_life_s, now + age + rest)[0]
            assert after <= before * falling(half_life_s, rest) * (1 + 1e-12)


def test_items_below_the_leaders_rise_when_those_leave_the_window() -> None:
    items = Items()
    items.ids(f"i{at}" for at in range(40))
    popularity, half_life_s = Popularity(items), 1e6
    leaders = Leaders(popularity, 2, half_life_s)

    def best(lines: dict[int, int], hour: int) -> list[str]:
        add(popularity, items, [(f"i{at}", (FIRST + hour) * HOUR, units) for at, units in lines.items()])
        leaders.touch(np.array(list(lines), dtype=np.int32))
        found, _ = leaders.top(lambda: everything(items))
        assert found.tolist() == popularity.top(everything(items), 2, half_life_s)[0].tolist()
        return [items.name(at) for at in found.tolist()]

    assert best({at: 800 - at for at in range(8)}, 0) == ["i0", "i1"]
    assert best({at: 80 - at for at in range(10, 30)}, 60) == ["i0", "i1"]
    assert best({31: 8, 32: 9}, HOURS - 1) == ["i0", "i1"]
    assert best({33: 10}, HOURS) == ["i10", "i11"]
    assert leaders.wholes == 1
