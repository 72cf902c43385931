"""
Usage in files and streams: bytes to lines, lines to records, in memory that does not grow.

Input is cut at newlines alone, so that no character inside a text ends a line. What is no record a
line, such as the file of the aws CLI, is read whole (`documents`).
"""

import os
import select
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from attrs import frozen

from marketplace_metering_async.cli.input.documents import LARGEST, Found, is_document, records_of
from marketplace_metering_async.cli.input.formats import (
    EVENT_ID,
    Parse,
    UsageFileError,
    broken_line,
    csv_rows,
    extra_columns,
    format_of,
    parse_json,
    require_text,
)
from marketplace_metering_async.cli.input.gzipped import Read, plain
from marketplace_metering_async.cli.input.writers import is_being_written
from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.rules import truncate

STDIN: Final = "-"
_LONGEST_LINE: Final = 8 * 2**20
"""Bytes: several times the largest request, however it is indented."""
_BLOCK: Final = 2**16
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)  # Windows would translate newlines
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_ACCOUNT_DIGITS: Final = 12
_MOST_WARNINGS: Final = 5
"""Lines of a file that are warned of one by one."""

Warn: TypeAlias = Callable[[str], object]
"""Gets a text on what is odd about the input, and no fault of it."""


def doubt_of_account(account: str | None) -> str:
    """Return what is odd about an account id, or nothing; spreadsheets drop leading zeros."""
    if account is None or len(account) == _ACCOUNT_DIGITS:
        return ""
    return (
        f"AWS account ids have {_ACCOUNT_DIGITS} digits, and this one has {len(account)}: was a "
        "leading zero lost?"
    )


class Line(NamedTuple):
    """
    One line of input that is not blank and no header.

    Attributes:
        file: The file's name, or `-`.
        number: From 1, counting every line of the file; of a document, its records.
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

    @property
    def place(self) -> str:
        """Where it stands, as `file:line`."""
        return f"{self.file}:{self.number}"

    @property
    def doubt(self) -> str:
        """What is odd about what it says, or nothing."""
        if isinstance(self.record, InvalidRecordError):
            return ""
        return doubt_of_account(self.record.customer_aws_account_id)


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

    def blocks(self, warn: Warn) -> Iterator[list[Line]]:
        """
        Yield the lines in blocks, as they come, and warn of what is odd about them.

        Raises:
            UsageFileError: if it cannot be opened or read, or has a wrong CSV header.
        """
        doubts = _Doubts(self.name, warn)
        with opened(self.name) as (handle, read):
            for block in self._blocks(handle, plain(self.name, read), warn):
                doubts.look_at(block)
                yield block
        doubts.end()

    def _blocks(self, handle: int, read: Read, warn: Warn) -> Iterator[list[Line]]:
        parse: Parse | None = None
        number = size = 0
        cut = _Cut(read, handle)
        blocks = iter(cut)
        for pieces in blocks:
            block: list[Line] = []
            for index, piece in enumerate(pieces):
                if not number:
                    require_text(self.name, piece)
                number += 1
                size += len(piece) + 1
                line = piece.removeprefix(_BYTE_ORDER_MARK) if number == 1 else piece
                line = line.rstrip(b"\r")
                if not line.strip():
                    continue
                if parse is None:
                    if is_document(line):
                        rest = chain([line, *pieces[index + 1 :]], *blocks)
                        yield self._of_document(number, rest)
                        return
                    parse = format_of(self.name, line)
                    if parse is None:
                        parse = csv_rows(f"{self.name}:{number}", line)
                        if others := extra_columns(line):
                            columns = ", ".join(
                                truncate(column) or "one without a name" for column in others
                            )
                            warn(f"{self.name}:{number}: columns that are not read: {columns}")
                        continue
                given = _members_of(parse, line, goes_on=cut.goes_on)
                block.append(self._line(number, size, given))
                size = 0
            if block:
                yield block

    def _of_document(self, start: int, pieces: Iterable[bytes]) -> list[Line]:
        """
        Return the records of what goes on over many lines; each is counted, and has no line.

        *start* is the number of the first line, for records a line of which the first is broken.
        """
        kept: list[bytes] = []
        size = 0
        for piece in pieces:
            kept.append(piece)
            size += len(piece) + 1
            if size > LARGEST or len(piece) > _LONGEST_LINE:
                text = "too large for JSON that is not one record a line: `jq -c '.[]'` makes lines"
                raise UsageFileError(f"{self.name}: {text}")
        found = list(records_of(b"\n".join(kept)))
        if len(found) == 1 and isinstance(found[0], InvalidRecordError) and _is_lines(kept):
            return [
                self._line(number, len(line) + 1, _members_of(parse_json, line))
                for number, line in enumerate(kept, start)
                if line.strip()
            ]
        share = size // max(1, len(found))
        return [self._line(number, share, given) for number, given in enumerate(found, start=1)]

    def _line(self, number: int, size: int, given: Found) -> Line:
        if isinstance(given, InvalidRecordError):
            return Line(self.name, number, size, given)
        members = dict(given)
        event_id = members.pop(EVENT_ID, None)
        try:
            record = UsageRecord.from_boto(members)
        except InvalidRecordError as error:
            return Line(self.name, number, size, error, members, event_id)
        if event_id is not None and not self.for_ledger:
            expected = "none: only a ledger knows event ids (`ledger import`, `send --ledger`)"
            refused = InvalidRecordError([Violation(EVENT_ID, expected, "one")])
            return Line(self.name, number, size, refused, members)
        return Line(self.name, number, size, record, event_id=event_id)


class _Doubts:
    """Warns of the first odd lines of a file, of how many more there are, and of a lack of any."""

    def __init__(self, name: str, warn: Warn) -> None:
        self._name = name
        self._warn = warn
        self._lines = 0
        self._odd = 0

    def look_at(self, block: Sequence[Line]) -> None:
        self._lines += len(block)
        for line in block:
            if doubt := line.doubt:
                self._odd += 1
                if self._odd <= _MOST_WARNINGS:
                    self._warn(f"{line.place}: {doubt}")

    def end(self) -> None:
        if (more := self._odd - _MOST_WARNINGS) > 0:
            self._warn(f"{self._name}: {more:,} more account ids are not of 12 digits")
        if not self._lines:
            self._warn(f"{self._name}: there is no usage in it; did what writes it fail?")


def sources_of(names: Sequence[str], *, for_ledger: bool = False) -> list[Source]:
    """
    Return where to read, once every file is known to be there and to begin well.

    Lines may have event ids where they are *for_ledger*.

    Raises:
        UsageFileError: for the first that is not: nothing has been done by then.
    """
    if names.count(STDIN) > 1:
        raise UsageFileError("- stands for standard input, which can be read only once")
    sources = [_source(name, for_ledger=for_ledger) for name in names]
    _require_different(names)
    return sources


def _require_different(names: Iterable[str]) -> None:
    """
    Refuse files that are one, by a link or compressed: usage would be added up twice.

    And one at whose end the results are written, which would be read as well.
    """
    results = None if sys.stdout is None else os.fstat(1)
    known: dict[tuple[int, int], str] = {}
    plain_names: dict[str, str] = {}
    for name in names:
        found = os.fstat(0) if name == STDIN else Path(name).stat()
        if not stat.S_ISREG(found.st_mode):  # what is read of a stream is gone
            continue
        if results is not None and os.path.samestat(found, results):
            raise UsageFileError(f"{name}: the results go there, too; write them to another file")
        file = (found.st_dev, found.st_ino)
        if file in known:
            raise UsageFileError(f"{name}: is the same file as {known[file]}; give it once")
        known[file] = name
        other = plain_names.setdefault(str(Path(name).resolve()).removesuffix(".gz"), name)
        if other != name:
            raise UsageFileError(
                f"{name}: is {other} with or without .gz; give one of them, or rename it"
            )


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
    with opened(name) as (_, read):
        head = plain(name, read)(_BLOCK)
        require_text(name, head)
        head = head.removeprefix(_BYTE_ORDER_MARK)
        head = head.partition(b"\n")[0].rstrip(b"\r")
        if head.strip() and format_of(name, head) is None:
            csv_rows(f"{name}:1", head)
    return Source(name, found.st_size, for_ledger)


@contextmanager
def opened(name: str) -> Iterator[tuple[int, Read]]:
    """
    Open *name* for plain reads: a thread in a buffered one would keep a process from ending.

    Raises:
        UsageFileError: it cannot be opened, or read.
    """
    try:
        handle = 0 if name == STDIN else os.open(name, os.O_RDONLY | _BINARY)
    except OSError as error:
        raise UsageFileError(f"{name}: {error.strerror or error}") from error

    def read(size: int) -> bytes:
        try:
            while True:
                try:
                    return os.read(handle, size)
                except BlockingIOError:  # others have it so that share a pipe or terminal with us
                    select.select([handle], [], [])
        except OSError as error:
            raise UsageFileError(f"{name}: {error.strerror or error}") from error

    try:
        yield handle, read
    finally:
        if name != STDIN:
            os.close(handle)


def _is_lines(pieces: Sequence[bytes]) -> bool:
    """Return whether the second of some lines begins a record, so that only the first is broken."""
    second = next((piece for piece in pieces[1:] if piece.strip()), b"")
    return second.lstrip().startswith(b"{")


def _members_of(parse: Parse, line: bytes, *, goes_on: bool = False) -> Found:
    if goes_on and parse is not parse_json:  # which a brace ends; a number in CSV may be a part
        return broken_line("a whole line", "one that is still being written")
    if len(line) > _LONGEST_LINE:
        return broken_line(f"at most {_LONGEST_LINE} bytes", "a longer line")
    try:
        return parse(line)
    except InvalidRecordError as error:
        return error


class _Cut:
    """
    Whole lines as they come; of an endless one no more than tells that it is too long.

    Attributes:
        goes_on: Whether the last one, which is handed out then, is still being written.
    """

    def __init__(self, read: Read, handle: int) -> None:
        """Cut what *read* gives, of the open file *handle*."""
        self.goes_on = False
        self._read = read
        self._handle = handle

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yield the lines in blocks."""
        kept: list[bytes] = []
        size = 0
        while block := self._read(_BLOCK) or (self._more() if size else b""):
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

    def _more(self) -> bytes:
        """Return what was written while the last line was read, which has no line end."""
        self.goes_on = is_being_written(self._handle)
        if self.goes_on:
            return b""
        is_file = stat.S_ISREG(os.fstat(self._handle).st_mode)  # others wait for more
        return self._read(_BLOCK) if is_file else b""
