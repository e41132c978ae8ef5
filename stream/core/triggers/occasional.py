"""What is said now and then to those who come: one nudge in ``rest``, after a visit. Base of the offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.offers import What
from stream.core.triggers.shape import DAY_MS, Proposal, Sequence, Sequenced


@dataclass(frozen=True)
class Occasional(Sequenced):
    """The trigger; its anchor is what the user did first since the last nudge, or since an order.

    A nudge is due the first step's delay after it, at the earliest ``rest_ms`` after the nudge before. An
    order begins the wait anew. Whether sent or suppressed, the next one waits for the user to come again.
    """

    kinds: ClassVar[frozenset[str]] = frozenset(["view_item", "add_to_cart", "purchase", "login", "sign_up"])
    asks: ClassVar[What]
    revoked_by: ClassVar[Literal["order", "items", "nothing"]] = "items"
    usual_ms: ClassVar[tuple[int, ...]] = (DAY_MS,)

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """The clock runs from the first visit; an order sets it anew."""
        if seen.type == "purchase":
            return replace(own, anchor=user.ordered) if user.ordered > max(own.anchor, own.began) else own
        if seen.time <= max(own.began, user.ordered):
            return own
        return replace(own, anchor=min(own.anchor or seen.time, seen.time))

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """What was asked for comes with the answer."""
        return Proposal((), (), Sequence(began=now), replace(own, anchor=0))

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """Nothing by itself."""
        return (), ()

    def next_timer(self, own: Sequence) -> int | None:
        """A delay after the first visit, and a rest after the last nudge."""
        if not own.anchor:
            return None
        return max(own.anchor + self.after_ms[0], own.began + self.rest_ms)
