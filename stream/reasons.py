"""Why input was refused, for machines and for people."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, cast

import msgspec

Code = Literal[
    "empty",
    "not-json",
    "not-utf8",
    "too-large",
    "too-deep",
    "too-many",
    "missing-field",
    "wrong-type",
    "bad-value",
    "bad-time",
    "future",
    "unsigned",
    "unsupported",
    "bad-mail",
]
"""What can be wrong; `docs/events.md` explains each."""

SHOWN = 200
"""Characters of an offending value that a reason shows."""


class Reason(msgspec.Struct, frozen=True):
    """Why input was refused: ``field`` is a path such as ``items[0].price`` (empty: the whole), ``value`` the
    start of the JSON that stood there (empty: nothing), ``expected`` what would have been right."""

    code: Code
    field: str
    value: str
    expected: str
    message: str


def reason(code: Code, field: str, value: bytes | str, expected: str) -> Reason:
    """A reason, its value shortened, its message put together."""
    # Four bytes are the most a character takes.
    text = value[: 4 * SHOWN + 4].decode(errors="replace") if isinstance(value, bytes) else value
    shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    where = f"{field}: " if field else ""
    return Reason(
        code, field, shown, expected, f"{where}{_SAID[code]}{shown and f': {shown}'}; expected {expected}"
    )


_SAID: dict[Code, str] = {
    "empty": "the message has no value",
    "not-json": "this is not JSON",
    "not-utf8": "this is not UTF-8",
    "too-large": "the message is too large",
    "too-deep": "this is nested too deeply",
    "too-many": "there are too many",
    "missing-field": "nothing is there",
    "wrong-type": "this is of the wrong type",
    "bad-value": "this value is not allowed",
    "bad-time": "this is not a time",
    "future": "this is in the future",
    "unsigned": "the signature is wrong",
    "unsupported": "this type is reserved",
    "bad-mail": "this is not mail",
}

_PATH = re.compile(r" - at (`key` in )?`\$(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_MISMATCH = re.compile(r"Expected `(.*)`, got `.*`", re.DOTALL)
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"Expected `float` (.*)"), lambda m: f"a number {m[1]}"),
    (re.compile(r"Expected `int` (.*)"), lambda m: f"a whole number {m[1]}"),
    (re.compile(r"Expected `str` of length >= 1"), lambda m: "at least one character"),
    (re.compile(r"Expected `str` of length <= (\d+)"), lambda m: f"at most {m[1]} characters"),
    (re.compile(r"Expected `str` matching regex .*A-Za-z.*"), lambda m: "three letters, for example EUR"),
    (re.compile(r"Expected `str` matching regex .*"), lambda m: "no control characters"),
    (re.compile(r"Invalid enum value .*"), lambda m: '"item"'),
    (re.compile(r".*out of range"), lambda m: "a number that fits into 64 bits"),
)
_TYPES = {
    "str": "a string",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
}
_MENDS = {
    "type": "the event's type, for example view_item",
    "time": "RFC 3339, for example 2026-05-01T12:30:00.250Z",
    "item": "the item's id",
}


def explain(error: msgspec.ValidationError, data: bytes) -> Reason:
    """The reason behind an error of msgspec: its text taken apart, and the value looked up in the bytes."""
    text = str(error)
    found = _PATH.search(text)
    said, path = (text[: found.start()], found[2].lstrip(".")) if found else (text, "")
    if missing := _MISSING.fullmatch(said):
        field = f"{path}.{missing[1]}" if path else missing[1]
        return reason("missing-field", field, "", _MENDS.get(missing[1], "a value"))
    value = _value_at(data, path)
    if mismatch := _MISMATCH.fullmatch(said):
        return reason("wrong-type", path, value, _types(mismatch[1]))
    if many := re.fullmatch(r"Expected `array` of length <= (\d+)", said):
        return reason("too-many", path, value, f"at most {many[1]}")
    mends = (say(match) for rule, say in _RULES if (match := rule.fullmatch(said)))
    return reason("bad-value", path, value, next(mends, said))


def _types(names: str) -> str:
    # A field that is null is a field left out, so null is no mend.
    return " or ".join(_TYPES.get(name, name) for name in names.split(" | ") if name != "null")


def _value_at(data: bytes, path: str) -> bytes:
    """The JSON at a path, as far as it can be followed: a key msgspec shows as ``[...]`` cannot."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path.split("[...]")[0]):
        try:
            data = _child(data, name, index)
        except (msgspec.MsgspecError, LookupError, ValueError, RecursionError):
            break
    return data


def _child(data: bytes, name: str, index: str) -> bytes:
    kind: Any = dict[str, msgspec.Raw] if name else list[msgspec.Raw]
    return bytes(cast(Any, msgspec.json.decode(data, type=kind))[name or int(index)])
