"""Codes of coupons that are computed: unguessable, each another one, and no list of them. Pure.

Number n of a pool, under a secret key K that is the campaign's and the pool's own:

    K = HMAC(secret, campaign, pool),  tag = HMAC(K, n) of 45 bits,  hidden = n xor HMAC(K, tag) of 30 bits

and the code is tag, hidden and a check character in Crockford's base 32 (0-9 and A-Z without I, L, O, U),
behind the prefix, as in ``MAY-7QK2-9XNE-4DB0-TJ5W``. It is a synthetic initialisation vector (Rogaway and
Shrimpton, Eurocrypt 2006): no two numbers have the same code, for the number can be read out of it with the
secret; without it a guess is right once in 2^75 / codes, and nobody sees how many codes there are. HMAC is
that of SHA-256. The check character (Luhn's, modulo 32) finds every wrong character and nearly all swaps of
two neighbours, without the secret.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import overload

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MOST = 1 << 30
"""Codes of a pool."""
_VALUE = {letter: at for at, letter in enumerate(ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_TAG, _NUMBER, _BITS = 9, 6, 5
_LENGTH = _TAG + _NUMBER + 1
_GROUP = 4


@dataclass(frozen=True, slots=True)
class Computed(Sequence[str]):
    """The codes of a pool: those of the numbers from 0 below ``size``. ~20 µs a code; none is kept."""

    secret: bytes = field(repr=False)
    campaign: str
    pool: str
    prefix: str
    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(self.size))]
        if not 0 <= at < self.size:
            raise IndexError(at)
        key = _key(self.secret, self.campaign, self.pool)
        tag = _tag(key, at)
        letters = [*_letters(tag, _TAG), *_letters(at ^ _mask(key, tag), _NUMBER)]
        text = "".join(ALPHABET[each] for each in [*letters, _check(letters)])
        groups = [text[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP)]
        return "-".join([self.prefix, *groups] if self.prefix else groups)

    def number(self, code: str) -> int | None:
        """The number of a code, however it is typed; None: it is none of these. ~15 µs."""
        letters = typed(code, self.prefix)
        if letters is None:
            return None
        key, tag = _key(self.secret, self.campaign, self.pool), _value(letters[:_TAG])
        at = _value(letters[_TAG:-1]) ^ _mask(key, tag)
        return at if at < self.size and _tag(key, at) == tag else None


def typed(code: str, prefix: str) -> list[int] | None:
    """The characters of a code as numbers, check character last: lower case, spaces, O for 0, and I or L for
    1 are put right. None: it is mistyped, which can be told without the secret."""
    bare = "".join(each for each in code.upper() if each not in "- ")
    start = prefix.replace("-", "")
    letters = [_VALUE.get(each, -1) for each in bare.removeprefix(start)]
    whole = bare.startswith(start) and len(letters) == _LENGTH and -1 not in letters
    return letters if whole and _check(letters[:-1]) == letters[-1] else None


@lru_cache(maxsize=256)
def _key(secret: bytes, campaign: str, pool: str) -> bytes:
    return hmac.digest(secret, f"tidewise coupon {campaign}/{pool}".encode(), "sha256")


def _tag(key: bytes, number: int) -> int:
    return _drawn(key, b"tag", number) % (1 << _BITS * _TAG)


def _mask(key: bytes, tag: int) -> int:
    return _drawn(key, b"number", tag) % (1 << _BITS * _NUMBER)


def _drawn(key: bytes, what: bytes, of: int) -> int:
    return int.from_bytes(hmac.digest(key, what + of.to_bytes(8, "big"), "sha256")[:8], "big")


def _letters(value: int, count: int) -> list[int]:
    return [value >> _BITS * at & 31 for at in reversed(range(count))]


def _value(letters: list[int]) -> int:
    value = 0
    for each in letters:
        value = value << _BITS | each
    return value


def _check(letters: list[int]) -> int:
    """Luhn's check character: every second from the end counts double, carries within the character."""
    doubled = (2 * each // 32 + 2 * each % 32 for each in letters[::-2])
    return -(sum(doubled) + sum(letters[-2::-2])) % 32
