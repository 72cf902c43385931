"""The lines of input, and the hour that each of them was added to."""

import asyncio
import json
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

from marketplace_metering_async.cli.commands.job import SendJob
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.bad_lines import (
    BadLines,
    BlockedHour,
    CheckedHour,
    record_of,
)
from marketplace_metering_async.cli.input.line_numbers import LineNumbers
from marketplace_metering_async.cli.input.lines import Line
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.cli.output.report import Complaints
from marketplace_metering_async.cli.output.result_fields import FIX_AND_SEND_ALL, Fate, of_refusal
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.coalescing import Coalescer, HeldHour, HourOutcome
from marketplace_metering_async.errors import InvalidRecordError, MeteringError

_REFUSED: Final = 2**32 - 1


class HourlySums:
    """
    Adds lines up to hours, and knows for each line which hour that was.

    Memory grows with the number of hours, and by four bytes a line; what is wrong with lines that
    say no record goes to a temporary file.

    Attributes:
        places: Where the lines stand.
        refused: How many lines say no record.
    """

    def __init__(self, product_code: str | None, file: IO[bytes]) -> None:
        """*product_code* is that of records which name none, *file* a temporary one."""
        self.places = LineNumbers()
        self.refused = 0
        self._product_code = product_code
        self._bad = BadLines(product_code)
        self._coalescer = Coalescer(product_code)
        self._hours = array("I")  # by line: the index of its hour
        self._firsts = array("Q")  # by hour: the number of its first line
        self._refusals = file

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self._hours)

    def add(self, line: Line) -> dict[str, Any] | None:
        """Add a line to its hour; return the members of its result if it says no record."""
        number = self.places.add(line.file, line.number)
        record = record_of(line, self._product_code)
        if isinstance(record, InvalidRecordError):
            members = of_refusal(record, line.place, advice=FIX_AND_SEND_ALL).members
            self._refusals.write(json.dumps(members).encode("ascii") + b"\n")
            self._hours.append(_REFUSED)
            self._bad.add(number, line)
            self.refused += 1
            return members
        hour = self._coalescer.add(record)
        if hour == len(self._firsts):
            self._firsts.append(number)
        self._hours.append(hour)
        return None

    def outcomes(self, *, include_current_hour: bool) -> list[CheckedHour]:
        """Return what became of each hour, in the order of their first lines."""
        now = SystemClock().now()
        found = self._coalescer.outcomes(now, include_current_hour=include_current_hour)
        return [self._with_bad_lines(outcome) for outcome in found]

    def _with_bad_lines(self, outcome: HourOutcome) -> CheckedHour:
        if isinstance(outcome, MeteringError):
            return outcome
        if isinstance(outcome, HeldHour):
            record, over_at = outcome.record, outcome.over_at
        else:
            record, over_at = outcome, None
        bad = self._bad.of(record.key(self._product_code))
        if bad is None:
            return outcome
        return BlockedHour(record, self.places(bad), self._bad.is_anywhere(bad), over_at)

    def first_line(self, hour: int) -> int:
        """Return the number of the first line of *hour*."""
        return self._firsts[hour]

    def place(self, hour: int) -> str:
        """Return where *hour* begins, as `file:line`."""
        return self.places(self._firsts[hour])

    def results(self, fates: Sequence[Fate]) -> Iterator[tuple[str, int, Fate]]:
        """Yield file and number of every line, with the fate of its hour, or its own refusal."""
        self._refusals.seek(0)
        for number, hour in enumerate(self._hours):
            file, line = self.places.at(number)
            if hour == _REFUSED:
                yield file, line, Fate(json.loads(self._refusals.readline()), Exit.REJECTED)
            else:
                yield file, line, fates[hour]


async def add_up(
    job: SendJob,
    sums: HourlySums,
    console: Console,
    complain: Complaints,
    stop: asyncio.Event | None = None,
) -> None:
    """Add all lines of input to *sums*, or those that are read until *stop* is set."""

    def take(line: Line) -> None:
        members = sums.add(line)
        if members is not None:
            complain(members["message"])

    await job.read(console, "adding up", take, stop)
