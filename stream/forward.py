"""The way of what is misrouted to its own partition: signed mail in the same topic, opened there. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stream.events import MAIL_TYPE
from stream.reasons import Reason, explain, reason
from stream.signing import Verify, sign

FORWARD, ITEM = "forward", "item"
"""The kinds of mail: it carries an event, on `events`; a catalogue event, on `catalog`."""
MERGE, HANDED = "merge-request", "merged"
"""Mail on `events`: hand an anonymous user over; what there was of him (`stream.core.merge`)."""
NOTICED = "notice"
"""Mail on `events`: something that a user's engagement is told (`stream.core.notices`)."""
NOTICE_SENDER, ITEM_SENDER = 2**14, 2**15
"""Added to the number of a partition that sends notices, as their positions are counted for themselves; and
to that of an item partition, whose positions are those of `catalog`."""
MAIL = b'{"type":"%b"' % MAIL_TYPE.encode()
"""How mail begins, to the byte: only workers write it."""

Source = tuple[
    Annotated[int, Meta(ge=0, lt=2**16)],
    Annotated[int, Meta(ge=0, lt=2**43)],
    Annotated[int, Meta(ge=0, lt=2**20)],
]
"""Partition, offset and index of the event that the mail is about."""


class Mail(msgspec.Struct, frozen=True):
    """Mail from one partition of a topic to another. ``received`` is when the source got the event, in ms;
    ``body`` is the event, on `events` as it was received, to the byte."""

    type: Literal["tidewise.mail"]
    kind: str
    source: Source
    received: Annotated[int, Meta(ge=0, lt=10**15)]
    body: msgspec.Raw
    sig: str = ""


_READER = msgspec.json.Decoder(Mail)


def pack(
    key: bytes, target: int, source: tuple[int, int, int], received: int, body: bytes, kind: str = FORWARD
) -> bytes:
    """The mail that forwards an event to partition ``target``. About 5 µs."""
    sig = sign(key, target, _said(kind, source, received, body))
    return b'%b,"kind":"%b","source":[%d,%d,%d],"received":%d,"body":%b,"sig":"%b"}' % (
        MAIL,
        kind.encode(),
        *source,
        received,
        body,
        sig.encode(),
    )


def _said(kind: str, source: tuple[int, int, int], received: int, body: bytes) -> bytes:
    return b"mail\0%b\0%d\0%d\0%d\0%d\0%b" % (kind.encode(), *source, received, body)


def is_mail(value: bytes | None) -> bool:
    """Whether a message is mail, or says so."""
    return value is not None and value.startswith(MAIL)


def from_items(mail: bytes) -> bool:
    """Whether mail is of the item side, as it stands in a log."""
    sender = mail.partition(b'"source":[')[2].partition(b",")[0]
    return sender.isdigit() and int(sender) >= ITEM_SENDER


def open_mail(value: bytes, verify: Verify, *kinds: str) -> Mail | Reason | None:
    """The mail of some kinds (none named: events) in a message, or why it is refused; None: it is no JSON,
    which others explain."""
    kinds = kinds or (FORWARD,)
    try:
        mail = _READER.decode(value)
    except msgspec.ValidationError as error:
        return explain(error, value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if mail.kind not in kinds:
        found, known = msgspec.json.encode(mail.kind), ", ".join(kinds)
        return reason("unsupported", "kind", found, f"a kind of mail that this version knows here: {known}")
    body = bytes(mail.body)
    if not verify(_said(mail.kind, mail.source, mail.received, body), mail.sig):
        return reason("unsigned", "sig", msgspec.json.encode(mail.sig), "the deployment's signature")
    if body.startswith(b"["):
        return reason("wrong-type", "body", body, "one event")
    return mail
