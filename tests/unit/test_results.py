"""Results: what they raise, and what they advise."""

import pytest
from support.memory import usage

from marketplace_metering_async.delivery.collector import ResultCollector
from marketplace_metering_async.errors import (
    BatchMeterUsageError,
    MeteringError,
    OutOfWindowError,
    RecordNotMeteredError,
    Violation,
)
from marketplace_metering_async.results import (
    BatchMeterUsageResult,
    RecordResult,
    RecordStatus,
    Verdict,
    unmetered,
)
from marketplace_metering_async.service_errors import (
    MODELLED_ERRORS,
    InvalidUsageDimensionException,
)

S = RecordStatus


def result_of(records: list[object], verdicts: list[Verdict]) -> BatchMeterUsageResult:
    collector = ResultCollector()
    collector.expect(records)
    collector.add(unmetered(verdict, [n]) for n, verdict in enumerate(verdicts))
    return collector.result()


def test_raise_for_failures() -> None:
    """
    A group with an error for each record that is not metered for certain, its cause with it.
    """
    refusal = InvalidUsageDimensionException("InvalidUsageDimensionException")
    records = usage(2)
    verdicts = [Verdict(status=S.SUCCESS), Verdict(status=S.REJECTED, error=refusal)]
    result = result_of(list(records), verdicts)

    with pytest.raises(BatchMeterUsageError, match="1 of 2 records") as caught:
        result.raise_for_failures()

    (only,) = caught.value.exceptions
    assert isinstance(only, RecordNotMeteredError)
    assert 1 == only.position
    assert refusal is only.__cause__
    assert [records[1]] == [failed.record for failed in result.failed]
    result_of([], []).raise_for_failures()


@pytest.mark.parametrize(
    "error",
    [
        OutOfWindowError([Violation("timestamp", "a time of today", "1970")]),
        MODELLED_ERRORS["TimestampOutOfBoundsException"]("TimestampOutOfBoundsException", "late"),
    ],
)
def test_what_may_be_metered_is_not_to_be_metered_in_another_hour(error: MeteringError) -> None:
    """
    Its window has closed on a doubt: advice that suits a rejected record would bill it twice.
    """
    doubtful = Verdict(status=S.UNCONFIRMED, error=error, attempts=2, ambiguous=True)
    refused = Verdict(status=S.REJECTED, error=error, attempts=2)

    assert "in the current hour" in RecordResult(0, None, refused).advice
    assert "in the current hour" not in RecordResult(0, None, doubtful).advice
    assert "nothing was sent" not in RecordResult(0, None, doubtful).advice
    assert "CloudTrail" in RecordResult(0, None, doubtful).advice
