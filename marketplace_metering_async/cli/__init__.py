"""The command line, `marketplace-metering`."""

import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from attrs import asdict

from marketplace_metering_async.cli import demo as demo_command
from marketplace_metering_async.cli import doctor as doctor_command
from marketplace_metering_async.cli import output, sending
from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.cli.plan import Plan, plan_of
from marketplace_metering_async.cli.reading import STDIN, UsageFileError, read_usage
from marketplace_metering_async.cli.settings import (
    CallsPerSecond,
    EndpointUrl,
    ProductCode,
    Profile,
    Region,
    Settings,
)
from marketplace_metering_async.coalescing import HeldHour
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    InvalidRecordError,
    MeteringError,
)
from marketplace_metering_async.records import UsageRecord, usage_timestamp
from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.triage import Fault, triage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Meter usage of AWS Marketplace customers. Results go to stdout, the rest to stderr.",
)
Files = Annotated[list[str], typer.Argument(help="JSON lines or CSV; - is standard input.")]
Coalesce = Annotated[
    bool, typer.Option("--coalesce", help="Add usage up to one record an hour before sending.")
]
CurrentHour = Annotated[
    bool, typer.Option("--include-current-hour", help="Send an hour that is not over, too.")
]


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the records and the faults.")] = 11,
) -> None:
    """Meter 12,000 records into a sandbox with faults on, and compare to the last unit."""
    _end(demo_command.run(seed, output.people()))


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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
    calls_per_second: CallsPerSecond = 10.0,
) -> None:
    """Send usage records; one JSON line of result for each line of input, in order."""
    console = output.people()
    settings = Settings(
        endpoint_url=endpoint_url,
        profile=profile,
        region=region,
        calls_per_second=calls_per_second,
    )
    asks = settings.is_live and not yes and sys.stdin.isatty() and STDIN not in files
    if dry_run or asks:
        plan = _plan(files, product_code, coalesce=coalesce, current=include_current_hour)
        console.print(plan.table(calls_per_second))
        for reason in plan.reasons:
            output.complain(reason)
        if dry_run:
            raise typer.Exit(Exit.REJECTED if plan.refused else Exit.METERED)
        console.print("[bold]What is metered is billed; it can be neither changed nor taken back.")
        try:
            agreed = typer.confirm("Send?", err=True)
        except typer.Abort:
            raise typer.Exit(Exit.INTERRUPTED) from None
        if not agreed:
            raise typer.Exit(Exit.UNDELIVERED)
    lines = read_usage(files)
    if coalesce:
        _end(
            sending.send_coalesced(
                lines,
                settings,
                product_code=product_code,
                include_current_hour=include_current_hour,
                console=console,
            )
        )
    _end(sending.send_lines(lines, settings, product_code=product_code, console=console))


@app.command()
def validate(
    files: Files,
    *,
    product_code: ProductCode = None,
    coalesce: Coalesce = False,
    include_current_hour: CurrentHour = False,
) -> None:
    """Check usage records without a service; every complaint with its file and line."""
    console = output.people()
    plan = _plan(files, product_code, coalesce=coalesce, current=include_current_hour)
    for reason in plan.reasons:
        output.complain(reason)
    console.print(plan.table(10.0))
    raise typer.Exit(Exit.REJECTED if plan.refused else Exit.METERED)


def _plan(files: Sequence[str], product_code: str | None, *, coalesce: bool, current: bool) -> Plan:
    lines = _reading(files)
    if not coalesce:
        return plan_of((line.record for line in lines), product_code)
    sums = sending.Sums(product_code)
    sums.add(list(lines))
    outcomes = sums.outcomes(include_current_hour=current)
    plan = plan_of((o for o in outcomes if isinstance(o, UsageRecord)), product_code)
    for refusal in [*sums.rejected, *(o for o in outcomes if isinstance(o, MeteringError))]:
        plan.refuse(refusal)
    plan.held = sum(isinstance(outcome, HeldHour) for outcome in outcomes)
    plan.records = len(sums)
    return plan


def _reading(files: Sequence[str]) -> Any:  # noqa: ANN401
    try:
        yield from read_usage(files)
    except UsageFileError as error:
        output.complain(error)
        raise typer.Exit(Exit.USAGE) from error


@app.command()
def resolve(
    token: Annotated[str, typer.Argument(help="The form field x-amzn-marketplace-token.")],
    *,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show who is behind a registration token (ResolveCustomer)."""
    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)

    async def call() -> Exit:
        async with settings.client() as client:
            _print(asdict(await client.resolve_customer(token)))
        return Exit.METERED

    _end(call())


@app.command()
def meter(
    *,
    product_code: Annotated[str, typer.Option("--product-code")],
    dimension: Annotated[str, typer.Option("--dimension")],
    quantity: Annotated[int, typer.Option("--quantity", help="Whole units.")],
    timestamp: Annotated[
        str | None, typer.Option("--timestamp", help="ISO 8601 with a time zone; by default now.")
    ] = None,
    client_token: Annotated[
        str | None, typer.Option("--client-token", help="To repeat a request of earlier.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only ask the service whether it would be allowed.")
    ] = False,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Meter usage of software in the buyer's account (MeterUsage)."""
    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)

    async def call() -> Exit:
        when = datetime.now(UTC) if timestamp is None else usage_timestamp(timestamp)
        async with settings.client() as client:
            result = await client.meter_usage(
                product_code=product_code,
                timestamp=when,
                usage_dimension=dimension,
                usage_quantity=quantity,
                dry_run=dry_run,
                client_token=client_token,
            )
        _print(asdict(result))
        return Exit.METERED

    _end(call())


@app.command()
def register(
    *,
    product_code: Annotated[str, typer.Option("--product-code")],
    public_key_version: Annotated[int, typer.Option("--public-key-version", min=1)] = 1,
    nonce: Annotated[str | None, typer.Option("--nonce")] = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Register a paid container (RegisterUsage)."""
    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)

    async def call() -> Exit:
        async with settings.client() as client:
            result = await client.register_usage(
                product_code=product_code, public_key_version=public_key_version, nonce=nonce
            )
        _print(asdict(result))
        return Exit.METERED

    _end(call())


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8765,
    *,
    calls_per_second: CallsPerSecond = 10.0,
) -> None:
    """Run the sandbox until Ctrl-C."""

    async def serve() -> Exit:
        place = Sandbox(port, calls_per_second=calls_per_second or None)
        async with place:
            typer.echo(place.instructions())
            await asyncio.Event().wait()
        return Exit.METERED

    _end(serve())


@app.command()
def doctor(
    *,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Check credentials, region, endpoint, clock and versions. Meters nothing."""
    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)
    _end(doctor_command.run(settings, output.people()))


def _print(members: dict[str, Any]) -> None:
    typer.echo(json.dumps({n: v for n, v in members.items() if v is not None}, default=str))


def _end(work: Coroutine[Any, Any, Exit]) -> None:
    """Run *work* and leave with its code, or with the code and a line for what went wrong."""
    try:
        code = asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(Exit.INTERRUPTED) from None
    except UsageFileError as error:
        output.complain(error)
        code = Exit.USAGE
    except InvalidRecordError as error:
        output.complain(error)
        code = Exit.USAGE
    except (ConfigurationError, ClientClosedError) as error:
        output.complain(error)
        code = Exit.ACCOUNT
    except MeteringError as error:
        output.complain(f"{error} {getattr(error, 'message', '')}\n{error.advice}")
        passing = triage(error) in (Fault.SERVICE, Fault.THROTTLE)
        code = Exit.UNDELIVERED if passing else Exit.ACCOUNT
    except OSError as error:
        output.complain(error)
        code = Exit.USAGE
    raise typer.Exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        app(None if argv is None else list(argv))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(Exit.METERED)
    return int(Exit.METERED)
