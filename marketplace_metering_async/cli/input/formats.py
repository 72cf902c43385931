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
_MOST_DIGITS: Final = 20
"""Digits of a number in CSV: more than 64 bits can hold, and few enough to read in no time."""


class UsageFileError(MisuseError):
    """Input that cannot be read at all: a file is missing, or a CSV header is wrong."""


def format_of(name: str, first_line: bytes) -> Parse | None:
    """
    Return how to read the lines of file *name*, or None where *first_line* is the header of CSV.

    Where neither the name nor a brace tells, a line with a known column is a header; any other is
    a broken line of JSON, which stops nothing.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix in ("jsonl", "ndjson", "json") or first_line.lstrip().startswith((b"{", b"[")):
        return parse_json
    try:
        columns = [cell.strip() for cell in _cells(first_line)]
    except InvalidRecordError:
        columns = []
    if suffix != "csv" and not any(column in _COLUMN_OF for column in columns):
        return parse_json
    return None


def parse_json(line: bytes) -> Mapping[str, Any]:
    """Read a JSON object."""
    try:
        value = _strict_json(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise _broken("", "UTF-8", "other bytes") from None
    except json.JSONDecodeError as error:
        got = f"no JSON ({error.msg}, column {error.colno})"
        raise _broken("", "a JSON object", got) from None
    except RecursionError:
        raise _broken("", "a JSON object", "one nested too deeply") from None
    except ValueError as error:
        raise _broken("", "a strict JSON object", truncate(str(error))) from None
    if not isinstance(value, dict):
        raise _broken("", "a JSON object", f"a {type(value).__name__}")
    return value


def csv_rows(place: str, header: bytes) -> Parse:
    """
    Return how to read the rows below *header*, which stands at *place* and names the columns.

    Raises:
        UsageFileError: for a header with an unknown, doubled or missing column.
    """
    try:
        columns = [cell.strip() for cell in _cells(header)]
    except InvalidRecordError as error:
        raise UsageFileError(f"{place}: {worded(error)}") from error
    for column in columns:
        if column not in _COLUMN_OF:
            known = ", ".join(_COLUMNS)
            raise UsageFileError(
                f"{place}: unknown column {truncate(repr(column))}; known: {known}"
            )
    members = [_COLUMN_OF[column] for column in columns]
    if len(set(members)) < len(members):
        raise UsageFileError(f"{place}: a column stands twice")
    present = {*members, *(_EITHER if _EITHER & {*members} else ())}
    if missing := [column for column in _REQUIRED if _NAMES[column] not in present]:
        raise UsageFileError(f"{place}: no column {', '.join(missing)}")
    return lambda line: _row(members, line)


def worded(error: InvalidRecordError) -> str:
    """Return all violations in words."""
    return "; ".join(str(violation).removeprefix(": ") for violation in error.violations)


def broken_line(expected: str, got: str) -> InvalidRecordError:
    """Return the error of a line that cannot be looked at."""
    return _broken("", expected, got)


def _broken(path: str, expected: str, got: str) -> InvalidRecordError:
    return InvalidRecordError([Violation(path, expected, got)])


def _strict_json(text: str) -> Any:  # noqa: ANN401
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
        parse_float=_by_its_digits,
    )


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


def _row(columns: list[str], line: bytes) -> Mapping[str, Any]:
    """Read one row; an empty cell is an absent member."""
    cells = _cells(line)
    if len(cells) != len(columns):
        raise _broken("", f"{len(columns)} cells", str(len(cells)))
    return {
        column: _value(column, cell) for column, cell in zip(columns, cells, strict=True) if cell
    }


def _cells(line: bytes) -> list[str]:
    """Cut one line into cells; an unclosed quote must not swallow the lines that follow."""
    if b"\0" in line:
        raise _broken("", "text", "a NUL character")
    try:
        return next(csv.reader([line.decode("utf-8")], strict=True), [])
    except UnicodeDecodeError:
        raise _broken("", "UTF-8", "other bytes") from None
    except csv.Error as error:
        raise _broken("", "a CSV row on one line", f"a broken one ({error})") from None


def _value(column: str, cell: str) -> Any:  # noqa: ANN401
    """Return what a cell says; what is none of its column's kind is left for the rules to name."""
    digits = cell.removeprefix("-")
    if column == "Timestamp" and digits.isascii() and digits.isdigit():
        return int(cell) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
    if column == "UsageAllocations":
        with suppress(ValueError, RecursionError):
            return _strict_json(cell)
    return cell
