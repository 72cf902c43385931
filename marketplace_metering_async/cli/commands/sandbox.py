"""`sandbox`: the sandbox as a process, with what to paste into a shell."""

import sys
from pathlib import Path

from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.sandbox import Sandbox, StateFileError


async def serve(
    port: int, calls_per_second: float | None, console: Console, *, state: Path | None = None
) -> Exit:
    """
    Run the sandbox until it is interrupted.

    Raises:
        OSError: if the port is taken.
        MisuseError: if the state file cannot be used.
    """
    try:
        return await _serve(Sandbox(port, calls_per_second=calls_per_second, state=state), console)
    except StateFileError as error:
        raise MisuseError(f"--state: {error}") from error


async def _serve(sandbox: Sandbox, console: Console) -> Exit:
    with Interrupts(console, "the sandbox closes.") as interrupts:
        async with sandbox:
            sys.stdout.write(sandbox.instructions())
            sys.stdout.flush()
            await interrupts.stopped.wait()
    return Exit.INTERRUPTED
