"""How the command line ends: a code for each outcome, and which comes first of several."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    LeftUnprocessedError,
    MeteringError,
)
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.triage import Fault, triage


class Exit(IntEnum):
    """The exit codes of every command."""

    METERED = 0
    """All metered."""
    REJECTED = 1
    """Some records were rejected, duplicates or of customers that are not subscribed."""
    USAGE = 2
    """The command was used wrongly."""
    UNDELIVERED = 3
    """Some records are undelivered, or held back: send them again."""
    ACCOUNT = 4
    """The account or the configuration is at fault."""
    INTERRUPTED = 130
    """Ctrl-C."""


_GRAVEST_FIRST: Final = (Exit.ACCOUNT, Exit.UNDELIVERED, Exit.REJECTED, Exit.METERED)
_ACCOUNT_FAULTS: Final = (Fault.ACCOUNT, Fault.CREDENTIALS, Fault.CLOCK, Fault.PRODUCT)


def of_result(result: RecordResult) -> Exit:
    """Return the code that one record's verdict asks for."""
    if result.status is RecordStatus.SUCCESS:
        return Exit.METERED
    if not result.retryable:
        return Exit.REJECTED
    error = result.error
    at_fault = error is not None and _is_account_fault(error)
    return Exit.ACCOUNT if at_fault else Exit.UNDELIVERED


def _is_account_fault(error: MeteringError) -> bool:

    if isinstance(error, DeliveryTimeoutError | LeftUnprocessedError):
        return False
    return triage(error) in _ACCOUNT_FAULTS


def gravest(codes: Iterable[Exit]) -> Exit:
    """Return the code that comes first where several hold: 4 before 3 before 1."""
    held = set(codes)
    return next((code for code in _GRAVEST_FIRST if code in held), Exit.METERED)
