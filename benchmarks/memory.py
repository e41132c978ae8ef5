"""Memory of a worker through a long run: resident size at intervals, and what is left to grow.

``python -m benchmarks.memory --json [--events 1000000] [--cached-users 5000] [--plot FILE]``; 10 million are
an hour's worth at 3,000 events/s. The clicks of `benchmarks.kernel`, of 20,000 users and 5,000 items, in this
process, on a real store, without broker. There are more users than are cached: they come and go. All items
are there soon, so that what grows in the second half is no array that fills up.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.inprocess import InProcess, Load, inprocess
from benchmarks.kernel import clicks
from benchmarks.processes import resident
from benchmarks.report import Report, arguments, figure, sheet, tell

GOAL = 0.02
"""A leak of 10 bytes an event would be 5 % of 1 GB in 5 million events."""
INTERVALS, ITEMS = 40, 5000


class Sample(NamedTuple):
    """After so many ``events``: bytes resident, users in memory."""

    events: int
    resident: int
    users: int


async def sampled(events: int, cached_users: int) -> list[Sample]:
    """A sample at each of some intervals."""
    stream = clicks(events, items=ITEMS)
    found: list[Sample] = []
    async with inprocess(cached_users=cached_users) as one:
        for part in np.array_split(np.arange(len(stream.user)), INTERVALS):
            at = slice(int(part[0]), int(part[-1]) + 1)
            await one.feed(Load(stream.user[at], stream.item[at].astype(np.int64), stream.time[at]))
            found.append(Sample(at.stop, resident(), _users(one)))
    return found


def _users(one: InProcess) -> int:
    return sum(len(shopper.table) for shopper in one.worker.shoppers)


def report(found: list[Sample], given: Namespace) -> Report:
    """How much the second half added, all of it and by event."""
    half = found[len(found) // 2 - 1]
    later = [sample for sample in found if sample.events >= half.events]
    slope = np.polyfit([each.events for each in later], [each.resident for each in later], 1)[0]
    figures = {
        "growth in the second half": figure([found[-1].resident / half.resident - 1], "share", most=GOAL),
        "growth, an event": figure([float(slope)], "bytes"),
        "resident, at the end": figure([found[-1].resident / 2**20], "MB"),
        "users in memory, most": figure(
            [max(each.users for each in found)], "users", most=given.cached_users
        ),
    }
    details = {"events": found[-1].events, "samples_MB": [round(each.resident / 2**20) for each in found]}
    return Report("memory", figures, details)


def curve(report: Report) -> Any:
    """Resident size by events."""
    sheet_, sizes = sheet(8, 4.5), report.details["samples_MB"]
    axes = sheet_.subplots()
    events = report.details["events"] / 1e6
    axes.plot(np.linspace(events / len(sizes), events, len(sizes)), sizes, marker=".")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("million events")
    axes.set_ylabel("MB resident")
    return sheet_


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--cached-users", type=int, default=5000)
    given = parser.parse_args()
    tell(report(asyncio.run(sampled(given.events, given.cached_users)), given), given, curve)


if __name__ == "__main__":
    main()
