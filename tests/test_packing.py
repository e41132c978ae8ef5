from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from state.packing import USER_FORMAT, UserColumns, digest_fields, pack_users, unpack_users
from stream.core.weights import PERIOD

hashes = st.integers(0, 2**64 - 1)


@st.composite
def a_user(draw: DrawFn) -> dict[str, list[int]]:
    history = draw(st.lists(st.tuples(hashes, st.integers(0, 2**32 - 1), st.integers(0, 255)), max_size=20))
    interest = draw(st.dictionaries(hashes, st.integers(1, 2**60), max_size=12))
    return {
        "head": [draw(st.integers(0, top)) for top in (2**32 - 1, 2**32 - 1, 2**31, 2**45, 2**63 - 1)],
        "history": [entry[0] for entry in history],
        "times": [entry[1] for entry in history],
        "kinds": [entry[2] for entry in history],
        "interest": list(interest),
        "weights": list(interest.values()),
        "ids": draw(st.lists(st.integers(1, 2**64 - 1), max_size=5)),
    }


users = st.lists(a_user(), min_size=1, max_size=6)


def by_hand(user: dict[str, list[int]]) -> bytes:
    """The layout of docs/keyspace.md, by struct."""
    n, m, d = len(user["history"]), len(user["interest"]), len(user["ids"])
    seen, added, base, newest, rate = user["head"]
    return b"".join(
        [
            struct.pack("<BBHHHIIqqq", USER_FORMAT, d, n, m, 0, seen, added, base, newest, rate),
            struct.pack(f"<{n}Q", *user["history"]),
            struct.pack(f"<{m}Q", *user["interest"]),
            struct.pack(f"<{m}q", *user["weights"]),
            struct.pack(f"<{d}Q", *user["ids"]),
            bytes(-4 * n % 8) + struct.pack(f"<{n}I", *user["times"]),
            bytes(-n % 8) + bytes(user["kinds"]),
        ]
    )


def ragged(users: list[dict[str, list[int]]], name: str, spare: int, right: bool) -> NDArray[np.uint64]:
    """One part of all users as a matrix, ``spare`` columns wider than need be, filled with 0."""
    width = max(len(user[name]) for user in users) + spare
    filled: NDArray[np.uint64] = np.zeros((len(users), width), dtype=np.uint64)
    for row, user in enumerate(users):
        start = width - len(user[name]) if right else 0
        filled[row, start : start + len(user[name])] = user[name]
    return filled


def columns(users: list[dict[str, list[int]]], spare: int = 0) -> UserColumns:
    seen, added, base, newest, rate = np.array([user["head"] for user in users], dtype=np.int64).T
    return UserColumns(
        seen,
        added,
        base,
        newest,
        rate,
        n_history=np.array([len(user["history"]) for user in users]),
        history=ragged(users, "history", spare, True),
        times=ragged(users, "times", spare, True).astype(np.uint32),
        kinds=ragged(users, "kinds", spare, True).astype(np.uint8),
        n_interest=np.array([len(user["interest"]) for user in users]),
        interest=ragged(users, "interest", spare, False),
        weights=ragged(users, "weights", spare, False).astype(np.int64),
        ids=ragged(users, "ids", spare, True),
    )


@settings(deadline=None)
@given(users, st.integers(0, 9))
def test_layout_is_as_documented(users: list[dict[str, list[int]]], spare: int) -> None:
    assert pack_users(columns(users, spare)) == [by_hand(user) for user in users]


@settings(deadline=None)
@given(users)
def test_round_trip(users: list[dict[str, list[int]]]) -> None:
    blobs = [by_hand(user) for user in users]
    assert pack_users(unpack_users(blobs)) == blobs


def user(**changes: list[int]) -> dict[str, list[int]]:
    return {
        "head": [9, 5, 100, 1_700_000_000_000, 0],
        "history": [11, 12],
        "times": [1, 2],
        "kinds": [3, 4],
        "interest": [7, 5],
        "weights": [48, 1024],
        "ids": [1, 2],
    } | changes


def test_a_user_of_twenty_events_is_small() -> None:
    twenty = list(range(20))
    blob = by_hand(
        user(
            history=twenty,
            times=twenty,
            kinds=twenty,
            interest=twenty,
            weights=twenty,
            ids=list(range(1, 17)),
        )
    )
    assert len(blob) <= 800


def test_unknown_format_is_refused() -> None:
    blob = by_hand(user())
    with pytest.raises(ValueError, match="format 1, not 2"):
        unpack_users([blob, b"\x01" + blob[1:]])


@pytest.mark.parametrize("damage", [slice(0, -8), slice(0, 39), slice(0, 0)])
def test_damaged_bytes_are_refused(damage: slice) -> None:
    blob = by_hand(user())
    with pytest.raises(ValueError):
        unpack_users([blob, blob[damage]])


def test_digest_sees_everything_but_ids() -> None:
    one = digest_fields(by_hand(user()))
    assert digest_fields(by_hand(user(ids=[3]))) == one
    for other in (
        user(head=[8, 5, 100, 1_700_000_000_000, 0]),
        user(head=[9, 4, 100, 1_700_000_000_000, 0]),
        user(head=[9, 5, 101, 1_700_000_000_000, 0]),
        user(head=[9, 5, 100, 1_700_000_000_001, 0]),
        user(head=[9, 5, 100, 1_700_000_000_000, 1]),
        user(history=[11, 13]),
        user(times=[1, 3]),
        user(kinds=[3, 5]),
        user(interest=[7, 6]),
        user(weights=[48, 1023]),
    ):
        assert digest_fields(by_hand(other)) != one


def test_digest_is_one_for_equal_sums() -> None:
    one = digest_fields(by_hand(user()))
    assert digest_fields(by_hand(user(interest=[5, 7], weights=[1024, 48]))) == one
    shifted = user(head=[9, 5, 99, 1_700_000_000_000, 0], weights=[48 << PERIOD, 1024 << PERIOD])
    assert digest_fields(by_hand(shifted)) == one
    shifted = user(head=[9, 5, 101, 1_700_000_000_000, 0], weights=[48 >> PERIOD, 1024 >> PERIOD])
    assert digest_fields(by_hand(shifted)) == one


def test_digest_of_no_interest_has_no_base() -> None:
    bare = columns([user(interest=[], weights=[])])
    other = replace(bare, base=bare.base + 5)
    assert digest_fields(pack_users(bare)[0]) == digest_fields(pack_users(other)[0])
