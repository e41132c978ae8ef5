"""Contest entered: the user's first entry into a contest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.triggers.loyal import Crossing
from stream.core.triggers.shape import Entry


@dataclass(frozen=True)
class ContestEntered(Crossing):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "the user's first entry into a contest of the [loyalty program](#loyalty), into the one called "
            "`name`"
        ),
    )

    what: ClassVar[str] = "contest"
