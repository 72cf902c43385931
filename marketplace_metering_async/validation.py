"""What of a batch need not be sent, and why: records against the time and against each other."""

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, cast

from marketplace_metering_async import limits, rules, wire
from marketplace_metering_async.clock import Span
from marketplace_metering_async.errors import (
    ConflictingRecordsError,
    InvalidRecordError,
    OutOfWindowError,
    Violation,
)
from marketplace_metering_async.records import Key, UsageRecord

_LAST_BITS: Final = 63
"""Bits of a hash that tell its table."""
_MANY_ALLOCATIONS: Final = 200
"""Fewer cannot reach a request's size: five tags of an allocation take less than 4,500 bytes."""


class Alike(NamedTuple):
    """Records of one product, without licenses and allocations, and the epoch of each."""

    records: Sequence[UsageRecord]
    epochs: Sequence[int]


class Admission:
    """
    Turns whatever was given into a record to send, or tells why it is none.

    The window is judged by the *span* in which the service's time lies: what may be inside is
    admitted. Call `at()` when time moves on.
    """

    def __init__(
        self,
        span: Span,
        *,
        product_code: str | None = None,
        window: limits.MeteringWindow = limits.BATCH_WINDOW,
    ) -> None:
        self._product_code = product_code
        self._window = window
        self._product_violations = () if product_code is None else rules.product_code(product_code)
        self._product_lacks = product_code is None or bool(self._product_violations)
        self.at(span)

    def at(self, span: Span) -> None:
        """Judge by *span* from now on; by one that is unbounded, no time is out of the window."""
        self._oldest, self._newest = -math.inf, span.latest + limits.MAX_FUTURE.total_seconds()
        if math.isfinite(span.earliest):
            earliest = datetime.fromtimestamp(span.earliest, UTC) - limits.EDGE
            self._oldest = limits.oldest_open(earliest, self._window).timestamp()

    def admit(self, position: int, given: object) -> UsageRecord:
        """
        Return the record to send for what was *given* at *position*: a UsageRecord or a mapping.

        Raises:
            InvalidRecordError: with the path of every violation, such as `records[3].quantity`.
            OutOfWindowError: if the timestamp is certainly outside the service's window.
        """
        if isinstance(given, UsageRecord):
            record = given
        else:
            try:
                record = self._of_mapping(given)
            except InvalidRecordError as error:
                raise error.under(f"records[{position}]") from None
        if not self._oldest <= record.epoch <= self._newest:
            if record.epoch > self._newest:
                raise premature(position, record, self._newest)
            raise OutOfWindowError([self._too_old(position, record)])
        if self._product_lacks and record.product_code is None and record.license_arn is None:
            raise self._no_product(position)
        if len(record.usage_allocations) > _MANY_ALLOCATIONS:
            self._require_size(position, record)
        return record

    def alike(self, given: Sequence[object]) -> Alike | None:
        """Return *given*, if all may be sent and are alike at a glance; None says nothing."""
        first = given[0]
        product_code = first.product_code if type(first) is UsageRecord else None
        if self._product_lacks and product_code is None:
            return None
        for record in given:
            if (
                type(record) is not UsageRecord
                or record.product_code != product_code
                or record.license_arn is not None
                or record.usage_allocations
            ):
                return None
        records = cast("Sequence[UsageRecord]", given)
        epochs = [record.epoch for record in records]
        few = set(epochs)
        if self._oldest <= min(few) and max(few) <= self._newest:
            return Alike(records, epochs)
        return None

    @staticmethod
    def _of_mapping(given: object) -> UsageRecord:
        if not isinstance(given, Mapping):
            expected = "a UsageRecord or a mapping"
            got = rules.shown(given)
            raise InvalidRecordError.of([Violation("", expected, got, wrong_type=True)])
        return UsageRecord.from_boto(given)

    def _no_product(self, position: int) -> InvalidRecordError:
        if self._product_violations:
            return InvalidRecordError.of(self._product_violations)
        violation = Violation("product_code", "a product code, here or for the call", "none")
        return InvalidRecordError([violation.under(f"records[{position}]")])

    def _require_size(self, position: int, record: UsageRecord) -> None:
        product = None if record.license_arn else (record.product_code or self._product_code)
        size = wire.batch_overhead(product) + wire.record_size(wire.members_of(record))
        if size >= limits.REQUEST_BYTES:
            place = f"records[{position}].usage_allocations"
            expected = f"a request of fewer than {limits.REQUEST_BYTES} bytes"
            raise InvalidRecordError([Violation(place, expected, f"{size} bytes")])

    def _too_old(self, position: int, record: UsageRecord) -> Violation:
        when = datetime.fromtimestamp(self._oldest, UTC).isoformat()
        place = f"records[{position}].timestamp"
        return Violation(place, f"a time from {when} on", record.timestamp.isoformat())


def premature(position: int, record: UsageRecord, newest: float) -> OutOfWindowError:
    """Return the error for a record from after *newest* (seconds since 1970)."""
    when = datetime.fromtimestamp(newest, UTC).isoformat()
    place = f"records[{position}].timestamp"
    return OutOfWindowError([Violation(place, f"a time by {when}", record.timestamp.isoformat())])


def expired(position: int, record: UsageRecord, deadline: float) -> OutOfWindowError:
    """Return the error for a record whose *deadline* (seconds since 1970) has passed."""
    closed = (datetime.fromtimestamp(0, UTC) + timedelta(seconds=deadline)).isoformat()
    return OutOfWindowError(
        [
            Violation(
                f"records[{position}].timestamp",
                f"to be sent before its window closed at {closed}",
                record.timestamp.isoformat(),
            )
        ]
    )


class Hashes:
    """
    The hashes of all keys of a batch: they tell of most records that they are alone with theirs.

    A number takes a third of the memory of a key, and the garbage collector has nothing to look at.
    They are in many tables, by their last bits: one of a million would hold up the event loop for
    hundredths of a second whenever it grows, and once more when it is freed. The tables are dicts
    without values, since sets take up to twice the memory.

    Attributes:
        repeated: Those that came twice: of keys that records share, or of keys that collide.
    """

    def __init__(self) -> None:
        self.repeated: set[int] = set()
        self._tables: defaultdict[int, dict[int, None]] = defaultdict(dict)

    def note(self, hashes: Iterable[int]) -> None:
        """Take note of more of them."""
        tables = self._tables
        for one in hashes:
            noted = tables[one & _LAST_BITS]
            if one in noted:
                self.repeated.add(one)
            else:
                noted[one] = None

    def forget(self) -> Generator[None, None, None]:
        """Forget all that was noted, some at each step: no more will come."""
        while self._tables:
            self._tables.popitem()
            yield


class Repeats:
    """
    Records that have a key in common.

    Identical ones are sent once and share the verdict; where any differ, none is sent, since the
    service would keep whichever came first.
    """

    def __init__(
        self, product_code: str | None, record_at: Callable[[int], UsageRecord | None]
    ) -> None:
        """Compare records; *record_at* returns one that was noted, by its position."""
        self._product_code = product_code
        self._record_at = record_at
        self._leaders: dict[Key, int] = {}  # the position of the first record of each key
        self._conflicts: dict[Key, list[int]] = {}
        self.followers: dict[int, list[int]] = {}
        """Position of the record that is sent, to the positions of those identical to it."""

    def note(self, position: int, record: UsageRecord) -> bool:
        """Take note of a record; return whether one of its key was there before."""
        key = record.key(self._product_code)
        leader = self._leaders.setdefault(key, position)
        if leader == position:
            return False
        if key in self._conflicts:
            self._conflicts[key].append(position)
        elif self._same(self._record_at(leader), record):
            self.followers.setdefault(leader, []).append(position)
        else:
            identical = self.followers.get(leader, [])
            self._conflicts[key] = [leader, *identical, position]
        return True

    def conflicts(self) -> list[ConflictingRecordsError]:
        """Return an error for each key whose records differ, with all their positions."""
        return [ConflictingRecordsError(positions) for positions in self._conflicts.values()]

    def conflict(self, record: UsageRecord) -> ConflictingRecordsError | None:
        """Return the conflict that *record* is in."""
        if not self._conflicts:
            return None
        positions = self._conflicts.get(record.key(self._product_code))
        return None if positions is None else ConflictingRecordsError(positions)

    def forget(self, position: int, record: UsageRecord) -> list[int]:
        """Forget the key of a record that has its verdict; return the positions that share it."""
        key = record.key(self._product_code)
        if self._leaders.get(key) == position:
            del self._leaders[key]
            self._conflicts.pop(key, None)
        return self.followers.pop(position, [])

    def _same(self, one: UsageRecord | None, other: UsageRecord) -> bool:
        """Every member equal; the call's product code counts as a record's own."""
        if one is None:
            return False
        if (one.product_code or self._product_code) != (other.product_code or self._product_code):
            return False
        return (one.epoch, one.quantity, one.usage_allocations) == (
            other.epoch,
            other.quantity,
            other.usage_allocations,
        )
