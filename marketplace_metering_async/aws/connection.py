"""
One HTTP call to the service: sign, send, read the response.

A ServiceConnection is shared by everything that one client sends; its clock is corrected by that
of the service.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from datetime import MAXYEAR, UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, Protocol, TypeVar, cast
from weakref import WeakSet

from attrs import define, field

from marketplace_metering_async.aws import wire
from marketplace_metering_async.aws.endpoints import FoundEndpoint
from marketplace_metering_async.aws.signing import Signer
from marketplace_metering_async.aws.transport import AiohttpTransport, Request, Response, Transport
from marketplace_metering_async.clock import ANY_TIME, Clock, ClockBounds, is_cancelled
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import (
    ClientClosedError,
    InvalidResponseError,
    MarketplaceMeteringException,
    MeteringError,
    TransportError,
    UnexpectedError,
)
from marketplace_metering_async.events import (
    CallEnded,
    Observer,
    WarningIssued,
    emit,
    emit_call,
    flush,
    observes_calls,
)
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.service_codes import ErrorKind

_SKEW: Final = timedelta(seconds=60)
"""Signatures hold for minutes: a smaller difference of the clocks explains no refusal."""
_SEEN_TO: Final = frozenset({ErrorKind.CONTENT, ErrorKind.STATE, ErrorKind.PRODUCT})
"""Errors that come after a signature was checked: they confirm the time that it was signed at."""


_Result = TypeVar("_Result")


class Stoppable(Protocol):
    """What goes on by itself until it is stopped."""

    def stop(self, error: MeteringError) -> None:
        """Start nothing new, because of *error*."""
        ...


class CallResponse(NamedTuple):
    """The body of a response with HTTP status 200, and the service's id of the request."""

    body: bytes
    request_id: str | None


@define(slots=False)
class RepairedError(Exception):
    """The call was refused for stale credentials or a wrong clock, and that is corrected now."""

    error: MeteringError


@define(kw_only=True, slots=False, eq=False, repr=False)
class ServiceConnection:
    """
    Makes calls; opened at the first one, on the event loop that makes it.

    Attributes:
        clock: Where the time comes from.
        observer: Who gets the events.
        observes_calls: Whether it makes use of what comes with each call; looked at before each.
    """

    clock: Clock
    observer: Observer
    observes_calls: bool = field(init=False, default=True)
    _signer: Signer = field(alias="signer")
    _given_transport: Transport | None = field(alias="transport")  # never closed by us
    _attempt_timeout: float = field(alias="attempt_timeout")
    _max_concurrency: int = field(alias="max_concurrency")
    _own_transport: AiohttpTransport | None = field(init=False, default=None)  # made by open()
    _region_name: str | None = field(init=False, default=None)  # found by open()
    # The service's clock less ours, changed by a refusal only.
    _offset: timedelta = field(init=False, default=timedelta(0))
    # Its time less the monotonic one, once it confirmed any; the same by its latest `Date`, which
    # one server may have wrong: it corrects signatures, and rejects no record.
    _lead: float | None = field(init=False, default=None)
    _dated: float | None = field(init=False, default=None)
    # Set by the first call.
    _home: tuple[int, asyncio.AbstractEventLoop] | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)
    _stopped_at_close: WeakSet[Stoppable] = field(init=False, factory=WeakSet)

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._own_transport is not None and not self._closed

    def now(self) -> datetime:
        """Return the time as the service has it, as far as it said so."""
        return self.clock.now() + self._offset

    def bounds(self) -> ClockBounds:
        """
        Return the earliest and latest time that the service's clock can show now.

        Give or take the minutes for which a signature holds. Until the service has confirmed a
        time by accepting what was signed at it, nothing is known. From then on both
        that time and what this machine's clock shows are inside: they differ where its clock is
        stepped, or where the machine slept, which the monotonic time may leave out.
        """
        if self._lead is None:
            return ANY_TIME
        confirmed, shown = self._lead + self.clock.monotonic(), self.now().timestamp()
        return ClockBounds(confirmed, shown) if confirmed < shown else ClockBounds(shown, confirmed)

    def service_time(self) -> float | None:
        """
        Return what the service's clock shows, by the `Date` of its latest refusal.

        In seconds since 1970; None if it has not said so.
        """
        return None if self._dated is None else self._dated + self.clock.monotonic()

    async def open(self) -> FoundEndpoint:
        """
        Find region, credentials and endpoint; only the first call does any work.

        Raises:
            ClientClosedError: after aclose(), or on another event loop or in a forked process.
            ConfigurationError: NoRegionError, NoCredentialsError, or what else cannot be used.
        """
        self.require_home()
        endpoint = await self._signer.open()
        self.require_home()
        self._region_name = endpoint.region_name
        if self._given_transport is None and self._own_transport is None:
            self._own_transport = AiohttpTransport(endpoint.transport, self._max_concurrency)
        return endpoint

    def stop_at_close(self, work: Stoppable) -> None:
        """Have `aclose` stop *work*, which may rest just then, or wait for company."""
        self._stopped_at_close.add(work)

    async def aclose(self) -> None:
        """
        Close what we opened; calling it again does nothing.

        Raises:
            ClientClosedError: as `require_no_other_home`.
        """
        if self._closed:
            return
        self.require_no_other_home()
        self._closed = True
        is_over = self._home is not None and self._home[1].is_closed()
        for work in () if is_over else list(self._stopped_at_close):
            work.stop(ClientClosedError("the client is closed"))
        if self._own_transport is not None:
            await self._own_transport.aclose()
        await self._signer.aclose()  # last, since a provider may take its time to end
        flush(self.observer)

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

    def require_no_other_home(self) -> None:
        """
        Raise ClientClosedError where another process, or another event loop, is at work with it.

        Its connections are theirs to close: a forked process would take the parent's from under it.
        """
        if self._home is None:
            return
        process, loop = self._home
        if process != os.getpid():
            raise ClientClosedError("the client belongs to another process, which closes it")
        if not loop.is_closed() and loop is not asyncio.get_running_loop():
            raise ClientClosedError("the client belongs to another event loop; close it there")

    async def call(
        self,
        operation: str,
        body: bytes,
        *,
        carried: Sequence[UsageRecord] = (),
        callers: Sequence[Context] | None = None,
        attempt: int = 1,
        leaving: Callable[[], None] = lambda: None,
    ) -> CallResponse:
        """
        Send one request and return the response.

        *leaving* is called when the transport gets the request, which from then on may have been
        acted upon: cancelling closes the connection. What is raised before, or a cancellation
        while credentials are awaited, means that nothing was sent. What it *carried*, and who its
        *callers* are, is for the observer.

        Raises:
            MarketplaceMeteringException: the service refused.
            TransportError: no response came.
            InvalidResponseError: the response is none of the service's.
            RepairedError: refused for a cause that is corrected now; send again.
            UnexpectedError: a transport, or a part of ours, raised what it should not.
            SdkClientError: it could not be sent.
        """
        self.observes_calls = observes_calls(self.observer)
        request = await _expected(self._signer.sign(operation, body, self.now))
        self.require_home()
        moment = self.clock.monotonic()
        leaving()
        code: str | None = "cancelled"
        request_id: str | None = None
        try:
            response = await _expected(self._send(operation, request))
            code, request_id = None, response.request_id
        except (MeteringError, RepairedError) as error:
            known = error.error if isinstance(error, RepairedError) else error
            code = getattr(known, "code", getattr(known, "cause", type(known).__name__))
            request_id = getattr(known, "request_id", None)
            raise
        finally:
            if self.observes_calls:
                ended = CallEnded(
                    operation=operation,
                    records=len(carried),
                    seconds=self.clock.monotonic() - moment,
                    code=code,
                    request_id=request_id,
                    attempt=attempt,
                    region_name=self._region_name,
                )
                emit_call(self.observer, ended, carried, callers)
        return response

    async def _send(self, operation: str, request: Request) -> CallResponse:
        """Send what was signed just now, and learn the service's time from the response."""
        lead = self.now().timestamp() - self.clock.monotonic()
        transport = cast("Transport", self._given_transport or self._own_transport)
        try:
            response = await transport.send(request, timeout=self._attempt_timeout)
        except MeteringError as error:
            # These are meant. Ours raises others, too, but before anything has left.
            is_meant = isinstance(error, TransportError | InvalidResponseError)
            if is_meant or transport is self._own_transport:
                raise
            raise UnexpectedError.of(error) from error
        if response.status == 200:
            request_id = wire.header(response.headers, "x-amzn-RequestId")
            if request_id is not None:  # the service, and nobody in its place, has answered
                self._lead = lead
            return CallResponse(response.body, request_id)
        refusal = wire.read_error(operation, response.status, response.headers, response.body)
        if not isinstance(refusal, MarketplaceMeteringException):
            raise refusal
        fault, date = classify(refusal), _date(response)
        if date is not None:
            self._dated = date.timestamp() - self.clock.monotonic()
        # Set since it was signed, by another refusal or by others, or set right now.
        step = self.now().timestamp() - self.clock.monotonic() - lead
        is_set = abs(step) >= _SKEW.total_seconds()
        if fault is ErrorKind.CLOCK and (is_set or self._correct_clock(date)):
            raise RepairedError(refusal)
        if fault is ErrorKind.CREDENTIALS and await self._renewed(request):
            text = "the service refused the AWS credentials; newer found"
            emit(self.observer, WarningIssued(text=text))
            raise RepairedError(refusal)
        if fault in _SEEN_TO:
            self._lead = lead
        raise refusal

    async def _renewed(self, request: Request) -> bool:
        """Return whether there are newer credentials than those of *request*, within an attempt."""
        try:
            async with asyncio.timeout(self._attempt_timeout):
                return await self._signer.renew(request)
        except TimeoutError:
            return False

    def _correct_clock(self, theirs: datetime | None) -> bool:
        """Learn the service's time from a refusal's `Date`; return whether that may help."""
        if theirs is None or abs(theirs - self.now()) < _SKEW:
            return False
        self._offset = theirs - self.clock.now()
        self._lead = None  # until the service accepts what is signed by it
        seconds = self._offset.total_seconds()
        text = f"this machine's clock differs from the service's by {-seconds:.0f} s; corrected"
        emit(self.observer, WarningIssued(text=text))
        return True


def _date(response: Response) -> datetime | None:
    """Return the response's `Date`, unless there is none from which a clock could go on."""
    try:
        date = parsedate_to_datetime(wire.header(response.headers, "Date") or "").astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.year < MAXYEAR else None


async def _expected(work: Awaitable[_Result]) -> _Result:
    """Return what *work* comes to; UnexpectedError stands for what no part is meant to raise."""
    try:
        return await work
    except (MeteringError, RepairedError):
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise  # otherwise it is a part's own, and nobody's wish
        raise UnexpectedError.of(error) from error
