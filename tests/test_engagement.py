"""The engine: laws that hold whatever the stream, the stored form, and what every trigger owes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.engaged import CART_ITEMS, CONSENT_NAMES, Choice, Seen, UserState, observe
from stream.core.engagement import Clock, Engine, decision_hash, digest_fields, message_id, run
from stream.core.guards import DAY_MS, WEEK_MS, bucket
from stream.core.messages import Decision
from stream.core.offers import OFFER, Ask
from stream.core.triggers.abandoned_cart import AbandonedCart
from stream.events import Told
from tests.scenarios import Happening, Shop, campaign, engine, event, happening, ms

MINUTE_MS = 60_000
START = ms("09:00")
USERS = ("ann", "bob", "kim")

# Short delays, low caps and a rest of hours, so that a stream of hours meets all of them.
BRISK: dict[str, Any] = {
    "cart_after_s": [600, 1800, 3600],
    "cart_rest_s": 3 * 3600,
    "cap_day": 2,
    "nudge_expiry_s": 12 * 3600,
    "holdout_percent": 20,
}


def _granted(channel: bool, purpose: bool) -> dict[str, Any]:
    return {"channels": {"email": channel}, "purposes": {"personalisation": purpose}}


ITEMS = st.lists(st.sampled_from("ABC"), min_size=1, max_size=2).map(
    lambda items: {"items": [{"item": item, "quantity": 1} for item in items]}
)
DOINGS = st.one_of(
    st.tuples(st.just("add_to_cart"), ITEMS),
    st.tuples(st.just("add_to_cart"), ITEMS),
    st.tuples(st.just("add_to_cart"), ITEMS),
    st.tuples(
        st.sampled_from(["purchase", "remove_from_cart", "add_to_cart", "begin_checkout", "add_to_cart"]),
        ITEMS,
    ),
    st.tuples(st.just("consent"), st.builds(_granted, st.sampled_from([True, True, False]), st.just(True))),
    st.sampled_from(["Europe/Berlin", "America/New_York"]).map(lambda z: ("login", {"context": {"zone": z}})),
    st.sampled_from(["03-04", "1990-03-05"]).map(
        lambda day: ("preferences", {"attributes": {"birthday": day}})
    ),
    st.tuples(st.just("view_item"), ITEMS),
    st.just(("search", {"query": "mug"})),
    st.sampled_from([("refund", {"order": "o"}), ("purchase", {"items": [{"item": "A"}], "order": "o"})]),
    st.sampled_from([None, None, None, None, ("forget", dict[str, Any]())]),
)
STEPS = st.tuples(
    st.sampled_from(USERS),
    DOINGS,
    st.sampled_from([n * MINUTE_MS for n in (0, 2, 5, 10, 20, 30, 60, 180)]) | st.integers(0, 4000),
    st.sampled_from([0, 0, 0, 0, 1500, 15 * MINUTE_MS, 120 * MINUTE_MS]),
    st.sampled_from([True, True, False]),
)


def _log(steps: list[tuple[str, tuple[str, dict[str, Any]] | None, int, int, bool]]) -> list[Happening]:
    """Everybody consents first; then each step lets time pass, and its event is late by so much."""
    log = [
        Happening(user, START, START, event("consent", START, user, **_granted(True, True))) for user in USERS
    ]
    now = START
    for user, doing, passed, late, known in steps:
        now += passed
        if doing is None:
            log.append(Happening("", now, now, None))
        else:
            kind, fields = doing
            log.append(Happening(user, now - late, now, event(kind, now - late, user, known, **fields)))
    ends = [now + n * 20 * MINUTE_MS for n in range(1, 9)] + [now + DAY_MS, now + 3 * DAY_MS]
    return log + [Happening("", end, end, None) for end in ends]


ANSWERS = st.lists(
    st.sampled_from([None, [], [{"item": "A", "score": 3.0}], [{"item": x, "score": 2.0} for x in "BC"]]),
    min_size=1,
    max_size=4,
)
LOGS = st.builds(
    lambda steps, answers: _answered(_log(steps), answers), st.lists(STEPS, min_size=5, max_size=40), ANSWERS
)


def _answered(log: list[Happening], answers: list[list[dict[str, Any]] | None]) -> list[Happening]:
    """What nudges ask for comes after the next event, or (None) never; the answers in turn."""
    shop, waiting, found = Shop(BY), list[Ask](), list[Happening]()
    for one in log:
        begin, asked = len(found), len(shop.asks)
        found.append(one)
        for ask in waiting:
            items = answers[ask.due // 1000 % len(answers)]
            body = {"rule": ask.rule, "due": ask.due, "number": ask.number, "time": ask.time, "items": items}
            told = Told(type=OFFER, time="", anonymous=ask.user, body=body)
            found += [Happening(ask.user, ask.time, one.received, told)] if items is not None else []
        shop.play(found[begin:])
        waiting = shop.asks[asked:]
    return found


def _played(log: list[Happening], cuts: list[int], by: Engine) -> Shop:
    shop = Shop(by)
    for begin, end in pairwise([0, *sorted(cuts), len(log)]):
        shop.play(log[begin:end])
    return shop


BY = engine(
    [
        campaign("abandoned-checkout", steps=["5m", "30m"], rest="1h"),
        campaign("birthday"),
        campaign(
            "browse-abandonment", trigger={"idle": "5m", "ordered": "30m"}, steps=["5m", "1h"], rest="1h"
        ),
        campaign("event", trigger={"event": "search", "unless": "refund"}, steps=["5m", "30m"], rest="1h"),
        campaign("next-best-offer", steps=["10m"], rest="1h", priority=95),
        campaign("post-purchase", steps=["20m"], rest="1h", message={"template": "p", "items": "viewed"}),
        campaign("replenishment"),
        campaign("trending-for-you", steps=["5m"], rest="6h", priority=95),
        campaign("welcome", steps=["0s", "1h"], channels=["push", "email"]),
        campaign(
            "win-back",
            trigger={"lapse": "2h"},
            steps=["0s", "1h"],
            rest="1h",
            holdout_percent=20,
            message={"template": "w", "items": "recommended", "most": 1},
        ),
    ],
    **BRISK,
)
OF_CART = ("abandoned-cart", "abandoned-checkout")
HELD_OUT = {user for user in USERS if bucket(user, "tidewise") < 2000}


@settings(max_examples=150)
@given(LOGS, st.data())
def test_cutting_the_stream_otherwise_changes_nothing(log: list[Happening], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(log)), max_size=8))
    whole, cut = _played(log, [], BY), _played(log, cuts, BY)
    assert cut.messages == whole.messages
    assert cut.decisions == whole.decisions
    assert cut.stored == whole.stored
    assert cut.alarms == whole.alarms
    assert decision_hash(cut.decisions) == decision_hash(whole.decisions)


@settings(max_examples=100)
@given(LOGS)
def test_users_are_independent(log: list[Happening]) -> None:
    together = _played(log, [], BY)
    for user in USERS:
        alone = _played(
            [one if one.user == user else Happening("", one.time, one.received, None) for one in log], [], BY
        )
        assert alone.messages == [one for one in together.messages if one.user == user]
        assert alone.decisions == [one for one in together.decisions if one.user == user]
        assert alone.stored.get(user) == together.stored.get(user)


@settings(max_examples=150)
@given(LOGS)
def test_what_is_sent_is_allowed(log: list[Happening]) -> None:
    """Against the log itself: caps, consent, holdout, quiet hours, purchases; one decision a message."""
    shop = _played(log, [], BY)
    sent = [(one.at, one.user, one.due) for one in shop.decisions if one.outcome == "sent"]
    assert sent == [(one.at, one.user, one.due) for one in shop.messages]
    for message in shop.messages:
        since = _forgotten(log[: message.at + 1], message.user)
        mine = [one for one in shop.messages if one.user == message.user]
        times = [one.time for one in mine if since <= one.at <= message.at]
        assert sum(time > message.time - DAY_MS for time in times) <= 2
        assert sum(time > message.time - WEEK_MS for time in times) <= 3
        before = [one for one in log[since : message.at + 1] if one.user == message.user]
        assert _answer(before) and message.user not in HELD_OUT
        assert 9 <= datetime.fromtimestamp(
            message.time / 1000, ZoneInfo(_told(before) or "UTC")
        ).hour < 21 or not _told(before)
        for line in message.items:
            assert message.rule not in OF_CART or not _bought_since_put_in(before, line.item)
        if message.rule == "browse-abandonment":
            orders = [one.time for one in before if one.event is not None and one.event.type == "purchase"]
            assert max(orders, default=0) <= message.time - 30 * MINUTE_MS
        assert message.due <= message.time <= message.expires


@settings(max_examples=100)
@given(LOGS)
def test_alarms_and_timers_agree(log: list[Happening]) -> None:
    """The caller's index holds exactly the users with a timer, and nothing overdue is left."""
    shop = _played(log, list(range(0, len(log), 3)), BY)
    states = {user: UserState.unpack(data) for user, data in shop.stored.items()}
    assert shop.alarms == {u: due for u, state in states.items() if (due := state.next_due()) is not None}
    assert all(due > shop.watermark for due in shop.alarms.values())


@settings(max_examples=100)
@given(LOGS)
def test_a_fired_timer_moves_on(log: list[Happening]) -> None:
    """What every trigger owes the engine: after firing, its next timer is later than that, or none."""
    for cut in range(len(log)):
        shop = _played(log[:cut], [], BY)
        for state in (UserState.unpack(data) for data in shop.stored.values()):
            for rule, timer in state.pending.items():
                trigger = BY.triggers[rule]
                own = msgspec.msgpack.decode(state.triggers[rule], type=trigger.state)
                proposal = trigger.on_timer(own, state, timer.at)
                for after in (proposal.if_sent, proposal.if_not):
                    assert (trigger.next_timer(after) or timer.due + 1) > timer.due


@settings(max_examples=50)
@given(LOGS)
def test_views_change_nothing_where_no_campaign_wants_them(log: list[Happening]) -> None:
    """Whether they reach the engine depends on which versions of campaigns a worker knows by then."""
    by = engine([campaign("abandoned-checkout", steps=["5m", "30m"]), campaign("welcome")], **BRISK)
    without = [
        replace(one, event=None) if one.event is not None and one.event.type == "view_item" else one
        for one in log
    ]
    seen, unseen = _played(log, [], by), _played(without, [], by)
    assert seen.stored == unseen.stored and seen.alarms == unseen.alarms
    assert seen.decisions == unseen.decisions and seen.messages == unseen.messages


def _forgotten(log: list[Happening], user: str) -> int:
    """Where the log begins for a user: after the last `forget`, which erases the caps' counts as well."""
    mine = [at for at, one in enumerate(log) if one.user == user and one.event and one.event.type == "forget"]
    return mine[-1] + 1 if mine else 0


def _told(log: list[Happening]) -> str:
    """The zone told last, by event time; of two at one time, the last in the alphabet."""
    told = [
        (one.time, one.event.context["zone"])
        for one in log
        if one.event is not None and one.event.type == "login" and one.event.context
    ]
    return max(told)[1] if told else ""


def _answer(log: list[Happening]) -> bool:
    """The newest answer about email; of two at one time, the refusal."""
    answers = [
        (one.time, not one.event.channels["email"])
        for one in log
        if one.event is not None and one.event.type == "consent" and one.event.channels
    ]
    return bool(answers) and not max(answers)[1]


def _bought_since_put_in(log: list[Happening], item: str) -> bool:
    times: dict[str, int] = {"add_to_cart": 0, "purchase": 0}
    for one in log:
        if one.event is not None and one.event.type in times and item in [x.item for x in one.event.lines()]:
            times[one.event.type] = max(times[one.event.type], one.time)
    return times["purchase"] >= times["add_to_cart"]


FACTS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.one_of(
            st.tuples(st.just("add_to_cart"), ITEMS),
            st.tuples(st.just("purchase"), ITEMS),
            st.tuples(st.just("begin_checkout"), st.just({})),
            st.tuples(st.just("consent"), st.builds(_granted, st.booleans(), st.booleans())),
        ),
    ),
    max_size=8,
)


@given(FACTS, st.randoms(use_true_random=False))
def test_late_events_leave_the_same_facts(facts: list[Any], random: Any) -> None:
    """Consent, order and checkout in any order of arrival; the cart never has what was bought from it."""

    def known(order: list[Any]) -> UserState:
        state = UserState()
        for minute, (kind, fields) in order:
            time = START + minute * MINUTE_MS
            observe(state, Seen(0, time, time, kind, event(kind, time, "ann", **fields)))
        return state

    shuffled = list(facts)
    random.shuffle(shuffled)
    late, due = known(shuffled), known(sorted(facts, key=lambda fact: (fact[0], fact[1][0] == "purchase")))
    for name in ("channels", "purposes", "ordered", "checkout"):
        assert getattr(late, name) == getattr(due, name)
    assert late.cart.keys() <= due.cart.keys()


# The stored form


def _full() -> UserState:
    log = [
        happening(row, "2024-03-04", 2000)
        for row in (
            "10:00 | consent",
            "10:00 | zone Europe/Berlin",
            "10:01 | buy Z @3.50",
            "10:05 | add B x2 @9.90",
            "10:06 | add A",
            "10:51 | clock",
        )
    ]
    return UserState.unpack(_played(log, [], engine()).stored["shopper"])


def test_a_state_survives_the_store() -> None:
    state = _full()
    assert UserState.unpack(state.pack()) == state
    assert state.next_due() == ms("2 10:51")


def test_equal_states_give_equal_bytes() -> None:
    state = _full()
    other = state.copy()
    other.cart = dict(reversed(other.cart.items()))
    assert list(other.cart) != list(state.cart)
    assert other.pack() == state.pack()


def test_an_empty_state_packs_to_nothing() -> None:
    assert UserState().pack() == b""
    assert UserState.unpack(None) == UserState.unpack(b"") == UserState()


def test_another_format_is_refused() -> None:
    for future in ([2, "what only the future knows"], [2, True]):
        with pytest.raises(ValueError, match="not of format 1: upgrade"):
            UserState.unpack(msgspec.msgpack.encode(future))


def test_bounds() -> None:
    state = UserState()
    for n in range(80):
        names = {f"c{n:02}": True}
        for kind, fields in (
            ("add_to_cart", {"items": [{"item": f"i{n:02}"}]}),
            ("consent", {"channels": names, "purposes": names}),
        ):
            observe(state, Seen(0, START + n, START + n, kind, event(kind, START + n, **fields)))
    assert sorted(state.cart) == [f"i{n:02}" for n in range(80 - CART_ITEMS, 80)]
    assert sorted(state.channels) == sorted(state.purposes) == [f"c{n:02}" for n in range(CONSENT_NAMES)]
    state.channels["c00"] = Choice(True, START)
    observe(
        state,
        Seen(0, START + 99, START + 99, "consent", event("consent", START + 99, channels={"c00": False})),
    )
    assert not state.channels["c00"].granted


def test_digest_leaves_out_when_the_watermark_passed() -> None:
    """The same shopper, once with time in small steps, once in a jump: sent at other times, else the same."""
    rows = ["10:00 | consent", "10:05 | add A"]
    states = []
    for clock in ("10:50 | clock", "10:59 | clock"):
        log = [happening(row, "2024-03-04", 2000) for row in [*rows, clock]]
        states.append(UserState.unpack(_played(log, [], engine(cart_after_s=[2700])).stored["shopper"]))
    assert states[0] != states[1]
    assert digest_fields(states[0]) == digest_fields(states[1])
    assert msgspec.json.encode(digest_fields(states[0])) == (
        b'{"identified":true,"channels":{"email":[true,%d]},"purposes":{"personalisation":[true,%d]},"zone":"",'
        b'"cart":{"A":[1,null,%d]},"times":[%d,0,0],"pending":{},"sent":{"email":1},'
        b'"campaigns":["abandoned-cart"],"coupons":{},"attributes":{}}'
        % (ms("10:00"), ms("10:00"), ms("10:05"), ms("10:05"))
    )


# The engine's edges


def test_several_users_due_at_one_event_come_in_the_order_of_their_names() -> None:
    log = [
        Happening(user, START, START, event(kind, START, user, **fields))
        for user in ("kim", "ann", "bob")
        for kind, fields in (("consent", _granted(True, True)), ("add_to_cart", {"items": [{"item": "A"}]}))
    ]
    shop = _played([*log, Happening("", START + DAY_MS // 2, START + DAY_MS // 2, None)], [], engine())
    assert [one.user for one in shop.messages] == ["ann", "bob", "kim"]
    assert {one.at for one in shop.messages} == {6}


def test_two_triggers_share_the_facts_and_the_caps() -> None:
    """They fire in the order in which they are due, not by name; the first takes the only message."""
    rows = ("10:00 | consent", "10:05 | add A", "12:00 | clock", "12:05 | buy A")
    log = [happening(row, "2024-03-04", 2000) for row in rows]
    config = engine(cap_day=1).config
    triggers = [
        AbandonedCart(name, ("email",), "personalisation", 90, after_ms, 0)
        for name, after_ms in (
            ("abandoned-cart", (10 * MINUTE_MS,)),
            ("a-second-thought", (20 * MINUTE_MS, DAY_MS)),
        )
    ]
    shop = _played(log, [1, 2, 3], Engine(config, {trigger.id: trigger for trigger in triggers}))
    assert [(one.rule, one.step, one.outcome, one.reason) for one in shop.decisions] == [
        ("abandoned-cart", 1, "sent", ""),
        ("a-second-thought", 1, "suppressed", "cap"),
        ("a-second-thought", 2, "cancelled", "purchase"),
    ]
    assert [one.due for one in shop.decisions[:2]] == [ms("10:15"), ms("10:25")]


def test_a_timer_of_a_trigger_that_was_switched_off() -> None:
    log = [
        happening(row, "2024-03-04", 2000) for row in ("10:00 | consent", "10:05 | add A", "10:50 | clock")
    ]
    shop = Shop(engine())
    shop.play(log[:2])
    shop.engine = engine(cart_enabled=False)
    shop.play(log[2:])
    assert [(one.outcome, one.reason) for one in shop.decisions] == [("cancelled", "switched-off")]
    assert shop.alarms == {} and not shop.messages


def test_changed_delays_hold_for_pending_timers() -> None:
    rows = ("10:00 | consent", "10:05 | add A", "10:50 | clock", "11:05 | clock")
    log = [happening(row, "2024-03-04", 2000) for row in rows]
    shop = Shop(engine())
    shop.play(log[:2])
    shop.engine = engine(cart_after_s=[3600])
    shop.play(log[2:])
    assert [(one.at, one.due) for one in shop.messages] == [(3, ms("11:05"))]


def test_an_empty_batch_and_users_that_nothing_concerns() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    state = _full()
    outcome = run(engine(), {"ann": state}, {}, Clock(ms("3 10:00"), nothing, nothing))
    assert (outcome.states, outcome.alarms, outcome.messages, outcome.decisions) == ({}, {}, [], [])


def test_ids_and_the_decision_hash() -> None:
    assert message_id(3, 14, 1, "nudge", 0) == "3-14-1-nudge-0"
    one = Decision(0, 5, "ann", "c", "r", 1, 5, "sent")
    other = Decision(7, 9, "bob", "c", "r", 2, 5, "suppressed", "cap")
    assert decision_hash([]) == 0
    assert decision_hash([one, other]) == decision_hash([other, one])
    assert decision_hash([one, other]) == (decision_hash([one]) + decision_hash([other])) % 2**64
    assert decision_hash([one]) != decision_hash([other])
