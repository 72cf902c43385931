"""What is given that nobody would give on purpose: a verdict with its place, never a crash."""

from collections import UserDict
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from support.figures import DOORS, batch, send_through
from support.ledgers import ACCOUNT, house_at
from support.memory import MemoryService, client_of, usage
from support.virtual import START, run_virtual

from marketplace_metering_async import RetryPolicy, UsageBatcher, coalesce
from marketplace_metering_async.errors import InvalidRecordError, InvalidRecordTypeError
from marketplace_metering_async.flow.pacing import AdaptivePacer
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus

S = RecordStatus


class Zone(tzinfo):
    """A time zone of somebody's own."""

    def tzname(self, when: datetime | None) -> str:
        return "odd"

    def dst(self, when: datetime | None) -> None:
        return None


class NoOffset(Zone):
    """A time zone that does not know its offset: Python calls such a time naive."""

    def utcoffset(self, when: datetime | None) -> None:
        return None


class Unfinished(Zone):
    """A time zone without the method that it is for."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return super().utcoffset(when)  # type: ignore[return-value]


class Broken(Zone):
    """A time zone that fails."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        raise RuntimeError("no table")


class Wide(Zone):
    """A time zone of a day and more, which Python refuses."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=25)


ODD: list[Any] = [
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-05:00",
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    START.replace(tzinfo=NoOffset()),
    START.replace(tzinfo=Unfinished()),
    START.replace(tzinfo=Broken()),
    START.replace(tzinfo=Wide()),
    START.replace(tzinfo=None),
]
ODD_TIMES = pytest.mark.parametrize("odd", ODD, ids=[str(n) for n in range(len(ODD))])


def mapping_of(record: UsageRecord) -> dict[str, Any]:
    """Return the record as a mapping that names its product."""
    return {**record.to_boto(), "ProductCode": record.product_code}


def around(odd: object) -> list[Any]:
    """Return a good record, one with an *odd* timestamp, and another good one."""
    first, second = (mapping_of(record) for record in usage(2))
    return [first, {**first, "Timestamp": odd}, second]


@ODD_TIMES
@pytest.mark.parametrize("door", DOORS)
def test_an_odd_timestamp_is_rejected_with_its_place(odd: object, door: str) -> None:
    """
    Whatever Python makes of it; the others are metered. (core F17)
    """
    results = send_through(door, MemoryService(), around(odd))

    assert [S.SUCCESS, S.REJECTED, S.SUCCESS] == [r.status for r in results]
    assert isinstance(results[1].error, InvalidRecordError)
    assert str(results[1].error).startswith("records[1].timestamp: expected a ")


@ODD_TIMES
def test_an_odd_timestamp_is_no_usage_to_add_up(odd: object) -> None:
    """
    In coalesce(), with its index. (core F17)
    """
    with pytest.raises(InvalidRecordError, match=r"^usage\[1\]\.timestamp: expected a "):
        coalesce(around(odd), now=START)


@ODD_TIMES
async def test_the_ledger_refuses_an_odd_time(odd: object, tmp_path: Path) -> None:
    """
    Before anything is stored, for new and for known customers. (core F17)
    """
    async with house_at(f"sqlite:///{tmp_path / 'ledger.db'}") as house:
        for _ in range(2):
            with pytest.raises(InvalidRecordError, match=r"^at: expected a "):
                await house.use(5, at=odd)
            await house.use(1)

        assert 2 == (await house.balance()).recorded


@pytest.mark.parametrize("odd", ODD[2:], ids=[str(n) for n in range(2, len(ODD))])
async def test_the_ledger_refuses_an_odd_end_of_a_subscription(odd: Any, tmp_path: Path) -> None:
    """
    A naive one would be local time of this machine, hours off. (core F17)
    """
    async with house_at(f"sqlite:///{tmp_path / 'ledger.db'}") as house:
        await house.use(1)
        with pytest.raises(ValueError, match=r"^at: expected a "):
            await house.ledger.close_customer(
                customer_aws_account_id=ACCOUNT, product_code="product", at=odd
            )
        with pytest.raises(ValueError, match=r"^before: expected a "):
            await house.ledger.prune(odd)


async def test_meter_usage_refuses_odd_times() -> None:
    """
    With the place, and nothing is sent. (core F17)
    """
    service = MemoryService()
    async with client_of(service) as client:
        for odd in ODD[2:]:
            with pytest.raises(InvalidRecordError, match=r"^timestamp: expected a "):
                await client.meter_usage(
                    product_code="product",
                    timestamp=odd,
                    usage_dimension="requests",
                    usage_quantity=1,
                )

    assert [] == service.requests


def test_a_time_at_the_end_of_the_calendar_is_a_time() -> None:
    """
    What UTC can express is no odd timestamp.
    """
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=1)))

    assert datetime(9999, 12, 31, 22, 59, 59, tzinfo=UTC) == usage(1, timestamp=last)[0].timestamp


class Frame:
    """As a DataFrame is: it iterates over its columns' names."""

    columns = ("Timestamp", "Quantity")

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __dataframe__(self) -> object:
        return self


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        {"Quantity": 1},
        MappingProxyType({"Quantity": 1}),
        UserDict(Quantity=1),
        Frame(),
        "text",
        b"bytes",
        bytearray(b"bytes"),
        7,
        None,
    ],
    ids=lambda wrong: type(wrong).__name__,
)
async def test_one_mapping_or_a_frame_is_no_batch(wrong: Any, stream: bool) -> None:  # noqa: FBT001
    """
    Its keys or columns are no records: it raises at once, and says what to give. (core F26)
    """
    async with client_of(MemoryService()) as client:
        with pytest.raises(TypeError, match="records: expected an iterable of records, got a") as e:
            if stream:
                client.iter_batch_meter_usage(wrong)
            else:
                await client.batch_meter_usage(wrong)

    assert ('to_dict("records")' in str(e.value)) == isinstance(wrong, Frame)


@pytest.mark.parametrize("kind", [UserDict, MappingProxyType])
def test_any_mapping_may_be_a_record(kind: Any) -> None:
    """
    It need not be a dict. (core F26)
    """
    records = [kind(mapping_of(record)) for record in usage(3)]

    assert {S.SUCCESS: 3} == batch(MemoryService(), records).counts


def test_a_subclass_of_datetime_is_read_as_what_it_is() -> None:
    """
    Its own conversion is not asked.
    """

    class Odd(datetime):
        def astimezone(self, tz: tzinfo | None = None) -> Any:
            raise ValueError("no")

    when = Odd(2026, 11, 23, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))

    record = UsageRecord(
        timestamp=when, dimension="d", quantity=1, customer_aws_account_id="1" * 12
    )
    assert datetime(2026, 11, 23, 10, tzinfo=UTC) == record.timestamp


@pytest.mark.parametrize(
    ("timeout", "kind", "got"),
    [("0.5", TypeError, "'0.5'"), ([1], TypeError, "a list"), (float("nan"), ValueError, "nan")],
)
def test_a_time_limit_that_would_never_come_is_refused(
    timeout: Any, kind: type[Exception], got: str
) -> None:
    """
    Such as a text of the environment, at every call that takes one; nothing is sent. Design, Laws
    of sending 10
    """
    service = MemoryService()

    async def run() -> None:
        async with client_of(service) as client, UsageBatcher(client) as batcher:
            for call in (
                lambda: client.batch_meter_usage(usage(1), timeout=timeout),
                lambda: batcher.drain(timeout),
                lambda: client.resolve_customer("token", timeout=timeout),
            ):
                with pytest.raises(kind, match=f"timeout: expected a number.*, got {got}"):
                    await call()
            with pytest.raises(TypeError, match="timeout: expected a number, got None"):
                await client.resolve_customer("token", timeout=None)  # type: ignore[arg-type]
            assert (await batcher.meter(usage(1)[0])).metered  # it was not closed

    run_virtual(run())


def test_a_number_of_another_type_is_a_number() -> None:
    """
    As numpy has them, and others.
    """
    half: Any = Fraction(1, 2)

    async def run() -> None:
        async with (
            client_of(
                MemoryService(), calls_per_second=20 * half, retry=RetryPolicy(timeout=9 * half)
            ) as client,
            UsageBatcher(client, linger=half) as batcher,
        ):
            assert 1 == len((await client.batch_meter_usage(usage(1), timeout=half)).succeeded)
            assert (await batcher.meter(usage(2)[1])).metered
            await batcher.drain(half)

    run_virtual(run())


def test_settings_of_a_wrong_type_are_named() -> None:
    """
    With what is expected and what came.
    """
    service: MemoryService = MemoryService()
    settings: Any
    for settings, text in (
        ({"calls_per_second": "ten"}, "calls_per_second: expected a number, got 'ten'"),
        ({"max_concurrency": "8"}, "max_concurrency: expected a number, got '8'"),
        ({"retry": 900}, r"retry: expected a RetryPolicy, got 900 \(int\)"),
    ):
        with pytest.raises(TypeError, match=text):
            client_of(service, **settings)
    with pytest.raises(TypeError, match="calls_per_second: expected a number, got '5'"):
        AdaptivePacer("5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="burst: expected a number, got '1'"):
        AdaptivePacer(5, burst="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="share: expected a number, got '1'"):
        AdaptivePacer(5, share="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attempt_timeout: expected a number, got '1'"):
        RetryPolicy(attempt_timeout="1")  # type: ignore[arg-type]
    pending: Any = "9"
    with pytest.raises(TypeError, match="max_pending: expected a number, got '9'"):
        UsageBatcher(client_of(service), max_pending=pending)
    linger: Any = "1"
    with pytest.raises(TypeError, match="linger: expected a number, got '1'"):
        UsageBatcher(client_of(service), linger=linger)


@pytest.mark.parametrize("odd", [None, 7, "xy", [None], [{"AllocatedUsageQuantity": 1}]])
def test_allocations_that_are_none_are_refused_by_meter_usage_as_by_a_record(odd: Any) -> None:
    """
    In the same words, and nothing is sent.
    """
    service = MemoryService()

    async def send() -> None:
        async with client_of(service) as client:
            await client.meter_usage(
                product_code="product",
                timestamp=START,
                usage_dimension="requests",
                usage_quantity=1,
                usage_allocations=odd,
            )

    with pytest.raises(InvalidRecordTypeError) as by_a_record:
        usage(1, usage_allocations=odd)
    with pytest.raises(
        InvalidRecordTypeError, match=r"^usage_allocations: expected Usage"
    ) as caught:
        run_virtual(send())

    assert str(by_a_record.value) == str(caught.value)
    assert [] == service.requests
