"""The options of `sandbox` and `sandbox check`."""

from pathlib import Path
from typing import Annotated

import typer
from attrs import frozen

from marketplace_metering_async.cli.options import QUOTA, rate


@frozen(kw_only=True)
class SandboxOptions:
    """Of `sandbox`."""

    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="PORT", help="Where to listen; 0: a free one.", min=0, max=65535
        ),
    ] = 8765
    calls_per_second: Annotated[
        float,
        typer.Option(
            "--calls-per-second",
            metavar="NUMBER",
            parser=rate,
            help="The quota that it enforces; 0: none.",
        ),
    ] = QUOTA
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="HOST",
            help="The address to listen on; another than loopback needs --open-to.",
        ),
    ] = "127.0.0.1"
    open_to: Annotated[
        list[str] | None,
        typer.Option(
            "--open-to",
            metavar="NAME[:PORT]",
            help="Let clients in that call it by this name; may be repeated.",
        ),
    ] = None
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="METERING_SANDBOX_TOKEN",
            help="The token that page and controls ask for; by default a new one with --open-to.",
        ),
    ] = None
    rules: Annotated[
        Path | None,
        typer.Option(
            "--rules",
            metavar="FILE",
            help="A JSON object that switches rules of the service; or a preset: strict, kind.",
        ),
    ] = None
    product: Annotated[
        list[str] | None,
        typer.Option(
            "--product",
            metavar="CODE[,DIMENSION...]",
            help="A product to know; or a JSON object as for the control `products`.",
        ),
    ] = None
    access_key: Annotated[
        list[str] | None,
        typer.Option(
            "--access-key",
            metavar="ID:SECRET",
            help="Verify signatures by this key, refuse other keys; or a JSON object.",
        ),
    ] = None
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="KIND[=PROBABILITY]",
            help="What goes wrong; or a JSON object as for the control `faults`.",
        ),
    ] = None
    seed: Annotated[
        int, typer.Option("--seed", metavar="NUMBER", help="Another one lets faults hit elsewhere.")
    ] = 0
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Keep its memory in a file between runs."),
    ] = None


@frozen(kw_only=True)
class CheckOptions:
    """Of `sandbox check`."""

    url: Annotated[str, typer.Argument(metavar="URL", help="Where the stand-in listens.")]
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="METERING_SANDBOX_TOKEN",
            help="Of a sandbox's controls.",
        ),
    ] = None
    access_key: Annotated[
        str, typer.Option("--access-key", metavar="ID:SECRET", help="To sign with.")
    ] = "sandbox:sandbox"
    legacy: Annotated[
        bool,
        typer.Option("--legacy", help="Name customers by CustomerIdentifier, for older stand-ins."),
    ] = False
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help="A case, or a part of the suite; may be repeated."
        ),
    ] = None
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The answers as a Markdown table to stdout.")
    ] = False
    yes: Annotated[
        bool, typer.Option("--yes", help="Let a sandbox forget the records that it has.")
    ] = False
