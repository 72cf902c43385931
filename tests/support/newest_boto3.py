"""The newest boto3, in an environment of its own: aiobotocore holds back the one of the tests."""

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

_WHERE = """
import botocore, pathlib
place = pathlib.Path(botocore.__file__).parent / "data/meteringmarketplace/2016-01-14"
print(next(place.glob("service-2.json*")))
"""


def python() -> str:
    """Return the interpreter that has it, or skip the test."""
    found = os.environ.get("METERING_TEST_BOTO3")
    if not found:
        pytest.skip("METERING_TEST_BOTO3 does not name a python with boto3 1.44.1 or newer")
    return found


@cache
def _model_of(interpreter: str) -> Path:
    asked = subprocess.run(  # noqa: S603 - the interpreter that the environment names
        [interpreter, "-c", _WHERE], capture_output=True, text=True, check=True
    )
    return Path(asked.stdout.strip())


def model() -> Path:
    """Return the file of its service model, or skip the test."""
    return _model_of(python())
