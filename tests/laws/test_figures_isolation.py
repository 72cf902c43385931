"""Figures of isolation: what one odd record costs the others, in records and in calls."""

from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from support.figures import DOORS, batch, refusing, send_through
from support.memory import MemoryService, usage
from support.virtual import START

from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.sandbox import Refusal

S = RecordStatus
ARN = "arn:aws:license-manager::123456789012:license:l-{}"
HOUR = START.replace(minute=0)


def odd_places() -> list[tuple[int, int, int]]:
    """How many odd records, of how many, from which place on."""
    cases = []
    for size in (25, 100, 1000):
        for odd in (1, 25, 60):
            if odd < size:
                places = {0, 1, 12, size // 2, size - odd - 1, size - odd}
                cases += [(odd, size, place) for place in sorted(places) if place + odd <= size]
    return cases


def _names_customers(odd: Sequence[dict[str, Any]]) -> str:
    return "not accepted for " + ", ".join(r["CustomerAWSAccountId"] for r in odd)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("odd", "size", "place"), odd_places())
def test_odd_records_cost_no_other_its_verdict(
    odd: int, size: int, place: int, *, named: bool
) -> None:
    """
    Records that meet a code nobody knows, at any place, named in the message or not: every other
    one is metered in the first batch, and no odd one is blamed. Covers: S04. Core F1
    """
    bad = {f"{n:012d}" for n in range(place, place + odd)}
    message = _names_customers if named else lambda odd: "odd"
    service = MemoryService(
        refusing(lambda r: r["CustomerAWSAccountId"] in bad, "NovelException", message=message)
    )

    result = batch(service, usage(size))

    assert {S.SUCCESS: size - odd, S.UNPROCESSED: odd} == result.counts
    assert [place <= n < place + odd for n in range(size)] == [
        r.status is S.UNPROCESSED for r in result
    ]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("odd", [1, 25])
@pytest.mark.parametrize("door", ["stream", "batcher"])
def test_odd_records_at_the_other_doors(door: str, odd: int, *, named: bool) -> None:
    """
    The same through stream and batcher, each odd one with the service's own word. Core F1
    """
    bad = {f"{n:012d}" for n in range(odd)}
    message = _names_customers if named else lambda odd: "odd"
    service = MemoryService(
        refusing(lambda r: r["CustomerAWSAccountId"] in bad, "NovelException", message=message)
    )

    results = send_through(door, service, usage(100))

    assert [S.UNPROCESSED] * odd + [S.SUCCESS] * (100 - odd) == [r.status for r in results]
    assert {(False, "NovelException")} == {
        (r.metered, getattr(r.error, "code", None)) for r in results[:odd]
    }


@pytest.mark.parametrize("door", DOORS)
def test_the_hours_of_a_license_after_its_activation_are_metered(door: str) -> None:
    """
    Fifteen hours of a license are refused since it was not active, the five after them are metered,
    in the same batch. Core F2
    """
    active = HOUR - timedelta(hours=6)
    service = MemoryService(
        refusing(lambda r: r["Timestamp"] < active.timestamp(), "InvalidLicenseException")
    )
    records = [
        usage(1, license_arn=ARN.format("a"), timestamp=HOUR - timedelta(hours=hours))[0]
        for hours in range(21, 1, -1)
    ]

    results = send_through(door, service, records)

    assert [S.REJECTED] * 15 + [S.SUCCESS] * 5 == [r.status for r in results]
    assert 5 == len(service.book)


def licenses(
    count: int, *, product_code: str | None = None, dimension: str = "requests"
) -> list[UsageRecord]:
    """One record each of *count* licenses."""
    return [
        usage(
            1,
            product_code=product_code,
            license_arn=ARN.format(n),
            customer_aws_account_id=f"{n:012d}",
            dimension=dimension,
        )[0]
        for n in range(count)
    ]


def test_one_bad_license_of_5000_of_one_product() -> None:
    """
    Licenses whose product nobody named, all of one: the bad one is found in at most 25 calls more
    than the 200 that carry the others. Core F22
    """
    bad = ARN.format(2601)
    service = MemoryService(refusing(lambda r: r["LicenseArn"] == bad, "InvalidLicenseException"))

    result = batch(service, licenses(5000))

    assert {S.SUCCESS: 4999, S.REJECTED: 1} == result.counts
    assert result.calls <= 225


def mixing_is_refused(product_of: Any) -> Any:
    """Refuse a request whose licenses are of several products."""

    def fault_of(number: int, body: dict[str, Any]) -> Refusal | None:
        products = {product_of(record["LicenseArn"]) for record in body["UsageRecords"]}
        return Refusal("InvalidLicenseException") if len(products) > 1 else None

    return fault_of


def test_5000_licenses_of_two_products_in_blocks() -> None:
    """
    One block after the other, so that one chunk mixes: at most 450 calls. Core F22
    """
    service = MemoryService(mixing_is_refused(lambda arn: int(arn.rpartition("-")[2]) < 2510))

    result = batch(service, licenses(5000))

    assert {S.SUCCESS: 5000} == result.counts
    assert result.calls <= 450


def test_5000_licenses_of_two_products_at_random() -> None:
    """
    Interleaved: all are metered, in at most 1.1 calls a record. Core F22
    """
    random = Random(0)
    product_of = {ARN.format(n): random.random() < 0.5 for n in range(5000)}
    service = MemoryService(mixing_is_refused(product_of.__getitem__))

    result = batch(service, licenses(5000))

    assert {S.SUCCESS: 5000} == result.counts
    assert result.calls <= 1.1 * 5000


@pytest.mark.parametrize("calls_per_second", [10.0, None])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_misspelt_dimension_in_2000_license_records(
    share: float, calls_per_second: float | None
) -> None:
    """
    The product is named, so the dimension tells who else is refused: at most 30 calls more than
    the good ones alone would take. Core F22
    """
    random = Random(1)
    good, typo = (
        licenses(2000, product_code="product", dimension=name) for name in ("requests", "typo")
    )
    records = [typo[n] if random.random() < share else good[n] for n in range(2000)]
    bad = sum(record.dimension == "typo" for record in records)
    wrong = refusing(lambda r: r["Dimension"] == "typo", "InvalidUsageDimensionException")
    service = MemoryService(wrong)

    result = batch(service, records, calls_per_second=calls_per_second)

    assert {S.SUCCESS: 2000 - bad, S.REJECTED: bad} == result.counts
    assert result.calls <= -(-(2000 - bad) // 25) + 30


def test_what_is_similar_is_held_back_for_a_minute_only() -> None:
    """
    A wrong customer with a thousand hours costs one search, and no verdict is final. Core F22
    """
    bad = "000000000007"
    service = MemoryService(
        refusing(lambda r: r["CustomerAWSAccountId"] == bad, "InvalidCustomerIdentifierException")
    )
    records = [
        usage(
            1, customer_aws_account_id=bad, dimension=f"d-{n}", timestamp=HOUR - timedelta(hours=h)
        )[0]
        for n in range(50)
        for h in range(2, 22)
    ] + usage(1000, dimension="other")[8:]

    result = batch(service, records)

    assert {S.REJECTED: 1000, S.SUCCESS: 992} == result.counts
    assert result.calls <= 40 + 15
    unsent = [r for r in result if r.attempts == 0]
    assert len(unsent) >= 1000 - 10 * 25  # a rested account's burst had left by then
    assert all(r.retryable for r in unsent)
