"""`demo`: the whole loop on this machine: meter through faults, then compare to the last unit."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from marketplace_metering_async.cli import output
from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.events import CallEnded, Event, Isolated, Retrying, Settled
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.sandbox import Fault, Kind, Sandbox

_RECORDS: Final = 12_000
_CALLS_PER_SECOND: Final = 100.0
_PRODUCT: Final = "demo-product"
_DIMENSIONS: Final = ("api-calls", "gigabytes", "seats")
_STRANGER: Final = "999999999999"
_LEAVER: Final = "888888888888"


class _Watcher:
    """Counts what happens on the way and moves the bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("metering", total=_RECORDS)
        self.retries = 0
        self.isolated = 0
        self.searches = 0
        self.errors: Counter[str] = Counter()

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        match event:
            case Settled(counts=counts):
                self._progress.advance(self._task, sum(counts.values()))
            case CallEnded(code=str(code)):
                self.errors[code] += 1
            case Retrying():
                self.retries += 1
            case Isolated(offenders=offenders):
                self.searches += 1
                self.isolated += offenders


def usage(seed: int, now: datetime) -> list[UsageRecord]:
    """Return the seeded usage of some hundred customers over the hours before *now*."""
    random = Random(seed)
    last_hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    closed = now >= month + timedelta(hours=5, minutes=30)
    hours = [last_hour - timedelta(hours=back) for back in range(20)]
    hours = [hour for hour in hours if hour >= month or not closed] or [now.replace(microsecond=0)]
    customers = [f"{100_000_000_000 + number:012d}" for number in range(600)]
    keys = {
        (c, d, h): random.randint(1, 5_000) for c in customers for d in _DIMENSIONS for h in hours
    }
    chosen = random.sample(sorted(keys), min(_RECORDS - 60, len(keys)))
    records = [_record(c, d, h, keys[c, d, h]) for c, d, h in chosen]
    records += [_record(_STRANGER, f"{d}", h, 1) for d in _DIMENSIONS for h in hours[:10]]
    records += [_record(_LEAVER, d, h, 1) for d in _DIMENSIONS for h in hours[:8]]
    records += [_record(customers[n], "misspelt", hours[0], 1) for n in range(6)]
    random.shuffle(records)
    return records


def _record(customer: str, dimension: str, hour: datetime, quantity: int) -> UsageRecord:
    return UsageRecord(
        timestamp=hour, dimension=dimension, quantity=quantity, customer_aws_account_id=customer
    )


def _faults() -> list[Fault]:
    return [
        Fault(kind=Kind.THROTTLE, share=0.01),
        Fault(kind=Kind.ERROR_500, share=0.02),
        Fault(kind=Kind.ERROR_503, share=0.01),
        Fault(kind=Kind.RESET_BEFORE, share=0.01),
        Fault(kind=Kind.RESET_AFTER, share=0.01),
        Fault(kind=Kind.UNPROCESSED, share=0.04),
    ]


async def run(seed: int, console: Console) -> Exit:
    """Run the demo and return 0 if the book is equal to the input."""
    records = usage(seed, datetime.now(UTC))
    sandbox = Sandbox(calls_per_second=_CALLS_PER_SECOND, faults=_faults(), seed=seed)
    known = {r.customer_aws_account_id or "": True for r in records}
    known[_LEAVER] = False
    del known[_STRANGER]
    sandbox.declare_product(_PRODUCT, dimensions=_DIMENSIONS, customers=known)
    progress = Progress(
        TextColumn("[bold]metering"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    watcher = _Watcher(progress)
    console.print(
        f"A sandbox of AWS Marketplace Metering on this machine: {_CALLS_PER_SECOND:g} calls a "
        f"second, and faults on.\n{len(records):,} records of {len(known):,} customers go to it; "
        "some lie about the customer or the dimension."
    )
    started = time.monotonic()
    async with sandbox, _client(sandbox, watcher, seed) as client:
        with progress:
            result = await client.batch_meter_usage(records, product_code=_PRODUCT)
    seconds = time.monotonic() - started
    verdicts: Counter[str] = Counter({str(s): n for s, n in result.counts.items()})
    console.print(output.summary(verdicts, seconds=seconds))
    console.print(_way(result.calls, result.throttled, watcher, sandbox))
    wanted = {
        (r.customer_aws_account_id or "", r.dimension, r.timestamp): r.quantity
        for r in records
        if known.get(r.customer_aws_account_id or "") and r.dimension in _DIMENSIONS
    }
    return _compare(sandbox, wanted, console)


def _client(sandbox: Sandbox, watcher: _Watcher, seed: int) -> MarketplaceMeteringClient:
    return MarketplaceMeteringClient(
        endpoint_url=sandbox.url,
        region_name="us-east-1",
        aws_access_key_id="demo",
        aws_secret_access_key="demo",  # noqa: S106 - the sandbox's
        calls_per_second=_CALLS_PER_SECOND,
        observer=watcher,
        random=Random(seed),
    )


def _way(calls: int, throttled: int, watcher: _Watcher, sandbox: Sandbox) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("on the way")
    table.add_column("number", justify="right")
    table.add_row("calls", f"{calls:,}")
    table.add_row("throttled", f"{throttled:,}")
    table.add_row("retries after a fault", f"{watcher.retries:,}")
    table.add_row("searches for a culprit", f"{watcher.searches:,}")
    table.add_row("records isolated", f"{watcher.isolated:,}")
    for kind, number in sorted(sandbox.struck.items()):
        table.add_row(f"  fault: {kind}", f"{number:,}")
    return table


def _compare(
    sandbox: Sandbox, wanted: dict[tuple[str, str, datetime], int], console: Console
) -> Exit:
    differences = sandbox.book.differences(wanted)
    units = sum(wanted.values())
    if not differences:
        console.print(
            f"[bold green]Equal to the last unit:[/] the sandbox's book and the good records of "
            f"the input both hold {units:,} units in {len(wanted):,} records."
        )
        return Exit.METERED
    for line in differences[:20]:
        output.complain(line)
    console.print(f"[bold red]Not equal:[/] {len(differences):,} differences.")
    return Exit.REJECTED
