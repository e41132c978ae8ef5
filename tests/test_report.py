"""What campaigns did and added, from the log to the report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.source import Entry
from stream.core.campaigns import Campaign
from stream.core.guards import bucket
from stream.core.lift import ALL, Lift, Purchase, Terms, lift_of
from stream.core.plan import Schedule
from stream.delivery import Output
from stream.kafka import KafkaSender
from stream.report import Measure, Register, measures, read_log, standing
from stream.settings import Settings
from stream.times import time_text
from stream.topics import DECISIONS, EVENTS
from tests.commands import Cli
from tests.scenarios import campaign, ms
from tests.test_plan import schedule

DAY = 86_400_000
HOLDOUT = 2000
"""Buckets of 10,000: 20 %."""
MEASURED = {"cart": Measure(Terms(3 * DAY, HOLDOUT))}
START = ms("10:00")


def decision(n: int, user: str, time: int, **changes: Any) -> dict[str, Any]:
    """As it stands on `decisions`."""
    told = {
        "id": f"0-{n}-0-decision-0", "time": time, "user": user, "campaign": "cart", "rule": "cart",
        "step": 1, "due": time, "outcome": "sent", "reason": "", "evidence": [],
        "counters": {"bucket": bucket(user, "s")},
    }  # fmt: skip
    return told | changes


def purchase(user: str, time: int, **fields: Any) -> dict[str, Any]:
    """As it stands on `events`."""
    told = {"type": "purchase", "time": time_text(time), "user": user, "order": "o", "items": [{"item": "A"}]}
    return told | fields


def register(decisions: list[dict[str, Any]], events: list[Any], measured: Any = MEASURED) -> Register:
    made = Register(measured)
    for one in decisions:
        made.decided(orjson.dumps(one))
    for one in events:
        made.happened(one if isinstance(one, bytes) else orjson.dumps(one))
    return made


# From simulated shops to intervals


def simulated(seed: int, effect: float, users: int = 300) -> Lift:
    """A shop in which messages change the rate from 40 % by ``effect``, and buyers spend about 40."""
    draw = np.random.default_rng(seed)
    decisions, events = [], []
    for n, (luck, spent) in enumerate(zip(draw.random(users), draw.gamma(2, 20, users), strict=True)):
        user, salt = f"u{n}", f"salt {seed}"
        held = bucket(user, salt) < HOLDOUT
        verdict = ("suppressed", "holdout") if held else ("sent", "")
        counters = {"bucket": bucket(user, salt)}
        told = dict(zip(("outcome", "reason", "counters"), (*verdict, counters), strict=True))
        decisions.append(decision(n, user, START, **told))
        if luck < 0.4 + effect * (not held):
            events.append(purchase(user, START + 1 + n, value=round(float(spent), 2)))
    return register(decisions, events).lifts()["cart"]


@pytest.mark.parametrize("effect", [0.0, 0.1])
def test_the_interval_holds_the_truth_in_93_of_100_shops(effect: float) -> None:
    lifts = [simulated(seed, effect) for seed in range(100)]
    assert sum(lift.difference.low <= effect <= lift.difference.high for lift in lifts) >= 93
    assert sum(lift.per_user.low <= 40 * effect <= lift.per_user.high for lift in lifts) >= 93
    assert not any(lift.broken for lift in lifts)


def shop_log(effect: float, users: int = 1200) -> Iterator[Entry]:
    """Carts that are left; who is held out buys with 20 %, the others more often."""
    draw = np.random.default_rng(3)
    consent = {"channels": {"email": True}, "purposes": {"personalisation": True}}
    told: list[tuple[int, str, dict[str, Any]]] = []
    for n, luck in enumerate(draw.random(users).tolist()):
        user, begin = f"u{n}", START + n * 1000
        told.append((begin, user, {"type": "consent"} | consent))
        told.append((begin + 10, user, {"type": "add_to_cart", "item": "A"}))
        if luck < 0.2 + effect * (bucket(user, "tidewise") >= HOLDOUT):
            told.append((begin + 3_600_000, user, {"type": "purchase", "item": "A", "value": 10.0}))
    for n, (time, user, event) in enumerate(sorted(told, key=lambda each: each[:2])):
        said = orjson.dumps(event | {"time": time_text(time), "user": user, "id": f"e{n}"})
        yield Entry(time, n, user, said, False)


def test_a_log_decided_by_the_worker_shows_the_effect_that_was_planted() -> None:
    own = Settings(holdout_percent=20, cart_enabled=False)
    given_ = [campaign("abandoned-cart", id="cart", steps=["30m"])]
    made = Register(measures(own, given_, Schedule()))
    asyncio.run(read_log(own, given_, shop_log(0.3), made, lambda done: None))
    lift = made.lifts()["cart"]
    held = sum(bucket(f"u{n}", "tidewise") < HOLDOUT for n in range(1200))
    assert (lift.treated.users, lift.holdout.users) == (1200 - held, held)
    assert made.outcomes == {("cart", "sent", ""): 1200 - held, ("cart", "suppressed", "holdout"): held}
    assert lift.difference.low <= 0.3 <= lift.difference.high and lift.difference.low > 0.15
    assert lift.per_user.low <= 3 <= lift.per_user.high and not lift.broken


# What counts


TIMES = st.integers(0, 6).map(lambda day: START + day * DAY)
USERS = st.sampled_from(["ann", "bob", "cid", "dan"])
OUTCOMES = st.sampled_from(
    [
        ("sent", ""),
        ("held", "quiet"),
        ("suppressed", "cap"),
        ("suppressed", "consent"),
        ("cancelled", "purchase"),
    ]
)
TOLD = st.lists(st.tuples(USERS, TIMES, st.sampled_from(["cart", "mugs", "old"]), OUTCOMES), max_size=30)


@settings(max_examples=60)
@given(TOLD, st.lists(st.tuples(USERS, TIMES, st.integers(1, 99)), max_size=20))
def test_a_register_says_what_lift_of_says_of_everything(
    told: list[tuple[str, int, str, tuple[str, str]]], bought: list[tuple[str, int, int]]
) -> None:
    terms = {"cart": Terms(3 * DAY, HOLDOUT), "mugs": Terms(DAY, HOLDOUT)}
    decisions = []
    for n, (user, time, name, (outcome, reason)) in enumerate(told):
        held = bucket(user, "s") < HOLDOUT and reason in ("", "quiet", "cap")
        said = (
            {"outcome": "suppressed", "reason": "holdout"} if held else {"outcome": outcome, "reason": reason}
        )
        decisions.append(decision(n, user, time, campaign=name, **said))
    events = [purchase(user, time, value=cents / 100) for user, time, cents in bought]
    found = register(decisions, events, {name: Measure(each) for name, each in terms.items()})
    purchases = [Purchase(time, user, cents) for user, time, cents in bought]
    assert found.lifts() == lift_of(decisions, purchases, terms)
    known = [each for each in decisions if each["campaign"] in terms]
    assert found.outcomes == Counter((d["campaign"], d["outcome"], d["reason"]) for d in known)


def test_decisions_sent_again_count_once() -> None:
    told = [decision(n, f"u{n}", START) for n in range(3)]
    more = told[1] | {"id": "0-2-0-decision-1"}
    other = told[0] | {"id": "1-0-0-decision-0"}
    assert register([*told, *told[1:], more, other], []).outcomes.total() == 5


@pytest.mark.parametrize(
    ("event", "cents"),
    [
        ({"value": 12.34}, [1234]),
        ({"items": [{"item": "A", "price": 2.5, "quantity": 2}, {"item": "B", "price": 1}]}, [600]),
        ({"items": [{"item": "A", "price": 2.5}], "value": 9}, [900]),
        ({}, [0]),
        ({"user": None, "anonymous": "ann"}, [0]),
        ({"type": "refund"}, []),
        ({"time": "yesterday"}, []),
        ({"items": []}, []),
        ({"user": None}, []),
    ],
)
def test_what_a_purchase_is_and_what_it_brought(event: dict[str, Any], cents: list[int]) -> None:
    found = register([], [purchase("ann", START) | event])
    bought = found.bought.get("purchase", [])
    assert [each.cents for each in bought] == cents
    assert all((each.user, each.time) == ("ann", START) for each in bought)


def test_messages_of_several_events_repeats_mail_and_what_cannot_be_read() -> None:
    one, two = purchase("ann", START, id="a"), purchase("bob", START, id="a")
    mail = b'{"type":"tidewise.mail","kind":"forward","body":%b}' % orjson.dumps(one | {"id": "b"})
    told = [[one, two, {"type": "purchase"}], one, mail, b'{"type":"purchase"', b'"purchase"']
    assert [each.user for each in register([], told).bought["purchase"]] == ["ann", "bob"]


def test_a_campaign_may_have_another_goal() -> None:
    goal = {"mugs": Measure(Terms(DAY, HOLDOUT), event="share")}
    told = [decision(0, "ann", START), decision(1, "bob", START, campaign="mugs")]
    signed = purchase("bob", START + 1, type="share")
    lifts = register(told, [signed, purchase("ann", START + 1)], MEASURED | goal).lifts()
    assert {name: lift.treated.converters for name, lift in lifts.items()} == {"cart": 1, "mugs": 1, ALL: 1}
    assert lifts[ALL].treated.users == 1, "only campaigns that purchases measure are added up"


# From when on, and what stands


def shared(percent: float | None, **fields: Any) -> Campaign:
    return campaign("abandoned-cart", id="cart", holdout_percent=percent, **fields)


def test_a_campaign_is_measured_since_its_holdout_and_goals_are_what_they_are() -> None:
    own = Settings(holdout_percent=5, cart_enabled=False)

    def since(*told: tuple[str, Campaign], base: tuple[Campaign, ...] = ()) -> tuple[int, int]:
        found = measures(own, base, schedule(*told))["cart"]
        return found.terms.holdout, found.since

    ten, later = ms("10:00"), ms("11:00")
    assert since(("10:00", shared(10))) == (1000, ten)
    assert since(("10:00", shared(10)), ("11:00", shared(10, rest="8d"))) == (1000, ten)
    assert since(("10:00", shared(10)), ("11:00", shared(20))) == (2000, later)
    assert since(("10:00", shared(10)), ("11:00", shared(10, goals={"within": "1d"}))) == (1000, later)
    assert since(("10:00", shared(5)), base=(shared(None),)) == (500, 0)
    told = [decision(0, "ann", later - 1), decision(1, "bob", later)]
    measured = {"cart": Measure(Terms(DAY, HOLDOUT), since=later)}
    assert register(told, [], measured).lifts()["cart"].treated.users == 1


def test_the_default_campaign_is_measured_unless_it_is_off() -> None:
    assert measures(Settings(), [], Schedule()) == {"abandoned-cart": Measure(Terms(3 * DAY, 0))}
    assert measures(Settings(cart_enabled=False), [], Schedule()) == {}


def test_what_stands() -> None:
    made = schedule(
        ("10:00", shared(None)), ("12:00", shared(None, rest="8d")), ("12:00", campaign("birthday")),
        ("10:00", campaign("welcome")), ("11:00", campaign("welcome", enabled=False)),
    )  # fmt: skip
    rows = [
        (each.campaign, each.by, each.version, each.enabled, each.next)
        for each in standing(Settings(), [campaign("win-back")], made, ms("11:30"))
    ]
    assert rows == [
        ("abandoned-cart", "default", None, True, None),
        ("birthday", "published", None, False, 1),
        ("cart", "published", 1, True, 2),
        ("welcome", "published", 2, False, None),
        ("win-back", "file", None, True, None),
    ]


# The commands


async def filled(own: Settings) -> None:
    """40 users who were nudged, 10 who were held out; every second one buys."""
    held = [f"u{n}" for n in range(200) if bucket(f"u{n}", "s") < HOLDOUT][:10]
    treated = [f"u{n}" for n in range(200) if bucket(f"u{n}", "s") >= HOLDOUT][:40]
    stop = {"outcome": "suppressed", "reason": "holdout"}
    told = [
        decision(n, user, START, campaign="abandoned-cart", **(stop if user in held else {}))
        for n, user in enumerate(held + treated)
    ]
    bought = [purchase(user, START + 1, value=10.0) for user in held[::2] + treated[::2]]
    async with KafkaSender(own) as sender:
        outputs = [Output(DECISIONS.name, None, orjson.dumps(each)) for each in told]
        await sender.publish(
            0, [*outputs, *(Output(EVENTS.name, None, orjson.dumps(each)) for each in bought)]
        )


async def test_status_and_report_of_what_stands_in_the_topics(
    settings: Settings, cli: Cli, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"holdout_percent": 20.0})
    await filled(own)

    def say(*words: str) -> Any:
        return asyncio.to_thread(cli, "campaigns", *words, settings=own)

    told = (await say("status", "--json")).json
    assert told["campaigns"][0] | {"by": "default", "enabled": True} == told["campaigns"][0]
    assert [(each["outcome"], each["reason"], each["count"]) for each in told["decisions"]] == [
        ("sent", "", 40),
        ("suppressed", "holdout", 10),
    ]
    shown = (await say("status")).out
    assert "abandoned-cart" in shown and "50 decisions" in shown
    found = (await say("report", "--json")).json
    groups = found["campaigns"]["abandoned-cart"]
    assert (groups["treated"]["users"], groups["holdout"]["users"]) == (40, 10)
    assert (groups["treated"]["converters"], groups["treated"]["revenue"]) == (20, 200.0)
    assert groups["difference"]["value"] == 0 == found["all"]["difference"]["value"]
    assert found["days"] == [
        {"day": "2024-03-04", "outcome": "sent", "count": 40},
        {"day": "2024-03-04", "outcome": "suppressed", "count": 10},
    ]
    said = await say("report", "--campaign", "abandoned-cart", "--plot", "lift.png")
    assert "50.00% of 40 users" in " ".join(said.out.split()) and "50 decisions, 25 purchases" in said.out
    assert (tmp_path / "lift.png").read_bytes().startswith(b"\x89PNG")
    unknown = await say("report", "--campaign", "mugs")
    assert unknown.code == 1 and "there is no campaign mugs; known are abandoned-cart" in unknown.err
    own = own.model_copy(update={"campaigns": "nowhere"})
    assert [(await say(word)).code for word in ("status", "report")] == [2, 2]


def test_a_report_of_a_recorded_log(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "campaigns").mkdir()
    file = "id: cart\ntrigger: {type: abandoned-cart}\nmessage: {template: cart}\nsteps: [30m]\n"
    file += "holdout_percent: 20\n"
    (tmp_path / "campaigns" / "cart.yaml").write_text(file)
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(entry.data for entry in shop_log(0.3, 200)))
    found = cli("campaigns", "report", "--log", "log.jsonl", "--campaign", "cart", "--json").json
    assert isinstance(found, dict) and list(found["campaigns"]) == ["cart"]
    assert found["campaigns"]["cart"]["treated"]["users"] > 100
    empty = cli("campaigns", "report", "--log", "log.jsonl", "--folder", "nowhere")
    assert empty.code == 2
