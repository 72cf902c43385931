"""Delivery: the laws hold for any batch, any faults, any order of events."""

import asyncio
import json
from collections import defaultdict
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.figures import AFTER, BEFORE, ODD
from support.memory import MemoryService, client_of, metered, untrue
from support.virtual import START, run_virtual

from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import BatchMeterUsageResult, RecordStatus
from marketplace_metering_async.sandbox import Book, FaultKind, Product, Rules

FAULTS = [*BEFORE, *AFTER, *ODD]
HOUR = START.replace(minute=0)
GOOD_DIMENSIONS = frozenset({"requests", "bytes"})


def a_record(
    customer: int, dimension: str, product_code: str, hours: int, quantity: Any
) -> UsageRecord:
    return UsageRecord(
        timestamp=HOUR - timedelta(hours=hours),
        dimension=dimension,
        quantity=quantity,
        customer_aws_account_id=f"{customer:012d}",
        product_code=product_code,
    )


records = st.builds(
    a_record,
    st.integers(0, 30),
    st.sampled_from(["requests", "bytes", "typo"]),
    st.sampled_from(["prod-a", "prod-b", "unknown"]),
    st.integers(1, 3),
    st.sampled_from([0, 1, "1.0", "0.000001"]),
)


def a_book(resend: Any) -> Book:
    """Two products; customer 13 is unknown, 7 has cancelled."""
    customers = {f"{n:012d}": n != 7 for n in range(31) if n != 13}
    products = {
        name: Product(dimensions=GOOD_DIMENSIONS, customers=customers)
        for name in ("prod-a", "prod-b")
    }
    return Book(rules=Rules(identical_resend=resend), products=products)


def check_requests(service: MemoryService) -> None:
    """No request breaks a limit, and no record is ever sent in two versions."""
    versions: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for body in service.requests:
        sent = body["UsageRecords"]
        keys = [
            (body["ProductCode"], r["CustomerAWSAccountId"], r["Dimension"], r["Timestamp"] // 3600)
            for r in sent
        ]
        assert 1 <= len(sent) <= 25
        assert len(set(keys)) == len(keys)
        for key, r in zip(keys, sent, strict=True):
            versions[key].add(json.dumps(r))
    assert all(len(found) == 1 for found in versions.values())


def check_result(given_: list[UsageRecord], result: BatchMeterUsageResult, book: Book) -> None:
    """One verdict for each record, in order, and true of the book."""
    assert given_ == [r.record for r in result]
    assert not untrue(result, book)
    assert sum(result.counts.values()) == len(given_)
    for r in result:
        assert r.advice
        assert (r.status is RecordStatus.SUCCESS) == (r.metered is True)


@settings(max_examples=examples(150))
@given(
    given_=st.lists(records, max_size=120),
    faults=st.lists(st.sampled_from([None, *FAULTS]), max_size=40),
    resend=st.sampled_from(["duplicate", "success"]),
    concurrency=st.integers(1, 8),
    attempts=st.sampled_from([None, 1, 3]),
)
def test_every_verdict_is_true_of_the_book(
    given_: list[UsageRecord],
    faults: list[FaultKind | None],
    resend: str,
    concurrency: int,
    attempts: int | None,
) -> None:
    """
    Whatever is given and whatever goes wrong, each record is metered at most once, rightly.
    """
    service = MemoryService(
        lambda number, body: faults[number - 1] if number <= len(faults) else None,
        book=a_book(resend),
    )

    async def send() -> BatchMeterUsageResult:
        policy = RetryPolicy(max_attempts=attempts, timeout=120)
        async with client_of(service, max_concurrency=concurrency, retry=policy) as client:
            return await client.batch_meter_usage(given_)

    result = run_virtual(send())

    check_requests(service)
    check_result(given_, result, service.book)
    if attempts is None:
        bad = {RecordStatus.UNPROCESSED: "unknown"}
        left = [r for r in result if r.status in bad]
        assert all(getattr(r.record, "product_code", None) == "unknown" for r in left)


@pytest.mark.parametrize("resend", ["duplicate", "success"])
@pytest.mark.parametrize("step", ["first", "second", "search", "resend", "last"])
@pytest.mark.parametrize("kind", [*FAULTS, "cancel"])
def test_the_matrix_of_steps_and_faults(kind: FaultKind | str, step: str, resend: str) -> None:
    """
    A fault at each step of a delivery that has a refusal, a search and a resend in it anyway.

    Covers: W05, W06, W07, W10, S01, S02, S17, R01, R02, R03, R04, R05, R06, R09, C03, C04
    """
    given_ = [
        a_record(n % 31, dimension, "prod-a", 1 + n // 31, n % 3)
        for n, dimension in product(range(60), ["requests"])
    ] + [a_record(1, "typo", "prod-a", 1, 1)]
    at = {"first": 1, "second": 2, "search": 4, "resend": 6, "last": 9}[step]
    task: asyncio.Task[Any] | None = None

    def fault_of(number: int, body: dict[str, Any]) -> FaultKind | None:
        if number == 3:
            return FaultKind.RESET_AFTER
        if number == at and kind == "cancel" and task is not None:
            task.cancel()
        return kind if number == at and isinstance(kind, FaultKind) else None

    service = MemoryService(fault_of, book=a_book(resend), seed=at)

    async def send() -> BatchMeterUsageResult:
        nonlocal task
        async with client_of(service, max_concurrency=2) as client:
            task = sending = asyncio.create_task(client.batch_meter_usage(given_))
            try:
                return await sending
            except asyncio.CancelledError:
                return await client.batch_meter_usage(given_)

    result = run_virtual(send())

    check_requests(service)
    known = {
        (r.product_code, r.customer_aws_account_id, r.dimension, r.timestamp): r.quantity
        for r in given_
        if r.dimension != "typo" and r.customer_aws_account_id not in (f"{7:012d}", f"{13:012d}")
    }
    assert known == metered(service.book)
    if kind != "cancel":  # a second batch cannot know what the first one got metered
        check_result(given_, result, service.book)
