"""
One HTTP call to the service: sign, send, read the answer.

A Caller is shared by everything that one client sends: its permits bound the requests on the wire
and the calls a second, and its clock is corrected by the service's.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, NoReturn

from marketplace_metering_async import wire
from marketplace_metering_async.clock import Clock, Span
from marketplace_metering_async.errors import (
    ClientClosedError,
    MarketplaceMeteringException,
    MeteringError,
    UnexpectedError,
)
from marketplace_metering_async.events import CallEnded, Observer, Warned, tell, wants_details
from marketplace_metering_async.pacing import Pacer
from marketplace_metering_async.signing import Endpoint, Signer
from marketplace_metering_async.starts import CallPermits
from marketplace_metering_async.transport import AiohttpTransport, Request, Response, Transport
from marketplace_metering_async.triage import Fault, triage
from marketplace_metering_async.turns import Turns

_SKEW: Final = timedelta(seconds=60)
"""Signatures hold for minutes: a smaller difference of the clocks explains no refusal."""


_SEEN_TO: Final = frozenset({Fault.CONTENT, Fault.STATE, Fault.PRODUCT})
"""Refusals of a request whose signature, and so whose time, the service had found to be right."""


class Answer(NamedTuple):
    """The body of an answer with HTTP status 200, and the service's id of the request."""

    body: bytes
    request_id: str | None


class RepairedError(Exception):
    """The call was refused for stale credentials or a wrong clock, and that is mended now."""

    def __init__(self, error: MeteringError) -> None:
        self.error = error
        super().__init__(error)


class Caller:
    """Makes calls; opened at the first one, on the event loop that makes it."""

    def __init__(
        self,
        *,
        signer: Signer,
        transport: Transport | None,
        pacer: Pacer,
        clock: Clock,
        observer: Observer,
        attempt_timeout: float,
        max_concurrency: int,
    ) -> None:
        self._signer = signer
        self._given_transport = transport  # the caller's, and never closed by us
        self._own_transport: AiohttpTransport | None = None  # ours, made by open()
        self.clock: Final = clock
        self.observer: Final = observer
        self.tells_details = True  # of each call; found out by open(), so once a batch
        self._attempt_timeout = attempt_timeout
        self.max_concurrency: Final = max_concurrency
        self._offset = timedelta(0)  # the service's clock less ours; changed by a refusal only
        self._corrections = 0  # how often it changed
        self._lead: float | None = None  # the service's time less the monotonic one, once asked for
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None  # set by the first call
        self._closed = False
        self.permits: Final = CallPermits(pacer, clock, max_concurrency)
        self.turns: Final = Turns(clock)

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._own_transport is not None and not self._closed

    def now(self) -> datetime:
        """Return the time as the service has it, as far as we were told."""
        return self.clock.now() + self._offset

    def span(self) -> Span:
        """
        Return between which times the service is, give or take the minutes a signature holds.

        Taken for certain is what the service has told, or accepted in a signature, and until then
        what this machine showed at first; and no less what it shows now. They differ where its
        clock is put right or wrong on the way, or where the machine slept, which the monotonic time
        may leave out.
        """
        if self._lead is None:
            self._lead = self.now().timestamp() - self.clock.monotonic()
        told, shown = self._lead + self.clock.monotonic(), self.now().timestamp()
        return Span(told, shown) if told < shown else Span(shown, told)

    async def open(self) -> Endpoint:
        """
        Find region, credentials and endpoint; only the first call does any work.

        Raises:
            ClientClosedError: after aclose(), or on another event loop or in a forked process.
            ConfigurationError: NoRegionError, NoCredentialsError, or what else cannot be used.
        """
        self.require_home()
        self.tells_details = wants_details(self.observer)
        endpoint = await self._signer.open()
        self.require_home()
        if self._given_transport is None and self._own_transport is None:
            self._own_transport = AiohttpTransport(endpoint.settings(self.max_concurrency))
        return endpoint

    async def aclose(self) -> None:
        """Close what we opened; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._own_transport is not None:
            await self._own_transport.aclose()

    def require_home(self) -> None:
        """Raise ClientClosedError after aclose(), on another event loop, or in a forked process."""
        if self._closed:
            raise ClientClosedError("the client is closed")
        if self._home is None:
            self._home = (os.getpid(), asyncio.get_running_loop())
            return
        process, loop = self._home
        if process != os.getpid():  # asked first: in a forked child no loop is running
            raise ClientClosedError("the client belongs to another process; make one for this")
        if loop is not asyncio.get_running_loop():
            raise ClientClosedError("the client belongs to another event loop; make one for this")

    async def exchange(
        self, operation: str, body: bytes, *, records: int = 0, attempt: int = 1
    ) -> Answer:
        """
        Send one request and return the answer. Cancelling it closes the connection.

        Raises:
            MarketplaceMeteringException: the service refused.
            TransportError: no answer came.
            InvalidAnswerError: the answer is none of the service's.
            RepairedError: refused for a cause that is mended now; send again.
            SdkClientError: it could not be sent.
        """
        started = self.clock.monotonic()
        code: str | None = "cancelled"
        request_id: str | None = None
        try:
            transport, corrections, signed_at = self._transport(), self._corrections, self.now()
            request = await self._signer.sign(operation, body, signed_at)
            response = await transport.send(request, timeout=self._attempt_timeout)
            request_id = response.headers.get("x-amzn-RequestId")
            lead = signed_at.timestamp() - started
            if response.status != 200:
                await self._refused(operation, request, response, corrections, lead)
            if request_id is not None:  # the service, and nobody in its place, has answered
                self._lead = lead
            code = None
        except RepairedError as repaired:
            code = _code(repaired.error)
            raise
        except MeteringError as error:
            code = _code(error)
            raise
        except Exception as error:
            code = type(error).__name__
            raise unexpected(error) from error
        else:
            return Answer(response.body, request_id)
        finally:
            if self.tells_details:
                ended = CallEnded(
                    operation=operation,
                    records=records,
                    seconds=self.clock.monotonic() - started,
                    code=code,
                    request_id=request_id,
                    attempt=attempt,
                )
                tell(self.observer, ended)

    def _transport(self) -> Transport:
        self.require_home()
        transport = self._given_transport or self._own_transport
        if transport is None:
            raise ClientClosedError("the client is not open")
        return transport

    async def _refused(
        self,
        operation: str,
        request: Request,
        response: Response,
        corrections: int,
        lead: float,
    ) -> NoReturn:
        """Raise what the service answered in place of a success, or that its cause is mended."""
        refusal = wire.read_error(response.status, response.headers, response.body)
        if response.status in (400, 401, 403):
            await self._repair(operation, request, refusal, response, corrections)
        seen_to = response.status == 400 and triage(refusal, operation) in _SEEN_TO
        if seen_to and refusal.request_id is not None:
            self._lead = lead
        raise refusal

    async def _repair(
        self,
        operation: str,
        request: Request,
        error: MeteringError,
        response: Response,
        corrections: int,
    ) -> None:
        """Raise RepairedError if what the refusal is about can be, or was just, put right."""
        match triage(error, operation):
            case Fault.CLOCK:
                date = response.headers.get("Date")
                if corrections != self._corrections or self._correct_clock(date):
                    raise RepairedError(error)
            case Fault.CREDENTIALS:
                if await self._signer.renew(request):
                    tell(
                        self.observer,
                        Warned(text="the service refused the AWS credentials; newer found"),
                    )
                    raise RepairedError(error)

    def _correct_clock(self, date: str | None) -> bool:
        """Learn the service's time from a refusal's `Date`; whether that may help."""
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 - heavy, and seldom needed

        try:
            theirs = parsedate_to_datetime(date or "").astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            return False
        difference = theirs - self.now()
        if abs(difference) < _SKEW:
            return False
        self._offset += difference
        self._corrections += 1
        self._lead = theirs.timestamp() - self.clock.monotonic()
        seconds = self._offset.total_seconds()
        text = f"this machine's clock differs from the service's by {-seconds:.0f} s; corrected"
        tell(self.observer, Warned(text=text))
        return True


def _code(error: MeteringError) -> str:
    return error.code if isinstance(error, MarketplaceMeteringException) else type(error).__name__


def unexpected(error: Exception) -> UnexpectedError:
    """Return what becomes a verdict in place of *error*, which no part is meant to raise."""
    return UnexpectedError(type(error).__name__)
