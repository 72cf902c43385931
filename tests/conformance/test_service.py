"""
What the service is known to do, said in a client's words: it holds of AWS, of our sandbox, and of
whatever stands in for AWS. tests/support/service.py says how to run it against another one.

Where AWS's pages leave something open, either reading passes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from support.service import Service, boto3_client, service_under_test

from marketplace_metering_async import (
    MarketplaceMeteringClient,
    RecordStatus,
    UsageRecord,
    verify_registration,
)

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
if HOUR.day != datetime.now(UTC).day and datetime.now(UTC).day == 1:
    HOUR += timedelta(hours=1)  # last month may be closed


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with service_under_test() as found:
        yield found


@pytest.fixture(scope="module")
def boto(service: Service) -> Iterator[Any]:
    client = boto3_client(service)
    yield client
    client.close()


@pytest.fixture
def record(service: Service) -> dict[str, Any]:
    """A record that will be metered."""
    return {
        "Timestamp": HOUR,
        "CustomerAWSAccountId": service.buyer(),
        "Dimension": service.dimension,
        "Quantity": 5,
    }


@pytest.fixture
def meter(service: Service, boto: Any) -> Any:
    """Send records; return the answer's results by dimension and time, or the error."""

    def send(*records: Any, **changes: Any) -> Any:
        request = {"ProductCode": service.product_code, "UsageRecords": list(records)} | changes
        try:
            return boto.batch_meter_usage(**{n: v for n, v in request.items() if v is not None})
        except ClientError as error:
            return error

    return send


def status(answer: Any) -> str:
    """Return the status of the one record of an answer, or the code of the error."""
    if isinstance(answer, ClientError):
        return str(answer.response["Error"]["Code"])
    (result,) = answer["Results"]
    return str(result["Status"])


def http_status(answer: Any) -> int:
    assert isinstance(answer, ClientError)
    return int(answer.response["ResponseMetadata"]["HTTPStatusCode"])


def test_a_record_is_metered(meter: Any, record: dict[str, Any]) -> None:
    """
    With an id of its own, and told back as it was sent.
    """
    answer = meter(record)

    (result,) = answer["Results"]
    assert "Success" == result["Status"]
    assert result["MeteringRecordId"]
    assert record == {name: result["UsageRecord"][name] for name in record}
    assert [] == answer["UnprocessedRecords"]
    assert answer["ResponseMetadata"]["RequestId"]


def test_an_identical_record_adds_nothing(meter: Any, record: dict[str, Any]) -> None:
    """
    It is Success with the first one's id, or DuplicateRecord.
    """
    (first,) = meter(record)["Results"]
    (again,) = meter(record)["Results"]

    assert again["Status"] in ("Success", "DuplicateRecord")
    if again["Status"] == "Success":
        assert first["MeteringRecordId"] == again["MeteringRecordId"]
    assert "DuplicateRecord" == status(meter(record | {"Quantity": 6}))


def test_the_first_quantity_of_an_hour_stays(meter: Any, record: dict[str, Any]) -> None:
    """
    Another one is a duplicate, whether more or less.
    """
    meter(record)

    assert "DuplicateRecord" == status(meter(record | {"Quantity": 6}))
    assert "DuplicateRecord" == status(meter(record | {"Quantity": 0}))


def test_a_zero_takes_its_hour(meter: Any, record: dict[str, Any]) -> None:
    """
    Also one that was left out.
    """
    nothing = {name: value for name, value in record.items() if name != "Quantity"}

    assert "Success" == status(meter(nothing))
    assert "DuplicateRecord" == status(meter(record))


def test_every_record_is_answered_for(meter: Any, record: dict[str, Any], service: Service) -> None:
    """
    In one list or the other, in whatever order.
    """
    records = [record] + [record | {"CustomerAWSAccountId": service.buyer()} for _ in range(4)]
    answer = meter(*records)

    told = [result["UsageRecord"] for result in answer["Results"]] + answer["UnprocessedRecords"]
    assert sorted(r["CustomerAWSAccountId"] for r in records) == sorted(
        r["CustomerAWSAccountId"] for r in told
    )


def test_no_records_are_no_mistake(meter: Any) -> None:
    """
    An empty list has an empty answer.
    """
    answer = meter()

    assert ([], []) == (answer["Results"], answer["UnprocessedRecords"])


REFUSALS = [
    ("TimestampOutOfBoundsException", {"Timestamp": HOUR - timedelta(hours=25)}),
    ("TimestampOutOfBoundsException", {"Timestamp": HOUR + timedelta(hours=3)}),
    ("InvalidUsageDimensionException", {"Dimension": "no-such-dimension"}),
    ("InvalidUsageAllocationsException", {"UsageAllocations": [{"AllocatedUsageQuantity": 4}]}),
    (
        "InvalidUsageAllocationsException",
        {"UsageAllocations": [{"AllocatedUsageQuantity": n} for n in (2, 3)]},
    ),
    (
        "InvalidTagException",
        {
            "UsageAllocations": [
                {
                    "AllocatedUsageQuantity": 5,
                    "Tags": [{"Key": f"k{n}", "Value": "v"} for n in range(6)],
                }
            ]
        },
    ),
    (
        "InvalidTagException",
        {"UsageAllocations": [{"AllocatedUsageQuantity": 5, "Tags": [{"Key": "k", "Value": "é"}]}]},
    ),
]


@pytest.mark.parametrize(("code", "changes"), REFUSALS)
def test_one_bad_record_refuses_the_request(
    meter: Any, record: dict[str, Any], service: Service, code: str, changes: dict[str, Any]
) -> None:
    """
    With status 400, and the good record beside it is not metered either.
    """
    bad = record | {"CustomerAWSAccountId": service.buyer()} | changes
    answer = meter(record, bad)

    assert (code, 400) == (status(answer), http_status(answer))
    assert "Success" == status(meter(record | {"Quantity": 6}))


def test_letter_case_counts_in_dimensions(meter: Any, record: dict[str, Any]) -> None:
    """
    Another case is another dimension, which there is not.
    """
    swapped = record["Dimension"].swapcase()

    assert "InvalidUsageDimensionException" == status(meter(record | {"Dimension": swapped}))


def test_an_unknown_product_is_refused(meter: Any, record: dict[str, Any]) -> None:
    """
    And so is none.
    """
    for code in ("no-such-product", None):
        answer = meter(record, ProductCode=code)
        assert ("InvalidProductCodeException", 400) == (status(answer), http_status(answer))


def test_an_unknown_customer_is_not_metered(meter: Any, record: dict[str, Any]) -> None:
    """
    By an error or by a status; the pages name both.
    """
    stranger = record | {"CustomerAWSAccountId": "000000000001"}

    assert status(meter(stranger)) in (
        "InvalidCustomerIdentifierException",
        "CustomerNotSubscribed",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"CustomerIdentifier": "both"},
        {"CustomerAWSAccountId": None},
        {"CustomerAWSAccountId": "letters"},
        {"Quantity": -1},
        {"Quantity": 2**31},
        {"Dimension": "x" * 256},
        {"Timestamp": None},
        {"UsageAllocations": []},
    ],
)
def test_what_breaks_the_model_is_refused(
    meter: Any, record: dict[str, Any], changes: dict[str, Any]
) -> None:
    """
    By which name, the pages do not say.
    """
    broken = {n: v for n, v in (record | changes).items() if v is not None}

    assert 400 <= http_status(meter(broken)) < 500
    assert "Success" == status(meter(record))


def test_more_than_25_records_are_refused(meter: Any, record: dict[str, Any]) -> None:
    """
    And none of them is metered.
    """
    many = [record | {"Timestamp": HOUR + timedelta(seconds=n)} for n in range(26)]

    assert 400 <= http_status(meter(*many)) < 500
    assert "Success" == status(meter(record))


def test_a_megabyte_is_too_much(meter: Any, record: dict[str, Any]) -> None:
    """
    Whatever the number of records.
    """
    tags = [{"Key": f"{n}" * 100, "Value": "v" * 256} for n in range(5)]
    allocations = [
        {
            "AllocatedUsageQuantity": 0,
            "Tags": [*tags[:4], {"Key": f"k{n:0>98}", "Value": "v" * 256}],
        }
        for n in range(700)
    ]
    large = record | {"Quantity": 0, "UsageAllocations": allocations}

    assert 400 <= http_status(meter(large)) < 500
    assert "Success" == status(meter(record))


def test_allocations_are_taken(meter: Any, record: dict[str, Any]) -> None:
    """
    With tags, and one bucket without; they add up to the quantity.
    """
    allocations = [
        {"AllocatedUsageQuantity": 2, "Tags": [{"Key": "team", "Value": "a b+-=._:/@"}]},
        {"AllocatedUsageQuantity": 3},
    ]

    assert "Success" == status(meter(record | {"UsageAllocations": allocations}))


@pytest.fixture
def licensed(record: dict[str, Any], service: Service) -> dict[str, Any]:
    license_arn, account = service.license()
    return record | {"LicenseArn": license_arn, "CustomerAWSAccountId": account}


def test_a_license_goes_without_a_product_code(meter: Any, licensed: dict[str, Any]) -> None:
    """
    Both are refused: they would bill twice.
    """
    assert 400 <= http_status(meter(licensed)) < 500
    assert "Success" == status(meter(licensed, ProductCode=None))
    assert "DuplicateRecord" == status(meter(licensed | {"Quantity": 6}, ProductCode=None))


def test_anothers_license_is_invalid(
    meter: Any, licensed: dict[str, Any], service: Service
) -> None:
    """
    And one that there is not.
    """
    _, other = service.license()
    unknown = "arn:aws:license-manager::123456789012:license:l-00000000000000000000000000000000"

    for changes in ({"CustomerAWSAccountId": other}, {"LicenseArn": unknown}):
        answer = meter(licensed | changes, ProductCode=None)
        assert ("InvalidLicenseException", 400) == (status(answer), http_status(answer))


def test_resolve_customer_answers_the_same_again(service: Service, boto: Any) -> None:
    """
    As long as the token lives.
    """
    token = service.token()
    first, again = (boto.resolve_customer(RegistrationToken=token) for _ in range(2))

    assert service.product_code == first["ProductCode"]
    assert first["CustomerAWSAccountId"] == again["CustomerAWSAccountId"]


@pytest.mark.parametrize("which", ["forged", "expired"])
def test_a_token_that_does_not_live_is_refused(service: Service, boto: Any, which: str) -> None:
    """
    With status 400: 403 would be about the seller's own credentials.
    """
    token = service.expired_token() if which == "expired" else "forged"
    name = {"expired": "ExpiredTokenException", "forged": "InvalidTokenException"}[which]
    with pytest.raises(ClientError) as caught:
        boto.resolve_customer(RegistrationToken=token)

    assert (name, 400) == (status(caught.value), http_status(caught.value))


@pytest.fixture
def workload(service: Service) -> dict[str, Any]:
    """A request of MeterUsage, of an hour that no other test uses."""
    service.require_workload()
    return {
        "ProductCode": service.product_code,
        "UsageDimension": service.dimension,
        "UsageQuantity": 3,
    }


def code_of(call: Any, **request: Any) -> str:
    """Return the code of the error that a call ends with, or its record id, if it has one."""
    try:
        return str(call(**request).get("MeteringRecordId"))
    except ClientError as error:
        return str(error.response["Error"]["Code"])


def test_meter_usage_counts_an_hour_once(boto: Any, workload: dict[str, Any]) -> None:
    """
    The same returns the same id; another quantity is a duplicate; a dry run, whether it returns or
    raises DryRunOperation, meters nothing.
    """
    request = workload | {"Timestamp": HOUR}

    dry = code_of(boto.meter_usage, **request | {"UsageQuantity": 4}, DryRun=True)
    assert not dry.endswith("Exception")
    first = code_of(boto.meter_usage, **request)
    assert not first.endswith("Exception")
    assert first == code_of(boto.meter_usage, **request)
    other = request | {"UsageQuantity": 4}
    assert "DuplicateRequestException" == code_of(boto.meter_usage, **other)


def test_meter_usage_knows_its_client_tokens(boto: Any, workload: dict[str, Any]) -> None:
    """
    The same token and request have the same answer; with another request it conflicts.
    """
    token = f"conformance-{datetime.now(UTC).timestamp()}"
    request = workload | {"Timestamp": HOUR - timedelta(hours=1), "ClientToken": token}
    first = code_of(boto.meter_usage, **request)

    assert first == code_of(boto.meter_usage, **request)
    other = request | {"UsageQuantity": 4}
    assert "IdempotencyConflictException" == code_of(boto.meter_usage, **other)


@pytest.mark.parametrize("age", [timedelta(hours=7), timedelta(hours=-3)])
def test_meter_usage_takes_six_hours(boto: Any, workload: dict[str, Any], age: timedelta) -> None:
    """
    And nothing of the future.
    """
    request = workload | {"Timestamp": datetime.now(UTC) - age}

    assert "TimestampOutOfBoundsException" == code_of(boto.meter_usage, **request)


def test_register_usage_signs(service: Service, boto: Any) -> None:
    """
    What was sent, with the product's key; a version that there is not is refused.
    """
    service.require_workload()
    sent = {"ProductCode": service.product_code, "PublicKeyVersion": 1, "Nonce": "conformance"}
    answer = boto.register_usage(**sent)

    verify_registration(
        answer["Signature"],
        service.public_key(),
        product_code=service.product_code,
        public_key_version=1,
        nonce="conformance",
    )
    refused = code_of(boto.register_usage, **sent | {"PublicKeyVersion": 999})
    assert "InvalidPublicKeyVersionException" == refused


async def test_our_client_is_answered_alike(service: Service, record: dict[str, Any]) -> None:
    """
    Metered once, then a duplicate; a refused record does not sink the others. Covers: X07
    """
    usage = UsageRecord.from_boto(record)
    bad = UsageRecord.from_boto(record | {"Dimension": "no-such-dimension"})
    async with MarketplaceMeteringClient(**service.client_arguments) as client:
        first = await client.batch_meter_usage([usage, bad], product_code=service.product_code)
        other = UsageRecord.from_boto(record | {"Quantity": 6})
        second = await client.batch_meter_usage([other], product_code=service.product_code)

    assert [RecordStatus.SUCCESS, RecordStatus.REJECTED] == [r.status for r in first]
    assert "InvalidUsageDimensionException" == getattr(first[1].error, "code", None)
    assert RecordStatus.DUPLICATE_RECORD is second[0].status


async def test_aiobotocore_is_answered_alike(service: Service, record: dict[str, Any]) -> None:
    """
    The other client that awaits: metered, and told of an error of the service's model.
    """
    async with get_session().create_client(
        "meteringmarketplace", **service.client_arguments
    ) as client:
        answer = await client.batch_meter_usage(
            ProductCode=service.product_code, UsageRecords=[record]
        )
        with pytest.raises(client.exceptions.InvalidProductCodeException):
            await client.batch_meter_usage(ProductCode="no-such-product", UsageRecords=[record])

    assert "Success" == status(answer)
    assert [] == answer["UnprocessedRecords"]
