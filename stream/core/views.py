"""The JSON of views: the bytes that frontends read, and that the topic `recommendations` carries. Pure.

``{"version":"<term>-<n>","id":"…","time":"2026-01-01T00:00:00.000Z","user":"u1","items":[{"item":"B",
"score":0.1234,"strategy":"item-item","because":["A"]},…]}``. The version stands first and has a fixed width:
the store compares it without parsing. Scores are the shortest text that gives the same float32.

Many lists are written at once: the pieces of all entries in one flat list of bytes, put into a view by one
format operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from stream.core.items import Items
from stream.core.loyalty import Loyalty, Program, tier
from stream.core.ranking import Ranked

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

STRATEGIES = (
    "item-item", "trending", "content", "repeat", "return", "new", "pinned", "user-user", "factors",
    "autoencoder", "model", "cart",
)  # fmt: skip
"""What `Ranked.strategy` says, by code."""

_ENTRIES = [
    b'{"item":%%b,"score":%%b,"strategy":"%b","because":[%%b]}' % name.encode() for name in STRATEGIES
]
_PIECES = 3


def recs_views(
    version: str,
    ids: Sequence[str],
    times: I64,
    users: Sequence[str],
    ranked: Ranked,
    items: Items,
    arms: Sequence[str] | None = None,
) -> list[bytes]:
    """Personal lists of U users: one view each. ``times`` [U] ms, ``arms`` [U] if any. ~6 µs a list of 20."""
    subjects = [orjson.dumps(user) for user in users]
    if arms is not None:
        subjects = [b'%b,"arm":%b' % (of, orjson.dumps(arm)) for of, arm in zip(subjects, arms, strict=True)]
    return _views(b"user", version, ids, times, subjects, ranked, items)


def neighbors_views(
    version: str, ids: Sequence[str], times: I64, subjects: I32, ranked: Ranked, items: Items
) -> list[bytes]:
    """Similar items of ``subjects`` [U] local ids: one view each. ``times`` [U] ms. ~6 µs a list of 20.

    ``ranked`` is `nearest` of the subjects.
    """
    names = [items.json[at] for at in subjects.tolist()]
    return _views(b"item", version, ids, times, names, ranked, items)


def trending_view(
    version: str, identity: str, time_ms: int, top: Sequence[tuple[str, float]], segment: str = ""
) -> bytes:
    """What is popular now, or in a ``segment``: (name, score) in order."""
    listed = [{"item": item, "score": score, "strategy": "trending", "because": []} for item, score in top]
    head = {"version": version, "id": identity, "time": iso_time(time_ms)}
    return orjson.dumps(head | ({"segment": segment} if segment else {}) | {"items": listed})


def cart_views(
    version: str, ids: Sequence[str], times: I64, users: Sequence[str], ranked: Ranked, items: Items
) -> list[bytes]:
    """What goes with the carts of U users: one view each. ``times`` [U] ms."""
    return _views(b"user", version, ids, times, [orjson.dumps(user) for user in users], ranked, items)


def tombstone(version: str, time_ms: int, user: str) -> bytes:
    """The view of a user who was forgotten: no items, so that no older list comes back."""
    return orjson.dumps({"version": version, "time": iso_time(time_ms), "user": user, "items": []})


def loyalty_view(version: str, user: str, program: Program, loyalty: Loyalty) -> bytes:
    """A user's points, tier and what he reached, as of his newest event."""
    now, lots = loyalty.newest, [lot for lot in loyalty.lots if lot.left and lot.expires > loyalty.newest]
    held = tier(program, loyalty, now)
    told = {
        "version": version,
        "time": iso_time(now),
        "user": user,
        "points": loyalty.balance(now),
        "tier": None if held is None else held.name,
        "reached": {name: iso_time(time) for name, time in sorted(loyalty.crossed.items())},
        "lots": [{"points": lot.left, "expires": iso_time(lot.expires)} for lot in lots],
    }
    return orjson.dumps(told)


def item_view(version: str, time_ms: int, fields: Mapping[str, Any]) -> bytes:
    """What the catalogue says of an item. A field cannot replace `version` or `time`."""
    own = {"version": version, "time": iso_time(time_ms)}
    return orjson.dumps({**own, **fields, **own})


def iso_time(time_ms: int) -> str:
    """``2026-01-01T00:00:00.000Z``."""
    return f"{np.datetime64(time_ms, 'ms')}Z"


@lru_cache(maxsize=4096)
def _template(kind: bytes, strategies: bytes) -> bytes:
    """A whole view, an entry a byte of ``strategies``, with %b for version, id, time, subject, and pieces."""
    head = b'{"version":%%b,"id":%%b,"time":"%%bZ","%b":%%b,"items":[' % kind
    return head + b",".join([_ENTRIES[code] for code in strategies]) + b"]}"


def _views(
    kind: bytes,
    version: str,
    ids: Sequence[str],
    times: I64,
    subjects: Sequence[bytes],
    ranked: Ranked,
    items: Items,
) -> list[bytes]:
    held = ranked.items >= 0
    pieces = _pieces(ranked, held, items)
    quoted = orjson.dumps(version)
    texts = np.datetime_as_string(times.astype("datetime64[ms]"), unit="ms").tolist()
    ends = np.cumsum(np.count_nonzero(held, axis=1)).tolist()
    strategies = ranked.strategy[held].tobytes()
    return [
        _template(kind, strategies[start:end])
        % (quoted, orjson.dumps(identity), time.encode(), subject, *pieces[start * _PIECES : end * _PIECES])
        for identity, time, subject, start, end in zip(ids, texts, subjects, [0, *ends], ends, strict=False)
    ]


def _pieces(ranked: Ranked, held: Bool, items: Items) -> list[bytes]:
    """Item, score and reason of all entries, one after the other; no bytecode runs per entry."""
    because, count = ranked.because[held], int(np.count_nonzero(held))
    if not count:
        return []
    # At least two indexes, so it gives a tuple.
    named = itemgetter(*ranked.items[held].tolist(), *because.tolist())(items.json)
    pieces = [b""] * (count * _PIECES)
    pieces[0::_PIECES] = named[:count]
    # orjson writes an array of float32 several times faster than %-formatting does.
    scores = orjson.dumps(ranked.scores[held], option=orjson.OPT_SERIALIZE_NUMPY)
    pieces[1::_PIECES] = scores[1:-1].split(b",")
    pieces[2::_PIECES] = named[count:]
    for at in np.flatnonzero(because < 0).tolist():
        pieces[at * _PIECES + 2] = b""
    return pieces
