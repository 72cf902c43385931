"""A sandbox in a thread of its own, for code that blocks and code that awaits."""

import asyncio
import threading
from typing import Final, Self

from marketplace_metering_async.sandbox import Sandbox

_PATIENCE: Final = 30.0


class SandboxThread:
    """
    Runs a sandbox beside the caller, whose event loop, if any, is left alone.

    So boto3, which blocks, may talk to it from the very test that started it.

    Attributes:
        sandbox: What runs; its clock, faults and book may be used from the caller's thread.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        """Prepare to run *sandbox*, which has not been entered yet."""
        self.sandbox = sandbox
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="metering sandbox", daemon=True)

    def __enter__(self) -> Self:
        """
        Return when the sandbox listens.

        Raises:
            OSError: if the port is taken.
            TimeoutError: if it does not start within half a minute.
        """
        self._thread.start()
        if not self._ready.wait(_PATIENCE):
            raise TimeoutError(f"the sandbox did not start within {_PATIENCE:g} s")
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sandbox; its book can still be read."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - raised again in the caller's thread
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.sandbox:
            self._ready.set()
            await self._stop.wait()
