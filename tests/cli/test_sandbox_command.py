"""`marketplace-metering sandbox`: for programs in any language, and for containers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from attrs import frozen
from support.commands import Shell, command, environment, pipe

from marketplace_metering_async.sandbox.sdks import SDKS

README = Path(__file__).parents[2] / "README.md"
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
    """

    lines: dict[str, str]
    says: str

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
    process = subprocess.Popen(  # noqa: S603 - our own command
        command("sandbox", "--port", "0", *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        lines = [pipe(process.stdout).readline().decode() for _ in range(5)]
        found = dict(re.findall(r"export (\w+)=(.*)\n", "".join(lines)))
        assert 5 == len(found), pipe(process.stderr).read()
        said = ""
        while SDKS[-1].in_code_at(found["AWS_ENDPOINT_URL_MARKETPLACE_METERING"]) not in said:
            said += pipe(process.stderr).readline().decode()
        yield Running(found, said)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_container_needs_no_python(tmp_path: Path) -> None:
    """
    Product, key, rules and faults come with the command; every address works as printed.
    """
    (tmp_path / "rules.json").write_text('{"result_order": "given", "future": 120}')
    with sandbox_with(
        *("--host", "0.0.0.0", "--open-to", "sandbox", "--open-to", "localhost:9000"),
        *("--product", "my-product,requests,seats", "--access-key", "key:secret"),
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
        (["--fault", "none"], "--fault: "),
        (["--fault", "slow=often"], "--fault: "),
        (["--fault", '{"kind": "slow", "seconds": "1"}'], "--fault: seconds: expected a number"),
        (["--fault", "{"], "--fault: expected JSON"),
        (["--access-key", "key"], "--access-key: expected ID:SECRET"),
        (["--access-key", '{"id": "k", "secret": "s", "region": 5}'], "--access-key: region: "),
        (["--product", ""], "--product: product_code: "),
        (["--product", '{"product_code": "p", "customers": {"1": "yes"}}'], "--product: "),
        (["--product", '{"product_code": "p", "colour": 1}'], "--product: "),
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
    done = shell("sandbox", "--port", "0", *(str(wrong) if o == "RULES" else o for o in options))

    assert (2, "", True) == (done.code, done.out, says in done.err), done.err
    assert "Traceback" not in done.err
