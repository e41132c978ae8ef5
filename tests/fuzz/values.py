"""What tends to break readers of JSON: texts, numbers, times, nesting; and a writer that can say it all.

`write` knows what no library writes: the same key twice, NaN, numbers beyond every type, escapes of halves of
surrogate pairs, space where JSON allows it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Token:
    """Text that stands in the message as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """An object by its pairs, so that a key may occur twice."""

    pairs: tuple[tuple[Any, Any], ...]


TEXTS = (
    "",
    " ",
    "u-17 ",
    "caf\u00e9",
    "cafe\u0301",
    "\u05e9\u05dc\u05d5\u05dd\u202e",
    "a\u200b\u200d\ufeffb",
    "\U0001f600" * 64,
    "\U0001f600" * 65,
    "\uffff\ufffe",
    "\u0000",
    "a\u0000b",
    "line\nbreak",
    "tab\t",
    "end\n",
    "\x7f",
    "\x1b[31m",
    "__proto__",
    "{u0}",
    "tidewise:{u0}:meta",
    'say "so"',
    "back\\slash",
    "x" * 255,
    "x" * 256,
    "x" * 257,
    "\u00e9" * 256,
    "x" * 10_000,
    "null",
    "\u2028\u2029",
    "%b%s{}",
    "#00000000000000ff",
)
"""Names that are odd; some of them must be refused."""

TOKENS = tuple(
    Token(text)
    for text in (
        "NaN", "Infinity", "-Infinity", "nan", "1e400", "-1e400", "1e-400", "-0", "-0.0", "0e0", "1.", ".5",
        "01", "+1", "0x10", "1_000", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
        "18446744073709551616", "9" * 400, "9" * 5000, "0." + "3" * 900, "1E+2", "1e12", "1000000000001",
        "true", "True", "undefined", "'x'", r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', r'"\u0000"',
        r'"\u001f"', r'"\u007f"', r'"\x41"', r'"\u12"', r'"a\/b"', '"\t"', '"unclosed', "", "[", "}", "//x",
    )
)  # fmt: skip
"""Texts in the place of a value: numbers beyond every type, escapes, what only looks like JSON."""

NUMBERS = (0, -1, 1, -0.0, 0.1, 1e12, 1e12 + 1, -1e-9, 5e-324, 1_000_001, 2**31, 2**53 + 1, 2**63, 1e308)

TIMES = (
    "2026-05-01T12:30:00Z", "2026-05-01t12:30:00z", "2026-05-01T12:30:00.123456789Z",
    "2026-05-01T14:30:00+02:00", "2026-05-01T12:30:00-23:59", "2026-05-01T12:30:00+24:00",
    "2026-05-01T12:30:00+0200", "2026-05-01 12:30:00Z", "2026-05-01T12:30:00", "2026-05-01",
    "2026-05-01T24:00:00Z", "2016-12-31T23:59:60Z", "2026-02-29T00:00:00Z", "2024-02-29T23:59:59.999Z",
    "1999-12-31T23:59:59.999Z", "1999-12-31T23:00:00-02:00", "2000-01-01T00:00:00Z",
    "2000-01-01T00:00:00+01:00", "2100-12-31T23:59:59Z", "2101-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z", "12026-05-01T12:30:00Z", "-2026-05-01T12:30:00Z", "2026-13-01T12:30:00Z",
    "2026-05-32T12:30:00Z", "2026-05-01T12:60:00Z", "2026-05-01T12:30:00.Z",
    "2026-05-01T12:30:00.1234567890Z", "2026-05-01T12:30:00Z\n", " 2026-05-01T12:30:00Z",
    "2026-05-01T12:30:00\u200bZ", "1746102600", "now", "",
    "２０２６-05-01T12:30:00Z", "2026-05-01T12:30:00,5Z",
    "2026-W18-5T12:30:00Z", "2026-05-01T12:30:00ZZ", "20" * 600, "2026-05-01T12:30:00+00:00",
    "2026-05-01T12:30:00.250-00:00", "2026-05-02T12:30:00Z",
)  # fmt: skip
"""Moments by every calendar, and what is none. The workload's own lie around 2026-05-01T12:30:00Z."""


def odd_value(rng: Random, depth: int = 0) -> Any:
    """Some value that a field does not expect."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind == 3:
        return rng.choice(TOKENS) if rng.random() < 0.5 else rng.choice(TIMES)
    if kind == 4:
        return [] if rng.random() < 0.5 else {}
    if kind == 5:
        return nested(rng)
    if kind == 6:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS[:20]): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def nested(rng: Random) -> Token:
    """A value in brackets: a few levels, many, or more than any reader follows."""
    # Readers stop somewhere near 1,000 levels; where exactly is nobody's promise.
    depth = rng.choices((2, 20, 300, 6000), (6, 3, 1, 0.3))[0]
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    return Token(opening * depth + "1" + closing * (depth if rng.random() < 0.95 else depth - 1))


def write(rng: Random, value: Any) -> str:
    """The JSON of a value; now and then with spaces, and with escapes where none are needed."""
    strange = rng.random() < 0.1
    if not strange and _plain(value):
        return json.dumps(value, ensure_ascii=rng.random() < 0.2, separators=(",", ":"))
    return _write(rng if strange else None, value)


def _plain(value: Any) -> bool:
    if isinstance(value, Token | Pairs):
        return False
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    return all(map(_plain, value)) if isinstance(value, list) else True


def _write(rng: Random | None, value: Any) -> str:
    space = rng.choice(("", "", " ", "\n", " \t\r\n")) if rng else ""
    if isinstance(value, Token):
        return space + value.text
    if isinstance(value, Pairs | dict):
        pairs = value.pairs if isinstance(value, Pairs) else value.items()
        inner = f"{space},".join(f"{_write(rng, key)}{space}:{_write(rng, one)}" for key, one in pairs)
        return f"{space}{{{inner}{space}}}"
    if isinstance(value, list):
        return f"{space}[{f'{space},'.join(_write(rng, one) for one in value)}{space}]"
    if isinstance(value, str) and rng and rng.random() < 0.3:
        return f'{space}"{"".join(map(_escaped, value))}"{space}'
    return space + json.dumps(value, ensure_ascii=bool(rng and rng.random() < 0.5)) + space


def _escaped(character: str) -> str:
    code = ord(character)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04X}"
    return f"\\u{code:04x}"
