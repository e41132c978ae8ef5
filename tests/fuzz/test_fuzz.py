"""A part of `make fuzz`, and that its laws would notice what they are there for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.codec import Columns, DeadLetter, decode
from stream.core.items import Items
from stream.follower import Follower
from tests.fuzz import laws, trial
from tests.fuzz.messages import NOW, SETTINGS, Feed, Message
from tests.fuzz.packed import GOOD_NEIGHBORS

BATCHES = 28
Decoded = tuple[Columns, list[DeadLetter]]


def test_generated_events_are_accepted_or_dead_letters_once() -> None:
    total = trial.Outcome()
    for number in range(BATCHES):
        outcome = trial.run(f"test/{number}")
        assert not outcome.failures, outcome.failures[0].error
        total.tally.add(outcome.tally)
        total.packed += outcome.packed
    assert total.tally.sent == total.tally.accepted + total.tally.dead > 20_000
    assert total.tally.accepted > total.tally.sent / 2 and total.tally.catalog > 1000
    assert total.packed == BATCHES * trial.PACKED
    every = {
        "empty",
        "not-json",
        "not-utf8",
        "too-deep",
        "missing-field",
        "wrong-type",
        "bad-value",
        "bad-time",
    }
    assert every | {"future", "unsigned"} <= total.tally.reasons.keys()


names = st.text(max_size=5)
plain = st.none() | st.booleans() | st.floats() | st.integers() | names
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4)
)
events = st.fixed_dictionaries(
    {"type": st.sampled_from(["view_item", "add_to_cart", "purchase", "forget", "consent"]) | names},
    optional={
        "time": st.just("2026-05-01T12:00:00Z") | names,
        "user": names,
        "item": names,
        "items": values,
        "context": values,
        "channels": values,
        "price": plain,
    },
)
bodies = st.one_of(events, values, st.lists(events | values, max_size=4)).map(
    lambda body: json.dumps(body).encode()
)


@given(st.lists(bodies | st.binary(max_size=30) | st.none(), min_size=1, max_size=8))
def test_whatever_json_or_bytes_are_sent(bodies: list[bytes | None]) -> None:
    sent = [Message(at, NOW, b"k", body) for at, body in enumerate(bodies)]
    laws.events(sent, "")
    laws.catalog(sent, "")


def _lose_a_letter(columns: Columns, dead: list[DeadLetter]) -> Decoded:
    return columns, dead[:-1]


def _change_its_bytes(columns: Columns, dead: list[DeadLetter]) -> Decoded:
    return columns, [replace(letter, value=letter.value.strip() + b" ") for letter in dead]


def _name_nobody(columns: Columns, dead: list[DeadLetter]) -> Decoded:
    return replace(columns, user=["" for _ in columns.user]), dead


def _let_the_future_in(columns: Columns, dead: list[DeadLetter]) -> Decoded:
    return replace(columns, time=columns.received + 86_400_000), dead


def _accept_twice(columns: Columns, dead: list[DeadLetter]) -> Decoded:
    again = [replace(letter, offset=int(columns.offset[-1]), index=None) for letter in dead[-1:]]
    return columns, [*dead, *again]


@pytest.mark.parametrize(
    "spoil", [_lose_a_letter, _change_its_bytes, _name_nobody, _let_the_future_in, _accept_twice]
)
def test_the_laws_notice(spoil: Callable[[Columns, list[DeadLetter]], Decoded], monkeypatch: Any) -> None:
    def spoilt(records: Sequence[Any], *more: Any) -> Decoded:
        return spoil(*decode(records, *more))

    monkeypatch.setattr(laws, "decode", spoilt)
    sent = Feed("spoilt").batch(200)
    with pytest.raises(AssertionError):
        laws.events(sent, "spoilt")


def test_a_failing_batch_is_shrunk_and_can_be_repeated(monkeypatch: Any, tmp_path: Path) -> None:
    def refuses_the_third(messages: Sequence[Message], seed: str) -> None:
        assert all(message.offset != 3 for message in messages)

    monkeypatch.setitem(trial.LAWS, "events", refuses_the_third)
    sent = [Message(at, NOW, b"k", b"\xff", [("received", b"\xff")]) for at in range(20)]
    with pytest.raises(AssertionError) as broken:
        refuses_the_third(sent, "")
    case = trial._shrunk("events", sent, "1/2", broken.value)
    assert trial.Case.load(case.save(tmp_path)) == replace(case, messages=[sent[3]])
    with pytest.raises(AssertionError):
        trial.again(case)


async def test_records_that_cannot_be_read_stop_no_follower() -> None:
    items = Items()
    follower = Follower(SETTINGS, items)

    def record(key: bytes | None, value: bytes | None) -> Any:
        return SimpleNamespace(topic="neighbors", key=key, value=value, offset=0)

    follower._learn(
        [
            record(b"A", GOOD_NEIGHBORS),
            record(b"B", b"\x09damaged"),
            record(b"\xff", GOOD_NEIGHBORS),
            record(b"C", None),
        ]
    )
    assert {follower.hood.items.names[at] for at in (follower.hood.term >= 0).nonzero()[0]} == {"A"}
    follower.rise(0, record(b"0", b"{}"))
    assert follower.top == []
    await follower.stop()
