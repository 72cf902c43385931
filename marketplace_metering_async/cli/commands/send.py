"""`send`: records from files to the service, and one line of result for each line of input."""

from collections.abc import AsyncIterator

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.commands.check import plan_of_lines
from marketplace_metering_async.cli.commands.job import SendJob, approved
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.line_numbers import RecentLineNumbers
from marketplace_metering_async.cli.input.reader import InputReader
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.options import open_client
from marketplace_metering_async.cli.output import result_fields
from marketplace_metering_async.cli.output.console import Console, printable
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import Complaints, Report
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.records import UsageRecord

DRAINS = "nothing new is sent; what is on its way to the service is awaited."
"""What the first Ctrl-C brings about while records are sent."""


async def send_lines(job: SendJob, console: Console) -> Exit:
    """Send every line as a record of its own, as it is read."""
    if not await _may_send(job, console):
        return Exit.UNDELIVERED
    with Interrupts(console, DRAINS, timeout=job.settings.timeout) as interrupts:
        bar = ProgressBar(console, "metering", total=job.size)
        async with Report(console, bar, ResultWriter(console, interrupts.fail)) as report:
            try:
                await _stream(job, console, report, interrupts)
            except UsageFileError as error:
                console.complain(error)
                report.note(Exit.USAGE)
        return ended(report.summary(), console, interrupts, has_all=report.has_all)


def ended(code: Exit, console: Console, interrupts: Interrupts, *, has_all: bool = True) -> Exit:
    """Return how `send` ends, after telling why it ended early, if it did."""
    if interrupts.failure is not None:
        reason = interrupts.failure.strerror or interrupts.failure
        console.complain(f"results cannot be written to stdout: {reason}")
        return exit_codes.most_severe((code, Exit.USAGE))
    if interrupts.is_late and not has_all:
        code = exit_codes.most_severe((code, Exit.UNDELIVERED))
    return Exit.INTERRUPTED if interrupts.happened else code


async def _may_send(job: SendJob, console: Console) -> bool:
    target = await job.target_to_approve()
    if target is None:
        return True
    if job.size is None:
        to = printable(str(target))
        text = f"A stream of records goes to {to}; there is no plan of a stream."
        console.print(text, markup=False)
    else:
        plan = await plan_of_lines(job, console, Complaints(console))
        console.print(plan.table(job.settings.calls_per_second, target))
    return approved(console)


async def _stream(job: SendJob, console: Console, report: Report, interrupts: Interrupts) -> None:
    reader = InputReader(job.sources, console.complain)
    places = RecentLineNumbers()
    in_flight: dict[int, int] = {}  # position in what the client was given, to number of the line

    async def records() -> AsyncIterator[UsageRecord]:
        async for block in reader.blocks():
            for line in block:
                number = report.expect(line)
                if isinstance(line.record, InvalidRecordError):
                    members = result_fields.of_refusal(line.record, f"{line.file}:{line.number}")
                    report.answer(number, members, Exit.REJECTED)
                else:
                    in_flight[places.add(line.file, line.number)] = number
                    yield line.record
            await report.room()
        report.has_all = True

    async with job.settings.client(console, observer=report) as client:
        await open_client(client, console)
        async for result in client.iter_batch_meter_usage(
            records(), product_code=job.product_code, stop=interrupts.stopped
        ):
            members = result_fields.of_result(result, places(result.position), places)
            report.answer(in_flight.pop(result.position), members, exit_codes.of_result(result))
