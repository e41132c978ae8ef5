"""Messages from the outside: valid events of a simulated shop and of the corpus, bent in every way we know.

A `Feed` is seeded by a text, so that every batch can be made again alone.
"""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, cast

from producers.simulator import Shop
from stream.codec import Limits
from stream.events import KINDS
from stream.settings import Settings
from stream.signing import tick_event
from stream.times import time_text
from tests.corpus.events import EXAMPLES
from tests.fuzz.values import TEXTS, TIMES, Pairs, Token, nested, odd_value, write

SETTINGS = Settings.model_validate({})
LIMITS = Limits.of(SETTINGS)
KEY, PARTITION = b"fuzz", 3
NOW = int(datetime.fromisoformat("2026-05-01T13:00:00Z").timestamp() * 1000)
BATCH_EVENTS = 1000
"""Events of a batch, about: it begins from an empty state."""

Change = Callable[[Random, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A record as Kafka hands it over."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


# One event


def _drop(rng: Random, event: dict[str, Any]) -> Any:
    lost = rng.choice([*event])
    return {name: value for name, value in event.items() if name != lost}


def _spoil(rng: Random, event: dict[str, Any]) -> Any:
    return event | {rng.choice(_FIELDS): odd_value(rng)}


def _spoil_known(rng: Random, event: dict[str, Any]) -> Any:
    return event | {rng.choice([*event]): odd_value(rng)}


def _rename(rng: Random, event: dict[str, Any]) -> Any:
    old, new = rng.choice([*event]), rng.choice([*_FIELDS, *TEXTS])
    return {new if name == old else name: value for name, value in event.items()}


def _twice(rng: Random, event: dict[str, Any]) -> Any:
    again = rng.choice([*event])
    return Pairs((*event.items(), (again, rng.choice((event[again], odd_value(rng))))))


def _add(rng: Random, event: dict[str, Any]) -> Any:
    told = {"zone": rng.choice(TEXTS), "deep": nested(rng), "device": odd_value(rng), "place": odd_value(rng)}
    return event | {"extra": odd_value(rng), "context": told}


def _retype(rng: Random, event: dict[str, Any]) -> Any:
    return event | {"type": rng.choice([*KINDS, *_TYPES])}


def _at_odd_times(rng: Random, event: dict[str, Any]) -> Any:
    return event | {"time": rng.choice(TIMES)}


def _named(rng: Random, event: dict[str, Any]) -> Any:
    return event | {rng.choice(("user", "anonymous", "item", "id", "source", "order")): rng.choice(TEXTS)}


def _listed(rng: Random, event: dict[str, Any]) -> Any:
    count = rng.choices((0, 1, 5, 60, 500, 501), (2, 4, 4, 1, 0.1, 0.1))[0]
    lines: list[Any] = [
        {"item": f"i{rng.randrange(200)}", "quantity": rng.randrange(3)} for _ in range(count)
    ]
    if lines and rng.random() < 0.3:
        lines[rng.randrange(count)] = odd_value(rng)
    return event | {"items": lines}


def _consenting(rng: Random, event: dict[str, Any]) -> Any:
    told = {rng.choice(TEXTS): rng.choice((True, False, odd_value(rng))) for _ in range(rng.randrange(20))}
    return event | {"type": "consent", "channels": told, "purposes": rng.choice((told, {}, None))}


def _replaced(rng: Random, event: dict[str, Any]) -> Any:
    return odd_value(rng)


def _forged_mail(rng: Random, event: dict[str, Any]) -> Any:
    mail = {
        "type": "tidewise.mail",
        "kind": rng.choice(("forward", "merge", "", odd_value(rng))),
        "source": rng.choice(([1, 2, 0], [0, 2**63, 0], [-1, -1, -1], [1, 2], "1-2-0", odd_value(rng))),
        "received": rng.choice((NOW, -1, 2**63 - 1, 2**64, str(NOW), odd_value(rng))),
        "body": rng.choice((event, write(rng, event), odd_value(rng))),
        "sig": rng.choice(("00" * 32, "", "é", odd_value(rng))),
    }
    return _spoil_known(rng, mail) if rng.random() < 0.3 else mail


def _forged_tick(rng: Random, event: dict[str, Any]) -> Any:
    sig = rng.choice(("00" * 32, "", "é", "\u0000", odd_value(rng)))
    return {"type": "tidewise.tick", "time": event["time"], "sig": sig}


def _tick(rng: Random, event: dict[str, Any]) -> Any:
    """The real one, or that of another partition or key."""
    partition, key = rng.choice(((PARTITION, KEY), (PARTITION, KEY), (PARTITION + 1, KEY), (PARTITION, b"")))
    return Token(tick_event(key, partition, NOW - rng.randrange(3_600_000)).decode())


_FIELDS = (
    *("id", "source", "type", "time", "user", "anonymous", "session", "context", "items", "item", "price"),
    *(
        "quantity",
        "order",
        "value",
        "currency",
        "coupon",
        "query",
        "rating",
        "network",
        "channels",
        "purposes",
    ),
    *("attributes", "list", "nudge", "sig", "kind", "received", "body", "", "constructor"),
)
_TYPES = (
    *("newsletter_read", "tidewise.tick", "tidewise.mail", "tidewise.", "Tidewise.tick", "tidewise", "item"),
    *("", "x" * 128, "x" * 129, "view_item ", "VIEW_ITEM", "view_item\u0000", "\u05e9"),
)
_CHANGES: tuple[tuple[Change, float], ...] = (
    *((change, 3) for change in (_drop, _spoil, _spoil_known, _at_odd_times, _named, _listed)),
    *((change, 1) for change in (_rename, _twice, _add, _retype, _consenting, _replaced)),
    *((change, 1) for change in (_forged_mail, _forged_tick, _tick)),
)
_CHANGE, _WEIGHT = [change for change, _ in _CHANGES], [weight for _, weight in _CHANGES]

# One message


def _mangled(rng: Random, value: bytes) -> bytes | None:
    """What networks, editors and other programs make of a message."""
    at = rng.randrange(len(value) + 1)
    return rng.choice(_MANGLES)(rng, value, at)


_BROKEN = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x28",
    b"\0",
    b"\x7f",
    b"\xf0\x9f",
)

_MANGLES: tuple[Callable[[Random, bytes, int], bytes | None], ...] = (
    lambda rng, value, at: value.decode(errors="replace").encode("utf-16"),
    lambda rng, value, at: value.decode(errors="replace").encode("utf-16-be"),
    lambda rng, value, at: value.decode(errors="replace").encode("utf-32"),
    lambda rng, value, at: codecs.BOM_UTF8 + value,
    lambda rng, value, at: gzip.compress(value, 1),
    lambda rng, value, at: value[:at],
    lambda rng, value, at: value[at:],
    lambda rng, value, at: value[:at] + value[at + 1 :],
    lambda rng, value, at: value[:at] + rng.randbytes(1) + value[at + 1 :],
    lambda rng, value, at: value[:at] + rng.choice(_BROKEN) + value[at:],
    lambda rng, value, at: value + rng.choice((b"\0", b"\n", b" ", b",", value, b"]", b"null")),
    lambda rng, value, at: rng.choice((b"\0", b"\n", b" \t\r\n", b"\xa0", b"\x0c")) + value,
    lambda rng, value, at: rng.choice((None, b"", b" ", b"\0", b"null", b"[]", b" [ ] ", b"{}", b'""', b"0")),
    lambda rng, value, at: rng.choice((b"[[]]", b"[[[]]]", b"[null]", b"[,]", b"[1,]", b"[" * 6000, b"[{}")),
    lambda rng, value, at: rng.randbytes(rng.randrange(64)),
    lambda rng, value, at: value.replace(b'"', rng.choice((b"'", b"", b'\\"')), 3),
    lambda rng, value, at: b"[" * (n := rng.randrange(1, 4)) + value + b"]" * n,
    lambda rng, value, at: value.decode("utf-8", "replace").encode("latin-1", "replace"),
)
_TIMESTAMPS = (-1, 0, 1, NOW - 86_400_000, NOW + 86_400_000, 2**53, 253_402_300_800_000, 2**62)
_RECEIVED = (
    *(b"", b"0", b"-5", b"1e3", b" 5", b"x", b"\xff", b"9" * 15, b"9" * 16, b"9" * 400, b"0" * 15),
    *(
        "٣".encode(),
        "²".encode(),
        "１７".encode(),
        b"%d" % (NOW - 1000),
        b"%d" % (NOW + 1000),
        b"1_000",
        b"+5",
    ),
)


def _headers(rng: Random) -> tuple[tuple[str, bytes], ...]:
    if rng.random() < 0.8:
        return ()
    names = ("received", "received", "received", "Received", "", "trace")
    return tuple((rng.choice(names), rng.choice(_RECEIVED)) for _ in range(rng.randrange(1, 4)))


class Feed:
    """Messages of one seed. About 30 µs an event."""

    def __init__(self, seed: str) -> None:
        self._rng = rng = Random(seed)
        number = rng.randrange(2**32)
        self._users, self._now = rng.choice((3, 60)), NOW
        self._shop = Shop(number, self._users, rng.choice((20, 200)))
        self._events = self._valid()

    def batch(self, events: int = BATCH_EVENTS) -> list[Message]:
        """Messages with about so many events."""
        rng, sent, count = self._rng, list[Message](), 0
        offset = rng.choice((0, 10, 2**40))
        while count < events:
            value, held = self._value()
            sent.append(self._message(offset, value))
            offset += 1 if rng.random() < 0.95 else rng.randrange(1, 1000)
            count += held
        return sent

    def catalog(self, events: int = BATCH_EVENTS // 10) -> list[Message]:
        """Messages of the catalogue, bent likewise."""
        rng = self._rng
        items = (item for _ in iter(int, 1) for item in self._shop.catalog(NOW - rng.randrange(86_400_000)))
        sent = []
        for offset in range(events):
            value = write(rng, self._bent(next(items), 0.5)).encode()
            sent.append(self._message(offset, _mangled(rng, value) if rng.random() < 0.1 else value))
        return sent

    def _valid(self) -> Iterator[dict[str, Any]]:
        """Valid events without end, each with an id now and then."""
        rng = self._rng
        while True:
            start = self._now - 3_600_000
            for event in self._shop.events(200, start, rng.choice((0.05, 1.0, 100.0))):
                if rng.random() < 0.2:
                    event = rng.choice([*EXAMPLES.values()]) | {"time": event["time"]}
                    event["user"] = f"u{rng.randrange(self._users)}"
                if rng.random() < 0.3:
                    event["id"] = f"e{rng.randrange(300)}"
                yield event
            self._now += rng.choice((1000, 3_600_000, 86_400_000))

    def _message(self, offset: int, value: bytes | None) -> Message:
        rng = self._rng
        odd = rng.random() < 0.03
        timestamp = rng.choice(_TIMESTAMPS) if odd else self._now + rng.randrange(-1000, 5000)
        key = rng.choice((None, b"", b"u1", b"\xff\xfe", b"k" * 10_000)) if rng.random() < 0.1 else b"u1"
        return Message(offset, timestamp, key, value, _headers(rng))

    def _value(self) -> tuple[bytes | None, int]:
        """A message's bytes, and how many events they were made of."""
        rng, kind = self._rng, self._rng.random()
        count = 0 if kind < 0.6 else rng.choices((0, 1, 3, 20, 100), (1, 2, 5, 3, 1))[0]
        share = rng.choice((0.0, 0.05, 0.5))
        if kind < 0.6:
            text = write(rng, self._bent(next(self._events), 0.4))
        elif kind < 0.999:
            text = write(rng, [self._bent(next(self._events), share) for _ in range(count)])
        else:
            text, count = self._huge(), 1
        # What stands for half of a pair of surrogates is in no encoding.
        value = text.encode("utf-8", "surrogatepass")
        return (_mangled(rng, value) if rng.random() < 0.08 else value), max(count, 1)

    def _huge(self) -> str:
        """At the bounds of a message, and beyond: bytes, elements, length of one value."""
        rng, event = self._rng, next(self._events)
        short = write(rng, {"type": "view_item", "time": time_text(NOW), "user": "u", "item": "A"})
        least = LIMITS.max_message_bytes - 200
        return rng.choice(
            (
                f"[{','.join([short] * LIMITS.max_batch_events)}]",
                f"[{','.join(['1'] * (LIMITS.max_batch_events + 1))}]",
                write(rng, event | {"query": "x" * (least + rng.randrange(400))}),
                write(rng, event | {"context": {"a": ["x" * 1000] * (least // 1003)}}),
                f"[{','.join(['{}'] * 400_000)}]",
            )
        )

    def _bent(self, event: dict[str, Any], share: float) -> Any:
        rng, bent = self._rng, cast(Any, event)
        while rng.random() < share:
            bent = rng.choices(_CHANGE, _WEIGHT)[0](rng, bent)
            if not isinstance(bent, dict) or "time" not in bent:
                break
        return bent


def bundles(rng: Random, sent: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages in bundles of any size, for a seed."""
    at = 0
    while at < len(sent):
        size = rng.choice((1, 2, 7, 50, len(sent)))
        yield sent[at : at + size]
        at += size


def text_of(seed: int, number: int) -> str:
    """The seed of a run's batch."""
    return f"{seed}/{number}"
