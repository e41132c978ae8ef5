"""Misrouted events on a real worker: counted once, in the right partition, and no forged mail is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice

import orjson

from producers.simulator import Shop
from stream.codec import Record
from stream.offline import replay
from stream.ownership import partition_of
from stream.settings import Settings
from stream.topics import DEAD_LETTERS, EVENTS, RECOMMENDATIONS
from stream.transport import StockRecord
from tests.e2e.harness import Outside, eventually, stamp
from tests.e2e.test_offline import START_MS, command

EVENTS_SENT = 2000


def workload() -> list[tuple[str, bytes]]:
    """A simulated shop's traffic; about thirteen minutes, so that no timer fires.

    Nobody logs in: when an anonymous user's past arrives depends on the way that the login took.
    """
    events = Shop(11, users=200, items=80).events(2 * EVENTS_SENT, START_MS, 2.5)
    nobody_new = (event for event in events if event["type"] not in ("sign_up", "login"))
    found = [(event.get("user") or event["anonymous"], event) for event in islice(nobody_new, EVENTS_SENT)]
    return [(user, orjson.dumps({"id": f"e{n}", **event})) for n, (user, event) in enumerate(found)]


def received(n: int) -> int:
    return START_MS + n * 400


async def misroute(shop: Outside, sent: Sequence[tuple[str, bytes]]) -> int:
    """Every third user's events go to the partition after his own; how many events these were."""
    partitions, wrong = shop.settings.partitions, 0
    for n, (user, value) in enumerate(sent):
        astray = sum(user.encode()) % 3 == 0
        wrong += astray
        to = (partition_of(user, partitions) + astray) % partitions
        headers = [("received", b"%d" % received(n))]
        topic = EVENTS.full(shop.settings)
        await shop.producer.send(topic, value, key=user.encode(), partition=to, headers=headers)
    await shop.producer.flush()
    return wrong


async def routed_well(settings: Settings, sent: Sequence[tuple[str, bytes]]) -> str:
    """The digest of a log whose producers knew the partitioner."""
    logs: dict[int, list[Record]] = {p: [] for p in range(settings.partitions)}
    for n, (user, value) in enumerate(sent):
        log = logs[partition_of(user, settings.partitions)]
        log.append(StockRecord(len(log), received(n), user.encode(), value, ()))

    async def chunks(topic: str, partition: int) -> AsyncIterator[Sequence[Record]]:
        if topic == EVENTS.name:
            yield logs[partition]

    return (await replay(settings, b"any key", chunks)).digest.digest


async def test_a_misrouted_log_counts_as_a_well_routed_one(shop: Outside) -> None:
    sent = workload()
    wrong = await misroute(shop, sent)
    live = await asyncio.to_thread(command, shop.settings, "digest", "--wait", "60")
    assert 0 < wrong < EVENTS_SENT
    assert (live["events"], live["forwarded"], live["mail"]) == (EVENTS_SENT, wrong, wrong)
    assert live["repeats"] == live["dead_letters"] == live["mail_repeats"] == 0
    assert live["digest"] == await routed_well(shop.settings, sent)
    lists = await shop.records(RECOMMENDATIONS)
    owners = {(user.encode(), partition_of(user, shop.settings.partitions)) for user, _ in sent}
    assert {(each.key, each.partition) for each in lists} == owners
    again = await asyncio.to_thread(command, shop.settings, "replay", "--into", "memory", "--digest")
    assert again == live


async def test_a_misrouted_user_gets_his_list_and_forged_mail_is_a_dead_letter(shop: Outside) -> None:
    topic, partitions = EVENTS.full(shop.settings), shop.settings.partitions
    home = partition_of("ann", partitions)
    view = {"type": "view_item", "time": stamp(), "user": "ann", "item": "A"}
    forged = {"type": "tidewise.mail", "kind": "forward", "source": [0, 10**9, 0], "received": START_MS}
    value = orjson.dumps(forged | {"body": view | {"item": "forged"}, "sig": "00" * 32})
    await shop.producer.send_and_wait(topic, value, key=b"ann", partition=home)
    await shop.send(*(view | {"user": "bob", "item": item} for item in "AB"))

    async def neighbours() -> bool:
        return "B" in await shop.items("neighbors:A")

    await eventually(neighbours, 10.0, lambda: shop.worker.log)
    await shop.producer.send_and_wait(
        topic, orjson.dumps(view), key=b"ann", partition=(home + 1) % partitions
    )

    async def listed() -> bool:
        return "B" in await shop.items("recs:ann")

    await eventually(listed, 10.0, lambda: shop.worker.log)
    found = await shop.view("recs:ann")
    assert found is not None and found["id"].startswith(f"{home}-")
    (letter,) = await shop.records(DEAD_LETTERS)
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (b"ann", value)
    assert orjson.loads(headers["reason"])["code"] == "unsigned"
    assert headers["source-partition"] == b"%d" % home
