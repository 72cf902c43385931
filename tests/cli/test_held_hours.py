"""
A line that says no record, and the hours that it may belong to: nothing of them is sent or sealed.

The service keeps the first record of an hour, so a sum that lacks a line loses that line's units.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import HOUR, Run, Shell, line, target

from marketplace_metering_async import UsageRecord
from marketplace_metering_async.cli.commands.hourly_sums import HourlySums
from marketplace_metering_async.cli.commands.job import TemporaryLines
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input.lines import sources_of
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.sandbox import Sandbox

LICENSE = "arn:aws:license-manager::123456789012:license:l-1"

LEDGER_USAGE = ["--dimension", "d", "--quantity", 7, "--account", 1, "--product-code", "prod"]

Sends = Callable[..., Run]
"""Sends lines in one of the ways that add usage up."""


@pytest.fixture(params=["--coalesce", "--ledger"])
def send(request: pytest.FixtureRequest, sandbox: Sandbox, shell: Shell, tmp_path: Path) -> Sends:
    """`send --coalesce`, and `send --ledger` of the same file."""
    file = tmp_path / "usage.jsonl"
    way = [request.param]
    if way == ["--ledger"]:
        way.append(f"sqlite:///{tmp_path}/ledger.db")

    def run(given: list[str], *options: object, name: str = "usage.jsonl") -> Run:
        file.with_name(name).write_text("\n".join(given) + "\n")
        done = shell("send", *way, *target(sandbox), *options, file.with_name(name))
        results = [one for one in done.out.splitlines() if '"status"' in one]  # not the relay's
        return Run(done.code, "\n".join(results), done.err)

    return run


def changed(**changes: Any) -> str:
    """A line of customer 1 with a member changed, or with what is no text of it in its place."""
    return line(1, **changes)


def test_the_hours_of_a_bad_line_are_held_and_lose_nothing(send: Sends, sandbox: Sandbox) -> None:
    """
    Told line by line with what to do; done so, every unit is metered. Newcomer H2.
    """
    bad = [line(1, quantity=5), line(1, quantity="1,5"), line(1, quantity=7), line(2)]
    fixed = [*bad[:1], line(1, quantity=2), *bad[2:]]

    first = send(bad)
    on_file = sandbox.book.totals()
    second = send(fixed)

    assert Exit.UNDELIVERED == first.code
    assert ["Held", "Rejected", "Held"] == first.statuses[:3]
    assert "Held" != first.statuses[3]
    assert {"requests": 5} == on_file
    for held in (first.lines[0], first.lines[2]):
        assert re.match(r"Fix \S+usage.jsonl:2, then send all of the input again", held["advice"])
    assert "then send all of the input again" in first.lines[1]["advice"]
    assert "usage.jsonl:2: quantity: expected digits" in first.err
    assert "1 hour is held back" in first.err
    assert "send the same input again" not in first.err
    assert "Held" not in second.statuses
    assert {14, 5} == {record.quantity for record in sandbox.book.records}


UNREADABLE = [
    "{",
    "7",
    '{"quantity": 1, "quantity": 2}',
    changed(timestamp=None),
    changed(timestamp="2026-11-23T10:00"),
    changed(timestamp="yesterday"),
    changed(dimension=None),
    changed(dimension=""),
    changed(customer_aws_account_id=None),
    changed(customer_aws_account_id="1111-2222-3333"),
    changed(customer_identifier="also"),
    changed(dimension=None, dimention="requests"),
    json.dumps({"UsageRecords": [json.loads(line(1))]}),
]


@pytest.mark.parametrize("bad", UNREADABLE)
def test_a_line_that_may_belong_anywhere_holds_everything(
    send: Sends, sandbox: Sandbox, bad: str
) -> None:
    """
    Where customer, dimension or hour cannot be read, nothing is sent at all. Newcomer H2.
    """
    done = send([line(1), bad, line(2), line(2, dimension="other")])

    assert Exit.UNDELIVERED == done.code
    assert ["Held", "Rejected", "Held", "Held"] == done.statuses
    assert 0 == len(sandbox.book)
    assert "usage.jsonl:2 first: it may belong to any hour." in done.err
    assert "3 hours are held back" in done.err


@pytest.mark.parametrize(
    ("bad", "held"),
    [
        (changed(quantity=None), {"same", "boto"}),
        (changed(quantity="7,5"), {"same", "boto"}),
        (changed(quantity=-1), {"same", "boto"}),
        (changed(quantity=None, quantity_as_decimal="1e3"), {"same", "boto"}),
        (changed(quantity=10**10), {"same", "boto"}),
        (changed(usage_allocations=[{}]), {"same", "boto"}),
        (changed(usage_allocations=[{"allocated_usage_quantity": 1}]), {"same", "boto"}),
        (changed(quantity=-1, product_code="a"), {"product a"}),
        (changed(quantity=-1, license_arn=LICENSE), {"license"}),
        (changed(product_code="a b"), {"same", "boto", "product a", "license"}),
        (changed(license_arn="arn:l-1"), {"same", "boto", "product a", "license"}),
        (changed(licence_arn=LICENSE), {"same", "boto", "product a", "license"}),
        (changed(quantity=-1, dimension="other"), {"dimension"}),
        (changed(quantity=-1, timestamp=(HOUR - timedelta(hours=1)).isoformat()), {"before"}),
    ],
)
def test_a_line_holds_the_hours_that_it_may_belong_to(
    shell: Shell, bad: str, held: set[str]
) -> None:
    """
    As far as can be read of it: product and license may be anything where they cannot.
    """
    boto = {"Timestamp": HOUR.timestamp() // 1, "Dimension": "requests", "Quantity": 1}
    boto |= {"CustomerAWSAccountId": "000000000001", "Timestamp": int(HOUR.timestamp())}
    given_ = {
        "same": line(1),
        "boto": json.dumps(boto),
        "product a": line(1, product_code="a"),
        "license": line(1, license_arn=LICENSE),
        "dimension": line(1, dimension="other"),
        "before": line(1, timestamp=(HOUR - timedelta(minutes=1)).isoformat()),
        "customer": line(2),
    }

    done = shell(
        "validate",
        "--coalesce",
        "--product-code",
        "p",
        "-",
        stdin="\n".join([bad, *given_.values()]),
    )

    found = {
        name for name, status in zip(given_, done.statuses[1:], strict=True) if status == "Held"
    }
    assert held == found
    assert Exit.UNDELIVERED == done.code


def test_a_line_without_a_product_holds_the_hour_of_every_product(
    send: Sends, sandbox: Sandbox, shell: Shell
) -> None:
    """
    Where nothing says which product it is of.
    """
    without = [line(1, product_code="a"), line(1), line(2, product_code="a")]

    done = shell("send", "--coalesce", "--endpoint-url", sandbox.url, "-", stdin="\n".join(without))

    assert ["Held", "Rejected", "Success"] == done.statuses
    assert "-:2: product_code: expected a product code" in done.err


@pytest.mark.parametrize("cell", ["1.1234567", "1,234", "1e3", "many", ""])
def test_a_bad_cell_hides_no_other(sandbox: Sandbox, shell: Shell, cell: str) -> None:
    """
    A quantity that is none leaves customer, dimension and hour of its row to be read.
    """
    rows = [[HOUR.isoformat(), "requests", n, f"{c:012d}"] for c, n in [(1, 5), (1, cell), (2, 3)]]
    text = io.StringIO()
    csv.writer(text).writerows(
        [["timestamp", "dimension", "quantity", "customer_aws_account_id"], *rows]
    )

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin=text.getvalue())

    assert ["Held", "Rejected", "Success"] == done.statuses
    assert "-:3: quantity: expected " in done.err
    assert {"requests": 3} == sandbox.book.totals()


def test_an_hour_that_is_not_over_says_so_too(sandbox: Sandbox, shell: Shell) -> None:
    """
    Held for two reasons, it may be sent when neither holds.
    """
    now = datetime.now(UTC).isoformat()
    given_ = [line(1, timestamp=now), line(1, timestamp=now, quantity=None)]

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given_))

    assert re.match(r"Fix -:2, then send all of the input again after 20", done.lines[0]["advice"])


def test_the_plan_and_validate_tell_the_same(sandbox: Sandbox, shell: Shell) -> None:
    """
    As `send --coalesce`, which sends what they said. Newcomer H2.
    """
    bad = [
        line(1),
        line(1, quantity="1,5"),
        line(2),
        line(3, timestamp=datetime.now(UTC).isoformat()),
    ]
    stdin = "\n".join(bad)

    plan = shell("send", "--coalesce", "--dry-run", *target(sandbox), "-", stdin=stdin)
    valid = shell("validate", "--coalesce", "--product-code", "prod", "-", stdin=stdin)
    sent = shell("send", "--coalesce", *target(sandbox), "-", stdin=stdin)

    assert {Exit.UNDELIVERED} == {plan.code, valid.code, sent.code}
    assert ["Held", "Rejected", "Valid", "Held"] == valid.statuses
    assert ["Held", "Rejected", "Success", "Held"] == sent.statuses
    for mine, other in zip(valid.lines, sent.lines, strict=True):
        assert mine["status"] in ("Valid", other["status"])
        assert mine.get("advice") == other.get("advice")
    assert re.search(r"hours held back +2\b", plan.err)
    assert re.search(r"records to send +1\b", plan.err)
    for shown in (plan.err, valid.err, sent.err):
        assert "1 hour is held back" in shown
        assert "1 hour is not over and held back" in shown


@pytest.mark.parametrize("way", ["--coalesce", "--ledger"])
def test_an_input_that_breaks_off_sends_nothing(
    *,
    sandbox: Sandbox,
    shell: Shell,
    tmp_path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """
    Nobody knows to which hours the rest of it belongs; a ledger is given none of it.
    """
    file = tmp_path / "usage.jsonl"
    file.write_text("\n".join(line(1, quantity=1) for _ in range(2000)))
    assert 0 == shell("ledger", "add", url, *LEDGER_USAGE).code
    read, reads = os.read, 0

    def failing(handle: int, size: int) -> bytes:
        nonlocal reads
        reads += size == 2**16
        if size == 2**16 and reads > 2:  # the first is of the header, the second of the content
            raise OSError(5, "Input/output error")
        return read(handle, size)

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", failing)
        done = shell("send", way, *([url] if way == "--ledger" else []), *target(sandbox), file)
    status = shell("ledger", "status", url, "--json").lines[0]

    assert (Exit.USAGE, "") == (done.code, done.out)
    assert "usage.jsonl: Input/output error" in done.err
    assert 0 == len(sandbox.book)
    assert (7, 7) == (status["recorded"], status["open"])


def test_allocations_that_a_ledger_does_not_take_hold_their_hour(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """
    Whatever a ledger refuses of a line is as bad as what the service would refuse.
    """
    file = tmp_path / "usage.jsonl"
    whole = [{"allocated_usage_quantity": 5}]
    file.write_text("\n".join([line(1), line(1, usage_allocations=whole), line(2)]))

    done = shell("send", "--ledger", f"sqlite:///{tmp_path}/l.db", *target(sandbox), file)

    assert Exit.UNDELIVERED == done.code
    assert ["Held", "Rejected", "Recorded"] == [one["status"] for one in done.lines[:3]]
    assert 1 == len(sandbox.book)


# As a law


def broken(text: str, how: int) -> str:
    """The line as somebody may have spoilt it."""
    members = json.loads(text)
    spoilt: list[Callable[[], Any]] = [
        lambda: members.update(quantity=f"{members['quantity']} units"),
        lambda: members.update(quantity=members["quantity"] - 9.5),
        lambda: members.update(note="?"),
        lambda: members.pop("quantity"),
        lambda: members.update(customer_aws_account_id="1-1"),
        lambda: members.pop("timestamp"),
        lambda: members.update(product_code=""),
    ]
    if how == len(spoilt):
        return text[:-3]
    spoilt[how]()
    return json.dumps(members)


good_lines = st.builds(
    lambda customer, quantity, hour, product: line(
        customer,
        quantity=quantity,
        timestamp=(HOUR - timedelta(hours=hour)).isoformat(),
        product_code=product,
    ),
    st.integers(1, 2),
    st.integers(0, 9),
    st.integers(0, 1),
    st.sampled_from([None, "a"]),
)


def sums_of(folder: Path, lines: list[str]) -> Iterator[tuple[Any, Quantity]]:
    """Yield key and quantity of each record that `send --coalesce` would send of these lines."""
    file = folder / "usage.jsonl"
    file.write_text("\n".join(lines))
    with TemporaryLines() as kept:
        sums = HourlySums("p", kept)
        for source in sources_of([str(file)]):
            for block in source.blocks(print):
                for one in block:
                    sums.add(one)
        for outcome in sums.outcomes(include_current_hour=False):
            if isinstance(outcome, UsageRecord):
                yield outcome.key("p"), outcome.quantity


@given(st.lists(st.tuples(good_lines, st.none() | st.integers(0, 7)), max_size=12))
def test_what_is_sent_before_a_fix_lacks_nothing_after_it(
    tmp_path_factory: Any, lines: list[tuple[str, int | None]]
) -> None:
    """
    Every hour that goes out beside bad lines has its whole sum, whatever their fix adds.
    """
    folder = tmp_path_factory.mktemp("law")
    spoilt = [text if how is None else broken(text, how) for text, how in lines]

    whole = dict(sums_of(folder, [text for text, _ in lines]))
    sent = dict(sums_of(folder, spoilt))

    assert sent.items() <= whole.items()
