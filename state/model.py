"""The closed set of writes, the head of a partition, and the versions of views: data, not calls. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

import msgspec


class Put(msgspec.Struct, frozen=True):
    """Set a key to bytes."""

    key: str
    value: bytes


class Delete(msgspec.Struct, frozen=True):
    """Remove a key."""

    key: str


class PutField(msgspec.Struct, frozen=True):
    """Set a field of a hash."""

    key: str
    field: str
    value: bytes


class DeleteField(msgspec.Struct, frozen=True):
    """Remove a field of a hash."""

    key: str
    field: str


Write = Put | Delete | PutField | DeleteField


class View(msgspec.Struct, frozen=True):
    """A public answer. It replaces only an older one: ``value`` starts with ``{"version":"<version>"``.

    ``expires_s`` > 0 makes a tombstone that ends by itself.
    """

    key: str
    value: bytes
    expires_s: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """Who owns a partition: the term grows with every owner, the random part tells two of one term apart."""

    term: int
    random: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next record of one topic is, and what the record before it was (0 when unknown).

    ``time_ms`` and ``crc`` are of the record just before ``offset``: a log made anew does not hold it. Where
    one was adopted, its offsets plus ``base`` go on from the old ones: what is named by its place in the log
    (mail, messages) never gets a name twice.
    """

    offset: int
    time_ms: int = 0
    crc: int = 0
    base: int = 0


_HEAD = struct.Struct("<BxHQQQ")
_POSITION = struct.Struct("<qqqI")
_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a partition: its owner's epoch, its newest transaction's number, its positions by topic.

    Packed little-endian: format u8, pad, topics u16, term u64, random u64, n u64; then per topic, by name:
    length u16, name, offset i64, base i64, time_ms i64, crc u32.
    """

    epoch: Epoch
    n: int = 0
    positions: dict[str, Position] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The bytes in the store. Equal heads give equal bytes."""
        parts = [_HEAD.pack(_FORMAT, len(self.positions), self.epoch.term, self.epoch.random, self.n)]
        for topic, at in sorted(self.positions.items()):
            name = topic.encode()
            packed = _POSITION.pack(at.offset, at.base, at.time_ms, at.crc)
            parts += [struct.pack("<H", len(name)), name, packed]
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Head:
        """Read a head. Raises ValueError on an unknown format."""
        layout, count, term, random, n = _HEAD.unpack_from(data)
        if layout != _FORMAT:
            raise ValueError(
                f"head has format {layout}, not {_FORMAT}: upgrade Tidewise or use another prefix"
            )
        at, positions = _HEAD.size, {}
        for _ in range(count):
            (length,) = struct.unpack_from("<H", data, at)
            name = data[at + 2 : at + 2 + length].decode()
            at += 2 + length
            offset, base, time_ms, crc = _POSITION.unpack_from(data, at)
            positions[name] = Position(offset, time_ms, crc, base)
            at += _POSITION.size
        return cls(Epoch(term, random), n, positions)

    def next(self, positions: dict[str, Position]) -> Head:
        """The head of the next transaction."""
        return replace(self, n=self.n + 1, positions=self.positions | positions)


def version(term: int, n: int) -> str:
    """The version of a view: fixed width, so that text order is version order."""
    return f"{term:015d}-{n:012d}"


VERSION_LENGTH = 28
"""Characters of a version."""
TERM_LENGTH = 15
"""How many of them are the term."""
VERSION_START = len('{"version":"')
"""Where the version starts in the bytes of a view."""
