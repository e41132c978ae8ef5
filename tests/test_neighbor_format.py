from __future__ import annotations

import struct
from typing import Any

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
    F32,
    F32,
    st.integers(0, 2**50),
    U64,
    U64,
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(0, 1024, width=32)), max_size=5),
    st.lists(st.integers(-127, 127), max_size=9),
)
Neighbors = list[tuple[int, float]]
Row = tuple[
    int,
    int,
    int,
    int,
    float,
    float,
    float,
    float,
    Neighbors,
    float,
    float,
    int,
    int,
    int,
    Neighbors,
    list[int],
]
SCALARS = {
    "flags": np.uint8,
    "term": np.int64,
    "n": np.int64,
    "last": np.int64,
    "row_sum": np.float64,
    "col_sum": np.float64,
    "price": np.float64,
    "popularity": np.float32,
    "usual": np.float32,
    "season": np.float32,
    "born": np.int64,
    "group": np.uint64,
    "category": np.uint64,
}
PLACES = [*range(8), *range(9, 14)]


def padded(lists: list[list[Any]], width: int, dtype: Any, fill: int) -> Any:
    found = np.full((len(lists), width), fill, dtype=dtype)
    for at, each in enumerate(lists):
        found[at, : len(each)] = each
    return found


def records_of(rows: list[Row], widths: tuple[int, int, int], fill: int = 0) -> Records:
    """Columns of rows; ``fill`` stands behind the lists and must not matter."""
    scalars: dict[str, Any] = {
        name: np.array([row[at] for row in rows], dtype=dtype)
        for at, (name, dtype) in zip(PLACES, SCALARS.items(), strict=True)
    }
    return Records(
        **scalars,
        k=np.array([len(row[8]) for row in rows], dtype=np.int64),
        hashes=padded([[key for key, _ in row[8]] for row in rows], widths[0], np.uint64, fill),
        weights=padded([[weight for _, weight in row[8]] for row in rows], widths[0], np.float32, fill),
        t=np.array([len(row[14]) for row in rows], dtype=np.int64),
        tokens=padded([[key for key, _ in row[14]] for row in rows], widths[1], np.uint32, fill),
        token_weights=padded(
            [[weight for _, weight in row[14]] for row in rows], widths[1], np.float32, fill
        ),
        dims=np.array([len(row[15]) for row in rows], dtype=np.int64),
        vectors=padded([row[15] for row in rows], widths[2], np.int8, fill),
    )


def widths_of(rows: list[Row]) -> tuple[int, int, int]:
    """How long the longest list of each kind is."""
    longest = [
        max((len(each) for each in column), default=0) for column in zip(*map(lists_of, rows), strict=True)
    ]
    return (longest[0], longest[1], longest[2]) if rows else (0, 0, 0)


def lists_of(row: Row) -> tuple[list[Any], list[Any], list[Any]]:
    return row[8], row[14], row[15]


def by_struct(row: Row) -> bytes:
    """The layout of docs/keyspace.md, written out."""
    flags, term, n, last, row_sum, col_sum, price, popularity = row[:8]
    entries, (usual, season, born, group, category), tokens, vector = row[8], row[9:14], row[14], row[15]
    head = struct.pack(
        "<BBHQQqdddf", 2, flags, len(entries), term, n, last, row_sum, col_sum, price, popularity
    )
    head += struct.pack("<ffqQQHH", usual, season, born, group, category, len(tokens), len(vector))
    hashes = struct.pack(f"<{len(entries)}Q", *(entry[0] for entry in entries))
    weights = struct.pack(f"<{len(entries)}f", *(entry[1] for entry in entries))
    pairs = b"".join(struct.pack("<If", *token) for token in tokens)
    return head + hashes + weights + pairs + struct.pack(f"<{len(vector)}b{-len(vector) % 4}x", *vector)


@given(st.lists(ROW, max_size=6), st.tuples(st.integers(9, 12), st.integers(5, 7), st.integers(9, 13)))
def test_bytes_are_the_documented_layout(rows: list[Row], widths: tuple[int, int, int]) -> None:
    assert pack_records(records_of(rows, widths, fill=7)) == [by_struct(row) for row in rows]


@given(st.lists(ROW, max_size=6))
def test_unpacking_inverts_packing(rows: list[Row]) -> None:
    found = unpack_records([by_struct(row) for row in rows])
    expected = records_of(rows, widths_of(rows))
    for name in Records.__slots__:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype


@given(ROW, st.integers(1, 3))
def test_records_as_long_as_all_others_are_packed_alike(row: Row, count: int) -> None:
    rows = [row] * count
    assert pack_records(records_of(rows, widths_of(rows))) == [by_struct(row)] * count


def one(neighbors: int = 1, tokens: int = 1, dims: int = 1) -> Row:
    head = (HIDDEN | HAS_PRICE, 1, 2, 3, 4.0, 5.0, 6.0, 7.0)
    return (*head, [(1, 2.0)] * neighbors, 1.0, 0.5, 9, 10, 11, [(12, 1.0)] * tokens, [127] * dims)


def test_size_is_92_bytes_12_a_neighbour_8_a_token_and_the_vector() -> None:
    rows = [one(50, 6, 0), one(0, 0, 0), one(0, 24, 256), one(1, 0, 3)]
    sizes = [len(value) for value in pack_records(records_of(rows, widths_of(rows)))]
    assert sizes == [92 + 600 + 48, 92, 92 + 192 + 256, 92 + 12 + 4]


GOOD = by_struct(one())


def changed(at: int, form: str, value: object) -> bytes:
    put = struct.pack(form, value)
    return GOOD[:at] + put + GOOD[at + len(put) :]


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (GOOD[:-1], "as long as"),
        (GOOD + b"\0", "as long as"),
        (GOOD[:91], "shorter"),
        (b"\2", "shorter"),
        (b"\1" + GOOD[1:], "format 1, not 2.*replay"),
        (b"\3" + GOOD[1:], "format 3"),
        (changed(88, "<H", 2), "as long as"),
        (changed(64, "<q", -1), "no counting"),
        (changed(56, "<f", float("nan")), "no counting"),
        (changed(60, "<f", -1.0), "no counting"),
        (changed(52, "<f", float("inf")), "no counting"),
        (changed(len(GOOD) - 8, "<f", -0.5), "no counting"),
        (changed(len(GOOD) - 8, "<f", 1025.0), "no counting"),
        (by_struct(one(tokens=25)), "too many"),
        (by_struct(one(dims=257)), "too many"),
    ],
)
def test_damaged_bytes_are_refused(damaged: bytes, says: str) -> None:
    assert len(unpack_records([GOOD, GOOD]).k) == 2
    with pytest.raises(ValueError, match=says):
        unpack_records([GOOD, damaged])


def test_no_bytes_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        unpack_records([GOOD, b""])
