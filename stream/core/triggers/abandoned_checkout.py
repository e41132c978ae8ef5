"""Abandoned checkout: a checkout was begun, and nothing was ordered since.

The clock runs from the newest checkout. An order ends the sequence, and so does a cart that is changed after
the checkout: then the cart's own trigger has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, Entry, Sequence, Sequenced, cart_of


@dataclass(frozen=True)
class AbandonedCheckout(Sequenced):
    """The trigger; its anchor is the newest checkout, if no order and no cart change came after it."""

    entry: ClassVar[Entry] = Entry(
        starts="a checkout of the cart was begun, and nothing ordered",
        put_off="another checkout",
        cancelled="an order, a change of the cart",
        limits="an order at the time of the checkout came after it, a change of the cart before it",
    )

    kinds: ClassVar[frozenset[str]] = frozenset(
        ["add_to_cart", "remove_from_cart", "begin_checkout", "purchase"]
    )
    usual_ms: ClassVar[tuple[int, ...]] = (30 * 60_000, DAY_MS)

    def anchor(self, user: UserState, seen: Seen) -> int:
        """The newest checkout of a cart that still holds what it held then."""
        left = user.cart and user.checkout > user.ordered and user.checkout >= user.changed
        return user.checkout if left else 0

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """The cart, and the checkout."""
        items, evidence = cart_of(user)
        return items, (Evidence("begin_checkout", user.checkout), *evidence)
