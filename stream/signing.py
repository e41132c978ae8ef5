"""Signatures of what workers write into `events`: clients write there too, and must not forge it."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import msgspec

from stream.events import TICK_TYPE
from stream.times import time_text

Verify = Callable[[int, str], bool]
"""(time in ms, signature) → whether a tick is this partition's own."""


def sign_tick(key: bytes, partition: int, time_ms: int) -> str:
    """HMAC-SHA256 in hexadecimal over the partition and the time, so that a tick counts nowhere else."""
    return hmac.digest(key, b"tick\0%d\0%d" % (partition, time_ms), "sha256").hex()


def verify_tick(key: bytes, partition: int, time_ms: int, sig: str) -> bool:
    """Whether the signature is right, in constant time."""
    return hmac.compare_digest(sign_tick(key, partition, time_ms).encode(), sig.encode())


def verifier(key: bytes, partition: int) -> Verify:
    """`verify_tick` for one partition."""
    return lambda time_ms, sig: verify_tick(key, partition, time_ms, sig)


def tick_event(key: bytes, partition: int, time_ms: int) -> bytes:
    """The message that lets time pass in a silent partition."""
    tick = {"type": TICK_TYPE, "time": time_text(time_ms), "sig": sign_tick(key, partition, time_ms)}
    return msgspec.json.encode(tick)
