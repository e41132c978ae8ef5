"""Welcome: from the first moment that a known user may be written to; an order ends the offer. Once a user.

`forget` and a consent that is taken back do not bring it back: the first erases that it ever came, so whoever
consents anew after it is new again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, Entry, Sequence, Sequenced


@dataclass(frozen=True)
class Welcome(Sequenced):
    """The trigger; its anchor is the event by which the user was first known and had granted a channel."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "the user is known and has granted one of the campaign's channels and the purpose; once a user"
        ),
        cancelled="an order",
        limits="an order at the time he became known ends it",
    )

    kinds: ClassVar[frozenset[str]] = frozenset(["consent", "sign_up", "login", "purchase"])
    usual_ms: ClassVar[tuple[int, ...]] = (0, DAY_MS, 3 * DAY_MS)

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """Begins once; ends with an order."""
        if own.anchor:
            over = user.ordered >= own.anchor
            return replace(own, step=len(self.after_ms)) if over else own
        granted = any(user.granted(channel, self.purpose) for channel in self.channels)
        return Sequence(anchor=seen.time) if user.identified and granted else own

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """No items: the sender takes what the user's list says."""
        return (), (Evidence("consent", own.anchor),)

    def next_timer(self, own: Sequence) -> int | None:
        """The delay of the next step, after the anchor."""
        if not own.anchor or own.step >= len(self.after_ms):
            return None
        return own.anchor + self.after_ms[own.step]
