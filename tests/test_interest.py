from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.interest import Interest, add, interest_top
from stream.core.weights import PERIOD, SPAN, Decay

HALF_LIFE_MS = 60_000
DECAY = Decay(HALF_LIFE_MS)
PERIOD_MS = PERIOD * HALF_LIFE_MS
START_MS = 1_700_000_000_000
# Item ids in an order other than their hashes', so that ties show which of the two decides.
HASHES = np.array([(i * 0x9E3779B97F4A7C15) % 2**64 for i in range(1, 400)], dtype=np.uint64)

Click = tuple[int, int, int, int]  # row, item, time_ms, units


@dataclass
class Oracle:
    """One user's interest, one interaction after the other, in plain Python integers."""

    keep: int
    entries: dict[int, int] = field(default_factory=dict)
    added: int = 0
    base: int = 0

    def add(self, item: int, time_ms: int, units: int) -> None:
        if units == 0:
            return
        periods, weights = DECAY.weigh(np.array([time_ms]), np.array([units]))
        period, weight = int(periods[0]), int(weights[0])
        if self.added == 0:
            self.base = period - 1
        while period > self.base + SPAN - 1:
            self.base += 1
            self.entries = {i: w >> PERIOD for i, w in self.entries.items() if w >> PERIOD}
        shift = PERIOD * (period - self.base)
        weight = weight << shift if shift >= 0 else weight >> -shift
        if weight:
            self.entries[item] = self.entries.get(item, 0) + weight
        self.added += 1
        if self.added % self.keep == 0:
            order = sorted(self.entries, key=lambda i: (-self.entries[i], int(HASHES[i])))
            kept = set(order[: self.keep])
            self.entries = {i: w for i, w in self.entries.items() if i in kept}


def fold(old: Interest, clicks: list[Click]) -> Interest:
    clicks = sorted(clicks, key=lambda click: click[0])
    columns = np.array(clicks, dtype=np.int64).reshape(len(clicks), 4).T
    return add(old, columns[0], columns[1].astype(np.int32), columns[2], columns[3], DECAY, HASHES)


def cut(clicks: list[Click], cuts: list[int]) -> list[list[Click]]:
    edges = [0, *sorted(c % (len(clicks) + 1) for c in cuts), len(clicks)]
    return [clicks[a:b] for a, b in pairwise(edges)]


def entries(users: Interest, row: int) -> dict[int, int]:
    held = users.item[row] >= 0
    assert (users.weight[row][~held] == 0).all() and (users.weight[row][held] > 0).all()
    assert not held[np.count_nonzero(held) :].any()
    return dict(zip(users.item[row][held].tolist(), users.weight[row][held].tolist(), strict=True))


def same(users: Interest, row: int, oracle: Oracle) -> None:
    assert list(entries(users, row).items()) == list(oracle.entries.items())
    assert (users.added[row], users.base[row]) == (oracle.added, oracle.base)


# Mostly forward in time, with jumps over several landmark periods and late arrivals, few distinct weights.
steps = st.one_of(
    st.integers(0, HALF_LIFE_MS // 4),
    st.integers(-9 * PERIOD_MS, 9 * PERIOD_MS),
    st.just(0),
    st.just(PERIOD_MS),
)
moves = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 24), steps, st.sampled_from([0, 1, 8, 8, 8, 32])),
    max_size=150,
)


def clicks_of(steps: list[tuple[int, int, int, int]]) -> list[Click]:
    now, clicks = START_MS, []
    for row, item, step, units in steps:
        now += step
        clicks.append((row, item, now, units))
    return clicks


@settings(deadline=None, max_examples=150)
@given(moves, st.integers(1, 9), st.lists(st.integers(0, 1000), max_size=5))
def test_any_batch_cut_is_one_by_one(
    steps: list[tuple[int, int, int, int]], keep: int, cuts: list[int]
) -> None:
    clicks = clicks_of(steps)
    oracles = [Oracle(keep) for _ in range(4)]
    for row, item, time_ms, units in clicks:
        oracles[row].add(item, time_ms, units)
    users = Interest.blank(4, keep)
    for batch in cut(clicks, cuts):
        users = fold(users, batch)
    for row, oracle in enumerate(oracles):
        same(users, row, oracle)


def test_hot_user_with_many_cuts_and_periods_in_one_batch() -> None:
    rng = np.random.default_rng(5)
    times = START_MS + np.cumsum(rng.integers(0, HALF_LIFE_MS // 8, 3000))
    clicks: list[Click] = [
        (int(rng.random() < 0.1), int(i), int(t), 8)
        for i, t in zip(rng.integers(0, 300, 3000), times, strict=True)
    ]
    oracles = [Oracle(32), Oracle(32)]
    for row, item, time_ms, units in clicks:
        oracles[row].add(item, time_ms, units)
    users = fold(Interest.blank(2, 32), clicks)
    assert int(users.base[0]) > START_MS // PERIOD_MS + 10
    for row, oracle in enumerate(oracles):
        same(users, row, oracle)


def test_equal_weights_are_cut_by_hash() -> None:
    users = fold(Interest.blank(1, 8), [(0, item, START_MS, 8) for item in range(12)])
    first = sorted(range(8), key=lambda i: int(HASHES[i]))
    assert sorted(entries(users, 0)) == sorted([*first, 8, 9, 10, 11])
    users = fold(users, [(0, item, START_MS, 8) for item in range(12, 16)])
    assert set(entries(users, 0)) == set(sorted(range(16), key=lambda i: int(HASHES[i]))[:8])


def test_order_of_equal_periods_makes_no_difference_to_the_sums() -> None:
    clicks: list[Click] = [(0, i % 5, START_MS + i, 8) for i in range(20)]
    there, back = (fold(Interest.blank(1, 32), order) for order in (clicks, clicks[::-1]))
    assert entries(there, 0) == entries(back, 0)


def test_add_is_pure() -> None:
    old = fold(Interest.blank(2, 4), clicks_of([(0, 1, 5, 8), (1, 2, 5, 8)]))
    before = [column.copy() for column in (old.item, old.weight, old.added, old.base)]
    fold(old, [(0, i, START_MS + 9 * PERIOD_MS, 8) for i in range(9)])
    for column, copy in zip((old.item, old.weight, old.added, old.base), before, strict=True):
        np.testing.assert_array_equal(column, copy)


def test_only_uncounted_interactions_change_nothing() -> None:
    old = fold(Interest.blank(1, 4), [(0, 1, START_MS, 8)])
    assert fold(old, [(0, 2, START_MS, 0)]) is old


@pytest.mark.parametrize("n", [1, 3, 20])
def test_top_is_heaviest_first_ties_by_hash(n: int) -> None:
    clicks: list[Click] = [(0, i, START_MS, 8) for i in (3, 1, 2)] + [(0, 7, START_MS, 32)]
    item, weight = interest_top(fold(Interest.blank(2, 8), clicks), n, HASHES)
    wanted = [7, *sorted((1, 2, 3), key=lambda i: int(HASHES[i]))]
    assert item.shape == weight.shape == (2, n)
    assert item[0].tolist() == (wanted + [-1] * n)[:n]
    assert (item[1] == -1).all() and (weight[1] == 0).all()


def test_weight_is_worth_half_after_a_half_life() -> None:
    late = START_MS + HALF_LIFE_MS
    users = fold(Interest.blank(1, 8), [(0, 1, START_MS, 8), (0, 2, late, 8)])
    held = entries(users, 0)
    assert held[2] == 2 * held[1]
    assert held[2] * float(DECAY.age_factors(users.base[:1], np.array([late]))[0]) == pytest.approx(
        1.0, rel=0.003
    )
