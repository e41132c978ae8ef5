"""What the commands share: settings from options, output, logging, exit codes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn

import orjson
import structlog
import typer
from rich.console import Console

from stream.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
BrokerUrl = Annotated[
    str | None, typer.Option("--broker-url", help="Kafka address; default: TIDEWISE_BROKER_URL.")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store-url", help="Redis/Valkey URL; default: TIDEWISE_STORE_URL.")
]

out = Console()
err = Console(stderr=True)


def settings_of(**given: Any) -> Settings:
    """Settings from the environment and the TOML file, with what the options give on top."""
    return Settings(**{name: value for name, value in given.items() if value is not None})


def show_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def fail(message: str, code: int = 1) -> NoReturn:
    """End with a message on standard error."""
    err.print(message, style="red", highlight=False, soft_wrap=True)
    raise SystemExit(code)


def configure_logging(verbose: bool, as_json: bool = False) -> None:
    """structlog to standard error; Faust's and aiokafka's own talk only when asked for."""
    level = logging.DEBUG if verbose else logging.INFO
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)


def run_until_signal(start: Callable[[asyncio.Event], Awaitable[None]], stop_within_s: float) -> None:
    """Run a coroutine whose event is set at SIGTERM or SIGINT; a deadline later the process is ended."""

    async def main() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            stopping.set()
            loop.call_later(stop_within_s, _end)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await start(stopping)

    runner = asyncio.Runner(loop_factory=_loop_factory())
    with runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _end() -> None:
    """Past the deadline: whatever still waits, the store is consistent, so the process may simply go."""
    import os

    err.print("not stopped in time: ending now", style="yellow")
    os._exit(0)
