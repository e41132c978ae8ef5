"""Signatures of what workers write into `events`: clients write there too, and must not forge it."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import msgspec

from stream.events import TICK_TYPE
from stream.times import time_text

Verify = Callable[[bytes, str], bool]
"""(what is said, signature) → whether a worker said it to this partition."""


def sign(key: bytes, partition: int, said: bytes) -> str:
    """HMAC-SHA256 in hexadecimal over a partition and what is said to it: it counts nowhere else."""
    return hmac.digest(key, b"%d\0%b" % (partition, said), "sha256").hex()


def verifier(key: bytes, partition: int) -> Verify:
    """Tells, in constant time, whether a signature for one partition is right."""
    return lambda said, sig: hmac.compare_digest(sign(key, partition, said).encode(), sig.encode())


def said_by_tick(time_ms: int) -> bytes:
    """What a tick says."""
    return b"tick\0%d" % time_ms


def tick_event(key: bytes, partition: int, time_ms: int) -> bytes:
    """The message that lets time pass in a silent partition."""
    sig = sign(key, partition, said_by_tick(time_ms))
    return msgspec.json.encode({"type": TICK_TYPE, "time": time_text(time_ms), "sig": sig})
