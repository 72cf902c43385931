"""The one task of a delivery that starts its calls: when it runs, sleeps, and is woken."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.flow.permits import CallPermits


@define(slots=False, eq=False, repr=False)
class Dispatcher:
    """
    Runs a task while there is work, and none while there is not.

    The work may `sleep`, and wait for a permit in the name of this dispatcher.

    Attributes:
        task: The task, if there was work since it was begun anew.
        former: The one before, which may run for some turns of the event loop yet.
        is_running: Whether the task runs.
    """

    _clock: Clock
    _permits: CallPermits
    _has_work: Callable[[], bool]
    _work: Callable[[], Coroutine[Any, Any, None]]
    _ended: Callable[[], None]  # called whenever the task has ended
    task: "asyncio.Task[None] | None" = field(init=False, default=None)
    former: "asyncio.Task[None] | None" = field(init=False, default=None)
    # While an eager task takes its first steps.
    _is_starting: bool = field(init=False, default=False)
    _sleeps_until: float | None = field(init=False, default=None)
    _wakeup: asyncio.Event | None = field(init=False, default=None)

    @property
    def is_running(self) -> bool:
        """Whether the task runs."""
        return self._is_starting or (self.task is not None and not self.task.done())

    def wake_for(self, due: float) -> None:
        """Have it look again if it sleeps longer than until the monotonic time *due*."""
        if self._sleeps_until is None or due < self._sleeps_until:
            self.wake()

    def wake(self) -> None:
        """Have it look again; start it if it does not run and has work."""
        if self.is_running:
            if self._wakeup is not None:
                self._wakeup.set()
            else:
                self._permits.recheck(self)
        elif self._has_work():
            self._is_starting = True
            try:
                self.task = asyncio.create_task(self._work())
            finally:
                self._is_starting = False
            self.task.add_done_callback(self._note_end)

    def restart(self) -> None:
        """Begin anew: the task may wait for credentials, or for a permit that nobody wants now."""
        if self.task is not None:
            self.task.cancel()
            self.former, self.task = self.task, None
        self.wake()

    async def sleep(self, due: float) -> None:
        """Return at the monotonic time *due*, or when something woke the dispatcher."""
        wakeup = self._wakeup = asyncio.Event()
        self._sleeps_until = due
        timer = asyncio.ensure_future(self._clock.sleep(due - self._clock.monotonic()))
        timer.add_done_callback(lambda _: wakeup.set())
        try:
            await wakeup.wait()
        finally:
            timer.cancel()
            if self._wakeup is wakeup:
                self._wakeup = self._sleeps_until = None

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            task.exception()  # a SystemExit, which the event loop raises by itself
        self._ended()
