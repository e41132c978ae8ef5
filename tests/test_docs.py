"""The documentation names what exists, and what exists is documented."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from aiokafka import AIOKafkaProducer

from stream.cli import app
from stream.settings import Settings
from stream.topics import TOPICS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "examples" / "send_event.py"
FILE = re.compile(r"`((?:stream|state|producers|tests|benchmarks|docs|examples)/[\w./-]*)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
FENCED = re.compile(r"```.*?```", re.DOTALL)
PREFIX = re.compile(r"/(?:home|root|tmp|work|Users)/")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as hosts make them: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def local_links(page: Path) -> list[str]:
    return [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]


def broken(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return not target.exists() or bool(anchor and anchor not in anchors(target))


def named(page: Path) -> Iterator[str]:
    """Files and folders that a page names in backticks, from the root of the repository."""
    yield from FILE.findall(prose(page))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    assert not [link for link in local_links(page) if broken(page, link)]
    assert not [name for name in named(page) if not (ROOT / name).exists()]
    assert not PREFIX.search(page.read_text())


def test_the_checks_find_something_to_check() -> None:
    assert len(PAGES) > 10
    assert len(local_links(ROOT / "README.md")) > 8
    assert len(list(named(DOCS / "architecture.md"))) > 20
    assert broken(ROOT / "README.md", "docs/missing.md")
    assert broken(ROOT / "README.md", "docs/keyspace.md#missing")
    assert not broken(ROOT / "README.md", "docs/keyspace.md#how-to-run-the-store")


def test_every_topic_is_documented() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", (DOCS / "events.md").read_text(), re.MULTILINE)
    assert not [topic.name for topic in TOPICS if topic.name not in listed]


def test_commands_targets_and_settings_in_the_pages_exist() -> None:
    command: Any = typer.main.get_command(app)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = "\n".join(page.read_text() for page in PAGES)
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *blocks(text, "sh")])
    commands = set(re.findall(r"\btidewise ([a-z]+)", code))
    assert {"up", "worker", "doctor"} <= commands <= command.commands.keys()
    assert {"demo", "test"} <= set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(targets)
    variables = {name.lower() for name in re.findall(r"TIDEWISE_([A-Z_]*[A-Z])", text)}
    assert {"broker_url", "store_url"} <= variables <= {"config", *Settings.model_fields}


def test_the_readme_shows_the_example_as_it_is() -> None:
    (shown,) = blocks(README, "python")
    assert shown == EXAMPLE.read_text()


def test_names_that_the_example_imports_exist() -> None:
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            module = importlib.import_module(node.module)
            assert all(hasattr(module, each.name) for each in node.names)


@contextmanager
def tidewise_up(folder: Path) -> Iterator[tuple[str, str]]:
    """`tidewise up` as the README has it, on free ports: addresses of broker and store."""
    command = [sys.executable, "-m", "stream.cli", "up", "--json"]
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=folder)
    try:
        assert up.stdout is not None
        told = orjson.loads(b"".join(iter(up.stdout.readline, b"}\n")) + b"}")
        yield told["broker_url"].removeprefix("kafka://"), told["store_url"]
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, (folder / "up.log").read_text()
    finally:
        up.kill()
        up.communicate()


async def look_at(broker: str, user: str, *items: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        for item in items:
            time_ = datetime.now(UTC).isoformat()
            event = {"type": "view_item", "user": user, "item": item, "time": time_}
            await producer.send_and_wait("events", orjson.dumps(event), key=user.encode())


def test_the_example_prints_a_list(tmp_path: Path) -> None:
    """Ben looked at a mug and a cup; Ann, at the mug: the cup is recommended to her, because of the mug."""
    with tidewise_up(tmp_path) as (broker, store):
        asyncio.run(look_at(broker, "ben", "mug", "cup"))
        deadline, said = time.monotonic() + 20, ""
        while not (said.startswith("cup ") and "because of ['mug']" in said):
            assert time.monotonic() < deadline, said + (tmp_path / "up.log").read_text()
            done = subprocess.run(
                [sys.executable, EXAMPLE, broker, store], capture_output=True, text=True, timeout=20
            )
            assert done.returncode == 0, done.stderr
            said = done.stdout
        assert said.startswith("cup ")
