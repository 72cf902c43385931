"""GroupCommit: whoever adds is answered, whatever becomes of the task that stores."""

import asyncio
from collections.abc import Sequence

import pytest

from marketplace_metering_async.ledger.group_commit import GroupCommit
from marketplace_metering_async.ledger.model import Usage, UsageKey
from marketplace_metering_async.ledger.posting import AddedUsage, PostingResult

KEY = UsageKey("product", "123456789012", "", "", "requests")
USAGE = Usage(KEY, "", 1_795_435_200, 1, None, b"")


@pytest.mark.parametrize("turns", range(5))
async def test_a_task_that_was_cancelled_leaves_nobody_waiting(turns: int) -> None:
    """
    Also before it began: who waits is answered, and who comes later is stored. Law 10
    """

    async def post(group: Sequence[Usage]) -> list[PostingResult]:
        await asyncio.sleep(0)
        return [AddedUsage() for _ in group]

    commits = GroupCommit(post)
    adding = asyncio.create_task(commits.add(USAGE))
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), adding}:
        task.cancel()

    async with asyncio.timeout(5):
        await asyncio.wait({adding})
        assert AddedUsage() == await commits.add(USAGE)
        await commits.settled()
