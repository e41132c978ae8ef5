"""Milestone: a counter of orders, money or events crossed a milestone upward, for the first time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.triggers.loyal import Crossing
from stream.core.triggers.shape import Entry


@dataclass(frozen=True)
class MilestoneReached(Crossing):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "a counter crosses a milestone upward for the first time ([loyalty](#loyalty)): the one called "
            "`name`"
        ),
        limits="the very number is reached",
    )

    what: ClassVar[str] = "milestone"
