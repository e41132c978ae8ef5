"""Scores that a model trained elsewhere gives to items for a user: bounded soft state. Pure.

The component "external" takes them as they are: evidence is the softmax of a user's scores, so that models of
any scale can be mixed in. Of a user the newest message counts, of items the best `MOST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.items import Items, item_hash
from stream.core.neighborhood import Neighborhood
from stream.core.recommend.candidates import Entries
from stream.core.recommend.query import Query

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]

NAME = "external"
MOST = 50
"""Items kept of a user."""
MOST_GIVEN = 1000
"""Items in a message, at most."""
_Id = Annotated[str, msgspec.Meta(min_length=1)]


class ModelScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message on `model-scores`: the ``scores`` that ``model`` gives to ``items`` for ``user``.

    Scores are any finite numbers, larger is better, as many as items; an item stands once.
    """

    user: _Id
    model: _Id
    items: Annotated[list[_Id], msgspec.Meta(min_length=1, max_length=MOST_GIVEN)]
    scores: Annotated[list[float], msgspec.Meta(min_length=1, max_length=MOST_GIVEN)]


def read(value: bytes, key: bytes | None) -> ModelScores:
    """A message from its bytes; the record's key must be its user. Raises ValueError: what is wrong."""
    try:
        found = msgspec.json.decode(value, type=ModelScores)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"model-scores: {error}") from error
    if key != found.user.encode():
        raise ValueError(f"model-scores: the key is {key!r}, the user {found.user!r}: make the user the key")
    if len(found.items) != len(found.scores):
        raise ValueError(
            f"model-scores: {len(found.items)} items and {len(found.scores)} scores: give one score an item"
        )
    if len(set(found.items)) < len(found.items):
        raise ValueError("model-scores: an item stands twice in `items`: give each once")
    if not np.isfinite(found.scores).all():
        raise ValueError("model-scores: `scores` must be finite numbers")
    return found


def softmax(scores: NDArray[np.float64]) -> F32:
    """exp(s − max) / Σ exp(s − max)."""
    powers = np.exp(scores - scores.max())
    found: F32 = (powers / powers.sum()).astype(np.float32)
    return found


class External:
    """The newest scores of each of the ``most`` users who got any last; ~0.9 kB a user with 50 items."""

    def __init__(self, items: Items, most: int) -> None:
        self._items, self._most = items, most
        self._held: dict[str, tuple[U64, F32]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def put(self, given: ModelScores) -> None:
        """Take a message. ~2 µs an item."""
        evidence = softmax(np.array(given.scores, dtype=np.float64))
        hashes = np.array([item_hash(item) for item in given.items], dtype=np.uint64)
        order = np.lexsort((hashes, -evidence))[:MOST]
        order = order[evidence[order] > 0]
        self.drop(given.user)
        self._held[given.user] = hashes[order], evidence[order]
        if len(self._held) > self._most:
            self.drop(next(iter(self._held)))

    def drop(self, user: str) -> None:
        """Forget a user."""
        self._held.pop(user, None)

    def of(self, users: Sequence[str]) -> tuple[I32, F32]:
        """Items, −1 padded, and evidence of users: [U, n] each. ~5 µs a user with 50 items."""
        found = [self._held.get(user, _NONE) for user in users]
        shape = (len(found), max((len(items) for items, _ in found), default=0))
        item, evidence = np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.float32)
        held = np.arange(shape[1]) < np.array([len(items) for items, _ in found])[:, None]
        if held.any():
            item[held] = self._items.known(np.concatenate([items for items, _ in found]))
            evidence[held] = np.concatenate([values for _, values in found])
        return item, evidence


_NONE = (np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.float32))


def entries(hood: Neighborhood, query: Query) -> Entries:
    """The channel "external": what may be shown of the scores in ``query.scored``. No item speaks for it."""
    none = np.zeros((len(query), 0))
    item, evidence = query.scored or (none.astype(np.int32), none.astype(np.float32))
    shown = (item >= 0) & (hood.column.take(item, mode="clip") > 0)
    item = np.where(shown, item, np.int32(-1))
    return Entries(item, (evidence * shown,), np.full_like(item, -1))
