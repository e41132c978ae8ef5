"""Topics on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stream.admin import BrokerError, create_topics, describe
from stream.embedded import free_port
from stream.settings import Settings
from stream.topics import TOPICS


async def test_makes_every_topic_once(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(partitions=3)
    first = await create_topics(settings)
    assert [made.topic for made in first] == [topic.full(settings) for topic in TOPICS]
    assert {(made.partitions, made.created) for made in first} == {(3, True)}
    second = await create_topics(settings)
    assert {(made.partitions, made.created) for made in second} == {(3, False)}


async def test_refuses_another_number_of_partitions_and_makes_nothing(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(partitions=2)
    await create_topics(settings)
    other = settings.model_copy(update={"partitions": 5})
    with pytest.raises(BrokerError, match=r"events has 2 partitions.*ask for 5.*TIDEWISE_PARTITIONS=2"):
        await create_topics(other)
    assert set((await describe(settings)).partitions.values()) == {2}


async def test_describing_makes_no_topic(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    assert (await describe(settings)).partitions == {}
    assert (await describe(settings)).partitions == {}


async def test_describe_names_nodes_topics_and_configuration(settings: Settings) -> None:
    broker = await describe(settings)
    assert broker.nodes == [settings.bootstrap]
    assert broker.partitions == {topic.full(settings): 4 for topic in TOPICS}
    assert set(broker.configs) == set(broker.partitions)


async def test_nobody_there_is_an_error_that_names_the_setting(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(broker_url=f"kafka://127.0.0.1:{free_port()}", connect_timeout_s=1.0)
    with pytest.raises(BrokerError, match="TIDEWISE_BROKER_URL"):
        await create_topics(settings)
