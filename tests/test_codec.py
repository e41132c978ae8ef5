"""From bytes to columns: what is accepted becomes columns, what is refused a dead letter that says why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.codec import MAX_DEPTH, Columns, DeadLetter, Limits, check, decode, decode_catalog
from stream.core.items import Items
from stream.events import CODE, ENGAGEMENT_KINDS, KINDS, OTHER, TICK, Event
from stream.settings import Settings
from stream.signing import tick_event, verifier
from stream.times import END_MS, time_text
from tests.corpus.events import EXAMPLES

LIMITS = Limits.of(Settings())
NOW = int(datetime.fromisoformat("2026-05-01T13:00:00Z").timestamp() * 1000)
VERIFY = verifier(b"key", 3)
VIEW = b'{"type":"view_item","time":"2026-05-01T12:00:00Z","user":"u","item":"A"}'


@dataclass(frozen=True)
class Rec:
    """A record as Kafka hands it over."""

    value: bytes | None
    offset: int = 0
    timestamp: int = NOW
    key: bytes | None = b"k"
    headers: Sequence[tuple[str, bytes]] = ()


def read(*values: bytes | None, limits: Limits = LIMITS) -> tuple[Columns, list[DeadLetter]]:
    return decode([Rec(value, at) for at, value in enumerate(values)], Items(), limits, VERIFY)


def encoded(event: Any) -> bytes:
    return json.dumps(event).encode()


def view(**fields: Any) -> dict[str, Any]:
    return {"type": "view_item", "time": "2026-05-01T12:00:00Z", "user": "u", "item": "A"} | fields


# What is accepted


def test_columns_of_every_type_of_event() -> None:
    items = Items()
    names = [*KINDS, "newsletter_read"]
    records = [Rec(encoded(EXAMPLES[kind]), 10 + at) for at, kind in enumerate(names)]
    columns, dead = decode(records, items, LIMITS, VERIFY)
    assert dead == []
    assert columns.offset.tolist() == list(range(10, 10 + len(names)))
    assert columns.index.tolist() == [0] * len(names)
    assert columns.kind.tolist() == [*CODE.values(), OTHER]
    assert set(columns.time.tolist()) == {NOW - 1_800_000 + 250}
    assert set(columns.received.tolist()) == {NOW}
    assert columns.user == ["u-17"] * len(names)
    assert {names[at] for at in columns.details} == ENGAGEMENT_KINDS
    assert all(event.type == names[at] for at, event in columns.details.items())
    acted = [
        (names[event], items.names[item]) for event, item in zip(columns.event, columns.item, strict=True)
    ]
    one = ["view_item", "select_item", "add_to_cart", "remove_from_cart", "add_to_wishlist"]
    two = ["begin_checkout", "purchase"]
    rest = ["rate", "share", "preferences", "recommendation_clicked", "newsletter_read"]
    assert acted == [
        *((kind, "A") for kind in one),
        *((kind, item) for kind in two for item in "AB"),
        *((kind, "A") for kind in rest),
    ]


def test_types_of_the_columns() -> None:
    for columns, _ in (read(VIEW), read()):
        assert {
            f.name: v.dtype.name
            for f in fields(columns)
            if isinstance(v := getattr(columns, f.name), np.ndarray)
        } == {
            "offset": "int64",
            "index": "int32",
            "time": "int64",
            "received": "int64",
            "kind": "uint8",
            "units": "int64",
            "id": "uint64",
            "event": "int32",
            "item": "int32",
            "sender": "int32",
            "source": "int64",
        }


def test_ids_are_hashes_of_source_and_id() -> None:
    columns, _ = read(
        *(encoded(view(**more)) for more in ({}, {"id": "7"}, {"id": "7", "source": "é"}, {"source": "web"}))
    )

    def hashed(data: bytes) -> int:
        return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")

    assert columns.id.tolist() == [0, hashed(b"\x007"), hashed("é\0007".encode()), 0]


def test_a_known_user_goes_before_the_device() -> None:
    columns, _ = read(encoded(view(anonymous="d")), encoded(view(user=None, anonymous="d")))
    assert columns.user == ["u", "d"]


def test_weights_are_those_of_the_settings() -> None:
    weights = {"view_item": 1.5, "newsletter_read": 0.25, "other": 0.5, "view_item_list": 0.0}
    limits = Limits.of(Settings(event_weights=weights))
    kinds = ["view_item", "purchase", "newsletter_read", "something_else"]
    columns, _ = read(*(encoded(view(type=kind)) for kind in kinds), limits=limits)
    assert columns.units.tolist() == [12, 4, 2, 4]


def test_what_was_only_shown_is_no_interaction_unless_it_weighs() -> None:
    shown = encoded(EXAMPLES["recommendation_shown"])
    assert read(shown)[0].item.tolist() == []
    weighing = Limits.of(Settings(event_weights={"recommendation_shown": 0.125}))
    assert read(shown, limits=weighing)[0].event.tolist() == [0, 0]


def test_items_of_a_type_that_has_none_are_no_interactions() -> None:
    columns, dead = read(encoded(EXAMPLES["search"] | {"item": "A"}), VIEW)
    assert dead == [] and columns.event.tolist() == [1]


def test_received_is_the_least_of_timestamp_and_header() -> None:
    def received(*headers: tuple[str, bytes]) -> int:
        columns, _ = decode([Rec(VIEW, headers=headers)], Items(), LIMITS, VERIFY)
        return int(columns.received[0])

    early = NOW - 1000
    assert received() == received(("other", b"5")) == NOW
    assert received(("received", b"%d" % early)) == early
    assert received(("received", b"%d" % (NOW + 1))) == NOW
    for bad in (b"", b"x", b"-5", b"1e3", b" 5", b"9" * 400, "٣".encode()):
        assert received(("received", bad)) == NOW


def test_a_tick_belongs_to_nobody() -> None:
    columns, dead = read(
        tick_event(b"key", 3, NOW),
        encoded(json.loads(tick_event(b"key", 3, NOW)) | {"user": "u", "item": "A"}),
    )
    assert dead == []
    assert columns.kind.tolist() == [TICK, TICK] and columns.user == ["", ""]
    assert columns.time.tolist() == [NOW, NOW] and columns.units.tolist() == [0, 0]
    assert not len(columns.item) and not columns.details


@pytest.mark.parametrize("escaped", [r"caf\u00e9", r"a\\b", r"a\/b", r"\ud83d\ude00", "\u00a0\u200d"])
def test_ids_may_hold_any_character_but_controls(escaped: str) -> None:
    columns, dead = read(VIEW.replace(b'"u"', f'"{escaped}"'.encode()))
    assert dead == [] and columns.user == [json.loads(f'"{escaped}"')]


# What is refused


def refused(value: bytes | None, limits: Limits = LIMITS) -> tuple[str, str]:
    """Code and field of the one dead letter of a message between two good ones, which lose nothing by it."""
    columns, (letter,) = read(VIEW, value, VIEW, limits=limits)
    assert (
        columns.offset.tolist() == [0, 2] and columns.user == ["u", "u"] and columns.event.tolist() == [0, 1]
    )
    assert (letter.offset, letter.index, letter.value) == (1, None, value or b"")
    assert (letter.key, letter.timestamp) == (b"k", NOW)
    assert letter.reason.expected and letter.reason.message and len(letter.reason.value) <= 200
    assert json.loads(msgspec.json.encode(letter.reason))["code"] == letter.reason.code
    return letter.reason.code, letter.reason.field


UNREADABLE: list[tuple[bytes | None, str]] = [
    (None, "empty"),
    (b"", "empty"),
    (b" ", "not-json"),
    (b"garbage", "not-json"),
    (b"{}{}", "not-json"),
    (VIEW[:-1], "not-json"),
    (b"\xef\xbb\xbf" + VIEW, "not-json"),
    (VIEW.replace(b'"A"', b'"A","price":NaN'), "not-json"),
    (VIEW.replace(b'"A"', b'"A","price":Infinity'), "not-json"),
    (VIEW.replace(b'"u"', b'"\\ud800"'), "not-json"),
    (VIEW.replace(b'"u"', b'"u\x01"'), "not-json"),
    (b"\xff\xfe", "not-utf8"),
    (VIEW.replace(b'"u"', b'"\xff"'), "not-utf8"),
    (VIEW.replace(b"{", b'{"unknown":"\xc3",'), "not-utf8"),
    (VIEW.replace(b"{", b'{"unknown":"\xed\xa0\x80",'), "not-utf8"),
    (b"[" * 1_000_000, "too-deep"),
    (VIEW.replace(b"{", b'{"unknown":' + b"[" * 5000 + b"]" * 5000 + b","), "too-deep"),
    (VIEW.replace(b"{", b'{"context":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b","), "too-deep"),
    (VIEW + b" " * 1_048_576, "too-large"),
    (b"[" + b",".join([VIEW] * 5001) + b"]", "too-many"),
    (b"[1" + b",1" * 5000 + b"]", "too-many"),
    (b"3", "wrong-type"),
    (b"null", "wrong-type"),
    (b'"view_item"', "wrong-type"),
]


@pytest.mark.parametrize(("value", "code"), UNREADABLE)
def test_messages_that_cannot_be_read(value: bytes | None, code: str) -> None:
    assert refused(value) == (code, "")


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"type": None}, "wrong-type", "type"),
    ({"type": ""}, "bad-value", "type"),
    ({"user": None}, "missing-field", "user"),
    ({"user": ""}, "bad-value", "user"),
    ({"user": 7}, "wrong-type", "user"),
    ({"user": "x" * 257}, "bad-value", "user"),
    ({"user": "a\x00"}, "bad-value", "user"),
    ({"user": "a\n"}, "bad-value", "user"),
    ({"user": "a\x7f"}, "bad-value", "user"),
    ({"id": "a\u001f"}, "bad-value", "id"),
    ({"session": "x" * 257}, "bad-value", "session"),
    ({"item": None}, "missing-field", "items"),
    ({"item": "a\tb"}, "bad-value", "item"),
    ({"item": None, "items": []}, "missing-field", "items"),
    ({"items": [{"item": "A"}, {"item": "B", "price": -0.01}]}, "bad-value", "items[1].price"),
    ({"items": [{"price": 1}]}, "missing-field", "items[0].item"),
    ({"items": [{"item": "A", "quantity": 0}]}, "bad-value", "items[0].quantity"),
    ({"items": [{"item": "A", "quantity": 1.5}]}, "wrong-type", "items[0].quantity"),
    ({"items": [{"item": "A", "quantity": 1_000_001}]}, "bad-value", "items[0].quantity"),
    ({"items": [{"item": "A\r"}]}, "bad-value", "items[0].item"),
    ({"items": [{"item": "A"}] * 501}, "too-many", "items"),
    ({"price": "9"}, "wrong-type", "price"),
    ({"price": 10**400}, "bad-value", "price"),
    ({"value": -1}, "bad-value", "value"),
    ({"currency": "euro"}, "bad-value", "currency"),
    ({"context": 5}, "wrong-type", "context"),
    ({"type": "consent", "channels": {"email": "yes"}}, "wrong-type", "channels[...]"),
    ({"type": "rate", "rating": "good"}, "wrong-type", "rating"),
    ({"type": "rate"}, "missing-field", "rating"),
    ({"type": "sign_up"}, "missing-field", "anonymous"),
    ({"type": "newsletter_read", "user": None}, "missing-field", "user"),
    ({"type": "newsletter_read", "price": "cheap"}, "wrong-type", "price"),
    ({"time": 1777636800}, "wrong-type", "time"),
    ({"time": ""}, "bad-time", "time"),
    ({"time": "2026-05-01T12:00:00"}, "bad-time", "time"),
    ({"time": "2026-05-01 12:00:00Z"}, "bad-time", "time"),
    ({"time": "2026-02-30T12:00:00Z"}, "bad-time", "time"),
    ({"time": "2026-05-01T24:00:00Z"}, "bad-time", "time"),
    ({"time": "2999-01-01T00:00:00Z"}, "bad-time", "time"),
    ({"time": "1999-12-31T23:59:59Z"}, "bad-time", "time"),
    ({"time": "２026-05-01T12:00:00Z"}, "bad-time", "time"),
    ({"time": time_text(NOW + 300_001)}, "future", "time"),
    ({"type": "tidewise.tick"}, "unsigned", "sig"),
    ({"type": "tidewise.tick", "sig": "é"}, "unsigned", "sig"),
    ({"type": "tidewise.mail"}, "unsupported", "type"),
    ({"type": "tidewise.anything"}, "unsupported", "type"),
]


@pytest.mark.parametrize(("fields", "code", "field"), INVALID)
def test_events_that_break_a_rule(fields: dict[str, Any], code: str, field: str) -> None:
    event = view(**fields)
    for ascii_only in (True, False):
        assert refused(json.dumps(event, ensure_ascii=ascii_only).encode()) == (code, field)
    others = [reason for reason in check(encoded(event), LIMITS) if code != "future"]
    assert [(r.code, r.field) for r in others] == ([] if code == "future" else [(code, field)])


@pytest.mark.parametrize("name", ["type", "time"])
def test_events_without_what_all_need(name: str) -> None:
    event = view()
    del event[name]
    assert refused(encoded(event)) == ("missing-field", name)


@pytest.mark.parametrize(("levels", "accepted"), [(MAX_DEPTH - 2, True), (MAX_DEPTH - 1, False)])
@pytest.mark.parametrize("frames", [0, 150])
def test_how_deep_an_event_may_be_does_not_depend_on_the_caller(
    levels: int, accepted: bool, frames: int
) -> None:
    quoted = b'"' + b"[" * 2000 + b'\\"",'  # brackets in a text are no levels
    deep = VIEW.replace(
        b"{", b'{"context":{"said":' + quoted + b'"x":' + b"[" * levels + b"]" * levels + b"},"
    )

    def deeper(more: int) -> tuple[Columns, list[DeadLetter]]:
        return deeper(more - 1) if more else read(deep)

    columns, dead = deeper(frames)
    assert (len(columns.time), [letter.reason.code for letter in dead]) == (
        (1, []) if accepted else (0, ["too-deep"])
    )


@pytest.mark.parametrize("stamp", [-(10**15), -1, 10**15, 2**62])
def test_a_record_may_be_stamped_with_any_time(stamp: int) -> None:
    columns, dead = decode([Rec(VIEW, timestamp=stamp)], Items(), LIMITS, lambda said, sig: False)
    assert [letter.reason.code for letter in dead] == (["future"] if stamp < 0 else [])
    assert (columns.received == END_MS - 1).all()


def test_a_value_too_large_for_a_number() -> None:
    assert refused(VIEW.replace(b'"A"', b'"A","price":1e999')) == ("bad-value", "price")
    assert refused(VIEW.replace(b'"A"', b'"A","context":{"n":1e999}'))[0] == "bad-value"


def test_the_tolerance_itself_is_no_future() -> None:
    columns, dead = read(encoded(view(time=time_text(NOW + 300_000))))
    assert dead == [] and columns.time.tolist() == [NOW + 300_000]


def test_ticks_of_another_key_partition_or_time_are_unsigned() -> None:
    for tick in (tick_event(b"other", 3, NOW), tick_event(b"key", 2, NOW)):
        assert refused(tick) == ("unsigned", "sig")
    shifted = json.loads(tick_event(b"key", 3, NOW)) | {"time": time_text(NOW - 1)}
    assert refused(encoded(shifted)) == ("unsigned", "sig")
    assert [r.code for r in check(tick_event(b"key", 3, NOW), LIMITS)] == ["unsigned"]


def test_bounds_are_those_of_the_settings() -> None:
    limits = Limits.of(
        Settings(max_id_length=8, max_event_items=2, max_batch_events=2, max_message_bytes=1024)
    )
    assert refused(encoded(view(item="A" * 9)), limits) == ("bad-value", "item")
    assert refused(encoded(view(items=[{"item": "A" * 9}])), limits) == ("bad-value", "items[0].item")
    assert refused(encoded(view(items=[{"item": "A"}] * 3)), limits) == ("too-many", "items")
    assert refused(encoded([view()] * 3), limits) == ("too-many", "")
    assert refused(VIEW + b" " * 1024, limits) == ("too-large", "")
    assert read(encoded([view(item="A" * 8, items=[{"item": "é" * 8}] * 2)] * 2), limits=limits)[1] == []


def test_a_bad_element_of_an_array_costs_only_itself() -> None:
    bad = [
        b'{ "type" :"view_item",  "user":"u"}',
        b"7",
        b'{"type":"login","time":"2026-05-01T12:00:00Z","user":"\\u00e9"}',
    ]
    message = b" [" + VIEW + b" ,\n" + bad[0] + b"," + bad[1] + b", " + VIEW + b"," + bad[2] + b" ]\n"
    columns, dead = read(VIEW, message, VIEW)
    assert list(zip(columns.offset.tolist(), columns.index.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (1, 3),
        (2, 0),
    ]
    assert [(d.offset, d.index, d.value, d.reason.field) for d in dead] == [
        (1, 1, bad[0], "time"),
        (1, 2, bad[1], ""),
        (1, 4, bad[2], "anonymous"),
    ]
    assert [(r.code, r.field) for r in check(message, LIMITS)] == [
        ("missing-field", "[1].time"),
        ("wrong-type", "[2]"),
        ("missing-field", "[4].anonymous"),
    ]


def test_an_empty_array_is_no_event() -> None:
    columns, dead = read(b"[]")
    assert not len(columns.time) and dead == [] and check(b"[]", LIMITS) == []


def test_names_of_refused_events_are_not_learnt() -> None:
    items = Items()
    decode([Rec(encoded(view(item="B", user=None))), Rec(VIEW, 1)], items, LIMITS, VERIFY)
    assert items.names == ["A"]


# Laws

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PLAIN = st.sampled_from(list(EXAMPLES.values()))
FIELDS = st.sampled_from(Event.__struct_encode_fields__)
MUTANTS = st.builds(
    lambda event, change: {**event, **change}, PLAIN, st.dictionaries(FIELDS, JSONS, max_size=2)
)
EVENTS = PLAIN | PLAIN | MUTANTS | JSONS.filter(lambda value: not isinstance(value, list))
MESSAGES = st.one_of(
    st.tuples(EVENTS.map(encoded), st.just(1)),
    st.lists(EVENTS, max_size=5).map(lambda events: (encoded(events), len(events))),
)


def parses(data: bytes) -> bool:
    """Whether a message is JSON by the standard (Python's module also takes NaN and lone surrogates)."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        return bool(data.decode())
    except ValueError:
        return False


@given(st.lists(MESSAGES, max_size=6))
def test_every_event_is_accepted_or_a_dead_letter(messages: list[tuple[bytes, int]]) -> None:
    columns, dead = read(*(value for value, _ in messages))
    assert len(columns.time) + len(dead) == sum(n if parses(value) else 1 for value, n in messages)
    places = [*zip(columns.offset.tolist(), columns.index.tolist(), strict=True)]
    places += [(letter.offset, letter.index or 0) for letter in dead]
    assert len(set(places)) == len(places)


@given(st.lists(st.none() | st.binary(max_size=60) | st.sampled_from([VIEW, b"[", b"]", b"{"]), max_size=6))
def test_no_bytes_raise(values: list[bytes | None]) -> None:
    columns, dead = read(*values)
    assert len(columns.time) + len(dead) >= len(values) - sum(
        value is not None and value.strip()[:1] == b"[" for value in values
    )
    for value in values:
        check(value or b"", LIMITS)


@given(st.lists(MESSAGES | st.binary(max_size=20).map(lambda data: (data, 1)), max_size=8), st.data())
def test_cutting_bundles_otherwise_changes_nothing(
    messages: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    records = [Rec(value, at) for at, (value, _) in enumerate(messages)]
    cut = data.draw(st.integers(0, len(records)))
    items = Items()
    whole, dead = decode(records, items, LIMITS, VERIFY)
    parts = [decode(part, items, LIMITS, VERIFY) for part in (records[:cut], records[cut:])]
    (first, dead_first), (second, dead_second) = parts
    assert dead == dead_first + dead_second
    shift = len(first.time)
    for name in ("offset", "index", "time", "received", "kind", "units", "id", "item"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        assert getattr(whole, name).tolist() == joined.tolist()
    assert whole.user == first.user + second.user
    assert whole.event.tolist() == [*first.event.tolist(), *(second.event + shift).tolist()]
    assert whole.details == first.details | {at + shift: event for at, event in second.details.items()}


@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_an_array_is_worth_its_elements(events: list[Any]) -> None:
    if not all(parses(encoded(event)) for event in events):
        return
    array, array_dead = read(encoded(events))
    single, single_dead = read(*(encoded(event) for event in events))
    assert array.index.tolist() == single.offset.tolist()
    assert array.time.tolist() == single.time.tolist() and array.user == single.user
    assert array.event.tolist() == single.event.tolist() and array.item.tolist() == single.item.tolist()
    assert [(d.index, d.reason, d.value) for d in array_dead] == [
        (d.offset, d.reason, d.value) for d in single_dead
    ]


@given(EVENTS)
def test_a_file_is_judged_as_the_worker_does(event: Any) -> None:
    _, dead = read(encoded(event))
    assert [letter.reason for letter in dead if letter.reason.code != "future"] == check(
        encoded(event), LIMITS
    )


# The catalogue


def catalog(*records: Rec) -> tuple[list[Any], list[DeadLetter]]:
    return decode_catalog(records, LIMITS, lambda said, sig: False)


def test_catalogue_events() -> None:
    full = {
        "type": "item",
        "item": "A",
        "time": "2026-05-01T12:00:00Z",
        "name": "Shoe",
        "description": "Red",
        "attributes": {"size": 42, "colours": ["red"], "vegan": True, "material": "hemp", "weight": 0.5},
        "price": 19.9,
        "stock": 0,
        "hidden": False,
        "group": "brand",
        "image": "https://shop/a.jpg",
        "url": "https://shop/a",
        "vector": [0.5, -1],
    }
    (a, b, c), dead = catalog(
        Rec(encoded(full), 4), Rec(encoded([{"item": "B"}, {"item": "C", "stock": 3}]), 5)
    )
    assert dead == []
    assert [(x.item, x.offset, x.index, x.received, x.time_ms) for x in (a, b, c)] == [
        ("A", 4, 0, NOW, NOW - 3_600_000),
        ("B", 5, 0, NOW, NOW),
        ("C", 5, 1, NOW, NOW),
    ]
    given = {name: getattr(a, name) for name in full}
    assert given == full and b.price is None and c.stock == 3


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"item": None}, "wrong-type", "item"),
        ({"item": "a\n"}, "bad-value", "item"),
        ({"type": "product"}, "bad-value", "type"),
        ({"stock": -1}, "bad-value", "stock"),
        ({"stock": 1.5}, "wrong-type", "stock"),
        ({"price": -1}, "bad-value", "price"),
        ({"hidden": 1}, "wrong-type", "hidden"),
        ({"attributes": {"a": None}}, "wrong-type", "attributes[...]"),
        ({"vector": ["a"]}, "wrong-type", "vector[0]"),
        ({"time": "yesterday"}, "bad-time", "time"),
        ({"time": time_text(NOW + 300_001)}, "future", "time"),
    ],
)
def test_catalogue_events_that_break_a_rule(fields: dict[str, Any], code: str, field: str) -> None:
    bad = encoded({"item": "B"} | fields)
    (good,), (letter,) = catalog(Rec(b'[{"item":"A"},' + bad + b"]", 9))
    assert good.item == "A"
    assert (letter.offset, letter.index, letter.value) == (9, 1, bad)
    assert (letter.reason.code, letter.reason.field) == (code, field)


def test_a_catalogue_tombstone_is_a_dead_letter() -> None:
    found, (letter,) = catalog(Rec(None, 7, key=b"A"))
    assert found == [] and (letter.reason.code, letter.key, letter.value) == ("empty", b"A", b"")


@given(st.lists(st.binary(max_size=40) | JSONS.map(encoded), max_size=5))
def test_no_bytes_raise_in_the_catalogue(values: list[bytes]) -> None:
    catalog(*(Rec(value, at) for at, value in enumerate(values)))
