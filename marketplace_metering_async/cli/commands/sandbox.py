"""`sandbox …`: the commands of the sandbox."""

import typer

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.help import App, examples
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.cli.running import run_by_options
from marketplace_metering_async.cli.sandbox_options import CheckOptions, SandboxOptions

app = App(
    epilog=examples(
        "sandbox",
        "sandbox --port 0 --product my-product,requests,seats --fault throttle=0.1",
        "sandbox --host 0.0.0.0 --open-to sandbox --state sandbox.json",
        "sandbox check http://127.0.0.1:8765",
    )
)


@app.callback(invoke_without_command=True)
@run_by_options
async def serve(console: Console, context: typer.Context, options: SandboxOptions) -> Exit | None:
    """Run the sandbox, a stand-in for the service on this machine, until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return None
    from marketplace_metering_async.cli.commands import sandbox_serve  # noqa: PLC0415 - a web server

    return await sandbox_serve.serve(options, console)


@app.command("sandbox rules")
async def rules(console: Console) -> Exit:
    """Show what AWS's pages say and leave open, and how the sandbox reads it, switch by switch."""
    from marketplace_metering_async.cli.commands import sandbox_rules  # noqa: PLC0415 - a web server

    sandbox_rules.show(console)
    return Exit.OK


@app.command(
    "sandbox check http://127.0.0.1:8765", "sandbox check http://127.0.0.1:5000 --legacy --markdown"
)
async def check(console: Console, options: CheckOptions) -> Exit:
    """
    Hold a stand-in for the service against what is known of the service, case by case.

    One that has this sandbox's controls is reset before each case, and at the end. Never give it
    the address of AWS: what it sends would be billed.
    """
    from marketplace_metering_async.cli.commands import sandbox_check  # noqa: PLC0415 - rarely needed

    return await sandbox_check.check(options, console)
