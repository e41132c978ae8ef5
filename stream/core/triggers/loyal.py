"""Loyalty: base of the triggers that look at points, and those that tell what was reached.

They look at every event that changed what the loyalty program knows of the user (`stream.core.loyalty`);
without a program they do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from stream.core.campaigns import Name
from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import Sequence, Sequenced


@dataclass(frozen=True)
class Loyal(Sequenced):
    """A trigger that looks at points. No order revokes what it says."""

    kinds: ClassVar[frozenset[str]] = frozenset()
    usual_ms: ClassVar[tuple[int, ...]] = (0,)

    @property
    def revoked_by(self) -> Literal["order", "items", "nothing"]:
        """Nothing."""
        return "nothing"


class Reached(Sequence, frozen=True, array_like=True):
    """``names`` are what was reached at the anchor."""

    names: tuple[str, ...] = ()


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``name``: the tier, milestone or contest, or ``any``."""

    name: Name = "any"


@dataclass(frozen=True)
class Crossing(Loyal):
    """Something was reached for the first time. Nothing is reached a second time."""

    name: str = "any"

    what: ClassVar[str]
    """The word before the name in `Loyalty.crossed`."""
    state: ClassVar[type[Sequence]] = Reached
    parameters: ClassVar[type[msgspec.Struct]] = Parameters

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The name."""
        return {"name": parameters.name}

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """Begins with the event that crossed; a sequence that runs goes on."""
        found = tuple(
            sorted(
                name
                for name, time in user.loyalty.crossed.items()
                if time == seen.time and self._wants(name) and not self.over(name, user)
            )
        )
        if not found or seen.time == own.anchor:
            return own
        return Reached(anchor=seen.time, names=found)

    def _wants(self, crossed: str) -> bool:
        what, _, name = crossed.partition(":")
        return what == self.what and self.name in ("any", name)

    def over(self, crossed: str, user: UserState) -> bool:
        """Whether it is no longer worth telling."""
        return False

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """No items; what was reached, and when."""
        assert isinstance(own, Reached)
        return (), tuple(Evidence(name, own.anchor) for name in own.names)
