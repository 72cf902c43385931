"""
The pytest plugin: the fixtures `metering_sandbox`, `metering_sandbox_server`, `metering_ledger`.

    def test_my_billing(metering_sandbox):
        run_my_code()          # finds endpoint and credentials in the environment
        metering_sandbox.book.assert_metered({("111122223333", "requests", hour): 42})

`@pytest.mark.metering_sandbox(calls_per_second=None)` passes arguments to the sandbox.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox import Sandbox
    from marketplace_metering_async.testing.ledgers import LedgerInTest
    from marketplace_metering_async.testing.servers import SandboxServer

_WHERE_IT_RUNS: Final = ("AWS_EXECUTION_ENV", "AWS_LAMBDA_", "AWS_XRAY_")
"""The only variables of AWS that lead no client elsewhere, or nowhere."""
_EMPTY_FILES: Final = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
_NO_PROXY: Final = "127.0.0.1,localhost,::1"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "metering_sandbox(**arguments): arguments of the Sandbox behind metering_sandbox, "
        "or behind metering_sandbox_server",
    )


@pytest.fixture
def metering_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[Sandbox]":
    """
    A sandbox of the metering service for this test, in a thread of this process.

    Endpoint, region and dummy credentials are in the environment, where this package's client,
    boto3 and aiobotocore find them.
    """
    from marketplace_metering_async.sandbox import Sandbox  # noqa: PLC0415 - heavy
    from marketplace_metering_async.testing.threads import SandboxThread  # noqa: PLC0415

    with SandboxThread(Sandbox(**_marked(request))) as running:
        _lead_to(running.sandbox.environment, monkeypatch)
        yield running.sandbox


@pytest.fixture
def metering_sandbox_server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[SandboxServer]":
    """
    A sandbox of the metering service in a process of its own, for programs in any language.

    Endpoint, region and dummy credentials are in the environment, for child processes to inherit.
    One process serves all tests of the session, and is as new before each: nothing metered, no
    products, no faults, the usual rules and quota, the real time. A test with the marker has a
    process with its arguments to itself.
    """
    from marketplace_metering_async.testing.servers import SandboxServer  # noqa: PLC0415 - heavy

    arguments = _marked(request)
    if arguments:
        with SandboxServer(**arguments) as server:
            _lead_to(server.environment, monkeypatch)
            yield server
        return
    server = request.getfixturevalue("_metering_sandbox_process")
    server.reset()
    _lead_to(server.environment, monkeypatch)
    yield server


@pytest.fixture
def metering_ledger(metering_sandbox: "Sandbox", tmp_path: Path) -> "LedgerInTest":
    """
    A ledger for this test that meters into `metering_sandbox`; one clock moves all of them.

    After `metering_ledger.advance(hours=2)` an hour is over for the sandbox, the ledger and the
    client alike.
    """
    from marketplace_metering_async.testing.ledgers import LedgerInTest  # noqa: PLC0415 - heavy

    return LedgerInTest(metering_sandbox, tmp_path)


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("metering_sandbox")
    return dict(marker.kwargs) if marker else {}


@pytest.fixture(scope="session")
def _metering_sandbox_process() -> "Iterator[SandboxServer]":
    from marketplace_metering_async.testing.servers import SandboxServer  # noqa: PLC0415 - heavy

    with SandboxServer() as server:
        yield server


def _lead_to(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if not name.startswith(_WHERE_IT_RUNS):
            monkeypatch.delenv(name)
    for name in _EMPTY_FILES:  # a profile there may name another endpoint
        monkeypatch.setenv(name, os.devnull)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name)
        monkeypatch.setenv(name, f"{others},{_NO_PROXY}" if others else _NO_PROXY)
