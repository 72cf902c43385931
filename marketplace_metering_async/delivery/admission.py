"""Whether what was given is a record that may be sent now."""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from marketplace_metering_async import limits, rules
from marketplace_metering_async.aws import wire
from marketplace_metering_async.clock import ClockBounds
from marketplace_metering_async.errors import InvalidRecordError, OutOfWindowError, Violation
from marketplace_metering_async.records import UsageRecord, record_of, utc_of

_MANY_ALLOCATIONS: Final = 200
"""Fewer cannot reach a request's size: five tags of an allocation take less than 4,500 bytes."""


@lru_cache(maxsize=1024)
def deadline(epoch: int) -> float:
    """Return when the window of a timestamp closes; both in seconds since 1970."""
    return limits.deadline(utc_of(epoch)).timestamp()


class Admission:
    """
    Turns whatever was given into a record to send, or tells why it is none.

    The window is judged by the *bounds* in which the service's time lies: what may be inside is
    admitted. Call `set_time()` when time moves on.
    """

    def __init__(self, bounds: ClockBounds, *, product_code: str | None = None) -> None:
        self._product_code = product_code
        self._product_violations = () if product_code is None else rules.product_code(product_code)
        self._product_lacks = product_code is None or bool(self._product_violations)
        self.set_time(bounds)

    def set_time(self, bounds: ClockBounds) -> None:
        """Judge by *bounds* from now on; by one that is unbounded, no time is out of the window."""
        self._oldest, self._newest = -math.inf, bounds.latest + limits.MAX_FUTURE.total_seconds()
        if math.isfinite(bounds.earliest):
            earliest = utc_of(bounds.earliest) - limits.EDGE
            self._oldest = limits.oldest_open(earliest).timestamp()

    def are_plain(self, given: Iterable[object]) -> bool:
        """Fast check: True means that `admit` returns each of *given* itself; False, nothing."""
        oldest, newest, lacks = self._oldest, self._newest, self._product_lacks
        return all(
            type(one) is UsageRecord
            and oldest <= one.epoch <= newest
            and not one.usage_allocations
            and not (lacks and one.product_code is None and one.license_arn is None)
            for one in given
        )

    def admit(self, position: int, given: object) -> UsageRecord:
        """
        Return the record to send for what was *given* at *position*: a UsageRecord or a mapping.

        Raises:
            InvalidRecordError: with the path of every violation, such as `records[3].quantity`.
            OutOfWindowError: if the timestamp is certainly outside the service's window.
        """
        try:
            record = record_of(given)
        except InvalidRecordError as error:
            raise error.under(f"records[{position}]") from None
        if not self._oldest <= record.epoch <= self._newest:
            if record.epoch > self._newest:
                raise premature(position, record, self._newest)
            raise _out_of_window(position, record, f"a time from {_utc(self._oldest)} on")
        if self._product_lacks and record.product_code is None and record.license_arn is None:
            raise self._no_product(position)
        if len(record.usage_allocations) > _MANY_ALLOCATIONS:
            self._require_size(position, record)
        return record

    def _no_product(self, position: int) -> InvalidRecordError:
        if self._product_violations:
            return InvalidRecordError.of(self._product_violations)
        expected = "a product code, its own or the call's (product_code, --product-code)"
        violation = Violation("product_code", expected, "none")
        return InvalidRecordError([violation.under(f"records[{position}]")])

    def _require_size(self, position: int, record: UsageRecord) -> None:
        product = None if record.license_arn else (record.product_code or self._product_code)
        size = wire.batch_overhead(product) + wire.record_size(record.to_wire())
        if size >= limits.REQUEST_BYTES:
            place = f"records[{position}].usage_allocations"
            expected = f"a request of fewer than {limits.REQUEST_BYTES} bytes"
            raise InvalidRecordError([Violation(place, expected, f"{size} bytes")])


def premature(position: int, record: UsageRecord, newest: float) -> OutOfWindowError:
    """Return the error for a record from after *newest* (seconds since 1970)."""
    error = _out_of_window(position, record, f"a time by {_utc(newest)}")
    error.is_early = True
    return error


def expired(position: int, record: UsageRecord, deadline: float) -> OutOfWindowError:
    """Return the error for a record whose *deadline* (seconds since 1970) has passed."""
    closed = f"to be sent before its window closed at {_utc(deadline)}"
    return _out_of_window(position, record, closed)


def _out_of_window(position: int, record: UsageRecord, expected: str) -> OutOfWindowError:
    place, came = f"records[{position}].timestamp", record.timestamp.isoformat()
    return OutOfWindowError([Violation(place, expected, came)])


def _utc(seconds: float) -> str:
    return utc_of(seconds).isoformat()
