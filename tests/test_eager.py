"""Work that begins at once goes on, and ends, as it does in a task of its own."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.eager import begin


async def turns(waits: list[int], seen: list[str], end: str) -> None:
    """Wait for futures that take so many turns of the event loop each, and tell what happens."""
    loop = asyncio.get_running_loop()
    try:
        for number, wait in enumerate(waits):
            future: asyncio.Future[int] = loop.create_future()
            asyncio.ensure_future(later(future, wait, number))  # noqa: RUF006 - awaited below
            seen.append(f"got {await future}")
    except asyncio.CancelledError:
        seen.append("cancelled")
        await asyncio.sleep(0)
        seen.append("cleared up")
        raise
    except OSError as error:
        seen.append(str(error))
    seen.append(end)
    if end == "raise":
        raise LookupError(end)


async def later(future: "asyncio.Future[int]", turns_: int, value: int) -> None:
    for _ in range(turns_):
        await asyncio.sleep(0)
    if value == 4:
        future.set_exception(OSError("broken"))
    elif not future.done():
        future.set_result(value)


async def outcome(work: Coroutine[Any, Any, None], cancel_after: int | None) -> str:
    task = asyncio.create_task(work)
    if cancel_after is not None:
        for _ in range(cancel_after):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait((task,))
    return "cancelled" if task.cancelled() else repr(task.exception())


@given(
    waits=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    end=st.sampled_from(["return", "raise"]),
)
def test_it_goes_on_as_in_a_task(waits: list[int], end: str) -> None:
    """Whatever it waits for, and however that ends."""

    async def run() -> None:
        plain: list[str] = []
        eager: list[str] = []
        expected = await outcome(turns(waits, plain, end), None)
        assert expected == await outcome(begin(turns(waits, eager, end)), None)
        assert plain == eager

    asyncio.run(run())


@given(cancel_after=st.integers(1, 6))
def test_it_hears_of_being_cancelled(cancel_after: int) -> None:
    """It may clear up, and wait for that, before the task ends as cancelled."""

    async def run() -> None:
        seen: list[str] = []
        assert await outcome(begin(turns([9], seen, "return")), cancel_after) == "cancelled"
        assert seen == ["cancelled", "cleared up"]

    asyncio.run(run())


async def test_it_begins_before_anybody_waits() -> None:
    """What needs not wait is done when begin() returns, and what it raises comes out there."""
    seen: list[str] = []

    rest = begin(turns([], seen, "return"))

    assert seen == ["return"]
    await rest
    assert seen == ["return"]
    with pytest.raises(LookupError, match="raise"):
        await begin(turns([], seen, "raise"))
