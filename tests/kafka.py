"""Apache Kafka for tests, without Docker: jars from Maven Central, one KRaft node on free loopback ports.

The jars (about 45 MB) are fetched once into ``~/.cache/tidewise/kafka-<version>`` (or the folder named by
TIDEWISE_KAFKA_CACHE). Needs Java 17 and Maven; without them `KafkaMissing` says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from stream.embedded import Server, free_port

VERSION = "4.1.0"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tidewise</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""
_CLUSTER_ID = "dGlkZXdpc2UtZm9yLXRlcw"
"""22 base64 characters; any will do."""


class KafkaMissing(RuntimeError):
    """Java or Maven is not on this machine, or the jars cannot be had."""


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise KafkaMissing(f"`{name}` not found: tests on Apache Kafka need Java 17 or newer and Maven 3")
    return found


def _run(command: Sequence[str | Path], seconds: float) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise KafkaMissing(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def fetch_jars(seconds: float = 300.0) -> Path:
    """The folder with Kafka's jars; fetched on first use, whole or not at all."""
    default = Path.home() / ".cache" / "tidewise" / f"kafka-{VERSION}"
    target = Path(os.environ.get("TIDEWISE_KAFKA_CACHE", default))
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pom, libs = Path(folder, "pom.xml"), Path(folder, "libs")
        pom.write_text(_POM)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={libs}"]
        _run([_tool("mvn"), "-q", "-B", "-f", pom, *goal], seconds)
        try:
            libs.rename(target)
        except OSError:  # another run was faster
            if not target.is_dir():
                raise
    return target


class ApacheKafka(Server):
    """One node, broker and controller in one process; topics are not made by use."""

    name = "Apache Kafka"
    scheme = "kafka"
    # ApiVersions v0: length, api key 18, version 0, correlation id 1, client id "t"
    question = b"\x00\x00\x00\x0b\x00\x12\x00\x00\x00\x00\x00\x01\x00\x01t"
    keeps_environment = True
    java_options: ClassVar[Sequence[str]] = ("-Xmx512m",)

    def __init__(self, port: int = 0, start_within_s: float = 60.0) -> None:
        super().__init__(port, start_within_s)
        self.controller = free_port()

    def _command(self, folder: Path) -> Sequence[str | Path]:
        java: list[str | Path] = [_tool("java"), *self.java_options, "-cp", f"{fetch_jars()}/*"]
        file = folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in self._properties(folder).items()))
        format_log: list[str | Path] = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", file]
        if not (folder / "log").exists():
            _run([*java, *format_log], 60)
        return [*java, "kafka.Kafka", file]

    def _properties(self, folder: Path) -> dict[str, object]:
        """The whole of server.properties; a node of a cluster changes some of it."""
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": folder / "log",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "auto.create.topics.enable": "false",
        }
