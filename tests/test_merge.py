"""An anonymous user becomes a known one: once, wherever the two live and however batches are cut."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.packing import histories, unpack_users
from stream.codec import Limits, decode
from stream.core.engaged import CartLine, UserState
from stream.core.interest import add
from stream.core.items import Items, item_hash
from stream.core.merge import Answer, Given, Handover, Request, answer, take_over
from stream.core.users import Bounds, Rows, advance
from stream.core.weights import Decay
from stream.delivery import Output
from stream.events import CODE, KINDS, MERGED, REQUEST
from stream.forward import HANDED, MERGE, pack
from stream.mail import BACKWARD, FORWARD, HIT, unpack
from stream.ownership import partition_of
from stream.signing import verifier
from stream.times import time_text
from stream.topics import INCREMENTS
from stream.transport import StockRecord
from tests.test_forward import KEY, LIMITS, PARTITIONS, SETTINGS, World, replayed, summed, users
from tests.test_step import START_MS

ITEMS = ("tea", "milk", "rye", "jam", "oil")
DEVICES = ("d-1", "d-2", "d-3", "d-4")
PEOPLE = ("ann", "bob", "cleo")
HISTORY = SETTINGS.history


def at(name: str) -> int:
    return partition_of(name, PARTITIONS)


def act(name: str, second: int, item: str = "tea", kind: str = "view_item", **more: Any) -> dict[str, Any]:
    who = {"anonymous": name} if name in DEVICES else {"user": name}
    what = {"item": item} if kind in ("view_item", "add_to_cart", "purchase") else {}
    return {"type": kind, "time": time_text(START_MS + 1000 * second)} | who | what | more


def login(user: str, device: str, second: int, **more: Any) -> dict[str, Any]:
    return act(user, second, kind="login", anonymous=device, **more)


class Shop(World):
    """A deployment that keeps what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Output] = []

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        self.said += outputs
        await super().publish(partition, outputs)

    def send(self, event: dict[str, Any]) -> None:
        self.now = START_MS + 10_000_000
        self.append(at(event.get("user") or event["anonymous"]), orjson.dumps(event))

    def history(self, name: str) -> list[str]:
        blob = users(self.store).get(name)
        names = {item_hash(item): item for item in ITEMS}
        return [] if blob is None else [names[h] for h in histories(unpack_users([blob]))[0].tolist()]

    def engaged(self, name: str) -> UserState:
        return UserState.unpack(self.store.strings.get(self.store.keys.engagement(f"u{at(name)}", name)))

    def view(self, name: str) -> Any:
        return orjson.loads(self.store.strings[self.store.keys.recs(name)])

    def cart(self, name: str) -> Any:
        return orjson.loads(self.store.strings[self.store.keys.cart(name)])


async def opened() -> Shop:
    shop = Shop()
    for shopper in shop.shoppers:
        await shopper.take()
    return shop


def run(*events: dict[str, Any]) -> Shop:
    """Each event settles before the next comes."""

    async def through() -> Shop:
        shop = await opened()
        for event in events:
            shop.send(event)
            await shop.settle()
        return shop

    return asyncio.run(through())


PAIRS = [
    next((user, device) for user in PEOPLE for device in DEVICES if (at(user) == at(device)) is same)
    for same in (True, False)
]
"""A known user and a device in one partition, and in two."""


@pytest.mark.parametrize(("user", "device"), PAIRS)
def test_history_and_cart_become_the_known_users(user: str, device: str) -> None:
    shop = run(
        act(user, 10, "tea"),
        act(device, 20, "milk"),
        act(device, 30, "rye", "add_to_cart", price=2.5, quantity=2),
        act(user, 25, "jam"),
        login(user, device, 40),
    )
    assert shop.history(user) == ["tea", "milk", "jam", "rye"] and shop.history(device) == []
    assert shop.engaged(user).cart == {"rye": CartLine(2, 2.5, START_MS + 30_000)}
    assert shop.engaged(user).changed == START_MS + 30_000 and "abandoned-cart" in shop.engaged(user).pending
    assert shop.engaged(device) == UserState() and shop.engaged(user).asked == ()
    assert shop.view(device)["items"] == [] and "id" not in shop.view(device)
    assert shop.cart(device)["items"] == [] and "id" not in shop.cart(device)
    assert shop.cart(user)["id"].endswith("-cart-0"), "what came with the answer is a change of his cart"
    (rows,) = [unpack_users([users(shop.store)[user]])]
    assert rows.seen.tolist() == [4] and rows.newest.tolist() == [START_MS + 30_000]


@pytest.mark.parametrize(("user", "device"), PAIRS)
def test_what_an_anonymous_user_bought_stays_bought(user: str, device: str) -> None:
    """Though he looked at more than a history keeps since then."""
    shop = run(
        act(user, 5, "jam", "purchase", order="o1"),
        act(device, 10, "milk", "purchase", order="o2"),
        *[act(device, 20 + 10 * n, ("tea", "rye")[n % 2]) for n in range(HISTORY)],
        login(user, device, 20 + 10 * HISTORY),
    )
    assert set(shop.history(user)) == {"tea", "rye"}
    (rows,) = [unpack_users([users(shop.store)[user]])]
    assert rows.bought.tolist() == [item_hash("jam"), item_hash("milk")]
    assert rows.seconds.tolist() == [START_MS // 1000 + 5, START_MS // 1000 + 10]


@pytest.mark.parametrize(("user", "device"), PAIRS)
def test_nothing_is_counted_again(user: str, device: str) -> None:
    events = [act(user, 10, "tea"), act(device, 20, "milk"), act(device, 30, "rye")]
    before, after = run(*events), run(*events, login(user, device, 40), act(user, 50, "jam"))
    extra = counted(after)
    extra.subtract(counted(before))
    hit = Counter({("jam", "jam", HIT): 1})
    pairs = Counter((old, "jam", FORWARD) for old in ("tea", "milk", "rye"))
    against = Counter(("jam", old, BACKWARD) for old in ("tea", "milk", "rye"))
    assert +extra == hit + pairs + against, "what comes next makes pairs with both histories"
    assert not -extra


def counted(shop: Shop) -> Counter[tuple[str, str, int]]:
    """Entries of the increments that were sent: row, column, kind."""
    items = Items()
    sent = [unpack(one.value, items)[1] for one in shop.said if one.topic == INCREMENTS.name]
    return Counter(
        (items.name(row), items.name(col), kind)
        for part in sent
        for row, col, kind in zip(part.row.tolist(), part.col.tolist(), part.kind.tolist(), strict=True)
    )


@pytest.mark.parametrize(("user", "device"), PAIRS)
def test_a_device_is_handed_over_once_and_begins_anew(user: str, device: str) -> None:
    shop = run(
        act(device, 10, "tea"),
        login(user, device, 20),
        login(user, device, 30),
        act(device, 40, "milk"),
    )
    assert (shop.history(user), shop.history(device)) == (["tea"], ["milk"])
    assert shop.view(device)["id"]


def test_an_event_id_is_known_after_the_device_was_handed_over() -> None:
    user, device = PAIRS[1]
    shop = run(act(device, 10, id="e1"), login(user, device, 20), act(device, 10, id="e1"))
    assert (shop.history(user), shop.history(device)) == (["tea"], [])
    assert asyncio.run(summed(shop)).repeats == 1


def test_a_login_that_came_twice_asks_once() -> None:
    user, device = PAIRS[1]
    shop = run(login(user, device, 20, id="e1"), login(user, device, 20, id="e1"))
    assert sum(b'"merge-request"' in (one.value or b"") for one in shop.logs[at(device)]) == 1


@pytest.mark.parametrize(("user", "device"), PAIRS)
def test_forget_between_login_and_answer_wins(user: str, device: str) -> None:
    async def through() -> Shop:
        shop = await opened()
        shop.send(act(device, 10, "tea", "add_to_cart"))
        await shop.settle()
        shop.send(login(user, device, 20))
        shop.send(act(user, 21, kind="forget"))
        shop.send(act(user, 22, "milk"))
        await shop.settle()
        return shop

    shop = asyncio.run(through())
    assert (shop.history(user), shop.history(device)) == (["milk"], [])
    assert shop.engaged(user) == UserState()


@pytest.mark.parametrize(("user", "device"), PAIRS)
def test_what_was_preferred_moves_over_and_the_newest_answer_counts(user: str, device: str) -> None:
    size, colour = {"size": "M", "colour": ["red"]}, {"colour": ["blue"]}
    shop = run(
        act(device, 10, kind="preferences", attributes=size),
        act(user, 20, kind="preferences", attributes=colour),
        login(user, device, 30),
    )
    liked = {name: (told.value, told.time) for name, told in shop.engaged(user).attributes.items()}
    assert liked == {"size": ("M", START_MS + 10_000), "colour": (["blue"], START_MS + 20_000)}
    assert shop.engaged(device) == UserState()


def test_nobodys_own_history_is_handed_over() -> None:
    """A client that names a known user where a device belongs."""
    shop = run(act("ann", 10, "tea", "add_to_cart"), login("bob", "ann", 20), login("cleo", "cleo", 30))
    assert (shop.history("ann"), shop.history("bob")) == (["tea"], [])
    assert list(shop.engaged("ann").cart) == ["tea"] and shop.engaged("bob").asked == ()


def test_what_nobody_asked_for_is_passed_over() -> None:
    """An answer of a partition that another log, now gone, had asked."""
    shop = run(act("ann", 10, "tea"))
    given = Answer(
        START_MS, "ann", "d-1", 77, 1, START_MS, [("milk", START_MS // 1000, 0)], [("milk", 1, None)]
    )
    shop.append(at("ann"), pack(KEY, at("ann"), (0, 5, 0), START_MS, msgspec.json.encode(given), HANDED))
    asyncio.run(shop.settle())
    assert shop.history("ann") == ["tea"] and shop.engaged("ann") == UserState()
    assert asyncio.run(summed(shop)).merging == 1


# Any order


@dataclass(frozen=True)
class Drawn:
    """Events that come together, and then: whose batches are processed, which owners change."""

    events: tuple[dict[str, Any], ...]
    cuts: frozenset[int] = field(default_factory=frozenset)
    taken: frozenset[int] = field(default_factory=frozenset)


acts = st.one_of(
    st.tuples(st.sampled_from(("view", "view", "cart")), st.sampled_from([*DEVICES, *PEOPLE])),
    st.tuples(st.just("login"), st.tuples(st.sampled_from(PEOPLE), st.sampled_from(DEVICES))),
    st.tuples(st.just("likes"), st.sampled_from([*DEVICES, *PEOPLE])),
    st.tuples(st.just("forget"), st.sampled_from([*DEVICES, *PEOPLE])),
)
parts = st.frozensets(st.integers(0, PARTITIONS - 1), max_size=PARTITIONS)
plans = st.lists(
    st.tuples(
        st.lists(st.tuples(acts, st.sampled_from(ITEMS), st.integers(0, 30)), min_size=1, max_size=4),
        parts,
        st.just(frozenset[int]()) | parts,
    ),
    min_size=1,
    max_size=12,
)


def planned(plan: Any) -> list[Drawn]:
    """Times only grow, by more than repeated clicks are apart; some are late."""
    made, second = [], 1000
    for group, cuts, taken in plan:
        events = []
        for (kind, who), item, late in group:
            second += 50
            if kind == "login":
                events.append(login(who[0], who[1], second))
            elif kind == "likes":
                liked = {item: late % 3, "taste": item}
                events.append(act(who, second - late, kind="preferences", attributes=liked))
            elif kind == "forget":
                events.append(act(who, second, kind="forget"))
            else:
                events.append(act(who, second - late, item, "add_to_cart" if kind == "cart" else "view_item"))
        made.append(Drawn(tuple(events), cuts, taken))
    return made


async def live(plan: list[Drawn]) -> Shop:
    shop = await opened()
    for each in plan:
        for event in each.events:
            shop.send(event)
        for partition in sorted(each.cuts):
            await shop.process(partition)
        for partition in sorted(each.taken):
            await shop.shoppers[partition].take()
    await shop.settle()
    return shop


Held = tuple[int, str, str]
"""Second, item, kind."""


class Oracle:
    """The page `docs/events.md`, record by record of a log as it stands."""

    def __init__(self, log: Sequence[Any]) -> None:
        self.histories: dict[str, list[Held]] = {}
        self.waiting: dict[str, list[list[int]]] = {}
        self.owned: set[str] = set()
        self.senders: dict[int, tuple[int, int]] = {}
        for record in log:
            one = orjson.loads(record.value)
            body = one.get("body")
            if body is None:
                self._event(one, record.offset)
            elif self._had(*one["source"]):
                continue
            elif one["kind"] == MERGE:
                self._request(body)
            else:
                self._answer(body)

    def _had(self, sender: int, *place: int) -> bool:
        """Whether mail came before: an outbox is published again when its partition's owner changes."""
        had = tuple(place) <= self.senders.get(sender, (-1, -1))
        if not had:
            self.senders[sender] = (place[0], place[1])
        return had

    def _event(self, event: dict[str, Any], offset: int) -> None:
        name = event.get("user") or event["anonymous"]
        kind, second = event["type"], int(np.datetime64(event["time"][:-1], "s").astype(np.int64))
        if kind in ("view_item", "add_to_cart"):
            self.histories[name] = [*self.histories.get(name, []), (second, event["item"], kind)][-HISTORY:]
        if kind == "login":
            self.waiting.setdefault(name, []).append([at(name), offset])
        if kind == "forget":
            self.histories.pop(name, None)
            self.waiting.pop(name, None)
            self.owned.discard(name)
        elif "user" in event and kind in ("add_to_cart", "login", "preferences"):
            self.owned.add(name)

    def _request(self, body: dict[str, Any]) -> None:
        if body["anonymous"] not in self.owned:
            self.histories.pop(body["anonymous"], None)

    def _answer(self, body: dict[str, Any]) -> None:
        name, asked = body["user"], [at(body["user"]), body["asked"] >> 20]
        if asked in self.waiting.get(name, []):
            self.waiting[name].remove(asked)
            given = [(second, item, KINDS[kind]) for item, second, kind in body["history"]]
            merged = sorted([*self.histories.get(name, []), *given], key=lambda held: held[0])
            self.histories[name] = merged[-HISTORY:]


@settings(max_examples=150, deadline=None)
@given(plans, st.integers(1, 20))
def test_any_batches_and_owners_give_what_the_log_says(plan: Any, size: int) -> None:
    shop = asyncio.run(live(planned(plan)))
    wanted: dict[str, list[Held]] = {}
    for log in shop.logs.values():
        oracle = Oracle(log)
        assert not any(oracle.waiting.values()), "a login was not answered"
        wanted |= oracle.histories
    names = {item_hash(item): item for item in ITEMS}
    found = {}
    for name, blob in users(shop.store).items():
        user = unpack_users([blob])
        columns = (user.times[0].tolist(), histories(user)[0].tolist(), user.kinds[0].tolist())
        found[name] = [(s, names[h], KINDS[k]) for s, h, k in zip(*columns, strict=True)]
    assert {name: held for name, held in found.items() if held} == {n: h for n, h in wanted.items() if h}


@settings(max_examples=100, deadline=None)
@given(plans, st.integers(1, 20))
def test_a_replay_of_the_log_is_equal(plan: Any, size: int) -> None:
    shop = asyncio.run(live(planned(plan)))
    true = replayed(shop.logs, size)
    assert true.missing == true.strange == []
    worked = asyncio.run(summed(shop))
    for name in ("user_hash", "engagement_hash", "decision_hash", "events", "mail", "merging", "forwarded"):
        assert getattr(worked, name) == getattr(true.digest, name), name
    elements = sum(map(len, shop.logs.values()))
    assert (elements == worked.events + worked.merging and worked.mail_repeats == 0) or elements == (
        worked.events + worked.merging + worked.mail_repeats
    )


# The parts


def rows_of(held: list[tuple[int, int]], bounds: Bounds, items: Items) -> Rows:
    """One user who looked at items at seconds."""
    user = np.zeros(len(held), dtype=np.int64)
    item, second = (np.array(column, dtype=np.int64) for column in zip(*held, strict=True))
    kind, units = np.zeros(len(held), dtype=np.uint8), np.full(len(held), 8)
    blank = Rows.blank(1, bounds)
    of, decay = np.arange(len(held)), Decay(10**7)
    return advance(blank, user, item.astype(np.int32), kind, second * 1000, units, of, decay, items.hashes)


moments = st.lists(st.tuples(st.integers(0, 5), st.integers(10**9, 10**9 + 50)), min_size=1, max_size=12)


@given(moments, moments)
def test_taking_over_is_a_merge_by_time(mine: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> None:
    items, bounds = Items(), Bounds(history=8, interest=4, ids=2)
    items.add_all([f"i{n}" for n in range(6)])
    rows = rows_of(mine, bounds, items)
    item, second = (np.array(column) for column in zip(*theirs, strict=True))
    kind, units = np.zeros(len(theirs), dtype=np.uint8), np.full(len(theirs), 16)
    given_ = Given(0, 30, int(second.max()) * 1000, item.astype(np.int32), second, kind, units, 0)
    taken = take_over(rows, given_, Decay(10**7), items.hashes)
    wanted = sorted([*mine[-8:], *theirs], key=lambda held: held[1])[-8:]
    found = zip(taken.item[0].tolist(), taken.time[0].tolist(), strict=True)
    assert [held for held in found if held[0] >= 0] == wanted
    assert taken.seen.tolist() == [len(mine) + 30]
    zeros = np.zeros(len(theirs), dtype=np.int64)
    event = np.cumsum(np.diff(second, prepend=0) != 0)
    interest = add(
        rows.interest, zeros, item.astype(np.int32), event, second * 1000, units, Decay(10**7), items.hashes
    )
    assert all(np.array_equal(a, b) for a, b in zip(astuple(taken.interest), astuple(interest), strict=True))


def test_of_a_history_what_stands_together_in_second_and_kind_was_one_event() -> None:
    items = Items()
    items.add_all([f"i{n}" for n in range(4)])
    second, kind = np.array([50, 50, 50, 51]), np.array([1, 1, 2, 2], dtype=np.uint8)
    given_ = Given(0, 4, 51_000, np.arange(4, dtype=np.int32), second, kind, np.full(4, 16), 0)
    taken = take_over(Rows.blank(1, Bounds()), given_, Decay(10**7), items.hashes).interest
    events = dict(zip(taken.item.tolist(), taken.at.tolist(), strict=True))
    assert events == {0: 1, 1: 1, 2: 2, 3: 3} and taken.events.tolist() == [3]


def handover(n: int, cart: dict[str, CartLine]) -> Handover:
    each = np.arange(n)
    return Handover(
        0, "ann", 9, n, n, each.astype(np.int32), each.astype(np.uint32), each.astype(np.uint8), cart, 5,
        bought={0: 7, 1: 9},
    )  # fmt: skip


@pytest.mark.parametrize("most", [100_000, 900, 400, 100])
def test_an_answer_keeps_to_its_bound(most: int) -> None:
    cart = {f"item {n}": CartLine(1, 2.5, 3) for n in range(12)}
    names = [f"item {n}" for n in range(40)]
    body = answer(handover(40, cart), Request(1, "ann", "d-1"), names, names[:2], most)
    found = msgspec.json.decode(body, type=Answer)
    assert len(body) <= most or not (found.history or found.cart)
    assert found.history == [(f"item {n}", n, n) for n in range(40)][40 - len(found.history) :]
    assert (len(found.cart), found.bought) in ((0, []), (12, [("item 0", 7), ("item 1", 9)]))
    assert most < 100_000 or len(found.history) == 40


def test_mail_stands_among_the_events_in_the_logs_order() -> None:
    request, given_ = (
        Request(START_MS, "ann", "d-1"),
        Answer(START_MS, "ann", "d-1", 4, history=[("rye", 5, 6)]),
    )
    mail = [
        pack(KEY, 1, (2, n, 0), START_MS + 5, msgspec.json.encode(said), kind)
        for n, (said, kind) in enumerate(((request, MERGE), (given_, HANDED)))
    ]
    view = orjson.dumps(act("bob", 1))
    values = [view, mail[0], b"[%b,%b]" % (view, view), mail[1], view]
    records = [StockRecord(n, START_MS + 1_000_000, b"k", value, ()) for n, value in enumerate(values)]
    items = Items()
    columns, dead = decode(records, items, LIMITS, verifier(KEY, 1))
    assert not dead and columns.offset.tolist() == [0, 1, 2, 2, 3, 4]
    assert columns.user == ["bob", "d-1", "bob", "bob", "ann", "bob"]
    assert columns.kind.tolist() == [0, REQUEST, 0, 0, MERGED, 0] and columns.event.tolist() == [0, 2, 3, 5]
    assert columns.sender.tolist() == [-1, 2, -1, -1, 2, -1] and sorted(columns.handed) == [1, 4]
    told = columns.handed[4]
    assert isinstance(told, Given) and items.name(int(told.item[0])) == "rye"
    assert told.units.tolist() == [Limits.of(SETTINGS).units[CODE["purchase"]]] == [32]
    kept = columns.take(np.array([False, True, False, True, True, False]))
    assert sorted(kept.handed) == sorted(kept.details) == [0, 2]
    assert len(decode(records, items, LIMITS, verifier(KEY, 2))[1]) == 2, "signed for another partition"


@pytest.mark.parametrize(
    "body", [b"{}", b'{"time":1,"user":"ann"}', b'{"time":"x","user":"a","anonymous":"b"}']
)
def test_a_body_of_another_version_is_a_dead_letter(body: bytes) -> None:
    value = pack(KEY, 1, (2, 0, 0), START_MS, body, MERGE)
    _, (letter,) = decode([StockRecord(0, START_MS, b"k", value, ())], Items(), LIMITS, verifier(KEY, 1))
    assert letter.value == value and letter.reason.code in ("missing-field", "wrong-type")
