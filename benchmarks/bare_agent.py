"""A stock Faust application that takes each message, decodes its JSON and acknowledges it: nothing else.

Prints what a message takes from the first twentieth on: seconds of the clock and of its CPU.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from typing import Any

import faust
import orjson
from faust.types import StreamT


async def main(broker: str, topic: str, partitions: int, messages: int) -> None:
    app = faust.App(
        f"bare-{topic}",
        broker=broker,
        store="memory://",
        datadir=tempfile.mkdtemp(),
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=partitions,
        web_enabled=False,
        value_serializer="raw",
        broker_max_poll_records=2000,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=6.0,
        broker_rebalance_timeout=6.0,
        broker_heartbeat_interval=1.0,
        stream_wait_empty=False,
    )
    done, seen = asyncio.Event(), 0
    started = 0.0, 0.0

    async def agent(stream: StreamT[Any]) -> None:
        nonlocal seen, started
        async for value in stream:
            orjson.loads(value)
            seen += 1
            if seen == messages // 20:
                started = time.perf_counter(), time.process_time()
            if seen == messages:
                done.set()

    app.agent(app.topic(topic))(agent)
    await app.start()
    await asyncio.wait_for(done.wait(), 300)
    ended, rest = (time.perf_counter(), time.process_time()), messages - messages // 20
    print(*((end - begin) / rest for begin, end in zip(started, ended, strict=True)), flush=True)
    await app.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
