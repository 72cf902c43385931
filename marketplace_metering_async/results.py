"""What became of it: one verdict for every record, and the responses to the other calls."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast, overload

from attrs import define, field, frozen

from marketplace_metering_async.customers import Customer
from marketplace_metering_async.errors import (
    BatchMeterUsageError,
    MeteringError,
    OutOfWindowError,
    RecordNotMeteredError,
    SimilarRecordRefusedError,
)
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.service_errors import TimestampOutOfBoundsException

_OUT_OF_TIME: Final = (OutOfWindowError, TimestampOutOfBoundsException)


class RecordStatus(StrEnum):
    """The verdict on a record: the service's words first, then ours."""

    SUCCESS = "Success"
    """The service has taken the record."""
    CUSTOMER_NOT_SUBSCRIBED = "CustomerNotSubscribed"
    """The customer has no subscription in force; the record was not taken."""
    DUPLICATE_RECORD = "DuplicateRecord"
    """The service already has a record of this key, and kept that one."""
    REJECTED = "Rejected"
    """The record is at fault, by the service's word or by ours (see `error`); it is not metered."""
    UNPROCESSED = "Unprocessed"
    """Not metered and not at fault: send the identical record again."""
    UNCONFIRMED = "Unconfirmed"
    """It may be metered: only the identical record may be sent again."""


class Verdict(NamedTuple):
    """
    What is the same for all records that one response settled alike.

    Attributes:
        status: The verdict in a word.
        service_status: The service's own word, as it came; None where it said none.
        error: Why the records are not metered, or why that is unknown.
        attempts: How many calls carried them.
        request_id: The service's id of the call that settled them.
        ambiguous: Whether an earlier attempt had no response.
        duplicate_of: The position of the identical record that was sent in place of this one.
    """

    status: RecordStatus
    service_status: str | None = None
    error: MeteringError | None = None
    attempts: int = 0
    request_id: str | None = None
    ambiguous: bool = False
    duplicate_of: int | None = None


class SettledRecords(NamedTuple):
    """
    What became of some records: what they share, and what each has of its own.

    Attributes:
        verdict: On all of them.
        positions: Where they stand in what was given.
        record_ids: The service's id of each.
    """

    verdict: Verdict
    positions: Sequence[int]
    record_ids: Sequence[str | None]


def unmetered(verdict: Verdict, positions: Sequence[int]) -> SettledRecords:
    """Return the outcome of records that the service has not taken."""
    return SettledRecords(verdict, positions, (None,) * len(positions))


@define(repr=False, unsafe_hash=True, weakref_slot=False)
class RecordResult:
    """
    The verdict on one record; it cannot be changed.

    `status` is the verdict in a word, `metered` what it means for the bill, `retryable` whether to
    send the identical record again, and `advice` what to do, in words.
    """

    # Read-only properties in place of a frozen class: there may be millions, and those take half as
    # long to make. Not a tuple: JSON loggers would write it out, with the customer's id.
    _position: int
    _record: UsageRecord | Mapping[str, Any] | object
    _verdict: Verdict
    _metering_record_id: str | None = None

    def __repr__(self) -> str:
        """Return what was decided, without the record: its ids are nobody else's business."""
        return f"<RecordResult {self._position}: {self._verdict!r}, {self._metering_record_id!r}>"

    @property
    def position(self) -> int:
        """Where the record stands in what was given, from 0."""
        return self._position

    @property
    def record(self) -> UsageRecord | Mapping[str, Any] | object:
        """What was given: a UsageRecord or a mapping, unchanged."""
        return self._record

    @property
    def verdict(self) -> Verdict:
        """What it shares with the other records that one response settled."""
        return self._verdict

    @property
    def metering_record_id(self) -> str | None:
        """The service's id of the metered record."""
        return self._metering_record_id

    @property
    def status(self) -> RecordStatus:
        """The verdict in a word."""
        return self.verdict.status

    @property
    def service_status(self) -> str | None:
        """The service's own word for the record, as it came; None where it said none."""
        return self.verdict.service_status

    @property
    def error(self) -> MeteringError | None:
        """Why the record is not metered, or why that is unknown."""
        return self.verdict.error

    @property
    def attempts(self) -> int:
        """How many calls carried the record."""
        return self.verdict.attempts

    @property
    def request_id(self) -> str | None:
        """The service's id of the call that settled the record, for AWS Support."""
        return self.verdict.request_id

    @property
    def ambiguous(self) -> bool:
        """Whether an earlier attempt had no response, so that the service may have acted on it."""
        return self.verdict.ambiguous

    @property
    def duplicate_of(self) -> int | None:
        """The position of the identical record that was sent in place of this one."""
        return self.verdict.duplicate_of

    @property
    def metered(self) -> bool | None:
        """
        Whether this batch got the record metered.

        True: the service said so. False: it is certain that no attempt of this batch did. None:
        unknown, since an attempt had no response.
        """
        match self.status:
            case RecordStatus.SUCCESS:
                return True
            case RecordStatus.UNCONFIRMED:
                return None
            case RecordStatus.DUPLICATE_RECORD:
                return None if self.ambiguous else False
        return False

    @property
    def retryable(self) -> bool:
        """Whether the identical record should be sent again."""
        if isinstance(self.error, SimilarRecordRefusedError):
            return True
        return self.status in (RecordStatus.UNPROCESSED, RecordStatus.UNCONFIRMED)

    @property
    def advice(self) -> str:
        """What happened and what to do about it, as text."""
        return _advice(self)


def _advice(result: RecordResult) -> str:
    match result.status:
        case RecordStatus.SUCCESS:
            return "Metered; nothing to do."
        case RecordStatus.CUSTOMER_NOT_SUBSCRIBED:
            return (
                "The customer has no subscription in force, so the record was not taken. Stop "
                "serving the customer, or send the identical record again within its window once "
                "the customer has subscribed."
            )
        case RecordStatus.DUPLICATE_RECORD if result.ambiguous:
            return (
                "The service has a record of this customer, dimension and hour. An earlier "
                "attempt of this batch had no response, so it is most likely this record. Compare "
                "with CloudTrail (BatchMeterUsage, some 15 minutes late) or the daily usage report "
                "before metering anything for this hour again."
            )
        case RecordStatus.DUPLICATE_RECORD:
            return (
                "The service already had a record of this customer, dimension and hour, and keeps "
                "the first. If you sent this very record before, all is well; if not, something "
                "else meters the same hour, and the quantity of this record is not billed."
            )
        case RecordStatus.REJECTED:
            return f"Not metered. {_reason(result.error)}"
        case RecordStatus.UNPROCESSED:
            return (
                "Not metered, and not the record's fault. Send the identical record again before "
                f"its window closes. {_reason(result.error)}"
            )
        case RecordStatus.UNCONFIRMED if isinstance(result.error, _OUT_OF_TIME):
            return (
                "Nobody knows yet whether it is metered: an attempt had no usable response, and "
                "now its timestamp is outside the window. Compare with CloudTrail "
                "(BatchMeterUsage, some 15 minutes late) or the daily usage report before metering "
                f"its usage in another hour, which could bill the customer twice. {result.error}."
            )
    return (
        "Nobody knows yet whether it is metered: an attempt had no usable response. Send the "
        "identical record again, never one with another timestamp or quantity, which could bill "
        f"the customer twice. {_reason(result.error)}"
    )


def _reason(error: MeteringError | None) -> str:
    return f"{error}. {error.advice}" if error is not None else ""


@frozen(repr=False, eq=False)
class BatchMeterUsageResult(Sequence[RecordResult]):
    """
    The verdicts on all records of one call, in the caller's order.

    Attributes:
        results: One RecordResult for every record given.
        counts: How many records got which verdict, in the order of RecordStatus.
        calls: How many HTTP requests it took, refused and throttled ones among them.
        throttled: How many of them the service throttled.
    """

    results: Sequence[RecordResult]
    counts: Mapping[RecordStatus, int]
    calls: int = 0
    throttled: int = 0

    @overload
    def __getitem__(self, index: int) -> RecordResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordResult]: ...
    def __getitem__(self, index: int | slice) -> RecordResult | Sequence[RecordResult]:
        """Return the verdict on the record at *index* of what was given."""
        return self.results[index]

    def __len__(self) -> int:
        """Return how many records were given."""
        return len(self.results)

    def __iter__(self) -> Iterator[RecordResult]:
        """Iterate over the verdicts, in the order of what was given."""
        return iter(self.results)

    def __repr__(self) -> str:
        """Return the counts; a million results are no text."""
        counts = ", ".join(f"{status}: {count}" for status, count in self.counts.items())
        return f"<BatchMeterUsageResult of {len(self)} records; {counts or 'empty'}>"

    @property
    def succeeded(self) -> list[RecordResult]:
        """The results of the records that are metered."""
        return [r for r in self.results if r.verdict.status is RecordStatus.SUCCESS]

    @property
    def failed(self) -> list[RecordResult]:
        """The results of the records that are not metered for certain."""
        if self.counts.get(RecordStatus.SUCCESS, 0) == len(self):
            return []
        return [r for r in self.results if r.verdict.status is not RecordStatus.SUCCESS]

    @property
    def unprocessed_records(self) -> list[UsageRecord | Mapping[str, Any]]:
        """
        What to send again, exactly as it was given: what is `retryable`.

        That is Unprocessed, Unconfirmed, or held back because a similar record was refused.
        """
        again: list[Any] = [r.record for r in self.results if r.retryable]
        return again

    def raise_for_failures(self) -> None:
        """
        Do nothing if all records are metered.

        Raises:
            BatchMeterUsageError: an ExceptionGroup with a RecordNotMeteredError for each other
                record; the error of the result is its `__cause__`.
        """
        if failed := self.failed:
            counts = ", ".join(f"{n} {status}" for status, n in self.counts.items())
            raise BatchMeterUsageError(
                f"{len(failed)} of {len(self)} records are not metered for certain ({counts})",
                [_not_metered(result) for result in failed],
            )


class ResultCollector:
    """
    Takes what was given, and later the verdict on each, in columns.

    Attributes:
        counts: How many have which verdict, so far.
    """

    def __init__(self) -> None:
        self.counts: Counter[RecordStatus] = Counter()
        self._given: list[object] = []
        self._verdicts: list[Verdict | None] = []
        self._record_ids: list[str | None] = []
        self._missing = 0

    def __len__(self) -> int:
        """Return how many records were given so far."""
        return len(self._given)

    def expect(self, given: Sequence[object]) -> None:
        """Take note of what else was given."""
        self._given += given
        self._verdicts += [None] * len(given)
        self._record_ids += [None] * len(given)
        self._missing += len(given)

    def add(self, outcomes: Iterable[SettledRecords]) -> None:
        """
        Take outcomes in.

        Raises:
            ValueError: for a position that has one already, or lies outside what was given.
        """
        verdicts, record_ids, given = self._verdicts, self._record_ids, len(self._given)
        for verdict, positions, ids in outcomes:
            for position, record_id in zip(positions, ids, strict=True):
                if not 0 <= position < given:
                    raise ValueError(f"a foreign result for records[{position}]")
                if verdicts[position] is not None:
                    raise ValueError(f"a second result for records[{position}]")
                verdicts[position] = verdict
                record_ids[position] = record_id
            self.counts[verdict.status] += len(positions)
            self._missing -= len(positions)

    def missing(self, among: Sequence[int] | None = None) -> list[int]:
        """Return which of some positions, or of all, have no verdict."""
        places = range(len(self._verdicts)) if among is None else among
        return [place for place in places if self._verdicts[place] is None]

    def result(self, *, calls: int = 0, throttled: int = 0) -> BatchMeterUsageResult:
        """
        Return all results.

        Raises:
            ValueError: if a position has none.
        """
        if self._missing:
            raise ValueError(f"{self._missing} records have no result")
        verdicts = cast("list[Verdict]", self._verdicts)
        results = _Columns(self._given, verdicts, self._record_ids)
        return BatchMeterUsageResult(results, in_order(self.counts), calls, throttled)


@define(eq=False, repr=False)
class _Columns(Sequence[RecordResult]):
    """
    Results in columns, each made when it is asked for.

    A million objects more would take as much memory as the records, and the time of the garbage
    collector, which looks at all of them again and again while the rest is sent.
    """

    _given: list[object]
    _verdicts: list[Verdict]
    _record_ids: list[str | None]

    @overload
    def __getitem__(self, index: int) -> RecordResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordResult]: ...
    def __getitem__(self, index: int | slice) -> RecordResult | Sequence[RecordResult]:
        places = range(len(self._given))[index]
        return self._at(places) if isinstance(places, int) else [self._at(n) for n in places]

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[RecordResult]:
        return map(RecordResult, range(len(self)), self._given, self._verdicts, self._record_ids)

    def _at(self, place: int) -> RecordResult:
        return RecordResult(
            place, self._given[place], self._verdicts[place], self._record_ids[place]
        )


def _not_metered(result: RecordResult) -> RecordNotMeteredError:
    error = RecordNotMeteredError(result.position, result.status, result.advice)
    error.__cause__ = result.error
    return error


def count(outcomes: Iterable[SettledRecords]) -> dict[RecordStatus, int]:
    """Count verdicts, in the order of RecordStatus, without the ones that nobody got."""
    counts: dict[RecordStatus, int] = {}
    for verdict, positions, _ in outcomes:
        counts[verdict.status] = counts.get(verdict.status, 0) + len(positions)
    return counts if len(counts) == 1 else in_order(counts)


def in_order(counts: Mapping[RecordStatus, int]) -> dict[RecordStatus, int]:
    """Return *counts* in the order of RecordStatus, without zeros."""
    return {status: counts[status] for status in RecordStatus if counts.get(status)}


@frozen(kw_only=True)
class MeterUsageResult:
    """
    What MeterUsage answered.

    Attributes:
        metering_record_id: The service's id of the record; None after a dry run.
        dry_run: Whether it was a dry run that would have been allowed.
        client_token: The token that was sent, for repeating the very same request.
        request_id: The service's id of the request.
    """

    metering_record_id: str | None
    dry_run: bool = False
    client_token: str | None = None
    request_id: str | None = None


@frozen(kw_only=True)
class RegisterUsageResult:
    """
    What RegisterUsage answered.

    Attributes:
        signature: A JWT (PS256) that proves the registration; verify it with the product's key.
        public_key_rotation_timestamp: When the key version expired; None while it is in force.
        request_id: The service's id of the request.
    """

    signature: str = field(repr=False)
    public_key_rotation_timestamp: datetime | None = None
    request_id: str | None = None


@frozen(kw_only=True)
class ResolveCustomerResult:
    """
    What ResolveCustomer answered: who clicked "Set up your account".

    Attributes:
        customer_identifier: The buyer in legacy integrations; None or empty in new ones.
        customer_aws_account_id: The buyer's AWS account.
        license_arn: The buyer's license.
        product_code: The product that was bought.
        agreement_id: The agreement, where the service tells it.
        request_id: The service's id of the request.
    """

    customer_identifier: str | None = field(default=None, repr=False)
    customer_aws_account_id: str | None = field(default=None, repr=False)
    license_arn: str | None = field(default=None, repr=False)
    product_code: str | None = None
    agreement_id: str | None = None
    request_id: str | None = None

    @property
    def customer(self) -> Customer:
        """
        The buyer and the product, for `UsageRecord(customer=…)`.

        By account where the service names one, otherwise by identifier.

        Raises:
            InvalidRecordError: the response names no customer that could be metered.
        """
        by_account = self.customer_aws_account_id is not None
        return Customer(
            customer_aws_account_id=self.customer_aws_account_id,
            customer_identifier=None if by_account else self.customer_identifier,
            license_arn=self.license_arn,
            product_code=self.product_code,
        )
