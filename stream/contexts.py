"""What the partitions of one worker share, made from the settings: for the live worker and for the replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from state.keys import Keys
from stream import letters
from stream.campaign_files import load_program, running
from stream.codec import Limits, Record
from stream.core.campaigns import Campaign
from stream.core.engagement import Engine
from stream.core.items import Items
from stream.core.plan import Plan
from stream.core.rows import Rows
from stream.core.step import Counting
from stream.core.trending import Popularity
from stream.delivery import Output
from stream.follower import Followed
from stream.lister import Lister
from stream.ownership import ItemPartitions
from stream.settings import Settings
from stream.shelf import Context as ShelfContext
from stream.shopper import Context as ShopperContext


class Contexts:
    """``shopping`` for shopper partitions, ``shelving`` for item partitions.

    ``campaigns`` take the place of those in the settings' folder; both hold until one that was published
    takes the place of one of them. Without ``asking`` nudges do not ask for what they show (`Engine`).
    """

    def __init__(
        self,
        settings: Settings,
        items: Items,
        follower: Followed,
        signing_key: bytes,
        campaigns: Sequence[Campaign] | None = None,
        asking: bool = True,
    ) -> None:
        keys, limits, counting = Keys(settings.prefix), Limits.of(settings), Counting.of(settings)
        part_of = ItemPartitions(items, settings.partitions)
        rows = Rows(items, settings.row_pairs, settings.neighbors)
        base = running(settings.campaigns) if campaigns is None else campaigns
        program = load_program(settings.loyalty)
        plan = Plan(partial(Engine.of, settings, asking=asking, program=program), base, follower.schedule)
        self.shopping = ShopperContext(
            settings,
            keys,
            items,
            follower,
            counting,
            replace(Engine.of(settings, base, program=program), plan=plan),
            limits,
            signing_key,
            part_of,
            Lister(settings, items, follower),
        )
        self.shelving = ShelfContext(
            settings,
            keys,
            items,
            follower,
            limits,
            signing_key,
            part_of,
            rows,
            Popularity(items),
            counting.decay,
            plan,
        )

    def dead_letters(self, partition: int, topic: str, record: Record) -> Sequence[Output]:
        """The dead letters of a record, made again from the log."""
        shopping = self.shopping
        return letters.remake(shopping.limits, shopping.signing_key, partition, topic, record)
