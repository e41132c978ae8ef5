"""Messages as senders read them: the JSON Schemas, and the example sender at real servers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import msgspec
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from stream.core.messages import Consents, Decision, Evidence, Message, NudgeItem
from stream.embedded import free_port
from stream.engagements import SCHEMAS, Engagement, Nudge, read_engagement, schema, schema_file
from stream.engagements import Decision as ReadDecision
from stream.settings import Settings
from stream.topics import ENGAGEMENTS, EVENTS
from tests.e2e.harness import Outside, environment, eventually, outside

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SENDER = ROOT / "examples" / "sender.py"

MUG = {
    "item": "mug", "price": 8.5, "quantity": 3, "name": "Red mug", "url": "https://shop.example/mug",
    "image": "https://shop.example/mug.jpg?a=1&b=2",
}  # fmt: skip
NUDGE: dict[str, Any] = {
    "id": "0-1-0-nudge-0",
    "type": "nudge",
    "user": "ann",
    "channel": "email",
    "campaign": "abandoned-cart",
    "rule": "abandoned-cart",
    "items": [MUG],
    "due": 1_709_549_520_000,
    "time": 1_709_549_520_250,
    "expires": 4_000_000_000_000,
    "step": 1,
    "coupon": {"code": "MAY-17"},
    "revoke_key": "abandoned-cart-1",
}
REVOKE: dict[str, Any] = {
    "type": "revoke",
    **{name: NUDGE[name] for name in ("user", "channel", "campaign", "rule", "time", "revoke_key")},
    "id": "0-2-0-revoke-0",
}


# Schemas


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_files_are_those_of_the_models(name: str) -> None:
    stale = f"run `python -m stream.engagements`: docs/schema/{name} is stale"
    assert (DOCS / "schema" / name).read_bytes() == schema_file(SCHEMAS[name]), stale


def said_today() -> tuple[bytes, bytes]:
    """What the engine says, with everything that may be missing, and with nothing missing."""
    items = (NudgeItem("mug", None, 1), NudgeItem("cup", 2.5, 2))
    message = Message(0, "ann", "email", "c", "r", items, 1, 2, 3, 1)
    evidence = (Evidence("add_to_cart", 1, "mug"), Evidence("purchase", 2))
    answers = Consents({"email": False, "push": None}, {"personalisation": True})
    decision = Decision(
        0, 2, "ann", "c", "r", 0, 1, "held", "cap", {"sent_day": 1}, evidence, consent=answers
    )
    return message.json("a"), decision.json("b")


def test_what_the_engine_says_fits_schemas_and_models() -> None:
    message, decision = said_today()
    for name, data in (("engagement.json", message), ("decision.json", decision)):
        jsonschema.Draft202012Validator(schema(SCHEMAS[name])).validate(orjson.loads(data))
        assert msgspec.json.decode(data, type=SCHEMAS[name])
        assert orjson.loads(data).keys() <= fields_of(name)


def fields_of(name: str) -> set[str]:
    """All fields of a schema's models."""
    models = (Nudge,) if name == "engagement.json" else (ReadDecision,)
    return {"type", *(field for model in models for field in model.__struct_fields__)}


def test_the_examples_of_the_page_fit() -> None:
    shown = re.findall(r"```json\n(.*?)```", (DOCS / "engagement.md").read_text(), re.DOTALL)
    names = ["decision.json" if "outcome" in text else "engagement.json" for text in shown]
    assert {"engagement.json", "decision.json"} == set(names)
    for name, text in zip(names, shown, strict=True):
        jsonschema.Draft202012Validator(schema(SCHEMAS[name])).validate(json.loads(text))


BAD = [
    {"id": ""},
    {"id": "a\nb"},
    {"user": "a\nb"},
    {"type": "nugde"},
    {"items": [{"price": 1}]},
    {"items": [{"item": "a", "quantity": 0}]},
    {"due": "2026"},
    {"coupon": {"code": ""}},
    {"version": 0},
]


@pytest.mark.parametrize("change", [{}, *BAD], ids=str)
@pytest.mark.parametrize("whole", [NUDGE, REVOKE], ids=["nudge", "revoke"])
def test_schema_and_reader_judge_alike(whole: dict[str, Any], change: dict[str, Any]) -> None:
    said = whole | change
    fits = jsonschema.Draft202012Validator(schema(Engagement)).is_valid(said)
    try:
        read_engagement(orjson.dumps(said))
        read = True
    except msgspec.ValidationError:
        read = False
    assert fits == read
    assert fits == (not change or (whole is REVOKE and "coupon" in change))


@pytest.mark.parametrize("name", [name for name in NUDGE if name not in ("coupon", "revoke_key")])
def test_what_every_nudge_has(name: str) -> None:
    said = {each: value for each, value in NUDGE.items() if each != name}
    assert not jsonschema.Draft202012Validator(schema(Engagement)).is_valid(said)


def test_unknown_fields_are_no_error() -> None:
    assert isinstance(read_engagement(orjson.dumps(NUDGE | {"later": 1})), Nudge)


# The sender


def _lines(mail: EmailMessage, kind: str) -> list[str]:
    part = mail.get_body((kind,))
    assert part is not None
    body = part.get_payload(decode=True)
    assert isinstance(body, bytes)
    return body.decode().splitlines()


class Mailbox:
    """An SMTP server's mails; it knows no user "nobody"."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage) and envelope.rcpt_tos == [mail["To"]]
        self.mails.append(mail)
        return "250 OK"


def told(mail: EmailMessage) -> tuple[str, str, list[str]]:
    """To whom, about what, and the text."""
    return mail["To"], mail["Subject"], _lines(mail, "plain")


def elements(mail: EmailMessage) -> list[str]:
    """The lines of a mail's HTML within its body."""
    lines = _lines(mail, "html")
    begin = next(at for at, line in enumerate(lines) if line.startswith("<body"))
    return lines[begin + 1 : lines.index("</body>")]


@contextmanager
def smtp() -> Iterator[tuple[str, Mailbox]]:
    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        yield f"127.0.0.1:{server.port}", box
    finally:
        server.stop()


@contextmanager
def sender(settings: Settings, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(SENDER), *options]
    with (folder / "sender.log").open("ab") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment(settings), cwd=folder)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def engagements() -> Iterator[dict[str, Any]]:
    """Sent; sent again; expired; revoked right after it; one that cannot be read; to an address that is none;
    by another channel; sent."""
    yield NUDGE
    yield NUDGE
    yield NUDGE | {"id": "0-3-0-nudge-0", "expires": 1}
    yield NUDGE | {"id": "0-4-0-nudge-0", "revoke_key": "other"}
    yield REVOKE | {"revoke_key": "other"}
    yield NUDGE | {"id": 7}
    yield NUDGE | {"id": "0-6-0-nudge-0", "user": "nobody", "revoke_key": "nobody"}
    yield NUDGE | {"id": "0-7-0-nudge-0", "channel": "push", "revoke_key": "push"}
    yield NUDGE | {
        "id": "0-8-0-nudge-0",
        "revoke_key": "third",
        "items": [{"item": "cup", "name": "Tea\ncup"}],
        "coupon": None,
    }


async def handled(settings: Settings) -> int | None:
    """Where a restarted sender would go on."""
    group = f"{settings.topic_prefix}sender"
    async with AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, group_id=group) as consumer:
        partition = TopicPartition(ENGAGEMENTS.full(settings), 1)
        consumer.assign([partition])
        offset: int | None = await consumer.committed(partition)
        return offset


def followed(link: str, method: str = "GET") -> tuple[int, str | None]:
    """Status and place of the answer to a link."""
    at = urlsplit(link)
    connection = HTTPConnection(at.netloc, timeout=5)
    connection.request(method, f"{at.path}?{at.query}")
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.getheader("Location")


async def say(shop: Outside, settings: Settings, *said: dict[str, Any]) -> None:
    """In one batch, so that it comes in one poll."""
    batch = shop.producer.create_batch()
    for each in said:
        batch.append(timestamp=None, key=b"ann", value=orjson.dumps(each))
    await (await shop.producer.send_batch(batch, ENGAGEMENTS.full(settings), partition=1))


async def test_the_sender_sends_once_what_still_holds_and_reports_it(
    settings: Settings, tmp_path: Path
) -> None:
    # The embedded broker waits for a member that left until its session has ended.
    settings = settings.model_copy(update={"session_timeout_s": 2.0, "heartbeat_s": 0.5})
    log, clicks = tmp_path / "sender.log", f"http://127.0.0.1:{free_port()}"
    later = REVOKE | {"id": "0-9-0-revoke-0"}
    async with outside(settings) as shop:
        await say(shop, settings, *engagements())
        with sender(settings, tmp_path, "--smtp", f"127.0.0.1:{free_port()}") as refused:
            assert refused.wait(60) == 1, log.read_text()
        with (
            smtp() as (address, box),
            sender(settings, tmp_path, "--smtp", address, "--clicks", clicks) as running,
        ):

            async def until(text: str) -> None:
                async def done() -> bool:
                    return text in log.read_text()

                await eventually(done, 20, log.read_text)

            await until("0-8-0-nudge-0: sent")
            # Revoked when it was sent already: its coupon is taken back, once. Without a coupon it stays.
            third = REVOKE | {"revoke_key": "third", "id": "0-10-0-revoke-0"}
            last = NUDGE | {"id": "0-11-0-nudge-0", "revoke_key": "last", "expires": 1}
            await say(shop, settings, later, later, third, NUDGE, last)
            await until("0-11-0-nudge-0: expired")
            link = re.findall(r'href="(.*?)"', elements(box.mails[0])[1])[0].replace("&amp;", "&")
            answers = [
                await asyncio.to_thread(followed, each, method)
                for each, method in [
                    (link, "HEAD"),
                    (link.replace("user=ann", "user=ben"), "GET"),
                    (link, "POST"),
                    (clicks, "GET"),
                    (link, "GET"),
                    (link, "GET"),
                ]
            ]
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0, log.read_text()
        reported = await shop.messages(EVENTS)
        assert await handled(settings) == len(list(engagements())) + 5
    page = (302, MUG["url"])
    assert answers == [page, (404, None), (404, None), (404, None), page, page]
    ann = "ann@shop.example"
    assert [told(mail) for mail in box.mails] == [
        (
            ann,
            "About your Red mug",
            ["About your Red mug", "", f"3 × Red mug, 8.50 {link}", "", "Your coupon: MAY-17"],
        ),
        (ann, "About your Tea cup", ["About your Tea cup", "", "1 × Tea cup"]),
        (
            ann,
            "Your coupon is no longer valid",
            [
                "Thank you for your order! It came before our last mail to you.",
                "The coupon MAY-17 of that mail was for those who had not ordered yet: it is no longer "
                "valid.",
            ],
        ),
    ]
    assert box.mails[2]["In-Reply-To"] == box.mails[0]["Message-ID"] != box.mails[1]["Message-ID"]
    first = NUDGE["id"]
    assert [(each["type"], each["user"], each["nudge"], each["id"]) for each in reported] == [
        ("nudge_delivered", "ann", first, f"delivered-{first}"),
        ("nudge_delivered", "ann", "0-8-0-nudge-0", "delivered-0-8-0-nudge-0"),
        *[("nudge_clicked", "ann", first, f"clicked-{first}")] * 2,
    ]
    outcomes = re.findall(r"^(\S+): ([\w ]+)[,(]", log.read_text(), re.MULTILINE)
    assert [(name, outcome.strip()) for name, outcome in outcomes] == [
        (first, "sent"),
        (first, "repeated"),
        ("0-3-0-nudge-0", "expired"),
        ("0-4-0-nudge-0", "revoked"),
        ("0-6-0-nudge-0", "refused"),
        ("0-7-0-nudge-0", "not for push"),
        ("0-8-0-nudge-0", "sent"),
        ("0-9-0-revoke-0", "coupon taken back"),
        (first, "repeated"),
        ("0-11-0-nudge-0", "expired"),
        *[(first, "clicked")] * 2,
    ]
    assert "@5: Expected `str`, got `int`" in log.read_text()


# Its parts


def parts() -> Any:
    """The module of the example, which belongs to no package."""
    spec = spec_from_file_location("sender", SENDER)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["sender"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


PARTS = parts()


def mail_of(**fields: Any) -> EmailMessage:
    writer = PARTS.Writer("shop@shop.example", "{user}@shop.example", lambda nudge, url: url)
    mail = writer.nudge(msgspec.convert(NUDGE | fields, Nudge))
    assert isinstance(mail, EmailMessage)
    return mail


def test_a_mail_tells_all_that_the_nudge_says() -> None:
    coupon = {"code": "MAY-17", "offer": "may", "value": 5, "expires": 1_710_633_600_000}
    data = {"subject": "Still\nthinking?", "greeting": "Your cart waits"}
    mail = mail_of(items=[MUG, {"item": "B"}], coupon=coupon, data=data)
    valid = ", worth 5.00, valid until 17 March 2024, 00:00 UTC"
    lines = [
        "Your cart waits",
        "",
        f"3 × Red mug, 8.50 {MUG['url']}",
        "1 × B",
        "",
        f"Your coupon: MAY-17{valid}",
    ]
    assert told(mail) == ("ann@shop.example", "Still thinking?", lines)
    picture = '<img src="https://shop.example/mug.jpg?a=1&amp;b=2" alt="" width="120" style="display: block">'
    assert elements(mail) == [
        '<h1 style="font-size: 1.4em">Your cart waits</h1>',
        f'<p><a href="{MUG["url"]}">{picture}3 × Red mug, 8.50</a></p>',
        "<p>1 × B</p>",
        f"<p>Your coupon: <strong>MAY-17</strong>{valid}</p>",
    ]
    for name in ("id", "channel", "campaign", "rule", "revoke_key"):
        assert mail[f"X-Nudge-{name.replace('_', '-')}"] == NUDGE[name]
        assert f": {NUDGE[name]}\n" in PARTS.readable_mail(mail)  # what the console shows
    assert parsedate_to_datetime(mail["Expires"]).timestamp() * 1000 == NUDGE["expires"]
    assert all(line in PARTS.readable_mail(mail) for line in lines)


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "data:text/html,hi", "//shop.example", "https://a b", "https://a\r\nX: y", ""],
)
def test_what_is_no_address_on_the_web_is_left_out(url: str) -> None:
    mail = mail_of(items=[MUG | {"url": url, "image": url}])
    assert elements(mail)[1] == "<p>3 × Red mug, 8.50</p>"
    assert told(mail)[2][2] == "3 × Red mug, 8.50"


def test_what_shops_say_is_no_markup_and_no_header() -> None:
    bad = '</title><b a="1">&\r\nBcc: all@shop.example'
    shown = "&lt;/title&gt;&lt;b a=&quot;1&quot;&gt;&amp; Bcc: all@shop.example"
    mail = mail_of(items=[{"item": "A", "name": bad}], coupon={"code": bad}, campaign=bad, user=bad[:4])
    html = "\n".join(_lines(mail, "html"))
    assert "<b" not in html.replace("<body", "")
    assert html.count(shown) == 4  # title, heading, item, coupon
    assert mail["Bcc"] is None and mail["To"] == "%3C%2Fti@shop.example"


def test_the_journal_remembers_beyond_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "sender.jsonl"
    sent = [PARTS.Sent(f"n{at}", f"k{at}", f"c{at}", f"<{at}@shop>") for at in range(3)]
    journal = PARTS.Journal(file)
    for each in sent:
        journal.add(each)
    journal.strike(sent[1])  # the mail server was down
    file.write_text(file.read_text() + '{"id": "n4", "rev')  # cut short by a crash
    again = PARTS.Journal(file)
    assert [each.id in again for each in sent] == [True, False, True]
    assert again.key == journal.key
    assert again.revoked("k2") == sent[2] and again.revoked("k2") is None and again.revoked("k1") is None
    assert file.stat().st_mode & 0o077 == 0
    again.add(sent[1])
    assert sent[1].id in PARTS.Journal(file)
