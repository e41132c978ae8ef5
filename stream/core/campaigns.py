"""Campaigns: what marketing may write, and what is wrong with what it wrote. Pure.

A campaign is a document of plain values (`stream.campaign_files` reads them from YAML). `read` checks all of
it and tells every fault with its path, its value and the mend, not only the first. Which triggers there are,
and what each may be told, is a registry that is passed in: trigger type → struct of its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from math import inf
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from stream.core.codes import MOST
from stream.times import time_ms, time_text

Path = tuple[str | int, ...]
"""The way to a value in a document: names of fields and places in lists."""
Registry = Mapping[str, type[Struct]]
"""Trigger type → the struct of its parameters; it should forbid unknown fields."""

UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}
MOST_MS = 3660 * UNITS["d"]

PRIORITIES = {
    "abandoned-checkout": 100,
    "abandoned-cart": 90,
    "back-in-stock": 80,
    "price-drop": 70,
    "low-stock": 60,
    "browse-abandonment": 50,
    "replenishment": 40,
    "win-back": 30,
}
"""Of two campaigns that want one user, the greater one has him; other triggers have 20."""
OTHER_PRIORITY = 20
DEFAULT = "abandoned-cart"
"""The campaign that runs unless it is switched off, or a campaign has its id; and the type of its trigger."""

SEGMENTS = (
    "champions",
    "loyal",
    "potential-loyalists",
    "new",
    "promising",
    "need-attention",
    "about-to-sleep",
    "at-risk",
    "cannot-lose",
    "hibernating",
)
"""Names of RFM segments that an audience may list."""


CODES = 50_000
"""Codes of a pool: with them a campaign still fits into a message of 1 MB."""
CHOICES = 256
"""Offers of a campaign."""


class Duration(int):
    """Milliseconds, written as a whole number and a unit: 30s, 45m, 24h, 7d."""

    @classmethod
    def read(cls, value: object) -> Duration:
        """From what was written. Raises ValueError that says how to write it."""
        match = re.fullmatch(r"(\d{1,12})([smhd])", value, re.ASCII) if isinstance(value, str) else None
        if match is None or int(match[1]) * UNITS[match[2]] > MOST_MS:
            raise ValueError("a whole number and a unit, such as 45m, 24h or 7d, at most 3660d")
        return cls(int(match[1]) * UNITS[match[2]])

    def __str__(self) -> str:
        unit = next((name for name, ms in UNITS.items() if self and self % ms == 0), "s")
        return f"{self // UNITS[unit]}{unit}"


class Span(Duration):
    """A duration above 0."""

    @classmethod
    def read(cls, value: object) -> Span:
        """From what was written. Raises ValueError that says how to write it."""
        if not (found := Duration.read(value)):
            raise ValueError("a duration above 0")
        return cls(found)


class Instant(int):
    """A moment in milliseconds since 1970 UTC, written as RFC 3339."""

    @classmethod
    def read(cls, value: object) -> Instant:
        """From what was written. Raises ValueError that says how to write it."""
        return cls(time_ms(value if isinstance(value, str) else ""))

    def __str__(self) -> str:
        return time_text(self)


RESTS = {"back-in-stock": Duration(UNITS["d"])}
"""How long a campaign rests that does not say so; others rest 7 days."""
STEPS = {"replenishment": 0, "birthday": 1, "next-best-offer": 1, "trending-for-you": 1}
"""How many steps a campaign may give whose trigger has a rhythm of its own; others any number."""

Name = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="a name of a-z, 0-9 and hyphens, such as mugs"),
]
Text = Annotated[str, Meta(min_length=1, max_length=200, description="1 to 200 characters")]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000, description="a whole number from 1")]
Percent = Annotated[float, Meta(ge=0, le=100, description="a number from 0 to 100")]
Priority = Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")]
Money = Annotated[float, Meta(gt=0, le=1e12, description="a number above 0")]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a campaign's parts."""


class Window(_Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """When the campaign runs, in event time: [from, until); an end that is left out is open."""

    from_: Instant | None = None
    until: Instant | None = None

    def __post_init__(self) -> None:
        if self.from_ is not None and self.until is not None and self.from_ >= self.until:
            raise ValueError(f"from {self.from_} is not before until {self.until}: give an earlier from")


class Content(_Part, frozen=True, kw_only=True):
    """What a message shows: the sender's template, which items and at most how many, any further data."""

    template: Text
    items: Literal["cart", "viewed", "recommended", "trigger"] = "trigger"
    most: Annotated[int, Meta(ge=0, le=50, description="a whole number from 0 to 50")] = 10
    data: dict[str, Any] = {}


class Computed(_Part, frozen=True, kw_only=True):
    """Codes that are computed from the setting `coupon_secret` (`stream.core.codes`), in place of a list."""

    count: Annotated[int, Meta(ge=1, le=MOST, description="a whole number from 1 to 1073741824")]
    prefix: Annotated[
        str, Meta(pattern=r"^[A-Z0-9-]{0,20}$", description="up to 20 of A-Z, 0-9 and hyphens")
    ] = ""


class _Source(_Part, frozen=True, kw_only=True):
    """Where coupons come from: a pool of codes, each to one user, or an offer whose code is its name.

    ``codes`` are those of the pool; a campaign file may name another one beside it with a code a line.
    ``value`` is what one costs the shop, for the budget.
    """

    pool: Name | None = None
    offer: Name | None = None
    codes: Annotated[tuple[Text, ...], Meta(max_length=CODES, description="at most 50000 codes")] = ()
    computed: Computed | None = None
    value: Annotated[float, Meta(ge=0, le=1e9, description="a number from 0")] = 0.0

    @property
    def name(self) -> str:
        """Its name in messages and ledgers."""
        return self.offer or self.pool or ""

    def _check(self) -> None:
        if (self.pool is None) == (self.offer is None):
            raise ValueError("a coupon has one source: give pool or offer, one of the two")
        if self.codes and self.computed is not None:
            raise ValueError("codes are listed or computed: give codes or computed, one of the two")
        if (self.pool is None) != (not self.codes and self.computed is None):
            raise ValueError("a pool has codes, an offer has none: give codes with pool alone")
        if len(set(self.codes)) < len(self.codes):
            raise ValueError("a code stands there twice: give every code once")


class Choice(_Source, frozen=True, kw_only=True):
    """One of several coupons of a campaign: each user gets the one with the greatest propensity × ``gain``.

    ``items`` are those it is good for, likewise a list or a file; ``gain`` is what the shop has of one that
    is redeemed, None: its value.
    """

    items: Annotated[
        tuple[Text, ...], Meta(min_length=1, max_length=CODES, description="items, at most 50000")
    ]
    gain: Annotated[float, Meta(gt=0, le=1e9, description="a number above 0")] | None = None

    def __post_init__(self) -> None:
        self._check()
        if self.gain is None and not self.value:
            raise ValueError("there is nothing to choose by: give gain or value")


class Coupon(_Source, frozen=True, kw_only=True):
    """What is given with a message: a coupon of one source, or of several ``offers`` the best for the user.

    At least ``floor_percent`` of what the nudge's items cost must be left.
    """

    per_user: Annotated[int, Meta(ge=1, le=32, description="a whole number from 1 to 32")] = 1
    valid: Duration = Duration(14 * UNITS["d"])
    floor_percent: Percent = 0.0
    offers: Annotated[tuple[Choice, ...], Meta(max_length=CHOICES, description="at most 256 offers")] = ()

    def __post_init__(self) -> None:
        if not self.offers:
            self._check()
            return
        if self.name or self.codes or self.computed or self.value:
            raise ValueError("each of offers has a source of its own: give pool, codes and value there")
        names = [each.name for each in self.offers]
        if len(set(names)) < len(names):
            raise ValueError("two offers have one name: give each its own")
        codes = [code for each in self.offers for code in (each.codes or (each.offer or "",)) if code]
        if len(set(codes)) < len(codes):
            raise ValueError("a code stands there twice: give every code once")
        if len(codes) + sum(len(each.items) for each in self.offers) > CODES:
            raise ValueError(f"codes and items of all offers are too many: at most {CODES} in all")


class Budget(_Part, frozen=True, kw_only=True):
    """What the campaign may spend in all: coupons, and their cost in the shop's currency."""

    coupons: Count | None = None
    cost: Money | None = None


class Caps(_Part, frozen=True, kw_only=True):
    """At most so many messages a user and channel in 24 hours and in 7 days; left out: the settings'."""

    day: Count | None = None
    week: Count | None = None

    def __post_init__(self) -> None:
        if self.day is not None and self.week is not None and self.day > self.week:
            raise ValueError(f"{self.day} a day exceed {self.week} a week: give week at least {self.day}")


class Goals(_Part, frozen=True, kw_only=True):
    """What counts as a success: an event of this type within this time after the message."""

    event: Text = "purchase"
    within: Span = Span(3 * UNITS["d"])


class Trigger(Struct, frozen=True):
    """What sets the campaign off: the trigger's type and its own parameters."""

    type: str
    parameters: Any


class Campaign(_Part, frozen=True, kw_only=True):
    """A campaign as it holds. ``docs/engagement.md`` has the reference of all fields."""

    id: Name
    trigger: Trigger
    audience: tuple[str, ...] | None = None
    window: Window = Window()
    channels: Annotated[
        tuple[Text, ...], Meta(min_length=1, description="a list of channels, such as [email, push]")
    ] = ("email",)
    purpose: Text = "personalisation"
    message: Content
    coupon: Coupon | None = None
    budget: Budget = Budget()
    caps: Caps = Caps()
    priority: Priority | None = None
    holdout_percent: Percent | None = None
    goals: Goals = Goals()
    steps: tuple[Duration, ...] = ()
    rest: Duration = Duration(7 * UNITS["d"])
    expires: Span = Span(24 * UNITS["h"])
    enabled: bool = True


class Fault(Struct, frozen=True):
    """What is wrong at ``path``: the start of the value that stands there, what is wrong, and the mend."""

    path: Path
    value: str
    wrong: str
    mend: str

    @property
    def field(self) -> str:
        """The path as people write it: ``steps[1]``, ``message.items``."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return text.removeprefix(".")

    @property
    def message(self) -> str:
        """Field, what is wrong, and the mend."""
        where = f"{self.field}: " if self.path else ""
        return f"{where}{self.wrong}: {self.mend}"


# Reading


def read(
    document: object, registry: Registry, segments: Collection[str] = SEGMENTS
) -> tuple[Campaign | None, list[Fault]]:
    """The campaign of a document, or all its faults, in the order of the fields; about 0.2 ms."""
    if not isinstance(document, Mapping):
        return None, [_fault((), document, "this is no campaign", "give fields, such as id: cart")]
    faults = list(_struct_faults(document, Campaign, (), _Checks(registry, segments)))
    if faults:
        return None, faults
    said = dict(document) | {"trigger": _trigger(document["trigger"], registry)}
    if isinstance(document.get("audience"), str):
        said["audience"] = [document["audience"]]
    campaign = msgspec.convert(said, Campaign, dec_hook=_decode)
    if campaign.coupon is None and campaign.budget != Budget():
        mend = "leave it out, or give a coupon"
        return None, [_fault(("budget",), document["budget"], "there is no coupon to spend it on", mend)]
    kind = campaign.trigger.type
    if campaign.id == DEFAULT != kind:
        return None, [_fault(("id",), DEFAULT, "users' states of this id are of carts", "give another one")]
    if len(campaign.steps) > STEPS.get(kind, inf):
        wrong = f"{kind} has a rhythm of its own"
        mend = "give one delay, or leave it out" if STEPS[kind] else "leave it out"
        return None, [_fault(("steps",), document["steps"], wrong, mend)]
    usual = PRIORITIES.get(kind, OTHER_PRIORITY) if campaign.priority is None else campaign.priority
    rest = campaign.rest if "rest" in document else RESTS.get(kind, campaign.rest)
    return replace(campaign, priority=usual, rest=rest), []


P = TypeVar("P", bound=Struct)


def read_part(document: object, kind: type[P]) -> tuple[P | None, list[Fault]]:
    """A document of another kind (`stream.core.loyalty`), checked likewise."""
    faults = list(_struct_faults(document, kind, (), _Checks({}, ())))
    return (None, faults) if faults else (msgspec.convert(document, kind, dec_hook=_decode), [])


def _trigger(value: Mapping[str, Any], registry: Registry) -> Trigger:
    own = {name: each for name, each in value.items() if name != "type"}
    return Trigger(value["type"], msgspec.convert(own, registry[value["type"]], dec_hook=_decode))


class _Checks(Struct, frozen=True):
    """What a document is checked against."""

    registry: Registry
    segments: Collection[str]

    def of(self, path: Path, value: Any) -> Iterator[Fault] | None:
        """The faults of a field with rules of its own; None: its type says all."""
        if path == ("trigger",):
            return _trigger_faults(value, path, self)
        if path == ("audience",):
            return _audience_faults(value, path, self.segments)
        return None


def _decode(kind: type, value: Any) -> Any:
    if issubclass(kind, Duration | Instant):
        return kind.read(value)
    raise NotImplementedError(kind)


# What is wrong


def _struct_faults(value: Any, kind: type[Struct], path: Path, checks: _Checks) -> Iterator[Fault]:
    """Faults of the fields of a part, and if there are none, of the part as a whole."""
    hints = _hints(kind)
    if not isinstance(value, Mapping):
        yield _fault(path, value, _alone(value), f"give fields of {', '.join(hints)}")
        return
    faults = [_unknown(path, name, value[name], hints) for name in value if name not in hints]
    meant = {_closest(name, hints) for name in value}
    for name, (hint, required) in hints.items():
        if name in value:
            faults += _faults(value[name], hint, (*path, name), checks)
        elif required and name not in meant:
            faults.append(_fault((*path, name), "", "nothing is there", f"give {_expected(hint)}"))
    if not faults and kind is not Campaign:
        faults += _converted(value, kind, path)
    yield from faults


@lru_cache(maxsize=256)
def _hints(kind: type[Struct]) -> dict[str, tuple[Any, bool]]:
    """Name in a document → the type, and whether it must be given."""
    hints = get_type_hints(kind, include_extras=True)
    return {each.encode_name: (hints[each.name], each.required) for each in msgspec.structs.fields(kind)}


def _faults(value: Any, hint: Any, path: Path, checks: _Checks) -> list[Fault]:
    own = checks.of(path, value)
    if own is not None:
        return list(own)
    if value is None and NoneType in get_args(hint):
        return []
    hint = _without_none(hint)
    bare = _bare(hint)
    if isinstance(bare, type) and issubclass(bare, Struct):
        return list(_struct_faults(value, bare, path, checks))
    faults: list[Fault] = []
    if get_origin(bare) in (tuple, list) and isinstance(value, list):
        inner = get_args(bare)[0]
        for place, each in enumerate(value):
            faults += _faults(each, inner, (*path, place), checks)
    if path == ("steps",) and isinstance(value, list):
        faults += _not_rising(value, path)
    return faults or _converted(value, hint, path)


def _converted(value: Any, hint: Any, path: Path) -> list[Fault]:
    """The fault that converting finds, at most one."""
    try:
        msgspec.convert(value, hint, dec_hook=_decode)
    except msgspec.ValidationError as error:
        said = re.sub(r" - at `.*`$", "", str(error))
        if isinstance(hint, type) and issubclass(hint, Struct):  # a rule of the part as a whole
            wrong, _, mend = said.rpartition(": ")
            return [_fault(path, value, wrong or mend, mend if wrong else "give other values")]
        quoted = ", in quotes" if _bare(hint) is str and isinstance(value, int | float) else ""
        mend = f"give {_expected(hint) or said}{quoted}{_near(value, hint)}"
        return [_fault(path, value, f"{_shown(value)} is not allowed", mend)]
    return []


def _not_rising(value: list[Any], path: Path) -> Iterator[Fault]:
    """Delays that do not come after the one before them; what is no delay is told elsewhere."""
    read = [
        (place, Duration.read(each)) for place, each in enumerate(value) if not _converted(each, Duration, ())
    ]
    for (_, before), (place, after) in pairwise(read):
        if after <= before:
            wrong = f"{after} {'comes before' if after < before else 'is the same as'} {before}"
            yield _fault((*path, place), value[place], wrong, "give rising delays, such as [45m, 24h]")


def _trigger_faults(value: Any, path: Path, checks: _Checks) -> Iterator[Fault]:
    known = ", ".join(sorted(checks.registry))
    if not isinstance(value, Mapping) or "type" not in value:
        if isinstance(value, Mapping) and (
            near := {_closest(name, ["type"]): name for name in value}.get("type")
        ):
            yield _unknown(path, near, value[near], ["type"])
            return
        near = _closest(value, checks.registry) if isinstance(value, str) else ""
        wrong = _alone(value) if isinstance(value, list) else "there is no type"
        yield _fault(path, value, wrong, f"give type, one of {known}{_meant(near and f'type: {near}')}")
        return
    kind = value["type"]
    if not isinstance(kind, str) or kind not in checks.registry:
        mend = f"give one of {known}{_suggestion(kind, checks.registry)}"
        yield _fault((*path, "type"), kind, f"{_shown(kind)} is no trigger", mend)
        return
    own = {name: each for name, each in value.items() if name != "type"}
    yield from _struct_faults(own, checks.registry[kind], path, checks)


def _audience_faults(value: Any, path: Path, segments: Collection[str]) -> Iterator[Fault]:
    """A segment, or a list of them."""
    if value is None:
        return
    alone = not isinstance(value, list) or not value
    for place, name in enumerate([value] if alone else value):
        if not isinstance(name, str) or name not in segments:
            where = path if alone else (*path, place)
            known = ", ".join(segments)
            mend = f"give some of {known}, or leave it out for everybody{_suggestion(name, segments)}"
            yield _fault(where, name, f"{_shown(name)} is no segment", mend)


def _unknown(path: Path, name: Any, value: Any, known: Collection[str]) -> Fault:
    there = f"use {', '.join(known)}" if known else "leave it out: nothing can be told here"
    return _fault((*path, name), value, "there is no such field", there + _suggestion(name, known))


def _alone(value: Any) -> str:
    """What stands where fields are wanted."""
    if value is None:
        return "nothing is there"
    return (
        "a list, with hyphens, stands there" if isinstance(value, list) else f"{_shown(value)} stands alone"
    )


def _near(value: Any, hint: Any) -> str:
    """What was meant: one of the words there are, or the number in a text such as "5" or 15%."""
    bare = _bare(hint)
    if get_origin(bare) is Literal:
        return _suggestion(value, get_args(bare))
    number = re.match(r"\d{1,15}(\.\d{1,15})?", value, re.ASCII) if isinstance(value, str) else None
    if number is None or bare not in (int, float):
        return ""
    share = [float(number[0]) / 100] if "%" in value and bare is float else []
    tried = [int(number[0]) if number[0].isdigit() else float(number[0]), *share]
    return _meant(next((str(each) for each in tried if not _converted(each, hint, ())), ""))


def _suggestion(name: object, known: Collection[str]) -> str:
    return _meant(_closest(name, known))


def _closest(name: object, known: Collection[str]) -> str:
    """The name that was meant, in whatever case it was written; "": none."""
    names = {str(each).lower(): str(each) for each in known}
    close = get_close_matches(str(name).lower(), names, 1)
    return names[close[0]] if close else ""


def _meant(what: str) -> str:
    return f" (did you mean {what}?)" if what else ""


def _fault(path: Path, value: object, wrong: str, mend: str) -> Fault:
    return Fault(path, _shown(value), wrong, mend)


def _shown(value: object) -> str:
    """The start of a value, as it would be written."""
    if isinstance(value, str) and not _needs_quotes(value):
        text = value
    else:
        text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"


def _needs_quotes(text: str) -> bool:
    """Whether a text would be something else without quotes: 3, true, or nothing."""
    try:
        return not text or not isinstance(msgspec.json.decode(text), str)
    except msgspec.DecodeError:
        return False


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _without_none(hint: Any) -> Any:
    """T for T | None; other unions stay."""
    some = [each for each in get_args(hint) if each is not NoneType]
    return some[0] if get_origin(hint) in (Union, UnionType) and len(some) == 1 else hint


_TOLD: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Duration: "a whole number and a unit, such as 45m, 24h or 7d, at most 3660d",
    Span: "a whole number above 0 and a unit, such as 45m, 24h or 7d, at most 3660d",
    Instant: "a time with Z or an offset, such as 2026-05-01T12:30:00Z",
}


def _expected(hint: Any) -> str:
    """What a type wants, in words; "" where only msgspec knows."""
    hint = _without_none(hint)
    for meta in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    bare = _bare(hint)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(map(str, get_args(bare)))
    if isinstance(bare, type) and issubclass(bare, Struct):
        return "type and its parameters" if bare is Trigger else f"fields of {', '.join(_hints(bare))}"
    if get_origin(bare) in (dict, Mapping):
        return "names and values, such as {colour: red}"
    if get_origin(bare) in (tuple, list):
        inner = _expected(get_args(bare)[0])
        return f"a list, each {inner}" if inner else "a list"
    return _TOLD.get(bare, "")


# Versions


def document(campaign: Campaign) -> dict[str, Any]:
    """All of a campaign as plain values, defaults included: `read` of it gives the campaign back."""
    found = _plain(campaign)
    return found | {"trigger": {"type": campaign.trigger.type} | _plain(campaign.trigger.parameters)}


def _plain(value: Struct) -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str), type=dict[str, Any])


def content_hash(campaign: Campaign) -> str:
    """The hash of what a campaign says: blake2b-128 of its document as JSON with sorted keys, in hex."""
    return blake2b(msgspec.json.encode(document(campaign), order="sorted"), digest_size=16).hexdigest()


class Version(Struct, frozen=True, kw_only=True):
    """A campaign as it holds from an event time on (``effective``, ms); ``number`` counts from 1."""

    campaign: Campaign
    number: int
    hash: str
    effective: int


def successor(old: Version | None, campaign: Campaign, effective: int) -> Version | None:
    """The version after ``old``; None when nothing changed. Raises ValueError when it would hold earlier."""
    digest = content_hash(campaign)
    if old is None:
        return Version(campaign=campaign, number=1, hash=digest, effective=effective)
    if old.hash == digest:
        return None
    if effective < old.effective:
        raise ValueError(
            f"{campaign.id}: {time_text(effective)} is before version {old.number} began to hold, "
            f"{time_text(old.effective)}: give a later time"
        )
    return Version(campaign=campaign, number=old.number + 1, hash=digest, effective=effective)


def encode_version(version: Version) -> bytes:
    """JSON, the campaign as its document."""
    said = {name: getattr(version, name) for name in ("number", "hash", "effective")}
    return msgspec.json.encode({"campaign": document(version.campaign), **said})


def decode_version(data: bytes, registry: Registry) -> Version:
    """From `encode_version`. Raises ValueError with the faults when the campaign cannot be read any more."""
    try:
        said = _VERSION.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"this is no version of a campaign: {error}") from error
    campaign, faults = read(said.campaign, registry)
    if campaign is None:
        raise ValueError("; ".join(fault.message for fault in faults))
    return Version(campaign=campaign, number=said.number, hash=said.hash, effective=said.effective)


class _Said(Struct, frozen=True):
    """A version as it is written."""

    campaign: Any
    number: Annotated[int, Meta(ge=1)]
    hash: str
    effective: int


_VERSION = msgspec.json.Decoder(_Said)


class Change(Struct, frozen=True):
    """A field that differs between two versions; None: it is not there."""

    field: str
    old: Any
    new: Any


def diff(old: Campaign | None, new: Campaign | None) -> list[Change]:
    """What differs, field by field, lists as a whole, in the order of the fields; None: no such campaign."""
    before, after = (dict(_flat(document(each))) if each else {} for each in (old, new))
    names = {**before, **after}
    return [
        Change(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _flat(each, f"{path}{name}.")
        else:
            yield f"{path}{name}", each
