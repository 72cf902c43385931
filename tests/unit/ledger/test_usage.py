"""From what a caller says to usage; the laws of its memory are in properties/."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.ledger import usage as usage_module
from marketplace_metering_async.ledger.usage import UsageReader
from marketplace_metering_async.quantities import of_millionths

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


class Unreadable(Mapping[str, Any]):
    """A row whose connection is gone: to read it raises."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("the connection is gone")

    def __iter__(self) -> Iterator[str]:
        return iter(("dimension",))

    def __len__(self) -> int:
        return 1


def read(**members: Any) -> Any:
    given: dict[str, Any] = {
        "dimension": "requests",
        "quantity": 17,
        "customer_aws_account_id": "111122223333",
        "customer_identifier": None,
        "license_arn": None,
        "product_code": "product",
        "at": None,
        "event_id": None,
    }
    return UsageReader().usage(NOW, **(given | members))


@pytest.mark.parametrize(
    ("quantity", "millionths"),
    [
        (17, 17_000_000),
        ("17", 17_000_000),
        ("17.420001", 17_420_001),
        (Decimal("0.1"), 100_000),
        (Decimal("1E3"), 1_000_000_000),
        ("9999999999.999999", 10**16 - 1),
        (2**31, 2**31 * 10**6),
    ],
)
def test_a_quantity_is_kept_in_millionths(quantity: Any, millionths: int) -> None:
    """
    Whichever way it is read: the whole rules, or the key that is known.
    """
    reader = UsageReader()
    members = {"customer_identifier": None, "license_arn": None, "at": None, "event_id": None}
    same: Any = {"dimension": "d", "customer_aws_account_id": "1", "product_code": "p", **members}

    assert [millionths] * 2 == [
        reader.usage(NOW, quantity=quantity, **same).quantity for _ in range(2)
    ]


@pytest.mark.parametrize(
    ("quantity", "says"),
    [
        (0.1, 'expected an exact quantity, as "0.1"'),
        (True, "expected an exact number"),
        (-1, "expected 0 to 9999999999.999999"),
        (10**10, "expected 0 to 9999999999.999999"),
        ("0.1234567", "expected at most 6 decimal places"),
        ("1e3", "expected digits without leading zeros"),
        ("1,5", "expected digits without leading zeros"),
        (Decimal("NaN"), "expected 0 to 9999999999.999999"),
    ],
)
def test_what_no_record_can_say_is_refused(quantity: Any, says: str) -> None:
    """
    With its place and what it should be. Issue 20
    """
    with pytest.raises(InvalidRecordError, match=f"^quantity: {says}"):
        read(quantity=quantity)


@given(st.integers(0, 10**16 - 1))
def test_an_event_is_the_same_by_value(number: int) -> None:
    """
    17 is 17.0 and 17.00, as a number or as text; another millionth is another content. Issue 20
    """
    exact = Decimal(number).scaleb(-6, Context(prec=30))
    same = [exact, f"{exact:f}", of_millionths(number), str(of_millionths(number))]
    digests = {read(event_id="e", quantity=quantity).digest for quantity in same}

    assert 1 == len(digests)
    assert digests != {read(event_id="e", quantity=of_millionths(number ^ 1)).digest}


def test_an_event_is_known_by_all_that_was_said_of_it() -> None:
    """
    Where nobody said when, the moment of the call is no part of it.
    """
    digests = {
        read(event_id="e", **more).digest
        for more in ({}, {"quantity": 18}, {"at": NOW}, {"dimension": "other"})
    }

    assert 4 == len(digests)
    assert b"" == read().digest


@pytest.mark.parametrize("odd", [Unreadable(), {10**5_000: 1}], ids=["gone", "name"])
def test_one_of_many_that_cannot_be_read_is_refused_alone(odd: Any) -> None:
    """
    With its place, as an unreadable record of a batch is; an error would refuse the whole list.
    """
    refused = UsageReader().one_of_many(NOW, 3, odd)

    assert isinstance(refused, InvalidRecordError)
    assert str(refused).startswith("usages[3]: expected a mapping that can be read, got")


def test_keys_are_remembered_though_there_are_more_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Who adds to one key after the other, again and again, meets as many known ones as before; in
    another hour, those that come then.
    """
    monkeypatch.setattr(usage_module, "_REMEMBERED", 20)
    looked_at = Counter[int]()
    reader, at = UsageReader(), NOW

    def counted(_record: object, now: datetime, _event_id: object) -> tuple[()]:
        looked_at[now.hour] += 1
        return ()

    monkeypatch.setattr(usage_module, "_violations", counted)
    for _ in range(2):
        for _ in range(10):
            for number in range(25):
                who = f"{number:012d}"
                reader.usage(
                    at,
                    dimension="requests",
                    quantity=1,
                    product_code="product",
                    customer_aws_account_id=who,
                )
        at += timedelta(hours=1)

    assert max(looked_at.values()) < 25 + 25 + 9 * 5
