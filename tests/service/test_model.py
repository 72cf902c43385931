"""botocore's service model pins our limits, names, errors and request bytes."""

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from hypothesis import given
from hypothesis import strategies as st
from support.service_model import differences, model_of
from support.strategies import records

from marketplace_metering_async import MarketplaceMeteringClient, limits
from marketplace_metering_async.aws import wire
from marketplace_metering_async.records import UsageRecord

INSTALLED: dict[str, Any] = Loader().load_service_model("meteringmarketplace", "service-2")
MODEL = ServiceModel(INSTALLED)
KNOWS_DECIMALS = "QuantityAsDecimal" in MODEL.shape_for("UsageRecord").members

PRINT_MODEL = """
import botocore, pathlib
place = pathlib.Path(botocore.__file__).parent / "data/meteringmarketplace/2016-01-14"
print(next(place.glob("service-2.json*")))
"""


def test_the_installed_model_is_ours() -> None:
    """
    Limits, patterns, members, errors; one from before October 2026 knows no decimals.
    """
    found = [one for one in differences(INSTALLED) if KNOWS_DECIMALS or "AsDecimal" not in one]

    assert [] == found


def test_a_service_that_has_moved_on_is_seen() -> None:
    """
    A new member, limit, pattern, error or operation has a line of its own.
    """
    moved = copy.deepcopy(INSTALLED)
    moved["shapes"]["UsageRecord"]["members"]["Currency"] = {"shape": "String"}
    moved["shapes"]["ResolveCustomerResult"]["members"]["Colour"] = {"shape": "String"}
    moved["shapes"]["UsageRecordList"]["max"] = 100
    moved["shapes"]["LicenseArn"]["pattern"] = "^arn:.*$"
    moved["shapes"]["NewException"] = {"type": "structure", "members": {}, "exception": True}
    moved["operations"]["ReadUsage"] = {}

    news = set(differences(moved)) - set(differences(INSTALLED))

    for word in ("Currency", "Colour", "max is 100", "arn:.*", "NewException", "ReadUsage"):
        assert any(word in one for one in news), word


def test_names_are_the_models() -> None:
    """
    Signing name, target prefix and endpoint prefix.
    """
    metadata = MarketplaceMeteringClient.service_metadata()

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


@pytest.fixture(scope="module", params=["installed", "newest"])
def model(request: pytest.FixtureRequest) -> ServiceModel:
    """The model of the installed botocore, and that of the newest, which aiobotocore holds back."""
    if request.param == "installed":
        return MODEL
    python = os.environ.get("METERING_TEST_BOTO3")
    if not python:
        pytest.skip("METERING_TEST_BOTO3 does not name a python with boto3 1.44.1 or newer")
    place = subprocess.run(  # noqa: S603 - the interpreter that the environment names
        [python, "-c", PRINT_MODEL], capture_output=True, text=True, check=True
    )
    return ServiceModel(model_of(Path(place.stdout.strip())))


@given(st.data())
def test_requests_are_what_botocore_would_send(model: ServiceModel, data: st.DataObject) -> None:
    """
    Member for member, as JSON.
    """
    decimals = "QuantityAsDecimal" in model.shape_for("UsageRecord").members
    record: UsageRecord = data.draw(records(whole=not decimals))
    serializer = create_serializer("json")
    arguments: dict[str, Any] = {"UsageRecords": [record.to_boto()]}
    product = None if record.license_arn else record.product_code
    if product:
        arguments["ProductCode"] = product

    theirs = serializer.serialize_to_request(arguments, model.operation_model("BatchMeterUsage"))
    ours = wire.encode_batch(product, [record.to_wire()])

    assert json.loads(theirs["body"]) == json.loads(ours)
    assert theirs["headers"]["X-Amz-Target"] == f"{limits.TARGET_PREFIX}.BatchMeterUsage"
