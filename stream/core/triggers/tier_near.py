"""Tier near: at most a tenth of a tier's points is missing, for the first time, and the tier not reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.triggers.loyal import Crossing, Reached
from stream.core.triggers.shape import Entry, Sequence


@dataclass(frozen=True)
class TierNear(Crossing):
    """The trigger. The tier reached cancels."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "at most a tenth of a tier's points is missing, for the first time ([loyalty](#loyalty)): of "
            "the tier called `name`"
        ),
        cancelled="the tier reached",
        limits="a tenth is near; what crosses the tier at once was never near",
    )

    what: ClassVar[str] = "near"

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """Begins, or ends with the tier; of two tiers that are near the other one stays."""
        new = super().on_event(own, user, seen)
        assert isinstance(new, Reached)
        names = tuple(name for name in new.names if not self.over(name, user))
        return replace(new, names=names) if names else Reached()

    def over(self, crossed: str, user: UserState) -> bool:
        """The tier was reached."""
        return crossed.replace("near:", "tier:", 1) in user.loyalty.crossed
