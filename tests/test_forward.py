"""Misrouted events: forwarded as signed mail, counted once, and every element of the log accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from state.keys import Keys
from state.memory import MemoryStore
from stream.codec import Columns, DeadLetter, Limits, Record, check, decode, parts
from stream.contexts import Contexts
from stream.core.items import Items
from stream.core.users import Bounds, UserTable
from stream.delivery import Output, Ports
from stream.digest import sum_up
from stream.follower import Followed
from stream.forward import Mail, open_mail, pack
from stream.letters import dead_letter, remake
from stream.mail import source_of
from stream.offline import Replayed, replay
from stream.ownership import partition_of
from stream.routing import Routed, Router
from stream.settings import Settings
from stream.shopper import Meta, Shopper
from stream.signing import tick_event, verifier
from stream.status import tallies
from stream.times import time_text
from stream.topics import EVENTS, config_of
from stream.transport import Bundle, StockRecord
from tests.fuzz.messages import LIMITS as FUZZED
from tests.fuzz.messages import Feed
from tests.test_step import KINDS, START_MS, event

KEY, PARTITIONS = b"a key", 3
SETTINGS = Settings(partitions=PARTITIONS, window=3, history=16, interest_items=8, row_pairs=64)
LIMITS = Limits.of(SETTINGS)
USERS, ITEMS = ("ann", "bob", "cleo", "dora", "emil", "fay"), ("tea", "milk", "rye", "jam")
HERE = {p: next(name for name in USERS if partition_of(name, PARTITIONS) == p) for p in range(PARTITIONS)}
"""A user of each partition."""
VIEW = {"type": "view_item", "time": time_text(START_MS), "user": HERE[1], "item": "tea"}
BODY = orjson.dumps(VIEW)

# Signatures

sources = st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**43 - 1), st.integers(0, 2**20 - 1))
bodies = st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53)).map(orjson.dumps)


@given(st.binary(min_size=1), st.integers(0, 1023), sources, st.integers(0, 10**15 - 1), bodies)
def test_mail_is_opened_by_its_target_alone(
    key: bytes, target: int, source: tuple[int, int, int], received: int, body: bytes
) -> None:
    value = pack(key, target, source, received, body)
    mail = open_mail(value, verifier(key, target))
    assert isinstance(mail, Mail)
    assert (mail.source, mail.received, bytes(mail.body)) == (source, received, body)
    for other in (verifier(key + b"x", target), verifier(key, target + 1)):
        assert refused(value, other) == ("unsigned", "sig")


@pytest.mark.parametrize(
    "change",
    [
        {"source": [1, 7, 0]},
        {"source": [0, 8, 0]},
        {"source": [0, 7, 1]},
        {"received": START_MS + 1},
        {"body": VIEW | {"item": "milk"}},
        {"sig": "0" * 64},
        {"sig": "é"},
        {"sig": ""},
    ],
)
def test_mail_that_was_changed_is_unsigned(change: dict[str, Any]) -> None:
    mail = orjson.loads(pack(KEY, 1, (0, 7, 0), START_MS, BODY))
    assert refused(orjson.dumps(mail), verifier(KEY, 1)) is None
    assert refused(orjson.dumps(mail | change), verifier(KEY, 1)) == ("unsigned", "sig")


def refused(value: bytes, verify: Any) -> tuple[str, str] | None:
    found = open_mail(value, verify)
    return None if isinstance(found, Mail) or found is None else (found.code, found.field)


# Reading


def record(value: bytes | None, offset: int = 0, timestamp: int = START_MS) -> StockRecord:
    return StockRecord(offset, timestamp, b"k", value, ())


def read(*values: bytes | None, partition: int = 1) -> tuple[Columns, list[DeadLetter]]:
    records = [record(value, at) for at, value in enumerate(values)]
    columns, dead = decode(records, Items(), LIMITS, verifier(KEY, partition))
    again = [remake(LIMITS, KEY, partition, EVENTS.name, each) for each in records]
    made = [dead_letter(EVENTS.name, partition, letter) for letter in dead]
    assert [letter for some in again for letter in some] == made, "made again, dead letters are others"
    return columns, dead


def test_mail_is_the_event_it_carries() -> None:
    mail = pack(KEY, 1, (2, 9, 4), START_MS - 5, BODY)
    columns, dead = read(BODY, mail, b"[%b,%b]" % (BODY, BODY))
    assert dead == []
    assert columns.offset.tolist() == [0, 1, 2, 2] and columns.index.tolist() == [0, 0, 0, 1]
    assert columns.received.tolist() == [START_MS, START_MS - 5, START_MS, START_MS]
    assert columns.user == [HERE[1]] * 4 and columns.event.tolist() == [0, 1, 2, 3]
    assert columns.sender.tolist() == [-1, 2, -1, -1]
    position = int(source_of(np.array([9]), np.array([4]))[0])
    assert columns.source.tolist() == [0, position, 0, 0]


def test_times_are_judged_by_when_the_source_got_the_event() -> None:
    early = START_MS - LIMITS.future_tolerance_ms - 1
    columns, dead = read(pack(KEY, 1, (0, 0, 0), early, BODY), pack(KEY, 1, (0, 1, 0), early + 1, BODY))
    assert [letter.reason.code for letter in dead] == ["future"] and columns.offset.tolist() == [1]


MAIL = orjson.loads(pack(KEY, 1, (0, 7, 0), START_MS, BODY))
BAD = [
    (orjson.dumps(MAIL | {"sig": "00"}), "unsigned", "sig"),
    (orjson.dumps({k: v for k, v in MAIL.items() if k != "sig"}), "unsigned", "sig"),
    (orjson.dumps(MAIL | {"kind": "merge"}), "unsupported", "kind"),
    (orjson.dumps({k: v for k, v in MAIL.items() if k != "body"}), "missing-field", "body"),
    (orjson.dumps(MAIL | {"source": [0, 7]}), "bad-value", "source"),
    (orjson.dumps(MAIL | {"source": [0, 2**63, 0]}), "bad-value", "source[1]"),
    (orjson.dumps(MAIL)[:-1], "not-json", ""),
    (orjson.dumps(MAIL).replace(b"tea", b"\xff"), "unsigned", "sig"),
    (orjson.dumps([MAIL]), "unsupported", "type"),
    (b" " + orjson.dumps(MAIL), "unsupported", "type"),
    (pack(KEY, 1, (0, 7, 0), START_MS, b"[%b]" % BODY), "wrong-type", "body"),
    (pack(KEY, 1, (0, 7, 0), START_MS, b"7"), "wrong-type", ""),
    (pack(KEY, 1, (0, 7, 0), START_MS, orjson.dumps(VIEW | {"item": ""})), "bad-value", "item"),
    (pack(KEY, 1, (0, 7, 0), START_MS, orjson.dumps(MAIL)), "unsupported", "type"),
]


@pytest.mark.parametrize(("value", "code", "field"), BAD)
def test_mail_that_is_refused_stands_whole_in_its_dead_letter(value: bytes, code: str, field: str) -> None:
    columns, dead = read(BODY, value, b"{", BODY)
    assert columns.offset.tolist() == [0, 3]
    whole = [(letter.offset, letter.value, letter.timestamp) for letter in dead if letter.offset == 1]
    assert whole == [(1, orjson.dumps(MAIL) if value.startswith(b"[") else value, START_MS)]
    assert (dead[0].reason.code, dead[0].reason.field) == (code, field)
    assert [letter.offset for letter in dead] == [1, 2]


def test_a_producer_may_not_send_mail() -> None:
    assert [(r.code, r.field) for r in check(orjson.dumps(MAIL), LIMITS)] == [("unsupported", "type")]


events = st.lists(st.sampled_from([b"7", BODY, orjson.dumps(VIEW | {"type": "purchase", "item": "milk"})]))


@given(st.lists(events.map(lambda some: b"[%b]" % b",".join(some)), max_size=5), st.data())
def test_taking_events_is_reading_only_those(messages: list[bytes], data: st.DataObject) -> None:
    columns, _ = read(*messages)
    keep = np.array(
        data.draw(st.lists(st.booleans(), min_size=(n := len(columns.time)), max_size=n)), dtype=bool
    )
    chosen = zip(columns.offset[keep].tolist(), columns.index[keep].tolist(), strict=True)
    alone, _ = read(*(bytes(msgspec.json.decode(messages[o], type=list[msgspec.Raw])[i]) for o, i in chosen))
    taken = columns.take(keep)
    assert taken.event.dtype == columns.event.dtype
    assert taken.offset.tolist() == columns.offset[keep].tolist()
    for name in ("time", "received", "kind", "units", "id", "event", "sender", "source"):
        assert getattr(taken, name).tolist() == getattr(alone, name).tolist(), name
    assert taken.user == alone.user
    assert [(at, msgspec.structs.asdict(one)) for at, one in taken.details.items()] == [
        (at, msgspec.structs.asdict(one)) for at, one in alone.details.items()
    ]


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_whatever_is_accepted_here_is_accepted_there(seed: str) -> None:
    """Adversarial bytes: none that one partition accepts is refused, or read otherwise, once forwarded."""
    sent = {each.offset: each for each in Feed(seed).batch(1000)}
    columns, _ = decode([*sent.values()], Items(), FUZZED, verifier(KEY, 0))
    held = {at: parts(sent[at].value or b"") for at in set(columns.offset.tolist())}
    places = zip(columns.offset.tolist(), columns.index.tolist(), columns.received.tolist(), strict=True)
    mail = [pack(KEY, 1, (0, at, n), received, held[at][n]) for at, n, received in places]
    records = [record(value, at) for at, value in enumerate(mail)]
    opened, dead = decode(records, Items(), FUZZED, verifier(KEY, 1))
    assert len(mail) > 300 and not dead and opened.user == columns.user
    for name in ("time", "received", "kind", "units", "id", "event"):
        assert (getattr(opened, name) == getattr(columns, name)).all(), name


# Routing


def route(values: Sequence[bytes], partition: int, base: int = 0, senders: Mapping[int, int] = {}) -> Routed:
    records = [record(value, 10 + at) for at, value in enumerate(values)]
    columns, dead = decode(records, Items(), LIMITS, verifier(KEY, partition))
    assert not dead
    columns.offset[:] += base
    router = Router(partition, PARTITIONS, KEY)
    return router.route(columns, records, base, UserTable(Bounds()), senders)


def test_what_goes_on_is_the_event_as_it_was_received() -> None:
    odd = b' {"user" : "%b",\n"type":"view_item","time":"%b", "item":"\\u0074ea" ,"more":[1, 2]}'
    first, second = (odd % (HERE[q].encode(), time_text(START_MS).encode()) for q in (1, 2))
    own = orjson.dumps(VIEW | {"user": HERE[0]})
    routed = route(
        [first + b"\n", own, b"[%b, %b ,%b]" % (second, own, first), tick_event(KEY, 0, START_MS)], 0, 100
    )
    assert routed.columns.user == [HERE[0], HERE[0], ""] and routed.columns.offset.tolist() == [111, 112, 113]
    opened = [
        (to, each.topic, each.key, bytes(mail.body), mail.source)
        for _, to, each in routed.mail
        if isinstance(mail := open_mail(each.value, verifier(KEY, to)), Mail)
    ]
    assert opened == [
        (1, EVENTS.name, HERE[1].encode(), first.strip(), (0, 110, 0)),
        (2, EVENTS.name, HERE[2].encode(), second.strip(), (0, 112, 0)),
        (1, EVENTS.name, HERE[1].encode(), first.strip(), (0, 112, 2)),
    ]


def test_repeats_are_dropped_by_each_senders_position() -> None:
    places = [(0, 5, 0), (0, 5, 1), (2, 1, 0), (0, 5, 0), (0, 6, 0), (2, 1, 0), (0, 5, 1), (0, 7, 0)]
    mails = [pack(KEY, 1, place, START_MS, BODY) for place in places]
    everything = route(mails, 1)
    assert everything.columns.offset.tolist() == [10, 11, 12, 14, 17] and everything.repeats == 3
    for cut in range(len(mails)):
        first = route(mails[:cut], 1)
        rest = route(mails[cut:], 1, cut, first.senders)
        together = first.columns.offset.tolist() + rest.columns.offset.tolist()
        assert together == everything.columns.offset.tolist()
        assert rest.senders == everything.senders and first.repeats + rest.repeats == 3


def test_mail_for_a_stranger_counts_and_is_not_sent_on() -> None:
    body = orjson.dumps(VIEW | {"user": HERE[2]})
    routed = route([pack(KEY, 1, (0, 1, 0), START_MS, body), body], 1)
    assert routed.columns.offset.tolist() == [10] and routed.strangers == {HERE[2]}
    assert [to for _, to, _ in routed.mail] == [2]


# Whole deployments


@dataclass
class World:
    """All shopper partitions of a deployment, over logs and a store in memory."""

    logs: dict[int, list[Record]] = field(default_factory=lambda: {p: [] for p in range(PARTITIONS)})
    now: int = START_MS

    def __post_init__(self) -> None:
        items = Items()
        contexts = Contexts(SETTINGS, items, Followed(SETTINGS, items), KEY)
        self.store = MemoryStore(Keys(SETTINGS.prefix))
        ports = Ports(self, self.store, self, lambda: self.now, contexts.dead_letters)
        self.shoppers = [Shopper(p, ports, contexts.shopping) for p in range(PARTITIONS)]

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self.logs[partition])

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        return next(iter(self.logs[partition][offset:]), None)

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.topic == EVENTS.name:
                self.append(partition, output.value)

    def append(self, partition: int, value: bytes) -> None:
        log = self.logs[partition]
        log.append(record(value, len(log), self.now))

    async def process(self, partition: int, most: int = 1_000_000) -> None:
        """The next records of a partition, in one batch."""
        shopper = self.shoppers[partition]
        at = shopper.delivery.position(EVENTS.name)
        if records := self.logs[partition][at : at + most]:
            await shopper.handle([Bundle(EVENTS.name, partition, records, at, records[-1].offset + 1)])

    async def settle(self) -> None:
        """Process all there is, mail that comes of it included."""
        while any(s.delivery.position(EVENTS.name) < len(self.logs[s.partition]) for s in self.shoppers):
            for partition in self.logs:
                await self.process(partition)


@dataclass(frozen=True)
class Sent:
    """A message, where it is sent, and what is next: batches end at ``cuts``, owners of ``taken`` change."""

    partition: int
    events: tuple[tuple[str, str, str, int, int], ...]
    cuts: frozenset[int]
    taken: frozenset[int]


minutes = st.integers(-40, 90).map(lambda n: n * 60_000)
one = st.tuples(
    st.sampled_from([*KINDS, "broken"]),
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    minutes,
    st.integers(0, 40),
)
some = st.frozensets(st.integers(0, PARTITIONS - 1), max_size=PARTITIONS)
few = st.just(frozenset[int]()) | some
sent = st.builds(
    Sent, st.integers(0, PARTITIONS - 1), st.lists(one, min_size=1, max_size=3).map(tuple), some, few
)


def messages(drawn: Sequence[Sent]) -> Iterator[tuple[Sent, int, list[dict[str, Any]]]]:
    """Each message, when the broker gets it, and its events; times wander, receipt only grows."""
    now = START_MS
    for each in drawn:
        now += max(0, *(jump for *_, jump, _ in each.events))
        yield (
            each,
            now,
            [event(kind, user, item, now + min(jump, 0), n) for kind, user, item, jump, n in each.events],
        )


def broken(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"user": ""} if one["type"] == "broken" else one


async def live(drawn: Sequence[Sent], prompt: bool) -> World:
    """What workers make of it; with ``prompt`` what is misrouted goes on before anything else comes."""
    world = World()
    for shopper in world.shoppers:
        await shopper.take()
    for each, world.now, events in messages(drawn):
        values = [orjson.dumps(broken(one)) for one in events]
        world.append(each.partition, values[0] if len(values) == 1 else b"[%b]" % b",".join(values))
        for partition in sorted(each.cuts | {each.partition} if prompt else each.cuts):
            await world.process(partition)
        for partition in sorted(each.taken):
            await world.shoppers[partition].take()
    await world.settle()
    return world


def well_routed(drawn: Sequence[Sent]) -> dict[int, list[Record]]:
    """The logs of producers who know the partitioner."""
    world = World()
    for _, world.now, events in messages(drawn):
        for one in map(broken, events):
            world.append(partition_of(one["user"], PARTITIONS) if one["user"] else 0, orjson.dumps(one))
    return world.logs


def replayed(logs: Mapping[int, Sequence[Record]], size: int) -> Replayed:
    async def chunks(topic: str, partition: int) -> AsyncIterator[Sequence[Record]]:
        log = logs[partition] if topic == EVENTS.name else []
        for at in range(0, len(log), size):
            yield log[at : at + size]

    return asyncio.run(replay(SETTINGS, KEY, chunks))


def users(store: MemoryStore) -> dict[str, bytes]:
    """The stored bytes of every user, wherever he is: exactly one place."""
    found = [(key.split(":user:")[1], blob) for key, blob in store.strings.items() if ":user:" in key]
    assert len(found) == len(dict(found)), "a user is in two partitions"
    return dict(found)


def check_sums(world: World) -> None:
    """Every element of each log is accounted for, by the formula of the docs."""
    for partition, log in world.logs.items():
        found = [orjson.loads(each.value or b"") for each in log]
        meta = msgspec.msgpack.decode(
            world.store.strings[world.store.keys.meta(f"u{partition}")]
            if log
            else msgspec.msgpack.encode(Meta()),
            type=Meta,
        )
        counted = meta.accepted + meta.repeats + meta.dead + meta.ticks + meta.forwarded + meta.mail_repeats
        assert counted == sum(len(one) if isinstance(one, list) else 1 for one in found)
        assert meta.mail + meta.mail_repeats == sum("sig" in one for one in found if isinstance(one, dict))


@settings(max_examples=60, deadline=None)
@given(st.lists(sent, min_size=1, max_size=15), st.integers(1, 20))
def test_any_routing_counts_as_the_right_one(drawn: list[Sent], size: int) -> None:
    world = asyncio.run(live(drawn, prompt=True))
    check_sums(world)
    as_sent, right = replayed(world.logs, size), replayed(well_routed(drawn), size)
    assert as_sent.missing == as_sent.strange == []
    assert as_sent.digest.digest == right.digest.digest
    assert (as_sent.digest.events, as_sent.digest.repeats) == (right.digest.events, right.digest.repeats)
    assert as_sent.digest.dead_letters == right.digest.dead_letters and right.digest.forwarded == 0
    assert users(world.store) == users(as_sent.store) == users(right.store)
    worked = asyncio.run(summed(world))
    for name in (
        "user_hash",
        "engagement_hash",
        "decision_hash",
        "events",
        "forwarded",
        "mail",
        "mail_repeats",
    ):
        assert getattr(worked, name) == getattr(as_sent.digest, name), name


async def summed(world: World) -> Any:
    now, _ = await tallies(SETTINGS, world.store)
    return await sum_up(SETTINGS, world.store, now)


@settings(max_examples=60, deadline=None)
@given(st.lists(sent, min_size=1, max_size=15), st.integers(1, 20), st.permutations(range(PARTITIONS)))
def test_mail_that_comes_late_changes_no_counts(drawn: list[Sent], size: int, turned: list[int]) -> None:
    """Each user's events keep their order, for all come by one way; timers may see another order of users."""
    by_user = [
        Sent(turned[partition_of(one[1], PARTITIONS)], (one,), each.cuts, each.taken)
        for each in drawn
        for one in each.events
    ]
    world = asyncio.run(live(by_user, prompt=False))
    check_sums(world)
    as_sent, right = replayed(world.logs, size), replayed(well_routed(by_user), size)
    assert as_sent.missing == as_sent.strange == []
    assert users(world.store) == users(as_sent.store) == users(right.store)
    assert as_sent.digest.item_hash == right.digest.item_hash
    assert as_sent.digest.events == right.digest.events


def test_the_properties_see_mail_and_repeats() -> None:
    """What the properties draw does happen: a view on the wrong partition, whose owner changes at once."""
    here = partition_of("ann", PARTITIONS)
    wrong = (here + 1) % PARTITIONS
    view = ("view_item", "ann", "tea", 0, 1)
    drawn = [Sent(wrong, (view,), frozenset({wrong}), frozenset({wrong})) for _ in range(2)]
    status = asyncio.run(summed(asyncio.run(live(drawn, prompt=True))))
    assert (status.events, status.repeats, status.forwarded, status.mail, status.mail_repeats) == (
        1,
        1,
        2,
        2,
        2,
    )


def test_the_largest_event_fits_into_the_topic_when_it_is_forwarded() -> None:
    for bounds in (Settings(), Settings(max_message_bytes=1024, max_id_length=200)):
        user = "é" * bounds.max_id_length
        frame = orjson.dumps(VIEW | {"user": user, "query": ""})
        body = orjson.dumps(VIEW | {"user": user, "query": "x" * (bounds.max_message_bytes - len(frame))})
        assert len(body) == bounds.max_message_bytes and not check(body, Limits.of(bounds))
        value = pack(KEY, 1, (2**16 - 1, 2**43 - 1, 2**20 - 1), 10**15 - 1, body)
        batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1)
        batch.append(0, START_MS, user.encode(), value, [])
        assert len(batch.build()) <= int(config_of(EVENTS, bounds)["max.message.bytes"])
        columns, dead = decode([record(value)], Items(), Limits.of(bounds), verifier(KEY, 1))
        assert columns.user == [user] and not dead


async def counted(cuts: Sequence[int]) -> tuple[dict[int, list[bytes | None]], list[str]]:
    """The logs and the users' keys after a stranger's mail and events of his behind it, in these batches."""
    world = World()
    for shopper in world.shoppers:
        await shopper.take()
    body = orjson.dumps(VIEW | {"user": HERE[2]})
    for value in (pack(KEY, 1, (0, 1, 0), START_MS, body), body, body, BODY):
        world.append(1, value)
    for cut in cuts:
        await world.process(1, cut)
    await world.settle()
    logs = {p: [each.value for each in log] for p, log in world.logs.items()}
    return logs, sorted(key for key in world.store.strings if ":user:" in key)


def test_a_stranger_is_never_taken_for_a_user_of_the_partition() -> None:
    """Whatever batches his mail and his events come in: the events go on."""
    logs, keys = asyncio.run(counted([4]))
    assert [len(logs[p]) for p in range(PARTITIONS)] == [0, 4, 2] and len(keys) == 3
    for cuts in ([1, 3], [2, 2], [3, 1], [1, 1, 1, 1]):
        assert asyncio.run(counted(cuts)) == (logs, keys)
