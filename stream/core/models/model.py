"""A model as it was fitted, and how it goes over a topic: in chunks of some items each. Pure.

A chunk is a MessagePack array, the fields of `Chunk`. All chunks of one fit have its version (ms since 1970
when it was made); a worker goes over to a model when it has them all, and keeps the greatest version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.models import ease, nmf, pure_svd
from stream.core.models.matrix import Matrix

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]

FORMAT = 1
NAMES = (pure_svd.NAME, nmf.NAME, ease.NAME)
"""Models that are fitted here; each is also a component of this name."""


@dataclass(frozen=True, slots=True)
class Model:
    """Of I items by ascending ``hashes`` [I]: ``values`` [I, w].

    With ``columns`` [I, w] these are the entries of a sparse matrix of items by items (an autoencoder),
    without they are the items' factors.
    """

    name: str
    hashes: U64
    values: F32
    columns: I32 | None = None


@dataclass(frozen=True, slots=True)
class Fitting:
    """How models are fitted: number of factors; λ of the autoencoder, and how many entries a row it keeps."""

    factors: int = 64
    penalty: float = 100.0
    keep: int = 100


def fit(name: str, data: Matrix, how: Fitting) -> Model:
    """Fit a model of `NAMES`; one without items where nobody had any."""
    if not len(data.hashes):
        return Model(name, data.hashes, np.zeros((0, 0), dtype=np.float32))
    if name == ease.NAME:
        columns, values = ease.largest(ease.weights(data.rows, how.penalty), how.keep)
        return Model(name, data.hashes, values, columns)
    fitted = pure_svd.fit if name == pure_svd.NAME else nmf.fit
    return Model(name, data.hashes, fitted(data.rows, how.factors))


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Some items of a model: chunk ``number`` of ``of``. ``hashes`` are u64, ``values`` f32 and ``columns``
    i32 (empty: factors), ``width`` of each an item, all little-endian."""

    format: int
    model: str
    version: int
    number: int
    of: int
    width: int
    hashes: bytes
    values: bytes
    columns: bytes


def chunks(model: Model, version: int, most_bytes: int) -> Iterator[Chunk]:
    """The chunks of a model, each of at most ``most_bytes`` of numbers, or of one item."""
    sparse, width = model.columns is not None, model.values.shape[1]
    step = max(most_bytes // (8 + (8 if sparse else 4) * width), 1)
    of = max(-(-len(model.hashes) // step), 1)
    for number in range(of):
        at = slice(number * step, (number + 1) * step)
        hashes, values = model.hashes[at].astype("<u8"), model.values[at].astype("<f4")
        columns = b"" if model.columns is None else model.columns[at].astype("<i4").tobytes()
        yield Chunk(
            FORMAT, model.name, version, number, of, width, hashes.tobytes(), values.tobytes(), columns
        )


def unpack(value: bytes) -> Chunk:
    """A chunk from its record. Raises ValueError on what is none, or one of another format."""
    try:
        chunk = msgspec.msgpack.decode(value, type=Chunk)
    except msgspec.DecodeError as error:
        raise ValueError(f"this is no chunk of a model: {error}") from error
    if chunk.format != FORMAT:
        raise ValueError(f"a chunk has format {chunk.format}, not {FORMAT}: upgrade Tidewise")
    n, wide = divmod(len(chunk.hashes), 8)
    expected = 4 * n * chunk.width
    fits = not wide and len(chunk.values) == expected and len(chunk.columns) in (0, expected)
    if not (fits and 0 <= chunk.number < chunk.of):
        raise ValueError(f"chunk {chunk.number} of {chunk.of} of {chunk.model} has not the length it says")
    return chunk


def whole(parts: Mapping[int, Chunk]) -> Model | None:
    """The model, if these chunks of one version are all of them. Raises ValueError if they do not fit."""
    first = next(iter(parts.values()))
    if len(parts) < first.of:
        return None
    held = [parts[number] for number in range(first.of)]
    hashes = np.frombuffer(b"".join(part.hashes for part in held), dtype="<u8").astype(np.uint64)
    shape = (len(hashes), first.width)
    values = np.frombuffer(b"".join(part.values for part in held), dtype="<f4").astype(np.float32)
    columns = np.frombuffer(b"".join(part.columns for part in held), dtype="<i4").astype(np.int32)
    sparse = columns.size > 0
    if columns.size not in (0, values.size) or (sparse and not _within(columns, len(hashes))):
        raise ValueError(f"the chunks of {first.model} do not belong together")
    return Model(first.model, hashes, values.reshape(shape), columns.reshape(shape) if sparse else None)


def _within(columns: I32, items: int) -> bool:
    return bool(columns.min() >= 0 and columns.max() < items)
