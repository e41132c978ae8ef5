"""From bytes to columns: the records of a bundle, decoded and validated in one pass over the bytes.

The way of most records is fast: msgspec reads each straight into an `Event`, then columns are checked as a
whole. Whatever looks doubtful on the way is judged singly, by `_fault`, and taken apart to say what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import compress
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.items import Items
from stream.core.merge import Answer, Asked, Given, Request, event_of
from stream.core.notices import Said
from stream.core.weights import type_units
from stream.events import (
    CODE,
    ENGAGEMENT_KINDS,
    IMPRESSIONS,
    LIST_KINDS,
    MAIL_TYPE,
    MERGED,
    NOTICE,
    OTHER,
    REQUEST,
    REQUIRED,
    RESERVED,
    TICK,
    TICK_TYPE,
    CatalogItem,
    Event,
    bounded,
)
from stream.forward import FORWARD, HANDED, ITEM, MAIL, MERGE, NOTICED, Mail, is_mail, open_mail
from stream.mail import position_of, source_of
from stream.reasons import Reason, explain, reason
from stream.settings import Settings
from stream.signing import Verify, said_by_tick
from stream.times import END_MS, time_ms, time_text, times_ms

__all__ = [
    "Columns",
    "DeadLetter",
    "Limits",
    "Listed",
    "Reason",
    "Record",
    "check",
    "decode",
    "decode_catalog",
    "parts",
]

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
M = TypeVar("M", Event, CatalogItem)
V = TypeVar("V")


class Record(Protocol):
    """What is read of a Kafka record; aiokafka's `ConsumerRecord` has it. ``timestamp`` is in ms."""

    @property
    def offset(self) -> int: ...  # noqa: D102

    @property
    def timestamp(self) -> int: ...  # noqa: D102

    @property
    def key(self) -> bytes | None: ...  # noqa: D102

    @property
    def value(self) -> bytes | None: ...  # noqa: D102

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Columns:
    """What a bundle of records becomes: E events in log order, N interactions (one an item), in order."""

    offset: I64
    """[E] record offset, of mail its own."""
    index: I32
    """[E] position of the event within its message, 0 for a single event."""
    time: I64
    """[E] event time, ms since 1970 UTC."""
    received: I64
    """[E] ms: the least of the record's timestamp and its header `received`; of mail what it says."""
    kind: U8
    """[E] code of the type, `OTHER` or `TICK`."""
    units: I64
    """[E] weight of the type, in eighths."""
    user: list[str]
    """[E] `user`, else `anonymous`; empty for ticks."""
    id: U64
    """[E] blake2b-64 of source, NUL and id; 0: the event has no id."""
    event: I32
    """[N] number of the event an interaction belongs to."""
    item: I32
    """[N] local item id."""
    details: dict[int, Event]
    """Event number → the event, for types that engagement looks at."""
    sender: I32
    """[E] partition that forwarded the event as mail, −1: none did."""
    source: I64
    """[E] source position there (`source_of`), 0 without a sender."""
    lists: dict[int, Event] = field(default_factory=dict)
    """Event number → the event, for types that tell of shown lists."""
    handed: dict[int, Asked | Given] = field(default_factory=dict)
    """Event number → what partitions tell each other when an anonymous user becomes a known one."""
    contexts: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Event number → its `context`, for events that carry one."""

    def take(self, keep: Bool) -> Columns:
        """The events for which ``keep`` [E] is true, numbered anew."""
        number = np.cumsum(keep, dtype=np.int32) - 1
        held = keep[self.event]
        return Columns(
            offset=self.offset[keep],
            index=self.index[keep],
            time=self.time[keep],
            received=self.received[keep],
            kind=self.kind[keep],
            units=self.units[keep],
            user=list(compress(self.user, keep)),
            id=self.id[keep],
            event=number[self.event[held]],
            item=self.item[held],
            details={int(number[at]): event for at, event in self.details.items() if keep[at]},
            sender=self.sender[keep],
            source=self.source[keep],
            lists={int(number[at]): event for at, event in self.lists.items() if keep[at]},
            handed={int(number[at]): told for at, told in self.handed.items() if keep[at]},
            contexts={int(number[at]): told for at, told in self.contexts.items() if keep[at]},
        )

    def with_others(self, others: Columns) -> Columns:
        """These events and others that stand between them in the log, in its order."""
        first = len(self.time)
        offset, index = (np.concatenate(pair) for pair in _pairs(self, others, "offset", "index"))
        order = np.lexsort((index, offset))
        number = np.empty(len(order), dtype=np.int32)
        number[order] = np.arange(len(order))
        rest = ("time", "received", "kind", "units", "id", "sender", "source")
        time, received, kind, units, identity, sender, source = (
            np.concatenate(pair)[order] for pair in _pairs(self, others, *rest)
        )
        user = [*self.user, *others.user]
        event = number[np.concatenate([self.event, others.event + first])]
        # Stable: the items of an event keep their order.
        by_event = np.argsort(event, kind="stable")
        return Columns(
            offset=offset[order],
            index=index[order],
            time=time,
            received=received,
            kind=kind,
            units=units,
            user=[user[at] for at in order.tolist()],
            id=identity,
            event=event[by_event],
            item=np.concatenate([self.item, others.item])[by_event],
            details=_numbered(number, first, self.details, others.details),
            sender=sender,
            source=source,
            lists=_numbered(number, first, self.lists, others.lists),
            handed=_numbered(number, first, self.handed, others.handed),
            contexts=_numbered(number, first, self.contexts, others.contexts),
        )


def _pairs(one: Columns, other: Columns, *names: str) -> Iterator[tuple[Any, Any]]:
    return ((getattr(one, name), getattr(other, name)) for name in names)


def _numbered(number: I32, first: int, one: dict[int, V], other: dict[int, V]) -> dict[int, V]:
    """What is said of events, by their new numbers, in order."""
    both = [*one.items(), *((at + first, value) for at, value in other.items())]
    return dict(sorted(((int(number[at]), value) for at, value in both), key=lambda said: said[0]))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be read: ``value`` is the record's bytes, or the array element's alone, untouched.

    ``index`` is the place in the array, None when the whole message is meant.
    """

    offset: int
    index: int | None
    reason: Reason
    value: bytes
    key: bytes | None
    timestamp: int


@dataclass(frozen=True, eq=False)
class Limits:
    """Bounds and weights that decoding needs.

    ``units`` [256] are the weights by kind code, ``unknown`` those of types the settings name and the
    vocabulary does not, ``acts`` [256] the kinds whose items are interactions, ``detailed`` [256] the kinds
    that engagement looks at, ``named`` the types beyond the vocabulary that it does.
    """

    max_message_bytes: int
    max_batch_events: int
    max_event_items: int
    max_id_length: int
    future_tolerance_ms: int
    units: I64
    unknown: dict[str, int]
    acts: Bool
    detailed: Bool
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """From the settings."""
        weights = {name: type_units(weight) for name, weight in settings.event_weights.items()}
        units = np.full(256, weights.get("other", 0), dtype=np.int64)
        for kind, code in CODE.items():
            units[code] = weights.get(kind, 0 if kind in IMPRESSIONS else units[OTHER])
        units[[TICK, REQUEST, MERGED, NOTICE]] = 0
        return cls(
            settings.max_message_bytes,
            settings.max_batch_events,
            settings.max_event_items,
            settings.max_id_length,
            int(settings.future_tolerance_s * 1000),
            units,
            {name: weight for name, weight in weights.items() if name not in CODE and name != "other"},
            _NAMES_ITEMS & ~(_IMPRESSION & (units == 0)),
            _detailed(ENGAGEMENT_KINDS),
        )

    def watching(self, kinds: frozenset[str]) -> Limits:
        """With more kinds that engagement looks at: those of the triggers that run. About 2 µs."""
        if kinds <= ENGAGEMENT_KINDS:
            return self
        return replace(self, detailed=_detailed(ENGAGEMENT_KINDS | kinds), named=_named(kinds))


def _flags(kinds: set[str] | frozenset[str], *codes: int) -> Bool:
    flags = np.zeros(256, dtype=np.bool_)
    flags[[*(CODE[kind] for kind in kinds), *codes]] = True
    return flags


@lru_cache
def _detailed(kinds: frozenset[str]) -> Bool:
    """Of the vocabulary's types."""
    return _flags(kinds & CODE.keys())


@lru_cache
def _named(kinds: frozenset[str]) -> frozenset[str]:
    """The types that the vocabulary does not know, without the system's own."""
    return frozenset(kind for kind in kinds - CODE.keys() if not kind.startswith(RESERVED))


_CODES = CODE | {TICK_TYPE: TICK}
_ITEMS_ONLY = {kind for kind, groups in REQUIRED.items() if groups == REQUIRED["view_item"]}
_NEEDS_ITEMS = _flags(_ITEMS_ONLY)
_JUDGED_SINGLY = _flags(REQUIRED.keys() - _ITEMS_ONLY, TICK)
_NAMES_ITEMS = _flags({kind for kind, groups in REQUIRED.items() if any("item" in g for g in groups)}, OTHER)
_IMPRESSION = _flags(IMPRESSIONS)
_OF_LISTS = _flags(LIST_KINDS)

# Reading


class _Readers(Generic[M]):
    """Decoders of one model under given bounds: ``fast`` takes a whole message, ``strict`` one element.

    Only ``strict`` looks for control characters; no message that could hold one is left to ``fast``.
    """

    def __init__(self, model: type[M], id_length: int, items: int) -> None:
        loose: Any = bounded(model, id_length, items, clean=False)
        self.fast: msgspec.json.Decoder[M | list[M]] = msgspec.json.Decoder(loose | list[loose])
        self.strict: msgspec.json.Decoder[M] = msgspec.json.Decoder(
            bounded(model, id_length, items, clean=True)
        )


@lru_cache
def _event_readers(id_length: int, items: int) -> _Readers[Event]:
    return _Readers(Event, id_length, items)


@lru_cache
def _catalog_readers(id_length: int, items: int) -> _Readers[CatalogItem]:
    return _Readers(CatalogItem, id_length, items)


_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_DEEP = "an event: nothing in it needs more than a few levels"
MAX_DEPTH = 500
"""Levels of a message. A bound of our own: msgspec's depends on the stack of whoever calls it."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _too_deep(value: bytes) -> bool:
    if len(value) < 2 * MAX_DEPTH or value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    plain = np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8)
    steps = np.isin(plain, list(b"[{")).astype(np.int8) - np.isin(plain, list(b"]}"))
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0)) > MAX_DEPTH


@dataclass(slots=True)
class _Read(Generic[M]):
    """What the messages of a bundle hold, in order: an event, its record's number, its index or −1."""

    events: list[M]
    record: list[int]
    index: list[int]
    dead: list[DeadLetter]


def _read(records: Sequence[Record], readers: _Readers[M], limits: Limits) -> _Read[M]:
    values = [record.value or b"" for record in records]
    found = _read_fast(values, readers.fast, limits)
    events: list[Any] = found
    if None in found or list in set(map(type, found)):
        return _flatten(records, found, readers.strict, limits)
    return _Read(events, list(range(len(found))), [-1] * len(found), [])


def _read_fast(
    values: Sequence[bytes], decoder: msgspec.json.Decoder[M | list[M]], limits: Limits
) -> list[M | list[M] | None]:
    """What each message holds; None for those that must be read closely."""
    doubtful = _doubtful(values, limits)
    rest = iter([b"" if at in doubtful else value for at, value in enumerate(values)] if doubtful else values)
    found: list[M | list[M] | None] = []
    while len(found) < len(values):
        try:
            # An error leaves what came before it in the list, and the iterator behind the message at fault.
            found.extend(map(decoder.decode, rest))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            found.append(None)
    return found


_CONTROL = re.compile(rb"\\(?:[bfnrt]|u00(?:[01]|7[fF]))")
"""How JSON writes control characters; only DEL may stand as it is."""


def _doubtful(values: Sequence[bytes], limits: Limits) -> set[int]:
    """Messages the fast reader could accept wrongly: too large, not UTF-8, perhaps with control characters.

    (msgspec looks at the encoding of those fields only that it keeps.)
    """
    joined = b"\n".join(values)
    most = limits.max_message_bytes
    doubtful = {at for at, value in enumerate(values) if len(value) > most or _too_deep(value)}
    if b"\\" in joined or b"\x7f" in joined:
        doubtful.update(at for at, value in enumerate(values) if b"\x7f" in value or _CONTROL.search(value))
    if not _is_utf8(joined):
        doubtful.update(at for at, value in enumerate(values) if not _is_utf8(value))
    return doubtful


def _is_utf8(value: bytes) -> bool:
    try:
        return value.isascii() or value.decode() != ""
    except UnicodeDecodeError:
        return False


def _flatten(
    records: Sequence[Record],
    found: Sequence[M | list[M] | None],
    strict: msgspec.json.Decoder[M],
    limits: Limits,
) -> _Read[M]:
    """Arrays as their elements; messages that the fast reader refused, read closely."""
    read: _Read[M] = _Read([], [], [], [])
    for at, one in enumerate(found):
        parts: Iterable[tuple[int, M | Reason, bytes]]
        if one is None or (isinstance(one, list) and len(one) > limits.max_batch_events):
            parts = _read_closely(records[at].value or b"", strict, limits)
        elif isinstance(one, list):
            parts = ((index, event, b"") for index, event in enumerate(one))
        else:
            parts = ((-1, one, b""),)
        for index, event, value in parts:
            if isinstance(event, Reason):
                read.dead.append(_letter(records[at], index, event, value))
            else:
                read.events.append(event)
                read.record.append(at)
                read.index.append(index)
    return read


def _read_closely(
    value: bytes, strict: msgspec.json.Decoder[M], limits: Limits
) -> Iterator[tuple[int, M | Reason, bytes]]:
    """A message's events, or why they are none, with their index (−1: the message itself) and bytes."""
    unreadable = _unreadable(value, limits)
    if unreadable is not None:
        yield -1, unreadable, value
    elif not value.lstrip().startswith(b"["):
        yield -1, _read_one(value, strict), value
    else:
        elements = _elements(value)
        if len(elements) > limits.max_batch_events:
            expected = f"at most {limits.max_batch_events} events in a message"
            yield -1, reason("too-many", "", value, expected), value
        else:
            yield from ((at, _read_one(raw, strict), raw) for at, raw in enumerate(elements))


def _unreadable(value: bytes, limits: Limits) -> Reason | None:
    """Why a message as a whole cannot be read."""
    try:
        if not value:
            return reason("empty", "", "", "one JSON event or a JSON array of them")
        if len(value) > limits.max_message_bytes:
            return reason("too-large", "", value, f"at most {limits.max_message_bytes} bytes")
        if _too_deep(value):
            return reason("too-deep", "", value, _DEEP)
        value.decode()
        _SYNTAX.decode(value)
    except UnicodeDecodeError as error:
        return reason("not-utf8", "", value, f"UTF-8; byte {error.start} is not")
    except RecursionError:
        return reason("too-deep", "", value, _DEEP)
    except msgspec.MsgspecError as error:
        return reason("not-json", "", value, f"one JSON event or a JSON array of them ({error})")
    return None


def _read_one(raw: bytes, strict: msgspec.json.Decoder[M]) -> M | Reason:
    try:
        return strict.decode(raw)
    except msgspec.ValidationError as error:
        return _reserved(MAIL_TYPE) if _says_mail(raw) else explain(error, raw)
    except RecursionError:
        return reason("too-deep", "", raw, _DEEP)


class _Typed(msgspec.Struct):
    type: Any = None


def _says_mail(raw: bytes) -> bool:
    """Whether this is mail where none can be: in an array, or not written by a worker."""
    try:
        return bool(msgspec.json.decode(raw, type=_Typed).type == MAIL_TYPE)
    except (msgspec.ValidationError, RecursionError):
        return False


def _elements(value: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _ELEMENTS.decode(value)]


def parts(value: bytes) -> list[bytes]:
    """The events of a readable message as they were received, without the space around them."""
    bare = value.strip()
    return _elements(bare) if bare.startswith(b"[") else [bare]


def _letter(record: Record, index: int, why: Reason, value: bytes) -> DeadLetter:
    return DeadLetter(record.offset, None if index < 0 else index, why, value, record.key, record.timestamp)


def _letters(records: Sequence[Record], read: _Read[M], faults: dict[int, Reason]) -> list[DeadLetter]:
    """All dead letters of a bundle, in order: those of its messages, and those of the events at fault."""
    if not faults:
        return read.dead
    elements: dict[int, list[bytes]] = {}
    letters = list(read.dead)
    for at, why in faults.items():
        number, index = read.record[at], read.index[at]
        value = records[number].value or b""
        if index >= 0:
            if number not in elements:
                elements[number] = _elements(value)
            value = elements[number][index]
        letters.append(_letter(records[number], index, why, value))
    return sorted(letters, key=_place)


def _place(letter: DeadLetter) -> tuple[int, int]:
    return letter.offset, -1 if letter.index is None else letter.index


def _received(records: Sequence[Record]) -> I64:
    """When each record [R] was received: by its timestamp, or by the header of replay if that is less."""
    stamps = [record.timestamp for record in records]
    for at in [at for at, record in enumerate(records) if record.headers]:
        told = next((value for name, value in records[at].headers if name == "received"), b"")
        if told.isdigit() and len(told) <= 15:
            stamps[at] = min(stamps[at], int(told))
    # A producer's clock may say anything where the topic keeps its timestamps.
    return np.clip(np.array(stamps, dtype=np.int64), 0, END_MS - 1)


# Judging


def _fault(
    event: Event, time: int | Reason, received: int | None, limits: Limits, verify: Verify
) -> Reason | None:
    """What is wrong with an event that the reader let pass, if anything."""
    if isinstance(time, Reason):
        return time
    future = None if received is None else _future(event.time, time, received, limits)
    if future is not None:
        return future
    if event.type == TICK_TYPE:
        signed = event.sig is not None and verify(said_by_tick(time), event.sig)
        return None if signed else reason("unsigned", "sig", _quoted(event.sig), "the deployment's signature")
    if event.type.startswith(RESERVED):
        return _reserved(event.type)
    lacking = event.lacks()
    return None if lacking is None else reason("missing-field", lacking[0], "", " or ".join(lacking))


def _reserved(kind: str) -> Reason:
    return reason("unsupported", "type", _quoted(kind), f"a type that does not begin with {RESERVED}")


def _future(text: str, time: int, received: int, limits: Limits) -> Reason | None:
    if time <= received + limits.future_tolerance_ms:
        return None
    expected = (
        f"at most {limits.future_tolerance_ms / 1000:g} s after {time_text(received)}, when it was received"
    )
    return reason("future", "time", _quoted(text), expected)


def _time(text: str) -> int | Reason:
    try:
        return time_ms(text)
    except ValueError as error:
        return reason("bad-time", "time", _quoted(text), str(error))


def _quoted(value: str | None) -> bytes:
    return b"" if value is None else msgspec.json.encode(value)


@dataclass(slots=True)
class _Facts:
    """What E events say, a fact a column; ``event`` and ``names`` [n] are the items named."""

    kind: U8
    user: list[str]
    event: I32
    names: list[str | None]

    @classmethod
    def of(cls, events: Sequence[Event]) -> _Facts:
        get = _CODES.get
        kind = np.frombuffer(bytes([get(event.type, OTHER) for event in events]), dtype=np.uint8)
        user = [event.user or event.anonymous or "" for event in events]
        counts = np.array([len(event.items) if event.items else 1 for event in events], dtype=np.int64)
        # An event without a list names its item, or none, in a field of the same name as a line's.
        names = [line.item for event in events for line in event.items or (event,)]
        return cls(kind, user, np.repeat(np.arange(len(events), dtype=np.int32), counts), names)


def _judge(
    events: Sequence[Event], facts: _Facts, received: I64, limits: Limits, verify: Verify
) -> tuple[I64, dict[int, Reason]]:
    """Times [E] of events, and what is wrong with those that are at fault, by number."""
    time = times_ms([event.time for event in events])
    faults: dict[int, Reason] = {}
    for at in np.flatnonzero(_suspects(events, facts, time, received, limits)).tolist():
        exact = _time(events[at].time)
        fault = _fault(events[at], exact, int(received[at]), limits, verify)
        if fault is not None:
            faults[at] = fault
        elif isinstance(exact, int):
            time[at] = exact
    return time, faults


def _suspects(events: Sequence[Event], facts: _Facts, time: I64, received: I64, limits: Limits) -> Bool:
    """Events [E] that `_fault` must judge; it finds nothing wrong with any other."""
    kind = facts.kind
    suspects: Bool = (time < 0) | (time > received + limits.future_tolerance_ms) | _JUDGED_SINGLY[kind]
    if "" in facts.user:
        suspects |= np.array([not user for user in facts.user], dtype=np.bool_)
    if None in facts.names:
        bare = facts.event[[name is None for name in facts.names]]
        suspects[bare] |= _NEEDS_ITEMS[kind[bare]]
    for at in np.flatnonzero(kind == OTHER).tolist():
        suspects[at] |= events[at].type.startswith(RESERVED)
    return suspects


# Columns


def decode(
    records: Sequence[Record], items: Items, limits: Limits, verify: Verify
) -> tuple[Columns, list[DeadLetter]]:
    """Decode and validate the records of a bundle. Never raises because of what they hold.

    ``items`` learns the names that appear in accepted events, ``verify`` tells the partition's own ticks and
    mail. One bad event of an array costs only itself. About 2 µs an event in bundles of 2,000.
    """
    if not _has_mail(records):
        return _decode(records, items, limits, verify)
    post = _Post.of(records, verify, FORWARD, MERGE, HANDED, NOTICED)
    columns, dead = _decode(post.opened, items, limits, verify)
    columns, dead = post.stamp(columns), post.letters(dead)
    return columns.with_others(_between(post.between, items, limits)) if post.between else columns, dead


def _decode(
    records: Sequence[Record], items: Items, limits: Limits, verify: Verify
) -> tuple[Columns, list[DeadLetter]]:
    read = _read(records, _event_readers(limits.max_id_length, limits.max_event_items), limits)
    received = _received(records)[np.array(read.record, dtype=np.int64)]
    facts = _Facts.of(read.events)
    time, faults = _judge(read.events, facts, received, limits, verify)
    dead = _letters(records, read, faults)
    if faults:
        good = [at not in faults for at in range(len(time))]
        read, time, received = _only(read, good), time[good], received[good]
        facts = _Facts.of(read.events)
    return _columns(records, read, facts, time, received, items, limits), dead


def _columns(
    records: Sequence[Record],
    read: _Read[Event],
    facts: _Facts,
    time: I64,
    received: I64,
    items: Items,
    limits: Limits,
) -> Columns:
    offset = np.array([record.offset for record in records], dtype=np.int64)
    event, item = _interactions(facts, items, limits)
    return Columns(
        offset=offset[np.array(read.record, dtype=np.int64)],
        index=np.maximum(np.array(read.index, dtype=np.int32), 0),
        time=time,
        received=received,
        kind=facts.kind,
        units=_units(read.events, facts.kind, limits),
        user=_users(facts),
        id=_ids(read.events),
        event=event,
        item=item,
        details={at: read.events[at] for at in _concerning(read.events, facts.kind, limits)},
        lists={at: read.events[at] for at in np.flatnonzero(_OF_LISTS[facts.kind]).tolist()},
        sender=np.full(len(time), -1, dtype=np.int32),
        source=np.zeros(len(time), dtype=np.int64),
        contexts={at: event.context for at, event in enumerate(read.events) if event.context},
    )


def _concerning(events: Sequence[Event], kind: U8, limits: Limits) -> list[int]:
    """The events that engagement looks at, by number."""
    known: list[int] = np.flatnonzero(limits.detailed[kind]).tolist()
    if not limits.named:
        return known
    other = np.flatnonzero(kind == OTHER).tolist()
    return sorted(known + [at for at in other if events[at].type in limits.named])


def _only(read: _Read[M], good: list[bool]) -> _Read[M]:
    record, index = list(compress(read.record, good)), list(compress(read.index, good))
    return _Read(list(compress(read.events, good)), record, index, read.dead)


def _users(facts: _Facts) -> list[str]:
    for at in np.flatnonzero(facts.kind == TICK).tolist():
        facts.user[at] = ""
    return facts.user


def _units(events: Sequence[Event], kind: U8, limits: Limits) -> I64:
    units = limits.units[kind]
    if limits.unknown:
        for at in np.flatnonzero(kind == OTHER).tolist():
            units[at] = limits.unknown.get(events[at].type, units[at])
    return units


_NO_ID = bytes(8)


def _ids(events: Sequence[Event]) -> U64:
    """Hashes [E] by which repeats are dropped; 0 = no id, which no hash is."""
    # A hash of zero would be taken for none: odds of 2^-64 an event, and then the event is not deduplicated.
    digests = [
        blake2b(f"{event.source or ''}\0{event.id}".encode(), digest_size=8).digest() if event.id else _NO_ID
        for event in events
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _interactions(facts: _Facts, items: Items, limits: Limits) -> tuple[I32, I32]:
    """Event numbers [N] and local item ids [N]: one for each item of an event whose type acts on items."""
    event, names = facts.event, facts.names
    acts = limits.acts[facts.kind]
    if None in names or not acts.all():
        chosen = [act and name is not None for act, name in zip(acts[event].tolist(), names, strict=True)]
        event, names = event[chosen], list(compress(names, chosen))
    return event, items.ids(cast(list[str], names))


# Mail


def _has_mail(records: Sequence[Record]) -> bool:
    """Whether there may be mail; in one look, for mostly there is none. 40 ns a record."""
    return MAIL in b"\n".join([record.value or b"" for record in records])


@dataclass(frozen=True, slots=True)
class _Opened:
    """The record of a forwarded event, as if it had come here at once."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


_BETWEEN: dict[
    str, msgspec.json.Decoder[Request] | msgspec.json.Decoder[Answer] | msgspec.json.Decoder[Said]
] = {
    MERGE: msgspec.json.Decoder(Request),
    HANDED: msgspec.json.Decoder(Answer),
    NOTICED: msgspec.json.Decoder(Said),
}


@dataclass(frozen=True, slots=True)
class _Between:
    """What partitions tell each other, and where it stood."""

    offset: int
    mail: Mail
    said: Request | Answer | Said

    @classmethod
    def of(cls, offset: int, mail: Mail) -> _Between | Reason:
        try:
            return cls(offset, mail, _BETWEEN[mail.kind].decode(mail.body))
        except msgspec.ValidationError as error:
            return explain(error, bytes(mail.body))

    @property
    def position(self) -> int:
        """Its source position."""
        return position_of(self.mail.source[1], self.mail.source[2])

    @property
    def kind(self) -> int:
        """The code of the event that it is here."""
        if isinstance(self.said, Said):
            return NOTICE
        return REQUEST if isinstance(self.said, Request) else MERGED

    @property
    def to(self) -> str:
        """Whose event it is: requests are the anonymous user's, answers the known one's."""
        if isinstance(self.said, Said):
            return self.said.to
        return self.said.anonymous if isinstance(self.said, Request) else self.said.user

    @property
    def event(self) -> Event:
        """What engagement sees."""
        return self.said.event() if isinstance(self.said, Said) else event_of(self.said)

    def told(self, items: Items, limits: Limits) -> Asked | Given | None:
        """As the step sees it, if it is about a merge."""
        said = self.said
        if isinstance(said, Said):
            return None
        if isinstance(said, Request):
            return Asked(said.user, self.position)
        names, seconds, kinds = zip(*said.history, strict=True) if said.history else ((), (), ())
        kind = np.array(kinds, dtype=np.uint8)
        item, second = items.ids(names), np.array(seconds, dtype=np.int64)
        return Given(
            said.asked,
            said.seen,
            said.newest,
            item,
            second,
            kind,
            limits.units[kind],
            said.changed,
            said.attributes,
            {items.add(name): second for name, second in said.bought},
        )


def _opened(
    offset: int, value: bytes, verify: Verify, kinds: Sequence[str]
) -> Mail | _Between | Reason | None:
    mail = open_mail(value, verify, *kinds)
    return _Between.of(offset, mail) if isinstance(mail, Mail) and mail.kind in _BETWEEN else mail


def _between(mail: Sequence[_Between], items: Items, limits: Limits) -> Columns:
    """What partitions told this one, as events without interactions."""
    none = np.zeros(len(mail), dtype=np.int64)
    told = {at: one.told(items, limits) for at, one in enumerate(mail)}
    return Columns(
        offset=np.array([one.offset for one in mail], dtype=np.int64),
        index=none.astype(np.int32),
        time=np.array([one.said.time for one in mail], dtype=np.int64),
        received=np.array([one.mail.received for one in mail], dtype=np.int64),
        kind=np.array([one.kind for one in mail], dtype=np.uint8),
        units=none,
        user=[one.to for one in mail],
        id=none.astype(np.uint64),
        event=none[:0].astype(np.int32),
        item=none[:0].astype(np.int32),
        details={at: one.event for at, one in enumerate(mail)},
        sender=np.array([one.mail.source[0] for one in mail], dtype=np.int32),
        source=np.array([one.position for one in mail], dtype=np.int64),
        handed={at: each for at, each in told.items() if each is not None},
    )


@dataclass(frozen=True, slots=True)
class _Post:
    """A bundle with mail: its records by offset, all that can be read on with mail opened, and the rest."""

    records: dict[int, Record]
    opened: list[Record]
    mail: dict[int, Mail]
    refused: list[DeadLetter]
    between: list[_Between] = field(default_factory=list)

    @classmethod
    def of(cls, records: Sequence[Record], verify: Verify, *kinds: str) -> _Post:
        post = cls({record.offset: record for record in records}, [], {}, [])
        for record in records:
            value = record.value or b""
            mail = _opened(record.offset, value, verify, kinds) if is_mail(value) else None
            if isinstance(mail, _Between):
                post.between.append(mail)
            elif isinstance(mail, Reason):
                post.refused.append(_letter(record, -1, mail, value))
            elif mail is None:
                post.opened.append(record)
            else:
                post.mail[record.offset] = mail
                post.opened.append(_Opened(record.offset, mail.received, record.key, bytes(mail.body)))
        return post

    def stamp(self, columns: Columns) -> Columns:
        """With the senders and source positions of what came as mail."""
        came = [
            (at, self.mail[offset])
            for at, offset in enumerate(columns.offset.tolist())
            if offset in self.mail
        ]
        events = [at for at, _ in came]
        sender, source = columns.sender, columns.source
        sender[events] = [mail.source[0] for _, mail in came]
        places = np.array([mail.source[1:] for _, mail in came], dtype=np.int64).reshape(-1, 2)
        source[events] = source_of(places[:, 0], places[:, 1])
        return columns

    def of_sender(self, item: Listed) -> Listed:
        """With sender and source position if it came as mail."""
        if (mail := self.mail.get(item.offset)) is None:
            return item
        sender, offset, index = mail.source
        return msgspec.structs.replace(item, sender=sender, source=position_of(offset, index))

    def letters(self, dead: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Dead letters in order; of mail the whole message, as it stands in the log."""
        found = [self._whole(letter) if letter.offset in self.mail else letter for letter in dead]
        return sorted([*found, *self.refused], key=_place)

    def _whole(self, letter: DeadLetter) -> DeadLetter:
        record = self.records[letter.offset]
        return replace(letter, value=record.value or b"", timestamp=record.timestamp)


# The catalogue


class Listed(CatalogItem, frozen=True, kw_only=True):
    """A catalogue event as it was received: where it stood, and its time in ms (by default the receipt's).

    ``sender`` is the partition that forwarded it as mail (−1: none did), ``source`` its source position.
    """

    offset: int
    index: int
    received: int
    time_ms: int
    sender: int = -1
    source: int = 0


def decode_catalog(
    records: Sequence[Record], limits: Limits, verify: Verify
) -> tuple[list[Listed], list[DeadLetter]]:
    """Decode and validate the records of `catalog`, in order. Never raises because of what they hold."""
    if not _has_mail(records):
        return _decode_catalog(records, limits)
    post = _Post.of(records, verify, ITEM)
    listed, dead = _decode_catalog(post.opened, limits)
    return [post.of_sender(item) for item in listed], post.letters(dead)


def _decode_catalog(records: Sequence[Record], limits: Limits) -> tuple[list[Listed], list[DeadLetter]]:
    read = _read(records, _catalog_readers(limits.max_id_length, limits.max_event_items), limits)
    received = _received(records)
    listed: list[Listed] = []
    faults: dict[int, Reason] = {}
    for at, item in enumerate(read.events):
        seen = int(received[read.record[at]])
        time = seen if item.time is None else _time(item.time)
        fault = _catalog_fault(item, time, seen, limits)
        if fault is None and isinstance(time, int):
            listed.append(
                Listed(
                    offset=records[read.record[at]].offset,
                    index=max(read.index[at], 0),
                    received=seen,
                    time_ms=time,
                    **msgspec.structs.asdict(item),
                )
            )
        elif fault is not None:
            faults[at] = fault
    return listed, _letters(records, read, faults)


def _catalog_fault(item: CatalogItem, time: int | Reason, received: int, limits: Limits) -> Reason | None:
    if isinstance(time, Reason):
        return time
    return _future(item.time or "", time, received, limits)


# Without a broker


def check(data: bytes, limits: Limits) -> list[Reason]:
    """What is wrong with a message before it is sent: all but what depends on when it is received.

    A fault in an array's element has the element's index before its field. About 5 µs an event.
    """
    if is_mail(data):
        return [_reserved(MAIL_TYPE)]
    strict = _event_readers(limits.max_id_length, limits.max_event_items).strict
    found = ((at, _judged(event, limits)) for at, event, _ in _read_closely(data, strict, limits))
    return [_in_element(at, why) for at, why in found if why is not None]


def _judged(event: Event | Reason, limits: Limits) -> Reason | None:
    if isinstance(event, Reason):
        return event
    return _fault(event, _time(event.time), None, limits, lambda time, sig: False)


def _in_element(at: int, why: Reason) -> Reason:
    if at < 0:
        return why
    field = f"[{at}].{why.field}".rstrip(".")
    return msgspec.structs.replace(why, field=field, message=f"[{at}] {why.message}")
