"""Versions of campaigns: which holds when, what is decided by it, and what is published."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.campaigns import Campaign, Version, content_hash
from stream.core.engagement import Decision, Engine
from stream.core.plan import LEAD_MS, Held, Plan, Schedule, key_of, successors
from stream.settings import Settings
from tests.scenarios import Happening, Shop, campaign, happening, ms, said
from tests.test_engagement import LOGS, START

MINUTE = 60_000


def version(campaign: Campaign, number: int = 1, effective: int = 0) -> Version:
    return Version(campaign=campaign, number=number, hash=content_hash(campaign), effective=effective)


def schedule(*told: tuple[str, Campaign]) -> Schedule:
    """(from when, campaign): its versions count from 1."""
    made, numbers = Schedule(), dict[str, int]()
    for place, (when, each) in enumerate(told):
        numbers[each.id] = numbers.get(each.id, 0) + 1
        made.learn(Held(ms(when), place, version(each, numbers[each.id], ms(when)), 0))
    return made


def shop_of(made: Schedule, base: tuple[Campaign, ...] = ()) -> Shop:
    given_ = Settings(cart_enabled=False)
    return Shop(replace(Engine.of(given_, base), plan=Plan(partial(Engine.of, given_), base, made)))


def played(shop: Shop, *rows: str) -> list[str]:
    """Event by event and at once: what is decided, by which version."""
    log = [happening(row, "2024-03-04", 2000) for row in rows]
    alone = Shop(shop.engine)
    for one in log:
        alone.play([one])
    shop.play(log)
    assert (alone.decisions, alone.messages, alone.stored) == (shop.decisions, shop.messages, shop.stored)
    assert [one.version for one in shop.messages] == [
        one.version for one in shop.decisions if one.outcome == "sent"
    ]
    return [described(one) for one in shop.decisions]


def described(one: Decision) -> str:
    return f"{said(one.time)} {one.campaign} v{one.version}: {one.outcome} {one.step} {one.reason}".strip()


def cart(**fields: Any) -> Campaign:
    return campaign("abandoned-cart", **{"id": "cart", "steps": ["45m"]} | fields)


# What holds when


@pytest.mark.parametrize(
    ("effective", "written", "since"),
    [
        (100_000, 100_000 - LEAD_MS - 1, 100_000),
        (100_000, 100_000 - LEAD_MS, 100_000),
        (100_000, 100_000 - LEAD_MS + 1, 100_001),
        (0, 500_000, 500_000 + LEAD_MS),
    ],
)
def test_a_version_never_holds_before_everybody_can_know_it(effective: int, written: int, since: int) -> None:
    assert Held.of(version(cart(), 1, effective), written, 7).since == since


def test_what_holds_just_before_at_and_after() -> None:
    one, two = cart(), cart(steps=["1h"])
    made = schedule(("10:00", one), ("12:00", two))

    def at(time: int) -> dict[str, int]:
        return {name: held.version.number for name, held in made.at(time).items()}

    assert at(ms("10:00") - 1) == {}
    assert at(ms("10:00")) == at(ms("12:00") - 1) == {"cart": 1}
    assert at(ms("12:00")) == {"cart": 2}
    assert made.newest()["cart"].version.campaign == two


def test_versions_may_come_in_any_order_and_twice_and_of_two_the_later_record_counts() -> None:
    first, second = Held(5, 0, version(cart(), 1), 0), Held(5, 1, version(cart(rest="8d"), 1), 0)
    made = Schedule()
    for held in (second, first, second):
        made.learn(held)
    assert made.held == [first, second] and made.at(5)["cart"] is second and made.revision == 2


def test_an_engine_is_made_when_its_time_comes_and_once() -> None:
    made: list[list[str]] = []

    def make(campaigns: Any) -> Engine:
        made.append([each.id for each in campaigns])
        return Engine.of(Settings(), campaigns)

    plan = Plan(make, [campaign("welcome")], schedule(("10:00", cart()), ("12:00", campaign("birthday"))))
    assert plan.at(0) is plan.at(ms("10:00") - 1)
    assert plan.at(ms("10:00")) is plan.at(ms("11:00"))
    assert made == [["welcome"], ["welcome", "cart"]]
    assert plan.at(ms("11:00")).numbers == {"cart": 1}
    assert plan.steady(ms("10:00"), ms("12:00") - 1) and not plan.steady(ms("10:00"), ms("12:00"))
    plan.schedule.learn(Held(ms("11:00"), 9, version(cart(rest="8d"), 2), 0))
    assert plan.at(ms("11:00")).numbers == {"cart": 2}


# What is decided


def test_a_campaign_sends_from_its_effective_time_on() -> None:
    made = schedule(("10:30", cart()))
    rows = ("10:00 | consent", "10:29 | add A", "11:30 | clock", "11:40 | add B", "12:30 | clock")
    assert played(shop_of(made), *rows) == ["1 12:30 cart v1: sent 1"]


def test_the_version_that_holds_when_time_is_up_decides() -> None:
    made = schedule(("9:00", cart()), ("11:00", cart(window={"until": "2024-03-04T10:00:00Z"})))
    rows = ("10:00 | consent", "10:05 | add A", "10:50 | clock", "2 10:00 | buy A", "10 10:00 | add A")
    assert played(shop_of(made), *rows, "10 10:45 | clock") == [
        "1 10:50 cart v1: sent 1",
        "10 10:45 cart v2: suppressed 1 window",
    ]


def test_delays_of_a_new_version_hold_for_what_is_pending() -> None:
    made = schedule(("9:00", cart()), ("10:30", cart(steps=["1h"])))
    rows = ("10:00 | consent", "10:05 | add A", "10:50 | clock", "11:04 | clock", "11:05 | clock")
    assert played(shop_of(made), *rows) == ["1 11:05 cart v2: sent 1"]


def test_a_campaign_that_is_switched_off_cancels_and_begins_anew() -> None:
    made = schedule(("9:00", cart()), ("10:30", cart(enabled=False)), ("12:00", cart()))
    start = ("10:00 | consent", "10:05 | add A")
    off = "1 10:50 cart v2: cancelled 0 switched-off"
    assert played(shop_of(made), *start, "10:50 | clock", "13:00 | clock") == [off]
    assert played(shop_of(made), *start, "10:31 | add B", "13:00 | clock") == [
        "1 10:30 cart v2: cancelled 0 switched-off"
    ]
    # Nothing happened while it was off: then there is nothing that it could have missed.
    assert played(shop_of(made), *start, "12:10 | clock") == ["1 12:10 cart v3: sent 1"]


def test_a_published_campaign_takes_the_place_of_a_file_and_of_the_default() -> None:
    made = schedule(("11:00", campaign("abandoned-cart", steps=["2h"])))
    shop = shop_of(made, (campaign("abandoned-cart", steps=["30m"]),))
    rows = ("10:00 | consent", "10:05 | add A", "10:35 | clock", "2 11:00 | buy A", "9 11:00 | add B")
    assert played(shop, *rows, "9 12:00 | clock", "9 13:00 | clock") == [
        "1 10:35 abandoned-cart vNone: sent 1",
        "9 13:00 abandoned-cart v1: sent 1",
    ]
    default = Settings()
    shop = Shop(replace(Engine.of(default), plan=Plan(partial(Engine.of, default), (), made)))
    assert played(shop, "10:00 | consent", "10:05 | add A", "10:50 | clock", "2 10:50 | clock") == [
        "1 10:50 abandoned-cart vNone: sent 1",
    ]


VERSIONS = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from(["cart", "welcome"]), st.sampled_from(["5m", "30m", "off"])
    ),
    max_size=4,
)


def _versions(told: list[tuple[int, str, str]]) -> list[Held]:
    made = []
    for place, (minute, name, delay) in enumerate(told):
        fields: dict[str, Any] = {"enabled": False} if delay == "off" else {"steps": [delay]}
        kind = "abandoned-cart" if name == "cart" else name
        made.append(
            Held(START + minute * MINUTE, place, version(campaign(kind, id=name, **fields), place + 1), 0)
        )
    return made


@settings(max_examples=50)
@given(LOGS, VERSIONS, st.data())
def test_cuts_and_the_moment_at_which_a_version_becomes_known_change_nothing(
    log: list[Happening], told: list[tuple[int, str, str]], data: st.DataObject
) -> None:
    """A worker gets to know a version some time before it holds; a replay knows all from the beginning."""
    versions, known, late = _versions(told), Schedule(), Schedule()
    for held in versions:
        known.learn(held)
    replayed, live = shop_of(known), shop_of(late)
    replayed.play(log)
    cuts = data.draw(st.lists(st.integers(0, len(log)), max_size=8))
    for begin, end in pairwise([0, *sorted(cuts), len(log)]):
        reach = max((one.received for one in log[:end]), default=0)
        for held in versions:
            if held.since <= reach:
                late.learn(held)
        live.play(log[begin:end])
    assert live.decisions == replayed.decisions
    assert (live.messages, live.stored, live.alarms) == (replayed.messages, replayed.stored, replayed.alarms)


def test_what_is_switched_off_ends_in_the_order_of_names() -> None:
    """Whatever the hashes of texts are in a process: decisions of one event are numbered."""
    names = [f"cart-{n}" for n in range(9)]
    made = schedule(
        *(("9:00", cart(id=name)) for name in names),
        *(("10:30", cart(id=name, enabled=False)) for name in names),
    )
    rows = ("10:00 | consent", "10:05 | add A", "10:31 | clock", "10:32 | zone Europe/Berlin")
    assert played(shop_of(made), *rows) == [f"1 10:31 {name} v2: cancelled 0 switched-off" for name in names]


# What is published


def numbered(versions: list[Version]) -> dict[str, tuple[int, bool]]:
    return {each.campaign.id: (each.number, each.campaign.enabled) for each in versions}


def test_only_what_changed_is_published_and_what_left_is_switched_off() -> None:
    known = schedule(("10:00", cart()), ("10:00", campaign("welcome")))
    wanted = [cart(rest="8d"), campaign("birthday")]
    later = ms("11:00")
    assert numbered(successors(known, wanted, later, whole=True)) == {
        "birthday": (1, True),
        "cart": (2, True),
        "welcome": (2, False),
    }
    assert numbered(successors(known, wanted, later, whole=False)) == {
        "birthday": (1, True),
        "cart": (2, True),
    }
    assert successors(known, [cart(), campaign("welcome")], later, whole=True) == []
    gone = schedule(("10:00", cart()), ("10:30", cart(enabled=False)))
    assert successors(gone, [], later, whole=True) == []
    assert numbered(successors(gone, [cart()], later, whole=True)) == {"cart": (3, True)}


def test_what_cannot_be_published_is_told_at_once() -> None:
    known = schedule(("10:00", cart()), ("12:00", campaign("welcome")))
    wanted = [campaign("win-back", id="cart"), campaign("welcome", rest="8d")]
    with pytest.raises(ValueError) as told:
        successors(known, wanted, ms("11:00"), whole=True)
    assert str(told.value).splitlines() == [
        "cart: its trigger was abandoned-cart, now it is win-back: give it another id",
        "welcome: 2024-03-04T11:00:00.000Z is before version 1 began to hold, 2024-03-04T12:00:00.000Z: "
        "give a later time",
    ]


def test_no_record_of_a_version_replaces_another() -> None:
    keys = [key_of(version(cart(), 1)), key_of(version(cart(), 2)), key_of(version(cart(rest="8d"), 2))]
    assert len(set(keys)) == 3 and all(key.startswith("cart@") for key in keys)


def pool(name: str, *codes: str, **more: Any) -> dict[str, Any]:
    return {"pool": name} | ({"codes": list(codes)} if codes else {}) | more


def counted(prefix: str, count: int) -> dict[str, Any]:
    return pool("a", computed={"prefix": prefix, "count": count})


def offers(*each: dict[str, Any]) -> dict[str, Any]:
    return {"offers": [one | {"value": 1, "items": ["tea"]} for one in each]}


A1, B2 = pool("a", "1"), pool("b", "2")


@pytest.mark.parametrize(
    "what, old, new, goes_on",
    [
        ("the same", pool("a", "1", "2"), pool("a", "1", "2", value=3), True),
        ("more codes behind", pool("a", "1", "2"), pool("a", "1", "2", "3"), True),
        ("more codes in front", pool("a", "1", "2"), pool("a", "0", "1", "2"), False),
        ("fewer codes", pool("a", "1", "2"), pool("a", "1"), False),
        ("another pool", pool("a", "1", "2"), pool("b", "3", "4"), True),
        ("another name for the same codes", pool("a", "1", "2"), pool("b", "1", "2"), False),
        ("an offer in its place", pool("a", "1", "2"), {"offer": "b"}, True),
        ("more computed codes", counted("X", 5), counted("X", 6), True),
        ("fewer computed codes", counted("X", 5), counted("X", 4), False),
        ("another prefix", counted("X", 5), counted("Y", 5), False),
        ("listed, then computed", pool("a", "1"), counted("X", 5), False),
        ("computed, then listed", counted("X", 5), pool("a", "1"), False),
        ("one of several now", pool("a", "1"), offers(pool("a", "1"), {"offer": "b"}), True),
        ("offers in another order", offers(A1, B2), offers(B2, A1), True),
        ("codes that change their pool", offers(A1, B2), offers(pool("b", "2", "1")), False),
    ],
)  # fmt: skip
def test_a_new_version_goes_on_with_the_pools_of_the_old(
    what: str, old: dict[str, Any], new: dict[str, Any], goes_on: bool
) -> None:
    between: list[dict[str, Any] | None] = [None, {"offer": "z"}]
    told = [("10:00", cart(coupon=old)), *(("10:10", cart(coupon=each)) for each in between)]
    for known in (schedule(*told[:n]) for n in (1, 2, 3)):
        if goes_on:
            successors(known, [cart(coupon=new)], ms("11:00"), whole=True)
        else:
            with pytest.raises(ValueError, match="cart: its codes changed: only add new ones behind"):
                successors(known, [cart(coupon=new)], ms("11:00"), whole=True)
