"""Verdicts: what a record has been through, and whether it may be metered for all that is known."""

from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import chunk_of
from support.memory import usage

from marketplace_metering_async.clock import ANY_TIME, ClockBounds
from marketplace_metering_async.delivery import verdicts
from marketplace_metering_async.delivery.admission import deadline
from marketplace_metering_async.delivery.model import AttemptHistory, PendingRecord
from marketplace_metering_async.delivery.refusals import Similar, SimilarRefusals
from marketplace_metering_async.errors import (
    MarketplaceMeteringException,
    NoCredentialsError,
    OutOfWindowError,
    SimilarRecordRefusedError,
    TransportError,
    Violation,
)
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus, SettledRecords, Verdict
from marketplace_metering_async.service_errors import (
    MODELLED_ERRORS,
    InvalidUsageDimensionException,
)

S = RecordStatus
LOST = TransportError("reset", sent=True)
CLEAN = AttemptHistory(attempts=2, request_id="earlier")
DOUBTFUL = AttemptHistory(attempts=3, doubt=True, error=LOST, request_id="lost")


def metered(verdict: Verdict) -> bool | None:
    return RecordResult(0, None, verdict).metered


@pytest.mark.parametrize(
    ("code", "clean", "doubtful"),
    [
        ("InvalidUsageDimensionException", S.REJECTED, S.REJECTED),
        ("InvalidTagException", S.REJECTED, S.REJECTED),
        ("InvalidUsageAllocationsException", S.REJECTED, S.REJECTED),
        ("InvalidCustomerIdentifierException", S.REJECTED, S.REJECTED),
        ("TimestampOutOfBoundsException", S.REJECTED, S.UNCONFIRMED),
        ("InvalidLicenseException", S.REJECTED, S.UNCONFIRMED),
        ("MoonPhaseException", S.UNPROCESSED, S.UNCONFIRMED),
    ],
)
def test_refusals_after_a_lost_response(code: str, clean: S, doubtful: S) -> None:
    """
    Content settles the doubt; time and state do not, and an unknown code blames nobody.
    """
    error = MODELLED_ERRORS.get(code, MarketplaceMeteringException)(code, status=400)

    for status, history in ((clean, CLEAN), (doubtful, DOUBTFUL)):
        assert Verdict(
            status=status,
            error=error,
            attempts=history.attempts,
            request_id=history.request_id,
            ambiguous=history.doubt,
        ) == verdicts.refused_alone(error, history)


@pytest.mark.parametrize(
    ("word", "clean", "doubtful", "is_metered"),
    [
        ("Success", S.SUCCESS, S.SUCCESS, (True, True)),
        ("DuplicateRecord", S.DUPLICATE_RECORD, S.DUPLICATE_RECORD, (False, None)),
        ("CustomerNotSubscribed", S.CUSTOMER_NOT_SUBSCRIBED, S.UNCONFIRMED, (False, None)),
        ("Postponed", S.UNCONFIRMED, S.UNCONFIRMED, (None, None)),
        ("Rejected", S.UNCONFIRMED, S.UNCONFIRMED, (None, None)),
        ("Unprocessed", S.UNCONFIRMED, S.UNCONFIRMED, (None, None)),
    ],
)
def test_responses_after_a_lost_response(
    word: str, clean: S, doubtful: S, is_metered: tuple[bool | None, bool | None]
) -> None:
    """
    The service's words, ours in its mouth, and words nobody knows. Covers: R09, S14, S15, S16
    """
    found = [verdicts.answered(word, history, "now") for history in (CLEAN, DOUBTFUL)]

    assert [clean, doubtful] == [verdict.status for verdict in found]
    assert is_metered == tuple(map(metered, found))
    assert [word, word] == [verdict.service_status for verdict in found]
    assert [3, 4] == [verdict.attempts for verdict in found]
    assert ["now", "now"] == [verdict.request_id for verdict in found]
    assert [False, True] == [verdict.ambiguous for verdict in found]
    assert (LOST if doubtful is S.UNCONFIRMED else None) is found[1].error
    assert all(RecordResult(0, None, verdict).advice for verdict in found)


def test_giving_up_says_only_what_is_certain() -> None:
    """
    Unprocessed where nothing can have happened, unconfirmed where it may have.
    """
    assert Verdict(
        status=S.UNPROCESSED, error=LOST, attempts=2, request_id="earlier"
    ) == verdicts.gave_up(LOST, CLEAN)
    assert Verdict(
        status=S.UNCONFIRMED, error=LOST, attempts=3, request_id="lost", ambiguous=True
    ) == verdicts.gave_up(LOST, DOUBTFUL)


def test_a_window_that_closed_on_a_doubt_proves_nothing() -> None:
    """
    Rejected where nothing can have happened.
    """
    late = OutOfWindowError([Violation("timestamp", "a time of today", "1970")])

    assert S.REJECTED is verdicts.at_fault(late, CLEAN).status
    assert S.UNCONFIRMED is verdicts.at_fault(late, DOUBTFUL).status
    assert late is verdicts.at_fault(late, DOUBTFUL).error


def test_what_another_record_met_settles_no_doubt() -> None:
    """
    It names the refusal and the member that both have; a doubt stays one.
    """
    refusal = InvalidUsageDimensionException("InvalidUsageDimensionException")
    clean, doubtful = (
        verdicts.similar_refused(Similar(refusal, "dimension"), history)
        for history in (CLEAN, DOUBTFUL)
    )

    assert (S.REJECTED, S.UNCONFIRMED) == (clean.status, doubtful.status)
    for verdict in (clean, doubtful):
        assert isinstance(verdict.error, SimilarRecordRefusedError)
        assert refusal is verdict.error.__cause__
        assert refusal.code == verdict.error.cause_code
        assert "dimension" in str(verdict.error)


@given(
    st.builds(AttemptHistory, attempts=st.integers(0, 5), doubt=st.booleans()),
    st.sampled_from(["Success", "DuplicateRecord", "CustomerNotSubscribed", "?", "Unprocessed"]),
    st.sampled_from([*MODELLED_ERRORS.values()]),
)
def test_doubt_is_never_forgotten(
    history: AttemptHistory, word: str, kind: type[MarketplaceMeteringException]
) -> None:
    """
    Every verdict says whether there was one; what was in doubt is metered, or may be.
    """
    error = kind(kind.__name__, status=400)
    found = [
        verdicts.answered(word, history, None),
        verdicts.gave_up(error, history),
        verdicts.at_fault(error, history),
        verdicts.similar_refused(Similar(error, "dimension"), history),
        verdicts.refused_alone(error, history),
    ]

    assert {history.doubt} == {verdict.ambiguous for verdict in found}
    if history.doubt:
        assert all(metered(verdict) is not False for verdict in found[:4])


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
        sent, outcomes = verdicts.screen(chunk, ANY_TIME, None, NOTHING, door)

        assert chunk is sent
        assert [] == outcomes


def test_the_very_edge_is_sent_whoever_travels_along() -> None:
    """
    One that is refused for certain takes none with it.
    """
    older = evolve(OLD, timestamp=OLD.timestamp - timedelta(hours=1))
    newer = evolve(NEW, timestamp=NEW.timestamp + timedelta(hours=1))

    late, _ = verdicts.screen(
        chunk_of([older, OLD]), ClockBounds(CLOSES, CLOSES), None, NOTHING, None
    )
    early, _ = verdicts.screen(
        chunk_of([NEW, newer]), ClockBounds(OPENS, OPENS), None, NOTHING, None
    )

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
    sent, outcomes = verdicts.screen(
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

    _, outcomes = verdicts.screen(chunk_of([OLD], [DOUBT]), late, None, NOTHING, None)

    assert [(0, RecordStatus.UNCONFIRMED, OutOfWindowError)] == verdicts_of(outcomes)


def test_a_stopped_lane_sends_nothing() -> None:
    """
    Its records are unprocessed, or in doubt; whatever else may be wrong with them.
    """
    chunk = chunk_of([OLD, NEW], [AttemptHistory(), DOUBT])

    for bounds in (ANY_TIME, ClockBounds(1e12, 1e12)):
        sent, outcomes = verdicts.screen(chunk, bounds, NoCredentialsError(), NOTHING, None)

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

    sent, outcomes = verdicts.screen(chunk_of([OLD, other]), ANY_TIME, None, similar, None)

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
    sent, outcomes = verdicts.screen(chunk_of([OLD, OLD, NEW]), late, None, NOTHING, door)

    assert [NEW] == sent.records
    assert own is outcomes[0].verdict
    assert [(0, type(None)), (1, OutOfWindowError)] == [(p, e) for p, _, e in verdicts_of(outcomes)]
