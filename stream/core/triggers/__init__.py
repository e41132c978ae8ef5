"""Engagement triggers: small state machines in event time. `triggers_of` is the list of those that run.

A trigger is four methods without I/O or clock, and a state of its own a user. The engine keeps the states,
sets and fires the timers, passes what a trigger proposes through the guards, and writes every outcome down.
To add one: a module here with a class of this shape, and a line in `triggers_of`; `tests/test_engagement.py`
runs the laws that every trigger obeys.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from stream.core.engaged import Seen, UserState
from stream.core.guards import EngagementConfig
from stream.core.triggers.abandoned_cart import AbandonedCart
from stream.core.triggers.shape import Progress, Proposal

S = TypeVar("S", bound=Progress)


class Trigger(Protocol[S]):
    """A trigger. Its attributes say what it wants and how its messages go out."""

    @property
    def id(self) -> str:
        """Its name in states, decisions and messages; never renamed."""

    @property
    def campaign(self) -> str:
        """The campaign its messages belong to."""

    @property
    def channel(self) -> str:
        """The channel they go out on; the user must have consented to it."""

    @property
    def purpose(self) -> str:
        """The purpose they serve; the user must have consented to it."""

    @property
    def kinds(self) -> frozenset[str]:
        """Event types that reach `on_event`."""

    @property
    def state(self) -> type[S]:
        """The struct of its own state a user; without arguments it is that of an unknown user."""

    def on_event(self, own: S, user: UserState, seen: Seen) -> S:
        """Its state after an event that ``user`` already reflects; without a timer the nudge is cancelled."""

    def on_timer(self, own: S, user: UserState, now: int) -> Proposal[S]:
        """What to send now that the timer has fired, and its state once that is sent, or suppressed."""

    def next_timer(self, own: S) -> int | None:
        """When it wants `on_timer` next (ms), by its state alone; after firing, later than before or None."""


def triggers_of(config: EngagementConfig) -> tuple[Trigger[Any], ...]:
    """The triggers that the settings switch on."""
    cart = AbandonedCart(config.cart_after_ms, config.cart_rest_ms)
    return (cart,) if config.cart_enabled else ()
