"""How many events a message holds, and the bytes of each: counted without msgspec, by the standard library.

An array has its elements, and none when it is empty; whatever cannot be read as a whole is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from stream.codec import Limits
from tests.fuzz.messages import Message

Place = tuple[int, int]
"""(offset, index in the array; −1: the message itself)."""

_SPACE = re.compile(r"[ \t\n\r]*")
# Digits are not turned into numbers: thousands of them would be an error of its own.
_DECODER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=lambda text: _refuse(text))
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|u(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _refuse(text: str) -> None:
    raise ValueError(text)


def sent(messages: Sequence[Message], limits: Limits) -> dict[Place, bytes]:
    """The untouched bytes of every element of these messages."""
    found: dict[Place, bytes] = {}
    for message in messages:
        value = message.value or b""
        parts = _elements(value, limits)
        if parts is None:
            found[message.offset, -1] = value
        else:
            found |= {(message.offset, index): part for index, part in enumerate(parts)}
    return found


def _elements(value: bytes, limits: Limits) -> list[bytes] | None:
    """The elements of an array; None when the message is one thing."""
    if len(value) > limits.max_message_bytes or not value.lstrip(b" \t\r\n").startswith(b"["):
        return None
    try:
        text = value.decode()
        if _halved(text):
            return None
        parts = [part.encode() for part in _split(text)]
    except (ValueError, RecursionError):
        return None
    return parts if len(parts) <= limits.max_batch_events else None


def _halved(text: str) -> bool:
    """Whether an escape is half of a surrogate pair alone: the standard library lets that pass."""
    return "\\" in text and any(match["lone"] for match in _ESCAPE.finditer(text))


def _split(text: str) -> Iterator[str]:
    """The text of each element. Raises ValueError or RecursionError when it is no array."""
    at = _skip(text, _skip(text, 0) + 1)
    if text[at : at + 1] == "]":
        return _end(text, at + 1)
    while True:
        start = at
        _, at = _DECODER.raw_decode(text, start)
        yield text[start:at]
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return _end(text, at + 1)
        if text[at : at + 1] != ",":
            raise ValueError(f"no comma at {at}")
        at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _end(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        raise ValueError(f"more behind the array, at {at}")
