"""Broker, store and workers of a benchmark, each in a process of its own on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from stream.embedded import EmbeddedBroker, EmbeddedStore, Server
from stream.settings import Settings

PASSED = ("broker_url", "store_url", "prefix", "topic_prefix", "partitions")
"""Settings that a worker is told; all others are the defaults."""
QUICK = {"session_timeout_s": "6", "rebalance_timeout_s": "6", "heartbeat_s": "1"}
"""Groups form sooner."""


@dataclass(frozen=True)
class Servers:
    """A broker and a store that run."""

    broker: Server
    store: Server
    kind: str

    def settings(self, name: str, **changes: object) -> Settings:
        """Settings with names of their own."""
        told = {"broker_url": self.broker.url, "store_url": self.store.url}
        return Settings.model_validate(told | {"prefix": name, "topic_prefix": f"{name}."} | changes)

    @property
    def pids(self) -> dict[str, int]:
        """By what they are."""
        return {"broker": self.broker.pid or 0, "store": self.store.pid or 0}


@contextmanager
def servers(kafka: bool = False) -> Iterator[Servers]:
    """The embedded pair; ``kafka``: Apache Kafka instead of the embedded broker."""
    with ExitStack() as stack:
        if kafka:
            from tests.kafka import ApacheKafka

            broker: Server = stack.enter_context(ApacheKafka())
        else:
            broker = stack.enter_context(EmbeddedBroker())
        kind = "Apache Kafka" if kafka else "embedded"
        yield Servers(broker, stack.enter_context(EmbeddedStore()), kind)


@contextmanager
def worker(
    settings: Settings, given: Mapping[str, str] | None = None, profile: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own. ``given``: more settings, by name; ``profile``: of a cProfile."""
    told = QUICK | {name: str(getattr(settings, name)) for name in PASSED} | dict(given or {})
    environment = os.environ | {f"TIDEWISE_{name.upper()}": value for name, value in told.items()}
    python = [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else [])]
    process = subprocess.Popen([*python, "-m", "stream.cli", "worker"], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
