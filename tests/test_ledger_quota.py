"""SharedPacer: turns out of one row, whoever reserves them."""

import asyncio
from typing import Any

from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.ledger.quota import SharedPacer


class Row:
    """The row that all relays share, and a clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.next_at = 0.0

    async def run(self, operation: Any) -> Any:
        return await operation(self)

    async def rows(self, statement: str, *, operation: str, seconds: float) -> list[Any]:
        self.next_at = max(self.next_at, self.now) + seconds
        return [{"until": self.next_at - self.now}]


async def started(row: Row, pacers: list[SharedPacer], seconds: float) -> list[int]:
    """Let each pacer start and at once end what it may, step by step; return how many each did."""
    counts = [0] * len(pacers)
    for _ in range(round(seconds / 0.005)):
        for number, pacer in enumerate(pacers):
            while pacer.start(row.now) <= 0:
                counts[number] += 1
                pacer.end(row.now, CallEnd.DELIVERED)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        row.now += 0.005
    return counts


async def test_four_share_the_quota() -> None:
    """
    Together they start what the quota allows, and hardly less.
    """
    row = Row()
    pacers: list[SharedPacer] = [SharedPacer(row, 50) for _ in range(4)]  # type: ignore[arg-type]

    counts = await started(row, pacers, 20)

    assert 0.97 * 50 * 20 <= sum(counts) <= 50 * 20
    assert min(counts) > 0


async def test_one_alone_gets_all_of_it() -> None:
    """
    Whatever the others left.
    """
    row = Row()

    (count,) = await started(row, [SharedPacer(row, 50)], 20)  # type: ignore[arg-type]

    assert 0.95 * 50 * 20 <= count <= 50 * 20


async def test_turns_that_went_by_are_forgotten() -> None:
    """
    The service would take so many at once from one relay, but not from all.
    """
    row = Row()
    pacer = SharedPacer(row, 50)  # type: ignore[arg-type]
    await started(row, [pacer], 1)
    row.now += 5
    (count,) = await started(row, [pacer], 0.005)

    assert count <= 0.2 * 50


async def test_a_rare_throttle_does_not_make_a_relay_slower() -> None:
    """
    It sees its part of the quota alone; throttle after throttle does.
    """
    row = Row()
    pacers: list[SharedPacer] = [SharedPacer(row, 50) for _ in range(4)]  # type: ignore[arg-type]
    rates = []
    for calls in (20, 1, 1):
        await started(row, pacers, calls)
        while pacers[0].start(row.now) > 0:
            row.now += 0.005
            await asyncio.sleep(0)
        pacers[0].end(row.now, CallEnd.THROTTLED)
        rates.append(pacers[0]._own.rate)

    assert 49 == rates[0]
    assert rates[-1] < 45
