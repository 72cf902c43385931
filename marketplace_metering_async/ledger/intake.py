"""The ledger's way in: usage to the hours of its keys, subscriptions that end, and re-arming."""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from marketplace_metering_async.errors import LedgerUnusableError
from marketplace_metering_async.ledger.posting import (
    KeyState,
    OpenHour,
    Outcome,
    Posting,
    PostingRules,
    deadline_of,
    hour_of,
)
from marketplace_metering_async.ledger.sql import FailPoint, Row, Transaction
from marketplace_metering_async.ledger.states import (
    STRANDED,
    CustomerKey,
    HourState,
    Usage,
    UsageKey,
)

_CUSTOMER: Final = (
    "product_code = :product_code AND customer_aws_account_id = :customer_aws_account_id "
    "AND customer_identifier = :customer_identifier AND license_arn = :license_arn"
)


async def post(
    tx: Transaction, group: Sequence[Usage], now: int, rules: PostingRules, reach: FailPoint
) -> list[Outcome]:
    """
    Add a *group* of usage to the hours of its keys; one outcome for each, in order.

    Raises:
        LedgerUnusableError: if the ledger has moved to another database.
    """
    (ledger,) = await tx.rows("SELECT moved_to FROM ledger")
    if ledger["moved_to"] is not None:
        raise LedgerUnusableError(f"this ledger has moved to {ledger['moved_to']}; use that one")
    keys = await _load(tx, {usage.key: usage.license_product for usage in group}, group, now)
    known = await _known_events(tx, [u.event_id for u in group if u.event_id is not None])
    reach("post: loaded")
    posting = Posting(now, rules, keys, known)
    outcomes = [posting.post(usage) for usage in group]
    await _write(tx, keys.values(), now)
    reach("post: hours written")
    added = [
        {"event_id": event_id, "digest": digest, "now": now}
        for event_id, digest in posting.events.items()
    ]
    if added:
        await tx.many(
            "INSERT INTO event (event_id, digest, added_at) VALUES (:event_id, :digest, :now)",
            added,
        )
    reach("post: events written")
    return outcomes


async def _load(
    tx: Transaction, wanted: dict[UsageKey, str], group: Iterable[Usage], now: int
) -> dict[UsageKey, KeyState]:
    """Return the state of the keys, locked; those that are new get their rows."""
    by_name = {_name(key): key for key in sorted(wanted)}
    found = await _keys(tx, list(by_name))
    if missing := [name for name in by_name if name not in found]:
        await tx.many(_NEW_KEY, [_key_row(by_name[name], name, wanted) for name in missing])
        await tx.many(_CLOSED_BEFORE, [{"name": name} for name in missing])
        found |= await _keys(tx, missing)
    by_id = {state.key_id: state for state in found.values()}
    first = min([hour_of(usage.at) for usage in group] + [hour_of(now)])
    for row in await tx.rows(
        "SELECT key_id, hour, state, quantity, events, stamp, opened_at, seal_at, urgent, hour_id "
        f"FROM hour WHERE key_id IN {tx.dialect.integers('ids')} AND hour >= :first "
        f"ORDER BY hour_id {tx.dialect.for_update}",
        ids=sorted(by_id),
        first=first,
    ):
        by_id[row["key_id"]].hours[row["hour"]] = OpenHour(
            row["hour"],
            is_open=row["state"] == HourState.OPEN,
            quantity=row["quantity"],
            events=row["events"],
            stamp=row["stamp"],
            opened_at=row["opened_at"],
            seal_at=row["seal_at"],
            urgent=bool(row["urgent"]),
        )
    return {by_name[name]: state for name, state in found.items()}


_NEW_KEY: Final = """
    INSERT INTO usage_key (name, product_code, customer_aws_account_id, customer_identifier,
                           license_arn, dimension, license_product)
    VALUES (:name, :product_code, :customer_aws_account_id, :customer_identifier,
            :license_arn, :dimension, :license_product)
    ON CONFLICT (name) DO NOTHING
"""
_CLOSED_BEFORE: Final = """
    UPDATE usage_key SET closed_at = (
        SELECT closed_at FROM closed_customer AS c
        WHERE c.product_code = usage_key.product_code
          AND c.customer_aws_account_id = usage_key.customer_aws_account_id
          AND c.customer_identifier = usage_key.customer_identifier
          AND c.license_arn = usage_key.license_arn)
    WHERE name = :name
"""


def _name(key: UsageKey) -> str:
    return json.dumps(list(key))


def _key_row(key: UsageKey, name: str, products: dict[UsageKey, str]) -> dict[str, str]:
    return {**key._asdict(), "name": name, "license_product": products[key]}


async def _keys(tx: Transaction, names: list[str]) -> dict[str, KeyState]:
    rows = await tx.rows(
        f"SELECT key_id, name, closed_at FROM usage_key WHERE name IN {tx.dialect.texts('names')} "
        f"ORDER BY key_id {tx.dialect.for_update}",
        names=names,
    )
    return {row["name"]: KeyState(row["key_id"], row["closed_at"]) for row in rows}


async def _known_events(tx: Transaction, ids: list[str]) -> dict[str, bytes]:
    if not ids:
        return {}
    rows = await tx.rows(
        f"SELECT event_id, digest FROM event WHERE event_id IN {tx.dialect.texts('ids')}", ids=ids
    )
    return {row["event_id"]: bytes(row["digest"]) for row in rows}


async def _write(tx: Transaction, keys: Iterable[KeyState], now: int) -> None:
    """Write down what a posting changed."""
    changed = [(key.key_id, hour) for key in keys for hour in key.hours.values() if hour.changed]
    if changed:
        await tx.many(_WRITE_HOUR, [_hour_row(key_id, hour) for key_id, hour in changed])
    carried = [
        {"key_id": key_id, "hour": hour.hour, "origin": origin, "quantity": q, "events": n}
        for key_id, hour in changed
        for origin, (q, n) in hour.carried.items()
    ]
    if carried:
        await tx.many(_WRITE_CARRIED, carried)
    stranded = [
        {"key_id": key.key_id, "origin": o, "state": state, "quantity": q, "events": n, "now": now}
        for key in keys
        for (o, state), (q, n) in key.stranded.items()
    ]
    if stranded:
        await tx.many(_WRITE_STRANDED, stranded)
    recorded = [{"key_id": key.key_id, "recorded": key.recorded} for key in keys if key.recorded]
    if recorded:
        await tx.many(
            "UPDATE usage_key SET recorded = recorded + :recorded WHERE key_id = :key_id", recorded
        )


_WRITE_HOUR: Final = """
    INSERT INTO hour (key_id, hour, state, quantity, events, stamp, opened_at, seal_at, deadline,
                      urgent)
    VALUES (:key_id, :hour, 'open', :quantity, :events, :stamp, :opened_at, :seal_at, :deadline,
            :urgent)
    ON CONFLICT (key_id, hour) DO UPDATE SET
        quantity = excluded.quantity, events = excluded.events, stamp = excluded.stamp,
        opened_at = excluded.opened_at, seal_at = excluded.seal_at, deadline = excluded.deadline,
        urgent = excluded.urgent
"""
_WRITE_CARRIED: Final = """
    INSERT INTO carried (hour_id, origin, quantity, events)
    SELECT hour_id, CAST(:origin AS bigint), CAST(:quantity AS bigint), CAST(:events AS bigint)
    FROM hour WHERE key_id = :key_id AND hour = :hour
    ON CONFLICT (hour_id, origin) DO UPDATE SET
        quantity = carried.quantity + excluded.quantity, events = carried.events + excluded.events
"""
_WRITE_STRANDED: Final = """
    INSERT INTO stranded (key_id, origin, state, quantity, events, since)
    VALUES (:key_id, :origin, :state, :quantity, :events, :now)
    ON CONFLICT (key_id, origin, state) DO UPDATE SET
        quantity = stranded.quantity + excluded.quantity,
        events = stranded.events + excluded.events
"""


def _hour_row(key_id: int, hour: OpenHour) -> dict[str, int]:
    return {
        "key_id": key_id,
        "hour": hour.hour,
        "quantity": hour.quantity,
        "events": hour.events,
        "stamp": hour.stamp,
        "opened_at": hour.opened_at,
        "seal_at": hour.seal_at,
        "deadline": deadline_of(hour.stamp),
        "urgent": int(hour.urgent),
    }


async def close_customer(tx: Transaction, customer: CustomerKey, at: int, now: int) -> int:
    """Note that a subscription ended; its open hours are due at once, before all others."""
    who = customer._asdict()
    await tx.rows(
        "INSERT INTO closed_customer (product_code, customer_aws_account_id, customer_identifier, "
        "license_arn, closed_at) VALUES (:product_code, :customer_aws_account_id, "
        ":customer_identifier, :license_arn, :at) ON CONFLICT (product_code, "
        "customer_aws_account_id, customer_identifier, license_arn) "
        "DO UPDATE SET closed_at = excluded.closed_at",
        at=at,
        **who,
    )
    keys = await tx.rows(
        f"UPDATE usage_key SET closed_at = :at WHERE {_CUSTOMER} RETURNING key_id", at=at, **who
    )
    due = await tx.rows(
        "UPDATE hour SET urgent = 1, seal_at = :now WHERE state IN ('open', 'frozen') "
        f"AND key_id IN {tx.dialect.integers('ids')} RETURNING hour_id",
        ids=[row["key_id"] for row in keys],
        now=now,
    )
    return len(due)


async def reopen_customer(tx: Transaction, customer: CustomerKey) -> None:
    """Forget that a subscription ended."""
    who = customer._asdict()
    await tx.rows(f"DELETE FROM closed_customer WHERE {_CUSTOMER}", **who)
    await tx.rows(f"UPDATE usage_key SET closed_at = NULL WHERE {_CUSTOMER}", **who)


async def rearm(tx: Transaction, states: Sequence[HourState], now: int, rules: PostingRules) -> int:
    """
    Send ended records again, unchanged, where their window is still open.

    Usage that no hour carries goes to the first unsealed hour from now on: a person says so.
    """
    armed = await tx.rows(
        "UPDATE hour SET state = 'frozen', not_before = 0, settled_at = NULL, reason = NULL, "
        f"crashes = 0 WHERE state IN {tx.dialect.texts('states')} AND deadline > :now "
        "RETURNING hour_id",
        states=[state for state in states if state not in STRANDED],
        now=now,
    )
    moved = await tx.rows(
        f"DELETE FROM stranded WHERE state IN {tx.dialect.texts('states')} "
        "RETURNING key_id, origin, quantity, events",
        states=[state for state in states if state in STRANDED],
    )
    if moved:
        await _carry(tx, moved, now, rules)
    return len(armed) + len(moved)


async def _carry(tx: Transaction, moved: Sequence[Row], now: int, rules: PostingRules) -> None:
    names = {
        row["key_id"]: (UsageKey(*json.loads(row["name"])), row["license_product"])
        for row in await tx.rows(
            "SELECT key_id, name, license_product FROM usage_key "
            f"WHERE key_id IN {tx.dialect.integers('ids')}",
            ids=sorted({row["key_id"] for row in moved}),
        )
    }
    keys = await _load(tx, dict(names.values()), (), now)
    posting = Posting(now, rules, keys, {})
    for row in moved:
        posting.carry(names[row["key_id"]][0], row["origin"], row["quantity"], row["events"])
    await _write(tx, keys.values(), now)
