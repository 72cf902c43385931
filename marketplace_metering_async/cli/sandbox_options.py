"""The options of `sandbox` and `sandbox check`."""

from pathlib import Path
from typing import Annotated

import typer
from attrs import frozen

from marketplace_metering_async.cli.options import option, rate
from marketplace_metering_async.limits import CALLS_PER_SECOND


@frozen(kw_only=True)
class SandboxOptions:
    """Of `sandbox`."""

    port: Annotated[
        int, option("--port PORT", "Where to listen; 0: a free one.", min=0, max=65535)
    ] = 8765
    calls_per_second: Annotated[
        float,
        option("--calls-per-second NUMBER", "The quota that it enforces; 0: none.", parser=rate),
    ] = CALLS_PER_SECOND
    host: Annotated[
        str,
        option("--host HOST", "The address to listen on; another than loopback needs --open-to."),
    ] = "127.0.0.1"
    open_to: Annotated[
        list[str] | None,
        option(
            "--open-to NAME[:PORT]", "Let clients in that call it by this name; may be repeated."
        ),
    ] = None
    token: Annotated[
        str | None,
        option(
            "--token TEXT",
            "The token that page and controls ask for; by default a new one with --open-to.",
            envvar="METERING_SANDBOX_TOKEN",
        ),
    ] = None
    rules: Annotated[
        Path | None,
        option(
            "--rules FILE",
            "A JSON object that switches rules of the service; or a preset: strict, kind.",
        ),
    ] = None
    product: Annotated[
        list[str] | None,
        option(
            "--product CODE[,DIMENSION...]",
            "A product to know; or a JSON object as for the control `products`.",
        ),
    ] = None
    access_key: Annotated[
        list[str] | None,
        option(
            "--access-key ID:SECRET",
            "Verify signatures by this key, refuse other keys; or a JSON object.",
        ),
    ] = None
    fault: Annotated[
        list[str] | None,
        option(
            "--fault KIND[=PROBABILITY]",
            "What goes wrong; or a JSON object as for the control `faults`.",
        ),
    ] = None
    seed: Annotated[int, option("--seed NUMBER", "Another one lets faults hit elsewhere.")] = 0
    state: Annotated[
        Path | None, option("--state FILE", "Keep its memory in a file between runs.")
    ] = None


@frozen(kw_only=True)
class CheckOptions:
    """Of `sandbox check`."""

    url: Annotated[str, typer.Argument(metavar="URL", help="Where the stand-in listens.")]
    token: Annotated[
        str | None,
        option("--token TEXT", "Of a sandbox's controls.", envvar="METERING_SANDBOX_TOKEN"),
    ] = None
    access_key: Annotated[str, option("--access-key ID:SECRET", "To sign with.")] = (
        "sandbox:sandbox"
    )
    legacy: Annotated[
        bool, option("--legacy", "Name customers by CustomerIdentifier, for older stand-ins.")
    ] = False
    only: Annotated[
        list[str] | None, option("--only NAME", "A case, or a part of the suite; may be repeated.")
    ] = None
    markdown: Annotated[
        bool, option("--markdown", "The answers as a Markdown table to stdout.")
    ] = False
    yes: Annotated[bool, option("--yes", "Let a sandbox forget the records that it has.")] = False
