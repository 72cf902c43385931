"""
The pytest plugin: the fixtures `metering_sandbox` and `metering_sandbox_server`.

    def test_my_billing(metering_sandbox):
        run_my_code()          # finds endpoint and credentials in the environment
        metering_sandbox.book.assert_metered({("111122223333", "requests", hour): 42})

`@pytest.mark.metering_sandbox(calls_per_second=None)` passes arguments to the sandbox.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox import Sandbox
    from marketplace_metering_async.testing.servers import SandboxServer

_IN_THE_WAY: Final = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
"""Variables that would lead a client elsewhere."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "metering_sandbox(**arguments): arguments of the Sandbox behind metering_sandbox",
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

    marker = request.node.get_closest_marker("metering_sandbox")
    arguments = marker.kwargs if marker else {}
    with SandboxThread(Sandbox(**arguments)) as running:
        _lead_to(running.sandbox.environment, monkeypatch)
        yield running.sandbox


@pytest.fixture
def metering_sandbox_server(
    _metering_sandbox_process: "SandboxServer", monkeypatch: pytest.MonkeyPatch
) -> "SandboxServer":
    """
    A sandbox of the metering service in a process of its own, for programs in any language.

    Endpoint, region and dummy credentials are in the environment, for child processes to inherit.
    The process serves all tests of the session, and is as new before each: nothing metered, no
    products, no faults, the usual rules and quota, the real time.
    """
    _metering_sandbox_process.reset()
    _lead_to(_metering_sandbox_process.environment, monkeypatch)
    return _metering_sandbox_process


@pytest.fixture(scope="session")
def _metering_sandbox_process() -> "Iterator[SandboxServer]":
    from marketplace_metering_async.testing.servers import SandboxServer  # noqa: PLC0415 - heavy

    with SandboxServer() as server:
        yield server


def _lead_to(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _IN_THE_WAY:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
