"""What happened on the way, as frozen values, and who gets them."""

import logging
from collections.abc import Mapping, Sequence
from contextvars import Context
from datetime import datetime
from typing import Any, Final, Protocol

from attrs import asdict, frozen

from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus

_logger: Final = logging.getLogger("marketplace_metering_async")
_logger.addHandler(logging.NullHandler())


@frozen(kw_only=True)
class CallEnded:
    """
    One HTTP request has its response, or will have none.

    Attributes:
        operation: The service's operation.
        records: How many records it carried.
        seconds: From the request's start to its end.
        code: The service's error code, or the name of the error on our side; None after a success.
        request_id: The service's id of the request.
        attempt: Which attempt it is for the records in it, counted from 1.
        region_name: The region that it went to.
    """

    operation: str
    records: int
    seconds: float
    code: str | None = None
    request_id: str | None = None
    attempt: int = 1
    region_name: str | None = None


@frozen(kw_only=True)
class Retrying:
    """
    Records are sent again after a while, for a fault that is not theirs.

    Attributes:
        records: How many.
        attempt: Which attempt has failed, counted from 1.
        delay: Seconds until the next one.
        error: What it ended with; None where the service left the records unprocessed.
    """

    records: int
    attempt: int
    delay: float
    error: MeteringError | None


@frozen(kw_only=True)
class Throttled:
    """
    The service refused a call because of its quota; the pacer slows down.

    Attributes:
        records: How many the call carried.
    """

    records: int


@frozen(kw_only=True)
class SendingStopped:
    """
    Nothing more of a product is sent for now: the account is at fault.

    Attributes:
        product_code: The product; None for several.
        all_products: Whether nothing of any product is sent. Where neither is said, it is licenses
            for which no product was named.
        error: What the service said.
    """

    product_code: str | None
    all_products: bool
    error: MeteringError


@frozen(kw_only=True)
class Isolating:
    """
    The service refused a whole chunk for the sake of some record; the search begins.

    Attributes:
        records: How many the chunk has.
        code: The service's error code.
    """

    records: int
    code: str


@frozen(kw_only=True)
class Isolated:
    """
    A search for the records at fault has ended.

    Attributes:
        code: The service's error code.
        calls: How many more calls it took.
        refused: How many records were at fault.
    """

    code: str
    calls: int
    refused: int


@frozen(kw_only=True)
class Settled:
    """
    Records have their verdicts.

    Attributes:
        counts: How many got which.
        request_id: The service's id of the request that settled them, if one did.
    """

    counts: Mapping[RecordStatus, int]
    request_id: str | None = None


@frozen(kw_only=True)
class WarningIssued:
    """
    Something a person should know of, such as a response that contradicts itself.

    Attributes:
        text: What, in words.
    """

    text: str


@frozen(kw_only=True)
class BatchEnded:
    """
    A call of batch_meter_usage, or a stream, has all its verdicts.

    Attributes:
        counts: How many records got which.
        calls: How many requests it took.
        throttled: How many of them the service throttled.
        seconds: How long it took.
    """

    counts: Mapping[RecordStatus, int]
    calls: int
    throttled: int
    seconds: float


@frozen(kw_only=True)
class BatchReleased:
    """
    A batcher, or a stream, lets records of a product go that it had gathered.

    Attributes:
        records: How many.
        waited: Seconds since the first of them came.
        waiting: How many others are gathered still.
        in_flight: How many are on their way, these among them.
    """

    records: int
    waited: float
    waiting: int
    in_flight: int


@frozen(kw_only=True)
class UsageEndedUnmetered:
    """
    Records of the ledger, or pieces of usage that no record carries, ended otherwise than metered.

    Of some states, such as `unconfirmed`, nobody knows whether the service has metered them.

    Attributes:
        state: The ledger's word for what became of them; `ledger explain` says what to do.
        records: How many.
    """

    state: str
    records: int


@frozen(kw_only=True)
class RelayBlocked:
    """
    The ledger's relay can do nothing for now, and goes on trying; no usage is lost by it.

    It is reported at once, and then every minute while it lasts.

    Attributes:
        error: What the latest try ended with: of the account, or of the ledger's database.
        seconds: For how long it has been so.
        units: Unsent in the whole ledger, at the latest look; None before the first one.
        first_loss_at: When the service takes the first of them no more; None where all can wait.
    """

    error: MeteringError
    seconds: float
    units: Quantity | None = None
    first_loss_at: datetime | None = None


@frozen(kw_only=True)
class RelayWorking:
    """
    The ledger's relay works: its database lets it, and nothing of the account stops it.

    It is reported every minute, and once by `relay_once`, with what it did since the last time.

    Attributes:
        sealed: Hours that were closed and frozen.
        metered: Records that the service has taken.
        ended: Records that ended in another way.
        returned: Records that stay frozen, to be sent again.
        units: Units metered.
    """

    sealed: int
    metered: int
    ended: int
    returned: int
    units: Quantity


Event = (
    CallEnded
    | Retrying
    | Throttled
    | SendingStopped
    | Isolating
    | Isolated
    | Settled
    | WarningIssued
    | BatchEnded
    | BatchReleased
    | UsageEndedUnmetered
    | RelayBlocked
    | RelayWorking
)


WITH_EACH_CALL: Final = (CallEnded, Settled, BatchReleased)
"""Events that come with each call."""


class Observer(Protocol):
    """
    Whoever wants to know.

    Called from the event loop, so it must not block. What it raises is logged and hurts nobody. One
    that has no use for what comes with each call, CallEnded, Settled and BatchReleased, may say so
    by an attribute `observes_calls` that is False; it is looked at before each call. One with a
    method `observe_call(event, records, callers)` gets CallEnded by it, with the records that the
    call carried and, of a batcher, the contexts of those who handed them in. A method `flush()` is
    called where a batch, a stream, a batcher or the client ends.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
        ...


class LoggingObserver:
    """
    Tell the logger `marketplace_metering_async`.

    One warning a batch in which anything failed, with counts; warnings for what a person should
    know of; an error for a relay that is blocked; a line a minute at info level for one that works;
    everything else at debug level. Each record of the log has the event's name and attributes as
    fields: `metering_event`, `metering_units` and so on.
    """

    def __call__(self, event: Event, /) -> None:
        """Log *event*."""
        if isinstance(event, WITH_EACH_CALL) and not _logger.isEnabledFor(logging.DEBUG):
            return
        level, text, *arguments = _said(event)
        if _logger.isEnabledFor(level):
            _logger.log(level, text, *arguments, extra=_fields(event))


def what_stops(event: SendingStopped) -> str:
    """Return for what nothing more is sent."""
    if event.product_code is not None:
        return event.product_code
    return "any product" if event.all_products else "licenses without a product code"


def _said(event: Event) -> tuple[Any, ...]:
    """Return the level, the text and the arguments of it that *event* is logged with."""
    match event:
        case BatchEnded(counts=counts) if any(s is not RecordStatus.SUCCESS for s in counts):
            return logging.WARNING, "not all records are metered: %s", _summary(event)
        case BatchEnded():
            return logging.DEBUG, "all records are metered: %s", _summary(event)
        case SendingStopped(error=error):
            return logging.WARNING, "nothing more is sent for %s: %s", what_stops(event), error
        case WarningIssued(text=text):
            return logging.WARNING, "%s", text
        case UsageEndedUnmetered(state=state, records=records):
            text = "%d records of the ledger, or pieces of usage, ended as %s"
            return logging.WARNING, text, records, state
        case RelayBlocked(error=error):
            return logging.ERROR, "%s %s: %s", error.advice, _blocked(event), error
        case RelayWorking():
            text = "the relay works: sealed %d, metered %d (%s units), ended %d, returned %d"
            done = (event.sealed, event.metered, event.units, event.ended, event.returned)
            return logging.INFO, text, *done
        case _:
            return logging.DEBUG, "%s", event


def _fields(event: Event) -> dict[str, Any]:
    """Return what a log record has of *event*: plain values, and none for what is not known."""
    shown = asdict(event, recurse=False)
    known = {name: _plain(value) for name, value in shown.items()}
    named = {f"metering_{name}": value for name, value in known.items() if value is not None}
    return {"metering_event": type(event).__name__, **named}


def _plain(value: object) -> object:
    match value:
        case Mapping():
            return {str(key): count for key, count in value.items()}
        case None | int() | float():
            return value
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _summary(event: BatchEnded) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in event.counts.items())
    return f"{counts or 'no records'}; {event.calls} calls, {event.throttled} throttled"


def _blocked(event: RelayBlocked) -> str:
    said = f"The relay has been blocked for {event.seconds:.0f} s and goes on trying"
    if event.units:
        said += f"; {event.units:,} units are unsent"
        if event.first_loss_at is not None:
            said += f", the first of them is lost at {event.first_loss_at:%Y-%m-%d %H:%M} UTC"
    return said


_ENDS: Final = (KeyboardInterrupt, SystemExit)
"""What ends the program, in an observer as elsewhere."""


def _report(where: str, error: BaseException) -> None:
    """
    Log that the observer raised, whatever it is; a handler or filter of the log may be what did.

    It awaits nothing, so that nobody can have cancelled it.
    """
    if isinstance(error, _ENDS):
        raise error
    try:
        _logger.error("the observer raised on %s", where, exc_info=error)
    except BaseException as another:
        if isinstance(another, _ENDS):
            raise


def observes_calls(observer: Observer) -> bool:
    """Whether *observer* makes use of what comes with each call."""
    if type(observer) is LoggingObserver:
        return _logger.isEnabledFor(logging.DEBUG)
    try:
        return bool(getattr(observer, "observes_calls", True))
    except BaseException as error:  # noqa: BLE001
        _report("observes_calls", error)
        return True


def emit(observer: Observer, event: Event) -> None:
    """Hand *event* to *observer*; whatever it raises is logged and goes no further."""
    try:
        observer(event)
    except BaseException as error:  # noqa: BLE001
        _report(type(event).__name__, error)


def emit_call(
    observer: Observer,
    ended: CallEnded,
    records: Sequence[UsageRecord],
    callers: Sequence[Context] | None,
) -> None:
    """
    Hand *ended* to *observer*, by its method `observe_call` where it has one.

    That gets the *records* too, and of a batcher's call the contexts of its *callers*: they are no
    part of the event, which would show them wherever somebody writes it down.
    """
    try:
        if (observe_call := getattr(observer, "observe_call", None)) is None:
            observer(ended)
        else:
            observe_call(ended, records, callers)
    except BaseException as error:  # noqa: BLE001
        _report(type(ended).__name__, error)


def flush(observer: Observer) -> None:
    """Let *observer* record what it puts off, where it has a method `flush`: calls have ended."""
    try:
        if (method := getattr(observer, "flush", None)) is not None:
            method()
    except BaseException as error:  # noqa: BLE001
        _report("flush", error)
