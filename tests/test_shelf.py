"""The item side over memory ports: what the catalogue says reaches records and views within one event."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import pytest

from state.keys import Keys
from state.memory import MemoryStore
from stream.codec import Record
from stream.contexts import Contexts
from stream.core.content import item_tokens, token_hash
from stream.core.items import Items, item_hash
from stream.core.neighbor_format import HAS_PRICE, Records, unpack_records
from stream.core.vectors import quantised
from stream.delivery import Output, Ports
from stream.follower import Followed
from stream.mail import BACKWARD, FORWARD, HIT, Increments, Packer, source_of
from stream.settings import Settings
from stream.shelf import Shelf
from stream.times import time_text
from stream.topics import CATALOG, INCREMENTS, NEIGHBORS
from stream.transport import Bundle, StockRecord

START_MS = 1_767_225_600_000
SETTINGS = Settings(partitions=1)


@dataclass
class Log:
    """The log's port over records that were handed in."""

    records: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self.records[topic])

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        return self.records[topic][offset]


@dataclass
class Sent:
    """The sender's port."""

    outputs: list[Output] = field(default_factory=list)

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        self.outputs += outputs


@dataclass
class Shop:
    """One worker with one item partition; a second one over the same log and store is its successor."""

    log: Log = field(default_factory=Log)
    store: MemoryStore = field(default_factory=lambda: MemoryStore(Keys("tidewise")))

    def __post_init__(self) -> None:
        self.sent, self.items = Sent(), Items()
        self.follower = Followed(SETTINGS, self.items)
        contexts = Contexts(SETTINGS, self.items, self.follower, b"a key")
        clock = itertools.count(len(self.log.records) * 10**12, 1_000_000)
        ports = Ports(self.log, self.store, self.sent, lambda: next(clock), contexts.dead_letters)
        self.shelf = Shelf(0, ports, contexts.shelving)

    async def hand(self, topic: str, *values: bytes) -> None:
        """Records of a topic, handled and published."""
        await self.handle(topic, *values)
        while not await self.shelf.pulse(busy=False):
            pass

    async def handle(self, topic: str, *values: bytes) -> None:
        """Records of a topic."""
        held = self.log.records[topic]
        new: list[Record] = [
            StockRecord(len(held) + at, START_MS, None, value, ()) for at, value in enumerate(values)
        ]
        held += new
        await self.shelf.handle([Bundle(topic, 0, new, None, len(held))])

    async def tell(self, item: str, seconds: int = 0, **fields: Any) -> None:
        """A catalogue event."""
        time = time_text(START_MS + seconds * 1000)
        await self.hand(CATALOG.name, orjson.dumps({"type": "item", "item": item, "time": time, **fields}))

    async def follow(self) -> None:
        """What the worker does between polls."""
        self.shelf.note(self.follower.stale, self.follower.flagged, self.follower.kin.due())
        await self.shelf.pulse(busy=False)

    async def see(self, first: str, then: str, seconds: int) -> None:
        """Somebody looked at one item after the other."""
        a, b = self.items.ids([first, then])
        offset = len(self.log.records[INCREMENTS.name])
        time = START_MS + seconds * 1000
        mail = Increments(
            np.array([a, b, a, b], dtype=np.int32),
            np.array([a, b, b, a], dtype=np.int32),
            np.array([HIT, HIT, FORWARD, BACKWARD], dtype=np.uint8),
            np.array([8, 8, 1024, 200]),
            source_of(np.full(4, offset), np.zeros(4, dtype=np.int64)),
            np.full(4, time),
            np.full(4, 56),
        )
        await self.hand(INCREMENTS.name, *Packer(self.items, 0).pack(mail))

    def neighbors(self, item: str) -> list[tuple[str, str]]:
        """The view of an item: neighbours and strategies."""
        view = orjson.loads(self.store.strings[self.store.keys.neighbors(item)])
        assert all(entry["because"] == [item] for entry in view["items"])
        return [(entry["item"], entry["strategy"]) for entry in view["items"]]

    def record(self, item: str) -> Records:
        """The newest record of an item."""
        values = [o.value for o in self.sent.outputs if (o.topic, o.key) == (NEIGHBORS.name, item.encode())]
        return unpack_records(values[-1:])


async def test_a_new_item_has_neighbors_within_one_event() -> None:
    shop = Shop()
    await shop.shelf.take()
    await shop.tell("old", attributes={"category": "mug", "colour": "red"})
    await shop.tell("far", attributes={"category": "hat"})
    assert shop.neighbors("old") == []
    await shop.tell("new", attributes={"category": "mug", "colour": "blue"})
    assert shop.neighbors("new") == [("old", "content")]
    # Those who were there before, without a list of their own, hear of it, too, once no more comes.
    await shop.follow()
    await shop.follow()
    assert shop.neighbors("old") == [("new", "content")]
    assert shop.neighbors("far") == []
    await shop.see("new", "far", 60)
    assert shop.neighbors("new") == [("far", "item-item")]
    assert shop.neighbors("old") == [("new", "content")]


async def test_an_item_by_its_vector() -> None:
    shop = Shop()
    await shop.shelf.take()
    await shop.tell("a", vector=[1.0, 0.5, 0.0])
    await shop.tell("b", vector=[0.0, 0.0, 1.0])
    await shop.tell("c", vector=[0.9, 0.4, 0.1])
    assert shop.neighbors("c") == [("a", "content"), ("b", "content")]


async def test_a_record_says_what_the_catalogue_says() -> None:
    shop = Shop()
    await shop.shelf.take()
    fields = {
        "attributes": {"brand": "Acme", "category": ["mug", "tea"]},
        "name": "Red mug",
        "group": "seller",
        "vector": [0.5, -1.0],
        "price": 3.5,
    }
    await shop.tell("a", 7, **fields)
    found = shop.record("a")
    assert (found.flags[0], found.price[0], found.born[0]) == (HAS_PRICE, 3.5, START_MS + 7000)
    assert (found.group[0], found.category[0]) == (item_hash("seller"), token_hash("category=mug"))
    assert dict(zip(found.tokens[0].tolist(), found.token_weights[0].tolist(), strict=True)) == item_tokens(
        fields
    )
    assert found.vectors[0].tolist() == quantised(fields["vector"]).tolist() == [64, -127]  # type: ignore[arg-type]
    # A field that an event leaves out stays; one that it gives takes the place of the old.
    await shop.tell("a", 9, name="Blue mug")
    found = shop.record("a")
    assert found.tokens[0].tolist() == list(item_tokens(fields | {"name": "Blue mug"}))
    assert (found.born[0], found.dims[0]) == (START_MS + 7000, 2)


async def test_an_item_is_born_with_its_first_event_whoever_counts_it() -> None:
    first = Shop()
    await first.shelf.take()
    await first.see("a", "b", 100)
    assert first.record("a").born[0] == first.record("b").born[0] == START_MS + 100_000
    await first.see("b", "c", 50)
    assert [first.record(item).born[0] - START_MS for item in "abc"] == [100_000, 50_000, 50_000]
    then = Shop(first.log, first.store)
    then.items.ids(["c", "b", "a"])
    await then.shelf.take()
    await then.see("a", "b", 200)
    await then.tell("c", 10)
    assert [then.record(item).born[0] - START_MS for item in "abc"] == [100_000, 50_000, 10_000]


async def test_a_checkpoint_does_not_wait_in_silence() -> None:
    """Due after a second, or when nothing came for a tenth of one."""
    shop, now = Shop(), [10_000]
    await shop.shelf.take()
    shop.shelf.ports = replace(shop.shelf.ports, now_ms=lambda: now[0])
    event = orjson.dumps({"type": "item", "item": "A", "time": time_text(START_MS)})
    await shop.handle(CATALOG.name, event)
    assert await shop.shelf.pulse(busy=False), "the first is due at once"
    for time, handled, busy, done in (
        (10_500, True, False, False),
        (10_599, False, False, False),
        (10_600, False, True, False),
        (10_600, False, False, True),
        (10_850, True, False, False),
        (10_949, True, False, False),
        (11_048, False, False, False),
        (11_049, False, False, True),
        (12_048, True, False, False),
        (12_049, True, False, True),
    ):
        now[0] = time
        if handled:
            await shop.handle(CATALOG.name, event)
        assert await shop.shelf.pulse(busy) is done, time
        assert (shop.shelf.delivery.head.positions == shop.shelf.delivery.reached) is done


@pytest.mark.parametrize(
    ("n", "parts"), [(1, [1]), (10, [10]), (25, [10, 10, 5]), (40, [10] * 4), (41, [11, 11, 11, 8]), (0, [])]
)
async def test_a_backlog_is_cut_into_few_parts(n: int, parts: list[int]) -> None:
    shop, turns = Shop(), list[int]()

    async def give_way() -> None:
        turns.append(1)

    shop.shelf.context = replace(shop.shelf.context, give_way=give_way)
    ids = np.arange(n, dtype=np.int32)
    found = [part async for part in shop.shelf._in_turn(ids, 10)]
    assert [len(part) for part in found] == parts and len(turns) == len(parts)
    assert np.concatenate([*found, ids[:0]]).tolist() == ids.tolist()
