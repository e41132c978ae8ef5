"""The store on Redis or Valkey: redis-py connects, signs in and parses; this module decides what a trip is.

A transaction is one trip: MULTI, the writes, EXEC, then WATCH and GET of the head for the next one. Between
two transactions of a session the head is watched, so that an EXEC fails when anybody touched it, and the head
read under the watch must be, to the byte, what the caller holds. The client never retries and never
reconnects unseen, for a new connection watches nothing: after a lost one nobody knows whether the
transaction happened, and only the head can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import chain
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from state.keys import Keys
from state.model import (
    VERSION_LENGTH,
    VERSION_START,
    Delete,
    DeleteField,
    Head,
    Put,
    PutField,
    View,
    Write,
)
from state.store import Doubt, Fenced, StoreError, StoreFull, claimed

Command = Sequence[str | bytes]

_MGET = 1000
_SCAN = "1000"
_VIEWS = 1000
"""Views a script call, so that none keeps the store from others for more than a few milliseconds."""
_CLAIMS = 20

# A version that a missing or shorter value lacks is "", which is less than any.
_PUT_VIEWS = f"""
local expires, newer = tonumber(ARGV[1]), 0
for i, key in ipairs(KEYS) do
  local value = ARGV[i + 1]
  local version = string.sub(value, {VERSION_START + 1}, {VERSION_START + VERSION_LENGTH})
  if redis.call('GETRANGE', key, {VERSION_START}, {VERSION_START + VERSION_LENGTH - 1}) < version then
    if expires > 0 then redis.call('SET', key, value, 'EX', expires) else redis.call('SET', key, value) end
    newer = newer + 1
  end
end
return newer
"""
_SHA = sha1(_PUT_VIEWS.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself. ``maxmemory_policy`` is "" where it does not tell."""

    product: str
    version: str
    maxmemory_policy: str
    append_only: bool
    time_ms: int


class RedisStore:
    """One server; a connection of its own for every session, some that are shared for the rest."""

    def __init__(self, url: str, keys: Keys, timeout_s: float) -> None:
        self.keys = keys
        self._timeout_s = timeout_s
        # RESP2: one trip less to connect. A pool only makes connections here, it never hands one out twice.
        self._factory: Any = ConnectionPool.from_url(
            url,
            protocol=2,
            encoding_errors="surrogateescape",
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
        )
        self._wires: list[_Wire] = []
        self._idle: list[_Wire] = []

    @classmethod
    async def open(cls, url: str, keys: Keys, timeout_s: float) -> RedisStore:
        """Connect; every trip takes at most ``timeout_s``. Raises Doubt when nobody answers in time."""
        store = cls(url, keys, timeout_s)
        await store._ask([("PING",)])
        return store

    def session(self, part: str) -> RedisSession:
        """A session for one partition."""
        return RedisSession(self._wire(), self.keys.head(part))

    async def put_views(self, views: Sequence[View]) -> int:
        """Set each view whose version is greater than the stored one's; about 3 µs of our CPU a view."""
        by_expiry: dict[int, list[View]] = {}
        for view in views:
            by_expiry.setdefault(view.expires_s, []).append(view)
        newer = 0
        for expires_s, some in by_expiry.items():
            for start in range(0, len(some), _VIEWS):
                newer += await self._put_some(expires_s, some[start : start + _VIEWS])
        return newer

    async def _put_some(self, expires_s: int, views: Sequence[View]) -> int:
        """One script call: the seam for a cluster, where it is one call a key."""
        keys = [view.key for view in views]
        given: Command = [str(len(keys)), *keys, str(expires_s), *(view.value for view in views)]
        try:
            (newer,) = await self._ask([("EVALSHA", _SHA, *given)])
        except _Unloaded:
            _, newer = await self._ask([("SCRIPT", "LOAD", _PUT_VIEWS), ("EVALSHA", _SHA, *given)])
        return int(newer)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values, a thousand a command."""
        return list(chain.from_iterable(await self._ask(_mget(keys))))

    async def deployment(self, defaults: Mapping[str, bytes]) -> dict[str, bytes]:
        """The deployment's hash, after setting what it lacks."""
        key = self.keys.deployment()
        sets = [("HSETNX", key, name, value) for name, value in defaults.items()]
        *_, pairs = await self._ask([*sets, ("HGETALL", key)])
        return _fields(pairs)

    async def scan(self, pattern: str) -> AsyncIterator[str]:
        """Keys that match a glob; one may come twice."""
        cursor = b"0"
        while True:
            ((cursor, found),) = await self._ask([("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN)])
            for key in found:
                yield _text(key)
            if cursor == b"0":
                return

    async def has_state(self, part: str) -> bool:
        """Whether a partition has state besides its head: every first transaction writes its meta key."""
        keys = self.keys
        (count,) = await self._ask([("EXISTS", keys.meta(part), keys.outbox(part), keys.timers(part))])
        return bool(count)

    async def server_info(self) -> ServerInfo:
        """Product, version, eviction policy, persistence, clock. From INFO: CONFIG is often forbidden."""
        info, (seconds, micros) = await self._ask([("INFO",), ("TIME",)])
        told: dict[str, str] = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        return ServerInfo(
            product=told.get("server_name", "redis"),
            version=told.get("valkey_version") or told.get("redis_version", ""),
            maxmemory_policy=told.get("maxmemory_policy", ""),
            append_only=told.get("aof_enabled") == "1",
            time_ms=int(seconds) * 1000 + int(micros) // 1000,
        )

    async def close(self) -> None:
        """Close every connection, those of sessions too."""
        for wire in self._wires:
            await wire.close()

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """Replies to some commands, in one trip on a connection that nobody uses now."""
        wire = self._idle.pop() if self._idle else self._wire()
        try:
            return _accepted(await wire.trip(commands))
        finally:
            self._idle.append(wire)

    def _wire(self) -> _Wire:
        wire = _Wire(self._factory, self._timeout_s)
        self._wires.append(wire)
        return wire


class RedisSession:
    """One partition's connection. For one task at a time."""

    def __init__(self, wire: _Wire, key: str) -> None:
        self._wire = wire
        self._key = key
        self._seen: bytes | None = None
        """The head as last read under a watch."""
        self._watched = 0
        """The connection, by its number, that watched then; 0: none has."""

    async def head(self) -> Head | None:
        """The head now in the store; it is watched from here on."""
        seen = await self._look()
        return Head.unpack(seen) if seen is not None else None

    async def claim(self, random: int, now_ms: int) -> tuple[Head, bool]:
        """Become the owner. Raises Fenced when the race is lost again and again."""
        for _ in range(_CLAIMS):
            old = await self.head()
            new = claimed(old, random, now_ms)
            try:
                await self._swap(new, ())
            except Fenced:
                continue
            return new, old is not None
        raise Fenced(f"{self._key}: {_CLAIMS} claims lost in a row")

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values, a thousand a command."""
        return list(chain.from_iterable(_accepted(await self._wire.trip(_mget(keys)))))

    async def fields(self, key: str) -> dict[str, bytes]:
        """A whole hash, in steps that keep nobody waiting."""
        found: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            replies = await self._wire.trip([("HSCAN", key, cursor, "COUNT", _SCAN)])
            ((cursor, pairs),) = _accepted(replies)
            found |= _fields(pairs)
            if cursor == b"0":
                return found

    async def commit(self, held: Head, new: Head, writes: Sequence[Write]) -> None:
        """One atomic transaction, in one trip; about 2 µs a key. Raises as `Session.commit` does."""
        before = self._watched
        if not self._watching:
            await self._look()
        if self._seen != held.pack():
            if before not in (0, self._watched):
                raise Doubt(f"{self._key} changed around a lost connection")
            raise Fenced(f"{self._key} is not what this worker wrote")
        await self._swap(new, writes)

    async def close(self) -> None:
        """Close the connection."""
        await self._wire.close()

    @property
    def _watching(self) -> bool:
        return self._wire.live and self._watched == self._wire.number

    async def _look(self) -> bytes | None:
        """WATCH and GET. UNWATCH first, or a change seen by the old watch would fail the next EXEC."""
        commands = [("UNWATCH",), ("WATCH", self._key), ("GET", self._key)]
        *_, self._seen = _accepted(await self._wire.trip(commands))
        self._watched = self._wire.number
        return self._seen

    async def _swap(self, new: Head, writes: Sequence[Write]) -> None:
        """The transaction, if the head is still as seen."""
        changes = _changes(self._key, new.pack(), writes)
        after = ("WATCH", self._key), ("GET", self._key)
        commands = [("MULTI",), *changes, ("EXEC",), *after]
        *before, done, watch, seen = await self._wire.trip(commands)
        results = done if isinstance(done, list) else [done]
        if error := _first_error([*before, *results, watch, seen]):
            await self._wire.close()
            if error in (watch, seen):
                raise Doubt(f"the head cannot be read again: {error}")
            raise _refusal(error)
        self._seen = seen
        if done is None:
            raise Fenced(f"{self._key} changed under the transaction")


class _Wire:
    """A connection whose every trip has a deadline; a trip that fails or is cancelled leaves it closed."""

    def __init__(self, factory: Any, timeout_s: float) -> None:
        self._connection = factory.make_connection()
        self._timeout_s = timeout_s
        self.number = 0
        """How often it was connected."""

    @property
    def live(self) -> bool:
        """Whether it is connected, as far as is known here."""
        return bool(self._connection.is_connected)

    async def trip(self, commands: Sequence[Command]) -> list[Any]:
        """Replies to commands sent at once; an error reply stands among them. Raises Doubt."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self.live:
                    await self._connection.connect()
                    self.number += 1
                await self._connection.send_packed_command(_packed(commands), check_health=False)
                return [await self._reply() for _ in commands]
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise Doubt(f"the store did not answer: {error!r}") from error

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Close; a next trip connects again."""
        await self._connection.disconnect(nowait=True)


class _Unloaded(Exception):
    """The server does not know the script."""


def _packed(commands: Sequence[Command]) -> bytes:
    """Commands as the server reads them (RESP): 0.2 µs an argument, where redis-py takes 0.7."""
    parts: list[bytes] = []
    for command in commands:
        given = [each if isinstance(each, bytes) else _raw(each) for each in command]
        words = [b""] * (2 * len(given))
        words[0::2] = [b"\r\n$%d\r\n" % len(each) for each in given]
        words[1::2] = given
        parts += (b"*%d" % len(given), *words, b"\r\n")
    return b"".join(parts)


def _changes(head_key: str, head: bytes, writes: Iterable[Write]) -> list[Command]:
    """The writes as few commands: first what is removed, so that a later write of the same key stays."""
    gone: dict[str, None] = {}
    strings: dict[str, bytes] = {}
    fields: dict[str, dict[str, bytes | None]] = {}
    for write in writes:
        match write:
            case Put(key, value):
                strings[key] = value
            case PutField(key, name, value):
                fields.setdefault(key, {})[name] = value
            case DeleteField(key, name):
                fields.setdefault(key, {})[name] = None
            case Delete(key):
                gone[key] = None
                strings.pop(key, None)
                fields.pop(key, None)
    commands: list[Command] = [("UNLINK", *gone)] if gone else []
    commands.append(["MSET", head_key, head, *_flat(strings)])
    return commands + [command for key, held in fields.items() for command in _hash_changes(key, held)]


def _hash_changes(key: str, fields: Mapping[str, bytes | None]) -> list[Command]:
    held = {name: value for name, value in fields.items() if value is not None}
    gone = fields.keys() - held.keys()
    commands: list[Command] = [("HDEL", key, *gone)] if gone else []
    return [*commands, ["HSET", key, *_flat(held)]] if held else commands


def _flat(pairs: Mapping[str, bytes]) -> Iterable[str | bytes]:
    return chain.from_iterable(pairs.items())


def _mget(keys: Sequence[str]) -> list[Command]:
    return [("MGET", *keys[start : start + _MGET]) for start in range(0, len(keys), _MGET)]


def _fields(pairs: Sequence[bytes]) -> dict[str, bytes]:
    return dict(zip(map(_text, pairs[::2]), pairs[1::2], strict=True))


def _text(name: bytes) -> str:
    """Names that are no UTF-8 stand as surrogate escapes, and go back as they came."""
    return name.decode("utf-8", "surrogateescape")


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _accepted(replies: list[Any]) -> list[Any]:
    """The replies, unless one is an error."""
    if error := _first_error(replies):
        raise _refusal(error)
    return replies


def _first_error(replies: Iterable[Any]) -> ResponseError | None:
    """The cause: later errors of a transaction only say that there was one."""
    return next((reply for reply in replies if isinstance(reply, ResponseError)), None)


def _refusal(error: ResponseError) -> Exception:
    """The store's own word for why it did not do it."""
    if isinstance(error, NoScriptError):
        return _Unloaded()
    passing = isinstance(error, OutOfMemoryError | ReadOnlyError | ClusterDownError | TryAgainError)
    if passing or any(code in str(error) for code in ("OOM", "READONLY", "MISCONF", "NOREPLICAS")):
        return StoreFull(f"the store refuses writes: {error}")
    return StoreError(f"the store refuses: {error}")
