"""One chromium for all pages."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.chromium import Browser, chromium, open_browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """A running chromium."""
    program = chromium()
    if program is None:
        pytest.skip("no chromium on PATH, nor named by METERING_TEST_CHROMIUM")
    async with open_browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser
