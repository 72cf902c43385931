"""Turns of the event loop: no long work at a stretch."""

import asyncio
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.flow.work_stretch import WorkStretch


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
