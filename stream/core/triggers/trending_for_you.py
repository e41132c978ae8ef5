"""Trending for you: an item on the rise, of the category that the user likes most, which he has not met yet.

Asked for when the nudge is due (`stream.core.offers`): the answer has items of his top category that he has
neither seen nor bought, by how far their popularity stands above what is usual for them, which is about in
standard deviations (`stream.core.recommend.trend`). One that reaches ``surge`` is taken; once in ``rest``.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import msgspec

from stream.core.messages import NudgeItem
from stream.core.offers import Offered, What
from stream.core.triggers.occasional import Occasional
from stream.core.triggers.shape import Entry, Proposal, Sequence


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``surge``: how far above the usual, in standard deviations."""

    surge: Annotated[float, msgspec.Meta(ge=0, le=1e6, description="a number from 0")] = 2.0


@dataclass(frozen=True)
class TrendingForYou(Occasional):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "as `next-best-offer`: an item that rises, of the category he likes most, that he has neither "
            "seen nor bought ([offers](#offers)); `surge` is how far it must stand above its usual, in "
            "standard deviations"
        ),
        put_off="an order",
        cancelled="an order while it is asked for",
        limits="`surge` is enough; `rest` after the last one it may come",
    )

    surge: float = 2.0

    asks: ClassVar[What] = "trending"
    parameters: ClassVar[type[msgspec.Struct]] = Parameters

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The surge."""
        return {"surge": parameters.surge}

    def offered(self, proposal: Proposal[Sequence], items: Many[Offered]) -> Proposal[Sequence]:
        """What rises most, if it rises enough."""
        chosen = max(items, key=lambda each: each.score)
        if chosen.score < self.surge:
            return replace(proposal, untrue=proposal.untrue or "nothing")
        return replace(proposal, items=(NudgeItem(chosen.item, chosen.price, 1),))
