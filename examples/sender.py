"""A small sender: nudges from the topic `engagements` to the console, or as mails to an SMTP server.

python examples/sender.py [--broker host:port] [--smtp host:port] [--address '{user}@shop.example']
                          [--clicks http://localhost:8025] [--journal sender.jsonl]

It drops repeats, what has expired and what was revoked, takes back coupons of mails that were sent, and
reports `nudge_delivered` to Tidewise. With --clicks it answers the links of its mails: it reports
`nudge_clicked`, and sends the reader on to the item's page.
"""

import argparse
import asyncio
import hmac
import json
import secrets
import signal
import smtplib
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from producers.client import EventProducer
from stream.engagements import Engagement, Item, Nudge, Revoke, read_engagement
from stream.settings import Settings
from stream.times import time_text
from stream.topics import ENGAGEMENTS

REMEMBERED = 100_000
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
</head>
<body style="max-width: 36em; margin: 1em auto; padding: 0 1em; font: 1em/1.5 sans-serif">
{body}
</body>
</html>
"""


# What was sent


@dataclass(frozen=True)
class Sent:
    """What is remembered of a nudge: enough to send it once, and to take its coupon back."""

    id: str
    revoke_key: str
    code: str
    mail: str


class Journal:
    """The newest nudges that were sent, in a file, so that a restart does not send them again.

    A line is written before a mail is sent: whatever happens then, the mail is not sent a second time. Only
    where the mail server has certainly not taken it the line is struck out, by one that says so. ``key``
    signs links; it stays the same.
    """

    def __init__(self, path: Path) -> None:
        self.key = secrets.token_hex(32)
        self._ids: dict[str, Sent] = {}
        self._keys: dict[str, Sent] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            self._read(line)
        new = path.with_name(f"{path.name}.new")
        new.touch(mode=0o600)  # it holds codes
        lines = [json.dumps({"key": self.key}) + "\n", *map(self._line, self._ids.values())]
        new.write_text("".join(lines))
        new.replace(path)
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, sent: Sent) -> None:
        """Remember one; the oldest goes when there are too many."""
        self._append(self._line(sent))
        self._keep(sent)

    def strike(self, sent: Sent) -> None:
        """It was not sent."""
        self._append(json.dumps({"unsent": sent.id}) + "\n")
        self._drop(sent.id)

    def revoked(self, key: str) -> Sent | None:
        """What was sent under a key, once."""
        return self._keys.pop(key, None)

    def _append(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line)

    def _read(self, line: str) -> None:
        try:
            said = json.loads(line)
            if "key" in said:
                self.key = said["key"]
            elif "unsent" in said:
                self._drop(said["unsent"])
            else:
                self._keep(Sent(**said))
        except (ValueError, TypeError):  # cut short by a crash
            print(f"passed over in the journal: {line[:80]}", flush=True)

    def _keep(self, sent: Sent) -> None:
        self._ids[sent.id] = self._keys[sent.revoke_key] = sent
        if len(self._ids) > REMEMBERED:
            self._drop(next(iter(self._ids)))

    def _drop(self, name: str) -> None:
        sent = self._ids.pop(name, None)
        if sent is not None:
            self._keys.pop(sent.revoke_key, None)

    @staticmethod
    def _line(sent: Sent) -> str:
        return json.dumps(asdict(sent)) + "\n"


# What a mail says


@dataclass(frozen=True)
class Writer:
    """Nudges to mails. ``link`` gives the address under which a click on an item's page is counted."""

    sender: str
    address: str
    link: Callable[[Nudge, str], str]

    def nudge(self, nudge: Nudge) -> EmailMessage:
        """A subject, what it is about, and the coupon: as text, and as HTML with pictures."""
        mail = self._mail(nudge.user, f"nudge-{nudge.id}")
        mail["Subject"] = subject_of(nudge)
        mail["Expires"] = format_datetime(moment(nudge.expires), usegmt=True)
        for name in ("id", "channel", "campaign", "rule", "revoke_key"):
            mail[f"X-Nudge-{name.replace('_', '-').title()}"] = one_line(str(getattr(nudge, name)))
        mail.set_content("\n".join(self.lines(nudge)) + "\n")
        body = "\n".join(self.elements(nudge))
        mail.add_alternative(PAGE.format(title=escape(subject_of(nudge)), body=body), subtype="html")
        return mail

    def correction(self, revoke: Revoke, sent: Sent) -> EmailMessage:
        """To a mail whose coupon is void: an answer to it, of text alone."""
        mail = self._mail(revoke.user, f"revoke-{revoke.id}")
        mail["Subject"] = "Your coupon is no longer valid"
        mail["In-Reply-To"] = mail["References"] = sent.mail
        mail.set_content(
            "Thank you for your order! It came before our last mail to you.\n"
            f"The coupon {one_line(sent.code)} of that mail was for those who had not ordered yet: "
            "it is no longer valid.\n"
        )
        return mail

    def _mail(self, user: str, name: str) -> EmailMessage:
        mail = EmailMessage()
        mail["From"], mail["To"] = self.sender, self.address.replace("{user}", quote(user, safe=""))
        mail["Message-ID"] = message_id(name, self.sender)
        mail["Auto-Submitted"] = "auto-generated"
        return mail

    def lines(self, nudge: Nudge) -> Iterator[str]:
        """The text, line by line."""
        yield from (greeting_of(nudge), "")
        for each in nudge.items:
            yield f"{line_of(each)} {self._target(nudge, each)}".rstrip()
        if nudge.coupon:
            yield from ("", f"Your coupon: {one_line(nudge.coupon.code)}{terms_of(nudge)}")

    def elements(self, nudge: Nudge) -> Iterator[str]:
        """The same as HTML. A picture has no text of its own: what it shows stands beside it."""
        yield f'<h1 style="font-size: 1.4em">{escape(greeting_of(nudge))}</h1>'
        for each in nudge.items:
            line, target, image = map(escape, (line_of(each), self._target(nudge, each), safe(each.image)))
            if image:
                line = f'<img src="{image}" alt="" width="120" style="display: block">{line}'
            yield f'<p><a href="{target}">{line}</a></p>' if target else f"<p>{line}</p>"
        if nudge.coupon:
            code = f"<strong>{escape(one_line(nudge.coupon.code))}</strong>"
            yield f"<p>Your coupon: {code}{escape(terms_of(nudge))}</p>"

    def _target(self, nudge: Nudge, item: Item) -> str:
        url = safe(item.url)
        return self.link(nudge, url) if url else ""


def one_line(text: str) -> str:
    """As headers and lines of text need it."""
    return " ".join(text.split())


def safe(url: str | None) -> str:
    """An address on the web; anything else that a catalogue may say has no place in a mail."""
    return url if url and url.startswith(("https://", "http://")) and url.split() == [url] else ""


def moment(ms: int) -> datetime:
    """Of milliseconds since 1970; no later than calendars go."""
    return datetime.fromtimestamp(min(ms // 1000, 253_402_300_799), UTC)


def message_id(name: str, sender: str) -> str:
    """The same for the same nudge: where a mail comes twice all the same, mail programs show it once."""
    return f"<{quote(name, safe='')}@{sender.rpartition('@')[2]}>"


def name_of(item: Item) -> str:
    """What people call it."""
    return one_line(item.name or item.item)


def line_of(item: Item) -> str:
    """How many of what, and what one costs."""
    price = "" if item.price is None else f", {item.price:.2f}"
    return f"{item.quantity} × {name_of(item)}{price}"


def subject_of(nudge: Nudge) -> str:
    """What the campaign's `message.data.subject` says; else what it is about."""
    said = (nudge.data or {}).get("subject")
    usual = f"About your {name_of(nudge.items[0])}" if nudge.items else "For you"
    return one_line(said) if isinstance(said, str) and said.strip() else usual


def greeting_of(nudge: Nudge) -> str:
    """The first line: `message.data.greeting`, else the subject."""
    said = (nudge.data or {}).get("greeting")
    return one_line(said) if isinstance(said, str) and said.strip() else subject_of(nudge)


def terms_of(nudge: Nudge) -> str:
    """What the coupon is worth, and until when it is good."""
    coupon = nudge.coupon
    worth = f", worth {coupon.value:.2f}" if coupon and coupon.value else ""
    until = f", valid until {moment(coupon.expires):%d %B %Y, %H:%M} UTC" if coupon and coupon.expires else ""
    return worth + until


# Clicks


class Clicks:
    """Answers the links of mails. They say all there is to know, signed: they lead nowhere else, and hold
    after a restart."""

    def __init__(self, base: str, key: str) -> None:
        self._base = base.rstrip("/")
        self._key = key.encode()

    def link(self, nudge: Nudge, url: str) -> str:
        """The link to a page from a nudge."""
        said = {"user": nudge.user, "nudge": nudge.id, "page": url}
        return f"{self._base}/?{urlencode({**said, 'sig': self._signature(said)})}"

    def _signature(self, said: dict[str, str]) -> str:
        return hmac.digest(self._key, json.dumps(said, sort_keys=True).encode(), "sha256").hex()

    async def serve(self, producer: EventProducer) -> asyncio.Server:
        """Listen where the base address says."""
        at = urlsplit(self._base)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(5):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head, producer))
                    await writer.drain()
            except (OSError, EOFError, asyncio.LimitOverrunError):
                pass  # it hung up, or speaks no HTTP
            finally:
                writer.close()

        return await asyncio.start_server(answer, at.hostname, at.port or 80)

    async def _answer(self, head: bytes, producer: EventProducer) -> bytes:
        method, _, rest = head.decode("latin-1").partition(" ")
        said = dict(parse_qsl(urlsplit(rest.split(" ")[0]).query))
        signature = said.pop("sig", "")
        signed = hmac.compare_digest(signature.encode(), self._signature(said).encode())
        if method not in ("GET", "HEAD") or not signed:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        if method == "GET":  # programs that check links ask for the head alone
            await report(producer, "clicked", said["user"], said["nudge"])
            print(f"{said['nudge']}: clicked ({said['user']})", flush=True)
        place = quote(said["page"], safe=":/?#[]@!$&'()*+,;=%~").encode()
        return b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % place


async def report(producer: EventProducer, what: str, user: str, nudge: str) -> None:
    """Tell Tidewise. The same id each time: what is reported twice counts once."""
    said = {"type": f"nudge_{what}", "user": user, "nudge": nudge, "id": f"{what}-{nudge}"}
    await producer.send(said | {"time": time_text(time.time_ns() // 1_000_000)})


# Sending


class NotTaken(Exception):
    """The mail server has certainly not taken a mail; ``forever``: nor will it ever."""

    def __init__(self, why: Exception, forever: bool = False) -> None:
        super().__init__(f"{type(why).__name__}: {why}")
        self.forever = forever


def deliver(mail: EmailMessage, smtp: str | None) -> None:
    """To the SMTP server, or to the console where none is given. Raises NotTaken, and OSError where nobody
    knows."""
    if smtp is None:
        print(readable_mail(mail), flush=True)
        return
    host, _, port = smtp.partition(":")
    try:
        server = smtplib.SMTP(host, int(port or 25), timeout=10)
    except OSError as error:
        raise NotTaken(error) from error
    with server:
        try:
            server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            forever = all(code >= 500 for code, _ in error.recipients.values())
            raise NotTaken(error, forever) from error
        except smtplib.SMTPResponseException as error:
            raise NotTaken(error) from error


def readable_mail(mail: EmailMessage) -> str:
    """Headers and text of a mail, as people read them."""
    text = mail.get_body(("plain",))
    shown = [f"{name}: {value}" for name, value in mail.items() if not name.startswith(("Content-", "MIME-"))]
    return "\n".join([*shown, "", text.get_content() if text else ""])


def readable(record: ConsumerRecord) -> Engagement | None:
    """What a record says; one that cannot be read must not stop the others."""
    try:
        return read_engagement(record.value)
    except msgspec.DecodeError as error:
        print(f"skipped {record.topic}[{record.partition}]@{record.offset}: {error}", flush=True)
        return None


@dataclass
class Sender:
    """Sends what is said on one partition after the other; ``deliver`` brings a mail on its way."""

    consumer: AIOKafkaConsumer
    producer: EventProducer
    writer: Writer
    journal: Journal
    deliver: Callable[[EmailMessage], None]
    channels: frozenset[str] | None
    """Those that it serves; None: all."""

    async def handle(self, partition: TopicPartition, records: list[ConsumerRecord]) -> None:
        """The records of a poll. A revocation among them holds for the nudges before it, too."""
        said = [readable(record) for record in records]
        revoked = {each.revoke_key for each in said if isinstance(each, Revoke)}
        for record, each in zip(records, said, strict=True):
            if isinstance(each, Nudge):
                await self._nudge(each, revoked)
            elif isinstance(each, Revoke):
                await self._revoke(each)
            await self.producer.flush()
            await self.consumer.commit({partition: record.offset + 1})

    def objection(self, nudge: Nudge, revoked: set[str]) -> str:
        """Why a nudge is not sent; "": it is."""
        if self.channels is not None and nudge.channel not in self.channels:
            return f"not for {nudge.channel}"
        if nudge.id in self.journal:
            return "repeated"
        if (nudge.revoke_key or nudge.id) in revoked:
            return "revoked"
        return "expired" if time.time_ns() // 1_000_000 > nudge.expires else ""

    async def _nudge(self, nudge: Nudge, revoked: set[str]) -> None:
        why = self.objection(nudge, revoked)
        if not why:
            mail = self.writer.nudge(nudge)
            code = nudge.coupon.code if nudge.coupon else ""
            sent = Sent(nudge.id, nudge.revoke_key or nudge.id, code, mail["Message-ID"])
            why = await self._once(sent, mail)
        if not why:
            await report(self.producer, "delivered", nudge.user, nudge.id)
        print(f"{nudge.id}: {why or 'sent'} ({nudge.campaign}, {nudge.user})", flush=True)

    async def _revoke(self, revoke: Revoke) -> None:
        """A reminder of what was bought harms nobody; a coupon that no longer counts is worth a word."""
        sent = self.journal.revoked(revoke.revoke_key)
        if sent is None or not sent.code or revoke.id in self.journal:
            return
        mail = self.writer.correction(revoke, sent)
        why = await self._once(Sent(revoke.id, revoke.id, "", mail["Message-ID"]), mail)
        print(f"{revoke.id}: {why or 'coupon taken back'} ({revoke.campaign}, {revoke.user})", flush=True)

    async def _once(self, sent: Sent, mail: EmailMessage) -> str:
        """Why a mail cannot be sent; "": it is. Raises NotTaken where that may change."""
        self.journal.add(sent)
        try:
            await asyncio.to_thread(self.deliver, mail)
        except NotTaken as error:
            if error.forever:
                return f"refused, {error}"
            self.journal.strike(sent)
            raise
        return ""


async def run(settings: Settings, given: argparse.Namespace) -> None:
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
    journal = Journal(Path(given.journal))
    clicks = Clicks(given.clicks, journal.key) if given.clicks else None
    writer = Writer(given.sender, given.address, clicks.link if clicks else lambda nudge, url: url)
    channels = frozenset(["email"]) if given.smtp else None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(consumer)
        producer = await stack.enter_async_context(EventProducer(settings))
        if clicks:
            await stack.enter_async_context(await clicks.serve(producer))
        sender = Sender(consumer, producer, writer, journal, lambda mail: deliver(mail, given.smtp), channels)
        while not stopping.is_set():
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                await sender.handle(partition, records)
            await producer.flush()


def main() -> None:
    """Options, and until Ctrl-C."""
    told = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    told.add_argument("--broker", help="default: the settings of Tidewise")
    told.add_argument("--smtp", help="host:port, which gets what goes by email; left out: all to the console")
    told.add_argument("--sender", default="shop@shop.example")
    told.add_argument("--address", default="{user}@shop.example", help="a user's address")
    told.add_argument("--clicks", help="address under which readers reach this sender, to count clicks")
    told.add_argument("--journal", default="sender.jsonl", help="file of what was sent")
    given = told.parse_args()
    settings = Settings(broker_url=f"kafka://{given.broker}") if given.broker else Settings()
    asyncio.run(run(settings, given))


if __name__ == "__main__":
    main()
