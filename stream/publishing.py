"""Publishing campaigns: from checked files to versions on the topic `campaigns`, which all workers follow.

All versions stand in partition 0, each under a key of its own: in one order, and none replaces another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from stream.campaign_files import TRIGGERS
from stream.core.campaigns import Campaign, Version, decode_version, encode_version
from stream.core.plan import LEAD_MS, Held, Schedule, key_of, successors
from stream.delivery import Output
from stream.kafka import KafkaSender
from stream.reading import read_whole
from stream.settings import Settings
from stream.times import time_text
from stream.topics import CAMPAIGNS

log = structlog.get_logger(__name__)
PARTITION = 0


class TooSoon(ValueError):
    """A version would have to hold before all workers can know it."""


def learn(schedule: Schedule, records: Sequence[Any]) -> None:
    """What records of the topic say; one that cannot be read is passed over, and told."""
    for record in records:
        try:
            version = decode_version(record.value or b"", TRIGGERS)
        except ValueError as error:
            said = {"topic": CAMPAIGNS.name, "key": record.key, "offset": record.offset}
            log.error("a record cannot be read", **said, error=str(error))
        else:
            schedule.learn(Held.of(version, record.timestamp, record.offset))


async def published(settings: Settings) -> Schedule:
    """All versions that stand in the topic. Raises BrokerError."""
    schedule = Schedule()
    async for _, records in read_whole(settings, CAMPAIGNS):
        learn(schedule, records)
    return schedule


def versions_of(
    known: Schedule, campaigns: Sequence[Campaign], now_ms: int, effective: int | None, whole: bool
) -> list[Version]:
    """What is to be published (`stream.core.plan.successors`); without a time, for as soon as possible.

    Raises ValueError with every reason against.
    """
    soonest = now_ms + LEAD_MS
    if effective is not None and effective < soonest:
        raise TooSoon(
            f"{time_text(effective)} is too soon: all workers must know a version before it holds. Give a "
            f"time from {time_text(soonest)} on, or none: then it holds in {LEAD_MS // 1000} s"
        )
    return successors(known, campaigns, soonest if effective is None else effective, whole)


async def publish(settings: Settings, versions: Sequence[Version]) -> list[Held]:
    """Write versions, and return them as they stand in the topic. Raises KafkaError, BrokerError."""
    outputs = [
        Output(CAMPAIGNS.name, key_of(version).encode(), encode_version(version)) for version in versions
    ]
    async with KafkaSender(settings) as sender:
        await sender.publish(PARTITION, outputs)
    wanted = {key_of(version) for version in versions}
    return [held for held in (await published(settings)).held if key_of(held.version) in wanted]
