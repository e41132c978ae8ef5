"""The newest whole model of each name, as chunks of it and of newer ones come. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from stream.core.items import Items
from stream.core.models.model import Chunk, whole
from stream.core.models.placed import Placed


class Models:
    """``placed`` are the models in use by name, of those ``wanted``; ``versions`` theirs, in ms.

    A model takes over when its last chunk has come. Of one that is under way only the newest is gathered.
    """

    def __init__(self, items: Items, wanted: Iterable[str]) -> None:
        self._items, self._wanted = items, frozenset(wanted)
        self.placed: dict[str, Placed] = {}
        self.versions: dict[str, int] = {}
        self._under_way: dict[str, dict[int, Chunk]] = {}

    def put(self, chunk: Chunk) -> None:
        """Take a chunk. Raises ValueError when it does not fit those before; all of them are dropped then."""
        name = chunk.model
        if name not in self._wanted or chunk.version <= self.versions.get(name, 0):
            return
        parts = self._under_way.get(name, {})
        first = next(iter(parts.values()), chunk)
        if first.version > chunk.version:
            return
        if first.version < chunk.version:
            parts, first = {}, chunk
        self._under_way[name] = parts | {chunk.number: chunk}
        if (first.of, first.width) != (chunk.of, chunk.width):
            del self._under_way[name]
            raise ValueError(f"chunk {chunk.number} of {name} {chunk.version} is of another size than before")
        self._take_over(name, chunk.version)

    def _take_over(self, name: str, version: int) -> None:
        parts = self._under_way[name]
        try:
            model = whole(parts)
        except ValueError:
            del self._under_way[name]
            raise
        if model is not None:
            self.placed[name], self.versions[name] = Placed.of(model, self._items), version
            del self._under_way[name]
