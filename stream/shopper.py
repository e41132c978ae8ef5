"""The shopper side of a partition: who its users are, and the steps of a batch around the pure step."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.keys import Keys
from state.model import Delete, DeleteField, Put, PutField, Write, version
from stream.codec import Columns, DeadLetter, Limits, Record, decode
from stream.core import views
from stream.core.engaged import UserState
from stream.core.engagement import Engine
from stream.core.items import Items
from stream.core.loyalty import NO_POINTS
from stream.core.messages import Message, decision_hash, message_id, presented
from stream.core.models.external import NAME as EXTERNAL
from stream.core.plan import LEAD_MS
from stream.core.preferences import cold, told
from stream.core.ranking import Ranked
from stream.core.rfm import Ranks
from stream.core.runs import starts
from stream.core.step import Counting, Result, View, step
from stream.core.users import Rows, UserTable, pack
from stream.core.watchers import Interest
from stream.delivery import Delivery, Effects, Output, Ports
from stream.events import NOTICE
from stream.follower import Followed
from stream.ledger import Ledger
from stream.letters import dead_letter
from stream.lister import Lister, Wanted, bounds_of
from stream.mail import Packer, pack_interests, position_of
from stream.merging import Merger
from stream.offering import Answers, catalogued
from stream.ownership import ItemPartitions, partition_of
from stream.posting import Poster
from stream.routing import Routed, Router
from stream.segments import SegmentBoard
from stream.settings import Settings
from stream.signing import tick_event, verifier
from stream.topics import DECISIONS, ENGAGEMENTS, EVENTS, INCREMENTS, MODEL_SCORES, RECOMMENDATIONS
from stream.transport import Bundle
from stream.vault import Vault

I64 = NDArray[np.int64]
_META_FORMAT = 2
TICK_EVERY_MS = 2000
"""Between two ticks of a partition: the broker's clock may be behind the worker's."""
NAMES_WITHIN_S = 10.0
"""Longest wait for the name of an item that a stored history knows by its hash."""


_NOBODY: I64 = np.zeros(0, dtype=np.int64)


class Meta(msgspec.Struct, array_like=True):
    """A shopper partition's own state: watermark, tallies, decision hash (MessagePack array).

    ``live`` tells whether the event that last raised the watermark was fresh when received. Elements of the
    log = accepted + repeats + dead + ticks + forwarded + mail_repeats + merging + notices; ``mail`` of those
    accepted or repeated came as mail, ``uncounted`` of those accepted are noise. ``senders`` are the last
    source positions of mail; ``merging`` counts the mail about anonymous users who become known ones,
    ``preferences`` the events that told attributes, ``notices`` what users were told.
    """

    format: int = _META_FORMAT
    watermark: int = 0
    live: bool = False
    decisions: int = 0
    accepted: int = 0
    repeats: int = 0
    dead: int = 0
    ticks: int = 0
    forwarded: int = 0
    mail: int = 0
    mail_repeats: int = 0
    senders: Mapping[int, int] = {}
    uncounted: int = 0
    merging: int = 0
    preferences: int = 0
    notices: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What all shopper partitions of a worker share."""

    settings: Settings
    keys: Keys
    items: Items
    follower: Followed
    counting: Counting
    engine: Engine
    limits: Limits
    signing_key: bytes
    part_of: ItemPartitions
    lister: Lister


class Alarms:
    """When each user's next timer is due; the earliest first. Lazy deletion keeps a change at O(log n)."""

    def __init__(self, due: dict[str, int]) -> None:
        self.due = due
        self._heap = [(at, user) for user, at in due.items()]
        heapq.heapify(self._heap)

    def set(self, user: str, at: int | None) -> None:
        """Set or remove a user's alarm."""
        if at is None:
            self.due.pop(user, None)
        else:
            self.due[user] = at
            heapq.heappush(self._heap, (at, user))

    def earliest(self) -> int | None:
        """When the next timer is due."""
        while self._heap and self.due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def until(self, watermark: int) -> list[str]:
        """Users with a timer due at or before the watermark; they stay until `set` says otherwise."""
        taken: dict[str, int] = {}
        while (at := self.earliest()) is not None and at <= watermark:
            _, user = heapq.heappop(self._heap)
            taken[user] = at
        for user, at in taken.items():
            heapq.heappush(self._heap, (at, user))
        return sorted(taken)


def _cart_changed(view: View, result: Result, name: str) -> bool:
    new = result.engaged.get(name)
    return new is not None and new.cart.keys() != view.engaged[name].cart.keys()


def _newest_first(state: UserState) -> list[str]:
    return sorted(state.cart, key=lambda item: (-state.cart[item].time, item))


@dataclass
class Shopper:
    """One partition of `events`: its delivery, and the cache of its users."""

    partition: int
    ports: Ports
    context: Context
    meta: Meta = field(default_factory=Meta)

    def __post_init__(self) -> None:
        context = self.context
        part = f"u{self.partition}"
        self.delivery = Delivery(part, self.partition, (EVENTS.name,), self.ports, context.keys)
        self._verify = verifier(context.signing_key, self.partition)
        self._router = Router(self.partition, context.settings.partitions, context.signing_key)
        self._packer = Packer(context.items, self.partition)
        self._poster = Poster(self.partition, context.settings.partitions, context.signing_key)
        self._merge = Merger.of(context.settings, self.partition, context.signing_key, context.items)
        self._forget_cache()

    def _forget_cache(self) -> None:
        settings = self.context.settings
        self.table = UserTable(bounds_of(settings))
        self.engaged: dict[str, UserState] = {}
        self.alarms = Alarms({})
        self.ranks = Ranks()
        arms = self.context.counting.attribution.arms
        self.ledger = Ledger(self.partition, self.delivery.part, self.context.keys, arms)
        self.segments = SegmentBoard(self.partition, self.context.keys, self.context.items, settings)
        self.vault = Vault(self.delivery.part, self.context.keys)
        self._tick_after = self._planned = 0
        self.context.lister.release(self.partition)

    async def take(self) -> None:
        """Become the owner, and start from what the store holds."""
        await self.delivery.take()
        self._forget_cache()
        keys, part, session = self.context.keys, self.delivery.part, self.delivery.session
        stored, mixture = await session.get([keys.meta(part), keys.mixture(part)])
        self.context.lister.adopt(mixture)
        self.meta = msgspec.msgpack.decode(stored, type=Meta) if stored else Meta()
        timers = await session.fields(keys.timers(part))
        self.alarms = Alarms({user: int(due) for user, due in timers.items()})
        self.ranks = Ranks.of(await session.fields(keys.rfm(part)))
        await self.ledger.take(session)
        self.segments.take(self.context.follower)

    def expect(self) -> None:
        """A batch is about to begin."""
        self.context.lister.serve.expect(self.partition)

    async def handle(self, bundles: Sequence[Bundle]) -> None:
        """Steps 1 to 4 of a batch; the caller acknowledges. Raises Fenced, Doubt, StoreFull."""
        lister = self.context.lister
        with lister.serve.coming(self.partition):
            unread = await self.delivery.unread(bundles)  # 1
            records = [record for _, some in unread for record in some]
            if not records:
                return
            routed, dead = self._decode(records)
            if await self._plan(routed.columns, records):
                routed, dead = self._decode(records)
            columns = routed.columns
            view, user = await self._load(columns)
            result = step(self.context.counting, self.context.engine, view, columns, user)  # 2
            await self._owners(result)
            await self._show(view, result)
            serving = self._serve(view, result, columns)
        lists = await serving
        learned = lister.learn(lister.lesson(view, columns, result, user))
        new = self.delivery.advanced()
        meta = self._tally(result, routed, dead, records)
        effects = self._effects(new.epoch.term, new.n, view, result, lists, routed, dead, meta)
        await self.delivery.transact(new, effects)  # 3
        self._keep(view, result, meta)
        self.segments.note(columns, result, user)
        self.table.forget(routed.strangers)
        await self.delivery.publish(effects)  # 4
        await learned
        lister.note(self.partition, view, columns, result, user)

    async def _plan(self, columns: Columns, records: Sequence[Record]) -> bool:
        """Know every version of a campaign that holds by the end of a batch (`stream.core.plan`).

        Returns whether these look at other events than before.
        """
        watched = self.context.engine.watched()
        if self._reach(columns) > self._planned:
            await self.context.follower.read_campaigns()
            self._planned = max(record.timestamp for record in records) + LEAD_MS
        return self.context.engine.watched() != watched

    def _decode(self, records: Sequence[Record]) -> tuple[Routed, list[DeadLetter]]:
        """What counts here, what goes on, and dead letters."""
        context, base = self.context, self.delivery.base(EVENTS.name)
        limits = context.limits.watching(context.engine.watched())
        columns, dead = decode(records, context.items, limits, self._verify)
        columns = replace(columns, offset=columns.offset + base)
        return self._router.route(columns, records, base, self.table, self.meta.senders), dead

    async def users(self, names: list[str]) -> Rows:
        """Users [U] as they are, from memory or store."""
        await self._fetch(names, [])
        return self.table.take(self.table.slots(names))

    async def _load(self, columns: Columns) -> tuple[View, I64]:
        """The state a batch touches; what is not in memory comes in one MGET."""
        names = [name for name in dict.fromkeys(columns.user) if name]
        at = {name: row for row, name in enumerate(names)}
        user = np.array([at.get(name, -1) for name in columns.user], dtype=np.int64)
        concerned = {columns.user[event] for event in columns.details}
        concerned.update(self.alarms.until(self._reach(columns)))
        await self._fetch(names, [name for name in concerned if name not in self.engaged])
        rows = self.table.take(self.table.slots(names))
        engaged = {name: self.engaged[name] for name in concerned}
        preferring = await self._preferring(names, rows)
        hashes = self.context.items.hashes
        touches = self.ledger.touches
        watermark = self.meta.watermark
        await self.vault.load(self.delivery.session, columns)
        held = (self.vault.pools, self.vault.wallets)
        return View(names, rows, engaged, watermark, hashes, preferring, touches, self.ranks, *held), user

    async def _preferring(self, names: list[str], rows: Rows) -> dict[str, UserState]:
        """What engagement knows of users whose history says little; nothing while nobody told anything."""
        if not self.meta.preferences:
            return {}
        wanted = cold(names, rows.seen)
        await self._fetch([], [name for name in wanted if name not in self.engaged])
        return {name: self.engaged[name] for name in wanted}

    def _reach(self, columns: Columns) -> int:
        if not len(columns.time):
            return self.meta.watermark
        newest = int(np.minimum(columns.time, columns.received).max()) - self.context.counting.lateness_ms
        return max(self.meta.watermark, newest)

    async def _fetch(self, names: list[str], concerned: list[str]) -> None:
        keys, part = self.context.keys, self.delivery.part
        slots = self.table.slots(names)
        missing = [names[at] for at in np.flatnonzero(slots < 0).tolist()]
        wanted = [keys.user(part, name) for name in missing]
        wanted += [keys.engagement(part, name) for name in concerned]
        untouched = self.ledger.missing(names)
        wanted += [keys.attribution(part, name) for name in untouched]
        found = await self.delivery.session.get(wanted) if wanted else []
        self.table.load(missing, found[: len(missing)], self.context.items)
        rest = found[len(missing) :]
        for name, blob in zip(concerned, rest[: len(concerned)], strict=True):
            self.engaged[name] = UserState.unpack(blob)
        self.ledger.load(untouched, rest[len(concerned) :])

    async def _show(self, view: View, result: Result) -> None:
        """Answer what nudges ask for, and put on messages what the catalogue says of their items."""
        context, store = self.context, self.ports.store
        if result.asks:
            answers = Answers(context.lister, context.items, context.keys, store)
            rows = await self._rows_of([ask.user for ask in result.asks], view, result)
            made = await answers.of(result.asks, rows, {**view.engaged, **result.engaged})
            result.notices = sorted([*result.notices, *made], key=lambda notice: notice.at)
        if any(isinstance(one, Message) and one.items for one in result.messages):
            items = (line.item for one in result.messages if isinstance(one, Message) for line in one.items)
            known = await catalogued(store, context.keys, items)
            result.messages = presented(result.messages, known)

    async def _rows_of(self, names: list[str], view: View, result: Result) -> Rows:
        """Users [A] as they are after the batch, also those who are not in it."""
        wanted = list(dict.fromkeys(names))
        found, place = await self.users(wanted), {name: row for row, name in enumerate(view.names)}
        here = [at for at, name in enumerate(wanted) if name in place]
        changed = result.rows.take(np.array([place[wanted[at]] for at in here], dtype=np.int64))
        found = found.replaced(np.array(here, dtype=np.int64), changed)
        return found.take(np.array([wanted.index(name) for name in names], dtype=np.int64))

    def _serve(self, view: View, result: Result, columns: Columns) -> Awaitable[Ranked]:
        """A fresh list for each user of the batch, ranked now; empty ones where none are published."""
        touched = np.flatnonzero(result.last >= 0) if self.context.lister.publishing else _NOBODY
        last = result.last[touched]
        names = [view.names[at] for at in touched.tolist()]
        return self.context.lister.serve(
            Wanted(
                names,
                result.rows.take(touched),
                columns.time[last],
                self.ledger.touched(names, result.attributed),
                {**view.preferring, **result.engaged},
                [columns.contexts.get(at, {}) for at in last.tolist()] if columns.contexts else [],
            )
        )

    async def _owners(self, result: Result) -> None:
        """Wait until the owner of every row that gets mail is known.

        A history that came from the store names items by hash. The name is on its way: the item's first mail
        carries it, and its owner's first record in `neighbors`.
        """
        rows = result.increments.row if result.increments is not None else np.zeros(0, dtype=np.int32)
        handed = [item for each in result.handovers for item in (*each.item.tolist(), *each.bought)]
        rows = np.concatenate([rows, np.array(handed, dtype=np.int32)])
        async with asyncio.timeout(NAMES_WITHIN_S):
            while (self.context.part_of.of(rows) < 0).any():
                await asyncio.sleep(0.02)

    def _tally(
        self, result: Result, routed: Routed, dead: Sequence[DeadLetter], records: Sequence[Record]
    ) -> Meta:
        meta, columns = self.meta, routed.columns
        ticks = columns.user.count("")
        merging, notices = len(columns.handed), int(np.count_nonzero(columns.kind == NOTICE))
        accepted = int(np.count_nonzero(result.fresh)) - merging - notices
        return msgspec.structs.replace(
            meta,
            watermark=result.watermark,
            live=meta.live if result.raised is None else self._is_live(columns, result.raised, records),
            decisions=(meta.decisions + decision_hash(result.decisions)) % 2**64,
            accepted=meta.accepted + accepted,
            repeats=meta.repeats + len(columns.time) - ticks - merging - notices - accepted,
            dead=meta.dead + len(dead),
            ticks=meta.ticks + ticks,
            forwarded=meta.forwarded + len(routed.mail),
            mail=meta.mail + int(np.count_nonzero(columns.sender >= 0)) - merging - notices,
            mail_repeats=meta.mail_repeats + routed.repeats,
            senders=routed.senders,
            uncounted=meta.uncounted + int(np.count_nonzero(result.uncounted)),
            merging=meta.merging + merging,
            preferences=meta.preferences + told(columns, result.fresh),
            notices=meta.notices + notices,
        )

    def _is_live(self, columns: Columns, event: int, records: Sequence[Record]) -> bool:
        """Whether an event was fresh when the broker got it: by the record's own time, not its `received`.

        A replayed event says it was received long ago; it must not let this year's clock fire its timers.
        """
        offset = columns.offset[event] - self.delivery.base(EVENTS.name)
        at = bisect_left(records, offset, key=lambda record: record.offset)
        age_ms = records[at].timestamp - int(columns.time[event])
        return age_ms <= self.context.settings.tick_live_s * 1000

    def _effects(
        self,
        term: int,
        n: int,
        view: View,
        result: Result,
        lists: Ranked,
        routed: Routed,
        dead: Sequence[DeadLetter],
        meta: Meta,
    ) -> Effects:
        columns = routed.columns
        touched = np.flatnonzero(result.last >= 0)
        return Effects(
            writes=[*self._writes(view, result, touched), self._put_meta(meta)],
            outputs=[
                *self._lists(version(term, n), view, result, lists, columns, touched),
                *self._carts(version(term, n), view, result, columns, touched),
                *self._points(version(term, n), view, result),
                *self._messages(result, columns),
            ],
            mail=[*self._mail(result, columns), *self._post(result, routed)],
            dead=sorted({(EVENTS.name, letter.offset) for letter in dead}),
            dead_letters=[dead_letter(EVENTS.name, self.partition, letter) for letter in dead],
        )

    def _put_meta(self, meta: Meta) -> Put:
        return Put(self.context.keys.meta(self.delivery.part), msgspec.msgpack.encode(meta))

    def _writes(self, view: View, result: Result, touched: I64) -> Iterable[Write]:
        keys, part = self.context.keys, self.delivery.part
        blobs = pack(result.rows.take(touched), self.context.items)
        for at, blob in zip(touched.tolist(), blobs, strict=True):
            name = view.names[at]
            key = keys.user(part, name)
            gone = name in result.forgotten and not result.rows.ids[at].any()
            yield Delete(key) if gone else Put(key, blob)
        for name, state in result.engaged.items():
            key, packed = keys.engagement(part, name), state.pack()
            yield Put(key, packed) if packed else Delete(key)
        for name, due in result.alarms.items():
            field_of = keys.timers(part)
            yield DeleteField(field_of, name) if due is None else PutField(field_of, name, b"%d" % due)
        for bucket, count in self.ranks.moved(result.shifts).items():
            field_of = keys.rfm(part)
            yield PutField(field_of, bucket, b"%d" % count) if count else DeleteField(field_of, bucket)
        yield from self._vectors(view, result, touched)
        yield from self.ledger.writes(result.attributed)
        yield from self.vault.writes(result)
        if (mixture := self.context.lister.unstored(part)) is not None:
            yield Put(keys.mixture(part), mixture)

    def _vectors(self, view: View, result: Result, touched: I64) -> Iterable[Write]:
        vectors = self.context.lister.vectors(result.rows.take(touched))
        for at, vector in zip(touched.tolist(), vectors, strict=True):
            key = self.context.keys.vector(self.delivery.part, view.names[at])
            if vector:
                yield Put(key, vector)
            elif view.names[at] in result.forgotten:
                yield Delete(key)

    def _lists(
        self,
        at_version: str,
        view: View,
        result: Result,
        ranked: Ranked,
        columns: Columns,
        touched: I64,
    ) -> Iterable[Output]:
        """The lists, each as a message and as a view."""
        if not self.context.lister.publishing:
            return
        context, last = self.context, result.last[touched]
        time = columns.time[last]
        names = [view.names[at] for at in touched.tolist()]
        ids = [
            f"{self.partition}-{offset}-{index}-recs-0"
            for offset, index in zip(columns.offset[last].tolist(), columns.index[last].tolist(), strict=True)
        ]
        arms = context.counting.attribution.arms
        of_arms = arms.of_users(names) if arms.experiment else None
        values = views.recs_views(at_version, ids, time, names, ranked, context.items, of_arms)
        for name, value, newest in zip(names, values, time.tolist(), strict=True):
            gone = name in result.forgotten
            yield Output(
                RECOMMENDATIONS.name,
                name.encode(),
                views.tombstone(at_version, newest, name) if gone else value,
                view=context.keys.recs(name),
                expires_s=86_400 if gone else 0,
            )
            if gone and EXTERNAL in context.settings.components:
                yield Output(MODEL_SCORES.name, name.encode(), b"", tombstone=True)

    def _carts(
        self, at_version: str, view: View, result: Result, columns: Columns, touched: I64
    ) -> Iterable[Output]:
        """What goes with the carts that changed: views alone. An emptied cart has none."""
        context = self.context
        changed = [at for at in touched.tolist() if _cart_changed(view, result, view.names[at])]
        if not context.lister.publishing or not changed:
            return
        names = [view.names[at] for at in changed]
        carts = [context.items.ids(_newest_first(result.engaged[name])).tolist() for name in names]
        last = result.last[changed]
        ids = [
            f"{self.partition}-{offset}-{index}-cart-0"
            for offset, index in zip(columns.offset[last].tolist(), columns.index[last].tolist(), strict=True)
        ]
        ranked = context.lister.carts(carts)
        values = views.cart_views(at_version, ids, columns.time[last], names, ranked, context.items)
        for name, value, cart, time in zip(names, values, carts, columns.time[last].tolist(), strict=True):
            told = value if cart else views.tombstone(at_version, time, name)
            yield Output("", None, told, view=context.keys.cart(name), expires_s=0 if cart else 86_400)

    def _points(self, at_version: str, view: View, result: Result) -> Iterable[Output]:
        """Points that changed: views alone."""
        program = self.context.engine.program
        if program is None or not self.context.lister.publishing:
            return
        for name, state in result.engaged.items():
            old = view.engaged[name].loyalty if name in view.engaged else NO_POINTS
            if state.loyalty != old:
                gone = state.loyalty == NO_POINTS
                value = views.loyalty_view(at_version, name, program, state.loyalty)
                key = self.context.keys.loyalty(name)
                yield Output("", None, value, view=key, expires_s=86_400 if gone else 0)

    def _messages(self, result: Result, columns: Columns) -> Iterable[Output]:
        running: dict[tuple[int, str], int] = {}
        for topic, said in ((ENGAGEMENTS, result.messages), (DECISIONS, result.decisions)):
            for one in said:
                n = running[one.at, one.kind] = running.get((one.at, one.kind), -1) + 1
                offset, index = int(columns.offset[one.at]), int(columns.index[one.at])
                identity = message_id(self.partition, offset, index, one.kind, n)
                yield Output(topic.name, one.user.encode(), one.json(identity))

    def _mail(self, result: Result, columns: Columns) -> list[tuple[int, Output]]:
        return [*self._increments(result), *self._interests(result, columns)]

    def _increments(self, result: Result) -> list[tuple[int, Output]]:
        entries = result.increments
        if entries is None:
            return []
        # A stable sort of 16 bits is linear, so that each entry is moved once, whatever the partitions.
        target = self.context.part_of.of(entries.row).astype(np.uint16)
        order = np.argsort(target, kind="stable")
        entries, target = entries.take(order), target[order]
        first = starts(target)
        bounds = pairwise([*first.tolist(), len(target)])
        return [
            (to, Output(INCREMENTS.name, None, message))
            for to, (low, high) in zip(target[first].tolist(), bounds, strict=True)
            for message in self._packer.pack(entries.take(slice(low, high)))
        ]

    def _interests(self, result: Result, columns: Columns) -> Iterable[tuple[int, Output]]:
        """Who is interested in items, to their partitions; in the order of the events."""
        found: dict[int, list[Interest]] = {}
        for one in result.interests:
            source = position_of(int(columns.offset[one.source]), int(columns.index[one.source]))
            target = partition_of(one.item, self.context.settings.partitions)
            found.setdefault(target, []).append(msgspec.structs.replace(one, source=source))
        for target, interests in found.items():
            for message in pack_interests(self.partition, interests):
                yield target, Output(INCREMENTS.name, None, message)

    def _post(self, result: Result, routed: Routed) -> list[tuple[int, Output]]:
        """Mail to other partitions of `events`, or to this one, by where its event stood."""
        columns = routed.columns
        made = [*routed.mail, *self._merge.mail(result, columns), *self._poster.mail(result.notices, columns)]
        return [(target, output) for _, target, output in sorted(made, key=lambda posted: posted.place)]

    def _keep(self, view: View, result: Result, meta: Meta) -> None:
        """Results enter the cache only after the transaction."""
        slots = self.table.slots(view.names)
        self.table.put(slots, result.rows)
        self.engaged.update(result.engaged)
        for name, due in result.alarms.items():
            self.alarms.set(name, due)
        self.ranks.move(result.shifts)
        self.vault.keep(result, self.context.settings.cached_users)
        self.meta = meta
        self.ledger.keep(result.attributed, self.context.settings.cached_users)
        self.table.trim(self.context.settings.cached_users, slots)
        if len(self.engaged) > self.context.settings.cached_users:
            self.engaged.clear()

    async def pulse(self, busy: bool) -> bool:
        """Batch 5 needs no wait here; a timer that is due in silence gets its tick."""
        tick = None if busy else self._tick(self.ports.now_ms())
        if tick is not None and await self._read_to_end():
            await self.ports.sender.publish(self.partition, [tick])
        term = self.delivery.head.epoch.term
        await self.ledger.publish(self.ports, self.context.follower, term)
        await self.segments.publish(self.ports, self.context.follower, term)
        return True

    async def _read_to_end(self) -> bool:
        _, end = await self.ports.log.bounds(EVENTS.name, self.partition)
        position = self.delivery.position(EVENTS.name)
        # Behind the last record there may be transaction markers: then nothing can be read.
        return (
            position >= end or await self.ports.log.read(EVENTS.name, self.partition, position, 0.3) is None
        )

    def _tick(self, now_ms: int) -> Output | None:
        """The tick that lets a silent partition's timer fire: only while its newest event was live."""
        due = self.alarms.earliest()
        reach = now_ms - self.context.counting.lateness_ms
        if due is None or due >= reach or not self.meta.live or now_ms < self._tick_after:
            return None
        self._tick_after = now_ms + TICK_EVERY_MS
        return Output(EVENTS.name, None, tick_event(self.context.signing_key, self.partition, now_ms))
