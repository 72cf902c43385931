"""GroupCommit: whoever adds is answered, whatever becomes of the task that stores."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from marketplace_metering_async.errors import LedgerError, UsageRefusedError
from marketplace_metering_async.ledger.group_commit import GroupCommit, failure_of_all
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
    adding = commits.add(USAGE)
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), adding}:
        task.cancel()

    async with asyncio.timeout(5):
        await asyncio.wait({adding})
        assert AddedUsage() == await commits.add(USAGE)
        await commits.settled()


async def test_storing_is_in_no_callers_context() -> None:
    """
    Nor is that held while usage keeps coming, with what a request has used, such as a session.
    """

    class Held:
        """What a request keeps in its context."""

    request: ContextVar[Held | None] = ContextVar("request", default=None)
    seen: set[Held | None] = set()

    async def post(group: Sequence[Usage]) -> list[PostingResult]:
        seen.add(request.get())
        await asyncio.sleep(0)
        return [AddedUsage() for _ in group]

    async def first() -> "weakref.ref[Held]":
        held = Held()
        request.set(held)
        await commits.add(USAGE)
        return weakref.ref(held)

    async def others() -> None:
        while True:
            await commits.add(USAGE)

    commits = GroupCommit(post)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        beginning = group.create_task(first())
        await asyncio.sleep(0)
        going_on = [group.create_task(others()) for _ in range(2)]
        held = await beginning
        del beginning
        for _ in range(100):
            await asyncio.sleep(0)
        gc.collect()
        assert None is held()
        for task in going_on:
            task.cancel()

    await commits.settled()
    assert {None} == seen


async def test_what_came_together_shares_a_commit_and_gets_its_own_outcomes() -> None:
    """
    Beside others, in order, and also where it is more than a group; cancelled, it is taken out.
    """
    groups: list[list[int]] = []

    async def post(group: Sequence[Usage]) -> list[PostingResult]:
        groups.append([usage.at for usage in group])
        await asyncio.sleep(0)
        return [AddedUsage(late=bool(usage.at % 2)) for usage in group]

    commits = GroupCommit(post)
    usages = [USAGE._replace(at=n) for n in range(1_501)]
    first = commits.add_many(usages[:2])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    several = [commits.add_many(some) for some in (usages[2:5], usages, usages[5:])]
    alone = commits.add(usages[1])
    await asyncio.sleep(0)
    several[2].cancel()

    outcomes: list[Any] = await asyncio.gather(first, *several, alone, return_exceptions=True)
    assert [False, True] == [one.late for one in outcomes[0]]
    assert [False, True, False] == [one.late for one in outcomes[1]]
    assert 750 == sum(one.late for one in outcomes[2])
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert outcomes[4].late
    assert [[0, 1], [2, 3, 4], [*range(1_501)], [1]] == groups


async def test_a_refusal_is_one_usages_own_and_a_failure_is_of_all() -> None:
    """
    Each has an error of its own, so that no traceback grows by others'. ledger M3
    """

    async def refuse_seven(group: Sequence[Usage]) -> list[PostingResult]:
        if any(usage.at == 7 for usage in group):
            raise UsageRefusedError("seven")
        return [AddedUsage() for _ in group]

    async def fail(group: Sequence[Usage]) -> list[PostingResult]:
        raise LedgerError(str(len(group)))

    usages = [USAGE._replace(at=n) for n in range(20)]
    refused: list[Any] = [*await GroupCommit(refuse_seven).add_many(usages)]
    failed: list[Any] = [*await GroupCommit(fail).add_many(usages)]

    assert [7] == [n for n, one in enumerate(refused) if one != AddedUsage()]
    assert isinstance(refused[7], UsageRefusedError)
    assert failure_of_all(refused) is failure_of_all(refused[7:8]) is failure_of_all([]) is None
    assert 20 == len({id(one) for one in failed})
    assert failed[0] is failure_of_all(failed)
