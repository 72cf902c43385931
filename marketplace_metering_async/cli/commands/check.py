"""`send --dry-run` and `validate`: look at the input as `send` would, and send nothing."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import IO, Any, Final

from marketplace_metering_async.cli.commands.hourly_sums import HourlySums, add_up
from marketplace_metering_async.cli.commands.job import SendJob, TemporaryLines
from marketplace_metering_async.cli.commands.plan import Plan
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.input.bad_lines import BlockedHour, CheckedHour
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.line_numbers import LineNumbers
from marketplace_metering_async.cli.input.lines import Line
from marketplace_metering_async.cli.output.console import Console, json_line, unwritten
from marketplace_metering_async.cli.output.held_hours import list_held
from marketplace_metering_async.cli.output.report import Complaints
from marketplace_metering_async.cli.output.result_fields import Fate, of_held, of_refusal
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.records import UsageRecord

_VALID: Final = Fate({"status": "Valid"}, Exit.OK)


class _KeptVerdicts:
    """
    Keeps the verdicts on lines in a temporary file until all are read.

    A line that is valid by itself is refused where a later one has its key and differs.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Keep them in *file*, which is empty."""
        self._file = file

    def add(self, line: Line, key: int | None, members: Mapping[str, Any]) -> None:
        """Keep the verdict on a line; *key* is that of a valid one."""
        said = json_line({"file": line.file, "line": line.number, **members})
        self._file.write(f"{'' if key is None else key} {said}".encode("ascii"))

    async def write(self, plan: Plan, places: LineNumbers, lines: ResultWriter) -> None:
        """Write what was kept, by what *plan* knows now."""
        self._file.seek(0)
        for number, row in enumerate(self._file):
            key, _, line = row.decode("ascii").partition(" ")
            error = plan.later_refusal(int(key)) if key else None
            if error is None:
                lines.write_line(line)
            else:
                refused = of_refusal(error, places(number), places)
                lines.write(json.loads(line) | refused.members)
            await lines.breathe(number)


async def plan_of_lines(
    job: SendJob, console: Console, complain: Complaints, lines: ResultWriter | None = None
) -> Plan:
    """Read the input once, and return the plan for its lines as they are; tell *lines* of each."""
    places = LineNumbers()
    plan = Plan(job.product_code, places, complain)
    with TemporaryLines() as file:
        kept = _KeptVerdicts(file)

        def take(line: Line) -> None:
            number = places.add(line.file, line.number)
            error = plan.look_at(number, line.record)
            if lines is None:
                return
            key, members = None, _VALID.members
            if error is not None:
                members = of_refusal(error, places(number), places).members
            elif isinstance(line.record, UsageRecord):
                key = plan.key_of(line.record)
            kept.add(line, key, {**members, "warning": line.doubt} if line.doubt else members)

        try:
            await job.read(console, "reading", take)
        except UsageFileError:
            if lines is not None:
                await kept.write(plan, places, lines)
            raise
        if lines is not None:
            await kept.write(plan, places, lines)
    complain.end()
    return plan


def plan_of_hours(
    job: SendJob, sums: HourlySums, outcomes: Sequence[CheckedHour], complain: Complaints
) -> tuple[Plan, list[Fate]]:
    """Return the plan for the hours that the lines were added up to, and what to tell of each."""
    plan = Plan(job.product_code, sums.places, complain)
    errors = [
        None
        if isinstance(outcome, HeldHour | BlockedHour)
        else plan.look_at(sums.first_line(hour), outcome)
        for hour, outcome in enumerate(outcomes)
    ]
    fates: list[Fate] = []
    for hour, outcome in enumerate(outcomes):
        if isinstance(outcome, HeldHour | BlockedHour):
            fates.append(of_held(outcome))
            plan.held += 1
            continue
        error = errors[hour]
        if error is None and isinstance(outcome, UsageRecord):  # a later hour may refuse it
            error = plan.later_refusal(plan.key_of(outcome))
        fates.append(_VALID if error is None else of_refusal(error, sums.place(hour), sums.places))
    plan.lines = len(sums)
    plan.refused += sums.refused
    return plan, fates


async def show_plan(job: SendJob, console: Console) -> Exit:
    """Show what `send` would do, and end with the code that it would end with at best."""
    complaints = Complaints(console)
    plan = await (_added_up if job.coalesce else plan_of_lines)(job, console, complaints)
    console.print(plan.table(job.settings.calls_per_second, await job.target_or_why_not()))
    return _code_of(plan)


def _code_of(plan: Plan) -> Exit:
    if plan.held:
        return Exit.UNDELIVERED
    return Exit.REJECTED if plan.refused else Exit.OK


async def validate(job: SendJob, console: Console) -> Exit:
    """Tell of every line whether `send` would send it, as far as the service need not be asked."""
    complaints = Complaints(console, most=sys.maxsize)
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    lines = None if on_terminal else ResultWriter(console)
    async with lines or nullcontext():
        plan = await (_added_up if job.coalesce else plan_of_lines)(job, console, complaints, lines)
    console.print(plan.table(job.settings.calls_per_second))
    if plan.refused:
        console.print("Fix the lines that are named above; `send` would send the others.")
    if lines is not None and lines.failure is not None:
        raise MisuseError(unwritten(lines.failure))
    return _code_of(plan)


async def _added_up(
    job: SendJob, console: Console, complain: Complaints, lines: ResultWriter | None = None
) -> Plan:
    with TemporaryLines() as file:
        sums = HourlySums(job.product_code, file)
        await add_up(job, sums, console, complain)
        outcomes = sums.outcomes(include_current_hour=job.include_current_hour)
        plan, fates = plan_of_hours(job, sums, outcomes, complain)
        complain.end()
        if lines is not None:
            await _write_lines(sums, fates, lines)
    list_held(outcomes, console)
    return plan


async def _write_lines(sums: HourlySums, fates: Sequence[Fate], lines: ResultWriter) -> None:
    for number, (file, line, fate) in enumerate(sums.results(fates)):
        lines.write({"file": file, "line": line, **fate.members})
        await lines.breathe(number)
