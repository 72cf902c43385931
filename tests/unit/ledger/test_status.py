"""Where all usage is: what the figures of a store mean."""

from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any

from attrs import evolve
from support.statuses import EMPTY

from marketplace_metering_async.ledger.model import HourState
from marketplace_metering_async.ledger.status import ProductStatus, status_of
from marketplace_metering_async.ledger.sums import RECORDED, Sum

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
UNITS = 1_000_000


def a_sum(state: str, units: int, records: int = 1, **more: Any) -> Sum:
    known: dict[str, Any] = {"product_code": "product", "dimension": "requests", "latest": 0} | more
    return Sum(state=state, quantity=units * UNITS, records=records, **known)


def test_an_empty_ledger_has_no_ages() -> None:
    """
    No usage is told from broken metering.
    """
    status = status_of(EMPTY, NOON)

    assert (0, {}, []) == (status.recorded, status.ended, status.products)
    assert status.oldest_unsent_seconds is None
    assert status.seconds_to_first_loss is None
    assert status.last_usage_seconds is None


def test_sums_are_shown_by_product_and_all_together() -> None:
    """
    In units, which add up.
    """
    sums = [
        a_sum("open", 1),
        a_sum("frozen", 2),
        a_sum("metered", 4, 3),
        a_sum("rejected", 8),
        a_sum("month_over", 16, 0),
        a_sum(RECORDED, 31, 0),
        a_sum("metered", 32, product_code="other"),
        a_sum(RECORDED, 32, 0, product_code="other"),
    ]
    status = status_of(evolve(EMPTY, sums=sums), NOON)

    ended = {HourState.REJECTED: 8, HourState.MONTH_OVER: 16}
    assert (63, 1, 2, 36) == (status.recorded, status.open, status.frozen, status.metered)
    assert ended == status.ended
    assert {"open": 1, "frozen": 1, "metered": 4, "rejected": 1} == status.records
    assert [
        ProductStatus(product_code="other", dimension="requests", metered=32),
        ProductStatus(
            product_code="product", dimension="requests", open=1, frozen=2, metered=4, ended=ended
        ),
    ] == status.products


def test_what_was_sent_again_has_not_ended() -> None:
    """
    A sum that nothing is left of shows no state.
    """
    status = status_of(evolve(EMPTY, sums=[a_sum("rejected", 0, 0)]), NOON)

    assert {} == status.ended == status.records


def test_ages_count_from_the_ends_of_hours_and_windows() -> None:
    """
    The oldest hour is late from its end on; its first stamp is lost with its window.
    """
    known = evolve(
        EMPTY,
        ledger=evolve(EMPTY.ledger, last_success_at=NOON - 60),
        sums=[a_sum(RECORDED, 1, 0, latest=NOON - 90), a_sum(RECORDED, 1, 0, latest=NOON - 30)],
        oldest_hour=NOON - 20 * 3600,
        first_stamp=NOON - 20 * 3600 + 60,
    )
    status = status_of(known, NOON)

    assert 19 * 3600 == status.oldest_unsent_seconds
    assert 4 * 3600 + 60 == status.seconds_to_first_loss
    assert (60, 30) == (status.last_success_seconds, status.last_usage_seconds)


def test_figures_become_units_and_times() -> None:
    """
    Of UTC.
    """
    known = evolve(
        EMPTY,
        ledger=evolve(EMPTY.ledger, guarded_since=1, region_name="us-east-1", host="metering"),
        at_risk=3 * UNITS,
        in_flight=4 * UNITS,
        claimed_until=float(NOON),
        next_send=NOON + 1,
        next_seal=NOON + 2,
    )
    status = status_of(known, NOON)

    assert (3, 4, True) == (status.at_risk, status.in_flight, status.is_unconfirmed_copy)
    assert ("us-east-1", "metering") == (status.region_name, status.host)
    assert [datetime.fromtimestamp(NOON + n, UTC) for n in range(3)] == [
        status.claimed_until,
        status.next_send_at,
        status.next_seal_at,
    ]


def test_sums_are_exact_whatever_the_context_of_the_decimal_module() -> None:
    """
    Ints where whole, also of parts that are not; a context of the caller's rounds none. Issue 20
    """
    sums = [
        a_sum("open", 0)._replace(quantity=10**18 + 1),
        a_sum("open", 0)._replace(quantity=999_999, product_code="other"),
        a_sum("rejected", 0)._replace(quantity=2),
        a_sum("rejected", 0)._replace(quantity=1, product_code="other"),
        a_sum(RECORDED, 0)._replace(quantity=10**18 + 1_000_003),
    ]
    known = evolve(EMPTY, sums=sums, at_risk=1, in_flight=1_500_000)
    with localcontext(prec=3):
        status = status_of(known, NOON)

    assert Decimal("1000000000001.000003") == status.recorded
    assert (10**12 + 1, int) == (status.open, type(status.open))
    assert {HourState.REJECTED: Decimal("0.000003")} == status.ended
    assert (Decimal("0.000001"), Decimal("1.5")) == (status.at_risk, status.in_flight)
    assert [Decimal("0.999999"), Decimal("1000000000000.000001")] == [
        product.open for product in status.products
    ]


def test_a_note_that_is_ahead_of_the_clock_proves_nothing() -> None:
    """
    A clock that was set back does not keep the alarm silent for as long as it was ahead.
    """
    ledger = evolve(EMPTY.ledger, last_relay_at=NOON + 7_200, last_success_at=NOON + 60)
    status = status_of(evolve(EMPTY, ledger=ledger), NOON)

    assert (7_200, 60) == (status.last_relay_seconds, status.last_success_seconds)
