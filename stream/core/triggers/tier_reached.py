"""Tier reached: the user's points crossed a tier's threshold upward, for the first time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.triggers.loyal import Crossing


@dataclass(frozen=True)
class TierReached(Crossing):
    """The trigger."""

    what: ClassVar[str] = "tier"
