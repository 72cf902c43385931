"""Plain usage into a ledger in SQLite, blindly; see plain_usage."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, Final

from marketplace_metering_async.ledger.hours import last_hour_of_month
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainPart, Plan

Connection = Any
"""sqlite3's, or one like it, in tests of disks."""

NEW_EVENT: Final = "INSERT INTO event (event_id, digest, added_at) VALUES (?, ?, ?)"
PLAIN_EVENT: Final = f"{NEW_EVENT} ON CONFLICT DO NOTHING"
_AT_ONCE: Final = 50
NEW_EVENTS: Final = NEW_EVENT + (_AT_ONCE - 1) * ", (?, ?, ?)"
"""So many in one statement take two thirds of the time that they take one by one."""
PLAIN_HOUR: Final = """
    UPDATE hour SET quantity = quantity + ?, events = events + ?, stamp = max(stamp, ?)
    WHERE key_id = ? AND hour = ? AND state = 'open' AND urgent = 0 AND events > 0
      AND quantity BETWEEN 1 AND {most} - ? AND seal_at = max(opened_at + {grace},
          hour + 3600 + CASE WHEN hour = {last_of_month} THEN {longer_grace} ELSE {grace} END)
"""


def grow(db: Connection, plan: Plan, rules: PostingRules) -> list[PlainPart]:
    """Add the parts of a plan to their hours; return those that changed no row."""
    last_of_month = last_hour_of_month(min([part.into.hour for part in plan.parts]))
    statement = _statement(plan.most, rules, last_of_month)
    rows = [
        (
            part.quantity,
            len(part.places),
            part.stamp,
            part.into.key_id,
            part.into.hour,
            part.quantity,
        )
        for part in plan.parts
    ]
    return [plan.parts[place] for place in _unchanged(db, statement, rows)]


@lru_cache(maxsize=100)
def _statement(most: int, rules: PostingRules, last_of_month: int) -> str:
    return PLAIN_HOUR.format(
        most=most,
        grace=rules.grace,
        longer_grace=max(rules.grace, rules.month_end_grace),
        last_of_month=last_of_month,
    )


def name_events(db: Connection, events: Mapping[str, bytes], at: int) -> list[str]:
    """See Database."""
    there: list[str] = []
    values: list[Any] = [*chain.from_iterable(zip(events, events.values(), repeat(at)))]
    for first in range(0, len(values), 3 * _AT_ONCE):
        some = values[first : first + 3 * _AT_ONCE]
        if len(some) == 3 * _AT_ONCE:
            with suppress(sqlite3.IntegrityError):  # one is there, and none was stored
                db.execute(NEW_EVENTS, some)
                continue
        rows = zip(some[::3], some[1::3], some[2::3], strict=True)
        there += [some[3 * place] for place in _unchanged(db, PLAIN_EVENT, rows)]
    return there


def _unchanged(db: Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> list[int]:
    """Run a statement for each of *rows*; return the places of those that changed nothing."""
    unchanged: list[int] = []

    def given() -> Iterator[tuple[Any, ...]]:
        before = db.total_changes
        for place, row in enumerate(rows):
            yield row
            after = db.total_changes
            if after == before:
                unchanged.append(place)
            before = after

    db.executemany(statement, given())
    return unchanged
