"""Whom a change of price or stock concerns: by hand, against brute force, and what holds whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
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
        2 13:00 | stock 0   | ann stock 0
        2 14:00 | stock 9   | ann stock 9
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

GAPS = st.sampled_from([0, 0, 0, 0, 1, 1, 6, 7, 8, 14, 15, 30, 31])
PRICES = st.sampled_from([50, 60, 70, 80, 90, 100])
EVENTS = st.lists(
    st.one_of(
        st.tuples(GAPS, st.sampled_from("ab"), st.sampled_from([0, 0, 1, 2, 3]), st.none() | PRICES),
        st.tuples(GAPS, st.sampled_from("abcd"), st.integers(0, 4), st.none() | PRICES),
        st.tuples(GAPS, st.just(""), st.just(-1), PRICES),
        st.tuples(GAPS, st.just(""), st.just(-2), st.sampled_from([0, 0, 1, 2, 3, 4, 5, 9])),
    ),
    max_size=40,
)
Log = Sequence[tuple[int, str, int, int | None]]


def history(log: Log, news: bool = False) -> tuple[Watchers, list[tuple[int, str, str, float]]]:
    """Days pass as the log says; what was told, by the number of its event; or the news alone."""
    item, time, told = Item(), 1000 * DAY_MS, []
    for at, (days, user, kind, value) in enumerate(log):
        time += days * DAY_MS
        if kind >= 0:
            price = None if value is None else float(value)
            note(item.watchers, Interest(0, "A", user, kind, time, price), item.goods)
            continue
        assert value is not None
        after = replace(item.goods, **({"price": float(value)} if kind == -1 else {"stock": value}))
        change = Change("A", time, item.goods, after)
        lately = sum(1 for _ in watchers._corrections(deepcopy(item.watchers), change, TERMS)) if news else 0
        found = tell(item.watchers, change, TERMS)[lately:]
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


News = list[tuple[int, str, str, float]]


@dataclass
class Past:
    """What a user could know of himself and of the item, when the last change of a log came."""

    log: Log
    told: News
    user: str

    def __post_init__(self) -> None:
        log, self.at = self.log, len(self.log) - 1
        self.day = [1000 + sum(gap for gap, *_ in log[: at + 1]) for at in range(len(log))]
        mine = [(n, kind) for n, (_, who, kind, _) in enumerate(log) if who == self.user]
        left = max((n for n, kind in mine if kind == LEFT), default=-1)
        self.looks = [n for n, kind in mine if kind != BOUGHT and n > left]
        self.did = [(n, kind) for n, kind in mine if self.looks and n >= self.looks[0]]
        self.heard = [(n, kind, new) for n, who, kind, new in self.told if who == self.user and n > left]
        self.changed = log[self.at][2]
        self.before = values(log[: self.at], -1)[-1:], values(log[: self.at], -2)[-1:]
        self.prices, self.stocks = values(log, -1), values(log, -2)

    def ago(self, *kinds: int) -> int:
        """Days since he last did so."""
        return self.day[self.at] - max((self.day[n] for n, kind in self.did if kind in kinds), default=-1000)

    def since(self) -> int:
        """When he came, or last heard that it is back."""
        return max(self.day[n] for n in [self.looks[0], *(n for n, _ in self.returns())])

    def returns(self) -> list[tuple[int, float]]:
        """What he heard of a stock that rose."""
        return [
            (n, new)
            for n, kind, new in self.heard
            if kind == STOCK and new > [0, *values(self.log[:n], -2)][-1]
        ]

    def news(self) -> list[tuple[str, float]]:
        if not self.looks:
            return []
        found: list[tuple[str, float]] = []
        if self.cheaper():
            found.append((PRICE, self.prices[-1]))
        if self.changed == -2 and (self.back() or self.few()):
            found.append((STOCK, self.stocks[-1]))
        return found

    def cheaper(self) -> bool:
        (price, stock), log = self.before, self.log
        told = [log[n][3] or next(iter(values(log[:n], -1)[::-1]), None) for n in self.looks]
        seen = [each for each in told if each is not None]
        if not price or not seen or self.stocks[-1:] == [0]:
            return False
        now, changes = self.prices[-1], [n for n in range(self.at) if log[n][2] == -1]
        rises = [n for m, n in pairwise(changes) if (log[n][3] or 0) > (log[m][3] or 0)]
        since = max([0, *rises])
        heard = [new for n, kind, new in self.heard if kind == PRICE and n > since]
        far = now <= seen[-1] * 9 / 10 and all(now < new for new in heard)
        news = now < price[0] or stock == [0]
        return far and news and self.ago(VIEW, CART, WISH) <= 30 <= self.ago(BOUGHT)

    def back(self) -> bool:
        empty = [n for n in range(self.at) if self.log[n][2] == -2 and self.log[n][3] == 0]
        if not empty or self.stocks[-1] <= self.before[1][0]:
            return False
        returned = next(n for n in range(empty[-1] + 1, self.at + 1) if self.log[n][2] == -2)
        most = max((new for n, new in self.returns() if n > empty[-1]), default=0)
        waits = any(kind == WISH for _, kind in self.did) or self.ago(VIEW, CART) <= 30
        unseen = self.day[self.looks[-1]] <= self.day[returned]
        return waits and unseen and most < 3 <= self.stocks[-1] and self.ago(BOUGHT) >= 7

    def few(self) -> bool:
        fell = bool(self.before[1]) and self.before[1][0] >= 5 > self.stocks[-1] > 0
        return fell and self.ago(CART, WISH) <= 14 and self.ago(CART, WISH) < self.ago(BOUGHT)


def expected(log: Log) -> News:
    """What is news to whom, by sentences over the whole history; one person for each piece."""
    told: News = []
    for at in range(len(log)):
        if log[at][2] >= 0:
            continue
        pasts = {user: Past(log[: at + 1], told, user) for user in "abcd"}
        news = {user: found for user, past in pasts.items() if (found := past.news())}
        lately = [p for p in pasts.values() if p.looks and any(p.day[n] > p.day[at] - 1 for n, *_ in p.heard)]
        room = max(0, past_stock[-1] - len(lately)) if (past_stock := values(log[: at + 1], -2)) else 4
        chosen = sorted(news, key=lambda user: (pasts[user].since(), user))[:room]
        told += [(at, user, *each) for user in chosen for each in news[user]]
    return told


@settings(max_examples=200)
@given(EVENTS)
def test_all_are_told_who_should_be_and_nobody_else(log: Log) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watchers, "PEOPLE_A_UNIT", 1)
        _, told = history(log, news=True)
    assert told == expected(log)


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
