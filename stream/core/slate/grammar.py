"""What an expression of a rule may be: a small, closed part of Python's own grammar. Pure.

    category == "wine" and 20 < price <= 80        group in ["acme", "bolt"]        not stock or age_days < 14

Python's parser reads the text; then every node must be one of the few below and fit its neighbours in kind.
There are no calls, attributes, subscripts, powers or comprehensions, and nothing is ever run as Python: the
tree is turned into array operations by `stream.core.slate.expressions`. Text and nodes are bounded.

| kind | names | may be |
|---|---|---|
| number | `price`, `popularity`, `age_days`, `hour`, `weekday` | compared (also in a chain), + − × ÷ |
| text | `item`, `category`, `group`, `device`, `place`, `channel` | == != in, not in: with texts in quotes |
| truth | `stock` | and, or, not |
| tokens | `attributes` | "name=value" in attributes |
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from math import isfinite
from typing import Literal

Kind = Literal["number", "text", "truth", "tokens"]

MOST_CHARACTERS, MOST_NODES = 2000, 300
"""Bounds of one expression."""

_OF_ITEM: dict[str, Kind] = {
    "price": "number",
    "popularity": "number",
    "stock": "truth",
    "item": "text",
    "category": "text",
    "group": "text",
    "attributes": "tokens",
}
_OF_LIST: dict[str, Kind] = {
    "hour": "number",
    "weekday": "number",
    "device": "text",
    "place": "text",
    "channel": "text",
}
NAMES: dict[str, Kind] = {**_OF_ITEM, "age_days": "number", **_OF_LIST}
"""All names, and the kind of each."""

FIXED = frozenset(_OF_ITEM)
"""Names that depend on the item alone: what is made of them is known before there is a list."""

CONTEXT = tuple(name for name, kind in _OF_LIST.items() if kind == "text")
"""Names that an event's `context` gives."""

_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_SAME = (ast.Eq, ast.NotEq)
_MEMBER = (ast.In, ast.NotIn)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)


def parse(text: str) -> ast.expr:
    """The checked tree of an expression. Raises ValueError that says what is wrong and allowed. ~50 µs."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"an expression has at most {MOST_CHARACTERS} characters, this one {len(text)}: split the rule"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
        raise ValueError(f"no expression: {reason} (for example: {EXAMPLE})") from None
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise ValueError(f"an expression has at most {MOST_NODES} parts: split the rule")
    if (kind := kind_of(tree)) != "truth":
        raise ValueError(f"`{text.strip()}` is a {kind} and not true or false: compare it (`{EXAMPLE}`)")
    return tree


EXAMPLE = 'category == "wine" and price > 20'


def kind_of(node: ast.expr) -> Kind:
    """The kind of a node whose parts all fit. Raises ValueError."""
    match node:
        case ast.Name():
            return _name(node)
        case ast.Constant():
            return _constant(node)
        case ast.BoolOp():
            _expect("truth", node.values, "`and` and `or` join comparisons")
            return "truth"
        case ast.UnaryOp(op=ast.Not()):
            _expect("truth", [node.operand], "`not` stands before a comparison or `stock`")
            return "truth"
        case ast.UnaryOp(op=ast.USub()):
            _expect("number", [node.operand], "a minus stands before a number")
            return "number"
        case ast.BinOp() if isinstance(node.op, _ARITHMETIC):
            _expect("number", [node.left, node.right], "+ − × ÷ join numbers")
            return "number"
        case ast.Compare():
            return _compare(node)
    raise ValueError(f"`{_told(node)}` is not allowed: no calls, attributes, indexes or powers ({EXAMPLE})")


def _told(node: ast.AST) -> str:
    said = ast.unparse(node)
    return said if len(said) <= 60 else said[:57] + "…"


def _name(node: ast.Name) -> Kind:
    if node.id not in NAMES:
        raise ValueError(f"`{node.id}` is no name of a rule: use {', '.join(NAMES)}; texts stand in quotes")
    return NAMES[node.id]


def _constant(node: ast.Constant) -> Kind:
    value = node.value
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float) and abs(value) < 1e15 and isfinite(value):
        return "number"
    raise ValueError(
        f"`{_told(node)}` is no value of a rule: use a number below 10^15, a text, True or False"
    )


def _expect(kind: Kind, nodes: Sequence[ast.expr], rule: str) -> None:
    for node in nodes:
        if (found := kind_of(node)) != kind:
            raise ValueError(f"`{_told(node)}` is a {found}: {rule}")


def _compare(node: ast.Compare) -> Kind:
    sides = [node.left, *node.comparators]
    for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
        if isinstance(op, _MEMBER):
            _member(left, right)
        elif not isinstance(op, (*_ORDER, *_SAME)):
            raise ValueError(f"`{_told(node)}`: `is` compares nothing here, use == or !=")
        elif kind_of(left) == "text" and isinstance(op, _SAME):
            _texts(node, left, right)
        else:
            _expect("number", [left, right], "< <= > >= compare numbers, == and != also texts")
    if len(node.ops) > 1 and not all(isinstance(op, _ORDER) for op in node.ops):
        raise ValueError(f"`{_told(node)}`: only < <= > >= may stand in a chain, join others by `and`")
    return "truth"


def _texts(node: ast.Compare, left: ast.expr, right: ast.expr) -> None:
    """One side is a name, the other a text in quotes."""
    _expect("text", [right], "== and != compare a text with a text")
    if isinstance(left, ast.Name) == isinstance(right, ast.Name):
        raise ValueError(f"`{_told(node)}`: compare a name with a text in quotes")


def _member(left: ast.expr, right: ast.expr) -> None:
    if isinstance(right, ast.Name) and kind_of(right) == "tokens":
        if not (isinstance(left, ast.Constant) and kind_of(left) == "text"):
            raise ValueError(f'`{_told(left)}` in attributes: write "name=value" in quotes')
        return
    if not isinstance(right, ast.List | ast.Tuple | ast.Set):
        raise ValueError(f'`in {_told(right)}`: after `in` stands a list such as ["a", "b"], or `attributes`')
    if not isinstance(left, ast.Name) or (kind := kind_of(left)) not in ("text", "number"):
        raise ValueError(f"`{_told(left)} in …`: before `in` stands a name of a text or a number")
    if not all(isinstance(each, ast.Constant) for each in right.elts):
        raise ValueError(f"`{_told(right)}`: a list after `in` holds numbers or texts in quotes only")
    _expect(kind, right.elts, f"`{_told(left)}` is a {kind}")
