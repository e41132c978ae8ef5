"""Notices: what a decision about one user tells a name in another partition of `events`, or in its own.

A notice travels as signed mail in `events`, so its place among the receiver's events is recorded and a replay
takes it there. To the receiver it is an event (`stream.events.Told`) that counts for nothing: triggers whose
kinds have its type see it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec

from stream.events import RESERVED, Told


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice to ``to`` (the key on `events`), made because of event number ``at`` of the batch.

    ``type`` begins with "tidewise."; ``time`` is event time in ms; ``body`` is a JSON object.
    """

    at: int
    to: str
    type: str
    time: int
    body: dict[str, Any]


class Said(msgspec.Struct, frozen=True):
    """A notice as it travels: the body of its mail."""

    type: str
    time: int
    to: str
    body: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.type.startswith(RESERVED):
            raise ValueError(f"the type of a notice begins with {RESERVED}")

    def event(self) -> Told:
        """What the receiver's engagement sees. Not ``user``: a notice does not make anybody known."""
        return Told(type=self.type, time="", anonymous=self.to, body=self.body)


def body_of(notice: Notice) -> bytes:
    """The body of its mail: keys in the order given, so equal notices give equal bytes."""
    return msgspec.json.encode(Said(notice.type, notice.time, notice.to, notice.body))


def numbered(notices: Sequence[Notice], offsets: Sequence[int]) -> list[tuple[int, int, Notice]]:
    """Notices in the order of their events, each with the offset of its message and its number within.

    ``offsets`` [E] are those of the batch's events. A message is never cut in two by batches, so both are the
    same however the log is cut: together they name the notice.
    """
    ordered = sorted(notices, key=lambda notice: notice.at)
    return [
        (offset, n, notice)
        for offset, some in groupby(ordered, lambda notice: offsets[notice.at])
        for n, notice in enumerate(some)
    ]
