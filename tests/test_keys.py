"""The key space is an interface: exact strings, each documented; and the pure modules stay pure."""

from __future__ import annotations

import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stream.core
from state.keys import Keys
from state.model import VERSION_LENGTH, VERSION_START, version

ROOT = Path(__file__).parent.parent
METHODS = sorted(name for name, _ in inspect.getmembers(Keys, inspect.isfunction) if not name.startswith("_"))

EXACT = {
    "cart": "tidewise:cart:Zoë",
    "loyalty": "tidewise:loyalty:Zoë",
    "recs": "tidewise:recs:Zoë",
    "neighbors": "tidewise:neighbors:A",
    "trending": "tidewise:trending:device=mobile",
    "item": "tidewise:item:A",
    "metrics": "tidewise:metrics",
    "deployment": "tidewise:deployment",
    "head": "tidewise:{u3}:head",
    "outbox": "tidewise:{u3}:outbox",
    "meta": "tidewise:{u3}:meta",
    "mixture": "tidewise:{u3}:mixture",
    "user": "tidewise:{u3}:user:Zoë",
    "vector": "tidewise:{u3}:vector:Zoë",
    "engagement": "tidewise:{u3}:engagement:Zoë",
    "attribution": "tidewise:{u3}:attribution:Zoë",
    "counts": "tidewise:{u3}:counts",
    "timers": "tidewise:{u3}:timers",
    "rfm": "tidewise:{u3}:rfm",
    "coupons": "tidewise:{u3}:coupons:may",
    "wallet": "tidewise:{u3}:wallet:may:Zoë",
    "row": "tidewise:{i3}:row:A",
    "catalog": "tidewise:{i3}:catalog:A",
    "watchers": "tidewise:{i3}:watchers:A",
}
ITEM_SIDE = {"row", "catalog", "watchers"}


def key(method: str, prefix: str, user: str, item: str, shopper: str, shelf: str) -> str:
    """A method's key, with each argument by its name."""
    given = {"user": user, "item": item, "part": shelf if method in ITEM_SIDE else shopper}
    given["campaign"] = "<campaign>" if user == "<user>" else "may"
    given["segment"] = "<segment>" if user == "<user>" else "device=mobile"
    call = getattr(Keys(prefix), method)
    made: str = call(*(given[name] for name in inspect.signature(call).parameters))
    return made


def patterns(method: str) -> list[str]:
    """How the documentation writes a key; a key of both sides stands there for both."""
    both = [("{u<p>}", "{i<p>}"), ("{i<p>}", "{u<p>}")] if method in {"head", "outbox", "meta"} else []
    sides = both or [("{u<p>}", "{i<p>}")]
    return [key(method, "<prefix>", "<user>", "<item>", u[1:-1], i[1:-1]) for u, i in sides]


def test_every_key_is_pinned() -> None:
    assert sorted(EXACT) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_the_exact_string(method: str) -> None:
    assert key(method, "tidewise", "Zoë", "A", "u3", "i3") == EXACT[method]


def test_trending_of_all_has_no_segment() -> None:
    assert Keys().trending() == "tidewise:trending"


@pytest.mark.parametrize("method", METHODS)
def test_every_key_is_documented(method: str) -> None:
    documented = (ROOT / "docs" / "keyspace.md").read_text()
    for pattern in patterns(method):
        assert f"`{pattern}`" in documented


def test_private_keys_of_a_partition_share_a_slot() -> None:
    """Redis Cluster hashes what stands in the first braces: names with braces of their own change nothing."""
    tags = {
        re.findall(r"\{(.*?)\}", key(m, "x", "{u9}", "{i9}", "u3", "u3"))[0] for m in METHODS if private(m)
    }
    assert tags == {"u3"}


def private(method: str) -> bool:
    return "part" in inspect.signature(getattr(Keys, method)).parameters


def test_text_order_of_versions_is_their_order() -> None:
    pairs = [(0, 0), (0, 10**12 - 1), (1, 0), (9, 9), (10, 0), (10**15 - 1, 10**12 - 1)]
    texts = [version(*pair) for pair in pairs]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {VERSION_LENGTH}
    assert f'{{"version":"{texts[0]}"'[VERSION_START:-1] == texts[0]


BLOCK = """
import importlib.abc, pkgutil, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"faust", "mode", "aiokafka", "redis"} or name == "state.redis":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def pure() -> list[str]:
    """Every module that must be pure."""
    found = pkgutil.walk_packages(stream.core.__path__, "stream.core.")
    return [*(module.name for module in found), "state.model", "state.keys", "state.store", "state.memory"]


def import_blocked(*names: str) -> subprocess.CompletedProcess[str]:
    """Import modules in a process where Faust, aiokafka and redis cannot be."""
    command = [sys.executable, "-c", BLOCK, *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


def test_the_core_and_the_model_are_pure() -> None:
    assert {"stream.core.weights", "stream.core.triggers"} <= set(pure())
    done = import_blocked(*pure())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("impure", ["state.redis", "stream.transport", "state.lookup"])
def test_the_block_works(impure: str) -> None:
    done = import_blocked(impure)
    assert done.returncode != 0
    assert "is blocked" in done.stderr
