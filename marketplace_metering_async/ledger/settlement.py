"""From the client's verdict on a frozen record to what becomes of its row."""

from typing import Final

from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    MarketplaceMeteringException,
    MeteringError,
    OutOfWindowError,
)
from marketplace_metering_async.ledger.claims import FIRST_PAUSE, LONGEST_PAUSE
from marketplace_metering_async.ledger.hours import deadline_of
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Settlement
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.service_codes import ErrorKind
from marketplace_metering_async.service_errors import (
    InvalidTagException,
    InvalidUsageAllocationsException,
    TimestampOutOfBoundsException,
)

_AHEAD: Final = 3 * 3600
"""Seconds by which a clock of ours may have been ahead: a younger record is held, not ended."""
_LONGEST_TEXT: Final = 200
"""Characters of the service's own text that are kept."""
_OF_THE_FORM: Final = (InvalidTagException, InvalidUsageAllocationsException)
"""Refusals for what stands in the record itself, whatever the service knows of the customer."""
_OF_THE_ACCOUNT: Final = (ErrorKind.ACCOUNT, ErrorKind.CREDENTIALS, ErrorKind.CLOCK)


def settlement(
    claimed: FrozenHour, result: RecordResult, now: int, *, again_at: int = 0
) -> Settlement:
    """
    Return what *result* means for the row that was *claimed*.

    It is *now*, in seconds since 1970; what is to be sent again waits until *again_at* at least.
    """
    in_doubt = _leaves_doubt(claimed, result)
    state = _state(claimed, result, now, in_doubt=in_doubt)
    again = state is HourState.FROZEN
    return Settlement(
        claim=claimed,
        state=state,
        not_before=max(again_at, now + _pause(claimed, result, now)) if again else 0,
        in_doubt=in_doubt,
        status=_storable(result.service_status or result.status.value),
        error=_storable(_worded(result.error)) or None,
        request_id=_storable(result.request_id) or None,
        metering_record_id=_storable(result.metering_record_id) or None,
    )


def _leaves_doubt(claimed: FrozenHour, result: RecordResult) -> bool:
    """
    Whether the service may have metered the record unseen, now or in an earlier claim.

    The client calls a record REJECTED where its own attempts leave no doubt. What an earlier claim
    left, only a refusal of the record's form settles: it would have been refused then as well.
    """
    match result.status:
        case RecordStatus.SUCCESS:
            return False
        case RecordStatus.UNCONFIRMED:
            return True
        case RecordStatus.REJECTED:
            return claimed.in_doubt and not isinstance(result.error, _OF_THE_FORM)
    return claimed.in_doubt or result.ambiguous


def _state(claimed: FrozenHour, result: RecordResult, now: int, *, in_doubt: bool) -> HourState:
    is_late = isinstance(result.error, OutOfWindowError) or (
        now >= deadline_of(claimed.stamp)
        and isinstance(result.error, TimestampOutOfBoundsException)
    )
    match result.status:
        case RecordStatus.SUCCESS:
            return HourState.METERED
        case RecordStatus.DUPLICATE_RECORD:
            return HourState.PROBABLY_METERED if in_doubt else HourState.CONFLICT
        case RecordStatus.CUSTOMER_NOT_SUBSCRIBED:
            return HourState.UNCONFIRMED if in_doubt else HourState.NOT_SUBSCRIBED
        case RecordStatus.REJECTED if result.retryable or _may_be_early(claimed, result.error, now):
            return HourState.FROZEN
        case RecordStatus.REJECTED if in_doubt:
            return HourState.UNCONFIRMED
        case RecordStatus.REJECTED:
            return HourState.TOO_LATE if is_late else HourState.REJECTED
        case RecordStatus.UNCONFIRMED if is_late and not _may_be_early(claimed, result.error, now):
            return HourState.UNCONFIRMED
    return HourState.FROZEN


def _may_be_early(claimed: FrozenHour, error: MeteringError | None, now: int) -> bool:
    """
    Whether a clock that ran ahead may have sealed the hour before the service's was over.

    Where the client knows, by the service's clock, it is so however far ours was ahead.
    """
    if isinstance(error, OutOfWindowError) and error.is_early:
        return True
    young = now - claimed.stamp < _AHEAD
    return young and isinstance(error, OutOfWindowError | TimestampOutOfBoundsException)


def _pause(claimed: FrozenHour, result: RecordResult, now: int) -> int:
    """
    Seconds until the next try: the client has tried for long, unless it was asked to stop.

    A rejected record has to wait, and one that may be early: at once it would be rejected again.
    """
    was_stopped = isinstance(result.error, DeliveryTimeoutError) or _is_of_account(result.error)
    waits = result.status is RecordStatus.REJECTED or _may_be_early(claimed, result.error, now)
    if was_stopped and not waits:
        return 0
    return int(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(claimed.attempts, 10)))


def _is_of_account(error: MeteringError | None) -> bool:
    """Whether all records wait for a person, who will not want to wait for them then."""
    return error is not None and classify(error) in _OF_THE_ACCOUNT


def _worded(error: MeteringError | None) -> str | None:
    """Return what is kept of an error: of a refusal also the service's text, short."""
    if error is None:
        return None
    if not isinstance(error, MarketplaceMeteringException):
        return f"{type(error).__name__}: {error}"
    said = error.message[:_LONGEST_TEXT]
    return f"{error}: {said}" if said else str(error)


def _storable(text: str | None) -> str:
    """Return a text without what a database may not store, such as NUL."""
    return "".join(sign if sign.isprintable() else "?" for sign in text or "")
