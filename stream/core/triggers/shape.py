"""What a trigger's state and its proposals look like, and the sequences that most triggers are."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.offers import Offered, What

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """Base of a trigger's own state: which step of its sequence comes next, from 0."""

    step: int = 0


S = TypeVar("S", bound=Progress)


@dataclass(frozen=True, slots=True)
class Proposal(Generic[S]):
    """What a trigger would send, and its state afterwards: ``if_sent``, or ``if_not`` when it is suppressed.

    ``untrue`` says why its condition no longer holds ("": it does); the guard `still_true` reports it. An
    order from before ``since`` (ms) would not have kept it back.
    """

    items: tuple[NudgeItem, ...]
    evidence: tuple[Evidence, ...]
    if_sent: S
    if_not: S
    untrue: str = ""
    since: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalogue (``docs/engagement.md``) says of a trigger: when it ``starts``, what puts it off and
    what cancels it, and what holds exactly at its ``limits``. Markdown, written by people for marketers."""

    starts: str
    put_off: str = ""
    cancelled: str = ""
    limits: str = ""


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trigger that is told nothing."""


class Sequence(Progress, frozen=True, array_like=True):
    """A sequence: what its clock runs from, and when its first nudge was sent (0: none)."""

    anchor: int = 0
    began: int = 0


@dataclass(frozen=True)
class Sequenced:
    """A trigger that sends nudges one after the other, each a delay after its anchor. Base of most.

    What a campaign says of it: ``id``, ``channels`` (the first that the user granted is taken), ``purpose``,
    ``priority``, ``after_ms`` the delays of its steps, ``rest_ms`` how long it rests after a nudge before a
    new sequence may begin. Subclasses say what the anchor is, and what a nudge is about.
    """

    id: str
    channels: tuple[str, ...]
    purpose: str
    priority: int
    after_ms: tuple[int, ...]
    rest_ms: int

    entry: ClassVar[Entry]
    """Its row of the catalogue; its name, delays and parameters are added from what runs."""
    asks: ClassVar[What] = ""
    """What it asks for before it can say anything (`stream.core.offers`)."""
    state: ClassVar[type[Sequence]] = Sequence
    parameters: ClassVar[type[msgspec.Struct]] = NoParameters
    usual_ms: ClassVar[tuple[int, ...]]
    """The delays of a campaign that names none."""

    @property
    def kinds(self) -> frozenset[str]:
        """Event types that it looks at."""
        raise NotImplementedError

    @property
    def revoked_by(self) -> Literal["order", "items", "nothing"]:
        """What, had it been known, would have kept a nudge back: any order, one of its items, or nothing."""
        return "order"

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """What its parameters say of the fields of a subclass."""
        return {}

    def anchor(self, user: UserState, seen: Seen) -> int:
        """What the clock runs from, in ms; 0: there is nothing to say."""
        raise NotImplementedError

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """The items of a nudge, and the events it rests on."""
        raise NotImplementedError

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """The clock runs from the anchor; a moved anchor puts off what is left of a sequence that runs."""
        anchor = self.anchor(user, seen)
        if not anchor:
            return self.state()
        if anchor == own.anchor:
            return own
        runs = own.began > 0 and own.step < len(self.after_ms)
        return replace(own, anchor=anchor) if runs else self.state(anchor=anchor)

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """The next nudge. While the campaign rests, no new sequence begins."""
        last = user.campaigns.get(self.id)
        rests = not own.began and last is not None and now < last + self.rest_ms
        items, evidence = self.about(own, user)
        return Proposal(
            items=items,
            evidence=evidence,
            if_sent=replace(own, step=own.step + 1, began=own.began or now),
            if_not=replace(own, step=len(self.after_ms) if rests else own.step + 1),
            untrue="rest" if rests else "",
            since=own.anchor,
        )

    def offered(self, proposal: Proposal[Sequence], items: Many[Offered]) -> Proposal[Sequence]:
        """The proposal with what was asked for, which is not empty."""
        return proposal

    def next_timer(self, own: Sequence) -> int | None:
        """The delay of the next step, after the anchor or the first nudge, whichever is later.

        Else the cap of one a day would always swallow the second nudge of a cart at 24 h.
        """
        if not own.anchor or own.step >= len(self.after_ms):
            return None
        return max(own.anchor, own.began) + self.after_ms[own.step]


def cart_of(user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
    """The cart as it stands, newest item first, and when each item was put in."""
    lines = sorted(user.cart.items(), key=lambda line: (-line[1].time, line[0]))
    return (
        tuple(NudgeItem(item, line.price, line.quantity) for item, line in lines),
        tuple(Evidence("add_to_cart", line.time, item) for item, line in lines),
    )
