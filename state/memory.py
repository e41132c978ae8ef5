"""A store in memory, with the semantics of the Redis store: for the deterministic replay and simulations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from fnmatch import fnmatchcase

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
from state.store import Fenced, claimed

_VERSION = slice(VERSION_START, VERSION_START + VERSION_LENGTH)


class MemoryStore:
    """Strings and hashes by key, in one process. It has no clock: tombstones do not end."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.strings: dict[str, bytes] = {}
        self.hashes: dict[str, dict[str, bytes]] = {}

    def session(self, part: str) -> MemorySession:
        """A session for one partition."""
        return MemorySession(self, part)

    async def put_views(self, views: Sequence[View]) -> int:
        """Set each view whose version is greater than the stored one's; how many were."""
        newer = 0
        for view in views:
            if self.strings.get(view.key, b"")[_VERSION] < view.value[_VERSION]:
                self.strings[view.key] = view.value
                newer += 1
        return newer

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values."""
        return [self.strings.get(key) for key in keys]

    async def deployment(self, defaults: Mapping[str, bytes]) -> dict[str, bytes]:
        """The deployment's hash, after setting what it lacks."""
        held = self.hashes.setdefault(self.keys.deployment(), {})
        for name, value in defaults.items():
            held.setdefault(name, value)
        return dict(held)

    async def scan(self, pattern: str) -> AsyncIterator[str]:
        """Keys that match a glob."""
        for key in [*self.strings, *self.hashes]:
            if fnmatchcase(key, pattern):
                yield key

    async def has_state(self, part: str) -> bool:
        """Whether a partition has state besides its head."""
        keys = self.keys
        wanted = {keys.meta(part), keys.outbox(part), keys.timers(part)}
        return not wanted.isdisjoint(self.strings) or not wanted.isdisjoint(self.hashes)

    async def close(self) -> None:
        """Nothing to close."""

    def apply(self, write: Write) -> None:
        """One write. A hash without fields is no key, as in Redis."""
        match write:
            case Put(key, value):
                self.strings[key] = value
            case Delete(key):
                self.strings.pop(key, None)
                self.hashes.pop(key, None)
            case PutField(key, name, value):
                self.hashes.setdefault(key, {})[name] = value
            case DeleteField(key, name):
                fields = self.hashes.get(key, {})
                fields.pop(name, None)
                if not fields:
                    self.hashes.pop(key, None)


class MemorySession:
    """One partition's session."""

    def __init__(self, store: MemoryStore, part: str) -> None:
        self._store = store
        self._key = store.keys.head(part)

    async def head(self) -> Head | None:
        """The head now in the store."""
        held = self._store.strings.get(self._key)
        return Head.unpack(held) if held is not None else None

    async def claim(self, random: int, now_ms: int) -> tuple[Head, bool]:
        """Become the owner; nobody can come between."""
        old = await self.head()
        new = claimed(old, random, now_ms)
        self._store.strings[self._key] = new.pack()
        return new, old is not None

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values."""
        return await self._store.get(keys)

    async def fields(self, key: str) -> dict[str, bytes]:
        """A whole hash."""
        return dict(self._store.hashes.get(key, {}))

    async def commit(self, held: Head, new: Head, writes: Sequence[Write]) -> None:
        """One atomic transaction. Raises Fenced."""
        if self._store.strings.get(self._key) != held.pack():
            raise Fenced(f"{self._key} is not what this worker wrote")
        self._store.strings[self._key] = new.pack()
        for write in writes:
            self._store.apply(write)

    async def close(self) -> None:
        """Nothing to close."""
