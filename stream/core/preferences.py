"""What users say they like (`preferences`): for lists of those whose history says little yet. Pure.

The newest answer to each attribute counts, and stands for the tokens that an item with this attribute has
(`content.item_tokens`), so that a user can be compared with items by cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream.codec import Columns
from stream.core.content import item_tokens
from stream.core.engaged import UserState
from stream.core.merge import Given

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

COLD = 5
"""Users with fewer interactions are asked for what they prefer."""


def cold(names: Sequence[str], seen: I64) -> list[str]:
    """Users of whom little is known; ``seen`` [U] interactions ever."""
    return [names[row] for row in np.flatnonzero(seen < COLD).tolist()]


def told(columns: Columns, fresh: Bool) -> int:
    """How many events of a batch say what somebody prefers, be it handed over from an anonymous id."""
    given = [one.attributes for one in columns.handed.values() if isinstance(one, Given)]
    said = [at for at, event in columns.details.items() if event.type == "preferences" and event.attributes]
    return sum(map(bool, given)) + int(np.count_nonzero(fresh[said]))


def preferred(names: Sequence[str], seen: I64, states: Mapping[str, UserState]) -> tuple[U32, F32] | None:
    """What those of U users prefer of whom little is known, as `preferred_tokens`; None: nobody does.

    ``seen`` [U] interactions ever; ``states`` has all who may prefer something.
    """
    tokens, weights = preferred_tokens(
        names, {name: states[name] for name in cold(names, seen) if name in states}
    )
    return (tokens, weights) if tokens.shape[1] else None


def preferred_tokens(names: Sequence[str], states: Mapping[str, UserState]) -> tuple[U32, F32]:
    """Token hashes and weights of U users, 0 behind the last: [U, T], T the most that one of them has.

    ``states`` has the users who may prefer something. ~10 µs a user who does.
    """
    told = {
        row: item_tokens({"attributes": {name: liked.value for name, liked in state.attributes.items()}})
        for row, user in enumerate(names)
        if (state := states.get(user)) is not None and state.attributes
    }
    shape = len(names), max(map(len, told.values()), default=0)
    tokens, weights = np.zeros(shape, dtype=np.uint32), np.zeros(shape, dtype=np.float32)
    for row, found in told.items():
        tokens[row, : len(found)], weights[row, : len(found)] = list(found), list(found.values())
    return tokens, weights
