"""Reads input in a thread, so that a slow or endless one does not hold up what is being sent."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from marketplace_metering_async.cli.input.lines import Line, Source, Warn

_BLOCKS_AHEAD: Final = 4


class InputReader:
    """
    The lines of all sources, one after the other, as blocks of what there was at a time.

    Cancelling whoever waits for a block leaves the thread behind; it ends with the process.
    """

    def __init__(self, sources: Sequence[Source], warn: Warn) -> None:
        """Begin to read; *warn* is called on the event loop."""
        self._sources = sources
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._blocks: asyncio.Queue[list[Line] | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(_BLOCKS_AHEAD)
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    async def blocks(self) -> AsyncIterator[list[Line]]:
        """
        Yield the lines as they come, many at a time where there are many.

        Raises:
            UsageFileError: once all that was read before is yielded.
        """
        while True:
            block = await self._blocks.get()
            if block is None or self._ended:
                return
            if isinstance(block, Exception):
                raise block
            self._room.release()
            yield block

    @contextmanager
    def ending_with(self, stop: asyncio.Event) -> Iterator[None]:
        """Yield no further block once *stop* is set."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._end())
        try:
            yield
        finally:
            stopping.cancel()

    def _end(self) -> None:
        self._ended = True
        self._blocks.put_nowait(None)

    def _read(self) -> None:
        try:
            for source in self._sources:
                for block in source.blocks(self._warn_in_loop):
                    self._room.acquire()
                    self._hand_over(block)
        except Exception as error:  # noqa: BLE001 - raised where the lines are taken
            self._hand_over(error)
        else:
            self._hand_over(None)

    def _warn_in_loop(self, text: str) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._warn, text)

    def _hand_over(self, block: list[Line] | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody takes lines any more
            self._loop.call_soon_threadsafe(self._blocks.put_nowait, block)
