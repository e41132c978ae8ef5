"""Abandoned cart: the cart holds something, and for a time T neither it changed nor anything was ordered.

The first nudge is due T₁ after the last cart change; nudge n is due Tₙ after the last cart change or the
sequence's first nudge, whichever is later. A cart change restarts the clock. An order, the start of a
checkout or an emptied cart ends the sequence. After a sequence that sent something the campaign rests,
counted from its last nudge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, Entry, Sequence, Sequenced, cart_of


@dataclass(frozen=True)
class AbandonedCart(Sequenced):
    """The trigger; its anchor is the last cart change, if that is newer than any order or checkout."""

    entry: ClassVar[Entry] = Entry(
        starts="the cart holds something and was neither changed nor ordered from",
        put_off="a change of the cart",
        cancelled="an order, the start of a checkout, the cart emptied",
        limits="an order or a checkout at the time of the change came after it",
    )

    kinds: ClassVar[frozenset[str]] = frozenset(
        ["add_to_cart", "remove_from_cart", "begin_checkout", "purchase"]
    )
    usual_ms: ClassVar[tuple[int, ...]] = (45 * 60_000, DAY_MS)

    def anchor(self, user: UserState, seen: Seen) -> int:
        """The last change of a cart that holds something."""
        left = user.cart and user.changed > max(user.ordered, user.checkout)
        return user.changed if left else 0

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """The cart as it stands, newest item first."""
        return cart_of(user)
