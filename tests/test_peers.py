"""The users met beside a user, against plain Python with dicts and loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from stream.core.recommend.peers import Likeness, Peers, entries
from stream.core.recommend.query import Query
from stream.core.weights import Decay
from tests.test_ranking import Entry, hood_of

NAMES = [f"i{at}" for at in range(40)]
HIDDEN_ITEM = 3
DECAY = Decay(90 * 86_400_000)
SMALL: dict[str, Any] = {"ITEMS": 5, "RECENT": 3, "COMPARED": 4, "NEIGHBORS": 2, "SIGNIFICANT": 2}
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


def told(query: Query, peers: Peers, row: int) -> list[tuple[int, float, int]]:
    """Item, value, reason of a user's entries, as numbers of names."""
    number = {local: at for at, local in LOCAL.items()}
    given = entries(HOOD, peers, query)
    (values,) = given.values
    assert values is not None
    assert not values[given.item < 0].any()
    held = np.flatnonzero(given.item[row] >= 0).tolist()
    return [
        (number[int(given.item[row, at])], float(values[row, at]), number[int(given.because[row, at])])
        for at in held
    ]


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
    query, count = users.query(names, peers.slots(names)), 0
    for row, name in enumerate(names):
        near = model.near(name, users)
        cut = [alike for alike, _ in near[module.NEIGHBORS - 1 : module.NEIGHBORS + 1]]
        if len(cut) == 2 and cut[0] - cut[1] < 1e-5:
            continue
        expected = sorted(model.entries(name, users, near), key=lambda entry: entry[:2])
        found = sorted(told(query, peers, row), key=lambda entry: entry[:2])
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
