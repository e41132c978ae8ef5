"""Pictures of results, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream.evaluation.history import HistoryError
from stream.evaluation.measures import Answers, Measure, by_week

Results = Mapping[str, tuple[Answers, Mapping[str, Measure]]]
_FEWEST_WEEKS = 3


def draw(path: Path, title: str, results: Results, k: int) -> None:
    """NDCG by week of each configuration; where the test lasts less than three weeks, bars with intervals.

    Raises HistoryError where matplotlib is not installed.
    """
    figure, axes = _canvas()
    weeks = {name: by_week(answers, "ndcg", k) for name, (answers, _) in results.items()}
    if max(map(len, weeks.values())) >= _FEWEST_WEEKS:
        for name, curve in weeks.items():
            first = min(curve)
            axes.plot([week - first + 1 for week in curve], list(curve.values()), marker=".", label=name)
        axes.set_xlabel("week")
    else:
        _bars(axes, {name: found[f"ndcg@{k}"] for name, (_, found) in results.items()})
    axes.set_ylabel(f"NDCG@{k}")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    if len(results) > 1:
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def formats() -> list[str]:
    """Endings of files that pictures can be written to. Raises HistoryError."""
    return sorted(_canvas()[0].canvas.get_supported_filetypes())


def _bars(axes: Any, found: Mapping[str, Measure]) -> None:
    values = [one.value for one in found.values()]
    low = [one.value - one.low for one in found.values()]
    high = [one.high - one.value for one in found.values()]
    axes.bar(list(found), values, yerr=[low, high], capsize=4)


def _canvas() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HistoryError("pictures need matplotlib: pip install 'tidewise[plot]'") from error
    figure = Figure(figsize=(8, 4.5))
    return figure, figure.subplots()
