"""
What the conformance suite runs against: our sandbox, or any service that the environment names.

METERING_CONFORMANCE_ENDPOINT   its URL; credentials and region are found as AWS SDKs find them
METERING_CONFORMANCE_PRODUCT    a product code
METERING_CONFORMANCE_DIMENSION  one of its dimensions, whose usage may be metered for the test
METERING_CONFORMANCE_CUSTOMERS  account ids with a subscription and without usage in the last day,
                                separated by commas; each test uses up one
METERING_CONFORMANCE_LICENSES   ARN=account, separated by commas, of a product with licenses
METERING_CONFORMANCE_TOKEN      a registration token that lives
METERING_CONFORMANCE_WORKLOAD   1: the credentials may call MeterUsage and RegisterUsage, too
METERING_CONFORMANCE_KEY        a file with the product's public key of version 1

What the environment does not name is skipped. Records are of quantity 0 to 9.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest
from botocore.config import Config

from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.testing.threads import SandboxThread


class Service(Protocol):
    """A service with a product, a dimension, and buyers who have not used it lately."""

    product_code: str
    dimension: str
    client_arguments: Any

    def buyer(self) -> str:
        """Return an account id that no test had before."""

    def license(self) -> tuple[str, str]:
        """Return a license and its account, that no test had before."""

    def token(self) -> str:
        """Return a registration token."""

    def expired_token(self) -> str:
        """Return one that has expired."""

    def public_key(self) -> str:
        """Return the public key of version 1."""

    def require_workload(self) -> None:
        """Skip where the credentials are not those of a workload."""


class OurSandbox:
    """Our sandbox, in a thread."""

    product_code = "conformance"
    dimension = "requests"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._numbers = count(100_000_000_000)
        self.client_arguments: Any = sandbox.client_arguments
        sandbox.declare_product(self.product_code, dimensions=[self.dimension, "seats"])
        sandbox.declare_product("licensed", dimensions=[self.dimension], concurrent_agreements=True)
        self._begins = sandbox.clock.now() - timedelta(days=60)
        self.buyer()  # from now on, who has not subscribed is unknown

    def buyer(self) -> str:
        return self._subscribed(self.product_code)[0]

    def license(self) -> tuple[str, str]:
        account, license_arn = self._subscribed("licensed")
        return license_arn, account

    def _subscribed(self, product_code: str) -> tuple[str, str]:
        account = str(next(self._numbers))
        agreement = self._sandbox.subscribe(product_code, account, begins=self._begins)
        return account, agreement.license_arn or ""

    def token(self) -> str:
        return self._sandbox.issue_token(self.product_code, customer_aws_account_id="111122223333")

    def expired_token(self) -> str:
        now = self._sandbox.clock.now() - timedelta(hours=4)
        return self._sandbox.book.issue_token(self.product_code, now=now)

    def public_key(self) -> str:
        return self._sandbox.public_key()

    def require_workload(self) -> None:
        pass


class NamedService:
    """The service that the environment names."""

    def __init__(self, endpoint_url: str) -> None:
        self.client_arguments: Any = {"endpoint_url": endpoint_url}
        self.product_code = _named("PRODUCT")
        self.dimension = _named("DIMENSION")
        self._buyers = [part for part in os.environ.get(_name("CUSTOMERS"), "").split(",") if part]
        self._licenses = [p for p in os.environ.get(_name("LICENSES"), "").split(",") if p]

    def buyer(self) -> str:
        if not self._buyers:
            pytest.skip(f"{_name('CUSTOMERS')} names no more customers")
        return self._buyers.pop(0)

    def license(self) -> tuple[str, str]:
        if not self._licenses:
            pytest.skip(f"{_name('LICENSES')} names no more licenses")
        license_arn, _, account = self._licenses.pop(0).rpartition("=")
        return license_arn, account

    def token(self) -> str:
        return _named("TOKEN")

    def expired_token(self) -> str:
        pytest.skip("nobody can wait four hours for a token to expire")

    def public_key(self) -> str:
        return Path(_named("KEY")).read_text(encoding="ascii")

    def require_workload(self) -> None:
        _named("WORKLOAD")


def _name(what: str) -> str:
    return f"METERING_CONFORMANCE_{what}"


def _named(what: str) -> str:
    value = os.environ.get(_name(what))
    if not value:
        pytest.skip(f"{_name(what)} is not set")
    return value


@contextmanager
def service_under_test() -> Iterator[Service]:
    """Yield the service that the environment names, or our sandbox."""
    endpoint_url = os.environ.get(_name("ENDPOINT"))
    if endpoint_url:
        yield NamedService(endpoint_url)
        return
    with SandboxThread(Sandbox(calls_per_second=None)) as running:
        yield OurSandbox(running.sandbox)


def boto3_client(service: Service) -> Any:
    """Return boto3's client of *service*, which sends what it is told, once."""
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    return boto3.Session().client("meteringmarketplace", config=config, **service.client_arguments)
