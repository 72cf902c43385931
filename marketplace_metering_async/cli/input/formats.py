"""
One line of input to the members of a record: a JSON object, or a CSV row under its header.

Strict, since what is misread is billed: no doubled member, no NaN, no number but by its digits, no
cell too many or too few. Members have boto3's names or ours.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from marketplace_metering_async.cli.exit_codes import MisuseError
from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.rules import truncate

Parse = Callable[[bytes], Mapping[str, Any]]
"""Makes boto3's members of a line; raises InvalidRecordError with paths inside the record."""

EVENT_ID: Final = "event_id"
"""A member that is no record's: the ledger's name for a piece of usage."""
_NAMES: Final = {
    "timestamp": "Timestamp",
    "dimension": "Dimension",
    "quantity": "Quantity",
    "quantity_as_decimal": "QuantityAsDecimal",
    "customer_aws_account_id": "CustomerAWSAccountId",
    "customer_identifier": "CustomerIdentifier",
    "license_arn": "LicenseArn",
    "product_code": "ProductCode",
    "usage_allocations": "UsageAllocations",
    "allocated_usage_quantity": "AllocatedUsageQuantity",
    "allocated_usage_quantity_as_decimal": "AllocatedUsageQuantityAsDecimal",
    "tags": "Tags",
    "key": "Key",
    "value": "Value",
    EVENT_ID: EVENT_ID,
}
_COLUMNS: Final = (*tuple(_NAMES)[:9], EVENT_ID)
_REQUIRED: Final = _COLUMNS[:3]
_EITHER: Final = {"Quantity", "QuantityAsDecimal"}
_COLUMN_OF: Final = {name: _NAMES[name] for name in _COLUMNS} | {
    _NAMES[name]: _NAMES[name] for name in _COLUMNS
}
_NO_TEXT: Final = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"PAR1": "a Parquet file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\0": "a SQLite database",
    b"PK\x03\x04": "an Excel or ZIP file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"BZh": "compressed with bzip2, where only gzip is known",
    b"\xfd7zXZ": "compressed with xz, where only gzip is known",
    b"\x28\xb5\x2f\xfd": "compressed with zstd, where only gzip is known",
}
_DELIMITERS: Final = (",", ";", "\t")
_MOST_DIGITS: Final = 20
"""Digits of a number in CSV: more than 64 bits can hold, and few enough to read in no time."""

csv.field_size_limit(2**31 - 1)  # a line is short enough, and may be one cell for the most part


class UsageFileError(MisuseError):
    """Input that cannot be read at all: a file is missing, or a CSV header is wrong."""


def format_of(name: str, first_line: bytes) -> Parse | None:
    """
    Return how to read the lines of file *name*, or None where *first_line* is the header of CSV.

    Where neither the name nor a brace tells, a line with a known column is a header; any other is
    a broken line of JSON, which stops nothing.
    """
    suffix = name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix in ("jsonl", "ndjson", "json") or first_line.lstrip().startswith((b"{", b"[")):
        return parse_json
    try:
        columns = [cell.strip() for cell in _cells(first_line, _delimiter_of(first_line))]
    except InvalidRecordError:
        columns = []
    if suffix not in ("csv", "tsv") and not any(column in _COLUMN_OF for column in columns):
        return parse_json
    return None


def require_text(name: str, head: bytes) -> None:
    """
    Refuse what begins as something else than text does: a complaint a line would help nobody.

    Raises:
        UsageFileError: with what it is, and what to make of it.
    """
    kind = next((kind for magic, kind in _NO_TEXT.items() if head.startswith(magic)), None)
    if kind is not None:
        raise UsageFileError(f"{name}: this is {kind}; make it JSON lines or CSV in UTF-8")


def parse_json(line: bytes) -> Mapping[str, Any]:
    """Read a JSON object."""
    try:
        value = DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise broken_line("UTF-8", "other bytes") from None
    except (ValueError, RecursionError) as error:
        raise no_json(error) from None
    if not isinstance(value, dict):
        raise broken_line("a JSON object", f"a {type(value).__name__}")
    return value


def csv_rows(place: str, header: bytes) -> Parse:
    """
    Return how to read the rows below *header*, which stands at *place* and names the columns.

    Commas, semicolons or tabs stand between them. Columns that are none of ours are left out.

    Raises:
        UsageFileError: for a header with a doubled or missing column, or one that is nearly ours:
            ignored, it would change what is billed.
    """
    delimiter = _delimiter_of(header)
    try:
        columns = [cell.strip() for cell in _cells(header, delimiter)]
    except InvalidRecordError as error:
        raise UsageFileError(f"{place}: {worded(error)}") from error
    members = [_COLUMN_OF.get(column) for column in columns]
    known = [member for member in members if member is not None]
    for column, member in zip(columns, members, strict=True):
        if member is not None and known.count(member) > 1:
            raise UsageFileError(f"{place}: column {column} stands twice; keep one of them")
    for column in extra_columns(header):
        if meant := get_close_matches(column.lower(), _COLUMN_OF, 1, 0.75):
            shown = truncate(repr(column))
            raise UsageFileError(f"{place}: unknown column {shown}; call it {meant[0]}?")
    present = {*known, *(_EITHER if _EITHER & {*known} else ())}
    if missing := [column for column in _REQUIRED if _NAMES[column] not in present]:
        raise UsageFileError(
            f"{place}: no column {', '.join(missing)}; the first line of a CSV file names its "
            f"columns: {', '.join(_COLUMNS)}"
        )
    return lambda line: _row(members, line, delimiter)


def extra_columns(header: bytes) -> list[str]:
    """Return the columns of a *header* of CSV that are none of ours."""
    cells = (cell.strip() for cell in _cells(header, _delimiter_of(header)))
    return [cell for cell in cells if cell not in _COLUMN_OF]


def _delimiter_of(header: bytes) -> str:
    """Return what stands between the columns: what gives most of them a name of ours."""

    def known(delimiter: str) -> int:
        try:
            cells = _cells(header, delimiter)
        except InvalidRecordError:
            return 0
        return sum(cell.strip() in _COLUMN_OF for cell in cells)

    return max(_DELIMITERS, key=known)


def worded(error: InvalidRecordError) -> str:
    """Return all violations in words."""
    return "; ".join(str(violation).removeprefix(": ") for violation in error.violations)


def broken_line(expected: str, got: str) -> InvalidRecordError:
    """Return the error of a line that cannot be looked at."""
    return InvalidRecordError([Violation("", expected, got)])


def no_json(error: ValueError | RecursionError) -> InvalidRecordError:
    """Return what is wrong with a text that is no strict JSON, by what DECODER raised."""
    match error:
        case json.JSONDecodeError(msg=msg, lineno=line, colno=column):
            where = f"column {column}" if line == 1 else f"line {line}, column {column}"
            return broken_line("a JSON object", f"no JSON ({msg}, {where})")
        case RecursionError():
            return broken_line("a JSON object", "one nested too deeply")
    return broken_line("a strict JSON object", truncate(str(error)))


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object with boto3's names; a member that stands twice has no one value."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        boto = _NAMES.get(name, name)
        if boto in members:
            raise ValueError(f"the member {truncate(name)} twice")
        members[boto] = value
    return members


def _by_its_digits(number: str) -> Decimal:
    try:
        return Decimal(number)
    except ArithmeticError:
        raise ValueError("a number beyond all bounds") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON")


DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_by_its_digits
)
"""Reads JSON strictly, with boto3's names for members."""


def _row(columns: list[str | None], line: bytes, delimiter: str) -> Mapping[str, Any]:
    """Read one row, but for columns without a member; an empty cell is an absent member."""
    cells = _cells(line, delimiter)
    if len(cells) != len(columns):
        raise broken_line(f"{len(columns)} cells", str(len(cells)))
    return {
        column: _value(column, cell)
        for column, cell in zip(columns, cells, strict=True)
        if cell and column is not None
    }


def _cells(line: bytes, delimiter: str) -> list[str]:
    """
    Cut one line into cells; an unclosed quote must not swallow the lines that follow.

    Nor is a line taken that closes a quote of another one: it is the rest of a row, and may look
    like a row.
    """
    if b"\0" in line:
        raise broken_line("text", "a NUL character")
    try:
        cells = next(csv.reader([line.decode("utf-8")], strict=True, delimiter=delimiter), [])
    except UnicodeDecodeError:
        raise broken_line("UTF-8", "other bytes") from None
    except csv.Error as error:
        if b"\r" in line:  # those at its end are cut off
            raise broken_line(
                "lines that end with a newline", "a carriage return inside of one"
            ) from None
        raise broken_line("a CSV row on one line", f"a broken one ({error})") from None
    if line.count(b'"') % 2:
        raise broken_line("a CSV row on one line", "the end of one, or a quote that is not doubled")
    return cells


def _value(column: str, cell: str) -> Any:  # noqa: ANN401
    """Return what a cell says; what is none of its column's kind is left for the rules to name."""
    digits = cell.removeprefix("-")
    if column == "Timestamp" and digits.isascii() and digits.isdigit():
        return int(cell) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
    if column == "UsageAllocations":
        with suppress(ValueError, RecursionError):
            return DECODER.decode(cell)
    return cell
