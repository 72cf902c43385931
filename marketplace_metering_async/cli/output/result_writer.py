"""Result lines on stdout, which may be slow, full, or gone."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

from marketplace_metering_async.cli.output.console import Console, json_line, nowhere, stdout

_BREATH: Final = 500
_MOST_UNWRITTEN: Final = 4 * 2**20
"""Bytes that may wait for stdout's reader; beyond, reading input waits."""


class ResultWriter:
    """
    Writes one JSON line a result to stdout, from a thread of its own.

    A reader that pauses (`| less`) must not hold up the requests on the wire, whose answers would
    come too late. Once the reader has gone (`| head`), lines are dropped silently, since what is
    metered stays metered. On a terminal that shows a bar, lines are printed above it.

    Attributes:
        room: Set while it is well to make more lines.
        failure: Why stdout cannot be written, if so, as on a full disk.
    """

    def __init__(self, console: Console, stop: asyncio.Event | None = None) -> None:
        """*stop* is set if stdout cannot be written."""
        self.failure: OSError | None = None
        self.room = asyncio.Event()
        self.room.set()
        self._console = console
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._lines: list[str] = []  # made and not yet handed over
        self._unwritten = 0  # bytes handed over and not yet written
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._written = asyncio.Event()  # set when the thread has ended
        self._above_bar = console.shares_screen
        if not self._above_bar:
            threading.Thread(target=self._write_all, daemon=True).start()

    def write(self, members: dict[str, Any]) -> None:
        """Write a line soon."""
        self.write_line(json_line(members))

    def write_line(self, line: str) -> None:
        """Write a line soon that is one of JSON already."""
        self._lines.append(line)
        if len(self._lines) == 1:
            self._loop.call_soon(self._hand_over)

    async def breathe(self, number: int) -> None:
        """Give others a turn after every 500th line, and wait until it is well to make more."""
        if number % _BREATH == 0:
            await asyncio.sleep(0)
            await self.room.wait()

    async def __aenter__(self) -> Self:
        """Return the writer itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until everything is written, unless the command was aborted."""
        if kind is not None and not issubclass(kind, Exception):
            return
        self._hand_over()
        if not self._above_bar:
            self._queue.put(None)
            await self._written.wait()

    def _hand_over(self) -> None:
        text = "".join(self._lines)
        self._lines.clear()
        if not text:
            return
        if self._above_bar:
            self._console.print(text, end="", markup=False, soft_wrap=True)
            return
        data = text.encode("ascii")
        self._unwritten += len(data)
        if self._unwritten > _MOST_UNWRITTEN:
            self.room.clear()
        self._queue.put(data)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        if self._stop is not None:
            self._stop.set()

    def _note_written(self, size: int) -> None:
        self._unwritten -= size
        if self._unwritten <= _MOST_UNWRITTEN:
            self.room.set()

    # In the thread.

    def _write_all(self) -> None:
        put = stdout()
        while (data := self._queue.get()) is not None:
            try:
                put(data)
            except BrokenPipeError:
                put = nowhere
            except OSError as error:
                put = nowhere
                self._in_loop(self._fail, error)
            self._in_loop(self._note_written, len(data))
        self._in_loop(self._written.set)

    def _in_loop(self, act: Callable[..., None], *values: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the command was aborted
            self._loop.call_soon_threadsafe(act, *values)
