"""The story of every hour: the evidence in a dispute."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from attrs import evolve, field, frozen

from marketplace_metering_async.ledger.hours import last_hour_of_month
from marketplace_metering_async.ledger.model import (
    HourState,
    name_of_arrival,
    name_of_hour,
    name_of_stranded,
)
from marketplace_metering_async.quantities import Quantity, of_millionths
from marketplace_metering_async.records import SECONDS_PER_HOUR, utc_of


class Row(Protocol):
    """What a store has found: a value for each column."""

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401
        """Return the value in a column."""
        ...


@frozen(kw_only=True)
class Attempt:
    """
    One try of a frozen record, and what came of it.

    Attributes:
        at: When its verdict was written down (UTC).
        status: The verdict, in the words of RecordStatus.
        error: The code or class of the error, if there was one.
        request_id: The service's id of the request, for AWS Support.
        metering_record_id: The service's id of the record, once it is metered.
    """

    at: datetime
    status: str
    error: str | None
    request_id: str | None
    metering_record_id: str | None


@frozen(kw_only=True)
class Resolution:
    """
    What a person has said of usage that had ended, and why.

    Attributes:
        at: When (UTC).
        before: The state it had ended in.
        after: The state it has since.
        note: The person's reason.
    """

    at: datetime
    before: HourState
    after: HourState
    note: str


@frozen(kw_only=True)
class CarriedUsage:
    """
    Units that happened in another hour than the one whose record has them.

    Attributes:
        origin: The start of the hour in which they happened (UTC).
        quantity: How many, exact.
        events: Pieces of usage.
    """

    origin: datetime
    quantity: Quantity
    events: int


@frozen(kw_only=True)
class HistoryEntry:
    """
    The story of one hour of a key, or of usage that no hour may carry.

    Attributes:
        name: What resolve() and its like know it by, in this ledger.
        product_code: The product; of a license its own, or None.
        customer_aws_account_id: The buyer's AWS account, if that is how they are known.
        customer_identifier: The buyer in legacy integrations, in place of the account.
        license_arn: The buyer's license.
        dimension: The product's dimension.
        hour: The start of the hour (UTC); of stranded usage the one in which it happened.
        state: What has become of it.
        quantity: Units, those carried from other hours among them: an int where whole, else a
            Decimal.
        events: Pieces of usage.
        carried: What of it happened in other hours.
        timestamp: Of the frozen record; of an open hour what it would be now.
        sealed_at: When the hour was closed permanently (UTC).
        region_name: The region that its record goes to.
        digest: Of the frozen record, as hexadecimal text.
        attempts: Every verdict on the record, in order.
        resolutions: What persons have said of it, in order.
        settled_at: When it was metered or ended (UTC).
        metering_record_id: The service's id, once it is metered.
        reason: Why it ended otherwise than as metered: an error code, or a rule.
        in_doubt: Whether the service may have metered it without our having seen its answer.
    """

    name: str
    product_code: str | None
    customer_aws_account_id: str | None = field(repr=False)
    customer_identifier: str | None = field(repr=False)
    license_arn: str | None = field(repr=False)
    dimension: str
    hour: datetime
    state: HourState
    quantity: Quantity
    events: int
    carried: Sequence[CarriedUsage] = ()
    timestamp: datetime | None = None
    sealed_at: datetime | None = None
    region_name: str | None = None
    digest: str | None = None
    attempts: Sequence[Attempt] = ()
    resolutions: Sequence[Resolution] = ()
    settled_at: datetime | None = None
    metering_record_id: str | None = None
    reason: str | None = None
    in_doubt: bool = False


_ABOVE_ALL: Final = 2**62
"""More than the number of any row."""
_CUSTOMER: Final = ("customer_aws_account_id", "customer_identifier", "license_arn")


class HistoryPlace(NamedTuple):
    """
    Where an entry stands in the history: what no hour carries comes after the rows of its hour.

    Attributes:
        hour: In seconds since 1970.
        is_stranded: Whether no hour carries it.
        row: The number of its row.
    """

    hour: int
    is_stranded: bool
    row: int

    def among(self, *, stranded: bool) -> tuple[int, int]:
        """Return where it is among the entries of one kind, as (hour, row)."""
        if self.is_stranded == stranded:
            return self.hour, self.row
        return self.hour, -1 if stranded else _ABOVE_ALL


@frozen(kw_only=True)
class HistoryQuery:
    """
    Which hours somebody asks for.

    Attributes:
        first: The first hour, in seconds since 1970.
        end: The hour after the last one.
        members: Members of a key to the value that they have.
        states: What has become of them; whatever has, where there is none.
        newest_first: Whether the last hour comes first.
    """

    first: int = 0
    end: int = 2**40
    members: Mapping[str, str] = field(factory=dict)
    states: frozenset[HourState] = frozenset()
    newest_first: bool = False

    @classmethod
    def of(
        cls,
        month: datetime | None = None,
        states: Iterable[HourState] = (),
        *,
        newest_first: bool = False,
        **members: str | None,
    ) -> "HistoryQuery":
        """Return what asks for a month (UTC) with *month* in it, and for the *members* given."""
        query = cls(
            members={name: value for name, value in members.items() if value is not None},
            states=frozenset(map(HourState, states)),
            newest_first=newest_first,
        )
        if month is None:
            return query
        start = month.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        first = int(start.timestamp())
        return evolve(query, first=first, end=last_hour_of_month(first) + SECONDS_PER_HOUR)

    @property
    def start(self) -> HistoryPlace:
        """The place before all that is asked for."""
        return HistoryPlace(
            self.end if self.newest_first else self.first, is_stranded=False, row=-1
        )

    @property
    def is_of_customer(self) -> bool:
        """Whether a customer is asked for, who has few keys: each is looked at by itself."""
        return any(name in self.members for name in _CUSTOMER)


def stranded_entry_of(row: Row, resolutions: Sequence[Row]) -> HistoryEntry:
    """Return what has become of usage that no hour carries: its row with its key's."""
    return HistoryEntry(
        name=name_of_stranded(row["stranded_id"]),
        **_common(row, row["origin"]),
        resolutions=_resolved(resolutions),
    )


def arrived_entry_of(row: Row) -> HistoryEntry:
    """Return the story of usage that is not added to its hour yet."""
    return HistoryEntry(
        name=name_of_arrival(row["arrival_id"]),
        **_common(row, row["hour"]),
        timestamp=_when(row["stamp"]),
    )


def _resolved(rows: Sequence[Row]) -> list[Resolution]:
    return [
        Resolution(
            at=utc_of(row["at"]),
            before=HourState(row["before"]),
            after=HourState(row["after"]),
            note=row["note"],
        )
        for row in rows
    ]


def _when(at: float | None) -> datetime | None:
    return None if at is None else utc_of(at)


def _common(row: Row, hour: int) -> dict[str, Any]:
    product = row["license_product"] if row["license_arn"] else row["product_code"]
    return {
        "product_code": product or None,
        "customer_aws_account_id": row["customer_aws_account_id"] or None,
        "customer_identifier": row["customer_identifier"] or None,
        "license_arn": row["license_arn"] or None,
        "dimension": row["dimension"],
        "hour": utc_of(hour),
        "state": HourState(row["state"]),
        "quantity": of_millionths(row["quantity"]),
        "events": row["events"],
    }


def entry_of(
    row: Row, carried: Sequence[Row], attempts: Sequence[Row], resolutions: Sequence[Row]
) -> HistoryEntry:
    """Return the story of an hour: its row with its key's, and what belongs to it."""
    return HistoryEntry(
        name=name_of_hour(row["hour_id"]),
        **_common(row, row["hour"]),
        carried=[
            CarriedUsage(
                origin=utc_of(one["origin"]),
                quantity=of_millionths(one["quantity"]),
                events=one["events"],
            )
            for one in carried
        ],
        timestamp=_when(row["stamp"]),
        sealed_at=_when(row["sealed_at"]),
        region_name=row["region_name"],
        digest=None if row["digest"] is None else bytes(row["digest"]).hex(),
        attempts=[
            Attempt(
                at=utc_of(one["at"]),
                status=one["status"],
                error=one["error"],
                request_id=one["request_id"],
                metering_record_id=one["metering_record_id"],
            )
            for one in attempts
        ],
        resolutions=_resolved(resolutions),
        settled_at=_when(row["settled_at"]),
        metering_record_id=row["metering_record_id"],
        reason=row["reason"],
        in_doubt=bool(row["in_doubt"]),
    )


def page_of(
    entries: list[tuple[HistoryPlace, HistoryEntry]], query: HistoryQuery, limit: int
) -> list[tuple[HistoryPlace, HistoryEntry]]:
    """Return the first *limit* of *entries* of both kinds, in order."""
    entries.sort(key=lambda entry: entry[0], reverse=query.newest_first)
    return entries[:limit]
