"""`send --dry-run` and `validate`: look at the input as `send` would, and send nothing."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from marketplace_metering_async.cli.bad_lines import BlockedHour, HourOutcome
from marketplace_metering_async.cli.exits import Exit, MisuseError
from marketplace_metering_async.cli.held import list_held
from marketplace_metering_async.cli.intake import Intake
from marketplace_metering_async.cli.order import Order
from marketplace_metering_async.cli.output import People
from marketplace_metering_async.cli.places import Places
from marketplace_metering_async.cli.plan import Plan
from marketplace_metering_async.cli.progress import Watch
from marketplace_metering_async.cli.reporting import Complaints
from marketplace_metering_async.cli.result_lines import ResultLines
from marketplace_metering_async.cli.results import Members, of_held, of_refusal
from marketplace_metering_async.cli.sums import Sums, add_up
from marketplace_metering_async.coalescing import HeldHour

_BREATH: Final = 500
_VALID: Final[Members] = {"status": "Valid"}


async def plan_of_lines(
    order: Order, people: People, complain: Complaints, lines: ResultLines | None = None
) -> Plan:
    """Read the input once, and return the plan for its lines as they are; tell *lines* of each."""
    places = Places()
    plan = Plan(order.product_code, places, complain)
    async with Watch(people, "reading", total=order.size, unit="lines") as watch:
        async for block in Intake(order.sources).blocks():
            for line in block:
                number = places.add(line.file, line.number)
                error = plan.look_at(number, line.record)
                if lines is not None:
                    members = _VALID if error is None else of_refusal(error, places(number), places)
                    lines.write({"file": line.file, "line": line.number, **members})
                watch.advance(line.size)
            if lines is not None:
                await lines.room.wait()
    complain.end()
    return plan


def plan_of_hours(
    order: Order, sums: Sums, outcomes: Sequence[HourOutcome], complain: Complaints
) -> tuple[Plan, list[Members]]:
    """Return the plan for the hours that the lines were added up to, and what to tell of each."""
    plan = Plan(order.product_code, sums.places, complain)
    fates: list[Members] = []
    for hour, outcome in enumerate(outcomes):
        if isinstance(outcome, HeldHour | BlockedHour):
            plan.held += 1
            fates.append(of_held(outcome))
            continue
        first = sums.first_line(hour)
        error = plan.look_at(first, outcome)
        fates.append(_VALID if error is None else of_refusal(error, sums.places(first)))
    plan.records = len(sums) - sums.refused
    plan.refused += sums.refused
    return plan, fates


async def show_plan(order: Order, people: People, *, coalesce: bool) -> Exit:
    """Show what `send` would do, and end with the code that it would end with at best."""
    complaints = Complaints(people)
    if coalesce:
        plan = await _added_up(order, people, complaints)
    else:
        plan = await plan_of_lines(order, people, complaints)
    people.print(plan.table(order.settings.calls_per_second, await order.target_or_why_not()))
    return _code_of(plan)


def _code_of(plan: Plan) -> Exit:
    if plan.held:
        return Exit.UNDELIVERED
    return Exit.REJECTED if plan.refused else Exit.METERED


async def validate(order: Order, people: People, *, coalesce: bool) -> Exit:
    """Tell of every line whether `send` would send it, as far as the service need not be asked."""
    complaints = Complaints(people, most=sys.maxsize)
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    failures: list[OSError] = []
    lines = None if on_terminal else ResultLines(people, failures.append)
    if coalesce:
        plan = await _added_up(order, people, complaints, lines)
    else:
        plan = await plan_of_lines(order, people, complaints, lines)
    if lines is not None:
        await lines.close()
    people.print(plan.table(order.settings.calls_per_second))
    if failures:
        raise MisuseError(f"results cannot be written to stdout: {failures[0].strerror}")
    return _code_of(plan)


async def _added_up(
    order: Order, people: People, complain: Complaints, lines: ResultLines | None = None
) -> Plan:
    with Sums(order.product_code) as sums:
        await add_up(order, sums, people, complain)
        outcomes = sums.outcomes(include_current_hour=order.include_current_hour)
        plan, fates = plan_of_hours(order, sums, outcomes, complain)
        complain.end()
        if lines is not None:
            await _tell(sums, fates, lines)
    list_held(outcomes, people)
    return plan


async def _tell(sums: Sums, fates: Sequence[Members], lines: ResultLines) -> None:
    for number, (file, line, hour) in enumerate(sums.lines()):
        members = fates[hour] if isinstance(hour, int) else hour
        lines.write({"file": file, "line": line, **members})
        if number % _BREATH == 0:
            await asyncio.sleep(0)
            await lines.room.wait()
