"""`resolve`, `meter` and `register`: the service's other operations, each one call."""

import sys
from datetime import datetime
from typing import Annotated, Final

import typer
from attrs import asdict

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.options import (
    Dimension,
    EndpointUrl,
    Format,
    Profile,
    Quantity,
    Region,
    Settings,
    TheProduct,
    Timeout,
    Verbose,
    moment,
    open_client,
    whole_number,
)
from marketplace_metering_async.cli.output.console import Console, Log, LogFormat, print_json
from marketplace_metering_async.cli.running import finish
from marketplace_metering_async.clock import SystemClock

_PATIENCE: Final = 10.0
"""Seconds that a call may take where --timeout does not say."""


def resolve(
    token: Annotated[
        str,
        typer.Argument(help="The form field x-amzn-marketplace-token; - reads it from stdin."),
    ],
    *,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Show who is behind a registration token (ResolveCustomer)."""
    settings = Settings(
        endpoint_url=endpoint_url,
        profile=profile,
        region=region,
        timeout=timeout,
        log=Log(verbose=verbose, format=log_format),
    )
    given = _stdin() if token == "-" else token  # noqa: S105 - stands for standard input

    async def call(console: Console) -> Exit:
        async with settings.client(console) as client:
            await open_client(client, console)
            found = await client.resolve_customer(given, timeout=settings.timeout or _PATIENCE)
            print_json(_known(asdict(found)))
        return Exit.OK

    finish(call, settings.log)


def meter(
    *,
    product_code: TheProduct,
    dimension: Dimension,
    quantity: Quantity,
    timestamp: Annotated[
        datetime | None,
        typer.Option(
            "--timestamp",
            metavar="TIME",
            parser=moment,
            help="ISO 8601 with a time zone; now by default.",
        ),
    ] = None,
    client_token: Annotated[
        str | None,
        typer.Option(
            "--client-token",
            metavar="TOKEN",
            help="That of an earlier request, to repeat it: it counts once.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only ask the service whether it would be allowed.")
    ] = False,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Meter usage of software in the buyer's account (MeterUsage)."""
    settings = Settings(
        endpoint_url=endpoint_url,
        profile=profile,
        region=region,
        timeout=timeout,
        log=Log(verbose=verbose, format=log_format),
    )

    async def call(console: Console) -> Exit:
        async with settings.client(console) as client:
            await open_client(client, console)
            result = await client.meter_usage(
                product_code=product_code,
                timestamp=SystemClock().now() if timestamp is None else timestamp,
                usage_dimension=dimension,
                usage_quantity=quantity,
                dry_run=dry_run,
                client_token=client_token,
                timeout=settings.timeout or _PATIENCE,
            )
        print_json(_known(asdict(result)))
        return Exit.OK

    finish(call, settings.log)


def register(
    *,
    product_code: TheProduct,
    public_key_version: Annotated[
        int,
        typer.Option(
            "--public-key-version",
            metavar="NUMBER",
            parser=whole_number,
            help="Which of the product's keys signs the response.",
        ),
    ] = 1,
    nonce: Annotated[
        str | None,
        typer.Option("--nonce", metavar="TEXT", help="A text that the signed response repeats."),
    ] = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Register a paid container at its start (RegisterUsage)."""
    settings = Settings(
        endpoint_url=endpoint_url,
        profile=profile,
        region=region,
        timeout=timeout,
        log=Log(verbose=verbose, format=log_format),
    )

    async def call(console: Console) -> Exit:
        async with settings.client(console) as client:
            await open_client(client, console)
            result = await client.register_usage(
                product_code=product_code,
                public_key_version=public_key_version,
                nonce=nonce,
                timeout=settings.timeout or _PATIENCE,
            )
        print_json(_known(asdict(result)))
        return Exit.OK

    finish(call, settings.log)


def _stdin() -> str:
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed")
    with open(0, encoding="utf-8", errors="replace", closefd=False) as stream:
        return stream.read().strip()


def _known(members: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
