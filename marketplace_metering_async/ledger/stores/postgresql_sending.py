"""The way out of a ledger in PostgreSQL: hours are sealed, claimed by one relay, and settled."""

from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.claims import FIRST_PAUSE, LONGEST_PAUSE, Candidate, choose
from marketplace_metering_async.ledger.fences import Standing, writing_of
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Settlement, key_of
from marketplace_metering_async.ledger.sealing import sealing_of
from marketplace_metering_async.ledger.stores.postgresql_plain import execute_for, keep_sums
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.stores.store import ClaimRules, FailPoint, Sealed

DUE: Final = """
    SELECT hour.hour_id, hour.stamp, hour.quantity, usage_key.name, usage_key.license_product,
           COALESCE(hour.hour <= ledger.held_through OR hour.opened_at <= ledger.adopted_at
                AND EXISTS (SELECT 1 FROM marketplace_metering.carried
                            WHERE carried.hour_id = hour.hour_id
                              AND carried.origin <= ledger.held_through), false) AS held
    FROM marketplace_metering.ledger, marketplace_metering.hour
    JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.state = 'open' AND hour.seal_at <= $1
    ORDER BY hour.seal_at LIMIT $2 FOR UPDATE OF hour SKIP LOCKED
"""
FREEZE: Final = """
    UPDATE marketplace_metering.hour SET state = 'frozen', sealed_at = frozen.sealed_at,
        region_name = frozen.region_name, deadline = frozen.deadline, member = frozen.member,
        digest = frozen.digest
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bigint[])
        AS frozen (sealed_at, region_name, deadline, member, digest, hour_id)
    WHERE hour.hour_id = frozen.hour_id
"""
HOLD: Final = """
    UPDATE marketplace_metering.hour SET state = 'unconfirmed', settled_at = $1
    WHERE hour_id IN (SELECT unnest($2::bigint[]))
"""
SEALED: Final = """
    UPDATE marketplace_metering.ledger
    SET sealings = sealings + 1, sealed_through = greatest(sealed_through, $1)
"""
UNCLAIMED: Final = """
    SELECT hour.hour_id, hour.stamp, hour.quantity, hour.member, hour.region_name, hour.digest,
           hour.fence, hour.attempts, hour.crashes, hour.in_doubt <> 0 AS in_doubt,
           hour.lease_until IS NOT NULL AS lapsed, hour.urgent <> 0 AS urgent, usage_key.name,
           usage_key.license_product, COALESCE($6 - 2 * $3::double precision <=
               (SELECT last_success_at FROM marketplace_metering.ledger), false) AS others_sent
    FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.state = 'frozen' AND hour.region_name = $2
      AND (hour.not_before <= $1
           OR hour.not_before > $6 + least($8::bigint, $7::bigint << least(hour.attempts, 10)::int))
      AND (hour.lease_until IS NULL
           OR hour.lease_until <= EXTRACT(EPOCH FROM clock_timestamp())
           OR hour.lease_until > EXTRACT(EPOCH FROM clock_timestamp()) + $3::double precision)
      AND CASE WHEN usage_key.license_arn = '' THEN usage_key.product_code
               WHEN usage_key.license_product = '' THEN usage_key.license_arn
               ELSE 'license ' || usage_key.license_product END
          NOT IN (SELECT unnest($4::text[]))
    ORDER BY hour.urgent DESC, hour.deadline, hour.hour_id LIMIT $5 FOR UPDATE OF hour SKIP LOCKED
"""
LEASE: Final = """
    UPDATE marketplace_metering.hour SET fence = claim.fence, crashes = crashes + 1,
        lease_until = EXTRACT(EPOCH FROM clock_timestamp()) + $4::double precision,
        in_doubt = claim.in_doubt
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS claim (fence, in_doubt, hour_id)
    WHERE hour.hour_id = claim.hour_id
"""
RETURN: Final = """
    UPDATE marketplace_metering.hour SET lease_until = NULL, crashes = crashes - 1,
        not_before = greatest(not_before, $4), in_doubt = claim.in_doubt
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS claim (fence, in_doubt, hour_id)
    WHERE hour.hour_id = claim.hour_id AND hour.fence = claim.fence AND hour.state = 'frozen'
      AND hour.lease_until IS NOT NULL
"""
STANDING: Final = """
    SELECT hour_id, fence, state FROM marketplace_metering.hour
    WHERE hour_id IN (SELECT unnest($1::bigint[])) ORDER BY hour_id FOR UPDATE
"""
SETTLE: Final = """
    UPDATE marketplace_metering.hour SET state = fate.state, not_before = fate.not_before,
        in_doubt = fate.in_doubt, settled_at = fate.settled_at,
        metering_record_id = fate.metering_record_id, reason = fate.reason, lease_until = NULL,
        crashes = 0, attempts = attempts + 1
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
                $7::bigint[])
        AS fate (state, not_before, in_doubt, settled_at, metering_record_id, reason, hour_id)
    WHERE hour.hour_id = fate.hour_id
"""
ATTEMPTS: Final = """
    INSERT INTO marketplace_metering.attempt
        (hour_id, fence, at, status, error, request_id, metering_record_id)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[],
                         $6::text[], $7::text[])
    ON CONFLICT (hour_id, fence) DO NOTHING
"""
NEXT_DUE: Final = """
    SELECT least(
        (SELECT MIN(seal_at) FROM marketplace_metering.hour WHERE state = 'open'
         AND (SELECT guarded_since FROM marketplace_metering.ledger) IS NULL),
        (SELECT MIN(not_before) FROM marketplace_metering.hour
         WHERE state = 'frozen' AND lease_until IS NULL))
"""
RESERVE: Final = """
    INSERT INTO marketplace_metering.quota (operation, next_at)
    VALUES ('BatchMeterUsage', clock_timestamp() + $1::double precision * interval '1 s')
    ON CONFLICT (operation) DO UPDATE SET
        next_at = greatest(quota.next_at, clock_timestamp())
                  + $1::double precision * interval '1 s'
    RETURNING EXTRACT(EPOCH FROM next_at - clock_timestamp())::double precision
"""


async def seal_due(
    db: Connection, now: int, limit: int, region_name: str, *, shard: int, reach: FailPoint
) -> Sealed:
    """
    Freeze hours that are due; see Store.

    The sum is read in the transaction that closes the hour, under a lock, so that no usage can slip
    in between.
    """
    due = await db.fetch(DUE, now, limit)
    reach("seal: read")
    if not due:
        return Sealed()
    sealing = sealing_of(due, region_name, now)
    await execute_for(db, FREEZE, sealing.frozen)
    if sealing.held:
        await db.execute(HOLD, now, sealing.held)
    await keep_sums(db, sealing.sums, shard)
    await db.execute(SEALED, sealing.through)
    reach("seal: written")
    return Sealed(len(sealing.frozen), len(sealing.held))


async def claim(
    db: Connection, now: int, rules: ClaimRules, shard: int, reach: FailPoint
) -> list[FrozenHour]:
    """Lease frozen records; see Store."""
    rows = await db.fetch(
        UNCLAIMED,
        rules.begun,
        rules.region_name,
        rules.lease,
        rules.without,
        rules.limit,
        now,
        FIRST_PAUSE,
        LONGEST_PAUSE,
    )
    candidates = [Candidate(key=key_of(row["name"]), **_without_name(row)) for row in rows]
    reach("claim: read")
    claimed, aside = choose(candidates, rules.limit)
    if claimed:
        leased = [(one.fence, int(one.in_doubt), one.hour_id) for one in claimed]
        await db.execute(LEASE, *zip(*leased, strict=True), rules.lease)
    if aside:
        await settle(db, aside, now, shard, reach)
    reach("claim: written")
    return claimed


def _without_name(row: Any) -> dict[str, Any]:  # noqa: ANN401 - asyncpg's
    return {name: value for name, value in row.items() if name != "name"}


async def settle(
    db: Connection, settlements: Sequence[Settlement], now: int, shard: int, reach: FailPoint
) -> list[Settlement]:
    """Write down what claims came to; see Store."""
    ids = [one.hour_id for one in settlements]
    rows = {
        hour_id: Standing(fence, HourState(state))
        for hour_id, fence, state in await db.fetch(STANDING, ids)
    }
    writing = writing_of(settlements, rows)
    await execute_for(db, SETTLE, writing.hour_rows(now))
    reach("settle: hours written")
    await execute_for(db, ATTEMPTS, writing.attempt_rows(now))
    await keep_sums(db, writing.sums(), shard)
    if writing.has_success:
        await db.execute("UPDATE marketplace_metering.ledger SET last_success_at = $1", now)
    reach("settle: attempts written")
    return writing.heard


async def return_claims(db: Connection, claims: Sequence[FrozenHour], not_before: int) -> None:
    """End claims that had no answer; see Store."""
    returned = sorted((one.hour_id, one.fence, int(one.in_doubt)) for one in claims)
    ids, fences, doubts = zip(*returned, strict=True)
    await db.execute(RETURN, fences, doubts, ids, not_before)


async def next_due(db: Connection) -> float | None:
    """Return when there will be something to seal or send."""
    due: float | None = await db.fetchval(NEXT_DUE)
    return due


async def reserve_calls(db: Connection, seconds: float) -> float:
    """See Store."""
    until: float = await db.fetchval(RESERVE, seconds)
    return until
