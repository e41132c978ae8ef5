"""Increments survive packing, whatever the receiver's own numbering of items."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import mail
from stream.core.items import Items
from stream.mail import Increments, Packer, source_of, unpack

entry = st.tuples(
    st.integers(0, 30), st.integers(0, 30), st.integers(0, 2), st.integers(0, 2**18), st.integers(0, 9)
)


def increments(entries: list[tuple[int, int, int, int, int]], ids: np.ndarray) -> Increments:
    """Entries with their segment number last; segments in order, times and periods follow from them."""
    entries = sorted(entries, key=lambda e: e[4])
    row, col, kind, weight, segment = np.array(entries, dtype=np.int64).reshape(-1, 5).T
    return Increments(
        ids[row], ids[col], kind.astype(np.uint8), weight, source_of(segment * 7, segment % 3),
        segment * 1000 + 1_700_000_000_000, segment - 4,
    )  # fmt: skip


def named(entries: Increments, items: Items) -> list[tuple[object, ...]]:
    columns = (entries.kind, entries.weight, entries.source, entries.time, entries.period)
    names = [[items.name(at) for at in ids.tolist()] for ids in (entries.row, entries.col)]
    return list(zip(*names, *(c.tolist() for c in columns), strict=True))


@given(st.lists(entry, min_size=1, max_size=60), st.permutations(range(31)), st.integers(1, 50))
def test_round_trip_between_workers(entries: list, order: list[int], per_message: int) -> None:  # type: ignore[type-arg]
    names = [f"item-{n}-ü" for n in range(31)]
    sender, receiver = Items(), Items()
    ids = sender.ids(names)
    receiver.ids([names[n] for n in order[:10]])
    sent = increments(entries, ids)
    before, mail.MESSAGE_ENTRIES = mail.MESSAGE_ENTRIES, per_message
    try:
        messages = Packer(sender, 3).pack(sent)
    finally:
        mail.MESSAGE_ENTRIES = before
    opened = [unpack(message, receiver) for message in messages]
    assert {who for who, _ in opened} == {3}
    assert named(mail.join([part for _, part in opened]), receiver) == named(sent, sender)
    for (_, a), (_, b) in pairwise(opened):
        assert a.source[-1] < b.source[0], "a segment is never split between messages"


@pytest.mark.parametrize("cut", [0, 3, 20, 40, -1])
def test_damaged_mail_is_an_error(cut: int) -> None:
    items = Items()
    (message,) = Packer(items, 0).pack(increments([(0, 1, 0, 5, 0)], items.ids(["a", "b"])))
    with pytest.raises(ValueError, match="increments"):
        unpack(message[:cut], items)


def test_another_format_is_an_error() -> None:
    items = Items()
    (message,) = Packer(items, 0).pack(increments([(0, 1, 0, 5, 0)], items.ids(["a", "b"])))
    with pytest.raises(ValueError, match="format 9"):
        unpack(b"\x09" + message[1:], items)
