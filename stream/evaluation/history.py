"""Data sets as one form: interactions as columns, and what is known of their items.

Recognised by their content: item sequences, clicks as in session-rec, pairs of a session and its next item,
baskets by user, Tidewise's own events, and `complete-journey` by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from producers.source import Entry
from stream.events import CatalogItem

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

START_MS = 1_577_836_800_000
"""2020-01-01: where synthetic time begins."""
STEP_MS = 1000
"""Synthetic time between two events, on average: little, for of their order alone nothing decays."""
JOURNEY_TEST_MS = 1_509_336_000_000
"""2017-10-30 04:00 UTC: week 45 of Complete Journey begins."""
_GOLDEN = 0.6180339887498949
_ATTRIBUTES = "{item: [value, …]} or {item: {name: value}}"
_CLICKS = "SessionId"
_SHOWN = 80


class HistoryError(Exception):
    """A data set cannot be read; says which file, what was found, and what would be right."""


@dataclass(frozen=True)
class History:
    """N interactions in order of time: ``user``, ``item`` [N] numbers of ``users`` and ``items`` (names),
    ``time_ms`` [N], ``event`` [N] rising (a basket is one event), all of event type ``kind``.

    ``catalog`` are catalogue events as JSON. ``timed`` tells whether the times are the data's own;
    ``test_ms`` where the test period begins, where that is agreed on; ``asked`` [N] which interactions the
    data ask for, where they tell.
    """

    users: list[str]
    items: list[str]
    user: I32
    item: I32
    time_ms: I64
    event: I64
    kind: str = "view_item"
    catalog: Sequence[bytes] = field(default_factory=list)
    timed: bool = True
    name: str = ""
    test_ms: int | None = None
    asked: Bool | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def begins(self) -> I64:
        """Where each event begins."""
        return np.flatnonzero(np.diff(self.event, prepend=self.event[:1] - 1))

    def part(self, keep: NDArray[np.bool_]) -> History:
        """Some of the interactions [N], with all names."""
        return replace(
            self, user=self.user[keep], item=self.item[keep], time_ms=self.time_ms[keep],
            event=self.event[keep], asked=None if self.asked is None else self.asked[keep],
        )  # fmt: skip


def read(path: str, attributes: Path | None = None) -> History:
    """Read a data set. Raises HistoryError."""
    if path == "complete-journey":
        return _complete_journey()
    source = Path(path)
    if not source.exists():
        raise HistoryError(f"{path}: there is no such file; `complete-journey` is the data set known by name")
    try:
        found = _reader(source)(source)
        return _described(found, attributes) if attributes else found
    except OSError as error:
        raise HistoryError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HistoryError(
            f"{path}: is no text in UTF-8; packed may be events alone, as .jsonl.gz"
        ) from error


def _reader(path: Path) -> Callable[[Path], History]:
    if path.suffix == ".gz":
        return _events
    with path.open(encoding="utf-8-sig") as file:
        head = next((line for line in file if line.strip()), "").lstrip()
    if head.startswith(_CLICKS):
        return _clicks
    if head.startswith("["):
        return _events if head[1:].lstrip().startswith("{") else _pairs
    if head.startswith("{"):
        return _events if _is_event(path, head) else _baskets
    return _events if path.suffix == ".jsonl" else _sequences


def _is_event(path: Path, head: str) -> bool:
    """Whether the first line is an event, or should be one; not baskets of a user or of many."""
    try:
        told = json.loads(head)
    except ValueError:
        return path.suffix == ".jsonl" or '"type"' in head
    baskets = isinstance(told, dict) and bool(told) and all(isinstance(each, list) for each in told.values())
    return not baskets and (path.suffix == ".jsonl" or "type" in told)


# The forms


def _sequences(path: Path) -> History:
    """`user item item …` a line, in order of time, without times. A user's further lines go on with it."""
    rows = [line.split() for line in _lines(path) if line.strip()]
    if short := [row for row in rows if len(row) < 2]:
        raise HistoryError(f"{path}: a line reads {short[0][0]!r}, should be: user item item …")
    users: dict[str, list[list[str]]] = {}
    for user, *items in rows:
        users.setdefault(user, []).extend([item] for item in items)
    return _spread(path.stem, users, "view_item")


def _baskets(path: Path) -> History:
    """`{user: [[item, …], …]}`: baskets in order of time, without times; one object, or one a line.

    Empty baskets are none, nor are those of −1 alone, by which some files mark beginning and end.
    """
    users: dict[str, list[list[str]]] = {}
    for user, baskets in _objects(path):
        if not isinstance(baskets, list) or not all(map(_names, baskets)):
            raise HistoryError(f"{path}: {user!r} has {_short(baskets)}, should be {{user: [[item, …], …]}}")
        told = [[str(item) for item in each] for each in baskets if each and each != [-1]]
        users.setdefault(user, []).extend(told)
    return _spread(path.stem, users, "purchase")


def _objects(path: Path) -> list[tuple[str, Any]]:
    """What JSON objects say, by name: of one in the whole file, or of one a line."""
    text = _text(path)
    try:
        found = [json.loads(text)]
    except ValueError as whole:
        try:
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        except ValueError:
            raise HistoryError(f"{path}: no JSON: {whole}") from whole
    if odd := [each for each in found if not isinstance(each, dict)]:
        raise HistoryError(f"{path}: {_short(odd[0])} should be {{user: [[item, …], …]}}")
    return [line for each in found for line in each.items()]


def _pairs(path: Path) -> History:
    """`[[item, …], next]` a line: what is asked for is ``next``. Each is a session of its own, in order, but
    that all prefixes of one may stand one after the other, as SR-GNN and others make them: these are one."""
    lines = [_pair(path, at, line) for at, line in enumerate(_lines(path), 1) if line.strip()]
    sessions = _unfolded(lines)
    told = {str(at): [[item] for item in items] for at, (items, _) in enumerate(sessions, 1)}
    asked = [at in ends for items, ends in sessions for at in range(len(items))]
    return replace(_one_after_the_other(path.stem, told), asked=np.array(asked, dtype=np.bool_))


def _pair(path: Path, number: int, line: str) -> list[str]:
    try:
        prefix, target = json.loads(line)
    except (ValueError, TypeError) as error:
        raise HistoryError(f"{path}, line {number}: should be [[item, …], next]: {error}") from error
    if not _names(prefix) or not _names([target]):
        raise HistoryError(f"{path}, line {number}: {_short(line)} should be [[item, …], next]")
    return [str(item) for item in [*prefix, target]]


def _unfolded(lines: list[list[str]]) -> list[tuple[list[str], set[int]]]:
    """Sessions, and at which places of theirs a line ends.

    A line that has one item less than the one before it, and is the same else, is of the same session; one
    item more, where that is how most of such lines of the file stand.
    """
    shorter = [_extends(one, two) for one, two in pairwise(lines)]
    longer = [_extends(two, one) for one, two in pairwise(lines)]
    same = shorter if sum(shorter) >= sum(longer) else longer
    found: list[tuple[list[str], set[int]]] = []
    for line, goes_on in zip(lines, [False, *same], strict=True):
        if not goes_on:
            found.append((line, set()))
        items, ends = found[-1]
        ends.add(len(line) - 1)
        found[-1] = max(items, line, key=len), ends
    return found


def _extends(longer: list[str], shorter: list[str]) -> bool:
    return len(longer) == len(shorter) + 1 and longer[:-1] == shorter


def _clicks(path: Path) -> History:
    """`SessionId ItemId Time` in seconds, separated by tabs."""
    head, *lines = _lines(path)
    names = head.split("\t")
    if missing := {_CLICKS, "ItemId", "Time"}.difference(names):
        raise HistoryError(
            f"{path}: should have columns SessionId, ItemId, Time, separated by tabs; no {min(missing)} in"
            f" {_short(head)!r}"
        )
    columns = [names.index(name) for name in (_CLICKS, "ItemId", "Time")]
    clicks = [_click(path, at, line.split("\t"), columns) for at, line in enumerate(lines, 2) if line.strip()]
    clicks.sort(key=lambda click: click[1])
    return _history(path.stem, clicks, "view_item", True)


def _click(path: Path, number: int, row: list[str], columns: list[int]) -> tuple[str, int, list[str]]:
    if len(row) <= max(columns):
        raise HistoryError(f"{path}, line {number}: has {len(row)} columns, should have {max(columns) + 1}")
    session, item, time = (row[column] for column in columns)
    try:
        return session, int(float(time) * 1000), [item]
    except (ValueError, OverflowError):
        raise HistoryError(f"{path}, line {number}: Time is {time!r}, should be seconds since 1970") from None


def _events(path: Path) -> History:
    """Tidewise's events, JSON Lines: those that act on items; catalogue events describe them."""
    from stream.times import time_ms

    events, catalog = [], []
    for entry in _entries(path):
        if entry.is_item:
            catalog.append(entry.data)
            continue
        told = msgspec.json.decode(entry.data)
        for one in told if isinstance(told, list) else [told]:
            items = [line["item"] for line in one.get("items", [])] or [one["item"]] if _acts(one) else []
            if items:
                events.append((one.get("user") or one["anonymous"], time_ms(one["time"]), items))
    found = _history(path.stem, sorted(events, key=lambda event: event[1]), "view_item", True)
    return replace(found, catalog=catalog)


def _entries(path: Path) -> Iterator[Entry]:
    from producers.logs import EventLog, LogError
    from stream.settings import Settings

    try:
        yield from EventLog(path, Settings()).entries()
    except LogError as error:
        raise HistoryError(str(error)) from error


def _acts(event: dict[str, Any]) -> bool:
    from stream.settings import EVENT_WEIGHTS

    acts = EVENT_WEIGHTS.get(event.get("type", ""), EVENT_WEIGHTS["other"]) > 0
    return acts and ("items" in event or "item" in event)


def _complete_journey() -> History:
    from producers.datasets.complete_journey import CompleteJourney

    source = CompleteJourney()
    household, basket, product, time = source.baskets()
    key = np.unique(
        basket.astype(np.int64) << 20 | np.unique(product, return_inverse=True)[1], return_index=True
    )
    first = np.sort(key[1])
    order = first[np.lexsort((first, basket[first], time[first]))]
    users, user = np.unique(household[order], return_inverse=True)
    items, item = np.unique(product[order], return_inverse=True)
    event = np.cumsum(np.diff(basket[order], prepend=basket[order][:1]) != 0)
    return History(
        [str(name) for name in users.tolist()], [str(name) for name in items.tolist()],
        user.astype(np.int32), item.astype(np.int32), time[order], event.astype(np.int64),
        "purchase", [entry.data for entry in source.catalog()], True, source.name, JOURNEY_TEST_MS,
    )  # fmt: skip


# Parts of them


def _text(path: Path) -> str:
    """All of it, without the mark that some programs put first."""
    return path.read_text(encoding="utf-8-sig")


def _lines(path: Path) -> list[str]:
    """By line feeds alone: a name may hold what else Python takes for the end of a line."""
    return _text(path).split("\n")


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise HistoryError(f"{path}: no JSON: {error}") from error


def _names(told: Any) -> bool:
    """Whether it is a list of items: texts or numbers."""
    return isinstance(told, list) and all(isinstance(item, str | int) for item in told)


def _short(told: Any) -> str:
    text = told if isinstance(told, str) else json.dumps(told)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _spread(name: str, users: dict[str, list[list[str]]], kind: str) -> History:
    """Events without times: those of a user stand evenly over the whole period, as his number among n tells.

    Event k of n of user u is at (k + frac(u · 0.618…)) / n of the period, which is a second an event: users
    interleave, and the last events of all stand at the end.
    """
    period = sum(map(len, users.values())) * STEP_MS
    events = [
        (START_MS + int((k + (number * _GOLDEN) % 1) / len(baskets) * period), user, basket)
        for number, (user, baskets) in enumerate(users.items())
        for k, basket in enumerate(baskets)
    ]
    events.sort(key=lambda event: event[0])
    return _history(name, ((user, time, basket) for time, user, basket in events), kind, False)


def _one_after_the_other(name: str, sessions: dict[str, list[list[str]]]) -> History:
    """Sessions without times, in the order of the file, a second from event to event."""
    numbered = ((user, basket) for user, baskets in sessions.items() for basket in baskets)
    events = ((user, START_MS + at * STEP_MS, basket) for at, (user, basket) in enumerate(numbered))
    return _history(name, events, "view_item", False)


def _history(name: str, events: Iterable[tuple[str, int, list[str]]], kind: str, timed: bool) -> History:
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    lines = [
        (users.setdefault(user, len(users)), items.setdefault(item, len(items)), time, number)
        for number, (user, time, basket) in enumerate(events)
        for item in dict.fromkeys(basket)
    ]
    if not lines:
        raise HistoryError(f"{name}: there is nothing in it that acts on items")
    user, item, time, event = (np.array(column) for column in zip(*lines, strict=True))
    return History(
        list(users), list(items), user.astype(np.int32), item.astype(np.int32), time, event, kind,
        [], timed, name,
    )  # fmt: skip


def _described(history: History, path: Path) -> History:
    """With the attributes of `{item: [value, …]}` or `{item: {name: value}}`."""
    found, catalog = _json(path), []
    if not isinstance(found, dict):
        raise HistoryError(f"{path}: {_short(found)} should be {_ATTRIBUTES}")
    for item, told in found.items():
        attributes = {"attribute": [str(value) for value in told]} if _names(told) else told
        try:
            msgspec.convert({"item": item, "attributes": attributes}, CatalogItem)
        except msgspec.ValidationError as error:
            raise HistoryError(
                f"{path}: {item!r} has {_short(told)}, should be {_ATTRIBUTES}: {error}"
            ) from None
        catalog.append(msgspec.json.encode({"type": "item", "item": item, "attributes": attributes}))
    return replace(history, catalog=catalog)


def together(train: History, test: History) -> tuple[History, History]:
    """Both with the same numbers of users and items. A user of one is none of the other's: sessions."""
    items = {name: at for at, name in enumerate(train.items)}
    number = np.array([items.setdefault(name, len(items)) for name in test.items], dtype=np.int32)
    users = [*train.users, *(f"{name}'" for name in test.users)]
    later = replace(
        test, users=users, items=list(items), user=test.user + np.int32(len(train.users)),
        item=number[test.item], event=test.event + train.event[-1] + 1, catalog=train.catalog,
    )  # fmt: skip
    return replace(train, users=users, items=list(items)), later
