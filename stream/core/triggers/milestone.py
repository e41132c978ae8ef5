"""Milestone: a counter of orders, money or events crossed a milestone upward, for the first time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.triggers.loyal import Crossing


@dataclass(frozen=True)
class MilestoneReached(Crossing):
    """The trigger."""

    what: ClassVar[str] = "milestone"
