"""Engagement scenarios as tables: what happens to one shopper on the left, what must be decided on the right.

A row is ``[day] time | what happens | what is decided``. Day 1 is 2024-03-04 unless told, times are UTC.
What happens:

=====================  =============================================================================
clock                  nothing but time: a tick brings the watermark to exactly this time
add A [x2] [@9.90]     A goes into the cart (view, wish, remove, buy, checkout likewise; buy takes several)
consent, refuse        email and personalisation are granted, refused
zone Europe/Berlin     a login that tells where the shopper is
refund [o2] [A]        the order is taken back; another one, ``o2``; A of an order that is not named
redeem_points 10       points are spent
prefer birthday 03-05  an answer to a questionnaire
price A 90 80 [100]    a notice: A cost 90 and costs 80 now, the shopper saw it at 100 (default: at 90)
stock A 9 4            a notice: of A there were 9 pieces, now 4; ``stock A 0 4 back``: it is back
                       (``back 3``: he was told of 3)
offer A =0.5 @9 %2     what was asked for: items with score, price and margin; ``offer``: nothing fits
grant MAY-1 @5         the ledger's answer: a coupon worth 5 until the end of day 30; ``grant !budget``: none;
                       ``#1`` at the end: it answers the first request, not the last
redeem MAY-1           a coupon is redeemed
forget                 the shopper asks to be forgotten
invited A place=x      an event of the shop's own type, with items and context (``+place=x``: attributes)
visitor add A          the same without a known user
add A of 09:00         a late event: it happened at 09:00, it arrives at the time of the row
=====================  =============================================================================

What is decided: ``sent 1: A B`` (the first step's message, with its items), ``held 1 quiet until 2 08:00``,
``suppressed 1 consent``, ``cancelled 1 purchase``; several after each other with ``;``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from stream.core.campaigns import Campaign, read
from stream.core.coupons import GRANT, REQUEST, Request
from stream.core.engagement import Clock, Decision, Engine, Message, Outcome, Seen, UserState, run
from stream.core.messages import Revoke
from stream.core.notices import Notice
from stream.core.offers import OFFER, Ask
from stream.core.rfm import Ranks, Values
from stream.core.triggers import TYPES
from stream.events import Event, Told
from stream.settings import Settings

MONDAY = "2024-03-04"
SHOPPER = "shopper"
_TYPES = {
    "add": "add_to_cart",
    "view": "view_item",
    "wish": "add_to_wishlist",
    "remove": "remove_from_cart",
    "buy": "purchase",
    "checkout": "begin_checkout",
    "zone": "login",
    "refuse": "consent",
    "prefer": "preferences",
    "redeem": "coupon_redeemed",
}
_NEEDED = {"event": {"event": "invited"}}
"""Parameters that a trigger cannot do without."""


@dataclass(frozen=True)
class Happening:
    """An event of a log, or (``event`` None) a tick."""

    user: str
    time: int
    received: int
    event: Event | None


def engine(campaigns: Sequence[Campaign] = (), **settings: Any) -> Engine:
    return Engine.of(Settings(**settings), campaigns)


def campaign(kind: str, **fields: Any) -> Campaign:
    """A campaign as its file would say it; parameters of its trigger under ``trigger``."""
    trigger = {"type": kind} | (fields.pop("trigger", None) or _NEEDED.get(kind, {}))
    document = {"id": kind, "trigger": trigger, "message": {"template": kind}} | fields
    found, faults = read(document, {name: each.parameters for name, each in TYPES.items()})
    assert found is not None, [fault.message for fault in faults]
    return found


def ms(text: str, day1: str = MONDAY) -> int:
    """``[day] HH:MM[:SS[.fff]]`` in ms since 1970; day 1 unless told."""
    *day, clock = text.split()
    hours, minutes, seconds = (float(part) for part in (clock + ":0").split(":")[:3])
    begin = datetime.fromisoformat(day1).replace(tzinfo=UTC) + timedelta(days=int(day[0]) - 1 if day else 0)
    return round(begin.timestamp() * 1000 + ((hours * 60 + minutes) * 60 + seconds) * 1000)


def said(time: int, day1: str = MONDAY) -> str:
    """The inverse of `ms`, to the minute."""
    moment = datetime.fromtimestamp(time / 1000, UTC)
    return f"{(moment.date() - datetime.fromisoformat(day1).date()).days + 1} {moment:%H:%M}"


def event(kind: str, time: int, user: str = SHOPPER, known: bool = True, **fields: Any) -> Event:
    """An event as it would come from JSON."""
    stamp = datetime.fromtimestamp(time / 1000, UTC).isoformat()
    return msgspec.convert(
        {"type": kind, "time": stamp, "user" if known else "anonymous": user} | fields, Event
    )


def notice(kind: str, item: str, old: str, new: str, *more: str) -> Told:
    """What the item side tells the shopper."""
    before, after = float(old), float(new)
    back = float(more[1]) if more[1:] else 0.0 if more == ("back",) else None
    body = {"item": item, "old": before, "new": after, "seen": None, "price": 70.0, "back": back}
    if kind == "price":
        body |= {"seen": float(more[0] if more else old), "price": after}
    return Told(type=f"tidewise.{kind}", time="", anonymous=SHOPPER, body=body)


def _event(what: str, time: int) -> Event:
    words = what.split()
    if words[0] in ("price", "stock"):
        return notice(*words)
    if words[0] == "grant":
        return Told(type=GRANT, time="", anonymous=SHOPPER, body=_granted(words[1:]))
    if words[0] == "offer":
        return Told(type=OFFER, time="", anonymous=SHOPPER, body={"items": _offered(words[1:])})
    known = words[0] != "visitor"
    verb, *rest = words if known else words[1:]
    fields: dict[str, Any] = {}
    if verb in ("add", "view", "wish", "remove", "buy", "checkout"):
        fields["items"] = _items(rest)
    if verb == "buy" or not rest:
        fields |= {"order": "o1"} if verb in ("buy", "refund") else {}
    elif verb == "refund":
        fields |= {"order": rest[0]} if rest[0] == "o2" else {"items": _items(rest)}
    if verb == "redeem":
        fields["coupon"] = rest[0]
    if verb == "redeem_points":
        fields["attributes"] = {"points": int(rest[0])}
    if verb == "prefer":
        fields["attributes"] = {rest[0]: rest[1]}
    if verb in ("consent", "refuse"):
        granted = verb == "consent"
        fields |= {"channels": {"email": granted}, "purposes": {"personalisation": granted}}
    if verb == "zone":
        fields |= {"anonymous": "device", "context": {"zone": rest[0]}}
    if verb in ("invited", "visited", "answered"):
        fields |= _own(rest)
    return event(_TYPES.get(verb, verb), time, SHOPPER, known, **fields)


def _own(words: list[str]) -> dict[str, Any]:
    pairs = [word.split("=") for word in words if "=" in word]
    return {
        "items": _items([word for word in words if "=" not in word]),
        "context": {name: value for name, value in pairs if name[0] != "+"},
        "attributes": {name[1:]: value for name, value in pairs if name[0] == "+"},
    }


def _items(words: list[str]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for word in words:
        if word[0] == "@":
            items[-1]["price"] = float(word[1:])
        elif re.fullmatch(r"x\d+", word):
            items[-1]["quantity"] = int(word[1:])
        else:
            items.append({"item": word})
    return items


def _offered(words: list[str]) -> list[dict[str, Any]]:
    marks = {"=": "score", "@": "price", "%": "margin"}
    items: list[dict[str, Any]] = []
    for word in words:
        if word[0] in marks:
            items[-1][marks[word[0]]] = float(word[1:])
        else:
            items.append({"item": word})
    return items


def _granted(words: list[str]) -> dict[str, Any]:
    of = {"request": int(words.pop()[1:])} if words[-1][0] == "#" else {}
    if words[0][0] == "!":
        return of | {"refused": words[0][1:]}
    return of | {"code": words[0], "value": float(words[1][1:]), "expires": ms("31 00:00")}


def answered(log: Sequence[Happening], by: Engine) -> list[Happening]:
    """The log with every offer or grant as the answer to what its user's nudges asked last, or as one to
    nothing."""
    if not any(one.event is not None and one.event.type in (OFFER, GRANT) for one in log):
        return list(log)
    shop, found = Shop(by), list[Happening]()
    for one in log:
        answer = _answer(one, shop) if one.event is not None and one.event.type == OFFER else one
        answer = _grant(answer, shop) if one.event is not None and one.event.type == GRANT else answer
        shop.play([answer])
        found.append(answer)
    return found


def _answer(one: Happening, shop: Shop) -> Happening:
    asks = [ask for ask in shop.asks if ask.user == one.user]
    ask = asks[-1] if asks else Ask(0, one.user, "", 0, 0, one.time, "list")
    assert isinstance(one.event, Told)
    body = {"rule": ask.rule, "due": ask.due, "number": ask.number, "time": ask.time}
    return replace(one, time=ask.time, event=msgspec.structs.replace(one.event, body=body | one.event.body))


def _grant(one: Happening, shop: Shop) -> Happening:
    requests = [each for each in shop.notices if each.type == REQUEST]
    assert isinstance(one.event, Told)
    of = one.event.body.get("request", 0) - 1
    body = requests[of].body if requests else msgspec.to_builtins(Request("c", one.user, "c", 1, 0, one.time))
    return replace(one, event=msgspec.structs.replace(one.event, body=one.event.body | {"request": body}))


def happening(row: str, day1: str, lateness_ms: int) -> Happening:
    """The left two columns of a row."""
    when, what = row.split("|")[:2]
    what, _, of = what.strip().partition(" of ")
    received = ms(when, day1)
    if what == "clock":
        return Happening("", received + lateness_ms, received + lateness_ms, None)
    time = ms(of, day1) if of else received
    return Happening(SHOPPER, time, received, _event(what, time))


def watermarks(
    before: int, log: Sequence[Happening], lateness_ms: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    reached = np.array([min(one.time, one.received) - lateness_ms for one in log], dtype=np.int64)
    return np.maximum(np.maximum.accumulate(reached), before)


@dataclass
class Shop:
    """Plays a log batch by batch, as a worker does: states go through the store, alarms through an index."""

    engine: Engine
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.alarms: dict[str, int] = {}
        self.watermark = 0
        self.events = 0
        self.messages: list[Message] = []
        self.revokes: list[Revoke] = []
        self.decisions: list[Decision] = []
        self.asks: list[Ask] = []
        self.notices: list[Notice] = []

    def play(self, log: Sequence[Happening]) -> None:
        """One batch."""
        after = watermarks(self.watermark, log, self.engine.config.lateness_ms)
        seen: dict[str, list[Seen]] = {}
        for at, one in enumerate(log):
            if one.event is not None:
                seen.setdefault(one.user, []).append(
                    Seen(at, one.time, one.received, one.event.type, one.event)
                )
        due = {user for user, alarm in self.alarms.items() if len(after) and alarm <= after[-1]}
        states = {user: UserState.unpack(self.stored.get(user)) for user in sorted(seen.keys() | due)}
        before = {user: state.pack() for user, state in states.items()}
        clock = Clock(self.watermark, after, np.array([one.received for one in log], dtype=np.int64))
        outcome = run(self.engine, states, seen, clock, self.ranks)
        assert {user: state.pack() for user, state in states.items()} == before, "inputs stay as they were"
        self._keep(outcome)
        self.watermark = int(after[-1]) if len(after) else self.watermark
        self.events += len(log)

    def _keep(self, outcome: Outcome) -> None:
        self.ranks.move(outcome.shifts)
        for user, state in outcome.states.items():
            self.stored[user] = state.pack()
            if not self.stored[user]:
                del self.stored[user]
        for user, due in outcome.alarms.items():
            self.alarms.pop(user, None)
            if due is not None:
                self.alarms[user] = due
        for one in outcome.messages:
            if isinstance(one, Message):
                self.messages.append(replace(one, at=one.at + self.events))
            else:
                self.revokes.append(replace(one, at=one.at + self.events))
        self.asks += outcome.asks
        self.notices += outcome.notices
        self.decisions += [replace(one, at=one.at + self.events) for one in outcome.decisions]


def describe(decision: Decision, messages: Sequence[Message], day1: str) -> str:
    """A decision as the right column says it."""
    text = f"{decision.outcome} {decision.step}"
    if decision.outcome == "sent":
        [message] = [one for one in messages if (one.at, one.due) == (decision.at, decision.due)]
        return f"{text}: {' '.join(line.item for line in message.items)}"
    if decision.outcome == "held":
        return f"{text} {decision.reason} until {said(decision.counters['held_until'], day1)}"
    return f"{text} {decision.reason}"


def check(
    table: str,
    day1: str = MONDAY,
    campaigns: Sequence[Campaign] = (),
    others: Sequence[Values] = (),
    **settings: Any,
) -> Shop:
    """Play a table as one batch and as batches of one event; both must decide what its right column says.

    ``others`` are customers that there are beside the shopper.
    """
    rows = [row.strip() for row in table.strip().splitlines()]
    for batch in (len(rows), 1):
        shop = Shop(engine(campaigns, **settings))
        shop.ranks.move((None, values) for values in others)
        log = [happening(row, day1, shop.engine.config.lateness_ms) for row in rows]
        log = answered(log, shop.engine)
        for begin in range(0, len(log), batch):
            shop.play(log[begin : begin + batch])
        assert _played(rows, shop, day1) == [_tidy(row.split("|")) for row in rows]
    return shop


def _played(rows: Sequence[str], shop: Shop, day1: str) -> list[str]:
    return [
        _tidy(
            [
                *row.split("|")[:2],
                "; ".join(describe(one, shop.messages, day1) for one in shop.decisions if one.at == at),
            ]
        )
        for at, row in enumerate(rows)
    ]


def _tidy(columns: Sequence[str]) -> str:
    return " | ".join(" ".join(column.split()) for column in columns)
