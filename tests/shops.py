"""A small shop with users, made from a seed, and what its lists must be: plain Python, dicts and loops."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream.core.interest import Interest
from stream.core.items import item_hash
from stream.core.neighbor_format import HIDDEN, OUT_OF_STOCK
from stream.core.neighborhood import Neighborhood
from stream.core.recommend.alike import Kin
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.mixture import Mixture
from stream.core.recommend.query import Query
from stream.core.weights import Decay
from tests.test_ranking import Entry, hood_of

NAMES = [f"i{at}" for at in range(60)]
RECORDED, NAMED, DESCRIBED = NAMES[:52], NAMES[:56], NAMES[:18]
"""Items with a record; those whose name is known; those of which the catalogue says something."""
PROFILE = 4
HOUR, DAY = 3_600_000, 86_400_000
NOW = 1_780_000_000_000
DECAY = Decay(90 * DAY)
COMPONENTS = ("item-item", "repeat", "content", "popular")
STRATEGY = dict.fromkeys(("far", "near", "last", "alike"), "item-item") | {
    "repeat": "repeat", "lately": "repeat", "return": "return", "content": "content", "popular": "trending",
}  # fmt: skip
"""What each channel is shown as; a prefix "item-item" is left out."""
COMPONENT = dict.fromkeys(("far", "near", "last", "alike"), "item-item") | {
    "repeat": "repeat", "lately": "repeat", "return": "repeat", "content": "content", "popular": "popular",
}  # fmt: skip
CHANNELS = tuple(name.removeprefix("item-item ") for name in Recommender(COMPONENTS).channels)

Evidence = dict[str, dict[str, list[tuple[float, str | None]]]]
"""Item → channel → entries (value, because), the newest first."""


@dataclass(frozen=True)
class Had:
    """What a user had to do with an item; times in seconds."""

    weight: int
    count: int
    first: int
    last: int
    at: int


@dataclass(frozen=True)
class User:
    profile: list[str]
    had: dict[str, Had]
    events: int
    time: int = NOW
    base: int = NOW // (360 * DAY)


@dataclass(frozen=True)
class World:
    """A shop, its users, and the same as the recommender sees them."""

    shop: dict[str, Entry]
    trending: list[str]
    users: list[User]
    neighbors: int = 24
    hood: Neighborhood = field(init=False)

    def __post_init__(self) -> None:
        hood = hood_of(self.shop, self.neighbors, complete=False)
        hood.items.add_all(NAMED)
        hood.reserve()
        object.__setattr__(self, "hood", hood)

    def ids(self, names: Sequence[str]) -> list[int]:
        """Local ids; unlike `Items.ids`, asking teaches no names."""
        hashes = np.array([item_hash(name) for name in names], dtype=np.uint64)
        return [int(at) for at in self.hood.items.ids_of_hashes(hashes)]

    def sources(self) -> Sources:
        return Sources(self.hood, np.array(self.ids(self.trending), dtype=np.int32), Kin())

    def query(self, users: Sequence[User] | None = None) -> Query:
        users = self.users if users is None else users
        profile = np.full((len(users), PROFILE), -1, dtype=np.int32)
        for row, user in enumerate(users):
            profile[row, : len(user.profile)] = self.ids(user.profile)
        return Query(
            profile, self.interest(users), np.array([user.time for user in users], dtype=np.int64), DECAY
        )

    def interest(self, users: Sequence[User]) -> Interest:
        had = [(name, user.had[name]) for user in users for name in sorted(user.had, key=item_hash)]

        def of_had(name: str) -> NDArray[np.uint32]:
            return np.array([getattr(one, name) for _, one in had], dtype=np.uint32)

        events = np.array([user.events for user in users], dtype=np.int64)
        return Interest(
            np.cumsum([0, *(len(user.had) for user in users)]),
            np.array(self.ids([name for name, _ in had]), dtype=np.int32),
            np.array([one.weight for _, one in had], dtype=np.int64),
            of_had("count"),
            of_had("first"),
            of_had("last"),
            of_had("at"),
            events,
            np.array([user.base for user in users], dtype=np.int64),
            events,
        )

    # What the catalogue and the counts say, by their formulas

    def shown(self, name: str) -> bool:
        blocked = name in self.shop and self.shop[name].flags & (HIDDEN | OUT_OF_STOCK)
        return name in NAMED and not blocked

    def similarity(self, i: str, j: str) -> float:
        column = (self.shop[j].col_sum if j in self.shop else 0.0) or 1.0
        return self.shop[i].list[j] / math.pow(self.shop[i].row_sum + 100, 0.9) / math.pow(column, 0.15)

    @cached_property
    def vectors(self) -> dict[str, dict[int, float]]:
        """TF-IDF of length 1; counts rounded down to four binary digits."""
        told = {name: entry.tokens for name, entry in self.shop.items() if entry.tokens}

        def coarse(n: int) -> int:
            return n >> max(n.bit_length() - 4, 0) << max(n.bit_length() - 4, 0)

        def idf(token: int) -> float:
            df = sum(token in tokens for tokens in told.values())
            return math.log((coarse(len(told)) + 1) / (coarse(df) + 1)) + 0.1

        found = {}
        for name, tokens in told.items():
            weighed = {token: weight * idf(token) for token, weight in tokens.items()}
            length = math.hypot(*weighed.values())
            found[name] = {token: value / length for token, value in weighed.items()}
        return found

    def cosine(self, i: str, j: str) -> float:
        a, b = self.vectors.get(i, {}), self.vectors.get(j, {})
        return sum(value * b.get(token, 0.0) for token, value in a.items())

    def likeness(self, i: str, place: int, j: str) -> float:
        """The cosine in 255ths, as it is kept."""
        kept = float(self.hood.likeness[self.hood.items.add(i), place]) / 255
        assert abs(kept - self.cosine(i, j)) < 0.501 / 255
        return kept

    def heat(self, name: str) -> float:
        entry = self.shop.get(name, Entry({}))
        return entry.popularity * math.pow(2, (entry.last // HOUR - NOW // HOUR) / 24)


def item_item(world: World, user: User) -> Iterator[tuple[str, str, float, str | None]]:
    """(channel, item, value, because) of the neighbours of the profile."""
    least = min(20, world.neighbors)
    for k, i in enumerate(user.profile):
        length = world.neighbors if k < PROFILE / 2 else least
        for place, j in enumerate(list(world.shop[i].list if i in world.shop else {})[:length]):
            if world.shown(j):
                s = world.similarity(i, j)
                yield "far", j, 0.8**k * s, i
                yield "near", j, 0.4**k * s, i
                yield "last", j, s * (k == 0), i
                yield "alike", j, 0.8**k * s * world.likeness(i, place, j), i


def left(days_ago: float, gap: float, n: int, half_life: float) -> float:
    q = 2 ** (-max(gap, 1e-6) / half_life)
    return 2 ** (-days_ago / half_life) * (sum(q**k for k in range(n)) if n > 1 else 1.0)


def own(world: World, user: User) -> Iterator[tuple[str, str, float, str | None]]:
    for i, had in user.had.items():
        if world.shown(i):
            halves = (user.time - user.base * 4 * 90 * DAY) / (90 * DAY)
            repeat = had.weight * 2 ** (-halves - 10)
            days = max(user.time / 1000 - had.last, 0) / 86_400
            gap = (had.last - had.first) / max(had.count - 1, 1) / 86_400
            yield "repeat", i, repeat, i
            yield "lately", i, repeat * left(days, gap, had.count, 10) / left(days, gap, had.count, 90), i
            yield "return", i, 1 / (1 + user.events - had.at), i


def alike(world: World, user: User) -> Iterator[tuple[str, str, float, str | None]]:
    for k, i in enumerate(user.profile[:3]):
        for j in DESCRIBED:
            if j != i and world.shown(j) and (cosine := world.cosine(i, j)) > 0:
                yield "content", j, 0.8**k * cosine * math.sqrt(1 + world.shop[j].col_sum), i


def evidence(world: World, user: User) -> Evidence:
    """All candidates of a user, and what speaks for each."""
    found: Evidence = defaultdict(lambda: defaultdict(list))
    for component in (item_item, own, alike):
        for channel, item, value, because in component(world, user):
            found[item][channel].append((value, because))
    for item in [name for name in world.trending if world.shown(name)][:60]:
        found[item]["popular"] = []
    total = sum(map(world.heat, world.trending))
    for item, given in found.items():
        given["popular"] = [(world.heat(item) / total if total else 0.0, None)]
    return found


def value(given: Evidence, item: str, channel: str) -> float:
    return sum(each for each, _ in given[item].get(channel, []))


def features(world: World, user: User) -> dict[str, list[float]]:
    """What else is known of the items he had to do with."""
    found = {}
    for i, had in user.had.items():
        if world.shown(i):
            age, count = math.log1p(user.events - had.at), math.log(had.count)
            ago = max(user.time / 1000 - had.last, 0) / 60
            gap = (had.last - had.first) / max(had.count - 1, 1) / 60
            due = math.log((ago + 60) / (gap + 60)) if had.count > 1 else 0.0
            due, minutes = min(max(due, -3), 3), math.log1p(ago)
            found[i] = [
                1, had.at == user.events, count, count**2, age, age**2, count * age, minutes,
                minutes**2 / 10, due, due**2, had.count == 1, math.log1p(user.events),
            ]  # fmt: skip
    return found


def kind(user: User) -> int:
    return sum(user.events >= edge for edge in (2, 3, 5, 10, 25))


def factors(mixture: Mixture, given: Evidence, user: User) -> list[float]:
    """exp(θ_c + θ_{b,c} − φ_c·L_c) of each channel."""
    found = []
    for c, channel in enumerate(CHANNELS):
        total = sum(value(given, item, channel) for item in given)
        weight = mixture.theta[c] + mixture.kinds[kind(user), c]
        found.append(math.exp(weight - mixture.phi[c] * math.log(total)) if total > 0 else 0.0)
    return found


def shares(mixture: Mixture, given: Evidence, user: User, item: str) -> list[float]:
    """What each channel gives to the score."""
    return [w * value(given, item, c) for w, c in zip(factors(mixture, given, user), CHANNELS, strict=True)]


def scores(mixture: Mixture, world: World, user: User) -> dict[str, float]:
    """exp(s) of every candidate."""
    given, told, found = evidence(world, user), features(world, user), {}
    weights = factors(mixture, given, user)
    for item in given:
        sum_ = 1e-9 + sum(w * value(given, item, c) for w, c in zip(weights, CHANNELS, strict=True))
        known = told.get(item, [])
        found[item] = sum_ * math.exp(sum(v * g for v, g in zip(mixture.v, known, strict=False)))
    return found


# Made from a seed


def some_user(rng: random.Random) -> User:
    events = rng.choice([0, 1, 2, 4, 8, 20, 90])
    had = {}
    for name in rng.sample(NAMES, rng.randint(0, 12) if events else 0):
        count, ago, span = rng.choice([1, 1, 2, 5]), rng.randint(0, 10**7), rng.randint(0, 10**7)
        last = NOW // 1000 - ago
        had[name] = Had(rng.randint(1, 2**24), count, last - span * (count > 1), last, rng.randint(1, events))
    return User(rng.sample(NAMES[:58], rng.randint(0, PROFILE)), had, events, NOW - rng.randint(0, 5 * DAY))


def some_entry(rng: random.Random, name: str, neighbors: int) -> Entry:
    counts = sorted((rng.expovariate(0.1) for _ in range(rng.randint(0, neighbors))), reverse=True)
    others = rng.sample([other for other in NAMES if other != name], len(counts))
    tokens = {token: rng.choice([0.5, 1.0]) for token in rng.sample(range(1, 9), rng.randint(1, 3))}
    return Entry(
        {other: float(np.float32(count)) for other, count in zip(others, counts, strict=True)},
        row_sum=rng.uniform(0, 500),
        col_sum=rng.choice([0.0, rng.uniform(0.125, 500)]),
        flags=rng.choice([0, 0, 0, 0, 0, HIDDEN, OUT_OF_STOCK]),
        last=NOW - rng.randint(0, 3 * DAY),
        tokens=tokens if name in DESCRIBED else {},
        popularity=float(np.float32(rng.expovariate(0.1))),
    )


def some_world(seed: int, users: int = 3, neighbors: int = 24) -> World:
    rng = random.Random(seed)
    shop = {name: some_entry(rng, name, neighbors) for name in RECORDED}
    trending = rng.sample(NAMED, rng.choice([0, 10, 50]))
    return World(shop, trending, [some_user(rng) for _ in range(users)], neighbors)


def some_recommender(seed: int) -> Recommender:
    """One whose mixture has learned something."""
    made, rng = Recommender(COMPONENTS), np.random.default_rng(seed)
    for name, most in (("theta", 1.0), ("kinds", 0.5), ("phi", 0.3), ("v", 0.2)):
        weights = getattr(made.mixture, name)
        weights += rng.uniform(-most, most, weights.shape)
    return made
