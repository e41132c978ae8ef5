"""What the state holds of one user, in words: `tidewise lookup user`. Reads private keys: not for frontends.

Histories name items by 64-bit hashes. Their names are looked for in the user's own list and cart, and only if
some are still missing among the keys of all rows, which takes one pass over the key space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from state.keys import Keys
from state.lookup import ViewList
from state.packing import UserColumns, histories, unpack_users
from state.store import Store
from stream.core.engaged import UserState
from stream.core.items import item_hash
from stream.core.loyalty import NO_POINTS
from stream.events import KINDS
from stream.ownership import partition_of
from stream.settings import Settings
from stream.times import time_text


async def user_state(settings: Settings, store: Store, name: str) -> dict[str, object] | None:
    """Everything kept of a user or anonymous id; None: nothing is. Times are texts.

    ``history`` newest first; ``interest`` heaviest first, with each item's share. An item whose name
    is not found is ``#`` and its hash. Raises what the store raises, ValueError on unknown formats.
    """
    keys = Keys(settings.prefix)
    agreed = await store.deployment({})
    partition = partition_of(name, int(agreed.get("partitions", settings.partitions)))
    part = f"u{partition}"
    packed, engaged, view = await store.get(
        [keys.user(part, name), keys.engagement(part, name), keys.recs(name)]
    )
    if packed is None and engaged is None:
        return None
    state = UserState.unpack(engaged)
    columns = unpack_users([packed]) if packed is not None else None
    hashes = set() if columns is None else set(columns.strange.tolist() + columns.interest.tolist())
    names = await _names(keys, store, hashes, [*state.cart, *_listed(view)])
    counted = {} if columns is None else _counted(columns, names)
    return {"user": name, "partition": partition, **counted, **_engagement(state)}


def _listed(view: bytes | None) -> Iterable[str]:
    """Names in a personal list, reasons included."""
    if view is None:
        return
    for line in msgspec.json.decode(view, type=ViewList).items:
        yield line.item
        yield from line.because


async def _names(keys: Keys, store: Store, hashes: set[int], near: Iterable[str]) -> dict[int, str]:
    """Names of hashes, as far as they can be found."""
    names = {item_hash(name): name for name in near}
    missing = hashes - names.keys()
    if missing:
        async for key in store.scan(keys.row("i*", "*")):
            name = key.split("}:row:", 1)[1]
            hashed = item_hash(name)
            if hashed in missing:
                names[hashed] = name
                missing.discard(hashed)
            if not missing:
                break
    return names


def _counted(columns: UserColumns, names: Mapping[int, str]) -> dict[str, object]:
    """What counting keeps: history and interest."""

    def named(hashed: int) -> str:
        return names.get(hashed, f"#{hashed:016x}")

    n = int(columns.n_history[0])
    entries = zip(*(part[0, part.shape[1] - n :].tolist() for part in _history(columns)), strict=True)
    history = [
        {"item": named(hashed), "type": _kind(kind), "time": time_text(seconds * 1000)}
        for hashed, seconds, kind in entries
    ]
    weights = columns.weights
    total = max(1, int(weights.sum()))
    interest = [
        {"item": named(int(columns.interest[at])), "share": round(int(weights[at]) / total, 4)}
        for at in np.argsort(-weights, kind="stable").tolist()
    ]
    return {
        "interactions": int(columns.seen[0]),
        "newest": time_text(int(columns.newest[0])) if columns.seen[0] else None,
        "history": history[::-1],
        "interest": interest,
    }


def _history(columns: UserColumns) -> tuple[Any, Any, Any]:
    return histories(columns), columns.times, columns.kinds


def _kind(code: int) -> str:
    return KINDS[code] if code < len(KINDS) else "other"


def _engagement(state: UserState) -> dict[str, object]:
    """What engagement keeps: cart, consent, zone, timers, messages sent."""
    return {
        "identified": state.identified,
        "channels": {name: choice.granted for name, choice in state.channels.items()},
        "purposes": {name: choice.granted for name, choice in state.purposes.items()},
        "zone": state.zone or None,
        "cart": [
            {"item": item, "quantity": line.quantity, "price": line.price, "time": time_text(line.time)}
            for item, line in sorted(state.cart.items(), key=lambda line: (-line[1].time, line[0]))
        ],
        "bought": _bought(state),
        "loyalty": _loyalty(state),
        "timers": [
            {"rule": rule, "fires": time_text(timer.at), "due": time_text(timer.due), "held": timer.held}
            for rule, timer in state.pending.items()
        ],
        "sent": {channel: [time_text(time) for time in times] for channel, times in state.sent.items()},
    }


def _bought(state: UserState) -> dict[str, object] | None:
    """When last, and orders and money of the 52 weeks up to then; None: nothing, or nothing that counts."""
    values = state.rfm.values()
    if values is None:
        return None
    return {"last": time_text(state.rfm.last), "orders": values.orders, "money": values.cents / 100}


def _loyalty(state: UserState) -> dict[str, object] | None:
    """Points as of the user's newest event that the loyalty program looked at, and what was reached when."""
    found = state.loyalty
    if found == NO_POINTS:
        return None
    return {
        "points": found.balance(found.newest),
        "earned": found.earned,
        "spent": found.spent,
        "taken back": found.taken,
        "reached": {name: time_text(time) for name, time in sorted(found.crossed.items())},
        "entries": found.entries,
    }
