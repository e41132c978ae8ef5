"""Contest entered: the user's first entry into a contest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stream.core.triggers.loyal import Crossing


@dataclass(frozen=True)
class ContestEntered(Crossing):
    """The trigger."""

    what: ClassVar[str] = "contest"
