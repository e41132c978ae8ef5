"""What lists bring about: impressions, clicks, conversions and revenue, attributed to the lists shown. Pure.

Of each user the newest lists that were shown are kept, and older ones that he clicked, as
`recommendation_shown` told them. The rules:

* An **impression** is an item in a list, once for each list: the same list told again adds only the items it
  did not have. Of a list the first 64 items count.
* A **click** (`recommendation_clicked`) belongs to the list it names, else to the newest list that shows the
  item, within the window; once for each impression. A click that fits no impression is a *stray*.
* A **conversion** is a line of a purchase whose item was clicked within the window before it (by the newest
  click), else was in a list shown within the window before it (by the newest list): the last touch. Each
  line once; what names an order that had the item already is the same purchase told twice.
* **Revenue** is the line's price times quantity, in cents. Lines without a price share what the order's
  `value` leaves. A **refund** takes back, at most, what was attributed, of the same order (without one, of
  the newest purchase of the item).

What is counted is counted at the event's own time, by the order of the log: what arrives after a purchase
changes nothing about it. Sums are integers, so they add up exactly in any order. All state is of one user, so
that cutting batches changes nothing; its bounds are `LISTS`, `LIST_ITEMS`, `BOUGHT` and `SEEN`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.arms import Arms
from stream.core.items import item_hash

if TYPE_CHECKING:
    from stream.events import Event, Line
    from stream.settings import Settings

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]

LISTS = 8
"""Lists kept a user: the newest half of them, and before those rather lists that were clicked."""
LIST_ITEMS = 64
"""Items of a list that count."""
BOUGHT = 32
"""Attributed lines kept a user, for refunds and purchases told twice: taken back or not."""
SEEN = 64
"""Items kept a user of which it is known how often they were shown."""
DAYS = 32
"""Days of which counts are kept, up to the newest."""

STRATEGIES = (
    "unknown",
    "other",
    "item-item",
    "trending",
    "popular",
    "basket",
    "cart",
    "return",
    "repeat",
    "user-user",
    "content",
    "factors",
    "autoencoder",
    "season",
    "context",
    "model",
    "new",
    "pinned",
    "mixture",
)
"""Strategies by code. States in the store hold codes: append, never reorder. `unknown`: none was told."""

ITEMS, SHOWN, USERS = "items", "lists", "users"
COLUMNS = {
    ITEMS: (
        "impressions",
        "clicks",
        "clicked",
        "viewed",
        "clicked_revenue",
        "viewed_revenue",
        "refunded",
    ),
    SHOWN: ("lists", "strays"),
    USERS: ("users", "clickers", "buyers"),
}
"""What is counted: of items by strategy, of lists, and of users by experiment, each user once.

`clicked` and `viewed` are conversions by their touch; `buyers` are users with a conversion; revenue in cents.
"""

_FORMAT = 1
_DAY_MS = 86_400_000
_MOST = 1 << 62
_MOST_CENTS = 10**12
_CODES = {name: code for code, name in enumerate(STRATEGIES)}
_OTHER = _CODES["other"]
_SEEN = np.dtype([("item", "<u8"), ("last", "<u4"), ("shown", "<u2"), ("clicked", "u1"), ("place", "u1")])
_ENTRY = Struct("<QIHBB")
_CLICKED, _BOUGHT = 1, 2
_Entry = tuple[int, int, int, int, int]
"""An item that was shown: hash, second, lists, clicks, place."""

# Counts


class Key(NamedTuple):
    """What a row of counts is of: day since 1970 (0: of all time), table, arm, and strategy or experiment."""

    day: int
    table: str
    arm: str
    label: str


Counts = dict[Key, list[int]]
"""Rows by key, each with the columns of its table."""


def count(counts: Counts, key: Key, column: str, n: int = 1) -> None:
    """Add to one cell."""
    columns = COLUMNS[key.table]
    row = counts.setdefault(key, [0] * len(columns))
    at = columns.index(column)
    row[at] = min(row[at] + n, _MOST)


Days = dict[int, Counts]
"""Counts by day."""


def by_day(counts: Mapping[Key, Sequence[int]]) -> Days:
    """Rows by their day."""
    days: Days = {}
    for key, row in counts.items():
        days.setdefault(key.day, {})[key] = list(row)
    return days


def flat(days: Mapping[int, Counts]) -> Counts:
    """The inverse of `by_day`; the rows are shared."""
    return {key: row for rows in days.values() for key, row in rows.items()}


def grown(days: Mapping[int, Counts], more: Mapping[Key, Sequence[int]]) -> Days:
    """Both, as a new object, without the days that have left the window. In any order the same.

    Days of which ``more`` says nothing are shared: what it costs depends on ``more`` and its days alone.
    """
    told = by_day(more)
    oldest = max([*days, *told], default=0) - DAYS
    new = {day: rows for day, rows in days.items() if not day or day > oldest}
    return new | {day: _summed(new.get(day, {}), told[day]) for day in told if not day or day > oldest}


def _summed(rows: Counts, more: Counts) -> Counts:
    new = dict(rows)
    for key, row in more.items():
        old = new.get(key)
        new[key] = row if old is None else [min(a + b, _MOST) for a, b in zip(old, row, strict=True)]
    return new


def pack_day(counts: Mapping[Key, Sequence[int]]) -> bytes:
    """The rows of a day for the store: equal rows give equal bytes."""
    rows = [(*key[1:], row) for key, row in sorted(counts.items())]
    return msgspec.msgpack.encode(rows)


def unpack_day(day: int, data: bytes) -> Counts:
    """The inverse of `pack_day`. Raises ValueError on other bytes."""
    found = msgspec.msgpack.decode(data, type=list[tuple[str, str, str, list[int]]])
    if any(len(row) != len(COLUMNS.get(table, ())) for table, _, _, row in found):
        raise ValueError(
            "rows of counts are not as wide as their tables: upgrade Tidewise or use another prefix"
        )
    return {Key(day, table, arm, label): row for table, arm, label, row in found}


# A user's state


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """A list that was shown: hash of its id, newest time it was shown, arm, items by hash in their order, a
    strategy's code each, and by place the time of the newest click."""

    id: int
    time: int
    arm: str
    items: tuple[int, ...] = ()
    strategies: bytes = b""
    clicks: dict[int, int] = {}


class Bought(msgspec.Struct, frozen=True, array_like=True):
    """An attributed line: hash of the order (0: none), item, pieces and cents not yet refunded, and whose."""

    order: int
    item: int
    quantity: int
    cents: int
    arm: str
    strategy: int


class Touches(msgspec.Struct, array_like=True):
    """What attribution knows of a user: lists and attributed lines, the newest last, and what was shown.

    ``arm`` is the user's in ``experiment``, whose users count him; ``done``: 1 he clicked, 2 he bought.
    ``seen`` are entries of 16 bytes, the item shown last standing last (`impressions`).
    """

    format: int = _FORMAT
    experiment: str | None = None
    arm: str = ""
    done: int = 0
    lists: tuple[Shown, ...] = ()
    bought: tuple[Bought, ...] = ()
    seen: bytes = b""

    @classmethod
    def unpack(cls, data: bytes | None) -> Touches:
        """From the store; None is an empty state. Raises ValueError on another format."""
        if not data:
            return cls()
        try:
            state = _decoder.decode(data)
        except msgspec.ValidationError:
            state = None
        if state is None or state.format != _FORMAT or len(state.seen) % _SEEN.itemsize:
            raise ValueError(f"touches are not of format {_FORMAT}: upgrade Tidewise or use another prefix")
        return state

    def pack(self) -> bytes:
        """For the store: equal states give equal bytes; an empty state gives none."""
        return b"" if self == NOTHING else _encoder.encode(self)


NOTHING = Touches()
_decoder = msgspec.msgpack.Decoder(Touches)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Impressions:
    """What users were shown, an entry an item and user, [n] each: ``row`` the user, ``item`` the hash.

    ``last`` is when it was last in a list, in whole seconds since 1970, and ``place`` at which place of it,
    from 0; ``shown`` in how many lists it was, ``clicked`` in how many of them it was clicked.
    """

    row: I64
    item: U64
    last: I64
    shown: U16
    clicked: U8
    place: U8


def impressions(states: Sequence[Touches]) -> Impressions:
    """Those of U users, the ones shown last standing last. ~0.3 µs a user."""
    found = np.frombuffer(b"".join([state.seen for state in states]), dtype=_SEEN)
    lengths = np.array([len(state.seen) for state in states], dtype=np.int64) // _SEEN.itemsize
    return Impressions(
        np.repeat(np.arange(len(states)), lengths),
        found["item"],
        found["last"].astype(np.int64),
        found["shown"],
        found["clicked"],
        found["place"],
    )


# Attribution


class Told(NamedTuple):
    """An event as attribution sees it: its number in the batch, its time in ms, and its fields."""

    at: int
    time: int
    event: Event


class Click(NamedTuple):
    """A click to learn from: the event's number, the list's items by hash in their order, the place clicked.

    Whoever clicks at a place has most likely looked at those before it (Joachims, KDD 2002).
    """

    at: int
    items: tuple[int, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks as arrays: ``event`` [C] numbers in the batch, ``items`` [C, w] hashes of the lists (the first
    ``length`` [C] of them), ``place`` [C] the one clicked."""

    event: I64
    items: U64
    length: I64
    place: I64

    @classmethod
    def of(cls, clicks: Sequence[Click]) -> Clicks:
        """~1 µs a click."""
        length = np.array([len(click.items) for click in clicks], dtype=np.int64)
        items = np.zeros((len(clicks), int(length.max(initial=0))), dtype=np.uint64)
        hashes = np.fromiter(chain.from_iterable(click.items for click in clicks), np.uint64, length.sum())
        items[np.arange(items.shape[1]) < length[:, None]] = hashes
        event = np.array([click.at for click in clicks], dtype=np.int64)
        return cls(event, items, length, np.array([click.place for click in clicks], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Rules:
    """The window in ms, and the arms."""

    window_ms: int
    arms: Arms

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """From the settings."""
        return cls(int(settings.attribution_s * 1000), Arms.of(settings))


@dataclass(slots=True)
class Attributed:
    """What a batch changed: states by user, as new objects (an empty one packs to nothing), what is to be
    added to the counts, and the clicks in the order of the log."""

    states: dict[str, Touches] = field(default_factory=dict)
    counts: Counts = field(default_factory=dict)
    clicks: list[Click] = field(default_factory=list)


def attribute(rules: Rules, states: Mapping[str, Touches], told: Mapping[str, Sequence[Told]]) -> Attributed:
    """Let a batch pass. ``told`` has each user's events in order; a user not in ``states`` has none.

    ~40 µs a list of 20 that is shown, ~5 µs another event; users to whom nothing was shown cost nothing.
    """
    result = Attributed()
    for user, events in told.items():
        old = states.get(user, NOTHING)
        if old != NOTHING or any(one.event.type.startswith("recommendation") for one in events):
            new = _Passage(rules, user, old, result).through(events)
            if new != old:
                result.states[user] = new
    result.clicks.sort(key=lambda click: click.at)
    return result


@lru_cache(maxsize=1 << 16)
def _item(name: str) -> int:
    return item_hash(name)


def _identity(text: str | None) -> int:
    """The hash of a list's id or of an order; 0 for none."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") if text else 0


def _code(strategy: str | None) -> int:
    return _CODES.get(strategy, _OTHER) if strategy else 0


def _cents(amount: float, quantity: int = 1) -> int:
    return min(round(amount * 100) * quantity, _MOST_CENTS)


class _Line(NamedTuple):
    quantity: int
    cents: int | None


def _lines(event: Event) -> dict[int, _Line]:
    """Pieces and cents by item; cents are None where no price is told."""
    lines: dict[int, _Line] = {}
    for line in event.lines():
        item, cents = _item(line.item), None if line.price is None else _cents(line.price, line.quantity)
        if (held := lines.get(item)) is not None:
            both = held.cents is not None or cents is not None
            sums = held.quantity + line.quantity, (held.cents or 0) + (cents or 0) if both else None
            lines[item] = _Line(*sums)
        else:
            lines[item] = _Line(line.quantity, cents)
    return lines


def _priced(event: Event) -> dict[int, tuple[int, int]]:
    """Pieces and cents by item; lines without a price share the rest of the order's value, by pieces."""
    lines = _lines(event)
    told = sum(line.cents or 0 for line in lines.values())
    rest = max(_cents(event.value) - told, 0) if event.value is not None else 0
    pieces = sum(line.quantity for line in lines.values() if line.cents is None)
    priced: dict[int, tuple[int, int]] = {}
    for item, (quantity, cents) in lines.items():
        if cents is None:
            cents = rest * quantity // pieces
            rest, pieces = rest - cents, pieces - quantity
        priced[item] = quantity, cents
    return priced


def _extended(old: Shown, lines: Sequence[Line]) -> tuple[tuple[int, ...], bytes]:
    """Items and strategies of a list, with the items that it did not have."""
    found = dict(zip(old.items, old.strategies, strict=True))
    for line in lines:
        found.setdefault(_item(line.item), _code(line.strategy))
    return tuple(found)[:LIST_ITEMS], bytes(found.values())[:LIST_ITEMS]


@lru_cache
def _layout(entries: int) -> Struct:
    """So many entries of `Touches.seen`."""
    return Struct("<" + "QIHBB" * entries)


class _Passage:
    """One user's way through a batch."""

    def __init__(self, rules: Rules, user: str, old: Touches, result: Attributed) -> None:
        self.rules, self.result, self.user = rules, result, user
        self._begin(old)

    def _begin(self, state: Touches) -> None:
        self.experiment, self.arm, self.done = state.experiment, state.arm, state.done
        self.lists, self.bought = list(state.lists), list(state.bought)
        self.seen_bytes = state.seen
        self.seen: dict[int, _Entry] | None = None

    def through(self, events: Sequence[Told]) -> Touches:
        for told in events:
            handle = _HANDLERS.get(told.event.type)
            if handle is not None:
                handle(self, told)
        return Touches(
            _FORMAT,
            self.experiment,
            self.arm,
            self.done,
            tuple(self.lists),
            tuple(self.bought),
            self._pack_seen(),
        )

    def _entries(self) -> dict[int, _Entry]:
        """What was shown, by item, to be changed."""
        if self.seen is None:
            self.seen = {entry[0]: entry for entry in _ENTRY.iter_unpack(self.seen_bytes)}
        return self.seen

    def _pack_seen(self) -> bytes:
        if self.seen is None:
            return self.seen_bytes
        return _layout(len(self.seen)).pack(*chain.from_iterable(self.seen.values()))

    def _count(self, time: int, arm: str, strategy: int, column: str, n: int = 1) -> None:
        count(self.result.counts, Key(time // _DAY_MS, ITEMS, arm, STRATEGIES[strategy]), column, n)

    def _count_list(self, time: int, arm: str, column: str) -> None:
        count(self.result.counts, Key(time // _DAY_MS, SHOWN, arm, ""), column)

    def _count_user(self, column: str) -> None:
        count(self.result.counts, Key(0, USERS, self.arm, self.experiment or ""), column)

    # Lists

    def shown(self, told: Told) -> None:
        """A list was shown: its new items are impressions."""
        identity = _identity(told.event.list_id)
        old = next((held for held in self.lists if held.id == identity), None)
        self._expose()
        if old is None:
            old = Shown(identity, told.time, self.rules.arms.of_user(self.user))
            self._count_list(told.time, old.arm, "lists")
        else:
            self.lists.remove(old)
        items, strategies = _extended(old, told.event.lines())
        self._note_shown(told.time, items, len(old.items))
        for strategy, n in Counter(strategies[len(old.strategies) :]).items():
            self._count(told.time, old.arm, strategy, "impressions", n)
        time = max(told.time, old.time)
        self.lists.append(Shown(identity, time, old.arm, items, strategies, old.clicks))
        if len(self.lists) > LISTS:
            del self.lists[self._least(told.time)]

    def _least(self, time: int) -> int:
        """The list to give up: before the newest half the first without a click that counts, else the first.

        Whoever browses on after a click is shown more lists than are kept, and buys what he clicked later.
        """
        oldest = enumerate(self.lists[: -LISTS // 2])
        idle = (
            at for at, held in oldest if time - max(held.clicks.values(), default=0) > self.rules.window_ms
        )
        return next(idle, 0)

    def _expose(self) -> None:
        """The first list in an experiment makes the user one of its users."""
        arms = self.rules.arms
        if self.experiment != arms.experiment:
            self.experiment, self.arm, self.done = arms.experiment, arms.of_user(self.user), 0
            self._count_user("users")

    def _note_shown(self, time: int, items: Sequence[int], begin: int) -> None:
        """The items of a list from place ``begin`` on were shown."""
        seen, second = self._entries(), time // 1000
        for place in range(begin, len(items)):
            item = items[place]
            _, last, times, clicked, _ = seen.pop(item, (0, 0, 0, 0, 0))
            seen[item] = (item, max(last, second), min(times + 1, 65_535), clicked, place)
        for item in list(seen)[:-SEEN]:
            del seen[item]

    # Clicks

    def clicked(self, told: Told) -> None:
        """Items of a list were clicked."""
        identity = _identity(told.event.list_id)
        for item in dict.fromkeys(_item(line.item) for line in told.event.lines()):
            at = self._list_of(identity, item, told.time)
            if at is None:
                self._count_list(told.time, self.rules.arms.of_user(self.user), "strays")
            else:
                self._click(told, at, item)

    def _list_of(self, identity: int, item: int, time: int) -> int | None:
        """The list a click belongs to: the named one, whatever clocks say, else the newest before it."""
        shown = [at for at, held in enumerate(self.lists) if item in held.items]
        named = [
            at
            for at in shown
            if self.lists[at].id == identity and time - self.lists[at].time <= self.rules.window_ms
        ]
        near = [at for at in shown if self._near(self.lists[at].time, time)]
        return max(named or near, key=lambda at: (self.lists[at].time, at), default=None)

    def _near(self, earlier: int, time: int) -> bool:
        return 0 <= time - earlier <= self.rules.window_ms

    def _click(self, told: Told, at: int, item: int) -> None:
        held = self.lists[at]
        place = held.items.index(item)
        first, before = place not in held.clicks, held.clicks.get(place, told.time)
        clicks = held.clicks | {place: max(before, told.time)}
        self.lists[at] = msgspec.structs.replace(held, clicks=clicks)
        if first:
            self._count(told.time, held.arm, held.strategies[place], "clicks")
            self.result.clicks.append(Click(told.at, held.items, place))
            self._note_click(item)
            self._once(_CLICKED, "clickers")

    def _note_click(self, item: int) -> None:
        seen = self._entries()
        if (entry := seen.get(item)) is not None:
            _, last, times, clicked, place = entry
            seen[item] = item, last, times, min(clicked + 1, 255), place

    def _once(self, what: int, column: str) -> None:
        """The user is counted as one who did it, unless he is, or is no user of any experiment."""
        if self.experiment is not None and not self.done & what:
            self.done |= what
            self._count_user(column)

    # Purchases

    def purchased(self, told: Told) -> None:
        """Lines of an order, each attributed to its last touch."""
        order = _identity(told.event.order)
        had = {line.item for line in self.bought if order and line.order == order}
        for item, (quantity, cents) in _priced(told.event).items():
            touch = None if item in had else self._touch(item, told.time)
            if touch is not None:
                held, how = touch
                strategy = held.strategies[held.items.index(item)]
                self._count(told.time, held.arm, strategy, how)
                self._count(told.time, held.arm, strategy, f"{how}_revenue", cents)
                self.bought.append(Bought(order, item, quantity, cents, held.arm, strategy))
                self._once(_BOUGHT, "buyers")
        del self.bought[:-BOUGHT]

    def _touch(self, item: int, time: int) -> tuple[Shown, str] | None:
        """The list of the newest click on an item, else the newest list with it, within the window."""
        shown = [(held, held.items.index(item)) for held in self.lists if item in held.items]
        clicks = [(held.clicks[place], n) for n, (held, place) in enumerate(shown) if place in held.clicks]
        for times, how in (
            (clicks, "clicked"),
            ([(each.time, n) for n, (each, _) in enumerate(shown)], "viewed"),
        ):
            near = [(at, n) for at, n in times if self._near(at, time)]
            if near:
                return shown[max(near)[1]][0], how
        return None

    def refunded(self, told: Told) -> None:
        """Take back what was attributed."""
        order, lines = _identity(told.event.order), _lines(told.event)
        if not lines:
            self._refund_order(told, order)
        for item, line in lines.items():
            found = [
                at
                for at, held in enumerate(self.bought)
                if held.item == item and held.quantity and (not order or held.order == order)
            ]
            if found:
                self._refund(told.time, found[-1], line)

    def _refund_order(self, told: Told, order: int) -> None:
        """All of an order, or as much of it as the refund is worth."""
        left = None if told.event.value is None else _cents(told.event.value)
        for at, held in enumerate(self.bought):
            if held.order == order and held.quantity:
                cents = held.cents if left is None else min(left, held.cents)
                left = None if left is None else left - cents
                self._refund(told.time, at, _Line(held.quantity if cents == held.cents else 0, cents))

    def _refund(self, time: int, at: int, line: _Line) -> None:
        held = self.bought[at]
        quantity = min(line.quantity, held.quantity)
        cents = held.cents * quantity // held.quantity if line.cents is None else min(line.cents, held.cents)
        self._count(time, held.arm, held.strategy, "refunded", cents)
        left = held.quantity - quantity, held.cents - cents
        self.bought[at] = msgspec.structs.replace(held, quantity=left[0], cents=left[1])

    def forgotten(self, told: Told) -> None:
        """Nothing is known of the user any more; what was counted stays counted."""
        self._begin(NOTHING)


_HANDLERS = {
    "recommendation_shown": _Passage.shown,
    "recommendation_clicked": _Passage.clicked,
    "purchase": _Passage.purchased,
    "refund": _Passage.refunded,
    "forget": _Passage.forgotten,
}
ATTRIBUTED = frozenset(_HANDLERS)
"""Types of events that attribution looks at."""
