"""README and guides: every program in them runs as it stands, and what they name is there."""

import asyncio
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer
from support.guides import GUIDES, ROOT, Program, named, programs
from support.ledgers import new_postgres_database, postgres_server

from marketplace_metering_async import Customer, HourState, MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.testing import SandboxThread

README = ROOT / "README.md"
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
SAYS = {
    "meter_an_hour.py": "of 100 records; Success: 100>",
    "bill_the_hours.py": "2 records to send; 0 hours are not over yet",
    "stream.py": "",
    "many_callers.py": "0149 Success",
    "from_boto3.py": "[('Success', ",
    "serve.py": "recorded=3",
    "from_a_queue.py": "put aside: message-2 usages[2].quantity: expected",
}
"""What a program that runs to its end prints."""
DRIVEN = {
    "handler.py",
    "registration.py",
    "billing_app.py",
    "worker.py",
    "aiohttp_app.py",
    "metering.py",
}
"""Those with a test of their own below."""
OF_PYTEST = {"test_my_billing.py", "test_the_bill.py", "conftest.py"}


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[Sandbox]:
    with SandboxThread(Sandbox(calls_per_second=None)) as running:
        yield running.sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sandbox:
    """A sandbox to which the environment leads, and a folder with some events."""
    shared_sandbox.reset(everything=True)
    for name, value in shared_sandbox.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    events = [event(1), event(2), event(1, 2)]
    Path("events.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    return shared_sandbox


def event(customer: int, quantity: int = 1) -> dict[str, Any]:
    return {
        "Timestamp": HOUR.isoformat(),
        "Dimension": "requests",
        "Quantity": quantity,
        "CustomerAWSAccountId": f"{customer:012d}",
    }


def run(name: str) -> dict[str, Any]:
    """Run the program *name* as a script, and return its names."""
    path = Path(name)
    path.write_text(named(name), encoding="utf-8")
    return runpy.run_path(str(path), run_name="__main__")


def test_every_program_is_whole_and_run_here() -> None:
    """
    Each has a name of its own, and a test.
    """
    names = [program.name for program in programs()]

    assert sorted(set(names)) == sorted(names)
    assert set(names) == set(SAYS) | DRIVEN | OF_PYTEST


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
def test_no_program_is_wider_than_a_screen(program: Program) -> None:
    """
    And each compiles.
    """
    compile(program.text, program.name, "exec")
    assert max(map(len, program.text.splitlines())) <= 110


@pytest.mark.parametrize("name", SAYS)
def test_a_program_runs_as_it_stands(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """
    Against the sandbox, which the environment names.
    """
    run(name)

    assert SAYS[name] in capsys.readouterr().out
    assert len(sandbox.book) or name in {"serve.py", "from_a_queue.py"}


def test_a_lambda_handler_gives_back_what_is_not_delivered(sandbox: Sandbox) -> None:
    """
    And nothing else.
    """
    messages = [{"messageId": str(n), "body": json.dumps(event(n))} for n in range(1, 4)] + [
        {"messageId": "bad", "body": json.dumps(event(5) | {"Quantity": -1})}
    ]

    answer = run("handler.py")["handler"]({"Records": messages})

    assert {"batchItemFailures": []} == answer
    assert 3 == len(sandbox.book)


async def test_a_buyer_registers(sandbox: Sandbox) -> None:
    """
    By a token of the sandbox; a forged one is asked for again.
    """
    register = run("registration.py")["register"]
    sandbox.declare_product("my-product", dimensions=["requests"], customers=["111122223333"])
    token = sandbox.issue_token("my-product", customer_aws_account_id="111122223333")
    async with MarketplaceMeteringClient() as client:
        found = await register(client, {"x-amzn-marketplace-token": token})
        assert isinstance(found, Customer)
        assert "111122223333" == found.customer_aws_account_id
        sandbox.advance(hours=5)
        late = await register(client, {"x-amzn-marketplace-token": token})
        forged = await register(client, {"x-amzn-marketplace-token": "forged"})
    assert "too old" in late
    assert "again" in forged


async def test_an_aiohttp_application(sandbox: Sandbox) -> None:
    """
    Usage is stored while it runs, and the relay ends with it.
    """
    app = run("aiohttp_app.py")["application"]()
    async with TestClient(TestServer(app)) as browser:
        for _ in range(2):
            headers = {"X-Account": "111122223333", "X-Request-Id": "a"}
            answer = await browser.post("/work", headers=headers)
            assert 200 == answer.status
    async with UsageLedger.open("sqlite:///usage.db") as ledger:
        assert 1 == (await ledger.status()).recorded


PREFORK = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from metering import add_usage

USAGE = {"dimension": "requests", "product_code": "product", "customer_aws_account_id": "1" * 12}


def work(number):
    return add_usage(quantity=1, event_id=f"{os.getpid()}-{number}", **USAGE)


children = []
for _ in range(2):
    child = os.fork()
    if not child:
        with ThreadPoolExecutor(4) as threads:
            added = list(threads.map(work, range(50)))
        sys.exit(sum(not one.repeated for one in added))
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_program_without_an_event_loop(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In each worker of a server that forks them, from all its threads.
    """
    (tmp_path / "metering.py").write_text(named("metering.py"), encoding="utf-8")
    with ExitStack() as servers:
        url = f"sqlite:///{tmp_path}/usage.db"
        if kind == "postgresql":
            server = servers.enter_context(postgres_server())
            url = await new_postgres_database(server.url)
        monkeypatch.setenv("DATABASE_URL", url)
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PREFORK],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "[50, 50]\n" == ended.stdout, ended.stderr
        async with UsageLedger.open(url) as ledger:
            assert 100 == (await ledger.status()).recorded


@pytest.fixture
async def database(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    with postgres_server() as server:
        url = await new_postgres_database(server.url)
        monkeypatch.setenv("DATABASE_URL", url)
        yield url


async def test_fastapi_with_a_worker(sandbox: Sandbox, database: str) -> None:
    """
    Orders commit with their usage; a buyer registers and cancels; the last hour is metered by the
    worker, which SIGTERM ends well. In at most 150 lines of the user's own. Newcomer, part 2
    """
    lines = sum(len(named(name).splitlines()) for name in ("billing_app.py", "worker.py"))
    assert lines <= 150
    sandbox.declare_product("my-product", dimensions=["units"], customers=["111122223333"])
    token = sandbox.issue_token("my-product", customer_aws_account_id="111122223333")
    app = SimpleNamespace(**run("billing_app.py")).app
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as browser,
    ):
        unknown = await browser.post("/orders/1?units=5", headers={"X-Account": "9"})
        form = {"x-amzn-marketplace-token": token}
        forged = await browser.post("/register", data={"x-amzn-marketplace-token": "x"})
        welcome = await browser.post("/register", data=form)
        buyer = {"X-Account": "111122223333"}
        codes = [
            (await browser.post(f"/orders/{path}", headers=buyer)).status_code
            for path in ("1?units=5", "1?units=5", "1?units=6", "2?units=7")
        ]
        hours = (await browser.post("/cancelled", headers=buyer)).json()
        shown = (await browser.get("/metrics")).text
        with _started("worker.py") as worker:
            for _ in range(1000):
                if len(sandbox.book):
                    break
                await asyncio.sleep(0.02)
            worker.send_signal(signal.SIGTERM)
            assert 0 == await asyncio.to_thread(worker.wait, 20)
    assert (403, 400, 200) == (unknown.status_code, forged.status_code, welcome.status_code)
    assert [200, 200, 409, 200] == codes
    assert {"hours": 1} == hours
    assert re.search(r"^marketplace_metering_ledger_recorded_units\w* 12$", shown, re.MULTILINE)
    assert {"units": 12} == sandbox.book.totals()


@contextmanager
def _started(name: str) -> "Iterator[subprocess.Popen[bytes]]":
    """The program *name* as a process, once it says that it works."""
    Path(name).write_text(named(name), encoding="utf-8")
    with subprocess.Popen(  # noqa: S603 - the guide's own program
        [sys.executable, name], stdout=subprocess.PIPE, env=dict(os.environ)
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"relaying to http://127.0.0.1:")
            yield process
        finally:
            process.kill()


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    """
    By a pytest of their own. (The conftest.py is for a PostgreSQL that not everybody has.)
    """
    for name in OF_PYTEST - {"conftest.py"}:
        (tmp_path / name).write_text(named(name), encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - the guide's own tests
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )

    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_two_commands_do_all_the_set_up() -> None:
    """
    One line each, in a code block, in this order; and the README is short.
    """
    text = README.read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]

    assert lines[0].startswith("python3 -m venv .venv && ")
    assert lines[0].endswith(" demo")
    assert lines[1].startswith("python3 -m venv .venv && ")
    assert "pytest" in lines[1]
    assert len(text.splitlines()) <= 150


def test_the_policy_allows_the_operations() -> None:
    """
    As IAM names them, and no others.
    """
    (text,) = re.findall(r"```json\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (statement,) = json.loads(text)["Statement"]

    operations = ("BatchMeterUsage", "ResolveCustomer", "MeterUsage", "RegisterUsage")
    assert [f"aws-marketplace:{name}" for name in operations] == statement["Action"]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(guide: Path) -> None:
    """
    In the project; addresses elsewhere are AWS's and well-known ones.
    """
    text = guide.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("https://"):
            assert (guide.parent / target).exists(), target


def test_every_state_of_usage_stands_in_the_guide() -> None:
    """
    With what to do about it, in short.
    """
    text = (ROOT / "marketplace_metering_async/ledger/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", text, re.MULTILINE)
    named_there = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}

    live = {HourState.OPEN, HourState.FROZEN, HourState.METERED}
    assert {state.value for state in set(HourState) - live} == named_there
