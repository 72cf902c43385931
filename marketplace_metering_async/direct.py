"""
The transport to the endpoint itself: a pool of connections that carry one request at a time.

It is asyncio's own connections and nothing more, since a general client's request, response and
stream objects take several times the CPU of everything else that is done for a call.
"""

import asyncio
import socket
import ssl
from collections import deque
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from marketplace_metering_async import transport
from marketplace_metering_async.errors import ClientClosedError, InvalidAnswerError, TransportError
from marketplace_metering_async.http1 import AnswerReader, NoHttpError
from marketplace_metering_async.transport import Request, Response, TransportSettings, cause, trust

_RECEIVED: Final = 2**15
"""Bytes of a connection's buffer: the usual answer fits in."""
_PATIENCE: Final = 2.0
"""Seconds for an address while there is another to try: IPv6 may be announced and lead nowhere."""


class _Target(NamedTuple):
    """What requests of one URL have in common."""

    url: str
    host: str
    port: int
    tls: bool
    start: str
    """The request line, and the beginning of a header."""


class _Connection(asyncio.BufferedProtocol):
    """A connection that carries one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.since = 0.0  # when it became idle
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._reader = AnswerReader()
        self._received = memoryview(bytearray(_RECEIVED))

    def exchange(self, data: bytes) -> "asyncio.Future[Response]":
        """Send a request, and return the future of its answer."""
        self._reader = AnswerReader()
        self._waiter = waiter = self._loop.create_future()
        if self._transport is None:
            self._fail("the connection was closed at once", sent=False)
        else:
            self._transport.write(data)
        return waiter

    @property
    def idle(self) -> bool:
        """Whether it can carry another request: the last was answered, and all sent."""
        line, reader = self._transport, self._reader
        if line is None or line.is_closing() or line.get_write_buffer_size():
            return False
        return reader.complete and reader.reusable

    def expire(self, reason: str) -> None:
        """End the request under way, and the connection with it."""
        self._fail(reason)
        self.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        waiter, reader = self._waiter, self._reader
        if waiter is None or waiter.done():
            self.abort()  # nobody asked
            return
        try:
            reader.feed(self._received[:nbytes])
        except NoHttpError:
            self.expire("what came is no HTTP")
        except InvalidAnswerError as error:
            waiter.set_exception(InvalidAnswerError(error.reason, error.status))
            self.abort()
        else:
            if reader.complete:
                waiter.set_result(reader.response())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        waiter, reader = self._waiter, self._reader
        if waiter is None or waiter.done():
            return
        if exc is None and reader.end():
            waiter.set_result(reader.response())
        elif reader.status:
            self._fail("the answer was cut short")
        elif isinstance(exc, OSError):
            self._fail(f"the connection broke: {cause(exc)}")
        else:
            self._fail("the connection was closed before the answer")

    def _fail(self, reason: str, *, sent: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TransportError(reason, sent=sent))


class DirectTransport:
    """
    A transport over connections of its own.

    Making one needs neither a running loop nor the network; from the first request on it belongs
    to that request's loop.

    Raises, beside what Transport says:
        ConfigurationError: the certificates of the settings cannot be read.
        ClientClosedError: after aclose().
    """

    def __init__(self, settings: TransportSettings) -> None:
        """Prepare to send; the settings' proxy is not used."""
        self._settings = settings
        self._places = asyncio.Semaphore(settings.max_connections)
        self._idle: dict[tuple[str, int, bool], deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._target = _Target("", "", 0, tls=False, start="")
        self._trust: ssl.SSLContext | None = None
        self._reading = asyncio.Lock()
        self._sweep: asyncio.TimerHandle | None = None  # of connections that idle for too long
        self._closed = False

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send *request*; see Transport."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        target = self._parsed(request.url)
        connection = None if self._places.locked() else self._take_idle(target, loop)
        if connection is None:
            connection = await self._connected(target, loop, timeout)
        else:
            await self._places.acquire()
        try:
            answered = connection.exchange(_encoded(target, request))
            limit = loop.call_at(end, connection.expire, f"no answer within {timeout:g} s")
            try:
                return await answered
            finally:
                limit.cancel()
        finally:
            self._give_back(target, connection, loop)

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.expire("the connection was closed before the answer")
        self._idle.clear()
        await asyncio.sleep(0)  # the event loop closes them at its next turn

    def _parsed(self, url: str) -> _Target:
        if self._target.url != url:
            parts = urlsplit(url)
            tls = parts.scheme == "https"
            where = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            self._target = _Target(
                url,
                parts.hostname or "",
                parts.port or (443 if tls else 80),
                tls=tls,
                start=f"POST {where} HTTP/1.1\r\nContent-Length: ",
            )
        return self._target

    # The pool.

    def _take_idle(self, target: _Target, loop: asyncio.AbstractEventLoop) -> _Connection | None:
        idle = self._idle.get(target[1:4])
        oldest = loop.time() - transport.KEEPALIVE
        while idle:
            connection = idle.pop()
            if connection.idle and connection.since >= oldest:
                return connection
            self._drop(connection)
        return None

    async def _connected(
        self, target: _Target, loop: asyncio.AbstractEventLoop, timeout: float
    ) -> _Connection:
        """Wait for a place, and return a connection, which holds it."""
        reason, placed = "no connection in time", False
        try:
            async with asyncio.timeout(min(transport.CONNECT_TIMEOUT, timeout)):
                await self._places.acquire()
                placed = True
                connection = self._take_idle(target, loop) or await self._connect(target, loop)
                placed = False
                return connection
        except TimeoutError:
            pass
        except socket.gaierror:
            reason = f"the name {target.host} cannot be resolved"
        except ssl.SSLCertVerificationError as error:
            reason = f"the certificate of {target.host} is not trusted: {error.verify_message}"
        except OSError as error:
            reason = f"no connection to {target.host}:{target.port}: {cause(error)}"
        finally:
            if placed:
                self._places.release()
        raise TransportError(reason, sent=False)

    async def _connect(self, target: _Target, loop: asyncio.AbstractEventLoop) -> _Connection:
        tls = await self._whom_to_trust() if target.tls else None
        if self._closed:
            raise ClientClosedError("the transport is closed")
        line, connection = await loop.create_connection(
            lambda: _Connection(loop),
            sock=await _connected_socket(loop, target.host, target.port),
            ssl=tls,
            server_hostname=target.host if target.tls else None,
        )
        if self._closed:
            line.abort()
            raise ClientClosedError("the transport is closed")
        self._open.add(connection)
        return connection

    async def _whom_to_trust(self) -> ssl.SSLContext:
        async with self._reading:
            if self._trust is None:
                self._trust = await trust(self._settings)
            return self._trust

    def _give_back(
        self, target: _Target, connection: _Connection, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._places.release()
        if self._closed or not connection.idle:
            self._drop(connection)
            return
        connection.since = loop.time()
        self._idle.setdefault(target[1:4], deque()).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(transport.KEEPALIVE, self._sweep_idle, loop)

    def _sweep_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that idle for too long, and come again while there are any."""
        oldest = loop.time() - transport.KEEPALIVE
        for idle in self._idle.values():
            while idle and (idle[0].since <= oldest or not idle[0].idle):
                self._drop(idle.popleft())
        self._sweep = None
        if any(self._idle.values()):
            self._sweep = loop.call_later(transport.KEEPALIVE, self._sweep_idle, loop)

    def _drop(self, connection: _Connection) -> None:
        connection.abort()
        self._open.discard(connection)


async def _connected_socket(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """
    Connect to the first address that takes it in time.

    Not asyncio's own race of the addresses, which loses a connection when it is cancelled just as
    one comes about (Python 3.11).
    """
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for family, kind, protocol, _, address in addresses:
        last = address == addresses[-1][4]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(None if last else _PATIENCE):
                await loop.sock_connect(sock, address)
        except OSError as failure:
            sock.close()
            error = failure
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error


def _encoded(target: _Target, request: Request) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in request.headers.items()])
    return f"{target.start}{len(request.body)}\r\n{lines}\r\n".encode() + request.body
