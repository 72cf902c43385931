"""`send --ledger`: all lines of an input, kept until the last one is read."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, Self

from marketplace_metering_async.cli.commands.ledger_import import ImportedLine
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.bad_lines import BadLines
from marketplace_metering_async.cli.input.line_numbers import LineNumbers
from marketplace_metering_async.cli.input.lines import Line
from marketplace_metering_async.cli.output.result_fields import Fate, of_blocked
from marketplace_metering_async.records import Key

_IN_MEMORY: Final = 2**20
_BLOCK: Final = 1_000


class KeptLines:
    """
    Keeps entries in a temporary file until it is known which hours a bad line may belong to.

    Of those nothing is added: whatever relays from the ledger would seal them.

    Attributes:
        held: The hours of which nothing is added; complete once all blocks were taken.
        anywhere: The first line that may belong to any hour, as `file:line`; None if there is none.
    """

    def __init__(self, product_code: str | None) -> None:
        """*product_code* is that of lines which name none."""
        self.held: set[Key] = set()
        self.anywhere: str | None = None
        self._bad = BadLines(product_code)
        self._places = LineNumbers()
        self._file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - see __exit__

    def __enter__(self) -> Self:
        """Return the lines themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the temporary file."""
        self._file.close()

    def add(self, line: Line, entry: ImportedLine) -> None:
        """Keep the entry of a line."""
        number = self._places.add(line.file, line.number)
        said: Any = None if entry.fate is None else entry.fate.members
        if entry.usage is None:
            self._bad.add(number, line)
            if self._bad.is_anywhere(number):
                self.anywhere = self._places(number)
        else:
            said = {**entry.usage, "at": int(entry.usage["at"].timestamp())}
        row = json.dumps([entry.file, entry.number, entry.key, said], default=str)
        self._file.write(f"{row}\n".encode("ascii"))

    async def blocks(self) -> AsyncIterator[list[ImportedLine]]:
        """Yield all entries in order; those of hours that are held add nothing."""
        self._file.seek(0)
        block: list[ImportedLine] = []
        for row in self._file:
            block.append(self._entry(*json.loads(row)))
            if len(block) == _BLOCK:
                yield block
                block = []
        yield block

    def _entry(
        self, file: str, number: int, key: list[Any] | None, said: dict[str, Any]
    ) -> ImportedLine:
        if key is None:
            return ImportedLine(file, number, fate=Fate(said, Exit.REJECTED))
        hour = tuple(key)
        bad = self._bad.of(hour)
        if bad is not None:
            self.held.add(hour)
            return ImportedLine(file, number, fate=of_blocked(self._places(bad)))
        usage = {**said, "at": datetime.fromtimestamp(said["at"], UTC)}
        return ImportedLine(file, number, usage, hour)
