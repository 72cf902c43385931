"""`ledger …` and `send --ledger`, as a person types them."""

import asyncio
import csv
import gzip
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.commands import Run, Shell, line, process, target
from support.ledgers import refuse_thirteen

from marketplace_metering_async.cli.commands import ledger_in_out
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output import result_writer
from marketplace_metering_async.cli.output.result_fields import Fate
from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.sandbox import Fault, Sandbox


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    path = tmp_path / "usage.jsonl"
    path.write_text("\n".join(line(n) for n in (1, 2, 1)) + "\n")
    return path


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


def status_of(shell: Shell, url: str) -> dict[str, Any]:
    found: dict[str, Any] = shell("ledger", "status", url, "--json").lines[0]
    return found


def test_importing_twice_adds_nothing_twice(url: str, usage: Path, shell: Shell) -> None:
    """
    A line is known by its file, its number and what it says; a file that grew adds its new lines.
    Covers: V17, X09
    """
    first = shell("ledger", "import", url, usage, "--product-code", "p")
    again = shell("ledger", "import", url, usage, "--product-code", "p")
    with usage.open("a") as file:
        file.write(line(9) + "\n")
    grown = shell("ledger", "import", url, usage, "--product-code", "p")

    assert ["Recorded"] * 3 == first.statuses
    assert ["Repeated"] * 3 == again.statuses
    assert ["Repeated"] * 3 + ["Recorded"] == grown.statuses


def test_what_was_stored_has_its_result_where_the_ledger_fails_then(
    tmp_path: Path, usage: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Also where whoever reads the results is slow.
    """

    async def cut_short(*_: object, **__: object) -> AsyncIterator[tuple[str, int, Fate]]:
        yield str(usage), 1, Fate({"status": "Recorded"}, Exit.OK)
        raise LedgerError("the disk is gone")

    def slowly(data: bytes) -> None:
        time.sleep(0.1)
        os.write(1, data)

    monkeypatch.setattr(ledger_in_out, "import_lines", cut_short)
    monkeypatch.setattr(result_writer, "stdout", lambda: slowly)
    done = shell("ledger", "import", url_in(tmp_path), usage, "--product-code", "p")

    assert [1] == [one["line"] for one in done.lines]
    assert "the disk is gone" in done.err


def test_a_line_that_the_database_refuses_costs_no_other(
    url: str, usage: Path, shell: Shell
) -> None:
    """
    It is named with its place, as any bad line is.
    """
    shell("ledger", "import", url, usage, "--product-code", "p")
    asyncio.run(refuse_thirteen(url))
    usage.write_text("\n".join(line(n, quantity=13 if n == 5 else 1) for n in range(4, 8)) + "\n")

    run = shell("ledger", "import", url, usage, "--product-code", "p", "--name", "other")

    assert Exit.REJECTED == run.code
    assert ["Recorded", "Rejected", "Recorded", "Recorded"] == run.statuses
    assert run.lines[1]["message"].startswith(f"{usage}:2: ")
    assert "UsageRefusedError" == run.lines[1]["error"]


def test_a_bad_line_costs_no_other(tmp_path: Path, usage: Path, shell: Shell) -> None:
    """
    It is named with its place, and the exit code says so.
    """
    usage.write_text(usage.read_text() + "nonsense\n")

    run = shell("ledger", "import", url_in(tmp_path), usage, "--product-code", "p")

    assert Exit.REJECTED == run.code
    assert ["Recorded"] * 3 + ["Rejected"] == run.statuses
    assert f"{usage}:4" in run.err


def test_send_through_a_ledger_meters_the_rest_once(
    sandbox: Sandbox, url: str, usage: Path, shell: Shell
) -> None:
    """
    However often the same file is sent.
    """
    runs: list[Run] = [
        shell("send", "--ledger", url, usage, *target(sandbox), "--product-code", "p")
        for _ in range(2)
    ]
    on_file = sorted(record.quantity for record in sandbox.book.records)
    status = status_of(shell, url)

    assert [Exit.OK, Exit.OK] == [run.code for run in runs], runs[0].err
    assert status["metered"] == status["recorded"] == sum(on_file)
    assert 2 == len(on_file)


def test_status_speaks_to_people_programs_and_alarms(url: str, usage: Path, shell: Shell) -> None:
    """
    The names of LedgerStatus in JSON, Prometheus text, and a table.
    """
    shell("ledger", "import", url, usage, "--product-code", "p")
    prometheus = shell("ledger", "status", url, "--prometheus").out
    table = shell("ledger", "status", url)

    assert status_of(shell, url)["open"] == status_of(shell, url)["recorded"]
    assert 'marketplace_metering_ledger_units{product_code="p",' in prometheus
    assert Exit.OK == table.code
    assert "units recorded" in table.out


def test_history_is_json_lines_or_csv(url: str, usage: Path, shell: Shell) -> None:
    """
    With whole ids: it is evidence.
    """
    shell("ledger", "import", url, usage, "--product-code", "p")
    lines = shell("ledger", "history", url).out.splitlines()
    table = shell("ledger", "history", url, "--csv").out.splitlines()

    assert {"open"} == {json.loads(one)["state"] for one in lines}
    assert lines == shell("ledger", "history", url, "--state", "open").out.splitlines()
    assert [] == shell("ledger", "history", url, "--state", "metered").lines
    assert table[0].startswith("product_code,customer_aws_account_id")
    assert len(lines) == len(table) - 1 == 2
    assert json.loads(lines[0]).keys() == set(table[0].split(","))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["retry", "{url}", "--state", "nonsense"], "expected one of not_subscribed"),
        (["prune", "{url}", "--days", "1"], "at least 3 days ago"),
        (["history", "{url}", "--month", "May"], "expected YYYY-MM"),
        (["import", "{url}", "-"], "needs --name"),
        (["import", "{url}", "-", "--name", ""], "expected a text, got none"),
        (
            ["import", "{url}", "sqlite:///none.db", "--name", "x"],
            "a ledger that moves has no lines",
        ),
        (["import", "{url}", "sqlite:///none.db", "--changed"], "a ledger that moves has no lines"),
        (["status", "mysql://x"], "expected sqlite:///usage.db or postgresql://"),
    ],
)
def test_misuse_is_told(
    url: str, usage: Path, shell: Shell, arguments: list[str], told: str
) -> None:
    """
    In a line, without a traceback.
    """
    shell("ledger", "import", url, usage, "--product-code", "p")
    run = shell("ledger", *[argument.replace("{url}", url) for argument in arguments])

    assert run.code in (Exit.USAGE, Exit.ACCOUNT)
    assert told in " ".join(run.err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["history"],
        ["relay"],
        ["relay", "--once"],
        ["retry"],
        ["prune"],
        ["adopt-copy"],
        ["close-customer", "--account", "1", "--product-code", "p"],
        ["close-customer", "--account", "1", "--product-code", "p", "--reopen"],
    ],
)
def test_a_mistyped_url_is_an_error_and_makes_no_ledger(
    tmp_path: Path, shell: Shell, arguments: list[str]
) -> None:
    """
    Whatever looks at a ledger, or works on what is in it, finds it or says where it looked.
    Newcomer H6.
    """
    command, *options = arguments

    done = shell("ledger", command, f"sqlite:///{tmp_path}/none.db", *options)

    assert (Exit.USAGE, "") == (done.code, done.out)
    assert f"there is no ledger at {tmp_path}/none.db. Check the URL" in done.err
    assert [] == list(tmp_path.iterdir())


def test_a_copy_is_not_relayed(sandbox: Sandbox, tmp_path: Path, usage: Path, shell: Shell) -> None:
    """
    It ends at once with a code of its own; its status is at risk. Adopted, it goes on. ledger H7,
    newcomer M12
    """
    (tmp_path / "copy").mkdir()
    shell("ledger", "import", url_in(tmp_path), usage, "--product-code", "p")
    shutil.copyfile(tmp_path / "ledger.db", tmp_path / "copy" / "ledger.db")
    url = url_in(tmp_path / "copy")
    relays = [
        shell("ledger", "relay", url, *target(sandbox)[:2], *once) for once in ([], ["--once"])
    ]
    called = sandbox.calls.total()
    status = shell("ledger", "status", url)
    adopted, again = (shell("ledger", "adopt-copy", url) for _ in range(2))
    retried = shell("ledger", "retry", url, "--state", "unconfirmed")
    after = shell("ledger", "relay", url, "--once", *target(sandbox)[:2])

    assert ([Exit.COPY] * 2, 0) == ([run.code for run in relays], called)
    assert Exit.UNDELIVERED == status.code
    assert all("this ledger is a copy" in run.err for run in relays)
    assert [Exit.OK] * 2 == [adopted.code, again.code]
    assert "no copy, or was adopted before" in again.err
    assert Exit.COPY != after.code
    assert Exit.USAGE == retried.code
    assert "resolve what is unconfirmed first" in retried.err


def with_id(event_id: Any, *, quantity: int = 1) -> str:
    return line(1, event_id=event_id, quantity=quantity, product_code="p")


def test_a_line_may_have_an_event_id(tmp_path: Path, url: str, shell: Shell) -> None:
    """
    Newcomer H5. Whatever its file is called and wherever it stands, it is the ledger's own id.
    """
    first, second = tmp_path / "a.jsonl", tmp_path / "b.csv"
    first.write_text(with_id("e1") + "\n" + with_id("e2") + "\n")
    members = json.loads(with_id("e2"))
    second.write_text(",".join(members) + "\n" + ",".join(map(str, members.values())))

    assert ["Recorded"] * 2 == shell("ledger", "import", url, first).statuses
    assert ["Repeated"] == shell("ledger", "import", url, second).statuses
    ids = ["--account", members["customer_aws_account_id"], "--event-id", "e1"]
    what = ["--product-code", "p", "--dimension", "requests", "--quantity", "1"]
    added = shell("ledger", "add", url, *ids, *what, "--at", members["timestamp"])
    assert added.lines[0]["repeated"]


def test_a_known_event_id_with_other_content_refuses_its_line(tmp_path: Path, shell: Shell) -> None:
    """
    Newcomer H5. So does what can be no event id.
    """
    url, file = url_in(tmp_path), tmp_path / "a.jsonl"
    file.write_text(
        "\n".join([with_id("e1"), with_id("e1", quantity=2), with_id(7), with_id("e2")])
    )

    run = shell("ledger", "import", url, file)

    assert Exit.REJECTED == run.code
    assert ["Recorded", "Rejected", "Rejected", "Recorded"] == run.statuses
    assert "EventConflictError" == run.lines[1]["error"]
    assert "event_id" in run.lines[2]["message"]


def test_an_event_id_means_nothing_without_a_ledger(tmp_path: Path, shell: Shell) -> None:
    """
    `send` alone would send a repeated one twice.
    """
    file = tmp_path / "a.jsonl"
    file.write_text(with_id("e1"))

    sent = shell("send", file, "--dry-run", "--product-code", "p")
    checked = shell("validate", file, "--product-code", "p")

    assert Exit.REJECTED == sent.code
    assert "only a ledger knows event ids" in sent.err
    assert Exit.OK == checked.code, checked.err


def recorded(shell: Shell, url: str) -> Any:
    return shell("ledger", "status", url, "--json").lines[0]["recorded"]


def test_another_file_of_a_known_name_is_refused(url: str, usage: Path, shell: Shell) -> None:
    """
    Newcomer H5. Neither is its usage lost where a line is the same, nor billed beside the old.
    """
    shell("ledger", "import", url, usage, "--product-code", "p")
    before = recorded(shell, url)
    usage.write_text("\n".join(line(n) for n in (1, 8, 1, 4)))

    refused = shell("ledger", "import", url, usage, "--product-code", "p")
    unchanged = recorded(shell, url)
    asked_for = [
        shell("ledger", "import", url, usage, "--product-code", "p", "--changed") for _ in range(2)
    ]

    assert (Exit.USAGE, [], before) == (refused.code, [], unchanged)
    assert f"{usage}:2: another line was imported under this name" in refused.err
    assert ["Repeated", "Recorded", "Repeated", "Recorded"] == asked_for[0].statuses
    assert ["Repeated"] * 4 == asked_for[1].statuses
    named = shell("ledger", "import", url, usage, "--product-code", "p", "--name", "day 2")
    assert ["Recorded"] * 4 == named.statuses


def test_two_files_of_one_name_are_not_imported(tmp_path: Path, usage: Path, shell: Shell) -> None:
    """
    Newcomer H5. Their lines would be known by one name; nothing is added.
    """
    url, other = url_in(tmp_path), tmp_path / "day2" / usage.name
    other.parent.mkdir()
    shutil.copyfile(usage, other)

    run = shell("ledger", "import", url, usage, other, "--product-code", "p")

    assert Exit.USAGE == run.code
    assert "a --name of its own" in run.err


def test_a_file_that_was_compressed_since_is_the_same(
    tmp_path: Path, url: str, usage: Path, shell: Shell
) -> None:
    """
    Logs are imported, rotated and compressed; imported by `usage*` again, they were billed twice.
    """
    compressed = tmp_path / "rotated" / f"{usage.name}.gz"
    compressed.parent.mkdir()
    compressed.write_bytes(gzip.compress(usage.read_bytes()))
    shell("ledger", "import", url, usage, "--product-code", "p")
    before = recorded(shell, url)

    again = shell("ledger", "import", url, compressed, "--product-code", "p")
    both = shell("ledger", "import", url_in(tmp_path), usage, compressed, "--product-code", "p")

    assert ({"Repeated"}, before) == ({*again.statuses}, recorded(shell, url))
    assert Exit.USAGE == both.code
    assert f"two files would be {usage.name}" in both.err


def test_no_cell_of_a_table_is_run_by_a_spreadsheet(tmp_path: Path, shell: Shell) -> None:
    """
    A text that would be a formula is marked as text; in JSON it is as it was. Covers: X12
    """
    url, file = url_in(tmp_path), tmp_path / "a.jsonl"
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "plain"]
    file.write_text("\n".join(line(1, dimension=text, product_code="p") for text in texts))
    shell("ledger", "import", url, file)

    cells = csv.DictReader(io.StringIO(shell("ledger", "history", url, "--csv").out))
    said = {entry["dimension"] for entry in shell("ledger", "history", url).lines}

    assert {"'=1+1", "'+1", "'-1", "'@SUM(A1)", "plain"} == {row["dimension"] for row in cells}
    assert set(texts) == said


def test_two_commands_on_one_ledger_count_each_line_once(
    url: str, usage: Path, shell: Shell
) -> None:
    """
    At the same time, of one file. Covers: X15
    """
    usage.write_text("\n".join(line(n % 7) for n in range(300)))

    def run() -> Run:
        return process("ledger", "import", url, usage, "--product-code", "p")

    with ThreadPoolExecutor() as both:
        runs = [one.result() for one in [both.submit(run), both.submit(run)]]

    statuses = [status for one in runs for status in one.statuses]
    assert [Exit.OK, Exit.OK] == [run.code for run in runs], runs[0].err
    assert {"Recorded": 300, "Repeated": 300} == Counter(statuses)
    assert 1_500 == status_of(shell, url)["recorded"]


def test_a_database_that_does_not_answer_is_named(shell: Shell) -> None:
    """
    With its place, and what to do in words of the command line: nothing has an event id here.
    """
    done = shell("ledger", "status", "postgresql://somebody:secret@localhost:1/billing")

    assert (Exit.ACCOUNT, "") == (done.code, done.out)
    assert "PostgreSQL cannot be used: " in done.err
    assert "(postgresql://localhost:1/billing). Fix what the text names, and run" in done.err
    assert "secret" not in done.err


def test_a_product_that_the_service_refuses_is_named(
    sandbox: Sandbox, url: str, usage: Path, shell: Shell
) -> None:
    """
    A mistyped product waits, and nothing else in what a relay prints would say why.
    """
    sandbox.declare_product("another")

    sent = shell("send", "--ledger", url, *target(sandbox), usage)
    shell("ledger", "retry", url, "--state", "frozen")  # it would wait for some seconds
    relayed = shell("ledger", "relay", url, "--once", *target(sandbox)[:2])

    for done in (sent, relayed):
        assert Exit.ACCOUNT == done.code
        assert "nothing more is sent for prod: InvalidProductCodeException" in done.err
        assert "units are frozen and wait to be sent" in done.err


def test_licenses_that_the_service_refuses_for_their_product_are_named(
    sandbox: Sandbox, tmp_path: Path, shell: Shell
) -> None:
    """
    No record names the product, and the relay's report names none: it would wait in silence.
    """
    sandbox.inject(Fault(kind="refuse", code="InvalidProductCodeException"))
    url, arn = url_in(tmp_path), "arn:aws:license-manager::123456789012:license:l-1"
    file = tmp_path / "licensed.jsonl"
    file.write_text(line(1, license_arn=arn) + "\n")
    where = target(sandbox)[:2]

    sent = shell("send", "--ledger", url, *where, file)
    shell("ledger", "retry", url, "--state", "frozen")  # it would wait for some seconds
    relayed = shell("ledger", "relay", url, "--once", *where)
    straight = shell("send", "--yes", *where, file)

    for done in (sent, relayed, straight):
        assert Exit.ACCOUNT == done.code
        assert "nothing more is sent for licenses without a product code" in done.err
        assert "InvalidProductCodeException" in done.err
        assert "any product" not in done.err


def test_an_event_id_with_other_content_is_a_rejection(tmp_path: Path, shell: Shell) -> None:
    """
    By the same code as a line of `ledger import`.
    """
    event = ["--product-code", "p", "--account", "111122223333", "--dimension", "d"]
    event += ["--event-id", "e", "--quantity"]

    codes = [shell("ledger", "add", url_in(tmp_path), *event, n).code for n in ("1", "1", "2")]

    assert [Exit.OK, Exit.OK, Exit.REJECTED] == codes
