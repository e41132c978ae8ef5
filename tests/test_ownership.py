"""Partitions: Kafka's own, and none for an item whose name nobody told yet."""

from __future__ import annotations

import numpy as np
from aiokafka.partitioner import DefaultPartitioner

from stream.core.items import Items, item_hash
from stream.ownership import ItemPartitions, partition_of


def test_it_is_kafkas_default() -> None:
    kafka = DefaultPartitioner()
    for name in ("u1", "a much longer name", "ü", "商品"):
        assert partition_of(name, 12) == kafka(name.encode(), list(range(12)), list(range(12)))


def test_an_item_without_a_name_has_none_until_it_is_named() -> None:
    items = Items()
    owners = ItemPartitions(items, 7)
    ids = items.ids_of_hashes(np.array([item_hash("tea"), item_hash("milk")], dtype=np.uint64))
    assert owners.of(ids).tolist() == [-1, -1]
    items.add("tea")
    assert owners.of(ids).tolist() == [partition_of("tea", 7), -1]
