"""`send --coalesce`: lines added up to hourly records, and each line with its hour's fate."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.commands.check import plan_of_hours
from marketplace_metering_async.cli.commands.hourly_sums import Fate, HourlySums, add_up
from marketplace_metering_async.cli.commands.job import SendJob, approved
from marketplace_metering_async.cli.commands.send import DRAINS, ended
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.bad_lines import BlockedHour, CheckedHour
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.options import open_client
from marketplace_metering_async.cli.output import result_fields
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.cli.output.held_hours import list_held
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import Complaints, Report
from marketplace_metering_async.cli.output.result_fields import ResultFields
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.records import UsageRecord

_BREATH: Final = 500
"""Lines that are reported between two turns of the event loop."""


async def send_hours(job: SendJob, console: Console) -> Exit:
    """Add the lines up to hourly records, send those, and answer every line."""
    complaints = Complaints(console)
    with (
        HourlySums(job.product_code) as sums,
        Interrupts(console, "nothing is sent.", timeout=job.settings.timeout) as interrupts,
    ):
        await add_up(job, sums, console, complaints, interrupts.stopped)
        complaints.end()
        if interrupts.stopped.is_set():
            return ended(Exit.UNDELIVERED, console, interrupts)
        outcomes = sums.outcomes(include_current_hour=job.include_current_hour)
        if not await _may_send(job, sums, outcomes, console):
            return Exit.UNDELIVERED
        interrupts.says = DRAINS
        return await _Hours(job, sums, outcomes).send(console, interrupts)


async def _may_send(
    job: SendJob, sums: HourlySums, outcomes: Sequence[CheckedHour], console: Console
) -> bool:
    target = await job.target_to_approve()
    if target is None:
        return True
    plan, _ = plan_of_hours(job, sums, outcomes, Complaints(console))
    console.print(plan.table(job.settings.calls_per_second, target))
    list_held(outcomes, console)
    return approved(console)


class _Hours:
    """The hours on their way to the service, each with its fate as far as it is known."""

    def __init__(self, job: SendJob, sums: HourlySums, outcomes: Sequence[CheckedHour]) -> None:
        self._job = job
        self._sums = sums
        self._outcomes = outcomes
        to_send = [
            (outcome.epoch, hour)
            for hour, outcome in enumerate(outcomes)
            if isinstance(outcome, UsageRecord)
        ]
        self._chosen = [hour for _, hour in sorted(to_send)]  # the earliest deadline first
        self._fates = [self._unsent(hour, outcome) for hour, outcome in enumerate(outcomes)]

    async def send(self, console: Console, interrupts: Interrupts) -> Exit:
        """Send them, tell of every line, and sum up."""
        bar = ProgressBar(console, "metering", total=len(self._chosen), unit="hours")
        async with Report(console, bar, ResultWriter(console, interrupts.fail)) as report:
            await self._stream(console, report, interrupts)
            for fate in self._fates:
                if fate.code is Exit.REJECTED and "message" in fate.members:
                    report.complain(fate.members["message"])
            for number, result in enumerate(self._sums.results(self._fates)):
                report.write(*result)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
                    await report.room()
        verdicts = Counter(str(fate.members["status"]) for fate in self._fates)
        code = report.summary(verdicts)
        list_held(self._outcomes, console)
        return ended(code, console, interrupts)

    async def _stream(self, console: Console, report: Report, interrupts: Interrupts) -> None:
        async with self._job.settings.client(console, observer=report) as client:
            await open_client(client, console)
            async for result in client.iter_batch_meter_usage(
                self._records(), product_code=self._job.product_code, stop=interrupts.stopped
            ):
                hour = self._chosen[result.position]
                place = self._place(result.position)
                members = result_fields.of_result(result, place, self._place)
                members = _with_sum(members, self._outcomes[hour])
                self._fates[hour] = Fate(members, exit_codes.of_result(result))
                report.bar.advance()

    def _records(self) -> Iterator[UsageRecord]:
        for hour in self._chosen:
            outcome = self._outcomes[hour]
            if isinstance(outcome, UsageRecord):
                yield outcome

    def _place(self, position: int) -> str:
        return self._sums.places(self._sums.first_line(self._chosen[position]))

    def _unsent(self, hour: int, outcome: CheckedHour) -> Fate:
        """Return the fate of an hour as long as it is not sent."""
        match outcome:
            case HeldHour() | BlockedHour():
                members = result_fields.of_held(outcome)
                return Fate(_with_sum(members, outcome.record), Exit.UNDELIVERED)
            case MeteringError():
                place = self._sums.places(self._sums.first_line(hour))
                return Fate(result_fields.of_refusal(outcome, place), Exit.REJECTED)
        members = result_fields.of_unsent("sending ended before its turn came")
        return Fate(_with_sum(members, outcome), Exit.UNDELIVERED)


def _with_sum(members: ResultFields, outcome: CheckedHour) -> ResultFields:
    """Tell of which hourly record a line has become a part."""
    if not isinstance(outcome, UsageRecord):
        return members
    return {**members, "hour": outcome.timestamp, "hour_quantity": outcome.quantity}
