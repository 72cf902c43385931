"""Starts: first come first served, no start lost or made twice, nobody left waiting."""

import asyncio
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual import VirtualClock, run_virtual

from marketplace_metering_async.flow.pacing import AdaptivePacer, CallEnd, Pacer
from marketplace_metering_async.flow.permits import Starts, Ticket


def always() -> bool:
    return True


class Counting:
    """A pacer that counts what it lets start, and what ends."""

    def __init__(self, inner: Pacer) -> None:
        self.inner = inner
        self.started = self.ended = 0

    def start(self, now: float) -> float:
        wait = self.inner.start(now)
        self.started += wait <= 0
        return wait

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        self.ended += 1
        self.inner.end(now, how, retry_after=retry_after)


class Moody:
    """A pacer that lets few calls fly at once, and now and then has one wait for a time."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.flying, self.most, self.until = 0, random.randint(1, 5), 0.0

    def start(self, now: float) -> float:
        if now < self.until:
            return self.until - now
        if self.flying >= self.most:
            return math.inf
        if self.random.random() < 0.2:
            self.until = now + self.random.uniform(0.01, 0.3)
            return self.until - now
        self.flying += 1
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        self.flying -= 1


class Raising(AdaptivePacer):
    """A pacer with a bug that shows once."""

    def __init__(self, after: int) -> None:
        super().__init__(None)
        self.left = after

    def start(self, now: float) -> float:
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError
        return super().start(now)


def a_pacer(random: Random) -> Pacer:
    if random.random() < 0.5:
        return Moody(random)
    return AdaptivePacer(random.choice([None, 1.0, 5.0, 50.0]), random=random)


@given(st.integers(0, 2**32))
def test_no_start_is_lost(seed: int) -> None:
    """
    Whoever is cancelled, halted or served elsewhere meanwhile: starts equal ends, and at the end
    the next one gets through at once.
    """
    random = Random(seed)
    pacer, most = Counting(a_pacer(random)), random.choice([1, 2, 3, 8])
    starts = Starts(pacer, VirtualClock(), most)
    flying = 0

    async def call(ticket: Ticket) -> None:
        nonlocal flying
        ticket.spent = True
        flying += 1
        assert flying <= most
        try:
            await asyncio.sleep(random.choice([0, 0.01, 0.5, random.random()]))
        finally:
            flying -= 1
        if random.random() < 0.9:
            ticket.end(random.choice([CallEnd.DELIVERED, CallEnd.THROTTLED, CallEnd.FAILED]))

    async def work(halt: asyncio.Event, left: list[int]) -> None:
        def wanted() -> bool:
            return not halt.is_set() and left[0] > 0

        while wanted():
            ticket = await starts.admit(wanted)
            if ticket is not None:
                assert wanted()
                left[0] -= 1
                try:
                    await call(ticket)
                finally:
                    ticket.give_back()

    async def run() -> None:
        groups = [(asyncio.Event(), [random.randint(0, 15)]) for _ in range(3)]
        tasks = [
            asyncio.create_task(work(*random.choice(groups))) for _ in range(random.randint(1, 20))
        ]
        for _ in range(random.randint(0, 20)):
            await asyncio.sleep(random.choice([0, 0.01, 0.1, random.random()]))
            match random.choice(["cancel", "cancel", "halt", "more", "come"]):
                case "cancel":
                    random.choice(tasks).cancel()
                case "halt":
                    random.choice(groups)[0].set()
                    starts.look_again()
                case "more":
                    random.choice(groups)[1][0] += random.randint(1, 10)
                case "come":
                    tasks.append(asyncio.create_task(work(*random.choice(groups))))
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
        last = await starts.admit(always)
        assert last is not None
        last.give_back()

    run_virtual(run())

    assert pacer.started == pacer.ended


def test_first_come_first_served_and_many_at_once() -> None:
    """
    As many start in one turn of the event loop as may, in the order in which they came.
    """
    order: list[int] = []

    async def run() -> None:
        starts = Starts(AdaptivePacer(None), VirtualClock(), 4)
        held = [await starts.admit(always) for _ in range(4)]

        async def come(number: int) -> None:
            assert await starts.admit(always) is not None
            order.append(number)

        tasks = [asyncio.create_task(come(number)) for number in range(6)]
        await asyncio.sleep(0)
        for ticket in held:
            assert ticket is not None
            ticket.end(CallEnd.DELIVERED)
        for _ in range(4):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()

    run_virtual(run())

    assert [0, 1, 2, 3] == order


@pytest.mark.parametrize("places", [0, 1, 2])
def test_whoever_is_halted_leaves_at_once(places: int) -> None:
    """
    Also where the wire is full for long, first in line or behind others.
    """

    async def run() -> None:
        starts, halt = Starts(AdaptivePacer(None), VirtualClock(), 1), asyncio.Event()
        assert await starts.admit(always) is not None
        others = [asyncio.create_task(starts.admit(always)) for _ in range(places)]
        await asyncio.sleep(0)
        mine = asyncio.create_task(starts.admit(lambda: not halt.is_set()))
        await asyncio.sleep(10)
        halt.set()
        starts.look_again()
        async with asyncio.timeout(0.1):
            assert await mine is None
        assert await starts.admit(lambda: not halt.is_set()) is None
        for other in others:
            other.cancel()

    run_virtual(run())


def test_whoever_is_cancelled_while_let_in_gives_the_start_back() -> None:
    """
    It was granted by the one before, and nobody will use it.
    """

    async def run() -> None:
        starts = Starts(AdaptivePacer(None), VirtualClock(), 2)
        held = [await starts.admit(always) for _ in range(2)]

        async def first() -> None:
            assert await starts.admit(always) is not None
            second.cancel()

        one = asyncio.create_task(first())
        second = asyncio.create_task(starts.admit(always))
        await asyncio.sleep(0)
        for ticket in held:
            assert ticket is not None
            ticket.end(CallEnd.DELIVERED)
        await asyncio.gather(one, second, return_exceptions=True)
        assert second.cancelled()
        async with asyncio.timeout(0.1):
            assert await starts.admit(always) is not None

    run_virtual(run())


@given(st.integers(1, 30))
def test_a_pacer_that_raises_hurts_only_who_asks(after: int) -> None:
    """
    All others are served, and no place is lost.
    """

    async def run() -> None:
        pacer = Raising(after)
        starts = Starts(pacer, VirtualClock(), 2)

        async def call() -> None:
            ticket = await starts.admit(always)
            assert ticket is not None
            await asyncio.sleep(0.1)
            ticket.end(CallEnd.DELIVERED)

        ended = await asyncio.gather(*(call() for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(end, ZeroDivisionError) for end in ended) <= 1
        assert all(end is None or isinstance(end, ZeroDivisionError) for end in ended)
        pacer.left = 0
        for _ in range(2):
            assert await starts.admit(always) is not None

    run_virtual(run())
