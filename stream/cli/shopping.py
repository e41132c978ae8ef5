"""The demo's data: Complete Journey as a source that notes, while it is replayed, what the show will need."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import msgspec

from producers.datasets import open_dataset
from producers.source import Entry

WELL_KNOWN = ("Bananas", "Fluid milk", "Mainstream white bread", "Strawberries", "Eggs")
"""Products that everybody knows, as their names begin; the most bought product of each is shown."""


class _Line(msgspec.Struct):
    item: str


class _Noted(msgspec.Struct):
    """What is noted of an event."""

    item: str = ""
    name: str | None = None
    items: list[_Line] = []


_DECODER = msgspec.json.Decoder(_Noted)


class Shopping:
    """At least ``lines`` purchase lines, with the catalogue before them."""

    def __init__(self, lines: int) -> None:
        self._source = open_dataset("complete-journey", lines)
        self._names: dict[str, str] = {}
        self._bought: Counter[str] = Counter()
        self._baskets: dict[str, list[list[str]]] = {}
        self.lines = lines
        self.newest: tuple[str, int, float] | None = None
        """The newest purchase sent: user, event time in ms, when by our clock."""
        self.name = self._source.name
        self.identity = self._source.identity
        self.note = self._source.note
        self.total = self._source.total

    def entries(self) -> Iterator[Entry]:
        """All events, noted as they pass."""
        self.lines = 0
        for entry in self._source.entries():
            event = _DECODER.decode(entry.data)
            if entry.is_item:
                if event.name:
                    self._names[event.item] = event.name
            else:
                self._note(entry, [line.item for line in event.items])
            yield entry

    def _note(self, entry: Entry, items: list[str]) -> None:
        self.lines += len(items)
        self._bought.update(items)
        self._baskets.setdefault(entry.key, []).append(items)
        self.newest = entry.key, entry.time, time.monotonic()

    def name_of(self, item: str) -> str:
        """What the catalogue calls a product."""
        return self._names.get(item, f"product {item}")

    def popular(self, n: int) -> list[str]:
        """The ``n`` products that were bought most, of those with a name."""
        return [item for item, _ in self._bought.most_common() if item in self._names][:n]

    def well_known(self, n: int) -> list[str]:
        """Of each well-known kind the product bought most."""
        ranked = self.popular(len(self._names))
        found = [
            next((item for item in ranked if self._names[item].startswith(kind)), "") for kind in WELL_KNOWN
        ]
        return [item for item in found if item][:n]

    def households(self) -> list[str]:
        """All of them."""
        return list(self._baskets)

    def household(self) -> str:
        """The one whose last basket says most to us: the greatest share of popular products."""
        popular = set(self.popular(100))
        able = {user: baskets[-1] for user, baskets in self._baskets.items() if 4 <= len(baskets[-1]) <= 12}
        return max(able, key=lambda user: (len(popular & set(able[user])) / len(able[user]), user))

    def unlike(self, user: str) -> str:
        """A popular product that the household has not bought."""
        mine = {item for basket in self._baskets[user] for item in basket}
        kinds = {self.name_of(item).split(",")[0] for item in mine}
        return next(i for i in self.popular(500)[10:] if self.name_of(i).split(",")[0] not in kinds)
