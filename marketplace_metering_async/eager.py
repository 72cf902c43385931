"""Coroutines that begin at once: what Python 3.12's eager tasks do, for Python 3.11."""

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from attrs import frozen


def begin(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    """
    Run *work* until it first waits, and return what is left of it, for a task to go on with.

    What it raises until then comes out here. The work hears when the task is cancelled, but for a
    task that has not gone on yet: then it is closed (GeneratorExit).
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return _finish(None)
    return _finish(_Rest(work, awaited))


async def _finish(rest: "_Rest | None") -> None:
    if rest is not None:
        await rest


@frozen
class _Rest:
    """Some work that was begun, and what it waits for."""

    work: Coroutine[Any, Any, None]
    awaited: Any

    def __await__(self) -> Generator[Any, Any, None]:
        """Hand on what the work waits for, and hand back what comes of it."""
        awaited = self.awaited
        while True:
            step: Callable[[], Any]
            try:
                step = partial(self.work.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001 - a cancellation, for the work to see
                step = partial(self.work.throw, error)
            try:
                awaited = step()
            except StopIteration:
                return
