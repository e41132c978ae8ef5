"""Vocabulary, lines, required fields, the JSON Schemas, the page for web teams, times, signatures."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import topics
from stream.codec import Limits, check
from stream.events import (
    CODE,
    ENGAGEMENT_KINDS,
    IMPRESSIONS,
    KINDS,
    OTHER,
    REQUIRED,
    SCHEMAS,
    CatalogItem,
    Event,
    Line,
    schema,
    schema_file,
)
from stream.reasons import Code
from stream.settings import Settings
from stream.signing import said_by_tick, sign, tick_event, verifier
from stream.times import END_MS, FIRST_MS, time_ms, time_text, times_ms
from tests.corpus.events import EXAMPLES, without

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "events.md").read_text()
LIMITS = Limits.of(Settings())


def test_codes_are_persisted_so_the_vocabulary_only_grows_at_its_end() -> None:
    assert KINDS[:22] == (
        "view_item",
        "select_item",
        "add_to_cart",
        "remove_from_cart",
        "add_to_wishlist",
        "begin_checkout",
        "purchase",
        "refund",
        "view_item_list",
        "search",
        "rate",
        "share",
        "sign_up",
        "login",
        "consent",
        "preferences",
        "forget",
        "recommendation_shown",
        "recommendation_clicked",
        "nudge_delivered",
        "nudge_clicked",
        "coupon_redeemed",
    )
    assert len(KINDS) == len(set(KINDS)) <= OTHER
    assert set(REQUIRED) | ENGAGEMENT_KINDS | IMPRESSIONS <= set(KINDS)


def test_lines_resolve_the_long_and_the_short_form() -> None:
    def lines(fields: dict[str, Any]) -> list[Line]:
        event = {"type": "view_item", "time": "2026-05-01T12:00:00Z", "user": "u", **fields}
        return msgspec.convert(event, Event).lines()

    assert lines({"item": "a"}) == [Line("a", None, 1)]
    assert lines({"item": "a", "price": 2.5, "quantity": 3}) == [Line("a", 2.5, 3)]
    assert lines({"items": [{"item": "a"}, {"item": "b", "price": 1, "quantity": 2}]}) == [
        Line("a", None, 1),
        Line("b", 1.0, 2),
    ]
    assert lines({"item": "a", "items": [{"item": "b"}]}) == [Line("b")]
    assert lines({"item": "a", "items": []}) == [Line("a")]
    assert lines({}) == []


@pytest.mark.parametrize("kind", [*KINDS, "newsletter_read"])
def test_every_type_is_accepted_and_comes_back_the_same(kind: str) -> None:
    event = EXAMPLES[kind]
    assert check(json.dumps(event).encode(), LIMITS) == []
    read = msgspec.json.decode(json.dumps(event), type=Event)
    assert msgspec.json.decode(msgspec.json.encode(read), type=Event) == read
    assert json.loads(msgspec.json.encode(read)) == event


CASES = [(kind, group) for kind, groups in REQUIRED.items() for group in groups]


@pytest.mark.parametrize(("kind", "group"), CASES)
def test_each_type_says_which_field_it_lacks(kind: str, group: tuple[str, ...]) -> None:
    event = without(EXAMPLES[kind], group)
    (reason,) = check(json.dumps(event).encode(), LIMITS)
    assert (reason.code, reason.field) == ("missing-field", group[0])
    assert all(name in reason.expected for name in group)


# Schemas and the page


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_files_are_those_of_the_models(name: str) -> None:
    stale = "stale: run `python -m stream.events`"
    assert (DOCS / "schema" / name).read_bytes() == schema_file(SCHEMAS[name]), stale


VALIDATOR = jsonschema.Draft202012Validator(schema(Event))
ODD: list[Any] = [
    None,
    "",
    "a\n",
    "a\x00b",
    0,
    -1,
    1,
    2.5,
    True,
    [],
    {},
    [{"item": "x"}],
    [{}],
    {"email": True},
]


@given(st.sampled_from([*KINDS, "newsletter_read", "tidewise.mail"]), st.data())
def test_schema_and_reader_judge_alike(kind: str, data: st.DataObject) -> None:
    event = dict(EXAMPLES.get(kind, EXAMPLES["view_item"]), type=kind)
    names = st.sampled_from([n for n in Event.__struct_encode_fields__ if n not in ("time", "sig")])
    event |= data.draw(st.dictionaries(names, st.sampled_from(ODD), max_size=2))
    for name in data.draw(st.sets(st.sampled_from(sorted(event)), max_size=2)):
        del event[name]
    assert VALIDATOR.is_valid(event) == (check(json.dumps(event).encode(), LIMITS) == [])


def test_schema_of_items_takes_the_example() -> None:
    validator = jsonschema.Draft202012Validator(schema(CatalogItem))
    assert validator.is_valid({"type": "item", "item": "A", "price": 2, "attributes": {"sizes": ["S", "M"]}})
    assert not validator.is_valid({"type": "item", "item": "A", "stock": -1})


def test_page_names_every_topic_type_field_and_reason() -> None:
    fields = [*Event.__struct_encode_fields__, *CatalogItem.__struct_encode_fields__]
    names = [*(topic.name for topic in topics.TOPICS), *KINDS, *fields, *get_args(Code)]
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_examples_of_the_page_are_accepted() -> None:
    examples = re.findall(r"^(?:[^\s{]+:)?(\{\"type\":.*\})$", PAGE, re.MULTILINE)
    events = [text for text in examples if '"type":"item"' not in text.replace(" ", "")]
    assert {json.loads(text)["type"] for text in events} >= set(KINDS)
    assert [reason for text in events for reason in check(text.encode(), LIMITS)] == []


# Times

TEXTS = st.one_of(
    st.text(max_size=36),
    st.text("0123456789-:.TtZz+ ", max_size=36),
    st.from_regex(
        r"20\d\d-[01]\d-[0-3]\d[Tt ][0-2]\d:[0-6]\d:[0-6]\d(\.\d{0,10})?([Zz]|[+-][0-2]\d:[0-6]\d)?",
        fullmatch=True,
    ),
)


def exact(text: str) -> int:
    try:
        return time_ms(text)
    except ValueError:
        return -1


@given(st.lists(TEXTS, max_size=8))
def test_columns_of_times_are_read_as_one_by_one(texts: list[str]) -> None:
    assert times_ms(texts).tolist() in (
        [exact(text) for text in texts],
        [-1] * len(texts) if not "".join(texts).isascii() else None,
    )


ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2000, 1, 3), datetime(2100, 12, 29), timezones=ZONES)


@given(
    st.lists(
        st.tuples(MOMENTS, st.sampled_from([None, "seconds", "milliseconds", "microseconds"])), min_size=1
    )
)
def test_times_are_those_of_the_standard_library(moments: list[tuple[datetime, str | None]]) -> None:
    texts = [moment.isoformat(timespec=spec or "auto") for moment, spec in moments]
    texts += [text.replace("+00:00", "Z") for text in texts]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    oracle = [(datetime.fromisoformat(text) - epoch) // timedelta(milliseconds=1) for text in texts]
    assert times_ms(texts).tolist() == oracle
    assert [time_ms(text) for text in texts] == oracle


def test_times_at_the_edges() -> None:
    assert time_ms("2000-01-01T00:00:00Z") == FIRST_MS
    assert time_ms("2100-12-31T23:59:59.999999999Z") == END_MS - 1 < 2**32 * 1000
    assert time_ms("2000-01-01T01:00:00+01:00") == FIRST_MS
    assert times_ms(["2024-02-29T00:00:00z", "2023-02-29T00:00:00z"]).tolist() == [1709164800000, -1]
    assert times_ms([]).tolist() == []
    for text in ("1999-12-31T23:59:59Z", "2101-01-01T00:00:00Z", "2000-01-01T00:30:00+01:00"):
        assert exact(text) == -1 and times_ms([text]).tolist() == [-1]


@given(st.integers(FIRST_MS, END_MS - 1))
def test_text_of_a_time_is_read_back(ms: int) -> None:
    assert time_ms(time_text(ms)) == ms


# Signatures


@given(st.binary(min_size=1), st.integers(0, 1023), st.integers(FIRST_MS, END_MS - 1), st.text())
def test_ticks_verify_only_for_their_key_partition_and_time(
    key: bytes, partition: int, ms: int, forged: str
) -> None:
    said = said_by_tick(ms)
    sig = sign(key, partition, said)
    tick = msgspec.json.decode(tick_event(key, partition, ms), type=Event)
    assert tick.sig == sig and time_ms(tick.time) == ms
    assert verifier(key, partition)(said, sig)
    assert not verifier(key + b"x", partition)(said, sig)
    assert not verifier(key, partition + 1)(said, sig)
    assert not verifier(key, partition)(said_by_tick(ms + 1), sig)
    assert not verifier(key, partition)(said, forged)


def test_codes_number_the_kinds() -> None:
    assert [KINDS[code] for code in CODE.values()] == list(CODE)
