"""The files that build and deploy, without a container engine: they keep the rules and name real things."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stream.cli import app
from stream.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DURATION = re.compile(r"^\d+(ms|s|m|h)$")
KNOWN = {
    *("build", "image", "command", "environment", "ports", "volumes", "healthcheck", "restart"),
    *("depends_on", "stop_grace_period"),
}


def seconds(duration: str) -> float:
    assert DURATION.match(duration), duration
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def assert_command(words: list[str]) -> None:
    """The words name a command of the CLI, no group, and leave no word over."""
    assert words[0] == "tidewise"
    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        assert word in getattr(command, "commands", {}), words
        command = command.commands[word]
    assert not hasattr(command, "commands"), words


def test_compose_has_the_four_services_and_declares_its_volumes() -> None:
    assert set(COMPOSE) <= {"name", "services", "volumes", "x-tidewise"}
    assert set(SERVICES) == {"broker", "store", "topics", "worker"}
    assert all(set(service) <= KNOWN for service in SERVICES.values())
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", ["broker", "store", "worker"])
def test_whatever_stays_up_has_a_health_check_and_restarts(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert seconds(check["timeout"]) <= seconds(check["interval"])
    assert check["retries"] >= 3
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_what_keeps_data_has_a_volume_where_it_writes() -> None:
    broker, store = SERVICES["broker"], SERVICES["store"]
    assert broker["volumes"] == [f"broker-data:{broker['environment']['KAFKA_LOG_DIRS']}"]
    assert store["volumes"] == ["store-data:/data"]


def test_store_persists_and_does_not_evict() -> None:
    command = " ".join(SERVICES["store"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_order_of_start() -> None:
    for service in SERVICES.values():
        for other, when in service.get("depends_on", {}).items():
            needs = "restart" if when["condition"] == "service_completed_successfully" else "healthcheck"
            assert needs in SERVICES[other]
    conditions = {name: each["condition"] for name, each in SERVICES["worker"]["depends_on"].items()}
    assert conditions == {
        "broker": "service_healthy",
        "store": "service_healthy",
        "topics": "service_completed_successfully",
    }
    assert SERVICES["topics"]["restart"] == "no"


@pytest.mark.parametrize("name", OURS)
def test_environment_names_are_settings_and_values_are_valid(name: str) -> None:
    values = {}
    for variable, value in SERVICES[name]["environment"].items():
        prefix, _, setting = variable.partition("TIDEWISE_")
        assert prefix == ""
        assert setting.lower() in Settings.model_fields, variable
        values[setting.lower()] = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", str(value))
    settings = Settings.model_validate(values)
    host, port = settings.bootstrap.split(":")
    assert f"INSIDE://{host}:{port}" in SERVICES["broker"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert host in SERVICES
    assert settings.store_url.split("/")[2].split(":")[0] in SERVICES


@pytest.mark.parametrize("name", OURS)
def test_commands_are_commands_of_the_cli(name: str) -> None:
    assert_command(SERVICES[name]["command"])


def test_the_worker_is_asked_at_its_health_port() -> None:
    worker = SERVICES["worker"]
    *command, program = worker["healthcheck"]["test"]
    assert command == ["CMD", "python", "-c"]
    compile(program, "healthcheck", "exec")
    port = worker["environment"]["TIDEWISE_HEALTH_PORT"]
    assert f"urlopen('http://{Settings.model_validate({}).health_host}:{port}/live')" in program


def test_the_worker_has_time_to_stop_by_itself() -> None:
    grace = seconds(SERVICES["worker"]["stop_grace_period"])
    assert grace > Settings.model_validate({}).stop_within_s


def test_broker_listeners_fit_each_other() -> None:
    env = SERVICES["broker"]["environment"]
    listeners = dict(each.split("://") for each in env["KAFKA_LISTENERS"].split(","))
    advertised = dict(each.split("://") for each in env["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(each.split(":") for each in env["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(listeners) == set(protocols) == set(advertised) | {env["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert all(listeners[name] == f":{address.split(':')[1]}" for name, address in advertised.items())
    assert env["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    voter, address = env["KAFKA_CONTROLLER_QUORUM_VOTERS"].split("@")
    assert int(voter) == env["KAFKA_NODE_ID"]
    assert address == "broker" + listeners["CONTROLLER"]
    assert SERVICES["broker"]["ports"] == [f"127.0.0.1:9092{listeners['HOST']}"]


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_dockerfile_runs_as_a_user_without_rights() -> None:
    steps = list(instructions())
    assert steps[0] == ("FROM", "python:3.11-slim")
    names = [name for name, _ in steps]
    assert "USER" in names
    user = dict(steps)["USER"]
    assert int(user) > 0
    assert names.index("USER") > max(at for at, name in enumerate(names) if name in ("RUN", "COPY"))
    assert not re.search(r"apt-get|gcc|build-essential", DOCKERFILE)


def test_dockerfile_copies_only_what_exists_and_docker_sees() -> None:
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}
    assert copied == seen
    assert all((ROOT / each).exists() for each in copied)
    assert_command(yaml.safe_load(dict(instructions())["CMD"]))


def test_every_dependency_stands_in_pyproject_so_that_the_image_has_time_zones() -> None:
    assert re.search(r'^  "tzdata', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    # The tests run under make themselves: a make below another one tells its directory.
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == phony.split()


def test_make_tells_what_python_it_needs(tmp_path: Path) -> None:
    made = subprocess.run(
        ["make", "demo", f"VENV={tmp_path}/v", "PYTHON=/nonexistent/python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode != 0
    assert "Python 3.11 or newer" in made.stderr
    assert not (tmp_path / "v").exists()


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert text.index("make check") < text.index("make test-kafka")
