"""A suite of a user, run by a pytest of its own."""

from collections.abc import Callable
from typing import Final

import pytest

PLUGIN: Final = "marketplace_metering_async.testing.plugin"

Suite = Callable[[str], pytest.RunResult]
"""Runs the text of a test file."""


def suite_of(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Return what runs one under our plugin, and no other but pytest-asyncio."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess(
            *("-p", PLUGIN, "-p", "pytest_asyncio.plugin", "--strict-markers"),
            *("--asyncio-mode=auto", "-oasyncio_default_fixture_loop_scope=function"),
        )

    return run
