"""
How do processes get on that share customers? `python benchmarks/ledger_processes.py 88aeffa`

Four processes, each with 500 callers, add usage of the same ten customers to one PostgreSQL for
five seconds: calls a second of all of them together. A git revision, such as 88aeffa, does the same
in turn, in a database of its own on the same server, and the ratio of each round is shown.
"""

import asyncio
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from lab.harness import Row, results, spread

HERE = Path(__file__).resolve().parent
PROCESSES = 4
CALLERS = 500
CUSTOMERS = 10
SECONDS = 5.0


def unheard(event: object) -> None:
    """Observe nothing."""
    del event


async def add_for_a_while(url: str) -> int:
    """Add usage from when a line comes; return how many calls were done in time."""
    from marketplace_metering_async import UsageLedger  # of whichever revision

    run, done = uuid4().hex, 0
    async with UsageLedger.open(url, observer=unheard) as ledger:

        async def add(number: int) -> None:
            await ledger.add_usage(
                dimension="requests",
                quantity=1,
                customer_aws_account_id=f"{number % CUSTOMERS:012d}",
                product_code="product",
                event_id=f"{run}-{number}",
            )

        async def caller(first: int, until: float) -> None:
            nonlocal done
            number = first
            while time.perf_counter() < until:
                await add(number)
                done, number = done + 1, number + CALLERS

        for customer in range(CUSTOMERS):
            await add(-1 - customer)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        until = time.perf_counter() + SECONDS
        await asyncio.gather(*(caller(first, until) for first in range(CALLERS)))
    return done


def rate(url: str, source: Path) -> float:
    """Return the calls a second of all processes, with the package in *source*."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "adder", url],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate()[0]) for process in processes) / SECONDS


def check_out(revision: str, folder: Path) -> Path:
    """Return a folder with the package as it was."""
    packed = subprocess.run(
        ["git", "archive", revision, "marketplace_metering_async"],
        cwd=HERE.parent,
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main(revisions: Sequence[str], rounds: int) -> None:
    sys.path.insert(0, str(HERE.parent / "tests"))
    from support.ledgers import new_postgres_database, postgres_server

    with (
        results("ledger-processes") as found,
        tempfile.TemporaryDirectory() as name,
        postgres_server() as server,
    ):
        sources = {"now": HERE.parent} | {
            revision: check_out(revision, Path(name) / revision) for revision in revisions
        }
        urls = {kind: asyncio.run(new_postgres_database(server.url)) for kind in sources}
        rows: list[Row] = []
        for number in range(rounds):
            for kind in sorted(sources, reverse=bool(number % 2)):
                added = round(rate(urls[kind], sources[kind]))
                rows.append({"round": number, "version": kind, "adds_a_second": added})
                print(rows[-1], flush=True)
        found["rows"] = rows
        for revision in revisions:
            now, before = (
                [row["adds_a_second"] for row in rows if row["version"] == kind]
                for kind in ("now", revision)
            )
            found["ratios"] = ratios = [round(n / b, 2) for n, b in zip(now, before, strict=True)]
            print(f"now to {revision}", spread(ratios))


if __name__ == "__main__":
    if sys.argv[1:2] == ["adder"]:
        print(asyncio.run(add_for_a_while(sys.argv[2])))
    else:
        main(sys.argv[1:2], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
