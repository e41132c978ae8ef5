"""Notices as mail (`stream.core.notices`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stream import forward
from stream.codec import Columns
from stream.core.notices import Notice, body_of, numbered
from stream.core.offers import OFFER
from stream.delivery import Output
from stream.ownership import partition_of
from stream.routing import Posted
from stream.topics import EVENTS

_SOFT = b'"body":{"type":"%b"' % OFFER.encode()


def claimed(mail: bytes) -> bytes:
    """What a replay must make again of mail, to the byte: all, of an offer that there is one for this cause.

    What an offer says comes from lists, which are soft state (`stream.core.offers`).
    """
    head, soft, _ = mail.partition(_SOFT)
    return head + soft if soft else mail


@dataclass(frozen=True, slots=True)
class Poster:
    """Writes the notices of partition ``partition`` of ``partitions``; ``key`` signs them."""

    partition: int
    partitions: int
    key: bytes

    def mail(self, notices: Sequence[Notice], columns: Columns) -> Iterator[Posted]:
        """A mail a notice, in their order. 10 µs each."""
        if not notices:
            return
        offsets = columns.offset.tolist()
        for offset, n, notice in numbered(notices, offsets):
            source = (forward.NOTICE_SENDER + self.partition, offset, n)
            target, received = partition_of(notice.to, self.partitions), int(columns.received[notice.at])
            mail = forward.pack(self.key, target, source, received, body_of(notice), forward.NOTICED)
            place = (offset, int(columns.index[notice.at]))
            yield Posted(place, target, Output(EVENTS.name, notice.to.encode(), mail))
