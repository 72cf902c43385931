"""The commands of the sandbox and their options."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from marketplace_metering_async.cli.help import App, examples
from marketplace_metering_async.cli.options import QUOTA, rate
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.cli.running import finish

app = App(
    epilog=examples(
        "sandbox",
        "sandbox --port 0 --product my-product,requests,seats --fault throttle=0.1",
        "sandbox --host 0.0.0.0 --open-to sandbox --state sandbox.json",
        "sandbox check http://127.0.0.1:8765",
    )
)


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    *,
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="PORT", help="Where to listen; 0: a free one.", min=0, max=65535
        ),
    ] = 8765,
    calls_per_second: Annotated[
        float,
        typer.Option(
            "--calls-per-second",
            metavar="NUMBER",
            parser=rate,
            help="The quota that it enforces; 0: none.",
        ),
    ] = QUOTA,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="HOST",
            help="The address to listen on; another than loopback needs --open-to.",
        ),
    ] = "127.0.0.1",
    open_to: Annotated[
        list[str] | None,
        typer.Option(
            "--open-to",
            metavar="NAME[:PORT]",
            help="Let clients in that call it by this name; may be repeated.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="METERING_SANDBOX_TOKEN",
            help="The token that page and controls ask for; by default a new one with --open-to.",
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            "--rules",
            metavar="FILE",
            help="A JSON object that switches rules of the service; or a preset: strict, kind.",
        ),
    ] = None,
    product: Annotated[
        list[str] | None,
        typer.Option(
            "--product",
            metavar="CODE[,DIMENSION...]",
            help="A product to know; or a JSON object as for the control `products`.",
        ),
    ] = None,
    access_key: Annotated[
        list[str] | None,
        typer.Option(
            "--access-key",
            metavar="ID:SECRET",
            help="Verify signatures by this key, refuse other keys; or a JSON object.",
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
        int, typer.Option("--seed", metavar="NUMBER", help="Another one lets faults hit elsewhere.")
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
    finish(partial(sandbox.serve, options))


@app.command(epilog=examples("sandbox rules"))
def rules() -> None:
    """Show what AWS's pages say and leave open, and how the sandbox reads it, switch by switch."""
    from marketplace_metering_async.cli.commands import sandbox_rules  # noqa: PLC0415 - a web server

    sandbox_rules.show(Console())


@app.command(
    epilog=examples(
        "sandbox check http://127.0.0.1:8765",
        "sandbox check http://127.0.0.1:5000 --legacy --markdown",
    )
)
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
    finish(partial(sandbox_check.check, wanted))
