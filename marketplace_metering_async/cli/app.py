"""The commands and their options; what they do is in `commands`."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

from marketplace_metering_async.cli import ledger_app
from marketplace_metering_async.cli.commands import check, operations
from marketplace_metering_async.cli.commands.job import SendJob
from marketplace_metering_async.cli.commands.send import send_lines
from marketplace_metering_async.cli.commands.send_hourly import send_hours
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.options import (
    QUOTA,
    CallsPerSecond,
    EndpointUrl,
    ProductCode,
    Profile,
    Region,
    Settings,
    rate,
)
from marketplace_metering_async.cli.output.console import stderr_console
from marketplace_metering_async.cli.running import finish, sources_or_exit

_CURRENT_HOUR: Final = "--include-current-hour"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Meter usage of AWS Marketplace customers. "
        "Results go to stdout as JSON lines, everything for people to stderr."
    ),
    epilog=(
        "Exit codes: 0 all metered; 1 some rejected; 2 wrong usage; 3 some undelivered, held back "
        "or open in the ledger, send again; 4 account or configuration; 130 interrupted."
    ),
)


def _require_coalesce(*, coalesce: bool, current_hour: bool) -> None:
    if current_hour and not coalesce:
        raise typer.BadParameter("only --coalesce holds hours back", param_hint=_CURRENT_HOUR)


Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="JSON lines or CSV; - is standard input."),
]
Coalesce = Annotated[
    bool, typer.Option("--coalesce", help="Add usage up to one record an hour first.")
]
CurrentHour = Annotated[
    bool,
    typer.Option(
        _CURRENT_HOUR,
        help="With --coalesce: send the hour that is not over, too. It locks it.",
    ),
]


@app.callback(invoke_without_command=True)
def _version(
    *,
    show: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if show:
        typer.echo(version("marketplace-metering-async"))
        raise typer.Exit(Exit.OK)


@app.command()
def demo(
    seed: Annotated[
        int, typer.Option("--seed", metavar="NUMBER", help="Of the records and the faults.")
    ] = 11,
) -> None:
    """Meter 12,000 records into a sandbox with faults on, and compare to the last unit."""
    from marketplace_metering_async.cli.commands.demo import run  # noqa: PLC0415 - brings a web server

    finish(run(seed, stderr_console()))


@app.command()
def send(
    files: Files,
    *,
    product_code: ProductCode = None,
    coalesce: Coalesce = False,
    include_current_hour: CurrentHour = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, send nothing.")
    ] = False,
    ledger_url: Annotated[
        str | None,
        typer.Option(
            "--ledger",
            metavar="URL",
            help="Go through a ledger: killed and started again, it meters the rest once.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
    calls_per_second: CallsPerSecond = QUOTA,
) -> None:
    """Send usage records; one JSON line of result for each line of input, in order."""
    _require_coalesce(coalesce=coalesce, current_hour=include_current_hour)
    job = SendJob(
        sources=sources_or_exit(files, for_ledger=ledger_url is not None),
        settings=Settings(
            endpoint_url=endpoint_url,
            profile=profile,
            region=region,
            calls_per_second=calls_per_second,
        ),
        product_code=product_code,
        include_current_hour=include_current_hour,
        yes=yes,
    )
    if ledger_url is not None:
        if dry_run or include_current_hour:
            wrong = "--dry-run" if dry_run else _CURRENT_HOUR
            raise typer.BadParameter("not together with --ledger", param_hint=wrong)
        from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

        finish(ledger_actions.send_through(job, ledger_url, stderr_console()))
    elif dry_run:
        finish(check.show_plan(job, stderr_console(), coalesce=coalesce))
    elif coalesce:
        finish(send_hours(job, stderr_console()))
    else:
        finish(send_lines(job, stderr_console()))


@app.command()
def validate(
    files: Files,
    *,
    product_code: ProductCode = None,
    coalesce: Coalesce = False,
    include_current_hour: CurrentHour = False,
) -> None:
    """Check usage records without a service; every complaint with its file and line."""
    _require_coalesce(coalesce=coalesce, current_hour=include_current_hour)
    job = SendJob(
        sources=sources_or_exit(files, for_ledger=True),
        settings=Settings(),
        product_code=product_code,
        include_current_hour=include_current_hour,
    )
    finish(check.validate(job, stderr_console(), coalesce=coalesce))


app.add_typer(ledger_app.app, name="ledger")
app.command()(operations.resolve)
app.command()(operations.meter)
app.command()(operations.register)


@app.command()
def sandbox(
    *,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", help="0: a free one.", min=0, max=65535)
    ] = 8765,
    calls_per_second: Annotated[
        float,
        typer.Option(
            "--calls-per-second", metavar="NUMBER", parser=rate, help="Its quota; 0: none."
        ),
    ] = QUOTA,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="HOST", help="Where to listen; beside loopback with --open-to only."
        ),
    ] = "127.0.0.1",
    open_to: Annotated[
        list[str] | None,
        typer.Option(
            "--open-to",
            metavar="NAME[:PORT]",
            help="Let clients in that call it so; again for more.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="METERING_SANDBOX_TOKEN",
            help="What page and controls ask for; by default a new one with --open-to.",
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", metavar="FILE", help="Switches of Rules, as a JSON object."),
    ] = None,
    product: Annotated[
        list[str] | None,
        typer.Option(
            "--product",
            metavar="CODE[,DIMENSION...]",
            help="Declare a product; or a JSON object as for the control `products`.",
        ),
    ] = None,
    access_key: Annotated[
        list[str] | None,
        typer.Option(
            "--access-key",
            metavar="ID:SECRET",
            help="Verify signatures of this key, refuse others; or a JSON object of an AccessKey.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="KIND[=PROBABILITY]",
            help="What goes wrong; or a JSON object as for the control `faults`.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="NUMBER", help="Of the faults' chance.")
    ] = 0,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Keep its memory in a file between runs."),
    ] = None,
) -> None:
    """Run the sandbox, a stand-in for the service on this machine, until Ctrl-C."""
    from marketplace_metering_async.cli.commands import sandbox  # noqa: PLC0415 - a web server

    options = sandbox.SandboxOptions(
        port=port,
        host=host,
        open_to=open_to or [],
        token=token,
        calls_per_second=calls_per_second or None,
        rules=rules,
        products=product or [],
        access_keys=access_key or [],
        faults=fault or [],
        seed=seed,
        state=state,
    )
    finish(sandbox.serve(options, stderr_console()))


@app.command()
def doctor(
    *, endpoint_url: EndpointUrl = None, profile: Profile = None, region: Region = None
) -> None:
    """Check credentials, region, endpoint, clock and versions. Meters nothing."""
    from marketplace_metering_async.cli.commands.doctor import run  # noqa: PLC0415 - rarely needed

    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)
    finish(run(settings, stderr_console()))


@cache
def _command() -> typer.core.TyperGroup:
    """Return the command that *app* describes: to make it takes longer than to run most."""
    return typer.main.get_group(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        _command()(None if argv is None else list(argv), prog_name="marketplace-metering")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(Exit.OK)
    return int(Exit.OK)
