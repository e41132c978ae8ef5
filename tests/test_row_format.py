from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.items import Items
from stream.core.row_format import PackedRows, digest_fields, pack, unpack
from stream.core.rows import Rows
from stream.core.weights import PERIOD, WEIGHT_BITS

Row = tuple[bytes, bool, int, int, int, int, list[tuple[int, int]]]
"""Name, evicted, base, forward, backward, last, pairs (hash, weight)."""
WEIGHT = st.integers(0, 2**WEIGHT_BITS - 1)
ROW = st.tuples(
    st.binary(max_size=40),
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(0, 2**50),
    st.lists(st.tuples(st.integers(0, 2**64 - 1), WEIGHT), max_size=9, unique_by=lambda pair: pair[0]),
)


def born_of(row: Row) -> int:
    """Something that differs from row to row, up to what fits."""
    return (row[3] + row[5]) % 2**32


def columns(rows: list[Row]) -> PackedRows:
    names, evicted, base, forward, backward, last, pairs = zip(*rows, strict=True)
    flat = [pair for each in pairs for pair in each]
    return PackedRows(
        list(names),
        np.array(evicted, dtype=np.bool_),
        np.array(base, dtype=np.int64),
        np.array(forward, dtype=np.int64),
        np.array(backward, dtype=np.int64),
        np.array(last, dtype=np.int64),
        np.array([len(each) for each in pairs], dtype=np.int64),
        np.array([key for key, _ in flat], dtype=np.uint64),
        np.array([weight for _, weight in flat], dtype=np.int64),
        np.array([born_of(each) for each in rows], dtype=np.int64),
    )


def by_struct(row: Row) -> bytes:
    """The layout of docs/keyspace.md, written out; pairs as they come."""
    name, evicted, base, forward, backward, last, pairs = row
    born = born_of(row)
    head = struct.pack("<BBHHHiI", 3, evicted, len(name), len(pairs), 0, base, born)
    head += struct.pack("<qqq", forward, backward, last)
    six = [(weight % 2**48).to_bytes(6, "little") for _, weight in pairs]
    return (
        head + name + b"".join(struct.pack("<Q", key) + of for (key, _), of in zip(pairs, six, strict=True))
    )


@given(st.lists(ROW, min_size=1, max_size=5))
def test_bytes_are_those_documented(rows: list[Row]) -> None:
    assert pack(columns(rows)) == [by_struct((*row[:6], sorted(row[6]))) for row in rows]


@given(st.lists(ROW, min_size=1, max_size=5), st.randoms())
def test_equal_rows_give_equal_bytes_in_whatever_order_their_pairs_come(
    rows: list[Row], shuffler: Random
) -> None:
    shuffled: list[Row] = [(*row[:6], shuffler.sample(row[6], len(row[6]))) for row in rows]
    assert pack(columns(shuffled)) == pack(columns(rows))


@pytest.mark.parametrize(
    "hashes", [[256 + 5, 256 + 3, 7, 256 + 4], range(2**64 - 1, 2**64 - 257, -1), range(2**62, 2**64, 2**53)]
)
def test_pairs_whose_hashes_are_alike_or_many_are_in_order(hashes: list[int]) -> None:
    row: Row = (*ONE[:6], [(key, at) for at, key in enumerate(hashes)])
    assert pack(columns([ONE, row, ONE])) == [
        by_struct((*each[:6], sorted(each[6]))) for each in (ONE, row, ONE)
    ]


def test_rows_counted_under_another_numbering_of_items_give_equal_bytes() -> None:
    names = [f"item {n}" for n in range(900)]
    blobs = []
    for order in (names, names[::-1]):
        items = Items()
        items.ids(order)
        rows, ids = Rows(items), items.ids(names)
        ones = np.ones(len(ids) - 4, dtype=np.int64)
        # Row 0 has lines that spill, row 1 is cut, rows 2 and 3 have few pairs.
        row = ids[np.repeat(np.arange(4), [250, 400, 40, len(ones) - 690])]
        rows.fold(row, ids[4:], ones, ones + np.arange(len(ones)) % 7, ones > 1, ones)
        blobs.append(rows.pack(ids[:4]))
    assert blobs[0] == blobs[1]


@given(st.lists(ROW, min_size=1, max_size=5), st.binary(max_size=20))
def test_unpacking_gives_back_what_was_packed_and_what_stands_behind(rows: list[Row], behind: bytes) -> None:
    packed = pack(columns(rows))
    found, rests = unpack([blob + behind for blob in packed])
    assert rests == [behind] * len(rows)
    assert pack(found) == packed
    assert found.names == [row[0] for row in rows]


def test_nothing_unpacks_to_nothing() -> None:
    found, rests = unpack([])
    assert (found.names, rests, len(found.hashes)) == ([], [], 0)


ONE: Row = (b"bread", True, 7, 50, 60, 1000, [(5, 30), (9, 20)])


@pytest.mark.parametrize("size", range(len(by_struct(ONE))))
def test_bytes_cut_short_are_refused(size: int) -> None:
    for blobs in ([by_struct(ONE)[:size]], [by_struct(ONE), by_struct(ONE)[:size]]):
        with pytest.raises(ValueError):
            unpack(blobs)


def test_short_heads_that_add_up_to_a_whole_one_are_refused() -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack([by_struct(ONE)[:15], by_struct(ONE)[:25]])


@pytest.mark.parametrize("other", [2, 4])
def test_another_format_is_refused(other: int) -> None:
    with pytest.raises(ValueError, match=f"format {other}"):
        unpack([by_struct(ONE), bytes([other]) + by_struct(ONE)[1:]])


@pytest.mark.parametrize("weight", [-1, 2**WEIGHT_BITS, 2**48 - 1])
def test_a_weight_that_no_row_can_hold_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack([by_struct((*ONE[:6], [(5, weight)]))])


def scaled(row: Row, periods: int) -> Row:
    """The same sums, relative to an earlier base."""
    name, evicted, base, forward, backward, last, pairs = row
    bits = periods * PERIOD
    lifted = [(key, weight << bits) for key, weight in pairs]
    return name, evicted, base - periods, forward << bits, backward << bits, last, lifted


SMALL = st.tuples(
    st.binary(max_size=4),
    st.booleans(),
    st.integers(-50, 50),
    st.integers(0, 2**20),
    st.integers(0, 2**20),
    st.integers(0, 2**20),
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**20)),
        max_size=5,
        unique_by=lambda pair: pair[0],
    ),
)


@given(SMALL, st.integers(0, 3))
def test_the_digest_knows_neither_base_nor_order_nor_name(row: Row, periods: int) -> None:
    _, evicted, base, forward, backward, last, pairs = scaled(row, periods)
    other = by_struct((b"else", evicted, base, forward, backward, last, pairs[::-1]))
    assert digest_fields(other) == digest_fields(by_struct(row))


@given(SMALL, SMALL)
def test_the_digest_tells_sums_apart(one: Row, other: Row) -> None:
    def value(row: Row) -> tuple[object, ...]:
        _, evicted, base, forward, backward, _, pairs = row
        factor = 2 ** (PERIOD * (base + 50))
        counted = () if evicted else sorted((key, weight * factor) for key, weight in pairs)
        return evicted, forward * factor, backward * factor, tuple(counted)

    assert (digest_fields(by_struct(one)) == digest_fields(by_struct(other))) == (value(one) == value(other))


def test_the_digest_leaves_out_the_pairs_of_an_evicted_row() -> None:
    evicted, whole = by_struct(ONE), by_struct((ONE[0], False, *ONE[2:]))
    fewer = by_struct((*ONE[:6], ONE[6][:1]))
    assert digest_fields(evicted) == digest_fields(fewer)
    assert digest_fields(evicted)[1] and not digest_fields(whole)[1]
    assert digest_fields(whole) != digest_fields(by_struct((ONE[0], False, *ONE[2:6], ONE[6][:1])))


def test_rows_are_columns() -> None:
    two = columns([ONE, (b"", False, 1, 2, 3, 4, [])])
    assert pack(replace(two, names=[b"x", b"yy"])) == [
        by_struct((b"x", *ONE[1:])),
        by_struct((b"yy", False, 1, 2, 3, 4, [])),
    ]
