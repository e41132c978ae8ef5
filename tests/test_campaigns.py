"""Campaign files: what may be written, what is wrong and where, versions and differences, the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from stream.campaign_files import MOST_BYTES, TRIGGERS, Loaded, load, load_text, running
from stream.core.campaigns import (
    OTHER_PRIORITY,
    PRIORITIES,
    SEGMENTS,
    UNITS,
    Budget,
    Campaign,
    Caps,
    Change,
    Choice,
    Computed,
    Content,
    Coupon,
    Duration,
    Goals,
    Instant,
    Trigger,
    Window,
    content_hash,
    decode_version,
    diff,
    document,
    encode_version,
    read,
    successor,
)
from stream.core.guards import EngagementConfig
from stream.core.triggers import TYPES
from stream.core.triggers.shape import NoParameters
from stream.settings import Settings
from tests.commands import Cli

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "campaigns"
PAGE = (ROOT / "docs" / "engagement.md").read_text()


class Drop(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of a trigger, as trigger modules have them."""

    least_percent: float
    look_back: Duration = Duration(30 * UNITS["d"])
    of: Literal["seen", "listed"] = "seen"


REGISTRY: dict[str, type[Struct]] = {"abandoned-cart": NoParameters, "price-drop": Drop}
LEAST: dict[str, Any] = {
    "id": "mugs",
    "trigger": {"type": "abandoned-cart"},
    "message": {"template": "mugs"},
}


def campaign(**fields: Any) -> Campaign:
    found, faults = read(LEAST | fields, REGISTRY)
    assert found is not None, [fault.message for fault in faults]
    return found


def told(text: str) -> list[str]:
    return [problem.message for problem in load_text(text.encode(), "c.yaml", REGISTRY).problems]


# What may be written


def test_the_example_is_what_tidewise_does_without_a_file() -> None:
    found = [each.campaign for each in load(EXAMPLES)]
    assert not [problem.message for each in load(EXAMPLES) for problem in each.problems]
    (cart,) = [each for each in found if each is not None and each.id == "abandoned-cart"]
    today = EngagementConfig.of(Settings())
    assert tuple(map(int, cart.steps)) == today.cart_after_ms
    assert (cart.rest, cart.expires, cart.enabled) == (
        today.cart_rest_ms,
        today.expiry_ms,
        today.cart_enabled,
    )
    assert (cart.caps.day, cart.caps.week) == (today.cap_day, today.cap_week)
    assert (cart.channels, cart.purpose, cart.trigger.type) == (
        ("email",),
        "personalisation",
        "abandoned-cart",
    )


EVERYTHING = """
id: cheaper
trigger: {type: price-drop, least_percent: 10, look_back: 60d}
audience: champions
window: {from: 2026-05-01T00:00:00+02:00, until: 2026-06-01T00:00:00+02:00}
channels: [push, email]
purpose: offers
message: {template: cheaper, items: viewed, most: 3, data: {title: "Now: cheaper", big: [1, 2.5, true]}}
coupon: {pool: may, codes: [M-1, M-2], per_user: 2, valid: 5d}
budget: {coupons: 1000, cost: 250.5}
caps: {day: 2, week: 4}
priority: 75
holdout_percent: 5
goals: {event: add_to_cart, within: 12h}
steps: [0s, 24h]
rest: 90m
expires: 2h
enabled: false
"""


def test_everything_may_be_said() -> None:
    found = load_text(EVERYTHING.encode(), "c.yaml", REGISTRY).campaign
    assert found is not None
    assert found.trigger.parameters == Drop(10, Duration(60 * UNITS["d"]))
    assert found.window.from_ == 1_777_586_400_000
    assert found.channels == ("push", "email")
    assert found.message.data == {"title": "Now: cheaper", "big": [1, 2.5, True]}
    assert found.steps == (0, UNITS["d"])
    assert (found.rest, found.expires) == (90 * UNITS["m"], 2 * UNITS["h"])
    assert not found.enabled
    written = set(re.findall(r"^(\w+):", EVERYTHING, re.MULTILINE))
    assert written == set(Campaign.__struct_fields__)


def test_the_trigger_decides_on_the_priority_where_none_is_given() -> None:
    order = ["abandoned-checkout", "abandoned-cart", "back-in-stock", "price-drop", "browse-abandonment"]
    ranks = [PRIORITIES[name] for name in [*order, "win-back"]]
    assert ranks == sorted(ranks, reverse=True)
    assert campaign().priority == PRIORITIES["abandoned-cart"]
    assert campaign(priority=3).priority == 3


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0s", 0), ("90s", 90_000), ("45m", 2_700_000), ("24h", 86_400_000), ("7d", 604_800_000)],
)
def test_durations(text: str, ms: int) -> None:
    assert Duration.read(text) == ms
    assert Duration.read(str(Duration.read(text))) == ms


@pytest.mark.parametrize("text", ["", "45", "m", "1.5h", "-1h", "1 h", "1w", "3661d", "45M", 45, None, "١h"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="such as 45m, 24h or 7d"):
        Duration.read(text)


# The page


def reference(kind: type[Struct], path: str = "") -> Iterator[tuple[str, str]]:
    """Every field as it is written, and its default."""
    hints = get_type_hints(kind)
    for each in msgspec.structs.fields(kind):
        name = f"{path}{each.encode_name}"
        parts = [hint for hint in (hints[each.name], *get_args(hints[each.name])) if hint in PARTS]
        for part in parts:
            yield from reference(part, f"{name}.")
        if not parts and name != "trigger.parameters":
            yield name, default(each)


PARTS = (Trigger, Window, Content, Coupon, Computed, Choice, Budget, Caps, Goals)


def default(field: msgspec.structs.FieldInfo) -> str:
    """As the page has it: nothing where something else decides, or nothing is the default."""
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value in (None, (), {}, ""):
        return ""
    text = str(value).lower() if not isinstance(value, tuple) else ", ".join(value)
    return f"`{text}`"


def test_the_page_has_every_field_with_its_default() -> None:
    section = PAGE.partition("## Campaign files")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) ?\|$", section, re.MULTILINE)
    assert [(name, default) for name, default, _ in rows] == list(reference(Campaign))
    assert all(len(what) > 10 for _, _, what in rows)


def test_the_page_names_priorities_segments_and_words() -> None:
    section = PAGE.partition("## Campaign files")[2]
    for name, rank in PRIORITIES.items():
        assert f"{name} {rank}" in section
    assert ", ".join(SEGMENTS) in section
    assert f"others {OTHER_PRIORITY}" in section


def test_the_page_shows_the_example_as_it_is() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert shown == (EXAMPLES / "abandoned-cart.yaml").read_text()


# What is wrong, and where

WRONG = r"""
    steps: [45m, 24h, 1d]
        steps[2]: 1d is the same as 1d: give rising delays
    steps: [45]
        steps[0]: 45 is not allowed: give a whole number and a unit
    chanels: [email]
        chanels: there is no such field: use id, trigger
    chanels: [email]
        (did you mean channels?)
    message: {template: a, items: veiwed}
        message.items: veiwed is not allowed
    message: {template: a, items: veiwed}
        (did you mean viewed?)
    message: {template: a, Items: cart}
        (did you mean items?)
    message: {template: a, data: subject}
        message.data: subject is not allowed: give names and values
    message: {}
        message.template: nothing is there: give 1 to 200 characters
    message: {templat: a}
        message.templat: there is no such field: use template, items, most, data (did you mean template?)
    message:
        message: nothing is there: give fields of template, items
    message: mugs
        message: mugs stands alone: give fields of template, items
    trigger: {type: price-drp}
        trigger.type: price-drp is no trigger: give one of
    trigger: {type: price-drp}
        (did you mean price-drop?)
    trigger: {}
        trigger: there is no type: give type, one of abandoned-cart, price-drop
    trigger: price-drop
        (did you mean type: price-drop?)
    trigger: Price drop
        (did you mean type: price-drop?)
    trigger: {tpye: price-drop}
        trigger.tpye: there is no such field: use type (did you mean type?)
    trigger: [{type: price-drop}]
        trigger: a list, with hyphens, stands there: give type, one of
    trigger: {type: price-drop, least_percent: 15%}
        (did you mean 15?)
    holdout_percent: "5"
        holdout_percent: "5" is not allowed: give a number from 0 to 100 (did you mean 5?)
    priority: 7.5
        priority: 7.5 is not allowed: give a whole number from 0 to 1000
    audience: everybody
        hibernating, or leave it out for everybody
    trigger: {type: price-drop}
        trigger.least_percent: nothing is there: give a number
    trigger: {type: abandoned-cart, of: seen}
        trigger.of: there is no such field
    trigger: {type: price-drop, least_percent: 1, of: sen}
        trigger.of: sen is not allowed: give one of seen, listed (did you mean seen?)
    window: {from: 2026-05-01}
        window.from: 2026-05-01 is not allowed: give a time with Z
    window: {from: 2026-05-02T00:00:00Z, until: 2026-05-01T00:00:00Z}
        window: from 2026-05-02T00:00:00.000Z is not before until 2026-05-01T00:00:00.000Z: give an
    caps: {day: 4, week: 3}
        caps: 4 a day exceed 3 a week: give week at least 4
    coupon: {pool: a, offer: b}
        coupon: a coupon has one source: give pool or offer
    coupon: {pool: a}
        coupon: a pool has codes, an offer has none: give codes with pool alone
    coupon: {offer: a, codes: [A-1]}
        coupon: a pool has codes, an offer has none: give codes with pool alone
    coupon: {pool: a, codes: [A-1, A-1]}
        coupon: a code stands there twice: give every code once
    coupon: {offer: a, per_user: 33}
        coupon.per_user: 33 is not allowed: give a whole number from 1 to 32
    budget: {coupons: 3}
        budget: there is no coupon to spend it on: leave it out, or give a coupon
    coupon: {pool: a, codes: [A-1], computed: {count: 3}}
        coupon: codes are listed or computed: give codes or computed, one of the two
    coupon: {offer: a, computed: {count: 3}}
        coupon: a pool has codes, an offer has none: give codes with pool alone
    coupon: {pool: a, computed: {prefix: may, count: 3}}
        coupon.computed.prefix: may is not allowed: give up to 20 of A-Z, 0-9 and hyphens
    coupon: {pool: a, computed: {count: 0}}
        coupon.computed.count: 0 is not allowed: give a whole number from 1 to 1073741824
    coupon: {offers: [{offer: a, value: 1}]}
        coupon.offers[0].items: nothing is there
    coupon: {offers: [{offer: a, value: 1, items: []}]}
        coupon.offers[0].items: [] is not allowed
    coupon: {offers: [{offer: a, items: [tea]}]}
        coupon.offers[0]: there is nothing to choose by: give gain or value
    coupon: {offers: [{offer: a, value: 1, items: [tea]}, {offer: a, value: 1, items: [jam]}]}
        coupon: two offers have one name: give each its own
    coupon: {offers: [{offer: a, value: 1, items: [tea]}, {pool: b, codes: [a], value: 1, items: [jam]}]}
        coupon: a code stands there twice: give every code once
    coupon: {offer: a, offers: [{offer: b, value: 1, items: [tea]}]}
        coupon: each of offers has a source of its own: give pool, codes and value there
    coupon: {valid: 3d}
        coupon: a coupon has one source
    channels: []
        channels: [] is not allowed: give a list of channels, such as [email, push]
    channels: email
        channels: email is not allowed: give a list of channels, such as [email, push]
    expires: 0s
        expires: 0s is not allowed: give a whole number above 0 and a unit, such as 45m
    goals: {within: 0d}
        goals.within: 0d is not allowed: give a whole number above 0
    enabled: yes
        enabled: yes is not allowed: give true or false
    priority: "3"
        priority: "3" is not allowed: give a whole number from 0 to 1000
    purpose: 2024
        purpose: 2024 is not allowed: give 1 to 200 characters, in quotes
    purpose: ""
        purpose: "" is not allowed: give 1 to 200 characters
    audience: [[loyal]]
        audience[0]: ["loyal"] is no segment: give some of champions
    holdout_percent: 100.5
        holdout_percent: 100.5 is not allowed: give a number from 0
    audience: [loyal, champion]
        audience[1]: champion is no segment: give some of
    audience: price > 3
        audience: price > 3 is no segment: give some of champions
    audience: champion
        audience: champion is no segment: give some of champions
    audience: []
        audience: [] is no segment: give some of champions
    rest: 7d\nrest: 8d
        rest: rest stands here 2 times, first in line 4: leave one
    purpose: "\ud800"
        purpose: half of a surrogate pair is no character
    ? [a]\n: b
        a name is no text: give a text before the colon
"""
CASES = [case.partition("\n") for case in re.findall(r"^    (\S.*\n        .*)$", WRONG, re.MULTILINE)]
HEAD = {
    "id": "id: mugs\n",
    "trigger": "trigger: {type: abandoned-cart}\n",
    "message": "message: {template: a}\n",
}


@pytest.mark.parametrize(("text", "message"), [(text, message.strip()) for text, _, message in CASES])
def test_what_is_wrong_is_told_with_its_line_and_the_mend(text: str, message: str) -> None:
    text = text.replace(r"\n", "\n")
    head = "".join(line for field, line in HEAD.items() if not text.startswith(f"{field}:"))
    (said,) = told(head + text)
    line = (head + text).count("\n") + 1 - (text.startswith("? "))
    assert said.startswith(f"c.yaml:{line}: ")
    assert message in said


def test_the_table_is_read_whole() -> None:
    assert len(CASES) * 2 == len(WRONG.split("\n")) - 2 > 50


def test_a_file_tells_all_that_is_wrong_at_the_lines_where_it_stands() -> None:
    said = told("""id: Mugs
trigger:
  type: price-drop
  least_percent: ten
  lok_back: 3d
steps:
  - 45m
  - 10m
  - soon
  - 20m
data: {}
message:
  itms: cart
""")
    assert [re.sub(r": .*", "", each.removeprefix("c.yaml:")) for each in said] == [
        *("1", "4", "5", "8", "9", "11", "12", "13"),
    ]
    assert said[3] == "c.yaml:8: steps[1]: 10m comes before 45m: give rising delays, such as [45m, 24h]"


UNREADABLE = {
    "nothing": (b"# only a comment", 1, "the file is empty"),
    "a list": (b"- a", 1, "this is no campaign"),
    "two colons": (b"id: a\nb: c: d", 2, "this is not YAML"),
    "a tab": (b"id: a\nb:\n\t- c", 3, "this is not YAML (a tab stands there): - c: indent by spaces"),
    "two documents": (b"id: a\n---\nid: b", 2, "this is not YAML (a second document begins): ---: give"),
    "no space": (
        b"id:a\ntrigger: {type: x}",
        2,
        "this is not YAML (mapping values are not allowed here): tri",
    ),
    "open quotes": (
        b'id: a\nb: "c\nd: e\n',
        2,
        'this is not YAML (found unexpected end of stream): b: "c: cl',
    ),
    "open brackets": (
        b"id: a\nb: {c: d\ne: f\n",
        2,
        "this is not YAML (expected ',' or '}', but got ':'): b: {c",
    ),
    "a tag": (
        b"id: a\nb: !!python/object/apply:os.getcwd []",
        2,
        "the tag or anchor tag:yaml.org,2002:python",
    ),
    "an alias": (b"a: &a [b]\nc: *a", 1, "the tag or anchor a is not allowed"),
    "a loop": (b"a: &a [*a]", 1, "the tag or anchor a is not allowed"),
    "no UTF-8": (b"id: \xff", 1, "byte 4 is not UTF-8: save the file as UTF-8"),
    "a control character": (b"id: \x07", 1, "this is not YAML"),
    "too much": (b" " * (MOST_BYTES + 1), 1, "the file is too large: at most 65536 bytes"),
    "too deep": (b"data: " + b"[" * 20_000 + b"]" * 20_000, 1, "this is nested too deeply"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_told_and_nothing_is_run(name: str) -> None:
    data, line, message = UNREADABLE[name]
    loaded = load_text(data, "c.yaml", REGISTRY)
    assert loaded.campaign is None
    (problem,) = loaded.problems
    assert problem.line == line
    assert problem.message.startswith(f"c.yaml:{line}: {message}")


def test_a_space_that_is_none_is_told() -> None:
    """Programs for texts put it, and nobody sees it."""
    data = "id: a\ntrigger:\n\u00a0 type: abandoned-cart\nmessage: {template: a}\n"
    said = [problem.message for problem in load_text(data.encode(), "c.yaml", REGISTRY).problems]
    assert len(said) == 2 and "c.yaml:2: trigger: there is no type" in said[0]
    assert said[1].startswith("c.yaml:3: ") and said[1].endswith("delete it, and indent by plain spaces")


def test_a_percentage_is_read_as_the_share_that_was_meant() -> None:
    data = b"id: a\ntrigger: {type: price-drop, drop: 15%}\nmessage: {template: a}\n"
    (problem,) = load_text(data, "c.yaml").problems
    assert problem.mend == "give a share above 0 and below 1 (did you mean 0.15?)"


def test_nesting_is_bounded_where_anything_may_stand() -> None:
    deep = "[" * 60 + "]" * 60
    said = told(
        "".join(HEAD[each] for each in ("id", "trigger")) + f"message: {{template: a, data: {{a: {deep}}}}}"
    )
    assert len(said) == 1
    assert "this is nested too deeply: at most 50 levels" in said[0]


@given(
    st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
)
def test_whatever_stands_in_a_file_is_read_or_told(data: bytes) -> None:
    loaded = load_text(b"id: a\n" + data, "c.yaml", REGISTRY)
    assert loaded.campaign is None and loaded.problems
    assert all("\n" not in problem.wrong for problem in loaded.problems)


# YAML takes no control characters and folds line separators.
TEXTS = st.text(st.characters(max_codepoint=0xD7FF, exclude_categories=["Cc", "Zl", "Zp"]), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**16), 10**16) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(Campaign.__struct_fields__), PLAIN))
def test_any_document_is_a_campaign_or_has_faults(found: dict[str, Any]) -> None:
    campaign, faults = read(LEAST | found, REGISTRY)
    assert (campaign is None) == bool(faults)
    assert all(fault.path and fault.wrong and fault.mend for fault in faults)


@given(PLAIN)
def test_data_stay_as_they_are_through_yaml(data: Any) -> None:
    """JSON is YAML: a file in JSON reads as JSON does."""
    text = msgspec.json.encode(LEAST | {"message": {"template": "a", "data": {"a": data}}})
    loaded = load_text(text, "c.yaml", REGISTRY)
    assert loaded.campaign is not None
    assert loaded.campaign.message.data == {"a": data}


def test_codes_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    said = "id: may\ntrigger: {type: win-back}\nmessage: {template: t}\ncoupon: {pool: may, codes: may.txt}\n"
    (tmp_path / "may.yaml").write_text(said)
    [problem] = load(tmp_path)[0].problems
    assert (problem.line, problem.field) == (4, "coupon.codes") and "a code a line" in problem.mend
    (tmp_path / "may.txt").write_text("\ufeffM-1\r\n\r\n M-2 \r\n", newline="")
    [found] = running(str(tmp_path))
    assert found.coupon is not None and found.coupon.codes == ("M-1", "M-2")


def test_codes_and_items_of_offers_may_stand_in_files_of_their_own(tmp_path: Path) -> None:
    said = "id: may\ntrigger: {type: win-back}\nmessage: {template: t}\ncoupon:\n  offers:\n"
    said += (
        "  - {offer: tea, gain: 2, items: tea.txt}\n  - {pool: jam, codes: jam.txt, value: 1, items: [jam]}\n"
    )
    (tmp_path / "may.yaml").write_text(said)
    missing = [(each.line, each.field) for each in load(tmp_path)[0].problems]
    assert missing == [(6, "coupon.offers[0].items"), (7, "coupon.offers[1].codes")]
    (tmp_path / "tea.txt").write_text("sencha\nmatcha\n")
    (tmp_path / "jam.txt").write_text("J-1\n")
    [found] = running(str(tmp_path))
    assert found.coupon is not None
    assert [(each.name, each.codes, each.items) for each in found.coupon.offers] == [
        ("tea", (), ("sencha", "matcha")),
        ("jam", ("J-1",), ("jam",)),
    ]


def test_codes_and_items_of_all_offers_fit_into_a_message() -> None:
    items = [f"i{n}" for n in range(25_000)]
    offers = [{"offer": name, "value": 1, "items": items} for name in ("a", "b")]
    _, faults = read(LEAST | {"coupon": {"offers": offers}}, REGISTRY)
    assert [fault.wrong for fault in faults] == ["codes and items of all offers are too many"]
    offers[1]["items"] = items[2:]
    assert campaign(coupon={"offers": offers}).coupon is not None


def test_two_files_of_a_folder_have_two_ids(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml", "c.yml", "d.yaml.txt", "e.YAML", "notes.txt"):
        (tmp_path / name).write_text("# mugs\n" + "".join(HEAD.values()))
    first, second, *others = load(tmp_path, REGISTRY)
    assert first.campaign is not None
    assert problems(second) == [
        f"{tmp_path}/b.yaml:2: id: mugs is the id of {tmp_path}/a.yaml, too: give another one"
    ]
    assert [problems(each) for each in others] == [
        [f"{tmp_path}/{name}:1: files of this ending are not read: name it {name[0]}.yaml"]
        for name in ("c.yml", "d.yaml.txt", "e.YAML")
    ]


def test_the_default_campaign_cannot_become_one_of_another_type() -> None:
    said = {"id": "abandoned-cart", "trigger": {"type": "birthday"}, "message": {"template": "a"}}
    _, (fault,) = read(said, TRIGGERS)
    assert fault.message == "id: users' states of this id are of carts: give another one"


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_steps_that_a_trigger_would_not_take_are_refused(kind: str) -> None:
    def steps(*given: str) -> list[str]:
        need = {"event": {"event": "invited"}}.get(kind, {})
        said = {"id": "a", "trigger": {"type": kind, **need}, "message": {"template": "a"}}
        return [fault.message for fault in read(said | {"steps": [*given]}, TRIGGERS)[1]]

    few, many = steps("1d"), steps("1d", "2d")
    one = ("birthday", "next-best-offer", "trending-for-you")
    assert few == (
        ["steps: replenishment has a rhythm of its own: leave it out"] if kind == "replenishment" else []
    )
    assert many == (
        [f"steps: {kind} has a rhythm of its own: give one delay, or leave it out"] if kind in one else few
    )


def problems(loaded: Loaded) -> list[str]:
    return [problem.message for problem in loaded.problems]


# Versions


def test_a_document_says_all_and_reads_as_the_same_campaign() -> None:
    for text in (EVERYTHING, "".join(HEAD.values())):
        found = load_text(text.encode(), "c.yaml", REGISTRY).campaign
        assert found is not None
        assert read(document(found), REGISTRY) == (found, [])
        assert msgspec.json.decode(msgspec.json.encode(document(found))) == document(found)


def test_the_hash_is_that_of_what_is_said_not_of_how() -> None:
    same = load_text(
        b"# mugs\nsteps: []\nmessage: {most: 10, template: a}\nrest: 168h\n"
        b"trigger: {type: abandoned-cart}\nid: mugs\n",
        "c.yaml",
        REGISTRY,
    ).campaign
    plain = load_text("".join(HEAD.values()).encode(), "c.yaml", REGISTRY).campaign
    assert same is not None and plain is not None
    assert content_hash(same) == content_hash(plain)
    assert content_hash(campaign(rest="8d")) != content_hash(campaign())


def test_versions_count_what_changed_and_never_hold_earlier() -> None:
    first = successor(None, campaign(), 100)
    assert first is not None and (first.number, first.effective) == (1, 100)
    assert successor(first, campaign(), 200) is None
    second = successor(first, campaign(rest="8d"), 100)
    assert second is not None and (second.number, second.hash) == (2, content_hash(campaign(rest="8d")))
    with pytest.raises(
        ValueError, match=r"mugs: .* is before version 2 began to hold, .*: give a later time"
    ):
        successor(second, campaign(), 99)


def test_a_version_can_be_published_and_read_back() -> None:
    version = successor(
        None, campaign(steps=["45m"], trigger={"type": "price-drop", "least_percent": 5}), 100
    )
    assert version is not None
    assert decode_version(encode_version(version), REGISTRY) == version
    with pytest.raises(
        ValueError, match=r"trigger.type: price-drop is no trigger: give one of abandoned-cart"
    ):
        decode_version(encode_version(version), {"abandoned-cart": NoParameters})


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"campaign":{},"number":0,"hash":"","effective":0}'])
def test_what_is_no_version_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="this is no version of a campaign"):
        decode_version(data, TRIGGERS)


def test_differences_are_told_field_by_field() -> None:
    old = campaign(steps=["45m", "24h"], coupon={"pool": "may", "codes": ["A"]})
    new = campaign(steps=["1h"], message={"template": "mugs", "data": {"title": {"de": "Tassen"}}})
    assert diff(old, old) == []
    assert diff(old, new) == [
        Change("coupon.pool", "may", None),
        Change("coupon.codes", ["A"], None),
        Change("coupon.value", 0.0, None),
        Change("coupon.per_user", 1, None),
        Change("coupon.valid", "14d", None),
        Change("coupon.floor_percent", 0.0, None),
        Change("coupon.offers", [], None),
        Change("steps", ["45m", "1d"], ["1h"]),
        Change("message.data.title.de", None, "Tassen"),
    ]
    assert Change("id", None, "mugs") in diff(None, new)
    assert {each.field for each in diff(new, None)} == {each.field for each in diff(None, new)}


@given(st.integers(946_684_800_000, 4_000_000_000_000))
def test_moments_are_told_as_they_are_read(ms: int) -> None:
    assert Instant.read(str(Instant(ms))) == ms


# Commands


def test_validate_tells_all_problems_and_ends_with_1(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "campaigns").mkdir()
    file = tmp_path / "campaigns" / "a.yaml"
    file.write_text("".join(HEAD.values()))
    good = cli("campaigns", "validate")
    assert (good.code, good.out) == (0, "1 campaigns, 0 problems\n")
    file.write_text("".join(HEAD.values()) + "steps: [45m, 10m]\nrest: 7\n")
    bad = cli("campaigns", "validate")
    assert bad.code == 1
    assert bad.out.splitlines()[0].startswith(
        "campaigns/a.yaml:4: steps[1]: 10m comes before 45m: give rising"
    )
    assert bad.out.splitlines()[-1] == "1 campaigns, 2 problems"
    found = cli("campaigns", "validate", file, "--json").json
    assert isinstance(found, dict) and (found["campaigns"], found["problems"]) == (1, 2)
    assert [(each["line"], each["field"], each["value"]) for each in found["found"]] == [
        (4, "steps[1]", "10m"),
        (5, "rest", "7"),
    ]


def test_validate_needs_something_to_check(cli: Cli) -> None:
    assert cli("campaigns", "validate").code == 2
    assert cli("campaigns", "validate", "nowhere").code == 2
    said = cli("campaigns", "report", "--log", "log.jsonl")
    assert said.code == 2 and "path 'campaigns' does not exist" in said.err


def test_values_are_shown_as_they_are(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("id: a:x:[red]b\ntrigger: {type: welcome}\nmessage: {template: a}\n")
    assert "a.yaml:1: id: a:x:[red]b is not allowed" in cli("campaigns", "validate", "a.yaml").out


def test_diff_of_files_and_of_folders(cli: Cli, tmp_path: Path) -> None:
    for folder, rest in (("old", "7d"), ("new", "1h")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").write_text("".join(HEAD.values()) + f"rest: {rest}\n")
        (tmp_path / folder / f"{folder}.yaml").write_text("".join(HEAD.values()).replace("mugs", folder))
    files = cli("campaigns", "diff", "old/a.yaml", "new/a.yaml")
    assert (files.code, files.out) == (0, "mugs\n  rest: 7d → 1h\n")
    assert cli("campaigns", "diff", "old", "old").out == "no difference\n"
    folders = cli("campaigns", "diff", "old", "new", "--json").json
    assert isinstance(folders, dict) and set(folders) == {"mugs", "new", "old"}
    assert folders["mugs"] == [{"field": "rest", "old": "7d", "new": "1h"}]
    shown = cli("campaigns", "diff", "old", "new").out
    assert "new (new)\n" in shown and "old (gone)\n" in shown
    assert cli("campaigns", "diff", "old", "new/a.yaml").code == 2
    (tmp_path / "old" / "a.yaml").write_text("id: a")
    wrong = cli("campaigns", "diff", "old", "new")
    assert wrong.code == 1 and "old/a.yaml:1: trigger: nothing is there" in wrong.err
