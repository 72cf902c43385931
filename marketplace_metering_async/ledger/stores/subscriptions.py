"""Subscriptions that end, and those that go on after all."""

from collections.abc import Iterable, Mapping
from typing import Final

from marketplace_metering_async.ledger.model import CustomerKey, Usage, UsageKey, key_of
from marketplace_metering_async.ledger.open_hours import KeyState, PostingRules
from marketplace_metering_async.ledger.posting import Posting, Wanted, wanted_by
from marketplace_metering_async.ledger.stores.adding import load, write
from marketplace_metering_async.ledger.stores.database import Database, Row, both

CUSTOMER: Final = (
    "product_code = $1 AND customer_aws_account_id = $2 AND customer_identifier = $3 "
    "AND license_arn = $4"
)
CLOSE: Final = """
    INSERT INTO marketplace_metering.customer
        (product_code, customer_aws_account_id, customer_identifier, license_arn, closed_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (product_code, customer_aws_account_id, customer_identifier, license_arn)
    DO UPDATE SET closed_at = excluded.closed_at
"""
CLOSE_KEYS: Final = """
    UPDATE marketplace_metering.usage_key SET closed_at = $5 WHERE {} RETURNING name, key_id
"""
REOPEN_KEYS: Final = """
    UPDATE marketplace_metering.usage_key SET closed_at = NULL WHERE {} RETURNING name, key_id
"""
_UNSETTLED: Final = """
    hour.hour >= (SELECT hour FROM marketplace_metering.hour WHERE state IN ('open', 'frozen')
                  ORDER BY hour LIMIT 1)
"""
"""Looks at no hour that is older than all that are open or frozen, of years of them."""
FIRST_OPEN: Final = both(f"""
    SELECT key_id, MIN(hour) FROM marketplace_metering.hour
    WHERE state = 'open' AND key_id IN ({{rows}}) AND {_UNSETTLED} GROUP BY key_id
""")
CARRIED_BEFORE: Final = both(f"""
    SELECT hour.key_id, hour.hour, carried.origin, carried.quantity, carried.events
    FROM marketplace_metering.hour JOIN marketplace_metering.carried USING (hour_id)
    WHERE hour.state = 'open' AND hour.key_id IN ({{rows}}) AND hour.hour > $2 AND {_UNSETTLED}
""")
SEND_FIRST: Final = both(f"""
    UPDATE marketplace_metering.hour SET urgent = 1
    WHERE state = 'frozen' AND key_id IN ({{rows}}) AND {_UNSETTLED} RETURNING hour_id
""")


async def close(db: Database, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
    """Note that a subscription ends; see Store."""
    await db.fetch(CLOSE, *customer, at)
    names = await _keys(db, CLOSE_KEYS, customer, at)
    carried = await db.fetch(CARRIED_BEFORE, [*names], at)
    pieces = [Usage(names[row[0]], "", row[2], 0, None, b"") for row in carried]
    keys = await _load_open(db, names, carried, wanted_by(pieces, now))
    for key_id, hour, origin, quantity, events in carried:
        keys[names[key_id]].hours[hour].carried_before[origin] = (quantity, events)
    posting = Posting(now, rules, keys)
    own = keys.keys() & {*names.values()}  # and not those of the other scheme, which goes on
    sealing = sum(posting.close(key, at) for key in own)
    await write(db, posting.changes())
    return sealing + len(await db.fetch(SEND_FIRST, [*names]))


async def reopen(db: Database, customer: CustomerKey, now: int, rules: PostingRules) -> None:
    """Forget that a subscription ended; see Store."""
    await db.fetch(f"DELETE FROM marketplace_metering.customer WHERE {CUSTOMER}", *customer)
    names = await _keys(db, REOPEN_KEYS, customer)
    keys = await _load_open(db, names, [], {})
    posting = Posting(now, rules, keys)
    for key in keys.keys() & {*names.values()}:
        posting.reopen(key)
    await write(db, posting.changes())


async def _keys(
    db: Database, statement: str, customer: CustomerKey, *more: int
) -> dict[int, UsageKey]:
    """
    Change the keys of a customer, and return them by key_id.

    In SQLite, an index of what a customer does not have would lead to the keys of all others.
    """
    empty = " || ''"
    conditions = " AND ".join(
        f"{name}{'' if value else empty} = ${number}"
        for number, (name, value) in enumerate(customer._asdict().items(), 1)
    )
    rows = await db.fetch(statement.format(conditions), *customer, *more)
    return {row["key_id"]: key_of(row["name"]) for row in rows}


async def _load_open(
    db: Database,
    names: Mapping[int, UsageKey],
    hours: Iterable[Row],
    wanted: dict[UsageKey, Wanted],
) -> dict[UsageKey, KeyState]:
    """
    Return the keys that have open hours, each with all of these, and with what is *wanted* of it.

    Also with *hours* that were open a moment ago.
    """
    for key_id, hour, *_ in [*await db.fetch(FIRST_OPEN, [*names]), *hours]:
        before = wanted.get(names[key_id], Wanted("", hour))
        wanted[names[key_id]] = before._replace(first=min(hour, before.first))
    return await load(db, wanted) if wanted else {}
