"""The AWS SDK for JavaScript v3 meters into the sandbox, and reads its errors as its own."""

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from marketplace_metering_async import verify_registration
from marketplace_metering_async.sandbox import AccessKey, Fault, FaultKind, Sandbox
from marketplace_metering_async.testing import SandboxThread

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
BUYER = "123456789012"
SCENARIO = Path(__file__).with_name("scenario.mjs")
PACKAGE = "@aws-sdk/client-marketplace-metering"


@pytest.fixture(scope="module")
def folder() -> str:
    """Where node_modules with the SDK is."""
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    folder = os.environ.get("METERING_TEST_JS_SDK", "")
    if not folder:
        pytest.skip("METERING_TEST_JS_SDK names no folder with node_modules")
    if not (Path(folder) / "node_modules" / PACKAGE).is_dir():
        pytest.skip(f"there is no {PACKAGE} in {folder}/node_modules")
    return folder


@pytest.fixture(scope="module")
def told(folder: str) -> dict[str, dict[str, Any]]:
    """What the SDK said of each step of the scenario."""
    faults = [
        Fault(kind=FaultKind.THROTTLE, dimension="throttled"),
        Fault(kind=FaultKind.ERROR_500, dimension="broken"),
    ]
    keys = {"AKIDWITNESS": AccessKey("secret/of+the=witness")}
    sandbox = Sandbox(access_keys=keys, faults=faults, calls_per_second=None)
    with SandboxThread(sandbox):
        sandbox.declare_product("prod", dimensions=["requests"], customers=[BUYER])
        scenario = {
            "endpoint": sandbox.url,
            "product": "prod",
            "token": sandbox.issue_token("prod", customer_aws_account_id=BUYER),
            "hour": HOUR.isoformat(),
            "buyer": BUYER,
            "stranger": "999999999999",
        }
        done = subprocess.run(  # noqa: S603 - a script of ours
            ["node", str(SCENARIO), json.dumps(scenario)],  # noqa: S607 - wherever it is
            capture_output=True,
            check=False,
            timeout=60,
            env={
                "PATH": os.environ["PATH"],
                "METERING_TEST_JS_SDK": folder,
                "AWS_ACCESS_KEY_ID": "AKIDWITNESS",
                "AWS_SECRET_ACCESS_KEY": "secret/of+the=witness",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )
        assert 0 == done.returncode, done.stderr.decode()
        steps = {line["step"]: line for line in map(json.loads, done.stdout.splitlines())}
        steps["book"] = sandbox.book.totals(by="customer")
        steps["key"] = {"pem": sandbox.public_key()}
        return steps


def test_javascript_meters(told: dict[str, dict[str, Any]]) -> None:
    """
    Its signature is verified, its timestamp read; the first quantity stays.
    """
    (metered,), (duplicate,) = told["metered"]["Results"], told["duplicate"]["Results"]

    assert ("Success", "DuplicateRecord") == (metered["Status"], duplicate["Status"])
    echoed = datetime.fromisoformat(metered["UsageRecord"]["Timestamp"])
    assert echoed == HOUR
    assert 5 == told["book"][BUYER]


@pytest.mark.parametrize(
    ("step", "error", "status"),
    [
        ("dimension", "InvalidUsageDimensionException", 400),
        ("customer", "InvalidCustomerIdentifierException", 400),
        ("old", "TimestampOutOfBoundsException", 400),
        ("allocations", "InvalidUsageAllocationsException", 400),
        ("forged", "InvalidTokenException", 400),
        ("another", "DuplicateRequestException", 400),
        ("version", "InvalidPublicKeyVersionException", 400),
        ("throttled", "ThrottlingException", 400),
        ("broken", "InternalServiceErrorException", 500),
    ],
)
def test_javascript_knows_the_error(
    told: dict[str, dict[str, Any]], step: str, error: str, status: int
) -> None:
    """
    By its own class, with the status that the API reference gives.
    """
    found = told[step]

    assert (error, status, True) == (found["error"], found["status"], found["modelled"])


def test_javascript_uses_the_other_operations(told: dict[str, dict[str, Any]]) -> None:
    """
    ResolveCustomer, MeterUsage with a dry run, and RegisterUsage with its signature.
    """
    assert (BUYER, "prod") == (
        told["resolved"]["CustomerAWSAccountId"],
        told["resolved"]["ProductCode"],
    )
    assert not {"error", "MeteringRecordId"} & told["dry"].keys()
    assert told["hourly"]["MeteringRecordId"]
    verify_registration(
        told["registered"]["Signature"],
        told["key"]["pem"],
        product_code="prod",
        public_key_version=1,
        nonce="n",
    )
