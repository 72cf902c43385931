"""
From what a record has been through to the verdict on it, be it before its turn to be sent.

An attempt without a response of the service leaves a doubt. A refusal of content that a record met
alone settles it, since the record would have been refused before as well; a refusal of time or
state does not, and neither does giving up.
"""

from collections.abc import Callable, Mapping
from typing import Final

from marketplace_metering_async import limits
from marketplace_metering_async.clock import ClockBounds
from marketplace_metering_async.delivery.admission import deadline, expired, premature
from marketplace_metering_async.delivery.model import AttemptHistory, Chunk, PendingRecord
from marketplace_metering_async.delivery.refusals import Similar, SimilarRefusals
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    MarketplaceMeteringException,
    MeteringError,
    SimilarRecordRefusedError,
)
from marketplace_metering_async.results import RecordStatus, SettledRecords, Verdict, unmetered
from marketplace_metering_async.service_codes import ErrorKind

_EDGE: Final = limits.EDGE.total_seconds()
_MAX_FUTURE: Final = limits.MAX_FUTURE.total_seconds()

_FINAL: Final[Mapping[str, RecordStatus]] = {
    "Success": RecordStatus.SUCCESS,
    "CustomerNotSubscribed": RecordStatus.CUSTOMER_NOT_SUBSCRIBED,
    "DuplicateRecord": RecordStatus.DUPLICATE_RECORD,
}
"""The verdicts that are the service's own words."""


def answered(status: str, history: AttemptHistory, request_id: str | None) -> Verdict:
    """Return the verdict for the service's *status*; one that nobody has heard of is no success."""
    ours = _FINAL.get(status, RecordStatus.UNCONFIRMED)
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


def rejected(error: MeteringError) -> Verdict:
    """Return the verdict on what is not sent because it is at fault, alone or beside others."""
    return Verdict(status=RecordStatus.REJECTED, error=error)


def refused_alone(error: MarketplaceMeteringException, history: AttemptHistory) -> Verdict:
    """Return the verdict on a record that the service refused when it travelled alone."""
    match classify(error):
        case ErrorKind.CONTENT:
            return _verdict(RecordStatus.REJECTED, error, history)
        case ErrorKind.STATE:
            return at_fault(error, history)
    return gave_up(error, history)


def similar_refused(similar: Similar, history: AttemptHistory) -> Verdict:
    """Return the verdict on a record with a member for which another was refused just now."""
    error = SimilarRecordRefusedError(similar.refusal.code, similar.member)
    error.__cause__ = similar.refusal
    return at_fault(error, history)


def gave_up(error: MeteringError | None, history: AttemptHistory) -> Verdict:
    """Return the verdict on a record that is not at fault and is not sent any more."""
    open_status = RecordStatus.UNCONFIRMED if history.doubt else RecordStatus.UNPROCESSED
    if isinstance(error, DeliveryTimeoutError) and history.error is not None:
        error = DeliveryTimeoutError(error.reason, history.error)
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


def outcome(entry: PendingRecord, verdict: Verdict) -> SettledRecords:
    """Return the outcome of one record that the service has not taken."""
    return unmetered(verdict, (entry.position,))


def screen(
    chunk: Chunk,
    bounds: ClockBounds,
    stop: MeteringError | None,
    similar: SimilarRefusals,
    ask_the_door: Callable[[PendingRecord], Verdict | None] | None,
) -> tuple[Chunk, list[SettledRecords]]:
    """
    Return what of *chunk*, whose turn has come, is to be sent, and verdicts on the rest.

    Args:
        chunk: What would be sent.
        bounds: The earliest and the latest time that the service's clock can show.
        stop: Why nothing of its lane is sent now, if so.
        similar: What the service refused a moment ago.
        ask_the_door: The door's own word, if it has any.
    """
    epochs = [record.epoch for record in chunk.records]
    late = deadline(min(epochs)) + _EDGE < bounds.earliest
    early = max(epochs) > bounds.latest + _MAX_FUTURE
    if not (late or early or stop or similar or ask_the_door):
        return chunk, []  # as most are
    kept: list[int] = []
    outcomes: list[SettledRecords] = []
    for index, entry in enumerate(chunk.entries):
        if stop is not None:
            verdict: Verdict | None = gave_up(stop, entry.history)
        else:
            verdict = (ask_the_door and ask_the_door(entry)) or _early(entry, bounds, similar)
        if verdict is None:
            kept.append(index)
        else:
            outcomes.append(outcome(entry, verdict))
    return (chunk.part(kept) if outcomes else chunk), outcomes


def _early(entry: PendingRecord, bounds: ClockBounds, similar: SimilarRefusals) -> Verdict | None:
    position, record, history = entry
    if (found := similar.find(record)) is not None:
        return similar_refused(found, history)
    if (closes := deadline(record.epoch)) + _EDGE < bounds.earliest:
        return at_fault(expired(position, record, closes), history)
    if record.epoch > (newest := bounds.latest + _MAX_FUTURE):
        return at_fault(premature(position, record, newest), history)
    return None
