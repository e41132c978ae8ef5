"""Messages as senders read them: the JSON Schemas, and the example sender at real servers."""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

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
from tests.e2e.harness import environment, eventually, outside

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


def _lines(part: EmailMessage) -> list[str]:
    body = part.get_payload(decode=True)
    assert isinstance(body, bytes)
    return body.decode().splitlines()


class Mailbox:
    """An SMTP server's mails."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], str, list[str]]] = []
        self.html: list[list[str]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=default)
        plain, html = (_lines(part) for part in mail.walk() if not part.is_multipart())
        self.mails.append((envelope.rcpt_tos, str(mail["Subject"]), plain))
        self.html.append(html)
        return "250 OK"


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
    """Sent; sent again; expired; revoked right after it; one that cannot be read; sent."""
    yield NUDGE
    yield NUDGE
    yield NUDGE | {"id": "0-3-0-nudge-0", "expires": 1}
    yield NUDGE | {"id": "0-4-0-nudge-0", "revoke_key": "other"}
    yield REVOKE | {"revoke_key": "other"}
    yield NUDGE | {"id": 7}
    yield NUDGE | {
        "id": "0-5-0-nudge-0",
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


async def test_the_sender_sends_once_what_still_holds_and_reports_it(
    settings: Settings, tmp_path: Path
) -> None:
    # The embedded broker waits for a member that left until its session has ended.
    settings = settings.model_copy(update={"session_timeout_s": 2.0, "heartbeat_s": 0.5})
    log = tmp_path / "sender.log"
    async with outside(settings) as shop:
        batch = shop.producer.create_batch()
        for said in engagements():
            batch.append(timestamp=None, key=b"ann", value=orjson.dumps(said))
        await (await shop.producer.send_batch(batch, ENGAGEMENTS.full(settings), partition=1))
        with sender(settings, tmp_path, "--smtp", f"127.0.0.1:{free_port()}") as refused:
            assert refused.wait(15) == 1, log.read_text()
        with smtp() as (address, box), sender(settings, tmp_path, "--smtp", address) as running:

            async def done() -> bool:
                return log.read_text().count(": sent (") == 2

            await eventually(done, 20, log.read_text)
            running.send_signal(signal.SIGINT)
            assert running.wait(10) == 0, log.read_text()
        reported = await shop.messages(EVENTS)
        assert await handled(settings) == len(list(engagements()))
    first = ["3 × Red mug, 8.50 https://shop.example/mug", "Your coupon: MAY-17"]
    to = ["ann@shop.example"]
    assert box.mails == [(to, "About your Red mug", first), (to, "About your Tea cup", ["1 × Tea cup"])]
    image = '<img src="https://shop.example/mug.jpg?a=1&amp;b=2" alt="" width="120"><br>'
    assert box.html == [
        [
            f'<p><a href="https://shop.example/mug">{image}3 × Red mug, 8.50</a></p>',
            "<p>Your coupon: <b>MAY-17</b></p>",
        ],
        ["<p>1 × Tea cup</p>"],
    ]
    assert [(each["type"], each["user"], each["nudge"], each["id"]) for each in reported] == [
        ("nudge_delivered", "ann", name, f"delivered-{name}") for name in (NUDGE["id"], "0-5-0-nudge-0")
    ]
    outcomes = re.findall(r"^(\S+): (\w+) \(", log.read_text(), re.MULTILINE)
    assert outcomes == [
        (NUDGE["id"], "sent"),
        (NUDGE["id"], "repeated"),
        ("0-3-0-nudge-0", "expired"),
        ("0-4-0-nudge-0", "revoked"),
        ("0-5-0-nudge-0", "sent"),
    ]
    assert "@5: Expected `str`, got `int`" in log.read_text()
