"""A sandbox that listens, and a session to talk to it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from marketplace_metering_async.sandbox import Sandbox


@pytest.fixture
async def place() -> AsyncIterator[Sandbox]:
    async with Sandbox(calls_per_second=None) as sandbox:
        yield sandbox


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
