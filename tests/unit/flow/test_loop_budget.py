"""Turns of the event loop: no long work at a stretch, and nobody who waits is forgotten."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketplace_metering_async.flow.loop_budget import LoopBudget, WorkStretch


class WorkingClock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nobody is to sleep for {seconds} s")


async def most_work_in_a_turn(clock: WorkingClock, done: asyncio.Event) -> float:
    """Return the most seconds of work between two looks of a task that never waits long."""
    most = 0.0
    while not done.is_set():
        before = clock.time
        await asyncio.sleep(0)
        most = max(most, clock.time - before)
    return most


@given(st.lists(st.floats(0.0001, 0.004), min_size=1, max_size=80))
@example([0.0002] * 80)
@example([0.002] * 60)
def test_a_crowd_is_spread_over_turns(pieces: list[float]) -> None:
    """
    All of it is dealt with, and a turn is over some milliseconds after it began.
    """
    clock = WorkingClock()
    turns, done = LoopBudget(clock), asyncio.Event()
    dealt: list[int] = []

    async def deal_with(number: int, seconds: float) -> None:
        await turns.wait()
        clock.time += seconds
        dealt.append(number)

    async def run() -> float:
        watching = asyncio.create_task(most_work_in_a_turn(clock, done))
        async with asyncio.TaskGroup() as group:
            for number, seconds in enumerate(pieces):
                group.create_task(deal_with(number, seconds))
        done.set()
        return await watching

    most = asyncio.run(run())

    assert sorted(dealt) == list(range(len(pieces)))
    assert most <= 0.003 + max(pieces) + 1e-9


@given(
    st.integers(1, 64),
    st.floats(0.0001, 0.002),
    st.integers(1, 4),
    st.sampled_from([0, 0.002, 0.005]),
)
@example(64, 0.0004, 1, 0)
@example(32, 0.0004, 2, 0.005)
def test_nobody_starves(many: int, seconds: float, hops: int, others: float) -> None:
    """
    Whoever waits is served before those who come later have been served many times.

    New work keeps coming, and another task of the program takes a share of each turn.
    """
    clock = WorkingClock()
    turns, done = LoopBudget(clock), asyncio.Event()
    served = [0] * many
    longest = 0

    async def worker(number: int) -> None:
        nonlocal longest
        while not done.is_set():
            for _ in range(hops):
                await asyncio.sleep(0)
            before = sum(served)
            await turns.wait()
            longest = max(longest, sum(served) - before)
            clock.time += seconds
            served[number] += 1

    async def run() -> None:
        workers = [asyncio.create_task(worker(number)) for number in range(many)]
        for _ in range(600):
            clock.time += others
            await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*workers)

    asyncio.run(run())

    assert min(served) >= 1
    assert longest <= 6 * many + 100


def test_whoever_is_cancelled_holds_nobody_up() -> None:
    """
    Those behind get their turn all the same.
    """
    clock = WorkingClock()
    turns = LoopBudget(clock)

    def work() -> None:
        with pytest.raises(StopIteration):  # there is time, and nothing to wait for
            turns.wait().send(None)
        clock.time += 1

    async def run() -> None:
        work()
        asyncio.get_running_loop().call_soon(work)  # the tasks begin a turn of the loop later
        tasks = [asyncio.create_task(turns.wait()) for _ in range(30)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        for task in tasks[:-1]:
            task.cancel()
        async with asyncio.timeout(1):
            await tasks[-1]

    asyncio.run(run())


@given(st.lists(st.floats(0.00001, 0.0004), min_size=1, max_size=200))
def test_long_work_breathes(steps: list[float]) -> None:
    """
    No step more than half a millisecond after the event loop had its turn.
    """
    clock = WorkingClock()
    done = asyncio.Event()

    async def work() -> int:
        stretch, breaths = WorkStretch(clock), 0
        for seconds in steps:
            clock.time += seconds
            breaths += await stretch.yield_if_due()
        done.set()
        return breaths

    async def run() -> tuple[float, int]:
        watching = asyncio.create_task(most_work_in_a_turn(clock, done))
        await asyncio.sleep(0)
        return await asyncio.gather(watching, work())

    most, breaths = asyncio.run(run())

    assert most <= 0.0005 + 2 * max(steps)
    assert breaths <= sum(steps) / 0.0005
