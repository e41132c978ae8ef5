"""What engagement says: messages to users, and the decision behind each. Plain data and its JSON. Pure.

Times are milliseconds since 1970 UTC, in event time. ``docs/engagement.md`` shows an example of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from stream.core.choice import Weighed

Verdict = Literal["sent", "held", "suppressed", "cancelled", "revoked"]
"""What became of a nudge that was due, pending, or sent."""


class NudgeItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item that a message is about; the price is None when no event told it.

    ``name``, ``image`` and ``url`` are what the catalogue says; no decision knows them.
    """

    item: str
    price: float | None
    quantity: int
    name: str | None = None
    image: str | None = None
    url: str | None = None


class Catalogued(msgspec.Struct, frozen=True):
    """What of an item's view messages show, and what an offer is worth."""

    name: str | None = None
    image: str | None = None
    url: str | None = None
    price: float | None = None
    attributes: dict[str, Any] | None = None

    def on(self, line: NudgeItem) -> NudgeItem:
        """The line with it. A price that an event told stays."""
        price = self.price if line.price is None else line.price
        return NudgeItem(line.item, price, line.quantity, self.name, self.image, self.url)

    @property
    def margin(self) -> float | None:
        """The attribute `margin`, if it is a number."""
        told = (self.attributes or {}).get("margin")
        return float(told) if isinstance(told, int | float) and not isinstance(told, bool) else None


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that a decision rests on: its type, its time, and the item if it is about one."""

    type: str
    time: int
    item: str | None = None


class CouponCode(msgspec.Struct, frozen=True):
    """A coupon of this user: its code, of which offer or pool, what it is worth in the shop's currency, and
    until when it holds."""

    code: str
    offer: str
    value: float
    expires: int


@dataclass(frozen=True, slots=True)
class Message:
    """A nudge (topic ``engagements``). ``at``, not in the JSON, is the event of the batch that let it out.

    ``due`` is when its condition came true, ``time`` when it was decided (the watermark), ``expires`` when a
    sender should drop it, ``step`` its place in the campaign's sequence, from 1; ``version`` the campaign's
    that held, None where none was published. ``template`` and ``data`` are what the campaign says of it,
    ``coupon`` what it gives.
    """

    at: int
    user: str
    channel: str
    campaign: str
    rule: str
    items: tuple[NudgeItem, ...]
    due: int
    time: int
    expires: int
    step: int
    version: int | None = None
    template: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    coupon: CouponCode | None = None

    @property
    def kind(self) -> str:
        """The type of the record."""
        return "nudge"

    def json(self, identity: str) -> bytes:
        """The record's value; ``identity`` from `message_id`."""
        return _json({"id": identity, "type": self.kind}, self, {"revoke_key": revoke_key(self)})


@dataclass(frozen=True, slots=True)
class Revoke:
    """What takes a sent nudge back (topic ``engagements``): an order made before it has come late.

    ``due`` and ``step`` are the nudge's, ``time`` is that of the order; ``at`` as in `Message`.
    """

    at: int
    user: str
    channel: str
    campaign: str
    rule: str
    due: int
    time: int
    step: int
    version: int | None = None

    @property
    def kind(self) -> str:
        """The type of the record."""
        return "revoke"

    def json(self, identity: str) -> bytes:
        """The record's value; ``identity`` from `message_id`."""
        return _json({"id": identity, "type": self.kind}, self, {"revoke_key": revoke_key(self)})


def presented(said: Iterable[Message | Revoke], known: Mapping[str, Catalogued]) -> list[Message | Revoke]:
    """Messages as they go out: with what the catalogue says of their items."""
    return [_dressed(one, known) if isinstance(one, Message) else one for one in said]


def _dressed(said: Message, known: Mapping[str, Catalogued]) -> Message:
    lines = (known[line.item].on(line) if line.item in known else line for line in said.items)
    return replace(said, items=tuple(lines))


_PRESENTED = ("price", "name", "image", "url")


def unpresented(value: bytes) -> bytes:
    """A record's value without what the catalogue may have put there: what a replay makes to the byte."""
    told = msgspec.json.decode(value)
    for line in told.get("items", ()):
        for name in _PRESENTED:
            line.pop(name, None)
    return msgspec.json.encode(told)


def revoke_key(said: Message | Revoke) -> str:
    """What a nudge and its revocation, and no other, have in common: rule, step, due time, user."""
    return f"{said.rule}-{said.step}-{said.due}-{said.user}"


class Consents(msgspec.Struct, frozen=True):
    """What a user had answered, of the campaign's channels and its purpose; None: he never was asked."""

    channels: dict[str, bool | None]
    purposes: dict[str, bool | None]


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a nudge was sent, held, suppressed, cancelled or revoked (topic ``decisions``).

    ``reason`` is "" when sent, the guard when held or suppressed, else the event's type. ``offers`` are the
    best of several coupons, as they were weighed. ``consent`` is None where no guard was asked. ``at`` as in
    `Message`.
    """

    at: int
    time: int
    user: str
    campaign: str
    rule: str
    step: int
    due: int
    outcome: Verdict
    reason: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    version: int | None = None
    offers: tuple[Weighed, ...] = ()
    consent: Consents | None = None

    @property
    def kind(self) -> str:
        """What its id says that it is."""
        return "decision"

    def json(self, identity: str) -> bytes:
        """The record's value; ``identity`` from `message_id`."""
        return _json({"id": identity}, self)


def _json(
    first: dict[str, object], said: Message | Revoke | Decision, last: dict[str, object] | None = None
) -> bytes:
    rest = {each.name: getattr(said, each.name) for each in fields(said) if each.name != "at"}
    for name in ("version", "template", "data", "coupon", "offers", "consent"):
        if not rest.get(name, True):
            del rest[name]
    return msgspec.json.encode(first | rest | (last or {}))


def message_id(partition: int, offset: int, index: int, kind: str, n: int) -> str:
    """Id by which receivers drop repeats: the causing event, the kind, a running number within both."""
    return f"{partition}-{offset}-{index}-{kind}-{n}"


def decision_hash(decisions: Iterable[Decision]) -> int:
    """Additive hash for the digest: the sum mod 2^64 of blake2b-64 of (user, rule, due, outcome)."""
    return sum(_hash(decision) for decision in decisions) % 2**64


def _hash(decision: Decision) -> int:
    said = (decision.user, decision.rule, decision.due, decision.outcome)
    return int.from_bytes(blake2b(msgspec.msgpack.encode(said), digest_size=8).digest(), "little")
