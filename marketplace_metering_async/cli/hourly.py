"""`send --coalesce`: lines added up to hourly records, and each line with its hour's fate."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from marketplace_metering_async.cli import exits, results
from marketplace_metering_async.cli.approval import approved
from marketplace_metering_async.cli.bad_lines import BlockedHour, HourOutcome
from marketplace_metering_async.cli.checking import plan_of_hours
from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.cli.held import list_held
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.order import Order
from marketplace_metering_async.cli.output import People
from marketplace_metering_async.cli.progress import Watch
from marketplace_metering_async.cli.reporting import Complaints, Report
from marketplace_metering_async.cli.result_lines import ResultLines
from marketplace_metering_async.cli.results import Members
from marketplace_metering_async.cli.sending import DRAINS, ended
from marketplace_metering_async.cli.sums import Sums, add_up
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.records import UsageRecord

_BREATH: Final = 500
"""Lines that are reported between two turns of the event loop."""


class _Fate(NamedTuple):
    """What became of an hour."""

    members: Members
    code: Exit


async def send_hours(order: Order, people: People) -> Exit:
    """Add the lines up to hourly records, send those, and answer every line."""
    complaints = Complaints(people)
    with Sums(order.product_code) as sums, Interrupts(people, "nothing is sent.") as interrupts:
        await add_up(order, sums, people, complaints, interrupts.stopped)
        complaints.end()
        if interrupts.happened:
            return Exit.INTERRUPTED
        outcomes = sums.outcomes(include_current_hour=order.include_current_hour)
        if not await _may_send(order, sums, outcomes, people):
            return Exit.UNDELIVERED
        interrupts.says = DRAINS
        return await _Hours(order, sums, outcomes).send(people, interrupts)


async def _may_send(
    order: Order, sums: Sums, outcomes: Sequence[HourOutcome], people: People
) -> bool:
    target = await order.target_to_approve()
    if target is None:
        return True
    plan, _ = plan_of_hours(order, sums, outcomes, Complaints(people))
    people.print(plan.table(order.settings.calls_per_second, target))
    list_held(outcomes, people)
    return approved(people)


class _Hours:
    """The hours on their way to the service, each with its fate as far as it is known."""

    def __init__(self, order: Order, sums: Sums, outcomes: Sequence[HourOutcome]) -> None:
        self._order = order
        self._sums = sums
        self._outcomes = outcomes
        to_send = [
            (outcome.epoch, hour)
            for hour, outcome in enumerate(outcomes)
            if isinstance(outcome, UsageRecord)
        ]
        self._chosen = [hour for _, hour in sorted(to_send)]  # the earliest deadline first
        self._fates = [self._unsent(hour, outcome) for hour, outcome in enumerate(outcomes)]

    async def send(self, people: People, interrupts: Interrupts) -> Exit:
        """Send them, tell of every line, and sum up."""
        watch = Watch(people, "metering", total=len(self._chosen), unit="hours")
        async with Report(people, watch, ResultLines(people, interrupts.fail)) as report:
            await self._stream(report, interrupts)
            for fate in self._fates:
                if fate.code is Exit.REJECTED and "message" in fate.members:
                    report.complain(fate.members["message"])
            for number, (file, line, members, code) in enumerate(self._results()):
                report.tell(file, line, members, code)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
                    await report.room()
        verdicts = Counter(str(fate.members["status"]) for fate in self._fates)
        code = report.summary(verdicts)
        list_held(self._outcomes, people)
        return ended(code, people, interrupts)

    async def _stream(self, report: Report, interrupts: Interrupts) -> None:
        async with self._order.settings.client(observer=report) as client:
            async for result in client.iter_batch_meter_usage(
                self._records(), product_code=self._order.product_code, stop=interrupts.stopped
            ):
                hour = self._chosen[result.position]
                place = self._place(result.position)
                members = results.of_result(result, place, self._place)
                members = _with_sum(members, self._outcomes[hour])
                self._fates[hour] = _Fate(members, exits.of_result(result))
                report.watch.advance()

    def _records(self) -> Iterator[UsageRecord]:
        for hour in self._chosen:
            outcome = self._outcomes[hour]
            if isinstance(outcome, UsageRecord):
                yield outcome

    def _place(self, position: int) -> str:
        return self._sums.places(self._sums.first_line(self._chosen[position]))

    def _results(self) -> Iterator[tuple[str, int, Members, Exit]]:
        for file, line, hour in self._sums.lines():
            if isinstance(hour, int):
                fate = self._fates[hour]
                yield file, line, fate.members, fate.code
            else:
                yield file, line, hour, Exit.REJECTED

    def _unsent(self, hour: int, outcome: HourOutcome) -> _Fate:
        """Return the fate of an hour as long as it is not sent."""
        match outcome:
            case HeldHour() | BlockedHour():
                members = results.of_held(outcome)
                return _Fate(_with_sum(members, outcome.record), Exit.UNDELIVERED)
            case MeteringError():
                place = self._sums.places(self._sums.first_line(hour))
                return _Fate(results.of_refusal(outcome, place), Exit.REJECTED)
        members = results.of_unsent("sending ended before its turn came")
        return _Fate(_with_sum(members, outcome), Exit.UNDELIVERED)


def _with_sum(members: Members, outcome: HourOutcome) -> Members:
    """Tell of which hourly record a line has become a part."""
    if not isinstance(outcome, UsageRecord):
        return members
    return {**members, "hour": outcome.timestamp, "hour_quantity": outcome.quantity}
