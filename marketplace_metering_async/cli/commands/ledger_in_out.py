"""Into a ledger and out of it: `ledger import`, `ledger relay` and `send --ledger`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.commands.job import SendJob, TemporaryLines
from marketplace_metering_async.cli.commands.ledger_import import (
    FIX_AND_IMPORT,
    ImportedLine,
    ImportedLines,
    KeptLines,
    Naming,
    import_lines,
    require_names,
)
from marketplace_metering_async.cli.commands.ledger_status import exit_of, print_unsettled
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.lines import Source
from marketplace_metering_async.cli.input.reader import InputReader
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.ledger_options import open_ledger
from marketplace_metering_async.cli.options import Settings, open_client
from marketplace_metering_async.cli.output.console import (
    Console,
    at_minute,
    error_text,
    print_json,
    unwritten,
)
from marketplace_metering_async.cli.output.held_hours import print_blocked
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import Report
from marketplace_metering_async.cli.output.result_fields import FIX_AND_SEND_ALL
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import Event, SendingStopped, WarningIssued, what_stops
from marketplace_metering_async.ledger import RelayReport, UsageLedger

_CLOSES: Final = "no more is sent; what is on its way to the service is awaited."


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
    bar = ProgressBar(console, "importing", unit="lines")
    async with Report(console, bar, ResultWriter(console)) as report:
        try:
            async for file, number, fate in import_lines(ledger, blocks, changed=changed):
                if "message" in fate.members:
                    report.complain(fate.members["message"])
                report.write(file, number, fate)
                bar.advance()
                await report.room()
        except UsageFileError as error:
            console.complain(error)
            report.note(Exit.USAGE)
    if (failure := report.lines.failure) is not None:
        console.complain(f"{unwritten(failure)}; the lines are in the ledger all the same")
        report.note(Exit.USAGE)
    said = (f"{number:,} {status}" for status, number in report.verdicts.items())
    console.print(", ".join(said) or "no lines")
    return report.code


async def relay(url: str, settings: Settings, console: Console, *, once: bool) -> Exit:
    """Relay once, or until a signal; a copy that nobody has adopted is left alone."""
    async with open_ledger(url, console, create=False, region_name=settings.region) as ledger:
        if (await ledger.status()).is_unconfirmed_copy:
            return Exit.COPY  # opening has said so
        async with _relaying(ledger, settings, console) as (client, refused):
            with Interrupts(console, _CLOSES, timeout=settings.timeout) as interrupts:
                if not once:
                    where = (await client.endpoint()).url
                    console.print(f"relaying to {where}; Ctrl-C ends it", markup=False)
                    await ledger.relay(client, stop=interrupts.stopped)
                    return Exit.OK if interrupts.is_of_service else Exit.INTERRUPTED
                report = await ledger.relay_once(client, stop=interrupts.stopped)
        status = await ledger.status()
    codes = {_print_report(report, console), print_unsettled(status, SystemClock().now(), console)}
    codes |= refused.codes
    return exit_codes.most_severe(codes | ({Exit.INTERRUPTED} if interrupts.happened else set()))


@asynccontextmanager
async def _relaying(
    ledger: UsageLedger, settings: Settings, console: Console
) -> AsyncIterator[tuple[MarketplaceMeteringClient, "RefusedProducts"]]:
    """Yield a client that can be reached, for a relay of *ledger*, and what observes it."""
    pacer = ledger.pacer(settings.calls_per_second) if settings.calls_per_second else None
    refused = RefusedProducts(console)
    async with settings.client(console, observer=refused, pacer=pacer) as client:
        await open_client(client, console)
        yield client, refused


class RefusedProducts:
    """
    Observes the client of a relay, whose report names what stops all, but no product.

    Attributes:
        codes: What the refusals ask for.
    """

    def __init__(self, console: Console) -> None:
        """Tell *console* of them."""
        self.codes: set[Exit] = set()
        self._console = console

    def __call__(self, event: Event, /) -> None:
        """Tell of a product for which nothing more is sent, and of warnings."""
        match event:
            case SendingStopped(all_products=False, error=error):
                self.codes |= {exit_codes.of_error(error)} & {Exit.ACCOUNT}
                stopped = what_stops(event)
                self._console.complain(f"nothing more is sent for {stopped}: {error_text(error)}")
            case WarningIssued(text=text):
                self._console.complain(text)


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
        async with _relaying(ledger, settings, console) as (client, refused):
            with Interrupts(console, "nothing is sent.", timeout=settings.timeout) as interrupts:
                codes = {await _import_whole(ledger, job, console, interrupts.stopped)}
                if interrupts.stopped.is_set():
                    codes.add(Exit.UNDELIVERED)
                else:
                    interrupts.says = _CLOSES
                    report = await ledger.relay_once(client, stop=interrupts.stopped)
                    codes.add(_print_report(report, console))
            if interrupts.happened:
                codes.add(Exit.INTERRUPTED)
        status = await ledger.status()
    codes |= {print_unsettled(status, SystemClock().now(), console), exit_of(status)}
    codes |= refused.codes
    return exit_codes.most_severe(codes)


async def _import_whole(
    ledger: UsageLedger, job: SendJob, console: Console, stop: asyncio.Event
) -> Exit:
    """
    Add all lines but those of hours that a bad line may belong to, once all are read.

    Once *stop* is set, no more are read or added.
    """
    whole = await ledger.whole_dimensions()
    entries = ImportedLines(job.product_code, Naming(), FIX_AND_SEND_ALL, whole)
    with TemporaryLines() as file:
        kept = KeptLines(job.product_code, file)
        await job.read(console, "reading", lambda line: kept.add(line, entries.of(line)), stop)

        async def blocks() -> AsyncIterator[Sequence[ImportedLine]]:
            async for block in kept.blocks():
                if stop.is_set():
                    return
                yield block

        code = await _import(ledger, blocks(), console)
        print_blocked(len(kept.held), kept.anywhere, console)
    return code
