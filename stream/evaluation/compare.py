"""Two configurations on one log: which lists change, whose, how, and what that does to the measures."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.evaluation.history import History
from stream.evaluation.measures import Catalog, Measure, differences
from stream.evaluation.protocols import Progress, answers, popularity, vectors
from stream.settings import Settings

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

EXAMPLES = 10


class Changed(msgspec.Struct, frozen=True):
    """What changes most in one user's list."""

    user: str
    gone: list[str]
    come: list[str]


class Compared(msgspec.Struct, frozen=True):
    """Of ``lists`` lists (one before each event) ``changed`` differ, those of ``changed_users`` of ``users``
    users; ``overlap`` is the mean share of their items that stay; ``differences`` are b − a of each measure;
    ``examples`` the last lists that changed most.
    """

    lists: int
    changed: int
    users: int
    changed_users: int
    overlap: float
    differences: dict[str, Measure]
    examples: list[Changed]


async def compared(a: Settings, b: Settings, history: History, k: int, progress: Progress) -> Compared:
    """Test both, event by event. Raises HistoryError."""
    first, _ = await answers(a, "prequential", history, size=k, progress=progress)
    second, _ = await answers(b, "prequential", history, size=k, progress=progress)
    common = (first.lists[:, :, None] == second.lists[:, None, :]) & (first.lists >= 0)[:, :, None]
    held = np.maximum(np.count_nonzero(first.lists >= 0, axis=1), 1)
    stay = np.count_nonzero(common.any(axis=2), axis=1) / held
    differs = (first.lists != second.lists).any(axis=1)
    return Compared(
        len(first),
        int(np.count_nonzero(differs)),
        len(np.unique(first.user)),
        len(np.unique(first.user[differs])),
        float(stay[differs].mean()) if differs.any() else 1.0,
        differences(first, second, Catalog(popularity(history), vectors(history)), [k]),
        _examples(history, first.user, first.lists, second.lists, stay),
    )


def _examples(
    history: History, user: np.ndarray, a: np.ndarray, b: np.ndarray, stay: np.ndarray
) -> list[Changed]:
    # Of each user the last list; the least alike first.
    _, last = np.unique(user[::-1], return_index=True)
    at = len(user) - 1 - last
    at = at[np.argsort(stay[at], kind="stable")][:EXAMPLES]
    return [
        Changed(
            history.users[user[q]],
            [history.items[i] for i in a[q].tolist() if i >= 0 and i not in b[q]],
            [history.items[i] for i in b[q].tolist() if i >= 0 and i not in a[q]],
        )
        for q in at.tolist()
        if (a[q] != b[q]).any()
    ]
