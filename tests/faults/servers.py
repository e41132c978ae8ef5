"""Servers that can die and come back with their data: a cluster of Apache Kafka, and Valkey with its AOF.

Ports and folders stay until the context ends. All methods block: from asyncio, call them by
`asyncio.to_thread`. No process outlives this one, and none depends on the thread that called for it.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from stream.embedded import EmbeddedStore, Server
from tests.faults.proxy import HOST, steady_port
from tests.kafka import ApacheKafka

_STARTER = ThreadPoolExecutor(1)
"""Linux ties a server's death signal to the thread that starts it: this one ends with the process."""


class Managed:
    """A context manager, plain and async, of all that `_open` puts on its stack."""

    _stack: ExitStack

    def _open(self, stack: ExitStack) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._stack.close)


class Lasting(Managed, Server):
    """A server whose data, in the folder `data`, outlive its process: until the context ends."""

    data: Path

    @contextmanager
    def folder(self) -> Iterator[None]:
        """Have `data`; nothing is left over, neither folder nor process."""
        with tempfile.TemporaryDirectory(prefix="tidewise-data-", ignore_cleanup_errors=True) as data:
            self.data = Path(data)
            try:
                yield
            finally:
                self.kill()

    def _open(self, stack: ExitStack) -> None:
        stack.enter_context(self.folder())
        self.start()

    def start(self) -> None:
        """Start on the same port and data, and wait until it answers. Raises EmbeddedError."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start, and do not wait."""
        self._demand_idle()
        _STARTER.submit(self._spawn).result()

    def wait(self) -> None:
        """Wait until it answers."""
        try:
            self._await_answer()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """kill −9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        super().stop()

    def stop(self, within_s: float = 15.0) -> None:
        """SIGTERM; kill −9 when that takes longer."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        super().stop()


class Valkey(Lasting, EmbeddedStore):
    """Valkey with an append-only file, on a port that stays. It keeps all it acknowledged."""

    name = "Valkey"

    def __init__(self) -> None:
        super().__init__(steady_port())

    def snapshot(self) -> None:
        """Keep a copy of the files as they are now: what a power cut would leave."""
        copy = self._copy()
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._files(), copy)

    def restore(self) -> None:
        """Put the copy back, while it is down: the store goes back in time."""
        self._demand_idle()
        shutil.rmtree(self._files())
        shutil.copytree(self._copy(), self._files())

    def config(self, name: str, value: str | int) -> None:
        """CONFIG SET."""
        with self._client() as client:
            client.config_set(name, value)

    def _files(self) -> Path:
        return self.data / "appendonlydir"

    def _copy(self) -> Path:
        return self.data / "copy"

    def _client(self) -> Redis:
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)

    def _answers(self) -> bool:
        """Whether it has read its files: until then it answers, but with an error."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def _command(self, folder: Path) -> Sequence[str | Path]:
        files: list[str | Path] = [
            "--dir",
            self.data,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]
        # A rewrite during a copy would leave a copy of neither.
        keep = ["--aof-load-truncated", "yes", "--auto-aof-rewrite-percentage", "0"]
        return [*super()._command(folder), *files, *keep]


class Node(Lasting, ApacheKafka):
    """One node of a cluster. Its listener PROXIED is at `behind` and sends clients to `advertised`."""

    java_options = ("-Xmx384m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")

    def __init__(self, number: int, advertised: int | None) -> None:
        super().__init__(steady_port())
        self.number = number
        self.controller = steady_port()
        self.behind = steady_port()
        self.advertised = advertised or self.behind
        self.quorum: Sequence[Node] = ()

    def _command(self, folder: Path) -> Sequence[str | Path]:
        return super()._command(self.data)

    def _properties(self, folder: Path) -> dict[str, object]:
        nodes = len(self.quorum)
        most, copies = min(nodes, 3), min(nodes, 2)
        voters = ",".join(f"{node.number}@{HOST}:{node.controller}" for node in self.quorum)
        direct = f"PLAINTEXT://{HOST}:{self.port}"
        kinds = (f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "PROXIED", "CONTROLLER"))
        return super()._properties(folder) | {
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "listeners": f"{direct},PROXIED://{HOST}:{self.behind},CONTROLLER://{HOST}:{self.controller}",
            "advertised.listeners": f"{direct},PROXIED://{HOST}:{self.advertised}",
            "listener.security.protocol.map": ",".join(kinds),
            "default.replication.factor": most,
            "offsets.topic.replication.factor": most,
            "transaction.state.log.replication.factor": most,
            "transaction.state.log.min.isr": copies,
            "min.insync.replicas": copies,
            **_QUICK,
        }


_QUICK = {
    "group.min.session.timeout.ms": 500,
    # A dead node is noticed within seconds.
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 2500,
    "replica.lag.time.max.ms": 2500,
    "replica.fetch.wait.max.ms": 200,
    # The cleaner runs at once, in a small heap.
    "log.cleaner.backoff.ms": 200,
    "log.cleaner.dedupe.buffer.size": 8_388_608,
    # Three nodes share the machine with everything else.
    "transaction.state.log.num.partitions": 8,
    "num.network.threads": 2,
    "num.io.threads": 2,
}


class Cluster(Managed):
    """Nodes of Apache Kafka, numbered from 1; a topic of three copies takes writes while two are up.

    ``advertised`` are the ports of proxies, one a node, in front of `behind`: a client that begins at
    `proxied_url` stays on them. Without, it stays on the nodes' second listeners.
    """

    def __init__(self, nodes: int = 3, advertised: Sequence[int] = ()) -> None:
        ports: Sequence[int | None] = advertised or [None] * nodes
        self.nodes = {n: Node(n, port) for n, port in zip(range(1, nodes + 1), ports, strict=True)}
        for node in self.nodes.values():
            node.quorum = tuple(self.nodes.values())

    @property
    def url(self) -> str:
        """Every node, directly."""
        return _url(node.port for node in self.nodes.values())

    @property
    def proxied_url(self) -> str:
        """Every node, through the ports given."""
        return _url(node.advertised for node in self.nodes.values())

    @property
    def behind(self) -> list[int]:
        """What each proxy's target is."""
        return [node.behind for node in self.nodes.values()]

    def kill(self, number: int) -> None:
        """kill −9 of a node."""
        self.nodes[number].kill()

    def stop(self, number: int) -> None:
        """SIGTERM to a node, which hands its partitions over first."""
        self.nodes[number].stop()

    def start(self, number: int) -> None:
        """Start a node that is down, and wait until it answers."""
        self.nodes[number].start()

    def restart_all(self) -> None:
        """kill −9 of every node, and only then start them."""
        for node in self.nodes.values():
            node.kill()
        self._start_all()

    def _open(self, stack: ExitStack) -> None:
        for node in self.nodes.values():
            stack.enter_context(node.folder())
        self._start_all()

    def _start_all(self) -> None:
        for node in self.nodes.values():
            node.launch()
        for node in self.nodes.values():
            node.wait()


def _url(ports: Iterable[int]) -> str:
    return "kafka://" + ",".join(f"{HOST}:{port}" for port in ports)
