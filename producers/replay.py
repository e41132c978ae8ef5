"""Replay: the events of a log or a data set, sent again in event order, as fast as possible or at a pace.

Each message keeps its event time as the header `received`, so a log of last year is judged as of then:
nothing lies in the future, and timers fire in event time.

Resuming: with a state file, the replay stops every quarter of a second of sending until the broker has
everything, then notes how many events that is. One that was killed goes on from there: nothing is lost, and
what is sent twice (at most that quarter of a second) has the same ids, by which the worker drops it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import msgspec

from producers.client import EventProducer, InvalidEvent, Message
from producers.datasets import DATASETS, open_dataset
from producers.logs import EventLog
from producers.source import Entry, Source
from stream.settings import Settings
from stream.topics import CATALOG, EVENTS

CHECKPOINT_S = 0.25


class ReplayError(ValueError):
    """A replay that cannot go on from its state file; the message says why and what to do."""


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state file (JSON): what was replayed where, how many events the broker has, a hash of the last."""

    source: str
    target: str
    acknowledged: int = 0
    last: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a replay is. ``skipped`` events were sent by an earlier one; ``total`` None: not known.

    ``time_ms`` is the event time reached.
    """

    skipped: int
    sent: int
    acknowledged: int
    total: int | None
    time_ms: int


@dataclass(frozen=True)
class Summary:
    """What a replay did: events sent (``items`` of them to the catalogue), first and last time in ms."""

    source: str
    note: str
    skipped: int
    events: int
    items: int
    first_ms: int
    last_ms: int
    duration_s: float
    events_per_s: float


def open_source(name: str, settings: Settings, limit_lines: int | None = None) -> Source:
    """A data set by its name, else a log by its path (``-``: standard input).

    ``limit_lines`` is for data sets. Raises LogError when there is no such file, DatasetError.
    """
    if name in DATASETS:
        return open_dataset(name, limit_lines)
    log = EventLog(name, settings)
    _ = log.identity  # reads the first line, so that a wrong name is told at once
    return log


async def replay(
    source: Source,
    settings: Settings,
    *,
    speed: float | None = None,
    resume: Path | None = None,
    array_size: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Send all events of ``source``, in order; return when the broker has them.

    ``speed`` is a multiple of event time, None: as fast as possible. ``resume`` is the state file, made when
    missing. ``array_size`` packs events of one partition into arrays. ``progress`` is called about four
    times a second. Raises ReplayError, LogError, DatasetError, BrokerError.
    """
    if speed is not None and speed <= 0:
        raise ReplayError(f"speed {speed:g}: must be above 0, for example 60 for an hour in a minute")
    state = State(source.identity, f"{settings.bootstrap}/{settings.topic_prefix}")
    if resume is not None:
        state = _load(resume, state)
    entries = source.entries()
    _skip(entries, state, resume)
    async with EventProducer(settings, array_size=array_size) as producer:
        return await _Run(source, producer, state, resume, progress).all(entries, speed)


class _Run:
    """One replay under way."""

    def __init__(
        self,
        source: Source,
        producer: EventProducer,
        state: State,
        resume: Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._source = source
        self._producer = producer
        self._state = state
        self._resume = resume
        self._progress = progress
        self._sent = b""
        self._items = self._first = self._last = 0
        self._begin = time.monotonic()
        self._due = self._begin + CHECKPOINT_S

    async def all(self, entries: Iterator[Entry], speed: float | None) -> Summary:
        """Send everything."""
        for entry in entries:
            if speed is not None:
                await self._pace(entry.time, speed)
            await self._send(entry)
            if time.monotonic() >= self._due:
                await self._checkpoint()
        await self._producer.flush()
        await self._checkpoint()
        return self._summary()

    async def _send(self, entry: Entry) -> None:
        topic = CATALOG if entry.is_item else EVENTS
        try:
            await self._producer.put(topic, Message(entry.key, entry.data, entry.time or None))
        except InvalidEvent as error:
            raise ReplayError(f"{self._source.name}:{entry.line}: {error}") from None
        self._sent = entry.data
        self._items += entry.is_item
        self._first = self._first or entry.time
        self._last = entry.time

    async def _pace(self, time_ms: int, speed: float) -> None:
        """Wait until an event is due: its distance to the first one, by the speed."""
        since_ms = time_ms - self._first if self._first else 0
        wait = self._begin + since_ms / 1000 / speed - time.monotonic()
        if wait > CHECKPOINT_S:
            await self._checkpoint()
        if wait > 0:
            await asyncio.sleep(wait)

    async def _checkpoint(self) -> None:
        """Note what the broker has, and tell how far we are."""
        if self._resume is not None:
            await self._producer.flush()
            done = self._skipped + self._producer.acknowledged
            last = _hash(self._sent) if self._sent else self._state.last
            _save(self._resume, State(self._state.source, self._state.target, done, last))
        if self._progress is not None:
            sent, acknowledged = self._producer.accepted, self._producer.acknowledged
            self._progress(Progress(self._skipped, sent, acknowledged, self._source.total, self._last))
        self._due = time.monotonic() + CHECKPOINT_S

    @property
    def _skipped(self) -> int:
        return self._state.acknowledged

    def _summary(self) -> Summary:
        duration, events = time.monotonic() - self._begin, self._producer.acknowledged
        return Summary(
            source=self._source.name,
            note=self._source.note,
            skipped=self._skipped,
            events=events,
            items=self._items,
            first_ms=self._first,
            last_ms=self._last,
            duration_s=round(duration, 3),
            events_per_s=round(events / duration, 1) if duration else 0.0,
        )


def _load(file: Path, fresh: State) -> State:
    """What an earlier replay of the same source to the same place noted, else a fresh start."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=State)
    except FileNotFoundError:
        return fresh
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ReplayError(f"{file}: is no state of a replay ({error}); remove it to begin anew") from error
    for what, was, now in (("of", found.source, fresh.source), ("into", found.target, fresh.target)):
        if was != now:
            raise ReplayError(f"{file}: belongs to a replay {what} {was}, not {now}; name another file")
    return found


def _skip(entries: Iterator[Entry], state: State, file: Path | None) -> None:
    """Pass over what was sent; its last event must be the one noted."""
    if state.acknowledged:
        last = next(islice(entries, state.acknowledged - 1, None), None)
        if last is None or _hash(last.data) != state.last:
            where = "it ends before that" if last is None else f"line {last.line} is not the last of them"
            raise ReplayError(
                f"{file}: {state.acknowledged} events of {state.source} were sent, but {where}: it was"
                " changed; remove the state file to send all of it again"
            )


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def _save(file: Path, state: State) -> None:
    """Replace the state file as a whole, so that a kill leaves the old one or the new one."""
    written = file.with_name(file.name + ".new")
    with written.open("wb") as out:
        out.write(msgspec.json.encode(state))
        out.flush()
        os.fsync(out.fileno())
    written.replace(file)
