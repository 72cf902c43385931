"""Time limits: what is over is told, once, and in time; what has ended is left alone."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from support.virtual import run_virtual

from marketplace_metering_async.timeouts import Timeouts


class Piece:
    """Some work, and when it was told to end."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def expire(self) -> None:
        self.told.append(asyncio.get_running_loop().time())


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50),  # when it begins
            st.integers(1, 50),  # how long it may take
            st.integers(1, 100),  # how long it takes
        ),
        min_size=1,
        max_size=20,
    )
)
def test_those_that_take_too_long_are_told(plan: list[tuple[int, int, int]]) -> None:
    """Each at its time, whatever else has begun and ended before; nobody else is."""

    async def work(timeouts: Timeouts, begin: int, allowed: int, takes: float) -> None:
        await asyncio.sleep(begin)
        piece = Piece()
        timeouts.begin(piece, allowed)
        await asyncio.sleep(takes)
        timeouts.end(piece)
        await asyncio.sleep(200)
        assert piece.told == ([begin + allowed] if allowed < takes else [])

    async def run() -> None:
        timeouts = Timeouts()
        async with asyncio.TaskGroup() as group:
            for begin, allowed, takes in plan:
                group.create_task(work(timeouts, begin, allowed, takes + 0.5))
        assert timeouts._timer is None

    run_virtual(run())


def test_who_has_not_ended_is_told_after_closing_too() -> None:
    """Only then is the timer dropped, and another may be set."""

    async def run() -> None:
        timeouts, piece, other = Timeouts(), Piece(), Piece()
        timeouts.begin(piece, 1)
        timeouts.close()
        await asyncio.sleep(2)
        assert piece.told == [1]
        timeouts.begin(piece, 1)
        timeouts.end(piece)
        timeouts.close()
        assert timeouts._timer is None
        timeouts.begin(other, 5)
        await asyncio.sleep(6)
        assert other.told == [7]

    run_virtual(run())


def test_who_is_told_may_begin_anew() -> None:
    """It ends, and another begins, in the midst of the look at all."""

    async def run() -> None:
        timeouts = Timeouts()

        class Again(Piece):
            def expire(self) -> None:
                super().expire()
                timeouts.end(self)
                timeouts.begin(self, 3)

        piece, other = Again(), Piece()
        timeouts.begin(piece, 1)
        timeouts.begin(other, 2)
        await asyncio.sleep(8)
        timeouts.close()
        assert (piece.told, other.told) == ([1, 4, 7], [2])

    run_virtual(run())
