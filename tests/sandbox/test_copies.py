"""The book that a test sees of a sandbox in another process is the server's own book."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
from marketplace_metering_async.records import Tag, UsageAllocation
from marketplace_metering_async.sandbox import (
    AccessKey,
    Book,
    Principal,
    Refusal,
    Rules,
    Sandbox,
    SandboxClock,
)
from marketplace_metering_async.sandbox.as_json import as_json, from_json
from marketplace_metering_async.sandbox.service.memory import Copy, book_of, copy_of
from marketplace_metering_async.testing import SandboxServer

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = (NOW - timedelta(hours=1)).replace(minute=0, second=0)
BUYER = "111122223333"
LICENSE = "arn:aws:license-manager::000000000000:license:l-1"
GROUPS = [
    *("dimension", "customer", "product_code", "license_arn", "region", "hour", "identity"),
    *("free", "customer_aws_account_id", "customer_identifier"),
]


def client_of(sandbox: Sandbox, *, key: str = "sandbox", region: str = "us-east-1") -> Any:
    return MarketplaceMeteringClient(
        endpoint_url=sandbox.url,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key="sandbox",
    )


async def meter(sandbox: Sandbox, *, key: str, token: str) -> None:
    """Let a workload meter 3 units."""
    async with client_of(sandbox, key=key) as client:
        await client.meter_usage(
            product_code="p",
            timestamp=HOUR,
            usage_dimension="requests",
            usage_quantity=3,
            client_token=token,
        )


async def send(sandbox: Sandbox, *, region: str = "us-east-1", **members: Any) -> None:
    """Let the seller meter 5 units."""
    usage: dict[str, Any] = {
        "timestamp": HOUR,
        "customer_aws_account_id": BUYER,
        "dimension": "requests",
        "quantity": 5,
        "product_code": "p",
    }
    async with client_of(sandbox, region=region) as client:
        result = await client.batch_meter_usage([UsageRecord(**(usage | members))])
    assert result.succeeded


async def two_workloads_in_one_second(sandbox: Sandbox) -> None:
    await meter(sandbox, key="task-1", token="t")
    await meter(sandbox, key="task-2", token="t")


async def a_forgotten_key(sandbox: Sandbox) -> None:
    sandbox.change_rules(key_memory=60)
    await send(sandbox)
    sandbox.advance(minutes=1)
    await send(sandbox)


async def tokens_of_agentcore(sandbox: Sandbox) -> None:
    sandbox.access_keys["runtime"] = AccessKey("sandbox", platform="agentcore")
    await meter(sandbox, key="runtime", token="a")
    await meter(sandbox, key="runtime", token="b")


async def two_moments_of_one_second(sandbox: Sandbox) -> None:
    sandbox.change_rules(key_by="timestamp")
    for fraction in (0.25, 0.75):
        seconds = HOUR.timestamp() + fraction
        record = {"Timestamp": seconds, "CustomerAWSAccountId": BUYER, "Dimension": "requests"}
        request = {"ProductCode": "p", "UsageRecords": [{**record, "Quantity": 5}]}
        sandbox.book.batch_meter_usage(request, now=sandbox.clock.now())


async def two_regions(sandbox: Sandbox) -> None:
    await send(sandbox)
    await send(sandbox, region="eu-west-1")


async def product_code_and_license(sandbox: Sandbox) -> None:
    sandbox.declare_product("p")
    sandbox.subscribe("p", BUYER, license_arn=LICENSE, begins=HOUR)
    await send(sandbox)
    await send(sandbox, license_arn=LICENSE, product_code=None)


async def account_and_customer_identifier(sandbox: Sandbox) -> None:
    sandbox.declare_product("p")
    trial = timedelta(days=1)
    sandbox.subscribe("p", BUYER, customer_identifier="c-1", begins=HOUR, free_trial=trial)
    await send(sandbox)
    await send(sandbox, customer_identifier="c-1", customer_aws_account_id=None)


async def allocations(sandbox: Sandbox) -> None:
    parts = [UsageAllocation(2, [Tag("team", "blue")]), UsageAllocation(3)]
    await send(sandbox, usage_allocations=parts)


async def nothing(sandbox: Sandbox) -> None:
    del sandbox


SCENARIOS: dict[Callable[[Sandbox], Awaitable[None]], tuple[int, int]] = {
    two_workloads_in_one_second: (6, 0),
    a_forgotten_key: (10, 1),
    tokens_of_agentcore: (6, 0),
    two_moments_of_one_second: (10, 1),
    two_regions: (10, 1),
    product_code_and_license: (10, 1),
    account_and_customer_identifier: (10, 1),
    allocations: (5, 0),
    nothing: (0, 0),
}
"""Usage, the units that the service has of it, and the hours that it bills twice."""


def metered_of(book: Book) -> dict[Any, Any]:
    return book.totals(by=("customer", "dimension", "hour"))


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_book_is_the_server_s_book(
    scenario: Callable[[Sandbox], Awaitable[None]],
) -> None:
    """
    Sandbox T1. No record is dropped, and every sum is the one that `GET /_sandbox/book` says.
    """
    units, twice = SCENARIOS[scenario]
    async with Sandbox(clock=SandboxClock(NOW, speed=0)) as sandbox:
        await scenario(sandbox)
        server = SandboxServer()
        server.url = sandbox.url
        book = await asyncio.to_thread(lambda: server.book)
        answers = {by: await asyncio.to_thread(server.ask, "book", by=by) for by in GROUPS}

    assert units == sum(book.totals().values())
    assert {by: answer["totals"] for by, answer in answers.items()} == {
        by: book.totals(by=by) for by in GROUPS
    }
    assert answers["dimension"]["records"] == len(book)
    assert answers["dimension"]["double_billed"] == book.double_billed()
    assert twice == len(book.double_billed())
    assert sandbox.book.records == book.records
    book.assert_metered(metered_of(sandbox.book))


rules = st.fixed_dictionaries(
    {},
    optional={
        "key_by": st.sampled_from(["hour", "timestamp"]),
        "key_scope": st.sampled_from(["region", "everywhere"]),
        "key_memory": st.sampled_from([0, 60, 7200]),
        "identical_resend": st.sampled_from(["duplicate", "success"]),
        "not_subscribed_takes_key": st.booleans(),
    },
)
steps = st.lists(
    st.fixed_dictionaries(
        {
            "workload": st.sampled_from([None, "task-1", "task-2", "runtime"]),
            "customer": st.sampled_from([BUYER, "2", "c-1"]),
            "region": st.sampled_from(["us-east-1", "eu-west-1"]),
            "seconds": st.sampled_from([0, 0.25, 1, 3600]),
            "quantity": st.integers(0, 2),
            "token": st.sampled_from(["a", "b"]),
            "later": st.sampled_from([0, 60]),
        }
    ),
    max_size=20,
)


def carried_out(book: Book, step: dict[str, Any], now: datetime) -> str:
    """Return what the book says to one call, but for the record id."""
    at = HOUR.timestamp() - step["seconds"]
    customer, workload, quantity = step["customer"], step["workload"], step["quantity"]
    platform = "agentcore" if workload == "runtime" else None
    principal = Principal(region=step["region"], access_key_id=workload or "s", platform=platform)
    try:
        if workload is not None:
            request = {"ProductCode": "p", "Timestamp": at, "UsageDimension": "requests"}
            request |= {"UsageQuantity": quantity, "ClientToken": step["token"]}
            book.meter_usage(request, now=now, principal=principal)
            return "metered"
        name = "CustomerAWSAccountId" if customer.isdigit() else "CustomerIdentifier"
        record = {"Timestamp": at, "Dimension": "requests", "Quantity": quantity, name: customer}
        parts = [{"AllocatedUsageQuantity": quantity, "Tags": [{"Key": "k", "Value": "v"}]}]
        record |= {"UsageAllocations": parts} if quantity == 2 else {}
        request = {"ProductCode": "p", "UsageRecords": [record]}
        return str(
            book.batch_meter_usage(request, now=now, principal=principal)["Results"][0]["Status"]
        )
    except Refusal as refusal:
        return refusal.code


@given(rules, steps, steps)
def test_a_copy_goes_on_as_its_original(
    switched: dict[str, Any], before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    """
    Whatever was metered, under whatever rules: the copy has the same, and says the same to more.
    """
    sandbox = Sandbox(rules=Rules().changed(switched), clock=SandboxClock(NOW, speed=0))
    sandbox.declare_product("p", dimensions=["requests"], customers={"2": False})
    sandbox.subscribe("p", BUYER, customer_identifier="c-1", begins=HOUR - timedelta(hours=1))
    book, now = sandbox.book, NOW
    for step in before:
        now += timedelta(seconds=step["later"])
        carried_out(book, step, now)

    copy = book_of(from_json(Copy, json.loads(json.dumps(as_json(copy_of(book))))))

    assert copy_of(book) == copy_of(copy)
    assert book.records == copy.records
    assert book.double_billed() == copy.double_billed()
    for step in after:
        now += timedelta(seconds=step["later"])
        assert carried_out(book, step, now) == carried_out(copy, step, now)
    assert metered_of(book) == metered_of(copy)
