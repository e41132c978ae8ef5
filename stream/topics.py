"""Every topic, declared once. ``docs/events.md`` lists them; a test fails when one is missing there."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream.settings import Settings


@dataclass(frozen=True)
class Topic:
    """One topic: its name, what its key is, its configuration at creation, and what stands in it."""

    name: str
    key: str
    purpose: str
    config: dict[str, str] = field(default_factory=dict)

    def full(self, settings: Settings) -> str:
        """The name on the broker."""
        return settings.topic_prefix + self.name


_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
_COMPACT = {"cleanup.policy": "compact"}

EVENTS = Topic(
    "events", "user", "What users do: one JSON event or a JSON array of them a message.", _APPEND_TIME
)
CATALOG = Topic("catalog", "item", "What items are: name, price, stock, hidden, attributes.", _APPEND_TIME)
INCREMENTS = Topic(
    "increments", "none", "Mail between workers: item-pair increments, packed. Internal.", _APPEND_TIME
)
RECOMMENDATIONS = Topic("recommendations", "user", "Fresh personal lists: the bytes of the view `recs`.")
NEIGHBORS = Topic(
    "neighbors", "item", "Similar items, packed; also the dictionary of items. Compacted.", _COMPACT
)
TRENDING = Topic("trending", "partition", "The top 200 of each item partition. Compacted.", _COMPACT)
METRICS = Topic(
    "metrics", "partition", "What lists bring about, counted by each partition. Compacted.", _COMPACT
)
MODELS = Topic("models", "model and chunk", "Models fitted now and then, packed. Compacted.", _COMPACT)
MODEL_SCORES = Topic(
    "model-scores", "user", "What models trained elsewhere say; you write it. Compacted.", _COMPACT
)
CAMPAIGNS = Topic(
    "campaigns",
    "campaign and version",
    "Campaigns as published: every version. Compacted.",
    _COMPACT | _APPEND_TIME,
)
ENGAGEMENTS = Topic("engagements", "user", "Messages to users: nudges, and their revocations.")
DECISIONS = Topic("decisions", "user", "Why a nudge was sent, held or suppressed.")
DEAD_LETTERS = Topic(
    "dead-letters", "as received", "What could not be read: untouched bytes, reason in headers."
)

TOPICS = (
    EVENTS,
    CATALOG,
    INCREMENTS,
    RECOMMENDATIONS,
    NEIGHBORS,
    TRENDING,
    METRICS,
    MODELS,
    MODEL_SCORES,
    CAMPAIGNS,
    ENGAGEMENTS,
    DECISIONS,
    DEAD_LETTERS,
)
"""All of them: what `tidewise topics create` makes, each with the same number of partitions."""


def config_of(topic: Topic, settings: Settings) -> dict[str, str]:
    """The topic's configuration; dead letters take twice what events do, internal mail eight times."""
    sent = settings.max_message_bytes
    # The largest event still fits when it is forwarded: mail adds user or item as the key, and a frame.
    mail = sent + 4 * settings.max_id_length + 1024
    most = {
        EVENTS.name: mail,
        CATALOG.name: mail,
        INCREMENTS.name: 8 * sent,
        NEIGHBORS.name: 2 * sent,
        MODELS.name: 2 * sent,
        DEAD_LETTERS.name: 2 * mail,
    }
    return topic.config | {"max.message.bytes": str(most.get(topic.name, sent))}
