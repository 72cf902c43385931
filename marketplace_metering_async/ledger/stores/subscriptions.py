"""Subscriptions that end, and those that go on after all."""

from typing import Final

from marketplace_metering_async.ledger.model import CustomerKey, key_of
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import Posting, Wanted
from marketplace_metering_async.ledger.stores.adding import load, write
from marketplace_metering_async.ledger.stores.database import Database, both

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
CLOSE_KEYS: Final = f"""
    UPDATE marketplace_metering.usage_key SET closed_at = $5 WHERE {CUSTOMER}
    RETURNING name, key_id
"""
REOPEN_KEYS: Final = f"""
    UPDATE marketplace_metering.usage_key SET closed_at = NULL WHERE {CUSTOMER}
    RETURNING name, key_id
"""
FIRST_TO_CLOSE: Final = both("""
    SELECT MIN({least}(hour.hour, COALESCE(carried.origin, hour.hour)))
    FROM marketplace_metering.hour LEFT JOIN marketplace_metering.carried USING (hour_id)
    WHERE hour.state = 'open' AND hour.key_id IN ({rows})
""")
FIRST_TO_REOPEN: Final = both("""
    SELECT MIN(hour) FROM marketplace_metering.hour
    WHERE state = 'open' AND urgent <> 0 AND key_id IN ({rows})
""")
CARRIED_BEFORE: Final = both("""
    SELECT hour.key_id, hour.hour, carried.origin, carried.quantity, carried.events
    FROM marketplace_metering.hour JOIN marketplace_metering.carried USING (hour_id)
    WHERE hour.state = 'open' AND hour.key_id IN ({rows}) AND hour.hour > $2
""")
SEND_FIRST: Final = both("""
    UPDATE marketplace_metering.hour SET urgent = 1
    WHERE state = 'frozen' AND key_id IN ({rows}) RETURNING hour_id
""")


async def close(db: Database, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
    """Note that a subscription ends; see Store."""
    await db.fetch(CLOSE, *customer, at)
    names = await db.fetch(CLOSE_KEYS, *customer, at)
    ids = [row["key_id"] for row in names]
    first = await db.fetchval(FIRST_TO_CLOSE, ids)
    wanted = Wanted("", now if first is None else first)
    keys = await load(db, dict.fromkeys((key_of(row["name"]) for row in names), wanted))
    by_id = {state.key_id: state for state in keys.values()}
    for key_id, hour, origin, *carried in await db.fetch(CARRIED_BEFORE, ids, at):
        quantity, events = carried
        by_id[key_id].hours[hour].carried_before[origin] = (quantity, events)
    posting = Posting(now, rules, keys)
    sealing = sum(posting.close(key, at) for key in keys)
    await write(db, posting.changes())
    return sealing + len(await db.fetch(SEND_FIRST, ids))


async def reopen(db: Database, customer: CustomerKey, now: int, rules: PostingRules) -> None:
    """Forget that a subscription ended; see Store."""
    await db.fetch(f"DELETE FROM marketplace_metering.customer WHERE {CUSTOMER}", *customer)
    names = await db.fetch(REOPEN_KEYS, *customer)
    first = await db.fetchval(FIRST_TO_REOPEN, [row["key_id"] for row in names])
    if first is None:
        return
    keys = await load(db, dict.fromkeys((key_of(row["name"]) for row in names), Wanted("", first)))
    posting = Posting(now, rules, keys)
    for row in names:
        posting.reopen(key_of(row["name"]))
    await write(db, posting.changes())
