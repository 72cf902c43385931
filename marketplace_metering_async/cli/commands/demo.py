"""`demo`: the whole loop on this machine: meter through faults, then compare to the last unit."""

from collections import Counter
from datetime import datetime, timedelta
from random import Random
from typing import Final

from attrs import frozen
from rich.table import Table
from rich.text import Text

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output.console import Console, print_json_if_piped
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import STYLES
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import Event, Isolated, Retrying, Settled, Throttled
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import BatchMeterUsageResult, RecordStatus
from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox

_RECORDS: Final = 12_000
_CALLS_PER_SECOND: Final = 100.0
_PRODUCT: Final = "demo-product"
_DIMENSIONS: Final = ("api-calls", "gigabytes", "seats", "build-minutes")
_CUSTOMERS: Final = 600
_STRANGER: Final = "999999999999"
_LEAVER: Final = "888888888888"
_CLOSES: Final = timedelta(hours=5, minutes=50)
"""After the month's end: soon the sandbox, as the service, takes no more of the last month."""

_FAULTS: Final = {
    FaultKind.THROTTLE: ("a throttle", 0.01),
    FaultKind.ERROR_500: ("500 of the service", 0.02),
    FaultKind.ERROR_503: ("503 of a load balancer", 0.01),
    FaultKind.RESET_BEFORE: ("request lost", 0.01),
    FaultKind.RESET_AFTER: ("answer lost", 0.01),
    FaultKind.UNPROCESSED: ("records left unprocessed", 0.04),
}
_MEANS: Final = {
    RecordStatus.SUCCESS: "metered",
    RecordStatus.DUPLICATE_RECORD: "metered by an earlier attempt",
    RecordStatus.CUSTOMER_NOT_SUBSCRIBED: "not metered: the customer has left",
    RecordStatus.REJECTED: "not metered: no such customer, or dimension",
    RecordStatus.UNCONFIRMED: "an answer was lost: send it again",
    RecordStatus.UNPROCESSED: "not metered: send it again",
}


@frozen
class _DemoUsage:
    """
    What is metered.

    Attributes:
        records: All of them.
        customers: Whom the sandbox knows, and whether they are subscribed.
        expected: What the book must hold in the end: (customer, dimension, hour) to units.
    """

    records: list[UsageRecord]
    customers: dict[str, bool]
    expected: dict[tuple[str, str, datetime], int]

    @property
    def units(self) -> int:
        """The sum that the book must hold."""
        return sum(self.expected.values())


def usage(seed: int, now: datetime) -> _DemoUsage:
    """Return the seeded usage of some hundred customers over the hours before *now*."""
    random = Random(seed)
    hours = _hours(now)
    customers = [f"{100_000_000_000 + number:012d}" for number in range(_CUSTOMERS)]
    wrong = [(_STRANGER, d, h) for d in _DIMENSIONS for h in hours[:5]]
    wrong += [(_LEAVER, d, h) for d in _DIMENSIONS for h in hours[:5]]
    wrong += [(customers[n], "api-cals", hours[0]) for n in range(6)]
    keys = [(c, d, h) for c in customers for d in _DIMENSIONS for h in hours]
    good = random.sample(keys, _RECORDS - len(wrong))
    expected = {key: random.randint(1, 5_000) for key in good}
    records = [_record(*key, quantity) for key, quantity in expected.items()]
    records += [_record(*key, 1) for key in wrong]
    random.shuffle(records)
    return _DemoUsage(records, {**dict.fromkeys(customers, True), _LEAVER: False}, expected)


def _hours(now: datetime) -> list[datetime]:
    """The last full hours that the service takes: five at least, and twenty at most."""
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    month = this_hour.replace(day=1, hour=0)
    hours = [this_hour - timedelta(hours=back) for back in range(1, 21)]
    return [hour for hour in hours if hour >= month or now < month + _CLOSES]


def _record(customer: str, dimension: str, hour: datetime, quantity: int) -> UsageRecord:
    return UsageRecord(
        timestamp=hour, dimension=dimension, quantity=quantity, customer_aws_account_id=customer
    )


class _Witness:
    """Counts what happens on the way, and moves the bar."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self.retries = 0
        self.isolated = 0
        self.searches = 0
        self.search_calls = 0

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        match event:
            case Settled(counts=counts):
                for _ in range(sum(counts.values())):
                    self._bar.advance()
                self._bar.trouble = ""
            case Retrying(error=error):
                self.retries += 1
                self._bar.trouble = f"trying again: {error}"
            case Throttled():
                self._bar.trouble = "throttled; slowing down"
            case Isolated(refused=refused, calls=calls):
                self.searches += 1
                self.isolated += refused
                self.search_calls += calls


async def run(seed: int, console: Console) -> Exit:
    """Run the demo and return 0 if the book is equal to the input."""
    given = usage(seed, SystemClock().now())
    faults = [Fault(kind=kind, probability=share) for kind, (_, share) in _FAULTS.items()]
    sandbox = Sandbox(calls_per_second=_CALLS_PER_SECOND, faults=faults, seed=seed)
    sandbox.declare_product(_PRODUCT, dimensions=_DIMENSIONS, customers=given.customers)
    bar = ProgressBar(console, "metering", total=_RECORDS, stays=True)
    witness = _Witness(bar)
    async with sandbox, _client(sandbox, witness, seed) as client:
        console.print(
            f"[bold]{len(given.records):,} records[/] of {_CUSTOMERS:,} customers go to a sandbox "
            f"of AWS Marketplace Metering on this machine:\n{sandbox.url}, "
            f"{_CALLS_PER_SECOND:g} calls a second, faults on (seed {seed}).\n"
        )
        async with bar:
            result = await client.batch_meter_usage(given.records, product_code=_PRODUCT)
    console.print(_verdicts(result))
    console.print(_way(result, witness))
    console.print(_hits(sandbox))
    return _compare(sandbox, given, result, bar.seconds, console)


def _client(sandbox: Sandbox, witness: _Witness, seed: int) -> MarketplaceMeteringClient:
    return MarketplaceMeteringClient(
        endpoint_url=sandbox.url,
        region_name="us-east-1",
        aws_access_key_id="demo",
        aws_secret_access_key="demo",  # noqa: S106 - the sandbox's
        calls_per_second=_CALLS_PER_SECOND,
        observer=witness,
        random=Random(seed),
    )


def _table(title: str, unit: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title, width=24)
    table.add_column(unit, justify="right", width=8)
    table.add_column("", style="dim")
    return table


def _verdicts(result: BatchMeterUsageResult) -> Table:
    table = _table("verdict", "records")
    for status, number in result.counts.items():
        table.add_row(Text(status, style=STYLES[status]), f"{number:,}", _MEANS[status])
    return table


def _way(result: BatchMeterUsageResult, witness: _Witness) -> Table:
    table = _table("\non the way", "\n")
    full = -(-_RECORDS // 25)
    table.add_row("calls", f"{result.calls:,}", f"{full:,} would do if nothing went wrong")
    table.add_row("throttled", f"{result.throttled:,}", "slowed down, and sent again")
    table.add_row("retries", f"{witness.retries:,}", "only of what was still open")
    searched = f"from {witness.searches:,} refused requests, with {witness.search_calls:,} calls"
    table.add_row("isolated", f"{witness.isolated:,}", searched)
    return table


def _hits(sandbox: Sandbox) -> Table:
    table = _table("\nfaults of the sandbox", "\n")
    for kind, (name, share) in _FAULTS.items():
        table.add_row(name, f"{sandbox.hits[kind]:,}", f"{share:.0%} of the calls")
    return table


def _compare(
    sandbox: Sandbox,
    given: _DemoUsage,
    result: BatchMeterUsageResult,
    seconds: float,
    console: Console,
) -> Exit:
    differences = sandbox.book.differences(given.expected)
    counts: Counter[str] = Counter({status.value: n for status, n in result.counts.items()})
    print_json_if_piped(
        {
            "equal": not differences,
            "records": len(given.records),
            "metered": len(sandbox.book),
            "units": sum(sandbox.book.totals().values()),
            "calls": result.calls,
            "verdicts": dict(counts),
            "seconds": round(seconds, 1),
        }
    )
    if not differences:
        console.print(
            f"\n[bold green]Equal to the last unit:[/] book and valid input both hold "
            f"{given.units:,} units in {len(given.expected):,} records, after {seconds:.1f} s."
        )
        return Exit.OK
    for difference in differences[:20]:
        console.complain(difference)
    console.print(f"[bold red]Not equal:[/] {len(differences):,} differences.")
    return Exit.REJECTED
