"""The doctor against real servers, healthy and ill."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from redis.asyncio import Redis

from state.keys import STORE_FORMAT, Keys
from stream.admin import connected, create_topics
from stream.doctor import Finding, examine
from stream.embedded import EmbeddedStore, free_port
from stream.settings import Settings
from stream.topics import EVENTS, NEIGHBORS, TOPICS


def by_what(findings: list[Finding]) -> dict[str, Finding]:
    assert len({each.what for each in findings}) == len(findings)
    return {each.what: each for each in findings}


async def look(settings: Settings) -> dict[str, Finding]:
    return by_what(await asyncio.wait_for(examine(settings), 20))


@asynccontextmanager
async def changed(settings: Settings, command: str) -> AsyncIterator[Settings]:
    """A store of the test's own, changed by a command; commas part its arguments."""
    async with EmbeddedStore() as store:
        reader, writer = await asyncio.open_connection("127.0.0.1", store.port)
        words = [f"${len(word)}\r\n{word}\r\n" for word in command.split(",")]
        writer.write(f"*{len(words)}\r\n{''.join(words)}".encode())
        assert (await reader.read(1)) in b"+:"
        writer.close()
        yield settings.model_copy(update={"store_url": store.url})


async def test_a_fresh_place_has_no_error_and_one_warning(settings: Settings) -> None:
    found = await look(settings)
    assert {what for what, each in found.items() if each.level != "ok"} == {"persistence"}
    assert found["topics"].detail == f"{len(TOPICS)} topics with 4 partitions each"
    assert "nothing committed yet" in found["workers"].detail
    assert "Valkey" in found["store"].detail
    assert "no worker has run" in found["deployment"].detail
    assert all(bool(each.mend) == (each.level != "ok") for each in found.values())


async def test_missing_topics_are_errors_and_looking_makes_none(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    for _ in range(2):
        found = await look(settings)
        events = found[f"topic {EVENTS.full(settings)}"]
        assert (events.level, events.detail) == ("error", "is missing")
        assert events.mend == "tidewise topics create"


async def test_other_partition_counts_are_errors_on_both_sides(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(partitions=2)
    await create_topics(settings)
    async with Redis.from_url(settings.store_url) as store:
        key = Keys(settings.prefix).deployment()
        await store.hset(key, mapping={"partitions": "2", "format": STORE_FORMAT.decode()})
    assert (await look(settings))["deployment"] == Finding("ok", "deployment", "2 partitions, format 1")
    found = await look(settings.model_copy(update={"partitions": 3}))
    topic = found[f"topic {EVENTS.full(settings)}"]
    assert topic.level == "error"
    assert "has 2 partitions, the settings ask for 3" in topic.detail
    assert "TIDEWISE_PARTITIONS=2" in topic.mend
    assert found["deployment"].level == "error"
    assert "TIDEWISE_PARTITIONS=2" in found["deployment"].mend


async def test_topics_made_otherwise_are_errors(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    events, neighbors = EVENTS.full(settings), NEIGHBORS.full(settings)
    async with connected(settings) as client:
        times = {"message.timestamp.type": "CreateTime", "max.message.bytes": "9000000"}
        await client.create_topics(
            [
                NewTopic(events, 4, 1, topic_configs=times),
                NewTopic(neighbors, 4, 1, topic_configs={"cleanup.policy": "delete"}),
            ]
        )
    await create_topics(settings)
    found = await look(settings)
    ill = {what: each for what, each in found.items() if each.level == "error"}
    assert set(ill) == {f"topic {events}", f"topic {neighbors}"}
    assert ill[f"topic {events}"].detail == "has message.timestamp.type=CreateTime, not LogAppendTime"
    assert "has cleanup.policy=delete, not compact" in ill[f"topic {neighbors}"].detail
    assert f"--topic {neighbors} --add-config cleanup.policy=compact" in ill[f"topic {neighbors}"].mend


async def test_lag_without_a_worker_is_a_warning(settings: Settings) -> None:
    topic = EVENTS.full(settings)
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap) as producer:
        for _ in range(5):
            await producer.send_and_wait(topic, b"{}", partition=1)
    group = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap, group_id=settings.group, enable_auto_commit=False
    )
    async with group:
        group.assign([TopicPartition(topic, 1)])
        await group.commit({TopicPartition(topic, 1): 2})
    workers = (await look(settings))["workers"]
    assert workers.level == "warning"
    assert f"lag 3 ({topic}-1: 3)" in workers.detail
    assert workers.mend == "start one: tidewise worker"


async def test_nobody_there_is_two_errors_within_the_deadline(make_settings: Callable[..., Settings]) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    store = f"redis://user:secret@{nowhere}/0"
    settings = make_settings(broker_url=f"kafka://{nowhere}", store_url=store, connect_timeout_s=0.5)
    found = await asyncio.wait_for(look(settings), 5)
    assert {what: each.level for what, each in found.items()} == {"broker": "error", "store": "error"}
    assert "TIDEWISE_BROKER_URL" in found["broker"].mend
    assert "TIDEWISE_STORE_URL" in found["store"].mend
    assert "secret" not in found["store"].detail


async def test_addresses_of_no_kind_are_errors_too(make_settings: Callable[..., Settings]) -> None:
    found = await look(make_settings(broker_url="kafka://", store_url="http://x"))
    assert {what: each.level for what, each in found.items()} == {"broker": "error", "store": "error"}


@pytest.mark.parametrize(
    ("command", "what", "level", "detail"),
    [
        ("CONFIG,SET,maxmemory-policy,allkeys-lru", "eviction", "error", "allkeys-lru"),
        ("CONFIG,SET,appendonly,yes", "persistence", "ok", "append-only"),
        ("CONFIG,SET,save,60 1", "persistence", "warning", "snapshots only"),
        ("HSET,tidewise:deployment,partitions,4,format,99", "deployment", "error", "format 99"),
    ],
)
async def test_what_a_store_may_have(
    settings: Settings, command: str, what: str, level: str, detail: str
) -> None:
    async with changed(settings, command) as other:
        finding = (await look(other.model_copy(update={"prefix": "tidewise"})))[what]
    assert finding.level == level
    assert detail in finding.detail


async def test_clocks_apart_are_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.doctor.time", SimpleNamespace(time=lambda: time.time() + 10))
    clock = (await look(settings))["clock"]
    assert clock.level == "warning"
    assert re.search(r"-(10\.0|9\.9)\d\d s", clock.detail)
