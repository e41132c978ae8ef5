from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.pairs import window_pairs

USERS = 4
Interaction = tuple[int, int]  # user, item
Pair = tuple[int, int, int, int]  # earlier, later, gap, at


class Oracle:
    """Each user's last W items in a deque."""

    def __init__(self, window: int) -> None:
        self.last: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=window))

    def pairs(self, batch: list[Interaction]) -> list[Pair]:
        found = []
        for at, (user, item) in enumerate(batch):
            for gap, before in enumerate(reversed(self.last[user]), 1):
                if before != item:
                    found.append((before, item, gap, at))
            self.last[user].append(item)
        return found

    def tail(self, window: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        tail = np.full((USERS, window), -1, dtype=np.int32)
        for user, items in self.last.items():
            tail[user, window - len(items) :] = items
        return tail


def pairs_of(oracle: Oracle, window: int, batch: list[Interaction]) -> list[Pair]:
    """Pairs of a batch, given the histories the oracle holds before it."""
    user = np.array([user for user, _ in batch], dtype=np.int64)
    item = np.array([item for _, item in batch], dtype=np.int32)
    found = window_pairs(oracle.tail(window), user, item)
    columns = (found.earlier, found.later, found.gap, found.at)
    return list(zip(*(column.tolist() for column in columns), strict=True))


BATCH = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, 5)), max_size=40)


@given(st.lists(BATCH, max_size=4), st.integers(1, 12))
def test_batches_give_the_pairs_of_every_users_last_items(
    batches: list[list[Interaction]], window: int
) -> None:
    oracle = Oracle(window)
    for batch in batches:
        found = pairs_of(oracle, window, batch)
        assert found == oracle.pairs(batch)


@given(BATCH, st.integers(0, 40), st.integers(1, 12))
def test_a_batch_equals_its_two_parts(batch: list[Interaction], cut: int, window: int) -> None:
    oracle = Oracle(window)
    whole = pairs_of(oracle, window, batch)
    first = pairs_of(oracle, window, batch[:cut])
    oracle.pairs(batch[:cut])
    second = pairs_of(oracle, window, batch[cut:])
    assert whole == first + [(*pair, at + len(batch[:cut])) for *pair, at in second]


def test_nearest_comes_first_and_an_item_itself_takes_up_a_gap() -> None:
    oracle = Oracle(3)
    oracle.pairs([(0, 1), (0, 2)])
    assert pairs_of(oracle, 3, [(0, 2), (0, 3)]) == [(1, 2, 2, 0), (2, 3, 1, 1), (2, 3, 2, 1), (1, 3, 3, 1)]


def test_item_zero_is_an_item_and_no_history_is_none() -> None:
    oracle = Oracle(2)
    assert pairs_of(oracle, 2, [(0, 0), (0, 1)]) == [(0, 1, 1, 1)]


def test_an_empty_batch_has_no_pairs() -> None:
    assert pairs_of(Oracle(2), 2, []) == []
