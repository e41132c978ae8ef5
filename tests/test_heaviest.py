from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import heaviest as module
from stream.core.heaviest import KEPT, Change, Heaviest

CODE_BITS = 20
Row = dict[int, int]  # weight by code
SLOTS = np.arange(3)


def words(row: Row) -> list[int]:
    return sorted(weight << CODE_BITS | code for code, weight in row.items() if weight)


def lists(rows: list[Row]) -> list[list[int]]:
    """What the lists of rows are to be."""
    return [([0] * KEPT + words(row))[-KEPT:] for row in rows]


def grown(rng: random.Random, rows: list[Row], n: int) -> Change:
    """Changes of n words, some of them new, some of them changed again."""
    found = []
    for _ in range(n):
        slot, code = rng.randrange(len(rows)), rng.randrange(1, 150)
        before = rows[slot].get(code, 0)
        rows[slot][code] = before + rng.choice([0, 1, 3, 1000])
        old, new = (weight << CODE_BITS | code if weight else 0 for weight in (before, rows[slot][code]))
        found.append((slot, old, new))
    columns = np.array(found, dtype=np.int64).reshape(n, 3)
    return columns[:, 0], columns[:, 1].astype(np.uint64), columns[:, 2].astype(np.uint64)


@given(st.integers(0, 10**6), st.sampled_from([4, 32]), st.sampled_from([30, 10**6]))
@settings(max_examples=60)
def test_lists_that_are_known_are_those_of_whole_rows(seed: int, changes: int, noted: int) -> None:
    rng, kept = random.Random(seed), Heaviest()
    rows: list[Row] = [{code: 1 + rng.randrange(9) for code in range(1, 30 * n)} for n in (1, 2, 5)]
    kept.grow(len(rows))
    kept.put(SLOTS, np.array(lists(rows), dtype=np.uint64))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_CHANGES", changes), ("_NOTED", noted), ("_BLOCK", 2)):
            patch.setattr(module, name, value)
        for _ in range(6):
            kept.note([grown(rng, rows, rng.randrange(25)) for _ in range(rng.randrange(3))])
            kept.apply()
            known = np.setdiff1d(SLOTS, kept.unknown(SLOTS))
            assert kept.of(known).tolist() == [lists(rows)[slot] for slot in known.tolist()]


def test_a_list_with_many_changes_is_forgotten_and_others_are_not() -> None:
    kept, rows = Heaviest(), [{1: 5}, {1: 5}, {1: 5}]
    kept.grow(3)
    kept.put(SLOTS, np.array(lists(rows), dtype=np.uint64))
    new = np.arange(2, 42, dtype=np.uint64) << np.uint64(CODE_BITS)
    kept.note([(np.repeat(SLOTS[1:], [33, 7]), np.zeros(40, dtype=np.uint64), new)])
    kept.apply()
    assert kept.unknown(SLOTS).tolist() == [1]
    assert kept.of(SLOTS[2:])[0, -8:].tolist() == sorted([*new[33:].tolist(), *words(rows[2])])


def test_rows_are_unknown_at_first_and_when_forgotten() -> None:
    kept = Heaviest()
    kept.grow(3)
    assert kept.unknown(SLOTS).tolist() == [0, 1, 2]
    kept.put(SLOTS, np.zeros((3, KEPT), dtype=np.uint64))
    kept.forget(SLOTS[:1])
    kept.grow(5)
    assert kept.unknown(np.arange(5)).tolist() == [0, 3, 4]
