"""Keys in PostgreSQL as a posting asks for them: locked, with their hours; new ones are made."""

from collections.abc import Mapping, Sequence
from typing import Final

from marketplace_metering_async.ledger.model import UsageKey, key_of, name_of
from marketplace_metering_async.ledger.open_hours import KeyState, OpenHour, key_state
from marketplace_metering_async.ledger.posting import Wanted, first_hours, introduce_rivals, new_key
from marketplace_metering_async.ledger.stores.postgresql_plain import execute_for
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection

KEYS: Final = """
    SELECT name, key_id, closed_at, license_product,
           CASE WHEN other_scheme <> 0 THEN billed_as END,
           (SELECT held_through FROM marketplace_metering.ledger)
    FROM marketplace_metering.usage_key WHERE name IN (SELECT unnest($1::text[]))
    ORDER BY key_id FOR UPDATE
"""
"""Here and elsewhere unnest() in place of ANY(): the planner looks at each value of the latter."""
RIVALS: Final = KEYS.replace("name IN", "billed_as IN")
NEW_KEYS: Final = """
    INSERT INTO marketplace_metering.usage_key
        (key_id, name, product_code, customer_aws_account_id, customer_identifier, license_arn,
         dimension, license_product, billed_as)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                         $7::text[], $8::text[], $9::text[])
    ON CONFLICT (name) DO NOTHING
"""
OTHER_SCHEMES: Final = """
    UPDATE marketplace_metering.usage_key SET other_scheme = 1
    WHERE other_scheme = 0 AND billed_as IN (SELECT unnest($1::text[])) AND EXISTS (
        SELECT 1 FROM marketplace_metering.usage_key AS other
        WHERE other.billed_as = usage_key.billed_as
          AND (other.license_arn = '') <> (usage_key.license_arn = ''))
"""
ONE_BY_ONE: Final = """
    SELECT pg_advisory_xact_lock(hashtextextended(billed_as, 7305803390))
    FROM unnest($1::text[]) AS billed_as
"""
"""Two who make keys of one customer by different schemes would not see each other's."""
NEW_CUSTOMERS: Final = """
    INSERT INTO marketplace_metering.customer
        (product_code, customer_aws_account_id, customer_identifier, license_arn)
    SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    ORDER BY 1, 2, 3, 4
    ON CONFLICT DO NOTHING
"""
LOCKED_CUSTOMERS: Final = """
    SELECT 1 FROM marketplace_metering.customer JOIN
        unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS wanted
            (product_code, customer_aws_account_id, customer_identifier, license_arn)
        USING (product_code, customer_aws_account_id, customer_identifier, license_arn)
    ORDER BY product_code, customer_aws_account_id, customer_identifier, license_arn
    FOR SHARE OF customer
"""
"""Whoever closes one of them waits, and then sees the keys that are made now."""
CLOSED_BEFORE: Final = """
    UPDATE marketplace_metering.usage_key SET closed_at = closed.closed_at
    FROM marketplace_metering.customer AS closed
    WHERE usage_key.name IN (SELECT unnest($1::text[]))
      AND closed.product_code = usage_key.product_code
      AND closed.customer_aws_account_id = usage_key.customer_aws_account_id
      AND closed.customer_identifier = usage_key.customer_identifier
      AND closed.license_arn = usage_key.license_arn
"""
HOURS: Final = """
    SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, urgent <> 0,
           hour_id
    FROM unnest($1::bigint[], $2::bigint[]) AS wanted (key_id, first)
    JOIN marketplace_metering.hour USING (key_id) WHERE hour.hour >= wanted.first
    ORDER BY key_id, hour FOR UPDATE OF hour
"""


async def load(
    db: Connection, wanted: Mapping[UsageKey, Wanted], wait: str = ""
) -> dict[UsageKey, KeyState]:
    """
    Return the keys, locked, with their hours from the first one on; new ones get their rows.

    It *waits* for whoever has them, or, by NOWAIT, for nobody.
    """
    by_name = {name_of(key): key for key in wanted}
    found = await _keys(db, f"{KEYS} {wait}", [*by_name])
    if missing := sorted(by_name.keys() - found.keys()):  # one order for all who make them
        new = [
            new_key(name, by_name[name], wanted[by_name[name]].license_product) for name in missing
        ]
        pairs = sorted({str(row[-1]) for row in new if row[-1] is not None})
        customers = [by_name[name].customer for name in missing]
        await execute_for(db, NEW_CUSTOMERS, customers)
        await execute_for(db, LOCKED_CUSTOMERS, customers)
        await db.execute(ONE_BY_ONE, pairs)
        await execute_for(db, NEW_KEYS, new)
        await db.execute(CLOSED_BEFORE, missing)
        await db.execute(OTHER_SCHEMES, pairs)
        found |= await _keys(db, f"{KEYS} {wait}", missing)
    if rivalled := {key.billed_as for key in found.values() if key.billed_as is not None}:
        # Those before knew of no other scheme.
        found |= await _keys(db, f"{RIVALS} {wait}", sorted(rivalled))
        introduce_rivals(found.values())
    keys = {key_of(name): state for name, state in found.items()}
    by_id = {state.key_id: state for state in found.values()}
    firsts = first_hours(keys, wanted)
    for key_id, *hour in await db.fetch(f"{HOURS} {wait}", [*firsts], [*firsts.values()]):
        by_id[key_id].hours[hour[0]] = OpenHour(*hour)
    return keys


async def _keys(db: Connection, statement: str, values: Sequence[str]) -> dict[str, KeyState]:
    return {row[0]: key_state(row) for row in await db.fetch(statement, values)}
