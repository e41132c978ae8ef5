"""What campaigns would have done on a log: the worker's own step in one process, without lists.

What a nudge would ask lists for is taken to be there; the messages do not show it.
Every event is received at its own time, and where the log is silent time passes by ticks, so nothing comes
too late to be sent. Users who never say whether they consent may be taken to have done so: `consenting`.
Catalogue events pass at their place where a campaign looks at prices or stocks; else they are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from producers.source import Entry
from stream.core.campaigns import Campaign, Window
from stream.core.coupons import WITHIN_MS
from stream.delivery import Output
from stream.local import LocalWorker, bundle
from stream.mail import has_interests
from stream.settings import Settings
from stream.signing import tick_event
from stream.times import time_text
from stream.topics import CATALOG, DECISIONS, ENGAGEMENTS, EVENTS
from stream.transport import StockRecord

BATCH = 2000
_SEED = 7
_PURPOSE = "personalisation"
_KEY, _SECRET = b"dry run", "dry run"
_TICK_MS = 600_000


@dataclass
class DryRun:
    """What would have been decided.

    ``events`` and ``users`` of the log; ``reached``: users who would have got a message; ``decisions`` by
    rule, outcome and reason; ``days``: messages by day (UTC) and rule; ``sample`` of messages, drawn evenly;
    ``coupons`` sent and what they are worth (``cost``), by rule; ``offers``: coupons by rule and source.
    """

    events: int = 0
    users: int = 0
    reached: int = 0
    decisions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    days: Counter[tuple[str, str]] = field(default_factory=Counter)
    sample: list[dict[str, Any]] = field(default_factory=list)
    coupons: Counter[str] = field(default_factory=Counter)
    offers: Counter[tuple[str, str]] = field(default_factory=Counter)
    cost: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


async def dry_run(
    settings: Settings,
    campaigns: Sequence[Campaign],
    entries: Iterable[Entry],
    sample: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> DryRun:
    """Let a log pass, in order of time. Memory grows with users, not with events. ~50 µs an event."""
    run, seen, reached = DryRun(), set[str](), set[str]()
    drawn = _Drawn(sample)
    async for passed in passing(settings, campaigns, entries):
        seen.update(passed.users)
        run.events = passed.events
        for decision in passed.decisions:
            told = msgspec.json.decode(decision)
            run.decisions[told["rule"], told["outcome"], told["reason"]] += 1
        for said in passed.messages:
            message = msgspec.json.decode(said)
            if message["type"] == "nudge":
                reached.add(message["user"])
                run.days[time_text(message["time"])[:10], message["rule"]] += 1
                if "coupon" in message:
                    run.coupons[message["rule"]] += 1
                    run.offers[message["rule"], message["coupon"]["offer"]] += 1
                    run.cost[message["rule"]] += message["coupon"]["value"]
                drawn.add(message)
        progress(run.events)
    run.users, run.reached, run.sample = len(seen), len(reached), drawn.held
    return run


def without_waiting(campaigns: Sequence[Campaign], now_ms: int) -> tuple[list[Campaign], list[str]]:
    """Campaigns as if those whose window is yet to begin at ``now_ms`` ran always, and the ids of these:
    a log holds only what has been, so in their window there is nothing to decide."""
    waiting = [each.id for each in campaigns if (each.window.from_ or 0) > now_ms]
    return [
        msgspec.structs.replace(each, window=Window()) if each.id in waiting else each for each in campaigns
    ], waiting


class Passed(NamedTuple):
    """What a piece of a log made: ``events`` so far, the ``users`` of the piece, values of the topics."""

    events: int
    users: list[str]
    decisions: list[bytes]
    messages: list[bytes]


async def passing(
    settings: Settings, campaigns: Sequence[Campaign], entries: Iterable[Entry]
) -> AsyncIterator[Passed]:
    """Let a log pass through a worker without lists, some events at a time."""
    secret = settings.coupon_secret or _SECRET
    alone = settings.model_copy(update={"partitions": 1, "cached_users": 10_000_000, "coupon_secret": secret})
    worker = LocalWorker(alone, _KEY, campaigns, asking=False)
    worker.contexts.shopping.lister.publishing = worker.contexts.shopping.lister.learning = False
    await worker.take()
    watching = worker.contexts.shopping.engine.terms is not None
    told = entries if watching else (entry for entry in entries if not entry.is_item)
    asking = any(campaign.coupon is not None for campaign in campaigns)
    log, events, mail = _Log(_records(told), WITHIN_MS // 2 if asking else 0), 0, list[Output]()
    while some := log.next(mail):
        await _pass(worker, some, log.is_item, watching)
        users = [record.key.decode() for record in some if record.key is not None and not log.is_item]
        events += len(users)
        mail, decisions, messages = (
            worker.outputs.take(topic.name, 0) for topic in (EVENTS, DECISIONS, ENGAGEMENTS)
        )
        worker.outputs.sent.clear()
        yield Passed(events, users, [one.value for one in decisions], [one.value for one in messages])


async def _pass(worker: LocalWorker, records: Sequence[StockRecord], is_item: bool, watching: bool) -> None:
    """Let a batch pass; what it has to say to items or users is made, and waits."""
    if not is_item:
        await worker.shoppers[0].handle([bundle(EVENTS.name, 0, records)])
        if watching:
            await worker.fold(has_interests)
        return
    await worker.shelves[0].handle([bundle(CATALOG.name, 0, records)])
    await worker.shelves[0].pulse(busy=False)


class _Log:
    """Records in batches, and between them the mail that the worker wrote into its own log.

    ``is_item`` tells whether the last batch was of catalogue events. A batch is of less than ``span`` ms
    (0: of any), so that what waits for an answer by mail gets it in time.
    """

    def __init__(self, records: Iterator[tuple[bool, StockRecord]], span: int = 0) -> None:
        self._batches = self._cut(records, span)
        self._ends, self._time = {False: 0, True: 0}, 0
        self.is_item = False

    @staticmethod
    def _cut(
        records: Iterator[tuple[bool, StockRecord]], span: int
    ) -> Iterator[tuple[bool, list[StockRecord]]]:
        parts = groupby(records, lambda record: (record[0], record[1].timestamp // span if span else 0))
        for (is_item, _), group in parts:
            while some := [record for _, record in islice(group, BATCH)]:
                yield is_item, some

    def next(self, mail: Sequence[Output]) -> list[StockRecord]:
        """The next batch: the mail, if there is any, else what comes; empty: the end."""
        some = [StockRecord(0, self._time, None, each.value, ()) for each in mail]
        self.is_item = False
        if not some:
            self.is_item, some = next(self._batches, (False, []))
        first = self._ends[self.is_item]
        self._ends[self.is_item] += len(some)
        if some:
            self._time = some[-1].timestamp
        return [replace(each, offset=first + n) for n, each in enumerate(some)]


def _records(entries: Iterable[Entry]) -> Iterator[tuple[bool, StockRecord]]:
    """What comes, and whether it is of the catalogue, with a tick wherever nothing happens for so long.

    A catalogue event without a time comes with what stands before it. Offsets are to be set.
    """
    now = 0
    for entry in entries:
        for time in range(now + _TICK_MS, entry.time, _TICK_MS) if now else ():
            yield False, StockRecord(0, time, None, tick_event(_KEY, 0, time), ())
        now = entry.time or now
        yield entry.is_item, StockRecord(0, now, entry.key.encode(), entry.data, ())


class _Drawn:
    """Of however many, ``n`` drawn evenly (Vitter, ACM TOMS 1985: algorithm R), the same every time."""

    def __init__(self, n: int) -> None:
        self.held: list[dict[str, Any]] = []
        self._n, self._met, self._random = n, 0, np.random.default_rng(_SEED)

    def add(self, message: dict[str, Any]) -> None:
        self._met += 1
        if len(self.held) < self._n:
            self.held.append(message)
        elif (place := int(self._random.integers(self._met))) < self._n:
            self.held[place] = message


def consenting(entries: Iterable[Entry], channels: Sequence[str]) -> Iterator[Entry]:
    """The same, and everybody grants these channels and personalisation right before his first event."""
    granted: set[str] = set()
    for entry in entries:
        if not entry.is_item and entry.key not in granted:
            granted.add(entry.key)
            consent = {
                "type": "consent", "time": time_text(entry.time), "user": entry.key,
                "id": f"consent-{entry.key}",
                "channels": dict.fromkeys(channels, True), "purposes": {_PURPOSE: True},
            }  # fmt: skip
            yield entry._replace(data=msgspec.json.encode(consent))
        yield entry
