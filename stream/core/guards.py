"""Guards: what every candidate message passes, in one fixed order, before it is sent. Pure, in event time.

A guard is a function of the candidate and the settings; it returns None to let the candidate pass, else why
it is suppressed, or until when it is held. A held candidate passes all guards again when its time has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING

from stream.core.engaged import UserState, zone_of

if TYPE_CHECKING:
    from stream.core.campaigns import Campaign
    from stream.core.rfm import Scores
    from stream.settings import Settings

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
BUCKETS = 10_000
"""Holdout buckets: a share is settable to a hundredth of a percent."""


@dataclass(frozen=True, slots=True)
class EngagementConfig:
    """The settings of engagement, in ms; quiet hours in minutes after midnight, the holdout in buckets."""

    lateness_ms: int
    cart_enabled: bool
    cart_after_ms: tuple[int, ...]
    cart_rest_ms: int
    expiry_ms: int
    cap_day: int
    cap_week: int
    quiet_from: int
    quiet_until: int
    holdout: int
    holdout_salt: str
    priority_window_ms: int = 3_600_000
    coupon_secret: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> EngagementConfig:
        """From the settings. Raises ValueError when they make no sense."""
        return cls(
            lateness_ms=_ms(settings.lateness_s),
            cart_enabled=settings.cart_enabled,
            cart_after_ms=_rising([_ms(after) for after in settings.cart_after_s]),
            cart_rest_ms=_ms(settings.cart_rest_s),
            expiry_ms=_ms(settings.nudge_expiry_s),
            cap_day=settings.cap_day,
            cap_week=settings.cap_week,
            quiet_from=_minutes("quiet_from", settings.quiet_from),
            quiet_until=_minutes("quiet_until", settings.quiet_until),
            holdout=round(settings.holdout_percent * BUCKETS / 100),
            holdout_salt=settings.holdout_salt,
            priority_window_ms=_ms(settings.priority_window_s),
            coupon_secret=(settings.coupon_secret or "").encode(),
        )

    def of_campaign(self, campaign: Campaign | None) -> EngagementConfig:
        """With what a campaign says of its own messages."""
        if campaign is None:
            return self
        share, caps = campaign.holdout_percent, campaign.caps
        return replace(
            self,
            expiry_ms=int(campaign.expires),
            cap_day=self.cap_day if caps.day is None else caps.day,
            cap_week=self.cap_week if caps.week is None else caps.week,
            holdout=self.holdout if share is None else round(share * BUCKETS / 100),
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _rising(after_ms: list[int]) -> tuple[int, ...]:
    if not after_ms or after_ms[0] <= 0 or after_ms != sorted(set(after_ms)):
        told = [after / 1000 for after in after_ms]
        raise ValueError(f"cart_after_s must be rising delays above 0, such as [2700, 86400], not {told}")
    return tuple(after_ms)


def _minutes(name: str, clock: str) -> int:
    hours, minutes = int(clock[:2]), int(clock[3:])
    if hours > 23 or minutes > 59:
        raise ValueError(f"{name} must be a time of day from 00:00 to 23:59, not {clock}")
    return hours * 60 + minutes


@dataclass(frozen=True, slots=True)
class Audience:
    """The segments that a campaign is for, and the user's RFM scores; None: he never bought."""

    segments: tuple[str, ...]
    scores: Scores | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that would be sent at ``now``, and what the guards judge by.

    ``due`` is when its condition came true, ``received`` when the event that let time pass was received,
    ``untrue`` why its trigger says that it no longer holds ("": it does), ``outranked`` by which rule ("":
    none) that stands and is due within the window of priority, ``audience`` whom its campaign is for (None:
    everybody), ``refused`` why the campaign's ledger gave no coupon ("": it did, or none is asked for).
    """

    user: str
    state: UserState
    channel: str
    purpose: str
    untrue: str
    due: int
    now: int
    received: int
    outranked: str = ""
    audience: Audience | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """A guard's objection: its reason, and for a held candidate until when."""

    reason: str
    until: int | None = None


Guard = Callable[[Candidate, EngagementConfig], Stop | None]


def expired(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """Due too long before it was received: a backfill of old events sends nothing."""
    return Stop("expired") if candidate.received - candidate.due > config.expiry_ms else None


def identified(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """Only known users have an address; an anonymous visitor has none."""
    return None if candidate.state.identified else Stop("identified")


def consent(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """The user granted both the channel and the purpose; who never answered has denied."""
    granted = candidate.state.granted(candidate.channel, candidate.purpose)
    return None if granted else Stop("consent")


def audience(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """The user is in a segment that the campaign is for; before the holdout, which then draws of these."""
    of = candidate.audience
    if of is None or (of.scores is not None and of.scores.segment in of.segments):
        return None
    return Stop("audience")


def bucket(user: str, salt: str) -> int:
    """The user's holdout bucket in all campaigns, 0..BUCKETS−1: blake2b-64 of salt, NUL and user."""
    digest = blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % BUCKETS


def held_out(user: str, config: EngagementConfig) -> bool:
    """Whether a user is in the held-out share: for messages, and for lists where these respect it."""
    return config.holdout > 0 and bucket(user, config.holdout_salt) < config.holdout


def holdout(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """A held-out share of users never gets a message, to measure what messages add."""
    return Stop("holdout") if held_out(candidate.user, config) else None


def still_true(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """The trigger's own condition, looked at again now; its reason says what no longer holds."""
    return Stop(candidate.untrue) if candidate.untrue else None


def priority(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """One message a user a window: what ranks before it, stands, and is due within the window, goes first."""
    return Stop("priority") if candidate.outranked else None


def sent_within(candidate: Candidate, window_ms: int) -> int:
    """Messages sent to the user on the channel in the rolling window (now − window, now]."""
    return sum(time > candidate.now - window_ms for time in candidate.state.sent.get(candidate.channel, ()))


def cap(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """Rolling frequency caps a channel: 24 hours and 7 days, never calendar days."""
    day, week = sent_within(candidate, DAY_MS), sent_within(candidate, WEEK_MS)
    return Stop("cap") if day >= config.cap_day or week >= config.cap_week else None


def quiet(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """Quiet hours by the wall clock of the user's zone, where it is known: held until they end."""
    if not candidate.state.zone:
        return None
    until = quiet_end(candidate.now, candidate.state.zone, config.quiet_from, config.quiet_until)
    return None if until is None else Stop("quiet", until)


def budget(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """The campaign's ledger gave a coupon, if it gives any (`stream.core.coupons`)."""
    return Stop(candidate.refused) if candidate.refused else None


GUARDS: tuple[Guard, ...] = (
    expired,
    identified,
    consent,
    audience,
    holdout,
    still_true,
    priority,
    cap,
    quiet,
    budget,
)
"""In this order; the first objection counts."""
_FIRST = GUARDS[: GUARDS.index(priority)]


def stands(candidate: Candidate, config: EngagementConfig) -> bool:
    """Whether a candidate passes all guards before `priority`, so that others give way to it."""
    return all(guard(candidate, config) is None for guard in _FIRST)


def check(candidate: Candidate, config: EngagementConfig) -> Stop | None:
    """The first guard's objection, or None when the message may be sent."""
    return next((stop for guard in GUARDS if (stop := guard(candidate, config)) is not None), None)


def counters(candidate: Candidate, config: EngagementConfig) -> dict[str, int]:
    """What the guards counted, for the decision: messages sent so far, the user's holdout bucket, and the RFM
    scores of a customer where the campaign has an audience."""
    of = candidate.audience
    return {
        "sent_day": sent_within(candidate, DAY_MS),
        "sent_week": sent_within(candidate, WEEK_MS),
        "bucket": bucket(candidate.user, config.holdout_salt),
        **({} if of is None or of.scores is None else of.scores._asdict()),
    }


def quiet_end(now: int, zone: str, start: int, end: int) -> int | None:
    """When the quiet hours that ``now`` (ms) falls in end, in ms; None outside of them.

    ``start`` and ``end`` are minutes of the local wall clock, [start, end), over midnight when start > end;
    equal: no quiet hours. An end that the spring change skips counts as if the clock had not yet changed.
    """
    place = zone_of(zone)
    local = datetime.fromtimestamp(now // 1000, place)
    minute = local.hour * 60 + local.minute
    if not (start <= minute < end if start <= end else minute >= start or minute < end):
        return None
    day = local.date() + timedelta(days=start > end and minute >= start)
    wall = datetime(day.year, day.month, day.day, end // 60, end % 60, tzinfo=place)
    until = round(wall.timestamp()) * 1000
    # In the autumn the end may strike twice: past the first stroke, the second is meant.
    return until if until > now else round(wall.replace(fold=1).timestamp()) * 1000
