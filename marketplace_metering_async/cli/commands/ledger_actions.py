"""What the commands of the ledger do, but for its status."""

import csv
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from attrs import asdict

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.commands.job import SendJob
from marketplace_metering_async.cli.commands.kept_lines import KeptLines
from marketplace_metering_async.cli.commands.ledger_import import (
    FIX_AND_IMPORT,
    ImportedLine,
    ImportedLines,
    Naming,
    import_lines,
    require_names,
)
from marketplace_metering_async.cli.commands.ledger_status import (
    at_minute,
    exit_of,
    print_unsettled,
)
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.lines import Source
from marketplace_metering_async.cli.input.reader import InputReader
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.options import Settings, open_client
from marketplace_metering_async.cli.output.console import (
    Console,
    LogFormat,
    counted,
    error_text,
    print_json,
    printable,
)
from marketplace_metering_async.cli.output.held_hours import print_blocked
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import Complaints
from marketplace_metering_async.cli.output.result_fields import FIX_AND_SEND_ALL
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.cli.output.steps import step
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import (
    Event,
    RelayBlocked,
    RelayWorking,
    UsageEndedUnmetered,
    WarningIssued,
)
from marketplace_metering_async.ledger import HistoryEntry, HourState, RelayReport, UsageLedger
from marketplace_metering_async.ledger.model import ENDED

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so would be run by a spreadsheet."""
_CLOSES: Final = "no more is sent; what is on its way to the service is awaited."


def open_ledger(url: str, console: Console, **settings: Any) -> UsageLedger:  # noqa: ANN401
    """Return the ledger at *url*, which reports to *console*."""

    def report(event: Event) -> None:
        match event:
            case WarningIssued(text=text):
                console.complain(text)
            case UsageEndedUnmetered(state=state, records=records):
                console.complain(
                    f"{counted(records, 'record')} ended as {state}: `ledger explain {state}` says "
                    "what to do"
                )
            case RelayWorking() if console.log_as.format is LogFormat.JSON:
                console.note("info", step(event), event="RelayWorking", **asdict(event))
            case RelayWorking():
                console.tell("RelayWorking", step(event), asdict(event))
            case RelayBlocked(error=error):
                console.complain(f"the relay is blocked, and goes on trying: {error_text(error)}")
                if event.units and event.first_loss_at is not None:
                    lost = at_minute(event.first_loss_at, SystemClock().now())
                    console.complain(
                        f"{event.units:,} units are unsent; the first is lost at {lost}"
                    )

    return UsageLedger.open(url, observer=report, **settings)


async def create(url: str, console: Console) -> Exit:
    """Make a ledger, or bring its schema up to date."""
    async with open_ledger(url, console):
        console.print("the ledger is there, with the schema of this version")
    return Exit.OK


async def add(url: str, members: Mapping[str, Any], console: Console) -> Exit:
    """Add one piece of usage."""
    async with open_ledger(url, console) as ledger:
        added = await ledger.add_usage(**members)
    print_json(
        {
            "hour": added.hour,
            "late": added.late,
            "repeated": added.repeated,
            "ended": added.ended,
        }
    )
    return Exit.OK if added.ended is None else Exit.REJECTED


async def import_files(
    url: str,
    sources: Sequence[Source],
    product_code: str | None,
    naming: Naming,
    console: Console,
) -> Exit:
    """Add every line as it is read, and tell of each."""
    require_names(sources, naming)
    async with open_ledger(url, console) as ledger:
        whole = await ledger.whole_dimensions()
        entries = ImportedLines(product_code, naming, FIX_AND_IMPORT, whole)

        async def blocks() -> AsyncIterator[list[ImportedLine]]:
            async for block in InputReader(sources, console.complain).blocks():
                yield [entries.of(line) for line in block]

        code = await _import(ledger, blocks(), console, changed=naming.changed)
        status = await ledger.status()
    if status.next_seal_at is not None:
        when = at_minute(status.next_seal_at, SystemClock().now())
        console.print(f"The next hours are sealed at {when}; `ledger relay` meters them.")
    return code


async def _import(
    ledger: UsageLedger,
    blocks: AsyncIterator[Sequence[ImportedLine]],
    console: Console,
    *,
    changed: bool = False,
) -> Exit:
    complain = Complaints(console)
    counts: Counter[str] = Counter()
    codes = {Exit.OK}
    failures: list[OSError] = []
    lines = ResultWriter(console, failures.append)
    async with ProgressBar(console, "importing", unit="lines") as bar:
        try:
            async for entry in import_lines(ledger, blocks, changed=changed):
                members = entry.result or {}
                counts[str(members["status"])] += 1
                codes.add(entry.code)
                if "message" in members:
                    complain(members["message"])
                lines.write({"file": entry.file, "line": entry.number, **members})
                bar.advance()
                await lines.room.wait()
        except UsageFileError as error:
            console.complain(error)
            codes.add(Exit.USAGE)
        await lines.close()
    complain.end()
    console.print(", ".join(f"{n:,} {status}" for status, n in counts.items()) or "no lines")
    return exit_codes.most_severe(codes | ({Exit.USAGE} if failures else set()))


async def take_over(url: str, old: str, console: Console) -> Exit:
    """Move a SQLite ledger into PostgreSQL."""
    async with open_ledger(url, console) as ledger:
        hours = await ledger.take_over(old)
    console.print(f"{hours:,} hours are moved; the old ledger takes no more usage")
    return Exit.OK


async def relay(url: str, settings: Settings, console: Console, *, once: bool) -> Exit:
    """Relay once, or until a signal; a copy that nobody has adopted is left alone."""
    async with open_ledger(url, console, create=False, region_name=settings.region) as ledger:
        if (await ledger.status()).is_unconfirmed_copy:
            return Exit.COPY  # opening has said so
        pacer = ledger.pacer(settings.calls_per_second) if settings.calls_per_second else None
        async with settings.client(console, pacer=pacer) as client:
            endpoint = await open_client(client, console)
            with Interrupts(console, _CLOSES, timeout=settings.timeout) as interrupts:
                if not once:
                    where = printable(endpoint.url)
                    console.print(f"relaying to {where}; Ctrl-C ends it", markup=False)
                    await ledger.relay(client, stop=interrupts.stopped)
                    return Exit.OK if interrupts.is_of_service else Exit.INTERRUPTED
                report = await ledger.relay_once(client, stop=interrupts.stopped)
        status = await ledger.status()
    codes = {_print_report(report, console), print_unsettled(status, SystemClock().now(), console)}
    return exit_codes.most_severe(codes | ({Exit.INTERRUPTED} if interrupts.happened else set()))


def _print_report(report: RelayReport, console: Console) -> Exit:
    print_json(
        {
            "sealed": report.sealed,
            "metered": report.metered,
            "units": report.units,
            "returned": report.returned,
            "ended": report.ended,
        }
    )
    if report.stopped_by is not None:
        console.complain(error_text(report.stopped_by))
        return Exit.ACCOUNT
    if report.returned:
        return Exit.UNDELIVERED
    return Exit.REJECTED if report.ended else Exit.OK


async def send_through(job: SendJob, url: str, console: Console) -> Exit:
    """`send --ledger`: import the files, then meter all hours that are over."""
    require_names(job.sources, Naming())
    settings = job.settings
    async with open_ledger(url, console, region_name=settings.region, grace=0) as ledger:
        pacer = ledger.pacer(settings.calls_per_second) if settings.calls_per_second else None
        async with settings.client(console, pacer=pacer) as client:
            await open_client(client, console)  # before anything is stored
            codes = {await _import_whole(ledger, job, console)}
            with Interrupts(console, _CLOSES, timeout=settings.timeout) as interrupts:
                report = await ledger.relay_once(client, stop=interrupts.stopped)
            codes.add(_print_report(report, console))
            if interrupts.happened:
                codes.add(Exit.INTERRUPTED)
        status = await ledger.status()
    codes |= {print_unsettled(status, SystemClock().now(), console), exit_of(status)}
    return exit_codes.most_severe(codes)


async def _import_whole(ledger: UsageLedger, job: SendJob, console: Console) -> Exit:
    """Add all lines but those of hours that a bad line may belong to, once all are read."""
    whole = await ledger.whole_dimensions()
    entries = ImportedLines(job.product_code, Naming(), FIX_AND_SEND_ALL, whole)
    with KeptLines(job.product_code) as kept:
        async with ProgressBar(console, "reading", total=job.size, unit="lines") as bar:
            async for block in InputReader(job.sources, console.complain).blocks():
                for line in block:
                    kept.add(line, entries.of(line))
                    bar.advance(line.size)
        code = await _import(ledger, kept.blocks(), console)
        print_blocked(len(kept.held), kept.anywhere, console)
    return code


async def history(
    url: str, where: Mapping[str, Any], names: Sequence[str], console: Console, *, as_csv: bool
) -> Exit:
    """Print the story of every hour to stdout."""
    states = states_of(names, *HourState)
    async with open_ledger(url, console, create=False) as ledger:
        table = csv.writer(sys.stdout, lineterminator="\n") if as_csv else None
        if table is not None:
            table.writerow(_COLUMNS)
        async for entry in ledger.history(states=states, **where):
            members = asdict(entry)
            if table is None:
                print_json(members)
            else:
                table.writerow([_cell(members, entry, column) for column in _COLUMNS])
    sys.stdout.flush()
    return Exit.OK


_COLUMNS: Final = (
    "product_code",
    "customer_aws_account_id",
    "customer_identifier",
    "license_arn",
    "dimension",
    "hour",
    "state",
    "quantity",
    "events",
    "carried",
    "timestamp",
    "sealed_at",
    "region_name",
    "digest",
    "attempts",
    "resolutions",
    "settled_at",
    "metering_record_id",
    "reason",
    "name",
)


def _cell(members: Mapping[str, Any], entry: HistoryEntry, column: str) -> object:
    value = members[column]
    if column in ("carried", "attempts", "resolutions"):
        return json.dumps(value, default=str)
    if isinstance(getattr(entry, column), datetime):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def states_of(names: Sequence[str], *known: HourState) -> list[HourState]:
    """
    Return the states that are named.

    Raises:
        MisuseError: one is none of those *known*.
    """
    if unknown := [name for name in names if name not in known]:
        raise MisuseError(f"--state: expected one of {', '.join(known)}; got {unknown[0]!r}")
    return [HourState(name) for name in names]


async def retry(url: str, names: Sequence[str], console: Console) -> Exit:
    """Send ended records again."""
    states = states_of(names, *ENDED, HourState.FROZEN)
    async with open_ledger(url, console, create=False) as ledger:
        try:
            count = await ledger.retry(*states)
        except ValueError as error:
            raise MisuseError(f"--state: {error}") from error
    console.print(f"{count:,} are on their way again")
    return Exit.OK


async def prune(url: str, before: datetime, console: Console) -> Exit:
    """Remove what was settled long ago."""
    async with open_ledger(url, console, create=False) as ledger:
        try:
            count = await ledger.prune(before)
        except ValueError as error:
            raise MisuseError(f"--days: {error}") from error
    console.print(f"{count:,} hours are removed; their sums are kept")
    return Exit.OK


async def backup(url: str, file: str, console: Console) -> Exit:
    """Copy a ledger while it is in use."""
    async with open_ledger(url, console, create=False) as ledger:
        await ledger.back_up(file)
    console.print(f"{file} has all that was stored", markup=False)
    return Exit.OK


async def adopt_copy(url: str, console: Console) -> Exit:
    """Go on with a copy."""
    async with open_ledger(url, console, create=False) as ledger:
        if not (await ledger.status()).is_unconfirmed_copy:
            console.print("this ledger is no copy, or was adopted before: nothing is changed")
            return Exit.OK
        await ledger.adopt_copy()
    console.print(
        "adopted: new usage is metered from now on; hours that may be metered already end as "
        "unconfirmed when they are due"
    )
    return Exit.OK


async def close_customer(
    url: str, who: Mapping[str, Any], console: Console, *, reopen: bool
) -> Exit:
    """Close a customer's hours, or take usage again."""
    async with open_ledger(url, console, create=False) as ledger:
        if reopen:
            await ledger.reopen_customer(**who)
            console.print("usage of the customer is taken again")
        else:
            hours = await ledger.close_customer(**who)
            console.print(
                f"{hours:,} hours are on their way; relay now"
                if hours
                else "nothing of the customer waits; usage from now on ends as subscription_over"
            )
    return Exit.OK
