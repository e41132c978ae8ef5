"""`tidewise demo`, whole, in a process of its own; and stopped in the middle."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

COMMAND = [sys.executable, "-m", "stream.cli", "demo", "--lines"]
KEYS = {
    *("events", "lines", "events_per_s", "lines_per_s", "recommendations", "neighbors", "engagements"),
    *("decisions", "dead_letters", "latency_ms", "duration_s", "note"),
}


def test_the_demo_ends_well_and_its_numbers_agree(tmp_path: Path) -> None:
    strange = os.environ | {"TIDEWISE_PARTITIONS": "7", "TIDEWISE_CART_ENABLED": "false", "COLUMNS": "100"}
    begin = time.monotonic()
    ended = subprocess.run(
        [*COMMAND, "5000", "--json"], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=strange
    )
    took = time.monotonic() - begin
    assert ended.returncode == 0, ended.stderr
    found = orjson.loads(ended.stdout)
    assert found.keys() == KEYS
    assert 5000 <= found["lines"] < 5500
    assert 0 < found["duration_s"] <= took
    # 3,330 products, 524 baskets, a household that looks and buys, two carts, 200 events/s for 10 s.
    assert found["events"] == 3330 + 524 + 2 + 7 + 2000
    assert 0 < found["recommendations"] <= found["events"] - 3330
    assert found["neighbors"] >= 3330
    assert (found["engagements"], found["decisions"], found["dead_letters"]) == (1, 2, 0)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert found["events_per_s"] > 0
    assert "simulated after real shopping" in found["note"]
    shown = " ".join(ended.stderr.split())
    for text in ("Bananas", "Household", "It buys:", "nudge to anna", "cancelled by purchase", found["note"]):
        assert " ".join(text.split()) in re.sub(r"[│╭╮╰╯─]|\s+", " ", shown).replace("  ", " "), text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_it_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    said = tmp_path / "said"
    with said.open("wb") as log:
        demo = subprocess.Popen([*COMMAND, "50000"], stdout=log, stderr=log, cwd=tmp_path)
    try:
        ports = wait_for_ports(said, demo)
        time.sleep(0.5)
        assert demo.poll() is None
        demo.send_signal(number)
        assert demo.wait(60) == 130, said.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert said.read_text().rstrip().endswith("stopped")
    assert not [port for port in ports if answers(port)]


def wait_for_ports(said: Path, demo: subprocess.Popen[bytes]) -> list[int]:
    """Ports of broker and store, as soon as the demo tells them."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        found = [int(port) for port in re.findall(r"://127\.0\.0\.1:(\d+)", said.read_text())]
        if len(found) == 2:
            return found
        assert demo.poll() is None, said.read_text()
        time.sleep(0.05)
    raise AssertionError(said.read_text())


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
