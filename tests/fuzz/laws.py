"""The laws that hold for every batch of messages, whatever they hold. Each raises AssertionError."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import numpy as np

from stream.codec import Columns, DeadLetter, check, decode, decode_catalog
from stream.core import views
from stream.core.engaged import UserState
from stream.core.engagement import Engine
from stream.core.items import Items
from stream.core.messages import message_id
from stream.core.neighborhood import Neighborhood
from stream.core.recommend.alike import Kin
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.query import Query
from stream.core.rfm import Ranks
from stream.core.rows import Rows
from stream.core.segments import Segments
from stream.core.slate.facts import context_of
from stream.core.step import Counting, Result, View, step
from stream.core.trending import Popularity
from stream.core.users import Bounds, UserTable, bought, pack, unpack
from stream.core.weights import Decay
from stream.events import TICK
from stream.letters import dead_letter
from stream.mail import BACKWARD, HIT, Packer
from stream.mail import unpack as unpack_mail
from stream.signing import verifier
from stream.times import END_MS, FIRST_MS
from tests.fuzz import elements
from tests.fuzz.messages import KEY, LIMITS, PARTITION, SETTINGS, Message, bundles

COUNTING, ENGINE = Counting.of(SETTINGS), Engine.of(SETTINGS)
VERIFY = verifier(KEY, PARTITION)
_SEGMENT = re.compile(r"\w+=[A-Za-z0-9_.~!'()*%-]+(,\w+=[A-Za-z0-9_.~!'()*%-]+)*")
RECOMMENDER, DECAY = Recommender(SETTINGS.components), Decay(int(SETTINGS.interest_half_life_s * 1000))
NOT_BEFORE_RECEIPT = {"future", "unsigned"}
"""Reasons that a check before sending cannot know of."""


@dataclass
class Tally:
    """What the laws saw: ``sent`` elements are ``accepted`` or ``dead``."""

    sent: int = 0
    accepted: int = 0
    dead: int = 0
    catalog: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Sum up."""
        self.sent, self.accepted = self.sent + other.sent, self.accepted + other.accepted
        self.dead, self.catalog = self.dead + other.dead, self.catalog + other.catalog
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


def events(messages: Sequence[Message], seed: str) -> Tally:
    """All laws of a batch of `events`."""
    rng = Random(seed)
    pieces = list(bundles(rng, messages))
    found = [decode(piece, Items(), LIMITS, VERIFY) for piece in pieces]
    items = Items()
    columns, dead = decode(messages, items, LIMITS, VERIFY)
    _in_context(columns, items)
    tally = _accounted(messages, columns, dead)
    _in_range(columns, messages)
    _the_same(columns, dead, found)
    _checked(messages, dead)
    _stepped(messages, pieces)
    return tally


def _accounted(messages: Sequence[Message], columns: Columns, dead: Sequence[DeadLetter]) -> Tally:
    """Each element is accepted or a dead letter, once, in order, and a dead letter has its bytes."""
    sent = elements.sent(messages, LIMITS)
    whole = {offset for offset, index in sent if index < 0}
    accepted = [
        (offset, -1 if offset in whole else index)
        for offset, index in zip(columns.offset.tolist(), columns.index.tolist(), strict=True)
    ]
    refused = [(letter.offset, -1 if letter.index is None else letter.index) for letter in dead]
    assert accepted == sorted(accepted) and refused == sorted(refused), "not in the log's order"
    assert sorted([*accepted, *refused]) == sorted(sent), "not each element once"
    for place, letter in zip(refused, dead, strict=True):
        assert letter.value == sent[place], f"{place}: the bytes of a dead letter are not those sent"
        assert msgspec.json.decode(dict(dead_letter("events", 0, letter).headers)["reason"])
    tally = Tally(len(sent), len(accepted), len(refused))
    for letter in dead:
        tally.reasons[letter.reason.code] = tally.reasons.get(letter.reason.code, 0) + 1
    return tally


def _in_range(columns: Columns, messages: Sequence[Message]) -> None:
    """What is accepted has a user, a time, items that exist."""
    stamps = {message.offset: message.timestamp for message in messages}
    received = columns.received
    assert all(user or kind == TICK for user, kind in zip(columns.user, columns.kind.tolist(), strict=True))
    assert ((columns.time >= FIRST_MS) & (columns.time < END_MS)).all(), "a time out of range"
    late = columns.time - LIMITS.future_tolerance_ms
    assert (late <= received).all(), "an event of the future"
    assert (received <= [stamps[offset] for offset in columns.offset.tolist()]).all(), (
        "received later than sent"
    )
    assert (np.diff(columns.event) >= 0).all() and (columns.units >= 0).all()
    assert set(np.unique(columns.event).tolist()) <= set(range(len(columns.time)))
    for each in fields(columns):
        value = getattr(columns, each.name)
        if each.name not in ("event", "item", "details", "lists", "handed", "contexts"):
            assert len(value) == len(columns.time), each.name


def _the_same(
    columns: Columns, dead: Sequence[DeadLetter], found: Sequence[tuple[Columns, Sequence[DeadLetter]]]
) -> None:
    """Decoding in any bundles gives the same."""
    assert list(dead) == [letter for _, letters in found for letter in letters], "other dead letters"
    for name in ("offset", "index", "time", "received", "kind", "units", "id"):
        joined = np.concatenate([getattr(part, name) for part, _ in found])
        assert (joined == getattr(columns, name)).all(), f"another {name}"
    assert [user for part, _ in found for user in part.user] == columns.user, "other users"
    sizes = [len(part.time) for part, _ in found]
    starts = np.cumsum([0, *sizes]).tolist()
    event = np.concatenate([part.event + start for (part, _), start in zip(found, starts, strict=False)])
    assert (event == columns.event).all(), "other interactions"
    for name in ("details", "contexts"):
        said = {
            at + start: seen
            for (part, _), start in zip(found, starts, strict=False)
            for at, seen in getattr(part, name).items()
        }
        assert said == getattr(columns, name), f"other {name}"


def _in_context(columns: Columns, items: Items) -> None:
    """Whatever a context says, its events count in segments whose names can stand in keys."""
    event = columns.event
    segments = Segments(items, ["device+place", "device", "hour"], 86_400.0)
    segments.add(columns.contexts, event, columns.item, columns.time[event], columns.units[event])
    assert all(0 <= total < np.inf for total in segments.heaviest().values()), "a count that is no number"
    assert all(_SEGMENT.fullmatch(name) for name in segments.names), "a segment that cannot stand in a key"
    told = [columns.contexts.get(at, {}) for at in range(len(columns.time))]
    assert all(hashes.dtype == np.uint64 for hashes in context_of(told).values())


def _checked(messages: Sequence[Message], dead: Sequence[DeadLetter]) -> None:
    """A producer's own check refuses what the worker refuses, but for what depends on the receipt."""
    refused = Counter(letter.offset for letter in dead)
    surely = Counter(letter.offset for letter in dead if letter.reason.code not in NOT_BEFORE_RECEIPT)
    for message in messages:
        found = check(message.value or b"", LIMITS)
        known = sum(one.code not in NOT_BEFORE_RECEIPT for one in found)
        assert surely[message.offset] <= known <= refused[message.offset], f"check says {found}"


# The step


@dataclass
class Partition:
    """A partition's state in memory, fed bundle by bundle as `Shopper` does it."""

    items: Items = field(default_factory=Items)
    table: UserTable = field(
        default_factory=lambda: UserTable(
            Bounds(SETTINGS.history, SETTINGS.interest_items, SETTINGS.dedupe_ids)
        )
    )
    engaged: dict[str, UserState] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    watermark: int = 0
    said: list[bytes] = field(default_factory=list)
    mail: list[bytes] = field(default_factory=list)

    def take(self, messages: Sequence[Message]) -> None:
        """One batch: decode, step, and everything that leaves packed."""
        columns, _ = decode(messages, self.items, LIMITS, VERIFY)
        names = [name for name in dict.fromkeys(columns.user) if name]
        at = {name: row for row, name in enumerate(names)}
        user = np.array([at.get(name, -1) for name in columns.user], dtype=np.int64)
        slots = self.table.slots(names)
        self.table.load(
            unknown := [names[i] for i in np.flatnonzero(slots < 0).tolist()],
            [None] * len(unknown),
            self.items,
        )
        rows = self.table.take(self.table.slots(names))
        hashes = self.items.hashes
        view = View(names, rows, self.engaged, self.watermark, hashes, ranks=self.ranks)
        result = step(COUNTING, ENGINE, view, columns, user)
        self._say(columns, view, result)
        self.table.put(self.table.slots(names), result.rows)
        self.ranks.move(result.shifts)
        self.engaged = {
            n: UserState.unpack(s.pack()) for n, s in (self.engaged | result.engaged).items() if s.pack()
        }
        assert result.watermark >= self.watermark, "time went back"
        self.watermark = result.watermark

    def _say(self, columns: Columns, view: View, result: Result) -> None:
        for kind, said in (("nudge", result.messages), ("decision", result.decisions)):
            for one in said:
                offset, index = int(columns.offset[one.at]), int(columns.index[one.at])
                self.said.append(_parsed(one.json(message_id(PARTITION, offset, index, kind, 0))))
        if result.increments is not None:
            self.mail += Packer(self.items, PARTITION).pack(result.increments)

    def users(self) -> dict[str, bytes]:
        """Every user's stored bytes."""
        names = list(self.table._slots)
        rows = self.table.take(self.table.slots(names))
        blobs = pack(rows, self.items)
        again = pack(unpack(blobs, self.items, rows.bounds), self.items)
        assert again == blobs, "users do not survive the store"
        return dict(zip(names, blobs, strict=True))


def _parsed(value: bytes) -> bytes:
    msgspec.json.decode(value)
    return value


def _stepped(messages: Sequence[Message], pieces: Sequence[Sequence[Message]]) -> None:
    """The step takes it all; cutting batches otherwise changes nothing; all that leaves can be read."""
    one, many = Partition(), Partition()
    one.take(messages)
    for piece in pieces:
        many.take(piece)
    assert one.users() == many.users(), "other users by other batches"
    assert one.engaged == many.engaged and one.watermark == many.watermark, "another engagement state"
    assert sorted(one.said) == sorted(many.said), "other decisions"
    there = Ranks()
    there.move((None, state.rfm.values()) for state in one.engaged.values())
    assert one.ranks == many.ranks == there, "customers counted that are none, or not counted"
    assert _folded(one.mail) == _folded(many.mail), "other rows"
    _listed(one)


def _folded(mail: Iterable[bytes]) -> dict[str, bytes]:
    """The rows of an item partition that gets all the mail."""
    items = Items()
    rows, popularity = Rows(items, SETTINGS.row_pairs, SETTINGS.neighbors), Popularity(items)
    opened = [unpack_mail(message, items) for message in mail]
    assert {sender for sender, _ in opened} <= {PARTITION}
    for _, entries in opened:
        assert all(low <= high for low, high in pairwise(entries.source.tolist())), "segments out of order"
        hits = entries.kind == HIT
        popularity.add(entries.row[hits], entries.time[hits], entries.weight[hits])
        pairs = entries.take(~hits)
        if len(pairs.row):
            rows.fold(pairs.row, pairs.col, pairs.period, pairs.weight, pairs.kind == BACKWARD, pairs.time)
    ids = np.arange(len(items), dtype=np.int32)
    ids = ids[~np.isin(ids, rows.missing(ids))]
    blobs = [row + section for row, section in zip(rows.pack(ids), popularity.pack(ids), strict=True)]
    return dict(zip([items.name(at) for at in ids.tolist()], blobs, strict=True)) if not rows.evicted else {}


def _listed(partition: Partition) -> None:
    """Every user's list is JSON and names him."""
    hood = Neighborhood.of(partition.items, SETTINGS)
    names = list(partition.table._slots)
    rows = partition.table.take(partition.table.slots(names))
    fill = np.arange(min(len(partition.items), 20), dtype=np.int32)
    query = Query.of(rows, rows.newest, DECAY, SETTINGS.profile_items)
    barred = bought(rows, 0)
    ranked = RECOMMENDER.rank(Sources(hood, fill, Kin()), query, barred, 20)
    assert np.isfinite(ranked.scores).all(), "a score that is no number"
    made = views.recs_views("1-1", names, rows.newest, names, ranked, partition.items)
    for name, value in zip(names, made, strict=True):
        assert msgspec.json.decode(value)["user"] == name


# The catalogue


def catalog(messages: Sequence[Message], seed: str) -> Tally:
    """All laws of a batch of `catalog`."""
    listed, dead = decode_catalog(messages, LIMITS, VERIFY)
    sent = elements.sent(messages, LIMITS)
    whole = {offset for offset, index in sent if index < 0}
    accepted = [(one.offset, -1 if one.offset in whole else one.index) for one in listed]
    refused = [(letter.offset, -1 if letter.index is None else letter.index) for letter in dead]
    assert sorted([*accepted, *refused]) == sorted(sent), "not each element once"
    for place, letter in zip(refused, dead, strict=True):
        assert letter.value == sent[place], f"{place}: the bytes of a dead letter are not those sent"
    for one in listed:
        assert one.item and one.time_ms <= one.received + LIMITS.future_tolerance_ms
        assert FIRST_MS <= one.time_ms < END_MS if one.time else one.time_ms == one.received
        _kept(msgspec.structs.asdict(one))
    found = [decode_catalog(piece, LIMITS, VERIFY) for piece in bundles(Random(seed), messages)]
    assert listed == [one for part, _ in found for one in part], "other items by other bundles"
    return Tally(catalog=len(sent))


def _kept(given: dict[str, Any]) -> None:
    """What the shelf stores and shows of an item."""
    document = {name: value for name, value in given.items() if value is not None}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(document)) == document
    assert msgspec.json.decode(views.item_view("1-1", 0, document))
