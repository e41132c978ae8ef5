"""The shopper's step: any cutting into batches gives the same state, increments and decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.codec import Limits, decode
from stream.core.engaged import UserState
from stream.core.engagement import Engine
from stream.core.items import Items
from stream.core.step import Counting, View, step
from stream.core.users import Bounds, UserTable, pack
from stream.mail import BACKWARD, FORWARD, HIT
from stream.settings import Settings

SETTINGS = Settings(window=3, history=16, interest_items=8)
START_MS = 1_767_225_600_000
USERS, ITEMS = ("ann", "bob"), ("tea", "milk", "rye", "jam")
KINDS = ("view_item", "add_to_cart", "remove_from_cart", "purchase", "consent", "search", "forget")


@dataclass(frozen=True)
class Sent:
    """A record as the log holds it."""

    offset: int
    timestamp: int
    value: bytes
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def event(kind: str, user: str, item: str, time_ms: int, identity: int) -> dict[str, Any]:
    base = {"type": kind, "user": user, "time": f"{np.datetime64(time_ms, 'ms')}Z", "id": f"e{identity}"}
    extra: dict[str, Any] = {"query": item} if kind == "search" else {}
    if kind == "consent":
        extra = {"channels": {"email": True}, "purposes": {"personalisation": True}}
    if kind in ("view_item", "add_to_cart", "remove_from_cart", "purchase"):
        extra = {"item": item}
    return base | extra


steps = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.integers(-40, 90).map(lambda minutes: minutes * 60_000),
    st.integers(0, 40),
)


def log_of(drawn: list[tuple[str, str, str, int, int]]) -> list[Sent]:
    """Event times wander, receipt only grows; few ids, so that some events repeat."""
    sent, now = [], START_MS
    for offset, (kind, user, item, jump, identity) in enumerate(drawn):
        now += max(jump, 0)
        value = orjson.dumps(event(kind, user, item, now + min(jump, 0), identity))
        sent.append(Sent(offset, now, value))
    return sent


@dataclass
class World:
    """A partition's state, fed batch by batch as the worker does it."""

    items: Items
    table: UserTable
    engaged: dict[str, UserState]
    watermark: int
    increments: Counter[tuple[Any, ...]]
    said: list[object]
    settings: Settings = SETTINGS
    uncounted: int = 0

    @classmethod
    def new(cls, settings: Settings = SETTINGS) -> World:
        bounds = Bounds(SETTINGS.history, SETTINGS.interest_items, SETTINGS.dedupe_ids)
        return cls(Items(), UserTable(bounds), {}, 0, Counter(), [], settings)

    def feed(self, records: list[Sent]) -> None:
        columns, dead = decode(records, self.items, Limits.of(self.settings), lambda time_ms, sig: False)
        assert not dead
        names = list(dict.fromkeys(columns.user))
        missing = [name for name, slot in zip(names, self.table.slots(names), strict=True) if slot < 0]
        self.table.load(missing, [None] * len(missing), self.items)
        slots = self.table.slots(names)
        engaged = {name: self.engaged.get(name, UserState()) for name in USERS}
        view = View(names, self.table.take(slots), engaged, self.watermark, self.items.hashes)
        user = np.array([names.index(name) for name in columns.user], dtype=np.int64)
        result = step(Counting.of(self.settings), Engine.of(self.settings), view, columns, user)
        self.table.put(slots, result.rows)
        self.uncounted += int(np.count_nonzero(result.uncounted))
        self.engaged.update(result.engaged)
        self.watermark = result.watermark
        first = records[0].offset
        self.said += [(first + message.at, message.json("")) for message in result.messages]
        self.said += [(first + decision.at, decision.json("")) for decision in result.decisions]
        if (entries := result.increments) is not None:
            names_of = [[self.items.name(at) for at in ids.tolist()] for ids in (entries.row, entries.col)]
            columns_of = (entries.kind, entries.weight, entries.source, entries.time, entries.period)
            self.increments.update(zip(*names_of, *(c.tolist() for c in columns_of), strict=True))
            assert (np.diff(entries.source) >= 0).all(), "increments are in source order"

    def state(self) -> tuple[object, ...]:
        slots = self.table.slots(USERS)
        packed = dict(zip(USERS, pack(self.table.take(slots[slots >= 0]), self.items), strict=False))
        engaged = {name: state.pack() for name, state in self.engaged.items() if state.pack()}
        return packed, engaged, self.watermark, self.increments, sorted(self.said, key=repr), self.uncounted


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=1, max_size=30), st.data())
def test_any_batches_give_the_same(drawn: list[tuple[str, str, str, int, int]], data: st.DataObject) -> None:
    log = log_of(drawn)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(log)), max_size=6)))
    chosen = SETTINGS.model_copy(update={"undirected_baskets": data.draw(st.booleans())})
    whole, cut = World.new(chosen), World.new(chosen)
    whole.feed(log)
    for low, high in zip([0, *cuts], [*cuts, len(log)], strict=True):
        if low < high:
            cut.feed(log[low:high])
    assert cut.state() == whole.state()


def test_increments_by_hand() -> None:
    """Ann views tea, milk, tea: two hits of tea, one of milk, and the pairs between, both ways."""
    world = World.new()
    minute = 60_000
    views = [
        event("view_item", "ann", item, START_MS + n * minute, n)
        for n, item in enumerate(("tea", "milk", "tea"))
    ]
    world.feed([Sent(n, START_MS + n * minute, orjson.dumps(view)) for n, view in enumerate(views)])
    kinds = Counter((row, col, kind) for row, col, kind, *_ in world.increments.elements())
    assert kinds == {
        ("tea", "tea", HIT): 2,
        ("milk", "milk", HIT): 1,
        ("tea", "milk", FORWARD): 1,
        ("milk", "tea", BACKWARD): 1,
        ("milk", "tea", FORWARD): 1,
        ("tea", "milk", BACKWARD): 1,
    }
    weights = {entry[:3]: entry[3] for entry in world.increments}
    assert weights["milk", "tea", BACKWARD] * 5 - weights["tea", "milk", FORWARD] in range(-4, 5), "β is 0.2"


def baskets(undirected: bool, *baskets: Sequence[str]) -> Counter[tuple[str, str, int]]:
    """Weights by row, column and kind, after Ann bought some baskets, a minute apart."""
    world = World.new(SETTINGS.model_copy(update={"undirected_baskets": undirected}))
    sent = []
    for n, items in enumerate(baskets):
        bought = event("purchase", "ann", items[0], START_MS + n * 60_000, n)
        bought["items"] = [{"item": item} for item in items]
        del bought["item"]
        sent.append(Sent(n, START_MS + n * 60_000, orjson.dumps(bought)))
    world.feed(sent)
    weights: Counter[tuple[str, str, int]] = Counter()
    for (row, col, kind, weight, *_), times in world.increments.items():
        weights[row, col, kind] += weight * times
    return weights


def test_an_undirected_basket_counts_alike_in_both_directions_and_as_much_in_all() -> None:
    directed, weights = baskets(False, ["tea", "milk"]), baskets(True, ["tea", "milk"])
    assert weights == baskets(True, ["milk", "tea"]) != directed
    for kind in (FORWARD, BACKWARD):
        assert weights["tea", "milk", kind] == weights["milk", "tea", kind]
        whole = directed["tea", "milk", kind] + directed["milk", "tea", kind]
        assert 2 * weights["tea", "milk", kind] == pytest.approx(whole, rel=0.002), "halves, rounded down"


def test_baskets_stay_directed_between_each_other() -> None:
    directed = baskets(False, ["tea", "milk"], ["rye"])
    weights = baskets(True, ["tea", "milk"], ["rye"])
    for pair in (("tea", "rye", FORWARD), ("rye", "tea", BACKWARD), ("milk", "rye", FORWARD)):
        assert weights[pair] == directed[pair] > 0
    assert ("rye", "tea", FORWARD) not in weights


def test_a_repeated_id_counts_once() -> None:
    world = World.new()
    view = orjson.dumps(event("view_item", "ann", "tea", START_MS, 1))
    world.feed([Sent(0, START_MS, view), Sent(1, START_MS, view)])
    world.feed([Sent(2, START_MS, view)])
    assert sum(world.increments.values()) == 1


def test_forget_leaves_nothing_of_the_user_but_what_came_after() -> None:
    world, fresh = World.new(), World.new()
    before = [
        event(kind, "ann", "tea", START_MS, n)
        for n, kind in enumerate(("view_item", "add_to_cart", "consent"))
    ]
    after = event("view_item", "ann", "milk", START_MS + 1000, 9)
    events = [*before, event("forget", "ann", "", START_MS + 500, 8), after]
    world.feed([Sent(n, START_MS + 1000, orjson.dumps(one)) for n, one in enumerate(events)])
    fresh.feed([Sent(4, START_MS + 1000, orjson.dumps(after))])
    assert world.state()[0] == fresh.state()[0]
    assert world.state()[1] == {}


def test_what_is_taken_out_of_the_cart_is_no_interest() -> None:
    world = World.new()
    world.feed([Sent(0, START_MS, orjson.dumps(event("remove_from_cart", "ann", "tea", START_MS, 1)))])
    assert not world.increments
    assert world.table.take(world.table.slots(["ann"])).seen.tolist() == [0]
