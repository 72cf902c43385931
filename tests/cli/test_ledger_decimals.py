"""Decimal quantities through `ledger …`: exact from an option or a file to the book."""

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from pathlib import Path

from attrs import evolve
from support.commands import Shell, line, target

from marketplace_metering_async import LedgerStatus, UsageLedger
from marketplace_metering_async.cli.commands.ledger_status import print_unsettled
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.sandbox import Sandbox

WHO = ["--product-code", "prod", "--account", "000000000001", "--dimension", "requests"]
NOW = datetime(2026, 11, 23, tzinfo=UTC)
PRODUCT = ["--product-code", "prod"]


def declare(url: str, whole: Sequence[str]) -> None:
    """Declare dimensions whole, as an application does when it opens the ledger."""

    async def opened() -> None:
        async with UsageLedger.open(url, whole=whole):
            pass

    asyncio.run(opened())


def test_what_is_added_is_shown_everywhere(shell: Shell, url: str) -> None:
    """
    For programs as in result lines: a number where whole, else a text; by its digits for people and
    alarms. Issue 20
    """
    for quantity in ("0.1", "0.2", "17", "1000.000001"):
        assert Exit.OK == shell("ledger", "add", url, *WHO, "--quantity", quantity).code
    shell("ledger", "add", url, *WHO, "--quantity", "5", "--at", "2026-01-01T00:00:00Z")
    status = shell("ledger", "status", url, "--json").lines[0]
    table = shell("ledger", "status", url).out
    alarms = shell("ledger", "status", url, "--prometheus").out
    history = [json.loads(one) for one in shell("ledger", "history", url).out.splitlines()]
    cells = list(csv.DictReader(io.StringIO(shell("ledger", "history", url, "--csv").out)))

    assert ("1022.300001", "1017.300001") == (status["recorded"], status["open"])
    assert {"month_over": 5} == status["ended"]
    assert "1,022.300001 units recorded" in table
    assert "marketplace_metering_ledger_recorded_units_total 1022.300001\n" in alarms
    assert 'state="open"} 1017.300001' in alarms
    assert {"1017.300001", 5} == {entry["quantity"] for entry in history}
    assert {"1017.300001", "5"} == {cell["quantity"] for cell in cells}


def test_sums_for_people_are_exact(shell: Shell, url: str) -> None:
    """
    Whatever context the process has: of end states together, and of what waits to be sent.
    """
    january = ["--at", "2026-01-01T00:00:00Z"]
    shell("ledger", "add", url, *WHO, "--quantity", "1000.000001", *january)

    async def status() -> LedgerStatus:
        async with UsageLedger.open(url) as ledger:
            return await ledger.status()

    waiting = evolve(
        asyncio.run(status()),
        frozen=Decimal("1000.000002"),
        in_flight=Decimal("0.000001"),
        next_send_at=NOW,
    )
    console = Console(file=io.StringIO(), width=200)
    with localcontext(prec=3):
        table = shell("ledger", "status", url).out
        print_unsettled(waiting, NOW, console)

    assert 3 == table.count("1,000.000001")
    assert "1,000.000001 units are frozen" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_option_that_is_no_quantity_is_refused(shell: Shell, url: str) -> None:
    """
    And makes no ledger. Issue 20
    """
    done = shell("ledger", "add", url, *WHO, "--quantity", "1e3")

    assert Exit.USAGE == done.code
    assert "digits without leading zeros" in " ".join(done.err.replace("│", " ").split())
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_a_file_is_imported_and_metered_by_its_digits(
    sandbox: Sandbox, shell: Shell, url: str, tmp_path: Path
) -> None:
    """
    A line is known again by the value that it says. Issue 20
    """
    digits = ["0.1", "0.2", '"0.700001"', "3.0", "9999999990"]
    usage = tmp_path / "usage.jsonl"
    usage.write_text(
        "\n".join(line(1, quantity="HERE").replace('"HERE"', one) for one in digits) + "\n"
    )
    first = shell("ledger", "import", url, usage, *PRODUCT)
    usage.write_text(usage.read_text().replace("3.0", '"3.000"'))
    again = shell("ledger", "import", url, usage, *PRODUCT)
    done = shell("send", "--ledger", f"{url}-2", usage, *target(sandbox))

    assert ["Recorded"] * 5 == first.statuses, first.err
    assert ["Repeated"] * 5 == again.statuses
    assert Exit.OK == done.code, done.err
    assert "9999999994.000001" == done.lines[-1]["units"]
    assert [Decimal("9999999994.000001")] == [record.quantity for record in sandbox.book.records]


def test_a_fraction_of_a_whole_dimension_is_named_with_its_place(
    sandbox: Sandbox, shell: Shell, url: str
) -> None:
    """
    As any bad line: others of a file are taken, and `send --ledger` holds its hour. Issue 20
    """
    declare(url, ["requests"])
    given = "\n".join([line(1, quantity=1), line(1, quantity="0.5"), line(2, quantity="2.0")])
    alone = shell("ledger", "add", url, *WHO, "--quantity", "0.5")
    told = shell("ledger", "import", url, "-", "--name", "n", *PRODUCT, stdin=given)

    assert Exit.USAGE == alone.code
    assert "quantity: expected a whole number" in alone.err
    assert ["Recorded", "Rejected", "Recorded"] == told.statuses
    assert "-:2: quantity: expected a whole number from 0 to 2147483647" in told.err
    assert "declared whole" in told.lines[1]["message"]
    assert "Fix" in told.lines[1]["advice"]


def test_an_hour_that_lacks_a_fraction_is_held(
    sandbox: Sandbox, shell: Shell, url: str, tmp_path: Path
) -> None:
    """
    Sent without it, the hour would be locked at a part of its sum. Issue 20
    """
    declare(url, ["requests"])
    usage = tmp_path / "usage.jsonl"
    usage.write_text(
        "\n".join([line(1, quantity=1), line(1, quantity="0.5"), line(2, quantity="2.0")]) + "\n"
    )
    done = shell("send", "--ledger", url, usage, *target(sandbox))

    assert ["Held", "Rejected", "Recorded"] == [one["status"] for one in done.lines[:3]]
    assert [2] == [record.quantity for record in sandbox.book.records]
