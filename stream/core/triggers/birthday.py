"""Birthday: at nine in the morning of the user's day, every year.

He tells it in a `preferences` event: ``attributes.birthday``, as YYYY-MM-DD or MM-DD. The morning is that of
his zone where it is known, else UTC. Who was born on 29 February has his day on 1 March in other years.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import ClassVar, Literal

from msgspec.structs import replace

from stream.core.engaged import Seen, UserState, zone_of
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, Entry, Proposal, Sequence, Sequenced

HOUR = 9
_DAY = re.compile(r"(?:\d{4}-)?(\d{2})-(\d{2})")


class Year(Sequence, frozen=True, array_like=True):
    """The next birthday is at ``anchor``; ``day`` is MM-DD, ``told`` when he told it."""

    day: str = ""
    zone: str = ""
    told: int = 0


@dataclass(frozen=True)
class Birthday(Sequenced):
    """The trigger; its anchor is the next birthday's morning."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "nine in the morning of the day that the user told as `attributes.birthday` (`03-06`, "
            "`1990-03-06`) in a `preferences` event, in his zone"
        ),
        cancelled="another answer",
        limits=(
            "told at nine on the day: next year's; the 29th of February is the 1st of March in other years"
        ),
    )

    kinds: ClassVar[frozenset[str]] = frozenset(["preferences", "login", "consent"])
    revoked_by: ClassVar[Literal["order", "items", "nothing"]] = "nothing"
    state: ClassVar[type[Sequence]] = Year
    usual_ms: ClassVar[tuple[int, ...]] = (0,)

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Year:
        """The day, once it is told; the morning moves with the zone."""
        assert isinstance(own, Year)
        liked = user.attributes.get("birthday")
        day = _day(liked.value) if liked is not None else ""
        if not day or liked is None:
            return Year()
        if (day, user.zone) == (own.day, own.zone):
            return own
        last = user.campaigns.get(self.id, 0)  # the day has a second morning for who moves west
        begin = morning_after(max(seen.time, last + DAY_MS), day, user.zone)
        return Year(anchor=begin, day=day, zone=user.zone, told=liked.time)

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """This year's, and then next year's."""
        assert isinstance(own, Year)
        after = replace(own, anchor=morning_after(max(now, own.anchor), own.day, own.zone))
        items, evidence = self.about(own, user)
        return Proposal(items, evidence, after, after)

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """No items; when he told it."""
        assert isinstance(own, Year)
        return (), (Evidence("preferences", own.told),)

    def next_timer(self, own: Sequence) -> int | None:
        """The next birthday's morning."""
        assert isinstance(own, Year)
        return own.anchor + self.after_ms[0] if own.day else None


def _day(told: object) -> str:
    """MM-DD of what a user told; "" if it is no day."""
    match = _DAY.fullmatch(told) if isinstance(told, str) else None
    if match is None:
        return ""
    try:
        date(2024, int(match[1]), int(match[2]))
    except ValueError:
        return ""
    return f"{match[1]}-{match[2]}"


def morning_after(time: int, day: str, zone: str) -> int:
    """The first morning of a day (MM-DD) after ``time``, in ms."""
    place = zone_of(zone) if zone else UTC
    year = datetime.fromtimestamp(time // 1000, place).year
    mornings = (_morning(each, day, place) for each in (year, year + 1))
    return next(each for each in mornings if each > time)


def _morning(year: int, day: str, place: tzinfo) -> int:
    month, number = int(day[:2]), int(day[3:])
    begin = date(year, month, 1) + timedelta(days=number - 1)
    return round(datetime(begin.year, begin.month, begin.day, HOUR, tzinfo=place).timestamp()) * 1000
