"""Hours that are not over, listed for people."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.table import Table
from rich.text import Text

from marketplace_metering_async.cli.output import People, printable
from marketplace_metering_async.coalescing import HeldHour, Outcome

_MOST_ROWS: Final = 20


def list_held(outcomes: Iterable[Outcome], people: People) -> None:
    """List the held hours among *outcomes* by hour, product and dimension; nothing if none is."""
    customers: Counter[tuple[str, str, str]] = Counter()
    quantities: Counter[tuple[str, str, str]] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, HeldHour):
            record = outcome.record
            hour = f"{record.timestamp:%Y-%m-%dT%H:%MZ}"
            row = (hour, record.product_code or "", printable(record.dimension))
            customers[row] += 1
            quantities[row] += record.quantity
    if not customers:
        return
    people.print(
        f"[cyan]{customers.total():,} hours are not over and are held back,[/] since their first "
        "record would lock them at a part of their sum. Send all their usage again once they are "
        "over, or use --include-current-hour."
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("hour", "product", "dimension"):
        table.add_column(name)
    for name in ("customers", "quantity so far"):
        table.add_column(name, justify="right")
    for row in sorted(customers)[:_MOST_ROWS]:
        cells = [*row, f"{customers[row]:,}", f"{quantities[row]:,}"]
        table.add_row(*(Text(cell) for cell in cells))
    people.print(table)
    if (more := len(customers) - _MOST_ROWS) > 0:
        people.print(f"… and {more:,} more")
