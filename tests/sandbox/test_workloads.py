"""MeterUsage and RegisterUsage: software in the buyer's account, under its credentials."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from marketplace_metering_async import InvalidResponseError, MarketplaceMeteringClient, RetryPolicy
from marketplace_metering_async.sandbox import (
    AccessKey,
    Book,
    Principal,
    Product,
    Refusal,
    Rules,
    Sandbox,
    ScriptedResponse,
)

NOW = datetime(2026, 12, 1, 12, 30, tzinfo=UTC)
BUYER = "111122223333"


def meter(
    book: Book, *, principal: Principal | None = None, now: datetime = NOW, **members: Any
) -> str:
    """
    Return the record id, "no record" or the code of the refusal; a refusal leaves nothing applied.
    """
    request = {
        "ProductCode": "p",
        "Timestamp": NOW.timestamp(),
        "UsageDimension": "requests",
        "UsageQuantity": 3,
        **members,
    }
    request = {name: value for name, value in request.items() if value is not None}
    before = book.records
    try:
        reply = book.meter_usage(request, now=now, principal=principal or Principal())
    except Refusal as refusal:
        assert before == book.records
        return refusal.code
    return str(reply.get("MeteringRecordId", "no record"))


def test_an_hour_is_metered_once_for_a_dimension_and_workload() -> None:
    """
    The same again returns the same id, another quantity is refused.
    """
    book = Book()
    first = meter(book)

    assert first == meter(book, Timestamp=NOW.timestamp() - 1799)
    assert "DuplicateRequestException" == meter(book, UsageQuantity=4)
    shares = [{"AllocatedUsageQuantity": 3}]
    assert "DuplicateRequestException" == meter(book, UsageAllocations=shares)
    others = {
        meter(book, Timestamp=NOW.timestamp() - 1801),
        meter(book, UsageDimension="seats"),
        meter(book, principal=Principal(access_key_id="another")),
        meter(book, principal=Principal(region="eu-west-1")),
    }
    assert 4 == len(others - {first})
    assert {"requests": 12, "seats": 3} == book.totals()


@pytest.mark.parametrize(
    ("age", "code"),
    [
        (timedelta(hours=6), None),
        (timedelta(hours=6, seconds=1), "TimestampOutOfBoundsException"),
        (timedelta(seconds=-1), "TimestampOutOfBoundsException"),
    ],
)
def test_usage_is_taken_for_six_hours(age: timedelta, code: str | None) -> None:
    """
    Whatever the month: its end at six in the morning is a rule of batches.
    """
    book = Book()
    said = meter(book, now=NOW, Timestamp=(NOW - age).timestamp())

    assert (code or book.records[0].metering_record_id) == said


def test_a_client_token_answers_the_same_or_conflicts() -> None:
    """
    With the status that the switch says; another workload's token is another one.
    """
    book = Book(rules=Rules(idempotency_conflict_status=409))
    first = meter(book, ClientToken="t")

    assert first == meter(book, ClientToken="t")
    assert "IdempotencyConflictException" == meter(book, ClientToken="t", UsageQuantity=4)
    assert first != meter(book, ClientToken="t", principal=Principal(access_key_id="another"))
    with pytest.raises(Refusal) as caught:
        book.meter_usage(
            {"ProductCode": "q", "Timestamp": 0, "UsageDimension": "d", "ClientToken": ""},
            now=NOW,
            principal=Principal(),
        )
    assert "ValidationException" == caught.value.code
    assert "IdempotencyConflictException" == meter(book, ClientToken="t", DryRun=False)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Rules(), "no record"),
        (Rules(dry_run="success"), "no record"),
        (Rules(dry_run="error"), "DryRunOperation"),
    ],
)
def test_a_dry_run_meters_nothing_and_uses_no_token(rules: Rules, said: str) -> None:
    """
    Sandbox F1. A permitted one returns normally, as AWS's own sample needs it, or as the error that
    the reference names; where the request would be refused, it is.
    """
    book = Book(rules=rules)

    assert said == meter(book, DryRun=True, ClientToken="t")
    assert "TimestampOutOfBoundsException" == meter(book, DryRun=True, Timestamp=0)
    assert "SerializationException" == meter(book, DryRun="yes")
    assert 0 == len(book)
    assert 1 == len({meter(book, ClientToken="t"), book.records[0].metering_record_id})


def test_on_agentcore_each_token_is_usage_of_its_own() -> None:
    """
    No hour, no rounding: repeated timestamps add up, and a token is required.
    """
    book, runtime = Book(), Principal(platform="agentcore")

    assert "ValidationException" == meter(book, principal=runtime)
    ids = {meter(book, principal=runtime, ClientToken=token) for token in ("a", "b", "a")}
    assert 2 == len(ids)
    assert {"requests": 6} == book.totals()


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("ValidationException", {"ProductCode": None}),
        ("InvalidProductCodeException", {"ProductCode": "other"}),
        ("InvalidProductCodeException", {"ProductCode": ""}),
        ("InvalidUsageDimensionException", {"UsageDimension": "Requests"}),
        ("ValidationException", {"UsageDimension": "x" * 256}),
        ("ValidationException", {"UsageQuantity": -1}),
        ("SerializationException", {"UsageQuantity": 1.5}),
        ("SerializationException", {"Timestamp": "now"}),
        ("ValidationException", {"Timestamp": None}),
        ("ValidationException", {"ClientToken": "x" * 65}),
        ("InvalidUsageAllocationsException", {"UsageAllocations": [{"AllocatedUsageQuantity": 4}]}),
        ("CustomerNotEntitledException", {"principal": Principal(account_id="9")}),
        ("InvalidEndpointRegionException", {"principal": Principal(home_region="eu-west-1")}),
        ("InvalidEndpointRegionException", {"principal": Principal(region="atlantis-1")}),
        (
            "InvalidEndpointRegionException",
            {"principal": Principal(region="eu-south-2", platform="eks")},
        ),
        (
            "InvalidEndpointRegionException",
            {"principal": Principal(region="us-gov-west-1", platform="ecs")},
        ),
    ],
)
def test_refusals_of_meter_usage(code: str, changes: dict[str, Any]) -> None:
    """
    Each by its own name, and nothing is applied.
    """
    book = Book(products={"p": Product(dimensions={"requests"}, customers={BUYER: True})})

    assert code == meter(book, **changes)


@pytest.mark.parametrize(
    ("principal", "rules"),
    [
        (Principal(region="us-gov-west-1"), Rules()),
        (Principal(region="us-gov-east-1", platform="ec2"), Rules()),
        (Principal(region="sa-east-1", platform="eks"), Rules()),
        (Principal(region="eu-south-2", platform="ecs"), Rules()),
        (Principal(region="eu-south-2", platform="eks"), Rules(eks_regions=[])),
        (Principal(region="atlantis-1"), Rules(workload_regions=[])),
    ],
)
def test_where_workloads_may_meter(principal: Principal, rules: Rules) -> None:
    """
    GovCloud for AMIs only, EKS in seventeen regions, by the service's model; or everywhere.
    """
    assert "Exception" not in meter(Book(rules=rules), principal=principal)


def test_the_key_may_be_the_timestamp() -> None:
    """
    U1, as reported from the field of MeterUsage: the second before is usage of its own.
    """
    book = Book(rules=Rules(key_by="timestamp"))
    first = meter(book, UsageQuantity=1)

    assert "Exception" not in meter(book, UsageQuantity=2, Timestamp=NOW.timestamp() - 1)
    assert first == meter(book, UsageQuantity=1)
    assert "DuplicateRequestException" == meter(book, UsageQuantity=3)
    assert {"requests": 3} == book.totals()


def register(book: Book, *, principal: Principal | None = None, **members: Any) -> str:
    """Return "registered", or the code of the refusal."""
    request = {"ProductCode": "p", "PublicKeyVersion": 1, **members}
    request = {name: value for name, value in request.items() if value is not None}
    try:
        book.register_usage(request, now=NOW, principal=principal or Principal())
    except Refusal as refusal:
        return refusal.code
    return "registered"


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("ValidationException", {"ProductCode": None}),
        ("InvalidProductCodeException", {"ProductCode": "other"}),
        ("ValidationException", {"PublicKeyVersion": None}),
        ("ValidationException", {"PublicKeyVersion": 0}),
        ("SerializationException", {"PublicKeyVersion": "1"}),
        ("InvalidPublicKeyVersionException", {"PublicKeyVersion": 2}),
        ("ValidationException", {"Nonce": "x" * 256}),
        ("CustomerNotEntitledException", {"principal": Principal(account_id="9")}),
        ("InvalidRegionException", {"principal": Principal(home_region="eu-west-1")}),
        ("DisabledApiException", {"principal": Principal(region="atlantis-1")}),
        ("DisabledApiException", {"principal": Principal(region="us-gov-west-1")}),
        ("PlatformNotSupportedException", {"principal": Principal(platform="ec2")}),
        ("registered", {"principal": Principal(account_id=BUYER, platform="eks")}),
    ],
)
def test_refusals_of_register_usage(code: str, changes: dict[str, Any]) -> None:
    """
    Each by its own name.
    """
    book = Book(products={"p": Product(customers={BUYER: True})})

    assert code == register(book, **changes)


def test_a_key_version_that_was_replaced_is_known_by_when() -> None:
    """
    None where nobody has said when, nor one that is still to come.
    """
    product = Product(public_key_version=2)
    book, unknown = Book(products={"p": product}), "InvalidPublicKeyVersionException"

    assert [unknown, "registered"] == [register(book, PublicKeyVersion=n) for n in (1, 2)]
    product.key_rotated = NOW
    assert "registered" == register(book, PublicKeyVersion=1)
    assert unknown == register(book, PublicKeyVersion=3)


def test_only_the_first_registration_asks_for_a_subscription() -> None:
    """
    A workload that runs goes on running, also after its account has cancelled.
    """
    book = Book(products={"p": Product(customers={BUYER: True})})
    running = Principal(access_key_id="task-1", account_id=BUYER)
    assert "registered" == register(book, principal=running)
    book.products["p"].customers[BUYER] = False

    assert "registered" == register(book, principal=running)
    new = Principal(access_key_id="task-2", account_id=BUYER)
    assert "CustomerNotEntitledException" == register(book, principal=new)


@pytest.mark.parametrize("reading", ["success", "error"])
async def test_the_client_takes_both_readings_of_a_dry_run(
    reading: Literal["success", "error"],
) -> None:
    """
    Sandbox F1. The result is the same, and has no record id, since nothing was metered.
    """
    async with (
        Sandbox(rules=Rules(dry_run=reading)) as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments) as client,
    ):
        result = await client.meter_usage(
            product_code="p",
            timestamp=datetime.now(UTC),
            usage_dimension="requests",
            usage_quantity=3,
            dry_run=True,
            client_token="t",
        )

    assert (True, None, "t") == (result.dry_run, result.metering_record_id, result.client_token)
    assert result.request_id == sandbox.history.since(0)[0].request_id
    assert 0 == len(sandbox.book)


@pytest.mark.parametrize(
    ("body", "allowed"),
    [(b'{"MeteringRecordId": "0"}', True), (b"{}", True), (b"<html>", False), (b"", False)],
)
async def test_a_dry_run_is_allowed_by_the_service_alone(body: bytes, *, allowed: bool) -> None:
    """
    Whether or not its answer has an id; a captive portal's page allows nothing.
    """
    answer, once = ScriptedResponse(body=body), RetryPolicy(max_attempts=1)
    async with (
        Sandbox(faults=[lambda _, __: answer]) as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments, retry=once) as client,
    ):
        asked = client.meter_usage(
            product_code="p",
            timestamp=datetime.now(UTC),
            usage_dimension="requests",
            usage_quantity=3,
            dry_run=True,
        )
        if allowed:
            assert (await asked).metering_record_id is None
        else:
            with pytest.raises(InvalidResponseError):
                await asked


async def test_a_dry_run_without_permission_is_unauthorized() -> None:
    """
    And the same call in earnest is denied.
    """
    place = Sandbox(access_keys={"k": AccessKey("s", may=["ResolveCustomer"])})
    principal = Principal(may=place.access_keys["k"].may)

    for dry, code in ((True, "UnauthorizedException"), (False, "AccessDeniedException")):
        with pytest.raises(Refusal) as caught:
            principal.check_permission("MeterUsage", {"DryRun": dry})
        assert code == caught.value.code
    principal.check_permission("ResolveCustomer", {})
