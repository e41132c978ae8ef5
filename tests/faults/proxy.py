"""A TCP proxy on loopback whose connections can be cut and stalled."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from itertools import count
from os import getpid
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: close with RST."""


_numbers = count(getpid() * 499)  # test processes run side by side: windows of their own


def steady_port() -> int:
    """A free port that stays free while nobody listens: outside the range of outgoing connections.

    Inside (Linux: from 32768) a client that tries again and again ends up connected to itself. None is
    given twice, and none on which somebody answers although it can be bound.
    """
    while True:
        port = 12_000 + next(_numbers) % 20_000
        with socket.socket() as probe, socket.socket() as caller, suppress(OSError):
            caller.settimeout(1.0)
            if caller.connect_ex((HOST, port)) != 0:
                probe.bind((HOST, port))
                return port


class Proxy:
    """Forwards what comes to `port` to `target_port`, which may be changed: new connections go there.

    `connections` counts those accepted, `sent` bytes to the target, `received` bytes from it.
    """

    def __init__(self, target_port: int, port: int = 0) -> None:
        self.target_port = target_port
        self.port = port or steady_port()
        self.connections = self.sent = self.received = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def cut(self, seconds: float = 0.0) -> None:
        """Close all connections with RST, and refuse new ones for that long; returns when it is over."""
        self._refuse()
        await self._reset()
        try:
            await asyncio.sleep(seconds)
        finally:
            await self._listen()

    async def stall(self, seconds: float) -> None:
        """Forward nothing for that long, on new connections too; returns when it is over."""
        self._flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._flowing.set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._refuse()
        await self._reset()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port)

    def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reset(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, near_reader: StreamReader, near: StreamWriter) -> None:
        """One connection: when a side ends in order, so does the other; everything else is a reset."""
        ends, pumps = [near], list[asyncio.Task[None]]()
        try:
            far_reader, far = await asyncio.open_connection(HOST, self.target_port)
            ends.append(far)
            both = self._pump(near_reader, far, "sent"), self._pump(far_reader, near, "received")
            pumps += [asyncio.create_task(pump) for pump in both]
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
            for end in ends:
                end.close()
            await asyncio.gather(*(end.wait_closed() for end in ends))
        except OSError:
            pass
        finally:
            for end in ends:
                _abort(end)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: StreamReader, writer: StreamWriter, counter: str) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            setattr(self, counter, getattr(self, counter) + len(data))
            writer.write(data)
            await writer.drain()


def _abort(end: StreamWriter) -> None:
    with suppress(OSError):  # it is closed already
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    end.transport.abort()
