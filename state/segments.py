"""Segments: what events in one context have in common, as `device=mobile` or `device=mobile,place=DE`. Pure.

A segment names one or more dimensions, in alphabetical order, each with its value as JavaScript's
``encodeURIComponent`` writes it. Workers make them from events, lookups from what a frontend knows of its
visitor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from urllib.parse import quote

TEXTS = ("place", "device", "channel")
"""Dimensions that an event's `context` gives."""
TIMES = ("hour", "weekday")
"""Dimensions that an event's time gives, in UTC."""
DIMENSIONS = TEXTS + TIMES
"""All of them. Of segments with as many dimensions those of earlier ones are taken to be narrower."""

BANDS = ("0-5", "6-11", "12-17", "18-23")
"""Values of `hour`."""
MOST_CHARACTERS = 48
"""Characters of a value as it stands in a segment; longer ones make none."""
MOST_DIMENSIONS = 3
"""Dimensions of a segment."""


def parse(told: str) -> tuple[str, ...]:
    """The dimensions of a kind of segments, as in `device+place`, in alphabetical order.

    Raises ValueError on anything else.
    """
    found = tuple(sorted(told.split("+")))
    if unknown := [name for name in found if name not in DIMENSIONS]:
        raise ValueError(
            f"`{unknown[0]}` is no dimension of a segment: use {', '.join(DIMENSIONS)}, joined by +"
        )
    if len(set(found)) < len(found) or len(found) > MOST_DIMENSIONS:
        raise ValueError(f"`{told}`: a segment has at most {MOST_DIMENSIONS} dimensions, each once")
    return found


def value_of(dimension: str, told: object) -> str | None:
    """A value as it stands in a segment; None: it makes none.

    An hour is a number from 0 to 23 or one of `BANDS`, a weekday a number from 0 (Monday) to 6; both may be
    texts. All others are texts.
    """
    if dimension in TIMES:
        return _time(dimension, str(told))
    return _escaped(told) if isinstance(told, str) and len(told) <= MOST_CHARACTERS else None


def _time(dimension: str, told: str) -> str | None:
    if dimension == "hour" and told in BANDS:
        return told
    number = int(told) if told.isdecimal() and len(told) <= 2 else -1
    if dimension == "hour":
        return BANDS[number // 6] if 0 <= number < 24 else None
    return str(number) if 0 <= number < 7 else None


@lru_cache(4096)
def _escaped(text: str) -> str | None:
    found = quote(text, safe="!'()*", errors="replace")
    return found if 0 < len(found) <= MOST_CHARACTERS else None


def name_of(values: Iterable[tuple[str, str]]) -> str:
    """The segment of (dimension, value) pairs."""
    return ",".join(f"{dimension}={value}" for dimension, value in sorted(values))


def segments_of(context: Mapping[str, object]) -> list[str]:
    """Every segment that a context is in, the narrowest first; what is no dimension is passed over."""
    told = [(name, value_of(name, context[name])) for name in DIMENSIONS if name in context]
    known = [(name, value) for name, value in told if value is not None]
    return [name_of(some) for some in _subsets(known)]


def _subsets(known: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    for size in range(min(len(known), MOST_DIMENSIONS), 0, -1):
        yield from combinations(known, size)
