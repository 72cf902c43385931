"""The pytest plugin, run by a pytest of its own; and the strategies."""

import asyncio
import socket
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.suites import PLUGIN, Suite, suite_of

from marketplace_metering_async import (
    MarketplaceMeteringClient,
    RecordStatus,
    RetryPolicy,
    UsageRecord,
)
from marketplace_metering_async.records import Tag
from marketplace_metering_async.sandbox import Book, Fault, FaultKind, Sandbox, SandboxClock
from marketplace_metering_async.testing import SandboxServer, SandboxThread
from marketplace_metering_async.testing.plugin import _leading_to
from marketplace_metering_async.testing.strategies import batches, fault_scripts, usage_records

pytest_plugins = ["pytester"]
NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
QUICK = RetryPolicy(base_delay=0.001, max_delay=0.002)

COMMON = """
    import os
    from datetime import datetime, timedelta, UTC
    import pytest

    NOW = datetime.now(UTC)
    BUYER = "111122223333"

    def meter(quantity=42, moment=None):
        import boto3
        import botocore.session
        from support.aws import LOADER
        record = {
            "Timestamp": moment or NOW, "CustomerAWSAccountId": BUYER,
            "Dimension": "requests", "Quantity": quantity,
        }
        # Reading the model of the service anew takes most of a test's time.
        session = botocore.session.Session()
        session.register_component("data_loader", LOADER)
        client = boto3.Session(botocore_session=session).client("meteringmarketplace")
        answer = client.batch_meter_usage(ProductCode="p", UsageRecords=[record])
        client.close()
        return [result["Status"] for result in answer["Results"]]
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Runs a test file that begins with what they have in common."""
    monkeypatch.setenv("AWS_PROFILE", "in-the-way")
    monkeypatch.delenv("AWS_ENDPOINT_URL_MARKETPLACE_METERING", raising=False)
    suite = suite_of(pytester, monkeypatch)
    return lambda text: suite(dedent(COMMON + text))


def test_the_fixture_leads_boto3_to_a_sandbox_of_its_own(run: Suite) -> None:
    """
    Each test begins with an empty book, and the environment is as before afterwards.
    """
    result = run("""
    def test_one(metering_sandbox):
        assert meter() == ["Success"]
        assert meter() == ["DuplicateRecord"]
        metering_sandbox.book.assert_metered({(BUYER, "requests", NOW): 42})

    def test_two(metering_sandbox):
        metering_sandbox.book.assert_metered({})
        assert meter() == ["Success"]

    def test_outside():
        assert "AWS_ENDPOINT_URL_MARKETPLACE_METERING" not in os.environ
        assert os.environ["AWS_PROFILE"] == "in-the-way"
    """)

    result.assert_outcomes(passed=3)


def test_a_test_runs_under_each_reading(run: Suite) -> None:
    """
    Of both fixtures; under those named only, beside arguments of the sandbox.
    """
    result = run("""
    @pytest.mark.metering_readings("identical_resend", "strict")
    @pytest.mark.metering_sandbox(history=7)
    def test_some(metering_sandbox, request):
        resent = [meter(), meter()][1]
        kind = metering_sandbox.book.rules.identical_resend == "success"
        assert resent == ["Success" if kind else "DuplicateRecord"]
        assert kind == ("identical_resend=success" in request.node.name)

    @pytest.mark.metering_readings("kind")
    def test_kind(metering_sandbox_server):
        assert [meter(), meter()] == [["Success"], ["Success"]]

    def test_usual(metering_sandbox_server):
        assert [meter(), meter()] == [["Success"], ["DuplicateRecord"]]
    """)
    result.assert_outcomes(passed=4)


def test_a_marker_that_cannot_work_is_refused(run: Suite) -> None:
    """
    For a reading that there is not, a test without a sandbox, and an argument without a name.
    """
    result = run("""
    @pytest.mark.metering_sandbox(None)
    def test_nought(metering_sandbox):
        pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*metering_sandbox: expected arguments by name, got None*"])
    result = run("""
    @pytest.mark.metering_readings("lenient")
    def test_one(metering_sandbox):
        pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*metering_readings: unknown: lenient*"])
    result = run("""
    @pytest.mark.metering_readings
    def test_two():
        pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs metering_sandbox*"])


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("metering_sandbox(rules='strict')", "*rules: expected Rules or None, got 'strict'"),
        ("metering_sandbox(clock=5)", "*clock: expected SandboxClock or None, got 5"),
        ("metering_sandbox(faults=['throttle'])", "*faults: expected several of Fault, or fun*"),
        ("metering_readings(5)", "*metering_readings: unknown: 5*"),
        ("metering_readings(['strict'])", "*metering_readings: unknown: [[]'strict'[]]*"),
        (
            "metering_readings(only='strict')",
            "*metering_readings: expected names alone, got on*",
        ),
    ],
)
def test_a_marker_says_which_argument_is_wrong(marker: str, said: str, run: Suite) -> None:
    """
    Not somewhere inside, at the first call, and no name of a reading is left out in silence.
    """
    result = run(f"""
    @pytest.mark.{marker}
    def test_nought(metering_sandbox):
        pass
    """)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


def test_what_ends_a_fixture_early_leaves_boto3_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Otherwise every later test of the session has the keys of a sandbox that is closed.
    """
    boto3 = SimpleNamespace(DEFAULT_SESSION="the user's")
    monkeypatch.setitem(sys.modules, "boto3", boto3)

    with pytest.raises(KeyboardInterrupt), _leading_to({}, monkeypatch):
        boto3.DEFAULT_SESSION = "a sandbox's"
        raise KeyboardInterrupt

    assert "the user's" == boto3.DEFAULT_SESSION


def test_the_fixture_serves_asyncio(run: Suite) -> None:
    """
    The client finds it with no argument; clock and faults are moved from the test.
    """
    result = run("""
    from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
    from marketplace_metering_async.sandbox import Fault, FaultKind

    async def test_delivery(metering_sandbox):
        metering_sandbox.inject(Fault(kind=FaultKind.ERROR_500, max_hits=1))
        metering_sandbox.advance(hours=2)
        record = UsageRecord(timestamp=NOW, dimension="requests", quantity=5,
                             customer_aws_account_id=BUYER, product_code="p")
        async with MarketplaceMeteringClient() as client:
            result = await client.batch_meter_usage([record])
        assert result.succeeded
        assert metering_sandbox.hits == {"error-500": 1}
        assert metering_sandbox.clock.now() > NOW + timedelta(hours=1)
        metering_sandbox.book.assert_metered({(BUYER, "requests", NOW): 5})
    """)

    result.assert_outcomes(passed=1)


def test_money_that_differs_is_told_line_by_line(run: Suite) -> None:
    """
    What was expected, and what was metered, of each hour.
    """
    result = run("""
    def test_money(metering_sandbox):
        meter()
        metering_sandbox.book.assert_metered({
            (BUYER, "requests", NOW): 43, (BUYER, "seats", NOW): 1})
    """)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*the book is not as expected:",
            "E*111122223333 requests *Z: expected 43, metered 42",
            "E*111122223333 seats *Z: expected 1, metered nothing",
        ]
    )


IN_THE_WAY = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "AWS_DEFAULT_PROFILE": "nobody",
    "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z",
    "AWS_SECURITY_TOKEN": "stale",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
}


@pytest.mark.parametrize(
    ("fixture", "names"),
    [
        *(("metering_sandbox", [name]) for name in IN_THE_WAY),
        ("metering_sandbox_server", [*IN_THE_WAY]),  # each costs a process; none hides another
    ],
)
def test_no_variable_leads_a_client_elsewhere(
    run: Suite, monkeypatch: pytest.MonkeyPatch, fixture: str, names: list[str]
) -> None:
    """
    Neither boto3 nor this client: a proxy, a stale shell, a switch for other endpoints.
    """
    for name in names:
        monkeypatch.setenv(name, IN_THE_WAY[name])
    monkeypatch.setenv("NO_PROXY", "example.org")
    result = run(f"""
    from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
    from marketplace_metering_async.sandbox import AccessKey, Rules

    @pytest.mark.metering_sandbox(access_keys={{"k": AccessKey("s")}}, rules=Rules(future=60))
    async def test_it({fixture}):
        assert meter() == ["Success"]
        record = UsageRecord(timestamp=NOW, dimension="seats", quantity=5,
                             customer_aws_account_id=BUYER, product_code="p")
        async with MarketplaceMeteringClient() as client:
            assert (await client.batch_meter_usage([record])).succeeded
        assert len({fixture}.book) == 2
        assert os.environ["NO_PROXY"].startswith("example.org,")
    """)

    result.assert_outcomes(passed=1)


CONFIG = """
[default]
use_fips_endpoint = true
use_dualstack_endpoint = true
ignore_configured_endpoint_urls = true
region = eu-west-1
"""


def test_no_file_of_the_machine_leads_a_client_elsewhere(
    run: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    A developer's own profile is not the test's business; where the code runs stays known.
    """
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "mine")
    monkeypatch.delenv("AWS_PROFILE")
    result = run("""
    from marketplace_metering_async import MarketplaceMeteringClient

    async def test_it(metering_sandbox):
        assert meter() == ["Success"]
        async with MarketplaceMeteringClient() as client:
            assert (await client.endpoint()).url == metering_sandbox.url
        assert os.environ["AWS_LAMBDA_FUNCTION_NAME"] == "mine"
    """)

    result.assert_outcomes(passed=1)


def test_a_failure_shows_the_test_and_none_of_our_lines(run: Suite) -> None:
    """
    The gaps are what is to be read. Newcomer, smaller 14.
    """
    result = run("""
    def test_money(metering_sandbox):
        metering_sandbox.book.assert_metered({(BUYER, "requests", NOW): 43})
    """)

    result.assert_outcomes(failed=1)
    assert "differences(by_hour)" not in result.stdout.str()


OF_THE_PLACE = {
    "calls_per_second", "client_arguments", "instructions", "note_refusal", "page_url",
    "quota_of", "serve", "transport", "urls",
}  # fmt: skip
"""What a process of its own has no use for, or says in another way (`state`, `set_quota`)."""


def test_both_fixtures_have_the_same_controls() -> None:
    """
    What a sandbox can be asked for in its process can be asked for from another one.
    """
    ours = {name for name in dir(Sandbox) if not name.startswith("_")} - OF_THE_PLACE

    assert set() == ours - {*dir(SandboxServer), "environment", "url"}


def test_a_server_posts_registrations_and_shows_its_key() -> None:
    """
    As a Sandbox does; what it refuses is a ValueError.
    """
    with SandboxServer() as server:
        server.declare_product("p", dimensions=["d"])
        agreement = server.subscribe("p", "111122223333")
        with pytest.raises(ValueError, match="registration_url"):
            server.register_account(agreement.agreement_id)
        assert server.public_key().startswith("-----BEGIN PUBLIC KEY-----")


def test_the_marker_reaches_the_server(run: Suite) -> None:
    """
    In a process of its own; the next test has the usual one again.
    """
    result = run("""
    from marketplace_metering_async.sandbox import Fault, FaultKind, Rules, SandboxClock

    CLOCK = SandboxClock(datetime(2026, 3, 1, tzinfo=UTC), speed=0)

    @pytest.mark.metering_sandbox(calls_per_second=None, rules=Rules(key_by="timestamp"),
        clock=CLOCK, faults=[Fault(kind=FaultKind.SLOW, seconds=0)], open_to=["other"])
    def test_marked(metering_sandbox_server):
        state = metering_sandbox_server.state
        assert state["calls_per_second"] is None
        assert state["rules"]["key_by"] == "timestamp"
        assert state["now"] == "2026-03-01T00:00:00+00:00"
        assert meter(moment=CLOCK.now()) == ["Success"]
        assert metering_sandbox_server.state["faults"] == {"slow": 1}

    def test_unmarked(metering_sandbox_server):
        assert metering_sandbox_server.state["calls_per_second"] == 10
        assert metering_sandbox_server.state["rules"]["key_by"] == "hour"

    @pytest.mark.metering_sandbox(faults=[lambda operation, request: None])
    def test_functions_stay_here(metering_sandbox_server):
        pass
    """)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*TypeError: expected a value of the sandbox, got function"])


def test_a_server_is_asked_and_ordered_as_a_sandbox_is() -> None:
    """
    One text is not several, and what is asked for may have any characters.
    """
    with SandboxServer() as server:
        for wrong in ({"dimensions": "requests"}, {"customers": "111122223333"}):
            with pytest.raises(TypeError, match="expected several texts, got '"):
                server.declare_product("p", **wrong)
        with pytest.raises(ValueError, match="by: expected some of dimension, "):
            server.ask("book", by="a b&by=hour")


def test_a_server_has_the_life_cycle_of_a_sandbox() -> None:
    """
    Its methods are those of Sandbox, by the same names, and their values the same.
    """
    with SandboxServer() as server:
        server.declare_product("p", registration_url="http://127.0.0.1:9/")
        server.change_rules(closing=60, key_by="timestamp", age=timedelta(hours=2))
        begins = datetime.now(UTC) - timedelta(hours=3)
        first = server.subscribe("p", "1", begins=begins, free_trial=timedelta(days=400))
        assert first.begins == begins.replace(microsecond=0)
        form = server.set_up_account(first.agreement_id)
        assert {"x-amzn-marketplace-token", "x-amzn-marketplace-offer-type"} == set(form.fields)
        assert "cancelled" == server.cancel(first.agreement_id).reason
        assert "expired" == server.expire(server.subscribe("p", "2").agreement_id).reason
        server.set_subscribed("p", "3", subscribed=False)
        server.suspend("1")
        assert ({"1"}, {"3": False}) == (
            server.book.catalogue.suspended,
            server.book.products["p"].customers,
        )
        server.restore("1")
        assert 2 == server.rotate_key("p")
        book = server.book
        assert (60, 7200) == (book.rules.closing.seconds, book.rules.age.seconds)
        assert set() == book.catalogue.suspended
        with pytest.raises(ValueError, match="has ended"):
            server.cancel(first.agreement_id)


def test_no_test_has_the_keys_of_another(run: Suite) -> None:
    """
    boto3 remembers the first keys that it finds, in a session that all share.
    """
    result = run("""
    import sys
    from marketplace_metering_async.sandbox import AccessKey

    BEFORE = getattr(sys.modules.get("boto3"), "DEFAULT_SESSION", None)

    def ask():
        import boto3
        boto3.client("meteringmarketplace").batch_meter_usage(ProductCode="p", UsageRecords=[])

    def test_usual(metering_sandbox):
        ask()

    @pytest.mark.metering_sandbox(access_keys={"one": AccessKey("secret")})
    def test_one(metering_sandbox):
        ask()

    @pytest.mark.metering_sandbox(access_keys={"two": AccessKey("secret")})
    def test_two(metering_sandbox_server):
        ask()

    def test_outside():
        assert sys.modules["boto3"].DEFAULT_SESSION is BEFORE
    """)

    result.assert_outcomes(passed=4)


def test_the_marker_sets_up_the_sandbox(run: Suite) -> None:
    """
    With the arguments of Sandbox.
    """
    result = run("""
    @pytest.mark.metering_sandbox(calls_per_second=None, history=3)
    def test_marked(metering_sandbox):
        assert metering_sandbox.calls_per_second is None

    def test_unmarked(metering_sandbox):
        assert metering_sandbox.calls_per_second == 10
    """)

    result.assert_outcomes(passed=2)


def test_the_server_serves_other_processes(run: Suite) -> None:
    """
    Children inherit the environment; every test begins anew; clock and faults are at hand.
    """
    result = run("""
    import subprocess, sys
    from marketplace_metering_async.sandbox import Fault, FaultKind

    CHILD = (
        "import boto3, datetime\\n"
        "record = {'Timestamp': datetime.datetime.now(datetime.UTC), 'Dimension': 'requests',"
        "'CustomerAWSAccountId': '111122223333', 'Quantity': 42}\\n"
        "client = boto3.client('meteringmarketplace')\\n"
        "answer = client.batch_meter_usage(ProductCode='p', UsageRecords=[record])\\n"
        "print(answer['Results'][0]['Status'])"
    )

    def test_child(metering_sandbox_server):
        server = metering_sandbox_server
        server.declare_product("p", dimensions=["requests"], customers=[BUYER])
        server.set_quota(None)
        server.inject(Fault(kind=FaultKind.ERROR_500, max_hits=1))
        done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
        assert done.stdout == "Success\\n", done.stderr
        assert server.state["faults"] == {"error-500": 1}
        server.book.assert_metered({(BUYER, "requests", NOW): 42})
        assert server.book.totals(by="customer") == {BUYER: 42}

    def test_anew(metering_sandbox_server):
        server = metering_sandbox_server
        assert (server.state["products"], server.state["calls_per_second"]) == ([], 10)
        assert len(server.book) == 0
        server.advance(hours=30)
        with pytest.raises(Exception, match="TimestampOutOfBounds"):
            meter()
        server.set_clock(NOW, speed=0)
        with pytest.raises(ValueError, match="time zone"):
            server.set_clock(NOW.replace(tzinfo=None))
        assert server.issue_token("p", customer_aws_account_id=BUYER).startswith("sandbox-token")
    """)

    result.assert_outcomes(passed=2)


def test_the_plugin_is_cheap_to_load() -> None:
    """
    Pytest loads it in every project: no HTTP, no SDK, no Hypothesis, no sandbox before use.
    """
    script = (
        f"import sys, {PLUGIN}\n"
        "heavy = ['aiohttp', 'botocore', 'aiobotocore', 'hypothesis', 'tenacity', 'asyncpg',"
        " 'marketplace_metering_async.sandbox', 'marketplace_metering_async.client']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "[]\n" == done.stdout


def test_pytest_finds_the_plugin() -> None:
    """
    By the entry point of the package.
    """
    project = Path(__file__).parents[3] / "pyproject.toml"
    told = tomllib.loads(project.read_text(encoding="utf-8"))

    assert [PLUGIN] == list(told["project"]["entry-points"]["pytest11"].values())


def test_a_port_that_is_taken_is_told_at_once() -> None:
    """
    In the thread that asked.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)), SandboxThread(Sandbox(port)):
            pass


def test_the_server_ends_with_who_started_it() -> None:
    """
    Even if that was killed.
    """
    script = (
        "import os, sys\n"
        "from marketplace_metering_async.testing import SandboxServer\n"
        "server = SandboxServer().__enter__()\n"
        "print(server._process.pid, flush=True)\n"
        "os._exit(9)"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )

    assert _is_gone(int(done.stdout))


def _is_gone(process: int) -> bool:
    async def wait() -> bool:
        path = Path(f"/proc/{process}/stat")
        async with asyncio.timeout(10):
            while path.exists() and path.read_text().rsplit(")", 1)[1].split()[0] != "Z":  # noqa: ASYNC110, ASYNC240 - another process
                await asyncio.sleep(0.05)
        return True

    return asyncio.run(wait())


def test_ctrl_c_leaves_the_server_to_who_started_it() -> None:
    """
    In a debugger it ends a line of input, and the next test needs the server.
    """
    code = """
    import os, signal, time
    from marketplace_metering_async.testing import SandboxServer
    signal.signal(signal.SIGINT, lambda *_: None)
    with SandboxServer() as server:
        os.killpg(0, signal.SIGINT)
        time.sleep(0.5)
        print(server.state["records"])
    """

    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", dedent(code)],
        capture_output=True,
        check=False,
        start_new_session=True,
        timeout=30,
    )

    assert (0, b"0\n", b"") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
def test_a_fork_keeps_no_server_from_ending() -> None:
    """
    A process that the tested code has left behind has all of its pipes, too.
    """
    code = """
    import os, time
    from marketplace_metering_async.testing import SandboxServer
    with SandboxServer() as server:
        left = os.fork()
        if not left:
            time.sleep(60)
            os._exit(0)
        begin = time.monotonic()
    seconds = time.monotonic() - begin
    os.kill(left, 9)
    assert seconds < 10, seconds
    """

    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", dedent(code)], capture_output=True, check=False, timeout=60
    )

    assert (0, b"") == (done.returncode, done.stderr)


def test_a_closed_server_has_ended() -> None:
    """
    And a second close does no harm.
    """
    with SandboxServer() as server:
        assert 0 == len(server.book)
        process = server._process
    assert process is not None
    assert 0 == process.returncode


moments = st.datetimes(
    datetime(2026, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
    datetime(2027, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.data(), moments)
def test_records_of_the_strategy_are_taken(data: st.DataObject, now: datetime) -> None:
    """
    Each of them by the sandbox at that time.
    """
    record = data.draw(usage_records(now=now))
    book = Book()
    body = record.to_boto() | {"Timestamp": record.epoch}
    product_code = None if record.license_arn else record.product_code
    request = {"ProductCode": product_code, "UsageRecords": [body]}

    answer = book.batch_meter_usage(request, now=now, region="us-east-1")

    assert ["Success"] == [result["Status"] for result in answer["Results"]]
    assert all(isinstance(tag, Tag) for part in record.usage_allocations for tag in part.tags)


@settings(max_examples=examples(15))
@given(
    batch=batches(now=NOW, max_size=30, allocations=False),
    faults=fault_scripts(
        kinds=[FaultKind.ERROR_500, FaultKind.RESET_BEFORE, FaultKind.UNPROCESSED, FaultKind.DROP]
    ),
)
async def test_batches_are_delivered_through_fault_scripts(
    batch: list[UsageRecord], faults: list[Fault]
) -> None:
    """
    Every record in the book once, since no two are of one hour.
    """
    clock = SandboxClock(datetime.now(UTC))
    moved = [_moved(record, clock.now()) for record in batch]
    async with (
        Sandbox(calls_per_second=None, clock=clock, faults=faults) as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments, retry=QUICK) as client,
    ):
        result = await client.batch_meter_usage(moved)

    assert set(result.counts) <= {RecordStatus.SUCCESS, RecordStatus.DUPLICATE_RECORD}
    assert len(moved) == len(sandbox.book)


def _moved(record: UsageRecord, now: datetime) -> UsageRecord:
    """Return the record as of the real time, which the client goes by."""
    members = record.to_boto() | {"Timestamp": now - (NOW - record.timestamp)}
    return UsageRecord.from_boto(members | {"ProductCode": record.product_code})
