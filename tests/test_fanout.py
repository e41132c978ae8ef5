"""From a change of the catalogue to a nudge: the way between users and items, once and for nobody else."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import fanout, mail
from stream.core.campaigns import Campaign
from stream.core.engaged import UserState
from stream.core.engagement import Outcome
from stream.core.watchers import BOUGHT, CART, DAY_MS, LEFT, VIEW, WISH, Interest, Watchers
from stream.delivery import Output
from stream.local import LocalWorker, bundle
from stream.mail import WATCH_SENDER, has_interests, pack_interests, unpack_interests
from stream.offline import replay
from stream.ownership import partition_of
from stream.settings import Settings
from stream.shelf import Shelf
from stream.shopper import Shopper
from stream.signing import tick_event
from stream.times import time_text
from stream.topics import CATALOG, ENGAGEMENTS, EVENTS, INCREMENTS
from stream.transport import StockRecord
from tests.scenarios import Happening, Shop, campaign, engine, happening, ms

KEY = b"a key"
SETTINGS = Settings(
    partitions=3, cart_enabled=False, cap_day=100, cap_week=100, quiet_from="00:00", quiet_until="00:00"
)
USERS = ["ann", "bob", "cid", "dot", "gus", "joe"]
DROP = campaign("price-drop", steps=["0s"], rest="0s")


@dataclass
class Log:
    """The log's port over what was handed in."""

    records: dict[tuple[str, int], list[StockRecord]] = field(default_factory=lambda: defaultdict(list))

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self.records[topic, partition])

    async def read(
        self, topic: str, partition: int, offset: int, within_s: float = 5.0
    ) -> StockRecord | None:
        return self.records[topic, partition][offset]


class Deployment(LocalWorker):
    """Three partitions; what they tell each other waits in the order in which it was sent."""

    def __init__(self, campaigns: Sequence[Campaign] = (DROP,), before: Deployment | None = None) -> None:
        super().__init__(SETTINGS, KEY, campaigns)
        self.contexts.shopping.lister.publishing = self.contexts.shopping.lister.learning = False
        self.log = Log()
        if before is not None:
            self.log, self.store, self._increments = before.log, before.store, before._increments
        ports = replace(self.shelves[0].ports, log=self.log, store=self.store)
        self.shoppers = [Shopper(p, ports, self.contexts.shopping) for p in range(3)]
        self.shelves = [Shelf(p, ports, self.contexts.shelving) for p in range(3)]
        self.nudges: list[dict[str, Any]] = []
        self.mail: list[Output] = []

    def records(self, topic: str, partition: int, time: int, values: Sequence[bytes]) -> list[StockRecord]:
        held = self.log.records[topic, partition]
        first = len(held)
        held += [StockRecord(first + n, time, None, value, ()) for n, value in enumerate(values)]
        return held[first:]

    async def hand(self, topic: str, partition: int, time: int, *values: bytes) -> None:
        if not values:
            return
        owner = (self.shoppers if topic == EVENTS.name else self.shelves)[partition]
        await owner.handle([bundle(topic, partition, self.records(topic, partition, time, values))])

    async def happens(self, time: int, user: str, kind: str, **fields: Any) -> None:
        said = {"type": kind, "time": time_text(time), "user": user} | fields
        await self.hand(EVENTS.name, partition_of(user, 3), time, orjson.dumps(said))

    async def consent(self, time: int, *users: str) -> None:
        granted = {"channels": {"email": True}, "purposes": {"personalisation": True}}
        for user in users:
            await self.happens(time, user, "consent", **granted)

    async def tell(self, time: int, item: str, **fields: Any) -> None:
        """A catalogue event, after everything that was said to items before."""
        await self.fold()
        said = {"type": "item", "item": item, "time": time_text(time)} | fields
        await self.hand(CATALOG.name, partition_of(item, 3), time, orjson.dumps(said))

    async def settle(self, time: int, twice: bool = False) -> None:
        """Items' checkpoints, and then users read what they were told, and time comes to ``time``."""
        await self.fold()
        for shelf in self.shelves:
            await shelf.pulse(busy=False)
        for shopper in self.shoppers:
            posts = self.outputs.take(EVENTS.name, shopper.partition)
            self.mail += posts
            values = [post.value for post in posts for _ in range(1 + twice)]
            reach = time + int(SETTINGS.lateness_s * 1000)
            await self.hand(EVENTS.name, shopper.partition, time, *values)
            tick = tick_event(KEY, shopper.partition, reach)
            await self.hand(EVENTS.name, shopper.partition, reach, tick)
            sent = self.outputs.take(ENGAGEMENTS.name, shopper.partition)
            self.nudges += [orjson.loads(output.value) for output in sent]

    def watchers(self, item: str) -> Watchers | None:
        key = self.store.keys.watchers(f"i{partition_of(item, 3)}", item)
        stored = self.store.strings.get(key)
        return None if stored is None else Watchers.unpack(stored)

    @property
    def told(self) -> list[tuple[str, str, float]]:
        return sorted((each["user"], *_first(each)) for each in self.nudges)


def _first(nudge: dict[str, Any]) -> tuple[str, float]:
    (line,) = nudge["items"]
    return line["item"], line["price"]


async def deployed(*campaigns: Campaign) -> Deployment:
    made = Deployment(campaigns or (DROP,))
    await made.take()
    return made


async def looked(price: float = 100.0, **fields: Any) -> Deployment:
    """Everybody consented and looked at A."""
    made = await deployed()
    assert {partition_of(user, 3) for user in USERS} == {0, 1, 2}
    await made.tell(ms("09:00"), "A", price=price, **fields)
    await made.consent(ms("10:00"), *USERS)
    for minute, user in enumerate(USERS, 5):
        await made.happens(ms(f"10:{minute:02}"), user, "view_item", item="A")
    return made


async def test_a_lower_price_reaches_those_who_looked_wherever_they_are_once() -> None:
    made = await looked()
    await made.tell(ms("11:00"), "A", price=90)
    await made.settle(ms("11:00"), twice=True)
    assert made.told == [(user, "A", 90.0) for user in USERS]
    assert len(made.mail) == 6
    assert sum(shopper.meta.notices for shopper in made.shoppers) == 6
    assert sum(shopper.meta.mail_repeats for shopper in made.shoppers) == 6
    assert sum(shelf.meta.notices for shelf in made.shelves) == 6
    await made.tell(ms("12:00"), "A", price=90, name="Apple")
    await made.settle(ms("12:00"))
    assert len(made.nudges) == 6


async def test_the_price_that_an_event_tells_is_the_one_seen() -> None:
    made = await deployed()
    await made.tell(ms("09:00"), "A", price=100)
    await made.consent(ms("10:00"), "ann", "bob")
    await made.happens(ms("10:05"), "ann", "view_item", item="A", price=95)
    await made.happens(ms("10:05"), "bob", "view_item", items=[{"item": "A"}, {"item": "B"}])
    await made.tell(ms("11:00"), "A", price=90)
    await made.settle(ms("11:00"))
    assert made.told == [("bob", "A", 90.0)]


async def test_at_most_forty_people_a_piece_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.core.watchers.PEOPLE_A_UNIT", 2)
    made = await looked(stock=1)
    await made.tell(ms("11:00"), "A", price=90)
    await made.settle(ms("11:00"))
    assert made.told == [("ann", "A", 90.0), ("bob", "A", 90.0)]


async def test_whoever_is_forgotten_is_in_no_list_and_hears_nothing() -> None:
    made = await looked()
    await made.happens(ms("10:30"), "ann", "add_to_wishlist", item="B")
    await made.settle(ms("10:31"))
    before = made.watchers("A"), made.watchers("B")
    assert [sorted(each.users) for each in before if each] == [USERS, ["ann"]]
    await made.happens(ms("10:40"), "ann", "forget")
    # A change that happened at the same time: the notice finds somebody who is not known any more.
    await made.hand(CATALOG.name, partition_of("A", 3), ms("10:41"), b'{"type":"item","item":"A","price":80}')
    await made.settle(ms("11:00"))
    left = made.watchers("A")
    assert left is not None and sorted(left.users) == USERS[1:]
    assert made.watchers("B") is None
    assert [user for user, *_ in made.told] == USERS[1:]
    key = made.store.keys.engagement(f"u{partition_of('ann', 3)}", "ann")
    assert key not in made.store.strings, "not even what the notice said is kept of her"


async def test_what_nobody_asks_for_costs_nothing() -> None:
    made = await deployed(campaign("win-back"), campaign("price-drop", enabled=False))
    await made.consent(ms("10:00"), "ann")
    await made.happens(ms("10:05"), "ann", "view_item", item="A")
    assert not any(
        has_interests(each.value) for p in range(3) for each in made.outputs.take(INCREMENTS.name, p)
    )
    await made.tell(ms("10:10"), "A", price=9)
    await made.tell(ms("10:11"), "A", price=5)
    await made.settle(ms("10:12"))
    assert not made.mail and not any("watchers" in key for key in made.store.strings)
    state = UserState.unpack(
        made.store.strings[made.store.keys.engagement(f"u{partition_of('ann', 3)}", "ann")]
    )
    assert not state.watching


async def test_a_list_that_a_campaign_left_behind_forgets_still() -> None:
    made = await looked()
    await made.settle(ms("10:30"))
    after = Deployment([campaign("win-back")], made)
    await after.take()
    await after.happens(ms("10:40"), "ann", "forget")
    await after.settle(ms("10:41"))
    left = after.watchers("A")
    assert left is not None and sorted(left.users) == USERS[1:]


async def test_a_successor_makes_what_was_lost_again_and_sends_it_once() -> None:
    """A worker is lost right before the checkpoint, another right after it, before it had published."""
    made = await looked()
    await made.settle(ms("10:30"))
    at = partition_of("A", 3)
    shelf = made.shelves[at]
    told = made.records(CATALOG.name, at, ms("11:00"), [b'{"type":"item","item":"A","price":80}'])
    await shelf.handle([bundle(CATALOG.name, at, told)])
    first = Shelf(at, shelf.ports, made.contexts.shelving)
    await first.take()
    await first.handle([bundle(CATALOG.name, at, told)])
    await first.pulse(busy=False)
    sent = [made.outputs.sent.get((EVENTS.name, p), []).copy() for p in range(3)]
    assert sum(map(len, sent)) == 6
    second = made.shelves[at] = Shelf(at, shelf.ports, made.contexts.shelving)
    await second.take()
    again = [made.outputs.sent.get((EVENTS.name, p), []) for p in range(3)]
    assert [len(each) for each in again] == [2 * len(each) for each in sent]
    await made.settle(ms("11:01"))
    assert made.told == [(user, "A", 80.0) for user in USERS]
    assert second.meta.notices == 6


async def test_interests_that_come_twice_count_once() -> None:
    made = await looked()
    at = partition_of("A", 3)
    values = [each.value for each in made.outputs.take(INCREMENTS.name, at)]
    for _ in range(2):
        records = [StockRecord(next(made._increments[at]), 0, None, value, ()) for value in values]
        await made.shelves[at].handle([bundle(INCREMENTS.name, at, records)])
        await made.happens(ms("10:50"), "ann", "forget")
        await made.fold()
    await made.settle(ms("10:51"))
    left = made.watchers("A")
    assert left is not None and sorted(left.users) == USERS[1:]


async def test_a_replay_takes_what_items_told_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "drop.yaml").write_text(
        "id: price-drop\ntrigger: {type: price-drop}\nmessage: {template: m}\nsteps: [0s]\nrest: 0s\n"
    )
    made = await looked()
    await made.tell(ms("11:00"), "A", price=90)
    await made.settle(ms("11:00"))

    async def chunks(topic: str, partition: int) -> AsyncIterator[Sequence[StockRecord]]:
        if records := made.log.records[topic, partition]:
            yield records

    again = await replay(SETTINGS.model_copy(update={"campaigns": str(tmp_path)}), KEY, chunks)
    assert (again.missing, again.strange) == ([], [])
    sent = [orjson.loads(output.value) for output in again.outputs[ENGAGEMENTS.name]]
    assert sorted(each["id"] for each in sent) == sorted(each["id"] for each in made.nudges)
    assert len(sent) == 6 and again.digest.notices == 6
    for key in (made.store.keys.engagement(f"u{partition_of(user, 3)}", user) for user in USERS):
        assert again.store.strings[key] == made.store.strings[key]


async def test_damaged_interests_are_a_dead_letter() -> None:
    made = await deployed()
    (whole,) = pack_interests(1, [Interest(5, "A", "ann", VIEW, 7)])
    values = [whole[:3], whole[:-1], whole[:4] + b"\x91\x96\x05\xa1A\xa3ann\x09\x07\xc0", whole]
    records = [StockRecord(n, 0, None, value, ()) for n, value in enumerate(values)]
    await made.shelves[0].handle([bundle(INCREMENTS.name, 0, records)])
    await made.shelves[0].pulse(busy=False)
    assert made.shelves[0].meta.dead == 3
    assert made.shelves[0].meta.senders == {1 + WATCH_SENDER: 5}


async def test_a_message_may_cause_so_many_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "NOTICES", 7)
    made = await looked()
    await made.tell(ms("09:00"), "B", price=100)
    for user in USERS:
        await made.happens(ms("10:20"), user, "view_item", item="B")
        await made.happens(ms("10:21"), user, "view_item", item="C")
    await made.fold()
    same = [item for item in ("A", "B") if partition_of(item, 3) == partition_of("A", 3)]
    items = [{"type": "item", "item": item, "price": 80} for item in same * 2]
    await made.hand(CATALOG.name, partition_of("A", 3), ms("11:00"), orjson.dumps(items))
    await made.settle(ms("11:00"))
    assert len(made.mail) == 6 * min(len(same), 2)


async def test_notices_wait_for_no_checkpoint_unless_more_comes() -> None:
    made = await looked()
    await made.settle(ms("10:30"))
    shelf = made.shelves[partition_of("A", 3)]
    shelf.ports = replace(shelf.ports, now_ms=lambda: 0)
    await made.tell(ms("10:40"), "A", name="Apple")
    assert await shelf.pulse(busy=False) is False, "no time passes: the next checkpoint is not due"
    await made.tell(ms("10:50"), "A", price=90)
    assert await shelf.pulse(busy=True) is False and len(shelf.fanout.posts) == 6
    assert await shelf.pulse(busy=False) is True and not shelf.fanout.posts


async def test_a_large_catalogue_is_told_in_several_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.shelf.POSTS", 5)
    monkeypatch.setattr("stream.shelf.PIECE", 2)
    made = await looked()
    await made.fold()
    at = partition_of("A", 3)
    values = [b'{"type":"item","item":"A","price":%d}' % price for price in range(90, 85, -1)]
    before = made.shelves[at].delivery.head.n
    await made.hand(CATALOG.name, at, ms("11:00"), *values)
    assert made.shelves[at].delivery.head.n == before + 2
    assert len(made.shelves[at].fanout.posts) == 6, "what the last piece made waits"
    await made.settle(ms("11:00"))
    assert len(made.mail) == 5 * 6 and made.shelves[at].meta.notices == 5 * 6
    assert {user for user, *_ in made.told} == set(USERS)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.sampled_from("ABC"), st.sampled_from(["ann", "bø"]), st.integers(0, 4)
        ),
        max_size=30,
    ),
    st.integers(1, 8),
)
def test_interests_survive_the_way(drawn: list[tuple[int, str, str, int]], per_message: int) -> None:
    prices = [None, 0.0, 9.99]
    sent = [
        Interest(source, item, user, kind, 1000 + kind, prices[kind % 3])
        for source, item, user, kind in sorted(drawn)
    ]
    before, mail.MESSAGE_INTERESTS = mail.MESSAGE_INTERESTS, per_message
    try:
        messages = pack_interests(3, sent)
    finally:
        mail.MESSAGE_INTERESTS = before
    assert all(map(has_interests, messages))
    opened = [unpack_interests(message) for message in messages]
    assert {sender for sender, _ in opened} <= {3 + WATCH_SENDER}
    assert [one for _, part in opened for one in part] == sent
    for (_, a), (_, b) in itertools.pairwise(opened):
        assert a[-1].source < b[0].source, "an event's interests are never split"


# What holds whatever happens


class Listening(Shop):
    """A shop that keeps what items are told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.interests: list[Interest] = []

    def _keep(self, outcome: Outcome) -> None:
        super()._keep(outcome)
        self.interests += [
            msgspec.structs.replace(one, source=one.source + self.events) for one in outcome.interests
        ]


DOINGS = st.one_of(
    st.builds(
        "{} {}".format, st.sampled_from(["view", "wish", "add", "remove", "buy"]), st.sampled_from("ABC")
    ),
    st.builds("price {} {} {} 100".format, st.sampled_from("ABC"), st.integers(50, 99), st.integers(50, 99)),
    st.builds("stock {} {} {}".format, st.sampled_from("ABC"), st.integers(0, 9), st.integers(0, 9)),
    st.builds("stock {} 0 {} back".format, st.sampled_from("ABC"), st.integers(1, 9)),
    st.sampled_from(["clock", "clock", "consent", "forget"]),
)
LOGS = st.lists(st.tuples(st.integers(1, 4000), DOINGS), max_size=30)
THREE = [campaign(kind, rest="2d", priority=9) for kind in ("price-drop", "back-in-stock", "low-stock")]


@settings(max_examples=60)
@given(LOGS, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_cuts_change_nothing_and_nobody_is_told_of_what_he_bought(
    drawn: list[tuple[int, str]], cuts: list[int]
) -> None:
    shops = [Listening(engine(THREE, cart_enabled=False, cap_day=9, cap_week=99)) for _ in range(2)]
    minutes, log = 0, list[Happening]()
    for gap, what in [(1, "consent"), *drawn]:
        minutes += gap
        when = f"{1 + minutes // 1440} {minutes % 1440 // 60:02}:{minutes % 60:02}"
        log.append(happening(f"{when} | {what}", "2024-03-04", 2000))
    shops[0].play(log)
    at = 0
    for size in itertools.cycle(cuts):
        if at >= len(log):
            break
        shops[1].play(log[at : at + size])
        at += size
    one, other = shops
    assert (one.decisions, one.messages, one.stored) == (other.decisions, other.messages, other.stored)
    assert one.interests == other.interests
    _true(one, log)


def shown(kind: str, *rows: str) -> list[tuple[str, float | None]]:
    """The items and prices of the last message after rows of a table."""
    given = campaign(kind, expires="30d", message={"template": "m", "most": 50})
    shop = Shop(engine([given], cart_enabled=False))
    shop.play([happening(row, "2024-03-04", 2000) for row in ("10:00 | consent", *rows)])
    return [(line.item, line.price) for line in shop.messages[-1].items]


def test_a_message_tells_the_newest_price() -> None:
    looks = ("10:05 | view A", "10:05 | view B")
    drops = ("11:00 | price A 100 80", "11:00 | price B 100 70", "11:30 | price A 80 85 100", "12:00 | clock")
    assert shown("price-drop", *looks, *drops) == [("B", 70.0), ("A", 85.0)]
    held = (
        "10:06 | zone Europe/London",
        "22:00 | stock A 0 5 back",
        "22:01 | clock",
        "23:00 | price A 70 66",
    )
    assert shown("back-in-stock", *looks, *held, "2 09:00 | clock") == [("A", 66.0)]
    assert shown("back-in-stock", *looks, *held[:3], "23:00 | price B 70 66", "2 09:00 | clock") == [
        ("A", 70.0)
    ]


def test_a_message_has_twenty_items_those_told_last() -> None:
    names = [f"i{n}" for n in range(22)]
    rows = [f"10:05 | view {name}" for name in names] + [f"11:00 | price {name} 100 80" for name in names]
    assert shown("price-drop", *rows, "12:00 | clock") == [(name, 80.0) for name in names[:1:-1]]


def _true(shop: Listening, log: Sequence[Happening]) -> None:
    """Every message is about what was noticed, and neither forgotten nor bought since."""
    for message in shop.messages:
        before = [each for each in log[: message.at + 1] if each.event is not None]
        for line in message.items:
            mine = [each for each in before if _about(each, line.item)]
            kinds = [each.event.type for each in mine if each.event is not None]
            noticed = [n for n, kind in enumerate(kinds) if kind.startswith("tidewise.")]
            assert noticed and not {"purchase", "forget"} & set(kinds[noticed[-1] :])
            bought = [each.time for each, kind in zip(mine, kinds, strict=True) if kind == "purchase"]
            apart = {"price-drop": 30, "back-in-stock": 7, "low-stock": 0}[message.rule] * DAY_MS
            forgotten = max(
                (each.time for each, kind in zip(mine, kinds, strict=True) if kind == "forget"), default=0
            )
            assert all(message.time - time >= apart or time <= forgotten for time in bought)
    followed = {(one.item, one.user) for one in shop.interests if one.kind != LEFT}
    for user, stored in shop.stored.items():
        watching = UserState.unpack(stored).watching
        assert {(item, user) for item in watching} <= followed
        for one in shop.interests:
            last = [each.kind for each in shop.interests if (each.item, each.user) == (one.item, one.user)][
                -1
            ]
            assert (last == LEFT) == (one.item not in watching)
            assert one.kind in (VIEW, CART, WISH, BOUGHT, LEFT)


def _about(each: Happening, item: str) -> bool:
    event = each.event
    assert event is not None
    body = getattr(event, "body", None)
    if body is not None:
        return bool(body["item"] == item)
    return event.type == "forget" or any(line.item == item for line in event.lines())
