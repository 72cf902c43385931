"""botocore's service model pins our limits, names, errors and request bytes."""

import inspect
import json
from typing import Any

import boto3
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from hypothesis import given
from support.strategies import records

from marketplace_metering_async import limits
from marketplace_metering_async.aws import wire
from marketplace_metering_async.errors import MODELLED_ERRORS
from marketplace_metering_async.records import UsageRecord

MODEL = ServiceModel(Loader().load_service_model("meteringmarketplace", "service-2"))


def shape(name: str) -> dict[str, Any]:
    return dict(MODEL.shape_for(name).metadata)


def test_every_modelled_error_has_its_class() -> None:
    """
    No more and no fewer.
    """
    modelled = {s.name for s in MODEL.error_shapes}

    assert modelled == set(MODELLED_ERRORS)


def test_limits_are_the_models() -> None:
    """
    Records, quantities, lengths, allocations and tags.
    """
    assert limits.MAX_RECORDS_PER_REQUEST == shape("UsageRecordList")["max"]
    assert limits.MAX_QUANTITY == shape("UsageQuantity")["max"]
    assert limits.MAX_TEXT == shape("UsageDimension")["max"] == shape("ProductCode")["max"]
    assert limits.MAX_TEXT == shape("CustomerIdentifier")["max"]
    assert limits.MAX_ALLOCATIONS == shape("UsageAllocations")["max"]
    assert limits.MAX_TAGS == shape("TagList")["max"]
    assert limits.MAX_TAG_KEY == shape("TagKey")["max"]
    assert limits.MAX_TAG_VALUE == shape("TagValue")["max"]
    assert limits.MAX_CLIENT_TOKEN == shape("ClientToken")["max"]


def test_names_are_the_models() -> None:
    """
    Signing name, target prefix and endpoint prefix.
    """
    metadata = limits.service_metadata()

    assert MODEL.signing_name == metadata.signing_name == limits.SERVICE_NAME
    assert MODEL.metadata["targetPrefix"] == metadata.target_prefix
    assert MODEL.endpoint_prefix == metadata.endpoint_prefix
    assert MODEL.metadata["jsonVersion"] == "1.1"


def test_regions_and_hosts_are_botocores() -> None:
    """
    The partitions' endpoint data lists the same regions; the hosts are the rule set's.
    """
    metadata = limits.service_metadata()
    session = boto3.Session()
    listed = {
        region
        for partition in ("aws", "aws-cn", "aws-us-gov")
        for region in session.get_available_regions("meteringmarketplace", partition)
    }

    assert listed == set(metadata.endpoints)
    assert set(metadata.regions) | set(metadata.meter_usage_regions) == set(metadata.endpoints)
    for region in ("us-east-1", "cn-northwest-1", "us-gov-west-1"):
        client = session.client(
            "meteringmarketplace",
            region_name=region,
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        assert f"https://{metadata.endpoints[region]}" == client.meta.endpoint_url
        client.close()


@given(records())
def test_requests_are_what_botocore_would_send(record: UsageRecord) -> None:
    """
    Member for member, as JSON.
    """
    serializer = create_serializer("json")
    arguments: dict[str, Any] = {"UsageRecords": [record.to_boto()]}
    product = None if record.license_arn else record.product_code
    if product:
        arguments["ProductCode"] = product

    theirs = serializer.serialize_to_request(arguments, MODEL.operation_model("BatchMeterUsage"))
    ours = wire.encode_batch(product, [wire.members_of(record)])

    assert json.loads(theirs["body"]) == json.loads(ours)
    assert theirs["headers"]["X-Amz-Target"] == f"{limits.TARGET_PREFIX}.BatchMeterUsage"


@pytest.mark.parametrize("operation", ["MeterUsage", "RegisterUsage", "ResolveCustomer"])
def test_the_other_operations_have_their_arguments(operation: str) -> None:
    """
    Each member of the service has its argument, in Python's spelling.
    """
    from botocore import xform_name  # noqa: PLC0415 - used here alone

    from marketplace_metering_async import MarketplaceMeteringClient  # noqa: PLC0415

    members = MODEL.operation_model(operation).input_shape.members
    method = getattr(MarketplaceMeteringClient, xform_name(operation))

    assert {xform_name(member) for member in members} <= set(inspect.signature(method).parameters)
