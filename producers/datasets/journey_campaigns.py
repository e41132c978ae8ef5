"""Complete Journey's own 27 campaigns: who was sent which, what was redeemed, and each as a campaign file.

``python -m producers.datasets.journey_campaigns FOLDER`` writes the files. The data do not tell by which
channel a campaign came: type A, booklets put together for each household, is taken for mail, B for email,
C for push.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cached_property
from heapq import merge
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from producers.datasets.complete_journey import DAY_MS, CompleteJourney, Coupons
from producers.source import Entry
from stream.times import time_text

I64 = NDArray[np.int64]

CHANNELS = {"Type A": "mail", "Type B": "email", "Type C": "push"}
HOUR = "9h"
"""They go out at nine in the morning of their first day."""
_SOURCE = "complete-journey"


class JourneyWithCampaigns:
    """The data set as a source, with what its campaigns did.

    An event of the type `invited` (``context.campaign``) for every household that was sent a campaign, when
    it starts, or with the first basket if it started before; a purchase carries a coupon that was redeemed
    with it. The data know days alone: it is the first basket of the day with a manufacturer's coupon, else
    the day's first. What else was redeemed with it, or on a day without a basket, is `coupon_redeemed`.
    """

    name = "complete-journey-campaigns"

    def __init__(self, limit_lines: int | None = None) -> None:
        self._journey = CompleteJourney(limit_lines)
        self.identity = self._journey.identity.replace(_SOURCE, self.name, 1)
        self.note = self._journey.note

    @property
    def total(self) -> int:
        """Products, baskets and what campaigns did."""
        extra = sum(len(found) for found in self._redeemed[0].values()) - len(self._redeemed[0])
        return self._journey.total + len(self._sent) + extra + len(self._redeemed[1])

    def entries(self) -> Iterator[Entry]:
        """The catalogue, then the events in order of time; lines are numbered through."""
        lines = count(1)
        told = merge(self._sent, self._redeemed[1], self._purchases(), key=attrgetter("time"))
        for entry in self._journey.catalog():
            yield entry._replace(line=next(lines))
        for entry in told:
            yield entry._replace(line=next(lines))

    @cached_property
    def coupons(self) -> Coupons:
        """Its campaigns and coupons."""
        return self._journey.coupons()

    @cached_property
    def _span(self) -> tuple[int, int]:
        """Times of the first basket and of the last one."""
        times = self._lines[1]
        return int(times[0]), int(times[-1])

    @cached_property
    def _lines(self) -> tuple[I64, I64]:
        """Household and time of each line."""
        household, _, _, times = self._journey.baskets()
        return household[: self._journey.lines], times[: self._journey.lines]

    @cached_property
    def _sent(self) -> list[Entry]:
        told, (begin, end) = self.coupons, self._span
        starts = np.maximum(told.start_ms[told.sent_campaign], begin).tolist()
        rows = zip(starts, told.sent_campaign.tolist(), told.sent_household.tolist(), strict=True)
        return [
            _entry("invited", time, household, f"invited-{number + 1}-{household}",
                   context={"campaign": str(number + 1)})
            for time, number, household in sorted(rows)
            if time <= end
        ]  # fmt: skip

    @cached_property
    def _redeemed(self) -> tuple[dict[tuple[str, int], list[str]], list[Entry]]:
        """Coupons by household and time of the basket; those of days without a basket as events."""
        told, (begin, end), baskets = self.coupons, self._span, self._first_baskets()
        found: dict[tuple[str, int], list[str]] = {}
        alone = []
        rows = zip(
            told.redeemed_ms.tolist(),
            told.redeemed_household.tolist(),
            told.redeemed_upc.tolist(),
            strict=True,
        )
        for nth, (day, household, upc) in enumerate(sorted(rows)):
            time = baskets.get((household, day // DAY_MS))
            if time is not None:
                found.setdefault((str(household), time), []).append(str(upc))
            elif begin <= day <= end:
                alone.append(_redeemed(day, str(household), f"redeemed-{nth}", str(upc)))
        return found, alone

    def _first_baskets(self) -> dict[tuple[int, int], int]:
        """By household and day the time of the first basket, of those with a coupon if there is one."""
        household, times = self._lines
        used = self._journey.with_coupon()[: self._journey.lines]
        redeems = np.isin(household, self.coupons.redeemed_household)
        found: dict[tuple[int, int], int] = {}
        for some in (redeems & used, redeems & ~used):
            rows = zip(household[some].tolist(), times[some].tolist(), strict=True)
            for who, time in rows:
                found.setdefault((who, time // DAY_MS), time)
        return found

    def _purchases(self) -> Iterator[Entry]:
        redeemed = dict(self._redeemed[0])
        for entry in self._journey.purchases():
            coupons = redeemed.pop((entry.key, entry.time), None)
            if coupons is None:
                yield entry
                continue
            yield entry._replace(data=b'%s,"coupon":"%s"}' % (entry.data[:-1], coupons[0].encode()))
            order = msgspec.json.decode(entry.data)["order"]
            for nth, upc in enumerate(coupons[1:], 1):
                yield _redeemed(entry.time, entry.key, f"redeemed-{order}-{nth}", upc, order=order)


def _redeemed(time: int, household: str, name: str, upc: str, **fields: Any) -> Entry:
    return _entry("coupon_redeemed", time, household, name, coupon=upc, **fields)


def _entry(kind: str, time: int, household: object, name: str, **fields: Any) -> Entry:
    """An event; its line is to be set."""
    event = {"id": name, "source": _SOURCE, "type": kind, "time": time_text(time), "user": str(household)}
    return Entry(time, 0, str(household), msgspec.json.encode(event | fields), False)


def documents() -> list[dict[str, Any]]:
    """Each of its campaigns as a campaign file says it, by number."""
    journey = CompleteJourney()
    told, kinds = journey.coupons(), journey.kinds()
    return [_document(number, kind, told) for number, kind in enumerate(kinds)]


def _document(number: int, kind: str, told: Coupons) -> dict[str, Any]:
    coupons = np.unique(told.upc[told.campaign == number])
    return {
        "id": f"journey-{number + 1:02}",
        "trigger": {
            "type": "event", "event": "invited", "where": {"campaign": str(number + 1)}, "unless": None
        },
        "window": {
            "from": time_text(int(told.start_ms[number])), "until": time_text(int(told.end_ms[number]))
        },
        "channels": [CHANNELS[kind]],
        "message": {"template": "coupons", "most": 0, "data": {"coupons": [str(upc) for upc in coupons]}},
        "steps": [HOUR],
        "goals": {"event": "coupon_redeemed", "within": "30d"},
    }  # fmt: skip


def main(folder: Path) -> None:
    """Write them as ``journey-01.yaml`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in documents():
        text = yaml.safe_dump(each, sort_keys=False, default_flow_style=None, width=10_000)
        (folder / f"{each['id']}.yaml").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
