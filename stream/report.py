"""What campaigns did and what that added, read from the log: topics to their ends, or a recorded log.

`Register` takes decisions and events in, in any order, and keeps what the questions need: how often each
outcome, by day; of each user and campaign the first decision that counts for lift; what was bought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from producers.source import Entry
from stream.core.campaigns import DEFAULT, Campaign, Goals
from stream.core.guards import DAY_MS, EngagementConfig
from stream.core.lift import ALL, Lift, Purchase, Terms, held_out, lift_of
from stream.core.plan import Schedule
from stream.core.rfm import cents_of
from stream.dry_run import passing
from stream.events import Event
from stream.forward import is_mail
from stream.reading import Progress, read_whole
from stream.settings import Settings
from stream.times import time_ms, time_text
from stream.topics import DECISIONS, EVENTS, Topic

USUAL = Goals().event


@dataclass(frozen=True, slots=True)
class Measure:
    """How a campaign is measured: from which event time on, against whom, by which type of event."""

    terms: Terms
    event: str = USUAL
    since: int = 0


def measures(settings: Settings, base: Sequence[Campaign], schedule: Schedule) -> dict[str, Measure]:
    """By campaign: its files' and its published versions', as the newest says.

    It is measured from the first version on since which holdout and goals are the same: users who were drawn
    otherwise cannot be compared.
    """
    config = EngagementConfig.of(settings)
    usual = Terms(round(settings.attribution_s * 1000), config.holdout)
    found = {DEFAULT: Measure(usual)} if settings.cart_enabled else {}
    found |= {campaign.id: _measure(config, campaign) for campaign in base}
    for held in schedule.held:
        campaign = held.version.campaign
        new, old = _measure(config, campaign), found.get(campaign.id)
        if old is None or (old.terms, old.event) != (new.terms, new.event):
            found[campaign.id] = Measure(new.terms, new.event, held.since)
    return found


def _measure(config: EngagementConfig, campaign: Campaign) -> Measure:
    terms = Terms(int(campaign.goals.within), config.of_campaign(campaign).holdout)
    return Measure(terms, campaign.goals.event)


class _Decision(msgspec.Struct):
    """What is read of a record on `decisions`."""

    id: str
    time: int
    user: str
    campaign: str
    outcome: str
    reason: str
    counters: dict[str, int]


_NO_MEASURES: Mapping[str, Measure] = {}
_DECISIONS = msgspec.json.Decoder(_Decision)


@dataclass
class Register:
    """What was decided and bought; ~5 µs a decision, ~12 µs an event of a type that counts, 1 µs another.

    ``outcomes`` by campaign, outcome and reason; ``bought`` by type of event. Decisions are those of
    ``measured`` campaigns alone, where it is given.
    """

    measured: Mapping[str, Measure] | None = None
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    bought: dict[str, list[Purchase]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {each.event for each in (self.measured or {}).values()} | {USUAL}
        self._marks = {kind: f'"{kind}"'.encode() for kind in kinds}
        self._days: Counter[tuple[int, str]] = Counter()
        self._entered: dict[tuple[str, str], tuple[int, bool, int]] = {}
        self._last: dict[int, tuple[int, int, int]] = {}
        self._ids: set[tuple[str, str]] = set()

    @property
    def days(self) -> dict[tuple[str, str], int]:
        """How many decisions, by day (UTC) and outcome, in order."""
        return {
            (time_text(day * DAY_MS)[:10], outcome): count
            for (day, outcome), count in sorted(self._days.items())
        }

    def decided(self, data: bytes) -> None:
        """A record of `decisions`; those of a partition in order. Repeats change nothing."""
        told = _DECISIONS.decode(data)
        if self.measured is not None and told.campaign not in self.measured:
            return
        if not self._is_new(told.id):
            return
        self.outcomes[told.campaign, told.outcome, told.reason] += 1
        self._days[told.time // DAY_MS, told.outcome] += 1
        self._enter(told)

    def _is_new(self, identity: str) -> bool:
        """Ids of a partition rise (`stream.core.messages.message_id`); what is sent again is no greater."""
        partition, offset, index, _, n = identity.split("-")
        place = int(offset), int(index), int(n)
        new = self._last.get(int(partition), (-1, 0, 0)) < place
        if new:
            self._last[int(partition)] = place
        return new

    def _enter(self, told: _Decision) -> None:
        measure = (self.measured or _NO_MEASURES).get(told.campaign)
        if measure is None or told.time < measure.since:
            return
        held = held_out({"outcome": told.outcome, "reason": told.reason})
        if held is None:
            return
        place, entry = (told.campaign, told.user), (told.time, held, told.counters.get("bucket", 0))
        self._entered[place] = min(entry, self._entered.get(place, entry))

    def happened(self, data: bytes) -> None:
        """A message of `events`, as it was received. What cannot be read is passed over, as workers do.

        Mail is passed over, too: the event that it forwards stands in the log itself.
        """
        marks = [kind for kind, mark in self._marks.items() if mark in data]
        if not marks or is_mail(data):
            return
        for event in _events(data):
            if event.type in marks and self._is_first(event):
                user, cents = event.user or event.anonymous or "", cents_of(event) or 0
                purchase = Purchase(time_ms(event.time), user, cents)
                self.bought.setdefault(event.type, []).append(purchase)

    def _is_first(self, event: Event) -> bool:
        if event.id is None:
            return True
        place = (event.user or event.anonymous or "", event.id)
        new = place not in self._ids
        self._ids.add(place)
        return new

    def lifts(self) -> dict[str, Lift]:
        """By campaign, and under `ALL` of all that purchases measure. Raises ValueError as `lift_of` does."""
        measured = self.measured or {}
        found: dict[str, Lift] = {}
        for kind in sorted({each.event for each in measured.values()}):
            terms = {name: each.terms for name, each in measured.items() if each.event == kind}
            lifts = lift_of(self._entries(terms), self.bought.get(kind, ()), terms)
            found |= {name: lift for name, lift in lifts.items() if name != ALL or kind == USUAL}
        return found

    def _entries(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        wanted = set(names)
        for (campaign, user), (time, held, bucket) in self._entered.items():
            if campaign in wanted:
                outcome, reason = ("suppressed", "holdout") if held else ("sent", "")
                counters = {"bucket": bucket}
                yield {
                    "time": time, "user": user, "campaign": campaign,
                    "outcome": outcome, "reason": reason, "counters": counters,
                }  # fmt: skip


def _events(data: bytes) -> Iterator[Event]:
    try:
        told = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return
    for each in told if isinstance(told, list) else [told]:
        try:
            event = msgspec.convert(each, Event)
            time_ms(event.time)
        except ValueError:
            continue
        if event.lacks() is None:
            yield event


# What runs


class Standing(msgspec.Struct, frozen=True):
    """A campaign as it stands: ``by`` what it runs (published, file, default), ``since`` when its version has
    held, ``next`` the version that will hold from ``from_`` on."""

    campaign: str
    by: str
    version: int | None
    since: str | None
    enabled: bool
    next: int | None = None
    from_: str | None = msgspec.field(default=None, name="from")


def standing(settings: Settings, base: Sequence[Campaign], schedule: Schedule, now_ms: int) -> list[Standing]:
    """What runs at a time, and what will, by campaign."""
    found = {DEFAULT: Standing(DEFAULT, "default", None, None, True)} if settings.cart_enabled else {}
    found |= {each.id: Standing(each.id, "file", None, None, each.enabled) for each in base}
    for name, held in schedule.at(now_ms).items():
        since, enabled = time_text(held.since), held.version.campaign.enabled
        found[name] = Standing(name, "published", held.version.number, since, enabled)
    for name, held in schedule.newest().items():
        if held.since > now_ms:
            old = found.get(name, Standing(name, "published", None, None, False))
            found[name] = msgspec.structs.replace(old, next=held.version.number, from_=time_text(held.since))
    return [found[name] for name in sorted(found)]


# Reading


async def read_topics(settings: Settings, register: Register, *topics: Topic, progress: Progress) -> None:
    """Let a register take in `decisions`, `events` or both, to their ends. Raises BrokerError."""
    takes = {DECISIONS.name: register.decided, EVENTS.name: register.happened}
    async for topic, records in read_whole(settings, *topics, progress=progress):
        take = takes[topic.name]
        for record in records:
            if record.value is not None:
                take(record.value)


async def read_log(
    settings: Settings, campaigns: Sequence[Campaign], entries: Iterable[Entry], register: Register,
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """The same of a recorded log: what campaigns decide on it, by the worker's own step."""

    def noted() -> Iterator[Entry]:
        for entry in entries:
            if not entry.is_item:
                register.happened(entry.data)
            yield entry

    async for passed in passing(settings, campaigns, noted()):
        for decision in passed.decisions:
            register.decided(decision)
        progress(passed.events)
