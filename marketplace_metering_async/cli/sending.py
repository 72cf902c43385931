"""`send`: records from files to the service, and one line of result for each line of input."""

import asyncio
import queue
import signal
import threading
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from marketplace_metering_async.cli import exits, output
from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.cli.reading import Line
from marketplace_metering_async.cli.settings import Settings
from marketplace_metering_async.coalescing import Coalescer, HeldHour, Outcome
from marketplace_metering_async.errors import InvalidRecordError, MeteringError
from marketplace_metering_async.events import BatchEnded, Event, LoggingObserver
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus

_BLOCK: Final = 500
_MOST_UNWRITTEN: Final = 20_000
"""Results that may wait for an earlier line's; then reading waits."""
_PLAIN_EVERY: Final = 5.0


class Interrupts:
    """The first Ctrl-C ends the reading and lets what was read go out; the second aborts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.stopped = asyncio.Event()
        self._task = asyncio.current_task()

    def __enter__(self) -> Self:
        """Listen."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _interrupt(self) -> None:
        if not self.stopped.is_set():
            self.stopped.set()
            self._console.print(
                "[yellow]Interrupted: reading stops, what was read is still sent. "
                "Ctrl-C again aborts; records on the wire may then be metered all the same."
            )
        elif self._task is not None:
            self._task.cancel()


class _Reader:
    """Reads lines in a thread, so that a slow or endless input does not hold up the sending."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._queue: queue.Queue[Line | Exception | None] = queue.Queue(maxsize=4 * _BLOCK)
        self._over = False
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: Iterator[Line]) -> None:
        try:
            for line in lines:
                self._queue.put(line)
        except Exception as error:  # noqa: BLE001 - raised where the lines are taken
            self._queue.put(error)
        else:
            self._queue.put(None)

    async def blocks(self, stopped: asyncio.Event) -> AsyncIterator[list[Line]]:
        """Yield lines as they come, many at a time where there are many."""
        while not self._over and not stopped.is_set():
            block = await asyncio.to_thread(self._block)
            if block:
                yield block

    def _block(self) -> list[Line]:
        block: list[Line] = []
        while len(block) < _BLOCK:
            try:
                line = self._queue.get(block=not block, timeout=0.2)
            except queue.Empty:
                break
            if line is None:
                self._over = True
                break
            if isinstance(line, Exception):
                raise line
            block.append(line)
        return block


class Report:
    """Result lines in the order of input, counts, and how far it has come."""

    def __init__(self, console: Console, *, total: int | None = None) -> None:
        self._lines = output.ResultLines()
        self._console = console
        self._unwritten: dict[int, dict[str, Any]] = {}
        self._next = 0
        self.room = asyncio.Event()
        self.room.set()
        self.counts: Counter[str] = Counter()
        self.codes: set[Exit] = set()
        self.started = time.monotonic()
        self._last_word = self.started
        self._progress = Progress(
            TextColumn("[bold]metering"),
            BarColumn(),
            MofNCompleteColumn() if total else TextColumn("{task.completed:,} records"),
            TaskProgressColumn(show_speed=True),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("send", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._progress.stop()
        self._lines.flush()

    def note(self, index: int, line: Line, members: dict[str, Any], code: Exit) -> None:
        """Take the result of input number *index*."""
        self.codes.add(code)
        self.counts[str(members["status"])] += 1
        self._unwritten[index] = {"file": line.file, "line": line.number, **members}
        while (ready := self._unwritten.pop(self._next, None)) is not None:
            self._lines.write(ready)
            self._next += 1
        if len(self._unwritten) < _MOST_UNWRITTEN:
            self.room.set()
        else:
            self.room.clear()

    def advance(self) -> None:
        """Show that one more is done."""
        self._progress.advance(self._task)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_word > _PLAIN_EVERY:
            self._last_word = now
            done = self.counts.total()
            rate = done / (now - self.started)
            self._console.print(f"{done:,} records, {rate:,.0f} a second")


def rejected(error: MeteringError) -> dict[str, Any]:
    """Return the result line's members of a line that says no record."""
    members: dict[str, Any] = {"status": RecordStatus.REJECTED.value, "metered": False}
    return members | output.error_members(error) | {"advice": error.advice, "attempts": 0}


class _Calls:
    """Counts calls for the summary, and logs as usual."""

    def __init__(self) -> None:
        self.calls = 0
        self.throttled = 0
        self._log = LoggingObserver()

    def __call__(self, event: Event, /) -> None:
        """Take the end of a batch."""
        if isinstance(event, BatchEnded):
            self.calls += event.calls
            self.throttled += event.throttled
        else:
            self._log(event)


async def send_lines(
    lines: Iterator[Line], settings: Settings, *, product_code: str | None, console: Console
) -> Exit:
    """Send every line as a record of its own, as it is read."""
    calls = _Calls()
    positions = count()
    in_flight: dict[int, tuple[int, Line]] = {}
    with Interrupts(console) as interrupts, Report(console) as report:

        async def records() -> AsyncIterator[UsageRecord]:
            index = 0
            async for block in _Reader(lines).blocks(interrupts.stopped):
                for line in block:
                    if isinstance(line.record, InvalidRecordError):
                        report.note(index, line, rejected(line.record), Exit.REJECTED)
                        report.advance()
                    else:
                        in_flight[next(positions)] = (index, line)
                        yield line.record
                        await report.room.wait()
                    index += 1

        async with settings.client(observer=calls) as client:
            async for result in client.iter_batch_meter_usage(records(), product_code=product_code):
                index, line = in_flight.pop(result.position)
                report.note(index, line, output.of_result(result), exits.of_result(result))
                report.advance()
    return _ended(report, calls, console, interrupted=interrupts.stopped.is_set())


async def send_coalesced(
    lines: Iterator[Line],
    settings: Settings,
    *,
    product_code: str | None,
    include_current_hour: bool,
    console: Console,
) -> Exit:
    """Add the lines up to hourly records, send those, and answer each line with its hour's fate."""
    calls = _Calls()
    with Interrupts(console) as interrupts:
        sums = Sums(product_code)
        async for block in _Reader(lines).blocks(interrupts.stopped):
            sums.add(block)
        if interrupts.stopped.is_set():
            console.print("[yellow]Interrupted while reading: nothing was sent.")
            return Exit.INTERRUPTED
        outcomes = sums.outcomes(include_current_hour=include_current_hour)
        chosen = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, UsageRecord)]
        with Report(console, total=len(chosen)) as report:
            fates = [_fate_unsent(outcome) for outcome in outcomes]
            async with settings.client(observer=calls) as client:
                to_send = [outcomes[i] for i in chosen]
                async for result in client.iter_batch_meter_usage(
                    (r for r in to_send if isinstance(r, UsageRecord)), product_code=product_code
                ):
                    members = output.of_result(result)
                    fates[chosen[result.position]] = (members, exits.of_result(result))
                    report.advance()
            for index, (line, place) in enumerate(sums.lines()):
                members, code = (
                    (rejected(place), Exit.REJECTED)
                    if isinstance(place, MeteringError)
                    else fates[place]
                )
                report.note(index, line, members, code)
    _list_held(outcomes, console)
    return _ended(report, calls, console, interrupted=False)


class Sums:
    """The lines of input and the hour that each of them went into, in eight bytes a line."""

    def __init__(self, product_code: str | None) -> None:
        self._coalescer = Coalescer(product_code)
        self._files: list[tuple[str, int]] = []  # each file, and the index of its first line
        self._numbers = array("I")
        self._places = array("I")
        self._rejected: dict[int, MeteringError] = {}

    def add(self, block: Sequence[Line]) -> None:
        """Add lines up."""
        for line in block:
            index = len(self._numbers)
            if not self._files or self._files[-1][0] != line.file:
                self._files.append((line.file, index))
            self._numbers.append(line.number)
            if isinstance(line.record, InvalidRecordError):
                self._rejected[index] = line.record
                self._places.append(0)
            else:
                self._places.append(self._coalescer.add(line.record))

    def outcomes(self, *, include_current_hour: bool) -> list[Outcome]:
        """Return what became of each hour."""
        now = datetime.now(UTC)
        return self._coalescer.outcomes(now, include_current_hour=include_current_hour)

    def lines(self) -> Iterable[tuple[Line, int | MeteringError]]:
        """Yield every line with the index of its hour, or with what is wrong with it."""
        files = [*self._files, ("", len(self._numbers))]
        for (name, start), (_, end) in pairwise(files):
            for index in range(start, end):
                error = self._rejected.get(index)
                line = Line(name, self._numbers[index], _NO_RECORD)
                yield line, self._places[index] if error is None else error

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self._numbers)

    @property
    def rejected(self) -> Iterable[MeteringError]:
        """What is wrong with the lines that say no record."""
        return self._rejected.values()


_NO_RECORD: Final = InvalidRecordError(())


def _fate_unsent(outcome: Outcome) -> tuple[dict[str, Any], Exit]:
    match outcome:
        case HeldHour(over_at=over_at):
            members = {
                "status": "Held",
                "metered": False,
                "advice": f"The hour is not over; send again after {over_at:%Y-%m-%dT%H:%MZ}.",
                "attempts": 0,
            }
            return members, Exit.UNDELIVERED
        case MeteringError():
            return rejected(outcome), Exit.REJECTED
    return {"status": RecordStatus.UNPROCESSED.value, "metered": False}, Exit.UNDELIVERED


def _list_held(outcomes: Iterable[Outcome], console: Console) -> None:
    held = [outcome for outcome in outcomes if isinstance(outcome, HeldHour)]
    if held:
        sums: Counter[str] = Counter()
        for hour in held:
            sums[hour.record.dimension] += hour.record.quantity
        told = ", ".join(f"{total:,} {dimension}" for dimension, total in sums.items())
        console.print(
            f"[cyan]{len(held):,} hours are not over and were held back ({told}). Send again after "
            f"{max(hour.over_at for hour in held):%H:%M} UTC, or use --include-current-hour."
        )


def _ended(report: Report, calls: _Calls, console: Console, *, interrupted: bool) -> Exit:
    seconds = time.monotonic() - report.started
    console.print(output.summary(report.counts, seconds=seconds))
    console.print(f"{calls.calls:,} calls, {calls.throttled:,} throttled")
    return Exit.INTERRUPTED if interrupted else exits.gravest(report.codes)
