"""The command line: help, exit codes, JSON, against real servers and against none."""

from __future__ import annotations

import gzip
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from redis import Redis

from state.keys import Keys
from state.model import View, version
from stream.cli import app
from stream.cli.common import CODES
from stream.cli.sources import First, Simulated
from stream.codec import Limits
from stream.core import views
from stream.core.arms import Arms
from stream.core.attribution import ITEMS, USERS, Key
from stream.core.engaged import CartLine, Choice, Timer, UserState
from stream.core.items import Items, item_hash
from stream.core.metrics import metrics_view
from stream.core.users import Bounds, Rows, advance, pack
from stream.core.weights import Decay
from stream.embedded import free_port
from stream.events import CODE
from stream.ownership import partition_of
from stream.settings import Settings
from stream.topics import TOPICS
from tests.commands import Cli

COMMANDS = (
    *("up", "worker", "demo", "replay", "validate", "metrics", "digest", "mend", "doctor"),
    *("evaluate", "compare", "refresh", "explain", "audience"),
    *("topics create", "lookup recs", "lookup neighbors", "lookup trending", "lookup user"),
    *("loyalty draw", "lookup loyalty"),
    *("lookup cart", "lookup together", "campaigns dry-run"),
    *("campaigns validate", "campaigns diff", "campaigns publish", "campaigns status", "campaigns report"),
)
GOOD = b'{"id":"e1","type":"view_item","time":"2026-05-01T12:30:00Z","user":"ann","item":"mug"}'
ITEM = b'{"type":"item","item":"mug","name":"Red mug"}'
BAD = b'{"type":"view_item","time":"yesterday","user":"ann","item":"mug"}'


def without_style(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help_that_tells_exit_codes(cli: Cli, command: str) -> None:
    told = cli(*command.split(), "--help")
    assert told.code == 0
    text = " ".join(without_style(told.out).split())
    assert "Exit codes: 0 done" in text
    assert "Usage: tidewise" in text


def test_there_is_no_command_without_a_test_of_its_help() -> None:
    def leaves(group: object, before: str = "") -> set[str]:
        found: set[str] = set()
        for name, command in getattr(group, "commands", {}).items():
            below = leaves(command, f"{before}{name} ")
            found |= below or {f"{before}{name}"}
        return found

    from typer.main import get_command

    assert leaves(get_command(app)) == set(COMMANDS)


def test_results_can_be_had_as_json_wherever_there_is_one(cli: Cli) -> None:
    without = {c for c in COMMANDS if "--json" not in without_style(cli(*c.split(), "--help").out)}
    assert without == {"worker"}


def test_help_is_quick() -> None:
    """None of what makes the worker slow to start is imported for it."""
    code = "import sys; import stream.cli; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    heavy = {"faust", "aiokafka", "numpy", "scipy", "redis", "pydantic", "pyarrow"}
    assert not heavy & set(found.stdout.split())


def test_codes_are_told_once_and_in_order() -> None:
    numbers = [int(part.split()[0]) for part in CODES.removesuffix(".").split(";")]
    assert numbers == sorted(set(numbers)) == [0, 1, 2, 3, 4, 5, 6, 130]


# Usage and settings


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["replay"],
        ["replay", "no-such-file.jsonl"],
        ["replay", "simulator", "--resume", "file"],
        ["replay", "simulator", "--speed", "0"],
        ["validate", "no-such-file.jsonl"],
        ["lookup", "recs"],
        ["demo", "--lines", "3"],
    ],
)
def test_wrong_usage_ends_with_2(cli: Cli, words: list[str]) -> None:
    told = cli(*words)
    assert told.code == 2
    assert told.err and not told.out


def test_wrong_settings_are_named_with_what_would_be_right(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEWISE_PARTITIONS", "0")
    told = cli("doctor")
    assert told.code == 2
    assert "setting partitions = '0'" in told.err and "greater than or equal to 1" in told.err


@pytest.mark.parametrize(
    "toml", ["no_such_setting = 1", "partitions = ", "partitions = true\npartitions = 2", "cart_after_s = []"]
)
def test_a_wrong_toml_file_is_told_without_a_trace(cli: Cli, tmp_path: Path, toml: str) -> None:
    (tmp_path / "tidewise.toml").write_text(toml)
    told = cli("worker")
    assert told.code == 2
    assert "Traceback" not in told.err and told.err


# Nobody there


@pytest.mark.parametrize(
    "words",
    [
        ["lookup", "recs", "ann"],
        ["lookup", "trending"],
        ["lookup", "user", "ann"],
        ["metrics"],
        ["digest"],
        ["mend"],
        ["topics", "create"],
        ["replay", "simulator", "--events", "10"],
        ["doctor"],
    ],
)
def test_servers_that_are_not_there_end_with_1_and_a_hint(cli: Cli, words: list[str]) -> None:
    begin = time.monotonic()
    told = cli(*words)
    assert told.code == 1
    said = told.err + told.out
    assert "TIDEWISE_BROKER_URL" in said or "TIDEWISE_STORE_URL" in said
    assert "Traceback" not in said
    assert time.monotonic() - begin < 5


def test_a_port_that_is_taken_is_told(cli: Cli, broker_url: str) -> None:
    told = cli("up", "--broker-port", broker_url.rsplit(":", 1)[1])
    assert told.code == 1
    assert "is taken: choose another" in told.err


# validate


def test_validate_finds_nothing_wrong_with_a_good_log(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(GOOD + b"\n\n" + ITEM + b"\n")
    told = cli("validate", "log.jsonl", "--json")
    assert told.code == 0
    assert told.json == {"lines": 2, "problems": 0, "found": []}


def test_validate_names_line_field_value_and_mend(cli: Cli, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.jsonl.gz", "wb") as log:
        log.write(GOOD + b"\n" + BAD + b"\nnonsense\n")
    told = cli("validate", "log.jsonl.gz", "--json")
    assert told.code == 1
    found = orjson.loads(told.out)
    assert (found["lines"], found["problems"]) == (3, 2)
    first, second = found["found"]
    assert (first["line"], first["code"], first["field"], first["value"]) == (
        2,
        "bad-time",
        "time",
        '"yesterday"',
    )
    assert "RFC 3339" in first["expected"]
    assert (second["line"], second["code"]) == (3, "not-json")
    shown = cli("validate", "log.jsonl.gz", "--show", "1")
    assert shown.code == 1
    assert shown.out.splitlines()[0].startswith("log.jsonl.gz:2: time")
    assert shown.out.splitlines()[-1] == "3 lines, 2 problems"


def test_validate_tells_a_file_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(GOOD)[:-9])
    told = cli("validate", "log.jsonl.gz")
    assert told.code == 1
    assert "cannot be read" in told.err


# Topics, doctor


def test_topics_are_made_once_and_the_doctor_is_content(
    cli: Cli, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings()
    ill = cli("doctor", "--json", settings=settings)
    assert ill.code == 1
    wrong = [each for each in orjson.loads(ill.out) if each["level"] == "error"]
    assert len(wrong) == len(TOPICS) and {each["mend"] for each in wrong} == {"tidewise topics create"}
    made = orjson.loads(cli("topics", "create", "--json", settings=settings).out)
    assert {each["created"] for each in made} == {True} and len(made) == len(TOPICS)
    again = cli("topics", "create", settings=settings)
    assert again.code == 0 and again.out.count("was there") == len(TOPICS)
    well = cli("doctor", settings=settings)
    assert well.code == 0
    assert f"topics: {len(TOPICS)} topics with 4 partitions each" in well.out


def test_another_number_of_partitions_is_refused(cli: Cli, settings: Settings) -> None:
    told = cli("topics", "create", settings=settings.model_copy(update={"partitions": 5}))
    assert told.code == 1
    assert "TIDEWISE_PARTITIONS=4" in told.err


def test_a_worker_refuses_a_store_of_another_deployment(cli: Cli, settings: Settings) -> None:
    with Redis.from_url(settings.store_url) as redis:
        redis.hset(Keys(settings.prefix).deployment(), mapping={"partitions": "7"})
    told = cli("worker", settings=settings)
    assert told.code == 3
    assert "made with 7 partitions" in told.err


# lookup


def recs_view(user: str, items: list[dict[str, object]]) -> bytes:
    time_text = views.iso_time(1_700_000_000_000)
    view = {"version": version(1, 1), "id": "x", "time": time_text, "user": user, "items": items}
    return orjson.dumps(view)


def test_nobody_knows_anything_ends_with_4(cli: Cli, settings: Settings) -> None:
    for words in (["recs", "ann"], ["neighbors", "mug"], ["trending"], ["user", "ann"]):
        told = cli("lookup", *words, "--json", settings=settings)
        assert (told.code, told.out) == (4, ""), words
        assert "nothing is known" in told.err
    told = cli("metrics", settings=settings)
    assert told.code == 4 and "nothing is known" in told.err


def test_what_lists_bring_about_is_shown_by_strategy_and_arm(cli: Cli, settings: Settings) -> None:
    arms = Arms.of(Settings(arms={"old": 50, "new": 50}))
    counts = {Key(0, USERS, arm, arms.experiment): [100, n, n] for arm, n in (("old", 0), ("new", 50))}
    counts[Key(20_000, ITEMS, "new", "item-item")] = [200, 50, 50, 0, 12345, 0, 45]
    with Redis.from_url(settings.store_url) as redis:
        redis.set(Keys(settings.prefix).metrics(), metrics_view(version(1, 1), 0, counts, arms))
    found = orjson.loads(cli("metrics", "--json", settings=settings).out)
    assert found["strategies"][0]["ctr"]["value"] == 0.25 and found["tests"][0]["ratio"]["value"] is None
    shown = cli("metrics", settings=settings).out
    for said in ("item-item", "25.00 %", "123.00", "clickers, new against old: ∞ times as many"):
        assert said in shown, shown


def test_a_list_is_shown_with_names_and_reasons(cli: Cli, settings: Settings) -> None:
    keys = Keys(settings.prefix)
    line = {"item": "mug", "score": 0.5, "strategy": "item-item", "because": ["te[a]"]}
    put = View(keys.recs("ann"), recs_view("ann", [line]))
    with Redis.from_url(settings.store_url) as redis:
        redis.set(put.key, put.value)
        redis.set(keys.item("mug"), views.item_view(version(1, 1), 0, {"item": "mug", "name": "Red mug"}))
    found = orjson.loads(cli("lookup", "recs", "ann", "--json", settings=settings).out)
    assert found["items"] == [line] and not found["fallback"]
    shown = cli("lookup", "recs", "ann", settings=settings).out
    assert "Red mug (mug)" in shown and "te[a]" in shown


def test_without_a_list_what_is_trending_is_shown_and_said(cli: Cli, settings: Settings) -> None:
    trending = views.trending_view(version(1, 1), "x", 0, [("mug", 3.0)])
    with Redis.from_url(settings.store_url) as redis:
        redis.set(Keys(settings.prefix).trending(), trending)
    found = orjson.loads(cli("lookup", "recs", "ann", "--json", settings=settings).out)
    assert found["fallback"] and [line["item"] for line in found["items"]] == ["mug"]
    assert "what is trending" in cli("lookup", "recs", "ann", settings=settings).out


def test_what_is_trending_where_a_stranger_is_comes_first(cli: Cli, settings: Settings) -> None:
    keys = Keys(settings.prefix)
    tops = {"": "mug", "device=mobile": "tea", "hour=18-23": "rum"}
    with Redis.from_url(settings.store_url) as redis:
        for name, item in tops.items():
            view = views.trending_view(version(1, 1), "x", 0, [(item, 3.0)], name)
            redis.set(keys.trending(name), view)

    def listed(*words: str) -> list[str]:
        return [line["item"] for line in orjson.loads(cli(*words, "--json", settings=settings).out)["items"]]

    recs = ("lookup", "recs", "ann")
    assert listed(*recs, "--device", "mobile", "--place", "DE", "--hour", "20") == ["tea"]
    assert listed(*recs, "--device", "web", "--hour", "20") == ["rum"]
    assert listed(*recs, "--device", "web") == listed(*recs) == ["mug"]
    assert listed("lookup", "trending", "--segment", "device=mobile") == ["tea"]
    assert "(device=mobile)" in cli(*recs, "--device", "mobile", settings=settings).out


def test_what_is_kept_of_a_user_is_told_in_words(cli: Cli, settings: Settings) -> None:
    """An item is named if a list, the cart or a row names it, else by its hash."""
    keys, part = Keys(settings.prefix), f"u{partition_of('ann', settings.partitions)}"
    with Redis.from_url(settings.store_url) as redis:
        redis.set(keys.user(part, "ann"), packed_user(["mug", "tea", "lost"]))
        redis.set(keys.engagement(part, "ann"), cart_of("pot").pack())
        redis.set(keys.recs("ann"), recs_view("ann", [{"item": "pot", "score": 1, "because": ["mug"]}]))
        redis.set(keys.row(f"i{partition_of('tea', settings.partitions)}", "tea"), b"")
    found = orjson.loads(cli("lookup", "user", "ann", "--json", settings=settings).out)
    lost = f"#{item_hash('lost'):016x}"
    history = [(each["item"], each["type"], each["time"]) for each in found["history"]]
    assert history == [
        (lost, "purchase", "2023-11-14T22:13:22.000Z"),
        ("tea", "view_item", "2023-11-14T22:13:21.000Z"),
        ("mug", "view_item", "2023-11-14T22:13:20.000Z"),
    ]
    shares = {each["item"]: each["share"] for each in found["interest"]}
    assert next(iter(shares)) == lost and shares[lost] == pytest.approx(4 / 6, abs=0.01)
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert found["interactions"] == 3 and found["newest"] == "2023-11-14T22:13:22.000Z"
    assert found["channels"] == {"email": True} and found["purposes"] == {}
    assert [(line["item"], line["quantity"], line["price"]) for line in found["cart"]] == [("pot", 2, 9.5)]
    assert [(each["rule"], each["due"]) for each in found["timers"]] == [
        ("abandoned-cart", "2023-11-14T23:13:20.000Z")
    ]
    shown = cli("lookup", "user", "ann", settings=settings)
    assert shown.code == 0 and lost in shown.out and "email: yes" in shown.out


def packed_user(names: list[str]) -> bytes:
    """A user who looked at all, a second apart, and bought the last."""
    items = Items()
    n = len(names)
    kind = np.array([CODE["view_item"]] * (n - 1) + [CODE["purchase"]], dtype=np.uint8)
    units = np.array([8] * (n - 1) + [32], dtype=np.int64)
    time_ms = 1_700_000_000_000 + 1000 * np.arange(n, dtype=np.int64)
    user, item = np.zeros(n, dtype=np.int64), items.ids(names)
    blank, decay = Rows.blank(1, Bounds()), Decay(86_400_000)
    (blob,) = pack(advance(blank, user, item, kind, time_ms, units, np.arange(n), decay, items.hashes), items)
    return blob


def cart_of(item: str) -> UserState:
    now = 1_700_000_000_000
    due = now + 3_600_000
    return UserState(
        identified=True,
        channels={"email": Choice(True, now)},
        cart={item: CartLine(2, 9.5, now)},
        changed=now,
        pending={"abandoned-cart": Timer(due, due)},
    )


# replay and digest


def test_replay_tells_what_it_sent_and_digest_that_nobody_took_it(
    cli: Cli, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_bytes(GOOD + b"\n" + GOOD.replace(b"e1", b"e2") + b"\n" + ITEM + b"\n")
    told = cli("replay", "log.jsonl", "--json", "--resume", "state", settings=settings)
    assert told.code == 0
    found = orjson.loads(told.out)
    assert (found["events"], found["items"], found["skipped"]) == (3, 1, 0)
    again = orjson.loads(cli("replay", "log.jsonl", "--json", "--resume", "state", settings=settings).out)
    assert (again["events"], again["skipped"]) == (0, 3)
    one = orjson.loads(cli("replay", "log.jsonl", "--json", "--limit", "1", settings=settings).out)
    assert one["events"] == 1
    unsettled = cli("digest", "--wait", "0", settings=settings)
    assert unsettled.code == 5
    assert "Is a worker running?" in unsettled.err


def test_a_bad_line_stops_a_replay_with_its_place(cli: Cli, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(GOOD + b"\n" + BAD + b"\n")
    told = cli("replay", "log.jsonl", settings=settings)
    assert told.code == 1
    assert "log.jsonl:2: time" in told.err


def test_an_empty_deployment_has_a_digest(cli: Cli, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(partitions=1)
    assert cli("topics", "create", settings=settings).code == 0
    found = orjson.loads(cli("digest", "--json", settings=settings).out)
    assert found["users"] == found["items"] == found["events"] == 0
    assert re.fullmatch("[0-9a-f]{32}", found["digest"])
    shown = cli("digest", settings=settings).out
    assert f"digest           {found['digest']}\n" in shown


def test_a_simulated_shop_is_replayed(cli: Cli, settings: Settings) -> None:
    told = cli("replay", "simulator", "--events", "100", "--array-size", "10", settings=settings)
    assert told.code == 0
    assert "500 (400 of the catalogue)" in told.out and "simulated" in told.out


@pytest.mark.parametrize(("speed", "begins_s"), [(None, -5.0), (1.0, 0.0), (5.0, -4.0), (0.5, 0.0)])
def test_simulated_events_are_never_of_the_future(speed: float | None, begins_s: float) -> None:
    """100 events take 5 s of event time; the last one happens when it is sent, or earlier."""
    now = 1_700_000_000_000
    entries = list(Simulated(1, 100, speed, now).entries())
    assert entries[0].time == now + begins_s * 1000
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
    limits = Limits.of(Settings.model_construct())
    from producers.envelope import faults

    assert not [why for entry in entries for why in faults(entry.data, limits)]
    assert len(list(First(Simulated(1, 100, speed, now), 7).entries())) == 7


# up


def test_up_tells_its_addresses_and_ends_when_asked(tmp_path: Path) -> None:
    ports = {"broker": free_port(), "store": free_port()}
    options = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    command = [sys.executable, "-m", "stream.cli", "up", "--json", *options]
    with (tmp_path / "log").open("wb") as log:
        one = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path, text=True)
    try:
        watch = threading.Timer(40, one.kill)
        watch.start()
        assert one.stdout is not None
        told = orjson.loads("".join(iter(one.stdout.readline, "}\n")) + "}")
        assert told == {
            "broker_url": f"kafka://127.0.0.1:{ports['broker']}",
            "store_url": f"redis://127.0.0.1:{ports['store']}/0",
        }
        with Redis.from_url(told["store_url"]) as redis:
            assert redis.hget(Keys().deployment(), "partitions") == b"4"
        one.send_signal(signal.SIGINT)
        assert one.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        watch.cancel()
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()
    assert not is_open(ports["broker"]) and not is_open(ports["store"])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
