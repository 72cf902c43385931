"""The one task of a delivery that starts its calls: when it runs, sleeps, and is woken."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.flow.permits import CallPermits


class Dispatcher:
    """
    Runs a task while there is work, and none while there is not.

    Attributes:
        is_running: Whether the task runs.
    """

    def __init__(
        self,
        clock: Clock,
        permits: CallPermits,
        has_work: Callable[[], bool],
        work: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[], None],
    ) -> None:
        """
        Run *work*, while it *has_work*; *ended* is called whenever the task has ended.

        It may `sleep`, and wait for a permit of *permits* in the name of this dispatcher.
        """
        self._clock = clock
        self._permits = permits
        self._has_work = has_work
        self._work = work
        self._ended = ended
        self._task: asyncio.Task[None] | None = None
        self._former: asyncio.Task[None] | None = None  # which restart() has cancelled
        self._is_starting = False  # while an eager task takes its first steps
        self._sleeps_until: float | None = None
        self._wakeup: asyncio.Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the task runs."""
        return self._is_starting or (self._task is not None and not self._task.done())

    def wake_for(self, due: float) -> None:
        """Have it look again if it sleeps longer than until the monotonic time *due*."""
        if self._sleeps_until is None or due < self._sleeps_until:
            self.wake()

    def wake(self) -> None:
        """Have it look again; start it if it does not run and has work."""
        if self.is_running:
            if self._wakeup is not None:
                _set(self._wakeup)
            else:
                self._permits.recheck(self)
        elif self._has_work():
            self._is_starting = True
            try:
                self._task = asyncio.create_task(self._work())
            finally:
                self._is_starting = False
            self._task.add_done_callback(self._note_end)

    def restart(self) -> None:
        """Begin anew: the task may wait for credentials, or for a permit that nobody wants now."""
        if self._task is not None:
            self._task.cancel()
            self._former, self._task = self._task, None
        self.wake()

    def cancel(self) -> "list[asyncio.Task[None] | None]":
        """Cancel the task and return what may run for some turns of the event loop yet."""
        if self._task is not None:
            self._task.cancel()
        return [self._former, self._task]

    async def sleep(self, due: float) -> None:
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

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            task.exception()  # a SystemExit, which the event loop raises by itself
        self._ended()


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
