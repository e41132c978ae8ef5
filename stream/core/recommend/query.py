"""What components are asked about a batch of users. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core.interest import Interest
from stream.core.users import Rows, profile
from stream.core.weights import Decay

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Query:
    """U users at a moment of each one's own.

    ``profile`` [U, n] newest distinct items, newest first, −1 padded; ``interest`` all they had to do with;
    ``time_ms`` [U] when; ``decay`` is that of the interest.
    """

    profile: I32
    interest: Interest
    time_ms: I64
    decay: Decay

    @classmethod
    def of(cls, rows: Rows, time_ms: I64, decay: Decay, n: int) -> Query:
        """Ask about users as they are. ``n`` is the length of the profile."""
        return cls(profile(rows, n), rows.interest, time_ms, decay)

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, at: slice) -> Query:
        """Some of the users, in order."""
        which = np.arange(len(self))[at]
        return Query(self.profile[at], self.interest.take(which), self.time_ms[at], self.decay)
