"""Offers: what a nudge shows and only lists or trends know is asked for, and comes as mail. Pure.

Lists and trends are soft state, which no decision may read. So when such a nudge is due and passes the
guards, it is held (`content`) and engagement asks (`Ask`); the shopper answers from what its lister knows by
a notice to the same user (`Offer`), which stands in the log, and with that the nudge passes the guards again.
A replay finds the answer where it was. What has no answer after `WITHIN_MS` of event time is suppressed
(`unanswered`), and so is what was answered with nothing that fits (`nothing`).

**Score of an offer** i for user u, from which the best one is taken:

    score(u, i) = propensity × value = list score(u, i) · v_i

The list's scores are exp(s) of the mixture (`stream.core.recommend.mixture`), proportional within one list to
the softmax chance that i is what u does next; v_i is the catalogue attribute `margin` (of one piece, in the
shop's currency) where it is given, else the price. What has neither is worth 0: then, as among equals, the
list's order decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from stream.events import RESERVED

OFFER = RESERVED + "offer"
"""The type of the notice."""
WITHIN_MS = 3_600_000
"""How long a nudge waits for an answer, in event time."""
What = Literal["", "list", "trending"]
"""What is asked for: the user's list; what is on the rise in the category he likes most; "": nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks for items because of event number ``at`` of the batch: for the nudge of ``rule`` that was ``due``.

    ``number`` tells several asks for one nudge apart, ``time`` is that of the ask, in ms.
    """

    at: int
    user: str
    rule: str
    due: int
    number: int
    time: int
    what: What


class Offered(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item, and what it is judged by: ``score`` of the list or of its rise; None: unknown."""

    item: str
    score: float
    strategy: str = ""
    price: float | None = None
    margin: float | None = None


class Offer(msgspec.Struct, frozen=True):
    """The body of the notice: the answer to `Ask`, best first; ``time`` is that of the ask."""

    rule: str
    due: int
    number: int
    time: int
    items: tuple[Offered, ...]


def best(items: Sequence[Offered]) -> Offered:
    """The one with the greatest propensity × value; of equals the first."""
    return max(items, key=worth)


def worth(offered: Offered) -> float:
    """Propensity × value."""
    value = offered.price if offered.margin is None else offered.margin
    return offered.score * max(value or 0.0, 0.0)
