"""Clients that nobody here wrote meter into the sandbox, and read its errors as their own."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError

from marketplace_metering_async.sandbox import AccessKey, Fault, FaultKind, Sandbox

KEYS = {"aws_access_key_id": "AKIDWITNESS", "aws_secret_access_key": "secret/of+the=witness"}
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


@pytest.fixture
def place() -> Sandbox:
    """A sandbox that verifies signatures and knows one product."""
    sandbox = Sandbox(
        access_keys={"AKIDWITNESS": AccessKey(KEYS["aws_secret_access_key"])},
        calls_per_second=None,
    )
    sandbox.declare_product("prod", dimensions=["requests"], customers=["123456789012"])
    return sandbox


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's AWS settings reaches the witnesses."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def record(**changes: Any) -> dict[str, Any]:
    return {
        "Timestamp": HOUR,
        "CustomerAWSAccountId": "123456789012",
        "Dimension": "requests",
        "Quantity": 5,
        **changes,
    }


async def with_boto3(sandbox: Sandbox, work: Callable[[Any], Any]) -> Any:
    def call() -> Any:
        client = boto3.Session().client(
            "meteringmarketplace",
            region_name="us-east-1",
            endpoint_url=sandbox.url,
            config=Config(retries={"total_max_attempts": 1}),
            **KEYS,
        )
        try:
            return work(client)
        finally:
            client.close()

    return await asyncio.to_thread(call)


async def test_boto3_meters_and_is_told_of_a_duplicate(place: Sandbox) -> None:
    """
    The same key with another quantity is a duplicate, and the first one stays.
    """
    async with place:
        first, second = await with_boto3(
            place,
            lambda client: [
                client.batch_meter_usage(ProductCode="prod", UsageRecords=[record(Quantity=q)])
                for q in (5, 6)
            ],
        )

    assert ["Success", "DuplicateRecord"] == [r["Results"][0]["Status"] for r in (first, second)]
    assert first["Results"][0]["UsageRecord"]["Timestamp"] == HOUR
    assert {"requests": 5} == place.book.totals()


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("InvalidUsageDimensionException", {"Dimension": "Requests"}),
        ("InvalidCustomerIdentifierException", {"CustomerAWSAccountId": "999999999999"}),
        ("TimestampOutOfBoundsException", {"Timestamp": HOUR - timedelta(hours=24)}),
        (
            "InvalidUsageAllocationsException",
            {"UsageAllocations": [{"AllocatedUsageQuantity": 4}]},
        ),
    ],
)
async def test_boto3_raises_the_modelled_exception(
    place: Sandbox, code: str, changes: dict[str, Any]
) -> None:
    """
    One bad record refuses the whole request, and nothing of it is applied.
    """

    def work(client: Any) -> None:
        with pytest.raises(getattr(client.exceptions, code)):
            client.batch_meter_usage(
                ProductCode="prod", UsageRecords=[record(Quantity=1), record(**changes)]
            )

    async with place:
        await with_boto3(place, work)

    assert 0 == len(place.book)


async def test_boto3_reads_throttles_and_internal_errors(place: Sandbox) -> None:
    """
    Faults come in the shape that SDKs know how to retry.
    """
    place.inject(
        Fault(kind=FaultKind.THROTTLE, max_hits=1), Fault(kind=FaultKind.ERROR_500, max_hits=1)
    )

    def work(client: Any) -> list[tuple[str, int]]:
        seen = []
        for _ in range(2):
            with pytest.raises(ClientError) as caught:
                client.batch_meter_usage(ProductCode="prod", UsageRecords=[record()])
            answer = caught.value.response
            seen.append((answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]))
        return seen

    async with place:
        seen = await with_boto3(place, work)

    assert [("ThrottlingException", 400), ("InternalServiceErrorException", 500)] == seen


async def test_boto3_with_a_wrong_secret_is_refused(place: Sandbox) -> None:
    """
    A declared key's signature is verified.
    """
    place.access_keys["AKIDWITNESS"] = AccessKey("another secret")

    def work(client: Any) -> str:
        with pytest.raises(ClientError) as caught:
            client.batch_meter_usage(ProductCode="prod", UsageRecords=[record()])
        return str(caught.value.response["Error"]["Code"])

    async with place:
        assert "InvalidSignatureException" == await with_boto3(place, work)


async def test_boto3_uses_the_other_operations(place: Sandbox) -> None:
    """
    ResolveCustomer, MeterUsage with a dry run in both readings, and RegisterUsage.
    """
    token = place.issue_token("prod", customer_aws_account_id="123456789012")

    def work(client: Any) -> tuple[Any, ...]:
        customer = client.resolve_customer(RegistrationToken=token)
        with pytest.raises(client.exceptions.InvalidTokenException):
            client.resolve_customer(RegistrationToken="forged")
        usage = {"ProductCode": "prod", "Timestamp": HOUR, "UsageDimension": "requests"}
        assert "MeteringRecordId" not in client.meter_usage(**usage, UsageQuantity=4, DryRun=True)
        place.change_rules(dry_run="error")
        with pytest.raises(ClientError, match="DryRunOperation"):
            client.meter_usage(**usage, UsageQuantity=4, DryRun=True)
        first = client.meter_usage(**usage, UsageQuantity=3)
        again = client.meter_usage(**usage, UsageQuantity=3)
        with pytest.raises(client.exceptions.DuplicateRequestException):
            client.meter_usage(**usage, UsageQuantity=4)
        registered = client.register_usage(ProductCode="prod", PublicKeyVersion=1, Nonce="n")
        return customer, first, again, registered

    async with place:
        customer, first, again, registered = await with_boto3(place, work)

    assert "123456789012" == customer["CustomerAWSAccountId"]
    assert first["MeteringRecordId"] == again["MeteringRecordId"]
    assert registered["Signature"].count(".") == 2


async def test_aiobotocore_meters(place: Sandbox) -> None:
    """
    The other asyncio client gets the same answers.
    """
    async with (
        place,
        get_session().create_client(
            "meteringmarketplace", region_name="us-east-1", endpoint_url=place.url, **KEYS
        ) as client,
    ):
        answer = await client.batch_meter_usage(ProductCode="prod", UsageRecords=[record()])
        with pytest.raises(client.exceptions.InvalidProductCodeException):
            await client.batch_meter_usage(ProductCode="other", UsageRecords=[record()])

    assert "Success" == answer["Results"][0]["Status"]
    assert [] == answer["UnprocessedRecords"]
    assert {"requests": 5} == place.book.totals()


async def test_the_aws_command_line_meters(place: Sandbox) -> None:
    """
    And so does the aws command; it pins botocore, so it lives in an environment of its own.
    """
    aws = os.environ.get("METERING_TEST_AWS_CLI")
    if not aws:
        pytest.skip("METERING_TEST_AWS_CLI does not name an aws command line")
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }

    def run(**changes: Any) -> subprocess.CompletedProcess[str]:
        usage = json.dumps([record(Timestamp=HOUR.timestamp(), **changes)])
        command = [aws, "meteringmarketplace", "batch-meter-usage", "--endpoint-url", place.url]
        return subprocess.run(  # noqa: S603 - the command that the environment names
            [*command, "--product-code", "prod", "--usage-records", usage],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    async with place:
        good = await asyncio.to_thread(run)
        bad = await asyncio.to_thread(run, Dimension="nothing")

    assert "Success" == json.loads(good.stdout)["Results"][0]["Status"], good.stderr
    assert "InvalidUsageDimensionException" in bad.stderr
    assert {"requests": 5} == place.book.totals()
