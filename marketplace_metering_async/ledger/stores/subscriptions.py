"""Subscriptions that end, and ended usage that is to be sent after all."""

from collections.abc import Sequence
from typing import Final

from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import CustomerKey, HourState, key_of
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import Posting, Wanted
from marketplace_metering_async.ledger.stores.adding import load, write
from marketplace_metering_async.ledger.stores.database import (
    Database,
    Dialects,
    both,
    for_rows,
    with_quantity,
)
from marketplace_metering_async.ledger.sums import Sums

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
FIRST_TO_CLOSE: Final = both("""
    SELECT MIN({least}(hour.hour, COALESCE(carried.origin, hour.hour)))
    FROM marketplace_metering.hour LEFT JOIN marketplace_metering.carried USING (hour_id)
    WHERE hour.state = 'open' AND hour.key_id IN ({rows})
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
STRANDED: Final = Dialects(
    sqlite="""
    SELECT stranded.*, usage_key.name, usage_key.license_product
    FROM stranded JOIN usage_key USING (key_id)
    WHERE stranded.state IN (SELECT value FROM json_each($1))
    """,
    postgresql="""
    SELECT stranded.*, usage_key.name, usage_key.license_product
    FROM marketplace_metering.stranded JOIN marketplace_metering.usage_key USING (key_id)
    WHERE stranded.state = ANY($1::text[]) ORDER BY stranded.stranded_id FOR UPDATE OF stranded
    """,
)
ENDED: Final = both(
    """
    SELECT hour.hour_id, hour.state, hour.quantity, usage_key.name, usage_key.license_product
    FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.state NOT IN ('open', 'frozen', 'metered') AND hour.deadline > $2
      AND hour.state IN ({texts}) {lock}
    """,
    lock="ORDER BY hour.hour_id FOR UPDATE OF hour",
)
FREEZE_AGAIN: Final = both("""
    UPDATE marketplace_metering.hour SET state = 'frozen', not_before = 0, settled_at = NULL,
        reason = NULL, crashes = 0, fence = fence + 1
    WHERE hour_id IN ({rows})
""")
WAIT_NO_LONGER: Final = both(
    """
    UPDATE marketplace_metering.hour SET not_before = 0 WHERE hour_id IN (
        SELECT hour_id FROM marketplace_metering.hour
        WHERE state = 'frozen' AND lease_until IS NULL AND not_before > $2 AND state IN ({texts})
        {lock})
    RETURNING hour_id
    """,
    lock="ORDER BY hour_id FOR UPDATE",
)
MOVED_NOTE: Final = for_rows(
    """
    UPDATE marketplace_metering.resolution SET stranded_id = NULL, hour_id = hour.hour_id
    FROM {given} JOIN marketplace_metering.hour USING (key_id, hour)
    WHERE resolution.stranded_id = given.stranded_id
    """,
    "key_id bigint, hour bigint, stranded_id bigint",
)
"""What was said of usage that no hour carried goes with it."""
CARRIED: Final = both("DELETE FROM marketplace_metering.stranded WHERE stranded_id IN ({rows})")


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


async def reopen(db: Database, customer: CustomerKey) -> None:
    """Forget that a subscription ended."""
    await db.fetch(f"DELETE FROM marketplace_metering.customer WHERE {CUSTOMER}", *customer)
    await db.fetch(
        f"UPDATE marketplace_metering.usage_key SET closed_at = NULL WHERE {CUSTOMER}", *customer
    )


async def rearm(db: Database, states: Sequence[HourState], now: int, rules: PostingRules) -> int:
    """Send ended records again; see Store."""
    stranded = await db.fetch(STRANDED, states)
    wanted = Wanted("", hour_of(now))
    into = await load(db, dict.fromkeys((key_of(row["name"]) for row in stranded), wanted))
    ended = await db.fetch(ENDED, states, now)
    await db.fetch(FREEZE_AGAIN, [row["hour_id"] for row in ended])
    waiting = await db.fetch(WAIT_NO_LONGER, states, now)
    sums = Sums()
    for row in ended:
        of = key_of(row["name"]).summed_under(row["license_product"])
        sums.move(of, row["state"], HourState.FROZEN, row["quantity"])
    posting = Posting(now, rules, into, sums=sums.changes())
    moved = []
    for row in map(with_quantity, stranded):
        usage = row["origin"], HourState(row["state"]), row["quantity"], row["events"]
        hour = posting.carry(key_of(row["name"]), *usage)
        moved.append((row["key_id"], hour, row["stranded_id"]))
    await write(db, posting.changes())
    await db.for_each(MOVED_NOTE, moved)
    await db.fetch(CARRIED, [row["stranded_id"] for row in stranded])
    return len(ended) + len(stranded) + len(waiting)
