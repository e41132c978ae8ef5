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
from stream.core.triggers.shape import Proposal, Sequence


@dataclass(frozen=True)
class NextBestOffer(Occasional):
    """The trigger."""

    asks: ClassVar[What] = "list"

    def offered(self, proposal: Proposal[Sequence], items: Many[Offered]) -> Proposal[Sequence]:
        """The best of the list."""
        chosen = best(items)
        return replace(proposal, items=(NudgeItem(chosen.item, chosen.price, 1),))
