"""Bytes that reach a worker by the topics between workers, and by the store, with some of them changed.

Whatever is damaged is refused with ValueError; what is let through can be used. Nothing else may be raised:
one bad record of an inner topic must not end a worker.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np

from state.packing import UserColumns, pack_users
from stream.core import neighbor_format, row_format
from stream.core.engaged import CartLine, Choice, Timer, UserState
from stream.core.interest import Interest
from stream.core.items import Items
from stream.core.neighbor_format import pack_records
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import nearest
from stream.core.recommend import kernel
from stream.core.recommend.query import Query
from stream.core.row_format import PackedRows
from stream.core.rows import Rows
from stream.core.segments import Everywhere, segment_record
from stream.core.trending import Popularity, merge, read_top, top_record
from stream.core.users import Bounds, profile
from stream.core.users import Rows as Users
from stream.core.users import pack as pack_table
from stream.core.users import unpack as unpack_table
from stream.core.weights import Decay
from stream.mail import BACKWARD, HIT, Increments, Packer, source_of
from stream.mail import unpack as unpack_mail
from tests.fuzz.messages import NOW, SETTINGS

NAMES = [f"i{n}" for n in range(40)]


@dataclass(frozen=True, slots=True)
class Format:
    """Bytes of one kind: made for a seed, and read as a worker reads them."""

    name: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes], None]


def mutated(rng: Random, value: bytes) -> bytes:
    """Some of the bytes changed, lost or added, or a number of the header set to an extreme."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(value) + 1)
        value = rng.choice(_WAYS)(rng, value, at)
    return value


_EXTREMES = (0, 1, 255, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 2**63 - 1, 2**63, 2**64 - 1)


def _extreme(rng: Random, value: bytes, at: int) -> bytes:
    size, at = rng.choice((1, 2, 4, 8)), at // 2 * 2
    return (
        value[:at]
        + (rng.choice(_EXTREMES) & (1 << 8 * size) - 1).to_bytes(size, "little")
        + value[at + size :]
    )


_WAYS: tuple[Callable[[Random, bytes, int], bytes], ...] = (
    _extreme,
    lambda rng, value, at: _extreme(rng, value, min(at, rng.randrange(0, 56))),
    lambda rng, value, at: value[:at] + rng.randbytes(1) + value[at + 1 :],
    lambda rng, value, at: (
        value[:at] + struct.pack("<d", rng.choice((np.nan, np.inf, -np.inf, -1.0))) + value[at + 8 :]
    ),
    lambda rng, value, at: value[:at],
    lambda rng, value, at: value[at:],
    lambda rng, value, at: value + rng.randbytes(rng.randrange(1, 20)),
    lambda rng, value, at: value[:at] + value[at : at + 8] + value[at:],
    lambda rng, value, at: rng.randbytes(rng.randrange(100)),
)

# Increments


def _increments(rng: Random) -> bytes:
    items = Items()
    ids = items.ids(rng.sample(NAMES, 20))
    n = rng.randrange(1, 60)
    draw = np.random.default_rng(rng.randrange(2**32))
    segment = np.sort(draw.integers(0, 10, n))
    entries = Increments(
        ids[draw.integers(0, 20, n)],
        ids[draw.integers(0, 20, n)],
        draw.integers(0, 3, n).astype(np.uint8),
        draw.integers(0, 2**18, n),
        source_of(segment * 3, segment % 2),
        NOW + segment * 1000,
        19 + segment % 3,
    )
    return Packer(items, 1).pack(entries)[0]


def _read_increments(value: bytes) -> None:
    items = Items()
    rows, popularity = Rows(items, SETTINGS.row_pairs, SETTINGS.neighbors), Popularity(items)
    sender, entries = unpack_mail(value, items)
    sizes = {
        len(column) for column in (entries.row, entries.col, entries.kind, entries.weight, entries.source)
    }
    assert sizes | {len(entries.time), len(entries.period)} == {len(entries.row)}, "columns of unequal length"
    assert 0 <= sender < 2**16 and set(np.unique(entries.kind).tolist()) <= {0, 1, 2}, (
        "a kind that there is not"
    )
    hits = entries.kind == HIT
    popularity.add(entries.row[hits], entries.time[hits], entries.weight[hits])
    pairs = entries.take(~hits)
    if len(pairs.row):
        rows.fold(pairs.row, pairs.col, pairs.period, pairs.weight, pairs.kind == BACKWARD, pairs.time)
    ids = np.unique(pairs.row)
    rows.top(ids)
    row_format.unpack([blob + more for blob, more in zip(rows.pack(ids), popularity.pack(ids), strict=True)])
    popularity.top(np.unique(entries.row), 10, 3600.0)
    for at in ids.tolist():
        items.name(at).encode()


# Neighbours and trending


def _neighbors(rng: Random) -> bytes:
    k, t, dims = rng.choice((0, 1, 5, 50)), rng.choice((0, 1, 24)), rng.choice((0, 1, 7, 256))
    items, draw = Items(), np.random.default_rng(rng.randrange(2**32))
    items.ids(NAMES)
    return pack_records(
        neighbor_format.Records(
            flags=np.array([rng.randrange(8)], dtype=np.uint8),
            term=np.array([7]),
            n=np.array([9]),
            last=np.array([NOW]),
            row_sum=np.array([10.0]),
            col_sum=np.array([3.0]),
            price=np.array([1.5]),
            popularity=np.array([2.0], dtype=np.float32),
            k=np.array([k]),
            hashes=items.hashes[draw.integers(0, len(NAMES), (1, k))],
            weights=-np.sort(-draw.random((1, k)).astype(np.float32)),
            born=np.array([NOW - 1]),
            usual=np.array([1.0], dtype=np.float32),
            season=np.array([0.5], dtype=np.float32),
            group=np.array([5], dtype=np.uint64),
            category=np.array([6], dtype=np.uint64),
            t=np.array([t]),
            tokens=draw.integers(0, 9, (1, t), dtype=np.uint32),
            token_weights=draw.random((1, t)).astype(np.float32),
            dims=np.array([dims]),
            vectors=draw.integers(-127, 128, (1, dims), dtype=np.int8),
        )
    )[0]


def _read_neighbors(value: bytes) -> None:
    items = Items()
    hood = Neighborhood.of(items, SETTINGS)
    hood.apply(["i1", "i2", "i1"], [GOOD_NEIGHBORS, value, value])
    rows = np.array([[items.add("i2"), items.add("i1")]], dtype=np.int32)
    hood.reserve()
    with np.errstate(all="ignore"):
        given = kernel.entries(hood, Query(rows, Interest.blank(1, 8), np.array([NOW]), Decay(86_400_000)))
    found = [value for value in given.values if value is not None]
    assert np.isfinite(found).all(), "evidence that is no number"
    with np.errstate(over="ignore"):
        scores = nearest(hood, rows[0], 20).scores
    assert np.isfinite(scores).all(), "a similarity that is no number"


GOOD_NEIGHBORS = _neighbors(Random(1))


def _trending(rng: Random) -> bytes:
    return top_record(
        1, "1-1", 493_000, 86_400.0, [(name, rng.random()) for name in NAMES[: rng.randrange(5)]]
    )


def _read_trending(value: bytes) -> None:
    merge(map(read_top, [value, top_record(0, "1-1", 493_001, 86_400.0, [("i1", 2.0)])]), 20)


def _segment(rng: Random) -> bytes:
    top = [(name, rng.random()) for name in NAMES[: rng.randrange(5)]]
    return segment_record(1, "device=a", "1-1", 493_000, 86_400.0, top)


def _read_segment(value: bytes) -> None:
    every = Everywhere({"device=a": {0: read_top(value)}}, [("i1", 2.0)])
    every.heaviest()
    scores = [
        score
        for _, score in every.merged("device=a", every.hour(), 20, lambda names: np.ones(len(names), bool))
    ]
    assert np.isfinite(scores).all(), "a score that is no number"


# What the store holds


def _user(rng: Random) -> bytes:
    draw, (history, interest, ids) = np.random.default_rng(rng.randrange(2**32)), (5, 4, 2)
    hashes = draw.integers(1, 2**63, (1, history + interest + ids)).astype(np.uint64)
    return pack_users(
        UserColumns(
            seen=np.array([9]),
            added=np.array([9]),
            events=np.array([8]),
            base=np.array([20]),
            newest=np.array([NOW]),
            rate=np.array([3]),
            n_history=np.array([history]),
            numbers=np.array([[0, 255, 2, 255, 1]], dtype=np.uint8),
            strange=hashes[0, :2],
            times=np.full((1, history), 1_777_000_000, dtype=np.uint32),
            kinds=np.zeros((1, history), dtype=np.uint8),
            ids=hashes[:, history + interest :],
            n_interest=np.array([interest]),
            interest=np.sort(hashes[0, history : history + interest]),
            weights=draw.integers(1, 2**44, interest),
            counts=draw.integers(1, 2**20, interest, dtype=np.uint32),
            firsts=np.full(interest, 1_776_000_000, dtype=np.uint32),
            lasts=np.full(interest, 1_777_000_000, dtype=np.uint32),
            ats=draw.integers(1, 9, interest, dtype=np.uint32),
            n_bought=np.array([1]),
            bought=hashes[0, :1],
            seconds=np.array([1_777_000_000], dtype=np.uint32),
        )
    )[0]


def _read_user(value: bytes) -> None:
    items = Items()
    users: Users = unpack_table([value], items, Bounds())
    profile(users, 10)
    pack_table(users, items)


def _engaged(rng: Random) -> bytes:
    return UserState(
        identified=True,
        channels={"email": Choice(True, NOW)},
        zone="Europe/Berlin",
        cart={name: CartLine(1, 2.5, NOW) for name in NAMES[: rng.randrange(4)]},
        pending={"abandoned-cart": Timer(NOW, NOW)},
        triggers={"abandoned-cart": b"\x93\x01\x02\x03"},
        sent={"email": (NOW,)},
    ).pack()


def _read_engaged(value: bytes) -> None:
    state = UserState.unpack(value)
    assert UserState.unpack(state.pack()).pack() == state.pack()
    state.next_due()


def _row(rng: Random) -> bytes:
    n = rng.randrange(1, 8)
    return row_format.pack(
        PackedRows(
            [b"i1"], np.array([False]), np.array([20]), np.array([5]), np.array([6]), np.array([NOW]),
            np.array([n]), np.array([rng.randrange(2**64) for _ in range(n)], dtype=np.uint64), np.arange(n),
            np.array([NOW // 1000]),
        )
    )[0] + b"\x01\x00" + struct.pack("<iI", 493_000, 8)  # fmt: skip


def _read_row(value: bytes) -> None:
    items = Items()
    rows, popularity = Rows(items, SETTINGS.row_pairs, SETTINGS.neighbors), Popularity(items)
    ids = items.ids(["i1"])
    popularity.unpack(ids, rows.unpack(ids, [value]))


FORMATS = (
    Format("increments", _increments, _read_increments),
    Format("neighbors", _neighbors, _read_neighbors),
    Format("trending", _trending, _read_trending),
    Format("segment", _segment, _read_segment),
    Format("user", _user, _read_user),
    Format("engagement", _engaged, _read_engaged),
    Format("row", _row, _read_row),
)


def cases(rng: Random, count: int) -> Iterator[tuple[Format, bytes]]:
    """Damaged bytes of every format."""
    for _ in range(count):
        each = rng.choice(FORMATS)
        yield each, mutated(rng, each.make(rng))


def holds(each: Format, value: bytes) -> bool:
    """Read damaged bytes. True: they were let through. Whatever is raised but ValueError passes on."""
    try:
        each.read(value)
    except (ValueError, msgspec.MsgspecError) as error:
        assert isinstance(error, ValueError), error
        return False
    return True
