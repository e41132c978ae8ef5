"""Attribution: scenarios by hand, an oracle that knows the whole log, laws of counts and of batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import views
from stream.core.arms import ALL, Arms
from stream.core.attribution import (
    BOUGHT,
    COLUMNS,
    DAYS,
    ITEMS,
    LIST_ITEMS,
    LISTS,
    NOTHING,
    SEEN,
    SHOWN,
    STRATEGIES,
    USERS,
    Click,
    Clicks,
    Counts,
    Days,
    Key,
    Rules,
    Told,
    Touches,
    attribute,
    by_day,
    flat,
    grown,
    impressions,
    pack_day,
    unpack_day,
)
from stream.core.items import item_hash
from stream.events import Event
from stream.settings import Settings

HOUR, DAY = 3_600_000, 86_400_000
START = 20_000 * DAY
RULES = Rules.of(Settings())
WINDOW = 72


def told(hour: float, kind: str, at: int = 0, **fields: Any) -> Told:
    event = msgspec.convert({"type": kind, "time": "x", "user": "ann"} | fields, Event)
    return Told(at, START + round(hour * HOUR), event)


def lines(text: str) -> list[dict[str, Any]]:
    """``A:item-item B x2 @1.50``: items with their strategies, pieces and prices."""
    found: list[dict[str, Any]] = []
    for word in text.split():
        if word[0] == "x" and word[1:].isdigit():
            found[-1]["quantity"] = int(word[1:])
        elif word[0] == "@":
            found[-1]["price"] = float(word[1:])
        else:
            item, _, strategy = word.partition(":")
            found.append({"item": item} | ({"strategy": strategy} if strategy else {}))
    return found


KINDS = {
    "show": "recommendation_shown",
    "click": "recommendation_clicked",
    "buy": "purchase",
    "back": "refund",
}


def row(text: str) -> Told:
    """``hour | what [list or order] | items | value``."""
    hour, what, items, value = (part.strip() for part in (text + "|||").split("|")[:4])
    verb, _, name = what.partition(" ")
    fields: dict[str, Any] = {"items": lines(items)} if items else {}
    if name:
        fields["list" if verb in ("show", "click") else "order"] = name
    if value:
        fields["value"] = float(value)
    return told(float(hour), KINDS.get(verb, verb), **fields)


def summed(counts: Counts) -> dict[str, int]:
    """All columns over days, arms and strategies, without the zeros."""
    sums: Counter[str] = Counter()
    for key, values in counts.items():
        sums.update(dict(zip(COLUMNS[key.table], values, strict=True)))
    return {name: n for name, n in sums.items() if n}


ONE_LIST = {"lists": 1, "users": 1}
SCENARIOS: dict[str, tuple[str, dict[str, int]]] = {
    "a click and a purchase": (
        """0 | show l | A B C
           1 | click l | A
           2 | buy o | A x2 @1.50""",
        {"impressions": 3, "clicks": 1, "clicked": 1, "clicked_revenue": 300, "clickers": 1, "buyers": 1},
    ),
    "seen, not clicked": (
        """0 | show l | A B
           2 | buy o | B @1.50 C @9""",
        {"impressions": 2, "viewed": 1, "viewed_revenue": 150, "buyers": 1},
    ),
    "just within the window, and after it": (
        """0 | show l | A B
           72 | buy o | A @1
           72.001 | buy p | B @1""",
        {"impressions": 2, "viewed": 1, "viewed_revenue": 100, "buyers": 1},
    ),
    "the window runs from the click": (
        """0 | show l | A
           71 | click l | A
           142 | buy o | A @1""",
        {"impressions": 1, "clicks": 1, "clicked": 1, "clicked_revenue": 100, "clickers": 1, "buyers": 1},
    ),
    "what was bought before it was shown": (
        """5 | show l | A
           4 | buy o | A @1""",
        {"impressions": 1},
    ),
    "the same list told again": (
        """0 | show l | A B
           1 | show l | A B C
           2 | click l | A
           3 | click l | A""",
        {"impressions": 3, "clicks": 1, "clickers": 1},
    ),
    "a click on a list nobody was shown": (
        """0 | show l | A
           1 | click other | B""",
        {"impressions": 1, "strays": 1},
    ),
    "a click without the list's id goes to the newest list with the item": (
        """0 | show l | A:item-item
           1 | show m | A:trending
           2 | click x | A""",
        {"lists": 2, "impressions": 2, "clicks": 1, "clickers": 1},
    ),
    "a click too late": ("0 | show l | A\n73 | click l | A", {"impressions": 1, "strays": 1}),
    "an order told again after it was taken back": (
        """0 | show l | A
           1 | buy o | A @1
           2 | back o |
           3 | buy o | A @1
           4 | back o | A""",
        {"impressions": 1, "viewed": 1, "viewed_revenue": 100, "refunded": 100, "buyers": 1},
    ),
    "an order told twice": (
        """0 | show l | A
           1 | buy o | A @2
           2 | buy o | A @2
           3 | buy p | A @2""",
        {"impressions": 1, "viewed": 2, "viewed_revenue": 400, "buyers": 1},
    ),
    "lines without a price share the rest": (
        """0 | show l | A B C
           1 | buy o | A @2 B C x2 | 5.02""",
        {"impressions": 3, "viewed": 3, "viewed_revenue": 502, "buyers": 1},
    ),
    "a value alone": (
        "0 | show l | A\n1 | buy o | A | 5.55",
        {"impressions": 1, "viewed": 1, "viewed_revenue": 555, "buyers": 1},
    ),
    "half of it comes back": (
        """0 | show l | A
           1 | buy o | A x2 @3
           90 | back o | A""",
        {"impressions": 1, "viewed": 1, "viewed_revenue": 600, "refunded": 300, "buyers": 1},
    ),
    "all of an order comes back, once": (
        """0 | show l | A B
           1 | buy o | A @3 B @1 C @7
           2 | back o |
           3 | back o |""",
        {"impressions": 2, "viewed": 2, "viewed_revenue": 400, "refunded": 400, "buyers": 1},
    ),
    "a part of an order's worth": (
        """0 | show l | A B
           1 | buy o | A @3 B @1
           2 | back o | | 3.50""",
        {"impressions": 2, "viewed": 2, "viewed_revenue": 400, "refunded": 350, "buyers": 1},
    ),
    "no more comes back than was attributed": (
        """0 | show l | A
           1 | buy | A @3
           2 | back | A x9 @9""",
        {"impressions": 1, "viewed": 1, "viewed_revenue": 300, "refunded": 300, "buyers": 1},
    ),
    "another order's refund": (
        """0 | show l | A
           1 | buy o | A @3
           2 | back p | A @3""",
        {"impressions": 1, "viewed": 1, "viewed_revenue": 300, "buyers": 1},
    ),
    "forgotten": ("0 | show l | A\n1 | forget\n2 | click l | A", {"impressions": 1, "strays": 1}),
    "nothing shown, nothing counted": ("0 | buy o | A @3", {"lists": 0, "users": 0}),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario(name: str) -> None:
    text, expected = SCENARIOS[name]
    result = attribute(RULES, {}, {"ann": [row(line) for line in text.splitlines()]})
    assert summed(result.counts) == {k: n for k, n in (ONE_LIST | expected).items() if n}


def test_the_last_touch_has_it_all() -> None:
    """Each thing under the strategy of the list it belongs to, at the event's own day."""
    rows = (
        "0 | show l | A:item-item B:no-such",
        "1 | show m | A:trending C",
        "2 | click l | A",
        "25 | buy | A @1 C @2",
    )
    counts = attribute(RULES, {}, {"ann": [row(line) for line in rows]}).counts
    found = {
        (k.day - 20_000, k.label): dict(zip(COLUMNS[ITEMS], v, strict=True))
        for k, v in counts.items()
        if k.table == ITEMS
    }
    nonzero = {key: {name: n for name, n in cells.items() if n} for key, cells in found.items()}
    assert nonzero == {
        (0, "item-item"): {"impressions": 1, "clicks": 1},
        (0, "other"): {"impressions": 1},
        (0, "trending"): {"impressions": 1},
        (0, "unknown"): {"impressions": 1},
        (1, "item-item"): {"clicked": 1, "clicked_revenue": 100},
        (1, "unknown"): {"viewed": 1, "viewed_revenue": 200},
    }


def test_clicks_to_learn_from_name_the_list_and_the_place() -> None:
    events = [row("0 | show l | A B C"), told(1, "recommendation_clicked", 7, list="l", item="B")]
    (click,) = attribute(RULES, {}, {"ann": events}).clicks
    assert click == (7, tuple(map(item_hash, "ABC")), 1)


def test_every_strategy_of_a_view_is_one_that_is_counted() -> None:
    """Codes stand in the store: append a new one to `STRATEGIES` of attribution."""
    assert set(views.STRATEGIES) <= set(STRATEGIES)
    assert STRATEGIES[:4] == ("unknown", "other", "item-item", "trending")


def test_clicks_stand_in_arrays() -> None:
    found = Clicks.of([Click(3, (7, 8, 2**64 - 1), 2), Click(4, (9,), 0)])
    assert (found.event.tolist(), found.length.tolist(), found.place.tolist()) == ([3, 4], [3, 1], [2, 0])
    assert found.items.tolist() == [[7, 8, 2**64 - 1], [9, 0, 0]]
    assert Clicks.of([]).items.shape == (0, 0)


def test_what_was_shown_is_known_by_item() -> None:
    rows = ("0 | show l | A B", "1 | show m | C A", "2 | click m | A")
    state = attribute(RULES, {}, {"ann": [row(line) for line in rows]}).states["ann"]
    found = impressions([NOTHING, state])
    assert found.row.tolist() == [1, 1, 1]
    assert found.item.tolist() == [item_hash(item) for item in "BCA"], "shown last stands last"
    assert (found.shown.tolist(), found.clicked.tolist(), found.place.tolist()) == (
        [1, 1, 2],
        [0, 0, 1],
        [1, 0, 1],
    )
    assert (found.last * 1000 - START).tolist() == [0, HOUR, HOUR]


def test_states_are_bounded() -> None:
    shows = [row(f"{n} | show l{n} | " + " ".join(f"i{n}-{k}" for k in range(100))) for n in range(12)]
    buys = [row(f"12 | buy o{n} | i11-{n % 64} @1") for n in range(50)]
    state = attribute(RULES, {}, {"ann": [*shows, *buys]}).states["ann"]
    assert [len(shown.items) for shown in state.lists] == [LIST_ITEMS] * LISTS
    assert len(state.bought) == BOUGHT and len(impressions([state]).item) == SEEN
    assert len(state.pack()) < 8_000
    assert Touches.unpack(state.pack()) == state


SHOW = "{} | show l{} | A{}"


@pytest.mark.parametrize(
    ("clicked", "more", "kept"),
    [
        ({}, 4, [4, 5, 6, 7, 8, 9, 10, 11]),
        ({0: 8}, 4, [0, 5, 6, 7, 8, 9, 10, 11]),
        ({0: 8, 3: 8, 7: 8}, 4, [0, 3, 6, 7, 8, 9, 10, 11]),
        ({0: 8, 1: 8, 2: 8, 3: 8, 4: 8}, 4, [1, 2, 3, 4, 8, 9, 10, 11]),
        ({0: 8, 1: 8}, 80, [80, 81, 82, 83, 84, 85, 86, 87]),
        ({0: 8, 1: 8 + 20}, 80, [1, 81, 82, 83, 84, 85, 86, 87]),
    ],
)
def test_a_list_that_was_clicked_is_kept_beside_the_newest(
    clicked: dict[int, int], more: int, kept: list[int]
) -> None:
    """Eight lists, then clicks on some of them at hours 8 and 28, then more lists, one an hour."""
    happened = [row(SHOW.format(0.01 * n, f"{n}", n)) for n in range(8)]
    happened += [row(f"{hour} | click l{n} | A{n}") for n, hour in clicked.items()]
    happened += [row(SHOW.format(8 + n, 8 + n, 8 + n)) for n in range(more)]
    state = attribute(RULES, {}, {"ann": happened}).states["ann"]
    assert [held.items[0] for held in state.lists] == [item_hash(f"A{n}") for n in kept]


def test_who_browses_on_after_a_click_and_then_buys_is_a_conversion() -> None:
    shows = [row(SHOW.format(1 + 0.1 * n, n, n)) for n in range(1, 30)]
    log = [row(SHOW.format(0, 0, 0)), row("1 | click l0 | A0"), *shows, row("5 | buy o | A0 @2")]
    assert summed(attribute(RULES, {}, {"ann": log}).counts)["clicked_revenue"] == 200


def test_bytes_of_another_format_are_refused() -> None:
    assert Touches.unpack(None) == NOTHING and NOTHING.pack() == b""
    for data in (b"\x91\x02", b"\xff", msgspec.msgpack.encode([1, "", "", 0, [], [], b"xyz"])):
        with pytest.raises(ValueError, match="format"):
            Touches.unpack(data)
    with pytest.raises(ValueError, match="wide"):
        unpack_day(1, msgspec.msgpack.encode([("items", "all", "", [1])]))


# An oracle that keeps everything


@dataclass
class Oracle:
    """The rules, told once more: no bounds, names for hashes, every question asked of the whole past."""

    events: list[Told]
    arm: str
    cells: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    begin: int = 0
    attributed: list[dict[str, Any]] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def run(self) -> Counter[tuple[Any, ...]]:
        for k, one in enumerate(self.events):
            getattr(self, one.event.type)(k, one)
        return +self.cells

    def past(self, k: int, *kinds: str) -> Iterator[tuple[int, Told]]:
        return ((j, e) for j, e in enumerate(self.events[:k]) if j >= self.begin and e.event.type in kinds)

    def lists(self, k: int) -> dict[str, dict[str, Any]]:
        """Lists shown before event k by id: items to strategies, newest time, place of the last telling."""
        found: dict[str, dict[str, Any]] = {}
        for j, e in self.past(k, "recommendation_shown"):
            held = found.setdefault(str(e.event.list_id), {"items": {}, "time": e.time})
            held["time"], held["told"] = max(held["time"], e.time), j
            for line in e.event.lines():
                held["items"].setdefault(line.item, line.strategy or "unknown")
        return found

    def owner(self, k: int, item: str) -> str | None:
        """The list that a click k on an item belongs to."""
        time, lists = self.events[k].time, self.lists(k)
        having = {name: held for name, held in lists.items() if item in held["items"]}
        named = str(self.events[k].event.list_id)
        if named in having and time - having[named]["time"] <= WINDOW * HOUR:
            return named
        near = {n: h for n, h in having.items() if 0 <= time - h["time"] <= WINDOW * HOUR}
        return max(near, key=lambda n: (near[n]["time"], near[n]["told"]), default=None)

    def clicks(self, k: int) -> dict[tuple[str, str], int]:
        """Newest click before event k, by list and item."""
        found: dict[tuple[str, str], int] = {}
        for j, e in self.past(k, "recommendation_clicked"):
            for item in dict.fromkeys(line.item for line in e.event.lines()):
                if (owner := self.owner(j, item)) is not None:
                    found[owner, item] = max(found.get((owner, item), 0), e.time)
        return found

    def cell(self, e: Told, strategy: str, column: str, n: int = 1) -> None:
        self.cells[e.time // DAY, ITEMS, strategy, column] += n

    def once(self, what: str) -> None:
        self.cells[0, USERS, "", what] += what not in self.done
        self.done.add(what)

    def recommendation_shown(self, k: int, e: Told) -> None:
        self.once("users")
        before = self.lists(k).get(str(e.event.list_id))
        self.cells[e.time // DAY, SHOWN, "", "lists"] += before is None
        after = self.lists(k + 1)[str(e.event.list_id)]["items"]
        for item in after.keys() - (before["items"].keys() if before else set()):
            self.cell(e, after[item], "impressions")

    def recommendation_clicked(self, k: int, e: Told) -> None:
        for item in dict.fromkeys(line.item for line in e.event.lines()):
            owner = self.owner(k, item)
            if owner is None:
                self.cells[e.time // DAY, SHOWN, "", "strays"] += 1
            elif (owner, item) not in self.clicks(k):
                self.cell(e, self.lists(k)[owner]["items"][item], "clicks")
                self.once("clickers")

    def purchase(self, k: int, e: Told) -> None:
        had = {(line["order"], line["item"]) for line in self.attributed}
        lists, clicks = self.lists(k), self.clicks(k)
        for line in e.event.lines():
            held = {n: h for n, h in lists.items() if line.item in h["items"]}
            of = {n: clicks[n, line.item] for n in held if (n, line.item) in clicks}
            found = self.newest(of, held, e.time), "clicked"
            if found[0] is None:
                found = self.newest({n: h["time"] for n, h in held.items()}, held, e.time), "viewed"
            if found[0] is None or (e.event.order and (e.event.order, line.item) in had):
                continue
            strategy, cents = (
                held[found[0]]["items"][line.item],
                round((line.price or 0) * 100) * line.quantity,
            )
            self.cell(e, strategy, found[1])
            self.cell(e, strategy, f"{found[1]}_revenue", cents)
            self.once("buyers")
            told = {"order": e.event.order, "item": line.item, "strategy": strategy}
            self.attributed.append(told | {"cents": cents, "quantity": line.quantity})

    @staticmethod
    def newest(times: dict[str, int], held: dict[str, dict[str, Any]], now: int) -> str | None:
        near = {n: t for n, t in times.items() if 0 <= now - t <= WINDOW * HOUR}
        return max(near, key=lambda n: (near[n], held[n]["told"]), default=None)

    def refund(self, k: int, e: Told) -> None:
        for line in e.event.lines():
            fits = [b for b in self.attributed if b["item"] == line.item and b["quantity"]]
            fits = [b for b in fits if e.event.order in (None, b["order"])]
            if fits:
                self.take_back(e, fits[-1], line.quantity)
        for bought in self.attributed if not e.event.lines() else ():
            if bought["order"] == e.event.order and bought["quantity"]:
                self.take_back(e, bought, bought["quantity"])

    def take_back(self, e: Told, bought: dict[str, Any], quantity: int) -> None:
        quantity = min(quantity, bought["quantity"])
        cents = bought["cents"] * quantity // bought["quantity"]
        self.cell(e, bought["strategy"], "refunded", cents)
        bought["cents"] -= cents
        bought["quantity"] -= quantity

    def forget(self, k: int, e: Told) -> None:
        self.begin, self.attributed, self.done = k + 1, [], set()


def cells(counts: Counts) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for key, values in counts.items():
        label = key.label if key.table == ITEMS else ""
        for column, n in zip(COLUMNS[key.table], values, strict=True):
            found[key.day, key.table, label, column] += n
    return +found


names = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=4, unique=True)
hours = st.integers(0, 200).map(lambda quarter: quarter * 0.75)


def _shown(hour: float, name: str, items: list[str], code: int) -> Told:
    listed = [{"item": item, "strategy": STRATEGIES[2 + (code + n) % 4]} for n, item in enumerate(items)]
    return told(hour, "recommendation_shown", list=name, items=listed)


def _bought(hour: float, kind: str, order: str | None, items: list[str], quantity: int) -> Told:
    listed = [{"item": item, "quantity": quantity} for item in items]
    if kind == "purchase":
        listed = [line | {"price": 0.5 + n} for n, line in enumerate(listed)]
    return told(hour, kind, items=listed, order=order)


ids = st.sampled_from(["l", "m", "n", "o"])
orders = st.sampled_from([None, "p", "q"])
happenings = st.one_of(
    st.builds(_shown, hours, ids, names, st.integers(0, 3)),
    st.builds(
        lambda h, i, n: told(h, "recommendation_clicked", list=i, items=[{"item": x} for x in n]),
        hours,
        ids,
        names,
    ),
    st.builds(_bought, hours, st.just("purchase"), orders, names, st.integers(1, 3)),
    st.builds(_bought, hours, st.just("refund"), orders, names, st.integers(1, 2)),
    st.builds(lambda h, o: told(h, "refund", order=o), hours, st.sampled_from(["p", "q"])),
    st.builds(lambda h: told(h, "forget"), hours),
)
logs = st.lists(happenings, min_size=1, max_size=20)


@settings(max_examples=400, deadline=None)
@given(logs, st.booleans())
def test_counts_are_those_of_the_oracle(log: list[Told], in_time: bool) -> None:
    log = sorted(log, key=lambda one: one.time) if in_time else log
    assert cells(attribute(RULES, {}, {"ann": log}).counts) == Oracle(log, ALL).run()


def test_the_logs_reach_what_they_should() -> None:
    """That the law above has something to say: a log of which every column is more than zero."""
    rows = (
        *("0 | show l | A B", "1 | click l | A", "1 | click l | C", "2 | buy p | A @1 B @2", "3 | back p |"),
        *("4 | forget", "5 | show l | A"),
    )
    log = [row(line) for line in rows]
    found = Oracle(log, ALL).run()
    assert {column for *_, column in found} == {name for names in COLUMNS.values() for name in names}
    assert found == cells(attribute(RULES, {}, {"ann": log}).counts)


@settings(max_examples=150, deadline=None)
@given(logs, logs, st.data())
def test_any_batches_give_the_same(ann: list[Told], bob: list[Told], data: st.DataObject) -> None:
    log = [("ann", one) for one in ann] + [("bob", one) for one in bob]
    log = data.draw(st.permutations(log))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, len(log)), max_size=6))), len(log)]
    assert fed([log]) == fed([log[a:b] for a, b in pairwise(cuts)])


def fed(batches: Sequence[list[tuple[str, Told]]]) -> tuple[object, ...]:
    """States as packed, counts and clicks, after batches whose states went through the store."""
    states: dict[str, bytes] = {}
    days: Days = {}
    clicks: list[object] = []
    for batch in batches:
        of = {user: [one for name, one in batch if name == user] for user in ("ann", "bob")}
        held = {user: Touches.unpack(data) for user, data in states.items()}
        result = attribute(RULES, held, {user: events for user, events in of.items() if events})
        states |= {user: state.pack() for user, state in result.states.items()}
        days = grown(days, result.counts)
        clicks += [click[1:] for click in result.clicks]
    return {u: s for u, s in states.items() if s}, flat(days), sorted(clicks, key=repr)


# Counts


rows_of_counts = st.dictionaries(
    st.builds(Key, st.integers(1, 80), st.just(SHOWN), st.sampled_from("ab"), st.just("")),
    st.lists(st.integers(0, 9), min_size=2, max_size=2),
    max_size=8,
)


@given(st.lists(rows_of_counts, max_size=5), st.randoms(use_true_random=False))
def test_counts_add_up_in_any_order(parts: list[Counts], random: Any) -> None:
    """Whatever the order: the sums of all, of the days in the window of the newest."""
    shuffled = random.sample(parts, len(parts))
    one: Counts = {}
    days: Days = {}
    for each in parts:
        one = flat(grown(by_day(one), each))
    for each in shuffled:
        before, kept = days, {day: dict(rows) for day, rows in days.items()}
        days = grown(days, each)
        assert before == kept, "what was published does not change afterwards"
        untouched = days.keys() - {key.day for key in each}
        assert all(days[day] is before[day] for day in untouched), "rests at no cost"
    assert one == flat(days)
    newest = max((key.day for part in parts for key in part), default=0)
    expected: Counter[tuple[Key, int]] = Counter()
    for part in parts:
        expected.update(
            {(k, n): v for k, row in part.items() for n, v in enumerate(row) if k.day > newest - DAYS}
        )
    assert +Counter({(k, n): v for k, row in one.items() for n, v in enumerate(row)}) == +expected


def test_users_of_all_time_stay() -> None:
    users, old = Key(0, USERS, "a", ""), Key(5, SHOWN, "a", "")
    before = by_day({users: [1, 0, 0], old: [1, 0]})
    counts = flat(grown(before, {Key(5 + DAYS, SHOWN, "a", ""): [1, 0]}))
    assert users in counts and old not in counts


@given(rows_of_counts)
def test_days_go_through_the_store(counts: Counts) -> None:
    again: Counts = {}
    for day in {key.day for key in counts}:
        again |= unpack_day(day, pack_day(by_day(counts)[day]))
    assert again == counts


# Arms


def test_arms_get_their_share_and_everybody_finds_the_same() -> None:
    arms = Arms.of(Settings(arms={"control": 20, "b": 30, "c": 50}))
    users = [f"u{n}" for n in range(20_000)]
    found = arms.of_users(users)
    shares = [found.count(name) / len(users) for name in arms.names]
    assert np.allclose(shares, [0.2, 0.3, 0.5], atol=0.015)
    assert arms.shares == (0.2, 0.3, 0.5)
    assert found[:3] == [
        Arms.of(Settings(arms={"control": 20, "b": 30, "c": 50})).of_user(u) for u in users[:3]
    ]


def test_another_salt_mixes_anew() -> None:
    half = {"a": 50.0, "b": 50.0}
    one, other = (Arms.of(Settings(arms=half, arm_salt=salt)) for salt in ("x", "y"))
    users = [f"u{n}" for n in range(4000)]
    same = sum(a == b for a, b in zip(one.of_users(users), other.of_users(users), strict=True))
    assert abs(same / 4000 - 0.5) < 0.05
    assert one.experiment != other.experiment


def test_without_arms_there_is_one() -> None:
    arms = Arms.of(Settings())
    assert (arms.of_user("ann"), arms.experiment, arms.names) == (ALL, "", (ALL,))


@pytest.mark.parametrize("arms", [{"a": 50, "b": 49}, {"a": 100, "b": 0}, {"a": 150, "b": -50}])
def test_arms_that_are_not_everybody_are_refused(arms: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to 100"):
        Settings(arms=arms)


def test_another_experiment_counts_its_users_anew() -> None:
    first, second = (Rules.of(Settings(arms={"a": 50, "b": 50}, arm_salt=salt)) for salt in ("x", "y"))
    log = [row("0 | show l | A"), row("1 | click l | A")]
    one = attribute(first, {}, {"ann": log})
    again = attribute(first, one.states, {"ann": [row("2 | show m | A"), row("3 | click m | A")]})
    other = attribute(second, one.states, {"ann": [row("2 | show m | A"), row("3 | click m | A")]})
    assert "users" not in summed(again.counts) and "clickers" not in summed(again.counts)
    assert summed(other.counts) == {"users": 1, "clickers": 1, "lists": 1, "impressions": 1, "clicks": 1}
    arm = first.arms.of_user("ann")
    assert {key.arm for key in one.counts} == {arm}
