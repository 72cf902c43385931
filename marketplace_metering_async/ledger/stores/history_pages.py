"""A page of the history as conditions of SQL, the same for all stores."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from attrs import frozen

from marketplace_metering_async.ledger.history import (
    HistoryEntry,
    HistoryPlace,
    HistoryQuery,
    entry_of,
    stranded_entry_of,
)
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
    """
    A table of entries.

    Attributes:
        table: Its name.
        hour: Its column for the hour.
        row: That for the row's number.
        belongs: Tables with more of a row, in the order of a column of theirs.
        entry_of: Makes an entry of a row and of what belongs to it.
    """

    table: str
    hour: str
    row: str
    belongs: Mapping[str, str]
    entry_of: Callable[..., HistoryEntry]


HOURS: Final = Kind(
    "hour",
    "hour",
    "hour_id",
    {"carried": "origin", "attempt": "fence", "resolution": "resolution_id"},
    entry_of,
)
STRANDED: Final = Kind(
    "stranded", "origin", "stranded_id", {"resolution": "resolution_id"}, stranded_entry_of
)


@frozen
class Page:
    """
    The next entries of a kind, as parts of a statement.

    Attributes:
        where: Conditions on the table of entries.
        members: Conditions on the table of keys, each with AND before it.
        order: Columns to order by.
        values: Of `$1`, how many entries at most, and of `$2`, … in these conditions.
    """

    where: str
    members: str
    order: str
    values: list[Any]

    @classmethod
    def of(cls, kind: Kind, query: HistoryQuery, after: HistoryPlace, limit: int) -> "Page":
        """Return what comes *after* a place."""
        values: list[Any] = [limit]

        def number(value: object) -> str:
            values.append(value)
            return f"${len(values)}"

        hour, row = f"{kind.table}.{kind.hour}", f"{kind.table}.{kind.row}"
        place = ", ".join(map(number, after.among(stranded=kind is STRANDED)))
        if query.newest_first:
            where = f"({hour}, {row}) < ({place}) AND {hour} >= {number(query.first)}"
            order = f"{hour} DESC, {row} DESC"
        else:
            where = f"({hour}, {row}) > ({place}) AND {hour} < {number(query.end)}"
            order = f"{hour}, {row}"
        if query.states:
            where += f" AND {kind.table}.state IN ({', '.join(map(number, sorted(query.states)))})"
            if kind is HOURS:
                where += "".join(
                    f" AND {condition}"
                    for condition, states in _INDEXED.items()
                    if query.states <= states
                )
        members = "".join(
            f" AND usage_key.{name} = {number(value)}" for name, value in query.members.items()
        )
        return cls(where, members, order, values)
