"""
Lines that say no record, and the hours that they may belong to.

The service keeps the first record of an hour: one that is sent without a line locks the hour at a
part of its sum, and the line's units are lost. So such hours are held until the line is fixed.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.cli.input.lines import Line
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.errors import InvalidRecordError, MeteringError, Violation
from marketplace_metering_async.records import Key, UsageRecord

_WHO_AND_WHEN: Final = ("Timestamp", "Dimension", "CustomerAWSAccountId", "CustomerIdentifier")
_OF_WHAT: Final = ("ProductCode", "LicenseArn")
_HOW_MUCH: Final = ("Quantity", "QuantityAsDecimal", "UsageAllocations")


@frozen
class BlockedHour:
    """
    The sum of an hour that lacks a line, or may lack one.

    Attributes:
        record: What would be sent without that line.
        place: Where the line stands, as `file:line`.
        anywhere: Whether the line may belong to any hour, for it does not say to which.
        over_at: When the hour is over (UTC), if it is not.
    """

    record: UsageRecord
    place: str
    anywhere: bool
    over_at: datetime | None = None


CheckedHour = UsageRecord | HeldHour | BlockedHour | MeteringError
"""What became of an hour: a record, one that is held, or the reason why there is no record."""


def record_of(line: Line, product_code: str | None) -> UsageRecord | InvalidRecordError:
    """Return what *line* says, or why that is no record; *product_code* is of lines without one."""
    record = line.record
    if isinstance(record, InvalidRecordError):
        return record
    if record.license_arn or record.product_code or product_code:
        return record
    expected = "a product code, in the line or as --product-code"
    return InvalidRecordError([Violation("product_code", expected, "none")])


class BadLines:
    """Knows of each hour whether a bad line may belong to it; of each such hour, one line."""

    def __init__(self, product_code: str | None) -> None:
        """*product_code* is that of lines which name none."""
        self._product_code = product_code
        self._of_hour: dict[Key, int] = {}
        self._of_any_product: dict[Key, int] = {}  # by keys without product and license
        self._of_any_hour: int | None = None

    def add(self, number: int, line: Line) -> None:
        """Take note of a bad *line* and its running number."""
        record = _read_with_product(line)
        if record is not None and (record.license_arn or record.product_code or self._product_code):
            self._of_hour.setdefault(record.key(self._product_code), number)
            return
        record = record or _read(line.members or {}, _WHO_AND_WHEN)
        if record is not None:
            self._of_any_product.setdefault(_any_product(record.key()), number)
        elif self._of_any_hour is None:
            self._of_any_hour = number

    def of(self, key: Key) -> int | None:
        """Return the number of a bad line that may belong to the hour of *key*, if there is any."""
        first = self._of_hour.get(key, self._of_any_product.get(_any_product(key)))
        return self._of_any_hour if first is None else first

    def is_anywhere(self, number: int) -> bool:
        """Whether the line of this *number* may belong to any hour."""
        return number == self._of_any_hour


def _any_product(key: Key) -> Key:
    return key[2:]


def _read_with_product(line: Line) -> UsageRecord | None:
    """Return a record of the line's hour, unless its product or license may be another one."""
    if isinstance(line.record, UsageRecord):
        return line.record
    members = line.members or {}
    if members.keys() <= {*_WHO_AND_WHEN, *_OF_WHAT, *_HOW_MUCH}:
        return _read(members, _WHO_AND_WHEN + _OF_WHAT)
    return None  # a member that nobody knows may be meant to name them


def _read(members: Mapping[str, Any], names: tuple[str, ...]) -> UsageRecord | None:
    """Return the record of nothing that *members* of these *names* make, or None."""
    found = {name: members[name] for name in names if name in members}
    try:
        return UsageRecord.from_boto({**found, "Quantity": 0})
    except InvalidRecordError:
        return None
