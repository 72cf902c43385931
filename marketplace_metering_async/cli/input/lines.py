"""
Usage in files and streams: bytes to lines, lines to records, in memory that does not grow.

Input is cut at newlines alone, so that no character inside a text ends a line.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attrs import frozen

from marketplace_metering_async.cli.input.formats import (
    EVENT_ID,
    Parse,
    UsageFileError,
    broken_line,
    csv_rows,
    format_of,
)
from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.records import UsageRecord

STDIN: Final = "-"
_LONGEST_LINE: Final = 8 * 2**20
"""Bytes: several times the largest request, however it is indented."""
_BLOCK: Final = 2**16
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)  # Windows would translate newlines
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """
    One line of input that is not blank and no header.

    Attributes:
        file: The file's name, or `-`.
        number: From 1, counting every line of the file.
        size: Bytes that were read since the line before.
        record: What it says, or the reason why it says no record.
        members: With boto3's names, of a line that says no record but could be taken apart.
        event_id: The ledger's name for it, if the line has one; whatever stands there.
    """

    file: str
    number: int
    size: int
    record: UsageRecord | InvalidRecordError
    members: Mapping[str, Any] | None = None
    event_id: Any = None


@frozen
class Source:
    """
    Something to read usage from.

    Attributes:
        name: As it was given.
        size: In bytes; None where it is a stream, which can be read only once.
        for_ledger: Whether lines may have event ids.
    """

    name: str
    size: int | None
    for_ledger: bool = False

    def blocks(self) -> Iterator[list[Line]]:
        """
        Yield the lines in blocks, as they come.

        Raises:
            UsageFileError: if it cannot be opened or read, or has a wrong CSV header.
        """
        with _opened(self.name) as read:
            yield from _blocks(self.name, read, for_ledger=self.for_ledger)


def sources_of(names: Sequence[str], *, for_ledger: bool = False) -> list[Source]:
    """
    Return where to read, once every file is known to be there and to begin well.

    Lines may have event ids where they are *for_ledger*.

    Raises:
        UsageFileError: for the first that is not: nothing has been done by then.
    """
    if names.count(STDIN) > 1:
        raise UsageFileError("- stands for standard input, which can be read only once")
    return [_source(name, for_ledger=for_ledger) for name in names]


def _source(name: str, *, for_ledger: bool) -> Source:
    if name == STDIN:
        if sys.stdin is None:  # and another file may have its number by now
            raise UsageFileError("-: standard input is closed")
        return Source(name, None, for_ledger)
    try:
        found = Path(name).stat()
    except OSError as error:
        raise UsageFileError(f"{name}: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):
        if stat.S_ISDIR(found.st_mode):
            raise UsageFileError(f"{name}: is a directory")
        return Source(name, None, for_ledger)
    with _opened(name) as read:
        head = read(_BLOCK).removeprefix(_BYTE_ORDER_MARK).partition(b"\n")[0].rstrip(b"\r")
        if head.strip() and format_of(name, head) is None:
            csv_rows(f"{name}:1", head)
    return Source(name, found.st_size, for_ledger)


Read = Callable[[int], bytes]
"""Gives at most so many bytes as soon as there are any, and none at the end."""


@contextmanager
def _opened(name: str) -> Iterator[Read]:
    """Open *name* for plain reads: a thread in a buffered one would keep a process from ending."""
    try:
        handle = 0 if name == STDIN else os.open(name, os.O_RDONLY | _BINARY)
    except OSError as error:
        raise UsageFileError(f"{name}: {error.strerror or error}") from error

    def read(size: int) -> bytes:
        try:
            return os.read(handle, size)
        except OSError as error:
            raise UsageFileError(f"{name}: {error.strerror or error}") from error

    try:
        yield read
    finally:
        if name != STDIN:
            os.close(handle)


def _blocks(name: str, read: Read, *, for_ledger: bool) -> Iterator[list[Line]]:
    parse: Parse | None = None
    number = size = 0
    for pieces in _cut(read):
        block: list[Line] = []
        for piece in pieces:
            number += 1
            size += len(piece) + 1
            line = piece.removeprefix(_BYTE_ORDER_MARK) if number == 1 else piece
            line = line.rstrip(b"\r")
            if not line.strip():
                continue
            if parse is None:
                parse = format_of(name, line)
                if parse is None:
                    parse = csv_rows(f"{name}:{number}", line)
                    continue
            block.append(Line(name, number, size, *_read(parse, line, for_ledger=for_ledger)))
            size = 0
        if block:
            yield block


def _read(
    parse: Parse, line: bytes, *, for_ledger: bool
) -> tuple[UsageRecord | InvalidRecordError, Mapping[str, Any] | None, Any]:
    """Return the record, or why there is none and the members that could be read; the event id."""
    if len(line) > _LONGEST_LINE:
        return broken_line(f"at most {_LONGEST_LINE} bytes", "a longer line"), None, None
    members = event_id = None
    try:
        members = dict(parse(line))
        event_id = members.pop(EVENT_ID, None)
        record = UsageRecord.from_boto(members)
    except InvalidRecordError as error:
        return error, members, event_id
    if event_id is not None and not for_ledger:
        expected = "none: only a ledger knows event ids (`ledger import`, `send --ledger`)"
        return InvalidRecordError([Violation(EVENT_ID, expected, "one")]), members, None
    return record, None, event_id


def _cut(read: Read) -> Iterator[list[bytes]]:
    """Yield whole lines as they come; of an endless one no more than tells that it is too long."""
    kept: list[bytes] = []
    size = 0
    while block := read(_BLOCK):
        first, *others = block.split(b"\n")
        if size <= _LONGEST_LINE:
            kept.append(first)
            size += len(first)
        if others:
            *whole, rest = others
            yield [b"".join(kept), *whole]
            kept, size = [rest], len(rest)
    if size:
        yield [b"".join(kept)]
