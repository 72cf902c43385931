"""
The pytest plugin: the fixtures `metering_sandbox`, `metering_sandbox_server`, `metering_ledger`.

    def test_my_billing(metering_sandbox):
        run_my_code()          # finds endpoint and credentials in the environment
        metering_sandbox.book.assert_metered({("111122223333", "requests", hour): 42})

`@pytest.mark.metering_sandbox(calls_per_second=None)` passes arguments to the sandbox.
`@pytest.mark.metering_readings` runs a test under each reading of what the service's pages leave
open; `@pytest.mark.metering_readings("strict", "kind")` under some of them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox import Rules, Sandbox
    from marketplace_metering_async.testing.ledgers import LedgerSandbox
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
    config.addinivalue_line(
        "markers",
        "metering_readings(*names): run under each reading of the rules that the service's pages "
        "leave open, or under the presets and switches named",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has the marker under each reading."""
    marker = metafunc.definition.get_closest_marker("metering_readings")
    if marker is None:
        return
    from marketplace_metering_async.sandbox.service.readings import each_reading  # noqa: PLC0415 - heavy

    if "_metering_reading" not in metafunc.fixturenames:
        pytest.fail(f"{metafunc.function.__name__}: metering_readings needs metering_sandbox")
    known = each_reading()
    chosen = {
        name: rules
        for name, rules in known.items()
        if not marker.args or name in marker.args or name.partition("=")[0] in marker.args
    }
    words = {word for name in known for word in (name, name.partition("=")[0])}
    if unknown := [one for one in marker.args if not (isinstance(one, str) and one in words)]:
        pytest.fail(f"metering_readings: unknown: {', '.join(map(str, unknown))}")
    if marker.kwargs:
        pytest.fail(f"metering_readings: expected names alone, got {next(iter(marker.kwargs))}=")
    metafunc.parametrize("_metering_reading", chosen.values(), ids=list(chosen), indirect=True)


@pytest.fixture
def _metering_reading(request: pytest.FixtureRequest) -> "Rules | None":
    """The rules that the marker `metering_readings` runs the test under."""
    return getattr(request, "param", None)


@pytest.fixture
def metering_sandbox(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    _metering_reading: "Rules | None",
) -> "Iterator[Sandbox]":
    """
    A sandbox of the metering service for this test, in a thread of this process.

    Endpoint, region and dummy credentials are in the environment, where this package's client,
    boto3 and aiobotocore find them.
    """
    from marketplace_metering_async.sandbox import Sandbox  # noqa: PLC0415 - heavy
    from marketplace_metering_async.testing.threads import SandboxThread  # noqa: PLC0415

    sandbox = Sandbox(**_arguments(request, _metering_reading))
    with SandboxThread(sandbox), _leading_to(sandbox.environment, monkeypatch):
        yield sandbox


@pytest.fixture
def metering_sandbox_server(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    _metering_reading: "Rules | None",
) -> "Iterator[SandboxServer]":
    """
    A sandbox of the metering service in a process of its own, for programs in any language.

    Endpoint, region and dummy credentials are in the environment, for child processes to inherit.
    One process serves all tests of the session, and is as new before each: nothing metered, no
    products, no faults, the usual rules and quota, the real time. A test with the marker has a
    process with its arguments to itself.
    """
    from marketplace_metering_async.testing.servers import SandboxServer  # noqa: PLC0415 - heavy

    arguments = _arguments(request, _metering_reading)
    if arguments.keys() - {"rules"} or (arguments and _metering_reading is None):
        with SandboxServer(**arguments) as server, _leading_to(server.environment, monkeypatch):
            yield server
        return
    server = request.getfixturevalue("_metering_sandbox_process")
    server.reset()
    if _metering_reading is not None:
        from attrs import asdict  # noqa: PLC0415 - heavy

        server.change_rules(**asdict(_metering_reading, recurse=False))
    with _leading_to(server.environment, monkeypatch):
        yield server


@pytest.fixture
def metering_ledger_url(tmp_path: Path) -> str:
    """
    Where `metering_ledger` is: a new SQLite file for each test.

    Override it in your conftest.py for another place. In PostgreSQL, `postgresql://…` of a database
    in which its role may create a schema: each test has one of its own, which is dropped then.
    """
    return f"sqlite:///{tmp_path}/usage.db"


@pytest.fixture
def metering_ledger(
    metering_sandbox: "Sandbox", metering_ledger_url: str
) -> "Iterator[LedgerSandbox]":
    """
    A ledger for this test that meters to `metering_sandbox`, with one clock for both.

    The clock stands still until the test moves it. `advance(hours=2)` moves it, and seals and sends
    what falls due on the way, as a relay would; what fails is sent again, and nothing waits long.
    """
    from marketplace_metering_async.testing.ledgers import LedgerSandbox, place_in  # noqa: PLC0415 - heavy

    with place_in(metering_ledger_url) as url:
        yield LedgerSandbox(url, metering_sandbox)


def _arguments(request: pytest.FixtureRequest, reading: "Rules | None") -> dict[str, Any]:
    marker = request.node.get_closest_marker("metering_sandbox")
    if marker and marker.args:
        pytest.fail(f"metering_sandbox: expected arguments by name, got {marker.args[0]!r}")
    arguments = dict(marker.kwargs) if marker else {}
    return arguments if reading is None else {**arguments, "rules": reading}


@pytest.fixture(scope="session")
def _metering_sandbox_process() -> "Iterator[SandboxServer]":
    from marketplace_metering_async.testing.servers import SandboxServer  # noqa: PLC0415 - heavy

    with SandboxServer() as server:
        yield server


@contextmanager
def _leading_to(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lead clients to a sandbox by its *environment*, and keep what they remember to this test."""
    _set(environment, monkeypatch)
    session = _change_session_of_boto3(None)
    try:
        yield
    finally:
        _change_session_of_boto3(session)


def _change_session_of_boto3(session: object) -> object:
    """Let boto3, if it is there, have this default session, and so its keys; return the last."""
    boto3: Any = sys.modules.get("boto3")
    if boto3 is None:
        return None
    before, boto3.DEFAULT_SESSION = getattr(boto3, "DEFAULT_SESSION", None), session
    return before


def _set(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
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
