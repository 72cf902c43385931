"""The sandbox's clock as that of ledger and client."""

import asyncio
import time
from datetime import timedelta

from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.testing import SandboxTime


def test_monotonic_time_jumps_ahead_and_never_goes_back() -> None:
    """
    Whatever the sandbox's clock is set to, frozen included.
    """
    sandbox = Sandbox()
    clock = SandboxTime(sandbox)
    seen = [clock.monotonic()]
    for hours in (2, -5, 0, 1 / 60):
        if not hours:
            sandbox.clock.freeze()
        sandbox.advance(hours=hours)
        seen.append(clock.monotonic())

    assert sorted(seen) == seen
    assert 7260 <= seen[-1] - seen[0] < 7290
    assert abs(clock.now() - sandbox.clock.now()) < timedelta(seconds=1)


async def test_a_sleeper_wakes_when_the_clock_is_moved() -> None:
    """
    And not before.
    """
    sandbox = Sandbox()
    clock = SandboxTime(sandbox)
    sleeping = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0.03)
    assert not sleeping.done()

    sandbox.advance(hours=1)
    started = time.monotonic()
    await sleeping

    assert time.monotonic() - started < 1
    await clock.sleep(-1)
