"""
What follows from one response, or error, for the records of the chunk that was sent.

Pure: a chunk and what became of the call go in, a Decision comes out. What it puts back is sent
again, ahead of what was never sent; what it refuses is searched; what it stops starts nothing new.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from attrs import evolve

from marketplace_metering_async import limits
from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery import verdicts
from marketplace_metering_async.delivery.admission import premature
from marketplace_metering_async.delivery.lane_queue import MINUTE
from marketplace_metering_async.delivery.model import AttemptHistory, Chunk, Lane, PendingRecord
from marketplace_metering_async.error_kinds import (
    classify,
    is_foreign_too_large,
    may_have_been_applied,
)
from marketplace_metering_async.errors import (
    InvalidResponseError,
    MarketplaceMeteringException,
    MeteringError,
    NotProcessedError,
    UnexpectedError,
)
from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import SettledRecords
from marketplace_metering_async.service_codes import ErrorKind
from marketplace_metering_async.service_errors import TimestampOutOfBoundsException

_MOST_REPAIRS: Final = 2
"""Times in a row that a record is sent again because credentials or clock were corrected."""
_FEWEST_FAILURES: Final = 5
"""Failed attempts of a record before its own time is over while others progress."""
_DATE_STEP: Final = 1.0
"""Seconds: the resolution of a `Date` header."""


Stop = tuple[Lane | None, MeteringError]
"""A lane, with all its groups, that starts nothing new, and why; None: nothing at all starts."""


class Return(NamedTuple):
    """
    Records to be sent again.

    Attributes:
        entries: They, with what they have been through by now.
        seconds: How long they rest, where they need not back off.
    """

    entries: Sequence[PendingRecord]
    seconds: float = 0.0


class Refusal(NamedTuple):
    """A chunk that the service refused whole for the sake of some record in it."""

    chunk: Chunk
    error: MarketplaceMeteringException


class Decision(NamedTuple):
    """
    What follows from one call.

    Attributes:
        ended: How the call ended, for the quota and the service's health.
        settled: Verdicts.
        returned: What is sent again.
        refusal: What has to be searched.
        stop: What starts nothing new.
        taken: Whether the service took the request and said something of its records.
        progress: Whether it settled a record, or refused the request for a record's sake.
        failed: Whether records were left open for the service's fault; they back off.
        narrow: How many records a request of the lane may have from now on.
        error: What was wrong, if anything.
    """

    ended: CallEnd
    settled: Sequence[SettledRecords] = ()
    returned: Sequence[Return] = ()
    refusal: Refusal | None = None
    stop: Stop | None = None
    taken: bool = False
    progress: bool = False
    failed: bool = False
    narrow: int | None = None
    error: MeteringError | None = None


NOT_SENT: Final = Decision(ended=CallEnd.ABANDONED)
"""Of a chunk that is not sent: its records have verdicts, or go with others."""


def on_reply(
    chunk: Chunk, reply: wire.Reply, request_id: str | None, moment: float, policy: RetryPolicy
) -> Decision:
    """
    Decide on the response to *chunk*, which was sent at the monotonic time *moment*.

    What it does not answer, or contradicts itself about, is sent again in doubt.
    """
    settled: list[SettledRecords] = []
    open_entries: list[PendingRecord] = []
    for part, status, record_ids in _parts(chunk, reply):
        if status is None:
            error: MeteringError = InvalidResponseError(reply.oddities[0], 200, request_id)
            open_entries += _attempted(part, error, moment, failures=1, doubt=True).entries
        elif status == wire.UNPROCESSED:
            error = NotProcessedError()
            left = _attempted(part, error, moment, failures=1, request_id=request_id)
            open_entries += left.entries
        else:
            verdict = verdicts.answered(status, part.histories[0], request_id)
            settled.append(SettledRecords(verdict, part.positions, record_ids))
    progress = bool(settled)
    ends, returned = _ended_or_again(open_entries, moment, policy)
    return Decision(
        ended=CallEnd.DELIVERED if progress else CallEnd.FAILED,
        settled=settled + ends,
        returned=returned,
        taken=progress or wire.UNPROCESSED in reply.statuses,
        progress=progress,
        failed=bool(open_entries),
        error=open_entries[0].history.error if open_entries else None,
    )


def on_error(
    chunk: Chunk,
    error: MeteringError,
    moment: float,
    policy: RetryPolicy,
    *,
    sent: bool = True,
    service_time: float | None = None,
) -> Decision:
    """
    Decide on the *error* that ended the call with *chunk*, sent at the monotonic time *moment*.

    *sent* is False where nothing was handed to the transport: that is no attempt. *service_time* is
    what the service's clock shows, in seconds since 1970, if it said so.
    """
    if not sent:
        return _over(chunk, CallEnd.ABANDONED, error, (None, error))
    stopped: Lane | None = None
    match classify(error):
        case ErrorKind.THROTTLE:  # it rests with the pacer: nothing here backs off
            again = Return(_attempted(chunk, error).entries)
            return Decision(ended=CallEnd.THROTTLED, returned=[again], error=error)
        case ErrorKind.SERVICE:
            doubt = may_have_been_applied(error)
            failed = _attempted(chunk, error, moment, failures=1, doubt=doubt)
            ends, returned = _ended_or_again(failed.entries, moment, policy)
            narrow = max(1, len(chunk) // 2) if is_foreign_too_large(error) else None
            return Decision(
                ended=CallEnd.FAILED,
                settled=ends,
                returned=returned,
                failed=True,
                narrow=narrow,
                error=error,
            )
        case ErrorKind.CONTENT | ErrorKind.STATE | ErrorKind.UNKNOWN if isinstance(
            error, MarketplaceMeteringException
        ):
            return _on_refusal(_attempted(chunk, error, moment), error, service_time)
        case ErrorKind.PRODUCT:
            stopped = chunk.lane.whole
    return _over(_attempted(chunk, error, moment), CallEnd.DELIVERED, error, (stopped, error))


def on_repaired(chunk: Chunk, error: MeteringError, moment: float) -> Decision:
    """Decide on a call that was refused for credentials or a clock which are corrected now."""
    chunk = _attempted(chunk, error, moment, repairs=1)
    if any(history.repairs > _MOST_REPAIRS for history in chunk.histories):
        return _over(chunk, CallEnd.DELIVERED, error, (None, error))
    return Decision(ended=CallEnd.DELIVERED, returned=[Return(chunk.entries)], error=error)


def on_bug(chunk: Chunk, cause: BaseException, *, sent: bool) -> Decision:
    """Decide on an exception that nobody expected: it ends these records, and no others."""
    error = UnexpectedError.of(cause)
    if sent:
        chunk = _attempted(chunk, error, doubt=True)
    return _over(chunk, CallEnd.FAILED, error)


def give_up(entries: Iterable[PendingRecord], error: MeteringError | None) -> list[SettledRecords]:
    """Return the outcomes of records that are sent no more because of *error*."""
    return [verdicts.outcome(entry, verdicts.gave_up(error, entry.history)) for entry in entries]


def _on_refusal(
    chunk: Chunk, error: MarketplaceMeteringException, service_time: float | None
) -> Decision:
    if isinstance(error, TimestampOutOfBoundsException) and service_time is not None:
        early = chunk.part(
            index
            for index, (_, record, history) in enumerate(chunk.entries)
            if record.epoch > service_time and not history.rested
        )
        if early.positions:
            return _on_early(chunk, early, error, service_time)
    refusal = Refusal(chunk, error)
    return Decision(ended=CallEnd.DELIVERED, refusal=refusal, progress=True, error=error)


def _on_early(chunk: Chunk, early: Chunk, error: MeteringError, service_time: float) -> Decision:
    """Let records that are ahead of the service's clock rest, once, before any is searched for."""
    others = [entry for entry in chunk.entries if entry.position not in early.positions]
    newest = service_time + limits.MAX_FUTURE.total_seconds()
    settled: list[SettledRecords] = []
    minutes: dict[int, list[PendingRecord]] = {}  # together they take few calls
    for entry in early.after(lambda history: evolve(history, rested=True)).entries:
        if entry.record.epoch > newest:
            too_early = premature(entry.position, entry.record, newest)
            settled.append(verdicts.outcome(entry, verdicts.at_fault(too_early, entry.history)))
        else:
            minutes.setdefault(entry.record.epoch // MINUTE, []).append(entry)
    returned = [Return(others)] if others else []
    for resting in minutes.values():
        latest = max(entry.record.epoch for entry in resting)
        returned.append(Return(resting, seconds=latest - service_time + _DATE_STEP))
    return Decision(
        ended=CallEnd.DELIVERED, settled=settled, returned=returned, progress=True, error=error
    )


def _over(chunk: Chunk, ended: CallEnd, error: MeteringError, stop: Stop | None = None) -> Decision:
    """End the records, whose call *ended* with *error*, here."""
    settled = give_up(chunk.entries, error)
    return Decision(ended=ended, settled=settled, stop=stop, error=error)


def _ended_or_again(
    entries: Sequence[PendingRecord], moment: float, policy: RetryPolicy
) -> tuple[list[SettledRecords], Sequence[Return]]:
    """Part failed records into those whose attempts or time are over, and those sent again."""
    ends: list[SettledRecords] = []
    again: list[PendingRecord] = []
    for entry in entries:
        if _is_over(entry.history, moment, policy):
            ends += give_up([entry], entry.history.error)
        else:
            again.append(entry)
    return ends, [Return(again)] if again else ()


def _is_over(history: AttemptHistory, moment: float, policy: RetryPolicy) -> bool:
    if policy.max_attempts is not None and history.failures >= policy.max_attempts:
        return True
    if history.first_attempt_at is None or history.failures < _FEWEST_FAILURES:
        return False
    return moment - history.first_attempt_at >= policy.timeout


def _attempted(
    chunk: Chunk,
    error: MeteringError,
    moment: float | None = None,
    *,
    failures: int = 0,
    repairs: int = 0,
    doubt: bool = False,
    request_id: str | None = None,
) -> Chunk:
    """
    Return *chunk* after one more attempt, begun at *moment* unless it was throttled.

    Its *failures*, *repairs* and *doubt* are added to what was before; repairs count anew after an
    attempt without any.
    """

    def after(history: AttemptHistory) -> AttemptHistory:
        first = history.first_attempt_at
        return evolve(
            history,
            attempts=history.attempts + 1,
            failures=history.failures + failures,
            repairs=history.repairs + repairs if repairs else 0,
            doubt=history.doubt or doubt,
            first_attempt_at=moment if first is None else first,
            error=error,
            request_id=request_id or getattr(error, "request_id", None),
        )

    return chunk.after(after)


def _parts(chunk: Chunk, reply: wire.Reply) -> list[tuple[Chunk, str | None, Sequence[str | None]]]:
    """Part records that have status and history in common."""
    status, history = reply.statuses[0], chunk.histories[0]
    if reply.statuses.count(status) == len(chunk) == chunk.histories.count(history):  # as mostly
        return [(chunk, status, reply.record_ids)]
    groups: dict[tuple[str | None, int], list[int]] = {}
    for index, (status, history) in enumerate(zip(reply.statuses, chunk.histories, strict=True)):
        groups.setdefault((status, id(history)), []).append(index)
    return [
        (chunk.part(indices), status, [reply.record_ids[i] for i in indices])
        for (status, _), indices in groups.items()
    ]
