"""The arms of an A/B test: which one a user is in, by a hash of the user and a salt. Pure.

The first 64 bits of blake2b(salt, NUL, user), a number below 2^64, fall into ranges as wide as the arms'
shares: nothing is stored, every worker and every tool finds the same arm, another salt mixes anew, and the
arm says nothing about the holdout of campaigns, which has a salt of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from stream.settings import Settings

ALL = "all"
"""The arm of everybody while no arms are set."""


@dataclass(frozen=True, slots=True)
class Arms:
    """``names``, their ``shares`` of all users (which add up to 1), and where each one's range ends.

    ``experiment`` names this very division of users: other arms, shares or salt are another experiment.
    """

    names: tuple[str, ...] = (ALL,)
    shares: tuple[float, ...] = (1.0,)
    ends: tuple[int, ...] = (1 << 64,)
    salt: bytes = b""
    experiment: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Arms:
        """From the settings."""
        if not settings.arms:
            return cls()
        names, percents = tuple(settings.arms), list(settings.arms.values())
        ends = [round(sum(percents[: n + 1]) * 2**64 / 100) for n in range(len(percents))]
        ends[-1] = 1 << 64
        told = orjson.dumps([settings.arm_salt, *settings.arms.items()])
        experiment = blake2b(told, digest_size=6).hexdigest()
        shares = tuple(percent / 100 for percent in percents)
        return cls(names, shares, tuple(ends), settings.arm_salt.encode() + b"\0", experiment)

    def of_user(self, user: str) -> str:
        """A user's arm. ~1 µs, nothing while no arms are set."""
        if not self.experiment:
            return ALL
        digest = blake2b(self.salt + user.encode(), digest_size=8).digest()
        return self.names[bisect_right(self.ends, int.from_bytes(digest, "little"))]

    def of_users(self, users: Iterable[str]) -> list[str]:
        """The arm of each user."""
        return [self.of_user(user) for user in users]
