"""The command line as a user meets it: real processes against a real sandbox."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from marketplace_metering_async.sandbox import Fault, Kind, Sandbox

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
STAMP = HOUR.isoformat()


@frozen
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**changes: str | None) -> dict[str, str]:
    """A machine with credentials and a region, and nothing else of AWS."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "COV"))}
    base = {
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    return kept | base | {n: v for n, v in changes.items() if v is not None}


async def start(
    *arguments: object, env: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "marketplace_metering_async",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() if env is None else env,
    )


async def run(*arguments: object, stdin: str = "", env: dict[str, str] | None = None) -> Run:
    process = await start(*arguments, env=env)
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert b"Traceback" not in err, err.decode()
    return Run(process.returncode or 0, out.decode(), err.decode())


def line(customer: int = 1, **changes: Any) -> str:
    members = {
        "timestamp": STAMP,
        "dimension": "requests",
        "quantity": 5,
        "customer_aws_account_id": f"{customer:012d}",
    }
    return json.dumps(members | changes)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(calls_per_second=None) as place:
        yield place


def target(sandbox: Sandbox) -> list[str]:
    return ["--endpoint-url", sandbox.url, "--product-code", "prod"]


FAST = ["--calls-per-second", "0"]


async def test_send_answers_each_line_in_order(sandbox: Sandbox) -> None:
    """
    One line of result for each line of input; malformed lines count as rejected and stop nothing.
    Covers: V09, V10, X10
    """
    given = [line(1), "no json", line(2), line(3, quantity=-1), "", line(4, Foo=1), line(1)]

    done = await run("send", *target(sandbox), "-", stdin="\n".join(given))

    assert 1 == done.code
    assert [1, 2, 3, 4, 6, 7] == [entry["line"] for entry in done.lines]
    words = ["Success", "Rejected", "Success", "Rejected", "Rejected", "Success"]
    assert words == [entry["status"] for entry in done.lines]
    assert "-:4.quantity: expected 0 to 2147483647, got -1" in done.lines[3]["message"]
    assert {"requests": 10} == sandbox.book.totals()
    assert "Rejected" in done.err


async def test_send_takes_boto_names_and_csv(sandbox: Sandbox, tmp_path: Path) -> None:
    """
    Files may hold JSON lines with boto3's names, or CSV; a byte order mark is no part of a name.
    """
    boto = tmp_path / "boto.jsonl"
    record = {"Timestamp": STAMP, "Dimension": "a", "Quantity": 1, "CustomerIdentifier": "c"}
    boto.write_text(json.dumps(record) + "\n")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(
        "\ufefftimestamp,dimension,quantity,customer_aws_account_id\n"
        f'{STAMP},b,2,"000000000001"\n{STAMP},b,"3,000000000002\n{STAMP},b,4,000000000003\n',
        encoding="utf-8",
    )

    done = await run("send", *target(sandbox), boto, sheet)

    assert 1 == done.code
    assert ["Success", "Success", "Rejected", "Success"] == [e["status"] for e in done.lines]
    assert {"a": 1, "b": 6} == sandbox.book.totals()


async def test_coalesce_adds_up_and_holds_the_current_hour(sandbox: Sandbox) -> None:
    """
    Events of an hour are one record; an hour that is not over is held, listed, and exits with 3.
    """
    now = datetime.now(UTC).isoformat()
    given = [line(1, timestamp=(HOUR + timedelta(minutes=m)).isoformat()) for m in range(60)]
    given += [line(2, timestamp=now), "{"]

    done = await run("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given))

    assert 3 == done.code
    assert {"requests": 300} == sandbox.book.totals()
    assert 1 == len(sandbox.book)
    assert ["Success"] * 60 + ["Held", "Rejected"] == [entry["status"] for entry in done.lines]
    assert "held back (5 requests)" in done.err

    await run(
        "send", "--coalesce", "--include-current-hour", *target(sandbox), "-", stdin=given[60]
    )
    assert {"requests": 305} == sandbox.book.totals()


async def test_dry_run_sends_nothing(sandbox: Sandbox) -> None:
    """
    The plan tells records, calls and what would be refused.
    """
    given = [line(n) for n in range(60)] + [line(1, quantity=9), "x"]

    done = await run("send", "--dry-run", *target(sandbox), "-", stdin="\n".join(given))

    assert 1 == done.code
    assert 0 == sandbox.calls.total()
    assert "calls" in done.err
    assert "records[1, 60] have one key" in done.err


@pytest.mark.parametrize(
    ("code", "arguments", "stdin", "says"),
    [
        (2, ["send"], "", "Missing argument"),
        (2, ["send", "--nonsense", "-"], "", "No such option"),
        (2, ["send", "/nowhere/at/all", "--product-code", "p"], "", "No such file"),
        (2, ["send", "-", "--product-code", "p"], "timestamp,colour\n1,2\n", "unknown column"),
        (4, ["send", "-", "--product-code", "p", "--endpoint-url", "http://evil.example"],
         line(), "https"),
        (4, ["send", "-", "--product-code", "p", "--profile", "none"], line(), "none"),
    ],
)  # fmt: skip
async def test_misuse_is_told_in_a_line(
    code: int, arguments: list[str], stdin: str, says: str
) -> None:
    """
    A wrong option, file, header or setting ends with its code and no traceback.
    """
    done = await run(*arguments, stdin=stdin)

    assert code == done.code, done.err
    assert says in done.err


@pytest.mark.parametrize("missing", ["AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"])
async def test_no_region_or_credentials_exits_with_4(sandbox: Sandbox, missing: str) -> None:
    """
    The text says what to set.
    """
    env = environment()
    del env[missing]

    done = await run("send", *target(sandbox), "-", stdin=line(), env=env)

    assert 4 == done.code
    assert "AWS_" in done.err


async def test_an_account_fault_exits_with_4(sandbox: Sandbox) -> None:
    """
    It comes before the undelivered and the rejected; no line is lost.
    """
    sandbox.inject(Fault(kind=Kind.REFUSE, code="AccessDeniedException", status=403))

    done = await run("send", *target(sandbox), "-", stdin="\n".join([line(1), "x", line(2)]))

    assert 4 == done.code
    assert ["Unprocessed", "Rejected", "Unprocessed"] == [e["status"] for e in done.lines]


async def test_a_dead_endpoint_is_undelivered() -> None:
    """
    Ctrl-C ends the waiting: first what was read is still tried, then it aborts. Covers: C15
    """
    process = await start(
        "send", "-", "--endpoint-url", "http://127.0.0.1:9", "--product-code", "p"
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(line().encode() + b"\n")
    await process.stdin.drain()
    await asyncio.sleep(2)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        said = await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        code = await process.wait()

    assert b"Interrupted" in said
    assert 130 == code


async def test_a_closed_pipe_is_no_traceback(sandbox: Sandbox) -> None:
    """
    `| head -1` ends well, and everything is still metered. Covers: X11
    """
    given = "\n".join(line(n) for n in range(3000))
    process = await start("send", *target(sandbox), *FAST, "-")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(given.encode())
    process.stdin.close()
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        err = await process.stderr.read()
        code = await process.wait()

    assert b"Traceback" not in err
    assert 0 == code, err
    assert 3000 == len(sandbox.book)


async def test_the_other_operations(sandbox: Sandbox) -> None:
    """
    resolve, meter and register print the answer as JSON, or the service's error in a line.
    """
    token = sandbox.issue_token("prod", customer_aws_account_id="123456789012")
    where = ["--endpoint-url", sandbox.url]

    resolved = await run("resolve", *where, token)
    forged = await run("resolve", *where, "forged")
    metered = await run("meter", *target(sandbox), "--dimension", "d", "--quantity", 3)
    dry = await run("meter", *target(sandbox), "--dimension", "d", "--quantity", 3, "--dry-run")
    registered = await run("register", *target(sandbox))

    assert "123456789012" == resolved.lines[0]["customer_aws_account_id"]
    assert (4, True) == (forged.code, "InvalidTokenException" in forged.err)
    assert metered.lines[0]["metering_record_id"]
    assert dry.lines[0]["dry_run"] is True
    assert registered.lines[0]["signature"]


async def test_validate_and_doctor(sandbox: Sandbox) -> None:
    """
    Neither meters anything.
    """
    valid = await run("validate", "--product-code", "p", "-", stdin=line())
    invalid = await run("validate", "-", stdin=line())
    doctor = await run("doctor", "--endpoint-url", sandbox.url)
    sick = await run("doctor", "--endpoint-url", "http://127.0.0.1:9")

    assert (0, 1) == (valid.code, invalid.code)
    assert "records[0].product_code: expected a product code" in invalid.err
    assert (0, 4) == (doctor.code, sick.code), doctor.err
    assert "clock" in doctor.err
    assert 0 == sandbox.calls["BatchMeterUsage"]


async def test_the_sandbox_command_prints_what_to_paste() -> None:
    """
    It serves until it is interrupted.
    """
    process = await start("sandbox", "--port", 0)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        first = (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGINT)
        await process.wait()

    assert first.startswith("export AWS_ENDPOINT_URL_MARKETPLACE_METERING=http://127.0.0.1:")


async def test_the_demo_ends_equal() -> None:
    """
    Twelve thousand records through faults, and the book is equal to the input.
    """
    done = await run("demo")

    assert 0 == done.code, done.err
    assert "Equal to the last unit" in done.err
    assert "12,000" in done.err
