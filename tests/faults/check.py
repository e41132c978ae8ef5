"""What must hold after any fault, checked from outside: against the log, and against its replay in memory.

The log as it stands is the truth. `lost` counts what it demands and the deployment lacks, `twice` what was
counted or said more often than it demands; `problems` says which.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from state.keys import Keys
from state.model import VERSION_LENGTH, VERSION_START, version
from state.packing import digest_fields as user_fields
from state.redis import RedisStore
from state.store import Store
from stream.core.attribution import Counts, Days, flat, grown, unpack_day
from stream.core.engaged import UserState
from stream.core.engaged import digest_fields as engagement_fields
from stream.core.messages import unpresented
from stream.core.neighbor_format import unpack_records
from stream.core.row_format import digest_fields as row_fields
from stream.delivery import Output
from stream.digest import Digest, members, sum_up
from stream.kafka import KafkaLog
from stream.offline import Replayed, replay_topics
from stream.settings import Settings
from stream.shelf import Meta as ShelfMeta
from stream.shopper import Meta as ShopperMeta
from stream.status import Status
from stream.topics import (
    CATALOG,
    DEAD_LETTERS,
    DECISIONS,
    ENGAGEMENTS,
    EVENTS,
    NEIGHBORS,
    RECOMMENDATIONS,
    Topic,
)

READ_WITHIN_S = 60.0
_OUTSIDE = (ENGAGEMENTS, DECISIONS, DEAD_LETTERS)
"""Topics whose messages have an identity by which receivers drop repeats."""
SHOWN = 8
"""Differences told of each kind."""
_READ = (EVENTS, CATALOG, RECOMMENDATIONS, NEIGHBORS, ENGAGEMENTS, DECISIONS, DEAD_LETTERS)


@dataclass
class Verdict:
    """The outcome of a check; ``counted`` says how much there was to check."""

    lost: int = 0
    twice: int = 0
    digest_equal: bool = True
    digest: str = ""
    problems: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Nothing wrong at all."""
        return not (self.lost or self.twice or self.problems) and self.digest_equal

    def miss(self, what: str, which: Iterable[object]) -> None:
        """Note what is lost."""
        self.lost += self._note(f"lost: {what}", which)

    def repeat(self, what: str, which: Iterable[object]) -> None:
        """Note what is there twice, or too much."""
        self.twice += self._note(f"twice: {what}", which)

    def differ(self, what: str, which: Iterable[object]) -> None:
        """Note what is there, and wrong."""
        self._note(what, which)

    def _note(self, what: str, which: Iterable[object]) -> int:
        found = list(which)
        if found:
            more = " …" if len(found) > SHOWN else ""
            self.problems.append(f"{what} ({len(found)}): {', '.join(map(str, found[:SHOWN]))}{more}")
        return len(found)


# Means


@asynccontextmanager
async def ports(settings: Settings) -> AsyncIterator[tuple[RedisStore, KafkaLog]]:
    """The store and the log, by connections that no fault touches."""

    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 10.0)
    log = KafkaLog(settings)
    await log.start()
    try:
        yield store, log
    finally:
        await log.stop()
        await store.close()


Records = dict[str, list[Any]]
Content = tuple[bytes | None, bytes, tuple[tuple[str, bytes], ...]]
"""Key, value and headers of a message."""


async def read_all(settings: Settings, topics: Sequence[Topic] = _READ) -> Records:
    """Every committed record of some topics, by short name, in partition order."""
    short = {topic.full(settings): topic.name for topic in topics}
    found: Records = {topic.name: [] for topic in topics}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 * settings.max_message_bytes,
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(name, p) for name in short for p in range(settings.partitions)])
        await consumer.seek_to_beginning()
        async with asyncio.timeout(READ_WITHIN_S):
            async for records in _to_end(consumer):
                for record in records:
                    found[short[record.topic]].append(record)
    finally:
        await consumer.stop()
    return {name: sorted(some, key=lambda r: (r.partition, r.offset)) for name, some in found.items()}


async def _to_end(consumer: AIOKafkaConsumer) -> AsyncIterator[list[Any]]:
    """Until the ends are reached and nothing comes; behind markers a position may stay short of its end."""
    ends = await consumer.end_offsets(list(consumer.assignment()))
    silent = 0
    while silent < 12:
        at_end = not any([await consumer.position(at) < end for at, end in ends.items()])
        batches = await consumer.getmany(timeout_ms=400)
        silent = 0 if batches else silent + (6 if at_end else 1)
        for records in batches.values():
            yield records


# The check


async def check(settings: Settings, settled: Status) -> Verdict:
    """Everything, once all is processed (``settled``) and no worker runs any more."""
    verdict = Verdict()
    async with ports(settings) as (store, _):
        live = await sum_up(settings, store, settled)
        verdict.digest = live.digest
        key = settings.signing_key
        assert key is not None, "rounds set the key, so that the replay knows it"
        replayed = await replay_topics(settings, key.encode())
        records = await read_all(settings)
        await _digests(verdict, settings, store, live, replayed)
        await _attributed(verdict, settings, store, replayed)
        _mail(verdict, records, replayed)
        await _sums(verdict, settings, store, records)
        _messages(verdict, records, replayed.outputs)
        await _recommendations(verdict, settings, store, records, replayed.outputs)
        await _neighbors(verdict, settings, store, records, replayed)
    return verdict


async def check_mended(settings: Settings, before: Records, verdict: Verdict) -> None:
    """After `events` was made anew and mended: both logs are counted, and no id names two things.

    Dead letters have no id that goes on: they say where they stood, and such a place comes again.
    """
    async with ports(settings) as (store, _):
        records = await read_all(settings)
        both = records | {EVENTS.name: before[EVENTS.name] + records[EVENTS.name]}
        verdict.counted.clear()
        await _sums(verdict, settings, store, both)
        for topic in (ENGAGEMENTS, DECISIONS):
            _repeats(verdict, topic.name, records[topic.name])


# Digest


async def _digests(
    verdict: Verdict, settings: Settings, store: Store, live: Digest, replayed: Replayed
) -> None:
    ours, theirs = dict(members(live)), dict(members(replayed.digest))
    wrong = [f"{name} {ours[name]} ≠ {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    verdict.digest_equal = not wrong
    verdict.differ("digest, live ≠ replay", wrong)
    for kind, fields in _FIELDS.items() if wrong else ():
        mine = await _state(store, settings, kind, fields)
        other = await _state(replayed.store, settings, kind, fields)
        names = sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))
        verdict.differ(f"{kind} differs", (_side_by_side(n, mine.get(n), other.get(n)) for n in names))


async def _attributed(verdict: Verdict, settings: Settings, store: Store, replayed: Replayed) -> None:
    """What lists brought about counts exactly once, too; the digest leaves it out."""
    mine, other = await _counts(store, settings), await _counts(replayed.store, settings)
    verdict.counted["attributed"] = sum(map(sum, mine.values()))
    keys = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
    verdict.differ("counts of lists", (f"{key}: {mine.get(key)} ≠ {other.get(key)}" for key in keys))


async def _counts(store: Store, settings: Settings) -> Counts:
    days: Days = {}
    for part in (f"u{p}" for p in range(settings.partitions)):
        session = store.session(part)
        for day, data in (await session.fields(Keys(settings.prefix).counts(part))).items():
            days = grown(days, unpack_day(int(day), data))
        await session.close()
    return flat(days)


def _mail(verdict: Verdict, records: Records, replayed: Replayed) -> None:
    """The log holds the mail that its events make, and no other but what clients forged."""
    forged = {(dict(r.headers)["source-partition"], r.value) for r in records[DEAD_LETTERS.name]}
    verdict.counted["mail"] += sum(b'"tidewise.mail"' in (r.value or b"") for r in records[EVENTS.name])
    verdict.miss("mail that the step makes and the log lacks", replayed.missing)
    strange = [one for one in replayed.strange if (b"%d" % one[0], one[1]) not in forged]
    verdict.repeat("mail in the log that no event explains", strange)


_FIELDS: dict[str, Callable[[bytes], object]] = {
    "user": user_fields,
    "engagement": lambda blob: engagement_fields(UserState.unpack(blob)),
    "row": row_fields,
}


def _side_by_side(name: str, live: object, replay: object) -> str:
    return f"\n  {name}\n    live   {str(live)[:600]}\n    replay {str(replay)[:600]}"


async def _state(
    store: Store, settings: Settings, kind: str, fields: Callable[[bytes], object]
) -> dict[str, object]:
    """What the digest sees of each private key of a kind, by the key without its prefix."""
    start = f"{settings.prefix}:"
    keys = sorted({key async for key in store.scan(f"{start}{{*}}:{kind}:*")})
    blobs = await store.get(keys) if keys else []
    return {
        key[len(start) :]: fields(blob) for key, blob in zip(keys, blobs, strict=True) if blob is not None
    }


# Sums


def elements(value: bytes | None) -> int:
    """Events in a message: the elements of an array; whatever is no array, or unreadable, is one."""
    try:
        read = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return 1
    return len(read) if isinstance(read, list) else 1


_EVENT_SUMS = ("accepted", "repeats", "dead", "forwarded", "ticks", "mail_repeats", "merging", "notices")
_CATALOG_SUMS = ("catalog", "dead", "forwarded", "mail_repeats")


async def _sums(verdict: Verdict, settings: Settings, store: Store, records: Records) -> None:
    """Each partition's tallies against the log, by a reading of our own."""
    keys, partitions = Keys(settings.prefix), range(settings.partitions)
    events, items = _counted(records[EVENTS.name]), _counted(records[CATALOG.name])
    blobs = await store.get([keys.meta(f"{side}{p}") for side in "ui" for p in partitions])
    for p, shopper, shelf in zip(partitions, blobs, blobs[settings.partitions :], strict=False):
        user = msgspec.msgpack.decode(shopper, type=ShopperMeta) if shopper else ShopperMeta()
        _compare(verdict, f"{EVENTS.name}/{p}", events[p], {n: getattr(user, n) for n in _EVENT_SUMS})
        item = msgspec.msgpack.decode(shelf, type=ShelfMeta) if shelf else ShelfMeta()
        _compare(verdict, f"{CATALOG.name}/{p}", items[p], {n: getattr(item, n) for n in _CATALOG_SUMS})


def _counted(records: Sequence[Any]) -> Counter[int]:
    """Elements by partition."""
    counted: Counter[int] = Counter()
    for record in records:
        counted[record.partition] += elements(record.value)
    return counted


def _compare(verdict: Verdict, where: str, there: int, tallies: Mapping[str, int]) -> None:
    counted = sum(tallies.values())
    verdict.counted["elements"] += there
    verdict.counted.update(tallies)
    if counted != there:
        verdict.lost += max(0, there - counted)
        verdict.twice += max(0, counted - there)
        verdict.problems.append(f"{where}: {there} elements in the log, {counted} accounted for: {tallies}")


# Messages to the outside


def _messages(verdict: Verdict, records: Records, outputs: Mapping[str, Sequence[Output]]) -> None:
    """What the replay makes is there at least once, nothing else is, and repeats are equal."""
    for name in (topic.name for topic in _OUTSIDE):
        wanted = {_identity(name, one): _content(one) for one in outputs.get(name, [])}
        found = _repeats(verdict, name, records[name])
        verdict.counted[name] += len(wanted)
        verdict.counted[f"{name}_repeats"] += len(records[name]) - len(found)
        verdict.miss(name, sorted(map(str, wanted.keys() - found.keys())))
        verdict.repeat(
            f"{name} that the replay does not make", sorted(map(str, found.keys() - wanted.keys()))
        )
        both = found.keys() & wanted.keys()
        verdict.differ(
            f"{name} with another content",
            [
                f"\n  {i}\n    live   {found[i]}\n    replay {wanted[i]}"
                for i in both
                if _decided(name, wanted[i]) not in {_decided(name, each) for each in found[i]}
            ],
        )


def _repeats(verdict: Verdict, name: str, records: Sequence[Any]) -> dict[object, set[Content]]:
    """What was said under each identity: once, or always the same."""
    found: dict[object, set[Content]] = {}
    for record in records:
        found.setdefault(_identity(name, record), set()).add(_content(record))
    verdict.repeat(f"{name}, repeats that differ", [i for i, said in found.items() if len(said) > 1])
    return found


def _identity(topic: str, message: Any) -> object:
    if topic != DEAD_LETTERS.name:
        return orjson.loads(message.value)["id"]
    headers = dict(message.headers)
    names = ("source-topic", "source-partition", "source-offset", "source-index")
    return b"/".join(headers.get(name, b"") for name in names)


def _content(message: Any) -> Content:
    return message.key, message.value, tuple((name, bytes(value)) for name, value in message.headers)


def _decided(topic: str, content: Content) -> object:
    """A message without what the catalogue said at the time."""
    key, value, headers = content
    return key, unpresented(value) if topic == ENGAGEMENTS.name else value, headers


# Views


def _version(view: bytes) -> str:
    return view[VERSION_START : VERSION_START + VERSION_LENGTH].decode()


async def _recommendations(
    verdict: Verdict,
    settings: Settings,
    store: Store,
    records: Records,
    outputs: Mapping[str, Sequence[Output]],
) -> None:
    """Each user's newest message equals his view, and there is one for each user that the replay lists."""
    newest: dict[str, bytes] = {}
    for record in records[RECOMMENDATIONS.name]:
        user = record.key.decode()
        if _version(record.value) > _version(newest.get(user, b"")):
            newest[user] = record.value
    users = sorted(newest)
    views = await store.get([Keys(settings.prefix).recs(user) for user in users]) if users else []
    differing = [
        f"\n  {user}\n    topic {newest[user][:300]!r}\n    view  {(view or b'none')[:300]!r}"
        for user, view in zip(users, views, strict=True)
        if view != newest[user] and not (view is None and not orjson.loads(newest[user])["items"])
    ]
    verdict.counted["recommendations"] += len(users)
    verdict.differ("view and topic of recommendations differ", differing)
    wanted = {one.key.decode() for one in outputs.get(RECOMMENDATIONS.name, []) if one.key}
    verdict.miss("users without a list", sorted(wanted - newest.keys()))
    verdict.repeat("lists of users that the replay does not know", sorted(newest.keys() - wanted))


async def _neighbors(
    verdict: Verdict, settings: Settings, store: Store, records: Records, replayed: Replayed
) -> None:
    """Each item's newest record says what the replay's says; its view is at least as new."""
    live, versions = _newest([(r.key.decode(), r.value) for r in records[NEIGHBORS.name] if r.value])
    outputs = [(o.key.decode(), o.value) for o in replayed.outputs.get(NEIGHBORS.name, []) if o.key]
    replay, _ = _newest(outputs)
    cut = await _evicted(store, settings) | await _evicted(replayed.store, settings)
    verdict.counted["items"] += len(replay)
    verdict.miss("items without a record of neighbors", sorted(replay.keys() - live.keys()))
    verdict.repeat("items that the replay does not know", sorted(live.keys() - replay.keys()))
    verdict.differ(
        "record of neighbors differs",
        [
            _side_by_side(item, live[item], replay[item])
            for item in sorted(live.keys() & replay.keys() - cut)
            if live[item] != replay[item]
        ],
    )
    await _neighbor_views(verdict, settings, store, versions)


def _newest(records: Sequence[tuple[str, bytes]]) -> tuple[dict[str, object], dict[str, str]]:
    """What the record of the greatest version says of each item, apart from its version; and that."""
    if not records:
        return {}, {}
    columns = unpack_records([value for _, value in records])
    best: dict[str, tuple[int, int]] = {}
    says: dict[str, object] = {}
    for at, (item, _) in enumerate(records):
        this = int(columns.term[at]), int(columns.n[at])
        if this >= best.get(item, (-1, -1)):
            best[item], says[item] = this, _says(columns, at)
    return says, {item: version(*this) for item, this in best.items()}


def _says(columns: Any, at: int) -> object:
    k = int(columns.k[at])
    scalars = ("flags", "last", "row_sum", "col_sum", "price", "popularity", "born", "group", "category")
    told = {name: np.asarray(getattr(columns, name)[at]).item() for name in scalars}
    neighbors = zip(columns.hashes[at, :k].tolist(), columns.weights[at, :k].tolist(), strict=True)
    return told | {"neighbors": [(f"{hashed:016x}", weight) for hashed, weight in neighbors]}


async def _evicted(store: Store, settings: Settings) -> set[str]:
    """Items whose row was ever cut."""
    rows = await _state(store, settings, "row", lambda blob: row_fields(blob)[1])
    return {key.split(":row:", 1)[1] for key, evicted in rows.items() if evicted}


async def _neighbor_views(
    verdict: Verdict, settings: Settings, store: Store, versions: Mapping[str, str]
) -> None:
    items = sorted(versions)
    views = await store.get([Keys(settings.prefix).neighbors(item) for item in items]) if items else []
    verdict.miss("items without a view", [i for i, view in zip(items, views, strict=True) if view is None])
    older = [
        f"{item} ({_version(view)} < {versions[item]})"
        for item, view in zip(items, views, strict=True)
        if view is not None and _version(view) < versions[item]
    ]
    verdict.differ("view of neighbors older than the record", older)
