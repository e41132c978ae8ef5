"""Rules' expressions as array operations. Pure.

What depends on the item alone is worked out once an item, when its facts change, into masks by local id. What
depends on the moment or the user (`age_days`, `hour`, `device`, …) is worked out for the candidates of a
batch, from these masks: the result is the same as if the whole were evaluated for each candidate.

An unknown number is NaN, which compares false with everything but by !=; an unknown text equals no text.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.core.content import token_hash
from stream.core.items import item_hash
from stream.core.slate.facts import DAY_MS, I32, I64, Bool, Facts, Slates
from stream.core.slate.grammar import FIXED, NAMES, parse

Array = NDArray[Any]

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Add: operator.add, ast.Sub: operator.sub,
    ast.Mult: operator.mul, ast.Div: np.true_divide, ast.And: operator.and_, ast.Or: operator.or_,
}  # fmt: skip
_HOUR_MS = 3_600_000
_THURSDAY = 3  # 1 January 1970; Monday is 0


class Values(Protocol):
    """Gives the arrays that names stand for."""

    def name(self, name: str) -> Array:
        """The values of a name."""

    def token(self, text: str) -> Bool:
        """Which items have an attribute ``name=value``."""

    def mask(self, number: int) -> Bool:
        """A mask that was worked out before."""


@dataclass(frozen=True, slots=True)
class Term:
    """A part of an expression: its value, whether that depends on the item alone, its mask if it has one."""

    value: Callable[[Values], Any]
    fixed: bool
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """``fixed`` are the parts to be worked out once an item, ``whole`` the rest, from their masks.

    ``needed`` is the number of the mask without which the whole cannot be true, if there is one.
    """

    fixed: tuple[Term, ...]
    whole: Term
    needed: int | None

    @classmethod
    def of(cls, text: str) -> Expression:
        """Raises ValueError as `stream.core.slate.grammar.parse` does."""
        maker, tree = _Maker(), parse(text)
        whole = maker.lift(maker.term(tree))
        joined = maker.needed if isinstance(tree, ast.BoolOp) else None
        return cls(tuple(maker.fixed), whole, joined if whole.mask is None else whole.mask)


def category_hash(text: str) -> int:
    """What `category` is for a text: that of the attribute `category`, or of the one written out."""
    return token_hash(text if "=" in text else f"category={text}")


@dataclass(slots=True)
class _Maker:
    """Turns a checked tree into terms; collects the fixed ones below others.

    ``needed`` is the mask of what is fixed in the last, so outermost, `and`.
    """

    fixed: list[Term] = field(default_factory=list)
    needed: int | None = None

    def lift(self, term: Term) -> Term:
        """A truth that is fixed becomes a mask."""
        if not term.fixed:
            return term
        self.fixed.append(term)
        number = len(self.fixed) - 1
        return Term(lambda values: values.mask(number), False, number)

    def term(self, node: ast.expr) -> Term:
        match node:
            case ast.Name(id=name):
                return Term(lambda values: values.name(name), name in FIXED)
            case ast.Constant(value=value):
                # A plain number takes the type of what it is compared with: 19.9 is a float32 price of 19.9.
                return Term(lambda _: value, True)
            case ast.BoolOp():
                return self._joined(node)
            case ast.UnaryOp(op=ast.Not()):
                return _applied(np.logical_not, [self.term(node.operand)])
            case ast.UnaryOp():
                return _applied(operator.neg, [self.term(node.operand)])
            case ast.BinOp():
                return _applied(_OPERATORS[type(node.op)], [self.term(node.left), self.term(node.right)])
            case ast.Compare():
                return self._compared(node)
        raise AssertionError(f"grammar lets {type(node).__name__} through")

    def _joined(self, node: ast.BoolOp) -> Term:
        """`and` and `or`: what is fixed first, together."""
        join = _OPERATORS[type(node.op)]
        terms = [self.term(each) for each in node.values]
        fixed, moving = [each for each in terms if each.fixed], [each for each in terms if not each.fixed]
        together = [_applied(lambda *parts: reduce(join, parts), fixed)] if fixed else []
        if not moving:
            return together[0]
        lifted = [self.lift(each) for each in together]
        self.needed = lifted[0].mask if lifted and isinstance(node.op, ast.And) else None
        return _applied(lambda *parts: reduce(join, parts), [*lifted, *moving])

    def _compared(self, node: ast.Compare) -> Term:
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        parts = [self._pair(left, op, right) for left, op, right in pairs]
        return _applied(lambda *parts: reduce(operator.and_, parts), parts)

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Term:
        if isinstance(op, ast.In | ast.NotIn):
            found = self._membership(left, right)
            return _applied(np.logical_not, [found]) if isinstance(op, ast.NotIn) else found
        if isinstance(left, ast.Name) and isinstance(right, ast.Constant) and NAMES[left.id] == "text":
            return self._text(left, op, right)
        if isinstance(right, ast.Name) and isinstance(left, ast.Constant) and NAMES[right.id] == "text":
            return self._text(right, op, left)
        return _applied(_OPERATORS[type(op)], [self.term(left), self.term(right)])

    def _text(self, name: ast.Name, op: ast.cmpop, text: ast.Constant) -> Term:
        wanted, compare = _hash(name.id, str(text.value)), _OPERATORS[type(op)]
        return _applied(lambda values: compare(values, wanted), [self.term(name)])

    def _membership(self, left: ast.expr, right: ast.expr) -> Term:
        if isinstance(left, ast.Constant):
            text = str(left.value)
            return Term(lambda values: values.token(text), True)
        assert isinstance(left, ast.Name) and isinstance(right, ast.List | ast.Tuple | ast.Set)
        told = [each.value for each in right.elts if isinstance(each, ast.Constant)]
        textual = NAMES[left.id] == "text"
        wanted = np.array(
            [_hash(left.id, str(each)) if textual else each for each in told],
            dtype=np.uint64 if textual else np.float64,
        )
        return _applied(lambda values: np.isin(values, wanted.astype(values.dtype)), [self.term(left)])


def _applied(function: Callable[..., Array], terms: Sequence[Term]) -> Term:
    return Term(
        lambda values: function(*[each.value(values) for each in terms]),
        all(each.fixed for each in terms),
    )


def _hash(name: str, text: str) -> np.uint64:
    return np.uint64(category_hash(text) if name == "category" else item_hash(text))


@dataclass(frozen=True, slots=True)
class ItemValues:
    """Values of items ``at`` [m]."""

    facts: Facts
    at: I32 | I64

    def name(self, name: str) -> Array:
        """The values of a name of items: [m]."""
        if name == "stock":
            return ~self.facts.blocked[self.at]
        found: Array = getattr(self.facts, "hashes" if name == "item" else name)[self.at]
        return found

    def token(self, text: str) -> Bool:
        """Which items have an attribute: [m]."""
        (known,) = np.nonzero(self.facts.token_hashes == np.uint32(token_hash(text) & 0xFFFF_FFFF))
        same = np.isin(self.facts.tokens[self.at], known) & (self.facts.token_weights[self.at] > 0)
        found: Bool = np.logical_or.reduce(same, axis=1)
        return found

    def mask(self, number: int) -> Bool:
        """Nothing was worked out before."""
        raise AssertionError(f"mask {number} of a fixed term")


@dataclass(frozen=True, slots=True)
class SlateValues:
    """Values of the candidates of slates [U, N], from ``masks`` [n, cap] by local id."""

    facts: Facts
    slates: Slates
    masks: Bool

    def name(self, name: str) -> Array:
        """The values of a name: [U, N], or [U, 1] where all candidates have the same."""
        time_ms = self.slates.time_ms[:, None]
        if name == "hour":
            return time_ms // _HOUR_MS % 24
        if name == "weekday":
            return (time_ms // DAY_MS + _THURSDAY) % 7
        if name == "age_days":
            return self._age(time_ms)
        if name in FIXED:
            return ItemValues(self.facts, self.slates.items).name(name)
        unknown = np.zeros(len(self.slates), dtype=np.uint64)
        return self.slates.context.get(name, unknown)[:, None]

    def _age(self, time_ms: I64) -> Array:
        born = self.facts.born[self.slates.items]
        return np.where(born > 0, (time_ms - born) / DAY_MS, np.nan)

    def token(self, text: str) -> Bool:
        """Attributes are fixed: their masks have been worked out."""
        raise AssertionError(f"{text} was not worked out")

    def mask(self, number: int) -> Bool:
        """A mask of the candidates: [U, N]."""
        found: Bool = self.masks[number].take(self.slates.items, mode="wrap")
        return found
