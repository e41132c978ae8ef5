"""Every setting of Tidewise, declared once: environment variables ``TIDEWISE_*`` and one TOML file.

Order of precedence: arguments, environment, the TOML file named by ``TIDEWISE_CONFIG`` (default
``tidewise.toml`` in the working directory, if it exists), defaults. Units stand in the names.
``docs/settings.md`` lists them all; a test fails when one is missing there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from state.segments import parse as parse_segment
from stream.core.slate.grammar import parse

DAY_S = 86_400.0


EVENT_WEIGHTS: dict[str, float] = {
    "view_item": 1.0,
    "select_item": 1.0,
    "add_to_cart": 2.0,
    "add_to_wishlist": 2.0,
    "purchase": 4.0,
    "rate": 1.0,
    "share": 1.0,
    "recommendation_clicked": 1.0,
    "preferences": 1.0,
    "begin_checkout": 0.0,
    "remove_from_cart": 0.0,
    "refund": 0.0,
    "recommendation_shown": 0.0,
    "other": 1.0,
}
"""Default weights. Types that carry no item (search, consent, …) have nothing to count."""


COMPONENTS = ("item-item", "repeat", "content", "popular")
"""Components of the default mixture."""
ALL_COMPONENTS = (
    *COMPONENTS, "trend", "user-user", "pure-svd", "nmf", "autoencoder", "external", "lean",
)  # fmt: skip
"""All there are (`stream.core.recommend.lists`)."""


SEGMENTS = ("device+place", "device", "place")
"""Segments of which popularity is kept: they cost nothing where events tell no such context."""


class Rule(BaseModel):
    """What a shop wants of its lists: ``do`` something to the items for which ``when`` is true."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: str = "True"
    do: Literal["exclude", "boost", "pin", "limit"]
    factor: float = Field(1.0, gt=0, le=1000)
    position: int = Field(1, ge=1, le=50)
    most: int = Field(0, ge=0, le=50)
    per: Literal["category", "group"] | None = None

    @field_validator("when")
    @classmethod
    def _readable(cls, when: str) -> str:
        parse(when)
        return when

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        """Each kind has what it needs, and nothing that it would ignore."""
        needed, allowed = _RULES[self.do]
        told = self.model_fields_set - {"when", "do"}
        if missing := needed - told:
            raise ValueError(f'a rule that does "{self.do}" needs `{min(missing)}`')
        if odd := told - allowed:
            raise ValueError(f'a rule that does "{self.do}" has no `{min(odd)}`: leave it out')
        return self


_RULES: dict[str, tuple[set[str], set[str]]] = {
    "exclude": (set(), set()),
    "boost": ({"factor"}, {"factor"}),
    "pin": ({"position"}, {"position"}),
    "limit": ({"most"}, {"most", "per"}),
}
"""What a rule needs and what it may have, by what it does."""


class Bound(BaseModel):
    """Least and greatest share of exposure of a group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float = Field(0.0, ge=0, le=1)
    max: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Bound:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}: no share is both")
        return self


class Settings(BaseSettings):
    """All settings with their defaults. Unknown names in the TOML file are refused."""

    model_config = SettingsConfigDict(env_prefix="TIDEWISE_", extra="forbid", frozen=True)

    # Where the broker and the store are
    broker_url: str = Field(
        "kafka://localhost:9092", description="Kafka bootstrap address: kafka://host:port[,host:port]."
    )
    store_url: str = Field("redis://localhost:6379/0", description="Redis or Valkey URL.")
    prefix: str = Field(
        "tidewise",
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="First part of every key in the store and of the consumer group.",
    )
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$", description="Put before every topic name.")
    partitions: int = Field(
        4,
        ge=1,
        le=1024,
        description="Partitions of every topic. Recorded in the store; another number is refused there.",
    )
    replication: int = Field(1, ge=1, description="Replication factor used by `tidewise topics create`.")
    transport: Literal["bundles", "stock"] = Field(
        "bundles",
        description="Faust transport: `bundles` hands a whole poll over as one message, `stock` is Faust's.",
    )
    signing_key: str | None = Field(
        None, description="Key that signs ticks and mail; made once in the store when unset."
    )
    stop_within_s: float = Field(
        10.0, gt=0, description="After SIGTERM the worker ends within this time, whatever its state."
    )
    connect_timeout_s: float = Field(
        5.0, gt=0, description="Deadline of one attempt to reach the broker or the store."
    )
    store_timeout_s: float = Field(
        5.0, gt=0, description="Deadline of one trip to the store; kept well under the session timeout."
    )
    session_timeout_s: float = Field(30.0, gt=0, description="Kafka consumer session timeout.")
    rebalance_timeout_s: float = Field(30.0, gt=0, description="Kafka rebalance timeout.")
    heartbeat_s: float = Field(3.0, gt=0, description="Kafka heartbeat interval.")
    health_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="HTTP port of `/live` and `/ready`; 0: none, so that many workers fit on one machine.",
    )
    health_host: str = Field(
        "127.0.0.1", description="Address of that port; `0.0.0.0` for probes from other machines."
    )
    stuck_after_s: float = Field(
        60.0, gt=0, description="`/live` fails when a partition with records to read stands still this long."
    )

    # Batches and bounds
    batch_events: int = Field(
        12_000, ge=1, le=20_000, description="Most events of one partition in one transaction."
    )
    poll_records: int = Field(12_000, ge=1, description="Most records in one poll of the broker.")
    cached_users: int = Field(
        100_000,
        ge=1000,
        description="Users a worker keeps in memory (about 1 kB each, 28 bytes an item of their interest).",
    )
    max_message_bytes: int = Field(
        1_048_576,
        ge=1024,
        description="Largest event message; `dead-letters` and its producer take twice as much.",
    )
    max_batch_events: int = Field(
        5000, ge=1, description="Most events in one JSON array; a longer array is refused."
    )
    max_event_items: int = Field(500, ge=1, description="Most items in one event; a longer list is refused.")
    max_id_length: int = Field(
        256, ge=8, le=16_383, description="Longest user, item, session or event id, in characters."
    )
    future_tolerance_s: float = Field(
        300.0, ge=0, description="An event dated later than its receipt by more goes to dead letters."
    )
    lateness_s: float = Field(
        2.0, ge=0, description="Allowed lateness: the watermark trails the newest event by this much."
    )
    dedupe_ids: int = Field(
        16, ge=0, le=64, description="Event ids remembered a user, to drop repeats (8 bytes each)."
    )

    # Counting
    event_weights: dict[str, float] = Field(
        default_factory=lambda: dict(EVENT_WEIGHTS),
        description="Weight of an event type in the counts, in eighths up to 16; others: `other`.",
    )
    window: int = Field(
        20, ge=1, le=64, description="W: an interaction pairs with this many of the user's before it."
    )
    gap_exponent: float = Field(0.5, ge=0, description="g: a pair `gap` interactions apart weighs gap^−g.")
    backward: float = Field(
        0.2, ge=0.01, le=1, description="β: weight of the backward pair, relative to the forward one."
    )
    undirected_baskets: bool = Field(
        False,
        description="Items of one event come in no order: each pair of them counts alike in both directions.",
    )
    half_life_s: float = Field(
        90 * DAY_S, ge=60, description="Half-life of co-occurrence counts, in seconds of event time."
    )
    row_pairs: int = Field(
        192,
        ge=50,
        le=192,
        description="M: a row of more than 256 pairs is cut to its M heaviest (16 bytes each).",
    )
    neighbors: int = Field(50, ge=20, le=50, description="K: neighbours kept ranked an item (12 bytes each).")
    similarity: Literal["conditional", "cosine", "pearson", "lift", "llr"] = Field(
        "conditional",
        description="S, by which the K neighbours of most counts are ranked (`docs/lists.md`, Similarities).",
    )
    similarity_row_exponent: float = Field(
        0.9, description="`conditional`: a in C^p / ((n_i + d)^a · n_j^b)."
    )
    similarity_damping: float = Field(
        100.0, ge=0, description="`conditional`: d in C^p / ((n_i + d)^a · n_j^b)."
    )
    similarity_column_exponent: float = Field(
        0.15, description="`conditional`: b in C^p / ((n_i + d)^a · n_j^b)."
    )
    similarity_power: float = Field(1.0, gt=0, description="`conditional`: p in C^p / ((n_i + d)^a · n_j^b).")

    # Noise: what is accepted and does not count
    bot_events: int = Field(
        300,
        ge=0,
        le=20_000,
        description="A user's events beyond this many in `bot_window_s` do not count; 0: all do.",
    )
    bot_window_s: float = Field(600.0, ge=60, description="Event time over which `bot_events` are allowed.")
    repeat_s: int = Field(
        2,
        ge=0,
        le=3600,
        description="The same item by the same user and type less than this apart counts once; 0: each time.",
    )
    test_users: list[str] = Field(
        default_factory=list,
        description="Patterns (`qa-*`) of user ids that have lists like everybody and count nowhere.",
    )

    # Users and lists
    history: int = Field(64, ge=16, le=255, description="L: interactions kept a user (6 bytes each).")
    interest_items: int = Field(
        128,
        ge=8,
        le=512,
        description="K: items kept of a user's interest vector (28 bytes each), with slack to 1.5 K.",
    )
    interest_half_life_s: float = Field(90 * DAY_S, ge=60, description="Half-life of the interest vector.")
    profile_items: int = Field(
        10, ge=1, le=32, description="n: distinct newest items of a history that a list is made from."
    )
    components: list[str] = Field(
        default_factory=lambda: list(COMPONENTS),
        description="What gives candidates and evidence for personal lists (`docs/lists.md`); `lean` alone"
        " costs a quarter of the default.",
    )
    learn: bool = Field(True, description="The mixture of components learns from what users do next.")
    learn_share: float = Field(
        0.05, ge=0, le=1, description="Share of events it learns from, once it has learned from 100,000."
    )
    peers: int = Field(
        50_000,
        ge=1000,
        le=1_000_000,
        description="`user-user`: users seen last, of whom a worker finds others like one (about 0.4 kB each,"
        " and 128 bytes an item).",
    )
    user_similarity: Literal["cosine", "pearson"] = Field(
        "cosine", description="`user-user`: how the interests of two users are compared."
    )
    refresh_every_s: float = Field(
        0.0,
        ge=0,
        description="The models among `components` (`pure-svd`, `nmf`, `autoencoder`) are fitted this often"
        " by a worker; 0: only by `tidewise refresh`.",
    )
    factors: int = Field(64, ge=2, le=256, description="`pure-svd`, `nmf`: factors of an item and a user.")
    factor_items: int = Field(
        20_000,
        ge=100,
        le=200_000,
        description="`pure-svd`, `nmf`: items of most users that are in the model (4 bytes a factor each).",
    )
    autoencoder_items: int = Field(
        5000,
        ge=100,
        le=30_000,
        description="`autoencoder`: N, items of most users that are in the model: fitting takes 4 N² bytes"
        " and more, a worker 0.8 kB an item.",
    )
    autoencoder_penalty: float = Field(
        100.0, gt=0, description="`autoencoder`: λ; more for few events an item."
    )
    model_scores_users: int = Field(
        100_000,
        ge=1000,
        description="`external`: users whose newest `model-scores` a worker keeps (about 0.9 kB each).",
    )
    list_items: int = Field(20, ge=1, le=50, description="Items in a published list.")
    exclude_bought_s: float = Field(
        30 * DAY_S,
        ge=0,
        description="Items bought within this time are not recommended again, as far as the last `history`"
        " interactions and the last 32 items bought (12 bytes each) tell. Groceries: 0.",
    )
    trending_half_life_s: float = Field(
        DAY_S, ge=3600, description="Half-life of popularity in `trending` (72 hourly buckets)."
    )
    usual_half_life_s: float = Field(
        28 * DAY_S,
        ge=7 * DAY_S,
        le=364 * DAY_S,
        description="Half-life of what is usual for an item, against which `trending:rising` is measured"
        " (54 weekly buckets).",
    )
    publish_s: float = Field(
        0.1, ge=0.01, description="Changed neighbour lists are gathered this long, then published once."
    )
    checkpoint_s: float = Field(
        1.0,
        ge=0.05,
        description="Rows and positions are written to the store this often; sooner when nothing comes.",
    )
    trending_s: float = Field(1.0, ge=0.1, description="`trending` is refreshed this often.")
    segments: list[str] = Field(
        default_factory=lambda: list(SEGMENTS),
        max_length=8,
        description="Contexts of which `trending:<segment>` is kept: `place`, `device`, `channel`, `hour`,"
        " `weekday`, up to three joined by `+` (`docs/lists.md`); empty: none.",
    )

    # After scoring
    rules: list[Rule] = Field(
        default_factory=list,
        max_length=100,
        description="What lists leave out, prefer, show at a place or bound in number, as `[[rules]]`"
        " (`docs/lists.md`).",
    )
    diversity: float = Field(
        0.0, ge=0, le=1, description="How much items of a list should differ (MMR); 0: by score alone."
    )
    explore_share: float = Field(
        0.05, ge=0, le=0.5, description="Share of places lent to items too new to have earned one; 0: none."
    )
    explore_days: float = Field(14.0, gt=0, description="An item is new this long after its first event.")
    rotation: float = Field(
        0.9, gt=0, le=1, description="A score's factor for each time an item was shown and ignored; 1: none."
    )
    rotation_half_life_s: float = Field(
        DAY_S, ge=60, description="After this time without being shown, half of that is forgotten."
    )
    exposure: dict[str, Bound] = Field(
        default_factory=dict,
        max_length=64,
        description="Bounds of the shares of exposure of groups (sellers, brands):"
        ' `{"acme": {"min": 0.1, "max": 0.3}}`.',
    )

    # Live metrics
    attribution_s: float = Field(
        3 * DAY_S,
        gt=0,
        description="A click or purchase this long after a list was shown, or clicked, is attributed to it.",
    )
    arms: dict[str, float] = Field(
        default_factory=dict,
        max_length=16,
        description='Arms of an A/B test by percent of users: `{"control": 50, "new": 50}`; empty: no test.',
    )
    arm_salt: str = Field(
        "tidewise-arms", description="Salt of the arms' hash: another one mixes users anew."
    )

    # Engagement
    campaigns: str = Field(
        "", description="Folder of the campaign files that run beside the default one (`docs/engagement.md`)."
    )
    loyalty: str = Field("", description="File of the loyalty program (`docs/engagement.md`); empty: none.")
    cart_enabled: bool = Field(True, description="The default campaign `abandoned-cart` is on.")
    cart_after_s: list[float] = Field(
        default_factory=lambda: [45 * 60.0, DAY_S],
        description="Abandoned cart: delays after the last cart change.",
    )
    cart_rest_s: float = Field(
        7 * DAY_S, ge=0, description="Abandoned cart: rest after the last nudge of a sequence."
    )
    nudge_expiry_s: float = Field(
        DAY_S, ge=0, description="A nudge received this long after it was due is suppressed."
    )
    priority_window_s: float = Field(
        3600.0, ge=0, description="A nudge gives way to one of higher priority that is due within this time."
    )
    cap_day: int = Field(1, ge=0, description="Nudges a user and channel in any rolling 24 hours.")
    cap_week: int = Field(3, ge=0, description="Nudges a user and channel in any rolling 7 days.")
    quiet_from: str = Field(
        "21:00", pattern=r"^\d\d:\d\d$", description="Start of quiet hours in the user's zone."
    )
    quiet_until: str = Field(
        "09:00", pattern=r"^\d\d:\d\d$", description="End of quiet hours in the user's zone."
    )
    holdout_percent: float = Field(
        0.0, ge=0, le=100, description="Share of users who never get a nudge, to measure lift."
    )
    holdout_salt: str = Field("tidewise", description="Salt of the holdout's hash.")
    holdout_lists: bool = Field(
        False, description="Held-out users get popular lists, too: lift is then that of nudges and lists."
    )
    coupon_secret: str | None = Field(
        None,
        repr=False,
        description="Secret of which codes of coupons are computed; the same for all workers and for ever.",
    )
    tick_live_s: float = Field(
        3600.0, ge=0, description="Ticks are sent only while the newest event was this fresh when received."
    )

    @field_validator("arms")
    @classmethod
    def _whole(cls, arms: dict[str, float]) -> dict[str, float]:
        """Arms are all of the users."""
        if not all(percent > 0 for percent in arms.values()) or (
            arms and abs(sum(arms.values()) - 100) > 1e-6
        ):
            raise ValueError("the percents of the arms must be above 0 and add up to 100")
        return arms

    @field_validator("components")
    @classmethod
    def _there_are(cls, components: list[str]) -> list[str]:
        """Components that there are, each once."""
        if unknown := [name for name in components if name not in ALL_COMPONENTS]:
            raise ValueError(f"unknown component {unknown[0]!r}; known are {', '.join(ALL_COMPONENTS)}")
        if not components or len(set(components)) < len(components):
            raise ValueError(f"{components}: name at least one component, and none twice")
        if "lean" in components and len(components) > 1:
            raise ValueError("lean stands alone: leave the others out")
        return components

    @field_validator("segments")
    @classmethod
    def _known(cls, segments: list[str]) -> list[str]:
        """Dimensions that there are."""
        for each in segments:
            parse_segment(each)
        return segments

    @field_validator("exposure")
    @classmethod
    def _feasible(cls, exposure: dict[str, Bound]) -> dict[str, Bound]:
        """Least shares that lists can have together."""
        if (least := sum(bound.min for bound in exposure.values())) > 1 + 1e-9:
            raise ValueError(f"the groups' min add up to {least:.3g}, above 1: lower some")
        return exposure

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the TOML file."""
        path = Path(os.environ.get("TIDEWISE_CONFIG", "tidewise.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    @property
    def bootstrap(self) -> str:
        """The broker address without its scheme, as aiokafka wants it."""
        return self.broker_url.removeprefix("kafka://")

    @property
    def group(self) -> str:
        """The consumer group of the workers."""
        return f"{self.prefix}-worker"
