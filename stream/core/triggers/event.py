"""Event: some time after an event of a type that the campaign names, also one that the shop made up.

The newest such event counts, by its own time: another one puts off what is left of a sequence that runs. An
event of the type ``unless`` (an order) at the same time or later ends it, whichever of the two came first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import Entry, Sequence, Sequenced
from stream.events import Attribute

ITEMS = 20
"""Items of an event that are kept."""
_Type = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=128,
        pattern=r"^(?!tidewise\.)(?!forget$)",
        description="an event type, such as sign_up, but forget and the system's own, tidewise.…",
    ),
]


class Occasion(Sequence, frozen=True, array_like=True):
    """The event's items, and when one of the type ``unless`` last was (0: never, or orders, which the user's
    state knows)."""

    items: tuple[NudgeItem, ...] = ()
    ended: int = 0


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``event``: the type of event that sets it off, ``where``: what its attributes or context must say;
    ``unless``: the type of event that ends it, none: nothing does."""

    event: _Type
    where: dict[str, Attribute] = {}
    unless: _Type | None = "purchase"


@dataclass(frozen=True)
class OnEvent(Sequenced):
    """The trigger; its anchor is the newest event that sets it off."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "an event of the type `event` comes, also one of your own, whose attributes or context say what "
            "`where` says; items are those of the event"
        ),
        put_off="another such event",
        cancelled="an event of the type `unless`; with `unless: null` nothing",
        limits="one of the type `unless` at the same time came after it",
    )

    event: str = ""
    where: dict[str, Attribute] = field(default_factory=dict)
    unless: str | None = "purchase"

    state: ClassVar[type[Sequence]] = Occasion
    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (0,)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """All of them."""
        return msgspec.structs.asdict(parameters)

    @property
    def kinds(self) -> frozenset[str]:
        """What sets it off, and what ends it."""
        return frozenset({self.event, self.unless or self.event})

    @property
    def revoked_by(self) -> Literal["order", "items", "nothing"]:
        """An order, if that is what ends it, and not what sets it off."""
        return "order" if self.unless == "purchase" != self.event else "nothing"

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Occasion:
        """Begins, is put off, or ends."""
        assert isinstance(own, Occasion)
        if self._sets_off(seen):
            return self._begun(own, user, seen)
        if seen.type != self.unless:
            return own
        ended = 0 if self.unless == "purchase" else max(own.ended, seen.time)
        return Occasion(ended=ended) if seen.time >= own.anchor else replace(own, ended=ended)

    def _begun(self, own: Occasion, user: UserState, seen: Seen) -> Occasion:
        orders = self.unless == "purchase" != self.event
        if seen.time <= max(own.anchor, user.ordered if orders else own.ended):
            return own
        lines = tuple(NudgeItem(line.item, line.price, line.quantity) for line in seen.event.lines())
        runs = own.began > 0 and own.step < len(self.after_ms)
        begun = own if runs else Occasion(ended=own.ended)
        return replace(begun, anchor=seen.time, items=lines[:ITEMS])

    def _sets_off(self, seen: Seen) -> bool:
        if seen.type != self.event:
            return False
        said = (seen.event.context or {}) | (seen.event.attributes or {})
        return all(name in said and _same(said[name], value) for name, value in self.where.items())

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """The event, and its items."""
        assert isinstance(own, Occasion)
        return own.items, (Evidence(self.event, own.anchor),)


def _same(told: object, wanted: Attribute) -> bool:
    """Equal, but true is not 1."""
    return told == wanted and isinstance(told, bool) == isinstance(wanted, bool)
