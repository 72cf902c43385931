"""What a send would do, without doing it: how many records, keys and calls, and what is refused."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from math import ceil
from typing import Final

from rich.table import Table
from rich.text import Text

from marketplace_metering_async.aws import wire
from marketplace_metering_async.cli.input.line_numbers import LineNumbers
from marketplace_metering_async.cli.output.console import lasting, printable
from marketplace_metering_async.cli.output.result_fields import complaint
from marketplace_metering_async.clock import ClockBounds, SystemClock
from marketplace_metering_async.delivery.admission import Admission
from marketplace_metering_async.delivery.model import Lane
from marketplace_metering_async.errors import (
    BothSchemesError,
    ConflictingRecordsError,
    InvalidRecordError,
    MeteringError,
)
from marketplace_metering_async.limits import CALL_BURST, MAX_RECORDS_PER_REQUEST, REQUEST_BYTES
from marketplace_metering_async.records import UsageRecord

_LANES_SHOWN: Final = 5
_POSITION_BITS: Final = 40

Complain = Callable[[str], None]


class Plan:
    """
    Looks at records as the client does before it sends them, and counts.

    Of each key it keeps two numbers, so that a file of millions of records can be looked at.

    Attributes:
        lines: How many were read.
        refused: Lines that would be rejected unsent.
        repeated: Lines that say the same as an earlier one.
        held: Hours that would be held back.
    """

    def __init__(self, product_code: str | None, places: LineNumbers, complain: Complain) -> None:
        """*places* says where a record stands; *complain* gets what would be refused."""
        self.lines = 0
        self.refused = 0
        self.repeated = 0
        self.held = 0
        self._product_code = product_code
        self._places = places
        self._complain = complain
        self._admission = Admission(ClockBounds.at(SystemClock().now()), product_code=product_code)
        self._first_of_key: dict[int, int] = {}  # hash of a key, to hash of content and place
        self._alike: Counter[int] = Counter()  # how many more say the same, by hash of the key
        self._conflicts: dict[int, int] = {}  # hash of a key, to the first line that differs
        # Hashes of keys of licenses, by that of the key which their usage had by product code.
        self._licensed = defaultdict[int, list[int]](list)
        self._overlaps: dict[int, int] = {}  # hash of a key, to that of one under the other scheme
        self._lanes: Counter[Lane] = Counter()
        self._bytes: Counter[Lane] = Counter()

    def look_at(self, number: int, record: UsageRecord | MeteringError) -> MeteringError | None:
        """Count the record of line *number*; return why it would be refused, if so."""
        error = self._refusal(number, record)
        if error is not None:
            self.refused += 1
            self._complain(complaint(error, self._places(number), self._places))
        return error

    def later_refusal(self, key: int) -> ConflictingRecordsError | None:
        """Return why lines of a key (`key_of`) are refused that were fine when looked at, if so."""
        first = self._first_line(key)
        if (differs := self._conflicts.get(key)) is not None:
            return ConflictingRecordsError([first, differs])
        if (other := self._overlaps.get(key)) is not None:
            return BothSchemesError(sorted([first, self._first_line(other)]))
        return None

    def key_of(self, record: UsageRecord) -> int:
        """Return what stands for the key of a record."""
        return hash(record.key(self._product_code))

    def _first_line(self, key: int) -> int:
        return self._first_of_key[key] & (1 << _POSITION_BITS) - 1

    def _refusal(self, number: int, record: UsageRecord | MeteringError) -> MeteringError | None:
        self.lines += 1
        if isinstance(record, MeteringError):
            return record
        try:
            self._admission.admit(number, record)
        except InvalidRecordError as error:
            return error
        key = self.key_of(record)
        content = hash((record.epoch, record.quantity, record.usage_allocations))  # see is_same
        packed = content << _POSITION_BITS | number
        first = self._first_of_key.setdefault(key, packed)
        if first == packed:
            self._count(record, 1)
            self._note_schemes(record, key)
        elif key not in self._conflicts and key not in self._overlaps:
            if first >> _POSITION_BITS == packed >> _POSITION_BITS:
                self._alike[key] += 1
                self.repeated += 1
                return None
            self._conflicts[key] = number
            self._refuse_before(record, key)
        return self.later_refusal(key)

    def _note_schemes(self, record: UsageRecord, key: int) -> None:
        """Refuse what comes both by product code and by license; see SchemeOverlaps."""
        product = record.product_code or self._product_code
        if product is None or record.customer_aws_account_id is None:
            return
        licensed = record.license_arn is not None
        by_product = hash((None, product, *record.key()[2:]))
        if licensed:
            self._licensed[by_product].append(key)
        for other in [by_product] if licensed else self._licensed.get(by_product, ()):
            if other not in self._first_of_key or other in self._conflicts:
                continue
            if other not in self._overlaps:
                self._overlaps[other] = key
                self._refuse_before(record, other, licensed=not licensed)
            if key not in self._overlaps:
                self._overlaps[key] = other
                self._count(record, -1)

    def _refuse_before(
        self, record: UsageRecord, key: int, *, licensed: bool | None = None
    ) -> None:
        """Count the earlier lines of a key, one at least, as refused; *record* stands for them."""
        self._count(record, -1, licensed=licensed)
        self.refused += 1 + self._alike[key]
        self.repeated -= self._alike.pop(key, 0)

    def _count(self, record: UsageRecord, one: int, *, licensed: bool | None = None) -> None:
        code = record.product_code or self._product_code
        lane = Lane(code, licensed=record.license_arn is not None if licensed is None else licensed)
        self._lanes[lane] += one
        self._bytes[lane] += one * wire.record_size(record.to_wire())

    @property
    def keys(self) -> int:
        """How many records would be sent."""
        return self._lanes.total()

    @property
    def calls(self) -> int:
        """How many requests it takes, if nothing has to be sent twice."""
        return sum(
            max(
                ceil(size / MAX_RECORDS_PER_REQUEST),
                ceil(self._bytes[lane] / (REQUEST_BYTES - 1)),
            )
            for lane, size in self._lanes.items()
        )

    def table(self, calls_per_second: float, target: object = None) -> Table:
        """Return the plan for people to read."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for name, text in self._rows(calls_per_second):
            table.add_row(name, Text(text))
        if target is not None:
            table.add_row("to", Text(printable(str(target))))
        return table

    def _rows(self, calls_per_second: float) -> Iterator[tuple[str, str]]:
        yield "lines read", f"{self.lines:,}"
        yield "would be refused", f"{self.refused:,}"
        if self.repeated:
            yield "say the same again", f"{self.repeated:,}"
        if self.held:
            yield "hours held back", f"{self.held:,}"
        yield "records to send", f"{self.keys:,}"
        lanes = [(lane, size) for lane, size in self._lanes.most_common() if size > 0]
        for lane, size in lanes[:_LANES_SHOWN] if len(lanes) > 1 else ():
            yield f"  {_name(lane)}", f"{size:,}"
        if len(lanes) > _LANES_SHOWN:
            yield "  …", f"{len(lanes) - _LANES_SHOWN:,} more products"
        yield "calls", f"{self.calls:,}"
        if calls_per_second:
            seconds = max(0.0, self.calls - CALL_BURST) / calls_per_second
            yield "time", f"{lasting(seconds)} at {calls_per_second:g} calls a second"


def _name(lane: Lane) -> str:
    if not lane.licensed:
        return lane.product_code or ""
    return f"licenses of {lane.product_code}" if lane.product_code else "licenses"
