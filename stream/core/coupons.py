"""Coupons: the ledger of one campaign, what a user holds of it, and how both change. Pure.

The ledger is state of the one partition of `events` that owns the campaign (`partition_of` its id), so that
no code goes out twice and no budget is overrun, however many workers send its nudges. Users' partitions ask
it by notices (`stream.core.notices`) and are answered by one:

    user's partition                       campaign's partition
    nudge passes all guards ── REQUEST ──► `request`: a grant, or why there is none
    sent with the code      ◄── GRANT ───
    or not sent after all   ── BACK ─────► `give_back`: the code may go to somebody else
    `purchase` with a code  ── REDEEMED ─► `redeem`
    `forget`                ── ERASE ────► nothing of the user stays but sums

Every transition is total and idempotent: a request that comes again is answered by what was granted, what was
given back or redeemed once is not so twice. A code that a user has seen never goes to another one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from stream.core.campaigns import Campaign, Choice, Coupon
from stream.core.choice import MICRO, Known, Weighed, expected, rates
from stream.core.codes import Computed
from stream.events import RESERVED

REQUEST, GRANT = RESERVED + "coupon-request", RESERVED + "coupon"
BACK, REDEEMED, ERASE = (RESERVED + f"coupon-{name}" for name in ("back", "redeemed", "erase"))
TO_LEDGER = frozenset({REQUEST, BACK, REDEEMED, ERASE})
"""Types of notices that ledgers get; users get `GRANT`."""

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
WITHIN_MS = HOUR_MS
"""How long a nudge waits for its coupon, in event time."""
HELD = 32
"""Grants of a campaign that are kept of a user, and so the most that ``per_user`` may be."""
SERIAL, SERIAL_MS = 2, 90 * DAY_MS
"""Who redeemed so many of a campaign's coupons within this time gets none: he may abandon carts for them."""
_ABANDONING = frozenset({"abandoned-cart", "abandoned-checkout", "browse-abandonment"})
WEIGHED = 8
"""Offers that an answer tells of: the best."""
_MILLI = 1000
_FORMAT = 1

Refusal = Literal["pool", "budget", "limit", "serial", "margin", "ended", "secret"]
"""Why there is no coupon: no code is left; the campaign has spent its budget; the user had as many as he may;
he redeems what he abandons carts for; the nudge is not worth it; the campaign has none (any more); codes are
to be computed, and the worker has no `coupon_secret`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A source of coupons: ``codes`` of its pool, None: the code is its name. Money is in thousandths."""

    name: str
    codes: Sequence[str] | None
    value: int
    gain: int

    def code(self, number: int) -> str:
        """The code of a place in the pool."""
        return self.name if self.codes is None else self.codes[number]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a campaign says of its coupons. Money is in thousandths of the shop's currency.

    ``kinds`` are its sources; of several each user gets the best for him. ``most`` coupons and ``cost`` in
    all, None without a bound; ``floor`` is the least share, in percent, that the coupon leaves of what the
    nudge's items cost.
    """

    kinds: tuple[Kind, ...]
    per_user: int
    valid_ms: int
    most: int | None
    cost: int | None
    floor: float
    abandoning: bool

    @classmethod
    def of(cls, campaign: Campaign | None, secret: bytes = b"") -> Terms | None:
        """From a campaign; None: it gives no coupons. ``secret`` is that of computed codes."""
        if campaign is None or campaign.coupon is None or not campaign.enabled:
            return None
        coupon, budget = campaign.coupon, campaign.budget
        return cls(
            kinds=_kinds(campaign.id, coupon, secret),
            per_user=coupon.per_user,
            valid_ms=int(coupon.valid),
            most=budget.coupons,
            cost=None if budget.cost is None else round(budget.cost * _MILLI),
            floor=coupon.floor_percent,
            abandoning=campaign.trigger.type in _ABANDONING,
        )


def _kinds(campaign: str, coupon: Coupon, secret: bytes) -> tuple[Kind, ...]:
    found = list[Kind]()
    for each in coupon.offers or (coupon,):
        codes: Sequence[str] | None = each.codes if each.offer is None else None
        if each.computed is not None:
            codes = Computed(secret, campaign, each.name, each.computed.prefix, each.computed.count)
        told = each.gain if isinstance(each, Choice) else None
        gain = each.value if told is None else told
        found.append(Kind(each.name, codes, round(each.value * _MILLI), round(gain * _MILLI)))
    return tuple(found)


class Shelf(msgspec.Struct, frozen=True, array_like=True):
    """The sums of one source: ``next`` is the place of the first code never handed out, ``free`` those given
    back, ascending; ``issued`` and ``redeemed`` as in `Pool`. ``hoped`` is how many of those issued were
    expected to be redeemed, in millionths (`stream.core.choice`); 0 where there is one source alone."""

    next: int = 0
    free: tuple[int, ...] = ()
    issued: int = 0
    redeemed: int = 0
    hoped: int = 0


_EMPTY = Shelf()


class Pool(msgspec.Struct, frozen=True, array_like=True):
    """The sums of a campaign's ledger. 30 bytes, and 6 for each hour at which open coupons end.

    ``shelves`` are those of its sources, by name. ``issued`` are all grants but those given back
    (``returned``), ``spent`` what they are worth. ``open`` has the number of grants that are neither redeemed
    nor given back, by the hour at whose end they expire; those of hours that had ended by the newest grant
    are in ``ended``.
    """

    format: int = _FORMAT
    shelves: dict[str, Shelf] = {}
    issued: int = 0
    redeemed: int = 0
    returned: int = 0
    spent: int = 0
    open: tuple[tuple[int, int], ...] = ()
    ended: int = 0

    def shelf(self, name: str) -> Shelf:
        """The sums of a source."""
        return self.shelves.get(name, _EMPTY)

    def expired(self, time: int) -> int:
        """Grants that ended unredeemed by a time, not before the newest grant."""
        return self.ended + sum(count for hour, count in self.open if (hour + 1) * HOUR_MS <= time)


class Given(msgspec.Struct, frozen=True, array_like=True):
    """A grant: for which ``request``, its code (and its place in the pool, −1: none), from when until when,
    and when it was redeemed (0: not yet); of which source, what was hoped of it (`Shelf`), and its chance."""

    request: str
    code: str
    number: int
    time: int
    expires: int
    value: int
    redeemed: int = 0
    kind: str = ""
    hoped: int = 0
    chance: int = 0


class Wallet(msgspec.Struct, frozen=True, array_like=True):
    """What a user holds of a campaign, oldest first: at most `HELD`."""

    format: int = _FORMAT
    given: tuple[Given, ...] = ()


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a request. ``number`` counts the user's own; ``worth`` is what the nudge's items cost
    (None: unknown); ``offer`` is what lists had to say (`stream.core.offers`), and comes with the answer;
    ``known`` is by what one of several coupons is chosen for him."""

    campaign: str
    user: str
    rule: str
    step: int
    due: int
    time: int
    worth: float | None = None
    offer: dict[str, Any] | None = None
    number: int = 1
    known: Known | None = None

    @property
    def key(self) -> str:
        """What tells it from the user's other requests."""
        return key_of(self.rule, self.due, self.number)


def key_of(rule: str, due: int, number: int) -> str:
    """The name of a request. One nudge may ask twice, and only one answer is used: each has its own grant."""
    return f"{rule}-{due}-{number}"


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an answer: a code, or why there is none. Where there were several offers: of which it is,
    the ``chance`` that the user redeems it in millionths, and the best that were weighed, best first."""

    request: Request
    code: str = ""
    value: float = 0.0
    expires: int = 0
    refused: str = ""
    kind: str = ""
    chance: int = 0
    weighed: tuple[Weighed, ...] = ()


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of what is said of a coupon later on: by its request (`BACK`), its code (`REDEEMED`), or of
    all of them (`ERASE`)."""

    campaign: str
    user: str
    time: int
    request: str = ""
    code: str = ""


# Transitions


def request(
    pool: Pool, wallet: Wallet, terms: Terms | None, asked: Request, now: int
) -> tuple[Pool, Wallet, Grant]:
    """Answer a request at event time ``now``; the pool and the wallet afterwards. ~7 µs, and of several
    offers ~2 µs each.

    A request that comes again has the same coupon; what was weighed is told once.
    """
    key = asked.key
    for given in wallet.given:
        if given.request == key:
            return pool, wallet, _grant(asked, given)
    refused = "ended" if terms is None else _refused(pool, wallet, terms, now)
    if terms is None or refused:
        return pool, wallet, Grant(asked, refused=refused)
    scales = _scales(pool, terms, asked)
    weighed = _told(scales) if len(terms.kinds) > 1 else ()
    best = next((each for each in scales if not each.refused), None)
    if best is None:
        return pool, wallet, Grant(asked, refused=scales[0].refused, weighed=weighed)
    given, shelf = _given(pool.shelf(best.kind.name), best, asked, now, terms)
    pool = _counted(_folded(pool, now), given, 1)
    pool = _put(pool, given.kind, shelf, issued=pool.issued + 1, spent=pool.spent + given.value)
    wallet = replace(wallet, given=(*wallet.given, given)[-HELD:])
    return pool, wallet, replace(_grant(asked, given), weighed=weighed)


def _refused(pool: Pool, wallet: Wallet, terms: Terms, now: int) -> Refusal | Literal[""]:
    """Why the campaign gives the user none, whichever it were."""
    if len(wallet.given) >= terms.per_user:
        return "limit"
    habit = sum(now - SERIAL_MS < given.redeemed <= now for given in wallet.given)
    if terms.abandoning and habit >= SERIAL:
        return "serial"
    if terms.most is not None and pool.issued >= terms.most:
        return "budget"
    return ""


def _unfit(pool: Pool, terms: Terms, kind: Kind, worth: float | None) -> Refusal | Literal[""]:
    """Why a source gives none now."""
    if terms.floor > 0 and not _leaves(terms.floor, kind.value, worth):
        return "margin"
    if terms.cost is not None and pool.spent + kind.value > terms.cost:
        return "budget"
    if isinstance(kind.codes, Computed) and not kind.codes.secret:
        return "secret"
    return "" if kind.codes is None or _first(pool.shelf(kind.name), kind) is not None else "pool"


def _leaves(floor: float, value: int, worth: float | None) -> bool:
    """Whether enough is left of what the items cost; of what nobody knows the price, nothing is."""
    return worth is not None and worth * _MILLI - value >= floor / 100 * worth * _MILLI


def _first(shelf: Shelf, kind: Kind) -> int | None:
    """The place of the next code: the first that was given back, else the first that nobody had."""
    size = len(kind.codes or ())
    free = next((each for each in shelf.free if each < size), None)
    return free if free is not None else shelf.next if shelf.next < size else None


@dataclass(frozen=True, slots=True)
class _Scale:
    """A source as it was weighed: the user's ``own`` purchases, what is ``hoped`` of it whatever became of it
    so far, and the ``chance``, all in millionths; ``score`` = chance · gain."""

    kind: Kind
    refused: str
    own: int = 0
    hoped: int = 0
    chance: int = 0
    score: float = 0.0


def _scales(pool: Pool, terms: Terms, asked: Request) -> list[_Scale]:
    """All sources, best first; of equals the first that the campaign names."""
    unfit = [_unfit(pool, terms, kind, asked.worth) for kind in terms.kinds]
    if len(terms.kinds) == 1:
        return [_Scale(terms.kinds[0], unfit[0])]
    known, names = asked.known or Known(), [kind.name for kind in terms.kinds]
    shelves = [pool.shelf(name) for name in names]
    found = rates((shelf.redeemed, shelf.hoped) for shelf in shelves)
    scales = list[_Scale]()
    for kind, why, hope, rate in zip(terms.kinds, unfit, expected(known, names), found, strict=True):
        own, chance = known.own.get(kind.name, 0), min(round(hope * rate * MICRO), MICRO)
        scales.append(
            _Scale(kind, why, own, round(hope * MICRO), chance, chance * kind.gain / MICRO / _MILLI)
        )
    return sorted(scales, key=lambda scale: -scale.score)


def _told(scales: Sequence[_Scale]) -> tuple[Weighed, ...]:
    """The best of what was weighed, and the one that is given where it is not among them."""
    given = next((at for at, scale in enumerate(scales) if not scale.refused), 0)
    some = scales[:WEIGHED] if given < WEIGHED else [*scales[: WEIGHED - 1], scales[given]]
    return tuple(
        Weighed(each.kind.name, each.own / MICRO, each.chance / MICRO, round(each.score, 6), each.refused)
        for each in some
    )


def _given(shelf: Shelf, best: _Scale, asked: Request, now: int, terms: Terms) -> tuple[Given, Shelf]:
    """A grant, and what is left of its source."""
    kind = best.kind
    found = None if kind.codes is None else _first(shelf, kind)
    number = -1 if found is None else found
    given = Given(
        request=asked.key,
        code=kind.code(number),
        number=number,
        time=now,
        expires=(-((now + terms.valid_ms) // -HOUR_MS)) * HOUR_MS,
        value=kind.value,
        kind=kind.name,
        hoped=best.hoped,
        chance=best.chance,
    )
    free = tuple(each for each in shelf.free if each != number)
    new = shelf.next + (number == shelf.next)
    return given, replace(shelf, next=new, free=free, issued=shelf.issued + 1, hoped=shelf.hoped + best.hoped)


def _put(pool: Pool, name: str, shelf: Shelf, **sums: int) -> Pool:
    return replace(pool, shelves=pool.shelves | {name: shelf}, **sums)


def give_back(pool: Pool, wallet: Wallet, key: str) -> tuple[Pool, Wallet]:
    """Take back what was granted for a request, and nobody has seen. A redeemed one stays."""
    found = next((given for given in wallet.given if given.request == key and not given.redeemed), None)
    if found is None:
        return pool, wallet
    shelf = pool.shelf(found.kind)
    free = shelf.free if found.number < 0 else tuple(sorted((*shelf.free, found.number)))
    shelf = replace(shelf, free=free, issued=shelf.issued - 1, hoped=shelf.hoped - found.hoped)
    sums = {"issued": pool.issued - 1, "returned": pool.returned + 1, "spent": pool.spent - found.value}
    pool = _counted(_put(pool, found.kind, shelf, **sums), found, -1)
    return pool, replace(wallet, given=tuple(given for given in wallet.given if given is not found))


def redeem(pool: Pool, wallet: Wallet, code: str, time: int) -> tuple[Pool, Wallet]:
    """A purchase at event time ``time`` used a code: of several the oldest that holds then. Once."""
    for at, given in enumerate(wallet.given):
        if given.code == code and not given.redeemed and time < given.expires:
            used = replace(given, redeemed=max(time, 1))
            shelf = pool.shelf(given.kind)
            shelf = replace(shelf, redeemed=shelf.redeemed + 1)
            pool = _put(_counted(pool, given, -1), given.kind, shelf, redeemed=pool.redeemed + 1)
            return pool, replace(wallet, given=(*wallet.given[:at], used, *wallet.given[at + 1 :]))
    return pool, wallet


def _counted(pool: Pool, given: Given, by: int) -> Pool:
    """Count a grant in, or out of where it stands: among the open ones, or those that ended."""
    hour = given.expires // HOUR_MS - 1
    at = bisect_left(pool.open, (hour, 0))
    there = at < len(pool.open) and pool.open[at][0] == hour
    if by < 0 and not there:
        return replace(pool, ended=pool.ended + by)
    count = by + (pool.open[at][1] if there else 0)
    kept = ((hour, count),) if count else ()
    return replace(pool, open=(*pool.open[:at], *kept, *pool.open[at + there :]))


def _folded(pool: Pool, now: int) -> Pool:
    """Hours that have ended become one number, so that a ledger does not grow with time."""
    at = bisect_left(pool.open, (now // HOUR_MS, 0))
    if not at:
        return pool
    return replace(pool, open=pool.open[at:], ended=pool.ended + sum(count for _, count in pool.open[:at]))


def _grant(asked: Request, given: Given) -> Grant:
    return Grant(asked, given.code, given.value / _MILLI, given.expires, kind=given.kind, chance=given.chance)


# The ledgers of a partition


@dataclass
class Ledgers:
    """Ledgers and wallets of a batch: as they were, and what became of them.

    ``pools`` by campaign, ``wallets`` by campaign and user must hold all that the batch's notices name.
    ``changed`` are those that changed.
    """

    pools: dict[str, Pool]
    wallets: dict[tuple[str, str], Wallet]

    def __post_init__(self) -> None:
        self.changed: set[str] = set()
        self.changed_wallets: set[tuple[str, str]] = set()

    def hear(self, type_: str, body: dict[str, Any], terms: Terms | None, now: int) -> Grant | None:
        """What a notice to a ledger does; of a request the answer."""
        if type_ == REQUEST:
            asked = msgspec.convert(body, Request)
            at = (asked.campaign, asked.user)
            pool, wallet, grant = request(*self._held(at), terms, asked, now)
            self._keep(at, pool, wallet)
            return grant
        word = msgspec.convert(body, Word)
        at = (word.campaign, word.user)
        pool, wallet = self._held(at)
        if type_ == BACK:
            self._keep(at, *give_back(pool, wallet, word.request))
        elif type_ == REDEEMED:
            self._keep(at, *redeem(pool, wallet, word.code, word.time))
        else:
            self._keep(at, pool, Wallet())
        return None

    def _held(self, at: tuple[str, str]) -> tuple[Pool, Wallet]:
        return self.pools.get(at[0]) or Pool(), self.wallets.get(at) or Wallet()

    def _keep(self, at: tuple[str, str], pool: Pool, wallet: Wallet) -> None:
        before = self._held(at)
        if pool != before[0]:
            self.pools[at[0]] = pool
            self.changed.add(at[0])
        if wallet != before[1]:
            self.wallets[at] = wallet
            self.changed_wallets.add(at)


def parties(type_: str, body: dict[str, Any]) -> tuple[str, str]:
    """The campaign and the user that a notice to a ledger is about."""
    said = msgspec.convert(body, Request) if type_ == REQUEST else msgspec.convert(body, Word)
    return said.campaign, said.user


def pack(held: Pool | Wallet) -> bytes:
    """For the store: equal ones give equal bytes; a wallet without grants gives none."""
    return b"" if isinstance(held, Wallet) and not held.given else _encoder.encode(held)


def unpack_pool(data: bytes | None) -> Pool:
    """From the store; None is a ledger in which nothing stands yet. Raises ValueError on another format."""
    return _checked(_pools.decode(data)) if data else Pool()


def unpack_wallet(data: bytes | None) -> Wallet:
    """From the store; None or nothing is one without grants. Raises ValueError on another format."""
    return _checked(_wallets.decode(data)) if data else Wallet()


H = TypeVar("H", Pool, Wallet)
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_pools, _wallets = msgspec.msgpack.Decoder(Pool), msgspec.msgpack.Decoder(Wallet)


def _checked(held: H) -> H:
    if held.format != _FORMAT:
        raise ValueError(f"a ledger is not of format {_FORMAT}: upgrade Tidewise or use another prefix")
    return held
