"""CallPermits: first come first served, no permit lost or given twice, nobody left waiting."""

import asyncio
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual import VirtualClock, run_virtual

from marketplace_metering_async.flow.pacing import AdaptivePacer, CallEnd, Pacer
from marketplace_metering_async.flow.permits import CallPermits


def always() -> bool:
    return True


class Agreeing:
    """A pacer that agrees to everything, and notes how calls end."""

    def __init__(self) -> None:
        self.ends: list[CallEnd] = []

    def start(self, now: float) -> float:
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        self.ends.append(how)


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
    Whoever is cancelled, halted or served elsewhere meanwhile: starts equal ends, nobody gets a
    permit after a halt, and at the end the next one gets through at once.
    """
    random = Random(seed)
    pacer, most = Counting(a_pacer(random)), random.choice([1, 2, 3, 8])
    permits = CallPermits(pacer, VirtualClock(), most)
    flying = 0

    async def call() -> CallEnd:
        nonlocal flying
        flying += 1
        assert flying <= most
        try:
            await asyncio.sleep(random.choice([0, 0.01, 0.5, random.random()]))
        finally:
            flying -= 1
        return random.choice([CallEnd.DELIVERED, CallEnd.THROTTLED, CallEnd.FAILED])

    async def work(halt: asyncio.Event, left: list[int]) -> None:
        def wanted() -> bool:
            return not halt.is_set() and left[0] > 0

        while wanted():
            if await permits.acquire(wanted, asyncio.current_task()):
                assert wanted()
                left[0] -= 1
                ended = CallEnd.CANCELLED
                try:
                    ended = await call()
                finally:
                    permits.end(ended)

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
                    halt = random.choice(groups)[0]
                    halt.set()
                    for task in tasks:
                        permits.recheck(task)
                case "more":
                    random.choice(groups)[1][0] += random.randint(1, 10)
                case "come":
                    tasks.append(asyncio.create_task(work(*random.choice(groups))))
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
        assert await permits.acquire(always, object())
        permits.end(CallEnd.ABANDONED)

    run_virtual(run())

    assert pacer.started == pacer.ended


def test_first_come_first_served_and_many_at_once() -> None:
    """
    As many start as may, in the order in which they came.
    """
    order: list[int] = []

    async def run() -> None:
        permits = CallPermits(Agreeing(), VirtualClock(), 4)
        held = [await permits.acquire(always, object()) for _ in range(4)]

        async def come(number: int) -> None:
            assert await permits.acquire(always, object())
            order.append(number)

        tasks = [asyncio.create_task(come(number)) for number in range(6)]
        await asyncio.sleep(0)
        for permit in held:
            assert permit
            permits.end(CallEnd.DELIVERED)
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
        permits, halt = CallPermits(Agreeing(), VirtualClock(), 1), asyncio.Event()
        assert await permits.acquire(always, object())
        others = [asyncio.create_task(permits.acquire(always, object())) for _ in range(places)]
        await asyncio.sleep(0)
        mine = asyncio.create_task(permits.acquire(lambda: not halt.is_set(), halt))
        await asyncio.sleep(10)
        halt.set()
        permits.recheck(halt)
        async with asyncio.timeout(0.1):
            assert not await mine
        assert not await permits.acquire(lambda: not halt.is_set(), halt)
        for other in others:
            other.cancel()

    run_virtual(run())


def test_whoever_is_cancelled_while_let_in_gives_the_start_back() -> None:
    """
    It was granted by the one before, and nobody will use it.
    """

    async def run() -> None:
        permits = CallPermits(Agreeing(), VirtualClock(), 2)
        held = [await permits.acquire(always, object()) for _ in range(2)]

        async def first() -> None:
            assert await permits.acquire(always, object())
            second.cancel()

        one = asyncio.create_task(first())
        second = asyncio.create_task(permits.acquire(always, object()))
        await asyncio.sleep(0)
        for permit in held:
            assert permit
            permits.end(CallEnd.DELIVERED)
        await asyncio.gather(one, second, return_exceptions=True)
        assert second.cancelled()
        async with asyncio.timeout(0.1):
            assert await permits.acquire(always, object())

    run_virtual(run())


@given(st.integers(1, 30))
def test_a_pacer_that_raises_hurts_only_who_asks(after: int) -> None:
    """
    All others are served, and no place is lost.
    """

    async def run() -> None:
        pacer = Raising(after)
        permits = CallPermits(pacer, VirtualClock(), 2)

        async def call() -> None:
            assert await permits.acquire(always, object())
            await asyncio.sleep(0.1)
            permits.end(CallEnd.DELIVERED)

        ended = await asyncio.gather(*(call() for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(end, ZeroDivisionError) for end in ended) <= 1
        assert all(end is None or isinstance(end, ZeroDivisionError) for end in ended)
        pacer.left = 0
        for _ in range(2):
            assert await permits.acquire(always, object())

    run_virtual(run())


def test_a_call_that_ends_before_the_first_in_line_woke_is_not_missed() -> None:
    """
    Whoever becomes first in line asks for itself when it wakes, and waits for no news of the past.
    """

    async def run() -> None:
        permits = CallPermits(Agreeing(), VirtualClock(), 1)
        assert await permits.acquire(always, object())

        async def give_up() -> None:
            try:
                await permits.acquire(always, object())
            finally:
                permits.end(CallEnd.DELIVERED)  # the second is first now, and did not run yet

        first = asyncio.create_task(give_up())
        second = asyncio.create_task(permits.acquire(always, object()))
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(0.1):
            assert await second

    run_virtual(run())


def test_a_new_call_takes_the_place_of_one_that_was_cancelled() -> None:
    """
    Even while the one that was cancelled has not left the line yet, as when a delivery stops.
    """

    async def run() -> None:
        permits = CallPermits(Agreeing(), VirtualClock(), 1)
        assert await permits.acquire(always, "another")
        before = asyncio.create_task(permits.acquire(always, "me"))
        await asyncio.sleep(1)
        before.cancel()
        mine = asyncio.create_task(permits.acquire(always, "me"))
        later = asyncio.create_task(permits.acquire(always, "later"))
        await asyncio.sleep(1)
        permits.end(CallEnd.ABANDONED)
        assert await asyncio.wait_for(mine, 1)
        assert before.cancelled()
        assert not later.done()
        permits.end(CallEnd.ABANDONED)
        assert await later

    run_virtual(run())


def test_a_recheck_asks_those_of_its_owner_alone() -> None:
    """
    However many others wait: so many callers who stop together take no time that grows with the
    square of their number. Covers core F20
    """
    asked: list[int] = []

    async def run() -> None:
        permits = CallPermits(Agreeing(), VirtualClock(), 1)
        assert await permits.acquire(always, object())
        stopped = set[int]()

        def needed(number: int) -> bool:
            asked.append(number)
            return number not in stopped

        tasks = [
            asyncio.create_task(permits.acquire(lambda number=number: needed(number), number))  # type: ignore[misc]
            for number in range(100)
        ]
        await asyncio.sleep(1)
        asked.clear()
        for number in range(50, 100):
            stopped.add(number)
            permits.recheck(number)
        done, _ = await asyncio.wait(tasks, timeout=0.1)
        assert tasks[50:] == [task for task in tasks if task in done]
        for task in tasks[:50]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(run())

    assert len(asked) <= 4 * 100


def test_a_call_of_another_client_that_ends_is_noticed() -> None:
    """
    Two clients share a pacer, which lets one call fly: within a second. Covers: T06
    """

    class OneAtATime(Agreeing):
        flying = False

        def start(self, now: float) -> float:
            if self.flying:
                return math.inf
            self.flying = True
            return 0.0

        def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
            self.flying = False

    async def run() -> None:
        pacer, clock = OneAtATime(), VirtualClock()
        one, other = CallPermits(pacer, clock, 8), CallPermits(pacer, clock, 8)
        assert await one.acquire(always, object())
        waiting = asyncio.create_task(other.acquire(always, object()))
        await asyncio.sleep(10.5)
        one.end(CallEnd.DELIVERED)
        async with asyncio.timeout(1.01):
            assert await waiting

    run_virtual(run())


@pytest.mark.parametrize("says", [math.nan, math.inf, 1e300])
def test_a_pacer_is_asked_again_whatever_it_says(says: float) -> None:
    """
    One that divides by what it has not measured yet says not a number: that is no time to sleep.
    """

    class Odd(Agreeing):
        asked = 0

        def start(self, now: float) -> float:
            self.asked += 1
            return says if self.asked < 3 else 0.0

    async def wait() -> float:
        async with asyncio.timeout(10):
            assert await CallPermits(Odd(), VirtualClock(), 1).acquire(always, "me")
        return asyncio.get_running_loop().time()

    assert 2 >= run_virtual(wait())
