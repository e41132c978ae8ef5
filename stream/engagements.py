"""What stands on `engagements` and `decisions`, as a sender or a report reads it: typed models.

`python -m stream.engagements` writes their JSON Schemas in `docs/schema`; a test fails when they are stale.
Readers should ignore fields that they do not know.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from stream.events import Id

Text = Annotated[str, Meta(min_length=1)]
Time = Annotated[int, Meta(description="Milliseconds since 1970 UTC, in event time.")]
Step = Annotated[int, Meta(ge=0, description="Place in the campaign's sequence, from 1; 0: unknown.")]
Number = Annotated[int, Meta(ge=1, description="Version of the campaign that held.")]


class Item(Struct, frozen=True, omit_defaults=True):
    """An item that a message is about; what the catalogue does not tell is left out."""

    item: Id
    price: float | None = None
    quantity: Annotated[int, Meta(ge=1)] = 1
    name: str | None = None
    image: str | None = None
    url: str | None = None


class Coupon(Struct, frozen=True, omit_defaults=True):
    """A code for this user, valid until ``expires``: of which ``offer`` or pool, worth ``value`` in the
    shop's currency."""

    code: Text
    offer: Text | None = None
    value: Annotated[float, Meta(ge=0)] | None = None
    expires: Time | None = None


class Nudge(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="nudge"):
    """A message to a user. Drop repeats by ``id``; drop it after ``expires``, and once it is revoked.

    ``due`` is when its condition came true, ``time`` when it was decided. ``revoke_key`` is what a `Revoke`
    names to take it back.
    """

    id: Id
    user: Id
    channel: Text
    campaign: Text
    rule: Text
    items: list[Item]
    due: Time
    time: Time
    expires: Time
    step: Step
    version: Number | None = None
    template: Text | None = None
    data: dict[str, Any] | None = None
    coupon: Coupon | None = None
    revoke_key: Text | None = None


class Revoke(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="revoke"):
    """Takes back the nudge with this ``revoke_key``: it is not sent any more, or its coupon is void."""

    id: Id
    user: Id
    channel: Text
    campaign: Text
    rule: Text
    time: Time
    revoke_key: Text
    items: list[Item] | None = None
    due: Time | None = None
    expires: Time | None = None
    step: Step | None = None
    version: Number | None = None


Engagement = Nudge | Revoke
"""A record's value on `engagements`."""


class Evidence(Struct, frozen=True, omit_defaults=True):
    """An event that a decision rests on."""

    type: Text
    time: Time
    item: str | None = None


class Weighed(Struct, frozen=True, omit_defaults=True):
    """One of several coupons as it was weighed, best first: ``own`` are the user's decayed purchases of its
    items, ``chance`` that he redeems it, ``score`` chance × gain; ``refused`` why it was not to be had."""

    offer: Text
    own: Annotated[float, Meta(ge=0)]
    chance: Annotated[float, Meta(ge=0, le=1)]
    score: Annotated[float, Meta(ge=0)]
    refused: str | None = None


class Consents(Struct, frozen=True, kw_only=True):
    """What the user had answered, of the campaign's channels and its purpose; null: he never was asked."""

    channels: dict[str, bool | None]
    purposes: dict[str, bool | None]


class Decision(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record's value on `decisions`: why a nudge was sent, held, suppressed, cancelled or revoked."""

    id: Id
    time: Time
    user: Id
    campaign: Text
    rule: Text
    step: Step
    due: Time
    outcome: Literal["sent", "held", "suppressed", "cancelled", "revoked"]
    reason: Annotated[str, Meta(description="Empty when sent; the guard; the event that cancelled.")]
    counters: dict[str, int]
    evidence: list[Evidence]
    version: Number | None = None
    offers: list[Weighed] | None = None
    consent: Consents | None = None


def read_engagement(data: bytes) -> Engagement:
    """A nudge or a revocation. Raises `msgspec.ValidationError`, `msgspec.DecodeError`."""
    return _READER.decode(data)


_READER: msgspec.json.Decoder[Engagement] = msgspec.json.Decoder(Engagement)
SCHEMAS: dict[str, Any] = {"engagement.json": Engagement, "decision.json": Decision}


def schema(model: Any) -> dict[str, Any]:
    """JSON Schema (2020-12) of a model."""
    return msgspec.json.schema(model) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def schema_file(model: Any) -> bytes:
    """The bytes of a schema's file."""
    return msgspec.json.format(msgspec.json.encode(schema(model), order="sorted"), indent=2) + b"\n"


def main(folder: Path) -> None:
    """Write the schemas."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        (folder / name).write_bytes(schema_file(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "schema")
