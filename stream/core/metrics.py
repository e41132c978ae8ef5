"""Live metrics: the record of a partition on topic `metrics`, and the view that all of them make. Pure.

A record holds a partition's counts so far (`stream.core.attribution`), so that the newest record of each
partition, added up, gives the deployment's counts exactly, however often one is read. The view adds rates
with always-valid intervals and compares the arms (`stream.core.sequential`): look at it any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
import orjson

from stream.core.arms import Arms
from stream.core.attribution import COLUMNS, ITEMS, SHOWN, USERS, Counts, Days, Key, flat, grown
from stream.core.sequential import Estimate, compare, rate
from stream.core.views import iso_time

ALPHA = 0.05
"""Of all intervals and tests, at all looks together."""
TESTED = {"clickers": "users who clicked", "buyers": "users with a conversion"}
"""What arms are compared by."""
_LABELS = {ITEMS: "strategy", USERS: "experiment"}

Sums = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """A partition's counts as of a version."""

    version: str
    counts: Counts


def record(partition: int, version: str, time_ms: int, counts: Counts) -> bytes:
    """The value of topic `metrics`."""
    tables = {
        table: [_row(*each) for each in sorted(counts.items()) if each[0].table == table] for table in COLUMNS
    }
    return orjson.dumps({"version": version, "partition": partition, "time": iso_time(time_ms), **tables})


def _row(key: Key, values: Sequence[int]) -> dict[str, Any]:
    day = {"day": str(np.datetime64(key.day, "D"))} if key.day else {}
    label = {_LABELS[key.table]: key.label} if key.table in _LABELS else {}
    return {**day, "arm": key.arm, **label, **dict(zip(COLUMNS[key.table], values, strict=True))}


class _Record(msgspec.Struct):
    """What is read of a record."""

    version: str
    items: list[dict[str, int | str]]
    lists: list[dict[str, int | str]]
    users: list[dict[str, int | str]]


_decoder = msgspec.json.Decoder(_Record)


def read(value: bytes) -> Measured:
    """The inverse of `record`. Raises ValueError when bytes are no such record."""
    found = _decoder.decode(value)
    counts = dict(_counted(table, row) for table in COLUMNS for row in getattr(found, table))
    return Measured(found.version, counts)


def _counted(table: str, row: Mapping[str, int | str]) -> tuple[Key, list[int]]:
    day = int(np.datetime64(str(row["day"]), "D").astype(np.int64)) if "day" in row else 0
    label = str(row.get(_LABELS.get(table, ""), ""))
    return Key(day, table, str(row.get("arm", "")), label), [int(row.get(name, 0)) for name in COLUMNS[table]]


def total(parts: Iterable[Measured]) -> Counts:
    """The counts of all partitions."""
    days: Days = {}
    for part in parts:
        days = grown(days, part.counts)
    return flat(days)


# The view


def metrics_view(version: str, time_ms: int, counts: Counts, arms: Arms) -> bytes:
    """The public view: sums by strategy, by arm and by day, and what the comparison of the arms says.

    ~1 ms a strategy and arm.
    """
    told = [_arm(counts, arms, name) for name in _arm_names(counts, arms)]
    return orjson.dumps(
        {
            "version": version,
            "time": iso_time(time_ms),
            "experiment": arms.experiment,
            "alpha": ALPHA,
            "strategies": [_strategy(name, sums) for name, sums in _sums(counts, ITEMS, "label")],
            "arms": told,
            "tests": list(_tests(told, arms)),
            "days": [_day(*each, counts) for each in sorted({(k.day, k.arm) for k in counts if k.day})],
        }
    )


def _sums(counts: Counts, table: str, by: str) -> list[tuple[str, Sums]]:
    """Column sums of a table, by a part of its key, in its order."""
    rows = sorted((getattr(key, by), row) for key, row in counts.items() if key.table == table)
    return [
        (name, dict(zip(COLUMNS[table], np.sum([row for _, row in group], axis=0).tolist(), strict=True)))
        for name, group in groupby(rows, key=lambda each: each[0])
    ]


def _of(counts: Counts, table: str, **wanted: int | str) -> Sums:
    """Column sums of the rows whose key has these parts."""
    rows = [
        row
        for key, row in counts.items()
        if key.table == table and all(getattr(key, part) == value for part, value in wanted.items())
    ]
    return dict(
        zip(COLUMNS[table], [sum(column) for column in zip(*rows, strict=True)] or [0] * 9, strict=False)
    )


def _brought(sums: Sums) -> dict[str, Any]:
    """What people read of the columns of `items`; money in the shop's currency, refunds taken off."""
    revenue = sums["clicked_revenue"] + sums["viewed_revenue"] - sums["refunded"]
    return {
        "impressions": sums["impressions"],
        "clicks": sums["clicks"],
        "conversions": sums["clicked"] + sums["viewed"],
        "after_click": sums["clicked"],
        "revenue": revenue / 100,
        "refunded": sums["refunded"] / 100,
    }


def _strategy(name: str, sums: Sums) -> dict[str, Any]:
    ctr = _estimate(sums["clicks"], sums["impressions"])
    return {"strategy": name, **_brought(sums), "ctr": ctr}


def _estimate(successes: int, n: int) -> dict[str, float]:
    # Clicks may come on a day whose impressions have left the window.
    return _told(rate(min(successes, n), n, ALPHA))


def _told(estimate: Estimate) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(estimate).items()}


def _arm_names(counts: Counts, arms: Arms) -> list[str]:
    """Arms as they are set, then those that were."""
    return list(dict.fromkeys([*arms.names, *sorted({key.arm for key in counts})]))


def _arm(counts: Counts, arms: Arms, name: str) -> dict[str, Any]:
    items, shown = _of(counts, ITEMS, arm=name), _of(counts, SHOWN, arm=name)
    users = _of(counts, USERS, arm=name, label=arms.experiment)
    brought = _brought(items)
    clicks, impressions, n = items["clicks"], items["impressions"], users["users"]
    return {
        "arm": name,
        "share": arms.shares[arms.names.index(name)] if name in arms.names else 0.0,
        **shown,
        **brought,
        "ctr": round(clicks / impressions, 6) if impressions else 0.0,
        **users,
        "click_rate": _estimate(users["clickers"], n),
        "conversion": _estimate(users["buyers"], n),
    }


def _tests(told: Sequence[Mapping[str, Any]], arms: Arms) -> Iterable[dict[str, Any]]:
    """Each further arm against the first one. α is shared by them; not by what they are compared by."""
    first, *others = (arm for arm in told if arm["arm"] in arms.names)
    for arm in others:
        share = arm["share"] / (arm["share"] + first["share"])
        for column in TESTED:
            found = compare(first[column], arm[column], share, ALPHA / len(others))
            yield {
                "by": column,
                "arm": arm["arm"],
                "against": first["arm"],
                "ratio": _told(found.ratio),
                "p_value": round(min(1.0, found.p_value * len(others)), 6),
            }


def _day(day: int, arm: str, counts: Counts) -> dict[str, Any]:
    brought = _brought(_of(counts, ITEMS, day=day, arm=arm))
    lists = _of(counts, SHOWN, day=day, arm=arm)["lists"]
    return {"day": str(np.datetime64(day, "D")), "arm": arm, "lists": lists, **brought}
