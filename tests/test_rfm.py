"""RFM: against brute force over random logs, ranks against a sort, the segments, and audiences as a guard."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import rfm
from stream.core.campaigns import SEGMENTS
from stream.core.engaged import Seen, UserState
from stream.core.rfm import DAY_MS, GRID, NOBODY, WEEK_MS, Judge, Ranks, Rfm, Values, segment
from tests.scenarios import Happening, Shop, campaign, engine, event, ms
from tests.scenarios import check as check_table

START = ms("00:00") // WEEK_MS * WEEK_MS


def seen(kind: str, time: int, user: str = "ann", **fields: Any) -> Seen:
    return Seen(0, time, time, kind, event(kind, time, user, **fields))


def buy(time: int, value: float | None = 10.0, order: str | None = None) -> Seen:
    return seen("purchase", time, item="A", value=value, order=order)


def after(*events: Seen) -> Rfm:
    found = NOBODY
    for each in events:
        found = rfm.after(found, each)
    return found


# One customer, by hand


def test_what_a_customer_bought() -> None:
    found = after(buy(START), buy(START + DAY_MS, 2.5), buy(START + 8 * DAY_MS, 0.01))
    assert found.values() == Values(START // DAY_MS + 8, 3, 1251)
    assert after().values() is None


@pytest.mark.parametrize(("days", "orders"), [(51 * 7, 2), (52 * 7 - 1, 2), (52 * 7, 1), (52 * 7 + 1, 1)])
def test_the_year_ends_with_the_week_of_the_newest_order(days: int, orders: int) -> None:
    both = [buy(START), buy(START + days * DAY_MS)]
    assert after(*both) == after(*reversed(both))
    assert after(*both).values() == Values(START // DAY_MS + days, orders, 1000 * orders)


def test_money_is_what_the_order_says_else_what_its_lines_say() -> None:
    lines = [{"item": "A", "price": 1.5, "quantity": 2}, {"item": "B"}]
    assert after(seen("purchase", START, items=lines)).weeks[0].cents == 300
    assert after(seen("purchase", START, items=lines, value=9)).weeks[0].cents == 900
    assert after(seen("purchase", START, item="B")).values() == Values(START // DAY_MS, 1, 0)


REFUNDS: dict[str, tuple[dict[str, Any], Values]] = {
    "of a named order, all of it": ({"order": "a"}, Values(10, 2, 500)),
    "of the newest, when it names none": ({"item": "A"}, Values(1, 2, 1200)),
    "of a part": ({"order": "a", "value": 4}, Values(10, 3, 1100)),
    "of more than there was": ({"order": "b", "value": 40}, Values(1, 2, 1200)),
    "of an order that nobody knows": ({"order": "d"}, Values(10, 3, 1500)),
    "by the prices of what came back": (
        {"order": "b", "items": [{"item": "A", "price": 2.5}]},
        Values(10, 3, 1250),
    ),
}


@pytest.mark.parametrize("name", REFUNDS)
def test_refunds(name: str) -> None:
    orders = [buy(START, 10, "a"), buy(START + DAY_MS, 2, "c"), buy(START + 10 * DAY_MS, 3, "b")]
    fields, expected = REFUNDS[name]
    found = after(*orders, seen("refund", START + 11 * DAY_MS, **fields)).values()
    assert found is not None
    assert found._replace(day=found.day - START // DAY_MS) == expected


def test_everything_refunded_is_no_customer() -> None:
    assert after(buy(START), seen("refund", START + 1, item="A")).values() is None


def test_a_refund_from_before_the_order_is_not_about_it() -> None:
    assert after(buy(START), seen("refund", START - 1, item="A")) == after(buy(START))


def test_who_is_anonymous_is_no_customer() -> None:
    alone = event("purchase", START, "device", known=False, item="A", value=3)
    assert after(Seen(0, START, START, "purchase", alone)) == NOBODY


# Laws

Drawn = list[tuple[int, int, int]]
drawn_orders = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 5000), st.integers(0, 30)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(drawn_orders, st.randoms(use_true_random=False))
def test_orders_in_any_order_give_what_brute_force_gives(drawn: Drawn, random: Any) -> None:
    orders = [buy(START + day * DAY_MS, cents / 100) for day, cents, _ in drawn]
    random.shuffle(orders)
    end = max((day // 7 for day, _, _ in drawn), default=0)
    held = [(day, cents) for day, cents, _ in drawn if day // 7 > end - 52]
    expected = Values(START // DAY_MS + max(held)[0], len(held), sum(c for _, c in held)) if held else None
    assert after(*orders).values() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5000), st.integers(0, 6000)), max_size=8))
def test_refunds_of_named_orders_give_what_brute_force_gives(drawn: Drawn) -> None:
    orders = [buy(START + day * DAY_MS, cents / 100, f"o{n}") for n, (day, cents, _) in enumerate(drawn)]
    back = [
        seen("refund", START + 70 * DAY_MS, order=f"o{n}", value=cents / 100)
        for n, (_, _, cents) in enumerate(drawn)
        if cents
    ]
    held = [(day, cents - taken) for day, cents, taken in drawn if cents > taken]
    expected = Values(START // DAY_MS + max(held)[0], len(held), sum(c for _, c in held)) if held else None
    assert after(*orders, *back).values() == expected


amounts = st.integers(0, 10**13)


@given(st.integers(1, 10**13), st.floats(0, 0.1))
def test_who_is_ranked_alike_differs_by_less_than_a_bucket(low: int, more: float) -> None:
    high = int(low * (1 + more))
    apart = high >= low * 2 ** (1 / rfm.STEPS) * (1 + 1e-9)
    assert not (apart and rfm.bucket(low) == rfm.bucket(high))


@given(amounts, amounts)
def test_buckets_keep_the_order(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert rfm.bucket(low) <= rfm.bucket(high)
    assert rfm.bucket(2 * high) == rfm.bucket(high) + rfm.STEPS * (high > 0)


values_of = st.builds(Values, st.integers(0, 20), st.integers(1, 30), st.integers(0, 10_000))
customers = st.lists(values_of, max_size=30)


@settings(max_examples=40, deadline=None)
@given(customers, customers)
def test_merging_is_counting_together_and_leaving_undoes_coming(mine: Any, others: Any) -> None:
    parts = [Ranks(), Ranks(), Ranks()]
    for ranks, some in zip(parts, (mine, others, mine + others), strict=True):
        ranks.move((None, values) for values in some)
    parts[0].merge(parts[1])
    assert parts[0] == parts[2]
    parts[0].move((values, None) for values in mine)
    assert parts[0] == parts[1]


@settings(max_examples=40, deadline=None)
@given(customers, customers)
def test_the_store_keeps_what_the_counts_are(mine: Any, others: Any) -> None:
    ranks, fields = Ranks(), dict[str, bytes]()
    for some in (mine, others):
        for name, count in ranks.moved((None, values) for values in some).items():
            fields[name] = b"%d" % count
        ranks.move((None, values) for values in some)
        assert Ranks.of(fields) == ranks
    gone = ranks.moved((values, None) for values in mine + others)
    assert gone == dict.fromkeys(fields, 0)


@given(st.lists(values_of, min_size=1, max_size=40))
def test_scores_are_the_fifths_that_lie_wholly_below_or_above(some: list[Values]) -> None:
    ranks = Ranks()
    ranks.move((None, values) for values in some)
    judge = Judge(ranks)
    for values in some:
        mine, (days, *others) = rfm.buckets(values), zip(*map(rfm.buckets, some), strict=True)
        below = [
            sum(each < number for each in column) for number, column in zip(mine[1:], others, strict=True)
        ]
        above = sum(day > values.day for day in days)
        expected = (5 - 5 * above // len(some), *(1 + 5 * count // len(some) for count in below))
        assert judge.scores(values) == expected


# Segments


def test_every_score_has_one_segment_and_all_segments_are_there() -> None:
    found = Counter(segment(*scores) for scores in product(range(1, 6), repeat=3))
    assert set(found) == set(SEGMENTS) and found.total() == 125
    assert set(sum(GRID, ())) == set(SEGMENTS)


SAID = {
    (5, 5, 5): "champions",
    (5, 3, 4): "champions",
    (5, 1, 1): "new",
    (4, 1, 1): "promising",
    (5, 1, 2): "potential-loyalists",
    (3, 4, 4): "loyal",
    (3, 3, 3): "need-attention",
    (3, 1, 2): "about-to-sleep",
    (2, 3, 3): "at-risk",
    (1, 5, 4): "cannot-lose",
    (1, 2, 2): "hibernating",
}


@pytest.mark.parametrize("scores", SAID)
def test_segments(scores: tuple[int, int, int]) -> None:
    assert segment(*scores) == SAID[scores]


# The guard

TODAY = ms("00:00") // DAY_MS
BESIDE = [Values(TODAY - 10 * n, 10 - n, 10_000 - 1000 * n) for n in range(10)]
"""Ten customers: who came last bought most."""

AUDIENCES = {
    "who never bought is in no segment": (
        ["hibernating", "new"],
        """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | suppressed 1 audience
        """,
    ),
    "who bought once, today, is new": (
        "new",
        """
        1 10:00  | consent  |
        1 10:01  | buy B @1 |
        1 10:05  | add A    |
        1 10:50  | clock    | sent 1: A
        """,
    ),
    "and no champion": (
        ["champions", "loyal"],
        """
        1 10:00  | consent  |
        1 10:01  | buy B @1 |
        1 10:05  | add A    |
        1 10:50  | clock    | suppressed 1 audience
        """,
    ),
    "who is judged as he stands when it is due: a refund that was late counts": (
        "new",
        """
        1 10:00  | consent  |
        1 10:01  | buy B @1 |
        1 10:05  | add A    |
        1 10:49  | refund of 1 10:02 |
        1 10:50  | clock    | suppressed 1 audience
        """,
    ),
    "a segment between two nudges": (
        "new",
        """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | suppressed 1 audience
        1 11:00  | buy B @1 | cancelled 2 purchase
        1 11:05  | add A   |
        1 11:50  | clock   | sent 1: A
        """,
    ),
    "before the holdout, which draws from the audience": (
        "champions",
        """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | suppressed 1 audience
        """,
    ),
    "after consent": (
        "champions",
        """
        1 10:05  | add A   |
        1 10:50  | clock   | suppressed 1 consent
        """,
    ),
}


@pytest.mark.parametrize("name", AUDIENCES)
def test_audiences(name: str) -> None:
    audience, table = AUDIENCES[name]
    holdout = 100.0 if name.startswith("before the holdout") else 0.0
    given = campaign("abandoned-cart", audience=audience, holdout_percent=holdout)
    check_table(table, campaigns=[given], others=BESIDE)


def test_a_decision_tells_the_scores() -> None:
    given = campaign("abandoned-cart", audience="new")
    shop = check_table(AUDIENCES["who bought once, today, is new"][1], campaigns=[given], others=BESIDE)
    [decision] = shop.decisions
    told = {name: decision.counters[name] for name in ("recency", "frequency", "monetary")}
    assert told == {"recency": 5, "frequency": 1, "monetary": 1}


Bought = list[tuple[int, str, str, int]]
steps = st.tuples(
    st.integers(0, 3 * 3600_000),
    st.sampled_from(["purchase", "purchase", "add_to_cart", "refund", "forget", "consent"]),
    st.sampled_from(["ann", "bob", "eve"]),
    st.integers(0, 5 * 3600_000),
)


def log_of(drawn: list[tuple[int, str, str, int]]) -> list[Happening]:
    """Consent first; later events come up to five hours late."""
    granted = {"channels": {"email": True}, "purposes": {"personalisation": True}}
    now, log = START, list[Happening]()
    told = [(1, "consent", user, 0) for user in ("ann", "bob", "eve")]
    for jump, kind, user, late in [*told, *drawn]:
        now += jump
        fields = granted if kind == "consent" else {} if kind == "forget" else {"item": "A", "price": 5.0}
        log.append(Happening(user, now - late, now, event(kind, now - late, user, **fields)))
    return [*log, Happening("", now + DAY_MS, now + DAY_MS, None)]


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=25), st.sets(st.integers(1, 28), max_size=6))
def test_batches_change_nothing_and_counts_are_those_of_the_states(drawn: Any, cuts: set[int]) -> None:
    given = [campaign("abandoned-cart", audience=["champions", "loyal", "new"], steps=["1h", "2h", "5h"])]
    log, shops = log_of(drawn), (Shop(engine(given)), Shop(engine(given)))
    shops[0].play(log)
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(log)], strict=True):
        if low < high:
            shops[1].play(log[low:high])
    assert shops[0].decisions == shops[1].decisions
    assert shops[0].stored == shops[1].stored
    expected = Ranks()
    states = [UserState.unpack(blob) for blob in shops[0].stored.values()]
    expected.move((None, state.rfm.values()) for state in states)
    assert shops[0].ranks == shops[1].ranks == expected


def test_a_judge_sees_the_customers_as_they_are_after_each_event() -> None:
    ranks = Ranks()
    ranks.move((None, values) for values in BESIDE)
    events = {
        "bob": [Seen(3, START, START, "purchase", event("purchase", START, "bob", item="A", value=1e6))]
    }
    judge = Judge(ranks, {}, events)
    assert [judge.scores(BESIDE[2], at).monetary for at in (2, 3)] == [4, 4]
    best = Values(TODAY, 10, 10**8)
    assert [judge.scores(best, at).monetary for at in (2, 3)] == [5, 5]
    middle = BESIDE[5]
    assert [judge.scores(middle, at).monetary for at in (2, 3)] == [3, 2]
