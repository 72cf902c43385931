"""`send`: records from files to the service, and one line of result for each line of input."""

from collections.abc import AsyncIterator

from marketplace_metering_async.cli import exits, results
from marketplace_metering_async.cli.approval import approved
from marketplace_metering_async.cli.checking import plan_of_lines
from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.cli.formats import UsageFileError
from marketplace_metering_async.cli.intake import Intake
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.order import Order
from marketplace_metering_async.cli.output import People, printable
from marketplace_metering_async.cli.places import RecentPlaces
from marketplace_metering_async.cli.progress import Watch
from marketplace_metering_async.cli.reporting import Complaints, Report
from marketplace_metering_async.cli.result_lines import ResultLines
from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.records import UsageRecord

DRAINS = "nothing new is sent; what is on its way to the service is awaited."
"""What the first Ctrl-C brings about while records are sent."""


async def send_lines(order: Order, people: People) -> Exit:
    """Send every line as a record of its own, as it is read."""
    if not await _may_send(order, people):
        return Exit.UNDELIVERED
    with Interrupts(people, DRAINS) as interrupts:
        watch = Watch(people, "metering", total=order.size)
        async with Report(people, watch, ResultLines(people, interrupts.fail)) as report:
            try:
                await _stream(order, report, interrupts)
            except UsageFileError as error:
                people.complain(error)
                report.note(Exit.USAGE)
        return ended(report.summary(), people, interrupts)


def ended(code: Exit, people: People, interrupts: Interrupts) -> Exit:
    """Return how `send` ends, after telling why it ended early, if it did."""
    if interrupts.failure is not None:
        reason = interrupts.failure.strerror or interrupts.failure
        people.complain(f"results cannot be written to stdout: {reason}")
        return exits.gravest((code, Exit.USAGE))
    return Exit.INTERRUPTED if interrupts.happened else code


async def _may_send(order: Order, people: People) -> bool:
    target = await order.target_to_approve()
    if target is None:
        return True
    if order.size is None:
        to = printable(str(target))
        text = f"A stream of records goes to {to}; there is no plan of a stream."
        people.print(text, markup=False)
    else:
        plan = await plan_of_lines(order, people, Complaints(people))
        people.print(plan.table(order.settings.calls_per_second, target))
    return approved(people)


async def _stream(order: Order, report: Report, interrupts: Interrupts) -> None:
    intake = Intake(order.sources)
    places = RecentPlaces()
    in_flight: dict[int, int] = {}  # position in what the client was given, to number of the line

    async def records() -> AsyncIterator[UsageRecord]:
        async for block in intake.blocks():
            for line in block:
                number = report.expect(line)
                if isinstance(line.record, InvalidRecordError):
                    members = results.of_refusal(line.record, f"{line.file}:{line.number}")
                    report.answer(number, members, Exit.REJECTED)
                else:
                    in_flight[places.add(line.file, line.number)] = number
                    yield line.record
            await report.room()
        report.has_all = True

    async with order.settings.client(observer=report) as client:
        async for result in client.iter_batch_meter_usage(
            records(), product_code=order.product_code, stop=interrupts.stopped
        ):
            members = results.of_result(result, places(result.position), places)
            report.answer(in_flight.pop(result.position), members, exits.of_result(result))
