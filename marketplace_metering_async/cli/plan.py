"""What a send would do, without doing it: how many records, keys and calls, and what is refused."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from math import ceil

from attrs import Factory, define
from rich.table import Table

from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.limits import CALL_BURST, MAX_RECORDS_PER_REQUEST
from marketplace_metering_async.planning import Lane, chunk_key
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.validation import Admission, Repeats

_SHOWN = 10


@define
class Plan:
    """
    The sum of what is looked at.

    Attributes:
        records: Lines that say a record.
        refused: How many would be rejected unsent.
        reasons: The first of the reasons.
        lanes: Records to send by what shares requests.
        held: Hours that are not over.
    """

    records: int = 0
    refused: int = 0
    reasons: list[str] = Factory(list)
    lanes: Counter[Lane] = Factory(Counter)
    held: int = 0

    def refuse(self, reason: object) -> None:
        """Note that a line or record would be rejected."""
        self.refused += 1
        if len(self.reasons) < _SHOWN:
            self.reasons.append(str(reason))

    @property
    def keys(self) -> int:
        """How many records would be sent."""
        return self.lanes.total()

    @property
    def calls(self) -> int:
        """How many requests it takes, if nothing has to be sent twice."""
        return sum(ceil(size / MAX_RECORDS_PER_REQUEST) for size in self.lanes.values())

    def table(self, calls_per_second: float) -> Table:
        """Return the plan for people to read."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_row("records read", f"{self.records:,}")
        table.add_row("records to send", f"{self.keys:,}")
        if self.held:
            table.add_row("hours held back", f"{self.held:,}")
        table.add_row("would be refused", f"{self.refused:,}")
        for lane, size in self.lanes.most_common(_SHOWN):
            name = lane.product_code or "licenses without a product code"
            table.add_row(f"  {name}", f"{size:,}")
        table.add_row("calls", f"{self.calls:,}")
        if calls_per_second:
            seconds = max(0.0, self.calls - CALL_BURST) / calls_per_second
            table.add_row("time at the quota", f"{seconds:,.0f} s")
        return table


def plan_of(records: Iterable[UsageRecord | InvalidRecordError], product_code: str | None) -> Plan:
    """Return the plan for *records*, by the rules that the client goes by before it sends."""
    plan = Plan()
    admission = Admission(datetime.now(UTC), product_code=product_code)
    repeats = Repeats(product_code)
    leaders: dict[int, Lane] = {}
    for position, record in enumerate(records):
        if isinstance(record, InvalidRecordError):
            plan.refuse(record)
            continue
        plan.records += 1
        try:
            admission.admit(position, record)
        except InvalidRecordError as error:
            plan.refuse(error)
            continue
        if repeats.note(position, record):
            leaders[position] = chunk_key(record, product_code)
    for conflict in repeats.conflicts():
        for position in conflict.positions:
            leaders.pop(position, None)
            plan.refuse(conflict)
    plan.lanes = Counter(leaders.values())
    return plan
