"""The relay as a service: it runs beside a block of the program, and ends with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.ledger.relay import OnAccountError, Relay


class Relaying:
    """A relay that runs."""

    def __init__(self, task: "asyncio.Task[None]", relay: Relay) -> None:
        """Look at a *relay* that runs in a *task*."""
        self._task = task
        self._relay = relay

    @property
    def problem(self) -> MeteringError | None:
        """What keeps it from relaying now, for a health check; None where nothing does."""
        return self._relay.problem

    async def wait(self) -> None:
        """
        Return when it has ended, for a program that does nothing else.

        Cancelling it ends the waiting, not the relay.
        """
        await asyncio.wait((self._task,))


@asynccontextmanager
async def running(
    relay: Relay, stop: asyncio.Event, on_account_error: OnAccountError
) -> AsyncIterator[Relaying]:
    """Relay until the block ends; see UsageLedger.relaying."""
    await relay.check(on_account_error)
    try:
        async with asyncio.TaskGroup() as group:  # cancels the block if the relay fails
            task = group.create_task(relay.until_stopped(on_account_error))
            try:
                yield Relaying(task, relay)
            finally:
                stop.set()
                await asyncio.wait((task,))
    except BaseExceptionGroup as errors:
        first, *more = errors.exceptions
        if more:
            raise
        raise first from None
