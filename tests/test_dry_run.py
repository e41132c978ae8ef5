"""What campaigns would have done on a log: by hand, and against the same log decided event by event."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest

from producers.source import Entry
from stream.cli.campaigns import draw_days, figure_of
from stream.core.campaigns import Instant, Window
from stream.core.engagement import Engine
from stream.dry_run import DryRun, consenting, dry_run, without_waiting
from stream.settings import Settings
from stream.times import time_text
from tests.commands import Cli
from tests.scenarios import Happening, Shop, campaign, event, ms

FILE = "id: thanks\ntrigger: {type: post-purchase}\nmessage: {template: thanks}\nsteps: [2d]\n"


def entries(*told: tuple[str, str, str]) -> list[Entry]:
    """(day and time, user, type) as a log."""
    made = []
    for line, (when, user, kind) in enumerate(told):
        said = {"type": kind, "time": time_text(ms(when)), "user": user, "id": f"e{line}", "item": "A"}
        made.append(Entry(ms(when), line, user, orjson.dumps(said), False))
    return made


def tried(log: list[Entry], *channels: str, sample: int = 5) -> DryRun:
    given = [campaign("post-purchase", steps=["2d"])]
    told = list(consenting(log, channels)) if channels else log
    return asyncio.run(dry_run(Settings(), given, told, sample))


LOG = entries(
    ("1 10:00", "ann", "purchase"), ("1 10:30", "bob", "add_to_cart"), ("1 12:00", "bob", "view_item"),
    ("2 12:00", "ann", "view_item"), ("4 12:00", "ann", "view_item"), ("4 12:01", "bob", "view_item"),
)  # fmt: skip


def test_decisions_by_hand() -> None:
    run = tried(LOG, "email")
    assert (run.events, run.users, run.reached) == (len(LOG) + 2, 2, 2)
    assert run.decisions == {("post-purchase", "sent", ""): 1, ("abandoned-cart", "sent", ""): 2}
    assert run.days == {
        ("2024-03-04", "abandoned-cart"): 1,
        ("2024-03-05", "abandoned-cart"): 1,
        ("2024-03-06", "post-purchase"): 1,
    }
    assert sorted(message["user"] for message in run.sample) == ["ann", "bob", "bob"]


def test_without_consent_nobody_gets_anything_and_it_says_why() -> None:
    run = tried(LOG)
    expected = {("post-purchase", "suppressed", "consent"): 1, ("abandoned-cart", "suppressed", "consent"): 2}
    assert run.decisions == expected
    assert (run.reached, run.sample) == (0, [])


def test_another_channel_is_no_consent_to_this_one() -> None:
    assert {reason for _, _, reason in tried(LOG, "push").decisions} == {"consent"}


def test_what_lists_would_show_is_taken_to_be_there() -> None:
    offer = campaign("next-best-offer", rest="1d")
    run = asyncio.run(dry_run(Settings(cart_enabled=False), [offer], consenting(LOG, ["email"])))
    assert run.decisions == {("next-best-offer", "sent", ""): 3}
    assert [message["items"] for message in run.sample] == [[]] * 3


def test_coupons_and_their_cost_are_counted() -> None:
    coupon = {"pool": "may", "codes": ["MAY-1", "MAY-2"], "value": 2.5}
    given = campaign("post-purchase", steps=["2d"], coupon=coupon)
    bought = [(f"1 10:0{n}", user, "purchase") for n, user in enumerate(["ann", "bob", "cleo"])]
    log = consenting(entries(*bought, ("4 12:00", "ann", "view_item")), ["email"])
    run = asyncio.run(dry_run(Settings(cart_enabled=False), [given], log))
    assert {why: n for (_, outcome, why), n in run.decisions.items() if outcome != "held"} == {
        "": 2,
        "pool": 1,
    }
    assert (run.coupons["post-purchase"], run.cost["post-purchase"]) == (2, 5.0)
    assert sorted(message["coupon"]["code"] for message in run.sample) == ["MAY-1", "MAY-2"]


def test_it_decides_what_the_engine_decides_event_by_event() -> None:
    kinds = ("purchase", "add_to_cart", "view_item", "purchase", "view_item")
    told = [(f"{1 + n // 20} {n % 20 + 1:02}:{n % 60:02}", f"u{n % 7}", kinds[n * 7 % 5]) for n in range(200)]
    log = list(consenting(entries(*told), ["email"]))
    run = tried(log)
    shop = Shop(Engine.of(Settings(), [campaign("post-purchase", steps=["2d"])]))
    for entry in log:
        said = msgspec.json.decode(entry.data)
        fields = {name: value for name, value in said.items() if name not in ("type", "time", "user")}
        seen = None if said["type"] == "view_item" else event(said["type"], entry.time, entry.key, **fields)
        shop.play([Happening(entry.key if seen else "", entry.time, entry.time, seen)])
    assert run.decisions == Counter((one.rule, one.outcome, one.reason) for one in shop.decisions)
    assert sum(run.days.values()) == len(shop.messages) > 10


def test_prices_and_stocks_change_at_their_place_in_the_log() -> None:
    log = entries(
        ("1 10:00", "ann", "view_item"), ("2 12:00", "bob", "view_item"), ("4 12:00", "ann", "view_item")
    )
    for line, (when, price) in enumerate([("1 09:00", 10), ("2 11:00", 9), ("3 11:00", 8.99)], len(log)):
        said = {"type": "item", "item": "A", "price": price}
        log.append(Entry(ms(when), line, "A", orjson.dumps(said), True))
    log.sort()
    given = [campaign("price-drop", rest="0s"), campaign("low-stock")]
    run = asyncio.run(dry_run(Settings(cart_enabled=False), given, consenting(log, ["email"])))
    assert (run.events, run.users, run.reached) == (5, 2, 1)
    # On the second day for the one who saw it at 10; a cent less is a new low, and she has not looked since.
    assert run.days == {("2024-03-05", "price-drop"): 1, ("2024-03-06", "price-drop"): 1}
    assert [(each["user"], each["items"][0]["price"]) for each in run.sample] == [("ann", 9), ("ann", 8.99)]


def test_the_sample_is_of_all_messages_and_the_same_again() -> None:
    told = [(f"{1 + n} 10:00", f"u{n}", "purchase") for n in range(28)]
    found = tried(entries(*told), "email", sample=5).sample
    assert found == tried(entries(*told), "email", sample=5).sample
    assert len({message["user"] for message in found}) == 5
    assert max(message["time"] for message in found) > ms("10 00:00")


def test_a_day_without_messages_is_drawn_as_one() -> None:
    axes = figure_of(4, 4).subplots()
    draw_days(
        axes, {("2024-02-28", "a"): 3, ("2024-03-01", "a"): 5, ("2024-02-29", "b"): 7}, "messages a day"
    )
    drawn = (
        (line.get_label(), np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines
    )
    lines = {label: (*map(str, at.tolist()), *counts.tolist()) for label, at, counts in drawn}
    days = ("2024-02-28", "2024-02-29", "2024-03-01")
    assert lines == {"a": (*days, 3, 0, 5), "b": (*days, 0, 7, 0)}


@pytest.mark.parametrize(("begins", "tried_without"), [(999, False), (1000, False), (1001, True)])
def test_only_a_window_that_is_yet_to_begin_is_left_out(begins: int, tried_without: bool) -> None:
    window = Window(from_=Instant(begins), until=Instant(5000))
    plain = campaign("post-purchase")
    given = msgspec.structs.replace(plain, window=window)
    assert without_waiting([given], 1000) == (
        ([plain], ["post-purchase"]) if tried_without else ([given], [])
    )


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "campaigns").mkdir()
    (tmp_path / "campaigns" / "thanks.yaml").write_text(FILE)
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(entry.data for entry in LOG))
    words = ("campaigns", "dry-run", "--log", "log.jsonl", "--consent", "email")
    found = orjson.loads(cli(*words, "--json").out)
    assert found["decisions"] == [
        {"rule": "abandoned-cart", "outcome": "sent", "reason": "", "count": 2},
        {"rule": "thanks", "outcome": "sent", "reason": "", "count": 1},
    ]
    assert [day["day"] for day in found["days"]] == ["2024-03-04", "2024-03-05", "2024-03-06"]
    shown = cli(*words, "--plot", "days.png")
    assert "3 messages to 2" in shown.out and (tmp_path / "days.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "campaigns" / "thanks.yaml").write_text(FILE + "window: {from: 2099-01-01T00:00:00Z}\n")
    later = cli(*words, "--json")
    assert "thanks: its window is yet to begin" in later.err and orjson.loads(later.out) == found
    missing = cli("campaigns", "dry-run", "--log", "nothing.jsonl")
    assert missing.code == 2 and "no such file: nothing.jsonl" in missing.err
