"""How many connections the sandbox has at once."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from aiohttp import web


class ConnectionLimit:
    """
    Makes the protocols of new connections, and turns away those that are too many.

    At the limit, the oldest connection that has sent nothing for too long is closed for a new one;
    so who opens a thousand connections and says nothing locks nobody out.
    """

    def __init__(
        self,
        *,
        most: int = 512,
        patience: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Begin without connections.

        Args:
            most: Connections at once.
            patience: Seconds in which a connection has to bring its first request.
            monotonic: The time they are counted by.
        """
        self._most = most
        self._patience = patience
        self._monotonic = monotonic
        self._silent: dict[web.RequestHandler, float] = {}
        self._arriving = 0

    def protocol(self, server: web.Server) -> asyncio.Protocol:
        """Return the protocol of a new connection to *server*."""
        if len(server.connections) + self._arriving >= self._most and not self._make_room(server):
            return _Closed()
        handler = server()
        self._silent[handler] = self._monotonic()
        # Many are accepted in one turn of the loop, and only the next one shows them to the server.
        self._arriving += 1
        asyncio.get_running_loop().call_soon(self._arrived)
        return handler

    def _arrived(self) -> None:
        self._arriving -= 1

    def heard(self, handler: web.RequestHandler) -> None:
        """A connection has brought a request."""
        self._silent.pop(handler, None)

    def _make_room(self, server: web.Server) -> bool:
        now = self._monotonic()
        connected = set(server.connections)
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


class LimitedSite(web.BaseSite):
    """A host and port that take in only so many connections."""

    def __init__(
        self, runner: web.BaseRunner, host: str, port: int, connections: ConnectionLimit
    ) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port
        self._connections = connections

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
        protocol = partial(self._connections.protocol, server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocol, self._host, self._port, backlog=1024)
