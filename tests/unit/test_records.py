"""Records: valid by construction, kept in UTC and whole seconds, ids masked."""

import enum
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import recent, records, times

from marketplace_metering_async import quantities, rules
from marketplace_metering_async.errors import InvalidRecordError, InvalidRecordTypeError
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord, utc_of

GOOD: dict[str, Any] = {
    "timestamp": datetime(2026, 11, 23, 12, tzinfo=UTC),
    "dimension": "requests",
    "quantity": 1,
    "customer_aws_account_id": "123456789012",
}
ARN = "arn:aws:license-manager::123456789012:license:l-abc"


@pytest.mark.parametrize(
    ("path", "changes", "says"),
    [
        ("timestamp", {"timestamp": datetime(2026, 1, 1)}, "got one without"),  # noqa: DTZ001
        ("timestamp", {"timestamp": 1.5}, "got 1.5 (float)"),
        ("dimension", {"dimension": ""}, "got 0 characters"),
        ("dimension", {"dimension": "x" * 256}, "got 256 characters"),
        ("dimension", {"dimension": "\ud800"}, "lone surrogate"),
        ("quantity", {"quantity": True}, "got True (bool)"),
        ("quantity", {"quantity": 1.0}, "got 1.0 (float)"),
        ("quantity", {"quantity": 0.1}, 'as "0.1" or Decimal("0.1"), got 0.1 (float)'),
        ("quantity", {"quantity": "1,5"}, "got '1,5'"),
        ("quantity", {"quantity": -1}, "got -1"),
        ("quantity", {"quantity": 10**10}, "got 10000000000"),
        ("quantity", {"quantity": 10**5000}, "expected 0 to 9999999999.999999"),
        ("quantity", {"quantity": Decimal("0.1234567")}, "at most 6 decimal places"),
        ("customer_aws_account_id", {"customer_aws_account_id": "12345\n"}, "digits"),
        ("customer_aws_account_id", {"customer_aws_account_id": "١٢٣"}, "digits"),
        ("customer_aws_account_id", {"customer_aws_account_id": None}, "got neither"),
        ("customer_identifier", {"customer_identifier": "c"}, "one customer id"),
        (
            "customer_identifier",
            {"customer_aws_account_id": None, "customer_identifier": "c" * 256},
            "1 to 255 characters",
        ),
        ("license_arn", {"license_arn": "l-abc"}, "the ARN of a license"),
        ("product_code", {"product_code": "a b"}, "letters, digits"),
        ("usage_allocations", {"usage_allocations": [1]}, "UsageAllocation objects"),
        ("usage_allocations", {"usage_allocations": [UsageAllocation(2)]}, "add up to"),
        (
            "usage_allocations",
            {"usage_allocations": [UsageAllocation("0.999999")]},
            "add up to the quantity 1, got 0.999999",
        ),
        (
            "usage_allocations[1].tags",
            {"usage_allocations": [UsageAllocation(1), UsageAllocation(0)]},
            "a tag set of its own",
        ),
    ],
)
def test_every_violation_has_its_path(path: str, changes: dict[str, Any], says: str) -> None:
    """
    What the service would refuse is refused at construction. Covers: V01, V03, V04, V05, V07
    """
    with pytest.raises(InvalidRecordError) as caught:
        UsageRecord(**(GOOD | changes))

    (violation,) = caught.value.violations
    assert path == violation.path
    assert says in str(caught.value)


def test_all_violations_are_collected() -> None:
    """
    A record that breaks three rules is told of three, and a wrong type is a TypeError too.
    """
    with pytest.raises(InvalidRecordTypeError) as caught:
        UsageRecord(timestamp="now", dimension="", quantity=-1)  # type: ignore[arg-type]

    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert ["timestamp", "dimension", "quantity", "customer_aws_account_id"] == [
        violation.path for violation in caught.value.violations
    ]


def test_a_license_needs_its_account() -> None:
    """
    And knows no customer identifier.
    """
    with pytest.raises(InvalidRecordError, match="the account of the license"):
        UsageRecord(**{**GOOD, "customer_aws_account_id": None, "license_arn": ARN})
    with pytest.raises(InvalidRecordError, match="which licenses do not know"):
        UsageRecord(
            **{
                **GOOD,
                "customer_aws_account_id": None,
                "license_arn": ARN,
                "customer_identifier": "c",
            }
        )


@given(times)
def test_timestamps_are_floored_to_whole_utc_seconds(when: datetime) -> None:
    """
    Never rounded, in any zone, also with half hours. Covers: H10, H12
    """
    record = UsageRecord(**{**GOOD, "timestamp": when})

    assert record.timestamp.tzinfo is UTC
    assert timedelta(0) <= when - record.timestamp < timedelta(seconds=1)
    assert record.epoch == int(record.timestamp.timestamp())


def test_a_fold_is_two_hours() -> None:
    """
    The repeated hour of a zone is two different hours in UTC. Covers: H09
    """
    zone = ZoneInfo("Europe/Berlin")
    first, second = (
        UsageRecord(**{**GOOD, "timestamp": datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)})
        for fold in (0, 1)
    )

    assert first.key("p") != second.key("p")
    assert 3600 == second.epoch - first.epoch


def test_subclasses_become_exact_types() -> None:
    """
    Nobody's override changes what is sent. Covers: V18
    """

    class Text(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    class Number(enum.IntEnum):
        FIVE = 5

    record = UsageRecord(**{**GOOD, "dimension": Text("a"), "quantity": Number.FIVE})

    assert type(record.dimension) is str
    assert type(record.quantity) is int


def test_records_cannot_be_changed() -> None:
    """
    Nor by way of the list that was given. Covers: V14
    """
    parts = [UsageAllocation(1, [Tag("a", "b")])]
    record = UsageRecord(**{**GOOD, "usage_allocations": parts})
    parts.clear()

    assert 1 == len(record.usage_allocations)
    with pytest.raises(FrozenInstanceError):
        record.quantity = 2  # type: ignore[misc]


def test_a_record_has_at_most_2500_allocations() -> None:
    """
    And no fewer are refused.
    """
    parts = [UsageAllocation(1, [Tag("n", str(number))]) for number in range(2501)]
    most = UsageRecord(**{**GOOD, "quantity": 2500, "usage_allocations": parts[:-1]})

    assert 2500 == len(most.usage_allocations)
    with pytest.raises(InvalidRecordError, match="usage_allocations: expected"):
        UsageRecord(**{**GOOD, "quantity": 2501, "usage_allocations": parts})


def test_texts_of_errors_are_escaped() -> None:
    """
    No line or terminal command can be smuggled into a log. Covers: A11
    """
    with pytest.raises(InvalidRecordError) as caught:
        UsageRecord(**{**GOOD, "product_code": "a\n\x1b[31mERROR: all is lost"})

    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_ids_are_masked_in_repr() -> None:
    """
    But for the last four characters.
    """
    shown = repr(UsageRecord(**{**GOOD, "license_arn": ARN}))

    assert "123456789012" not in shown
    assert "…9012" in shown


@given(records())
def test_boto_round_trip(record: UsageRecord) -> None:
    """
    to_boto() and from_boto() lose nothing but the product code, which is the request's.
    """
    back = UsageRecord.from_boto({**record.to_boto(), "ProductCode": record.product_code})

    assert record == back


@pytest.mark.parametrize(
    "when",
    ["2026-11-23T12:00:00Z", "2026-11-23T13:30:00+01:30", 1795435200, GOOD["timestamp"]],
)
def test_from_boto_reads_times_as_files_carry_them(when: object) -> None:
    """
    ISO 8601 with a zone, whole epoch seconds, or an aware datetime.
    """
    record = UsageRecord.from_boto(
        {"Timestamp": when, "Dimension": "d", "Quantity": 0, "CustomerIdentifier": "c"}
    )

    assert GOOD["timestamp"] == record.timestamp


@pytest.mark.parametrize(
    "when", ["yesterday", "2026-11-23T23:59:60Z", 1795435200000, "2026-11-23T12:00:00", True]
)
def test_from_boto_refuses_other_times(when: object) -> None:
    """
    Leap seconds, milliseconds, local times. Covers: H08, H11
    """
    with pytest.raises(InvalidRecordError, match="timestamp: expected"):
        UsageRecord.from_boto(
            {"Timestamp": when, "Dimension": "d", "Quantity": 0, "CustomerIdentifier": "c"}
        )


def test_from_boto_names_unknown_and_nested_members() -> None:
    """
    With the path to each.
    """
    with pytest.raises(InvalidRecordError) as caught:
        UsageRecord.from_boto(
            {
                "Timestamp": GOOD["timestamp"],
                "Dimension": "d",
                "Quantity": 1,
                "CustomerIdentifier": "c",
                "Qantity": 1,
                "UsageAllocations": [
                    {"AllocatedUsageQuantity": 1, "Tags": [{"Key": "", "Value": "v"}]}
                ],
            }
        )

    assert ["Qantity", "usage_allocations[0].tags[0].key"] == [
        violation.path for violation in caught.value.violations
    ]
    nothing: Any = None
    with pytest.raises(InvalidRecordError, match="expected a mapping"):
        UsageRecord.from_boto(nothing)


@pytest.mark.parametrize("quantity", [5, "5", "5.0", Decimal("5.00"), Decimal("0.5E1")])
@pytest.mark.parametrize("name", ["Quantity", "QuantityAsDecimal"])
def test_from_boto_takes_either_member(name: str, quantity: object) -> None:
    """
    By value: 5, 5.0 and 5.00 make equal records.
    """
    boto = {"Timestamp": GOOD["timestamp"], "Dimension": "d", "CustomerIdentifier": "c"}

    record = UsageRecord.from_boto({**boto, name: quantity})

    assert UsageRecord.from_boto({**boto, "Quantity": 5}) == record
    assert type(record.quantity) is int


def test_from_boto_takes_one_member_not_both() -> None:
    """
    Even where they agree: the service refuses the request. One that is None is none.
    """
    boto = {"Timestamp": GOOD["timestamp"], "Dimension": "d", "CustomerIdentifier": "c"}
    part = {"AllocatedUsageQuantity": 5, "AllocatedUsageQuantityAsDecimal": "5"}

    with pytest.raises(InvalidRecordError) as caught:
        UsageRecord.from_boto(
            {**boto, "Quantity": 5, "QuantityAsDecimal": "5", "UsageAllocations": [part]}
        )
    record = UsageRecord.from_boto({**boto, "Quantity": None, "QuantityAsDecimal": "0.5"})

    assert [
        ("quantity", "Quantity or QuantityAsDecimal"),
        (
            "usage_allocations[0].allocated_usage_quantity",
            "AllocatedUsageQuantity or AllocatedUsageQuantityAsDecimal",
        ),
    ] == [(violation.path, violation.expected) for violation in caught.value.violations]
    assert Decimal("0.5") == record.quantity


@pytest.mark.parametrize(
    ("quantity", "parts", "members"),
    [
        (17, [], {"Quantity": 17}),
        ("17.0", [], {"Quantity": 17}),
        ("17.420", [], {"QuantityAsDecimal": "17.42"}),
        (2**31, [], {"QuantityAsDecimal": "2147483648"}),
        ("1", ["1.0"], {"Quantity": 1, "UsageAllocations": [{"AllocatedUsageQuantity": 1}]}),
        (
            "1.5",
            ["1.5"],
            {
                "QuantityAsDecimal": "1.5",
                "UsageAllocations": [{"AllocatedUsageQuantityAsDecimal": "1.5"}],
            },
        ),
        (
            1,
            ["0.5", "0.5"],
            {
                "QuantityAsDecimal": "1",
                "UsageAllocations": [
                    {
                        "AllocatedUsageQuantityAsDecimal": "0.5",
                        "Tags": [{"Key": "0", "Value": "v"}],
                    },
                    {
                        "AllocatedUsageQuantityAsDecimal": "0.5",
                        "Tags": [{"Key": "1", "Value": "v"}],
                    },
                ],
            },
        ),
    ],
)
def test_a_record_and_its_allocations_use_one_kind_of_member(
    quantity: Any, parts: list[Any], members: dict[str, Any]
) -> None:
    """
    The integer members where they carry all of it, in canonical texts otherwise.
    """
    record = UsageRecord(
        **{
            **GOOD,
            "quantity": quantity,
            "usage_allocations": [
                UsageAllocation(part, [Tag(str(n), "v")] if len(parts) > 1 else [])
                for n, part in enumerate(parts)
            ],
        }
    )

    sent = {name: v for name, v in record.to_boto().items() if "uantity" in name or "All" in name}

    assert members == sent
    assert json.dumps(members) == json.dumps(sent)


def test_keys_count_what_the_service_counts() -> None:
    """
    License or product, customer, dimension, clock hour; and no product code with a license.
    """
    hour = UsageRecord(**GOOD)
    same = UsageRecord(
        **{**GOOD, "timestamp": GOOD["timestamp"] + timedelta(minutes=59), "quantity": 9}
    )
    other = UsageRecord(**{**GOOD, "timestamp": GOOD["timestamp"] + timedelta(hours=1)})
    licensed = UsageRecord(**{**GOOD, "license_arn": ARN, "product_code": "p"})

    assert hour.key("p") == same.key("p")
    assert hour.key("p") != other.key("p")
    assert hour.key("p") != hour.key("q")
    assert licensed.key("p") == licensed.key("q")


def test_tags_are_checked() -> None:
    """
    Lengths and characters of the service's model.
    """
    with pytest.raises(InvalidRecordError, match="key: expected 1 to 100 characters"):
        Tag("k" * 101, "v")
    with pytest.raises(InvalidRecordError, match="value: expected 1 to 256 characters"):
        Tag("k", "é")
    with pytest.raises(InvalidRecordError, match="at most 5 tags"):
        UsageAllocation(1, [Tag(str(n), "v") for n in range(6)])
    tags: Any = [{"Key": "k", "Value": "v"}]
    with pytest.raises(InvalidRecordError, match="tags: expected Tag objects"):
        UsageAllocation(1, tags)
    assert Tag("a b", "c").key == "a b"


@given(
    when=st.one_of(times, st.none(), st.text(max_size=3)),
    dimension=st.one_of(st.text("aé\ud800 ", max_size=300), st.integers(0, 9), st.none()),
    quantity=st.one_of(
        st.integers(-2, 2),
        st.integers(10**10 - 2, 10**10 + 1),
        st.booleans(),
        st.floats(),
        st.decimals(),
        st.decimals(-1, 1, places=6),
        st.sampled_from(["1", "1.0", "017", "1e3"]),
    ),
    account=st.one_of(st.none(), st.text("0123456789", max_size=300), st.text(max_size=3)),
    identifier=st.one_of(st.none(), st.none(), st.text("aé\ud800 ", max_size=300)),
)
def test_what_passes_at_a_glance_breaks_no_rule(
    when: Any, dimension: Any, quantity: Any, account: Any, identifier: Any
) -> None:
    """
    The quick look lets nothing through that the rules would refuse.
    """
    members = {
        "timestamp": when,
        "dimension": dimension,
        "quantity": quantity,
        "customer_aws_account_id": account,
        "customer_identifier": identifier,
    }
    found = (
        rules.timestamp("timestamp", when)
        + rules.text("dimension", dimension)
        + rules.quantity("quantity", quantity)
        + rules.identity(account, identifier, None)
    )

    if found:
        with pytest.raises(InvalidRecordError) as caught:
            UsageRecord(**members)
        assert found == tuple(caught.value.violations)
    else:
        record = UsageRecord(**members)
        assert (dimension, quantities.read(quantity), account, identifier) == (
            record.dimension,
            record.quantity,
            record.customer_aws_account_id,
            record.customer_identifier,
        )
        assert int(record.timestamp.timestamp()) == record.epoch


def test_records_share_what_they_have_in_common() -> None:
    """
    A dimension and an hour are kept once, however many records name them.
    """
    one, other = (UsageRecord(**{**GOOD, "dimension": f"requests-{len(GOOD)}"}) for _ in "ab")

    assert one.dimension is other.dimension
    assert one.epoch is other.epoch


@given(records(recent))
def test_equal_keys_have_equal_hashes(record: UsageRecord) -> None:
    """
    So that no repeat is overlooked, whoever names the product, and whatever else differs.
    """
    ours = record.product_code or "product"
    alike = [
        record,
        evolve(record, product_code=ours),
        evolve(record, usage_allocations=(), quantity=7),
        evolve(record, timestamp=record.timestamp.replace(minute=59, second=59)),
    ]

    assert {record.key(ours)} == {one.key(ours) for one in alike}


@given(st.floats(0, 32_000_000_000) | st.integers(0, 32_000_000_000))
def test_seconds_since_1970_are_a_time_in_utc(seconds: float) -> None:
    """
    The one that Python reads in them where it reads them on every system.
    """
    assert datetime.fromtimestamp(seconds, UTC) == utc_of(seconds)


@pytest.mark.parametrize("year", [1, 1969, 3001, 9999])
def test_seconds_of_any_year_are_a_time_in_utc(year: int) -> None:
    """
    On Windows too, where Python reads none before 1970 and none after 3000.
    """
    first, last = datetime(year, 1, 1, tzinfo=UTC), datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)

    assert [first, last] == [utc_of(first.timestamp()), utc_of(int(last.timestamp()))]


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 10**30, float("nan")])
def test_seconds_of_no_year_are_refused(seconds: float) -> None:
    """
    As they are by datetime itself.
    """
    with pytest.raises((OverflowError, ValueError)):
        utc_of(seconds)
