"""
A proxy in front of a PostgreSQL server, for the faults of a network: cut, stalled, and late.

Connections through it go to one database. It understands nothing of the protocol but the text of a
COMMIT.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit


class LateCommit:
    """
    A COMMIT that has left the client and has not reached the server.

    Attributes:
        left: Set once it has left the client.
        landed: Set once the server has answered it.
    """

    def __init__(self, *, cut: bool) -> None:
        """Take the next COMMIT; with *cut* its client is cut off, otherwise it hears nothing."""
        self.cut = cut
        self.left = asyncio.Event()
        self.landed = asyncio.Event()
        self._released = asyncio.Event()

    async def land(self) -> None:
        """Let it reach the server, and wait for the server's answer."""
        self._released.set()
        async with asyncio.timeout(30):
            await self.landed.wait()

    async def hold(self, message: bytes, server: asyncio.StreamWriter) -> None:
        """Keep *message* from *server* until it may land."""
        self.left.set()
        await self._released.wait()
        server.write(message)
        await server.drain()


class Proxy:
    """
    The proxy.

    Attributes:
        port: Where it listens, on loopback.
        loses_at: A text in what a client says with which its connection is lost, once.
    """

    def __init__(self, url: str) -> None:
        self.loses_at: bytes | None = None
        self._target = urlsplit(url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: LateCommit | None = None
        self._commits_by = b""
        self._passing = 0
        self._server: asyncio.Server | None = None
        self._held = socket.socket()  # the port stays ours while nobody listens
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]

    @property
    def url(self) -> str:
        """The URL of the database, through the proxy."""
        return self.url_at("127.0.0.1")

    def url_at(self, host: str) -> str:
        """Return the URL of the database at another name of the proxy's."""
        user = self._target.netloc.rpartition("@")[0]
        return self._target._replace(netloc=f"{user}@{host}:{self.port}", query="").geturl()

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, reuse_port=True
        )

    def refuse(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()

    async def cut(self) -> None:
        """Refuse new connections, and close every one that there is."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end(self) -> None:
        """Be cut, and give the port back."""
        await self.cut()
        self._held.close()

    def delay_commit(self, *, cut: bool, passing: int = 0, text: bytes = b"COMMIT;") -> LateCommit:
        """
        Hold back the next COMMIT, once *passing* others have passed; see LateCommit.

        A statement that commits by itself is known by some *text* among its values.
        """
        self._commits_by = text
        self._late = LateCommit(cut=cut)
        self._passing = passing
        return self._late

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await self._relay(reader, writer)
        except asyncio.CancelledError:  # cut
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_server = await self._connect()
        late: list[LateCommit] = []
        back = asyncio.create_task(_answers(there, writer, late))
        try:
            while message := await reader.read(2**16):
                if self.loses_at is not None and self.loses_at in message:
                    self.loses_at = None
                    return
                if self._commits_by in message and self._late is not None and not self._passes():
                    late.append(self._late)
                    self._late = None
                    if late[0].cut:
                        writer.transport.abort()
                    await late[0].hold(message, to_server)
                    await back
                    return
                to_server.write(message)
                await to_server.drain()
        finally:
            back.cancel()
            to_server.transport.abort()  # first: the proxy may be cut while this one ends
            await asyncio.gather(back, return_exceptions=True)

    def _passes(self) -> bool:
        self._passing -= 1
        return self._passing >= 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options = parse_qs(self._target.query)
        (port,) = options.get("port", [str(self._target.port or 5432)])
        if folder := options.get("host"):
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.hostname, int(port))


async def _answers(
    there: asyncio.StreamReader, writer: asyncio.StreamWriter, late: list[LateCommit]
) -> None:
    """Hand on what the server says, but for the answer to a late COMMIT, which nobody hears."""
    while answer := await there.read(2**16):
        if late:
            late[0].landed.set()
            return
        writer.write(answer)
        await writer.drain()
    if late:  # the server has ended the session
        late[0].landed.set()
    writer.close()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of the database at *url*."""
    proxy = Proxy(url)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.end()
