"""`sandbox`: the sandbox as a process, with what to paste into a shell."""

import sys

from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.output import People
from marketplace_metering_async.sandbox import Sandbox


async def serve(port: int, calls_per_second: float | None, people: People) -> Exit:
    """
    Run the sandbox until it is interrupted.

    Raises:
        OSError: if the port is taken.
    """
    with Interrupts(people, "the sandbox closes.") as interrupts:
        async with Sandbox(port, calls_per_second=calls_per_second) as sandbox:
            sys.stdout.write(sandbox.instructions())
            sys.stdout.flush()
            await interrupts.stopped.wait()
    return Exit.INTERRUPTED
