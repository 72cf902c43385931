"""What a send prints: result lines in order, complaints, progress, a summary."""

import asyncio
from collections import Counter
from typing import Any, Final, Self

from rich.table import Table

from marketplace_metering_async.cli.exit_codes import Exit, most_severe
from marketplace_metering_async.cli.input.lines import Line
from marketplace_metering_async.cli.output.console import Console, counted, error_text
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.result_fields import HELD, Fate
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.events import (
    BatchEnded,
    Event,
    Retrying,
    SendingStopped,
    Settled,
    Throttled,
    WarningIssued,
    what_stops,
)
from marketplace_metering_async.results import RecordStatus

_MOST_WAITING: Final = 20_000
"""Results that may wait for that of an earlier line; beyond, reading input waits."""
_MOST_COMPLAINTS: Final = 20
STYLES: Final = {
    RecordStatus.SUCCESS: "green",
    RecordStatus.CUSTOMER_NOT_SUBSCRIBED: "yellow",
    RecordStatus.DUPLICATE_RECORD: "yellow",
    RecordStatus.REJECTED: "red",
    RecordStatus.UNPROCESSED: "magenta",
    RecordStatus.UNCONFIRMED: "magenta",
    HELD: "cyan",
}


class Complaints:
    """The first of many complaints; the others are counted."""

    def __init__(self, console: Console, most: int = _MOST_COMPLAINTS) -> None:
        self._console = console
        self._most = most
        self._number = 0

    def __call__(self, text: str) -> None:
        """Tell of one more."""
        self._number += 1
        if self._number <= self._most:
            self._console.complain(text)

    def end(self) -> None:
        """Tell how many were left out."""
        if (more := self._number - self._most) > 0:
            self._console.complain(f"… and {more:,} more complaints")


class Report:
    """
    Tells programs on stdout and people on stderr what becomes of each line.

    Attributes:
        verdicts: How many lines got which.
        bar: The progress bar.
        lines: Where results go.
        complain: Tells people of a line.
        has_all: Whether all of the input was read.
    """

    def __init__(self, console: Console, bar: ProgressBar, lines: ResultWriter) -> None:
        self.verdicts: Counter[str] = Counter()
        self.bar = bar
        self.complain = Complaints(console)
        self._console = console
        self.lines = lines
        self._codes: set[Exit] = set()
        self._expected: dict[int, Line] = {}  # lines that were read and have no result yet
        self._waiting: dict[int, dict[str, Any]] = {}  # results that an earlier line's holds up
        self._flowing = asyncio.Event()  # unset while too many of them wait
        self._flowing.set()
        self._number = 0
        self._next = 0
        self._newest = ""
        self.has_all = False
        self._calls = 0
        self._throttled = 0
        self._warned: set[str] = set()

    async def __aenter__(self) -> Self:
        """Show progress."""
        await self.bar.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write out everything, unless the command was aborted."""
        await self.lines.__aexit__(kind)
        await self.bar.__aexit__()
        self.complain.end()

    def expect(self, line: Line) -> int:
        """Take note of a line of input, and return its running number."""
        self._expected[self._number] = line
        self._newest = line.place
        self._number += 1
        return self._number - 1

    def answer(self, number: int, fate: Fate) -> None:
        """Tell what became of line *number*, once the lines before it were."""
        self._count(fate)
        if fate.members["status"] == RecordStatus.REJECTED:
            self.complain(fate.members["message"])
        self._waiting[number] = fate.members
        self.bar.advance(self._expected[number].size)
        while (ready := self._waiting.pop(self._next, None)) is not None:
            line = self._expected.pop(self._next)
            self.lines.write({"file": line.file, "line": line.number, **ready})
            self._next += 1
        if len(self._waiting) > _MOST_WAITING:
            self._flowing.clear()
        else:
            self._flowing.set()

    def write(self, file: str, number: int, fate: Fate) -> None:
        """Tell what became of a line whose turn it is."""
        self._count(fate)
        self.lines.write({"file": file, "line": number, **fate.members})

    def note(self, code: Exit) -> None:
        """Let the command end with *code*, unless it has a graver one."""
        self._codes.add(code)

    def _count(self, fate: Fate) -> None:
        self._codes.add(fate.code)
        self.verdicts[fate.members["status"]] += 1

    async def room(self) -> None:
        """Wait while stdout's reader, or one line that takes long, holds up too many results."""
        await self._flowing.wait()
        await self.lines.room.wait()

    def __call__(self, event: Event, /) -> None:
        """Take note of what happens on the way; the client calls it."""
        match event:
            case Settled():
                self.bar.trouble = ""
            case Throttled():
                self.bar.trouble = "throttled; slowing down"
            case Retrying(error=error):
                self.bar.trouble = f"trying again: {error}"
            case SendingStopped(error=error):
                self._once(f"nothing more is sent for {what_stops(event)}")
                self._once(error_text(error))
            case WarningIssued(text=text):
                self._once(text)
            case BatchEnded(calls=calls, throttled=throttled):
                self._calls += calls
                self._throttled += throttled

    def _once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._console.complain(text)

    @property
    def code(self) -> Exit:
        """The code that the command ends with, by all that was written and noted."""
        return most_severe(self._codes)

    def summary(self, hours: Counter[str] | None = None) -> Exit:
        """Sum up for people; with the verdicts on *hours*, where lines were added up to them."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("verdict")
        table.add_column("lines", justify="right")
        if hours is not None:
            table.add_column("hours", justify="right")
        for status in [*RecordStatus, HELD]:
            if self.verdicts[status]:
                _add_row(table, f"[{STYLES[status]}]{status}[/]", status, self.verdicts, hours)
        if len(self.verdicts) != 1:
            total = Counter({"": self.verdicts.total()})
            _add_row(table, "all", "", total, hours and Counter({"": hours.total()}))
        self._console.print(table)
        self._console.print(
            f"{counted(self._calls, 'call')} ({self._throttled:,} throttled) "
            f"in {self.bar.seconds:,.1f} s",
            style="dim",
        )
        if self._newest and not self.has_all:
            self._console.print(f"Reading ended after {self._newest}.", markup=False)
        code = self.code
        if code in _WHAT_NOW and not self._only_held(code):
            self._console.print(_WHAT_NOW[code])
        return code

    def _only_held(self, code: Exit) -> bool:
        """Whether nothing is undelivered but what is held back, of which the list says more."""
        undelivered = self.verdicts[RecordStatus.UNPROCESSED]
        undelivered += self.verdicts[RecordStatus.UNCONFIRMED]
        return code is Exit.UNDELIVERED and not undelivered


def _add_row(
    table: Table, name: str, status: str, lines: Counter[str], hours: Counter[str] | None
) -> None:
    cells: list[Any] = [name, f"{lines[status]:,}"]
    if hours is not None:
        cells.append(f"{hours[status]:,}")
    table.add_row(*cells)


_WHAT_NOW: Final = {
    Exit.REJECTED: "Each result line on stdout says what is wrong and what to do about it.",
    Exit.UNDELIVERED: (
        "[bold]Not everything is delivered:[/] send the same input again. What is metered already "
        "is refused as a duplicate; nothing is billed twice."
    ),
    Exit.ACCOUNT: (
        "[bold]The account or the configuration is at fault:[/] fix it and send the same input "
        "again; `marketplace-metering doctor` looks at it."
    ),
}
