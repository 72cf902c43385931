"""Verdicts: what a record has been through, and whether it may be metered for all that is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.delivery import verdicts
from marketplace_metering_async.delivery.model import AttemptHistory
from marketplace_metering_async.errors import (
    MarketplaceMeteringException,
    OutOfWindowError,
    SimilarRecordRefusedError,
    TransportError,
    Violation,
)
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict
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
        verdicts.similar_refused(refusal, "dimension", history) for history in (CLEAN, DOUBTFUL)
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
        verdicts.similar_refused(error, "dimension", history),
        verdicts.refused_alone(error, history),
    ]

    assert {history.doubt} == {verdict.ambiguous for verdict in found}
    if history.doubt:
        assert all(metered(verdict) is not False for verdict in found[:4])
