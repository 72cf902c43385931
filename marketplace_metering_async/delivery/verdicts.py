"""
From what a record has been through to the verdict on it.

An attempt without a response of the service leaves a doubt. A refusal of content that a record met
alone settles it, since the record would have been refused before as well; a refusal of time or
state does not, and neither does giving up.
"""

from typing import Final

from marketplace_metering_async.delivery.model import AttemptHistory
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import (
    MarketplaceMeteringException,
    MeteringError,
    SimilarRecordRefusedError,
)
from marketplace_metering_async.results import RecordStatus, Verdict
from marketplace_metering_async.service_codes import ErrorKind

_FINAL: Final = (
    RecordStatus.SUCCESS,
    RecordStatus.CUSTOMER_NOT_SUBSCRIBED,
    RecordStatus.DUPLICATE_RECORD,
)
"""The verdicts that are the service's own words."""


def answered(status: str, history: AttemptHistory, request_id: str | None) -> Verdict:
    """Return the verdict for the service's *status*; one that nobody has heard of is no success."""
    ours = RecordStatus(status) if status in _FINAL else RecordStatus.UNCONFIRMED
    if ours is RecordStatus.CUSTOMER_NOT_SUBSCRIBED and history.doubt:
        ours = RecordStatus.UNCONFIRMED
    return Verdict(
        status=ours,
        service_status=status,
        attempts=history.attempts + 1,
        request_id=request_id,
        ambiguous=history.doubt,
        error=history.error if ours is RecordStatus.UNCONFIRMED else None,
    )


def refused_alone(error: MarketplaceMeteringException, history: AttemptHistory) -> Verdict:
    """Return the verdict on a record that the service refused when it travelled alone."""
    match classify(error):
        case ErrorKind.CONTENT:
            return _verdict(RecordStatus.REJECTED, error, history)
        case ErrorKind.STATE:
            return at_fault(error, history)
    return gave_up(error, history)


def similar_refused(
    refusal: MarketplaceMeteringException, member: str, history: AttemptHistory
) -> Verdict:
    """Return the verdict on a record with the *member* for which another was refused just now."""
    error = SimilarRecordRefusedError(refusal.code, member)
    error.__cause__ = refusal
    return at_fault(error, history)


def gave_up(error: MeteringError | None, history: AttemptHistory) -> Verdict:
    """Return the verdict on a record that is not at fault and is not sent any more."""
    open_status = RecordStatus.UNCONFIRMED if history.doubt else RecordStatus.UNPROCESSED
    return _verdict(open_status, error, history)


def at_fault(error: MeteringError, history: AttemptHistory) -> Verdict:
    """Return the verdict on a record that *error* finds at fault; an attempt may have counted."""
    status = RecordStatus.UNCONFIRMED if history.doubt else RecordStatus.REJECTED
    return _verdict(status, error, history)


def _verdict(status: RecordStatus, error: MeteringError | None, history: AttemptHistory) -> Verdict:
    return Verdict(
        status=status,
        error=error,
        attempts=history.attempts,
        request_id=history.request_id,
        ambiguous=history.doubt,
    )
