"""`resolve`, `meter` and `register`: the service's other operations, each one call."""

import sys
from datetime import datetime
from typing import Annotated

import typer
from attrs import asdict

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.options import (
    EndpointUrl,
    Profile,
    Quantity,
    Region,
    Settings,
    TheProduct,
    moment,
    whole_number,
)
from marketplace_metering_async.cli.output.console import print_json
from marketplace_metering_async.cli.running import finish
from marketplace_metering_async.clock import SystemClock


def resolve(
    token: Annotated[
        str,
        typer.Argument(help="The form field x-amzn-marketplace-token; - reads it from stdin."),
    ],
    *,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show who is behind a registration token (ResolveCustomer)."""
    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)
    given = _stdin() if token == "-" else token  # noqa: S105 - stands for standard input

    async def call() -> Exit:
        async with settings.client() as client:
            print_json(_known(asdict(await client.resolve_customer(given))))
        return Exit.OK

    finish(call())


def meter(
    *,
    product_code: TheProduct,
    dimension: Annotated[str, typer.Option("--dimension", metavar="NAME")],
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
        typer.Option("--client-token", metavar="TOKEN", help="To repeat a request of earlier."),
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
        async with settings.client() as client:
            result = await client.meter_usage(
                product_code=product_code,
                timestamp=SystemClock().now() if timestamp is None else timestamp,
                usage_dimension=dimension,
                usage_quantity=quantity,
                dry_run=dry_run,
                client_token=client_token,
            )
        print_json(_known(asdict(result)))
        return Exit.OK

    finish(call())


def register(
    *,
    product_code: TheProduct,
    public_key_version: Annotated[
        int,
        typer.Option("--public-key-version", metavar="NUMBER", parser=whole_number),
    ] = 1,
    nonce: Annotated[str | None, typer.Option("--nonce", metavar="TEXT")] = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Register a paid container at its start (RegisterUsage)."""
    settings = Settings(endpoint_url=endpoint_url, profile=profile, region=region)

    async def call() -> Exit:
        async with settings.client() as client:
            result = await client.register_usage(
                product_code=product_code, public_key_version=public_key_version, nonce=nonce
            )
        print_json(_known(asdict(result)))
        return Exit.OK

    finish(call())


def _stdin() -> str:
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed")
    with open(0, encoding="utf-8", errors="replace", closefd=False) as stream:
        return stream.read().strip()


def _known(members: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
