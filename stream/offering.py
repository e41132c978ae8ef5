"""What nudges ask for, and what the catalogue says of their items: from what the worker knows now.

All of it is soft: answers count because they come as mail (`stream.core.offers`), names and images are
presentation alone and nowhere in the digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec.structs import replace

from state.keys import Keys
from state.store import Store
from stream.core.engaged import UserState
from stream.core.items import Items
from stream.core.messages import Catalogued
from stream.core.notices import Notice
from stream.core.offers import OFFER, Ask, Offer, Offered
from stream.core.users import Rows
from stream.core.views import STRATEGIES
from stream.lister import Lister

RISING = 20
"""Rising items in an answer."""
_READER = msgspec.json.Decoder(Catalogued)


async def catalogued(store: Store, keys: Keys, items: Iterable[str]) -> dict[str, Catalogued]:
    """What the views of items say, in one trip; an item without a view is left out."""
    names = sorted(set(items))
    views = await store.get([keys.item(name) for name in names]) if names else []
    return {name: _READER.decode(view) for name, view in zip(names, views, strict=True) if view is not None}


@dataclass(frozen=True, slots=True)
class Answers:
    """Makes a partition's answers: one trip to the store, ~1 ms an ask, and what `Trends.learn` takes."""

    lister: Lister
    items: Items
    keys: Keys
    store: Store

    async def of(self, asks: Sequence[Ask], rows: Rows, engaged: Mapping[str, UserState]) -> list[Notice]:
        """The answers [A], for users ``rows`` [A]; what lies in their carts is left out."""
        found = self._listed(asks, rows)
        for at, ask in enumerate(asks):
            if ask.what == "trending":
                found[at] = self._rising(rows.take(np.array([at])))
        known = await catalogued(self.store, self.keys, (each.item for some in found for each in some))
        return [
            _notice(ask, [_valued(each, known) for each in some if each.item not in _cart(engaged, ask.user)])
            for ask, some in zip(asks, found, strict=True)
        ]

    def _listed(self, asks: Sequence[Ask], rows: Rows) -> list[list[Offered]]:
        """By ask the user's list as it would be shown now; of others nothing."""
        found: list[list[Offered]] = [[] for _ in asks]
        listed = np.array([at for at, ask in enumerate(asks) if ask.what == "list"], dtype=np.int64)
        if not len(listed):
            return found
        names = [asks[at].user for at in listed.tolist()]
        times = np.array([asks[at].time for at in listed.tolist()], dtype=np.int64)
        ranked = self.lister.lists(names, rows.take(listed), times)
        for row, at in enumerate(listed.tolist()):
            columns = (ranked.items[row].tolist(), ranked.scores[row].tolist(), ranked.strategy[row].tolist())
            found[at] = [
                Offered(self.items.name(item), score, STRATEGIES[strategy])
                for item, score, strategy in zip(*columns, strict=True)
                if item >= 0
            ]
        return found

    def _rising(self, rows: Rows) -> list[Offered]:
        items, scores = self.lister.rising(rows, RISING)
        return [
            Offered(self.items.name(item), score, "trending")
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
        ]


def _cart(engaged: Mapping[str, UserState], user: str) -> Mapping[str, object]:
    state = engaged.get(user)
    return {} if state is None else state.cart


def _valued(offered: Offered, known: Mapping[str, Catalogued]) -> Offered:
    """With price and margin, where the catalogue tells them."""
    told = known.get(offered.item)
    return offered if told is None else replace(offered, price=told.price, margin=told.margin)


def _notice(ask: Ask, items: Sequence[Offered]) -> Notice:
    body = msgspec.to_builtins(Offer(ask.rule, ask.due, ask.number, ask.time, tuple(items)))
    return Notice(ask.at, ask.user, OFFER, ask.time, body)
