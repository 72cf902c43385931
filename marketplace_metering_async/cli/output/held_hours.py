"""Hours that are held back, listed for people."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from marketplace_metering_async.cli.input.bad_lines import BlockedHour, CheckedHour
from marketplace_metering_async.cli.output.console import Console, are, printable
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.quantities import millionths, of_millionths
from marketplace_metering_async.records import UsageRecord

_MOST_ROWS: Final = 20


def list_held(outcomes: Sequence[CheckedHour], console: Console) -> None:
    """List the held hours among *outcomes* by hour, product and dimension; nothing if none is."""
    blocked = [outcome for outcome in outcomes if isinstance(outcome, BlockedHour)]
    early = [outcome.record for outcome in outcomes if isinstance(outcome, HeldHour)]
    anywhere = next((hour.place for hour in blocked if hour.anywhere), None)
    print_blocked(len(blocked), anywhere, console)
    _list([hour.record for hour in blocked], console)
    if early:
        console.print(
            f"[cyan]{are(len(early), 'hour')} not over and held back,[/] since the first record of "
            "an hour would lock it at a part of its sum. Send all its usage again once it is over, "
            "or use --include-current-hour."
        )
    _list(early, console)


def print_blocked(hours: int, anywhere: str | None, console: Console) -> None:
    """Say that *hours* may lack a bad line; *anywhere* is the place of one that names no hour."""
    if not hours:
        return
    console.print(
        f"[cyan]{are(hours, 'hour')} held back.[/] Fix the lines that are refused, then send all "
        "of the input again: without one of them an hour might be locked at a part of its sum."
    )
    if anywhere is not None:
        console.complain(f"Fix {anywhere} first: it may belong to any hour.")


def _list(records: Iterable[UsageRecord], console: Console) -> None:
    customers: Counter[tuple[str, str, str]] = Counter()
    units: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        hour = f"{record.timestamp:%Y-%m-%dT%H:%MZ}"
        row = (hour, printable(record.product_code or ""), printable(record.dimension))
        customers[row] += 1
        units[row] += millionths(record.quantity)
    if not customers:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("hour", "product", "dimension"):
        table.add_column(name)
    for name in ("customers", "quantity so far"):
        table.add_column(name, justify="right")
    for row in sorted(customers)[:_MOST_ROWS]:
        cells = [*row, f"{customers[row]:,}", f"{of_millionths(units[row]):,}"]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    if (more := len(customers) - _MOST_ROWS) > 0:
        console.print(f"… and {more:,} more")
