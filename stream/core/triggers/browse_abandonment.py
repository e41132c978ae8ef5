"""Browse abandonment: things were looked at, none was put in the cart, and the visitor left.

A session is views without a gap of ``idle`` (30 minutes) between them, while the cart is empty. One with at
least ``views`` (2) views has left something behind: the nudge is due its delay after it has been idle for so
long. Coming back before that puts it off. What goes into a cart, a checkout or an order ends it. Nobody gets
one who ordered within ``ordered`` (2 days), and of the sessions of ``again`` (a day) only the first counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec.structs import replace

from stream.core.campaigns import Duration, Span
from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, HOUR_MS, Entry, Proposal, Sequence, Sequenced


class Session(Sequence, frozen=True, array_like=True):
    """From its ``first`` view to its last, the anchor: so many ``views``. ``judged`` is when a session was
    last ripe for a nudge (0: never)."""

    first: int = 0
    views: int = 0
    judged: int = 0


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``views`` that it takes; ``idle``: what ends a session; ``ordered``: no nudge so long after an order;
    ``again``: one session in so long."""

    views: Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] = 2
    idle: Span = Span(HOUR_MS // 2)
    ordered: Duration = Duration(2 * DAY_MS)
    again: Duration = Duration(DAY_MS)


@dataclass(frozen=True)
class BrowseAbandonment(Sequenced):
    """The trigger; its anchor is the last view. A step's delay counts from the end of the idle time."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "products were looked at (`views`, without a gap of `idle`) while the cart was empty; delays "
            "count from the end of the idle time; suppressed (`ordered`, `again`) after an order in the "
            "last `ordered`, and when a session was ripe already in the last `again`"
        ),
        put_off="another view",
        cancelled="something put in the cart, the start of a checkout, an order",
        limits=(
            "a gap of `idle` ends the session; an order `ordered` ago and a session `again` ago hinder no "
            "more"
        ),
    )

    views: int = 2
    idle_ms: int = HOUR_MS // 2
    ordered_ms: int = 2 * DAY_MS
    again_ms: int = DAY_MS

    kinds: ClassVar[frozenset[str]] = frozenset(["view_item", "add_to_cart", "begin_checkout", "purchase"])
    state: ClassVar[type[Sequence]] = Session
    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (HOUR_MS,)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """Views and times."""
        return {
            "views": parameters.views,
            "idle_ms": int(parameters.idle),
            "ordered_ms": int(parameters.ordered),
            "again_ms": int(parameters.again),
        }

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Session:
        """A view begins a session or goes on with it; a cart, a checkout or an order ends it."""
        assert isinstance(own, Session)
        acted = max(user.changed, user.checkout, user.ordered)
        if seen.type != "view_item":
            over = user.cart or acted >= own.first
            return Session(judged=own.judged) if over else own
        if user.cart or seen.time <= acted:
            return own
        views = len(seen.event.lines())
        if self._goes_on(own, seen.time):
            first, last = min(own.first, seen.time), max(own.anchor, seen.time)
            return replace(own, anchor=last, first=first, views=own.views + views)
        if seen.time <= own.anchor:
            return own  # late, of a session before this one
        return Session(anchor=seen.time, first=seen.time, views=views, judged=own.judged)

    def _goes_on(self, own: Session, time: int) -> bool:
        """Whether a view is of the session: near it, or it waits for its nudge, which the view puts off."""
        if not own.first or own.step:
            return False
        waits = own.views >= self.views and time >= own.first
        return waits or own.first - self.idle_ms < time < own.anchor + self.idle_ms

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """The next nudge, unless he ordered lately, or another session came before the guards."""
        assert isinstance(own, Session)
        made = super().on_timer(own, user, now)
        begins = not own.step
        untrue = made.untrue
        if not untrue and user.ordered and now < user.ordered + self.ordered_ms:
            untrue = "ordered"
        if not untrue and begins and own.judged and now < own.judged + self.again_ms:
            untrue = "again"
        judged = now if begins and not untrue else own.judged
        return Proposal(
            made.items,
            made.evidence,
            replace(made.if_sent, judged=judged),
            replace(made.if_not, judged=judged),
            untrue,
            since=min(own.first, now - self.ordered_ms + 1),
        )

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """What was looked at in the session, the newest first."""
        assert isinstance(own, Session)
        views = [each for each in user.viewed if each.time >= own.first]
        return (
            tuple(NudgeItem(each.item, each.price, 1) for each in views),
            tuple(Evidence("view_item", each.time, each.item) for each in views),
        )

    def next_timer(self, own: Sequence) -> int | None:
        """The delay of the next step, after the session was idle or the first nudge, whichever is later."""
        assert isinstance(own, Session)
        if own.views < self.views or own.step >= len(self.after_ms):
            return None
        return max(own.anchor + self.idle_ms, own.began) + self.after_ms[own.step]
