"""What users say they like: the newest answers, within bounds, as the tokens that items have."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.content import item_tokens
from stream.core.engaged import PREFERENCES, VALUE_LENGTH, VALUES, Preference, Seen, UserState, observe
from stream.core.preferences import COLD, cold, preferred_tokens
from stream.events import Event
from stream.mail import HIT
from stream.shopper import Meta
from tests.test_merge import Shop, act, at, run
from tests.test_step import START_MS, World, event
from tests.test_step import Sent as Record

values = (
    st.text(max_size=5)
    | st.integers()
    | st.booleans()
    | st.floats(-1e6, 1e6)
    | st.lists(st.text(max_size=3), max_size=9)
)
answers = st.lists(st.tuples(st.sampled_from("abc"), values, st.integers(0, 5)), max_size=12)


def told(state: UserState, attributes: dict[str, Any], time: int) -> None:
    one = Event(type="preferences", time="", user="ann", attributes=attributes)
    observe(state, Seen(0, time, time, one.type, one))


@given(answers)
def test_the_newest_answer_counts_and_survives_the_store(drawn: list[tuple[str, Any, int]]) -> None:
    state = UserState()
    wanted: dict[str, tuple[Any, int]] = {}
    for name, value, time in drawn:
        told(state, {name: value}, time)
        held = isinstance(value, (bool, float, str, list)) or -(2**63) <= value < 2**63
        if name not in wanted or time >= wanted[name][1]:
            wanted[name] = (value, time)
            if value == [] or not held:
                del wanted[name]
        assert {name: (liked.value, liked.time) for name, liked in state.attributes.items()} == wanted
    again = UserState.unpack(state.pack())
    assert again.attributes == {
        n: Preference(msgspec.msgpack.decode(msgspec.msgpack.encode(v)), t) for n, (v, t) in wanted.items()
    }


def test_bounds() -> None:
    state = UserState()
    told(state, {f"a{n}": "x" for n in range(PREFERENCES + 5)}, 1)
    assert list(state.attributes) == [f"a{n}" for n in range(PREFERENCES)]
    long = "x" * (VALUE_LENGTH + 1)
    told(state, {"a0": long, "a1": [long, "y"], "a2": [str(n) for n in range(VALUES + 1)]}, 2)
    assert "a0" not in state.attributes and state.attributes["a1"].value == ["y"]
    assert state.attributes["a2"].value == [str(n) for n in range(VALUES)]


def test_tokens_are_those_of_items_with_these_attributes() -> None:
    state = UserState()
    told(state, {"size": "M", "colour": ["red", "blue"]}, 1)
    tokens, weights = preferred_tokens(["bob", "ann", "kim"], {"ann": state, "bob": UserState()})
    assert tokens.shape == weights.shape == (3, 3) and not weights[[0, 2]].any()
    found = dict(zip(tokens[1].tolist(), weights[1].tolist(), strict=True))
    assert found == item_tokens({"attributes": {"size": "M", "colour": ["red", "blue"]}}) and len(found) == 3
    assert preferred_tokens([], {})[0].shape == (0, 0)


def test_items_of_a_questionnaire_are_first_history() -> None:
    world = World.new()
    liked = event("preferences", "ann", "", START_MS, 1) | {"items": [{"item": "tea"}, {"item": "rye"}]}
    world.feed([Record(0, START_MS, msgspec.json.encode(liked))])
    assert {entry[:2] for entry in world.increments if entry[2] == HIT} == {("tea", "tea"), ("rye", "rye")}
    assert world.table.take(world.table.slots(["ann"])).seen.tolist() == [2]


def test_they_are_looked_up_for_the_cold_alone() -> None:
    assert cold(["ann", "bob"], np.array([COLD, COLD - 1])) == ["bob"]


@pytest.mark.parametrize("attributes", [{}, {"size": "M"}])
def test_nobody_is_looked_up_before_anybody_told_something(attributes: dict[str, Any]) -> None:
    """After a change of owners, so that nothing is in memory."""

    shop = run(act("ann", 10, kind="preferences", item="tea", attributes=attributes))
    stored = shop.store.strings[shop.store.keys.meta(f"u{at('ann')}")]
    assert msgspec.msgpack.decode(stored, type=Meta).preferences == len(attributes)
    found = asyncio.run(looked_up(shop, "ann"))
    assert {name: list(state.attributes) for name, state in found.items()} == (
        {"ann": ["size"]} if attributes else {}
    )


async def looked_up(shop: Shop, name: str) -> dict[str, UserState]:
    """After a change of owners, so that nothing is in memory."""
    shopper = shop.shoppers[at(name)]
    await shopper.take()
    shopper.table.load([name], [None], shopper.context.items)
    return await shopper._preferring([name], shopper.table.take(shopper.table.slots([name])))
