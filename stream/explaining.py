"""Why this item for this user, in a running deployment: what `tidewise explain` tells.

Reads what a worker would: the compacted topics `neighbors` and `trending`, the user's record, what he was
shown, and his partition's mixture; then makes his list by the same code. It is told as of the list that he
has now. What came to be known since then (counts, a step of the mixture) makes it differ from the published
score; so do the memories that only the worker has: which items are most alike, looked up once a day, the
users it met last, the exposure that groups were given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.keys import Keys
from state.lookup import ViewedItem, ViewList
from state.store import Store
from stream.admin import BrokerError, describe, mismatch
from stream.core.attribution import Impressions, Touches, impressions
from stream.core.engaged import UserState
from stream.core.guards import EngagementConfig, held_out
from stream.core.items import Items
from stream.core.preferences import preferred
from stream.core.recommend.explain import BARRED, BLOCKED, Explanation, explain
from stream.core.recommend.query import Query
from stream.core.users import Rows, bought, last_bought, unpack
from stream.follower import Followed, Follower, followed
from stream.lister import Lister, bounds_of
from stream.ownership import partition_of
from stream.settings import Settings
from stream.shaper import Shaper
from stream.times import time_ms, time_text

I32 = NDArray[np.int32]

_REMEMBERING = {"user-user"}
"""Components whose evidence is in the worker's memory alone."""


class Unexplained(Exception):
    """There is nothing to explain: the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step after scoring, and the item's place in the list behind it; None: it is not in the list."""

    step: str
    place: int | None


@dataclass(frozen=True, slots=True)
class Published:
    """The item in the list that the user has now."""

    place: int
    score: float
    strategy: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """What there is to say. ``time`` is that of the list; ``learned`` counts what the mixture learned from;
    ``names`` are what the catalogue calls the items; ``notes`` what an explanation cannot know."""

    user: str
    item: str
    time: str
    learned: int
    explanation: Explanation
    steps: list[Step]
    published: Published | None
    names: dict[str, str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Read:
    """What the store has of a user, as bytes."""

    user: bytes
    engaged: bytes | None
    shown: bytes | None
    mixture: bytes | None
    view: ViewList | None


async def explained(settings: Settings, store: Store, user: str, item: str) -> Explained:
    """Explain an item to a user of a running deployment. Reads whole topics: about 10 µs an item of the shop.

    Raises Unexplained for an unknown user or item, BrokerError, and what the store raises.
    """
    agreed = await store.deployment({})
    settings = settings.model_copy(update={"partitions": int(agreed.get("partitions", settings.partitions))})
    await _read(settings, store, user)  # nobody waits for the broker to hear that nobody is known
    async with caught_up(settings) as (items, told):
        return await explained_by(settings, store, items, told, user, item)


async def explained_by(
    settings: Settings, store: Store, items: Items, told: Followed, user: str, item: str
) -> Explained:
    """The same by what somebody follows already, such as a `LocalWorker`. Raises Unexplained."""
    read = await _read(settings, store, user)
    if (at := items.get(item)) is None:
        raise Unexplained(f"nothing is known of item {item} yet")
    return await _named(settings, store, _explain(settings, items, told, read, user, at))


async def _read(settings: Settings, store: Store, user: str) -> _Read:
    keys, part = Keys(settings.prefix), f"u{partition_of(user, settings.partitions)}"
    packed, engaged, shown, mixture, view = await store.get(
        [
            keys.user(part, user),
            keys.engagement(part, user),
            keys.attribution(part, user),
            keys.mixture(part),
            keys.recs(user),
        ]
    )
    if packed is None:
        raise Unexplained(f"nothing is known of user {user} yet")
    listed = msgspec.json.decode(view, type=ViewList) if view else None
    return _Read(packed, engaged, shown, mixture, listed)


@asynccontextmanager
async def caught_up(settings: Settings) -> AsyncIterator[tuple[Items, Followed]]:
    """What the topics say, up to their ends. Raises BrokerError."""
    broker = await describe(settings)
    for topic in followed(settings):
        name = topic.full(settings)
        if name not in broker.partitions:
            raise BrokerError(f"topic {name} does not exist: make it by `tidewise topics create`")
        if broker.partitions[name] != settings.partitions:
            raise BrokerError(mismatch(name, broker.partitions[name], settings))
    items = Items()
    follower = Follower(settings, items)
    try:
        await follower.start()
        await follower.catch_up()
        yield items, follower
    finally:
        await follower.stop()


def _explain(
    settings: Settings, items: Items, told: Followed, read: _Read, user: str, item: int
) -> Explained:
    rows = unpack([read.user], items, bounds_of(settings))
    now_ms = time_ms(read.view.time) if read.view else int(rows.newest[0])
    lister = Lister(settings, items, told)
    lister.adopt(read.mixture)
    whose, known = _listed(settings, user, rows)
    liked = preferred([whose], known.seen, {user: UserState.unpack(read.engaged)})
    query = lister.query([whose], known, np.array([now_ms]), liked)
    seen = impressions([Touches.unpack(read.shown)]) if read.shown else None
    left_out = bought(rows, now_ms // 1000 - int(settings.exclude_bought_s))
    found = explain(lister.recommender, lister.sources, query, item, left_out[1])
    asked = _Asked(settings, items, lister, query, left_out, user, seen)
    return Explained(
        user,
        found.item,
        time_text(now_ms),
        lister.recommender.mixture.learned,
        _told(settings, found, rows, item),
        [Step(name, place) for name, place in _places(asked, item)],
        _published(read.view, found.item),
        {},
        list(_notes(settings, stranger=whose != user)),
    )


def _listed(settings: Settings, user: str, rows: Rows) -> tuple[str, Rows]:
    """The user as his list is made: a stranger without history where he is held out of lists."""
    if settings.holdout_lists and held_out(user, EngagementConfig.of(settings)):
        return "", Rows.blank(1, rows.bounds)
    return user, rows


def _told(settings: Settings, found: Explanation, rows: Rows, item: int) -> Explanation:
    """When it was bought, and until when that keeps it out."""
    if found.status != BARRED:
        return found
    last_ms = last_bought(rows, item) * 1000
    until = time_text(last_ms + int(settings.exclude_bought_s * 1000))
    reason = f"it was bought at {time_text(last_ms)}: left out until {until} (exclude_bought_s)"
    return replace(found, reasons=[reason])


def _published(view: ViewList | None, item: str) -> Published | None:
    for place, line in enumerate(view.items if view else (), 1):
        if line.item == item:
            return Published(place, line.score, line.strategy, line.because)
    return None


def _notes(settings: Settings, stranger: bool) -> Iterator[str]:
    if stranger:
        yield "the user is held out (holdout_lists): his list is that of somebody of whom nothing is known"
    if settings.exposure:
        yield "exposure bounds come after these steps: they depend on what the worker has shown to all users"
    if _REMEMBERING & set(settings.components):
        yield "components that remember what a worker saw are told as if it had just started"
    if settings.rules:
        yield "rules see no device, place or channel here: these are not kept"


# After scoring


@dataclass(frozen=True, slots=True)
class _Asked:
    """The list that is asked about."""

    settings: Settings
    items: Items
    lister: Lister
    query: Query
    left_out: tuple[I32, I32]
    user: str
    seen: Impressions | None


def _places(asked: _Asked, item: int) -> Iterator[tuple[str, int | None]]:
    """The item's place in the list as it would be after each of the steps in use, one more at a time."""
    hood, sources = asked.lister.sources.hood, asked.lister.sources
    width = Shaper(asked.settings, asked.items, hood).width(asked.seen)
    ranked = asked.lister.recommender.rank(sources, asked.query, asked.left_out, width)
    for name, settings in _steps(asked.settings, asked.seen is not None):
        shaper = Shaper(settings, asked.items, hood)
        shaped = shaper.shape(ranked, [asked.user], asked.query.time_ms, asked.left_out, asked.seen)
        at = np.flatnonzero(shaped.items[0] == item)
        yield name, int(at[0]) + 1 if len(at) else None


def _steps(settings: Settings, seen: bool) -> Iterator[tuple[str, Settings]]:
    """Settings with one step more each, in the order of `stream.core.slate.choose`; the first has none."""
    on = _without_steps(settings)
    yield "score", on
    for do in ("exclude", "boost", "rotation", "pin", "exploration", "limit", "diversity"):
        update = _switched_on(settings, on, do, seen)
        if update:
            on = on.model_copy(update=update)
            yield _CALLED.get(do, do), on


def _without_steps(settings: Settings) -> Settings:
    off = {"rules": [], "rotation": 1.0, "explore_share": 0.0, "diversity": 0.0, "exposure": {}}
    return settings.model_copy(update=off)


_CALLED = {"exclude": "rules: exclude", "boost": "rules: boost", "pin": "rules: pin", "limit": "rules: limit"}


def _switched_on(settings: Settings, on: Settings, step: str, seen: bool) -> dict[str, Any]:
    """What a step changes in the settings; nothing where it is not in use."""
    if step == "rotation":
        return {"rotation": settings.rotation} if seen and settings.rotation < 1 else {}
    if step == "exploration":
        return {"explore_share": settings.explore_share} if settings.explore_share else {}
    if step == "diversity":
        return {"diversity": settings.diversity} if settings.diversity else {}
    more = [rule for rule in settings.rules if rule.do == step]
    done = {rule.do for rule in on.rules} | {step}
    return {"rules": [rule for rule in settings.rules if rule.do in done]} if more else {}


# What items are called


async def _named(settings: Settings, store: Store, found: Explained) -> Explained:
    """With the catalogue's names of the items, and why one of them is blocked."""
    keys, parts = Keys(settings.prefix), found.explanation
    because = [entry.because for channel in parts.channels for entry in channel.entries]
    items = list(dict.fromkeys([found.item, *(name for name in because if name is not None)]))
    views = await store.get([keys.item(item) for item in items])
    known = {
        item: msgspec.json.decode(view, type=ViewedItem)
        for item, view in zip(items, views, strict=True)
        if view is not None
    }
    names = {item: view.name for item, view in known.items() if view.name}
    if parts.status == BLOCKED and found.item in known:
        reason = "it is hidden" if known[found.item].hidden else "it is out of stock"
        parts = replace(parts, reasons=[reason])
    return replace(found, names=names, explanation=parts)
