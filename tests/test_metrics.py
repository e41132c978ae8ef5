"""Live metrics: records add up to the view, also through a worker's own code on memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.keys import Keys
from state.lookup import _metrics
from state.memory import MemoryStore
from state.model import version
from stream.contexts import Contexts
from stream.core.arms import Arms
from stream.core.attribution import (
    COLUMNS,
    ITEMS,
    NOTHING,
    SHOWN,
    STRATEGIES,
    USERS,
    Attributed,
    Counts,
    Key,
    Rules,
    impressions,
)
from stream.core.items import Items, item_hash
from stream.core.metrics import Measured, metrics_view, read, record, total
from stream.core.sequential import compare, rate
from stream.delivery import Output, Ports
from stream.follower import Followed
from stream.settings import Settings
from stream.shopper import Shopper
from stream.topics import METRICS
from stream.transport import Bundle, StockRecord

SETTINGS = Settings(partitions=2, arms={"control": 50, "new": 50})
ARMS = Arms.of(SETTINGS)
DAY = 20_000


def keys(table: str) -> st.SearchStrategy[Key]:
    day = st.just(0) if table == USERS else st.integers(DAY, DAY + 3)
    labels = {
        ITEMS: st.sampled_from(STRATEGIES),
        SHOWN: st.just(""),
        USERS: st.sampled_from(["", ARMS.experiment]),
    }
    return st.builds(Key, day, st.just(table), st.sampled_from(["control", "new", "old"]), labels[table])


def rows(table: str) -> st.SearchStrategy[Counts]:
    width = len(COLUMNS[table])
    return st.dictionaries(
        keys(table), st.lists(st.integers(0, 10**9), min_size=width, max_size=width), max_size=4
    )


tables = st.tuples(*map(rows, COLUMNS)).map(lambda each: {k: v for table in each for k, v in table.items()})


@given(tables)
def test_a_record_says_the_counts(counts: Counts) -> None:
    assert read(record(1, "v", 0, counts)) == Measured("v", counts)


@pytest.mark.parametrize("value", [b"", b"{}", b'{"version":1,"items":[],"lists":[],"users":[]}', b"[1]"])
def test_other_bytes_are_no_record(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(value)


@given(st.lists(tables, max_size=4))
def test_the_view_is_the_sum_of_the_records(parts: list[Counts]) -> None:
    view = orjson.loads(metrics_view("v", 0, total(Measured("v", part) for part in parts), ARMS))
    sums = {table: np.zeros(len(columns), dtype=object) for table, columns in COLUMNS.items()}
    for part in parts:
        for key, row in part.items():
            if key.table != USERS or key.label == ARMS.experiment:
                sums[key.table] = sums[key.table] + np.array(row, dtype=object)
    items, lists, users = (dict(zip(COLUMNS[t], sums[t].tolist(), strict=True)) for t in COLUMNS)
    for told in (view["strategies"], view["arms"], view["days"]):
        assert sum(one["clicks"] for one in told) == items["clicks"]
        assert sum(one["conversions"] for one in told) == items["clicked"] + items["viewed"]
        net = items["clicked_revenue"] + items["viewed_revenue"] - items["refunded"]
        assert round(sum(round(one["revenue"] * 100) for one in told)) == net
    assert sum(arm["users"] for arm in view["arms"]) == users["users"]
    assert (
        sum(arm["lists"] for arm in view["arms"]) == sum(d["lists"] for d in view["days"]) == lists["lists"]
    )
    assert [arm["arm"] for arm in view["arms"]][:2] == ["control", "new"]


def test_rates_and_tests_are_those_of_the_sums() -> None:
    users = {"control": [1000, 120, 30], "new": [990, 300, 33]}
    counts = {Key(0, USERS, arm, ARMS.experiment): row for arm, row in users.items()}
    counts[Key(DAY, ITEMS, "new", "trending")] = [500, 40, 7, 3, 1999, 301, 100]
    view = orjson.loads(metrics_view("v", 0, counts, ARMS))
    (strategy,) = view["strategies"]
    assert strategy | {"ctr": 0} == {
        "strategy": "trending",
        "impressions": 500,
        "clicks": 40,
        "conversions": 10,
        "after_click": 7,
        "revenue": 22.0,
        "refunded": 1.0,
        "ctr": 0,
    }
    assert strategy["ctr"]["high"] == pytest.approx(rate(40, 500).high, abs=1e-6)
    assert view["arms"][1]["click_rate"]["low"] == pytest.approx(rate(300, 990).low, abs=1e-6)
    clicked, bought = view["tests"]
    assert (clicked["by"], bought["by"], clicked["arm"], clicked["against"]) == (
        "clickers",
        "buyers",
        "new",
        "control",
    )
    assert clicked["p_value"] == pytest.approx(compare(120, 300, 0.5).p_value, abs=1e-6)
    assert clicked["p_value"] < 0.05 < bought["p_value"]
    assert bought["ratio"]["low"] < 1 < bought["ratio"]["high"]


def test_of_three_arms_each_is_compared_with_the_first_at_its_share() -> None:
    arms = Arms.of(Settings(arms={"a": 50, "b": 30, "c": 20}))
    counts = {
        Key(0, USERS, arm, arms.experiment): [n, n, 0] for arm, n in (("a", 500), ("b", 300), ("c", 200))
    }
    tests = orjson.loads(metrics_view("v", 0, counts, arms))["tests"]
    assert [(one["arm"], one["by"]) for one in tests] == [
        (a, by) for a in "bc" for by in ("clickers", "buyers")
    ]
    assert all(one["ratio"]["value"] == pytest.approx(1, abs=1e-6) for one in tests)
    expected = compare(500, 300, 0.375, 0.025).ratio
    assert tests[0]["ratio"]["low"] == pytest.approx(expected.low, abs=1e-6)


def test_the_client_reads_the_view() -> None:
    found = _metrics(metrics_view("v", 0, {Key(0, USERS, "new", ARMS.experiment): [5, 5, 0]}, ARMS))
    assert found is not None
    assert [arm.users for arm in found.arms] == [0, 5]
    assert found.tests[0].ratio.high is None, "nothing bounds how many times none it is"


# Through a worker's own code


class World:
    """A shopper, its log and a store in memory; another worker may take over at any time."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store = settings, MemoryStore(Keys(settings.prefix))
        self.sent: list[Output] = []
        self.log: list[StockRecord] = []
        self.now = 0
        self.start()

    def start(self) -> None:
        items = Items()
        contexts = Contexts(self.settings, items, Followed(self.settings, items), b"key")
        ports = Ports(self, self.store, self, self.clock, contexts.dead_letters)
        self.shopper = Shopper(0, ports, contexts.shopping)

    def clock(self) -> int:
        self.now += 10_000
        return self.now

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self.log)

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Any:
        return self.log[offset]

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        self.sent += outputs

    async def feed(self, *events: dict[str, Any]) -> None:
        begin = len(self.log)
        for event in events:
            stamp = 1_767_225_600_000 + 1000 * len(self.log)
            value = orjson.dumps({"time": f"{np.datetime64(stamp, 'ms')}Z", "user": "ann"} | event)
            self.log.append(StockRecord(len(self.log), stamp, b"ann", value, ()))
        await self.shopper.handle([Bundle("events", 0, self.log[begin:], None, len(self.log))])
        await self.shopper.pulse(busy=False)

    async def view(self) -> dict[str, Any]:
        (value,) = await self.store.get([Keys(self.settings.prefix).metrics()])
        return orjson.loads(value) if value else {}


LOG: list[dict[str, Any]] = [
    {
        "type": "recommendation_shown",
        "list": "l",
        "items": [{"item": "A", "strategy": "item-item"}, {"item": "B"}],
    },
    {"type": "recommendation_clicked", "list": "l", "item": "A"},
    {"type": "view_item", "item": "A"},
    {"type": "purchase", "order": "o", "items": [{"item": "A", "price": 2.5}, {"item": "B", "price": 1.0}]},
    {"type": "refund", "order": "o", "items": [{"item": "B", "price": 0.4}]},
]


@pytest.mark.parametrize("cuts", [(5,), (1, 2, 3, 4, 5), (2, 5)])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_worker_publishes_what_lists_brought_about(cuts: tuple[int, ...], restart: bool) -> None:
    """However the log is cut, and if another worker goes on after each batch."""
    world = World(Settings(partitions=1))
    await world.shopper.take()
    for begin, end in zip((0, *cuts), cuts, strict=False):
        await world.feed(*LOG[begin:end])
        if restart:
            world.start()
            await world.shopper.take()
    await world.shopper.pulse(busy=False)
    view = await world.view()
    (arm,) = view["arms"]
    assert (arm["arm"], arm["lists"], arm["impressions"], arm["clicks"], arm["ctr"]) == ("all", 1, 2, 1, 0.5)
    assert (arm["users"], arm["clickers"], arm["buyers"]) == (1, 1, 1)
    revenue = {one["strategy"]: (one["conversions"], one["revenue"]) for one in view["strategies"]}
    assert revenue == {"item-item": (1, 2.5), "unknown": (1, 0.6)}
    newest = [each for each in world.sent if each.topic == METRICS.name][-1]
    assert newest.key == b"0"
    assert read(newest.value).counts == world.shopper.ledger.counts


async def test_what_users_were_shown_is_at_hand_for_ranking_them() -> None:
    """Of the batch itself, and what a worker before it counted."""
    world = World(Settings(partitions=1))
    await world.shopper.take()
    await world.feed(*LOG[:2])
    world.start()
    await world.shopper.take()
    await world.feed({"type": "view_item", "item": "A"}, {"type": "view_item", "item": "A", "user": "bob"})
    ledger = world.shopper.ledger
    found = impressions(ledger.touched(["bob", "ann"], Attributed()))
    assert (found.row.tolist(), found.clicked.tolist()) == ([1, 1], [1, 0])
    assert found.item.tolist() == [item_hash("A"), item_hash("B")]
    assert ledger.touched(["ann"], Attributed(states={"ann": NOTHING})) == [NOTHING]


async def test_what_an_owner_before_published_late_is_overwritten() -> None:
    """A compacted topic keeps the last record, not the newest."""
    world = World(Settings(partitions=1))
    await world.shopper.take()
    await world.feed(*LOG)
    followed = world.shopper.context.follower
    (mine,) = (each for each in world.sent if each.topic == METRICS.name)
    followed.measure(0, StockRecord(0, 0, b"0", mine.value, ()))
    await world.shopper.pulse(busy=False)
    assert len([each for each in world.sent if each.topic == METRICS.name]) == 1, "nothing new, nothing said"
    late = record(0, version(0, 99), 0, {})
    followed.measure(0, StockRecord(1, 0, b"0", late, ()))
    assert followed.measured[0].counts == world.shopper.ledger.counts
    await world.shopper.pulse(busy=False)
    newest = [each for each in world.sent if each.topic == METRICS.name][-1]
    assert read(newest.value).counts == world.shopper.ledger.counts and newest != mine
    assert not followed.outdated


async def test_forget_leaves_the_sums_and_nothing_of_the_user() -> None:
    world = World(Settings(partitions=1))
    await world.shopper.take()
    await world.feed(*LOG[:2])
    key = Keys().attribution("u0", "ann")
    assert (await world.store.get([key]))[0] is not None
    await world.feed({"type": "forget"})
    assert (await world.store.get([key]))[0] is None
    assert (await world.view())["arms"][0]["clicks"] == 1


async def test_test_accounts_and_repeated_events_count_nowhere() -> None:
    world = World(Settings(partitions=1, test_users=["qa-*"]))
    await world.shopper.take()
    await world.feed(*(event | {"user": "qa-1"} for event in LOG))
    assert not world.shopper.ledger.counts
    await world.feed(LOG[0] | {"id": "e1"}, LOG[0] | {"id": "e1", "list": "m"})
    assert (await world.view())["arms"][0]["lists"] == 1


async def test_a_list_names_the_arm() -> None:
    world = World(Settings(partitions=1, arms={"control": 50, "new": 50}))
    await world.shopper.take()
    await world.feed({"type": "view_item", "item": "A"})
    (value,) = await world.store.get([Keys().recs("ann")])
    assert value is not None
    assert orjson.loads(value)["arm"] == Rules.of(world.settings).arms.of_user("ann")
