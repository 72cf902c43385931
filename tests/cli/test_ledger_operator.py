"""What an operator types: what became of usage, and where it goes."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.commands import Shell, line, target

import marketplace_metering_async
from marketplace_metering_async import MeteringError
from marketplace_metering_async.cli.commands import ledger_operator
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output.advice import advice_on
from marketplace_metering_async.ledger import HourState, UsageLedger
from marketplace_metering_async.sandbox import Sandbox


@pytest.fixture
def ended(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> str:
    """The URL of a ledger with two hours of conflict, of 5 units each."""
    usage = tmp_path / "usage.jsonl"
    usage.write_text("\n".join(line(n) for n in (1, 2)) + "\n")
    assert Exit.OK == shell("send", *target(sandbox), usage).code
    url = f"sqlite:///{tmp_path}/ledger.db"
    assert Exit.REJECTED == shell("send", "--ledger", url, *target(sandbox), usage).code
    return url


def states(shell: Shell, url: str) -> list[str]:
    return sorted(one["state"] for one in shell("ledger", "history", url).lines)


def test_status_names_the_way_out(ended: str, shell: Shell) -> None:
    """
    And explain says it. Newcomer M11
    """
    status = shell("ledger", "status", ended)
    explained = shell("ledger", "explain", "conflict")
    everything = shell("ledger", "explain")

    assert "10 units ended as conflict: `ledger explain conflict` says what to do" in status.out
    assert (Exit.REJECTED, Exit.OK) == (status.code, explained.code)
    assert UsageLedger.explain(HourState.CONFLICT).advice in explained.err
    assert [*HourState] == [one["state"] for one in everything.lines]


def test_usage_is_resolved_by_state_or_by_name(ended: str, shell: Shell) -> None:
    """
    With a note that stands in the history; what is written off raises no alarm. ledger H8
    """
    first, _ = shell("ledger", "history", ended).lines
    named = ["resolve", ended, "--as", "metered", "--note", "seen", "--name", first["name"]]
    one = shell("ledger", *named)
    rest = shell("ledger", "write-off", ended, "--state", "conflict", "--note", "a gift")
    (said,) = shell("ledger", "history", ended).lines[0]["resolutions"]

    assert ("1 is resolved as metered", Exit.OK) == (one.err.strip(), one.code)
    assert ("1 is resolved as written_off", Exit.OK) == (rest.err.strip(), rest.code)
    assert ("conflict", "metered", "seen") == (said["before"], said["after"], said["note"])
    assert ["metered", "written_off"] == states(shell, ended)
    assert Exit.OK == shell("ledger", "status", ended).code


def test_what_was_changed_before_an_error_is_counted(
    ended: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Since many are changed in parts, of which the later ones may meet what the first did not.
    """
    monkeypatch.setattr(ledger_operator, "_AT_ONCE", 1)
    first, _ = shell("ledger", "history", ended).lines
    some = ["--name", first["name"], "--name", "hour-99"]
    done = shell("ledger", "write-off", ended, *some, "--note", "a gift")

    assert "1 is changed; the rest is as it was, because:\nhour-99 is not in the" in done.err
    assert Exit.USAGE == done.code
    assert ["conflict", "written_off"] == states(shell, ended)


def test_usage_is_billed_in_the_hour_that_runs(ended: str, shell: Shell) -> None:
    """
    By customer, where it surely is not metered.
    """
    options = ["--state", "conflict", "--account", f"{1:012d}", "--note", "to be paid"]
    done = shell("ledger", "reopen", ended, *options)

    assert (Exit.OK, "the usage of 1 is billed in the hour that runs") == (
        done.code,
        done.err.strip(),
    )
    assert ["conflict", "open", "reopened"] == states(shell, ended)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["write-off", "{url}", "--note", "x"], "say which: --state"),
        (
            ["reopen", "{url}", "--note", "x", "--name", "hour-1", "--month", "2026-11"],
            "or --name alone",
        ),
        (["write-off", "{url}", "--note", " ", "--state", "conflict"], "--note: expected 1 to"),
        (
            ["resolve", "{url}", "--as", "ok", "--note", "x", "--state", "conflict"],
            "--as: expected",
        ),
        (["rebind", "{url}", "--note", "x", "--taken", "kept"], "--taken: expected one of billed"),
        (["prune", "{url}", "--days", "0"], "--days: expected at least 3 days ago"),
        (["reopen", "{url}", "--note", "x", "--state", "open"], "expected one of not_subscribed"),
        (["reopen", "{url}", "--note", "x", "--name", "hour-77"], "hour-77 is not in the ledger"),
        (
            ["write-off", "{url}", "--note", "x", "--name", "7"],
            "--name: expected entries of `ledger history`",
        ),
        (["explain", "nonsense"], "expected one of open, frozen"),
        (["un-retire", "{url}", "postgresql://h/d"], "has not moved"),
    ],
)
def test_misuse_is_named(ended: str, shell: Shell, arguments: list[str], said: str) -> None:
    """
    In a line, and nothing is changed.
    """
    run = shell("ledger", *[argument.replace("{url}", ended) for argument in arguments])

    assert run.code in (Exit.USAGE, Exit.ACCOUNT)
    assert said in " ".join(run.err.split())
    assert ["conflict", "conflict"] == states(shell, ended)


def test_a_ledger_leaves_the_sandbox(ended: str, shell: Shell, tmp_path: Path) -> None:
    """
    For AWS itself, once somebody has said what becomes of what the sandbox took. ledger M15
    """
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE hour SET state = 'metered'")
        database.execute("UPDATE kept_sum SET state = 'metered' WHERE state = 'conflict'")
    asked = shell("ledger", "rebind", ended, "--note", "went live")
    done = shell("ledger", "rebind", ended, "--note", "went live", "--taken", "written_off")
    status: dict[str, Any] = shell("ledger", "status", ended, "--json").lines[0]

    assert Exit.USAGE == asked.code
    assert "say what becomes of 10 units that 127.0.0.1 has taken" in asked.err
    assert "Give it by --taken." in asked.err
    assert Exit.OK == done.code
    assert "2 are metered no more" in done.err
    assert "metering.marketplace.us-east-1.amazonaws.com" == status["host"]
    assert {"written_off": 10} == status["ended"]


def test_advice_names_commands_and_not_functions() -> None:
    """
    Of every error that a command may print.
    """
    errors = [
        error
        for name in marketplace_metering_async.__all__
        if isinstance(error := getattr(marketplace_metering_async, name), type)
        and issubclass(error, MeteringError)
        and isinstance(error.advice, str)  # the service's own depends on the code
        and not issubclass(error, ExceptionGroup)  # for programs, with results that those have
    ]
    advice = {error.__name__: advice_on(error.__new__(error)) for error in errors}

    assert "CannotResolveError" in advice
    assert {} == {name: text for name, text in advice.items() if "()" in text}
