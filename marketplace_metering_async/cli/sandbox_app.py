"""The commands of the sandbox and their options."""

from pathlib import Path
from typing import Annotated

import typer

from marketplace_metering_async.cli.options import QUOTA, rate
from marketplace_metering_async.cli.output.console import stderr_console
from marketplace_metering_async.cli.running import finish

app = typer.Typer()


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
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
        typer.Option(
            "--rules",
            metavar="FILE",
            help="Switches of Rules, as a JSON object; or a preset: strict, kind.",
        ),
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
    if context.invoked_subcommand is not None:
        return
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
def rules() -> None:
    """Show what AWS's pages say and leave open, and how the sandbox reads it, switch by switch."""
    from marketplace_metering_async.cli.commands import sandbox_rules  # noqa: PLC0415 - a web server

    sandbox_rules.show(stderr_console())


@app.command()
def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the stand-in listens.")],
    *,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="METERING_SANDBOX_TOKEN",
            help="Of a sandbox's controls.",
        ),
    ] = None,
    access_key: Annotated[
        str, typer.Option("--access-key", metavar="ID:SECRET", help="To sign with.")
    ] = "sandbox:sandbox",
    legacy: Annotated[
        bool,
        typer.Option("--legacy", help="Name customers by CustomerIdentifier, for older stand-ins."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help="A case, or a part of the suite; may be repeated."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The answers as a Markdown table to stdout.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Let a sandbox forget the records that it has.")
    ] = False,
) -> None:
    """
    Hold a stand-in for the service against what is known of the service, case by case.

    One that has this sandbox's controls is reset before each case, and at the end. Never give it
    the address of AWS: what it sends would be billed.
    """
    from marketplace_metering_async.cli.commands import sandbox_check  # noqa: PLC0415 - rarely needed

    wanted = sandbox_check.CheckOptions(
        url=url,
        token=token,
        access_key=access_key,
        legacy=legacy,
        only=only or [],
        markdown=markdown,
        yes=yes,
    )
    finish(sandbox_check.check(wanted, stderr_console()))
