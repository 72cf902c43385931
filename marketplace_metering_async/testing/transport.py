"""A client of this package and a sandbox in one process, without a socket."""

from marketplace_metering_async.aws.transport import Response
from marketplace_metering_async.errors import TransportError
from marketplace_metering_async.sandbox import World
from marketplace_metering_async.sandbox.transport import HttpRequest, SocketlessTransport


class SandboxTransport:
    """
    The transport of a client whose service is a sandbox of the same process.

        sandbox = Sandbox()  # not entered: no port is opened
        client = MarketplaceMeteringClient(
            transport=SandboxTransport(sandbox), **sandbox.client_arguments
        )

    It is `Sandbox.transport()` with the errors of this package, which the sandbox does not know.
    """

    def __init__(self, sandbox: World, *, round_trip: float = 0.0) -> None:
        """
        Carry requests to *sandbox*, which need not be entered.

        Args:
            sandbox: Whose book, clock, faults, quota and rules apply.
            round_trip: Seconds of the event loop's time that requests and responses are on the way.
        """
        self._transport = SocketlessTransport(sandbox, round_trip=round_trip)

    @property
    def round_trip(self) -> float:
        """Seconds on the way there and back; it may be changed."""
        return self._transport.round_trip

    @round_trip.setter
    def round_trip(self, seconds: float) -> None:
        self._transport.round_trip = seconds

    async def send(self, request: HttpRequest, *, timeout: float) -> Response:
        """
        Send *request* and return the response; *timeout* is for all of it, in seconds.

        Cancelling takes nothing back that the sandbox has applied.

        Raises:
            TransportError: no whole response came; the sandbox may have acted on the request.
        """
        try:
            response = await self._transport.send(request, timeout=timeout)
        except ConnectionResetError as error:
            raise TransportError(str(error), sent=True) from error
        except TimeoutError as error:
            raise TransportError(f"no answer within {timeout:g} s", sent=True) from error
        return Response(response.status, response.headers, response.body)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""
