"""`marketplace-metering sandbox`: for programs in any language, and for containers."""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from attrs import frozen
from support.commands import Shell, environment, pipe, started

from marketplace_metering_async import testing
from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.sandbox.conformance.http_client import HttpControls
from marketplace_metering_async.sandbox.sdks import SDKS

README = Path(testing.__file__).parent / "README.md"
METER = """
import boto3, datetime
client = boto3.client("meteringmarketplace")
now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=90)
record = {"Timestamp": now, "CustomerAWSAccountId": "1", "Dimension": "requests", "Quantity": 5}
print(client.batch_meter_usage(ProductCode="my-product", UsageRecords=[record])["Results"])
"""


@frozen
class Running:
    """
    A sandbox that listens.

    Attributes:
        lines: The variables that it printed.
        says: What it said to people.
        process: What runs.
    """

    lines: dict[str, str]
    says: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return self.lines["AWS_ENDPOINT_URL_MARKETPLACE_METERING"]

    def status(self, path: str, **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(f"{self.url}{path}", headers=names)  # noqa: S310 - http
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
                return int(answer.status)
        except HTTPError as refused:
            with refused:
                return refused.code

    def meter(self) -> subprocess.CompletedProcess[str]:
        """Meter with boto3, by the printed variables alone."""
        variables = environment(**self.lines)
        return subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", METER],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def sandbox_with(*options: str) -> Iterator[Running]:
    with started("sandbox", "--port", 0, *options) as process:
        lines = [pipe(process.stdout).readline().decode() for _ in range(5)]
        found = dict(re.findall(r"export (\w+)=(.*)\n", "".join(lines)))
        assert 5 == len(found), pipe(process.stderr).read()
        said = ""
        while SDKS[-1].in_code_at(found["AWS_ENDPOINT_URL_MARKETPLACE_METERING"]) not in said:
            said += pipe(process.stderr).readline().decode()
        yield Running(found, said, process)


@pytest.mark.skipif(sys.platform != "linux", reason="no process limits another one there")
def test_a_state_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    """
    When it happens and at the end, which is the only failure: a container is ended by SIGTERM.
    """
    path = tmp_path / "state"
    with sandbox_with("--state", str(path)) as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (2000, 2000))
        product = {"product_code": "p", "title": "t" * 3000}
        HttpControls(running.url).order("products", product)
        said = pipe(running.process.stderr).readline().decode()
        running.process.terminate()
        _, at_last = running.process.communicate(timeout=20)
    with sandbox_with("--state", str(path)) as again:
        again.process.terminate()
        ended = again.process.wait(20)

    assert f"{path} cannot be written: File too large" in said
    assert f"{path} cannot be written: File too large" in at_last.decode()
    assert (2, 0) == (running.process.returncode, ended)


def test_a_container_needs_no_python(tmp_path: Path) -> None:
    """
    Product, key, rules and faults come with the command; every address works as printed.
    """
    (tmp_path / "rules.json").write_text('{"result_order": "given", "future": 120}')
    with sandbox_with(
        *("--host", "0.0.0.0", "--open-to", "sandbox", "--open-to", "localhost:9000"),
        *("--product", "my-product, requests,seats", "--access-key", "key:secret"),
        *("--rules", str(tmp_path / "rules.json"), "--seed", "7"),
        *("--fault", "error-500=0", "--fault", '{"kind": "slow", "seconds": 0.01}'),
    ) as running:
        token = re.findall(r"#token=(\S+)", running.says)[0]
        done = running.meter()
        assert "'Status': 'Success'" in done.stdout, done.stderr
        assert 403 == running.status("/_sandbox/state")
        assert 200 == running.status("/_sandbox/state", X_Sandbox_Token=token)
        for host in re.findall(r"From elsewhere: http://(\S+)", running.says):
            assert 200 == running.status("/_sandbox/state", Host=host, X_Sandbox_Token=token)
        assert 403 == running.status("/_sandbox/state", Host="other", X_Sandbox_Token=token)
        assert 200 == running.status("/_sandbox/health", Host="10.1.2.3:80")
        headers = {"X-Sandbox-Token": token}
        asked = Request(f"{running.url}/_sandbox/state", headers=headers)  # noqa: S310 - http
        with build_opener(ProxyHandler({})).open(asked, timeout=10) as answer:
            state = json.load(answer)

    assert ("key", "secret") == (
        running.lines["AWS_ACCESS_KEY_ID"],
        running.lines["AWS_SECRET_ACCESS_KEY"],
    )
    assert "http://127.0.0.1:" in running.url
    assert "From elsewhere: http://sandbox:" in running.says
    assert "From elsewhere: http://localhost:9000" in running.says
    assert ({"slow": 1}, ["my-product"]) == (state["faults"], state["products"])
    assert ("given", 120) == (state["rules"]["result_order"], state["rules"]["future"])
    rules = [one["rule"] for one in state["faults_in_force"]]
    assert [("error-500", 0), ("slow", 1)] == [(r["kind"], r["probability"]) for r in rules]


def test_a_token_is_asked_for_on_loopback_too() -> None:
    """
    Where one is given, by the option or by a variable that no list of processes shows.
    """
    with sandbox_with("--token", "t0ken") as running:
        assert 403 == running.status("/_sandbox/book")
        assert 200 == running.status("/_sandbox/book", X_Sandbox_Token="t0ken")
        assert "#token=t0ken" in running.says


def test_who_comes_here_is_said_with_the_line_of_code() -> None:
    """
    The same clients, versions and lines in print and in the README.
    """
    with sandbox_with() as running:
        for sdk in SDKS:
            assert f"{sdk.name}: {sdk.by_environment}\n" in running.says
            assert f"    {sdk.in_code_at(running.url)}\n" in running.says
    assert f'MarketplaceMeteringClient({{ endpoint: "{running.url}" }})' in running.says
    assert f'endpoint_url="{running.url}")' in running.says
    readme = README.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(.+)` \|$", readme, re.MULTILINE)
    table = [row for row in rows if row[0] in {sdk.name for sdk in SDKS}]
    assert [(sdk.name, sdk.by_environment, sdk.in_code) for sdk in SDKS] == table


def test_every_line_of_code_has_the_address_once() -> None:
    """
    In place of `url`, and of nothing else.
    """
    lines = {sdk.name: sdk.in_code_at("http://h:1") for sdk in SDKS}

    assert 'aws --endpoint-url "http://h:1" meteringmarketplace …' == lines["aws CLI"]
    assert 'boto3.client("meteringmarketplace", endpoint_url="http://h:1")' == lines["Python"]
    assert {1} == {line.count('"http://h:1"') for line in lines.values()}
    assert not [line for line in lines.values() if re.search(r"(?<![-_])\burl\b", line)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--host: expected a loopback address"),
        (["--open-to", "http://x"], "--open-to: "),
        (["--token", "a b"], "--token: "),
        (["--rules", "/nonexistent"], "--rules: /nonexistent: "),
        (["--rules", "RULES"], "no_such_rule"),
        (["--rules", "DEEP"], "--rules: "),
        (["--state", "DEEP"], "--state: "),
        (["--fault", "none"], "--fault: kind: expected one of throttle, error-500, "),
        (["--fault", "slow=often"], "--fault: "),
        (["--fault", '{"kind": "slow", "seconds": "1"}'], "--fault: seconds: expected a number"),
        (["--fault", "{"], "--fault: expected JSON"),
        (["--access-key", "key"], "--access-key: expected ID:SECRET"),
        (["--access-key", '{"id": "k", "secret": "s", "region": 5}'], "--access-key: region: "),
        (["--product", ""], "--product: product_code: "),
        (["--product", '{"product_code": "p", "customers": {"1": "yes"}}'], "--product: "),
        (["--product", '{"product_code": "p", "colour": 1}'], "--product: expected concurrent_"),
        (["--product", '{"title": "Mine"}'], "--product: missing: product_code"),
        (["--product", "my-product,"], "--product: expected CODE or CODE,DIMENSION"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_an_option_that_says_nothing_right_is_refused(
    shell: Shell, tmp_path: Path, options: list[str], says: str
) -> None:
    """
    With its name, before anything listens.
    """
    wrong = tmp_path / "rules.json"
    wrong.write_text('{"no_such_rule": 1}')
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000 + "\n")
    files = {"RULES": str(wrong), "DEEP": str(deep)}
    done = shell("sandbox", "--port", "0", *(files.get(option, option) for option in options))

    assert (2, "", True) == (done.code, done.out, says in done.err), done.err
    assert "Traceback" not in done.err


def test_the_rules_are_shown(shell: Shell) -> None:
    """
    As JSON lines for programs, and as a table for people.
    """
    done = shell("sandbox", "rules")

    assert 0 == done.code
    by_name = {row["switch"]: row for row in done.lines}
    assert {"usual": "hour", "strict": "hour", "kind": "timestamp"}.items() <= (
        by_name["key_by"].items()
    )
    assert ["success"] == by_name["identical_resend"]["others"]
    assert "agent skill" in done.err.replace("\n", " ")
    assert all(name[:12] in done.err for name in by_name)


def test_a_stand_in_is_checked(shell: Shell, sandbox: Sandbox) -> None:
    """
    A line for each case; it is left as it was made, but for what it had on file.
    """
    sandbox.declare_product("mine")
    done = shell("sandbox", "check", sandbox.url, "--only", "Licenses", "--only", "a-record")

    assert 0 == done.code, done.err
    assert {"agrees"} == {line["verdict"] for line in done.lines}
    assert 7 == len(done.lines)
    assert "7 cases: 7 agrees, 0 differs, 0 skipped" in done.err
    assert 0 == len(sandbox.book)
    assert {} == sandbox.book.products


def test_what_differs_is_said(shell: Shell) -> None:
    """
    With exit code 1; as a table on demand.
    """
    with Forgetful() as url:
        done = shell("sandbox", "check", url)
        table = shell("sandbox", "check", url, "--markdown", "--legacy")

    assert 1 == done.code
    assert "No controls of this sandbox there" in done.err
    assert "differs: Another quantity for the hour is DuplicateRecord" in done.err
    by_name = {line["case"]: line for line in done.lines}
    assert ["Success", "Success"] == by_name["other-quantity"]["answers"]
    assert "skipped" == by_name["month-end"]["verdict"]
    row = "Another quantity for the hour is DuplicateRecord | Success; DuplicateRecord"
    assert f"| {row} | **2 times Success** |" in table.out
    assert "| A record is taken, and has an id | Success | as expected |" in table.out


def test_what_a_stand_in_answers_controls_no_terminal(shell: Shell) -> None:
    """
    It may be anybody's, and its words are only words.
    """
    with Forgetful("Suc\x1b[2Jcess") as url:
        done = shell("sandbox", "check", url, "--only", "Decimals")
        table = shell("sandbox", "check", url, "--only", "Decimals", "--markdown")

    assert r"expected Success, got Suc\x1b[2Jcess" in done.err
    assert r"**Suc\x1b[2Jcess**" in table.out
    assert "\x1b" not in done.err + table.out + table.err


def test_what_is_no_stand_in_at_all_is_said_to_be_none(shell: Shell) -> None:
    """
    One complaint in place of one for each case; an address was mistyped.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = shell("sandbox", "check", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()

    assert (2, "") == (done.code, done.out)
    assert "no stand-in for the service answers at http://127.0.0.1:" in done.err
    assert "HTTP 501" in done.err
    assert "differs" not in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["https://metering.marketplace.us-east-1.amazonaws.com"], "AWS itself"),
        (["https://metering-marketplace.eu-west-1.api.aws/x"], "AWS itself"),
        (["https://metering.marketplace.us-east-1.amazonaws.com./"], "AWS itself"),
        (["https://metering-marketplace.eusc-de-east-1.amazonaws.eu"], "AWS itself"),
        (
            ["https://metering-marketplace.cn-northwest-1.api.amazonwebservices.com.cn"],
            "AWS itself",
        ),
        (["https://metering.marketplace.us-iso-east-1.c2s.ic.gov"], "AWS itself"),
        (["https://Metering.Marketplace.us-east-1.AmazonAWS.com:443"], "AWS itself"),
        (["127.0.0.1:8765"], "URL: expected"),
        (["ftp://127.0.0.1"], "URL: expected"),
        (["http://[::1"], "URL: expected"),
        (["http://user:hush@127.0.0.1:9"], "URL: expected one without user"),
        (["user:hush@127.0.0.1:9"], "URL: expected"),
        (["http://127.0.0.1:9", "--access-key", "AK"], "ID:SECRET"),
        (["http://127.0.0.1:9", "--only", "licenses"], "expected a case or a part"),
        (["http://127.0.0.1:9"], "nobody answers at http://127.0.0.1:9"),
    ],
)
def test_a_check_that_cannot_be_is_refused(shell: Shell, arguments: list[str], says: str) -> None:
    """
    Before anything is sent.
    """
    done = shell("sandbox", "check", *arguments)

    assert (2, "") == (done.code, done.out)
    assert says in done.err
    assert "hush" not in done.err


def test_a_check_needs_the_token_of_the_controls(shell: Shell) -> None:
    """
    As page and controls do.
    """
    with testing.SandboxThread(Sandbox(token="t0ken")) as running:
        check = ("sandbox", "check", running.sandbox.url, "--only", "a-record")
        done, right = shell(*check), shell(*check, "--token", "t0ken")

    assert (2, 0) == (done.code, right.code)
    assert "--token: state: send the sandbox's token" in done.err


def test_records_are_not_forgotten_unasked(shell: Shell, sandbox: Sandbox) -> None:
    """
    With --yes they are.
    """
    record = {"Timestamp": sandbox.clock.now().timestamp(), "Dimension": "d"}
    request = {"ProductCode": "p", "UsageRecords": [{**record, "CustomerAWSAccountId": "1"}]}
    sandbox.book.batch_meter_usage(request, now=sandbox.clock.now())

    done = shell("sandbox", "check", sandbox.url)
    assert 2 == done.code
    assert "has 1 records; with --yes" in done.err
    assert 1 == len(sandbox.book)
    assert 0 == shell("sandbox", "check", sandbox.url, "--yes", "--only", "Times").code
    assert 0 == len(sandbox.book)


class Forgetful:
    """A stand-in that takes whatever comes, as moto does, and has no controls."""

    def __init__(self, status: str = "Success") -> None:
        self._status = status

    def __enter__(self) -> str:
        status = self._status

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(404)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/":
                    self.send_error(404)
                    return
                try:
                    records = json.loads(body).get("UsageRecords") or []
                except ValueError:
                    records = []
                results = [
                    {"UsageRecord": one, "MeteringRecordId": "1", "Status": status}
                    for one in records
                ]
                answer = json.dumps({"Results": results, "UnprocessedRecords": []}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
