"""Pairs of interactions against a brute-force oracle, whatever the cuts into batches."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.pairs import I32, window_pairs

Entry = tuple[int, int, int, int]
"""earlier, later, gap, at"""
Log = list[tuple[int, int]]
"""(user, item) in order"""

LOGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60)
WINDOWS = st.integers(1, 7)


def by_hand(log: Log, window: int) -> list[Entry]:
    """One interaction at a time, one earlier one at a time."""
    histories: defaultdict[int, list[int]] = defaultdict(list)
    found = []
    for at, (user, item) in enumerate(log):
        for gap, earlier in enumerate(reversed(histories[user][-window:]), 1):
            if earlier != item:
                found.append((earlier, item, gap, at))
        histories[user].append(item)
    return found


def tails(history: Log, users: list[int], window: int) -> I32:
    """The last ``window`` items of each user, −1 padded at the left."""
    table = np.full((len(users), window), -1, dtype=np.int32)
    for row, user in enumerate(users):
        items = [item for owner, item in history if owner == user][-window:]
        table[row, window - len(items) :] = items
    return table


def batch(history: Log, log: Log, window: int) -> list[Entry]:
    users = sorted({user for user, _ in log}, reverse=True)
    rows = np.array([users.index(user) for user, _ in log], dtype=np.int64)
    items = np.array([item for _, item in log], dtype=np.int32)
    pairs = window_pairs(tails(history, users, window), rows, items)
    columns = (pairs.earlier, pairs.later, pairs.gap, pairs.at)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(LOGS, WINDOWS)
def test_pairs_are_those_counted_by_hand(log: Log, window: int) -> None:
    # In order, too: by later interaction, nearest first.
    assert batch([], log, window) == by_hand(log, window)


@given(LOGS, WINDOWS, st.sets(st.integers(0, 60)))
def test_any_cut_into_batches_gives_the_same_pairs(log: Log, window: int, cuts: set[int]) -> None:
    bounds = sorted({0, len(log)} | {cut for cut in cuts if cut < len(log)})
    found = [
        (earlier, later, gap, start + at)
        for start, end in pairwise(bounds)
        for earlier, later, gap, at in batch(log[:start], log[start:end], window)
    ]
    assert found == by_hand(log, window)


def test_an_item_makes_no_pair_with_itself_but_takes_up_a_gap() -> None:
    assert batch([], [(0, 7), (0, 8), (0, 8), (0, 7)], 2) == [
        (7, 8, 1, 1),
        (7, 8, 2, 2),
        (8, 7, 1, 3),
        (8, 7, 2, 3),
    ]


def test_users_do_not_meet_and_unused_rows_of_the_table_do_not_matter() -> None:
    tail = np.array([[-1, 3], [-1, -1], [4, 5]], dtype=np.int32)
    pairs = window_pairs(tail, np.array([2, 0]), np.array([9, 8], dtype=np.int32))
    assert pairs.earlier.tolist() == [5, 4, 3]
    assert pairs.later.tolist() == [9, 9, 8]
    assert (pairs.gap.tolist(), pairs.at.tolist()) == ([1, 2, 1], [0, 0, 1])


def test_a_long_history_within_one_batch_is_cut_to_the_window() -> None:
    log = [(0, item) for item in range(500)]
    found = batch([(0, 1000)], log, 3)
    assert found[0] == (1000, 0, 1, 0)
    assert found[-3:] == [(498, 499, 1, 499), (497, 499, 2, 499), (496, 499, 3, 499)]
    assert len(found) == 1 + 2 + 3 + 3 * 497


def test_nothing_makes_no_pairs() -> None:
    assert batch([(0, 1)], [], 3) == []
