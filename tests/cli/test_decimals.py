"""Decimal quantities through the command line: exact from the digits of a file to the book."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.commands import HOUR, Shell, line, target

from marketplace_metering_async.sandbox import Sandbox

HEADER = ["timestamp", "dimension", "quantity", "customer_aws_account_id"]


def number(customer: int, digits: str) -> str:
    """A line whose quantity is this number of JSON."""
    return line(customer, quantity="HERE").replace('"HERE"', digits)


def table(*rows: tuple[int, str]) -> str:
    text = io.StringIO()
    cells = [[HOUR.isoformat(), "requests", q, f"{c:012d}"] for c, q in rows]
    csv.writer(text).writerows([HEADER, *cells])
    return text.getvalue()


@pytest.mark.parametrize("options", [[], ["--coalesce"]])
def test_files_are_metered_by_their_digits(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, options: list[str]
) -> None:
    """
    JSON lines and CSV in one run, whole numbers above int32 among them.
    """
    lines, rows = tmp_path / "a.jsonl", tmp_path / "b.csv"
    lines.write_text(
        "\n".join([number(1, "0.1"), number(2, "3.0"), number(3, '"0.30"'), number(4, "1e3")])
    )
    rows.write_text(table((5, "17.420001"), (6, "9999999999.999999"), (7, "2147483648")))

    done = shell("send", *options, *target(sandbox), lines, rows)

    assert 0 == done.code, done.err
    assert ["0.1", "3", "0.3", "1000", "17.420001", "9999999999.999999", "2147483648"] == [
        str(record.quantity)
        for record in sorted(sandbox.book.records, key=lambda one: one.customer)
    ]
    if options:
        assert ["0.1", 3, "0.3", 1000] == [one["hour_quantity"] for one in done.lines[:4]]


def test_fractions_of_an_hour_add_up_exactly(sandbox: Sandbox, shell: Shell) -> None:
    """
    Ten tenths are one, which travels as a whole quantity; the plan counts as sending does.
    """
    given = "\n".join([number(1, "0.1")] * 10 + [number(2, "0.1"), number(2, "0.2")])

    plan = shell("send", "--coalesce", "--dry-run", *target(sandbox), "-", stdin=given)
    checked = shell("validate", "--coalesce", "--product-code", "prod", "-", stdin=given)
    done = shell("send", "--coalesce", *target(sandbox), "-", stdin=given)

    assert (0, 0, 0) == (plan.code, checked.code, done.code)
    assert "records to send   2" in plan.err
    by_customer = sandbox.book.totals(by="customer")
    assert {"000000000001": 1, "000000000002": Decimal("0.3")} == by_customer
    assert [1] * 10 + ["0.3"] * 2 == [one["hour_quantity"] for one in done.lines]


def test_hours_held_back_are_listed_with_their_exact_sums(sandbox: Sandbox, shell: Shell) -> None:
    """
    Of all customers together.
    """
    now = datetime.now(UTC).isoformat()
    given = [number(n, "1000.000001").replace(HOUR.isoformat(), now) for n in (1, 2)]

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given))

    assert ["Held", "Held"] == done.statuses
    assert "2,000.000002" in done.err


@pytest.mark.parametrize("command", ["send", "validate", "send --coalesce"])
def test_what_cannot_be_sent_is_told_with_its_place(
    sandbox: Sandbox, shell: Shell, command: str
) -> None:
    """
    File, line, what it should be and what to do; the good line beside it goes.
    """
    given = "\n".join([number(1, "0.5"), number(2, "0.1234567")])
    where = ["--product-code", "prod"] if command == "validate" else target(sandbox)

    done = shell(*command.split(), *where, "-", stdin=given)

    good, bad = done.lines
    assert ("Rejected", 2) == (bad["status"], bad["line"])
    assert good["status"] in ("Success", "Valid")
    assert "-:2: quantity: expected at most 6 decimal places, got 0.1234567" in done.err
    assert "Fix" in bad["advice"]


def test_a_refusal_of_fractions_holds_back_no_other(sandbox: Sandbox, shell: Shell) -> None:
    """
    As of a product that takes whole quantities only, in whatever words the service says so.
    """
    sandbox.change_rules(fractions="refused")
    given = "\n".join([number(1, "5"), number(2, "0.5"), number(3, "5.0")])

    done = shell("send", *target(sandbox), "-", stdin=given)

    assert ["Success", "Unprocessed", "Success"] == done.statuses
    assert "whole quantities only" in done.lines[1]["message"]
    assert {"requests": 10} == sandbox.book.totals()


@pytest.mark.parametrize(
    ("quantity", "booked"), [("0.5", Decimal("0.5")), ("3.0", 3), ("4294967296", 2**32)]
)
def test_meter_takes_decimals(sandbox: Sandbox, shell: Shell, quantity: str, booked: Any) -> None:
    """
    By the digits of the option.
    """
    where = ["--endpoint-url", sandbox.url, "--product-code", "prod", "--dimension", "d"]

    done = shell("meter", *where, "--quantity", quantity)
    bad = shell("meter", *where, "--quantity", "1e3")

    assert 0 == done.code, done.err
    assert [booked] == [record.quantity for record in sandbox.book.records]
    assert (2, True) == (bad.code, "digits without leading zeros" in bad.err)


def test_lines_of_one_key_are_compared_by_value(sandbox: Sandbox, shell: Shell) -> None:
    """
    17 and 17.0 are one record, in the plan as in sending.
    """
    given = "\n".join(
        [number(1, "17"), number(1, '"17.00"'), number(2, "1"), number(2, "1.000001")]
    )

    plan = shell("send", "--dry-run", *target(sandbox), "-", stdin=given)
    done = shell("send", *target(sandbox), "-", stdin=given)

    assert ["Success", "Success", "Rejected", "Rejected"] == done.statuses
    assert "-:1" == done.lines[1]["duplicate_of"]
    assert "say the same again  1" in plan.err
