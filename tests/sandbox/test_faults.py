"""Faults by rule: which requests go wrong, how often, and how."""

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.sandbox import (
    Book,
    Fault,
    FaultKind,
    Refusal,
    Sandbox,
    ScriptedResponse,
)
from marketplace_metering_async.sandbox.faults import Faults

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


def batch(*dimensions: str, customer: str = "1", product: str = "p") -> dict[str, Any]:
    return {
        "ProductCode": product,
        "UsageRecords": [
            {
                "Timestamp": HOUR.timestamp(),
                "CustomerAWSAccountId": customer,
                "Dimension": dimension,
                "Quantity": 1,
            }
            for dimension in dimensions
        ],
    }


def hits(fault: Any, count: int, request: Any = None, seed: int = 0) -> list[int]:
    """Return which of *count* requests are hit."""
    faults = Faults([fault], seed=seed)
    request = batch("a") if request is None else request
    return [n for n in range(count) if faults.hit("BatchMeterUsage", request)]


def test_the_nth_call_is_hit() -> None:
    """
    After some are skipped, each n-th, at most a number of times.
    """
    assert [0, 1, 2, 3] == hits(Fault(kind=FaultKind.THROTTLE), 4)
    assert [2] == hits(Fault(kind=FaultKind.THROTTLE, after=2, max_hits=1), 6)
    assert [2, 5, 8] == hits(Fault(kind=FaultKind.THROTTLE, every_nth=3), 9)
    assert [3, 5] == hits(Fault(kind=FaultKind.THROTTLE, after=2, every_nth=2, max_hits=2), 9)


@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_a_share_is_the_same_for_a_seed(seed: int, share: float) -> None:
    """
    Whatever other rules are in force beside it.
    """
    fault = Fault(kind=FaultKind.THROTTLE, probability=share)
    alone = hits(fault, 50, seed=seed)
    beside = Faults([fault, Fault(kind=FaultKind.SLOW, probability=0.5)], seed=seed)
    hit = [beside.hit("BatchMeterUsage", batch("a")) for _ in range(50)]

    assert alone == hits(fault, 50, seed=seed)
    assert alone == [n for n, s in enumerate(hit) if s is not None and s.name == "throttle"]


def test_only_what_a_rule_is_about_is_hit() -> None:
    """
    Operation, product, customer and dimension.
    """
    faults = Faults([Fault(kind=FaultKind.THROTTLE, product_code="p", customer="1", dimension="a")])

    assert faults.hit("BatchMeterUsage", batch("b", "a"))
    for operation, request in (
        ("MeterUsage", batch("a")),
        ("BatchMeterUsage", batch("a", product="q")),
        ("BatchMeterUsage", batch("a", customer="2")),
        ("BatchMeterUsage", batch("b")),
        ("BatchMeterUsage", {"ProductCode": "p", "UsageRecords": 5}),
    ):
        assert faults.hit(operation, request) is None
    everywhere = Faults([Fault(kind=FaultKind.THROTTLE, operation=None)])
    assert everywhere.hit("MeterUsage", {})


def test_records_are_left_by_index_by_customer_or_by_chance() -> None:
    """
    And never more than a number of them.
    """

    def left(**how: Any) -> list[int]:
        hit = Faults([Fault(kind=FaultKind.UNPROCESSED, **how)]).hit("BatchMeterUsage", request)
        assert hit is not None
        return hit.left(request)

    request = batch("a", "b", "c", "a")

    assert [0, 2] == left(records=[2, 0, 99])
    assert [0, 3] == left(dimension="a", unprocessed_share=1)
    assert [0, 1] == left(unprocessed_share=1, max_unprocessed=2)
    assert [] == left(unprocessed_share=0)


def test_what_is_left_of_a_rule_is_told() -> None:
    """
    As the page shows it; rules are taken away one by one.
    """
    faults = Faults(
        [Fault(kind=FaultKind.THROTTLE, after=1, max_hits=3), Fault(kind=FaultKind.SLOW)]
    )
    for _ in range(3):
        faults.hit("BatchMeterUsage", batch("a"))
    first = faults.rules[0]
    assert isinstance(first, Fault)
    assert (0, 1) == (first.after, first.max_hits)
    assert (3, 2) == (faults.in_force[0].matched, faults.in_force[0].hits)
    faults.remove(0)

    assert [FaultKind.SLOW] == [getattr(rule, "kind", None) for rule in faults.rules]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "none"},
        {"probability": 2},
        {"max_hits": -1},
        {"after": "1"},
        {"every_nth": 0},
        {"seconds": -1},
        {"status": 200},
        {"operation": "batchMeterUsage"},
        {"operation": 5},
    ],
)
def test_odd_rules_are_refused(wrong: dict[str, Any]) -> None:
    """
    When they are made, and not when they would strike.
    """
    with pytest.raises((ValueError, TypeError)):
        Fault(**{"kind": "throttle"} | wrong)


def test_an_answer_of_ones_own_has_a_status_of_an_answer() -> None:
    """
    100 is none: a client waits for another one.
    """
    with pytest.raises(ValueError, match="status"):
        ScriptedResponse(status=100)


async def call(place: Sandbox, request: dict[str, Any]) -> tuple[int, str, bytes]:
    """Send a request without a client's care; return status, content type and body."""
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    scope = f"k/{now[:8]}/us-east-1/aws-marketplace/aws4_request"
    signed = f"Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "AWSMPMeteringService.BatchMeterUsage",
        "X-Amz-Date": now,
        "Authorization": f"AWS4-HMAC-SHA256 {signed}",
    }
    async with (
        aiohttp.ClientSession() as web,
        web.post(place.url, data=json.dumps(request), headers=headers) as answer,
    ):
        return answer.status, answer.content_type, await answer.read()


NOT_APPLIED = {
    FaultKind.THROTTLE,
    FaultKind.ERROR_500,
    FaultKind.ERROR_503,
    FaultKind.RESET_BEFORE,
    FaultKind.HTML,
    FaultKind.REDIRECT,
    FaultKind.REFUSE,
}


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.UNPROCESSED])
@pytest.mark.filterwarnings("ignore:.*unclosed")
async def test_each_kind_applies_the_request_or_does_not(place: Sandbox, kind: FaultKind) -> None:
    """
    As it says; and what was answered is never all that a client would want.
    """
    place.inject(Fault(kind=kind, seconds=0.01))
    whole = {"Status", "MeteringRecordId", "UsageRecord"}
    try:
        status, content_type, body = await call(place, batch("a", "b", "c"))
        told = json.loads(body)
        results = told.get("Results", [])
        fine = status == 200 and content_type == "application/x-amz-json-1.1"
        fine = fine and 3 == len(results) and all(whole == set(r) for r in results)
    except (aiohttp.ClientError, ValueError):
        fine = False

    assert (0 if kind in NOT_APPLIED else 3) == len(place.book)
    in_shape = {
        FaultKind.SLOW,
        FaultKind.DRIP,
        FaultKind.SHUFFLE,
        FaultKind.ALTER,
        FaultKind.UNKNOWN_STATUS,
    }
    assert fine == (kind in in_shape)
    assert {kind.value: 1} == dict(place.hits)


@pytest.mark.parametrize("kind", [FaultKind.DRIP, FaultKind.STALL, FaultKind.SLOW])
async def test_a_client_that_goes_away_is_no_accident(
    place: Sandbox, kind: FaultKind, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What it asked for is applied, and nothing is said of an error.
    """

    def leave_soon(operation: str, body: Mapping[str, Any]) -> None:
        """Let the client go while its request, which has come, is dealt with."""
        asyncio.get_running_loop().call_later(0.05, calling.cancel)

    place.inject(leave_soon, Fault(kind=kind, seconds=0.2))
    before = place.changes.count
    calling = asyncio.create_task(call(place, batch("a")))
    with pytest.raises(asyncio.CancelledError):
        await calling
    await place.changes.wait_beyond(before)  # until the sandbox has done with it

    assert 1 == len(place.book)
    assert [] == [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_an_answer_of_ones_own(place: Sandbox) -> None:
    """
    A function decides; what it returns goes out word for word, and nothing is applied.
    """
    teapot = ScriptedResponse(418, b"short and stout", {"Content-Type": "text/tea"})
    place.inject(lambda operation, body: teapot if body["ProductCode"] == "tea" else None)
    place.inject(
        lambda operation, body: FaultKind.ERROR_500 if body["ProductCode"] == "x" else None
    )

    assert (418, "text/tea", teapot.body) == await call(place, batch("a", product="tea"))
    assert 500 == (await call(place, batch("a", product="x")))[0]
    assert 200 == (await call(place, batch("a")))[0]
    assert {"answer": 1, "error-500": 1} == dict(place.hits)
    assert 1 == len(place.book)


async def test_faults_are_switched_while_it_runs(place: Sandbox) -> None:
    """
    In place of those before, beside them, and one taken away.
    """
    async with aiohttp.ClientSession() as web:

        async def order(**members: Any) -> int:
            async with web.post(f"{place.url}/_sandbox/faults", json=members) as answer:
                assert 200 == answer.status, await answer.text()
                return int((await answer.json())["faults"])

        assert 1 == await order(faults=[{"kind": "throttle"}])
        assert 400 == (await call(place, batch("a")))[0]
        assert 2 == await order(faults=[{"kind": "error-503", "every_nth": 2}], add=True)
        assert 1 == await order(remove=0)
        assert [200, 503] == [(await call(place, batch(name)))[0] for name in "ab"]
        async with web.get(f"{place.url}/_sandbox/state") as answer:
            (told,) = (await answer.json())["faults_in_force"]

    assert ("error-503", 2, 1) == (told["rule"]["kind"], told["matched"], told["hits"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**33) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.data())
def test_a_refused_request_leaves_nothing_applied(data: st.DataObject) -> None:
    """
    Whatever is wrong with one of its records, and wherever; and nothing but a refusal comes of it.
    """
    book = Book()
    request = batch("a", "b", "c")
    victim = data.draw(st.sampled_from([request, *request["UsageRecords"]]))
    name = data.draw(st.sampled_from([*victim, "LicenseArn", "UsageAllocations", "Unknown"]))
    victim[name] = data.draw(json_values)
    try:
        reply = book.batch_meter_usage(request, now=HOUR + timedelta(minutes=30))
    except Refusal:
        assert 0 == len(book)
    else:
        told = len(reply["Results"]) + len(reply["UnprocessedRecords"])
        assert len(request["UsageRecords"]) == told == len(book)
