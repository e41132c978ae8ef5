"""Dead letters: the untouched bytes of what could not be read, the reason and the source in headers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream.codec import DeadLetter, Limits, Record, decode, decode_catalog
from stream.core.items import Items
from stream.delivery import Output
from stream.mail import unpack
from stream.reasons import reason
from stream.signing import verifier
from stream.topics import CATALOG, DEAD_LETTERS, INCREMENTS


def dead_letter(topic: str, partition: int, letter: DeadLetter) -> Output:
    """The message for the topic `dead-letters`."""
    headers = [
        ("reason", msgspec.json.encode(letter.reason)),
        ("source-topic", topic.encode()),
        ("source-partition", b"%d" % partition),
        ("source-offset", b"%d" % letter.offset),
    ]
    if letter.index is not None:
        headers.append(("source-index", b"%d" % letter.index))
    return Output(DEAD_LETTERS.name, letter.key, letter.value, tuple(headers))


def bad_mail(record: Record, why: str) -> DeadLetter:
    """The dead letter of increments that cannot be read."""
    because = reason("bad-mail", "", "", f"increments packed by a Tidewise worker ({why})")
    return DeadLetter(record.offset, None, because, record.value or b"", record.key, record.timestamp)


def remake(
    limits: Limits, signing_key: bytes, partition: int, topic: str, record: Record
) -> Sequence[Output]:
    """The dead letters of one record, made again from the log: the same as the first time."""
    if topic == CATALOG.name:
        _, dead = decode_catalog([record], limits, verifier(signing_key, partition))
    elif topic == INCREMENTS.name:
        dead = _bad(record)
    else:
        _, dead = decode([record], Items(), limits, verifier(signing_key, partition))
    return [dead_letter(topic, partition, letter) for letter in dead]


def _bad(record: Record) -> list[DeadLetter]:
    try:
        unpack(record.value or b"", Items())
    except ValueError as error:
        return [bad_mail(record, str(error))]
    return []
