"""What became of one line of input: the members of its result line, and what they ask for."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.bad_lines import BlockedHour
from marketplace_metering_async.cli.input.formats import worded
from marketplace_metering_async.cli.output.advice import advice_on
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.errors import (
    ConflictingRecordsError,
    InvalidRecordError,
    MarketplaceMeteringException,
    MeteringError,
    Violation,
)
from marketplace_metering_async.results import RecordResult, RecordStatus

_MINUTE: Final = "%Y-%m-%dT%H:%MZ"
PlaceOf = Callable[[int], str]
"""Turns the position of a record in what the client was given into `file:line`."""


class Fate(NamedTuple):
    """
    What became of a line or an hour, or would.

    Attributes:
        members: Of its result line.
        code: What the command ends with for it.
    """

    members: dict[str, Any]
    code: Exit


HELD = "Held"
"""Beside the words of RecordStatus: the hour is not over, or may lack a line, and was not sent."""

FIX_AND_SEND_ALL = (
    "Fix what the text names, then send all of the input again: the hours that this line may "
    "belong to are held until then."
)
"""The advice on a line that says no record, where lines add up to hours."""


def of_result(result: RecordResult, place: str, place_of: PlaceOf) -> Fate:
    """Return the verdict on the record at *place*."""
    members: dict[str, Any] = {"status": result.status.value, "metered": result.metered}
    if result.metering_record_id is not None:
        members["metering_record_id"] = result.metering_record_id
    if result.service_status not in (None, result.status.value):
        members["service_status"] = result.service_status
    if result.error is not None:
        members |= _of_error(result.error, place, place_of)
    if result.status is RecordStatus.REJECTED and result.error is not None:
        members["advice"] = advice_on(result.error)
    elif result.status is not RecordStatus.SUCCESS:
        members["advice"] = _in_options(result.advice, result.error)
    if result.duplicate_of is not None:
        members["duplicate_of"] = place_of(result.duplicate_of)
    members["attempts"] = result.attempts
    if result.request_id is not None:
        members["request_id"] = result.request_id
    return Fate(members, exit_codes.of_result(result))


def _in_options(advice: str, error: MeteringError | None) -> str:
    """Return the *advice* on a result, which ends with that on its *error*, in our words."""
    return advice if error is None else advice.replace(error.advice, advice_on(error))


def of_refusal(
    error: MeteringError, place: str, place_of: PlaceOf = str, *, advice: str | None = None
) -> Fate:
    """Return the fate of a line that was never sent because of *error*."""
    members = {"status": RecordStatus.REJECTED.value, "metered": False}
    members |= _of_error(error, place, place_of)
    return Fate(members | {"advice": advice or advice_on(error), "attempts": 0}, Exit.REJECTED)


def of_held(hour: HeldHour | BlockedHour) -> Fate:
    """Return the fate of a line whose hour is held back."""
    if isinstance(hour, BlockedHour):
        return of_blocked(hour.place, hour.over_at)
    return _unsent(HELD, f"The hour is not over; send it all again after {hour.over_at:{_MINUTE}}.")


def of_blocked(place: str, over_at: datetime | None = None) -> Fate:
    """Return the fate of a line whose hour may lack the one at *place*."""
    after = "" if over_at is None else f" after {over_at:{_MINUTE}}"
    return _unsent(
        HELD,
        f"Fix {place}, then send all of the input again{after}: without that line the hour might "
        "be locked at a part of its sum.",
    )


def of_unsent() -> Fate:
    """Return the fate of a line that was not sent, for no fault of its own."""
    advice = "Not metered, since sending ended before its turn came. Send it again."
    return _unsent(RecordStatus.UNPROCESSED.value, advice)


def _unsent(status: str, advice: str) -> Fate:
    members = {"status": status, "metered": False, "advice": advice, "attempts": 0}
    return Fate(members, Exit.UNDELIVERED)


def complaint(error: MeteringError, place: str, place_of: PlaceOf) -> str:
    """Return what is wrong with the line at *place*, in its own terms: no position in a batch."""
    if isinstance(error, InvalidRecordError):
        inside = type(error)([_inside(violation) for violation in error.violations])
        return f"{place}: {worded(inside)}"
    if isinstance(error, ConflictingRecordsError):
        return f"{place}: {error.at([place_of(position) for position in error.positions])}"
    if isinstance(error, MarketplaceMeteringException) and error.message:
        return f"{place}: {error.code}: {error.message}"
    return f"{place}: {error}"


def _of_error(error: MeteringError, place: str, place_of: PlaceOf) -> dict[str, Any]:
    code = getattr(error, "code", type(error).__name__)
    return {"error": code, "message": complaint(error, place, place_of)}


def _inside(violation: Violation) -> Violation:
    """Return the violation without the `records[3].` of what the client was given."""
    start, dot, rest = violation.path.partition(".")
    if start.startswith("records[") and start.endswith("]"):
        return Violation(rest if dot else "", violation.expected, violation.got)
    return violation
