"""The real sides, `Shopper` and `Shelf`, in the simulated world, against the replay of its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from faust.types import TP

from stream.codec import Record
from stream.contexts import Contexts
from stream.core.engaged import UserState
from stream.core.items import Items
from stream.core.messages import unpresented
from stream.core.neighbor_format import unpack_records
from stream.core.rfm import Ranks
from stream.delivery import Output
from stream.digest import sum_up
from stream.follower import Followed, Follower
from stream.offline import Replayed, replay
from stream.ownership import partition_of
from stream.settings import Settings
from stream.status import tallies
from stream.times import time_text
from stream.topics import (
    CATALOG,
    DEAD_LETTERS,
    DECISIONS,
    ENGAGEMENTS,
    EVENTS,
    NEIGHBORS,
    RECOMMENDATIONS,
    TRENDING,
    Topic,
)
from tests.scenarios import campaign
from tests.simulation.ports import START_MS, Host, SimLog
from tests.simulation.world import SimWorker, World

KEY = b"simulated"
SETTINGS = Settings.model_validate(
    {
        "partitions": 2,
        "prefix": "s",
        "publish_s": 0.5,
        "checkpoint_s": 1.0,
        "trending_s": 2.0,
        "lateness_s": 0.2,
        "batch_events": 6,
        "cart_after_s": [1.0, 3.0],
        "cart_rest_s": 4.0,
        "quiet_from": "00:00",
        "quiet_until": "00:00",
        "cap_day": 3,
    }
)
CAMPAIGNS = [
    campaign("browse-abandonment", trigger={"idle": "1s", "again": "1s"}, steps=["1s"], rest="3s"),
    campaign("next-best-offer", steps=["1s"], rest="2s"),
    campaign("welcome", steps=["2s"], message={"template": "hello", "items": "recommended"}),
]
"""They look at views, and ask for what they show."""
USERS, ITEMS = ["u0", "u1", "u3", "u5", "u11"], [f"i{n}" for n in range(7)]
"""Some of each partition."""
DEVICES = ["d0", "d1", "d2", "d3"]
"""Anonymous ids, some of each partition; whoever logs in takes one over."""
PURPOSES = {"personalisation": True, "marketing": True}
TYPES = ("view_item", "view_item", "view_item", "add_to_cart", "add_to_cart", "remove_from_cart", "purchase")


class SimFollowing:
    """The consumer under a `Follower`."""

    def __init__(self, log: SimLog, host: Host) -> None:
        self._log, self._host = log, host
        self._read: dict[TP, int] = {}

    async def getmany(self, timeout_ms: int) -> dict[TP, Sequence[Record]]:
        await self._host.hop()
        if found := self._new():
            return found
        await asyncio.sleep(timeout_ms / 1000 * self._host.net.rng.random())
        await self._host.hop()
        return self._new()

    def _new(self) -> dict[TP, Sequence[Record]]:
        found: dict[TP, Sequence[Record]] = {}
        for topic in (NEIGHBORS.name, TRENDING.name):
            for partition in range(SETTINGS.partitions):
                records = self._log.part(topic, partition).records
                at = TP(topic, partition)
                if new := records[self._read.get(at, 0) :]:
                    self._read[at] = len(records)
                    found[at] = new
        return found


class SimFollower(Follower):
    """The very follower, on the simulated log."""

    def __init__(self, settings: Settings, items: Items, log: SimLog, host: Host) -> None:
        Followed.__init__(self, settings, items)
        self._trending = {}
        self._consumer = SimFollowing(log, host)

    async def read_campaigns(self) -> None:
        """None are published."""


class ShopWorker(SimWorker):
    """The worker with the real sides."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        items = Items()
        self.follower = SimFollower(world.settings, items, world.log, self.host)
        self._contexts = Contexts(world.settings, items, self.follower, KEY, CAMPAIGNS)
        self._shelving = replace(self._contexts.shelving, give_way=self._precedence.give_way)

    def start(self) -> None:
        self.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        await self.follower.poll(0)
        self.spawn(self._follow(self.follower))
        super().start()


class ShopWorld(World):
    """Some dozens of events of a few people, carts and nudges in flight."""

    settings = SETTINGS

    def worker(self, name: str) -> SimWorker:
        return ShopWorker(self, name)

    async def produce(self) -> None:
        rng = self.rng
        for item in ITEMS[:4]:
            self._item(item)
        for user in USERS:
            self._send({"type": "consent", "user": user, "channels": {"email": True}, "purposes": PURPOSES})
        for n in range(rng.randint(15, 40)):
            if rng.random() < 0.25:
                await asyncio.sleep(rng.random() * rng.choice((0.05, 0.3, 0.6)))
            if rng.random() < 0.08:
                self._item(rng.choice(ITEMS))
            self._send(self._event(n))

    def _event(self, n: int) -> dict[str, Any]:
        rng = self.rng
        event: dict[str, Any] = {"type": rng.choice(TYPES), "item": rng.choice(ITEMS)}
        if rng.random() < 0.3:
            event["anonymous"] = rng.choice(DEVICES)
        else:
            event["user"] = rng.choice(USERS)
        if rng.random() < 0.15:
            user, device = rng.choice(USERS), rng.choice(DEVICES)
            event = {"type": rng.choice(("sign_up", "login")), "user": user, "anonymous": device}
        if rng.random() < 0.5:
            event["id"] = f"e{rng.randint(max(0, n - 3), n)}"
        if rng.random() < 0.05:
            event["item"] = 7
        if rng.random() < 0.02:
            event = {"type": "forget", "user": _key(event)}
        return event

    def _now(self) -> str:
        late_ms = self.rng.choice((0, 0, 0, 100, 900))
        return time_text(START_MS + int(self.loop.now * 1000) - late_ms)

    def _send(self, event: dict[str, Any]) -> None:
        partition = self._sent_to(_key(event))
        value = msgspec.json.encode({**event, "time": self._now()})
        again = 2 if self.rng.random() < 0.05 else 1
        for _ in range(again):
            self.log.append(EVENTS.name, partition, _key(event).encode(), value)

    def _sent_to(self, key: str) -> int:
        """The owner of a key, or, where a producer partitions otherwise, somebody else."""
        owner = partition_of(key, SETTINGS.partitions)
        return owner if self.rng.random() < 0.85 else 1 - owner

    def _item(self, name: str) -> None:
        rng = self.rng
        item = {"type": "item", "item": name, "time": self._now(), "price": rng.randint(1, 9) * 1.0}
        item |= {"stock": rng.randint(0, 2), "hidden": rng.random() < 0.1}
        partition = self._sent_to(name)
        self.log.append(CATALOG.name, partition, name.encode(), msgspec.json.encode(item))

    # What is true

    async def wrong(self) -> str:
        true = await replay(self.settings, KEY, self._chunks, CAMPAIGNS)
        summed, _ = await tallies(self.settings, self.server.data)
        found = await sum_up(self.settings, self.server.data, summed)
        if found != true.digest:
            return f"digest {found}, true is {true.digest}"
        wrong = self._wrong_ranks() or self._wrong_messages(true) or self._wrong_lists()
        return wrong or self._wrong_neighbors(true)

    async def _chunks(self, topic: str, partition: int) -> AsyncIterator[Sequence[Record]]:
        if records := self.log.part(topic, partition).records:
            yield records

    def _wrong_ranks(self) -> str:
        """The customers that are counted are those there are."""
        keys, strings = self.server.data.keys, self.server.data.strings
        for part in (f"u{p}" for p in range(SETTINGS.partitions)):
            counted = Ranks.of(self.server.data.hashes.get(keys.rfm(part), {}))
            states = [
                UserState.unpack(blob)
                for key, blob in strings.items()
                if key.startswith(keys.engagement(part, ""))
            ]
            there = Ranks()
            there.move((None, state.rfm.values()) for state in states)
            if counted != there:
                return f"ranks of {part}: {counted}, there are {there}"
        return ""

    def _wrong_messages(self, true: Replayed) -> str:
        if true.missing or true.strange:
            return f"mail missing {true.missing}, strange {true.strange}"
        for topic in (ENGAGEMENTS, DECISIONS, DEAD_LETTERS):
            wanted = {_said(topic, o) for o in true.outputs.get(topic.name, [])}
            sent = {_said(topic, r) for r in self._sent(topic.name)}
            if sent != wanted:
                return f"{topic.name}: too much {sorted(sent - wanted)}, lost {sorted(wanted - sent)}"
        return ""

    def _sent(self, topic: str) -> list[Record]:
        return [r for p in range(SETTINGS.partitions) for r in self.log.part(topic, p).records]

    def _wrong_lists(self) -> str:
        """The view of a user is the newest of his messages, and there is one."""
        newest: dict[bytes, bytes] = {}
        for record in self._sent(RECOMMENDATIONS.name):
            assert record.key is not None and record.value is not None
            newest[record.key] = max(newest.get(record.key, b""), record.value)
        keys, strings = self.server.data.keys, self.server.data.strings
        for user, value in newest.items():
            if (view := strings.get(keys.recs(user.decode()))) != value:
                return f"the list of {user!r} is {view!r}, the newest message is {value!r}"
        return ""

    def _wrong_neighbors(self, true: Replayed) -> str:
        """The last record of every item says what its row says, and every item has its view."""
        last = {r.key: r.value for r in self._sent(NEIGHBORS.name)}
        wanted = {o.key: o.value for o in true.outputs.get(NEIGHBORS.name, [])}
        for item in sorted(key for key in wanted if key is not None):
            if (found := _content(last.get(item))) != (true_one := _content(wanted[item])):
                return f"neighbours of {item!r} are {found}, true are {true_one}"
            if self.server.data.keys.neighbors(item.decode()) not in self.server.data.strings:
                return f"no view of the neighbours of {item!r}"
        return ""


def _said(topic: Topic, message: Output | Record) -> tuple[object, ...]:
    """A message without what the catalogue said at the time."""
    value = message.value or b""
    return message.key, unpresented(value) if topic is ENGAGEMENTS else value, tuple(message.headers)


def _key(event: dict[str, Any]) -> str:
    key: str = event.get("user") or event["anonymous"]
    return key


def _content(value: bytes | None) -> object:
    """A record without its version."""
    if value is None:
        return None
    found = unpack_records([value])
    k = int(found.k[0])
    lists = found.hashes[0, :k].tolist(), np.round(found.weights[0, :k].astype(float), 4).tolist()
    sums = (round(float(each[0]), 4) for each in (found.row_sum, found.col_sum, found.price))
    told = found.born, found.group, found.category, found.tokens, found.token_weights, found.vectors
    scalars = int(found.flags[0]), int(found.last[0]), k
    return *scalars, *sums, *lists, *(each[0].tolist() for each in told)
