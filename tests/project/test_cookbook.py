"""The README's longer examples, run as they stand against a sandbox."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from marketplace_metering_async import UsageLedger, UsageRecord
from marketplace_metering_async.sandbox import Sandbox

README = Path(__file__).parents[2] / "README.md"


def example(name: str) -> Any:
    """Return what the block that defines *name* defines."""
    text = README.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if f"def {name}(" in block:
            names: dict[str, Any] = {"__name__": "readme"}
            exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own text
            return names[name]
    raise AssertionError(f"the README defines no {name}()")


def last_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


async def test_single_records() -> None:
    """
    Through the batcher.
    """
    records = [
        UsageRecord(
            timestamp=last_hour(), dimension="d", quantity=n, customer_aws_account_id=f"{n:012d}"
        )
        for n in range(1, 4)
    ]
    async with Sandbox() as box:
        results = await example("meter_all")(records, **box.client_arguments)

        assert [True] * 3 == [result.metered for result in results]
        assert {"d": 6} == box.book.totals()


async def test_a_program_with_a_ledger(tmp_path: Path) -> None:
    """
    Every request is on the disk; a repeated one counts once.
    """

    async def requests() -> AsyncIterator[dict[str, str]]:
        for number in (1, 2, 2, 3):
            yield {"account": "111122223333", "id": f"request-{number}"}

    url = f"sqlite:///{tmp_path}/usage.db"
    async with Sandbox() as box:
        status = await example("serve")(requests(), url, **box.client_arguments)

    assert 3 == status.recorded == status.open


async def test_an_aiohttp_application(tmp_path: Path) -> None:
    """
    Usage is stored while it runs, and the relay ends with it.
    """
    url = f"sqlite:///{tmp_path}/usage.db"
    async with Sandbox() as box:
        app = example("application")(url, **box.client_arguments)
        async with TestClient(TestServer(app)) as browser:
            for _ in range(2):
                headers = {"X-Account": "111122223333", "X-Request-Id": "a"}
                answer = await browser.post("/work", headers=headers)
                assert 200 == answer.status
    async with UsageLedger.open(url) as ledger:
        status = await ledger.status()

    assert 1 == status.recorded


def test_a_lambda_handler() -> None:
    """
    All is sent inside the call.
    """
    event = {
        "records": [
            {
                "Timestamp": last_hour().isoformat(),
                "Dimension": "d",
                "Quantity": 1,
                "CustomerAWSAccountId": f"{n:012d}",
            }
            for n in range(3)
        ]
    }

    def call(arguments: Any) -> list[str]:
        statuses: list[str] = example("handler")(event, None, **arguments)
        return statuses

    async def run() -> list[str]:
        async with Sandbox() as box:
            return await asyncio.to_thread(call, box.client_arguments)

    assert ["Success"] * 3 == asyncio.run(run())


@pytest.mark.parametrize("word", ["UsageBatcher", "UsageLedger", "metering_sandbox"])
def test_the_readme_shows(word: str) -> None:
    """
    What a newcomer looks for.
    """
    assert word in README.read_text(encoding="utf-8")
