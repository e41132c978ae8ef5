"""Users folded into factorisations, as the store keeps them: MessagePack {model: [version, f32 …]}. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Versioned = tuple[int, F32]
"""A model's version, and vectors [U, f] of users by it."""


def pack(found: Mapping[str, Versioned], users: int) -> list[bytes]:
    """One value a user; b"" where no model knows anything of him. ~1 µs a user and model."""
    if not found:
        return [b""] * users
    known = np.any([vectors.any(axis=1) for _, vectors in found.values()], axis=0).tolist()
    rows = {name: (version, vectors.astype("<f4")) for name, (version, vectors) in found.items()}
    one = (
        {name: (version, each[at].tobytes()) for name, (version, each) in rows.items()} for at in range(users)
    )
    return [
        msgspec.msgpack.encode(each) if is_known else b"" for each, is_known in zip(one, known, strict=True)
    ]


def unpack(blob: bytes) -> dict[str, Versioned]:
    """The inverse for one user: vectors [f] by model."""
    found = msgspec.msgpack.decode(blob, type=dict[str, tuple[int, bytes]])
    return {name: (version, np.frombuffer(data, dtype="<f4")) for name, (version, data) in found.items()}
