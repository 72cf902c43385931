"""Which records of a chunk need not be sent any more, when its turn has come."""

from collections.abc import Callable
from typing import Final

from marketplace_metering_async import limits
from marketplace_metering_async.clock import ClockBounds
from marketplace_metering_async.delivery import verdicts
from marketplace_metering_async.delivery.admission import expired, premature
from marketplace_metering_async.delivery.backlog import deadline
from marketplace_metering_async.delivery.model import Chunk, PendingRecord
from marketplace_metering_async.delivery.refusals import SimilarRefusals
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.results import SettledRecords, Verdict, unmetered

_EDGE: Final = limits.EDGE.total_seconds()
_MAX_FUTURE: Final = limits.MAX_FUTURE.total_seconds()

Screen = Callable[[PendingRecord], Verdict | None]
"""A door's own word on a record whose turn has come."""


def screen(
    chunk: Chunk,
    bounds: ClockBounds,
    stop: MeteringError | None,
    similar: SimilarRefusals,
    ask_the_door: Screen | None,
) -> tuple[Chunk, list[SettledRecords]]:
    """
    Return what of *chunk* is to be sent, and verdicts on the rest.

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
            verdict: Verdict | None = verdicts.gave_up(stop, entry.history)
        else:
            verdict = (ask_the_door and ask_the_door(entry)) or _early_verdict(
                entry, bounds, similar
            )
        if verdict is None:
            kept.append(index)
        else:
            outcomes.append(unmetered(verdict, (entry.position,)))
    return (chunk.part(kept) if outcomes else chunk), outcomes


def _early_verdict(
    entry: PendingRecord, bounds: ClockBounds, similar: SimilarRefusals
) -> Verdict | None:
    if (found := similar.find(entry.record)) is not None:
        return verdicts.similar_refused(found.refusal, found.member, entry.history)
    closes = deadline(entry.record.epoch)
    if closes + _EDGE < bounds.earliest:
        error = expired(entry.position, entry.record, closes)
        return verdicts.at_fault(error, entry.history)
    newest = bounds.latest + _MAX_FUTURE
    if entry.record.epoch > newest:
        error = premature(entry.position, entry.record, newest)
        return verdicts.at_fault(error, entry.history)
    return None
