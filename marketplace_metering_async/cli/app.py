"""The commands and their options; what they do is in `commands`."""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer

from marketplace_metering_async.cli.commands import check, ledger, operations, sandbox
from marketplace_metering_async.cli.commands.job import CURRENT_HOUR, UsageOptions
from marketplace_metering_async.cli.commands.send import send_hours, send_lines
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.help import PROGRAM, App, examples
from marketplace_metering_async.cli.options import ProductCode, SendSettings, Settings, option
from marketplace_metering_async.cli.output.console import Console, end_output, write_out

app = App(
    pretty_exceptions_enable=False,
    help=(
        "Meter usage of AWS Marketplace customers. "
        "Results go to stdout as JSON lines, everything for people to stderr."
    ),
    epilog=(
        examples(
            "demo",
            "doctor --product-code my-product",
            "send --coalesce --product-code my-product usage.jsonl",
            "ledger --help",
        )
        + "\n\nExit codes: 0 all metered; 1 some rejected; 2 wrong usage; 3 some undelivered, held "
        "back or open in the ledger, send again; 4 account or configuration; 5 a copy of a ledger; "
        "130 interrupted."
    ),
)

_WIDTH: Final = re.compile("[2-9][0-9]|[1-9][0-9]{2,3}")
"""Columns that a screen may have; from 20 on, tables can be read."""


def _show_version(*, wanted: bool) -> None:
    if wanted:
        write_out(f"{version('marketplace-metering-async')}\n")
        raise typer.Exit(Exit.OK)


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        option(
            "--version -V",
            "Show the version and exit.",
            is_eager=True,
            callback=lambda wanted: _show_version(wanted=wanted),
        ),
    ] = False,
) -> None:
    pass


@app.command(name="help")
async def help_(
    _: Console,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="By default all.")
    ] = None,
) -> Exit:
    """Show the help of a command."""
    # Elsewhere than this event loop: a group with options of its own runs one, too.
    return Exit(await asyncio.to_thread(main, [*(command or []), "--help"]))


@app.command("demo", "demo --seed 3")
async def demo(
    console: Console,
    seed: Annotated[
        int, option("--seed NUMBER", "Another number makes other records and faults.")
    ] = 11,
) -> Exit:
    """Meter 12,000 records into a sandbox with faults on, and compare to the last unit."""
    from marketplace_metering_async.cli.commands.demo import run  # noqa: PLC0415 - brings a web server

    return await run(seed, console)


@app.command(
    "send --product-code my-product usage.jsonl",
    "send --dry-run --product-code my-product usage.csv",
    "send --coalesce --product-code my-product events.jsonl.gz",
    "send --yes --timeout 300 --log-format json --product-code my-product usage.jsonl",
    "send --ledger sqlite:///usage.db --product-code my-product usage.jsonl",
)
async def send(
    console: Console,
    usage: UsageOptions,
    *,
    dry_run: Annotated[bool, option("--dry-run", "Show the plan, send nothing.")] = False,
    ledger_url: Annotated[
        str | None,
        option(
            "--ledger URL",
            "Go through a ledger: killed and started again, it meters the rest once.",
        ),
    ] = None,
    yes: Annotated[bool, option("--yes -y", "Send without asking.")] = False,
    settings: SendSettings,
) -> Exit:
    """Send usage records; one JSON line of result for each line of input, in order."""
    job = usage.job(settings, for_ledger=ledger_url is not None, yes=yes)
    if ledger_url is not None:
        if dry_run or job.include_current_hour:
            wrong = "--dry-run" if dry_run else CURRENT_HOUR
            raise typer.BadParameter("not together with --ledger", param_hint=wrong)
        from marketplace_metering_async.cli.commands.ledger_in_out import send_through  # noqa: PLC0415 - heavy

        return await send_through(job, ledger_url, console)
    if dry_run:
        return await check.show_plan(job, console)
    return await (send_hours(job, console) if job.coalesce else send_lines(job, console))


@app.command(
    "validate --product-code my-product usage.csv",
    "validate --coalesce --product-code my-product events.jsonl",
)
async def validate(console: Console, usage: UsageOptions) -> Exit:
    """Check usage records without a service; every complaint with its file and line."""
    return await check.validate(usage.job(Settings(), for_ledger=True), console)


app.add_typer(ledger.app, name="ledger")
app.add_typer(sandbox.app, name="sandbox")
app.command("resolve 'the-form-field-x-amzn-marketplace-token'")(operations.resolve)
app.command(
    "meter --product-code my-product --dimension requests --quantity 5",
    "meter --product-code my-product --dimension requests --quantity 5 --dry-run",
)(operations.meter)
app.command("register --product-code my-product --nonce my-task")(operations.register)


@app.command("doctor", "doctor --product-code my-product --region us-east-1")
async def doctor(console: Console, *, product_code: ProductCode = None, settings: Settings) -> Exit:
    """
    Check credentials, region, endpoint, clock and versions. Meters nothing.

    With --product-code also whether BatchMeterUsage is permitted, by a call without a record.
    """
    from marketplace_metering_async.cli.commands.doctor import run  # noqa: PLC0415 - rarely needed

    return await run(settings, product_code, console)


@cache
def _command() -> Callable[..., Any]:
    """Return the command that *app* describes: to make it takes longer than to run most."""
    return typer.main.get_command(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if not _WIDTH.fullmatch(os.environ.get("COLUMNS", "80")):
        del os.environ["COLUMNS"]  # rich would take it by its word, and show nothing at all at 0
    try:
        _command()(None if argv is None else list(argv), prog_name=PROGRAM)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # nobody reads what is wrong
            return int(Exit.USAGE)
        return ended.code if isinstance(ended.code, int) else int(Exit.OK)
    except (MisuseError, OSError) as error:  # of typer's own words, as help and completion
        Console().complain(error)
        return int(Exit.USAGE)
    finally:
        end_output()
    return int(Exit.OK)
