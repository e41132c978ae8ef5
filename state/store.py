"""The store port: what the delivery protocol needs of Redis, and the errors it may meet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from state.model import Epoch, Head, View, Write


class Fenced(Exception):
    """The head is not the one this worker wrote: another owns the partition. Nothing was written."""


class Doubt(Exception):
    """The connection was lost or timed out: the transaction may or may not have happened. Read the head."""


class StoreFull(Exception):
    """The store refuses writes (memory, disk, read-only). Nothing was written; it may pass."""


class StoreError(Exception):
    """The store refused a command for a reason that time does not heal: rights, or a key of another kind."""


class Session(Protocol):
    """One partition's own connection. For one task at a time."""

    async def head(self) -> Head | None:
        """The head now in the store."""

    async def claim(self, random: int, now_ms: int) -> tuple[Head, bool]:
        """Become the owner: set the epoch to (max(old term + 1, now_ms), random), keep the rest.

        Returns the head, and whether one existed before. Tries again when it loses a race.
        """

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in one trip."""

    async def fields(self, key: str) -> dict[str, bytes]:
        """A whole hash."""

    async def commit(self, held: Head, new: Head, writes: Sequence[Write]) -> None:
        """One atomic transaction: if the head equals ``held`` to the byte, set it to ``new`` and write.

        Writes count in their order: of two to one key or field, the later. Raises Fenced, Doubt, StoreFull
        or StoreError.
        """

    async def close(self) -> None:
        """Give the connection back."""


class Store(Protocol):
    """The store as a whole."""

    def session(self, part: str) -> Session:
        """A session for one partition."""

    async def put_views(self, views: Sequence[View]) -> int:
        """Set each view whose version is greater than the stored one's; how many were."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in one trip."""

    async def deployment(self, defaults: Mapping[str, bytes]) -> dict[str, bytes]:
        """The deployment's hash, after setting what it lacks."""

    def scan(self, pattern: str) -> AsyncIterator[str]:
        """Keys that match a glob; one may come twice."""

    async def has_state(self, part: str) -> bool:
        """Whether a partition has state besides its head."""

    async def close(self) -> None:
        """Close every connection."""


def claimed(old: Head | None, random: int, now_ms: int) -> Head:
    """The head after a claim."""
    if old is None:
        return Head(Epoch(now_ms, random))
    return replace(old, epoch=Epoch(max(old.epoch.term + 1, now_ms), random))
