"""How the command line ends: a code for each outcome, and which comes first of several."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import (
    CannotResolveError,
    ClientClosedError,
    ConfigurationError,
    DeliveryTimeoutError,
    EventConflictError,
    EventTooOldError,
    InvalidRecordError,
    LedgerMissingError,
    MeteringError,
    NotProcessedError,
    UnexpectedError,
    UsageRefusedError,
)
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.service_codes import ErrorKind


class MisuseError(Exception):
    """The command was used wrongly; the text says how."""


class Exit(IntEnum):
    """The exit codes of every command; README.md beside this has what each says of a ledger."""

    OK = 0
    """All metered."""
    REJECTED = 1
    """Some were rejected, are duplicates, or of customers that are not subscribed."""
    USAGE = 2
    """Used wrongly; input that cannot be read, or results that cannot be written."""
    UNDELIVERED = 3
    """Some are undelivered, held back or open: send them again; of `ledger status`: at risk."""
    ACCOUNT = 4
    """The account or the configuration is at fault."""
    COPY = 5
    """The ledger is a copy that nobody has adopted: `ledger relay` leaves it alone."""
    INTERRUPTED = 130
    """Ctrl-C."""


_GRAVEST_FIRST: Final = (
    Exit.INTERRUPTED,
    Exit.ACCOUNT,
    Exit.USAGE,
    Exit.COPY,
    Exit.UNDELIVERED,
    Exit.REJECTED,
)
_ACCOUNT_FAULTS: Final = (
    ErrorKind.ACCOUNT,
    ErrorKind.CREDENTIALS,
    ErrorKind.CLOCK,
    ErrorKind.PRODUCT,
)
_PASSING_FAULTS: Final = (ErrorKind.SERVICE, ErrorKind.THROTTLE)


def of_result(result: RecordResult) -> Exit:
    """Return the code that one record's verdict asks for."""
    if result.status is RecordStatus.SUCCESS:
        return Exit.OK
    if not result.retryable:
        return Exit.REJECTED
    at_fault = result.error is not None and _is_account_fault(result.error)
    return Exit.ACCOUNT if at_fault else Exit.UNDELIVERED


def _is_account_fault(error: MeteringError) -> bool:
    if isinstance(error, DeliveryTimeoutError | NotProcessedError | UnexpectedError):
        return False
    return classify(error) in _ACCOUNT_FAULTS


REFUSED_USAGE: Final = (EventConflictError, EventTooOldError, UsageRefusedError)
"""What is wrong with one piece of usage alone, once its line was read."""


def of_error(error: MeteringError) -> Exit:
    """Return the code for a command that ended with *error*."""
    if isinstance(error, CannotResolveError | InvalidRecordError | LedgerMissingError):
        return Exit.USAGE
    if isinstance(error, REFUSED_USAGE):
        return Exit.REJECTED
    if isinstance(error, ConfigurationError | ClientClosedError):
        return Exit.ACCOUNT
    fault = classify(error)
    if fault in _PASSING_FAULTS:
        return Exit.UNDELIVERED
    return Exit.ACCOUNT if fault in _ACCOUNT_FAULTS else Exit.REJECTED


def most_severe(codes: Iterable[Exit]) -> Exit:
    """Return the code that comes first where several hold, such as 4 before 3 before 1."""
    held = set(codes)
    return next((code for code in _GRAVEST_FIRST if code in held), Exit.OK)
