"""The vocabulary of events: what a shop sends, as typed models. `docs/events.md` is its page for web teams.

`python -m stream.events` writes the JSON Schemas in `docs/schema`; a test fails when they are stale.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

import msgspec
from msgspec import Meta, Struct

KINDS = (
    "view_item",
    "select_item",
    "add_to_cart",
    "remove_from_cart",
    "add_to_wishlist",
    "begin_checkout",
    "purchase",
    "refund",
    "view_item_list",
    "search",
    "rate",
    "share",
    "sign_up",
    "login",
    "consent",
    "preferences",
    "forget",
    "recommendation_shown",
    "recommendation_clicked",
    "nudge_delivered",
    "nudge_clicked",
    "coupon_redeemed",
)
"""Event types by code. Histories in the store hold codes: append, never reorder."""

CODE: dict[str, int] = {kind: code for code, kind in enumerate(KINDS)}
OTHER = 254
"""Code of a type that is not in the vocabulary."""
TICK = 255
"""Code of a signed tick, which belongs to no user."""
REQUEST, MERGED = 253, 252
"""Codes of mail between partitions when an anonymous user becomes a known one (`stream.core.merge`)."""
NOTICE = 251
"""Code of what one partition tells a user of another (`stream.core.notices`)."""

RESERVED = "tidewise."
"""Types that begin so are the system's own."""
TICK_TYPE = RESERVED + "tick"
MAIL_TYPE = RESERVED + "mail"

ENGAGEMENT_KINDS = frozenset(
    {
        "add_to_cart",
        "remove_from_cart",
        "begin_checkout",
        "purchase",
        "refund",
        "consent",
        "sign_up",
        "login",
        "preferences",
        "forget",
        "nudge_delivered",
        "nudge_clicked",
        "coupon_redeemed",
    }
)
"""Types that triggers and guards look at, or that change what engagement knows of a user."""

LIST_KINDS = frozenset({"recommendation_shown", "recommendation_clicked"})
"""Types by which shown lists are told of: attribution looks at them, and at purchases and refunds."""

IMPRESSIONS = frozenset({"view_item_list", "recommendation_shown"})
"""Types whose items were only shown: no interactions, unless the settings give them a weight."""

_ITEMS = ("items", "item")
REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(
        ("view_item", "select_item", "add_to_cart", "remove_from_cart", "add_to_wishlist"), (_ITEMS,)
    ),
    **dict.fromkeys(("begin_checkout", "purchase", "view_item_list"), (_ITEMS,)),
    "refund": (("items", "item", "order"),),
    "search": (("query",),),
    "rate": (_ITEMS, ("rating",)),
    "share": (_ITEMS,),
    "sign_up": (("user",), ("anonymous",)),
    "login": (("user",), ("anonymous",)),
    "consent": (("channels", "purposes"),),
    "preferences": (("items", "item", "attributes"),),
    "recommendation_shown": (("list",), _ITEMS),
    "recommendation_clicked": (("list",), _ITEMS),
    "nudge_delivered": (("nudge",),),
    "nudge_clicked": (("nudge",),),
    "coupon_redeemed": (("coupon",),),
}
"""What a type needs beyond the envelope: of each group, in JSON names, at least one field."""

# A lookahead, because `$` would let a final newline pass; it means the same in ECMAScript (JSON Schema).
CLEAN = r"^(?![\s\S]*[\x00-\x1f\x7f])"
Id = Annotated[str, Meta(min_length=1, pattern=CLEAN, description="No control characters.")]
Type = Annotated[str, Meta(min_length=1, max_length=128)]
Time = Annotated[
    str,
    Meta(
        description="RFC 3339 with Z or an offset; 2000 to 2100.", extra_json_schema={"format": "date-time"}
    ),
]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
Currency = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}(?![\s\S])", description="ISO 4217, for example EUR.")]
Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]
Strategy = Annotated[str, Meta(max_length=64, description="As the list's view names it.")]
Attribute = str | int | float | bool | list[str]


class Line(Struct, frozen=True, kw_only=False, omit_defaults=True, gc=False):
    """One item of an event: which, at what price for one piece, how many; in a list, by which strategy."""

    item: Id
    price: Amount | None = None
    quantity: Quantity = 1
    strategy: Strategy | None = None


Lines = list[Line]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename={"list_id": "list"}):
    """An event: the envelope, then the fields of all types. Which a type needs stands in `REQUIRED`."""

    id: Id | None = None
    source: Id | None = None
    type: Type
    time: Time
    user: Id | None = None
    anonymous: Id | None = None
    session: Id | None = None
    context: dict[str, Any] | None = None

    items: Lines | None = None
    item: Id | None = None
    price: Amount | None = None
    quantity: Quantity | None = None
    order: Id | None = None
    value: Amount | None = None
    currency: Currency | None = None
    coupon: Id | None = None
    query: str | None = None
    rating: Finite | None = None
    network: Id | None = None
    channels: dict[Id, bool] | None = None
    purposes: dict[Id, bool] | None = None
    attributes: dict[Id, Attribute] | None = None
    list_id: Id | None = None
    nudge: Id | None = None
    sig: str | None = None

    def lines(self) -> list[Line]:
        """The items, whether given as a list or in the short form; the list counts where both are given."""
        if self.items:
            return self.items
        return [] if self.item is None else [Line(self.item, self.price, self.quantity or 1)]

    def lacks(self) -> tuple[str, ...] | None:
        """The first group of fields of which the type needs one and has none."""
        if self.user is None and self.anonymous is None:
            return ("user", "anonymous")
        groups = REQUIRED.get(self.type, ())
        return next((group for group in groups if not any(self._has(name) for name in group)), None)

    def _has(self, name: str) -> bool:
        return getattr(self, "list_id" if name == "list" else name) not in (None, [], {})


class Told(Event, frozen=True, kw_only=True):
    """A notice (`stream.core.notices`) as engagement sees it: ``body`` is what its type says."""

    body: dict[str, Any] = {}


class CatalogItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the shop says of an item, on the topic `catalog`. Fields left out stay as they were."""

    item: Id
    type: Literal["item"] = "item"
    time: Time | None = None
    name: str | None = None
    description: str | None = None
    attributes: dict[Id, Attribute] | None = None
    price: Amount | None = None
    stock: Annotated[int, Meta(ge=0, le=10**12)] | None = None
    hidden: bool | None = None
    group: Id | None = None
    image: str | None = None
    url: str | None = None
    vector: Annotated[list[Finite], Meta(max_length=4096)] | None = None


M = TypeVar("M", bound=Struct)


def bounded(model: type[M], id_length: int, items: int, clean: bool) -> type[M]:
    """The model with a deployment's bounds built in, so that msgspec checks them while it reads.

    ``clean=False`` leaves out the pattern of ids, which costs more than all the rest of reading an event.
    """
    pattern = CLEAN if clean else None
    names: dict[str, Any] = {"Id": Annotated[str, Meta(min_length=1, max_length=id_length, pattern=pattern)]}
    names["Lines"] = Annotated[list[_rebuilt(Line, names)], Meta(max_length=items)]  # type: ignore[misc]  # built at run time
    return _rebuilt(model, names)


def _rebuilt(model: type[M], names: Mapping[str, Any]) -> type[M]:
    """A subclass whose annotations are read again, with other meanings for some names."""
    hints = get_type_hints(model, {**globals(), **names}, {}, include_extras=True)
    fields = [
        (field.name, hints[field.name], msgspec.field(name=field.encode_name, default=field.default))
        for field in msgspec.structs.fields(model)
    ]
    config = model.__struct_config__
    made = msgspec.defstruct(
        model.__name__, fields, bases=(model,), frozen=True, kw_only=model is not Line, gc=config.gc
    )
    return cast(type[M], made)


# JSON Schema


def schema(model: type[Struct]) -> dict[str, Any]:
    """JSON Schema (2020-12) of `Event` or `CatalogItem`, with what each type needs."""
    made = msgspec.json.schema(model)
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    if model is Event:
        del made["$defs"]["Event"]["properties"]["sig"]
        made["not"] = {"properties": {"type": {"pattern": r"^tidewise\."}}}
        made["allOf"] = [_one_of(("user", "anonymous")), *(_condition(kind) for kind in REQUIRED)]
    return made


def _condition(kind: str) -> dict[str, Any]:
    needs = [_one_of(group) for group in REQUIRED[kind]]
    return {"if": {"properties": {"type": {"const": kind}}}, "then": {"allOf": needs}}


def _one_of(group: tuple[str, ...]) -> dict[str, Any]:
    empty: dict[str, Any] = {"enum": [None, [], {}]}
    return {"anyOf": [{"required": [name], "properties": {name: {"not": empty}}} for name in group]}


SCHEMAS: dict[str, type[Struct]] = {"event.json": Event, "item.json": CatalogItem}


def schema_file(model: type[Struct]) -> bytes:
    """The bytes of a schema's file."""
    return msgspec.json.format(msgspec.json.encode(schema(model), order="sorted"), indent=2) + b"\n"


def main(folder: Path) -> None:
    """Write the schemas."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        (folder / name).write_bytes(schema_file(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "schema")
