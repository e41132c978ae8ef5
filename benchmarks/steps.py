"""Where the worker's time goes: µs of CPU an event by step, and those of broker and store (P1, default).

``python -m benchmarks.steps --json [--events 100000] [--kafka]``, with the extra `bench`: py-spy looks 200
times a second at a worker that takes single events as in `benchmarks.pipeline`, from the first twentieth to
the end; the CPU time of the process is shared out by what it was found at. A sample counts for the innermost
frame that belongs to a step; what a step calls in numpy or the standard library is its own.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from benchmarks.pipeline import Pipeline, begun, events, followed
from benchmarks.report import Report, arguments, figure, repeated, tell
from benchmarks.servers import servers, worker
from stream.settings import Settings

RATE = 200
STEPS = {
    "learning": r"(_?learn|_lessons) \((stream/lister|stream/core/recommend)",
    "store: packing, sending, parsing": r"state/redis\.py|/redis/|^\S+ \(redis/",
    "broker: reading": r"aiokafka/consumer|stream/transport|faust/transport",
    "broker: sending": r"aiokafka/producer|stream/publishing|stream/kafka\.py",
    "broker: protocol": r"aiokafka/",
    "decoding": r"stream/(codec|times|ownership)\.py",
    "mail between partitions": r"stream/(mail|forward|signing|fanout)\.py",
    "shaping lists": r"core/slate/|stream/shaper\.py",
    "JSON of lists": r"core/views\.py|stream/offering\.py",
    "ranking": r"core/recommend/|core/ranking\.py|stream/lister\.py|stream/together\.py",
    "user state": r"core/(users|interest|preferences)\.py",
    "counting": r"core/(step|pairs|weights|noise|sequential)\.py",
    "rows and names of items": r"core/(rows|row_format|buckets|items)\.py",
    "records of neighbours": r"core/(neighbor_format|neighborhood|similarity|content|vectors)\.py"
    r"|stream/(follower|kin)\.py",
    "popularity": r"core/(trending|usual|segments)\.py|stream/segments\.py",
    "transactions": r"stream/delivery\.py|state/(model|packing)",
    "items' side, the rest": r"stream/shelf\.py",
    "users' side, the rest": r"stream/(shopper|runner|app|posting|merging|ledger|vault)\.py",
    "Faust": r"faust/|mode/",
    "event loop and sockets": r"asyncio/|selectors|uvloop",
    "engagement and metrics": r"stream/",
}
"""Frames `function (file:line)` of each step; the first that fits counts."""
_FITS = {name: re.compile(pattern) for name, pattern in STEPS.items()}


def step_of(stack: str) -> str:
    """The step of a sample, frames from the outermost, joined by ``;``."""
    frames = stack.split(";")
    if any(_FITS["learning"].search(frame) for frame in frames):
        return "learning"
    fits = (name for frame in reversed(frames) for name, fit in _FITS.items() if fit.search(frame))
    return next(fits, "other")


def counted(lines: Iterable[str]) -> Counter[str]:
    """Samples by step, of lines `stack count`."""
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        found[step_of(stack)] += int(count)
    return found


def spy(pid: int, path: Path) -> subprocess.Popen[bytes]:
    """Looks at a process until it is interrupted."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise SystemExit("py-spy is missing: pip install 'tidewise[bench]'")
    given = ["-p", str(pid), "-r", str(RATE), "-f", "raw", "-o", str(path), "--nonblocking"]
    return subprocess.Popen([program, "record", *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(pipeline: Pipeline) -> dict[str, float]:
    """µs an event of one run, by step."""
    settings, n = pipeline.filled(1), len(pipeline.singles)
    with tempfile.TemporaryDirectory() as folder, worker(settings) as process:
        asyncio.run(begun(settings, n // 20))
        looking = spy(process.pid, Path(folder, "samples"))
        pids = pipeline.running.pids | {"worker": process.pid}
        cost = asyncio.run(followed(settings, n, pids))
        looking.send_signal(signal.SIGINT)
        looking.wait(30)
        samples = counted(Path(folder, "samples").read_text().splitlines())
    each = cost.cpu["worker"] * 1e6 / samples.total()
    steps = {name: samples[name] * each for name in [*STEPS, "other"]}
    return {f"all of the {name}": one * 1e6 for name, one in cost.cpu.items()} | steps


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    given = parser.parse_args()
    with servers(given.kafka) as running:
        pipeline = Pipeline(running, events(given.events), 1, None)
        found = repeated(partial(measure, pipeline), given.repeats)
    figures = {name: figure(values, "µs an event") for name, values in found.items()}
    ordered = dict(sorted(figures.items(), key=lambda one: -one[1].median))
    details = {"events": given.events, "broker": running.kind, "partitions": Settings().partitions}
    tell(Report("steps", ordered, details), given)


if __name__ == "__main__":
    main()
