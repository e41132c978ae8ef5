from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.packing import unpack_users
from stream.core.interest import Interest
from stream.core.items import Items
from stream.core.users import (
    Bounds,
    Rows,
    UserTable,
    advance,
    bought,
    fresh,
    pack,
    profile,
    tail,
    unpack,
)
from stream.core.weights import Decay
from stream.events import CODE

BOUNDS = Bounds(history=16, interest=8, ids=4)
DECAY = Decay(60_000)
START_MS = 1_700_000_000_000
PURCHASE = CODE["purchase"]
ITEMS = Items()
ITEMS.ids([f"item {i}" for i in range(400)])

Event = tuple[int, int, int, list[tuple[int, int, int]]]  # row, id, time_ms, [(item, kind, units)]


def batch(rows: Rows, events: Sequence[Event]) -> tuple[list[bool], Rows]:
    """What a worker does with a batch: drop repeats, then count the interactions of the others."""
    user = np.array([event[0] for event in events], dtype=np.int64)
    kept, rows = fresh(rows, user, np.array([event[1] for event in events], dtype=np.uint64))
    lines = [
        (row, *line, time_ms, number)
        for number, ((row, _, time_ms, lines), keep) in enumerate(zip(events, kept, strict=True))
        for line in lines
        if keep
    ]
    row, item, kind, units, time_ms, event = np.array(lines, dtype=np.int64).reshape(len(lines), 6).T
    hashes = ITEMS.hashes
    return kept.tolist(), advance(
        rows, row, item.astype(np.int32), kind.astype(np.uint8), time_ms, units, event, DECAY, hashes
    )


def one_by_one(rows: Rows, events: Sequence[Event]) -> tuple[list[bool], Rows]:
    kept = []
    for event in events:
        keep, rows = batch(rows, [event])
        kept += keep
    return kept, rows


def equal(a: Rows, b: Rows) -> bool:
    return pack(a, ITEMS) == pack(b, ITEMS)


lines = st.lists(st.tuples(st.integers(0, 30), st.integers(5, 8), st.sampled_from([0, 8, 32])), max_size=4)
streams = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(-500_000, 900_000), lines), max_size=60
).map(lambda events: [(row, key, START_MS + time, lines) for row, key, time, lines in events])


@settings(deadline=None, max_examples=100)
@given(streams, st.lists(st.integers(0, 1000), max_size=5))
def test_any_batch_cut_is_one_by_one(events: list[Event], cuts: list[int]) -> None:
    expected, alone = one_by_one(Rows.blank(4, BOUNDS), events)
    rows, kept = Rows.blank(4, BOUNDS), []
    edges = [0, *sorted(c % (len(events) + 1) for c in cuts), len(events)]
    for start, end in pairwise(edges):
        keep, rows = batch(rows, events[start:end])
        kept += keep
    assert kept == expected
    assert equal(rows, alone)


@settings(deadline=None, max_examples=100)
@given(streams)
def test_batch_is_the_oracle(events: list[Event]) -> None:
    windows: list[deque[int]] = [deque(maxlen=BOUNDS.ids) for _ in range(4)]
    histories: list[list[tuple[int, int, int]]] = [[] for _ in range(4)]
    newest, kept = [0] * 4, []
    for row, key, time_ms, lines in events:
        kept.append(key == 0 or key not in windows[row])
        if not kept[-1]:
            continue
        if key:
            windows[row].append(key)
        histories[row] += [(item, time_ms // 1000, kind) for item, kind, _ in lines]
        newest[row] = max([newest[row], *(time_ms for _ in lines)])
    got, rows = batch(Rows.blank(4, BOUNDS), events)
    assert got == kept
    for row in range(4):
        last = histories[row][-BOUNDS.history :]
        held = slice(BOUNDS.history - len(last), None)
        columns = (rows.item[row, held], rows.time[row, held], rows.kind[row, held])
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == last
        assert (rows.item[row, : held.start] == -1).all()
        assert (rows.seen[row], rows.newest[row]) == (len(histories[row]), newest[row])
        assert rows.ids[row].tolist() == [0] * (BOUNDS.ids - len(windows[row])) + list(windows[row])


@settings(deadline=None, max_examples=50)
@given(streams)
def test_users_do_not_touch_each_other(events: list[Event]) -> None:
    _, together = batch(Rows.blank(4, BOUNDS), events)
    for row in range(4):
        mine = [(0, *event[1:]) for event in events if event[0] == row]
        _, alone = batch(Rows.blank(1, BOUNDS), mine)
        assert equal(alone, together.take(np.array([row])))


def test_hot_user_in_one_batch() -> None:
    rng = np.random.default_rng(3)
    events: list[Event] = [
        (int(rng.random() < 0.2), i // 2 + 1, START_MS + i * 997, [(int(rng.integers(0, 300)), 5, 8)])
        for i in range(700)
    ]
    expected, alone = one_by_one(Rows.blank(2, BOUNDS), events)
    kept, rows = batch(Rows.blank(2, BOUNDS), events)
    assert kept == expected and not all(kept)
    assert equal(rows, alone)


def test_update_is_pure() -> None:
    _, old = batch(Rows.blank(1, BOUNDS), [(0, 1, START_MS, [(1, 5, 8), (2, 5, 8)])])
    before = old.take(np.array([0]))
    batch(old, [(0, i, START_MS + 10**9, [(i, 5, 8)]) for i in range(2, 40)])
    assert equal(old, before)


def test_id_is_forgotten_after_d_others() -> None:
    def ids(*keys: int) -> list[bool]:
        return batch(Rows.blank(1, BOUNDS), [(0, key, START_MS, []) for key in keys])[0]

    assert ids(1, 1, 0, 0, 2, 1) == [True, False, True, True, True, False]
    assert ids(1, 2, 3, 4, 1, 5, 1) == [True] * 4 + [False, True, True]


def test_no_window_means_no_repeats() -> None:
    rows = Rows.blank(1, Bounds(ids=0))
    kept, rows = batch(rows, [(0, 9, START_MS, [(1, 5, 8)])] * 3)
    assert kept == [True] * 3 and rows.seen.tolist() == [3]
    assert equal(unpack(pack(rows, ITEMS), ITEMS, Bounds(ids=0)), rows)


def test_the_same_id_of_two_users_is_no_repeat() -> None:
    kept, _ = batch(Rows.blank(2, BOUNDS), [(0, 9, START_MS, []), (1, 9, START_MS, [])])
    assert kept == [True, True]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 9), max_size=30), min_size=1, max_size=4), st.integers(1, 20))
def test_tail_and_profile(histories: list[list[int]], n: int) -> None:
    events: list[Event] = [
        (row, 0, START_MS, [(item, 5, 8) for item in history]) for row, history in enumerate(histories)
    ]
    _, rows = batch(Rows.blank(len(histories), BOUNDS), events)
    for row, history in enumerate(histories):
        held = history[-BOUNDS.history :]
        last = held[-n:]
        assert tail(rows, n)[row].tolist() == [-1] * (n - len(last)) + last
        distinct = list(dict.fromkeys(reversed(held)))[:n]
        assert profile(rows, n)[row].tolist() == distinct + [-1] * (n - len(distinct))


def test_profile_looks_through_the_whole_history() -> None:
    history = [3, 2, *[1] * 13]
    _, rows = batch(Rows.blank(1, BOUNDS), [(0, 0, START_MS, [(item, 5, 8) for item in history])])
    assert profile(rows, 3).tolist() == [[1, 2, 3]]


def test_bought() -> None:
    second = START_MS // 1000
    events: list[Event] = [
        (0, 0, START_MS, [(1, PURCHASE, 8), (2, 5, 8)]),
        (1, 0, START_MS + 5000, [(3, PURCHASE, 8), (3, PURCHASE, 8)]),
        (0, 0, START_MS + 9000, [(4, PURCHASE, 8)]),
    ]
    _, rows = batch(Rows.blank(3, BOUNDS), events)

    def found(since: np.ndarray[tuple[int], np.dtype[np.int64]] | int) -> list[tuple[int, int]]:
        row, item = bought(rows, since)
        return list(zip(row.tolist(), item.tolist(), strict=True))

    assert set(found(second - 1)) == {(0, 1), (0, 4), (1, 3)}
    assert set(found(second)) == {(0, 4), (1, 3)}
    assert set(found(np.array([second + 9, second, 0]))) == {(1, 3)}
    assert {each for each in found(-1) if each[0] == 2} == set(), "who did nothing bought nothing"


def busy(users: int, events: int, seed: int = 1) -> Rows:
    rng = np.random.default_rng(seed)
    stream: list[Event] = [
        (
            int(rng.integers(0, users)),
            i + 1,
            START_MS + i * 5000,
            [(int(rng.integers(0, 60)), int(rng.integers(1, 9)), 8)],
        )
        for i in range(events)
    ]
    return batch(Rows.blank(users, BOUNDS), stream)[1]


def test_pack_and_unpack_in_another_process() -> None:
    rows = busy(40, 1500)
    blobs = pack(rows, ITEMS)
    others = Items()
    others.ids(["something else", "item 17", "item 3"])
    again = unpack(blobs, others, BOUNDS)
    assert pack(again, others) == blobs
    others.add_all([f"item {i}" for i in range(60)])
    assert [others.name(i) for i in tail(again, 1)[:, 0]] == [ITEMS.name(i) for i in tail(rows, 1)[:, 0]]


def test_a_user_goes_on_from_the_store_as_from_memory() -> None:
    rows = busy(10, 400)
    more: list[Event] = [(i % 10, 390 + i, START_MS + 10**7, [(i % 70, 5, 8)]) for i in range(200)]
    assert equal(batch(rows, more)[1], batch(unpack(pack(rows, ITEMS), ITEMS, BOUNDS), more)[1])


@pytest.mark.parametrize("most", [1, 200, 254, 255, 256, 400])
def test_an_item_of_the_history_is_stored_once_if_it_is_among_the_first_255_of_the_interest(
    most: int,
) -> None:
    """Local ids that meet in one slot of the table, and items without an entry, included."""
    items, rng = Items(), np.random.default_rng(most)
    items.ids([f"item {i}" for i in range(9000)])
    hashes = items.hashes
    held = [rng.permutation(9000)[:most], rng.permutation(9)[:5] * 1000, np.zeros(0, dtype=np.int64)]
    own = [sorted((int(at) for at in ids), key=lambda at: int(hashes[at])) for ids in held]
    rows = Rows.blank(3, Bounds(64, 512, 4))
    for row, some in enumerate(own):
        rows.item[row, 4 + row :] = rng.choice([*some, 8, 77, 8000], 60 - row)
    flat = np.array(own[0] + own[1], dtype=np.int32)
    ones, three = np.ones(len(flat), dtype=np.uint32), np.ones(3, dtype=np.int64)
    sums = flat, ones.astype(np.int64), ones, ones, ones, ones
    start = np.cumsum([0, *[len(some) for some in own]])
    interest = Interest(start, *sums, three, three, three, 512)
    rows = replace(rows, interest=interest)
    blobs = pack(rows, items)
    found = unpack_users(blobs)
    listed = [list(line[-(60 - row) :]) for row, line in enumerate(rows.item)]
    wanted = [
        [some.index(at) if at in some[:255] else 255 for at in line]
        for some, line in zip(own, listed, strict=True)
    ]
    assert [line[-len(some) :].tolist() for line, some in zip(found.numbers, wanted, strict=True)] == wanted
    assert (unpack(blobs, items, rows.bounds).item == rows.item).all()


def test_blank_users_pack_without_items() -> None:
    blobs = pack(Rows.blank(3, BOUNDS), Items())
    assert len(set(blobs)) == 1 and len(blobs[0]) == 40
    assert len(unpack(blobs, Items(), BOUNDS)) == 3


@pytest.mark.parametrize("bounds", [Bounds(5, 3, 2), Bounds(33, 20, 9)])
def test_other_bounds_cut_or_make_room(bounds: Bounds) -> None:
    rows = busy(10, 1000)
    other = unpack(pack(rows, ITEMS), ITEMS, bounds)
    width = min(bounds.history, BOUNDS.history)
    assert (tail(other, width) == tail(rows, width)).all()
    step = bounds.interest // 2
    assert (other.interest.length <= bounds.interest + rows.interest.added % step).all()
    assert (other.ids[:, -2:] == rows.ids[:, -2:]).all()
    grown = batch(other, [(i % 10, i, START_MS + 10**8, [(i % 90, 5, 8)]) for i in range(1, 400)])[1]
    assert (grown.interest.length > 0).all() and (grown.interest.length < 1.5 * bounds.interest).all()


@settings(deadline=None, max_examples=50)
@given(streams, st.lists(st.integers(0, 3), unique=True))
def test_replaced_users_are_the_others(events: list[Event], at: list[int]) -> None:
    _, rows = batch(Rows.blank(4, BOUNDS), events)
    others = busy(len(at), 50) if at else Rows.blank(0, BOUNDS)
    before = pack(rows, ITEMS)
    new = pack(rows.replaced(np.array(at, dtype=np.int64), others), ITEMS)
    wanted = dict(enumerate(before)) | dict(zip(at, pack(others, ITEMS), strict=True))
    assert new == [wanted[row] for row in range(4)] and pack(rows, ITEMS) == before


# The table


def names(*numbers: int) -> list[str]:
    return [f"user {n}" for n in numbers]


def test_table_loads_takes_and_puts() -> None:
    table, rows = UserTable(BOUNDS), busy(5, 300)
    blobs = pack(rows, ITEMS)
    assert table.slots(names(0, 1)).tolist() == [-1, -1]
    slots = table.load(names(0, 1, 2, 3), [blobs[0], None, blobs[2], blobs[3]], ITEMS)
    assert len(table) == 4 and (table.slots(names(0, 1, 2, 3)) == slots).all()
    expected = [blobs[0], *pack(Rows.blank(1, BOUNDS), ITEMS), *blobs[2:4]]
    taken = table.take(slots)
    assert pack(taken, ITEMS) == expected
    taken = taken.replaced(np.array([0]), rows.take(np.array([4])))
    assert pack(table.take(slots), ITEMS) == expected
    table.put(slots, taken)
    assert pack(table.take(slots[::-1]), ITEMS) == [*expected[:0:-1], blobs[4]]


def test_table_grows_and_keeps_everyone() -> None:
    table, blobs = UserTable(BOUNDS), pack(busy(700, 3000), ITEMS)
    for start in range(0, 700, 100):
        table.load(names(*range(start, start + 100)), blobs[start : start + 100], ITEMS)
    assert pack(table.take(table.slots(names(*range(700)))), ITEMS) == blobs


def test_table_takes_in_nothing_when_bytes_are_bad() -> None:
    table = UserTable(BOUNDS)
    with pytest.raises(ValueError, match="format"):
        table.load(names(1), [b"\x09" + bytes(31)], ITEMS)
    assert len(table) == 0 and table.slots(names(1)).tolist() == [-1]


def test_trim_drops_the_least_recently_used() -> None:
    table = UserTable(BOUNDS)
    for n in range(10):
        table.load(names(n), [None], ITEMS)
    table.take(table.slots(names(0, 1)))
    assert table.trim(10, table.slots([])) == 0
    assert table.trim(5, table.slots(names(3))) == 5
    left = [n for n in range(10) if table.slots(names(n))[0] >= 0]
    assert left == [0, 1, 3, 8, 9]
    assert table.trim(2, table.slots(names(0, 1, 3))) == 2
    assert (table.slots(names(0, 1, 3)) >= 0).all() and len(table) == 3


def test_freed_slots_are_used_again_without_their_past() -> None:
    table, blobs = UserTable(BOUNDS), pack(busy(8, 300), ITEMS)
    table.load(names(*range(8)), blobs, ITEMS)
    table.trim(4, table.slots([]))
    slots = table.load(names(*range(20, 24)), [None] * 4, ITEMS)
    assert slots.max() < 8 and (table.take(slots).seen == 0).all()
    table.forget(names(20, 99))
    assert len(table) == 7 and table.slots(names(20))[0] == -1


def test_table_takes_the_declared_memory() -> None:
    users = 2048
    events: list[Event] = [(row, 0, START_MS, [(n, 5, 8) for n in range(20)]) for row in range(users)]
    _, rows = batch(Rows.blank(users, Bounds()), events)
    tracemalloc.start()
    table = UserTable(Bounds())
    table.put(table.load(names(*range(users)), [None] * users, ITEMS), rows)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 20 * 28 < taken / users < 1350 + 20 * 28
