"""Loyalty as tables (`tests/scenarios.py` explains them), laws, and the draw against brute force."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.keys import Keys
from state.memory import MemoryStore
from state.model import Put
from stream.campaign_files import load_program
from stream.contests import drawn, entered
from stream.core import loyalty
from stream.core.campaigns import Duration, Instant
from stream.core.engaged import Choice, Seen, UserState, observe
from stream.core.engagement import Engine
from stream.core.loyalty import Contest, Entries, Loyalty, Milestone, Program, Tier
from stream.core.triggers import TYPES
from stream.core.triggers.loyal import Loyal
from stream.settings import Settings
from tests.scenarios import Shop, campaign, describe, event, happening, ms
from tests.test_cold_start import Worker

DAY_MS = 86_400_000
PROGRAM = Program(
    per_unit=1,
    events={"share": 5, "invited": 40},
    life=Duration(60 * DAY_MS),
    tiers=(Tier(name="silver", points=100), Tier(name="gold", points=200)),
    milestones=(
        Milestone(name="second", counter="orders", at=2),
        Milestone(name="big", counter="spend", at=150),
    ),
    contests=(
        Contest(
            name="spring",
            from_=Instant(ms("2 00:00")),
            until=Instant(ms("3 00:00")),
            entries={"invited": 2, "purchase": 1},
        ),
    ),
)

TABLES = {
    "tier-reached": {
        "with the points that cross, not one before": """
            10:00 | consent |
            10:05 | buy A @99.99 |
            10:06 | clock |
            10:07 | buy A @1 |
            10:07 | clock | sent 1:
        """,
        "not a second time, also after a refund": """
            1 10:00 | consent |
            1 10:05 | buy A @100 |
            1 10:05 | clock | sent 1:
            2 10:05 | refund |
            9 10:05 | buy A @100 |
            9 10:06 | clock |
        """,
        "each tier for itself; the first one rests the campaign": """
            1 10:00 | consent |
            1 10:05 | buy A @100 |
            1 10:05 | clock | sent 1:
            9 10:05 | buy A @100 |
            9 10:05 | clock | sent 1:
        """,
        "what else happens at the same time does not say it again": """
            1 10:00 | consent |
            1 10:05 | buy A @100 |
            1 10:05 | clock | sent 1:
            1 10:06 | invited of 1 10:05 |
            1 10:07 | clock |
        """,
        "a visitor who is not known earns nothing": """
            10:00 | consent |
            10:05 | visitor buy A @100 |
            10:06 | clock |
        """,
    },
    "tier-near": {
        "when a tenth is missing, not more": """
            10:00 | consent |
            10:05 | buy A @89 |
            10:06 | clock |
            10:07 | buy A @1 |
            10:07 | clock | sent 1:
        """,
        "the tier reached cancels": """
            10:00 | consent |
            10:05 | buy A @95 |
            10:05 | buy A @5 | cancelled 1 purchase
            10:06 | clock |
        """,
        "nor who had it before": """
            10:00 | consent |
            10:05 | buy A @150 |
            10:06 | refund |
            10:07 | buy A @95 |
            10:08 | clock |
        """,
        "whoever jumps over is not near": """
            10:00 | consent |
            10:05 | buy A @150 |
            10:06 | clock |
        """,
    },
    "milestone": {
        "with the second order": """
            10:00 | consent |
            10:05 | buy A |
            10:06 | clock |
            10:07 | buy A |
            10:07 | clock | sent 1:
        """,
        "with the money, to the cent": """
            10:00 | consent |
            10:05 | buy A @149.99 |
            10:06 | clock |
            10:06 | refund |
            10:07 | buy A @150 |
            10:07 | clock | sent 1:
        """,
        "what was taken back and bought again is no second crossing": """
            1 10:00 | consent |
            1 10:05 | buy A |
            1 10:07 | buy A |
            1 10:07 | clock | sent 1:
            2 10:07 | refund |
            9 10:07 | buy A |
            9 10:08 | clock |
        """,
    },
    "contest-entered": {
        "the first entry within the window, from its first millisecond": """
            1 10:00 | consent |
            1 23:59:59.999 | invited |
            1 23:59:59.999 | clock |
            2 00:00 | invited |
            2 00:00 | clock | sent 1:
            2 10:00 | invited |
            2 10:01 | clock |
        """,
        "to its last": """
            1 10:00 | consent |
            3 00:00 | invited |
            3 00:00 | clock |
            3 00:01 | invited of 2 23:59:59.999 |
            3 00:02:01 | clock | sent 1:
        """,
    },
    "points-expiring": {
        "30, 7 and 1 days before the week's points expire": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            37 23:59:59.999 | clock |
            38 00:00 | clock | sent 1:
            61 00:00 | clock | sent 2:
            67 00:00 | clock | sent 3:
            90 00:00 | clock |
        """,
        "spent points do not expire": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            2 10:00 | redeem_points 10 | cancelled 1 redeem_points
            70 00:00 | clock |
        """,
        "days count from the end of the points, not from the nudge before": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            38 12:00 | clock | sent 1:
            60 23:59:59.999 | clock |
            61 00:00 | clock | sent 2:
        """,
        "when they expire it is too late, a millisecond before it is not": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            38 00:00 | clock | sent 1:
            61 00:00 | clock | sent 2:
            67 23:59:59.999 | clock | sent 3:
        """,
        "and so": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            38 00:00 | clock | sent 1:
            61 00:00 | clock | sent 2:
            68 00:00 | clock | suppressed 3 gone
        """,
        "nothing is said again when something comes late": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            38 00:00 | clock | sent 1:
            61 00:00 | clock | sent 2:
            67 00:00 | clock | sent 3:
            67 01:00 | buy B @5 of 60 10:00 |
            67 02:00 | clock |
        """,
        "points that come after the last nudge are told in their time": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            38 00:00 | clock | sent 1:
            61 00:00 | clock | sent 2:
            67 00:00 | clock | sent 3:
            67 12:00 | buy B @5 |
            100 23:59:59.999 | clock |
            101 00:00 | clock | sent 1:
        """,
        "of points that come late no nudge is told that would be past": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            38 00:00 | clock | sent 1:
            50 10:00 | redeem_points 10 | cancelled 2 redeem_points
            50 11:00 | buy B @5 of 8 10:05 |
            50 12:00 | clock |
            68 00:00 | clock | sent 2:
        """,
        "also those of two weeks": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            8 10:05 | buy A @10 |
            9 10:00 | redeem_points 20 | cancelled 1 redeem_points
            90 00:00 | clock |
        """,
        "then those of the next week": """
            1 10:00 | consent |
            1 10:05 | buy A @10 |
            8 10:05 | buy A @10 |
            38 00:00 | clock | sent 1:
            61 00:00 | clock | sent 2:
            67 00:00 | clock | sent 3:
            68 00:00 | clock | suppressed 2 rest
        """,
    },
}  # fmt: skip


def test_every_trigger_of_loyalty_has_its_tables() -> None:
    assert set(TABLES) == {name for name, kind in TYPES.items() if issubclass(kind, Loyal)}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, tables in TABLES.items() for name in tables]
)
def test_it_does_what_its_table_says(kind: str, name: str) -> None:
    rows = [row.strip() for row in TABLES[kind][name].strip().splitlines()]
    for batch in (len(rows), 1):
        shop = _shop(kind)
        log = [happening(row, "2024-03-04", shop.engine.config.lateness_ms) for row in rows]
        for begin in range(0, len(log), batch):
            shop.play(log[begin : begin + batch])
        for at, row in enumerate(rows):
            told = [describe(one, shop.messages, "2024-03-04") for one in shop.decisions if one.at == at]
            assert "; ".join(told).strip() == row.split("|")[2].strip(), (batch, row)


def _shop(kind: str, **fields: Any) -> Shop:
    given_ = Settings(cart_enabled=False, cap_day=100, cap_week=100)
    return Shop(Engine.of(given_, [campaign(kind, expires="500d", **fields)], program=PROGRAM))


def test_a_campaign_may_name_the_tier() -> None:
    for name, sent in (("gold", 1), ("silver", 0), ("bronze", 0)):
        shop = _shop("tier-reached", trigger={"type": "tier-reached", "name": name})
        shop.play(
            [
                happening(row, "2024-03-04", shop.engine.config.lateness_ms)
                for row in ("10:00 | consent", "10:05 | buy A @200", "10:06 | clock")
            ]
        )
        assert len(shop.messages) == (sent if name != "silver" else 1)


def test_of_two_tiers_that_are_near_one_may_be_reached() -> None:
    close = msgspec.structs.replace(
        PROGRAM, tiers=(Tier(name="silver", points=100), Tier(name="gold", points=105))
    )
    given = campaign("tier-near", steps=["1h"], expires="500d")
    for more, names in ((3, ["near:gold", "near:silver"]), (5, ["near:gold"]), (9, [])):
        shop = Shop(Engine.of(Settings(cart_enabled=False), [given], program=close))
        rows = "10:00 | consent", "10:05 | buy A @96", f"10:30 | buy A @{more}", "11:05 | clock"
        shop.play([happening(row, "2024-03-04", shop.engine.config.lateness_ms) for row in rows])
        (decision,) = shop.decisions
        assert decision.outcome == ("sent" if names else "cancelled")
        assert [each.type for each in decision.evidence if each.type != "purchase"] == names


def test_of_points_that_are_about_to_expire_no_nudge_is_told_whose_time_is_now_or_past() -> None:
    shop = _shop("points-expiring", trigger={"type": "points-expiring", "before": "67d"})
    rows = "1 00:00 | consent", "1 00:00 | buy A @10", "1 00:01 | clock", "24 00:00 | clock"
    shop.play([happening(row, "2024-03-04", shop.engine.config.lateness_ms) for row in rows])
    assert [(message.step, message.due) for message in shop.messages] == [(2, ms("24 00:00"))]


# Laws

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("purchase"), st.integers(0, 400), st.integers(0, 30_000)),
        st.tuples(st.sampled_from(["share", "invited"]), st.integers(0, 400), st.just(0)),
        st.tuples(st.just("redeem_points"), st.integers(0, 400), st.integers(-5, 300)),
        st.tuples(st.just("refund"), st.integers(0, 400), st.integers(0, 30_000)),
    ),
    max_size=30,
)


def _after(events: Sequence[tuple[str, int, int]], program: Program = PROGRAM) -> list[Loyalty]:
    """The points of a user after each event: type, day, and cents or points."""
    user, found = UserState(), [loyalty.NO_POINTS]
    for at, (kind, day, number) in enumerate(events):
        time = ms("1 10:00") + day * DAY_MS
        fields: dict[str, Any] = {"item": "A"}
        if kind in ("purchase", "refund"):
            fields |= {"value": number / 100}
        if kind == "redeem_points":
            fields |= {"attributes": {"points": number}}
        seen = Seen(at, time, time, kind, event(kind, time, **fields))
        before = user.rfm
        observe(user, seen)
        found.append(loyalty.after(program, found[-1], seen, before, user.rfm))
    return found


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_points_are_never_below_zero_and_none_gets_lost(events: list[tuple[str, int, int]]) -> None:
    for each in _after(events):
        assert all(lot.left >= 0 and lot.earned >= 0 for lot in each.lots)
        assert each.earned == sum(lot.left for lot in each.lots) + each.spent + each.expired + each.taken
        assert min(each.spent, each.expired, each.taken, each.balance(each.newest)) >= 0
        assert len(each.lots) <= 60 / 7 + 6


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_what_is_earned_is_the_same_in_any_order(events: list[tuple[str, int, int]], random: Any) -> None:
    earned = [each for each in events if each[0] not in ("redeem_points", "refund")]
    shuffled = random.sample(earned, len(earned))
    one, other = (_after(each)[-1] for each in (earned, shuffled))
    assert (one.lots, one.expired, one.counters) == (other.lots, other.expired, other.counters)
    assert (one.entries, one.earned) == (other.entries, other.earned)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_milestone_is_crossed_once_and_where_the_counter_crosses(
    events: list[tuple[str, int, int]],
) -> None:
    states = _after(events)
    crossings = sum(
        "milestone:second" in now.crossed and "milestone:second" not in before.crossed
        for before, now in pairwise(states)
    )
    assert crossings == (max(each.counters.get("orders", 0) for each in states) >= 2)


def test_points_expire_at_their_moment() -> None:
    (now,) = _after([("purchase", 0, 1000)])[1:]
    (lot,) = now.lots
    assert (lot.began, lot.expires) == (ms("1 00:00"), ms("8 00:00") + 60 * DAY_MS)
    assert [now.balance(lot.expires + by) for by in (-1, 0, 1)] == [10, 0, 0]


def test_the_oldest_points_are_spent_first_and_no_more_than_there_are() -> None:
    states = _after([("purchase", 7, 1000), ("purchase", 0, 1000), ("redeem_points", 8, 15)])
    assert [lot.left for lot in states[-1].lots] == [0, 5]
    states = _after([("purchase", 0, 1000), ("redeem_points", 8, 15)])
    assert (states[-1].spent, states[-1].balance(states[-1].newest)) == (10, 0)


def test_a_refund_takes_back_what_its_order_earned_from_others_if_it_is_spent() -> None:
    events = [("purchase", 0, 1000), ("purchase", 7, 3000), ("redeem_points", 8, 10), ("refund", 6, 1000)]
    now = _after(events)[-1]
    assert (now.taken, now.spent, now.balance(now.newest)) == (10, 10, 20)
    assert now.counters == {"points": 30, "orders": 1, "spend": 3000}


def test_a_refund_of_a_part_takes_back_its_part() -> None:
    now = _after([("purchase", 0, 1050), ("refund", 1, 25), ("refund", 1, 50)])[-1]
    assert (now.earned, now.taken, now.counters["orders"], now.counters["spend"]) == (10, 1, 1, 975)


def test_a_refund_of_an_order_from_before_the_program_takes_nothing() -> None:
    user, time = UserState(), ms("1 10:00")
    bought = event("purchase", time, order="old", value=50)
    observe(user, Seen(0, time, time, "purchase", bought))
    found = loyalty.NO_POINTS
    for at, (kind, order, value) in enumerate([("purchase", "new", 30), ("refund", "old", 50)], 1):
        seen = Seen(at, time + at, time + at, kind, event(kind, time + at, order=order, value=value))
        before = user.rfm
        observe(user, seen)
        found = loyalty.after(PROGRAM, found, seen, before, user.rfm)
    assert (found.taken, found.balance(found.newest)) == (0, 30)
    assert found.counters == {"points": 30, "orders": 1, "spend": 3000}


def test_points_that_are_long_expired_are_not_taken_from_others() -> None:
    late = [("purchase", 0, 1000), ("purchase", 98, 3000), ("refund", 97, 1000)]
    assert [each.balance(each.newest) for each in _after(late)[-2:]] == [30, 30]
    assert (_after(late)[-1].taken, _after(late)[-1].expired) == (0, 10)


def test_tiers_look_at_the_weeks_of_their_window() -> None:
    program = Program(tiers=(Tier(name="silver", points=100),), within=Duration(30 * DAY_MS))
    now = _after([("purchase", 0, 10_000)], program)[-1]
    end = ms("8 00:00") + 30 * DAY_MS
    held = [loyalty.tier(program, now, end + by) for by in (-1, 0)]
    assert [each.name if each else None for each in held] == ["silver", None]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("abcxyz", min_size=1), st.integers(0, 9), max_size=8), st.integers(0, 9))
def test_the_draw_takes_the_lowest_tickets_of_all(entered: dict[str, int], winners: int) -> None:
    tickets = sorted(
        (loyalty.ticket("s", "c", user, at), user) for user, number in entered.items() for at in range(number)
    )
    expected = list(dict.fromkeys(user for _, user in tickets))[:winners]
    entries = [Entries(user, number) for user, number in entered.items()]
    drawn = loyalty.draw(entries, "c", "s", winners)
    assert [each.user for each in drawn] == expected
    assert drawn == loyalty.draw(reversed(entries), "c", "s", winners)
    assert loyalty.entries_hash(entries) == loyalty.entries_hash(reversed(entries))


def test_more_entries_win_more_often() -> None:
    won = [loyalty.draw([Entries("a", 3), Entries("b", 1)], "c", str(seed), 1)[0].user for seed in range(400)]
    assert 260 < won.count("a") < 340


# Files, and the draw from the store


def test_the_page_shows_a_program_that_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "engagement.md").read_text()
    (shown,) = re.findall(r"```yml\n(per_unit.*?)```", page, re.DOTALL)
    (tmp_path / "loyalty.yaml").write_text(shown)
    program = load_program(str(tmp_path / "loyalty.yaml"))
    assert program is not None and [each.name for each in program.tiers] == ["silver", "gold"]
    assert load_program("") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("per_unit: -1", ":1: per_unit: -1 is not allowed: give a number from 0 to 10000"),
        ("life: 90", ":1: life: 90 is not allowed: give a whole number and a unit"),
        ("tires: []", ":1: tires: there is no such field: use per_unit"),
        ("life: 1097d", ":1: life 1097d is not allowed: give 1s to 1096d"),
        (
            "tiers:\n- {name: a, points: 5}\n- {name: b, points: 5}",
            ":1: the tiers do not rise: give each more points than the one before it",
        ),
        (
            "milestones:\n- {name: a, counter: orders, at: 0}",
            ":2: milestones[0].at: 0 is not allowed: give a whole number from 1",
        ),
    ],
)
def test_what_is_wrong_is_told_with_line_and_mend(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "loyalty.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{file}{told}")):
        load_program(str(file))


async def test_only_who_is_known_and_granted_the_purpose_is_in_the_draw() -> None:
    store, yes = MemoryStore(Keys(Settings().prefix)), {"personalisation": Choice(True, 1)}
    entered_ = Loyalty(entries={"spring": 2})
    people = {
        "ann": UserState(identified=True, purposes=yes, loyalty=entered_),
        "bob": UserState(identified=False, purposes=yes, loyalty=entered_),
        "kim": UserState(identified=True, loyalty=entered_),
        "lee": UserState(identified=True, purposes=yes),
    }
    keys = Keys(Settings().prefix)
    for name, one in people.items():
        store.apply(Put(keys.engagement("u0", name), one.pack()))
    found, left_out = await entered(Settings(), store, "spring", "personalisation")
    assert (found, left_out) == ([Entries("ann", 2)], 2)
    told = drawn(found, left_out, "spring", "s", 3)
    assert (told.users, told.entries, [each.user for each in told.winners]) == (1, 2, ["ann"])
    assert told.hash == blake2b(b"ann\t2\n", digest_size=32).hexdigest()


# What a worker writes


async def test_a_workers_views_show_points_and_end_with_a_forget(tmp_path: Path) -> None:
    (tmp_path / "loyalty.yaml").write_text("events: {share: 5}\ntiers: [{name: silver, points: 15}]\n")
    worker = Worker(loyalty=str(tmp_path / "loyalty.yaml"))
    await worker.start({"A": {}})
    key = Keys(worker.settings.prefix).loyalty("ann")
    await worker.send("ann", "purchase", 1, item="A", price=10.5)
    (value,) = await worker.local.store.get([key])
    assert value is not None
    told = orjson.loads(value)
    assert (told["user"], told["points"], told["tier"], told["reached"]) == ("ann", 10, None, {})
    assert [lot["points"] for lot in told["lots"]] == [10]
    await worker.send("ann", "share", 2, item="A")
    (value,) = await worker.local.store.get([key])
    assert value is not None
    told = orjson.loads(value)
    assert (told["points"], told["tier"], list(told["reached"])) == (15, "silver", ["tier:silver"])
    await worker.send("ann", "forget", 3)
    (value,) = await worker.local.store.get([key])
    assert value is not None and orjson.loads(value)["points"] == 0


async def test_without_a_program_nothing_is_kept() -> None:
    worker = Worker()
    await worker.start({"A": {}})
    await worker.send("ann", "purchase", 1, item="A", price=10.5)
    assert await worker.local.store.get([Keys(worker.settings.prefix).loyalty("ann")]) == [None]
    assert all(each.loyalty == Loyalty() for one in worker.local.shoppers for each in one.engaged.values())
