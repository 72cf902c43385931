"""
A server on loopback that does to each connection what a script says, however rude.

A script is an async function that gets the `Connection`. The scripts of a server are played one a
connection, and the last one for all further connections.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from attrs import field, frozen


@frozen
class Received:
    """A request as it came over the wire; header names in lower case."""

    start: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """Return the header that is there once, or None."""
        found = [value for key, value in self.headers if key == name.lower()]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None


class Connection:
    """One connection to the server, as a script sees it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: "Loopback"
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.server = server

    async def head(self) -> str:
        """Read up to the blank line and return it."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def request(self) -> Received:
        """Read one request."""
        start, *lines = (await self.head()).rstrip().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = tuple((name.lower(), value) for name, value in pairs)
        length = int(dict(headers).get("content-length", "0"))
        received = Received(start, headers, await self.reader.readexactly(length))
        self.server.requests.append(received)
        return received

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes = b"{}", *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a well-formed answer."""
        lines = {"Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.send(f"HTTP/1.1 {status} Some\r\n{head}\r\n".encode() + body)

    async def closed(self) -> None:
        """Wait until the other side has closed, whatever it sends before."""
        with suppress(ConnectionError):
            while await self.reader.read(2**16):
                pass

    def reset(self) -> None:
        """Close with a reset in place of an orderly end."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


async def serve(connection: Connection) -> None:
    """Answer every request with `{}`, and keep the connection."""
    while True:
        await connection.request()
        await connection.answer()


def answers(body: bytes = b"{}", **more: Any) -> Script:
    """Answer one request, and close the connection."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(body, **more)

    return script


def after_one(script: Script) -> Script:
    """Answer a request, and play *script* for what comes on the same connection."""

    async def both(connection: Connection) -> None:
        await answers()(connection)
        await script(connection)

    return both


class Loopback:
    """
    The server.

    Attributes:
        requests: What came, in order.
        accepted: How many connections were accepted.
        open: How many of them are open.
        most_open: The most that were open at a time.
    """

    def __init__(
        self, *scripts: Script, tls: ssl.SSLContext | None = None, window: int | None = None
    ) -> None:
        """Play *scripts*, or answer everything if there is none; take *window* bytes unread."""
        self._scripts = scripts or (serve,)
        self._tls = tls
        self._window = window
        self._ended = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[Received] = []
        self.accepted = 0
        self.open = 0
        self.most_open = 0

    @property
    def url(self) -> str:
        """Where it is, by address."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        async with self._ended:
            await self._ended.wait_for(lambda: self.open == 0)

    async def __aenter__(self) -> Self:
        """Listen."""
        listener = socket.socket()
        if self._window is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._window)
        listener.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._accept, sock=listener, ssl=self._tls)
        self.port: int = listener.getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop everything."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(Connection(reader, writer, self))
            writer.close()
        except asyncio.CancelledError:  # the server goes, and waits for nobody
            writer.transport.abort()
        finally:
            with suppress(Exception):
                await writer.wait_closed()
            self._tasks.discard(task)
            async with self._ended:
                self.open -= 1
                self._ended.notify_all()
