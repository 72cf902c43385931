"""From a verdict to what becomes of a frozen record."""

from typing import Any

import pytest
from attrs import evolve
from support.claims import CLAIM

from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    MarketplaceMeteringException,
    MeteringError,
    OutOfWindowError,
    SimilarRecordRefusedError,
    Violation,
)
from marketplace_metering_async.ledger.hours import deadline_of
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Settlement
from marketplace_metering_async.ledger.settlement import settlement
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict
from marketplace_metering_async.service_errors import (
    InternalServiceErrorException,
    InvalidLicenseException,
    InvalidTagException,
    InvalidUsageAllocationsException,
    InvalidUsageDimensionException,
    TimestampOutOfBoundsException,
)

NOON = 1_795_435_200
HOUR = 3600
CLAIMED = evolve(CLAIM, key=CLAIM.key._replace(dimension="typo"), stamp=NOON - 2 * HOUR)
REFUSAL = InvalidUsageDimensionException("InvalidUsageDimensionException", "no such dimension")
LICENSE = InvalidLicenseException("InvalidLicenseException", "not in force")
OUT_OF_BOUNDS = TimestampOutOfBoundsException("TimestampOutOfBoundsException", "too old")
OUT_OF_WINDOW = OutOfWindowError([Violation("timestamp", "in the window", "before")])
FAULT = InternalServiceErrorException("InternalServiceErrorException", "")


def settled(
    status: RecordStatus,
    error: MeteringError | None = None,
    *,
    claimed: FrozenHour = CLAIMED,
    now: int = NOON,
    **more: Any,
) -> Settlement:
    return settlement(
        claimed, RecordResult(0, None, Verdict(status=status, error=error, **more)), now
    )


def test_a_success_is_metered() -> None:
    """
    And carries what evidence there is.
    """
    verdict = Verdict(status=RecordStatus.SUCCESS, request_id="request")
    one = settlement(CLAIMED, RecordResult(0, None, verdict, "id"), NOON)

    assert (HourState.METERED, "id", "request") == (
        one.state,
        one.metering_record_id,
        one.request_id,
    )
    assert one.claim is CLAIMED


def test_a_duplicate_is_ours_only_where_there_was_doubt() -> None:
    """
    Of this claim or of one before. Covers: R07
    """
    states = [
        settled(RecordStatus.DUPLICATE_RECORD).state,
        settled(RecordStatus.DUPLICATE_RECORD, ambiguous=True).state,
        settled(RecordStatus.DUPLICATE_RECORD, claimed=evolve(CLAIMED, in_doubt=True)).state,
    ]

    assert [HourState.CONFLICT, *[HourState.PROBABLY_METERED] * 2] == states


def test_a_customer_without_a_subscription_is_named() -> None:
    """
    Which is for a person.
    """
    assert HourState.NOT_SUBSCRIBED is settled(RecordStatus.CUSTOMER_NOT_SUBSCRIBED).state


def test_a_record_held_back_for_a_similar_one_is_tried_again() -> None:
    """
    It was not refused itself. Design law 4
    """
    one = settled(RecordStatus.REJECTED, SimilarRecordRefusedError(REFUSAL.code, "dimension"))

    assert HourState.FROZEN is one.state
    assert one.not_before > NOON


def test_a_record_that_was_refused_itself_has_ended() -> None:
    """
    The service said so of this very record.
    """
    one = settled(RecordStatus.REJECTED, REFUSAL)

    assert (HourState.REJECTED, 0) == (one.state, one.not_before)
    assert one.error is not None
    assert one.error.startswith("InvalidUsageDimensionException: ")


@pytest.mark.parametrize(
    ("status", "error", "older"),
    [
        (RecordStatus.REJECTED, OUT_OF_BOUNDS, HourState.REJECTED),
        (RecordStatus.REJECTED, OUT_OF_WINDOW, HourState.TOO_LATE),
        (RecordStatus.UNCONFIRMED, OUT_OF_WINDOW, HourState.UNCONFIRMED),
    ],
)
def test_a_young_record_that_is_out_of_bounds_waits(
    status: RecordStatus, error: MeteringError, older: HourState
) -> None:
    """
    Our clock may have been ahead when its hour was sealed; after three hours that is no reason.
    """
    young = evolve(CLAIMED, stamp=NOON - 3 * HOUR + 1)
    waits = settled(status, error, claimed=young)

    assert (HourState.FROZEN, status is RecordStatus.UNCONFIRMED) == (waits.state, waits.in_doubt)
    assert waits.not_before > NOON
    assert older is settled(status, error, claimed=evolve(CLAIMED, stamp=NOON - 3 * HOUR)).state


@pytest.mark.parametrize("status", [RecordStatus.REJECTED, RecordStatus.UNCONFIRMED])
@pytest.mark.parametrize("ahead", [3 * HOUR, 40 * HOUR])
def test_what_is_ahead_of_the_services_clock_waits(status: RecordStatus, ahead: int) -> None:
    """
    However far our clock is: the client knows that it is not late, though ours says so.
    Design, Laws of the ledger
    """
    early = OutOfWindowError([Violation("timestamp", "a time by noon", "later")])
    early.is_early = True
    sealed = evolve(CLAIMED, stamp=NOON - ahead)
    waits = settled(status, early, claimed=sealed)

    assert HourState.FROZEN is waits.state
    assert waits.not_before > NOON


@pytest.mark.parametrize(
    ("status", "before", "after"),
    [
        (RecordStatus.REJECTED, HourState.REJECTED, HourState.TOO_LATE),
        (RecordStatus.UNCONFIRMED, HourState.FROZEN, HourState.UNCONFIRMED),
    ],
)
def test_what_is_out_of_bounds_ends_once_the_window_has_closed(
    status: RecordStatus, before: HourState, after: HourState
) -> None:
    """
    Before that the service refuses it for another reason, which is for a person; or it may be
    metered. The client knows the window, too. ledger H11
    """
    old = evolve(CLAIMED, stamp=NOON - 20 * HOUR)
    end = deadline_of(old.stamp)
    states = [settled(status, OUT_OF_BOUNDS, claimed=old, now=n).state for n in (end - 1, end)]

    assert [before, after] == states
    assert after is settled(status, OUT_OF_WINDOW, claimed=old).state


@pytest.mark.parametrize("status", [RecordStatus.UNPROCESSED, RecordStatus.UNCONFIRMED])
def test_what_has_no_verdict_is_tried_again(status: RecordStatus) -> None:
    """
    Unchanged, and in doubt where nobody knows.
    """
    one = settled(status, FAULT, service_status="Postponed")

    assert (HourState.FROZEN, "Postponed") == (one.state, one.status)
    assert one.in_doubt is (status is RecordStatus.UNCONFIRMED)
    plain = settled(status, FAULT)
    assert (status.value, None, None) == (plain.status, plain.request_id, plain.metering_record_id)


@pytest.mark.parametrize(
    ("status", "error", "free_of_doubt"),
    [
        (RecordStatus.CUSTOMER_NOT_SUBSCRIBED, None, HourState.NOT_SUBSCRIBED),
        (RecordStatus.REJECTED, REFUSAL, HourState.REJECTED),
        (RecordStatus.REJECTED, LICENSE, HourState.REJECTED),
        (RecordStatus.REJECTED, OUT_OF_WINDOW, HourState.TOO_LATE),
        (RecordStatus.REJECTED, OUT_OF_BOUNDS, HourState.TOO_LATE),
    ],
)
def test_a_refusal_settles_no_doubt_of_an_earlier_claim(
    status: RecordStatus, error: MeteringError | None, free_of_doubt: HourState
) -> None:
    """
    Of time, state, license, subscription, or of what a listing has now. ledger H11, design law 5
    """
    old = evolve(CLAIMED, stamp=NOON - 25 * HOUR)
    free = settled(status, error, claimed=old)
    doubted = settled(status, error, claimed=evolve(old, in_doubt=True))

    assert (free_of_doubt, False) == (free.state, free.in_doubt)
    assert (HourState.UNCONFIRMED, True) == (doubted.state, doubted.in_doubt)


@pytest.mark.parametrize(
    "error",
    [
        InvalidTagException("InvalidTagException", ""),
        InvalidUsageAllocationsException("InvalidUsageAllocationsException", ""),
    ],
)
def test_a_refusal_of_the_records_form_settles_all_doubt(error: MeteringError) -> None:
    """
    It would have been refused before as well. ledger H11, design law 5
    """
    one = settled(RecordStatus.REJECTED, error, claimed=evolve(CLAIMED, in_doubt=True))

    assert (HourState.REJECTED, False) == (one.state, one.in_doubt)


def test_a_record_that_met_its_refusal_alone_is_in_no_doubt_of_its_own() -> None:
    """
    The client has seen to it, within one delivery. Design law 5
    """
    one = settled(RecordStatus.REJECTED, REFUSAL, ambiguous=True)

    assert (HourState.REJECTED, False) == (one.state, one.in_doubt)


def test_the_pause_doubles_with_each_attempt() -> None:
    """
    From five seconds to five minutes.
    """
    pauses = [
        settled(RecordStatus.UNPROCESSED, FAULT, claimed=evolve(CLAIMED, attempts=n)).not_before
        - NOON
        for n in (0, 1, 2, 5, 6, 99)
    ]

    assert [5, 10, 20, 160, 300, 300] == pauses


@pytest.mark.parametrize(
    "error",
    [DeliveryTimeoutError("stopped"), MarketplaceMeteringException("AccessDeniedException", "no")],
)
def test_what_was_stopped_goes_at_once(error: MeteringError) -> None:
    """
    It did not fail: it was asked to stop, or the account has a fault that a person sets right.
    """
    assert NOON == settled(RecordStatus.UNPROCESSED, error).not_before


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (
            InvalidUsageDimensionException(
                "InvalidUsageDimensionException", "no\x00such\ud800 one\n", status=400
            ),
            "InvalidUsageDimensionException (HTTP 400): no?such? one?",
        ),
        (MarketplaceMeteringException("MoonPhase", "x" * 999), f"MoonPhase: {'x' * 200}"),
        (FAULT, "InternalServiceErrorException"),
        (DeliveryTimeoutError("stopped"), "DeliveryTimeoutError: stopped"),
        (None, None),
    ],
)
def test_the_services_own_words_are_kept(error: MeteringError | None, kept: str | None) -> None:
    """
    Who asks why a record was refused finds them in the history: short, and without what a database
    may not store.
    """
    assert kept == settled(RecordStatus.UNPROCESSED, error).error


def test_what_no_database_may_store_is_not_kept() -> None:
    """
    Wherever in a response it stood: a verdict that cannot be written keeps a relay from all others.
    """
    verdict = Verdict(
        status=RecordStatus.UNCONFIRMED, service_status="St\ud800", request_id="id\x00", attempts=1
    )
    odd = settlement(CLAIMED, RecordResult(0, None, verdict, "record\ud800"), NOON)
    other = settled(RecordStatus.UNPROCESSED, DeliveryTimeoutError("no\x00"))

    assert ("St?", "id?", "record?") == (odd.status, odd.request_id, odd.metering_record_id)
    assert "DeliveryTimeoutError: no?" == other.error
