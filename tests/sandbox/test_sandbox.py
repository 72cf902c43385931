"""The sandbox: the service's rules, its clock, its quota, its controls, and who may talk to it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import MarketplaceMeteringClient, RecordStatus, UsageRecord
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.sandbox import (
    AccessKey,
    Book,
    Fault,
    FaultKind,
    Principal,
    Product,
    Refusal,
    Sandbox,
    SandboxClock,
)
from marketplace_metering_async.sandbox.service.quota import Quota

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


def record(**changes: Any) -> dict[str, Any]:
    members = {
        "Timestamp": int(NOW.timestamp()) - 3600,
        "CustomerAWSAccountId": "123456789012",
        "Dimension": "requests",
        "Quantity": 5,
    }
    return {n: v for n, v in (members | changes).items() if v is not None}


def meter(book: Book, *records: Any, **how: Any) -> list[str]:
    now = how.pop("now", NOW)
    region = how.pop("region", "us-east-1")
    request = {"ProductCode": "p", "UsageRecords": list(records)} | how
    request = {n: v for n, v in request.items() if v is not None}
    reply = book.batch_meter_usage(request, now=now, region=region)
    return [result["Status"] for result in reply["Results"]]


def refused(book: Book, *records: Any, **how: Any) -> str:
    before = book.records
    with pytest.raises(Refusal) as caught:
        meter(book, *records, **how)
    assert before == book.records
    return caught.value.code


ARN = "arn:aws:license-manager::123456789012:license:l-abc"


def test_each_product_counts_for_itself() -> None:
    """
    A customer's hour is metered of each.
    """
    book = Book()

    assert [["Success"]] * 2 == [meter(book, record(), ProductCode=code) for code in "pq"]


@pytest.mark.parametrize(
    ("code", "changes", "how"),
    [
        ("ValidationException", {"CustomerAWSAccountId": None}, {}),
        ("ValidationException", {"CustomerIdentifier": "c"}, {}),
        ("ValidationException", {"Quantity": -1}, {}),
        ("ValidationException", {"Quantity": 2**31}, {}),
        ("SerializationException", {"Quantity": "5"}, {}),
        ("SerializationException", {"Quantity": 5.5}, {}),
        ("SerializationException", {"Timestamp": "now"}, {}),
        ("ValidationException", {"Dimension": ""}, {}),
        ("InvalidProductCodeException", {}, {"ProductCode": None}),
        ("ValidationException", {"LicenseArn": ARN}, {}),
        ("ValidationException", {"LicenseArn": "l-abc"}, {"ProductCode": None}),
        (
            "InvalidUsageAllocationsException",
            {"UsageAllocations": [{"AllocatedUsageQuantity": 4}]},
            {},
        ),
        (
            "InvalidTagException",
            {
                "UsageAllocations": [
                    {"AllocatedUsageQuantity": 5, "Tags": [{"Key": "k", "Value": ""}]}
                ]
            },
            {},
        ),
    ],
)  # fmt: skip
def test_one_bad_record_refuses_the_request(
    code: str, changes: dict[str, Any], how: dict[str, Any]
) -> None:
    """
    And nothing of it is applied.
    """
    good = record(Dimension="another", CustomerAWSAccountId="1")

    assert code == refused(Book(), record(**changes), good, **how)


def test_whole_requests_that_are_refused() -> None:
    """
    More than 25 records, the same key twice, no list.
    """
    many = [record(CustomerAWSAccountId=str(n)) for n in range(26)]

    assert "ValidationException" == refused(Book(), *many)
    assert "ValidationException" == refused(Book(), record(), record(Quantity=1))
    assert "ValidationException" == refused(Book(), UsageRecords=None)


def test_declared_products_refuse_what_is_unknown() -> None:
    """
    Product, customer, dimension, license; a cancelled subscription is a status.
    """
    book = Book(
        products={
            "p": Product(
                dimensions=frozenset({"requests"}),
                customers={"123456789012": True, "222222222222": False},
                licenses={ARN: "123456789012"},
            ),
            "q": Product(licenses={f"{ARN}d": "123456789012"}),
        }
    )

    assert "InvalidProductCodeException" == refused(book, record(), ProductCode="other")
    assert "InvalidProductCodeException" == refused(book, ProductCode="other")  # without records
    unknown = record(CustomerAWSAccountId="3")
    assert "InvalidCustomerIdentifierException" == refused(book, unknown)
    assert "InvalidUsageDimensionException" == refused(book, record(Dimension="Requests"))
    stranger = record(LicenseArn=f"{ARN}x")
    assert "InvalidLicenseException" == refused(book, stranger, ProductCode=None)
    mixed = [record(LicenseArn=ARN), record(LicenseArn=f"{ARN}d")]
    assert "InvalidLicenseException" == refused(book, *mixed, ProductCode=None)
    assert ["CustomerNotSubscribed"] == meter(book, record(CustomerAWSAccountId="222222222222"))
    assert 0 == len(book)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)), max_size=60))
def test_the_book_never_changes_what_it_has(steps: list[tuple[int, int, int]]) -> None:
    """
    Whatever comes, the first quantity of a key stays.
    """
    book = Book()
    first: dict[tuple[int, int], int] = {}
    for customer, hour, quantity in steps:
        stamp = int(NOW.timestamp()) - 3600 * (hour + 1)
        status = meter(
            book, record(CustomerAWSAccountId=str(customer), Timestamp=stamp, Quantity=quantity)
        )
        known = (customer, hour) in first
        assert [("DuplicateRecord" if known else "Success")] == status
        first.setdefault((customer, hour), quantity)

    assert sorted(first.values()) == sorted(r.quantity for r in book.records)


def test_differences_are_readable() -> None:
    """
    A line for each gap, and none where all is equal.
    """
    book = Book()
    meter(book, record())
    hour = datetime(2026, 11, 23, 11, tzinfo=UTC)

    assert [] == book.differences({("123456789012", "requests", hour): 5})
    assert [
        "1 x 2026-11-23T11:00Z: expected 2, metered nothing",
        "123456789012 requests 2026-11-23T11:00Z: expected 6, metered 5",
    ] == book.differences({("123456789012", "requests", hour): 6, ("1", "x", hour): 2})


def test_the_clock_is_set_moved_frozen_and_sped_up() -> None:
    """
    Only on demand.
    """
    clock = SandboxClock(NOW, speed=0)
    assert NOW == clock.now() == clock.now()
    clock.step(timedelta(hours=2))
    assert NOW + timedelta(hours=2) == clock.now()
    clock.run(3600)
    assert clock.now() > NOW + timedelta(hours=2)
    with pytest.raises(ValueError, match="time zone"):
        clock.set(datetime(2026, 1, 1))  # noqa: DTZ001


async def test_it_is_controlled_over_http(place: Sandbox, web: aiohttp.ClientSession) -> None:
    """
    Clock, faults, products, quota, tokens, book, state and reset.
    """

    async def order(path: str, **members: Any) -> Any:
        async with web.post(f"{place.url}/_sandbox/{path}", json=members) as answer:
            assert 200 == answer.status, await answer.text()
            return await answer.json()

    await order("clock", now=NOW.isoformat(), speed=0)
    assert NOW.isoformat() == (await order("clock", advance=0))["now"]
    await order("products", product_code="p", dimensions=["requests"])
    assert "p" in place.book.products
    token = (await order("tokens", product_code="p", customer_aws_account_id="1"))["token"]
    await order("quota", calls_per_second=5, burst=1)
    assert 5 == place.calls_per_second
    await order("quota", calls_per_second=None)
    await order("faults", faults=[{"kind": "throttle", "max_hits": 1}])

    hour = NOW - timedelta(hours=1)
    usage = UsageRecord(
        timestamp=hour, dimension="requests", quantity=7, customer_aws_account_id="1"
    )
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        customer = await client.resolve_customer(token)
    assert "1" == customer.customer_aws_account_id
    meter(place.book, usage.to_boto() | {"Timestamp": usage.epoch})
    async with web.get(f"{place.url}/_sandbox/book?by=customer&records=1") as answer:
        book = await answer.json()
    assert {"1": 7} == book["totals"]
    assert 7 == book["records"][0]["quantity"]
    async with web.get(f"{place.url}/_sandbox/state") as answer:
        assert ["p"] == (await answer.json())["products"]
    await order("reset")
    assert 0 == len(place.book)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
async def test_foreign_pages_are_refused(
    place: Sandbox, web: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    """
    And the book is untouched. Covers: X02, X03
    """
    meter(place.book, record())
    path = f"{place.url}/_sandbox/reset" if "Host" in headers or "Origin" in headers else ""
    async with web.post(
        path or f"{place.url}/_sandbox/clock", data="{}", headers=headers
    ) as answer:
        assert status == answer.status

    assert 1 == len(place.book)


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp, of what we never send
async def test_oversized_and_broken_bodies_are_refused(place: Sandbox) -> None:
    """
    In the service's words, and nothing is applied. Covers: X05
    """
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        await client.endpoint()
        codes = []
        for body in (b"{", b"[]", b"x" * 999_999, b"x" * 5_000_000, b"[" * 100_000):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - its code is looked at
                await shared_of(client).connection.call("BatchMeterUsage", body)
            codes.append(getattr(caught.value, "code", str(caught.value)))

    large = "RequestEntityTooLargeException"
    broken = "SerializationException"
    assert [broken, broken, broken, large, broken] == codes


async def test_only_loopback_is_bound() -> None:
    """
    Anything else is refused at once. Covers: X01
    """
    with pytest.raises(ValueError, match="loopback"):
        Sandbox(host="0.0.0.0")


async def test_the_quota_throttles_and_the_client_delivers() -> None:
    """
    Ten at once, then the rate; a client that is told it is not throttled.
    """
    async with Sandbox(calls_per_second=50) as sandbox:
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        usage = [
            UsageRecord(timestamp=hour, dimension=f"d{n}", quantity=1, customer_identifier="c")
            for n in range(1000)
        ]
        told = MarketplaceMeteringClient(**sandbox.client_arguments, calls_per_second=50)
        async with told as client:
            result = await client.batch_meter_usage(usage, product_code="p")

    assert {RecordStatus.SUCCESS: 1000} == result.counts
    assert result.throttled <= 4
    assert 40 == result.calls - result.throttled


async def test_signatures_of_declared_keys_are_verified() -> None:
    """
    A wrong secret or token is refused, an expired one by its own name. Covers: X14
    """
    past = datetime.now(UTC) - timedelta(hours=1)
    keys = {"good": AccessKey("right"), "old": AccessKey("right", "token", past)}
    async with Sandbox(access_keys=keys) as sandbox:

        async def code(key: str, secret: str, token: str | None = None) -> str:
            client = MarketplaceMeteringClient(
                endpoint_url=sandbox.url,
                region_name="us-east-1",
                aws_access_key_id=key,
                aws_secret_access_key=secret,
                aws_session_token=token,
            )
            async with client:
                with pytest.raises(Exception) as caught:  # noqa: PT011 - its code is looked at
                    await client.resolve_customer("forged")
            return getattr(caught.value, "code", "")

        assert "InvalidTokenException" == await code("good", "right")
        assert "InvalidSignatureException" == await code("good", "wrong")
        assert "UnrecognizedClientException" == await code("unknown", "right")
        assert "UnrecognizedClientException" == await code("good", "right", "surplus")
        assert "ExpiredTokenException" == await code("old", "right", "token")


async def test_what_it_gives_out_of_temporary_credentials_is_all_of_them() -> None:
    """
    To our client and in the environment, whose lines people paste.
    """
    async with (
        Sandbox(access_keys={"ASIA": AccessKey("s", "its-token")}) as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments) as client,
    ):
        reply = await client.meter_usage(
            product_code="p",
            timestamp=datetime.now(UTC),
            usage_dimension="requests",
            usage_quantity=1,
        )

    assert reply.metering_record_id
    assert "its-token" == sandbox.environment["AWS_SESSION_TOKEN"]
    assert "AWS_SESSION_TOKEN" not in Sandbox().environment


async def test_faults_strike_by_rule() -> None:
    """
    By operation, product, customer, number and share; a function may decide as well.
    """
    strikes = [
        Fault(kind=FaultKind.ERROR_500, after=1, max_hits=1),
        Fault(kind=FaultKind.THROTTLE, customer="000000000007", max_hits=2),
        lambda operation, request: None,
    ]
    async with Sandbox(calls_per_second=None, faults=strikes) as sandbox:  # type: ignore[arg-type]
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        usage = [
            UsageRecord(
                timestamp=hour, dimension="d", quantity=1, customer_aws_account_id=f"{n:012d}"
            )
            for n in range(60)
        ]
        client = MarketplaceMeteringClient(**sandbox.client_arguments, max_concurrency=1)
        async with client, asyncio.timeout(30):
            result = await client.batch_meter_usage(usage, product_code="p")

    assert {"error-500": 1, "throttle": 2} == dict(sandbox.hits)
    assert {RecordStatus.SUCCESS: 60} == result.counts


def test_keys_of_one_account_share_its_quota() -> None:
    """
    A key of which no account is known has one of its own.
    """
    place = Sandbox()

    def quota(key: str, account: str | None = None) -> Quota:
        return place.quota_of(Principal(access_key_id=key, account_id=account), "BatchMeterUsage")

    assert quota("a", "1") is quota("b", "1")
    assert quota("a") is quota("a")
    assert 4 == len({id(one) for one in (quota("a"), quota("b"), quota("a", "1"), quota("a", "2"))})
    place.calls_per_second = 3  # it holds at once
    assert (3, 3) == (place.calls_per_second, quota("a").calls_per_second)
