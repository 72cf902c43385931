"""How much the sandbox takes in: so many connections, so many bytes, for so long."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

LARGEST_ORDER = 2**20
_SECONDS_TO_SEND = 30.0


class Doors:
    """
    Makes the protocols of new connections, and turns away those that are too many.

    A full house lets a newcomer in by sending away the oldest connection that has kept silent too
    long; so who opens a thousand connections and says nothing locks nobody out for ever.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        most: int = 512,
        patience: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Guard the connections of *server*.

        Args:
            server: Whose protocols are made.
            most: Connections at once.
            patience: Seconds in which a connection has to bring its first request.
            monotonic: The time they are counted by.
        """
        self._server = server
        self._most = most
        self._patience = patience
        self._monotonic = monotonic
        self._silent: dict[web.RequestHandler, float] = {}
        self._arriving = 0

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        inside = len(self._server.connections) + self._arriving
        if inside >= self._most and not self._make_room():
            return _Closed()
        handler = self._server()
        self._silent[handler] = self._monotonic()
        # Many are accepted in one turn of the loop, and only the next one tells the server of them.
        self._arriving += 1
        asyncio.get_running_loop().call_soon(self._arrived)
        return handler

    def _arrived(self) -> None:
        self._arriving -= 1

    def heard(self, handler: web.RequestHandler) -> None:
        """A connection has brought a request."""
        self._silent.pop(handler, None)

    def _make_room(self) -> bool:
        now = self._monotonic()
        connected = set(self._server.connections)
        self._silent = {h: since for h, since in self._silent.items() if h in connected}
        for handler, since in self._silent.items():
            if now - since >= self._patience:
                del self._silent[handler]
                handler.force_close()
                return True
        return False


class _Closed(asyncio.Protocol):
    """A connection that is not let in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close at once."""
        transport.close()


class GuardedSite(web.BaseSite):
    """A host and port, behind doors."""

    def __init__(self, runner: web.BaseRunner, host: str, port: int) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port
        self.doors: Doors | None = None

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """
        Listen.

        Raises:
            OSError: if the port is taken.
        """
        await super().start()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")
        self.doors = Doors(server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.doors, self._host, self._port, backlog=1024)


async def body_of(request: web.BaseRequest, most: int) -> bytes:
    """
    Read a request's body.

    Raises:
        web.HTTPRequestEntityTooLarge: for more than *most* bytes, decompressed.
        web.HTTPRequestTimeout: for one that is not there after half a minute.
    """
    if request.content.is_eof() and request.content.total_bytes <= most:
        return request.content.read_nowait()  # as small requests are: all there at once
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS_TO_SEND):
            while piece := await request.content.readany():
                body += piece
                if len(body) > most:
                    raise web.HTTPRequestEntityTooLarge(most, len(body))
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text="the body came too slowly\n") from error
    return bytes(body)
