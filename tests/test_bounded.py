"""What engagement keeps of a user stays small, however many campaigns come and go."""

from __future__ import annotations

from typing import Any

import pytest

from stream.core.campaigns import Campaign, read
from stream.core.engagement import UserState
from stream.core.triggers import TYPES
from tests.scenarios import MONDAY, SHOPPER, Shop, campaign, check, engine, happening

OPEN: dict[str, Any] = {"cart_enabled": False, "cap_day": 100, "cap_week": 100}


def invited(name: str, rest: str = "0s", expires: str = "1h", **more: bool) -> Campaign:
    """A campaign that answers every invitation at once."""
    return campaign("event", id=name, steps=["0s"], rest=rest, expires=expires, **more)


def play(shop: Shop, *rows: str) -> UserState:
    shop.play([happening(row, MONDAY, shop.engine.config.lateness_ms) for row in rows])
    return UserState.unpack(shop.stored[SHOPPER])


def taken_on(shop: Shop, *campaigns: Campaign) -> Shop:
    """The same shop with other campaigns from here on."""
    after = Shop(engine(campaigns, **OPEN))
    after.stored, after.alarms, after.watermark = shop.stored, shop.alarms, shop.watermark
    return after


def test_of_thirty_campaigns_that_are_gone_nothing_is_kept() -> None:
    shop, sizes = Shop(engine(**OPEN)), []
    for day in range(1, 31):
        shop = taken_on(shop, invited(f"of-day-{day}"))
        state = play(shop, f"{day} 10:00 | consent |", f"{day} 11:00 | invited |", f"{day} 11:01 | clock |")
        assert [each.rule for each in shop.decisions if each.outcome == "sent"] == [f"of-day-{day}"]
        assert (list(state.campaigns), set(state.triggers) - {f"of-day-{day}"}) == ([f"of-day-{day}"], set())
        sizes.append(len(shop.stored[SHOPPER]))
    assert sizes[-1] <= sizes[10] + 10, "codes of caps and the longer name"


@pytest.mark.parametrize(("switched_on", "kept"), [(True, True), (False, True), (None, False)])
def test_when_a_campaign_last_sent_is_kept_while_it_rests_also_switched_off(
    switched_on: bool | None, kept: bool
) -> None:
    """None: it is gone."""
    shop = Shop(engine([invited("a", rest="9d")], **OPEN))
    play(shop, "1 10:00 | consent |", "1 11:00 | invited |", "1 11:01 | clock |")
    others = [] if switched_on is None else [invited("a", rest="9d", enabled=switched_on)]
    shop = taken_on(shop, *others, invited("b"))
    state = play(shop, "5 11:00 | invited |", "5 11:01 | clock |")
    assert ("a" in state.campaigns) is kept


def test_a_campaign_rests_to_the_end_and_is_forgotten_after_it() -> None:
    """Whatever another one sends meanwhile."""
    other = campaign("event", id="b", trigger={"event": "visited"}, steps=["0s"], rest="0s", expires="1h")
    given = [invited("a", rest="3d"), other]
    table = """
        1 10:00    | consent |
        1 11:00    | invited |
        1 11:01    | clock   | sent 1:
        3 11:00    | visited |
        3 11:01    | clock   | sent 1:
        4 10:59    | invited |
        4 11:00:58 | clock   | suppressed 1 rest
        4 11:00:59 | invited |
        4 11:01    | clock   | sent 1:
    """
    shop = check(table, campaigns=given, **OPEN)
    assert set(UserState.unpack(shop.stored[SHOPPER]).campaigns) == {"a", "b"}
    later = play(taken_on(shop, *given), "9 11:00 | buy A |", "9 12:00 | clock |")
    assert set(later.campaigns) == {"a", "b"}, "nothing is sent, so nothing is tidied"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("back-in-stock", "lookback"),
        ("browse-abandonment", "idle"),
        ("low-stock", "lookback"),
        ("points-expiring", "before"),
        ("price-drop", "lookback"),
        ("win-back", "lapse"),
    ],
)
def test_times_that_can_never_hold_are_refused(kind: str, field: str) -> None:
    registry = {name: each.parameters for name, each in TYPES.items()}
    for given, fine in (("0s", False), ("0d", False), ("1s", True)):
        document = {"id": kind, "trigger": {"type": kind, field: given}, "message": {"template": kind}}
        found, faults = read(document, registry)
        assert (found is not None) is fine
        wanted = f"trigger.{field}: {given} is not allowed: give a whole number above 0 and a unit"
        assert fine or [fault.message[: len(wanted)] for fault in faults] == [wanted]
