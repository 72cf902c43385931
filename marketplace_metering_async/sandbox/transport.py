"""The service without a socket: requests of a client in, responses out, in the same process."""

import asyncio
from collections.abc import Mapping
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import urlsplit

from attrs import frozen
from multidict import CIMultiDict

from marketplace_metering_async.sandbox.http.operations import Operations
from marketplace_metering_async.sandbox.http.responses import ServiceResponse
from marketplace_metering_async.sandbox.http.signatures import ServiceRequest
from marketplace_metering_async.sandbox.world import World


class HttpRequest(Protocol):
    """A signed request, as transports of HTTP clients carry it: POST to *url*."""

    @property
    def url(self) -> str:
        """Where to."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """All that are signed, Host among them."""
        ...

    @property
    def body(self) -> bytes:
        """The operation's members as JSON."""
        ...


@frozen
class HttpResponse:
    """
    A whole response.

    Attributes:
        status: The HTTP status.
        headers: Found in any letter case.
        body: Its bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class SocketlessTransport:
    """
    Answers as the port of a sandbox does: signatures, quota, faults and rules of its world apply.

    What is metered is in the world's book, and its history shows the calls. Time that a fault or
    the way takes is the event loop's, so that a loop with a time of its own makes it pass.

    Attributes:
        round_trip: Seconds on the way, half of them before a request's body has come.
    """

    def __init__(self, world: World, *, round_trip: float = 0.0) -> None:
        self.round_trip = round_trip
        self._world = world
        self._operations = Operations(world)

    async def send(self, request: HttpRequest, *, timeout: float) -> HttpResponse:
        """
        Answer *request*; cancelling it takes nothing back that was applied.

        Args:
            request: A POST of one of the service's operations.
            timeout: Seconds in which the whole response must have come.

        Raises:
            ConnectionResetError: where a fault resets the connection, before or after the request
                was applied.
            TimeoutError: where the response does not come in time.
        """
        parts = urlsplit(request.url)
        headers = CIMultiDict(request.headers)

        async def read() -> bytes:
            await asyncio.sleep(self.round_trip / 2)
            return request.body

        incoming = ServiceRequest(headers, parts.path or "/", parts.query, read)
        async with asyncio.timeout(timeout):
            return await self._operations.answer(incoming, self._received)

    async def _received(self, response: ServiceResponse) -> HttpResponse:
        """Return what a client receives of a response that travels so."""
        await asyncio.sleep(self.round_trip / 2 + response.seconds)
        if response.comes is not None:
            raise ConnectionResetError("a fault has reset the connection")
        date = format_datetime(self._world.clock.now(), usegmt=True)
        headers = CIMultiDict({"Date": date, **response.headers})
        return HttpResponse(response.status, headers, response.body)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""
