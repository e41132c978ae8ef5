"""Offers: what nudges show and only the lister knows, through a whole worker: asked, answered, sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state.keys import Keys
from state.memory import MemoryStore
from stream.contexts import Contexts
from stream.core.campaigns import Campaign, Version, content_hash
from stream.core.engaged import UserState
from stream.core.interest import Interest
from stream.core.items import Items
from stream.core.messages import Evidence
from stream.core.offers import OFFER, Offered, best, worth
from stream.core.plan import Held
from stream.core.recommend.trend import Trends
from stream.delivery import Ports
from stream.digest import sum_up
from stream.engagements import Item, Nudge, read_engagement
from stream.follower import Followed
from stream.local import LocalWorker, NewLog, Outputs, bundle
from stream.offline import replay
from stream.posting import claimed
from stream.settings import Settings
from stream.shopper import Shopper
from stream.status import tallies
from stream.times import time_text
from stream.topics import CAMPAIGNS, CATALOG, DECISIONS, ENGAGEMENTS, EVENTS
from stream.transport import StockRecord
from tests import offers
from tests.scenarios import campaign, check, ms
from tests.test_ranking import Entry, hood_of

KEY = b"offers"
OPEN: dict[str, Any] = {"cart_enabled": False, "cap_day": 100, "cap_week": 100}
SETTINGS = Settings(partitions=1, cart_enabled=False)
GOODS: list[dict[str, Any]] = [
    {"item": "A", "name": "Mug", "price": 4.0},
    {"item": "B", "name": "Tea", "price": 5.0, "image": "https://shop.example/b.jpg", "url": "/b"},
    {"item": "C", "name": "Kettle", "price": 50.0, "attributes": {"margin": 1}},
    {"item": "D", "name": "Pot", "price": 20.0, "stock": 0},
]
GRANTED = {"channels": {"email": True}, "purposes": {"personalisation": True}}


class Running:
    """A worker whose log is written here; its mail comes back as the broker would bring it."""

    def __init__(self, *campaigns: Campaign) -> None:
        self.worker = LocalWorker(SETTINGS, KEY, campaigns)
        self.log: list[StockRecord] = []
        self.catalog = [
            StockRecord(n, ms("08:00"), None, each, ()) for n, each in enumerate(map(_json, GOODS))
        ]
        self.said: list[Nudge] = []
        self.decided: dict[str, list[tuple[str, str]]] = {"ann": [], "kim": []}

    async def open(self) -> Running:
        await self.worker.take()
        await self.worker.shelves[0].handle([bundle(CATALOG.name, 0, self.catalog)])
        for n in range(6):
            await self.play(
                "09:00", f"u{n}", "purchase", items=[{"item": each} for each in "ABCD"[: 2 + n % 3]]
            )
        return self

    async def play(self, when: str, user: str, kind: str, **fields: Any) -> None:
        told = {"type": kind, "time": time_text(ms(when)), "user": user} | fields
        await self._put(ms(when), _json(told))
        while mail := self.worker.outputs.take(EVENTS.name, 0):
            for each in mail:
                await self._put(ms(when), each.value)

    async def _put(self, received: int, value: bytes) -> None:
        self.log.append(StockRecord(len(self.log), received, None, value, ()))
        await self.worker.shoppers[0].handle([bundle(EVENTS.name, 0, self.log[-1:])])
        await self.worker.fold()
        await self.worker.shelves[0].pulse(busy=False)
        take = self.worker.outputs.take
        for each in take(ENGAGEMENTS.name, 0):
            told = read_engagement(each.value)
            assert isinstance(told, Nudge)
            self.said.append(told)
        for told in map(msgspec.json.decode, (each.value for each in take(DECISIONS.name, 0))):
            if told["user"] in self.decided:
                self.decided[told["user"]].append((told["outcome"], told["reason"]))


def _json(told: Any) -> bytes:
    return msgspec.json.encode(told)


async def _offered(*campaigns: Campaign) -> Running:
    """Ann puts A in her cart; a day later the offer is due."""
    made = await Running(*campaigns).open()
    await made.play("10:00", "ann", "consent", **GRANTED)
    await made.play("10:05", "ann", "add_to_cart", item="A")
    await made.play("2 10:06", "bob", "view_item", item="A")
    return made


def test_the_best_of_her_list_is_sent_with_what_the_catalogue_says() -> None:
    made = asyncio.run(_offered(campaign("next-best-offer")))
    assert made.decided["ann"] == [("held", "content"), ("sent", "")]
    (nudge,) = made.said
    # C costs more, but its margin is 1; D is sold out, and A is in the cart.
    assert nudge.items == [Item("B", 5.0, 1, "Tea", "https://shop.example/b.jpg", "/b")]
    offer = msgspec.json.decode(made.log[-1].value or b"")["body"]
    assert (offer["type"], offer["to"], offer["body"]["rule"]) == (OFFER, "ann", "next-best-offer")
    assert {each["item"] for each in offer["body"]["items"]} == {"B", "C"}
    assert {each["item"]: (each["price"], each.get("margin")) for each in offer["body"]["items"]} == {
        "B": (5.0, None),
        "C": (50.0, 1.0),
    }


def test_several_users_at_once_get_each_their_own() -> None:
    async def run() -> Running:
        made = await Running(campaign("next-best-offer")).open()
        for user, had in (("ann", "A"), ("kim", "B")):
            await made.play("10:00", user, "consent", **GRANTED)
            await made.play("10:05", user, "purchase", item=had)
        await made.play("2 10:06", "bob", "view_item", item="A")
        return made

    made = asyncio.run(run())
    for user in ("ann", "kim"):
        assert made.decided[user] == [("held", "content"), ("sent", "")]
    # Of what is left the other's has the greater worth: C's margin is 1.
    assert {nudge.user: [each.item for each in nudge.items] for nudge in made.said} == {
        "ann": ["B"],
        "kim": ["A"],
    }


def test_the_decision_tells_the_offer_that_it_rests_on() -> None:
    shop = check(
        offers.OFFER["an answer at the last moment"], campaigns=[campaign("next-best-offer")], **OPEN
    )
    assert shop.decisions[-1].evidence == (Evidence(OFFER, ms("2 10:05"), "C"),)


def test_any_campaign_may_show_what_is_recommended() -> None:
    given = campaign(
        "abandoned-cart", steps=["1d"], message={"template": "m", "items": "recommended", "most": 1}
    )
    made = asyncio.run(_offered(given))
    assert made.decided["ann"] == [("held", "content"), ("sent", "")]
    shown = msgspec.json.decode(made.log[-1].value or b"")["body"]["body"]["items"][0]["item"]
    assert [each.item for each in made.said[0].items] == [shown] and shown in "BC"


def test_an_order_of_one_who_is_asked_for_is_not_offered() -> None:
    """The order and the answer cross: what is sent was asked for after it."""

    async def run() -> Running:
        made = await Running(campaign("next-best-offer")).open()
        await made.play("10:00", "ann", "consent", **GRANTED)
        await made.play("10:05", "ann", "purchase", item="A")
        told = {"type": "view_item", "time": time_text(ms("2 10:06")), "user": "bob", "item": "A"}
        await made._put(ms("2 10:06"), _json(told))
        late = {"type": "purchase", "time": time_text(ms("10:04")), "user": "ann", "item": "B"}
        await made._put(ms("2 10:06"), _json(late))
        await made.play("2 10:07", "bob", "view_item", item="A")
        return made

    made = asyncio.run(run())
    assert made.decided["ann"] == [("held", "content"), ("sent", "")]
    assert [each.item for each in made.said[0].items] == ["C"]


def test_a_replay_takes_the_recorded_answer(tmp_path: Path) -> None:
    """It follows no lists, so it would answer otherwise itself."""
    (tmp_path / "offer.yaml").write_text(
        "id: next-best-offer\ntrigger: {type: next-best-offer}\nmessage: {template: offer}\n"
    )
    with_file = SETTINGS.model_copy(update={"campaigns": str(tmp_path)})

    async def run() -> None:
        made = await _offered(campaign("next-best-offer"))

        async def chunks(topic: str, partition: int) -> Any:
            records: Sequence[Any] = {EVENTS.name: made.log, CATALOG.name: made.catalog, CAMPAIGNS.name: []}[
                topic
            ]
            if records:
                yield records

        again = await replay(with_file, KEY, chunks)
        assert not again.missing and not again.strange
        (sent,) = again.outputs[ENGAGEMENTS.name]
        told = read_engagement(sent.value)
        assert isinstance(told, Nudge) and [each.item for each in told.items] == ["B"]
        summed, _ = await tallies(SETTINGS, made.worker.store)
        assert again.digest == await sum_up(SETTINGS, made.worker.store, summed)

    asyncio.run(run())


def test_of_an_offer_a_replay_must_make_all_but_what_it_says() -> None:
    head = b'{"type":"tidewise.mail","kind":"notice","source":[1,2,0],"received":5,'
    offers = [head + b'"body":{"type":"tidewise.offer","time":%d}}' % n for n in range(2)]
    assert claimed(offers[0]) == claimed(offers[1]) != claimed(offers[0].replace(b"[1,2,0]", b"[1,3,0]"))
    other = head + b'"body":{"type":"tidewise.stock","time":1}}'
    assert claimed(other) == other


# What a worker looks at


class Late(Followed):
    """A version of a campaign that looks at views is known once the worker has read on."""

    async def read_campaigns(self) -> None:
        given = campaign("browse-abandonment")
        version = Version(campaign=given, number=1, hash=content_hash(given), effective=0)
        self.schedule.learn(Held.of(version, 0, 0))


def test_a_version_that_looks_at_views_counts_those_of_the_batch_that_brought_it() -> None:
    async def run() -> UserState:
        items = Items()
        contexts = Contexts(SETTINGS, items, Late(SETTINGS, items), KEY, [])
        store, keys = MemoryStore(Keys(SETTINGS.prefix)), Keys(SETTINGS.prefix)
        ports = Ports(NewLog(), store, Outputs(), lambda: ms("12:00"), contexts.dead_letters)
        shopper = Shopper(0, ports, contexts.shopping)
        await shopper.take()
        told = [
            {"type": "login", "time": time_text(ms("10:00")), "user": "ann", "anonymous": "ann"},
            {"type": "view_item", "time": time_text(ms("10:00")), "user": "ann", "item": "A"},
        ]
        await shopper.handle([bundle(EVENTS.name, 0, [StockRecord(0, ms("10:00"), None, _json(told), ())])])
        return UserState.unpack(store.strings[keys.engagement("u0", "ann")])

    state = asyncio.run(run())
    assert [each.item for each in state.viewed] == ["A"] and "browse-abandonment" in state.triggers


# What is chosen


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3), st.none() | st.integers(-1, 3)),
        min_size=1,
    )
)
def test_the_best_is_the_first_of_those_with_the_greatest_propensity_times_value(told: Any) -> None:
    items = [Offered(f"i{n}", score, "", price, margin) for n, (score, price, margin) in enumerate(told)]
    values = [max((price or 0) if margin is None else margin, 0) * score for score, price, margin in told]
    assert [worth(each) for each in items] == values
    assert best(items) is items[values.index(max(values))]


def _interest(hood: Any, **weights: int) -> Interest:
    blank = Interest.blank(1, 8)
    ids = np.array([hood.items.add(name) for name in weights], dtype=np.int32)
    of = np.array(list(weights.values()), dtype=np.int64)
    one = np.ones(len(ids), dtype=np.uint32)
    start = np.array([0, len(ids)])
    return Interest(start, ids, of, one, one, one, one, blank.added, blank.base, blank.events)


def test_what_rises_in_the_category_one_likes_most_and_has_not_met() -> None:
    told = {"A": (1, 5, 5), "B": (1, 9, 1), "C": (1, 30, 1), "D": (2, 99, 1), "E": (0, 99, 1)}
    hood, trends = hood_of({name: Entry({}) for name in told}, 4), Trends()
    for name, (category, popularity, usual) in told.items():
        at = hood.items.add(name)
        hood.category[at], hood.popularity[at], hood.usual[at] = category, popularity, usual

    def rising(met: Sequence[str], **weights: int) -> list[str]:
        ids = np.array([hood.items.add(name) for name in met], dtype=np.int32)
        items, scores = trends.rising_for(hood, _interest(hood, **weights), ids, 20)
        assert (np.diff(scores) <= 0).all() and (scores > 0).all()
        return [hood.items.name(at) for at in items.tolist()]

    assert rising(["A"], A=3) == ["C", "B"]
    assert rising(["A", "C"], A=3) == ["B"]
    assert rising(["A"], A=2, D=1) == ["C", "B"]
    assert rising(["A"], A=2, D=3) == ["D"]
    assert rising(["A", "D"], A=2, D=3) == []
    assert rising(["E"], E=9) == [] == rising([])
