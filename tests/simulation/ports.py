"""The world outside a worker: the log, the store's server and the network between, with their faults.

The real `RedisStore`, `RedisSession` and `KafkaSender` run on it: only a trip to the server and a batch to
the broker are simulated.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from aiokafka.errors import KafkaConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from state.keys import Keys
from state.memory import MemoryStore
from state.model import VERSION_LENGTH, VERSION_START, Head
from state.redis import Command, RedisStore, _Wire
from state.store import Doubt
from stream.codec import Record
from stream.kafka import KafkaSender
from tests.simulation.loop import SimLoop

START_MS = 1_800_000_000_000
"""Virtual time 0."""


@dataclass(slots=True)
class Faults:
    """Chances of the small faults, each at one trip; 0 switches one off. What is random, is by the seed."""

    doubt: float = 0.0
    """A trip to the store is lost: before, after, or executed later than anybody thinks."""
    full: float = 0.0
    """The store refuses the writes of a trip."""
    send: float = 0.0
    """A batch to the broker fails: lost, landed, or landing later."""
    read: float = 0.0
    """Reading of the log fails."""
    commit: float = 0.0
    """A commit of positions to the group is lost, or comes late."""
    older: float = 0.0
    """After a rebalance a partition is read from an older offset than the committed one."""
    gaps: float = 0.0
    """Offsets of transaction markers between records."""
    skew_ms: int = 0
    """Clocks of workers differ by up to this much."""


@dataclass
class Net:
    """Time, chance and the trace of one interleaving."""

    loop: SimLoop
    rng: random.Random
    faults: Faults
    calm: bool = False
    """Faults have stopped."""
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    late: int = 0
    """What is still to come."""

    def note(self, *what: object) -> None:
        self.trace.append((round(self.loop.now, 4), *what))

    def violate(self, what: str) -> None:
        self.note("VIOLATION", what)
        self.violations.append(what)

    def roll(self, chance: float) -> bool:
        return not self.calm and chance > 0 and self.rng.random() < chance

    def later(self, wait_s: float, work: Callable[..., object], *given: Any) -> None:
        """Do it after a time, whatever becomes of the worker that asked for it."""

        def land() -> None:
            self.late -= 1
            work(*given)

        self.late += 1
        self.loop.call_later(wait_s, land)

    def some_time(self) -> float:
        """How late something comes that comes late."""
        return self.rng.random() * self.rng.choice((0.05, 0.5, 3.0))


class _Pause:
    """`asyncio.sleep(0)`, without its checks."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_PAUSE = _Pause()


class Host:
    """A worker's process as the network sees it: it may stall, and it may die."""

    def __init__(self, net: Net, name: str) -> None:
        self.net = net
        self.name = name
        self.dead = False
        self.stalled_until = 0.0
        self.skew_ms = net.rng.randint(-net.faults.skew_ms, net.faults.skew_ms)

    def now_ms(self) -> int:
        return START_MS + int(self.net.loop.now * 1000) + self.skew_ms

    async def hop(self) -> None:
        """Half a trip: others go on meanwhile."""
        chance = self.net.rng.random()
        if chance < 0.85:
            await _PAUSE
        else:
            await asyncio.sleep((1 - chance) * 0.1)
        while self.stalled_until > self.net.loop.now:
            await asyncio.sleep(self.stalled_until - self.net.loop.now)
        if self.dead:
            raise asyncio.CancelledError


# The broker


@dataclass(slots=True)
class SimRecord:
    """One record, in the shape of aiokafka's."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class PartLog:
    """One partition of a topic; ``end`` may be beyond the last record: markers."""

    records: list[SimRecord] = field(default_factory=list)
    end: int = 0

    def at(self, offset: int) -> int:
        """Index of the first record at or after an offset."""
        return bisect_left(self.records, offset, key=attrgetter("offset"))


class SimLog:
    """All topics. Nothing that was appended is ever lost."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.parts: defaultdict[tuple[str, int], PartLog] = defaultdict(PartLog)
        self.readers: list[Callable[[], None]] = []
        """To be called after every record."""

    def part(self, topic: str, partition: int) -> PartLog:
        return self.parts[topic, partition]

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        net, part = self.net, self.part(topic, partition)
        part.end += net.roll(net.faults.gaps)
        now_ms = START_MS + int(net.loop.now * 1000)
        part.records.append(SimRecord(part.end, now_ms, key, value, headers))
        net.note("append", topic, partition, part.end, value)
        part.end += 1 + net.roll(net.faults.gaps)
        for wake in self.readers:
            wake()


class WorkerLog:
    """The log port of one worker."""

    def __init__(self, log: SimLog, host: Host, consumer: Any) -> None:
        self._log, self._host, self.consumer = log, host, consumer

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        await self._trip()
        return 0, self._log.part(topic, partition).end

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        await self._trip()
        part = self._log.part(topic, partition)
        at = part.at(offset)
        if at == len(part.records):
            await asyncio.sleep(within_s)
            await self._host.hop()
        return part.records[at] if at < len(part.records) else None

    async def _trip(self) -> None:
        await self._host.hop()
        if self._host.net.roll(self._host.net.faults.read):
            raise KafkaConnectionError("reading failed")


class SimBatch:
    """What `KafkaSender` builds: a batch that is full after some messages."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.messages: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = []

    def append(
        self, timestamp: None, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> object:
        if len(self.messages) >= self.room:
            return None
        self.messages.append((key, value, headers))
        return self

    def close(self) -> None:
        pass


class SimProducer:
    """The part of aiokafka's producer that `KafkaSender` uses."""

    def __init__(self, log: SimLog, host: Host) -> None:
        self._log, self._host = log, host

    def create_batch(self) -> SimBatch:
        return SimBatch(self._host.net.rng.choice((1, 3, 100)))

    async def send_batch(self, batch: SimBatch, name: str, partition: int) -> Awaitable[None]:
        return self._send(batch, name, partition)

    async def _send(self, batch: SimBatch, name: str, partition: int) -> None:
        host, net = self._host, self._host.net
        await host.hop()
        if net.roll(net.faults.send):
            end = net.rng.choice(("lost", "landed", "later"))
            net.note(host.name, "send fails", end, name, partition)
            if end == "landed":
                self._land(batch, name, partition)
            elif end == "later":
                net.later(net.some_time(), self._land, batch, name, partition)
            raise KafkaConnectionError("sending failed")
        self._land(batch, name, partition)
        await host.hop()

    def _land(self, batch: SimBatch, name: str, partition: int) -> None:
        for key, value, headers in batch.messages:
            self._log.append(name, partition, key, value, headers)


class SimSender(KafkaSender):
    """The very sender, on a simulated producer."""

    def __init__(self, log: SimLog, host: Host) -> None:
        self._topic_prefix = ""
        self._producer = SimProducer(log, host)


# The store


@dataclass(slots=True)
class Conn:
    """A connection as the server knows it."""

    generation: int
    watched: dict[str, int] = field(default_factory=dict)


class Server:
    """A Redis server: keys in a `MemoryStore`, watches, transactions; it may be full, away, back in time."""

    def __init__(self, net: Net, keys: Keys) -> None:
        self.net = net
        self.data = MemoryStore(keys)
        self.generation = 0
        self.away_until = 0.0
        self._changes: dict[str, int] = {}
        self._snapshots: list[tuple[dict[str, bytes], dict[str, dict[str, bytes]]]] = []

    @property
    def away(self) -> bool:
        return self.away_until > self.net.loop.now

    def restart(self, away_s: float) -> None:
        """Every connection is lost."""
        self.generation += 1
        self.away_until = self.net.loop.now + away_s
        self._changes = {key: count + 1 for key, count in self._changes.items()}

    def snapshot(self) -> None:
        """What a power cut later would leave."""
        data = self.data
        self._snapshots.append((dict(data.strings), {key: dict(held) for key, held in data.hashes.items()}))

    def go_back(self) -> None:
        """A power cut: the newest snapshot is what is left."""
        if self._snapshots:
            strings, hashes = self._snapshots[-1]
            self.data.strings = dict(strings)
            self.data.hashes = {key: dict(held) for key, held in hashes.items()}
            self.restart(self.net.rng.random() * 0.3)

    def execute(self, conn: Conn, commands: Sequence[Command], full: bool = False) -> list[Any]:
        """Replies to the commands of one trip, with nothing between them."""
        replies: list[Any] = []
        queue: list[Command] | None = None
        refused = False
        for command in commands:
            name = command[0]
            if name == "MULTI":
                queue, refused = [], False
                replies.append(b"OK")
            elif name == "EXEC":
                replies.append(self._exec(conn, queue or [], refused))
                queue = None
            elif full and name in _WRITES:
                refused = True
                replies.append(OutOfMemoryError("command not allowed when used memory > 'maxmemory'"))
            elif queue is not None:
                queue.append(command)
                replies.append(b"QUEUED")
            else:
                replies.append(self._one(conn, command))
        return replies

    def _exec(self, conn: Conn, queue: Sequence[Command], refused: bool) -> Any:
        watched, conn.watched = conn.watched, {}
        if refused:
            return ResponseError("EXECABORT Transaction discarded because of previous errors.")
        if any(self._changes.get(key, 0) != seen for key, seen in watched.items()):
            return None
        return [self._one(conn, command) for command in queue]

    def _one(self, conn: Conn, command: Command) -> Any:
        name, *rest = command
        return getattr(self, f"_{str(name).lower()}")(conn, *rest)

    def _watch(self, conn: Conn, key: str) -> bytes:
        conn.watched[key] = self._changes.get(key, 0)
        return b"OK"

    def _unwatch(self, conn: Conn) -> bytes:
        conn.watched.clear()
        return b"OK"

    def _get(self, conn: Conn, key: str) -> bytes | None:
        return self.data.strings.get(key)

    def _mget(self, conn: Conn, *keys: str) -> list[bytes | None]:
        return [self.data.strings.get(key) for key in keys]

    def _exists(self, conn: Conn, *keys: str) -> int:
        return sum(key in self.data.strings or key in self.data.hashes for key in keys)

    def _mset(self, conn: Conn, *pairs: Any) -> bytes:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key.endswith(":head"):
                self._check_head(key, self.data.strings.get(key), value)
            self.data.strings[key] = value
            self._changes[key] = self._changes.get(key, 0) + 1
        return b"OK"

    def _unlink(self, conn: Conn, *keys: str) -> int:
        for key in keys:
            self.data.strings.pop(key, None)
            self.data.hashes.pop(key, None)
        return len(keys)

    def _hset(self, conn: Conn, key: str, *pairs: Any) -> int:
        self.data.hashes.setdefault(key, {}).update(zip(pairs[::2], pairs[1::2], strict=True))
        return 1

    def _hdel(self, conn: Conn, key: str, *fields: str) -> int:
        held = self.data.hashes.get(key, {})
        for each in fields:
            held.pop(each, None)
        if not held:
            self.data.hashes.pop(key, None)
        return 1

    def _hscan(self, conn: Conn, key: str, *_: object) -> list[Any]:
        pairs = [part for pair in self.data.hashes.get(key, {}).items() for part in pair]
        return [b"0", [each.encode() if isinstance(each, str) else each for each in pairs]]

    def _evalsha(self, conn: Conn, _: str, count: str, *given: Any) -> int:
        """The one script: views, each only over an older version."""
        n, newer = int(count), 0
        for key, value in zip(given[:n], given[n + 1 :], strict=True):
            old = self.data.strings.get(key, b"")[_VERSION]
            if self.newer(old, value[_VERSION]):
                if value[_VERSION] < old:
                    self.net.violate(f"the view {key} went back from {old!r} to {value[_VERSION]!r}")
                self.net.note("view", key, value)
                self.data.strings[key] = value
                newer += 1
        return newer

    def newer(self, old: bytes, new: bytes) -> bool:
        return old < new

    def _check_head(self, key: str, old: bytes | None, new: bytes) -> None:
        """Only a claim or the next transaction of the owner may change a head."""
        after = Head.unpack(new)
        before = Head.unpack(old) if old is not None else None
        self.net.note("head", key, after.n, {topic: at.offset for topic, at in after.positions.items()})
        if before is None:
            return
        if after.epoch == before.epoch and after.n == before.n + 1:
            if all(after.positions[topic].offset >= at.offset for topic, at in before.positions.items()):
                return
            self.net.violate(f"{key}: positions went back from {before.positions} to {after.positions}")
        elif after.epoch.term <= before.epoch.term or (after.n, after.positions) != (
            before.n,
            before.positions,
        ):
            held, made = f"{before.epoch.term}-{before.n}", f"{after.epoch.term}-{after.n}"
            self.net.violate(f"{key}: one who does not hold the head {held} made it {made}")


_WRITES = frozenset(("MSET", "HSET", "EVALSHA"))
_VERSION = slice(VERSION_START, VERSION_START + VERSION_LENGTH)


class SimWire(_Wire):
    """A connection of one worker to the server."""

    def __init__(self, server: Server, host: Host) -> None:
        self._server, self._host = server, host
        self._conn: Conn | None = None
        self.number = 0

    @property
    def live(self) -> bool:
        return self._conn is not None

    async def close(self) -> None:
        self._conn = None

    async def trip(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._trip(commands)
        except BaseException:
            self._conn = None
            raise

    async def _trip(self, commands: Sequence[Command]) -> list[Any]:
        host, server, net = self._host, self._server, self._host.net
        await host.hop()
        if self._conn is None:
            if server.away:
                raise Doubt("the store is away")
            self._conn = Conn(server.generation)
            self.number += 1
            await host.hop()
        conn = self._conn
        if conn is None or conn.generation != server.generation or server.away:
            raise Doubt("the connection was lost")
        if net.roll(net.faults.doubt):
            self._lose(conn, commands)
        replies = server.execute(conn, commands, net.roll(net.faults.full))
        await host.hop()
        if conn.generation != server.generation:
            raise Doubt("the connection was lost before the answer")
        return replies

    def _lose(self, conn: Conn, commands: Sequence[Command]) -> None:
        net, server = self._host.net, self._server
        end = net.rng.choice(("before", "after", "later"))
        net.note(self._host.name, "trip lost", end, commands[0][0])
        if end == "after":
            server.execute(conn, commands)
        elif end == "later":
            net.later(net.some_time(), self._late, conn, commands)
        raise Doubt(f"the connection was lost {end}")

    def _late(self, conn: Conn, commands: Sequence[Command]) -> None:
        if conn.generation == self._server.generation and not self._server.away:
            self._server.execute(conn, commands)


class SimStore(RedisStore):
    """The very store, on simulated connections."""

    def __init__(self, server: Server, host: Host) -> None:
        self.keys = server.data.keys
        self._server, self._host = server, host
        self._wires: list[_Wire] = []
        self._idle: list[_Wire] = []

    def _wire(self) -> _Wire:
        return SimWire(self._server, self._host)
