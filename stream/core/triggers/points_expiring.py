"""Points expiring: 30, 7 and 1 days before the next points of a user expire.

After the last step the next points that expire take their place. Steps whose time has passed are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec

from stream.core.campaigns import Span
from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.loyal import Loyal
from stream.core.triggers.shape import DAY_MS, Entry, Proposal, Sequence


class Expiry(Sequence, frozen=True, array_like=True):
    """The anchor is ``before`` before ``expires``."""

    expires: int = 0


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``before``: so long before points expire the delays begin."""

    before: Span = Span(30 * DAY_MS)


@dataclass(frozen=True)
class PointsExpiring(Loyal):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "points are about to expire ([loyalty](#loyalty)); delays count from `before` before that, so "
            "that it says so 30, 7 and 1 days before"
        ),
        cancelled="the points spent or taken back",
        limits="when they expire it is too late; a time that has come when the points do is left out",
    )

    before_ms: int = 30 * DAY_MS

    state: ClassVar[type[Sequence]] = Expiry
    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (0, 23 * DAY_MS, 29 * DAY_MS)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The lead."""
        return {"before_ms": int(parameters.before)}

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """Waits for what expires next; a sequence goes on while any of its points are left."""
        assert isinstance(own, Expiry)
        left = any(lot.left and lot.expires == own.expires for lot in user.loyalty.lots)
        if left and own.step < len(self.after_ms):
            return own
        return self._next(user, user.loyalty.newest, own)

    def _next(self, user: UserState, now: int, own: Expiry) -> Expiry:
        """The first step that lies ahead, of points that expire later than those before."""
        for lot in user.loyalty.lots:
            anchor = lot.expires - self.before_ms
            step = sum(anchor + delay <= now for delay in self.after_ms)
            if lot.left and lot.expires > own.expires and step < len(self.after_ms):
                return Expiry(step=step, anchor=anchor, expires=lot.expires)
        return Expiry(step=len(self.after_ms), anchor=own.anchor, expires=own.expires) if own.expires else own

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """The next nudge; after the last one the next points."""
        assert isinstance(own, Expiry)
        proposal = super().on_timer(own, user, now)
        untrue = proposal.untrue or ("gone" if now >= own.expires else "")
        return replace(
            proposal,
            if_sent=self._onward(proposal.if_sent, user, own, now),
            if_not=self._onward(proposal.if_not, user, own, now),
            untrue=untrue,
        )

    def _onward(self, after: Sequence, user: UserState, own: Expiry, now: int) -> Sequence:
        return after if after.step < len(self.after_ms) else self._next(user, now, own)

    def next_timer(self, own: Sequence) -> int | None:
        """The delay of the next step after the anchor."""
        if not own.anchor or own.step >= len(self.after_ms):
            return None
        return own.anchor + self.after_ms[own.step]

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """No items; when they expire."""
        assert isinstance(own, Expiry)
        return (), (Evidence("points-expire", own.expires),)
