"""An event loop whose time jumps: where everything waits, the next timer is due at once."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_THREAD_TIMEOUT = 20.0

START = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


class _JumpingSelector(selectors.SelectSelector):
    """Never waits but for threads: what else it was asked to wait is added to the time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.threads = 0  # at work, which takes no virtual time

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or (timeout > 0 and self.threads):  # only a thread's word can come
            events = super().select(_THREAD_TIMEOUT)
            if not events:
                raise RuntimeError("the event loop would wait for ever: a task waits for nothing")
            return events
        self.time += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code that does no I/O but through fakes in memory."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.time

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        working = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        working.add_done_callback(self._thread_is_done)
        return working

    def _thread_is_done(self, _: object) -> None:
        self._jumping.threads -= 1


class VirtualClock:
    """The clock of the running loop: a virtual one begins at 0, another with the first look."""

    def __init__(self, start: datetime = START) -> None:
        self.start = start
        self._began: float | None = None

    def now(self) -> datetime:
        if self._began is None:  # another loop's time is for how long the machine has been up
            is_virtual = isinstance(asyncio.get_running_loop(), VirtualLoop)
            self._began = 0.0 if is_virtual else self.monotonic()
        return self.start + timedelta(seconds=self.monotonic() - self._began)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* in virtual time, and require that it leaves no task behind."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(work)
        loop.run_until_complete(asyncio.sleep(0))  # what was cancelled ends now
        left = asyncio.all_tasks(loop)
        assert not left, f"left running: {left}"
        return result
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
