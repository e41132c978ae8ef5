"""Short functions, all annotated: what ruff does not measure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
ROOMS = ("stream", "state", "producers")
MEDIAN_LINES, MOST_LINES = 7, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    """Lines from `def` to the last one, without decorators and docstring."""
    assert function.end_lineno is not None
    lines, first = function.end_lineno - function.lineno + 1, function.body[0]
    if ast.get_docstring(function) is None:
        return lines
    assert first.end_lineno is not None
    return lines - (first.end_lineno - first.lineno + 1)


def unannotated(function: Function) -> list[str]:
    """Names of arguments without a type, and `return` when the result has none."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    arguments += [each for each in (given.vararg, given.kwarg) if each is not None]
    missing = [each.arg for each in arguments if each.annotation is None and each.arg not in {"self", "cls"}]
    return [*missing, *(["return"] if function.returns is None else [])]


def ours() -> dict[str, Function]:
    """Every function of the project by its place."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {
        f"{path.relative_to(ROOT)}:{each.lineno} {each.name}": each
        for path in paths
        for each in functions(path.read_text())
    }


SAMPLE = '''
async def one(self, a, *rest: int, b: str = "") -> None:
    """A docstring
    of two lines."""
    return


def two(x: int):
    return x
'''


def test_the_measures_measure() -> None:
    one, two = functions(SAMPLE)
    assert (lines_of(one), lines_of(two)) == (2, 2)
    assert (unannotated(one), unannotated(two)) == (["a"], ["return"])


def test_functions_are_short() -> None:
    lines = {place: lines_of(each) for place, each in ours().items()}
    assert len(lines) > 500
    assert median(lines.values()) <= MEDIAN_LINES
    assert not {place: n for place, n in lines.items() if n > MOST_LINES}


def test_every_function_is_annotated() -> None:
    assert not {place: missing for place, each in ours().items() if (missing := unannotated(each))}
