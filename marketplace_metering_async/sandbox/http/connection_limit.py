"""How many connections the sandbox has at once, and who makes room for whom."""

import asyncio
from collections import deque
from typing import Final, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

_BETWEEN_LOOKS: Final = 0.02


class ConnectionLimit:
    """
    Makes the protocols of new connections, and keeps them within bounds.

    At the limit, the connection that has been idle longest since its last response is closed for a
    new one; if none is idle, the one that has owed a whole request longest, after some patience. A
    new one waits until then. So neither a client for each request, as many programs make one, nor
    who opens a thousand connections and says nothing locks anybody out.
    """

    def __init__(
        self,
        *,
        most: int = 512,
        most_waiting: int = 256,
        patience: int = 15,
    ) -> None:
        """
        Begin without connections.

        Args:
            most: Connections at once.
            most_waiting: New connections that wait for a place; further ones are closed.
            patience: How often a connection is looked at, in vain, before it makes room. Looks are
                20 ms apart, or a turn of the loop where that takes longer: a busy loop is not held
                against those whose bytes it has not read yet.
        """
        self._most = most
        self._most_waiting = most_waiting
        self._patience = patience
        self._looks = 0
        self._idle: dict[web.RequestHandler, None] = {}
        self._owing: dict[web.RequestHandler, int] = {}
        self._waiting: deque[_Waiting] = deque()
        self._arriving = 0

    def protocol(self, server: web.Server) -> asyncio.Protocol:
        """Return the protocol of a new connection to *server*."""
        if not self._waiting and self._has_room(server):
            return self._admitted(server)
        if len(self._waiting) >= self._most_waiting:
            return _Closed()
        if not self._waiting:
            asyncio.get_running_loop().call_later(_BETWEEN_LOOKS, self._let_in, server)
        self._waiting.append(_Waiting())
        return self._waiting[-1]

    def _admitted(self, server: web.Server) -> web.RequestHandler:
        self._forget_gone()
        handler = server()
        self.owes(handler)
        # Many are accepted in one turn of the loop, and only the next one shows them to the server.
        self._arriving += 1
        asyncio.get_running_loop().call_soon(self._arrived)
        return handler

    def _arrived(self) -> None:
        self._arriving -= 1

    def _let_in(self, server: web.Server) -> None:
        """Give those that wait the places that there are by now."""
        self._looks += 1
        while self._waiting and (self._waiting[0].is_gone or self._has_room(server)):
            waiting = self._waiting.popleft()
            if not waiting.is_gone:
                waiting.become(self._admitted(server))
        if self._waiting:
            asyncio.get_running_loop().call_later(_BETWEEN_LOOKS, self._let_in, server)

    def owes(self, handler: web.RequestHandler) -> None:
        """A connection has yet to bring a whole request."""
        self._owing[handler] = self._looks

    def heard(self, handler: web.RequestHandler) -> None:
        """A connection has brought a request, and waits for the response."""
        self._owing.pop(handler, None)
        self._idle.pop(handler, None)

    def answered(self, handler: web.RequestHandler) -> None:
        """A connection has its response, and may bring another request or not."""
        self._owing.pop(handler, None)
        self._idle[handler] = None

    def _has_room(self, server: web.Server) -> bool:
        """Return whether a new connection has a place; at the limit, make it one."""
        if len(server.connections) + self._arriving < self._most:
            return True
        evicted = next((handler for handler in self._idle if handler.connected), None)
        if evicted is None:
            late = self._looks - self._patience
            owing = ((handler, since) for handler, since in self._owing.items() if since <= late)
            evicted = next((handler for handler, _ in owing if handler.connected), None)
        if evicted is None:
            return False
        self.heard(evicted)
        evicted.force_close()
        return True

    def _forget_gone(self) -> None:
        """Nothing says that a connection is gone; once in a while those that are left out."""
        if len(self._idle) > self._most:
            self._idle = {handler: None for handler in self._idle if handler.connected}
        if len(self._owing) > 2 * self._most:
            self._owing = {
                handler: since for handler, since in self._owing.items() if handler.connected
            }


class _Waiting(asyncio.Protocol):
    """A connection that waits for a place; no more of it is read until then."""

    _transport: asyncio.Transport
    _came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the client's bytes rest where they are."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Keep what comes nevertheless: uvloop begins to read after this, and heeds it then."""
        self._came += data
        self._transport.pause_reading()

    @property
    def is_gone(self) -> bool:
        """Whether there is nobody any more to give a place to."""
        return self._transport.is_closing()

    def become(self, handler: web.RequestHandler) -> None:
        """Hand the connection over to *handler*."""
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        if self._came:
            handler.data_received(self._came)
        self._transport.resume_reading()


class _Closed(asyncio.Protocol):
    """A connection that is not let in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close at once."""
        transport.close()


def answered_log(connections: ConnectionLimit) -> type[AbstractAccessLogger]:
    """Return an access log that notes which connection has its response, and writes nothing."""

    class Answered(AbstractAccessLogger):
        def log(
            self,
            request: web.BaseRequest,
            response: web.StreamResponse,  # noqa: ARG002 - of the base class
            time: float,  # noqa: ARG002 - the same
        ) -> None:
            connections.answered(request.protocol)

    return Answered
