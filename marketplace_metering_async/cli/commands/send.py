"""
`send`: usage from files to the service, and one line of result for each line of input.

Every line is a record of its own, or with `--coalesce` added up to hourly records first.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.commands.check import plan_of_hours, plan_of_lines
from marketplace_metering_async.cli.commands.hourly_sums import HourlySums, add_up
from marketplace_metering_async.cli.commands.job import SendJob, TemporaryLines, approved
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.bad_lines import BlockedHour, CheckedHour
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.line_numbers import RecentLineNumbers
from marketplace_metering_async.cli.input.reader import InputReader
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.options import open_client
from marketplace_metering_async.cli.output.console import Console, unwritten
from marketplace_metering_async.cli.output.held_hours import list_held
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import Complaints, Report
from marketplace_metering_async.cli.output.result_fields import (
    Fate,
    of_held,
    of_refusal,
    of_result,
    of_unsent,
)
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.errors import InvalidRecordError, MeteringError
from marketplace_metering_async.records import UsageRecord

_DRAINS: Final = "nothing new is sent; what is on its way to the service is awaited."
"""What the first Ctrl-C brings about while records are sent."""


async def send_lines(job: SendJob, console: Console) -> Exit:
    """Send every line as a record of its own, as it is read."""
    if not await _may_send_lines(job, console):
        return Exit.UNDELIVERED
    with Interrupts(console, _DRAINS, timeout=job.settings.timeout) as interrupts:
        bar = ProgressBar(console, "metering", total=job.size)
        async with Report(console, bar, ResultWriter(console, interrupts.stopped)) as report:
            try:
                await _stream_lines(job, console, report, interrupts)
            except UsageFileError as error:
                console.complain(error)
                report.note(Exit.USAGE)
        late = interrupts.is_late and not report.has_all
        code = exit_codes.most_severe({report.summary(), Exit.UNDELIVERED if late else Exit.OK})
        return _ended(code, console, interrupts, report.lines.failure)


def _ended(
    code: Exit, console: Console, interrupts: Interrupts, failure: OSError | None = None
) -> Exit:
    """Return how `send` ends, after telling that results cannot be written, if it is so."""
    codes = {code}
    if failure is not None:
        console.complain(unwritten(failure))
        codes.add(Exit.USAGE)
    if interrupts.happened:
        codes.add(Exit.INTERRUPTED)
    return exit_codes.most_severe(codes)


async def _may_send_lines(job: SendJob, console: Console) -> bool:
    target = await job.target_to_approve()
    if target is None:
        return True
    if job.size is None:
        text = f"A stream of records goes to {target}; there is no plan of a stream."
        console.print(text, markup=False)
    else:
        plan = await plan_of_lines(job, console, Complaints(console))
        console.print(plan.table(job.settings.calls_per_second, target))
    return approved(console)


async def _stream_lines(
    job: SendJob, console: Console, report: Report, interrupts: Interrupts
) -> None:
    reader = InputReader(job.sources, console.complain)
    places = RecentLineNumbers()
    in_flight: dict[int, int] = {}  # position in what the client was given, to number of the line

    async def records() -> AsyncIterator[UsageRecord]:
        async for block in reader.blocks():
            for line in block:
                number = report.expect(line)
                if isinstance(line.record, InvalidRecordError):
                    report.answer(number, of_refusal(line.record, line.place))
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
            fate = of_result(result, places(result.position), places)
            report.answer(in_flight.pop(result.position), fate)


async def send_hours(job: SendJob, console: Console) -> Exit:
    """Add the lines up to hourly records, send those, and answer every line."""
    complaints = Complaints(console)
    with (
        TemporaryLines() as file,
        Interrupts(console, "nothing is sent.", timeout=job.settings.timeout) as interrupts,
    ):
        sums = HourlySums(job.product_code, file)
        await add_up(job, sums, console, complaints, interrupts.stopped)
        complaints.end()
        if interrupts.stopped.is_set():
            return _ended(Exit.UNDELIVERED, console, interrupts)
        outcomes = sums.outcomes(include_current_hour=job.include_current_hour)
        if not await _may_send_hours(job, sums, outcomes, console):
            return Exit.UNDELIVERED
        interrupts.says = _DRAINS
        return await _send_hours(job, sums, outcomes, console, interrupts)


async def _may_send_hours(
    job: SendJob, sums: HourlySums, outcomes: Sequence[CheckedHour], console: Console
) -> bool:
    target = await job.target_to_approve()
    if target is None:
        return True
    plan, _ = plan_of_hours(job, sums, outcomes, Complaints(console))
    console.print(plan.table(job.settings.calls_per_second, target))
    list_held(outcomes, console)
    return approved(console)


async def _send_hours(
    job: SendJob,
    sums: HourlySums,
    outcomes: Sequence[CheckedHour],
    console: Console,
    interrupts: Interrupts,
) -> Exit:
    to_send = [(hour, one) for hour, one in enumerate(outcomes) if isinstance(one, UsageRecord)]
    to_send.sort(key=lambda one: one[1].epoch)  # the earliest deadline first
    fates = [_unsent(outcome, sums.place(hour)) for hour, outcome in enumerate(outcomes)]

    def place_of(position: int) -> str:
        return sums.place(to_send[position][0])

    bar = ProgressBar(console, "metering", total=len(to_send), unit="hours")
    async with Report(console, bar, ResultWriter(console, interrupts.stopped)) as report:
        async with job.settings.client(console, observer=report) as client:
            await open_client(client, console)
            records = (record for _, record in to_send)
            async for result in client.iter_batch_meter_usage(
                records, product_code=job.product_code, stop=interrupts.stopped
            ):
                hour, record = to_send[result.position]
                fates[hour] = _with_sum(
                    of_result(result, place_of(result.position), place_of), record
                )
                bar.advance()
        for fate in fates:
            if fate.code is Exit.REJECTED and "message" in fate.members:
                report.complain(fate.members["message"])
        for number, line in enumerate(sums.results(fates)):
            report.write(*line)
            await report.lines.breathe(number)
    code = report.summary(Counter(str(fate.members["status"]) for fate in fates))
    list_held(outcomes, console)
    return _ended(code, console, interrupts, report.lines.failure)


def _unsent(outcome: CheckedHour, place: str) -> Fate:
    """Return the fate of the hour that begins at *place*, as long as it is not sent."""
    match outcome:
        case HeldHour() | BlockedHour():
            return _with_sum(of_held(outcome), outcome.record)
        case MeteringError():
            return of_refusal(outcome, place)
    return _with_sum(of_unsent(), outcome)


def _with_sum(fate: Fate, record: UsageRecord) -> Fate:
    """Tell of which hourly record a line has become a part."""
    sums = {"hour": record.timestamp, "hour_quantity": record.quantity}
    return Fate({**fate.members, **sums}, fate.code)
