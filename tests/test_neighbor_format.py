from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.neighbor_format import HAS_PRICE, HIDDEN, Records, pack_records, unpack_records

U64 = st.integers(0, 2**64 - 1)
F32 = st.floats(0, 2**30, width=32)
F64 = st.floats(0, 2**60)
ROW = st.tuples(
    st.integers(0, 7),
    st.integers(0, 2**48),
    st.integers(0, 2**40),
    st.integers(-(2**50), 2**50),
    F64,
    F64,
    F64,
    F32,
    st.lists(st.tuples(U64, F32), max_size=9),
)
Row = tuple[int, int, int, int, float, float, float, float, list[tuple[int, float]]]


def records_of(rows: list[Row], width: int, fill: int = 0) -> Records:
    """Columns of rows; ``fill`` stands behind the lists and must not matter."""
    flags, term, n, last, row_sum, col_sum, price, popularity = ([row[at] for row in rows] for at in range(8))
    hashes = np.full((len(rows), width), fill, dtype=np.uint64)
    weights = np.full((len(rows), width), fill, dtype=np.float32)
    for at, entries in enumerate(row[8] for row in rows):
        hashes[at, : len(entries)] = [entry[0] for entry in entries]
        weights[at, : len(entries)] = [entry[1] for entry in entries]
    return Records(
        np.array(flags, dtype=np.uint8),
        np.array(term, dtype=np.int64),
        np.array(n, dtype=np.int64),
        np.array(last, dtype=np.int64),
        np.array(row_sum, dtype=np.float64),
        np.array(col_sum, dtype=np.float64),
        np.array(price, dtype=np.float64),
        np.array(popularity, dtype=np.float32),
        np.array([len(row[8]) for row in rows], dtype=np.int64),
        hashes,
        weights,
    )


def by_struct(row: Row) -> bytes:
    """The layout of docs/keyspace.md, written out."""
    flags, term, n, last, row_sum, col_sum, price, popularity, entries = row
    head = struct.pack(
        "<BBHQQqdddf", 1, flags, len(entries), term, n, last, row_sum, col_sum, price, popularity
    )
    hashes = struct.pack(f"<{len(entries)}Q", *(entry[0] for entry in entries))
    return head + hashes + struct.pack(f"<{len(entries)}f", *(entry[1] for entry in entries))


@given(st.lists(ROW, max_size=6), st.integers(9, 12))
def test_bytes_are_the_documented_layout(rows: list[Row], width: int) -> None:
    assert pack_records(records_of(rows, width, fill=7)) == [by_struct(row) for row in rows]


@given(st.lists(ROW, max_size=6))
def test_unpacking_inverts_packing(rows: list[Row]) -> None:
    found = unpack_records([by_struct(row) for row in rows])
    expected = records_of(rows, max((len(row[8]) for row in rows), default=0))
    for name in Records.__slots__:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_size_is_56_bytes_and_12_a_neighbour() -> None:
    row: Row = (HIDDEN | HAS_PRICE, 1, 2, 3, 4.0, 5.0, 6.0, 7.0, [(1, 2.0)] * 50)
    assert [len(value) for value in pack_records(records_of([row, (*row[:8], [])], 50))] == [656, 56]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda value: value[:-1], "as long as"),
        (lambda value: value + b"\0", "as long as"),
        (lambda value: value[:55], "shorter"),
        (lambda value: b"", "shorter"),
        (lambda value: b"\2" + value[1:], "format 2"),
    ],
)
def test_damaged_bytes_are_refused(damage: object, says: str) -> None:
    good = by_struct((0, 1, 2, 3, 4.0, 5.0, 6.0, 7.0, [(1, 2.0)]))
    assert callable(damage)
    with pytest.raises(ValueError, match=says):
        unpack_records([good, damage(good)])
