"""Tier reached: the user's points crossed a tier's threshold upward, for the first time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.triggers.loyal import Crossing
from stream.core.triggers.shape import Entry


@dataclass(frozen=True)
class TierReached(Crossing):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "the user's points reach a tier for the first time ([loyalty](#loyalty)): the one called `name`"
        ),
        limits="the very number is reached",
    )

    what: ClassVar[str] = "tier"
