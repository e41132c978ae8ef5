"""Whom a change of price or stock concerns: by hand, against brute force, and what holds whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core import watchers
from stream.core.watchers import (
    BOUGHT,
    CART,
    DAY_MS,
    LEFT,
    PEOPLE_A_UNIT,
    PRICE,
    STOCK,
    VIEW,
    WISH,
    Change,
    Goods,
    Interest,
    Terms,
    Watch,
    Watchers,
    fell,
    joined,
    matters,
    note,
    tell,
    watch,
)
from tests.scenarios import ms

TERMS = Terms(frozenset([0.1]), frozenset([3]), frozenset([5]), 30 * DAY_MS, 30 * DAY_MS, 14 * DAY_MS)
KINDS = {"views": VIEW, "carts": CART, "wishes": WISH, "buys": BOUGHT, "leaves": LEFT}


@dataclass
class Item:
    """An item, its list, and what the catalogue says of it."""

    goods: Goods = field(default_factory=lambda: Goods(None, None))
    watchers: Watchers = field(default_factory=Watchers)
    terms: Terms = TERMS

    def happens(self, time: int, what: str) -> list[str]:
        """``ann views [@9.90]`` or ``price 9``, ``stock 0``, ``hidden``; who is told, and what."""
        who, verb, *rest = [*what.split(), ""]
        if verb in KINDS:
            price = float(rest[0][1:]) if rest and rest[0] else None
            note(self.watchers, Interest(0, "A", who, KINDS[verb], time, price), self.goods)
            return []
        price, stock = self.goods.price, self.goods.stock
        after = Goods(float(verb), stock) if who == "price" else Goods(price, int(verb))
        change = Change("A", time, self.goods, after)
        self.goods = after
        if not matters(change, self.terms):
            held = deepcopy(self.watchers.users)
            assert not tell(self.watchers, change, self.terms) and self.watchers.users == held
            return []
        told = tell(self.watchers, change, self.terms)
        return [f"{user} {kind.removeprefix('tidewise.')} {body.new:g}" for user, kind, body in told]


def played(table: str, item: Item | None = None) -> Item:
    item = item or Item()
    for row in table.strip().splitlines():
        when, what, *told = (column.strip() for column in row.split("|"))
        assert item.happens(ms(when), what) == [one for one in "".join(told).split("; ") if one], row
    return item


TABLES = {
    "a price a tenth below the one seen, and not a cent more": """
        1 10:00 | price 100 |
        1 11:00 | ann views |
        2 10:00 | price 90.01 |
        2 11:00 | price 90  | ann price 90
        2 12:00 | price 90  |
    """,
    "the first price ever loaded is none, also for whom an event told one": """
        1 10:00 | ann views @100 |
        1 11:00 | price 50  |
        1 12:00 | price 49  | ann price 49
    """,
    "the price that the event told counts before that of the catalogue": """
        1 10:00 | price 100 |
        1 11:00 | ann views @80 |
        2 10:00 | price 80  |
        2 11:00 | price 72  | ann price 72
    """,
    "each looks at the price he saw, the last one": """
        1 10:00 | price 100 |
        1 11:00 | ann views |
        1 11:00 | bob views |
        2 10:00 | price 95  |
        2 11:00 | bob views |
        2 12:00 | price 88  | ann price 88
        2 13:00 | price 85  | ann price 85; bob price 85
    """,
    "every new low once; anew after a rise, of which those told lately hear": """
        1 10:00 | price 100 |
        1 11:00 | ann views |
        2 10:00 | price 90  | ann price 90
        2 11:00 | price 80  | ann price 80
        2 12:00 | price 85  | ann price 85
        2 13:00 | price 84  | ann price 84
        5 12:00 | price 99  |
        5 13:00 | price 90  | ann price 90
    """,
    "thirty days after he looked, not a moment later": """
        1 10:00  | price 100 |
        1 10:00  | ann views |
        1 10:00:00.001 | bob views |
        31 10:00:00.001 | price 90 | bob price 90
    """,
    "not who bought it within thirty days": """
        1 10:00  | price 100 |
        1 10:00  | ann views |
        1 10:00  | bob views |
        2 10:00  | ann buys  |
        2 10:00:00.001 | bob buys |
        30 10:00 | ann views |
        30 10:00 | bob views |
        32 10:00 | price 90  | ann price 90
        32 10:01 | price 89  | ann price 89; bob price 89
    """,
    "not while it is sold out; when it is back, both": """
        1 10:00 | price 100 |
        1 10:00 | stock 5   |
        1 11:00 | ann views |
        2 10:00 | stock 0   |
        2 11:00 | price 80  |
        2 12:00 | stock 9   | ann price 80; ann stock 9
    """,
    "back in stock at three pieces, not at one that somebody returned": """
        1 10:00 | stock 0   |
        1 11:00 | ann views |
        2 10:00 | stock 2   |
        2 11:00 | stock 3   | ann stock 3
        2 12:00 | stock 4   |
        2 13:00 | stock 0   | ann stock 0
        2 14:00 | stock 3   | ann stock 3
    """,
    "whoever looked once it was back has seen it": """
        1 10:00 | stock 0   |
        1 11:00 | ann views |
        1 11:00 | bob views |
        2 10:00 | stock 1   |
        2 10:00:00.001 | bob views |
        2 11:00 | stock 3   | ann stock 3
    """,
    "a wish waits for ever, a look for thirty days": """
        1 10:00  | stock 0  |
        1 11:00  | ann views |
        1 11:00  | bob wishes |
        1 11:00:00.001 | cid views |
        31 11:00:00.001 | stock 3 | bob stock 3; cid stock 3
    """,
    "not who bought it within seven days": """
        1 10:00  | stock 9  |
        1 11:00  | ann views |
        1 11:00  | bob views |
        2 10:00  | ann buys |
        2 10:00:00.001 | bob buys |
        3 10:00  | stock 0  |
        9 10:00  | stock 3  | ann stock 3
    """,
    "the first stock ever loaded is no return": """
        1 11:00 | ann views |
        2 10:00 | stock 9   |
    """,
    "below five, for whom has it in the cart or wished for it": """
        1 10:00 | stock 9    |
        1 11:00 | ann carts  |
        1 11:00 | bob wishes |
        1 11:00 | cid views  |
        2 10:00 | stock 5    |
        2 11:00 | stock 4    | ann stock 4; bob stock 4
        2 12:00 | stock 3    |
        2 13:00 | stock 5    | ann stock 5; bob stock 5
        2 14:00 | stock 0    | ann stock 0; bob stock 0
    """,
    "low for fourteen days after it was put there, and not once it is bought": """
        1 10:00  | stock 9    |
        1 10:00  | ann carts  |
        1 10:00:00.001 | bob carts |
        1 10:00:00.001 | cid carts |
        2 10:00  | cid buys   |
        15 10:00:00.001 | stock 4 | bob stock 4
    """,
    "what comes up from nothing is not low, it is back": """
        1 10:00 | stock 0   |
        1 11:00 | ann carts |
        2 10:00 | stock 4   | ann stock 4
    """,
    "who left hears nothing": """
        1 10:00 | price 100 |
        1 11:00 | ann wishes |
        1 12:00 | ann leaves |
        2 10:00 | price 50  |
    """,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_by_hand(table: str) -> None:
    played(table)


def test_a_hidden_item_counts_as_sold_out() -> None:
    assert Goods.of({"price": 3.0, "stock": 7, "hidden": True}) == Goods(3.0, 0)
    assert not Goods(3.0, 0).available
    assert Goods.of({}).available


def test_shares_of_prices_are_exact_to_the_cent() -> None:
    for cents in range(100, 20_000, 7):
        for share in (10, 15, 30, 33):
            bound = cents * (100 - share)
            for price in (bound // 100, bound // 100 + 1):
                assert fell(price / 100, cents / 100, share / 100) == (100 * price <= bound)


def test_forty_people_a_unit_oldest_first_and_the_others_when_more_comes() -> None:
    item = Item(Goods(None, 0), terms=replace(TERMS, lows=frozenset()))
    for n in range(300):
        item.happens(1000 + n, f"u{n:03} views")
    first = item.happens(DAY_MS, "stock 3")
    assert first == [f"u{n:03} stock 3" for n in range(3 * PEOPLE_A_UNIT)]
    assert item.happens(DAY_MS + 1, "stock 4") == [f"u{n:03} stock 4" for n in range(120, 160)]
    later = item.happens(2 * DAY_MS + 2, "stock 5")
    assert later == [f"u{n:03} stock 5" for n in range(160, 300)]


def test_who_was_told_stands_at_the_end_of_the_queue() -> None:
    item = Item(Goods(None, 0))
    for n in range(200):
        item.happens(1000 + n, f"u{n:03} wishes")
    item.happens(DAY_MS, "stock 3")
    item.happens(DAY_MS + 1, "stock 0")
    assert item.happens(3 * DAY_MS, "stock 3")[:80] == [f"u{n:03} stock 3" for n in range(120, 200)]


def test_several_campaigns_each_have_their_own_numbers() -> None:
    loose, strict = Terms(frozenset([0.1]), price_ms=DAY_MS), Terms(returns=frozenset([3, 10]), return_ms=5)
    both = joined([loose, strict])
    assert both == Terms(frozenset([0.1]), frozenset([3, 10]), frozenset(), DAY_MS, 5, 0)
    assert joined([]) is None
    item = Item(Goods(None, 0), terms=replace(TERMS, returns=frozenset([3, 10])))
    played(
        """
        1 11:00 | ann views |
        2 10:00 | stock 4   | ann stock 4
        2 11:00 | stock 9   |
        2 12:00 | stock 10  | ann stock 10
        """,
        item,
    )


def test_the_list_is_bounded_and_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "WATCHERS", 3)
    item = Item(Goods(100.0, None))
    for n, user in enumerate("abcabd"):
        item.happens(n, f"{user} views")
    assert sorted(item.watchers.users) == ["a", "b", "d"]


def test_a_users_own_list_tells_what_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "WATCHED", 2)
    watched: dict[str, Watch] = {}
    assert [watch(watched, item, VIEW, n) for n, item in enumerate("ABA")] == [[], [], []]
    assert watch(watched, "C", BOUGHT, 3) == ["B"]
    assert watch(watched, "A", WISH, 1) == []
    assert watched == {"A": Watch(2, 1, 0), "C": Watch(0, 0, 3)}


# Brute force: the rules as sentences, each over the whole history

EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 20), st.sampled_from("abcd"), st.integers(0, 4), st.none() | st.integers(40, 120)
        ),
        st.tuples(st.integers(0, 20), st.just(""), st.just(-1), st.integers(40, 120)),
        st.tuples(st.integers(0, 20), st.just(""), st.just(-2), st.integers(0, 12)),
    ),
    max_size=40,
)
Log = Sequence[tuple[int, str, int, int | None]]


def history(log: Log) -> tuple[Watchers, list[tuple[int, str, str, float]]]:
    """Days pass as the log says; what was told, by the number of its event."""
    item, time, told = Item(), 1000 * DAY_MS, []
    for at, (days, user, kind, value) in enumerate(log):
        time += days * DAY_MS
        if kind >= 0:
            price = None if value is None else float(value)
            note(item.watchers, Interest(0, "A", user, kind, time, price), item.goods)
            continue
        assert value is not None
        after = replace(item.goods, **({"price": float(value)} if kind == -1 else {"stock": value}))
        found = tell(item.watchers, Change("A", time, item.goods, after), TERMS)
        told += [(at, user, kind, body.new) for user, kind, body in found]
        item.goods = after
    return item.watchers, told


def values(log: Log, what: int) -> list[int]:
    return [value for _, _, kind, value in log if kind == what and value is not None]


@given(EVENTS)
def test_what_is_told_is_true_whatever_happened_before(log: Log) -> None:
    _, told = history(log)
    times = [sum(days for days, *_ in log[: at + 1]) for at in range(len(log))]
    for at, user, kind, new in told:
        mine = [(times[n], what, value) for n, (_, who, what, value) in enumerate(log[:at]) if who == user]
        last_left = max((n for n, (_, what, _) in enumerate(mine) if what == LEFT), default=-1)
        mine = mine[last_left + 1 :]
        looked = max(time for time, what, _ in mine if what != BOUGHT)
        first = min(n for n, (_, what, _) in enumerate(mine) if what != BOUGHT)
        bought = max((time for time, what, _ in mine[first:] if what == BOUGHT), default=-1000)
        stocks, prices = values(log[:at], -2), values(log[:at], -1)
        if kind == PRICE and new < prices[-1]:
            assert times[at] - looked <= 30 and (stocks or [1])[-1] > 0
            seen = [value for _, what, value in mine if what != BOUGHT and value is not None]
            assert new <= 0.9 * max(seen + prices)
            assert times[at] - bought >= 30
        if kind == STOCK and new >= 3 and stocks and new > stocks[-1] and 0 in stocks:
            assert times[at] - bought >= 7 or new >= 5 > stocks[-1]
        if kind == STOCK and 0 < new < 5 and stocks[-1] >= 5:
            wanted = max(time for time, what, _ in mine if what in (CART, WISH))
            assert times[at] - wanted <= 14 and wanted > bought


@given(EVENTS)
def test_nobody_who_left_is_in_the_list_or_told(log: Log) -> None:
    found, told = history([*log, (0, "a", LEFT, None), (1, "", -1, 40), (0, "", -2, 0), (0, "", -2, 9)])
    assert "a" not in found.users
    assert not any(user == "a" and at > len(log) for at, user, _, _ in told)


@given(EVENTS)
def test_a_list_survives_the_store(log: Log) -> None:
    found, _ = history(log)
    assert Watchers.unpack(found.pack()) == found
    with pytest.raises(ValueError, match="format"):
        Watchers.unpack(msgspec.msgpack.encode([9]))
