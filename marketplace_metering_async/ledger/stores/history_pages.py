"""A page of the history as conditions of SQL, the same for all stores."""

from typing import Any, Final, NamedTuple

from attrs import frozen

from marketplace_metering_async.ledger.history import HistoryPlace, HistoryQuery
from marketplace_metering_async.ledger.model import HourState

KEY_MEMBERS: Final = (
    "usage_key.product_code, usage_key.customer_aws_account_id, usage_key.customer_identifier, "
    "usage_key.license_arn, usage_key.license_product, usage_key.dimension"
)
_INDEXED: Final = {
    "hour.state NOT IN ('open', 'frozen', 'metered')": set(HourState)
    - {HourState.OPEN, HourState.FROZEN, HourState.METERED},
    "hour.state IN ('open', 'frozen')": {HourState.OPEN, HourState.FROZEN},
}
"""Conditions of indexes on hours by time to the states that these have."""


class Kind(NamedTuple):
    """A table of entries: its name, and its columns for hour and row."""

    table: str
    hour: str
    row: str


HOURS: Final = Kind("hour", "hour", "hour_id")
STRANDED: Final = Kind("stranded", "origin", "stranded_id")


@frozen
class Page:
    """
    The next entries of a kind, with a `?` for each value.

    Attributes:
        where: Conditions on the table of entries.
        values: Of these conditions, in order.
        members: Conditions on the table of keys, each with AND before it.
        member_values: Of those, in order.
        order: Columns to order by.
    """

    where: str
    values: list[Any]
    members: str
    member_values: list[str]
    order: str

    @classmethod
    def of(cls, kind: Kind, query: HistoryQuery, after: HistoryPlace) -> "Page":
        """Return what comes *after* a place."""
        hour, row = f"{kind.table}.{kind.hour}", f"{kind.table}.{kind.row}"
        values: list[Any] = [*after.among(stranded=kind is STRANDED)]
        if query.newest_first:
            where, order = f"({hour}, {row}) < (?, ?) AND {hour} >= ?", f"{hour} DESC, {row} DESC"
            values.append(query.first)
        else:
            where, order = f"({hour}, {row}) > (?, ?) AND {hour} < ?", f"{hour}, {row}"
            values.append(query.end)
        if query.states:
            where += f" AND {kind.table}.state IN ({', '.join('?' for _ in query.states)})"
            values += sorted(query.states)
            if kind is HOURS:
                where += "".join(
                    f" AND {condition}"
                    for condition, states in _INDEXED.items()
                    if query.states <= states
                )
        members = "".join(f" AND usage_key.{name} = ?" for name in query.members)
        return cls(where, values, members, [*query.members.values()], order)
