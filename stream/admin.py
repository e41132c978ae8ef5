"""Topics: making them, and seeing what the broker has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from stream.settings import Settings
from stream.topics import TOPICS, config_of

_ALREADY_EXISTS = 36
_BACKOFF_S = 0.05


class BrokerError(RuntimeError):
    """The broker cannot be reached, or refuses; the message says what to do."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic that stands on the broker, under its full name."""

    topic: str
    partitions: int
    created: bool


@dataclass(frozen=True, slots=True)
class Broker:
    """What a broker says of itself and of our topics (full names; one that is missing is not listed)."""

    cluster: str
    nodes: list[str]
    partitions: dict[str, int]
    configs: dict[str, dict[str, str]]


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client. Raises BrokerError when nobody answers in time, or a request fails."""
    milliseconds = int(settings.connect_timeout_s * 1000)
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap, request_timeout_ms=milliseconds)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await client.start()
        yield client
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise BrokerError(
            f"broker {settings.bootstrap}: {reason}; is it running, and is TIDEWISE_BROKER_URL its address?"
        ) from error
    finally:
        await client.close()


async def create_topics(settings: Settings) -> list[TopicState]:
    """Make every topic that is missing; return all of them, in the order of `TOPICS`.

    Raises BrokerError when one exists with another number of partitions, or the broker refuses.
    """
    wanted = {topic.full(settings): topic for topic in TOPICS}
    async with connected(settings) as client:
        before = await _partitions(client, wanted)
        _demand(before, settings)
        missing = [
            NewTopic(
                name, settings.partitions, settings.replication, topic_configs=config_of(topic, settings)
            )
            for name, topic in wanted.items()
            if name not in before
        ]
        made = await _create(client, missing) if missing else set()
        after = await _all_visible(client, wanted, settings)
    return [TopicState(name, after[name], name in made) for name in wanted]


async def describe(settings: Settings) -> Broker:
    """The broker, our topics and their configuration. Raises BrokerError."""
    async with connected(settings) as client:
        cluster = await client.describe_cluster()
        partitions = await _partitions(client, (topic.full(settings) for topic in TOPICS))
        return Broker(
            cluster=cluster["cluster_id"] or "",
            nodes=[f"{node['host']}:{node['port']}" for node in cluster["brokers"]],
            partitions=partitions,
            configs=await _configs(client, partitions),
        )


async def _partitions(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Partitions of those that exist. Asks for all topics: asking by name would make the missing ones."""
    found = {each["topic"]: len(each["partitions"]) for each in await client.describe_topics()}
    return {name: found[name] for name in names if name in found}


async def _configs(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    responses = await client.describe_configs(resources) if resources else []
    described = [each for response in responses for each in response.resources]
    return {each[3]: {entry[0]: entry[1] for entry in each[4]} for each in described}


async def _create(client: AIOKafkaAdminClient, topics: list[NewTopic]) -> set[str]:
    """Names of those made by us; another may make the same topics at the same time."""
    response: Any = await client.create_topics(topics)
    refused = [each for each in response.topic_errors if each[1] not in (0, _ALREADY_EXISTS)]
    if refused:
        name, code, message = refused[0]
        raise BrokerError(f"the broker refuses topic {name}: {message or for_code(code).__name__}")
    return {each[0] for each in response.topic_errors if each[1] == 0}


async def _all_visible(
    client: AIOKafkaAdminClient, names: Iterable[str], settings: Settings
) -> dict[str, int]:
    """Metadata trails creation: wait, at most ``connect_timeout_s``, until every topic has its partitions."""
    names = list(names)
    async with asyncio.timeout(settings.connect_timeout_s):
        while len(found := await _partitions(client, names)) < len(names):
            await asyncio.sleep(_BACKOFF_S)
    _demand(found, settings)
    return found


def _demand(found: Mapping[str, int], settings: Settings) -> None:
    for name, partitions in found.items():
        if partitions != settings.partitions:
            raise BrokerError(mismatch(name, partitions, settings))


def mismatch(topic: str, found: int, settings: Settings) -> str:
    """What to say of a topic with another number of partitions than the settings ask for."""
    return (
        f"topic {topic} has {found} partitions, the settings ask for {settings.partitions}: set"
        f" TIDEWISE_PARTITIONS={found} (for all topics), or use a new TIDEWISE_PREFIX and"
        " TIDEWISE_TOPIC_PREFIX and replay into them"
    )
