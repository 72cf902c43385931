"""Screening: which records of a chunk are not sent any more when its turn has come."""

from datetime import timedelta

import pytest
from attrs import evolve
from support.chunks import chunk_of
from support.memory import usage

from marketplace_metering_async.clock import ANY_TIME, ClockBounds
from marketplace_metering_async.delivery.backlog import deadline
from marketplace_metering_async.delivery.model import AttemptHistory, PendingRecord
from marketplace_metering_async.delivery.refusals import SimilarRefusals
from marketplace_metering_async.delivery.screening import screen
from marketplace_metering_async.errors import (
    NoCredentialsError,
    OutOfWindowError,
    SimilarRecordRefusedError,
    TransportError,
)
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus, SettledRecords, Verdict
from marketplace_metering_async.service_errors import InvalidUsageDimensionException

NOTHING = SimilarRefusals(None)
OLD, NEW = usage(2)
NEW = evolve(NEW, timestamp=NEW.timestamp + timedelta(hours=20))
CLOSES, OPENS = deadline(OLD.epoch) + 300, NEW.epoch - 900
DOUBT = AttemptHistory(attempts=1, doubt=True, error=TransportError("reset", sent=True))


def verdicts_of(outcomes: list[SettledRecords]) -> list[tuple[int, RecordStatus, object]]:
    return [
        (position, verdict.status, type(verdict.error))
        for verdict, positions, _ in outcomes
        for position in positions
    ]


def test_most_chunks_are_sent_as_they_are() -> None:
    """
    The very chunk: its bytes may be there already. So is one that was looked through in vain.
    """
    chunk = chunk_of([OLD, NEW])

    for door in (None, lambda entry: None):
        sent, outcomes = screen(chunk, ANY_TIME, None, NOTHING, door)

        assert chunk is sent
        assert [] == outcomes


def test_the_very_edge_is_sent_whoever_travels_along() -> None:
    """
    One that is refused for certain takes none with it.
    """
    older = evolve(OLD, timestamp=OLD.timestamp - timedelta(hours=1))
    newer = evolve(NEW, timestamp=NEW.timestamp + timedelta(hours=1))

    late, _ = screen(chunk_of([older, OLD]), ClockBounds(CLOSES, CLOSES), None, NOTHING, None)
    early, _ = screen(chunk_of([NEW, newer]), ClockBounds(OPENS, OPENS), None, NOTHING, None)

    assert [[OLD], [NEW]] == [late.records, early.records]


@pytest.mark.parametrize(
    ("earliest", "latest", "refused"),
    [
        (CLOSES, CLOSES, []),
        (CLOSES + 1, CLOSES + 1, [OLD]),
        (CLOSES, CLOSES + 9999, []),
        (OPENS, OPENS, []),
        (OPENS - 1, OPENS - 1, [NEW]),
        (OPENS - 9999, OPENS, []),
    ],
)
def test_only_what_is_outside_for_certain_is_refused(
    earliest: float, latest: float, refused: list[UsageRecord]
) -> None:
    """
    Five minutes after its window has closed, or more than 15 minutes ahead, by every time that the
    service's clock can show.
    """
    given = [OLD, NEW]
    sent, outcomes = screen(
        chunk_of(given, first=7), ClockBounds(earliest, latest), None, NOTHING, None
    )

    assert [
        (7 + given.index(record), RecordStatus.REJECTED, OutOfWindowError) for record in refused
    ] == verdicts_of(outcomes)
    assert [record for record in given if record not in refused] == sent.records


def test_what_may_be_metered_is_unconfirmed_when_its_window_closes() -> None:
    """
    The window's end settles no doubt.
    """
    late = ClockBounds(CLOSES + 1, CLOSES + 1)

    _, outcomes = screen(chunk_of([OLD], [DOUBT]), late, None, NOTHING, None)

    assert [(0, RecordStatus.UNCONFIRMED, OutOfWindowError)] == verdicts_of(outcomes)


def test_a_stopped_lane_sends_nothing() -> None:
    """
    Its records are unprocessed, or in doubt; whatever else may be wrong with them.
    """
    chunk = chunk_of([OLD, NEW], [AttemptHistory(), DOUBT])

    for bounds in (ANY_TIME, ClockBounds(1e12, 1e12)):
        sent, outcomes = screen(chunk, bounds, NoCredentialsError(), NOTHING, None)

        assert 0 == len(sent)
        assert [
            (0, RecordStatus.UNPROCESSED, NoCredentialsError),
            (1, RecordStatus.UNCONFIRMED, NoCredentialsError),
        ] == verdicts_of(outcomes)


def test_what_is_similar_to_a_refused_record_is_held_back() -> None:
    """
    Only that.
    """
    similar = SimilarRefusals(None)
    other = evolve(OLD, dimension="wrong")
    similar.note(
        other, InvalidUsageDimensionException("InvalidUsageDimensionException", status=400), 0
    )

    sent, outcomes = screen(chunk_of([OLD, other]), ANY_TIME, None, similar, None)

    assert [OLD] == sent.records
    assert [(1, RecordStatus.REJECTED, SimilarRecordRefusedError)] == verdicts_of(outcomes)


def test_the_door_has_a_word_of_its_own() -> None:
    """
    It comes first; where it says nothing, the rest is looked at.
    """
    own = Verdict(RecordStatus.REJECTED)

    def door(entry: PendingRecord) -> Verdict | None:
        return own if entry.position == 0 else None

    late = ClockBounds(CLOSES + 1, CLOSES + 1)
    sent, outcomes = screen(chunk_of([OLD, OLD, NEW]), late, None, NOTHING, door)

    assert [NEW] == sent.records
    assert own is outcomes[0].verdict
    assert [(0, type(None)), (1, OutOfWindowError)] == [(p, e) for p, _, e in verdicts_of(outcomes)]
