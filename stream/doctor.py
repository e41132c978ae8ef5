"""What `tidewise doctor` looks at: can a worker run here, and what should be mended first?

Nothing is written and no topic is made by looking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from state.keys import STORE_FORMAT, Keys
from state.model import Head
from state.redis import RedisStore
from state.store import Doubt, StoreError
from stream.admin import Broker, BrokerError, connected, describe, mismatch
from stream.settings import Settings
from stream.status import INPUTS
from stream.topics import CATALOG, EVENTS, INCREMENTS, TOPICS, Topic, config_of

OLDEST_STORE = 6
"""First major version with all commands in use, of Redis; every Valkey has them."""
SKEW_S = 1.0
"""Clocks further apart than this get a warning: `received` and the terms of epochs come from several."""
CONSUMED = (EVENTS, CATALOG, INCREMENTS)
STILL_S = 6.0
"""With lag, positions are watched this long at most: a worker that lives moves them about each second."""

AGAIN = "look again in a minute; if it stays so, look at the workers' logs and their /live"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``mend`` says what to do and is empty when there is nothing to do."""

    level: Literal["ok", "warning", "error"]
    what: str
    detail: str
    mend: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Look at the broker, the store and the deployment; every look has a deadline, and none raises."""
    broker, store = await asyncio.gather(_broker(settings), _store(settings))
    return broker + store


# The broker


async def _broker(settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(2 * settings.connect_timeout_s):
            broker = await describe(settings)
    except (BrokerError, TimeoutError) as error:
        detail = str(error) or f"{settings.bootstrap} answers too slowly"
        return [Finding("error", "broker", detail, "start the broker, or set TIDEWISE_BROKER_URL")]
    reached = Finding("ok", "broker", f"cluster {broker.cluster} at {', '.join(broker.nodes)}")
    return [reached, *_topics(broker, settings), await _workers(broker, settings)]


def _topics(broker: Broker, settings: Settings) -> list[Finding]:
    wrong = [each for topic in TOPICS if (each := _topic(topic, broker, settings))]
    detail = f"{len(TOPICS)} topics with {settings.partitions} partitions each"
    return wrong or [Finding("ok", "topics", detail)]


def _topic(topic: Topic, broker: Broker, settings: Settings) -> Finding | None:
    name = topic.full(settings)
    what = f"topic {name}"
    partitions = broker.partitions.get(name)
    if partitions is None:
        return Finding("error", what, "is missing", "tidewise topics create")
    if partitions != settings.partitions:
        detail, mend = mismatch(name, partitions, settings).split(": ", 1)
        return Finding("error", what, detail, mend)
    wanted = {"cleanup.policy": "delete"} | config_of(topic, settings)
    found = broker.configs.get(name, {})
    wrong = [each for each in wanted if each in found and not _serves(each, found[each], wanted[each])]
    if not wrong:
        return None
    detail = "; ".join(f"has {each}={found[each]}, not {wanted[each]}" for each in wrong)
    alter = f"kafka-configs.sh --bootstrap-server {settings.bootstrap} --alter --topic {name} --add-config "
    return Finding("error", what, detail, alter + ",".join(f"{each}={wanted[each]}" for each in wrong))


def _serves(option: str, found: str, wanted: str) -> bool:
    """Whether a topic's option does what is wanted: a larger limit does, any other difference does not."""
    return int(found) >= int(wanted) if option == "max.message.bytes" else found == wanted


async def _workers(broker: Broker, settings: Settings) -> Finding:
    """How far the group's commits are behind the ends of the logs, and whether anybody is in the group."""
    try:
        async with asyncio.timeout(2 * settings.connect_timeout_s), connected(settings) as client:
            inputs = _inputs(broker, settings)
            committed = await _committed(client, inputs, settings)
            members, stable = await _members(client, settings.group)
            if members:  # they commit what they acknowledge: of a silent or stuck partition nothing
                committed = await _begins(settings, [tp for tp in inputs if tp not in committed]) | committed
            ends = await _ends(settings, list(committed))
    except (BrokerError, KafkaError, TimeoutError) as error:
        mend = "look at the broker's log: does it have its group coordinator and its internal topics?"
        return Finding("error", "workers", f"group {settings.group} cannot be read: {error!r}", mend)
    found = _lag({tp: max(0, ends[tp] - offset) for tp, offset in committed.items()}, members, settings)
    lagging = {tp: ends[tp] for tp, offset in committed.items() if ends[tp] > offset}
    if not lagging or not members:
        return found
    if not stable:
        return Finding("warning", "workers", f"{found.detail}; the group is rebalancing", AGAIN)
    return await _moving(found, lagging, settings)


def _lag(lags: Mapping[TopicPartition, int], members: int, settings: Settings) -> Finding:
    total = sum(lags.values())
    listed = ", ".join(f"{tp.topic}-{tp.partition}: {lag}" for tp, lag in sorted(lags.items()) if lag)
    state = f"lag {total}" if lags else "nothing committed yet"
    detail = f"{members} in group {settings.group}; {state}" + (f" ({listed})" if listed else "")
    if total and not members:
        return Finding("warning", "workers", detail, "start one: tidewise worker")
    return Finding("ok", "workers", detail)


async def _moving(found: Finding, lagging: Mapping[TopicPartition, int], settings: Settings) -> Finding:
    """Whether the store's positions move where there is lag: a process may be in its group and do nothing."""
    try:
        async with asyncio.timeout(STILL_S + 4 * settings.connect_timeout_s):
            still, moved = await _watch(lagging, settings)
    except (Doubt, StoreError, KafkaError, OSError, TimeoutError) as error:
        return Finding("warning", "workers", f"{found.detail}; not known whether they move: {error!r}", AGAIN)
    if not still:
        return found
    listed = ", ".join(f"{tp.topic}-{tp.partition} at {at} of {lagging[tp]}" for tp, at in still.items())
    detail = f"{found.detail}; no progress in {STILL_S:g} s: {listed}"
    if moved:
        return Finding("warning", "workers", detail, AGAIN)
    return Finding("error", "workers", detail, "restart the workers; their logs and /live say which hangs")


async def _watch(
    lagging: Mapping[TopicPartition, int], settings: Settings
) -> tuple[dict[TopicPartition, int], bool]:
    """Positions that do not move although a record stands behind them, and whether any other moved."""
    keys = Keys(settings.prefix)
    store = await RedisStore.open(settings.store_url, keys, settings.store_timeout_s)
    try:
        before = await _positions(store, lagging, settings)
        still = waiting = {tp: at for tp, at in before.items() if at < lagging[tp]}
        until = time.monotonic() + STILL_S
        while still and time.monotonic() < until:
            await asyncio.sleep(0.5)
            now = await _positions(store, still, settings)
            still = {tp: at for tp, at in still.items() if now[tp] == at}
    finally:
        await store.close()
    stuck = {tp: at for tp, at in still.items() if await _record_at(tp, at, settings)}
    return stuck, len(still) < len(waiting)


async def _positions(
    store: RedisStore, tps: Collection[TopicPartition], settings: Settings
) -> dict[TopicPartition, int]:
    """The store's positions, 0 where it has none yet."""
    prefix = settings.topic_prefix
    sides = {topic: side for side, topics in INPUTS.items() for topic in topics}
    names = {tp: tp.topic.removeprefix(prefix) for tp in tps}
    blobs = await store.get([store.keys.head(f"{sides[name]}{tp.partition}") for tp, name in names.items()])
    heads = [Head.unpack(blob).positions if blob else {} for blob in blobs]
    return {
        tp: head[name].offset if name in head else 0
        for (tp, name), head in zip(names.items(), heads, strict=True)
    }


async def _record_at(tp: TopicPartition, offset: int, settings: Settings) -> bool:
    """Whether there is one at an offset or after it: transaction markers end a log, too."""
    async with _consumer(settings) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, offset)
        return bool(await consumer.getmany(tp, timeout_ms=1000, max_records=1))


def _inputs(broker: Broker, settings: Settings) -> list[TopicPartition]:
    names = [name for topic in CONSUMED if (name := topic.full(settings)) in broker.partitions]
    return [TopicPartition(name, part) for name in names for part in range(broker.partitions[name])]


async def _committed(client: Any, tps: list[TopicPartition], settings: Settings) -> dict[TopicPartition, int]:
    """Committed offsets. A cluster that never had a group needs a moment to make its coordinator."""
    while tps:
        try:
            offsets = await client.list_consumer_group_offsets(settings.group, partitions=tps)
            return {tp: at.offset for tp, at in offsets.items() if at.offset >= 0}
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(0.1)
    return {}


async def _members(client: Any, group: str) -> tuple[int, bool]:
    """How many there are, and whether each knows its partitions."""
    (response,) = await client.describe_consumer_groups([group])
    state, members = response.groups[0][2], response.groups[0][5]
    return len(members), state == "Stable"


async def _begins(settings: Settings, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    if not tps:  # aiokafka 0.14 raises CancelledError from stopping a consumer that has done nothing
        return {}
    async with _consumer(settings) as consumer:
        begins: dict[TopicPartition, int] = await consumer.beginning_offsets(tps)
        return begins


async def _ends(settings: Settings, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    if not tps:
        return {}
    async with _consumer(settings) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(tps)
        return ends


def _consumer(settings: Settings) -> Any:
    return AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        request_timeout_ms=int(settings.connect_timeout_s * 1000),
    )


# The store


async def _store(settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(4 * settings.connect_timeout_s), _client(settings) as store:
            return [each async for each in _store_findings(store, settings)]
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        detail = f"{_without_password(settings.store_url)}: {str(error) or type(error).__name__}"
        return [Finding("error", "store", detail, "start the store, or set TIDEWISE_STORE_URL")]


def _client(settings: Settings) -> Redis:
    return Redis.from_url(
        settings.store_url,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=settings.store_timeout_s,
    )


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


async def _store_findings(store: Redis, settings: Settings) -> AsyncIterator[Finding]:
    info: dict[str, Any] = await store.info()
    yield _version(info)
    yield _eviction(info)
    yield await _persistence(store, info)
    yield await _skew(store)
    yield _deployment(await _agreed(store, info, settings), settings)


def _version(info: Mapping[str, Any]) -> Finding:
    if "valkey_version" in info:
        return Finding("ok", "store", f"Valkey {info['valkey_version']}")
    version = str(info["redis_version"])
    if int(version.split(".")[0]) < OLDEST_STORE:
        mend = f"upgrade to Valkey, or to Redis {OLDEST_STORE} or newer"
        return Finding("error", "store", f"Redis {version} is too old", mend)
    return Finding("ok", "store", f"Redis {version}")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == "unknown":
        mend = "make sure that it is noeviction"
        return Finding("warning", "eviction", "the store does not tell its maxmemory-policy", mend)
    if policy != "noeviction":
        return Finding(
            "error",
            "eviction",
            f"maxmemory-policy is {policy}: keys of the state would be lost",
            "CONFIG SET maxmemory-policy noeviction, and in the store's configuration file",
        )
    return Finding("ok", "eviction", "maxmemory-policy is noeviction")


async def _persistence(store: Redis, info: Mapping[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return Finding("ok", "persistence", "append-only file is on")
    try:
        snapshots = (await store.config_get("save")).get("save")
    except RedisError:  # managed stores forbid CONFIG
        snapshots = None
    mend = "CONFIG SET appendonly yes, and in the store's configuration file"
    if snapshots is None:
        return Finding("warning", "persistence", "append-only file is off or not told", mend)
    detail = "snapshots only" if snapshots else "off"
    lost = "what came after the last one" if snapshots else "all state"
    return Finding("warning", "persistence", f"{detail}: a crash of the store loses {lost}", mend)


async def _skew(store: Redis) -> Finding:
    """The store's clock against the middle of the trip that asks for it."""
    before = time.time()
    seconds, micros = await store.time()
    after = time.time()
    skew = seconds + micros / 1e6 - (before + after) / 2
    detail = f"the store's clock is {skew:+.3f} s from this machine's (trip {after - before:.3f} s)"
    if abs(skew) > SKEW_S + (after - before) / 2:
        return Finding("warning", "clock", detail, "let NTP or chrony set the clocks of both machines")
    return Finding("ok", "clock", detail)


async def _agreed(store: Redis, info: Mapping[str, Any], settings: Settings) -> list[str | None]:
    """Partitions and format as the deployment's workers wrote them."""
    key, fields = Keys(settings.prefix).deployment(), ["partitions", "format"]
    if info.get("cluster_enabled"):
        async with RedisCluster.from_url(settings.store_url) as cluster:
            found = await cluster.hmget(key, fields)
    else:
        found = await store.hmget(key, fields)
    return [each.decode() if isinstance(each, bytes) else each for each in found]


def _deployment(agreed: Sequence[str | None], settings: Settings) -> Finding:
    partitions, layout = agreed
    if partitions is None:
        return Finding("ok", "deployment", f"no worker has run under prefix {settings.prefix} yet")
    if int(partitions) != settings.partitions:
        detail = (
            f"the store was made with {partitions} partitions, the settings ask for {settings.partitions}"
        )
        mend = f"set TIDEWISE_PARTITIONS={partitions}, or replay under a new TIDEWISE_PREFIX"
        return Finding("error", "deployment", detail, mend)
    if layout != STORE_FORMAT.decode():
        detail = f"the store has format {layout}, this version reads {STORE_FORMAT.decode()}"
        mend = "run the version of Tidewise that made it, or replay under a new TIDEWISE_PREFIX"
        return Finding("error", "deployment", detail, mend)
    return Finding("ok", "deployment", f"{partitions} partitions, format {layout}")
