"""A sandbox and a shell for the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import CREDENTIALS, Shell

from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.testing import SandboxThread


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    with SandboxThread(Sandbox(calls_per_second=None)) as running:
        yield running.sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    """A sandbox that remembers nothing."""
    shared_sandbox.reset()
    shared_sandbox.book.products.clear()
    return shared_sandbox


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with credentials and a region, and nothing else of AWS."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str]) -> Shell:
    """Runs commands."""
    return Shell(capfd)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a ledger that is not there yet."""
    return f"sqlite:///{tmp_path}/ledger.db"
