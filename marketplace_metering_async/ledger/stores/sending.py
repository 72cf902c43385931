"""The way out of a ledger: hours are sealed, claimed by one relay each, and settled."""

from collections.abc import Sequence
from operator import itemgetter
from random import randrange
from typing import Final

from marketplace_metering_async.ledger.claims import FIRST_PAUSE, LONGEST_PAUSE, choose
from marketplace_metering_async.ledger.fences import Standing, writing_of
from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Settlement, key_of
from marketplace_metering_async.ledger.sealing import sealing_of
from marketplace_metering_async.ledger.stores.database import Database, Row, both, for_rows
from marketplace_metering_async.ledger.stores.identifying import COLUMNS
from marketplace_metering_async.ledger.stores.words import ClaimRules, FailPoint, Sealed

DUE: Final = both(
    """
    SELECT hour.hour_id, hour.stamp, hour.quantity, usage_key.name, usage_key.license_product,
           COALESCE(hour.hour <= ledger.held_through OR hour.opened_at <= ledger.adopted_at
                AND EXISTS (SELECT 1 FROM marketplace_metering.carried
                            WHERE carried.hour_id = hour.hour_id
                              AND carried.origin <= ledger.held_through), false) AS held
    FROM marketplace_metering.hour
    {join} marketplace_metering.usage_key ON usage_key.key_id = hour.key_id
    CROSS JOIN marketplace_metering.ledger
    WHERE hour.state = 'open' AND hour.seal_at <= $1 ORDER BY hour.seal_at LIMIT $2 {lock}
    """,
    lock="FOR UPDATE OF hour SKIP LOCKED",
)
FREEZE: Final = for_rows(
    """
    UPDATE marketplace_metering.hour SET state = 'frozen', sealed_at = given.sealed_at,
        region_name = given.region_name, deadline = given.deadline, member = given.member,
        digest = given.digest
    FROM {given} WHERE hour.hour_id = given.hour_id
    """,
    "sealed_at bigint, region_name text, deadline bigint, member text, digest bytea, "
    "hour_id bigint",
)
HOLD: Final = both("""
    UPDATE marketplace_metering.hour SET state = 'unconfirmed', settled_at = $2
    WHERE hour_id IN ({rows})
""")
UNCLAIMED: Final = both(
    """
    SELECT hour.hour_id, hour.stamp, hour.quantity, hour.member, hour.region_name, hour.digest,
           hour.fence, hour.attempts, hour.crashes, hour.in_doubt <> 0 AS in_doubt,
           hour.lease_until IS NOT NULL AS lapsed, hour.urgent <> 0 AS urgent, usage_key.name,
           usage_key.license_product, COALESCE(
               (SELECT last_success_at FROM marketplace_metering.ledger)
               BETWEEN $6 - 2 * CAST($4 AS double precision)
                   AND $6 + 2 * CAST($4 AS double precision), false) AS others_sent,
           (SELECT host FROM marketplace_metering.ledger) AS host
    FROM marketplace_metering.hour
    JOIN marketplace_metering.usage_key ON usage_key.key_id = hour.key_id
    WHERE hour.state = 'frozen' AND hour.region_name = $3
      AND (hour.not_before <= $2
           OR hour.not_before > $6 + {least}(CAST($8 AS bigint), CAST($7 AS bigint)
                                             << CAST({least}(hour.attempts, 10) AS integer)))
      AND (hour.lease_until IS NULL OR hour.lease_until <= {clock}
           OR hour.leased_at > {clock} + CAST($4 AS double precision))
      AND CASE WHEN usage_key.license_arn = '' THEN usage_key.product_code
               WHEN usage_key.license_product = '' THEN usage_key.license_arn
               ELSE 'license ' || usage_key.license_product END NOT IN ({texts})
    ORDER BY hour.urgent DESC, hour.deadline, hour.hour_id LIMIT $5 {lock}
    """,
    lock="FOR UPDATE OF hour SKIP LOCKED",
    clock="$6",
)
_AMONG: Final = UNCLAIMED.sqlite.replace(
    "WHERE", "WHERE hour.hour_id IN (SELECT value FROM json_each($9)) AND", 1
)
LEASE: Final = for_rows(
    """
    UPDATE marketplace_metering.hour SET fence = given.fence, crashes = crashes + 1,
        leased_at = {clock}, lease_until = {clock} + given.lease, in_doubt = given.in_doubt
    FROM {given} WHERE hour.hour_id = given.hour_id
    """,
    "fence bigint, at bigint, lease double precision, in_doubt bigint, hour_id bigint",
    clock="given.at",
)
COUNT: Final = both(f"""
    UPDATE marketplace_metering.ledger SET claims = claims + 1,
        claimed_through = {{greatest}}(claimed_through, $1)
    WHERE guarded_since IS NULL RETURNING {COLUMNS}
""")
IS_CLAIMED: Final = "SELECT 1 FROM marketplace_metering.hour WHERE hour_id = $1 AND fence = $2"
RETURN: Final = for_rows(
    """
    UPDATE marketplace_metering.hour SET lease_until = NULL, crashes = crashes - 1,
        not_before = {greatest}(hour.not_before, given.not_before), in_doubt = given.in_doubt
    FROM {given}
    WHERE hour.hour_id = given.hour_id AND hour.fence = given.fence AND hour.state = 'frozen'
      AND hour.lease_until IS NOT NULL AND hour.digest = given.digest
    """,
    "not_before bigint, in_doubt bigint, hour_id bigint, fence bigint, digest bytea",
)
STANDING: Final = both(
    """
    SELECT hour_id, fence, state, digest, (SELECT host FROM marketplace_metering.ledger)
    FROM marketplace_metering.hour WHERE hour_id IN ({rows}) ORDER BY hour_id {lock}
    """,
    lock="FOR UPDATE",
)
SETTLE: Final = for_rows(
    """
    UPDATE marketplace_metering.hour SET state = given.state, not_before = given.not_before,
        in_doubt = given.in_doubt, settled_at = given.settled_at,
        metering_record_id = given.metering_record_id, reason = given.reason, lease_until = NULL,
        crashes = 0, attempts = attempts + 1
    FROM {given} WHERE hour.hour_id = given.hour_id
    """,
    "state text, not_before bigint, in_doubt bigint, settled_at bigint, metering_record_id text, "
    "reason text, hour_id bigint",
)
ATTEMPT: Final = for_rows(
    """
    INSERT INTO marketplace_metering.attempt
        (hour_id, fence, at, status, error, request_id, metering_record_id)
    {values} ON CONFLICT (hour_id, fence) DO NOTHING
    """,
    "hour_id bigint, fence bigint, at bigint, status text, error text, request_id text, "
    "metering_record_id text",
)
NEXT_DUE: Final = """
    SELECT (SELECT MIN(seal_at) FROM marketplace_metering.hour WHERE state = 'open'
            AND (SELECT guarded_since FROM marketplace_metering.ledger) IS NULL),
           (SELECT MIN(not_before) FROM marketplace_metering.hour
            WHERE state = 'frozen' AND lease_until IS NULL)
"""


async def seal_due(
    db: Database, now: int, limit: int, region_name: str, reach: FailPoint
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
    await db.for_each(FREEZE, sealing.frozen)
    if sealing.held:
        await db.fetch(HOLD, sealing.held, now)
    await db.keep_sums(sealing.sums)
    reach("seal: written")
    return Sealed(len(sealing.frozen), len(sealing.held))


async def unclaimed(db: Database, now: int, rules: ClaimRules) -> Sequence[Row]:
    """Return the rows of what a relay may take now."""
    return await db.fetch(
        UNCLAIMED if rules.among is None else _AMONG,
        rules.without,
        rules.begun,
        rules.region_name,
        rules.lease,
        rules.limit,
        now,
        FIRST_PAUSE,
        LONGEST_PAUSE,
        *(() if rules.among is None else (rules.among,)),
    )


async def claim(
    db: Database, now: int, rules: ClaimRules, reach: FailPoint
) -> tuple[list[FrozenHour], Identity | None]:
    """
    Lease frozen records, and count that; return the ledger with that count.

    There is none where nothing is claimed, nor of a copy that nobody has adopted, whose count stays
    below that of what it lacks.
    """
    rows = await unclaimed(db, now, rules)
    reach("claim: read")
    step = randrange(1, 2**31)
    claimed, aside = choose([_hour_of(row) for row in rows], rules.limit, step)
    await db.for_each(
        LEASE,
        [(one.fence, now, rules.lease, int(one.in_doubt), one.hour_id) for one in claimed],
    )
    if aside:
        await settle(db, aside, now, reach)
    counted = None
    if claimed:
        counted = await db.fetchrow(COUNT, max(hour_of(one.stamp) for one in claimed))
    reach("claim: written")
    return claimed, None if counted is None else Identity(**dict(counted))


async def is_claimed(db: Database, one: FrozenHour) -> bool:
    """
    Whether a claim is still there, and the latest on its record.

    What one says holds for all that were claimed with it: one transaction has leased them, by
    fences that no other claim has, and is lost in a failover whole or not at all.
    """
    return await db.fetchval(IS_CLAIMED, one.hour_id, one.fence) is not None


def _hour_of(row: Row) -> FrozenHour:
    columns = dict(row)
    return FrozenHour(key=key_of(columns.pop("name")), **columns)


async def settle(
    db: Database, settlements: Sequence[Settlement], now: int, reach: FailPoint
) -> list[Settlement]:
    """Write down what claims came to; see Store."""
    ids = [one.claim.hour_id for one in settlements]
    rows = {
        hour_id: Standing(fence, HourState(state), digest, host)
        for hour_id, fence, state, digest, host in await db.fetch(STANDING, ids)
    }
    writing = writing_of(settlements, rows)
    await db.for_each(SETTLE, writing.hour_rows(now))
    reach("settle: hours written")
    await db.for_each(ATTEMPT, writing.attempt_rows(now))
    await db.keep_sums(writing.sums())
    if writing.has_success:
        await db.fetch("UPDATE marketplace_metering.ledger SET last_success_at = $1", now)
    reach("settle: attempts written")
    return writing.heard


async def return_claims(db: Database, claims: Sequence[FrozenHour], not_before: int) -> None:
    """End claims that had no answer; see Store."""
    rows = [(not_before, int(one.in_doubt), one.hour_id, one.fence, one.digest) for one in claims]
    await db.for_each(RETURN, sorted(rows, key=itemgetter(2)))


async def next_due(db: Database) -> float | None:
    """Return when there will be something to seal or send."""
    times = await db.fetchrow(NEXT_DUE)
    return min((time for time in times if time is not None), default=None)
