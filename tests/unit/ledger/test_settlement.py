"""From a verdict to what becomes of a frozen record."""

from marketplace_metering_async.errors import SimilarRecordRefusedError
from marketplace_metering_async.ledger.model import FrozenHour, HourState, UsageKey
from marketplace_metering_async.ledger.settlement import settlement
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict
from marketplace_metering_async.service_errors import InvalidUsageDimensionException

NOON = 1_795_435_200
CLAIMED = FrozenHour(
    hour_id=1,
    fence=1,
    key=UsageKey("product", "111122223333", "", "", "typo"),
    license_product="",
    stamp=NOON - 7200,
    quantity=5,
    attempts=0,
    in_doubt=False,
)
REFUSAL = InvalidUsageDimensionException("InvalidUsageDimensionException", "no such dimension")


def test_a_record_held_back_for_a_similar_one_is_tried_again() -> None:
    """
    It was not refused itself. Design law 4
    """
    error = SimilarRecordRefusedError(REFUSAL.code, "dimension")
    result = RecordResult(0, None, Verdict(status=RecordStatus.REJECTED, error=error))

    settled = settlement(CLAIMED, result, NOON)

    assert HourState.FROZEN is settled.state
    assert NOON < settled.not_before


def test_a_record_that_was_refused_itself_has_ended() -> None:
    """
    The service said so of this very record.
    """
    result = RecordResult(0, None, Verdict(status=RecordStatus.REJECTED, error=REFUSAL))

    assert HourState.REJECTED is settlement(CLAIMED, result, NOON).state
