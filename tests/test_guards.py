"""Guards: scenarios as tables (`tests/scenarios.py` explains them), and laws against brute force."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.engaged import Choice, UserState, zone_names
from stream.core.guards import (
    DAY_MS,
    GUARDS,
    WEEK_MS,
    Candidate,
    Stop,
    bucket,
    check,
    holdout,
    quiet_end,
)
from stream.core.messages import Consents
from tests.scenarios import campaign, engine, ms
from tests.scenarios import check as check_table

MINUTE_MS = 60_000

CONSENT = {
    "who never answered has denied": """
        10:05  | add A  |
        10:50  | clock  | suppressed 1 consent
    """,
    "who refused gets nothing": """
        10:05  | add A  |
        10:30  | refuse |
        10:50  | clock  | suppressed 1 consent
    """,
    "the newest answer counts": """
        10:00  | refuse  |
        10:05  | add A   |
        10:49  | consent |
        10:50  | clock   | sent 1: A
    """,
    "taken back before the second nudge": """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | sent 1: A
        1 12:00  | refuse  |
        2 10:50  | clock   | suppressed 2 consent
    """,
    "an older answer that arrives late changes nothing": """
        10:10  | refuse           |
        10:11  | consent of 10:00 |
        10:12  | add A            |
        10:57  | clock            | suppressed 1 consent
    """,
    "of two answers at the same time the refusal counts": """
        10:00  | refuse  |
        10:00  | consent |
        10:05  | add A   |
        10:50  | clock   | suppressed 1 consent
    """,
    "in either order": """
        10:00  | consent |
        10:00  | refuse  |
        10:05  | add A   |
        10:50  | clock   | suppressed 1 consent
    """,
}

CAPS = {
    "one a day in a rolling window, over midnight": """
        1 10:00         | consent |
        1 22:15         | add A   |
        1 23:00         | clock   | sent 1: A
        1 23:25         | add B   |
        2 00:10         | clock   | suppressed 1 cap
        2 22:14:59.999  | add C   |
        2 22:59:59.999  | clock   | suppressed 1 cap
    """,
    "a day later to the millisecond": """
        1 10:00  | consent |
        1 22:15  | add A   |
        1 23:00  | clock   | sent 1: A
        2 22:15  | add B   |
        2 23:00  | clock   | sent 1: B A
    """,
    "three in any 7 days": """
        1 09:00         | consent |
        1 10:00         | add A   |
        1 10:45         | clock   | sent 1: A
        3 10:00         | add B   |
        3 10:45         | clock   | sent 1: B A
        5 10:00         | add C   |
        5 10:45         | clock   | sent 1: C B A
        8 09:59:59.999  | add D   |
        8 10:44:59.999  | clock   | suppressed 1 cap
        8 10:00         | add E   |
        8 10:45         | clock   | sent 1: E D C B A
        9 10:45         | add F   |
        9 11:30         | clock   | suppressed 1 cap
    """,
}

QUIET = {
    "no zone, no quiet hours": """
        10:00  | consent |
        22:00  | add A   |
        22:45  | clock   | sent 1: A
    """,
    "just before they begin (21:00 in Berlin is 20:00 UTC)": """
        1 10:00         | consent |
        1 10:00         | zone Europe/Berlin |
        1 19:14:59.999  | add A   |
        1 19:59:59.999  | clock   | sent 1: A
    """,
    "at their beginning: held until they end, then sent": """
        1 10:00         | consent |
        1 10:00         | zone Europe/Berlin |
        1 19:15         | add A   |
        1 20:00         | clock   | held 1 quiet until 2 08:00
        2 07:59:59.999  | clock   |
        2 08:00         | clock   | sent 1: A
        3 08:00         | clock   | sent 2: A
    """,
    "after midnight": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        2 00:15  | add A   |
        2 01:00  | clock   | held 1 quiet until 2 08:00
        2 08:00  | clock   | sent 1: A
    """,
    "just before they end, and at their end": """
        1 10:00         | consent |
        1 10:00         | zone Europe/Berlin |
        2 07:14:59.999  | add A   |
        2 07:59:59.999  | clock   | held 1 quiet until 2 08:00
        2 08:00         | clock   | sent 1: A
    """,
    "a purchase cancels what is held": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        1 23:00  | buy A   | cancelled 1 purchase
        2 08:00  | clock   |
    """,
    "a purchase from before the nudge was due, arriving while it is held, too": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        1 23:00  | buy A of 1 19:20 | cancelled 1 purchase
        2 08:00  | clock   |
    """,
    "a cart change replaces what is held": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        2 07:30  | add B   | cancelled 1 add_to_cart
        2 08:00  | clock   |
        2 08:15  | clock   | sent 1: B A
    """,
    "what is held passes all guards again": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        1 23:00  | refuse  |
        2 08:00  | clock   | suppressed 1 consent
    """,
    "time that jumps into the next night": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        2 19:59  | clock   | sent 1: A
    """,
    "who moves takes the quiet hours along": """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        2 06:00  | zone America/New_York |
        2 08:00  | clock   | held 1 quiet until 2 14:00
        2 14:00  | clock   | sent 1: A
    """,
    "a place where the shopper was before, told late, changes nothing": """
        1 10:00  | zone Europe/Berlin |
        1 10:01  | zone America/New_York of 1 09:00 |
        1 10:02  | consent |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
    """,
    "a zone that nobody knows is none": """
        1 10:00  | consent |
        1 10:00  | zone ../../etc/passwd |
        1 19:15  | add A   |
        1 20:00  | clock   | sent 1: A
    """,
}


@pytest.mark.parametrize("name", CONSENT)
def test_consent(name: str) -> None:
    check_table(CONSENT[name])


def test_a_decision_tells_what_was_answered() -> None:
    table = """
        10:05  | add A   |
        10:50  | clock   | suppressed 1 consent
        10:55  | refuse  |
        11:00  | add B   |
        11:45  | clock   | suppressed 1 consent
        11:50  | consent |
        11:55  | add C   |
        12:00  | buy A B | cancelled 1 purchase
        12:05  | add D   |
        12:50  | clock   | sent 1: D C
    """
    given = campaign("abandoned-cart", channels=["push", "email"], steps=["45m"])
    never, refused, cancelled, sent = (one.consent for one in check_table(table, campaigns=[given]).decisions)
    assert never == Consents({"push": None, "email": None}, {"personalisation": None})
    assert refused == Consents({"push": None, "email": False}, {"personalisation": False})
    assert cancelled is None
    assert sent == Consents({"push": None, "email": True}, {"personalisation": True})


@pytest.mark.parametrize("name", CAPS)
def test_caps(name: str) -> None:
    check_table(CAPS[name], cart_after_s=[2700], cart_rest_s=0)


@pytest.mark.parametrize("name", QUIET)
def test_quiet_hours(name: str) -> None:
    check_table(QUIET[name])


def test_the_night_in_which_the_clock_springs_forward() -> None:
    check_table(
        """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 07:00
        2 06:59:59.999  | clock   |
        2 07:00  | clock   | sent 1: A
        """,
        day1="2024-03-30",
    )


def test_the_night_in_which_the_clock_falls_back() -> None:
    check_table(
        """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 18:15  | add A   |
        1 19:00  | clock   | held 1 quiet until 2 08:00
        2 07:59:59.999  | clock   |
        2 08:00  | clock   | sent 1: A
        """,
        day1="2024-10-26",
    )


def test_held_past_its_expiry() -> None:
    check_table(
        """
        1 10:00  | consent |
        1 10:00  | zone Europe/Berlin |
        1 19:15  | add A   |
        1 20:00  | clock   | held 1 quiet until 2 08:00
        2 08:00  | clock   | suppressed 1 expired
        """,
        nudge_expiry_s=3600,
    )


def test_expiry_is_measured_at_receipt() -> None:
    """A tick that brings the watermark to 11:50 exactly was received at 11:50:02."""
    table = """
        10:00          | consent |
        10:05          | add A   |
        {}             | clock   | {}
    """
    check_table(table.format("11:49:57.999", "sent 1: A"), nudge_expiry_s=3600)
    check_table(table.format("11:49:58", "sent 1: A"), nudge_expiry_s=3600)
    check_table(table.format("11:49:58.001", "suppressed 1 expired"), nudge_expiry_s=3600)


def test_everybody_held_out() -> None:
    check_table(
        """
        10:00  | consent |
        10:05  | add A   |
        10:50  | clock   | suppressed 1 holdout
        """,
        holdout_percent=100,
    )


def test_the_holdout_is_a_stable_share_of_users() -> None:
    users = [f"u{n}" for n in range(20_000)]
    held = {percent: _held_out(users, percent) for percent in (0.0, 5.0, 10.0)}
    assert held[0.0] == set()
    assert held[5.0] < held[10.0]
    assert abs(len(held[10.0]) - 2000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5
    other = {user for user in users if bucket(user, "another salt") < 1000}
    assert abs(len(held[10.0] & other) - 200) < 4 * (20_000 * 0.01 * 0.99) ** 0.5


def _held_out(users: list[str], percent: float) -> set[str]:
    config = engine(holdout_percent=percent).config
    return {user for user in users if holdout(_candidate(user), config)}


NOW = ms("10:00")


def _candidate(user: str = "u", **changes: Any) -> Candidate:
    state = UserState(
        identified=True,
        channels={"email": Choice(True, 1)},
        purposes={"personalisation": Choice(True, 1)},
    )
    whole = Candidate(user, state, "email", "personalisation", "", NOW, NOW, NOW)
    return replace(whole, **changes)


def _reasons(candidate: Candidate, **settings: Any) -> list[str]:
    """Every guard that objects, in the guards' order."""
    config = engine(**settings).config
    stops = [guard(candidate, config) for guard in GUARDS]
    return [stop.reason for stop in stops if stop is not None]


def test_the_order_of_the_guards() -> None:
    candidate = _candidate(
        state=UserState(zone="Europe/Berlin"), untrue="rest", due=NOW - 2 * DAY_MS, now=ms("23:00")
    )
    settings: dict[str, Any] = {"holdout_percent": 100, "cap_day": 0}
    order = ["expired", "identified", "consent", "holdout", "rest", "cap", "quiet"]
    assert _reasons(candidate, **settings) == order
    assert check(candidate, engine(**settings).config) == Stop("expired")
    assert _reasons(_candidate()) == []


@given(
    st.lists(st.integers(-8 * DAY_MS, 0) | st.sampled_from([-DAY_MS, -WEEK_MS, 0]), max_size=6),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_caps_count_a_window_that_is_open_at_its_old_end(ages: list[int], day: int, week: int) -> None:
    state = replace_sent(_candidate().state, tuple(sorted(NOW + age for age in ages)))
    recent = sum(age > -DAY_MS for age in ages), sum(age > -WEEK_MS for age in ages)
    capped = recent[0] + 1 > day or recent[1] + 1 > week
    assert ("cap" in _reasons(_candidate(state=state), cap_day=day, cap_week=week)) == capped


def replace_sent(state: UserState, times: tuple[int, ...]) -> UserState:
    new = state.copy()
    new.sent["email"] = times
    return new


def test_caps_are_per_channel() -> None:
    state = _candidate().state.copy()
    state.sent["push"] = (NOW,)
    assert _reasons(_candidate(state=state)) == []


ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Cairo",
    "America/Santiago",
]


def _is_quiet(time: int, zone: str, start: int, end: int) -> bool:
    local = datetime.fromtimestamp(time / 1000, ZoneInfo(zone))
    minute = local.hour * 60 + local.minute
    return start <= minute < end if start <= end else minute >= start or minute < end


@given(
    st.integers(ms("1 00:00", "2010-01-01") // MINUTE_MS, ms("1 00:00", "2030-01-01") // MINUTE_MS),
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.integers(4, 23),
)
def test_quiet_hours_end_at_the_first_minute_that_is_not_quiet(
    minute: int, zone: str, start: int, end: int
) -> None:
    """Ends from 04:00 on, which no clock change of these zones skips or repeats."""
    now = minute * MINUTE_MS + 1
    until = quiet_end(now, zone, start * 60, end * 60)
    probe = now
    while _is_quiet(probe, zone, start * 60, end * 60):
        probe = (probe // MINUTE_MS + 1) * MINUTE_MS
    assert until == (None if probe == now else probe)


@given(st.integers(-180, 180), st.sampled_from(["2024-03-31", "2024-10-27"]), st.integers(0, 239))
def test_quiet_hours_that_end_while_the_clock_changes(offset: int, day: str, end: int) -> None:
    """Still an end after now, and at most the skipped hour later than the first minute that is not quiet."""
    now = ms("01:00", day) + offset * MINUTE_MS
    until = quiet_end(now, "Europe/Berlin", 21 * 60, end)
    probe = now
    while _is_quiet(probe, "Europe/Berlin", 21 * 60, end):
        probe += MINUTE_MS
    assert (until is None) == (probe == now)
    assert until is None or probe <= until <= probe + 60 * MINUTE_MS


def test_equal_ends_mean_no_quiet_hours() -> None:
    assert quiet_end(ms("03:00"), "Europe/Berlin", 540, 540) is None


def test_zones_are_those_of_the_package() -> None:
    assert {"Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires"} <= zone_names()
    assert all(quiet_end(NOW, zone, 0, 1439) is not None for zone in sorted(zone_names())[::40])


@pytest.mark.parametrize("name", ["quiet_from", "quiet_until"])
def test_a_time_that_no_clock_shows(name: str) -> None:
    given: dict[str, Any] = {name: "24:00"}
    with pytest.raises(ValueError, match=f"{name} must be a time of day"):
        engine(**given)
