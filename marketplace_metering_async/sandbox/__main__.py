"""
`python -m marketplace_metering_async.sandbox`: a sandbox for the process that started it.

It takes a free port, writes a line of JSON with url and environment to standard output, and ends
when its standard input does. For people there is the command `marketplace-metering sandbox`.
"""

import asyncio
import json
import sys

from marketplace_metering_async.sandbox import Sandbox


async def _serve() -> None:
    async with Sandbox() as sandbox:
        place = {"url": sandbox.url, "environment": sandbox.environment}
        sys.stdout.write(json.dumps(place) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
