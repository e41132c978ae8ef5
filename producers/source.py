"""What can be replayed: something that yields valid events in event order, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """One event of a source, valid, with an id. ``time`` in ms; 0: a catalogue event that tells none."""

    time: int
    line: int
    key: str
    data: bytes
    is_item: bool


class Source(Protocol):
    """A log or a data set."""

    @property
    def name(self) -> str:
        """For people: a file's name, a data set's."""

    @property
    def identity(self) -> str:
        """What tells this source from others, also after the file was moved or has grown."""

    @property
    def note(self) -> str:
        """What must be said wherever the data are shown; empty: nothing."""

    @property
    def total(self) -> int | None:
        """Events in it, None when that takes reading it all."""

    def entries(self) -> Iterator[Entry]:
        """All events, in order of time. Raises ValueError that names the place at fault."""
