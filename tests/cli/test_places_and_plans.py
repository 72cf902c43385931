"""Which line it is about, what would be sent, how it ends: decisions of the command line."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage

from marketplace_metering_async.cli.commands import send
from marketplace_metering_async.cli.commands.plan import Plan
from marketplace_metering_async.cli.exit_codes import Exit, most_severe, of_error, of_result
from marketplace_metering_async.cli.input.line_numbers import LineNumbers, RecentLineNumbers
from marketplace_metering_async.cli.output.console import Console, printable
from marketplace_metering_async.cli.output.result_fields import complaint
from marketplace_metering_async.delivery.duplicates import Duplicates, SchemeOverlaps
from marketplace_metering_async.errors import (
    BothSchemesError,
    ConflictingRecordsError,
    DeliveryTimeoutError,
    InvalidRecordError,
    KeyAlreadySentError,
    MarketplaceMeteringException,
    MeteringError,
    NoRegionError,
    NotProcessedError,
    TransportError,
    Violation,
)
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=60))
def test_places_are_kept_in_runs(steps: list[tuple[str, int]]) -> None:
    """
    Every line is found again, whatever was left out between lines and files.
    """
    places, recent = LineNumbers(), RecentLineNumbers()
    wanted: list[str] = []
    number, last = 0, ""
    for file, step in steps:
        number = step if file != last else number + step
        last = file
        assert len(wanted) == places.add(file, number) == recent.add(file, number)
        wanted.append(f"{file}:{number}")

    assert wanted == [places(index) for index in range(len(wanted))]
    assert wanted == [recent(index) for index in range(len(wanted))]


def test_lines_in_a_row_take_no_memory() -> None:
    """
    A million lines that follow each other are one run.
    """
    places = LineNumbers()
    for number in range(1, 1_000_001):
        places.add("-", number)

    assert "-:1000000" == places(999_999)
    assert 1 == len(places._starts)


def test_places_of_long_ago_are_gone() -> None:
    """
    A stream of any length is remembered in as little.
    """
    places = RecentLineNumbers()
    for number in range(1, 100_001):
        places.add("-", number)

    assert "an earlier line" == places(0)
    assert "-:100000" == places(99_999)
    assert "an earlier line" == places(100_000)


def planned(records: list[UsageRecord | MeteringError]) -> tuple[Plan, list[str]]:
    complaints: list[str] = []
    places = LineNumbers()
    plan = Plan("product", places, complaints.append)
    for number, record in enumerate(records, 1):
        plan.look_at(places.add("f", number), record)
    return plan, complaints


small = st.builds(
    lambda customer, quantity, minutes: UsageRecord(
        timestamp=HOUR + timedelta(minutes=minutes),
        dimension="d",
        quantity=quantity,
        customer_aws_account_id=customer,
    ),
    st.sampled_from("1234"),
    st.integers(1, 2),
    st.sampled_from([0, 1, 60]),
)


@given(st.lists(small, max_size=25))
def test_a_plan_counts_as_the_client_does(records: list[UsageRecord]) -> None:
    """
    Conflicts and identical records are those that law 3 of sending finds.
    """
    repeats = Duplicates("product", records.__getitem__)
    leaders = {n for n, record in enumerate(records) if not repeats.note(n, record)}
    conflicting = {p for conflict in repeats.conflicts() for p in conflict.positions}

    plan, complaints = planned(list(records))

    assert len(records) == plan.lines
    assert len(conflicting) == plan.refused
    assert len(leaders - conflicting) == plan.keys
    assert plan.lines == plan.refused + plan.keys + plan.repeated
    assert bool(conflicting) == bool(complaints)


by_scheme = st.builds(
    lambda customer, license_arn, product: UsageRecord(
        timestamp=HOUR,
        dimension="d",
        quantity=1,
        customer_aws_account_id=customer,
        license_arn=license_arn,
        product_code=product,
    ),
    st.sampled_from("12"),
    st.sampled_from([None, "arn:aws:license-manager::1:license:a", "arn:aws:x::1:license:b"]),
    st.sampled_from([None, "product", "other"]),
)


@given(st.lists(by_scheme, max_size=25))
def test_a_plan_refuses_what_comes_under_both_schemes(records: list[UsageRecord]) -> None:
    """
    By product code and by license, which the service would bill twice, wherever in the file.
    """
    repeats, overlaps = Duplicates("product", records.__getitem__), SchemeOverlaps("product")
    leaders = [n for n, record in enumerate(records) if not repeats.note(n, record)]
    for number in leaders:
        overlaps.note(number, records[number])
    both = {n for found in overlaps.drain() for together in found for n in together}
    lines = {*both, *(copy for n in both for copy in repeats.copies.get(n, ()))}

    plan, complaints = planned(list(records))

    assert len(lines) == plan.refused
    assert len(leaders) - len(both) == plan.keys
    assert plan.lines == plan.refused + plan.keys + plan.repeated
    assert bool(lines) == bool(complaints)
    refused = [plan.later_refusal(plan.key_of(record)) for record in records]
    assert lines == {number for number, error in enumerate(refused) if error is not None}
    assert {BothSchemesError} >= {type(error) for error in refused if error is not None}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (ConflictingRecordsError, "f:1, f:4 have one key (product or license, customer, dimension"),
        (BothSchemesError, "f:1, f:4 name one customer's hour and dimension, by product code and"),
        (KeyAlreadySentError, "f:4 has the key (product or license, customer, dimension, hour) of"),
    ],
)
def test_lines_that_conflict_are_named_as_the_error_has_it(
    kind: type[ConflictingRecordsError], said: str
) -> None:
    """
    Of what went out before, it would not be true that none was sent.
    """
    complained = complaint(kind((0, 3)), "f:4", lambda position: f"f:{position + 1}")

    assert complained.startswith(f"f:4: {said}")


def test_a_conflict_is_told_with_both_lines() -> None:
    """
    So that a person can look at them.
    """
    one, other = usage(1, timestamp=HOUR), usage(1, timestamp=HOUR, quantity=9)

    plan, (complaint,) = planned([*one, *usage(3, timestamp=HOUR)[1:], *other])

    assert complaint.startswith("f:4: f:1, f:4 have one key")
    assert (2, 2) == (plan.refused, plan.keys)


def test_calls_are_counted_by_product_and_by_bytes() -> None:
    """
    25 records a call, one product a call, and less than a megabyte.
    """
    records = usage(26, timestamp=HOUR) + usage(26, timestamp=HOUR, product_code="b")
    tags = [Tag(f"{n}{'k' * 90}", "v" * 250) for n in range(5)]
    parts = [UsageAllocation(1, [*tags[1:], Tag("n", str(n))]) for n in range(400)]
    heavy = [
        UsageRecord(
            timestamp=HOUR,
            dimension="d",
            quantity=400,
            customer_aws_account_id=str(n),
            product_code="heavy",
            usage_allocations=parts,
        )
        for n in range(3)
    ]

    plan, _ = planned([*records, *heavy])

    assert 2 + 2 + 2 == plan.calls
    rows = dict(plan._rows(10.0))
    assert "0 s at 10 calls a second" == rows["time"]
    assert "3" == rows["  heavy"]


def test_what_a_plan_refuses_is_what_the_client_refuses() -> None:
    """
    Too old, too new, without a product; each with its line.
    """
    old = usage(1, timestamp=HOUR - timedelta(days=40))
    new = usage(1, timestamp=HOUR + timedelta(days=1))
    broken = InvalidRecordError([Violation("quantity", "a number", "None")])

    plan, complaints = planned([*old, *new, broken])

    assert (3, 0) == (plan.refused, plan.keys)
    assert complaints[0].startswith("f:1: timestamp: expected a time from")
    assert complaints[1].startswith("f:2: timestamp: expected a time by")
    assert "f:3: quantity: expected a number, got None" == complaints[2]


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (RecordStatus.SUCCESS, None, Exit.OK),
        (RecordStatus.DUPLICATE_RECORD, None, Exit.REJECTED),
        (RecordStatus.CUSTOMER_NOT_SUBSCRIBED, None, Exit.REJECTED),
        (RecordStatus.REJECTED, None, Exit.REJECTED),
        (RecordStatus.UNPROCESSED, NotProcessedError(), Exit.UNDELIVERED),
        (RecordStatus.UNPROCESSED, DeliveryTimeoutError("late"), Exit.UNDELIVERED),
        (RecordStatus.UNCONFIRMED, TransportError("reset", sent=True), Exit.UNDELIVERED),
        (RecordStatus.UNPROCESSED, MarketplaceMeteringException("AccessDenied"), Exit.ACCOUNT),
        (RecordStatus.UNPROCESSED, MarketplaceMeteringException("ExpiredToken"), Exit.ACCOUNT),
        (
            RecordStatus.UNCONFIRMED,
            MarketplaceMeteringException("InvalidProductCodeException"),
            Exit.ACCOUNT,
        ),
    ],
)
def test_a_verdict_asks_for_a_code(
    status: RecordStatus, error: MeteringError | None, code: Exit
) -> None:
    """
    0 metered, 1 rejected, 3 send again, 4 account.
    """
    verdict = Verdict(status=status, error=error)

    assert code is of_result(RecordResult(0, object(), verdict))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRecordError([]), Exit.USAGE),
        (NoRegionError(), Exit.ACCOUNT),
        (TransportError("reset", sent=True), Exit.UNDELIVERED),
        (MarketplaceMeteringException("ThrottlingException"), Exit.UNDELIVERED),
        (MarketplaceMeteringException("DuplicateRequestException"), Exit.REJECTED),
        (MarketplaceMeteringException("AccessDenied"), Exit.ACCOUNT),
        (
            MarketplaceMeteringException(
                "ExpiredTokenException", operation="ResolveCustomer", status=400
            ),
            Exit.REJECTED,
        ),
        (
            MarketplaceMeteringException(
                "ExpiredTokenException", operation="ResolveCustomer", status=403
            ),
            Exit.ACCOUNT,
        ),
    ],
)
def test_an_error_asks_for_a_code(error: MeteringError, code: Exit) -> None:
    """
    The other operations end by the same codes.
    """
    assert code is of_error(error)


def test_an_interrupt_comes_before_results_that_cannot_be_written() -> None:
    """
    As the table of exit codes has it.
    """
    signalled: Any = SimpleNamespace(happened=True)

    ended = send._ended(Exit.REJECTED, Console(), signalled, OSError(28, "full"))

    assert Exit.INTERRUPTED == ended


@given(st.sets(st.sampled_from(Exit)))
def test_the_gravest_code_comes_first(codes: set[Exit]) -> None:
    """
    4 before 3 before 1; input that cannot be read before what is only undelivered, and so a copy.
    """
    order = [
        Exit.INTERRUPTED,
        Exit.ACCOUNT,
        Exit.USAGE,
        Exit.COPY,
        Exit.UNDELIVERED,
        Exit.REJECTED,
    ]
    wanted: Any = next((code for code in order if code in codes), Exit.OK)

    assert wanted is most_severe(codes)


def test_text_from_anywhere_does_not_control_the_terminal() -> None:
    """
    Escape sequences are shown and not obeyed. Covers: A11, A17
    """
    assert r"a\x1b[31mb\x07\u202e" + "\nü…" == printable("a\x1b[31mb\x07\u202e\nü…")
