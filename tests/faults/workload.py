"""A seeded, adversarial plan of messages, and senders that play it.

The plan is pure: the same arguments give the same messages, to the byte. Two kinds: `live` has event times
near now, several producers and misrouted keys; `recorded` is last year's log, by one producer, each
message with the header `received`, so that two runs of it count the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.ownership import partition_of
from stream.settings import Settings
from stream.times import time_text
from stream.topics import CATALOG, EVENTS, Topic

T = TypeVar("T")
Event = dict[str, Any]
Kind = Literal["live", "recorded"]

USERS, ITEMS = 240, 160
"""Fewer items than a row holds pairs: no row is ever cut, so every list can be compared."""
HOT = 0.2
"""Share of events of the three hottest users, and of the three hottest items."""
LAST_YEAR_MS = 1_750_000_000_000
SEND_WITHIN_S = 90.0
"""Longest wait for a broker that is away."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: sent ``at`` seconds after the start by producer number ``producer``."""

    at: float
    producer: int
    topic: Topic
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Planner:
    """Makes a plan; every choice comes from ``rng``."""

    rng: random.Random
    kind: Kind
    start_ms: int
    seconds: float
    count: int
    partitions: int
    producers: int
    ids: int = 0
    sent: list[Event] = field(default_factory=list)
    """Events with an id, for repeats of them."""

    def plan(self) -> list[Message]:
        """All messages, in the order of sending."""
        made: list[Message] = []
        for n in range(self.count):
            at = self.seconds * n / self.count
            made += self._messages(at)
            if self.rng.random() < 0.02:  # a producer that heard nothing sends its last batch again
                made += [replace(one, at=at) for one in made[-self.rng.randint(1, 5) :]]
        return made

    def _messages(self, at: float) -> list[Message]:
        chance = self.rng.random()
        if chance < 0.03:
            return [self.garbage(at)]
        if chance < 0.08:
            return [self._catalogue(at)]
        if chance < 0.18:
            return [self._array(at)]
        if chance < 0.24 and self.sent:  # near and far repeats by id
            far = self.rng.random() < 0.3
            return [self._single(at, self.rng.choice(self.sent if far else self.sent[-20:]))]
        if chance < 0.30:
            return [self._single(at, event) for event in self._cart_story(at)]
        return [self._single(at, self._event(at, self._user()))]

    # Messages

    def garbage(self, at: float) -> Message:
        """What nobody can read, or may believe."""
        value = self._garbage(at)
        key = self.rng.choice((b"k", b"\xff") if value is None else (None, b"k", b"\xff"))
        return self._message(at, EVENTS, key, value)

    def _message(
        self, at: float, topic: Topic, key: bytes | None, value: bytes | None, partition: int | None = None
    ) -> Message:
        producer, headers = 0, ((("received", b"%d" % self._ms(at)),) if self.kind == "recorded" else ())
        if self.kind == "live":
            producer = self.rng.randrange(self.producers)
        return Message(at, producer, topic, key, value, partition, headers)

    def _single(self, at: float, event: Event) -> Message:
        key = (event.get("user") or event["anonymous"]).encode()
        wrong = self.kind == "live" and self.rng.random() < 0.03
        partition = self.rng.randrange(self.partitions) if wrong else None
        return self._message(at, EVENTS, key, orjson.dumps(event), partition)

    def _array(self, at: float) -> Message:
        """A collector's batch of one partition; sometimes with a bad element, or one of another partition."""
        first = self._user()
        mine = partition_of(first, self.partitions)
        strange = self.kind == "live" and self.rng.random() < 0.1
        same = [first] + [u for u in (self._user() for _ in range(12)) if strange or self._at(u) == mine]
        events: list[Any] = [self._event(at, user) for user in same[: self.rng.randint(1, 8)]]
        if self.rng.random() < 0.3:
            bad: Any = self.rng.choice((None, 7, "text", {"type": "view_item"}, [], self._bad_event(at)))
            events.insert(self.rng.randint(0, len(events)), bad)
        return self._message(at, EVENTS, first.encode(), orjson.dumps(events), mine)

    def _at(self, user: str) -> int:
        return partition_of(user, self.partitions)

    def _catalogue(self, at: float) -> Message:
        item = self._item()
        fields = {
            "price": round(self.rng.uniform(1, 99), 2),
            "stock": self.rng.choice((0, 5, 9)),
            "hidden": self.rng.random() < 0.2,
            "name": f"Thing {item}",
            "attributes": {"colour": self.rng.choice(("red", "blue"))},
        }
        given = {name: value for name, value in fields.items() if self.rng.random() < 0.4}
        value = orjson.dumps({"type": "item", "item": item} | given)
        if self.rng.random() < 0.1:
            value = self.rng.choice((b"", b"{", b'{"item":"i1","price":-1}', b'[{"item":"i2"},{"item":3}]'))
        wrong = self.kind == "live" and self.rng.random() < 0.05
        partition = self.rng.randrange(self.partitions) if wrong else None
        return self._message(at, CATALOG, item.encode(), value, partition)

    # Events

    def _ms(self, at: float) -> int:
        return self.start_ms + int(at * 1000)

    def _user(self) -> str:
        if self.rng.random() < HOT:
            return f"u{self.rng.randrange(3)}"
        known = self.rng.random() < 0.85
        return f"{'u' if known else 'd'}{self.rng.randrange(USERS)}"

    def _item(self) -> str:
        return f"i{self.rng.randrange(3) if self.rng.random() < HOT else self.rng.randrange(ITEMS)}"

    def _time(self, at: float) -> str:
        """Mostly a little late; sometimes by minutes or hours, a little early, or from the far future."""
        late = self.rng.choices(
            (
                self.rng.uniform(0, 0.3),
                self.rng.uniform(0, 3),
                self.rng.uniform(60, 1800),
                self.rng.uniform(3600, 7 * 3600),
                -self.rng.uniform(1, 200),
                -self.rng.uniform(400, 90_000),
            ),
            (60, 25, 6, 4, 2, 1),
        )[0]
        return time_text(self._ms(at) - int(late * 1000))

    def _event(self, at: float, user: str, kind: str = "", **fields: Any) -> Event:
        kind = kind or self._kind()
        more = _KINDS[kind][1](self) if kind in _KINDS and not fields else fields
        event: Event = {"type": kind, "time": self._time(at)} | self._who(user, kind) | more
        if self.rng.random() < 0.2:
            event["context"] = {"zone": self.rng.choice(("Europe/Berlin", "Asia/Tokyo", "America/Lima"))}
        if self.rng.random() < 0.7:
            self.ids += 1
            event |= {"id": f"e{self.ids}", "source": self.rng.choice(("web", "app"))}
            self.sent.append(event)
        return event

    def _kind(self) -> str:
        """One of all kinds. Where merges fall in a log is up to its workers, so two runs would differ."""
        kind = self.rng.choices(tuple(_KINDS), tuple(weight for weight, _ in _KINDS.values()))[0]
        merges = kind in ("sign_up", "login") and self.kind == "recorded"
        return "search" if merges else kind

    def _who(self, user: str, kind: str) -> Event:
        if kind in ("sign_up", "login"):
            return {"user": f"u{user[1:]}", "anonymous": f"d{user[1:]}"}
        return {"user": user} if user.startswith("u") else {"anonymous": user}

    def _cart_story(self, at: float) -> list[Event]:
        """A known user consents and fills a cart, which is left, ordered, checked out or emptied."""
        user, item = f"u{self.rng.randrange(USERS)}", self._item()
        line: Event = {"items": [{"item": item, "price": 9.5, "quantity": 2}]}
        consent = {"channels": {"email": True}, "purposes": {"personalisation": True}}
        ends = {"purchase": {"order": "o"} | line, "begin_checkout": line, "remove_from_cart": line}
        story = [
            self._event(at, user, "consent", **consent),
            self._event(at, user, "add_to_cart", **line),
        ]
        end = self.rng.choice(("left", "left", *ends))
        return story if end == "left" else [*story, self._event(at, user, end, **ends[end])]

    def _bad_event(self, at: float) -> Event:
        good = self._event(at, self._user(), "view_item", item=self._item())
        return good | self.rng.choice(
            ({"time": "yesterday"}, {"item": ""}, {"price": -1.0}, {"quantity": "2"}, {"items": [{}]})
        )

    def _garbage(self, at: float) -> bytes | None:
        now = time_text(self._ms(at))
        user = self._user()
        # The signature of nobody: neither lets time pass nor stands for another partition.
        tick = {"type": "tidewise.tick", "time": now, "sig": "0" * 64}
        body = {"type": "view_item", "time": now, "user": user, "item": "forged"}
        mail = {"type": "tidewise.mail", "kind": "forward", "source": [0, self.rng.randrange(99), 0]}
        forged = mail | {"received": self._ms(at), "body": body, "sig": "0" * 64}
        return self.rng.choice(
            (
                None,
                b"",
                b"\x00\x01 no JSON",
                b'{"type":"view_item","time":"2026-01-01T00:00:00Z","user":"\xff\xfe","item":"A"}',
                b"[" * self.rng.randint(1, 50_000),
                b'{"a":' * 5000 + b"1" + b"}" * 5000,
                b'{"type":"view_item","time":"' + now.encode() + b'","user":"u1","item":"A","price":NaN}',
                orjson.dumps(self._bad_event(at)),
                orjson.dumps(tick),
                orjson.dumps(forged),
                orjson.dumps(forged | {"body": None}),
                b"7",
                b'"text"',
            )
        )


def _items(planner: Planner) -> Event:
    many = [{"item": planner._item(), "price": 2.5} for _ in range(planner.rng.randint(1, 4))]
    return {"items": many} if planner.rng.random() < 0.3 else {"item": planner._item(), "price": 19.9}


def _with(**more: Any) -> Callable[[Planner], Event]:
    return lambda planner: _items(planner) | more


def _only(**fields: Any) -> Callable[[Planner], Event]:
    return lambda planner: dict(fields)


def _consent(planner: Planner) -> Event:
    yes = planner.rng.random() < 0.8
    return {"channels": {"email": yes, "push": False}, "purposes": {"personalisation": True}}


_KINDS: dict[str, tuple[int, Callable[[Planner], Event]]] = {
    "view_item": (40, _items),
    "select_item": (5, _items),
    "add_to_cart": (12, _items),
    "remove_from_cart": (3, _items),
    "add_to_wishlist": (2, _items),
    "begin_checkout": (2, _items),
    "purchase": (5, _with(order="o1", value=24.9, currency="EUR")),
    "refund": (1, _only(order="o1")),
    "view_item_list": (1, _with(list="shoes")),
    "search": (2, _only(query="red shoes")),
    "rate": (2, _with(rating=4.5)),
    "share": (1, _with(network="mail")),
    "sign_up": (1, _only()),
    "login": (1, _only()),
    "consent": (6, _consent),
    "preferences": (1, _only(attributes={"size": "M"})),
    "forget": (1, _only()),
    "recommendation_shown": (2, _with(list="0-1-0-recs-0")),
    "recommendation_clicked": (2, _with(list="0-1-0-recs-0")),
    "nudge_delivered": (1, _only(nudge="0-1-0-nudge-0")),
    "nudge_clicked": (2, _only(nudge="0-1-0-nudge-0")),
    "coupon_redeemed": (2, _only(coupon="SPRING", order="o1")),
    "loyalty_scan": (1, _items),
}
"""Weight of each type, and what it has beside the envelope."""


def plan(
    seed: int,
    kind: Kind = "live",
    *,
    seconds: float,
    count: int,
    start_ms: int,
    partitions: int = 4,
    producers: int = 4,
) -> list[Message]:
    """About ``count`` messages over ``seconds``; event times begin near ``start_ms`` (live: now)."""
    rng = random.Random(f"{seed}-{kind}")
    return Planner(rng, kind, start_ms, seconds, count, partitions, producers).plan()


def poison(seed: int, count: int, start_ms: int) -> list[Message]:
    """A burst of what nobody can read, all at once."""
    planner = Planner(random.Random(f"{seed}-poison"), "live", start_ms, 1.0, count, 4, 1)
    return [planner.garbage(0.0) for _ in range(count)]


# Sending


def askers(users: int, seconds: float) -> list[Message]:
    """So many users grant mails, one after the other, over some time."""
    granted = {"channels": {"email": True}, "purposes": {"personalisation": True}}
    now_ms, made = time.time_ns() // 1_000_000, list[Message]()
    for n in range(users):
        at, user = seconds * n / users, f"asker-{n:05d}"
        event = {"type": "consent", "user": user, "id": user, "time": time_text(now_ms + round(1000 * at))}
        made.append(Message(at, 0, EVENTS, user.encode(), orjson.dumps(event | granted)))
    return made


async def play(
    messages: Sequence[Message], settings: Settings, *, transactional: bool = False, seed: int = 0
) -> None:
    """Send everything at its time, each producer for itself; raises when a broker stays away.

    What a broker did not confirm is sent again: the log decides what counts, not the plan. With
    ``transactional`` producer 0 sends in transactions, of which it aborts some.
    """
    voices: dict[int, list[Message]] = {}
    for message in messages:
        voices.setdefault(message.producer, []).append(message)
    started = _now_s()
    tasks = [
        _transactions(mine, settings, started, random.Random(seed))
        if transactional and number == 0
        else _voice(mine, settings, started)
        for number, mine in voices.items()
    ]
    await asyncio.gather(*tasks)


@asynccontextmanager
async def _producer(settings: Settings, **more: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Connected, however long that takes; let go of in time, even when nothing it holds can be sent."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        linger_ms=5,
        acks="all",
        max_request_size=4 * settings.max_message_bytes,
        request_timeout_ms=10_000,
        **more,
    )
    try:
        await _patiently(producer.start)
        yield producer
    finally:
        with suppress(KafkaError, TimeoutError):
            await asyncio.wait_for(producer.stop(), 5.0)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Again and again while the brokers are away."""
    deadline = _now_s() + SEND_WITHIN_S
    while True:
        try:
            return await attempt()
        except KafkaError:
            if _now_s() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _voice(messages: Iterable[Message], settings: Settings, started: float) -> None:
    """One producer: keeps its pace, and gathers confirmations in the background."""
    waiting: list[tuple[Message, asyncio.Future[Any]]] = []
    async with _producer(settings) as producer:
        for message in messages:
            await asyncio.sleep(max(0.0, started + message.at - _now_s()))
            waiting.append((message, await _send(producer, settings, message)))
            if len(waiting) > 500:
                await _confirmed(producer, settings, waiting)
        await _confirmed(producer, settings, waiting)


async def _send(producer: AIOKafkaProducer, settings: Settings, one: Message) -> asyncio.Future[Any]:
    """Hand over; tried again while no broker tells where the partition is."""
    topic, headers = one.topic.full(settings), list(one.headers)
    future: asyncio.Future[Any] = await _patiently(
        lambda: producer.send(topic, one.value, one.key, one.partition, headers=headers)
    )
    return future


async def _confirmed(
    producer: AIOKafkaProducer, settings: Settings, waiting: list[tuple[Message, asyncio.Future[Any]]]
) -> None:
    """Wait for all confirmations; what failed is sent again."""
    deadline = _now_s() + SEND_WITHIN_S
    while waiting:
        await asyncio.wait([future for _, future in waiting], timeout=SEND_WITHIN_S)
        failed = [one for one, future in waiting if not future.done() or future.exception() is not None]
        waiting.clear()
        if failed and _now_s() > deadline:
            raise TimeoutError(f"no broker confirmed {len(failed)} messages")
        for one in failed:
            waiting.append((one, await _send(producer, settings, one)))


async def _transactions(
    messages: Sequence[Message], settings: Settings, started: float, rng: random.Random
) -> None:
    """A transactional producer; a third of its transactions is aborted, and never sent again."""
    name = f"{settings.prefix}-transactions"
    async with _producer(settings, transactional_id=name) as producer:
        at = 0
        while at < len(messages):
            some = messages[at : at + rng.randint(1, 30)]
            at += len(some)
            await asyncio.sleep(max(0.0, started + some[-1].at - _now_s()))
            await producer.begin_transaction()
            await asyncio.gather(*[await _send(producer, settings, one) for one in some])
            await (producer.abort_transaction() if rng.random() < 0.3 else producer.commit_transaction())


def _now_s() -> float:
    return asyncio.get_running_loop().time()
