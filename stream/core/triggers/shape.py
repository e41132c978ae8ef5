"""What a trigger's state and its proposals look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from stream.core.messages import Evidence, NudgeItem


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """Base of a trigger's own state: which step of its sequence comes next, from 0."""

    step: int = 0


S = TypeVar("S", bound=Progress)


@dataclass(frozen=True, slots=True)
class Proposal(Generic[S]):
    """What a trigger would send, and its state afterwards: ``if_sent``, or ``if_not`` when it is suppressed.

    ``untrue`` says why its condition no longer holds ("": it does); the guard `still_true` reports it.
    """

    items: tuple[NudgeItem, ...]
    evidence: tuple[Evidence, ...]
    if_sent: S
    if_not: S
    untrue: str = ""
