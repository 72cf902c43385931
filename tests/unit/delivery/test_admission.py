"""Admission: what may be sent now, and the path of what may not."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import chunk_of, large_record
from support.memory import usage
from support.virtual import START

from marketplace_metering_async import limits
from marketplace_metering_async.clock import ClockBounds
from marketplace_metering_async.delivery.admission import Admission, expired, premature
from marketplace_metering_async.errors import (
    InvalidRecordError,
    InvalidRecordTypeError,
    OutOfWindowError,
)
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

NOW = ClockBounds.at(START)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("hours", [1, 6, 24])
@pytest.mark.parametrize("month_end", [timedelta(hours=1), timedelta(hours=6)])
def test_windows_are_data(
    hours: int, month_end: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Another rule is another value, and no other code; within five minutes of an edge the service
    decides. Covers: S22
    """
    monkeypatch.setattr(limits, "MAX_AGE", timedelta(hours=hours))
    monkeypatch.setattr(limits, "MONTH_END", month_end)
    admission = Admission(NOW)
    edge = START - timedelta(hours=hours, minutes=5)

    assert admission.admit(0, usage(1, timestamp=edge)[0]).timestamp == edge
    late = r"records\[3\]\.timestamp: expected a time from"
    with pytest.raises(OutOfWindowError, match=late) as refusal:
        admission.admit(3, usage(1, timestamp=edge - SECOND)[0])
    assert not refusal.value.is_early


def test_the_future_begins_five_minutes_ahead() -> None:
    """
    Of the latest that the service's clock may show.
    """
    bounds = ClockBounds(START.timestamp() - 100, START.timestamp() + 100)
    admission = Admission(bounds)
    edge = START + timedelta(seconds=100) + limits.MAX_FUTURE

    assert edge == admission.admit(0, usage(1, timestamp=edge)[0]).timestamp
    early = r"records\[2\]\.timestamp: expected a time by"
    with pytest.raises(OutOfWindowError, match=early) as refused:
        admission.admit(2, usage(1, timestamp=edge + SECOND)[0])
    assert refused.value.is_early
    unraised = refused.value.unraised()
    assert isinstance(unraised, OutOfWindowError)
    assert unraised.is_early


def test_what_may_be_inside_is_admitted() -> None:
    """
    A clock that no response has confirmed rejects nothing; time that moves on does.
    """
    old = usage(1, timestamp=START - timedelta(days=20))[0]
    far = usage(1, timestamp=START + timedelta(days=20))[0]
    month = timedelta(days=31).total_seconds()
    admission = Admission(ClockBounds(START.timestamp() - month, START.timestamp() + month))
    assert [old, far] == [admission.admit(n, record) for n, record in enumerate([old, far])]

    admission.set_time(NOW)

    for record in (old, far):
        with pytest.raises(OutOfWindowError):
            admission.admit(0, record)


def test_a_record_that_cannot_fit_alone_is_rejected_with_its_size() -> None:
    """
    No request could carry it; one that fits is admitted. Covers: W18, V07
    """
    tags = [Tag(f"{n}" * 100, "v" * 256) for n in range(1, 5)]
    parts = [UsageAllocation(0, [*tags, Tag("n", str(n))]) for n in range(1000)]
    (record,) = usage(1, quantity=0, usage_allocations=parts)

    with pytest.raises(InvalidRecordError, match=r"fewer than 1000000 bytes, got 1\d{6} bytes"):
        Admission(NOW).admit(0, record)
    with pytest.raises(InvalidRecordError, match=r"records\[7\]\.usage_allocations"):
        Admission(NOW, product_code="p").admit(7, large_record(1300))
    fitting = large_record(1100)
    assert fitting is Admission(NOW).admit(0, fitting)


def test_the_size_counts_to_the_byte() -> None:
    """
    A request has fewer than a million bytes, product code and one comma among them.
    """
    parts = large_record(1209).usage_allocations

    def filled(filler: int) -> UsageRecord:
        tags = [Tag(f"f{n}", "v" * (1 + max(0, min(255, filler - n * 255)))) for n in range(5)]
        fill = UsageAllocation(0, tags)
        return usage(1, quantity=0, usage_allocations=[*parts, fill])[0]

    least = len(chunk_of([filled(0)]).body)
    missing = limits.REQUEST_BYTES - 2 - least
    assert 0 < missing < 5 * 255

    fitting, beyond = filled(missing), filled(missing + 1)

    assert limits.REQUEST_BYTES - 2 == len(chunk_of([fitting]).body)
    assert fitting is Admission(NOW).admit(0, fitting)
    with pytest.raises(InvalidRecordError, match="got 1000000 bytes"):
        Admission(NOW).admit(0, beyond)


def test_who_names_no_product_is_rejected() -> None:
    """
    Unless the call names one, or the record has a license.
    """
    (unnamed,) = usage(1, product_code=None)
    arn = "arn:aws:license-manager::123456789012:license:l-1"
    (licensed,) = usage(1, product_code=None, license_arn=arn)

    assert unnamed is Admission(NOW, product_code="p").admit(0, unnamed)
    assert licensed is Admission(NOW).admit(0, licensed)
    with pytest.raises(InvalidRecordError, match=r"records\[4\]\.product_code: .*, got none"):
        Admission(NOW).admit(4, unnamed)
    with pytest.raises(InvalidRecordError, match="product_code"):
        Admission(NOW, product_code="no such ∞").admit(4, unnamed)


def test_a_mapping_becomes_a_record_or_an_error_with_its_path() -> None:
    """
    Whatever else was given is named by its position.
    """
    (record,) = usage(1)
    mapping = {**record.to_boto(), "ProductCode": "product"}
    admission = Admission(NOW)

    assert record == admission.admit(0, mapping)
    with pytest.raises(InvalidRecordError, match=r"^records\[5\]\.quantity"):
        admission.admit(5, {**mapping, "Quantity": -1})
    with pytest.raises(InvalidRecordTypeError, match=r"^records\[6\]: expected a UsageRecord or"):
        admission.admit(6, object())


def test_whatever_is_handed_in_is_trusted_with_nothing() -> None:
    """
    It is asked for nothing before it is known to be a record.
    """

    class Odd:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    with pytest.raises(InvalidRecordTypeError, match=r"^records\[1\]: expected a UsageRecord or"):
        Admission(NOW, product_code="p").admit(1, Odd())


def test_out_of_window_names_place_and_time() -> None:
    """
    In UTC, and beyond the years that a timestamp can have.
    """
    (record,) = usage(1)
    closes = datetime(2026, 11, 24, 10, tzinfo=UTC)

    early = premature(3, record, closes.timestamp())
    late = expired(4, record, closes.timestamp())

    assert "records[3].timestamp: expected a time by 2026-11-24T10:00:00+00:00" in str(early)
    assert "records[4].timestamp: expected to be sent before its window closed at 2026-11-24" in (
        str(late)
    )
    for error in (early, late):
        assert record.timestamp.isoformat() in str(error)
        assert "nothing was sent" not in str(error)


@given(
    st.lists(st.integers(-30, 30), min_size=1, max_size=5),
    st.sampled_from([None, "product"]),
    st.sampled_from([None, "of-all", "no such ∞"]),
)
def test_what_is_admitted_at_a_glance_is_admitted(
    hours: list[int], product_code: str | None, of_all: str | None
) -> None:
    """
    The quick look lets nothing through that the look at each record would refuse.
    """
    given_ = [
        usage(1, timestamp=START + timedelta(hours=h), product_code=product_code)[0] for h in hours
    ]
    admission = Admission(NOW, product_code=of_all)

    if admission.are_plain(given_):
        assert given_ == [admission.admit(n, record) for n, record in enumerate(given_)]
    else:
        with pytest.raises(InvalidRecordError):
            [admission.admit(n, record) for n, record in enumerate(given_)]


def test_what_may_need_another_look_is_not_admitted_at_a_glance() -> None:
    """
    A mapping, which makes a record, and allocations, of which there may be too many.
    """
    (record,) = usage(1)
    (parted,) = usage(1, usage_allocations=[UsageAllocation(1)])

    assert Admission(NOW).are_plain([record])
    assert not Admission(NOW).are_plain([record, record.to_boto()])
    assert not Admission(NOW).are_plain([record, parted])
