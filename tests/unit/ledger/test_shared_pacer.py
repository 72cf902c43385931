"""SharedPacer: turns out of one row, whoever reserves them."""

import asyncio
import math

import pytest

from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.ledger.shared_pacer import SharedPacer


class Row:
    """The row that all relays share, and a clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.next_at = 0.0

    async def reserve(self, seconds: float) -> float:
        self.next_at = max(self.next_at, self.now) + seconds
        return self.next_at - self.now


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
    pacers: list[SharedPacer] = [SharedPacer(row.reserve, 50) for _ in range(4)]

    counts = await started(row, pacers, 20)

    assert 0.97 * 50 * 20 <= sum(counts) <= 50 * 20
    assert min(counts) > 0


async def test_one_alone_gets_all_of_it() -> None:
    """
    Whatever the others left.
    """
    row = Row()

    (count,) = await started(row, [SharedPacer(row.reserve, 50)], 20)

    assert 0.98 * 50 * 20 <= count <= 50 * 20


async def test_who_begins_alone_is_at_the_quota_at_once() -> None:
    """
    While the database takes its time for each reservation.
    """
    row = Row()

    async def reserve(seconds: float) -> float:
        until = await row.reserve(seconds)
        for _ in range(30):  # 75 ms in steps of 5
            await asyncio.sleep(0)
        return until - 0.02

    pacer = SharedPacer(reserve, 100)
    (count,) = await started(row, [pacer], 1)

    assert 0.95 * 100 <= count <= 100


async def test_turns_that_went_by_are_forgotten() -> None:
    """
    The service would take so many at once from one relay, but not from all.
    """
    row = Row()
    pacer = SharedPacer(row.reserve, 50)
    await started(row, [pacer], 1)
    row.now += 5
    (count,) = await started(row, [pacer], 0.005)

    assert count <= 0.2 * 50


async def throttled(row: Row, pacer: SharedPacer) -> None:
    """Let one call start, and be throttled."""
    while pacer.start(row.now) > 0:
        row.now += 0.005
        await asyncio.sleep(0)
    pacer.end(row.now, CallEnd.THROTTLED)


async def test_a_rare_throttle_does_not_make_a_relay_slower() -> None:
    """
    It says that calls of several relays met; throttle after throttle says that the quota is less.
    """
    row = Row()
    pacer = SharedPacer(row.reserve, 50)
    await started(row, [pacer], 20)

    await throttled(row, pacer)
    (after_one,) = await started(row, [pacer], 2)
    for _ in range(20):
        await throttled(row, pacer)
    (after_many,) = await started(row, [pacer], 0.2)

    assert 0.9 * 50 * 2 <= after_one <= 50 * 2
    assert after_many <= 0.5 * 50 * 0.2


async def test_a_rare_throttle_that_says_how_long_is_waited_out() -> None:
    """
    Whether it is put down to bunching or not. Covers: T02
    """
    row = Row()
    pacer = SharedPacer(row.reserve, 50)
    await started(row, [pacer], 20)
    while pacer.start(row.now) > 0:
        row.now += 0.005
        await asyncio.sleep(0)
    pacer.end(row.now, CallEnd.THROTTLED, retry_after=2.0)

    assert [0] == await started(row, [pacer], 1.9)
    assert [0] != await started(row, [pacer], 0.5)


async def test_a_database_that_is_away_is_asked_again_in_a_moment() -> None:
    """
    Not at each look; and the quota is kept as soon as it is back.
    """
    row, asked = Row(), 0

    async def reserve(seconds: float) -> float:
        nonlocal asked
        asked += 1
        if row.now < 110:
            raise LedgerError("away")
        return await row.reserve(seconds)

    pacer = SharedPacer(reserve, 50)
    assert [0] == await started(row, [pacer], 9)
    assert asked <= 10
    (count,) = await started(row, [pacer], 20)
    assert 0.85 * 50 * 20 <= count <= 50 * 20


async def test_a_cancelled_call_keeps_its_turn() -> None:
    """
    It may have spent quota, so the turn is not taken again; one that was abandoned is.
    """
    for how, again in ((CallEnd.CANCELLED, False), (CallEnd.ABANDONED, True)):
        row = Row()
        pacer = SharedPacer(row.reserve, 1)
        await started(row, [pacer], 3)
        while pacer.start(row.now) > 0:
            row.now += 0.005
            await asyncio.sleep(0)
        pacer.end(row.now, how)

        assert again == (pacer.start(row.now) <= 0)


@pytest.mark.parametrize("quota", [0.0, -1.0, math.inf, math.nan])
def test_a_quota_that_is_none_is_refused(quota: float) -> None:
    """
    Relays cannot share what is unknown.
    """
    with pytest.raises(ValueError, match="calls_per_second: expected above 0, or None, got"):
        SharedPacer(Row().reserve, quota)


@pytest.mark.parametrize("turns", range(3))
async def test_a_reservation_that_was_cancelled_is_made_again(turns: int) -> None:
    """
    Also before it began: the relay would stand still. Law 10
    """
    row = Row()
    pacer = SharedPacer(row.reserve, 50)
    pacer.start(row.now)
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)

    assert [0] < await started(row, [pacer], 2)
