"""The item side of a partition: co-occurrence rows, popularity and the catalogue of its items.

Increments are folded into memory as they come; changed lists are published from memory, and a checkpoint
writes rows and positions together, after every list it covers is published: a row that changed a hundred
times is written once. What a lost worker had folded since its checkpoint is folded again, equal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from state.keys import Keys
from state.model import Put, View, Write, version
from stream.codec import DeadLetter, Limits, Listed, Record, decode_catalog
from stream.core import views
from stream.core.content import category_of, item_tokens
from stream.core.items import Items, item_hash
from stream.core.leaders import Leaders
from stream.core.neighbor_format import HAS_PRICE, HIDDEN, OUT_OF_STOCK, Records, pack_records
from stream.core.plan import LEAD_MS, Plan
from stream.core.ranking import nearest
from stream.core.recommend.trend import SEGMENTS, Trends
from stream.core.rows import Rows
from stream.core.runs import starts
from stream.core.trending import HOURS, Popularity, top_record
from stream.core.usual import last_year, per_day, steady
from stream.core.vectors import quantised
from stream.core.watchers import Change, Goods, Interest, matters
from stream.core.weights import Decay
from stream.delivery import Delivery, Effects, Output, Ports
from stream.events import CatalogItem
from stream.fanout import Fanout
from stream.follower import Followed
from stream.forward import ITEM, pack
from stream.letters import bad_mail, dead_letter
from stream.mail import BACKWARD, HIT, Increments, has_interests, join, unpack, unpack_interests
from stream.ownership import ItemPartitions
from stream.settings import Settings
from stream.signing import verifier
from stream.topics import CATALOG, INCREMENTS, NEIGHBORS, TRENDING
from stream.transport import Bundle, split

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
N = TypeVar("N", bound=np.generic)
log = structlog.get_logger(__name__)
_META_FORMAT = 1
CATALOG_FIELDS = tuple(name for name in CatalogItem.__struct_fields__ if name not in ("type", "time"))
"""What is kept of a catalogue event."""
PACE = 16
"""While input waits, what is done at intervals rests this many times as long as it took."""
SILENCE_MS = 100
"""When nothing came for so long, a checkpoint is made at once: no row would gather more events by waiting."""
POSTS, PIECE = 5000, 500
"""Notices that wait for the checkpoint before more input is taken, and records taken at a time."""
LISTS, ROWS = 200, 1000
"""Lists that are made, and rows that are packed, at a time: ~4 ms, for which users wait."""
PARTS = 4
"""More than so many such parts are made larger: that many lists are a backlog's, where throughput counts."""
TOP_ITEMS = 200
"""Items of a partition's record in topic `trending`."""


class Meta(msgspec.Struct, array_like=True):
    """An item partition's own state (MessagePack array): last source positions by sender, and tallies.

    ``senders`` are of increments and (+ `WATCH_SENDER`) of interests, ``segments`` (``repeats`` of them
    dropped) of increments, ``posted`` of mail in the catalogue, ``notices`` were made for users. Every
    element of the partition's catalogue is in one of ``catalog`` (counted here), ``forwarded``,
    ``mail_repeats``, or, with damaged increments, in ``dead``.
    """

    format: int = _META_FORMAT
    senders: dict[int, int] = {}
    segments: int = 0
    repeats: int = 0
    catalog: int = 0
    dead: int = 0
    posted: dict[int, int] = {}
    forwarded: int = 0
    mail_repeats: int = 0
    notices: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What all item partitions of a worker share; an item belongs to one of them only.

    ``give_way`` returns when it is their turn; without it, it always is.
    """

    settings: Settings
    keys: Keys
    items: Items
    follower: Followed
    limits: Limits
    signing_key: bytes
    part_of: ItemPartitions
    rows: Rows
    popularity: Popularity
    decay: Decay
    plan: Plan
    give_way: Callable[[], Awaitable[None]] | None = None


_NONE: I32 = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Told:
    """What the catalogue says of an item, as its record carries it."""

    group: int
    category: int
    tokens: U32
    weights: F32
    vector: I8

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Told:
        """Of a catalogue entry; {} where there is none."""
        group, tokens = fields.get("group"), item_tokens(fields)
        return cls(
            item_hash(group) if group is not None else 0,
            category_of(fields),
            np.array(list(tokens), dtype=np.uint32),
            np.array(list(tokens.values()), dtype=np.float32),
            quantised(fields.get("vector")),
        )


_UNTOLD = Told.of({})


@dataclass
class Shelf:
    """One item partition: topics `increments` and `catalog`."""

    partition: int
    ports: Ports
    context: Context

    def __post_init__(self) -> None:
        topics = (INCREMENTS.name, CATALOG.name)
        self.delivery = Delivery(f"i{self.partition}", self.partition, topics, self.ports, self.context.keys)
        self._verify = verifier(self.context.signing_key, self.partition)
        self._clear()

    def _clear(self) -> None:
        self.meta = Meta()
        self._planned = 0
        self.catalog: dict[int, dict[str, Any]] = {}
        self._told: dict[int, Told] = {}
        self.changed_catalog: set[int] = set()
        self.dirty: set[int] = set()
        self.unpublished: set[int] = set()
        self.letters: list[tuple[str, DeadLetter]] = []
        self.forwards: list[tuple[int, Output]] = []
        context, partitions = self.context, self.context.settings.partitions
        self.fanout = Fanout(self.partition, partitions, context.signing_key, context.keys, context.items)
        self.published = 0
        self._next: dict[str, tuple[float, float]] = {}
        self._busy, self._heard_ms = False, 0
        self._trended: list[tuple[str, float]] = []
        self._merged: dict[str, list[tuple[str, float]]] = {}
        self._trends = Trends()
        self._week_ms = 0
        half_life_s = context.settings.trending_half_life_s
        self._leaders = Leaders(context.popularity, TOP_ITEMS, half_life_s)

    async def take(self) -> None:
        """Become the owner, and start from what the store holds."""
        context = self.context
        mine = self._everything()
        context.rows.drop(mine)
        context.popularity.drop(mine)
        self._clear()
        await self.delivery.take()
        (stored,) = await self.delivery.session.get([context.keys.meta(self.delivery.part)])
        self.meta = msgspec.msgpack.decode(stored, type=Meta) if stored else Meta()
        await self._load(context.follower.hood.active(mine, HOURS))
        # Flags may have changed, and older records may have landed, while nobody here owned the partition.
        self.note(context.follower.stale, set(np.flatnonzero(context.follower.hood.blocked).tolist()))

    async def handle(self, bundles: Sequence[Bundle]) -> None:
        """Fold what came into memory. Nothing is acknowledged before the next checkpoint.

        One is made between, when what came makes more notices than a transaction should hold.
        """
        self._heard_ms = self.ports.now_ms()
        entries: list[Increments] = []
        for piece in [piece for bundle in bundles for piece in split(bundle, PIECE)]:
            if len(self.fanout.posts) > POSTS:
                await self._fold(entries)
                entries = []
                await self._checkpoint()
            for topic, records in await self.delivery.unread([piece]):
                if topic == CATALOG.name:
                    await self._upsert(records)
                else:
                    increments, interests = self._open(records)
                    entries += increments
                    await self._note(interests)
        await self._fold(entries)

    # Increments

    def _open(self, records: Sequence[Record]) -> tuple[list[Increments], list[Interest]]:
        """Increments and interests, without what a sender repeated; damaged messages go to dead letters."""
        opened: list[Increments] = []
        interests: list[Interest] = []
        for record in records:
            value = record.value or b""
            try:
                if has_interests(value):
                    interests += self._unheard(*unpack_interests(value))
                else:
                    opened.append(self._unseen(*unpack(value, self.context.items)))
            except ValueError as error:
                self.letters.append((INCREMENTS.name, bad_mail(record, str(error))))
        return opened, interests

    def _unseen(self, sender: int, entries: Increments) -> Increments:
        """Drop segments at or before the sender's last source position; remember the new one."""
        last = self.meta.senders.get(sender, -1)
        fresh = entries.source > last
        if len(fresh):
            self.meta.senders[sender] = max(last, int(entries.source[-1]))
        self.meta.segments += len(starts(entries.source))
        self.meta.repeats += len(starts(entries.source[~fresh]))
        return entries if fresh.all() else entries.take(fresh)

    def _unheard(self, sender: int, interests: Sequence[Interest]) -> list[Interest]:
        """Without those at or before the sender's last source position; remember the new one."""
        last = self.meta.senders.get(sender, -1)
        if interests:
            self.meta.senders[sender] = max(last, interests[-1].source)
        return [one for one in interests if one.source > last]

    async def _note(self, interests: Sequence[Interest]) -> None:
        """Put users into the lists of items, and take them out."""
        if not interests:
            return
        ids = self.context.items.ids(one.item for one in interests)
        await self._load(np.unique(ids))
        await self.fanout.load(self.delivery.session, ids.tolist())
        for at, one in zip(ids.tolist(), interests, strict=True):
            self.fanout.note(at, one, Goods.of(self.catalog.get(at, {})))

    async def _fold(self, parts: Sequence[Increments]) -> None:
        if not parts:
            return
        context, entries = self.context, join(parts)
        touched = np.unique(entries.row)
        await self._load(touched)
        hits = entries.kind == HIT
        context.popularity.add(entries.row[hits], entries.time[hits], entries.weight[hits])
        self._leaders.touch(touched)
        context.rows.witness(entries.row[hits], entries.time[hits])
        pairs = entries.take(~hits)
        if len(pairs.row):
            context.rows.fold(
                pairs.row, pairs.col, pairs.period, pairs.weight, pairs.kind == BACKWARD, pairs.time
            )
        self.dirty.update(touched.tolist())
        self.unpublished.update(touched.tolist())

    async def _load(self, items: I32) -> None:
        """Bring rows, popularity and catalogue entries that are not in memory, in one MGET."""
        context, part = self.context, self.delivery.part
        missing = context.rows.missing(items)
        if not len(missing):
            return
        names = [context.items.name(at) for at in missing.tolist()]
        wanted = [context.keys.row(part, name) for name in names]
        wanted += [context.keys.catalog(part, name) for name in names]
        found = await self.delivery.session.get(wanted)
        sections = context.rows.unpack(missing, found[: len(names)])
        context.popularity.unpack(missing, sections)
        self._leaders.touch(missing)
        for at, blob in zip(missing.tolist(), found[len(names) :], strict=True):
            if blob is not None:
                self.catalog[at] = msgspec.msgpack.decode(blob)

    # The catalogue

    async def _upsert(self, records: Sequence[Record]) -> None:
        """Catalogue events: the fields an event gives replace the item's; the others stay."""
        listed, dead = decode_catalog(records, self.context.limits, self._verify)
        self.letters += [(CATALOG.name, letter) for letter in dead]
        found = self._mine([item for item in listed if self._is_new(item)])
        ids = self.context.items.ids(item.item for item in found)
        await self._load(np.unique(ids))
        changes: list[tuple[int, Listed, Change]] = []
        for at, item in zip(ids.tolist(), found, strict=True):
            given = {name: value for name in CATALOG_FIELDS if (value := getattr(item, name)) is not None}
            before = self.catalog.get(at, {})
            self.catalog[at] = after = before | given
            self._told.pop(at, None)
            change = Change(item.item, item.time_ms, Goods.of(before), Goods.of(after))
            if change.before != change.after:
                changes.append((at, item, change))
        await self._tell_users(changes)
        self.context.rows.witness(ids, np.array([item.time_ms for item in found], dtype=np.int64))
        self.changed_catalog.update(ids.tolist())
        self.dirty.update(ids.tolist())
        self.unpublished.update(ids.tolist())
        self.meta.catalog += len(found)

    async def _tell_users(self, changes: Sequence[tuple[int, Listed, Change]]) -> None:
        """Notices to the users whom changed prices and stocks concern, if a campaign wants to know."""
        plan, base = self.context.plan, self.delivery.base(CATALOG.name)
        await self._plan([item for _, item, _ in changes])
        wanted = [
            (at, item, change, terms)
            for at, item, change in changes
            if (terms := plan.at(_happened(item)).terms) is not None and matters(change, terms)
        ]
        if not wanted:
            return
        await self.fanout.load(self.delivery.session, (at for at, *_ in wanted))
        before = len(self.fanout.posts)
        for at, item, change, terms in wanted:
            self.fanout.tell(at, change, terms, item.offset + base, item.received)
        self.meta.notices += len(self.fanout.posts) - before

    async def _plan(self, items: Sequence[Listed]) -> None:
        """Know every version of a campaign that holds when items change (`stream.core.plan`)."""
        if max(map(_happened, items), default=0) > self._planned:
            await self.context.follower.read_campaigns()
            self._planned = max(item.received for item in items) + LEAD_MS

    def _is_new(self, item: Listed) -> bool:
        """Whether an event was not yet had as mail; its sender's source position is kept."""
        if item.sender < 0:
            return True
        new = item.source > self.meta.posted.get(item.sender, -1)
        if new:
            self.meta.posted[item.sender] = item.source
        self.meta.mail_repeats += not new
        return new

    def _mine(self, listed: Sequence[Listed]) -> list[Listed]:
        """Those of this partition; the others go to theirs, as mail."""
        ids = self.context.items.ids(item.item for item in listed)
        owners = self.context.part_of.of(ids).tolist()
        away = [(owner, item) for owner, item in zip(owners, listed, strict=True) if owner != self.partition]
        self.forwards += [(owner, self._forward(owner, item)) for owner, item in away]
        self.meta.forwarded += len(away)
        return [item for owner, item in zip(owners, listed, strict=True) if owner == self.partition]

    def _forward(self, owner: int, item: Listed) -> Output:
        names = ("type", "time", *CATALOG_FIELDS)
        given = {name: value for name in names if (value := getattr(item, name)) is not None}
        source = (self.partition, item.offset + self.delivery.base(CATALOG.name), item.index)
        body = msgspec.json.encode(given)
        mail = pack(self.context.signing_key, owner, source, item.received, body, ITEM)
        return Output(CATALOG.name, item.item.encode(), mail)

    # What goes out

    async def pulse(self, busy: bool) -> bool:
        """Publish and checkpoint when it is time. True: everything handled so far is in the store."""
        settings, self._busy = self.context.settings, busy
        if self.unpublished and self._due("publish"):
            await self._paced("publish", settings.publish_s, self._publish)
        if self._due("trending"):
            await self._paced("trending", settings.trending_s, self._publish_trending)
        if self._uncommitted() and self._must_checkpoint():
            await self._paced("checkpoint", settings.checkpoint_s, self._checkpoint)
            return True
        return not self._uncommitted()

    def _must_checkpoint(self) -> bool:
        """When it is time; sooner for what others wait for, and in silence."""
        silent = not self._busy and self.ports.now_ms() >= self._heard_ms + SILENCE_MS
        return bool(self.letters) or self._must_post() or silent or self._due("checkpoint")

    def _must_post(self) -> bool:
        """Whether notices should not wait for the next checkpoint: at once, while more waits by the lot."""
        return len(self.fanout.posts) > (POSTS if self._busy else 0)

    def _due(self, what: str) -> bool:
        soon, late = self._next.get(what, (0.0, 0.0))
        return self.ports.now_ms() >= (late if self._busy else soon)

    async def _paced(self, what: str, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, and again after its interval; while more waits, later, so that rows gather more events."""
        started = self.ports.now_ms()
        await work()
        ended = self.ports.now_ms()
        soon = started + every_s * 1000
        self._next[what] = soon, max(soon, ended + PACE * (ended - started))

    def _uncommitted(self) -> bool:
        return self.delivery.reached != self.delivery.head.positions

    def _version(self) -> tuple[int, int]:
        """Versions between checkpoints: the term, and a count that grows with every publication."""
        self.published += 1
        return self.delivery.head.epoch.term, self.published

    async def publish(self) -> None:
        """Publish the lists that changed, whether or not it is time."""
        if self.unpublished:
            await self._publish()

    async def _publish(self) -> None:
        ids = np.array(sorted(self.unpublished), dtype=np.int32)
        self.unpublished = set()  # what the follower notes meanwhile is for the next time
        await self._load(ids)
        term, n = self._version()
        records, found = list[Output](), list[View]()
        async for some in self._in_turn(ids, LISTS):
            records += self._records(some, term, n)
        self._apply(records)
        async for some in self._in_turn(ids, LISTS):
            found += self._views(some, version(term, n))
        await asyncio.gather(
            self.ports.sender.publish(self.partition, records), self.ports.store.put_views(found)
        )

    async def _in_turn(self, ids: I32, most: int) -> AsyncIterator[I32]:
        """Items in parts of ``most``, each when it is our turn; all at once where nobody else has any.

        They are at most `PARTS` parts, of more where need be.
        """
        if self.context.give_way is None:
            yield ids
            return
        most = max(most, -(-len(ids) // PARTS))
        for start in range(0, len(ids), most):
            await self.context.give_way()
            yield ids[start : start + most]

    def _records(self, ids: I32, term: int, n: int) -> list[Output]:
        """Records of topic `neighbors` for items [r]: lists and sums, decayed to each row's newest event."""
        context = self.context
        top, sums = context.rows.top(ids), context.rows.sums(ids)
        last = self._last(ids)
        factor = context.decay.age_factors(sums.base, last)
        forward, backward = sums.forward * factor, sums.backward * factor
        beta, held = context.settings.backward, top.cols >= 0
        told = [self._tell(at) for at in ids.tolist()]
        values = pack_records(
            Records(
                flags=self._flags(ids),
                term=np.full(len(ids), term),
                n=np.full(len(ids), n),
                last=last,
                row_sum=forward + backward,
                # A pair that row j holds backward was added forward to column j, and the other way round.
                col_sum=backward / beta + forward * beta,
                price=np.array([self.catalog.get(at, {}).get("price") or 0.0 for at in ids.tolist()]),
                popularity=self._popularity(ids, last),
                k=np.count_nonzero(held, axis=1),
                hashes=np.where(held, context.items.hashes[top.cols], np.uint64(0)),
                weights=(top.weights * factor[:, None]).astype(np.float32),
                born=context.rows.born(ids),
                usual=self._usual(ids, last),
                season=self._season(ids, last),
                group=np.array([each.group for each in told], dtype=np.uint64),
                category=np.array([each.category for each in told], dtype=np.uint64),
                t=np.array([len(each.tokens) for each in told], dtype=np.int64),
                tokens=_padded([each.tokens for each in told]),
                token_weights=_padded([each.weights for each in told]),
                dims=np.array([len(each.vector) for each in told], dtype=np.int64),
                vectors=_padded([each.vector for each in told]),
            )
        )
        names = [context.items.name(at).encode() for at in ids.tolist()]
        return [Output(NEIGHBORS.name, name, value) for name, value in zip(names, values, strict=True)]

    def _tell(self, at: int) -> Told:
        """What the catalogue says of an item; read anew once an event changed it."""
        if at not in self.catalog:
            return _UNTOLD
        if (told := self._told.get(at)) is None:
            told = self._told[at] = Told.of(self.catalog[at])
        return told

    def _popularity(self, ids: I32, last: I64) -> F32:
        """Decayed interactions [r] of items, as of times ``last`` [r]."""
        context = self.context
        return context.popularity.rested(ids, context.settings.trending_half_life_s, last).astype(np.float32)

    def _usual(self, ids: I32, last: I64) -> F32:
        """The popularity [r] that would be usual for items, as of times ``last`` [r]."""
        context, settings = self.context, self.context.settings
        born = context.rows.born(ids)
        rate = per_day(context.popularity.weeks, ids, last, born, settings.usual_half_life_s)
        return (rate * steady(settings.trending_half_life_s)).astype(np.float32)

    def _season(self, ids: I32, last: I64) -> F32:
        """The popularity [r] of items in the same weeks of last year, as of the newest week that is known."""
        rate = last_year(self.context.popularity.weeks, ids, np.maximum(last, self._week_ms))
        return (rate * steady(self.context.settings.trending_half_life_s)).astype(np.float32)

    def _last(self, ids: I32) -> NDArray[np.int64]:
        """Times [r] of the newest event of items: to the ms where it made a pair, else to the hour."""
        return np.maximum(self.context.rows.sums(ids).last, self.context.popularity.newest_ms(ids))

    def _flags(self, ids: I32) -> NDArray[np.uint8]:
        flags = np.zeros(len(ids), dtype=np.uint8)
        for row, at in enumerate(ids.tolist()):
            if (known := self.catalog.get(at)) is not None:
                flags[row] |= HIDDEN if known.get("hidden") else 0
                flags[row] |= OUT_OF_STOCK if known.get("stock") == 0 else 0
                flags[row] |= HAS_PRICE if known.get("price") is not None else 0
        return flags

    def _apply(self, records: Sequence[Output]) -> None:
        """Know our own records before they went through the broker: lists must not wait for that."""
        follower = self.context.follower
        named = [(record.key.decode(), record.value) for record in records if record.key is not None]
        applied = follower.hood.apply([name for name, _ in named], [value for _, value in named])
        follower.flagged.update(applied.flagged)
        follower.kin.described.update(applied.described)

    def _views(self, ids: I32, at_version: str) -> list[View]:
        """Public lists of items [r], and what the catalogue says of those it changed."""
        context, keys, items = self.context, self.context.keys, self.context.items
        names = [items.name(at) for at in ids.tolist()]
        ranked = nearest(context.follower.hood, ids, context.settings.list_items)
        identities = [f"{self.delivery.part}-{at_version}-{name}" for name in names]
        times = self._last(ids)
        lists = views.neighbors_views(at_version, identities, times, ids, ranked, items)
        found = [View(keys.neighbors(name), value) for name, value in zip(names, lists, strict=True)]
        changed = self.changed_catalog.intersection(ids.tolist())
        self.changed_catalog -= changed
        for at in sorted(changed):
            fields = self.catalog[at]
            found.append(
                View(keys.item(items.name(at)), views.item_view(at_version, self.ports.now_ms(), fields))
            )
        return found

    async def publish_trending(self) -> None:
        """Publish what is popular, whether or not it is time."""
        await self._publish_trending()

    async def _publish_trending(self) -> None:
        """The partition's top list, and, by the owner of partition 0, the merged view."""
        context, half_life = self.context, self.context.settings.trending_half_life_s
        self._turn()
        ids, scores = self._leaders.top(self._everything)
        hour = self._leaders.hour
        top = [
            (context.items.name(at), score) for at, score in zip(ids.tolist(), scores.tolist(), strict=True)
        ]
        if top and top != self._trended:
            value = top_record(self.partition, version(*self._version()), hour, half_life, top)
            key = b"%d" % self.partition
            await self.ports.sender.publish(self.partition, [Output(TRENDING.name, key, value)])
            self._trended = top
        if self.partition == 0:
            await self._publish_merged()

    def _everything(self) -> I32:
        """All items of the partition that are known by name."""
        every = np.arange(len(self.context.items), dtype=np.int32)
        mine: I32 = every[self.context.part_of.of(every) == self.partition]
        return mine

    def _turn(self) -> None:
        """When a new week began: items that rest have another season. Those not in memory are passed over,
        unless their record tells one."""
        context, hood = self.context, self.context.follower.hood
        weeks = context.popularity.weeks
        newest = weeks.newest_of(self._leaders.touched())
        begins = weeks.start_ms(newest.max(initial=0, keepdims=True))
        if int(begins[0]) > self._week_ms:
            self._week_ms, mine = int(begins[0]), self._everything()
            hood.reserve()
            # Of weeks alone: asking a row for its newest event would make one where none is in memory.
            moved = self._season(mine, np.zeros(len(mine), dtype=np.int64)) != hood.season[mine]
            self.unpublished.update(mine[moved].tolist())

    async def _publish_merged(self) -> None:
        """The views of what is popular, on the rise, and in season, where they changed."""
        context, n = self.context, self.context.settings.list_items
        tops = {"": context.follower.shown(n)} | {name: self._leading(name, n) for name in SEGMENTS}
        changed = {name: top for name, top in tops.items() if top and top != self._merged.get(name)}
        if not changed:
            return
        at_version, now_ms = version(*self._version()), self.ports.now_ms()
        found = [
            View(
                context.keys.trending(name),
                views.trending_view(at_version, f"{name or 'trending'}-{at_version}", now_ms, top),
            )
            for name, top in changed.items()
        ]
        await self.ports.store.put_views(found)
        self._merged |= changed

    def _leading(self, channel: str, n: int) -> list[tuple[str, float]]:
        """The best ``n`` of a channel of component `trend`, by name."""
        hood = self.context.follower.hood
        self._trends.learn(hood)
        ids, scores = self._trends.top(hood, channel, n)
        return [(hood.items.name(at), score) for at, score in zip(ids.tolist(), scores.tolist(), strict=True)]

    def note(self, stale: Set[int], flagged: Set[int], kin: I32 = _NONE) -> set[int]:
        """Publish again what an older record overwrote, lists that hold an item whose flag changed, and those
        of ``kin``: items without a list of their own that may have got a better one by what became known.

        Returns the stale ones that are of this partition.
        """
        mine = {at for at in stale if self._owner(at) == self.partition}
        again = set(mine)
        if flagged:
            hood = self.context.follower.hood
            holders = np.flatnonzero(np.isin(hood.cols, list(flagged)).any(axis=1)).astype(np.int32)
            holders = holders[holders < len(self.context.items)]
            again.update(holders[self.context.part_of.of(holders) == self.partition].tolist())
        again.update(kin[self.context.part_of.of(kin) == self.partition].tolist())
        self.unpublished |= again
        return mine

    def _owner(self, at: int) -> int:
        return int(self.context.part_of.of(np.array([at], dtype=np.int32))[0])

    async def _checkpoint(self) -> None:
        """Rows, catalogue, positions and dead letters in one transaction, once their lists are published."""
        if self.unpublished:
            await self._publish()
        writes, new = await self._writes(), self.delivery.advanced()
        letters, self.letters = self.letters, []
        forwards, self.forwards = self.forwards, []
        self.meta.dead += len(letters)
        meta = Put(self.context.keys.meta(self.delivery.part), msgspec.msgpack.encode(self.meta))
        effects = Effects(
            writes=[meta, *writes, *self.fanout.writes()],
            mail=[*forwards, *self.fanout.taken()],
            dead=sorted({(topic, letter.offset) for topic, letter in letters}),
            dead_letters=[dead_letter(topic, self.partition, letter) for topic, letter in letters],
        )
        await self.delivery.transact(new, effects)
        self.dirty.clear()
        self.fanout.saved()
        await self.delivery.publish(effects)

    async def _writes(self) -> list[Write]:
        """Rows and catalogue entries that changed."""
        ids = np.array(sorted(self.dirty), dtype=np.int32)
        return [write async for some in self._in_turn(ids, ROWS) for write in self._packed(some)]

    def _packed(self, ids: I32) -> Iterator[Write]:
        context, part = self.context, self.delivery.part
        sections = context.popularity.pack(ids)
        for at, blob, section in zip(ids.tolist(), context.rows.pack(ids), sections, strict=True):
            name = context.items.name(at)
            yield Put(context.keys.row(part, name), blob + section)
            if at in self.catalog:
                document = msgspec.msgpack.encode(self.catalog[at])
                yield Put(context.keys.catalog(part, name), document)


def _padded(lists: Sequence[NDArray[N]]) -> NDArray[N]:
    """At least one list of numbers as rows [r, longest]; 0 behind."""
    lengths = np.array([len(each) for each in lists])
    found = np.zeros((len(lists), int(lengths.max())), dtype=lists[0].dtype)
    found[np.arange(found.shape[1]) < lengths[:, None]] = np.concatenate(lists)
    return found


def _happened(item: Listed) -> int:
    """When an item changed; not after it was received, beyond which campaigns are not known yet."""
    return min(item.time_ms, item.received)
