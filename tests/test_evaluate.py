"""`tidewise evaluate` and `tidewise compare` on files small enough to write down."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.times import time_text
from tests.commands import Cli, Result

MEASURES = ("precision", "recall", "f1", "ndcg", "mrr", "hit", "coverage", "gini", "novelty", "popularity")
USERS, ITEMS, EVENTS = 12, 9, 5


def walks(users: int = USERS, events: int = EVENTS) -> dict[str, list[str]]:
    """Users who walk along a ring of items."""
    return {f"u{n}": [f"i{(n + at) % ITEMS}" for at in range(events)] for n in range(users)}


def sequences() -> str:
    return "".join(f"{user} {' '.join(items)}\n" for user, items in walks().items())


def clicks() -> str:
    rows = [
        f"{user}\t{item}\t{1_400_000_000 + 60 * at + n}.5"
        for n, (user, items) in enumerate(walks().items())
        for at, item in enumerate(items)
    ]
    return "\n".join(["SessionId\tItemId\tTime", *rows]) + "\n"


def pairs() -> str:
    return "".join(json.dumps([items[:-1], items[-1]]) + "\n" for items in walks().values())


def baskets() -> str:
    return json.dumps({user: [[a, b] for a, b in itertools.pairwise(row)] for user, row in walks().items()})


def events() -> str:
    rows: list[dict[str, Any]] = [
        {"type": "item", "item": f"i{n}", "attributes": {"color": f"c{n % 3}"}} for n in range(ITEMS)
    ]
    for at in range(EVENTS):
        for n, (user, items) in enumerate(walks().items()):
            time = time_text(1_780_000_000_000 + 3_600_000 * at + 1000 * n)
            rows.append({"type": "view_item", "time": time, "user": user, "item": items[at]})
    return "".join(json.dumps(row) + "\n" for row in rows)


FORMS: dict[str, Callable[[], str]] = {
    "sequences.txt": sequences,
    "clicks.txt": clicks,
    "pairs.jsonl": pairs,
    "baskets.json": baskets,
    "events.jsonl": events,
    "events.ndjson": events,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the same shop in every form, attributes and two configurations."""
    for name, made in FORMS.items():
        (tmp_path / name).write_text(made())
    about = {f"i{n}": [f"c{n % 3}", f"m{n % 2}"] for n in range(ITEMS)}
    (tmp_path / "about.json").write_text(json.dumps(about))
    (tmp_path / "plain.toml").write_text('components = ["popular"]\n')
    (tmp_path / "full.toml").write_text('components = ["item-item", "repeat", "popular"]\n')
    return tmp_path


def metrics(told: Result, place: int = -1) -> dict[str, Any]:
    """Of a line of JSON, the last one by default."""
    assert told.code == 0, told.err
    found = json.loads(told.out.splitlines()[place])
    assert set(found) == {"data", "protocol", "metrics"}
    return dict(found)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_one_line_of_json(cli: Cli, data: Path, form: str) -> None:
    told = cli("evaluate", form, "--json")
    assert len(told.out.splitlines()) == 1
    found = metrics(told)
    assert (found["data"], found["protocol"]) == (form, "prequential")
    expected = {f"{name}@{k}" for name in MEASURES for k in (5, 10, 20)}
    described = {f"diversity@{k}" for k in (5, 10, 20)} if "events" in form else set()
    assert set(found["metrics"]) == expected | described
    for one in found["metrics"].values():
        assert set(one) == {"value", "low", "high"}
        assert np.isfinite([*one.values()]).all()
    assert found["metrics"]["hit@10"]["value"] > 0


@pytest.mark.parametrize(
    ("form", "protocol", "options"),
    [
        ("sequences.txt", "leave-one-out", ["--attributes", "about.json"]),
        ("clicks.txt", "leave-one-out", []),
        ("clicks.txt", "sessions", ["--test", "clicks.txt"]),
        ("pairs.jsonl", "sessions", ["--test", "pairs.jsonl", "--online"]),
        ("clicks.txt", "sessions", []),
        ("baskets.json", "next-basket", []),
        ("baskets.json", "next-basket", ["--static"]),
        ("events.jsonl", "next-basket", []),
        ("events.jsonl", "prequential", ["--limit", "40"]),
    ],
)
def test_protocols(cli: Cli, data: Path, form: str, protocol: str, options: list[str]) -> None:
    found = metrics(cli("evaluate", form, "--protocol", protocol, *options, "--k", "3", "--json"))
    assert found["protocol"] == protocol
    wanted = {f"{name}@3" for name in MEASURES}
    assert wanted <= set(found["metrics"]) <= wanted | {"diversity@3"}
    assert ("diversity@3" in found["metrics"]) == ("about.json" in options or form == "events.jsonl")


def test_what_leave_one_out_cannot_ask_is_told(cli: Cli, data: Path) -> None:
    (data / "again.txt").write_text("a 1 2 3\nb 1 2 1\nc 1 2\nd 4 5 4\n")
    told = cli("evaluate", "again.txt", "--protocol", "leave-one-out")
    assert "3 queries of 3 users" in told.err and "1 users with fewer than three events" in told.err
    assert "67% of the targets were had before" in told.err
    assert "had before" not in cli("evaluate", "sequences.txt", "--protocol", "leave-one-out").err


def test_the_next_item_of_a_ring_is_found(cli: Cli, data: Path) -> None:
    """A user has had four of nine items, so that chance would find the fifth in two of five lists."""
    found = metrics(cli("evaluate", "sequences.txt", "--protocol", "leave-one-out", "--k", "2", "--json"))
    assert found["metrics"]["hit@2"]["value"] > 0.8


def test_a_configuration_counts_and_another_is_compared_with_it(cli: Cli, data: Path) -> None:
    words = ("evaluate", "sequences.txt", "--protocol", "leave-one-out", "--k", "2")
    plain = metrics(cli(*words, "--config", "plain.toml", "--json"))["metrics"]
    told = cli(*words, "--config", "plain.toml", "--compare", "full.toml", "--json")
    labels = [json.loads(line)["data"] for line in told.out.splitlines()]
    assert labels == ["sequences.txt: full.toml − plain.toml", "sequences.txt: full.toml", "sequences.txt"]
    difference, other, last = (metrics(told, place)["metrics"] for place in range(3))
    assert last == plain
    for name, one in difference.items():
        assert one["value"] == pytest.approx(other[name]["value"] - last[name]["value"])
    assert difference["hit@2"]["low"] > 0
    shown = cli(*words, "--config", "plain.toml", "--compare", "full.toml")
    assert shown.code == 0
    assert "full.toml − plain.toml" in shown.out
    assert "coverage@2" in shown.out


def test_components_are_measured_alone_and_left_out(cli: Cli, data: Path) -> None:
    words = ("evaluate", "sequences.txt", "--config", "full.toml", "--components")
    told = cli(*words, "--json")
    names = [json.loads(line)["data"].removeprefix("sequences.txt: ") for line in told.out.splitlines()]
    each = ["item-item", "repeat", "popular"]
    assert names == [*(f"{how} {name}" for name in each for how in ("only", "without")), "sequences.txt"]
    found = dict(zip(names, (metrics(told, at)["metrics"] for at in range(7)), strict=True))
    # Nobody comes back to an item: what he had finds nothing.
    assert found["only repeat"]["hit@5"]["value"] == 0 < found["without repeat"]["hit@5"]["value"]
    shown = cli(*words).out
    assert all(f"{how} {name}" in shown for name in each for how in ("only", "without"))
    assert all(f"{name}@10" in shown for name in ("ndcg", "recall", "mrr", "hit", "coverage"))


@pytest.mark.parametrize("name", ["bars.png", "bars.svg"])
def test_a_picture_is_drawn(cli: Cli, data: Path, name: str) -> None:
    told = cli("evaluate", "sequences.txt", "--protocol", "leave-one-out", "--plot", name)
    assert told.code == 0
    assert f"{name} written" in told.err
    written = (data / name).read_bytes()
    assert written.startswith(b"\x89PNG") if name.endswith("png") else b"<svg" in written


def test_a_curve_by_week_is_drawn_of_each_configuration(cli: Cli, data: Path) -> None:
    weeks = [
        {
            "type": "view_item",
            "time": time_text(1_780_000_000_000 + 7 * 86_400_000 * at),
            "user": user,
            "item": row[at],
        }
        for at in range(EVENTS)
        for user, row in walks().items()
    ]
    (data / "weeks.jsonl").write_text("".join(json.dumps(event) + "\n" for event in weeks))
    told = cli("evaluate", "weeks.jsonl", "--compare", "plain.toml", "--plot", "weeks.svg")
    assert told.code == 0
    drawn = (data / "weeks.svg").read_text()
    assert "<!-- week -->" in drawn
    assert "<!-- plain.toml -->" in drawn


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere.txt"], 1, "nowhere.txt: there is no such file"),
        (["."], 1, ".: cannot be read: Is a directory"),
        (["bad.jsonl"], 1, 'bad.jsonl:1: time: this is not a time: "yesterday"; expected RFC 3339'),
        (["bad.txt"], 1, "bad.txt, line 2: Time is 'noon', should be seconds since 1970"),
        (["bad.json"], 1, "bad.json: 'u1' has 3, should be {user: [[item, …], …]}"),
        (["sequences.txt", "--attributes", "bad.json"], 1, "'u1' has 3, should be {item: [value, …]}"),
        (["sequences.txt", "--protocol", "coupons", "--k", "3"], 2, "ranks coupons, not lists"),
        (["sequences.txt", "--protocol", "coupons"], 1, "coupons are known of complete-journey alone"),
        (["short.txt", "--protocol", "leave-one-out"], 1, "no user has enough events for this protocol"),
        (["sequences.txt", "--protocol", "guess"], 2, "Invalid value for '--protocol'"),
        (["sequences.txt", "--config", "none.toml"], 2, "'--config': path 'none.toml' does not exist"),
        (["sequences.txt", "--compare", "none.toml"], 2, "'--compare': path 'none.toml' does not exist"),
        (["sequences.txt", "--attributes", "none"], 2, "'--attributes': path 'none' does not exist"),
        (["sequences.txt", "--config", "wrong.toml"], 2, "setting diversity = 3: Input should be less"),
        (["sequences.txt", "--config", "unknown.toml"], 2, "setting colour = 'red'"),
        (["sequences.txt", "--k", "5,x"], 2, "--k: 5,x: should be numbers, such as 5,10,20"),
        (["sequences.txt", "--k", "51"], 2, "--k: 51: should be from 1 to 50"),
        (["sequences.txt", "--limit", "0"], 2, "'--limit'"),
        (["sequences.txt", "--online"], 2, "--protocol sessions alone"),
        (["sequences.txt", "--test", "clicks.txt"], 2, "--protocol sessions alone"),
        (["sequences.txt", "--static"], 2, "--protocol next-basket alone"),
        (["sequences.txt", "--plot", "no/such.png"], 2, "there is no folder no"),
        (["sequences.txt", "--plot", "x.foo"], 2, "x.foo: should end with one of"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(
    cli: Cli, data: Path, words: list[str], code: int, says: str
) -> None:
    (data / "bad.jsonl").write_text('{"type":"view_item","time":"yesterday","user":"ann","item":"mug"}\n')
    (data / "bad.txt").write_text("SessionId\tItemId\tTime\n1\t2\tnoon\n")
    (data / "bad.json").write_text('{"u1": 3}')
    (data / "short.txt").write_text("a 1 2\nb 2 1\n")
    (data / "wrong.toml").write_text("diversity = 3\n")
    (data / "unknown.toml").write_text('colour = "red"\n')
    told = cli("evaluate", *words)
    assert told.code == code, told.err
    said = " ".join(told.err.replace("│", " ").split())
    assert says in said
    assert "Traceback" not in said
    assert not told.out


# Two configurations on one log


def test_equal_configurations_change_no_list(cli: Cli, data: Path) -> None:
    told = cli("compare", "full.toml", "full.toml", "events.jsonl", "--json")
    found: Any = told.json
    assert told.code == 0
    # One list before each event of a user's after his first.
    assert (found["lists"], found["users"]) == (USERS * (EVENTS - 1), USERS)
    assert (found["changed"], found["changed_users"], found["overlap"]) == (0, 0, 1.0)
    assert found["examples"] == []
    assert {one["value"] for one in found["differences"].values()} == {0}


def test_compare_tells_which_lists_change_whose_how_and_measure_by_measure(cli: Cli, data: Path) -> None:
    words = ("compare", "plain.toml", "full.toml", "events.jsonl", "--k", "3")
    told = cli(*words, "--json")
    found: Any = told.json
    assert told.code == 0
    assert 0 < found["changed"] <= found["lists"]
    assert 0 < found["changed_users"] <= found["users"]
    assert 0 <= found["overlap"] < 1
    a, b = (
        metrics(cli("evaluate", "events.jsonl", "--config", config, "--k", "3", "--json"))["metrics"]
        for config in ("plain.toml", "full.toml")
    )
    assert set(found["differences"]) == set(a)
    for name, one in found["differences"].items():
        assert one["value"] == pytest.approx(b[name]["value"] - a[name]["value"])
        assert one["low"] <= one["high"]
    for example in found["examples"]:
        assert example["user"] in walks()
        assert not set(example["gone"]) & set(example["come"])
        assert {*example["gone"], *example["come"]} <= {f"i{n}" for n in range(ITEMS)}
    shown = cli(*words).out
    first = found["examples"][0]
    assert f"{found['changed']} of {found['lists']} lists change, of {found['changed_users']} of" in shown
    assert f"{first['user']}: out {', '.join(first['gone']) or '–'}" in shown
    assert all(name in shown for name in found["differences"])


def test_compare_sees_a_rule(cli: Cli, data: Path) -> None:
    rule = '[[rules]]\nwhen = \'item == "i4"\'\ndo = "exclude"\n'
    (data / "without.toml").write_text((data / "full.toml").read_text() + rule)
    found: Any = cli("compare", "full.toml", "without.toml", "events.jsonl", "--json").json
    assert found["changed"] > 0
    assert all("i4" not in one["come"] for one in found["examples"])
    assert any("i4" in one["gone"] for one in found["examples"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["full.toml", "none.toml", "events.jsonl"], 2, "'b': path 'none.toml' does not exist"),
        (["full.toml", "full.toml", "none.jsonl"], 1, "none.jsonl: there is no such file"),
        (["full.toml", "broken.toml", "events.jsonl"], 2, "the TOML file cannot be read"),
        (["full.toml", "full.toml", "events.jsonl", "--limit", "1"], 1, "there is nothing to predict"),
    ],
)
def test_what_compare_cannot_do_is_told(cli: Cli, data: Path, words: list[str], code: int, says: str) -> None:
    (data / "broken.toml").write_text("components = [\n")
    told = cli("compare", *words)
    assert told.code == code
    assert says in " ".join(told.err.replace("│", " ").split())
    assert "Traceback" not in told.err
