"""The lookup client for frontends in Python: finished answers, one GET each, as any Redis client could.

``docs/keyspace.md`` documents the keys and their JSON. Errors of redis-py pass through (`redis.RedisError`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from state.keys import Keys
from state.segments import segments_of

_RETRIES = 1
"""A pooled connection may have died unnoticed: reading once more on a new one is safe."""


class ViewItem(msgspec.Struct, frozen=True):
    """One entry of a list, best first. ``because`` names the items that speak for it."""

    item: str
    score: float
    strategy: str = ""
    because: tuple[str, ...] = ()


class ViewList(msgspec.Struct, frozen=True):
    """A list: of a ``user``, of an ``item``, or of nobody (trending).

    ``version`` grows with every new list of the key, ``id`` is for attribution, ``time`` is of the newest
    event in it, ``arm`` the user's where arms are set. ``fallback``: it is what is trending, for the user has
    no list of his own; ``segment`` names the context in which it is.
    """

    version: str
    time: str
    items: tuple[ViewItem, ...]
    id: str = ""
    user: str | None = None
    item: str | None = None
    arm: str | None = None
    segment: str | None = None
    fallback: bool = False


class ViewedItem(msgspec.Struct, frozen=True):
    """What the catalogue says of an item; None where it says nothing."""

    version: str
    time: str
    item: str
    name: str | None = None
    description: str | None = None
    attributes: dict[str, Any] | None = None
    price: float | None = None
    stock: int | None = None
    hidden: bool | None = None
    group: str | None = None
    image: str | None = None
    url: str | None = None
    vector: list[float] | None = None


class ViewedLot(msgspec.Struct, frozen=True):
    """Points that expire together, and when."""

    points: int
    expires: str


class ViewedLoyalty(msgspec.Struct, frozen=True):
    """A user's points at ``time``, his tier (None: none yet), and what he reached when."""

    version: str
    time: str
    user: str
    points: int
    tier: str | None
    reached: dict[str, str]
    lots: tuple[ViewedLot, ...]


class Rate(msgspec.Struct, frozen=True):
    """A rate or ratio and the ends of its always-valid interval; None: nothing bounds it there."""

    value: float | None
    low: float | None
    high: float | None


class ViewedStrategy(msgspec.Struct, frozen=True):
    """What entries of one strategy brought about."""

    strategy: str
    impressions: int
    clicks: int
    conversions: int
    after_click: int
    revenue: float
    refunded: float
    ctr: Rate


class ViewedArm(msgspec.Struct, frozen=True):
    """What lists brought about in one arm; ``click_rate`` and ``conversion`` are of its users."""

    arm: str
    share: float
    lists: int
    strays: int
    impressions: int
    clicks: int
    conversions: int
    after_click: int
    revenue: float
    refunded: float
    ctr: float
    users: int
    clickers: int
    buyers: int
    click_rate: Rate
    conversion: Rate


class ViewedTest(msgspec.Struct, frozen=True):
    """An arm against the first: how many times as many of its users do what it is compared ``by``."""

    by: str
    arm: str
    against: str
    ratio: Rate
    p_value: float


class ViewedDay(msgspec.Struct, frozen=True):
    """What lists brought about on one day in one arm."""

    day: str
    arm: str
    lists: int
    impressions: int
    clicks: int
    conversions: int
    after_click: int
    revenue: float
    refunded: float


class ViewedMetrics(msgspec.Struct, frozen=True):
    """What lists bring about: ``docs/metrics.md``."""

    version: str
    time: str
    experiment: str
    alpha: float
    strategies: tuple[ViewedStrategy, ...]
    arms: tuple[ViewedArm, ...]
    tests: tuple[ViewedTest, ...]
    days: tuple[ViewedDay, ...]


_METRICS = msgspec.json.Decoder(ViewedMetrics)
_LIST = msgspec.json.Decoder(ViewList)
_ITEM = msgspec.json.Decoder(ViewedItem)


def _list(value: bytes | str | None) -> ViewList | None:
    return _LIST.decode(value) if value is not None else None


def _item(value: bytes | str | None) -> ViewedItem | None:
    return _ITEM.decode(value) if value is not None else None


def _loyalty(value: bytes | str | None) -> ViewedLoyalty | None:
    return None if value is None else msgspec.json.decode(value, type=ViewedLoyalty)


def _metrics(value: bytes | str | None) -> ViewedMetrics | None:
    return _METRICS.decode(value) if value is not None else None


def _together(found: Sequence[bytes | str | None], asked: Sequence[str], size: int) -> tuple[ViewItem, ...]:
    """The best of what goes with items, by the sum of what each item's list says."""
    parts: dict[str, list[tuple[float, str]]] = {}
    for item, listed in zip(asked, map(_list, found), strict=True):
        for line in listed.items if listed is not None else ():
            if line.item not in asked:
                parts.setdefault(line.item, []).append((line.score, item))
    sums = sorted(((-sum(score for score, _ in some), item) for item, some in parts.items()))[:size]
    return tuple(ViewItem(item, -score, "cart", (max(parts[item])[1],)) for score, item in sums)


def _keys_of(keys: Keys, user: str, context: Mapping[str, object]) -> list[str]:
    """Where a visitor's list may stand, the best first."""
    segments = [keys.trending(segment) for segment in segments_of(context)]
    return [keys.recs(user), *segments, keys.trending()]


def _first(found: Sequence[bytes | str | None]) -> ViewList | None:
    """A user's list, if he has one; else the first of the others that there is."""
    own, *others = found
    listed = _list(own)
    if listed is not None and listed.items:
        return listed
    return _fallback(_list(next((other for other in others if other is not None), None)))


def _fallback(trending: ViewList | None) -> ViewList | None:
    return msgspec.structs.replace(trending, fallback=True) if trending is not None else None


class Lookup:
    """Reads views from threads. One pool of connections; close it, or use it as a context manager."""

    def __init__(self, url: str, prefix: str = "tidewise", timeout_s: float = 1.0) -> None:
        self.keys = Keys(prefix)
        self._redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), _RETRIES),
        )

    def recs(self, user: str, context: Mapping[str, object] | None = None) -> ViewList | None:
        """A user's list; what is trending when he has none or was forgotten. None: neither exists yet.

        ``context`` is what is known of a visitor (`device`, `place`, `channel`, `hour` and `weekday` in UTC):
        whoever has no list gets what is trending in the narrowest segment there is. One trip to the store.
        """
        if context:
            return _first(self._redis.mget(_keys_of(self.keys, user, context)))
        found = _list(self._get(self.keys.recs(user)))
        return found if found is not None and found.items else _fallback(self.trending())

    def cart(self, user: str) -> ViewList | None:
        """What goes with a user's cart, as of its last change. None, or a list of nothing: it is empty."""
        return _list(self._get(self.keys.cart(user)))

    def loyalty(self, user: str) -> ViewedLoyalty | None:
        """A user's points, tier and milestones. None: he has none."""
        return _loyalty(self._get(self.keys.loyalty(user)))

    def together(self, items: Sequence[str], size: int = 20) -> tuple[ViewItem, ...]:
        """What goes with some items, for carts that no event told of: by their lists of similar items.

        One trip to the store. Scores are sums of those lists' scores, ties by name.
        """
        asked = list(dict.fromkeys(items))
        return _together(self._redis.mget(map(self.keys.neighbors, asked)) if asked else (), asked, size)

    def neighbors(self, item: str) -> ViewList | None:
        """Items similar to an item. None: nothing is known of it."""
        return _list(self._get(self.keys.neighbors(item)))

    def trending(self, segment: str = "") -> ViewList | None:
        """What is popular now, or a ``segment`` of it (``docs/keyspace.md``). None: there is nothing yet."""
        return _list(self._get(self.keys.trending(segment)))

    def item(self, item: str) -> ViewedItem | None:
        """What the catalogue says of an item. None: nothing."""
        return _item(self._get(self.keys.item(item)))

    def metrics(self) -> ViewedMetrics | None:
        """What lists bring about. None: none was shown yet."""
        return _metrics(self._get(self.keys.metrics()))

    def _get(self, key: str) -> bytes | str | None:
        return self._redis.get(key)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncLookup:
    """`Lookup` for asyncio: the same answers, awaited."""

    def __init__(self, url: str, prefix: str = "tidewise", timeout_s: float = 1.0) -> None:
        self.keys = Keys(prefix)
        self._redis = AsyncRedis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=AsyncRetry(NoBackoff(), _RETRIES),
        )

    async def recs(self, user: str, context: Mapping[str, object] | None = None) -> ViewList | None:
        """A user's list; what is trending when he has none or was forgotten. None: neither exists yet.

        ``context`` as for `Lookup.recs`.
        """
        if context:
            return _first(await self._redis.mget(_keys_of(self.keys, user, context)))
        found = _list(await self._get(self.keys.recs(user)))
        return found if found is not None and found.items else _fallback(await self.trending())

    async def cart(self, user: str) -> ViewList | None:
        """What goes with a user's cart, as of its last change. None, or a list of nothing: it is empty."""
        return _list(await self._get(self.keys.cart(user)))

    async def loyalty(self, user: str) -> ViewedLoyalty | None:
        """A user's points, tier and milestones. None: he has none."""
        return _loyalty(await self._get(self.keys.loyalty(user)))

    async def together(self, items: Sequence[str], size: int = 20) -> tuple[ViewItem, ...]:
        """What goes with some items, for carts that no event told of: by their lists of similar items.

        One trip to the store. Scores are sums of those lists' scores, ties by name.
        """
        asked = list(dict.fromkeys(items))
        found = await self._redis.mget(map(self.keys.neighbors, asked)) if asked else ()
        return _together(found, asked, size)

    async def neighbors(self, item: str) -> ViewList | None:
        """Items similar to an item. None: nothing is known of it."""
        return _list(await self._get(self.keys.neighbors(item)))

    async def trending(self, segment: str = "") -> ViewList | None:
        """What is popular now, or a ``segment`` of it (``docs/keyspace.md``). None: there is nothing yet."""
        return _list(await self._get(self.keys.trending(segment)))

    async def item(self, item: str) -> ViewedItem | None:
        """What the catalogue says of an item. None: nothing."""
        return _item(await self._get(self.keys.item(item)))

    async def metrics(self) -> ViewedMetrics | None:
        """What lists bring about. None: none was shown yet."""
        return _metrics(await self._get(self.keys.metrics()))

    async def _get(self, key: str) -> bytes | str | None:
        return await self._redis.get(key)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
