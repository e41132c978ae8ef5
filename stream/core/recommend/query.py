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
U32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Query:
    """U users at a moment of each one's own.

    ``profile`` [U, n] newest distinct items, newest first, −1 padded; ``interest`` all they had to do with;
    ``time_ms`` [U] when; ``decay`` is that of the interest. ``preferred``: token hashes and weights [U, T] of
    what users say they like (`stream.core.preferences`), weight 0 where there is none; None: nobody does.
    ``own`` [U]: each one's own slot among the `Peers`, −1 for who is not there; None: nobody asked.
    ``scored``: items and evidence [U, n] that models trained elsewhere gave, −1 padded; None: none is asked.
    """

    profile: I32
    interest: Interest
    time_ms: I64
    decay: Decay
    preferred: tuple[U32, F32] | None = None
    own: I64 | None = None
    scored: tuple[I32, F32] | None = None

    @classmethod
    def of(
        cls, rows: Rows, time_ms: I64, decay: Decay, n: int, preferred: tuple[U32, F32] | None = None
    ) -> Query:
        """Ask about users as they are. ``n`` is the length of the profile."""
        return cls(profile(rows, n), rows.interest, time_ms, decay, preferred)

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, at: slice) -> Query:
        """Some of the users, in order."""
        low, high, _ = at.indices(len(self))
        preferred = None if self.preferred is None else (self.preferred[0][at], self.preferred[1][at])
        own = None if self.own is None else self.own[at]
        interest = self.interest.part(low, high)
        scored = None if self.scored is None else (self.scored[0][at], self.scored[1][at])
        return Query(self.profile[at], interest, self.time_ms[at], self.decay, preferred, own, scored)
