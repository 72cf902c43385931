"""Whatever is typed after a command ends it with a code and a word, never with a traceback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.commands import HOUR, Shell, line

from marketplace_metering_async.cli.app import app
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.sandbox import Sandbox

ODD = [
    "",
    "-1",
    "nan",
    "\u0663",
    "9" * 400,
    "99999999999",
    "yesterday",
    "2026-13-01T00:00Z",
    "0001-01-01T00:00:00+01:00",
    "9999-12",
    "9999-12-31T23:59:59-05:00",
    "\udcff",  # what a byte that is no UTF-8 becomes
    "[/]",
    "\x1b[31m",
    "://",
    "http://[::1",
    "postgresql://[",
]
LEDGER = ["sqlite:///l.db"]
CUSTOMER = ["--account", "1", "--product-code", "p"]
GOOD = {
    "demo": ["--port", "there is none"],  # what was in order would run
    "send": ["u.jsonl", "--product-code", "p"],
    "validate": ["u.jsonl", "--product-code", "p"],
    "resolve": ["token"],
    "meter": ["--product-code", "p", "--dimension", "d", "--quantity", "1"],
    "register": ["--product-code", "p"],
    "sandbox": ["--port", "{taken}"],
    "sandbox rules": [],
    "sandbox check": ["http://127.0.0.1:1"],
    "doctor": [],
    "ledger create": LEDGER,
    "ledger backup": [*LEDGER, "copy.db"],
    "help": ["send"],
    "ledger add": [*LEDGER, "--dimension", "[/]", "--quantity", "1", *CUSTOMER],
    "ledger import": [*LEDGER, "u.jsonl", "--product-code", "p"],
    "ledger relay": [*LEDGER, "--once"],
    "ledger status": LEDGER,
    "ledger serve": [*LEDGER, "--port", "{taken}"],
    "ledger serve-metrics": [*LEDGER, "--port", "{taken}"],
    "ledger history": LEDGER,
    "ledger retry": LEDGER,
    "ledger prune": LEDGER,
    "ledger adopt-copy": LEDGER,
    "ledger close-customer": [*LEDGER, *CUSTOMER],
    "ledger resolve": [*LEDGER, "--as", "metered", "--note", "[/]", "--state", "conflict"],
    "ledger write-off": [*LEDGER, "--note", "n", "--name", "hour-1"],
    "ledger reopen": [*LEDGER, "--note", "n", "--state", "conflict"],
    "ledger rebind": [*LEDGER, "--note", "n", "--taken", "billed"],
    "ledger un-retire": [*LEDGER, "postgresql://["],
    "ledger explain": ["open"],
}
"""Arguments of each command that are in order, or as near to it as ends by itself."""


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Yield every command that there is, by its words."""
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        if getattr(command, "invoke_without_command", False):
            yield name, command
        for inner, nested in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), nested


COMMANDS = dict(commands())


def with_odd_ones(name: str) -> Iterator[list[str]]:
    """Yield the good arguments of a command with one of them odd, or an odd one more."""
    for parameter in COMMANDS[name].params:
        for odd in [] if getattr(parameter, "is_flag", False) else ODD:
            good = list(GOOD[name])
            option = parameter.opts[0]
            if isinstance(parameter, typer.core.TyperArgument):
                good[parameter.name == "files" and name.startswith("ledger")] = odd
            elif option in good:
                good[good.index(option) + 1] = odd
            else:
                good += [option, odd]
            yield good


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, shell: Shell) -> str:
    """A folder with usage and a ledger, a service, and a port that is taken; return its number."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.url)
    Path("u.jsonl").write_text(f"{line(1)}\n{line(2, dimension='[/]')}\n")
    assert 0 == shell("ledger", "import", *LEDGER, "u.jsonl", "--product-code", "p").code
    return sandbox.url.rpartition(":")[2]


def test_no_command_is_forgotten_here() -> None:
    """
    One that is added has its good arguments above.
    """
    assert set(COMMANDS) == set(GOOD)


@pytest.mark.parametrize("name", GOOD)
def test_no_argument_ends_in_a_traceback(shell: Shell, place: str, name: str) -> None:
    """
    Every command and each of its options, with what nobody should type. Newcomer M9.
    """
    for given in (GOOD[name], *with_odd_ones(name)):
        done = shell(*name.split(), *(one.replace("{taken}", place) for one in given))

        assert done.code in list(Exit), given
        assert "\x1b" not in done.out + done.err, given


def test_what_is_wrong_with_a_time_is_said_of_its_option(shell: Shell, place: str) -> None:
    """
    By the name of the option; seconds since 1970 are a time as in files. Newcomer M9.
    """
    add = ["ledger", "add", *GOOD["ledger add"], "--at"]

    for wrong in ("yesterday", "2026-11-28T10:00", "9999-12-31T23:59:59-05:00"):
        done = shell(*add, wrong)
        assert (Exit.USAGE, "") == (done.code, done.out)
        assert "'--at': expected" in " ".join(done.err.split())
    assert 0 == shell(*add, int(HOUR.timestamp())).code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--product-code", "p"], "--account: expected an account id, or a --customer-identifier"),
        (["--account", "1" * 12], "--product-code: expected the product's code"),
        ([*CUSTOMER, "--customer-identifier", "c"], "--customer-identifier: expected one customer"),
        ([*CUSTOMER, "--event-id", ""], "--event-id: expected 1 to 255 characters"),
        ([*CUSTOMER, "--at", "2090-01-01T00:00:00Z"], "--at: expected at most 0:05:00 ahead"),
        ([*CUSTOMER, "--dimension", ""], "--dimension: expected 1 to 255 characters"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_by_its_name(
    shell: Shell, url: str, words: list[str], said: str
) -> None:
    """
    And not by that of the argument that Python calls it by.
    """
    done = shell("ledger", "add", url, "--dimension", "d", "--quantity", "1", *words)

    assert Exit.USAGE == done.code
    assert said in done.err
    assert "customer_aws_account_id" not in done.err


def test_so_it_is_of_the_other_operations(shell: Shell, sandbox: Sandbox) -> None:
    """
    Whose arguments the service calls otherwise.
    """
    usage = ["--product-code", "p", "--quantity", "1"]
    named = ["--endpoint-url", sandbox.url, "--region", "us-east-1"]

    no_name = shell("meter", *usage, "--dimension", "", *named)
    no_token = shell("meter", *usage, "--dimension", "d", "--client-token", "", *named)
    nobody = shell("resolve", "", *named)

    assert "--dimension: expected 1 to 255" in no_name.err
    assert "--client-token: expected 1 to 64" in no_token.err
    assert "TOKEN: expected 1 to" in nobody.err
    assert {Exit.USAGE} == {no_name.code, no_token.code, nobody.code}
