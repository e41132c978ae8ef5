"""Which partition a key belongs to: Kafka's default partitioner (murmur2), remembered for recent keys."""

from __future__ import annotations

from functools import lru_cache

from stream import ownership

_REMEMBERED = 200_000
"""Keys, about 150 bytes each: murmur2 in Python costs 5 µs, looking it up 0.1 µs."""


@lru_cache(_REMEMBERED)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a user or an item among ``partitions``."""
    return ownership.partition_of(key, partitions)
