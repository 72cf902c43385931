"""The one task of a delivery that starts its calls: it sleeps, gets a permit, and hands it on."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.flow.loop_budget import WorkStretch
from marketplace_metering_async.flow.permits import CallPermits, Permit


class Work(Protocol):
    """What a dispatcher is asked to do."""

    def has_work(self) -> bool:
        """Return whether anything is to be settled, or sent now or later."""
        ...

    def wanted(self) -> bool:
        """Return whether a call may be started now."""
        ...

    def next_due(self) -> float | None:
        """Return the monotonic time at which one may be, if nothing else happens."""
        ...

    def give_up_some(self) -> bool:
        """Settle some of what is not sent any more; return whether there was anything."""
        ...

    async def prepare(self) -> bool:
        """Find region and credentials; return False where nothing can be sent without them."""
        ...

    def send_some(self, permit: Permit) -> bool:
        """Start a call, which takes the *permit* over; return False if none was ready after all."""
        ...

    def met_bug(self, error: Exception) -> bool:
        """Take note of an exception that nobody expected; return whether to go on."""
        ...


class Dispatcher:
    """
    Runs a task while there is work, and none while there is not.

    Attributes:
        is_running: Whether the task runs.
    """

    def __init__(
        self, clock: Clock, permits: CallPermits, work: Work, ended: Callable[[], None]
    ) -> None:
        """Start calls of *work*; *ended* is called whenever the task has ended."""
        self._clock = clock
        self._permits = permits
        self._work = work
        self._ended = ended
        self._task: asyncio.Task[None] | None = None
        self._running: object | None = None  # stands for the task that runs
        self._sleeps_until: float | None = None
        self._wakeup: asyncio.Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the task runs."""
        return self._running is not None

    def wake_for(self, due: float) -> None:
        """Have it look again if it sleeps longer than until the monotonic time *due*."""
        if self._sleeps_until is None or due < self._sleeps_until:
            self.wake()

    def wake(self) -> None:
        """Have it look again; start it if it does not run and has work."""
        if self._running is not None:
            if self._wakeup is not None:
                _set(self._wakeup)
            else:
                self._permits.recheck(self)
        elif self._work.has_work():
            run = self._running = object()  # first: an eager task runs at once
            self._task = asyncio.create_task(self._run(run))
            self._task.add_done_callback(partial(self._note_end, run))

    def restart(self) -> None:
        """Begin anew: the task may wait for credentials, or for a permit that nobody wants now."""
        if self._task is not None and self._running is not None:
            self._task.cancel()
            self._running = None
        self.wake()

    def cancel(self) -> "asyncio.Task[None] | None":
        """Cancel the task and return it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    def _note_end(self, run: object, task: "asyncio.Task[None]") -> None:
        self._over(run)  # one that was cancelled may never have begun
        if not task.cancelled():
            task.exception()  # a SystemExit, which the event loop raises by itself
        self._ended()

    def _over(self, run: object) -> None:
        if self._running is run:
            self._running = None

    async def _run(self, run: object) -> None:
        try:
            while True:
                try:
                    return await self._dispatch()
                except Exception as error:  # noqa: BLE001 - what waits is over; what comes is tried
                    if not self._work.met_bug(error):
                        return None
        finally:
            self._over(run)

    async def _dispatch(self) -> None:
        work, stretch = self._work, WorkStretch(self._clock)
        while True:
            await stretch.yield_if_due()
            if work.give_up_some():
                continue
            if work.wanted():
                if await work.prepare():
                    permit = await self._permits.acquire(work.wanted, self)
                    if permit is not None:
                        await self._send(permit, stretch)
            elif (due := work.next_due()) is not None:
                await self._sleep(due)
            else:
                return

    async def _send(self, permit: Permit, stretch: WorkStretch) -> None:
        """Start a call with *permit*, or give it back where nothing is left to send."""
        is_used = False
        try:
            while not is_used and self._work.wanted():
                is_used = self._work.send_some(permit)
                await stretch.yield_if_due()
        finally:
            if not is_used:
                permit.release()

    async def _sleep(self, due: float) -> None:
        """Return at the monotonic time *due*, or when something woke the dispatcher."""
        wakeup = self._wakeup = asyncio.get_running_loop().create_future()
        self._sleeps_until = due
        timer = asyncio.ensure_future(self._clock.sleep(due - self._clock.monotonic()))
        timer.add_done_callback(lambda _: _set(wakeup))
        try:
            await wakeup
        finally:
            timer.cancel()
            if self._wakeup is wakeup:
                self._wakeup = self._sleeps_until = None


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
