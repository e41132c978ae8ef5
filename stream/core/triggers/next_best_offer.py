"""Next best offer: the item of the user's list with the greatest propensity × value, once in 7 days.

The list is asked for when the nudge is due (`stream.core.offers`, which has the formula).
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import ClassVar

from stream.core.messages import NudgeItem
from stream.core.offers import Offered, What, best
from stream.core.triggers.occasional import Occasional
from stream.core.triggers.shape import Entry, Proposal, Sequence


@dataclass(frozen=True)
class NextBestOffer(Occasional):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "a time after the user's first visit since the last one, at the earliest `rest` (7 days) after "
            "it: the item of his list with the greatest propensity × value ([offers](#offers))"
        ),
        put_off="an order",
        cancelled="an order while the list is asked for",
        limits="`rest` after the last one it may come; what the user did when it was sent is no new visit",
    )

    asks: ClassVar[What] = "list"

    def offered(self, proposal: Proposal[Sequence], items: Many[Offered]) -> Proposal[Sequence]:
        """The best of the list."""
        chosen = best(items)
        return replace(proposal, items=(NudgeItem(chosen.item, chosen.price, 1),))
