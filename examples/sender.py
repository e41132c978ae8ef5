"""A small sender: nudges from the topic `engagements` to the console or to an SMTP server.

python examples/sender.py [--broker host:port] [--smtp host:port] [--address '{user}@shop.example']

It drops repeats, what has expired and what was revoked, and reports `nudge_delivered` back to Tidewise.
"""

import argparse
import asyncio
import signal
import smtplib
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from html import escape
from urllib.parse import quote

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from producers.client import EventProducer
from stream.engagements import Engagement, Item, Nudge, Revoke, read_engagement
from stream.settings import Settings
from stream.times import time_text
from stream.topics import ENGAGEMENTS

REMEMBERED = 100_000


class Memory:
    """The newest names; what is asked about a second time is known."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """Keep a name; the oldest one goes when there are too many."""
        self._names[name] = None
        if len(self._names) > REMEMBERED:
            del self._names[next(iter(self._names))]

    def __contains__(self, name: str) -> bool:
        return name in self._names


class Gate:
    """Which nudges are still to be sent."""

    def __init__(self) -> None:
        self.sent = Memory()
        self.revoked = Memory()

    def objection(self, nudge: Nudge, now_ms: int) -> str:
        """Why a nudge is not sent; "": it is."""
        if nudge.id in self.sent:
            return "repeated"
        if (nudge.revoke_key or nudge.id) in self.revoked:
            return "revoked"
        return "expired" if now_ms > nudge.expires else ""


def written(nudge: Nudge, sender: str, address: str) -> EmailMessage:
    """The mail: a subject, what it is about, and the coupon; as text, and with images."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, address.replace("{user}", quote(nudge.user, safe=""))
    mail["Subject"] = f"About your {name_of(nudge.items[0])}" if nudge.items else "For you"
    mail["X-Nudge"] = nudge.id
    mail.set_content("\n".join(lines_of(nudge)) + "\n")
    mail.add_alternative("\n".join(html_of(nudge)) + "\n", subtype="html")
    return mail


def name_of(item: Item) -> str:
    """On one line: a subject has no more."""
    return " ".join((item.name or item.item).split())


def lines_of(nudge: Nudge) -> Iterator[str]:
    """The text of a mail, line by line."""
    for each in nudge.items:
        yield f"{line_of(each)} {each.url or ''}".rstrip()
    if nudge.coupon:
        yield f"Your coupon: {nudge.coupon.code}"


def line_of(item: Item) -> str:
    """How many of what, and what one costs."""
    price = "" if item.price is None else f", {item.price:.2f}"
    return f"{item.quantity} × {name_of(item)}{price}"


def html_of(nudge: Nudge) -> Iterator[str]:
    """The same with images and links, line by line."""
    for each in nudge.items:
        line = escape(line_of(each))
        if each.image:
            line = f'<img src="{escape(each.image)}" alt="" width="120"><br>{line}'
        yield f'<p><a href="{escape(each.url)}">{line}</a></p>' if each.url else f"<p>{line}</p>"
    if nudge.coupon:
        yield f"<p>Your coupon: <b>{escape(nudge.coupon.code)}</b></p>"


def deliver(mail: EmailMessage, smtp: str | None) -> None:
    """To the SMTP server, or to the console where none is given."""
    if smtp is None:
        print(mail.as_string(), flush=True)
        return
    host, _, port = smtp.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=10) as server:
        server.send_message(mail)


def readable(record: ConsumerRecord) -> Engagement | None:
    """What a record says; one that cannot be read must not stop the others."""
    try:
        return read_engagement(record.value)
    except msgspec.DecodeError as error:
        print(f"skipped {record.topic}[{record.partition}]@{record.offset}: {error}", flush=True)
        return None


class Sender:
    """Sends what is said on one partition after the other; ``send`` brings a nudge on its way."""

    def __init__(
        self, consumer: AIOKafkaConsumer, producer: EventProducer, send: Callable[[Nudge], None]
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._send = send
        self._gate = Gate()

    async def handle(self, partition: TopicPartition, records: list[ConsumerRecord]) -> None:
        """The records of a poll. A revocation among them holds for the nudges before it, too."""
        said = [readable(record) for record in records]
        for each in said:
            if isinstance(each, Revoke):
                self._gate.revoked.add(each.revoke_key)
        for record, each in zip(records, said, strict=True):
            if isinstance(each, Nudge):
                await self._nudge(each)
            # Reported first, then done with: after a crash one nudge at most is sent again.
            await self._producer.flush()
            await self._consumer.commit({partition: record.offset + 1})

    async def _nudge(self, nudge: Nudge) -> None:
        now_ms = time.time_ns() // 1_000_000
        why = self._gate.objection(nudge, now_ms)
        if not why:
            await asyncio.to_thread(self._send, nudge)
            self._gate.sent.add(nudge.id)
            delivered = {"type": "nudge_delivered", "user": nudge.user, "nudge": nudge.id}
            # The same id each time: what is reported twice counts once.
            await self._producer.send(delivered | {"id": f"delivered-{nudge.id}", "time": time_text(now_ms)})
        print(f"{nudge.id}: {why or 'sent'} ({nudge.campaign}, {nudge.user})", flush=True)


async def run(settings: Settings, send: Callable[[Nudge], None]) -> None:
    """Send until SIGINT or SIGTERM. What is not sent and reported yet comes again after a restart."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    topic = ENGAGEMENTS.full(settings)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=settings.bootstrap,
        group_id=f"{settings.topic_prefix}sender",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=round(settings.session_timeout_s * 1000),
        heartbeat_interval_ms=round(settings.heartbeat_s * 1000),
    )
    async with consumer, EventProducer(settings) as producer:
        sender = Sender(consumer, producer, send)
        while not stopping.is_set():
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                await sender.handle(partition, records)


def main() -> None:
    """Options, and until Ctrl-C."""
    told = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    told.add_argument("--broker", help="default: the settings of Tidewise")
    told.add_argument("--smtp", help="host:port; left out: to the console")
    told.add_argument("--sender", default="shop@shop.example")
    told.add_argument("--address", default="{user}@shop.example", help="a user's address")
    given = told.parse_args()
    settings = Settings(broker_url=f"kafka://{given.broker}") if given.broker else Settings()
    asyncio.run(run(settings, lambda each: deliver(written(each, given.sender, given.address), given.smtp)))


if __name__ == "__main__":
    main()
