"""Abandoned cart: the cart holds something, and for a time T neither it changed nor anything was ordered.

The first nudge is due T₁ after the last cart change; nudge n is due Tₙ after the last cart change or the
sequence's first nudge, whichever is later (else the cap of one a day would always swallow the one at 24 h).
A cart change restarts the clock. An order, the start of a checkout or an emptied cart ends the sequence.
After a sequence that sent something the campaign rests, counted from its last nudge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import Progress, Proposal


class Sequence(Progress, frozen=True, array_like=True):
    """A sequence: the cart change its clock runs from, and when its first nudge was sent (0: none)."""

    anchor: int = 0
    began: int = 0


@dataclass(frozen=True, slots=True)
class AbandonedCart:
    """The trigger, with the delays of its steps and its rest, in ms."""

    after_ms: tuple[int, ...]
    rest_ms: int

    id: ClassVar[str] = "abandoned-cart"
    campaign: ClassVar[str] = "abandoned-cart"
    channel: ClassVar[str] = "email"
    purpose: ClassVar[str] = "personalisation"
    kinds: ClassVar[frozenset[str]] = frozenset(
        ["add_to_cart", "remove_from_cart", "begin_checkout", "purchase"]
    )
    state: ClassVar[type[Sequence]] = Sequence

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """The clock runs from the last cart change, if that is newer than any order or checkout."""
        if not user.cart or user.changed <= max(user.ordered, user.checkout):
            return Sequence()
        if user.changed == own.anchor:
            return own
        runs = own.began > 0 and own.step < len(self.after_ms)
        return replace(own, anchor=user.changed) if runs else Sequence(anchor=user.changed)

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """The cart as it stands, newest item first. While the campaign rests, no new sequence begins."""
        lines = sorted(user.cart.items(), key=lambda line: (-line[1].time, line[0]))
        last = user.campaigns.get(self.campaign)
        rests = not own.began and last is not None and now < last + self.rest_ms
        return Proposal(
            items=tuple(NudgeItem(item, line.price, line.quantity) for item, line in lines),
            evidence=tuple(Evidence("add_to_cart", line.time, item) for item, line in lines),
            if_sent=replace(own, step=own.step + 1, began=own.began or now),
            if_not=replace(own, step=len(self.after_ms) if rests else own.step + 1),
            untrue="rest" if rests else "",
        )

    def next_timer(self, own: Sequence) -> int | None:
        """The delay of the next step, after the last cart change or the first nudge."""
        if not own.anchor or own.step >= len(self.after_ms):
            return None
        return max(own.anchor, own.began) + self.after_ms[own.step]
