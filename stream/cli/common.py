"""What the commands share: settings from options, connections, output, errors and exit codes, logging."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

if TYPE_CHECKING:  # imported where needed: `--help` must not wait for them
    from state.redis import RedisStore
    from stream.kafka import KafkaLog
    from stream.settings import Settings

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
BrokerUrl = Annotated[
    str | None, typer.Option("--broker-url", help="Kafka address; default: TIDEWISE_BROKER_URL.")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store-url", help="Redis/Valkey URL; default: TIDEWISE_STORE_URL.")
]

PROBLEM, USAGE, REFUSED, UNKNOWN, UNSETTLED, LATE, STOPPED = 1, 2, 3, 4, 5, 6, 130
CODES = (
    "0 done; 1 a problem was found, or broker or store cannot be reached; 2 wrong usage or settings; "
    "3 the worker refuses to run; 4 nothing is known; 5 not everything is processed; "
    "6 a worker did not stop in time and ended at once, with nothing lost; 130 stopped by Ctrl-C."
)
"""Exit codes, as `--help` tells them."""

SHORT: dict[str, Any] = {"session_timeout_s": 6.0, "rebalance_timeout_s": 6.0, "heartbeat_s": 1.0}
"""The embedded broker lets a group join wait out half of the session timeout: keep it short there."""

# Names and values are shown as they are: no :x: becomes a picture.
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def codes(*numbers: int) -> str:
    """The epilog of a command that ends with these codes besides 0 and 2."""
    said = {int(part.split()[0]): part.strip() for part in CODES.removesuffix(".").split(";")}
    return "Exit codes: " + "; ".join(said[n] for n in (0, *sorted({*numbers, USAGE}))) + "."


def settings_of(**given: Any) -> Settings:
    """Settings from the environment and the TOML file, with what the options give on top."""
    from stream.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})


def show_json(value: object) -> None:
    """One JSON document on standard output; structs and dataclasses are objects."""
    import msgspec
    import orjson

    document = orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_INDENT_2)
    sys.stdout.write(document.decode() + "\n")
    sys.stdout.flush()


def fail(message: str, code: int = PROBLEM) -> NoReturn:
    """End with a message on standard error."""
    err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(code)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end; Ctrl-C ends it in order."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        fail("stopped", STOPPED)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[RedisStore, KafkaLog]]:
    """Store and log, for reading. Raises Doubt, BrokerError."""
    from aiokafka.errors import KafkaError

    from stream.admin import BrokerError
    from stream.kafka import KafkaLog

    async with opened_store(settings) as store, AsyncExitStack() as stack:
        log = KafkaLog(settings)
        stack.push_async_callback(log.stop)
        try:
            await log.start()
        except (KafkaError, OSError) as error:
            raise BrokerError(f"broker {settings.bootstrap}: {error}; {WHERE_BROKER}") from error
        yield store, log


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[RedisStore]:
    """The store, for reading. Raises Doubt."""
    from state.keys import Keys
    from state.redis import RedisStore

    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), settings.store_timeout_s)
    try:
        yield store
    finally:
        await store.close()


WHERE_BROKER = "is it running, and is TIDEWISE_BROKER_URL its address?"
WHERE_STORE = "is the store running, and is TIDEWISE_STORE_URL its address?"


@contextmanager
def told() -> Iterator[None]:
    """Turn the errors that people can mend into a message and an exit code."""
    try:
        yield
    except Exception as error:
        answer = _answer(error)
        if answer is None:
            raise
        fail(*answer)


def _answer(error: Exception) -> tuple[str, int] | None:
    """What to say of an error, and the exit code; None: it is a fault of ours."""
    from tomllib import TOMLDecodeError

    from pydantic import ValidationError
    from redis.exceptions import RedisError

    from producers.datasets import DatasetError
    from producers.logs import LogError
    from producers.replay import ReplayError
    from state.store import Doubt
    from stream.admin import BrokerError
    from stream.delivery import LogMismatch
    from stream.digest import Unsettled
    from stream.embedded import EmbeddedError

    if isinstance(error, ValidationError):
        return _settings_message(error), USAGE
    if isinstance(error, TOMLDecodeError):
        return f"the TOML file cannot be read: {error}", USAGE
    if isinstance(error, RedisError | Doubt):
        return f"store: {error}; {WHERE_STORE}", PROBLEM
    if isinstance(error, LogMismatch):
        return f"worker stopped: {error}", REFUSED
    if isinstance(error, Unsettled):
        return str(error), UNSETTLED
    mendable = BrokerError | EmbeddedError | LogError | DatasetError | ReplayError
    return (str(error), PROBLEM) if isinstance(error, mendable) else None


def _settings_message(error: Any) -> str:
    lines = [
        f"setting {'.'.join(map(str, problem['loc']))} = {problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "\n".join([*lines, "mend the environment variable TIDEWISE_… or the TOML file"])


def configure_logging(verbose: bool) -> None:
    """structlog to standard error; Faust's and aiokafka's own talk only when asked for."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr, force=True)
    if not verbose:  # it calls every reconnect an error; what we wait for we say ourselves
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def warnings_only() -> None:
    """For commands that read what workers follow: warnings to standard error, and nothing of progress."""
    import structlog

    configure_logging(False)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def run_until_signal(start: Callable[[asyncio.Event], Awaitable[None]], stop_within_s: float) -> None:
    """Run a coroutine whose event is set at SIGTERM or SIGINT.

    ``stop_within_s`` after the signal the process ends with the code `LATE` if anything hangs, be it the
    event loop itself or a thread; likewise when the coroutine has ended and the loop cannot be closed.
    """
    # `put` may be called by a signal handler whatever it interrupts; a lock of `threading` may not.
    ending: SimpleQueue[bool] = SimpleQueue()
    closed = threading.Event()
    threading.Thread(target=_end_after, args=(ending, closed, stop_within_s), daemon=True).start()

    async def main() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def stop(*_: object) -> None:
            ending.put(True)
            with suppress(RuntimeError):  # the loop is closed: only the deadline is left to do
                loop.call_soon_threadsafe(stopping.set)

        # Not the loop's own handlers: a loop that is blocked would not call them.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        try:
            await start(stopping)
        finally:
            ending.put(False)

    try:
        with asyncio.Runner() as runner:
            runner.run(main())
    finally:
        gc.freeze()  # half a second of the end would be spent on collecting what goes with the process
        closed.set()


def _end_after(ending: SimpleQueue[bool], closed: threading.Event, seconds: float) -> None:
    """Past the deadline: whatever still waits, the store is consistent, so the process may simply go."""
    import os

    if ending.get():  # by a signal: whatever comes after the loop has to end, too
        time.sleep(seconds)
    elif closed.wait(seconds):
        return
    sys.stderr.write(f"not stopped within {seconds:g} s: ending now; nothing is lost\n")
    sys.stderr.flush()
    os._exit(LATE)
