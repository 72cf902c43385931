"""
Usage in files: JSON lines or CSV to records, line by line, each complaint with file and line.

Files are read as bytes and cut at newlines alone. JSON is strict: no doubled member, no NaN. A CSV
row is one line; its header names the columns. Members have boto3's names or ours.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.rules import clipped

STDIN: Final = "-"
_LONGEST_LINE: Final = 8 * 2**20
_BLOCK: Final = 2**16
_NAMES: Final = {
    "timestamp": "Timestamp",
    "dimension": "Dimension",
    "quantity": "Quantity",
    "customer_aws_account_id": "CustomerAWSAccountId",
    "customer_identifier": "CustomerIdentifier",
    "license_arn": "LicenseArn",
    "product_code": "ProductCode",
    "usage_allocations": "UsageAllocations",
    "allocated_usage_quantity": "AllocatedUsageQuantity",
    "tags": "Tags",
    "key": "Key",
    "value": "Value",
}
_COLUMNS: Final = tuple(_NAMES)[:8]


class UsageFileError(Exception):
    """A file that cannot be read at all: it is missing, or its CSV header is wrong."""


@frozen
class Line:
    """
    One line of input.

    Attributes:
        file: The file's name, or `-`.
        number: From 1.
        record: What it says, or the reason why it says no record.
    """

    file: str
    number: int
    record: UsageRecord | InvalidRecordError


def read_usage(files: Sequence[str]) -> Iterator[Line]:
    """
    Yield every line of *files* but blank ones; `-` is standard input.

    Raises:
        UsageFileError: for a file that cannot be opened or has a wrong CSV header.
    """
    for name in files:
        with _opened(name) as read:
            yield from _lines(name, read)


Read = Callable[[int], bytes]
"""Gives at most so many bytes, and none at the end."""


@contextmanager
def _opened(name: str) -> Iterator[Read]:
    if name == STDIN:
        # Not sys.stdin.buffer: a thread that waits in it would keep the interpreter from ending.
        yield lambda size: os.read(0, size)
        return
    try:
        stream = Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageFileError(f"{name}: {error.strerror or error}") from error
    with stream:
        yield stream.read


def _lines(name: str, read: Read) -> Iterator[Line]:
    parse: Callable[[bytes], Mapping[str, Any]] | None = None
    for number, raw in enumerate(_cut(read), 1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        line = line.rstrip(b"\r")
        if not line.strip():
            continue
        if parse is None:
            if not line.lstrip().startswith((b"{", b"[")):
                parse = _CsvRow(name, line).parse
                continue
            parse = _json_object
        try:
            yield Line(name, number, UsageRecord.from_boto(parse(line)))
        except InvalidRecordError as error:
            yield Line(name, number, error.under(f"{name}:{number}"))


def _cut(read: Read) -> Iterator[bytes]:
    """Yield lines, cut at newlines alone; of an endless line only the beginning is kept."""
    kept = b""
    while block := read(_BLOCK):
        *whole, rest = block.split(b"\n")
        for piece in whole:
            yield kept + piece
            kept = b""
        if len(kept) < _LONGEST_LINE:
            kept += rest
    if kept:
        yield kept


def _broken(path: str, expected: str, got: str) -> InvalidRecordError:
    return InvalidRecordError([Violation(path, expected, got)])


def _json_object(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(
            line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise _broken("", "UTF-8", "other bytes") from None
    except json.JSONDecodeError as error:
        raise _broken("", "a JSON object", f"no JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise _broken("", "a JSON object", "one nested too deeply") from None
    except ValueError as error:
        raise _broken("", "a strict JSON object", clipped(str(error))) from None
    if not isinstance(value, dict):
        raise _broken("", "a JSON object", f"a {type(value).__name__}")
    return value


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object with boto3's names; a member that stands twice has no one value."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        boto = _NAMES.get(name, name)
        if boto in members:
            raise ValueError(f"the member {clipped(name)} twice")
        members[boto] = value
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON")


class _CsvRow:
    """Reads rows under one header."""

    def __init__(self, file: str, header: bytes) -> None:
        try:
            names = [name.strip() for name in self._cells(header)]
        except InvalidRecordError as error:
            raise UsageFileError(f"{file}:1: {error.violations[0]}") from error
        known = {boto: boto for boto in _NAMES.values()} | _NAMES
        for name in names:
            if name not in known or known[name] not in {_NAMES[n] for n in _COLUMNS}:
                raise UsageFileError(
                    f"{file}:1: unknown column {clipped(name)!r}; known are {', '.join(_COLUMNS)}"
                )
        self._columns = [known[name] for name in names]
        if len(set(self._columns)) < len(self._columns):
            raise UsageFileError(f"{file}:1: a column stands twice")

    def parse(self, line: bytes) -> Mapping[str, Any]:
        """Return the members of one row; empty cells are absent."""
        cells = self._cells(line)
        if len(cells) != len(self._columns):
            raise _broken("", f"{len(self._columns)} cells", str(len(cells)))
        members = {n: c for n, c in zip(self._columns, cells, strict=True) if c}
        return {name: self._value(name, cell) for name, cell in members.items()}

    @staticmethod
    def _cells(line: bytes) -> list[str]:
        """Cut one line into cells; an unclosed quote must not swallow the lines that follow."""
        try:
            return next(csv.reader([line.decode("utf-8")], strict=True), [])
        except UnicodeDecodeError:
            raise _broken("", "UTF-8", "other bytes") from None
        except csv.Error as error:
            raise _broken("", "a CSV row on one line", f"a broken one ({error})") from None

    @staticmethod
    def _value(name: str, cell: str) -> Any:  # noqa: ANN401
        if name == "Quantity":
            digits = cell.removeprefix("-")
            if not (digits.isascii() and digits.isdigit()):
                raise _broken("quantity", "a whole number in digits", repr(clipped(cell)))
            return int(cell) if len(digits) < 20 else 10**20
        if name == "Timestamp" and cell.isascii() and cell.isdigit():
            return int(cell)
        if name == "UsageAllocations":
            try:
                return json.loads(cell, object_pairs_hook=_unique, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                raise _broken("usage_allocations", "a JSON list", "none") from None
        return cell
