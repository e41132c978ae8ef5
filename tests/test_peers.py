"""The users met beside a user, against plain Python with dicts and loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.interest import Interest
from stream.core.neighbor_format import HIDDEN
from stream.core.neighborhood import Neighborhood
from stream.core.recommend import peers as module
from stream.core.recommend.alike import Kin
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.peers import Likeness, Peers, compared, entries
from stream.core.recommend.query import Query
from stream.core.views import STRATEGIES
from stream.core.weights import Decay
from stream.local import bundle
from stream.ownership import partition_of
from stream.shopper import Shopper
from stream.times import time_text
from stream.topics import EVENTS
from tests.test_cold_start import START_MS, Worker
from tests.test_ranking import Entry, hood_of

NAMES = [f"i{at}" for at in range(40)]
HIDDEN_ITEM = 3
DECAY = Decay(90 * 86_400_000)
SMALL: dict[str, Any] = {"ITEMS": 5, "RECENT": 3, "COMPARED": 4, "NEIGHBORS": 2, "SIGNIFICANT": 3}
"""Bounds that a small world reaches."""

Line = tuple[str, int, int]
"""User, item, weight."""
Vector = dict[int, int]


def shop() -> Neighborhood:
    hood = hood_of({NAMES[HIDDEN_ITEM]: Entry({}, flags=HIDDEN)}, complete=False)
    hood.items.add_all(NAMES)
    hood.reserve()
    return hood


HOOD = shop()
HASHES = HOOD.items.hashes
LOCAL = {at: HOOD.items.add(name) for at, name in enumerate(NAMES)}
"""Local ids, in another order than numbers."""


def interest_of(vectors: Sequence[Vector]) -> Interest:
    rows = [sorted(v.items(), key=lambda had: int(HASHES[LOCAL[had[0]]])) for v in vectors]
    item = np.array([LOCAL[i] for row in rows for i, _ in row], dtype=np.int32)
    weight = np.array([w for row in rows for _, w in row], dtype=np.int64)
    ones = np.ones(len(item), dtype=np.uint32)
    start = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    events = np.array([len(row) for row in rows], dtype=np.int64)
    return Interest(start, item, weight, ones, ones, ones, ones, events, events * 0, events)


@dataclass
class Users:
    """What each one had, in order; the same users for the model and for the peers."""

    had: dict[str, Vector] = field(default_factory=dict)
    newest: dict[str, list[int]] = field(default_factory=dict)

    def take(self, user: str, item: int, weight: int) -> None:
        mine = self.had.setdefault(user, {})
        mine[item] = mine.get(item, 0) + weight
        last = self.newest.setdefault(user, [])
        self.newest[user] = [item, *(i for i in last if i != item)]

    def query(self, names: Sequence[str], own: NDArray[np.int64] | None, n: int = 4) -> Query:
        profile = np.full((len(names), n), -1, dtype=np.int32)
        for row, name in enumerate(names):
            some = self.newest.get(name, [])[:n]
            profile[row, : len(some)] = [LOCAL[i] for i in some]
        vectors = interest_of([self.had.get(name, {}) for name in names])
        return Query(profile, vectors, np.full(len(names), 10**12), DECAY, own=own)


@dataclass
class Model:
    """The module's docstring, user by user."""

    slots: int
    likeness: Likeness
    vectors: dict[str, dict[int, float]] = field(default_factory=dict)
    recent: dict[int, list[str]] = field(default_factory=dict)

    def unit(self, vector: Vector) -> dict[int, float]:
        kept = sorted(vector.items(), key=lambda had: (-had[1], int(HASHES[LOCAL[had[0]]])))[: module.ITEMS]
        length = sum(weight**2 for _, weight in kept) ** 0.5
        return {item: weight / length for item, weight in kept}

    def note(self, users: Users, lines: list[Line]) -> None:
        last = {user: at for at, (user, _, _) in enumerate(lines)}
        names = sorted(last, key=lambda user: last[user])[-self.slots :]
        strangers = [name for name in self.vectors if name not in names]
        for name in strangers[: max(len(strangers) + len(names) - self.slots, 0)]:
            self.forget(name)
        for name in names:
            self.vectors.pop(name, None)
            self.vectors[name] = self.unit(users.had[name])
        for user, item, _ in lines:
            if user in names:
                others = [each for each in self.recent.get(item, []) if each != user]
                self.recent[item] = [*others, user][-module.RECENT :]

    def forget(self, name: str) -> None:
        self.vectors.pop(name, None)
        for item, users in self.recent.items():
            self.recent[item] = [each for each in users if each != name]

    def compared(self, name: str, profile: list[int]) -> list[str]:
        """By how much of the profile leads to them, then as they are met."""
        met = [each for item in profile for each in reversed(self.recent.get(item, [])) if each != name]
        order = list(dict.fromkeys(met))
        return sorted(order, key=lambda each: -met.count(each))[: module.COMPARED]

    def similarity(self, mine: dict[int, float], other: dict[int, float]) -> float:
        both = [item for item in mine if item in other]
        if self.likeness == "cosine":
            alike = sum(mine[item] * other[item] for item in both)
        else:
            a = [mine[item] - sum(mine.values()) / len(mine) for item in both]
            b = [other[item] - sum(other.values()) / len(other) for item in both]
            squares = sum(x * x for x in a), sum(x * x for x in b)
            products = sum(x * y for x, y in zip(a, b, strict=True))
            alike = products / (squares[0] * squares[1]) ** 0.5 if min(squares) > 1e-6 else 0.0
        return alike * min(len(both), module.SIGNIFICANT) / module.SIGNIFICANT

    def near(self, name: str, users: Users, n: int = 4) -> list[tuple[float, str]]:
        """Similarities and users with whom to compare, best first."""
        mine = self.unit(users.had.get(name, {}))
        found = self.compared(name, users.newest.get(name, [])[:n])
        alike = [(self.similarity(mine, self.vectors[each]), each) for each in found]
        return sorted(((s, each) for s, each in alike if s > 1e-6), key=lambda one: -one[0])

    def entries(
        self, name: str, users: Users, near: list[tuple[float, str]]
    ) -> list[tuple[int, float, list[int]]]:
        """Item, value, and the items that may be named as reason."""
        mine, found = self.unit(users.had.get(name, {})), []
        for alike, each in near[: module.NEIGHBORS]:
            other = self.vectors[each]
            shared = {item: mine[item] * other[item] for item in other if item in mine}
            reasons = [item for item, part in shared.items() if part > max(shared.values()) - 1e-6]
            found += [
                (item, alike * weight, reasons)
                for item, weight in other.items()
                if item not in mine and item != HIDDEN_ITEM
            ]
        return found


def told(query: Query, peers: Peers) -> list[list[tuple[int, float, int]]]:
    """Item, value, reason of each user's entries, as numbers of names."""
    number = {local: at for at, local in LOCAL.items()}
    given = entries(HOOD, peers, query)
    (values,) = given.values
    assert values is not None and given.because is not None
    assert not values[given.item < 0].any()
    found: list[list[tuple[int, float, int]]] = [[] for _ in range(len(query))]
    for row, at in zip(*np.nonzero(given.item >= 0), strict=True):
        item, because = number[int(given.item[row, at])], number[int(given.because[row, at])]
        found[row].append((item, float(values[row, at]), because))
    return found


def note(peers: Peers, users: Users, lines: list[Line], part: int = 0) -> None:
    """A batch, as the lister hands it in; the users take its lines first."""
    for line in lines:
        users.take(*line)
    last = {user: at for at, (user, _, _) in enumerate(lines)}
    names = sorted(last, key=lambda user: last[user])
    user = np.array([names.index(user) for user, _, _ in lines], dtype=np.int64)
    item = np.array([LOCAL[item] for _, item, _ in lines], dtype=np.int32)
    peers.note(part, names, interest_of([users.had[name] for name in names]), user, item)


def check(peers: Peers, model: Model, users: Users, names: Sequence[str]) -> int:
    """All entries are those of the model; returns how many were compared.

    Where similarities at the end of the best are the same but for rounding, either may be taken.
    """
    every, count = told(users.query(names, peers.slots(names)), peers), 0
    for row, name in enumerate(names):
        near = model.near(name, users)
        cut = [alike for alike, _ in near[module.NEIGHBORS - 1 : module.NEIGHBORS + 1]]
        if len(cut) == 2 and cut[0] - cut[1] < 1e-5:
            continue
        expected = sorted(model.entries(name, users, near), key=lambda entry: entry[:2])
        found = sorted(every[row], key=lambda entry: entry[:2])
        assert [item for item, _, _ in found] == [item for item, _, _ in expected]
        assert [value for _, value, _ in found] == pytest.approx(
            [value for _, value, _ in expected], abs=1e-5
        )
        by_reason = [(item, tuple(sorted(reasons))) for item, _, reasons in expected]
        for item, _, reason in found:
            assert any(item == each and reason in reasons for each, reasons in by_reason)
        count += len(found)
    return count


people = st.sampled_from("abcdefgh")
line = st.tuples(people, st.integers(0, 9), st.sampled_from([1, 2, 3, 7, 20, 61]))
batches = st.lists(st.lists(line, min_size=1, max_size=12) | people, min_size=1, max_size=10)


@pytest.mark.parametrize("likeness", ["cosine", "pearson"])
@given(log=batches, slots=st.sampled_from([3, 5, 50]))
def test_entries_are_those_of_the_formula(
    likeness: Likeness, log: list[list[Line] | str], slots: int
) -> None:
    with patch.multiple(module, **SMALL):
        peers, model, users = Peers(slots, likeness), Model(slots, likeness), Users()
        for batch in log:
            if isinstance(batch, str):
                peers.forget([batch])
                model.forget(batch)
            else:
                note(peers, users, batch)
                model.note(users, batch)
            assert len(peers) == len(model.vectors) <= slots
            check(peers, model, users, "abcdefghz")


@pytest.mark.parametrize("likeness", ["cosine", "pearson"])
@pytest.mark.parametrize("seed", range(3))
def test_entries_are_those_of_the_formula_in_a_larger_world(likeness: Likeness, seed: int) -> None:
    rng = np.random.default_rng(seed)
    peers, model, users = Peers(150, likeness), Model(150, likeness), Users()
    for _ in range(8):
        batch = [
            (f"u{rng.integers(200)}", int(rng.integers(40) * rng.random()), int(rng.integers(1, 99)))
            for _ in range(300)
        ]
        note(peers, users, batch)
        model.note(users, batch)
    names = [f"u{at}" for at in range(200)]
    assert len(peers) == 150
    assert check(peers, model, users, names) > 2000


# Laws


@given(log=batches.filter(lambda log: isinstance(log[0], list)), name=people)
def test_a_forgotten_user_leaves_nothing_behind(log: list[list[Line] | str], name: str) -> None:
    """Not even a place that is empty: all is as if he had never come."""
    with_him, without, users, others = Peers(50), Peers(50), Users(), Users()
    for batch in log:
        if not isinstance(batch, str):
            note(with_him, users, batch)
            if rest := [line for line in batch if line[0] != name]:
                note(without, others, rest)
    with_him.forget([name])
    assert with_him.slots([name]).tolist() == [-1]
    names = [each for each in "abcdefgh" if each != name]
    queries = [others.query(names, peers.slots(names)) for peers in (with_him, without)]
    assert told(queries[0], with_him) == told(queries[1], without)
    gone = with_him.item[~np.isin(np.arange(50), with_him.slots(names))]
    assert (gone == -1).all()


@given(log=st.lists(st.lists(line, min_size=1, max_size=12), min_size=1, max_size=6))
def test_nobody_is_compared_with_himself(log: list[list[Line]]) -> None:
    peers, users = Peers(50), Users()
    for batch in log:
        note(peers, users, batch)
        names = sorted(users.had)
        own = peers.slots(names)
        assert (own >= 0).all()
        found = compared(peers, users.query(names, own).profile, own)
        assert not (found == own[:, None]).any()
        everybody = compared(peers, users.query(names, own).profile, np.full(len(names), -1))
        assert (everybody == own[:, None]).any(axis=1).all(), "he would be, if it were not known who he is"


@given(batch=st.lists(line, min_size=1, max_size=30), cut=st.integers(1, 29))
def test_who_is_recent_does_not_depend_on_how_batches_are_cut(batch: list[Line], cut: int) -> None:
    with patch.multiple(module, **SMALL):
        whole, parts, users, again = Peers(50), Peers(50), Users(), Users()
        note(whole, users, batch)
        for some in (batch[:cut], batch[cut:]):
            if some:
                note(parts, again, some)
        names = sorted(users.had)
        for peers, found in ((whole, users), (parts, again)):
            peers.note(0, names, interest_of([found.had[name] for name in names]), *nothing())
        query = [found.query(names, peers.slots(names)) for peers, found in ((whole, users), (parts, again))]
        assert told(query[0], whole) == told(query[1], parts)


def nothing() -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)


@given(
    lines=st.lists(line, min_size=1, max_size=20, unique_by=lambda line: line[:2]),
    random=st.randoms(use_true_random=False),
)
def test_the_order_within_a_batch_changes_no_evidence_while_nobody_is_pushed_out(
    lines: list[Line], random: Random
) -> None:
    mixed = random.sample(lines, len(lines))
    found = []
    for batch in (lines, mixed):
        peers, users = Peers(50), Users()
        note(peers, users, batch)
        for name in users.newest:
            users.newest[name].sort()
        names = sorted(users.had)
        query = users.query(names, peers.slots(names), n=10)
        found.append(
            [sorted((item, round(value, 5)) for item, value, _ in row) for row in told(query, peers)]
        )
    assert found[0] == found[1]


def test_of_more_users_than_slots_the_last_stay() -> None:
    peers, users = Peers(10), Users()
    note(peers, users, [(f"u{n}", n % 3, 1) for n in range(25)])
    assert len(peers) == 10
    assert (peers.slots([f"u{n}" for n in range(25)]) >= 0).tolist() == [False] * 15 + [True] * 10
    note(peers, users, [("u17", 5, 1)])
    note(peers, users, [(f"v{n}", 5, 1) for n in range(9)])
    assert len(peers) == 10
    assert peers.slots(["u17"])[0] >= 0, "he was seen after the others"


def test_a_partition_that_goes_takes_its_users_along() -> None:
    peers, users = Peers(10), Users()
    note(peers, users, [("a", 1, 1), ("b", 1, 1)], part=0)
    note(peers, users, [("c", 1, 1)], part=1)
    peers.release(0)
    assert (peers.slots("abc") >= 0).tolist() == [False, False, True]


def test_items_that_may_not_be_shown_are_no_candidates() -> None:
    peers, users = Peers(10), Users()
    note(peers, users, [("a", item, 1) for item in (0, 1, HIDDEN_ITEM, 2)])
    note(peers, users, [("b", 0, 1), ("b", 1, 1)])
    query = users.query(["b"], peers.slots(["b"]))
    assert [item for item, _, _ in told(query, peers)[0]] == [2]


def test_without_a_name_nobody_is_asked_about() -> None:
    with pytest.raises(ValueError, match="tells who of them its users are"):
        entries(HOOD, Peers(10), Users().query(["a"], None))
    with pytest.raises(ValueError, match="needs peers"):
        entries(HOOD, None, Users().query(["a"], np.array([-1])))


@pytest.mark.parametrize("slots", [0, -1, 1 << 21])
def test_as_many_slots_as_numbers_can_tell_apart(slots: int) -> None:
    with pytest.raises(ValueError, match=f"peers = {slots}: must be from 1"):
        Peers(slots)


def test_lists_hold_what_those_alike_had_and_name_what_they_share() -> None:
    peers, users = Peers(10), Users()
    note(peers, users, [("a", item, 1) for item in (1, 2, 4)] + [("b", item, 1) for item in (1, 2)])
    recommender = Recommender(("item-item", "user-user"))
    sources = Sources(HOOD, np.zeros(0, dtype=np.int32), Kin(), peers)
    query = users.query(["b", "nobody"], peers.slots(["b", "nobody"]))
    ranked = recommender.rank(sources, query, (np.zeros(0, np.int32), np.zeros(0, np.int32)), 5)
    assert ranked.items[0].tolist() == [LOCAL[4], -1, -1, -1, -1]
    assert STRATEGIES[ranked.strategy[0, 0]] == "user-user"
    assert ranked.because[0, 0] in (LOCAL[1], LOCAL[2])
    assert (ranked.items[1] == -1).all()


# A worker


COMPONENTS = ["item-item", "repeat", "popular", "user-user"]


async def visit(worker: Worker, visits: Mapping[str, Sequence[str]]) -> None:
    for user, items in visits.items():
        for item in items:
            await worker.send(user, "view_item", item=item)
    await worker.settle()


def items_by(worker: Worker, user: str, strategy: str) -> dict[str, list[str]]:
    """What a user's list holds by a strategy, and why."""
    return {line["item"]: line["because"] for line in worker.list_of(user) if line["strategy"] == strategy}


async def test_a_worker_finds_the_others_from_their_events_alone() -> None:
    worker = Worker(components=COMPONENTS, window=1, test_users=["qa-*"])
    await worker.start({})
    await visit(worker, {"ann": ["tea", "a", "far", "b", "pot"], "qa-1": ["tea", "c", "spy", "d", "pot"]})
    await visit(worker, {"bob": ["tea", "pot"]})
    peers = worker.local.contexts.shopping.lister.peers
    assert peers is not None
    assert (peers.slots(["ann", "bob", "qa-1"]) >= 0).tolist() == [True, True, False]
    found = items_by(worker, "bob", "user-user")
    assert set(found) == {"far"}, "item-item, with a window of one, leads to all else"
    assert found["far"] in (["tea"], ["pot"])
    assert not items_by(worker, "ann", "user-user"), "bob had nothing new to her"


async def test_whoever_asks_to_be_forgotten_is_found_no_more_at_once() -> None:
    worker = Worker(components=COMPONENTS)
    await worker.start({})
    await visit(worker, {"ann": ["tea", "far", "pot"], "bob": ["tea", "pot"]})
    peers = worker.local.contexts.shopping.lister.peers
    assert peers is not None
    await worker.send("ann", "forget")
    assert (peers.slots(["ann", "bob"]) >= 0).tolist() == [False, True]
    assert len(peers) == 1
    await visit(worker, {"ann": ["hat"], "bob": ["cup", "tea"]})
    assert (peers.slots(["ann", "bob"]) >= 0).tolist() == [True, True]
    query_items = {int(at) for at in peers.item[peers.slots(["ann"])[0]] if at >= 0}
    assert {worker.local.items.name(at) for at in query_items} == {"hat"}
    assert not items_by(worker, "bob", "user-user")


def view(item: str) -> dict[str, Any]:
    return {"type": "view_item", "user": "ann", "item": item, "time": time_text(START_MS)}


async def test_who_comes_back_in_the_batch_that_forgot_him_begins_anew() -> None:
    worker = Worker(components=COMPONENTS)
    await worker.start({})
    events = [view("tea"), {"type": "forget", "user": "ann", "time": time_text(START_MS)}, view("hat")]
    made = [worker._record(EVENTS.name, "ann", event) for event in events]
    records = [record for _, _, some in made for record in some]
    await worker.local.shoppers[made[0][1]].handle([bundle(EVENTS.name, made[0][1], records)])
    peers = worker.local.contexts.shopping.lister.peers
    assert peers is not None
    tea, hat = (worker.local.items.add(name) for name in ("tea", "hat"))
    own = peers.number[peers.slots(["ann"])]
    assert peers.item[peers.slots(["ann"])[0]].tolist() == [hat] + [-1] * 31
    assert own in peers.recent[hat]
    assert (peers.recent[tea] == -1).all()


async def test_what_is_not_configured_is_not_kept() -> None:
    worker = Worker()
    await worker.start({})
    await visit(worker, {"ann": ["tea"]})
    assert worker.local.contexts.shopping.lister.peers is None


async def test_a_partition_taken_anew_begins_without_users() -> None:
    worker = Worker(components=COMPONENTS)
    await worker.start({})
    await visit(worker, {"ann": ["tea", "far"]})
    lister = worker.local.contexts.shopping.lister
    assert lister.peers is not None
    ports = worker.local.shoppers[0].ports
    Shopper(partition_of("ann", 2), ports, worker.local.contexts.shopping)
    assert len(lister.peers) == 0
    await visit(worker, {"ann": ["pot"]})
    own = lister.peers.slots(["ann"])[0]
    assert {worker.local.items.name(at) for at in lister.peers.item[own, :3].tolist()} == {
        "far",
        "pot",
        "tea",
    }
