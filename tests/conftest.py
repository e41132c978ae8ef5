"""Real servers for tests: one broker and one store a session, and unique prefixes for every test.

The broker is the embedded one, or Apache Kafka when TIDEWISE_TEST_KAFKA=1. Nothing is ever flushed: tests
share the servers, not the names.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings as hypothesis_settings

from stream.admin import create_topics
from stream.embedded import EmbeddedBroker, EmbeddedStore
from stream.settings import Settings
from tests.commands import cli as cli
from tests.kafka import ApacheKafka

# A shared machine may stall any example for longer than Hypothesis' 200 ms. The same examples every time, so
# that a change is judged by what it changed; TIDEWISE_TEST_EXPLORE=1 looks for new ones.
EXPLORE = os.environ.get("TIDEWISE_TEST_EXPLORE") == "1"
hypothesis_settings.register_profile("tidewise", deadline=None, derandomize=not EXPLORE)
hypothesis_settings.load_profile("tidewise")

ON_KAFKA = os.environ.get("TIDEWISE_TEST_KAFKA") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of what only Apache Kafka does are left out, not skipped, on the embedded broker."""
    if ON_KAFKA:
        return
    left_out = [item for item in items if item.get_closest_marker("kafka")]
    items[:] = [item for item in items if not item.get_closest_marker("kafka")]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    with ApacheKafka() if ON_KAFKA else EmbeddedBroker() as broker:
        yield broker.url


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    with EmbeddedStore() as store:
        yield store.url


@pytest.fixture
def make_settings(broker_url: str, store_url: str) -> Callable[..., Settings]:
    """Settings with names of their own at every call; keyword arguments change single settings."""

    def make(**changes: object) -> Settings:
        name = f"t{secrets.token_hex(5)}"
        values: dict[str, object] = {
            "broker_url": broker_url,
            "store_url": store_url,
            "prefix": name,
            "topic_prefix": f"{name}.",
            "partitions": 4,
            "session_timeout_s": 3.0,
            "rebalance_timeout_s": 3.0,
            "heartbeat_s": 0.5,
        }
        return Settings.model_validate(values | changes)  # reads neither environment nor TOML file

    return make


@pytest.fixture
async def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings with names of their own, and all topics made."""
    made = make_settings()
    await create_topics(made)
    return made
