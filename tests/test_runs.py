"""Runs of equal values: `stream.core.runs`, against itertools."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.runs import begins, lengths, starts


@given(st.lists(st.integers(-2, 2), max_size=12))
def test_runs_are_those_of_groupby(values: list[int]) -> None:
    array, sizes = np.array(values, dtype=np.int64), [len(list(run)) for _, run in groupby(values)]
    first = [sum(sizes[:n]) for n in range(len(sizes))]
    assert starts(array).tolist() == first
    assert np.flatnonzero(begins(array)).tolist() == first
    assert lengths(starts(array), len(array)).tolist() == sizes
