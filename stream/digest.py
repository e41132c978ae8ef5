"""The digest: one number for what was counted, equal to the bit for the same inbox.

It covers, per user, history, interest, cart, consent, counters and pending timers; per item the sums, and
the pairs of rows that never evicted (it counts both kinds); the decisions, by the additive hash in the state.
It leaves out offsets, ids, `received`, watermarks and whatever is computed from `neighbors`. Each part is the
sum mod 2^128 of blake2b-128 of its members, so that neither order nor partition matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Protocol

import msgspec

from state.keys import Keys
from state.packing import digest_fields as user_fields
from state.store import Store
from stream.core.engaged import UserState
from stream.core.engaged import digest_fields as engagement_fields
from stream.core.row_format import digest_fields as row_fields
from stream.delivery import Log
from stream.settings import Settings
from stream.status import Status, status

_CHUNK = 1000
_MODULUS = 2**128


class Digest(msgspec.Struct):
    """The whole, its parts for finding out what differs, and what became of the log's elements (`Status`).

    ``digest`` does not depend on these: events that took a detour, or came twice as mail, count the same.
    """

    digest: str
    users: int
    user_hash: str
    engaged: int
    engagement_hash: str
    items: int
    item_hash: str
    coupon_hash: str
    evicted_rows: int
    decision_hash: str
    events: int
    repeats: int
    dead_letters: int
    ticks: int
    forwarded: int
    mail: int
    mail_repeats: int
    uncounted: int
    merging: int
    notices: int


_READ_S = 1.0
"""Wait for records where there may be none."""


class Readable(Log, Protocol):
    """The log, and whether anything waits in it."""

    async def any_record(self, positions: Mapping[tuple[str, int], int], within_s: float) -> bool:
        """Whether a record comes at or after any of the offsets, by (topic, partition), within the time."""


class Unsettled(Exception):
    """The workers did not reach the logs' ends in time."""


async def settle(settings: Settings, store: Store, log: Readable, within_s: float) -> Status:
    """Wait until nothing changed for a second and no record can be read at any position. Raises Unsettled.

    The records decide, not the logs' ends: behind the last record there may be transaction markers, and the
    embedded broker understates an end by up to a batch.
    """
    deadline = asyncio.get_running_loop().time() + within_s
    before: Status | None = None
    while True:
        now = await status(settings, store, log)
        if now == before and not await log.any_record(now.positions, _READ_S):
            return now
        if asyncio.get_running_loop().time() > deadline:
            raise Unsettled(f"still waiting after {within_s:g} s: lag {now.lag}. Is a worker running?")
        before = now
        await asyncio.sleep(1.0)


async def digest(settings: Settings, store: Store, log: Readable, within_s: float = 60.0) -> Digest:
    """Wait until the positions reach the logs' ends, then sum up the state."""
    return await sum_up(settings, store, await settle(settings, store, log, within_s))


async def sum_up(settings: Settings, store: Store, settled: Status) -> Digest:
    """The digest of what a store holds now. Reads every private key."""
    users = await _sum(store, settings, "user", lambda name, blob: name + b"\0" + user_fields(blob))
    engaged = await _sum(store, settings, "engagement", _engagement)
    evicted = 0

    def row(name: bytes, blob: bytes) -> bytes:
        nonlocal evicted
        fields, was_evicted = row_fields(blob)
        evicted += was_evicted
        return name + b"\0" + fields

    items = await _sum(store, settings, "row", row)
    pools = await _sum(store, settings, "coupons", lambda name, blob: name + b"\0" + blob)
    wallets = await _sum(store, settings, "wallet", lambda name, blob: name + b"\0" + blob)
    coupons = (sum(pair) % _MODULUS for pair in zip(pools, wallets, strict=True))
    parts = [f"{total:032x}" for _, total in (users, engaged, items, tuple(coupons))]
    whole = "".join([*parts, f"{settled.decisions:016x}", str(evicted)])
    return Digest(
        digest=blake2b(whole.encode(), digest_size=16).hexdigest(),
        users=users[0],
        user_hash=parts[0],
        engaged=engaged[0],
        engagement_hash=parts[1],
        items=items[0],
        item_hash=parts[2],
        coupon_hash=parts[3],
        evicted_rows=evicted,
        decision_hash=f"{settled.decisions:016x}",
        events=settled.events,
        repeats=settled.repeats,
        dead_letters=settled.dead,
        ticks=settled.ticks,
        forwarded=settled.forwarded,
        mail=settled.mail,
        mail_repeats=settled.mail_repeats,
        uncounted=settled.uncounted,
        merging=settled.merging,
        notices=settled.notices,
    )


def _engagement(name: bytes, blob: bytes) -> bytes:
    fields = engagement_fields(UserState.unpack(blob))
    return name + b"\0" + msgspec.msgpack.encode(fields, order="deterministic")


async def _sum(
    store: Store, settings: Settings, kind: str, fields: Callable[[bytes, bytes], bytes]
) -> tuple[int, int]:
    """Number of keys of a kind, and the sum of their hashes."""
    count = total = 0
    async for keys in _chunks(store.scan(f"{Keys(settings.prefix).prefix}:{{*}}:{kind}:*")):
        for key, blob in zip(keys, await store.get(keys), strict=True):
            if blob is not None:
                name = key.split(f"}}:{kind}:", 1)[1].encode()
                count += 1
                total += int.from_bytes(blake2b(fields(name, blob), digest_size=16).digest(), "little")
    return count, total % _MODULUS


async def _chunks(keys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    """Distinct keys, some at a time: SCAN may name one twice."""
    seen: set[str] = set()
    waiting: list[str] = []
    async for key in keys:
        if key not in seen:
            seen.add(key)
            waiting.append(key)
        if len(waiting) == _CHUNK:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def members(digest: Digest) -> Iterable[tuple[str, object]]:
    """Fields and values, for a table."""
    return msgspec.structs.asdict(digest).items()
