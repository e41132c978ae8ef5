from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.interest import Interest, add, cut, interest_top, joined
from stream.core.weights import PERIOD, SPAN, WEIGHT_BITS, Decay

HALF_LIFE_MS = 60_000
DECAY = Decay(HALF_LIFE_MS)
PERIOD_MS = PERIOD * HALF_LIFE_MS
START_MS = 1_700_000_000_000
# Item ids in an order other than their hashes', so that ties show which of the two decides.
HASHES = np.array([(i * 0x9E3779B97F4A7C15) % 2**64 for i in range(1, 400)], dtype=np.uint64)
# The higher bits tell no items apart.
CLOSE = np.array([(i * 7919) % 401 for i in range(1, 400)], dtype=np.uint64)

Event = tuple[int, int, list[tuple[int, int]]]  # row, time_ms, [(item, units)]
Held = tuple[int, int, int, int, int]  # weight, count, first, last, at


@dataclass
class Oracle:
    """One user's interest, one event after the other, in plain Python integers."""

    keep: int
    hashes: NDArray[np.uint64] = field(default_factory=lambda: HASHES)
    entries: dict[int, Held] = field(default_factory=dict)
    added: int = 0
    base: int = 0
    events: int = 0

    def add(self, time_ms: int, lines: list[tuple[int, int]]) -> None:
        lines = [line for line in lines if line[1] > 0]
        if not lines:
            return
        size = len({item for item, _ in lines})
        period = time_ms // PERIOD_MS
        if self.added == 0:
            self.base = period - 1
        while period > self.base + SPAN - 1:
            self.base += 1
            moved = {item: (held[0] >> PERIOD, *held[1:]) for item, held in self.entries.items()}
            self.entries = {item: held for item, held in moved.items() if held[0]}
        self.events += 1
        for item in dict.fromkeys(item for item, _ in lines):
            weight = sum(self.weight(time_ms, units, size) for each, units in lines if each == item)
            self.touch(item, weight, time_ms // 1000)
        before, self.added = self.added, self.added + len(lines)
        step = max(self.keep // 2, 1)
        if self.added // step > before // step:
            order = sorted(self.entries, key=lambda i: (-self.entries[i][0], int(self.hashes[i])))
            self.entries = {item: self.entries[item] for item in order[: self.keep]}

    def weight(self, time_ms: int, units: int, size: int) -> int:
        root = np.array([round(4096 / size**0.5)])
        periods, weights = DECAY.weigh(np.array([time_ms]), np.array([units]), root)
        shift = PERIOD * (int(periods[0]) - self.base)
        return int(weights[0]) << shift if shift >= 0 else int(weights[0]) >> -shift

    def touch(self, item: int, weight: int, second: int) -> None:
        if weight:
            old, count, first, last, _ = self.entries.get(item, (0, 0, second, second, 0))
            weight = min(old + weight, 2**WEIGHT_BITS - 1)
            self.entries[item] = (weight, count + 1, min(first, second), max(last, second), self.events)


def fold(old: Interest, events: list[Event], hashes: NDArray[np.uint64] = HASHES) -> Interest:
    lines = [
        (row, item, number, time_ms, units)
        for number, (row, time_ms, lines) in enumerate(events)
        for item, units in lines
    ]
    lines.sort(key=lambda line: line[0])
    row, item, event, time_ms, units = np.array(lines, dtype=np.int64).reshape(len(lines), 5).T
    return add(old, row, item.astype(np.int32), event, time_ms, units, DECAY, hashes)


def parts(events: list[Event], cuts: list[int]) -> list[list[Event]]:
    edges = [0, *sorted(c % (len(events) + 1) for c in cuts), len(events)]
    return [events[a:b] for a, b in pairwise(edges)]


def entries(users: Interest, row: int) -> dict[int, Held]:
    own = slice(users.start[row], users.start[row + 1])
    columns = (users.item, users.weight, users.count, users.first, users.last, users.at)
    return {item: tuple(held) for item, *held in zip(*(c[own].tolist() for c in columns), strict=True)}


def same(users: Interest, row: int, oracle: Oracle) -> None:
    found = entries(users, row)
    assert found == oracle.entries
    assert list(found) == sorted(found, key=lambda item: int(oracle.hashes[item]))
    assert (users.added[row], users.base[row], users.events[row]) == (
        oracle.added,
        oracle.base,
        oracle.events,
    )


def alike(users: Interest, others: Interest) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(astuple(users), astuple(others), strict=True))


def views(*items: int, row: int = 0, units: int = 8, time_ms: int = START_MS) -> list[Event]:
    return [(row, time_ms, [(item, units)]) for item in items]


# Mostly forward in time, with jumps over several landmark periods and late arrivals, few distinct weights.
steps = st.one_of(
    st.integers(0, HALF_LIFE_MS // 4),
    st.integers(-9 * PERIOD_MS, 9 * PERIOD_MS),
    st.just(0),
    st.just(PERIOD_MS),
)
lines = st.lists(st.tuples(st.integers(0, 24), st.sampled_from([0, 1, 8, 8, 8, 32])), min_size=1, max_size=5)
moves = st.lists(st.tuples(st.integers(0, 3), steps, lines), max_size=80)


def events_of(steps: list[tuple[int, int, list[tuple[int, int]]]]) -> list[Event]:
    now, events = START_MS, []
    for row, step, lines in steps:
        now += step
        events.append((row, now, lines))
    return events


@settings(deadline=None, max_examples=200)
@given(
    moves,
    st.integers(2, 9),
    st.lists(st.integers(0, 1000), max_size=5),
    st.sampled_from([HASHES, CLOSE]),
)
@example([(0, 0, [(n, 8) for n in range(5)])] * 9, 4, [3], CLOSE)
def test_any_batch_cut_is_one_by_one(
    steps: list[tuple[int, int, list[tuple[int, int]]]],
    keep: int,
    cuts: list[int],
    hashes: NDArray[np.uint64],
) -> None:
    events = events_of(steps)
    oracles = [Oracle(keep, hashes) for _ in range(4)]
    for row, time_ms, lines in events:
        oracles[row].add(time_ms, lines)
        assert len(oracles[row].entries) < 1.5 * keep
    users = Interest.blank(4, keep)
    for batch in parts(events, cuts):
        users = fold(users, batch, hashes)
    for row, oracle in enumerate(oracles):
        same(users, row, oracle)


def test_hot_user_with_many_cuts_and_periods_in_one_batch() -> None:
    rng = np.random.default_rng(5)
    times = START_MS + np.cumsum(rng.integers(0, HALF_LIFE_MS // 8, 3000))
    events: list[Event] = [
        (int(rng.random() < 0.1), int(time_ms), [(int(item), 8)])
        for item, time_ms in zip(rng.integers(0, 300, 3000), times, strict=True)
    ]
    oracles = [Oracle(32), Oracle(32)]
    for row, time_ms, lines in events:
        oracles[row].add(time_ms, lines)
    users = fold(Interest.blank(2, 32), events)
    assert int(users.base[0]) > START_MS // PERIOD_MS + 10
    for row, oracle in enumerate(oracles):
        same(users, row, oracle)


def test_equal_weights_are_cut_by_hash() -> None:
    users = fold(Interest.blank(1, 8), views(*range(12)))
    first = sorted(range(12), key=lambda i: int(HASHES[i]))[:8]
    assert sorted(entries(users, 0)) == sorted(first)
    users = fold(users, views(20, 21, 22, units=4))
    assert sorted(entries(users, 0)) == sorted([*first, 20, 21, 22])
    users = fold(users, views(23, units=4))
    assert sorted(entries(users, 0)) == sorted(first)


def test_an_item_of_a_basket_of_n_weighs_one_by_the_root_of_n() -> None:
    basket: Event = (0, START_MS, [(item, 8) for item in range(4)])
    held = entries(fold(Interest.blank(1, 8), [basket, *views(9)]), 0)
    assert held[0][0] * 2 == held[9][0]


def test_the_same_item_twice_in_an_event_is_one_of_its_items() -> None:
    held = entries(fold(Interest.blank(1, 8), [(0, START_MS, [(1, 8), (2, 8), (1, 8), (3, 0)])]), 0)
    assert held[1][0] == 2 * held[2][0] and 3 not in held
    assert held[1][1:] == held[2][1:] == (1, START_MS // 1000, START_MS // 1000, 1)


def test_a_late_event_keeps_first_last_and_number() -> None:
    times = (START_MS, START_MS + 9000, START_MS - 5000)
    users = Interest.blank(1, 8)
    for number, time_ms in enumerate(times):
        users = fold(users, views(1 if number != 1 else 2, time_ms=time_ms))
        users = fold(users, views(1, time_ms=times[1]) if number == 1 else [])
    second = START_MS // 1000
    assert entries(users, 0)[1][1:] == (3, second - 5, second + 9, 4)
    assert users.events.tolist() == [4] and users.added.tolist() == [4]


def test_sums_stop_at_their_bits() -> None:
    users = fold(Interest.blank(1, 8), views(1))
    users.weight[:], users.count[:] = 2**WEIGHT_BITS - 5, 2**20 - 2
    held = entries(fold(users, views(1, 1, 1)), 0)[1]
    assert held[:2] == (2**WEIGHT_BITS - 1, 2**20 - 1)


def test_order_of_equal_periods_makes_no_difference_to_the_sums() -> None:
    events = [one for i in range(20) for one in views(i % 5, time_ms=START_MS + i)]
    there, back = (fold(Interest.blank(1, 32), order) for order in (events, events[::-1]))
    assert [held[:4] for held in entries(there, 0).values()] == [
        held[:4] for held in entries(back, 0).values()
    ]


def test_add_is_pure() -> None:
    old = fold(Interest.blank(2, 4), [*views(1), *views(2, row=1)])
    before = old.take(np.arange(2))
    fold(old, views(*range(9), time_ms=START_MS + 9 * PERIOD_MS))
    assert alike(old, before)


def test_only_uncounted_interactions_change_nothing() -> None:
    old = fold(Interest.blank(1, 4), views(1))
    assert fold(old, views(2, units=0)) is old


some = st.lists(st.lists(st.integers(0, 30), max_size=6), min_size=1, max_size=6)


def users_with(held: list[list[int]]) -> Interest:
    return fold(
        Interest.blank(len(held), 8), [e for row, items in enumerate(held) for e in views(*items, row=row)]
    )


@given(some, st.data())
def test_taking_joining_and_replacing_users(held: list[list[int]], data: st.DataObject) -> None:
    users = users_with(held)
    at = np.array(data.draw(st.lists(st.integers(0, len(held) - 1), max_size=8)), dtype=np.int64)
    taken = users.take(at)
    assert [entries(taken, n) for n in range(len(at))] == [entries(users, row) for row in at.tolist()]
    assert taken.added.tolist() == users.added[at].tolist()
    assert alike(joined([users.take(np.arange(1)), users.take(np.arange(1, len(held)))]), users)
    rows = np.unique(at)
    others = users_with([[7, 8]] * len(rows))
    new = users.replaced(rows, others)
    for row in range(len(held)):
        wanted = entries(others, 0) if row in rows else entries(users, row)
        assert entries(new, row) == wanted


def test_cut_keeps_the_heaviest_of_the_named_users_alone() -> None:
    events = [e for row in range(2) for e in (*views(*range(4), row=row), *views(2, row=row))]
    users = fold(Interest.blank(2, 8), events)
    found = cut(replace(users, keep=2), np.array([1]))
    others = min((0, 1, 3), key=lambda i: int(HASHES[i]))
    assert entries(found, 0) == entries(users, 0)
    assert set(entries(found, 1)) == {2, others}


@pytest.mark.parametrize("n", [1, 3, 20])
def test_top_is_heaviest_first_ties_by_hash(n: int) -> None:
    item, weight = interest_top(fold(Interest.blank(2, 8), [*views(3, 1, 2), *views(7, units=32)]), n)
    wanted = [7, *sorted((1, 2, 3), key=lambda i: int(HASHES[i]))]
    assert item.shape == weight.shape == (2, n)
    assert item[0].tolist() == (wanted + [-1] * n)[:n]
    assert (item[1] == -1).all() and (weight[1] == 0).all()


def test_weight_is_worth_half_after_a_half_life() -> None:
    late = START_MS + HALF_LIFE_MS
    users = fold(Interest.blank(1, 8), [*views(1), *views(2, time_ms=late)])
    held = entries(users, 0)
    assert held[2][0] == 2 * held[1][0]
    factor = float(DECAY.age_factors(users.base[:1], np.array([late]))[0])
    assert held[2][0] * factor == pytest.approx(1.0, rel=0.003)
