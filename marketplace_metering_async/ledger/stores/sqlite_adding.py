"""The way into a ledger in SQLite: usage to hours."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final

from marketplace_metering_async.ledger.hours import last_hour_of_month
from marketplace_metering_async.ledger.model import (
    ProductDimension,
    Usage,
    UsageKey,
    key_of,
    name_of,
)
from marketplace_metering_async.ledger.open_hours import KeyState, OpenHour, PostingRules, key_state
from marketplace_metering_async.ledger.plain_usage import PlainHours, Plan
from marketplace_metering_async.ledger.posting import (
    Changes,
    KnownEvents,
    Posting,
    PostingResult,
    Wanted,
    first_hours,
    introduce_rivals,
    new_key,
    wanted_by,
)
from marketplace_metering_async.ledger.stores.sqlite_file import Connection
from marketplace_metering_async.ledger.stores.words import FailPoint
from marketplace_metering_async.ledger.sums import Sum
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions, concerns
from marketplace_metering_async.quantities import MILLION

KEYS: Final = """
    SELECT name, key_id, closed_at, license_product,
           CASE WHEN other_scheme <> 0 THEN billed_as END, (SELECT held_through FROM ledger)
    FROM usage_key WHERE name IN (SELECT value FROM json_each(?))
"""
RIVALS: Final = KEYS.replace("name IN", "billed_as IN")
NEW_KEY: Final = """
    INSERT INTO usage_key (key_id, name, product_code, customer_aws_account_id, customer_identifier,
                           license_arn, dimension, license_product, billed_as)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
OTHER_SCHEMES: Final = """
    UPDATE usage_key SET other_scheme = 1
    WHERE other_scheme = 0 AND billed_as IN (SELECT value FROM json_each(?)) AND EXISTS (
        SELECT 1 FROM usage_key AS other
        WHERE other.billed_as = usage_key.billed_as
          AND (other.license_arn = '') <> (usage_key.license_arn = ''))
"""
CLOSED_BEFORE: Final = """
    UPDATE usage_key SET closed_at = customer.closed_at FROM customer
    WHERE usage_key.name IN (SELECT value FROM json_each(?))
      AND customer.product_code = usage_key.product_code
      AND customer.customer_aws_account_id = usage_key.customer_aws_account_id
      AND customer.customer_identifier = usage_key.customer_identifier
      AND customer.license_arn = usage_key.license_arn
"""
HOURS: Final = """
    SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, urgent <> 0,
           hour_id
    FROM json_each(?) AS first JOIN hour ON key_id = CAST(first.key AS INTEGER)
        AND hour >= first.value
"""
KNOWN_EVENTS: Final = """
    SELECT event_id, digest FROM event WHERE event_id IN (SELECT value FROM json_each(?))
"""
GROWN_HOUR: Final = """
    UPDATE hour SET urgent = ?, quantity = ?, events = ?, stamp = ?, opened_at = ?, seal_at = ?
    WHERE hour_id = ?
"""
NEW_HOUR: Final = """
    INSERT INTO hour (urgent, quantity, events, stamp, opened_at, seal_at, key_id, hour, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'open')
"""
REMOVED_HOUR: Final = (
    "DELETE FROM carried WHERE hour_id = ?",
    "DELETE FROM hour WHERE hour_id = ?",
)
CARRIED: Final = """
    WITH given (key_id, hour, origin, quantity, events) AS (VALUES (?, ?, ?, ?, ?))
    INSERT INTO carried (hour_id, origin, quantity, events)
    SELECT hour.hour_id, given.origin, given.quantity, given.events
    FROM given JOIN hour ON hour.key_id = given.key_id AND hour.hour = given.hour WHERE true
    ON CONFLICT (hour_id, origin) DO UPDATE SET
        quantity = carried.quantity + excluded.quantity, events = carried.events + excluded.events
"""
STRANDED_USAGE: Final = """
    INSERT INTO stranded (key_id, origin, state, units, millionths, events, since)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key_id, origin, state) DO UPDATE SET units = units + excluded.units,
        millionths = millionths + excluded.millionths, events = events + excluded.events
"""
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
FORGET_EVENTS: Final = "DELETE FROM event WHERE event_id IN (SELECT value FROM json_each(?))"
KEPT_SUM: Final = """
    INSERT INTO kept_sum (product_code, dimension, state, units, millionths, records, latest)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (product_code, dimension, state) DO UPDATE SET units = units + excluded.units,
        millionths = millionths + excluded.millionths, records = records + excluded.records,
        latest = max(latest, excluded.latest)
"""


class OtherHoursError(Exception):
    """Some hours are not as they are remembered: nothing may be committed of what was added."""


def post(
    db: Connection,
    group: Sequence[Usage],
    now: int,
    rules: PostingRules,
    hours: PlainHours,
    *,
    row_by_row: bool = False,
    reach: FailPoint,
) -> list[PostingResult]:
    """
    Add a group of usage, blindly where *hours* are remembered; see Store.

    Raises:
        OtherHoursError: not all of them could be added to; *row_by_row* tells which.
    """
    whole = whole_dimensions(db) if any(map(concerns, group)) else frozenset()
    (since,) = db.execute("SELECT event_ids_since FROM ledger").fetchone()
    plan = hours.plan(group, now, rules, whole=whole, since=since)
    _add_blindly(db, plan, rules, row_by_row=row_by_row)
    reach("post: blindly")
    if not plan.careful:
        keep_sums(db, plan.sums())
        reach("post: sums written")
        return plan.results([])
    careful = plan.careful_usage()
    keys = load(db, wanted_by(careful))
    names = [usage.event_id for usage in careful if usage.event_id is not None]
    known = KnownEvents(known_events(db, names) if names else {}, since)
    reach("post: loaded")
    posting = Posting(now, rules, keys, known, plan.sums(), whole=whole)
    results = [posting.post(usage) for usage in careful]
    write(db, posting.changes(), reach)
    hours.remember(keys, rules)
    return plan.results(results)


def _add_blindly(db: Connection, plan: Plan, rules: PostingRules, *, row_by_row: bool) -> None:
    """Add what is plain, and hand the rest back to the *plan*."""
    if there := _name(db, plan.events()):
        plan.known(known_events(db, there))
    if not plan.parts:
        return
    statement = PLAIN_HOUR.format(
        most=plan.most,
        grace=rules.grace,
        longer_grace=max(rules.grace, rules.month_end_grace),
        last_of_month=last_hour_of_month(min([part.into.hour for part in plan.parts])),
    )
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
    if not row_by_row:  # which takes a quarter more
        if db.executemany(statement, rows).rowcount < len(rows):
            raise OtherHoursError
    elif others := _unchanged(db, statement, rows):
        taken_back = plan.miss([plan.parts[number] for number in others])
        db.execute(FORGET_EVENTS, (json.dumps(taken_back),))


def _name(db: Connection, events: Sequence[tuple[str, bytes, int]]) -> list[str]:
    """Store events but for those whose ids are there already; return these."""
    there: list[str] = []
    for first in range(0, len(events), _AT_ONCE):
        some = events[first : first + _AT_ONCE]
        if len(some) == _AT_ONCE:
            with suppress(sqlite3.IntegrityError):  # one is there, and none was stored
                db.execute(NEW_EVENTS, [*chain.from_iterable(some)])
                continue
        there += [some[place][0] for place in _unchanged(db, PLAIN_EVENT, some)]
    return there


def _unchanged(db: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> list[int]:
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


def known_events(db: Connection, names: Iterable[str]) -> dict[str, bytes]:
    """Return those of the event ids *names* that are known, with what was said of them."""
    return dict(db.execute(KNOWN_EVENTS, (json.dumps([*names]),)).fetchall())


def load(db: Connection, wanted: Mapping[UsageKey, Wanted]) -> dict[UsageKey, KeyState]:
    """Return the keys with their hours from the first wanted one on; new ones get their rows."""
    by_name = {name_of(key): key for key in wanted}
    found = _keys(db, KEYS, [*by_name])
    if missing := by_name.keys() - found.keys():
        new = [
            new_key(name, by_name[name], wanted[by_name[name]].license_product) for name in missing
        ]
        db.executemany(NEW_KEY, new)
        db.execute(CLOSED_BEFORE, (json.dumps([*missing]),))
        db.execute(OTHER_SCHEMES, (json.dumps([row[-1] for row in new]),))
        found |= _keys(db, KEYS, [*missing])
    if rivalled := {key.billed_as for key in found.values() if key.billed_as is not None}:
        found |= _keys(db, RIVALS, [*rivalled])  # those before knew of no other scheme
        introduce_rivals(found.values())
    keys = {key_of(name): state for name, state in found.items()}
    by_id = {state.key_id: state for state in found.values()}
    for key_id, *hour in db.execute(HOURS, (json.dumps(first_hours(keys, wanted)),)).fetchall():
        by_id[key_id].hours[hour[0]] = OpenHour(*hour)
    return keys


def _keys(db: Connection, statement: str, values: Sequence[str]) -> dict[str, KeyState]:
    return {row[0]: key_state(row) for row in db.execute(statement, (json.dumps(values),))}


def write(db: Connection, changes: Changes, reach: FailPoint) -> None:
    """Write down what a posting changes."""
    stranded = [
        (key_id, origin, state, *divmod(quantity, MILLION), events, since)
        for key_id, origin, state, quantity, events, since in changes.stranded
    ]
    for statement, rows in (
        (GROWN_HOUR, changes.grown_hours),
        (NEW_HOUR, changes.new_hours),
        (CARRIED, changes.carried),
        (STRANDED_USAGE, stranded),
        *((statement, changes.removed_hours) for statement in REMOVED_HOUR),
    ):
        if rows:
            db.executemany(statement, rows)
    reach("post: hours written")
    if changes.events:
        db.executemany(NEW_EVENT, changes.events)
    reach("post: events written")
    keep_sums(db, changes.sums)
    reach("post: sums written")


def keep_sums(db: Connection, changes: Sequence[Sum]) -> None:
    """Add *changes* to the kept sums."""
    db.executemany(
        KEPT_SUM,
        [
            (product, dimension, state, *divmod(quantity, MILLION), records, latest)
            for product, dimension, state, quantity, records, latest in changes
        ],
    )


def whole_dimensions(db: Connection) -> WholeDimensions:
    """Return the dimensions that are declared whole."""
    found = db.execute("SELECT product_code, dimension FROM whole_dimension").fetchall()
    return frozenset(ProductDimension(*row) for row in found)


def declare_whole(db: Connection, whole: WholeDimensions, now: int) -> None:
    """Let these dimensions be whole, and no others."""
    kept = whole_dimensions(db)
    db.executemany(
        "DELETE FROM whole_dimension WHERE product_code = ? AND dimension = ?", kept - whole
    )
    db.executemany(
        "INSERT INTO whole_dimension (product_code, dimension, declared_at) VALUES (?, ?, ?)",
        [(*one, now) for one in whole - kept],
    )
