"""
`python -m marketplace_metering_async.sandbox`: a sandbox for the process that started it.

The first line of its standard input has the arguments of `Sandbox` as JSON; every user of the
machine could read a command line. It writes a line of JSON with url and environment to standard
output, and ends with its standard input, or with the second line of it. For people there is the
command `marketplace-metering sandbox`.
"""

import asyncio
import json
import sys

from marketplace_metering_async.sandbox.arguments import SandboxArguments
from marketplace_metering_async.sandbox.as_json import from_json


async def _serve() -> None:
    arguments = from_json(SandboxArguments, json.loads(sys.stdin.readline()))
    async with arguments.sandbox() as sandbox:
        place = {
            "url": sandbox.url,
            "environment": sandbox.environment,
            "token": sandbox.guard.token,
        }
        sys.stdout.write(json.dumps(place) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(_serve())
