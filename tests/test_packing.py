from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from state.packing import USER_FORMAT, UserColumns, digest_fields, histories, pack_users, unpack_users
from stream.core.weights import PERIOD

hashes = st.integers(0, 2**64 - 1)
TOPS = (2**32 - 1, 2**32 - 1, 2**32 - 1, 2**31 - 1, 2**45, 2**63 - 1)
OF_ENTRIES = ("weights", "counts", "firsts", "lasts", "ats")


@st.composite
def a_user(draw: DrawFn) -> dict[str, list[int]]:
    u32 = st.integers(0, 2**32 - 1)
    entry = st.tuples(st.integers(1, 2**44 - 1), st.integers(1, 2**20 - 1), u32, u32, u32)
    interest = dict(sorted(draw(st.dictionaries(hashes, entry, max_size=12)).items()))
    item = st.sampled_from(list(interest)) | hashes if interest else hashes
    bought = draw(st.lists(st.tuples(hashes, u32), max_size=4))
    history = draw(st.lists(st.tuples(item, st.integers(0, 2**32 - 1), st.integers(0, 255)), max_size=20))
    return {
        "head": [draw(st.integers(-1 if at == 3 else 0, top)) for at, top in enumerate(TOPS)],
        "history": [entry[0] for entry in history],
        "times": [entry[1] for entry in history],
        "kinds": [entry[2] for entry in history],
        "interest": list(interest),
        **{name: [entry[at] for entry in interest.values()] for at, name in enumerate(OF_ENTRIES)},
        "bought": [item for item, _ in bought],
        "seconds": [second for _, second in bought],
        "ids": draw(st.lists(st.integers(1, 2**64 - 1), max_size=5)),
    }


users = st.lists(a_user(), min_size=1, max_size=6)


def numbers_of(user: dict[str, list[int]]) -> list[int]:
    """Which of the interest entries has the item of each interaction; 255: none."""
    return [user["interest"].index(item) if item in user["interest"] else 255 for item in user["history"]]


def strange_of(user: dict[str, list[int]]) -> list[int]:
    """The items of the others."""
    return [item for item in user["history"] if item not in user["interest"]]


def by_hand(user: dict[str, list[int]]) -> bytes:
    """The layout of docs/keyspace.md, by struct."""
    n, m, d = len(user["history"]), len(user["interest"]), len(user["ids"])
    strange, r = strange_of(user), len(user["bought"])
    entries = zip(user["interest"], *(user[name] for name in OF_ENTRIES), strict=True)
    return b"".join(
        [
            struct.pack("<BBHHBBIIIiqq", USER_FORMAT, d, n, m, len(strange), r, *user["head"]),
            struct.pack(f"<{d}Q", *user["ids"]),
            bytes(-4 * n % 8) + struct.pack(f"<{n}I", *user["times"]),
            bytes(-n % 8) + bytes(numbers_of(user)),
            bytes(-n % 8) + bytes(user["kinds"]),
            struct.pack(f"<{len(strange)}Q", *strange),
            *(
                struct.pack("<QQIII", item, count << 44 | weight, *rest)
                for item, weight, count, *rest in entries
            ),
            *(struct.pack("<QI", *each) for each in zip(user["bought"], user["seconds"], strict=True)),
        ]
    )


def ragged(users: list[dict[str, list[int]]], name: str, spare: int) -> NDArray[np.uint64]:
    """One part of all users as a matrix, ``spare`` columns wider than need be, filled with 0 at the left."""
    width = max(len(user[name]) for user in users) + spare
    filled: NDArray[np.uint64] = np.zeros((len(users), width), dtype=np.uint64)
    for row, user in enumerate(users):
        filled[row, width - len(user[name]) :] = user[name]
    return filled


def flat(users: list[dict[str, list[int]]], name: str) -> NDArray[np.uint64]:
    return np.array([value for user in users for value in user[name]], dtype=np.uint64)


def columns(users: list[dict[str, list[int]]], spare: int = 0) -> UserColumns:
    seen, added, events, base, newest, rate = np.array([user["head"] for user in users], dtype=np.int64).T
    users = [user | {"numbers": numbers_of(user), "strange": strange_of(user)} for user in users]
    counts, firsts, lasts, ats = (flat(users, name).astype(np.uint32) for name in OF_ENTRIES[1:])
    return UserColumns(
        seen,
        added,
        events,
        base,
        newest,
        rate,
        n_history=np.array([len(user["history"]) for user in users]),
        numbers=ragged(users, "numbers", spare).astype(np.uint8),
        strange=flat(users, "strange"),
        times=ragged(users, "times", spare).astype(np.uint32),
        kinds=ragged(users, "kinds", spare).astype(np.uint8),
        ids=ragged(users, "ids", spare),
        n_interest=np.array([len(user["interest"]) for user in users]),
        interest=flat(users, "interest"),
        weights=flat(users, "weights").astype(np.int64),
        counts=counts,
        firsts=firsts,
        lasts=lasts,
        ats=ats,
        n_bought=np.array([len(user["bought"]) for user in users]),
        bought=flat(users, "bought"),
        seconds=flat(users, "seconds").astype(np.uint32),
    )


@settings(deadline=None)
@given(users, st.integers(0, 9))
def test_layout_is_as_documented(users: list[dict[str, list[int]]], spare: int) -> None:
    assert pack_users(columns(users, spare)) == [by_hand(user) for user in users]


@settings(deadline=None)
@given(users)
def test_round_trip(users: list[dict[str, list[int]]]) -> None:
    blobs = [by_hand(user) for user in users]
    found = unpack_users(blobs)
    assert pack_users(found) == blobs
    assert (histories(found) == ragged(users, "history", 0)).all()


def user(**changes: list[int]) -> dict[str, list[int]]:
    return {
        "head": [9, 5, 4, 100, 1_700_000_000_000, 0],
        "history": [11, 12],
        "times": [1, 2],
        "kinds": [3, 4],
        "interest": [5, 7],
        "weights": [1024, 48],
        "counts": [2, 1],
        "firsts": [1, 2],
        "lasts": [3, 2],
        "ats": [4, 3],
        "ids": [1, 2],
        "bought": [11],
        "seconds": [2],
    } | changes


def test_a_user_of_twenty_events_is_small() -> None:
    twenty = list(range(1, 21))
    blob = by_hand(
        user(
            history=twenty,
            times=twenty,
            kinds=twenty,
            interest=twenty,
            ids=list(range(1, 17)),
            bought=[],
            seconds=[],
            **dict.fromkeys(OF_ENTRIES, twenty),
        )
    )
    assert len(blob) <= 40 + 16 * 8 + 20 * 4 + 2 * 24 + 20 * 28


def test_unknown_format_is_refused() -> None:
    blob = by_hand(user())
    with pytest.raises(ValueError, match="format 3, not 4"):
        unpack_users([blob, b"\x03" + blob[1:]])


@pytest.mark.parametrize("damage", [slice(0, -8), slice(0, 39), slice(0, 0)])
def test_damaged_bytes_are_refused(damage: slice) -> None:
    blob = by_hand(user())
    with pytest.raises(ValueError):
        unpack_users([blob, blob[damage]])


@pytest.mark.parametrize(
    "changes",
    [{"interest": [7, 5]}, {"interest": [5, 5]}, {"weights": [0, 48]}, {"counts": [2, 0]}],
    ids=str,
)
def test_entries_out_of_order_are_refused(changes: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        unpack_users([by_hand(user()), by_hand(user(**changes)), by_hand(user())])


@pytest.mark.parametrize("number", [2, 3, 254])
def test_the_number_of_no_entry_is_refused(number: int) -> None:
    blob = by_hand(user(history=[5, 7]))
    assert blob[40 + 16 + 8 + 6 :][:2] == b"\x00\x01"
    damaged = blob[: 40 + 16 + 8 + 6] + bytes([number]) + blob[40 + 16 + 8 + 7 :]
    with pytest.raises(ValueError, match="history"):
        unpack_users([blob, damaged])


def test_as_many_strange_items_as_the_history_says_or_none() -> None:
    one, two = by_hand(user(history=[11, 7])), by_hand(user(history=[11, 12]))
    at = 40 + 16 + 8
    with pytest.raises(ValueError, match="history"):
        unpack_users([two[:at] + one[at : at + 8] + two[at + 8 :]])


def test_digest_sees_everything_but_ids() -> None:
    one = digest_fields(by_hand(user()))
    assert digest_fields(by_hand(user(ids=[3]))) == one
    for other in (
        user(head=[8, 5, 4, 100, 1_700_000_000_000, 0]),
        user(head=[9, 4, 4, 100, 1_700_000_000_000, 0]),
        user(head=[9, 5, 3, 100, 1_700_000_000_000, 0]),
        user(head=[9, 5, 4, 101, 1_700_000_000_000, 0]),
        user(head=[9, 5, 4, 100, 1_700_000_000_001, 0]),
        user(head=[9, 5, 4, 100, 1_700_000_000_000, 1]),
        user(history=[11, 13]),
        user(times=[1, 3]),
        user(kinds=[3, 5]),
        user(interest=[6, 7]),
        user(weights=[1023, 48]),
        user(counts=[3, 1]),
        user(firsts=[0, 2]),
        user(lasts=[4, 2]),
        user(ats=[4, 4]),
        user(bought=[12]),
        user(seconds=[3]),
        user(bought=[], seconds=[]),
    ):
        assert digest_fields(by_hand(other)) != one


def test_digest_is_one_for_equal_sums() -> None:
    one = digest_fields(by_hand(user()))
    shifted = user(head=[9, 5, 4, 99, 1_700_000_000_000, 0], weights=[1024 << PERIOD, 48 << PERIOD])
    assert digest_fields(by_hand(shifted)) == one
    shifted = user(head=[9, 5, 4, 101, 1_700_000_000_000, 0], weights=[1024 >> PERIOD, 48 >> PERIOD])
    assert digest_fields(by_hand(shifted)) == one


def test_digest_of_no_interest_has_no_base() -> None:
    bare = columns([user(interest=[], **{name: [] for name in OF_ENTRIES})])
    other = replace(bare, base=bare.base + 5)
    assert digest_fields(pack_users(bare)[0]) == digest_fields(pack_users(other)[0])
