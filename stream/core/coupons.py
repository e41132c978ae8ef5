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

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from stream.core.campaigns import Campaign
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
_MILLI = 1000
_FORMAT = 1

Refusal = Literal["pool", "budget", "limit", "serial", "margin", "ended"]
"""Why there is no coupon: no code is left; the campaign has spent its budget; the user had as many as he may;
he redeems what he abandons carts for; the nudge is not worth it; the campaign has none (any more)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a campaign says of its coupons. Money is in thousandths of the shop's currency.

    ``codes`` of a pool, () for a computed offer, whose code is ``offer`` for everybody; ``most`` coupons and
    ``cost`` in all, None without a bound; ``floor`` is the least share, in percent, that the coupon leaves of
    what the nudge's items cost.
    """

    codes: tuple[str, ...]
    offer: str
    value: int
    per_user: int
    valid_ms: int
    most: int | None
    cost: int | None
    floor: float
    abandoning: bool

    @classmethod
    def of(cls, campaign: Campaign | None) -> Terms | None:
        """From a campaign; None: it gives no coupons."""
        if campaign is None or campaign.coupon is None or not campaign.enabled:
            return None
        coupon, budget = campaign.coupon, campaign.budget
        return cls(
            codes=coupon.codes,
            offer=coupon.offer or "",
            value=round(coupon.value * _MILLI),
            per_user=coupon.per_user,
            valid_ms=int(coupon.valid),
            most=budget.coupons,
            cost=None if budget.cost is None else round(budget.cost * _MILLI),
            floor=coupon.floor_percent,
            abandoning=campaign.trigger.type in _ABANDONING,
        )


class Pool(msgspec.Struct, frozen=True, array_like=True):
    """The sums of a campaign's ledger. 30 bytes, and 6 for each hour at which open coupons end.

    ``next`` is the first code never handed out, ``free`` those given back, ascending; ``issued`` are all
    grants but those given back (``returned``), ``spent`` what they are worth. ``open`` has the number of
    grants that are neither redeemed nor given back, by the hour at whose end they expire; those of hours that
    had ended by the newest grant are in ``ended``.
    """

    format: int = _FORMAT
    next: int = 0
    free: tuple[int, ...] = ()
    issued: int = 0
    redeemed: int = 0
    returned: int = 0
    spent: int = 0
    open: tuple[tuple[int, int], ...] = ()
    ended: int = 0

    def expired(self, time: int) -> int:
        """Grants that ended unredeemed by a time, not before the newest grant."""
        return self.ended + sum(count for hour, count in self.open if (hour + 1) * HOUR_MS <= time)


class Given(msgspec.Struct, frozen=True, array_like=True):
    """A grant: for which ``request``, its code (and its place in the pool, −1: none), from when until when,
    and when it was redeemed (0: not yet)."""

    request: str
    code: str
    number: int
    time: int
    expires: int
    value: int
    redeemed: int = 0


class Wallet(msgspec.Struct, frozen=True, array_like=True):
    """What a user holds of a campaign, oldest first: at most `HELD`."""

    format: int = _FORMAT
    given: tuple[Given, ...] = ()


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a request. ``number`` counts the user's own; ``worth`` is what the nudge's items cost
    (None: unknown); ``offer`` is what lists had to say (`stream.core.offers`), and comes with the answer."""

    campaign: str
    user: str
    rule: str
    step: int
    due: int
    time: int
    worth: float | None = None
    offer: dict[str, Any] | None = None
    number: int = 1

    @property
    def key(self) -> str:
        """What tells it from the user's other requests."""
        return key_of(self.rule, self.due, self.number)


def key_of(rule: str, due: int, number: int) -> str:
    """The name of a request. One nudge may ask twice, and only one answer is used: each has its own grant."""
    return f"{rule}-{due}-{number}"


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an answer: a code, or why there is none."""

    request: Request
    code: str = ""
    value: float = 0.0
    expires: int = 0
    refused: str = ""


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
    """Answer a request at event time ``now``; the pool and the wallet afterwards. ~5 µs."""
    key = asked.key
    for given in wallet.given:
        if given.request == key:
            return pool, wallet, _grant(asked, given)
    refused = "ended" if terms is None else _refused(pool, wallet, terms, asked, now)
    if terms is None or refused:
        return pool, wallet, Grant(asked, refused=refused)
    number, pool = _number(pool, terms)
    code = terms.codes[number] if terms.codes else terms.offer
    expires = (-((now + terms.valid_ms) // -HOUR_MS)) * HOUR_MS
    given = Given(key, code, number, now, expires, terms.value)
    pool = _counted(_folded(pool, now), given, 1)
    pool = replace(pool, issued=pool.issued + 1, spent=pool.spent + terms.value)
    return pool, replace(wallet, given=(*wallet.given, given)[-HELD:]), _grant(asked, given)


def _refused(pool: Pool, wallet: Wallet, terms: Terms, asked: Request, now: int) -> Refusal | Literal[""]:
    if len(wallet.given) >= terms.per_user:
        return "limit"
    habit = sum(now - SERIAL_MS < given.redeemed <= now for given in wallet.given)
    if terms.abandoning and habit >= SERIAL:
        return "serial"
    if terms.floor > 0 and not _leaves(terms, asked.worth):
        return "margin"
    if terms.most is not None and pool.issued >= terms.most:
        return "budget"
    if terms.cost is not None and pool.spent + terms.value > terms.cost:
        return "budget"
    left = not terms.codes or pool.next < len(terms.codes) or _first_free(pool, terms) is not None
    return "" if left else "pool"


def _leaves(terms: Terms, worth: float | None) -> bool:
    """Whether enough is left of what the items cost; of what nobody knows the price, nothing is."""
    return worth is not None and worth * _MILLI - terms.value >= terms.floor / 100 * worth * _MILLI


def _number(pool: Pool, terms: Terms) -> tuple[int, Pool]:
    """The next code: the first that was given back, else the first that nobody had."""
    if not terms.codes:
        return -1, pool
    free = _first_free(pool, terms)
    if free is None:
        return pool.next, replace(pool, next=pool.next + 1)
    return free, replace(pool, free=tuple(each for each in pool.free if each != free))


def _first_free(pool: Pool, terms: Terms) -> int | None:
    return next((each for each in pool.free if each < len(terms.codes)), None)


def give_back(pool: Pool, wallet: Wallet, key: str) -> tuple[Pool, Wallet]:
    """Take back what was granted for a request, and nobody has seen. A redeemed one stays."""
    found = next((given for given in wallet.given if given.request == key and not given.redeemed), None)
    if found is None:
        return pool, wallet
    free = list(pool.free)
    if found.number >= 0:
        insort(free, found.number)
    pool = replace(
        pool,
        free=tuple(free),
        issued=pool.issued - 1,
        returned=pool.returned + 1,
        spent=pool.spent - found.value,
    )
    return _counted(pool, found, -1), replace(
        wallet, given=tuple(given for given in wallet.given if given is not found)
    )


def redeem(pool: Pool, wallet: Wallet, code: str, time: int) -> tuple[Pool, Wallet]:
    """A purchase at event time ``time`` used a code: of several the oldest that holds then. Once."""
    for at, given in enumerate(wallet.given):
        if given.code == code and not given.redeemed and time < given.expires:
            used = replace(given, redeemed=max(time, 1))
            pool = replace(_counted(pool, given, -1), redeemed=pool.redeemed + 1)
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
    return Grant(asked, given.code, given.value / _MILLI, given.expires)


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
_encoder = msgspec.msgpack.Encoder()
_pools, _wallets = msgspec.msgpack.Decoder(Pool), msgspec.msgpack.Decoder(Wallet)


def _checked(held: H) -> H:
    if held.format != _FORMAT:
        raise ValueError(f"a ledger is not of format {_FORMAT}: upgrade Tidewise or use another prefix")
    return held
