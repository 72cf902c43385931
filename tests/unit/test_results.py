"""Results: what they raise, and what they advise."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage

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
    ResultCollector,
    SettledRecords,
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
    assert type(caught.value.subgroup(RecordNotMeteredError)) is BatchMeterUsageError
    assert type(caught.value.split(lambda error: error is only)[0]) is BatchMeterUsageError
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


VERDICTS = [Verdict(status=status, attempts=n) for n, status in enumerate(RecordStatus)]


@given(st.permutations(range(30)), st.integers(1, 30), st.integers(0, 30))
def test_results_are_in_the_callers_order(order: list[int], size: int, first: int) -> None:
    """
    Whatever parts records and verdicts come in, each with its record, verdict and id.
    """
    given_ = [f"record {n}" for n in range(30)]
    collector = ResultCollector()
    collector.expect(given_[:first])
    collector.expect(given_[first:])
    parts = [order[start : start + size] for start in range(0, 30, size)]

    for number, part in enumerate(parts):
        assert sorted(position for later in parts[number:] for position in later) == (
            collector.missing()
        )
        verdict = VERDICTS[number % len(VERDICTS)]
        collector.add([SettledRecords(verdict, part, [f"id {position}" for position in part])])

    assert [] == collector.missing()
    assert 30 == len(collector)
    result = collector.result(calls=7, throttled=2)
    assert (7, 2) == (result.calls, result.throttled)
    assert given_ == [one.record for one in result.results]
    assert list(range(30)) == [one.position for one in result.results]
    assert [f"id {n}" for n in range(30)] == [one.metering_record_id for one in result.results]
    of = {p: VERDICTS[n % len(VERDICTS)] for n, part in enumerate(parts) for p in part}
    assert [of[n] for n in range(30)] == [one.verdict for one in result.results]
    counts = Counter(verdict.status for verdict in of.values())
    assert counts == Counter(result.counts) == collector.counts


def test_results_are_a_sequence() -> None:
    """
    By index, from the end, in slices, and as often as anybody likes.
    """
    collector = ResultCollector()
    collector.expect("abc")
    collector.add([unmetered(VERDICTS[0], range(3))])
    results = collector.result().results

    assert 3 == len(results)
    assert "a" == results[0].record
    assert (2, "c") == (results[-1].position, results[-1].record)
    assert [(1, "b"), (2, "c")] == [(one.position, one.record) for one in results[1:]]
    assert list(results) == list(results) == results[:]
    with pytest.raises(IndexError):
        results[3]


@pytest.mark.parametrize(
    ("positions", "wrong"),
    [
        ([1], r"a second result for records\[1\]"),
        ([0, 0], r"a second result for records\[0\]"),
        ([3], r"a foreign result for records\[3\]"),
        ([-1], r"a foreign result for records\[-1\]"),
    ],
)
def test_strangers_and_doubles_are_refused(positions: list[int], wrong: str) -> None:
    """
    A position has one verdict, and lies within what was given.
    """
    collector = ResultCollector()
    collector.expect("abc")
    collector.add([unmetered(VERDICTS[0], [1])])

    with pytest.raises(ValueError, match=wrong):
        collector.add([unmetered(VERDICTS[1], positions)])


def test_a_result_is_complete_or_none() -> None:
    """
    Records without a verdict are named by `missing`, and keep a result from being made.
    """
    collector = ResultCollector()
    assert 0 == len(collector.result().results)
    collector.expect("abc")
    collector.add([unmetered(VERDICTS[0], [1])])

    assert [0, 2] == collector.missing()
    with pytest.raises(ValueError, match="2 records have no result"):
        collector.result()
