"""Help, completion, verbosity, time limits: what a person or a log meets first."""

import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from support.commands import HOUR, Shell, command, environment, line, started, target

from marketplace_metering_async.cli.app import app
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.lines import Line
from marketplace_metering_async.cli.output.console import Console, lasting
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.cli.output.report import Report
from marketplace_metering_async.cli.output.result_fields import Fate
from marketplace_metering_async.cli.output.result_writer import ResultWriter
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command and group by its words; the program itself has none."""
    root: Any = typer.main.get_command(app)
    yield "", root
    for name, one in root.commands.items():
        yield name, one
        for inner, nested in getattr(one, "commands", {}).items():
            yield f"{name} {inner}", nested


COMMANDS = dict(commands())
EXAMPLES = [
    shlex.split(text)[1:]
    for one in COMMANDS.values()
    for text in (one.epilog or "").splitlines()
    if text.startswith("  marketplace-metering ")
]
RUN_FOR_LONG = {name for name, one in COMMANDS.items() if "until Ctrl-C" in (one.help or "")} | {
    "demo"
}
NEED_MORE = {"ledger un-retire", "ledger rebind", "resolve", "register", "meter", "doctor"}


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_is_whole_on_any_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str, columns: int
) -> None:
    """
    Every option has a text, no type of Python shows, and only what is to be copied is long.
    """
    monkeypatch.setenv("COLUMNS", str(columns))

    shown = shell(*words.split(), "--help")

    assert Exit.OK == shown.code
    assert not re.search(r"<\w+>|list\[|\{", shown.out)
    for text in shown.out.splitlines():
        assert len(text) <= columns or "marketplace-metering" in text or columns < 80, text
    for parameter in COMMANDS[words].params:
        assert parameter.help, parameter.name
    if "commands" not in vars(COMMANDS[words]) and words != "help":
        assert "Examples:" in shown.out


def test_help_is_a_command_too(shell: Shell) -> None:
    """
    And a program without a command shows its own.
    """
    assert shell("ledger", "add", "--help").out == shell("help", "ledger", "add").out
    assert shell("sandbox", "check", "--help").out == shell("help", "sandbox", "check").out
    assert 2 == shell("help", "no-such-command").code
    for words in ([], ["ledger"]):
        bare = shell(*words)
        assert (Exit.USAGE, "") == (bare.code, bare.out)
        assert bare.err.startswith("Usage: marketplace-metering ")


def test_the_examples_are_used_rightly(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One after the other, as they stand in the help, in a folder with usage.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.url)
    for name in ("usage.jsonl", "events.jsonl"):
        Path(name).write_text(f"{line(1)}\n{line(2)}\n")
    members = json.loads(line(3))
    Path("usage.csv").write_text(f"{','.join(members)}\n{','.join(map(str, members.values()))}\n")
    Path("events.jsonl.gz").write_bytes(gzip.compress(Path("events.jsonl").read_bytes()))
    wrong = {}
    for words in EXAMPLES:
        name = " ".join(words[: 2 if words[0] == "ledger" else 1])
        if name in RUN_FOR_LONG | NEED_MORE and "--once" not in words:
            continue
        if any(word.startswith("postgresql://") for word in words):
            continue
        done = shell(*words)
        if done.code in (Exit.USAGE, Exit.ACCOUNT) and "no such" not in done.err.lower():
            wrong[shlex.join(words)] = done.err

    assert 20 < len(EXAMPLES)
    allowed = ("none", "nothing", "no entr")
    assert {} == {text: err for text, err in wrong.items() if not any(a in err for a in allowed)}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("se", "send"),
        ("ledger cl", "close-customer"),
        ("send --coa", "--coalesce"),
        ("ledger explain prob", "probably_metered"),
        ("ledger resolve --as met", "metered"),
    ],
)
def test_the_shell_completes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str, found: str
) -> None:
    """
    Commands, options and states, as bash asks for them. Newcomer, smaller 4.
    """
    monkeypatch.setattr(sys, "argv", ["marketplace-metering"])
    monkeypatch.setenv("_MARKETPLACE_METERING_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"marketplace-metering {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))

    done = shell()

    assert found in done.out.split(), done.err


def test_every_step_is_told_where_asked_for(sandbox: Sandbox, shell: Shell) -> None:
    """
    Each call with what came of it, and each retry. Newcomer M12
    """
    sandbox.inject(Fault(kind=FaultKind.ERROR_500, max_hits=1))

    quiet = shell("send", *target(sandbox), "-", stdin=line(1))
    sandbox.inject(Fault(kind=FaultKind.ERROR_500, max_hits=1))
    done = shell("send", "-v", *target(sandbox), "-", stdin=line(2))

    assert "BatchMeterUsage" not in quiet.err
    assert re.search(r"BatchMeterUsage, 1 record: InternalServiceErrorException in \d", done.err)
    assert "1 record waits 0" in done.err
    assert re.search(r"BatchMeterUsage, 1 record: ok in .* attempt 2, request", done.err)
    assert "ended: 1 Success; 2 calls" in done.err


def test_a_log_gets_an_object_a_line(sandbox: Sandbox, shell: Shell) -> None:
    """
    All of stderr: complaints, steps, and what people read as a table.
    """
    given = "\n".join([line(1), "no json"])

    done = shell("send", "-v", "--log-format", "json", *target(sandbox), "-", stdin=given)

    lines = [json.loads(one) for one in done.err.splitlines()]
    assert {"info", "warning", "debug"} == {one["level"] for one in lines}
    assert all(datetime.fromisoformat(one["time"]).tzinfo for one in lines)
    (ended,) = [one for one in lines if one.get("event") == "CallEnded"]
    assert (1, None) == (ended["records"], ended["code"])
    assert any("expected a JSON object" in one["message"] for one in lines)
    assert ["Success", "Rejected"] == done.statuses


def test_misuse_is_a_line_of_the_log_too(shell: Shell) -> None:
    """
    Files that are not there, and an account that is not.
    """
    done = shell("send", "--log-format", "json", "there/is/none.jsonl")

    assert Exit.USAGE == done.code
    assert "No such file" in json.loads(done.err)["message"]


def test_options_that_do_not_go_together_are_a_line_of_the_log_too(shell: Shell) -> None:
    """
    No frame around it, which a collector of logs would take for five lines.
    """
    done = shell("send", "--log-format", "json", "--include-current-hour", "-")

    assert Exit.USAGE == done.code
    assert "only --coalesce holds hours back" in json.loads(done.err)["message"]


async def test_progress_counts_verdicts_and_not_lines_in_order() -> None:
    """
    One line that takes long holds up later results, and no progress. Newcomer, smaller 8
    """
    console = Console(file=io.StringIO())
    record = UsageRecord(
        timestamp=HOUR, dimension="d", quantity=1, customer_aws_account_id="111122223333"
    )
    bar = ProgressBar(console, "metering", total=20)
    lines = ResultWriter(console)
    async with Report(console, bar, lines) as report:
        numbers = [report.expect(Line("-", n, 10, record)) for n in (1, 2)]
        report.answer(numbers[1], Fate({"status": "Success"}, Exit.OK))
        assert 1 == bar.done
        report.answer(numbers[0], Fate({"status": "Success"}, Exit.OK))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119.0, "119 s"), (3999.0, "67 min"), (7260.0, "2 h 1 min")],
)
def test_a_time_is_said_in_its_own_unit(seconds: float, text: str) -> None:
    """
    Newcomer, smaller 8: "3,999 s".
    """
    assert text == lasting(seconds)


def test_a_relay_says_what_it_does(sandbox: Sandbox, shell: Shell, url: str) -> None:
    """
    A collector of logs gets each call. Newcomer M12
    """
    shell("ledger", "import", url, "-", "--name", "n", "--product-code", "p", stdin=line(1))
    where = ["--endpoint-url", sandbox.url, "--log-format", "json"]

    done = shell("ledger", "relay", url, "--once", "--timeout", "20", "-v", *where)

    assert all(json.loads(one)["message"] for one in done.err.splitlines())


def test_a_time_limit_ends_what_would_be_tried_for_long(sandbox: Sandbox, shell: Shell) -> None:
    """
    With verdicts for all, and the code for sending again. Newcomer M7
    """
    sandbox.inject(Fault(kind=FaultKind.ERROR_500))

    done = shell("send", "--timeout", "2", *target(sandbox), "-", stdin=line(1))

    assert Exit.UNDELIVERED == done.code
    assert ["Unconfirmed"] == done.statuses
    assert "The time allowed is over" in done.err


def test_a_time_limit_ends_a_stream_that_says_nothing(sandbox: Sandbox) -> None:
    """
    Input that was not read whole is not all delivered.
    """
    read, write = os.pipe()
    try:
        os.write(write, line(1).encode() + b"\n")
        done = subprocess.run(  # noqa: S603 - our own program
            command("send", "--timeout", "5", *target(sandbox), "-"),
            stdin=read,
            capture_output=True,
            check=False,
            timeout=60,
            env=environment(),
        )
    finally:
        os.close(read)
        os.close(write)

    assert Exit.UNDELIVERED == done.returncode, done.stderr
    assert "Success" == json.loads(done.stdout)["status"]


def test_a_time_limit_ends_a_stream_on_its_way_into_a_ledger(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """
    Of input that was not read whole nothing is sent: an hour would be sealed without its rest.
    """
    fifo, url = tmp_path / "fifo", f"sqlite:///{tmp_path}/u.db"
    os.mkfifo(fifo)
    options = ["--timeout", 1.5, "--ledger", url, *target(sandbox)]
    with started("send", *options, fifo) as running, fifo.open("wb", buffering=0) as silent:
        silent.write(line(1).encode() + b"\n")
        _, err = running.communicate(timeout=30)

    assert Exit.UNDELIVERED == running.returncode, err
    assert b"The time allowed is over" in err
    assert "" == shell("ledger", "history", url).out
    assert 0 == sandbox.calls.total()


def test_a_time_limit_is_for_an_end(shell: Shell, tmp_path: Path) -> None:
    """
    A relay that goes on has none.
    """
    done = shell("ledger", "relay", f"sqlite:///{tmp_path}/u.db", "--timeout", "5")

    assert Exit.USAGE == done.code
    assert "only together with --once" in done.err


def test_a_region_that_is_none_is_named_before_it_is_tried(shell: Shell) -> None:
    """
    In the plan, and while it is sent. Newcomer M7
    """
    where = ["--product-code", "p", "--region", "us-esat-1"]

    plan = shell("send", "--dry-run", *where, "-", stdin=line(1))
    sent = shell("send", "--timeout", "0.2", *where, "-", stdin=line(1))

    shown = " ".join(plan.err.split())
    assert "us-esat-1 is no region that is known to offer BatchMeterUsage" in shown
    assert "check --region, AWS_DEFAULT_REGION and AWS_REGION" in sent.err
    assert Exit.UNDELIVERED == sent.code


def test_the_product_may_stand_in_the_environment(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """
    For what is metered; never for what is looked up, which it would hide.
    """
    monkeypatch.setenv("MARKETPLACE_METERING_PRODUCT_CODE", "prod")
    where = ["--endpoint-url", sandbox.url]

    assert ["Success"] == shell("send", *where, "-", stdin=line(1)).statuses
    assert Exit.OK == shell("ledger", "import", url, "-", "--name", "n", stdin=line(2)).code
    other = ["--product-code", "other", "--name", "m"]
    assert Exit.OK == shell("ledger", "import", url, "-", *other, stdin=line(2)).code
    assert 2 == len(shell("ledger", "history", url).lines)


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        (None, (0, "ok", "a call without a record was taken")),
        ("AccessDeniedException", (4, "no", "Allow aws-marketplace:BatchMeterUsage on *")),
        ("InvalidProductCodeException", (4, "no", "account that sells it")),
        ("ThrottlingException", (0, "?", "--calls-per-second")),
    ],
)
def test_a_doctor_asks_for_the_permission_that_counts(
    sandbox: Sandbox, shell: Shell, code: str | None, ends: tuple[int, str, str]
) -> None:
    """
    By a list of no records, which meters nothing; product and dimensions stay unproven.
    """
    if code is not None:
        operation = "BatchMeterUsage"
        sandbox.inject(Fault(kind=FaultKind.REFUSE, operation=operation, code=code, status=400))

    done = shell("doctor", "--endpoint-url", sandbox.url, "--product-code", "prod")

    found = {entry["check"]: entry for entry in done.lines}["BatchMeterUsage"]
    assert ends[:2] == (done.code, found["found"])
    assert ends[2] in found["text"]
    assert {} == sandbox.book.totals()


def test_what_speaks_to_programs_has_one_form(shell: Shell, tmp_path: Path) -> None:
    """
    Newcomer M12: JSON and Prometheus text would be mixed.
    """
    done = shell("ledger", "status", f"sqlite:///{tmp_path}/u.db", "--json", "--prometheus")

    assert Exit.USAGE == done.code
    assert "not together with --json" in done.err


def test_a_port_that_is_taken_names_the_way_out(sandbox: Sandbox, shell: Shell) -> None:
    """
    Newcomer, smaller 9.
    """
    done = shell("sandbox", "--port", sandbox.url.rpartition(":")[2])

    assert Exit.USAGE == done.code
    assert "give another --port (0: a free one)" in done.err


@pytest.mark.parametrize("columns", ["0", "1", "99999999999", "²"])
def test_a_width_that_no_screen_has_hides_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, columns: str
) -> None:
    """
    Rich takes COLUMNS by its word: at 0, as some containers set it, it would show nothing at all.
    """
    monkeypatch.setenv("COLUMNS", columns)
    usage = ["--product-code", "p", "--account", "111122223333", "--dimension", "d"]
    shell("ledger", "add", url, *usage, "--quantity", "5")

    status = shell("ledger", "status", url).out.splitlines()

    assert ["product", "dimension", "open", "frozen", "metered", "ended"] == status[0].split()
    assert "nothere.jsonl: No such file" in shell("send", tmp_path / "nothere.jsonl").err
    assert "No such command 'sendd'" in shell("sendd").err
