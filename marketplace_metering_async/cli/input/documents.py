"""
JSON that is not one record a line: an array, the file of the aws CLI, or records over many lines.

`{"ProductCode": …, "UsageRecords": […]}` is what `aws meteringmarketplace batch-meter-usage
--cli-input-json` takes, and an array what its `--usage-records` takes. Such input is read whole
before its first record is known, and its records are counted from 1 in place of lines.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from marketplace_metering_async.cli.input.formats import DECODER, broken_line, no_json
from marketplace_metering_async.errors import InvalidRecordError

LARGEST: Final = 64 * 2**20
"""Bytes of a document: as text and as objects it takes several times as many of memory."""
_RECORDS: Final = "UsageRecords"
_PRODUCT: Final = "ProductCode"

Found = Mapping[str, Any] | InvalidRecordError
"""The members of a record, with boto3's names, or why there are none."""


def is_document(line: bytes) -> bool:
    """Return whether the first *line* of some input begins what goes on over many lines."""
    text = line.strip()
    if text.startswith(b"["):
        return True
    if not text.startswith(b"{"):
        return False
    if text.endswith((b"{", b"[", b",")):
        return True
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _RECORDS in value


def records_of(document: bytes) -> Iterator[Found]:
    """Yield the records of *document*, one JSON value after the other, up to what is no JSON."""
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError:
        yield broken_line("UTF-8", "other bytes")
        return
    at = _after_blanks(text, 0)
    while at < len(text):
        try:
            value, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield no_json(error)
            return
        yield from _records_in(value, None)
        at = _after_blanks(text, at)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _records_in(value: object, product_code: object) -> Iterator[Found]:
    if isinstance(value, list):
        for one in value:
            yield from _records_in(one, product_code)
    elif isinstance(value, dict) and _RECORDS in value:
        unknown = sorted(value.keys() - {_RECORDS, _PRODUCT})
        if unknown or not isinstance(value[_RECORDS], list):
            got = f"{unknown[0]} as well" if unknown else f"a {type(value[_RECORDS]).__name__}"
            yield broken_line(f"{_RECORDS}, a list, and {_PRODUCT}", got)
            return
        yield from _records_in(value[_RECORDS], value.get(_PRODUCT))
    elif isinstance(value, dict):
        by_license = product_code is None or "LicenseArn" in value
        yield value if by_license else {_PRODUCT: product_code, **value}
    else:
        yield broken_line("a JSON object", f"a {type(value).__name__}")
