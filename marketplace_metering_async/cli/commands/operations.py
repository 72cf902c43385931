"""`resolve`, `meter` and `register`: the service's other operations, each one call."""

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import typer
from attrs import AttrsInstance, asdict

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.lines import STDIN, opened
from marketplace_metering_async.cli.interrupts import interruptible
from marketplace_metering_async.cli.options import (
    CallSettings,
    Dimension,
    Quantity,
    TheProduct,
    moment,
    open_client,
    option,
    whole_number,
)
from marketplace_metering_async.cli.output.console import Console, print_json
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock

_BLOCK: Final = 2**16
_PATIENCE: Final = 10.0
"""Seconds that a call may take where --timeout does not say."""


async def resolve(
    console: Console,
    token: Annotated[
        str,
        typer.Argument(help="The form field x-amzn-marketplace-token; - reads it from stdin."),
    ],
    settings: CallSettings,
) -> Exit:
    """Show who is behind a registration token (ResolveCustomer)."""
    with interruptible():
        given = _stdin() if token == STDIN else token
    return await _call(
        settings, console, lambda client, patience: client.resolve_customer(given, timeout=patience)
    )


async def meter(
    console: Console,
    *,
    product_code: TheProduct,
    dimension: Dimension,
    quantity: Quantity,
    timestamp: Annotated[
        datetime | None,
        option("--timestamp TIME", "ISO 8601 with a time zone; now by default.", parser=moment),
    ] = None,
    client_token: Annotated[
        str | None,
        option("--client-token TOKEN", "That of an earlier request, to repeat it: it counts once."),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", "Only ask the service whether it would be allowed.")
    ] = False,
    settings: CallSettings,
) -> Exit:
    """Meter usage of software in the buyer's account (MeterUsage)."""
    return await _call(
        settings,
        console,
        lambda client, patience: client.meter_usage(
            product_code=product_code,
            timestamp=SystemClock().now() if timestamp is None else timestamp,
            usage_dimension=dimension,
            usage_quantity=quantity,
            dry_run=dry_run,
            client_token=client_token,
            timeout=patience,
        ),
    )


async def register(
    console: Console,
    *,
    product_code: TheProduct,
    public_key_version: Annotated[
        int,
        option(
            "--public-key-version NUMBER",
            "Which of the product's keys signs the response.",
            parser=whole_number,
        ),
    ] = 1,
    nonce: Annotated[
        str | None, option("--nonce TEXT", "A text that the signed response repeats.")
    ] = None,
    settings: CallSettings,
) -> Exit:
    """Register a paid container at its start (RegisterUsage)."""
    return await _call(
        settings,
        console,
        lambda client, patience: client.register_usage(
            product_code=product_code,
            public_key_version=public_key_version,
            nonce=nonce,
            timeout=patience,
        ),
    )


async def _call(
    settings: CallSettings,
    console: Console,
    operation: Callable[[MarketplaceMeteringClient, float], Awaitable[AttrsInstance]],
) -> Exit:
    async with settings.client(console) as client:
        await open_client(client, console)
        found = asdict(await operation(client, settings.timeout or _PATIENCE))
    said = {name: value for name, value in found.items() if value is not None}
    print_json(said, done="the service has answered")
    return Exit.OK


def _stdin() -> str:
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed")
    with opened(STDIN) as (_, read):
        pieces = iter(partial(read, _BLOCK), b"")
        return b"".join(pieces).decode("utf-8", "replace").strip()
