"""What keeps a bought item off lists: by time, however much else a user does meanwhile."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.bought import Bought
from stream.core.items import Items
from stream.core.users import BOUGHT, Bounds, Rows, advance, bought, last_bought, pack, unpack
from stream.core.weights import Decay
from stream.events import CODE
from tests.test_explaining import shop, tell

DAY = 86_400
START = 1_770_000_000
PURCHASE, VIEW = CODE["purchase"], CODE["view_item"]
ITEMS = Items()
ITEMS.ids([f"item {n}" for n in range(300)])
Done = tuple[int, int, int]
"""User, item, second."""


def did(rows: Rows, kind: int, *done: Done) -> Rows:
    """Users after more interactions of one kind, in this order."""
    user, item, second = np.array(done, dtype=np.int64).reshape(len(done), 3).T
    code, units = np.full(len(done), kind, dtype=np.uint8), np.full(len(done), 8)
    numbers, decay = np.arange(len(done)), Decay(90 * DAY * 1000)
    return advance(
        rows, user, item.astype(np.int32), code, second * 1000, units, numbers, decay, ITEMS.hashes
    )


def out(rows: Rows, since: int) -> set[tuple[int, int]]:
    """Who may not be recommended what, if what was bought after ``since`` counts."""
    row, item = bought(rows, since)
    return set(zip(row.tolist(), item.tolist(), strict=True))


def oracle(done: list[Done], most: int) -> list[list[tuple[int, int]]]:
    """By user: of each item's newest purchase the last ``most`` by second, then hash."""
    kept = []
    for user in range(3):
        newest: dict[int, int] = {}
        for who, item, second in done:
            if who == user:
                newest[item] = max(newest.get(item, 0), second)
        ordered = sorted(newest, key=lambda item: (newest[item], int(ITEMS.hashes[item])))
        kept.append([(item, newest[item]) for item in ordered[max(0, len(ordered) - most) :]])
    return kept


def held(rows: Rows) -> list[list[tuple[int, int]]]:
    """What the arrays hold, and that it stands at the right."""
    table = []
    for item, second in zip(rows.bought.item.tolist(), rows.bought.second.tolist(), strict=True):
        some = [(at, when) for at, when in zip(item, second, strict=True) if at >= 0]
        lack = len(item) - len(some)
        assert (item[:lack], second[:lack]) == ([-1] * lack, [0] * lack)
        table.append(some)
    return table


purchases = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(START, START + 6)), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(
    purchases, st.lists(st.integers(0, 40), max_size=4), st.integers(0, 5), st.randoms(use_true_random=False)
)
def test_the_last_items_bought_are_kept_whatever_the_order_and_the_batches(
    done: list[Done], cuts: list[int], most: int, random: Random
) -> None:
    rows = Rows.blank(3, Bounds(16, 8, 4, most))
    edges = sorted({0, len(done), *(cut for cut in cuts if cut < len(done))})
    for low, high in pairwise(edges):
        rows = did(rows, PURCHASE, *done[low:high])
        rows = unpack(pack(rows, ITEMS), ITEMS, rows.bounds)
    assert held(rows) == oracle(done, most)
    random.shuffle(done)
    assert not done or held(did(Rows.blank(3, rows.bounds), PURCHASE, *done)) == held(rows)


@settings(max_examples=50, deadline=None)
@given(purchases, st.integers(START - 1, START + 7), st.integers(0, 100))
def test_as_long_as_no_more_items_were_bought_none_is_forgotten_by_views(
    done: list[Done], since: int, views: int
) -> None:
    rows = Rows.blank(3, Bounds())
    for each in done:
        rows = did(rows, PURCHASE, each)
    for user in range(3 if views else 0):
        rows = did(rows, VIEW, *[(user, 20 + n, START + 10 + n) for n in range(views)])
    assert out(rows, since) == {(who, item) for who, item, second in done if second > since}


@pytest.mark.parametrize("views", [0, 62, 63, 64, 200])
def test_a_purchase_counts_until_its_time_is_over(views: int) -> None:
    rows = did(Rows.blank(1, Bounds()), PURCHASE, (0, 5, START))
    if views:
        rows = did(rows, VIEW, *[(0, 10 + n, START + 60 + n) for n in range(views)])
    assert out(rows, START - 1) == {(0, 5)} and out(rows, START) == set()
    assert (last_bought(rows, 5), last_bought(rows, 6)) == (START, 0)


@pytest.mark.parametrize(("items", "first"), [(BOUGHT - 1, True), (BOUGHT, True), (BOUGHT + 1, False)])
def test_of_more_items_than_are_kept_the_one_bought_first_goes(items: int, first: bool) -> None:
    rows = did(Rows.blank(1, Bounds()), PURCHASE, *[(0, n, START + n) for n in range(items)])
    assert out(rows, 0) == {(0, n) for n in range(items)}, "the history still knows them all"
    rows = did(rows, VIEW, *[(0, 100 + n, START + 100 + n) for n in range(64)])
    assert out(rows, 0) == {(0, n) for n in range(0 if first else 1, items)}


def test_a_late_purchase_makes_no_newer_one_forgotten() -> None:
    rows = did(Rows.blank(1, Bounds()), PURCHASE, (0, 5, START + DAY), (0, 5, START))
    assert held(rows) == [[(5, START + DAY)]]


def test_where_bought_items_are_listed_none_are_kept() -> None:
    rows = did(Rows.blank(1, Bounds(bought=0)), PURCHASE, (0, 5, START))
    assert rows.bought.item.shape == (1, 0) and rows.bounds.bought == 0
    kept = did(Rows.blank(1, Bounds()), PURCHASE, (0, 5, START))
    assert len(pack(kept, ITEMS)[0]) == len(pack(rows, ITEMS)[0]) + 12
    assert pack(unpack(pack(kept, ITEMS), ITEMS, Bounds(bought=0)), ITEMS) == pack(rows, ITEMS)


def test_users_without_purchases_are_not_copied() -> None:
    some = Bought.blank(2, 4)
    none = np.zeros(0, dtype=np.int64)
    assert some.add(none, none.astype(np.int32), none, ITEMS.hashes) is some


async def test_what_was_bought_stays_off_the_list_after_many_views() -> None:
    worker = await shop(exclude_bought_s=DAY)
    await worker.send("ann", "purchase", 3 * DAY, item="i2", order="o")
    for n in range(70):
        await worker.send("ann", "view_item", 3 * DAY + 10 + n, item=f"i{3 + n % 2}")
    assert "i2" not in [line["item"] for line in worker.list_of("ann")]
    (reason,) = (await tell(worker, "i2")).explanation.reasons
    assert reason.startswith("it was bought at 2026-01-04T00:00:00.000Z: left out until 2026-01-05T00:00")
    await worker.send("ann", "view_item", 4 * DAY, item="i3")
    assert (await tell(worker, "i2")).explanation.status == "ranked"
