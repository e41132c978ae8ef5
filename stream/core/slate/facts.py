"""What the steps after scoring work on: facts of items, and a batch of scored slates. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.core.items import item_hash
from stream.core.slate.grammar import CONTEXT

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

T = TypeVar("T", bound=np.generic)

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of items by local id; all arrays are at least as long as there are items.

    ``hashes`` 64-bit ids; ``price`` NaN unknown; ``popularity`` decayed interactions; ``born`` ms of the
    first event, 0 unknown; ``group``, ``category`` hashes, 0 none (`stream.core.content.category_of`);
    ``blocked`` hidden or out of stock; ``tokens`` [cap, T] local token ids, ``token_weights`` [cap, T]
    weight · idf, of length 1 an item, 0 where there is none; ``token_hashes`` 32-bit hash by local token id.
    """

    hashes: U64
    price: F32 | F64
    popularity: F32 | F64
    born: I64
    group: U64
    category: U64
    blocked: Bool
    tokens: I32
    token_weights: F32
    token_hashes: U32

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Slates:
    """The best N scored items of each of U users, best first.

    ``items`` [U, N] local ids, −1 pads; ``scores`` [U, N] > 0, 0 for a guest, which only a pin or
    exploration may place (`stream.core.slate.guests`); ``strategy`` [U, N] code; ``user`` [U] 64-bit hash;
    ``time_ms`` [U] of the newest event. ``context``: hashes (`item_hash`) of texts by name, [U] each, 0
    unknown. ``ignored`` [U, N] times an item was shown to the user and not clicked, ``shown_ms`` [U, N] when
    last.
    """

    items: I32
    scores: F32
    strategy: U8
    user: U64
    time_ms: I64
    context: Mapping[str, U64] = field(default_factory=dict)
    ignored: F32 | None = None
    shown_ms: I64 | None = None

    def __len__(self) -> int:
        return len(self.items)


MOST_TEXT = 256
"""Characters of a text of an event's context; longer ones are unknown."""


def context_of(told: Sequence[Mapping[str, Any]]) -> dict[str, U64]:
    """``Slates.context`` of U users, from the `context` of each one's newest event. ~1 µs a user.

    What is no text is unknown.
    """
    return {name: np.array([_hash(each.get(name)) for each in told], dtype=np.uint64) for name in CONTEXT}


def _hash(text: Any) -> int:
    return _text_hash(text) if isinstance(text, str) and len(text) <= MOST_TEXT else 0


@lru_cache(maxsize=4096)
def _text_hash(text: str) -> int:
    return item_hash(text)


def picked(values: NDArray[T], column: I32 | I64) -> NDArray[T]:
    """Values [U, N] at columns [U, n]; of −1 anything."""
    found: NDArray[T] = values.take(flat(column, values.shape[1]))
    return found


def flat(column: I32 | I64, width: int) -> I64:
    """Where columns [U, n] of a matrix [U, width] are in memory; of −1 somewhere in the row."""
    found: I64 = np.arange(len(column))[:, None] * width + np.maximum(column, 0)
    return found


_GOLDEN, _FIRST, _SECOND, *_SHIFTS = (
    # Arrays without dimensions: numpy takes half as long with them as with scalars.
    np.array(each, dtype=np.uint64)
    for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 30, 27, 31)
)


def mix(*parts: U64 | np.uint64) -> U64:
    """A hash of 64-bit words that broadcast together: splitmix64 (Steele, Lea, Flood, OOPSLA 2014), chained.

    The same on every machine. ~2 ns a word.
    """
    state: U64 = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = state + (part + _GOLDEN)
        state ^= state >> _SHIFTS[0]
        state *= _FIRST
        state ^= state >> _SHIFTS[1]
        state *= _SECOND
        state ^= state >> _SHIFTS[2]
    return state


def uniform(hashes: U64) -> F64:
    """Hashes as numbers in [0, 1)."""
    found: F64 = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found
