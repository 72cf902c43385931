"""What importing costs: nothing that is heavy, or comes with an extra, is loaded unasked."""

import subprocess
import sys

import pytest

HEAVY = [
    "aiobotocore",
    "asyncpg",
    "boto3",
    "botocore",
    "importlib.metadata",
    "jwt",
    "rich",
    "sqlite3",
    "typer",
    "urllib3",
]

OPEN_A_SIGNER = """
import asyncio, os
from datetime import UTC, datetime
from marketplace_metering_async.aws.signing import Signer
os.environ.update({"AWS_REGION": "us-east-1", "AWS_CONFIG_FILE": "", "HTTPS_PROXY": "proxy:1"})
os.environ.update({"AWS_SHARED_CREDENTIALS_FILE": ""})
async def main():
    signer = Signer(aws_access_key_id="a", aws_secret_access_key="b")
    await signer.open()
    await signer.sign("MeterUsage", b"", lambda: datetime.now(UTC))
asyncio.run(main())
"""


def loaded_by(program: str, *names: str) -> set[str]:
    """Return which of the modules *names* are loaded after *program*, run by itself."""
    listing = f"{program}\nimport sys\nprint(*sorted({set(names)!r} & set(sys.modules)))"
    done = subprocess.run(  # noqa: S603 - programs of this file
        [sys.executable, "-W", "ignore", "-c", listing], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["aws.signing", "aws.transport", "client"])
def test_an_import_is_light(module: str) -> None:
    """The client's floors load neither an AWS SDK nor what extras bring."""
    assert loaded_by(f"import marketplace_metering_async.{module}", *HEAVY) == set()


def test_a_plain_environment_needs_no_sdk() -> None:
    """Where keys and region are known, a first request is signed without loading an AWS SDK."""
    assert loaded_by(OPEN_A_SIGNER, *HEAVY) == set()
