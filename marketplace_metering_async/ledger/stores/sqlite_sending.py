"""The way out of a ledger in SQLite: hours are sealed, claimed by one relay each, and settled."""

import json
from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.claims import FIRST_PAUSE, LONGEST_PAUSE, Candidate, choose
from marketplace_metering_async.ledger.fences import Standing, writing_of
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Settlement, key_of
from marketplace_metering_async.ledger.sealing import sealing_of
from marketplace_metering_async.ledger.stores.sqlite_adding import keep_sums
from marketplace_metering_async.ledger.stores.sqlite_file import Connection
from marketplace_metering_async.ledger.stores.store import ClaimRules, FailPoint, Sealed

DUE: Final = """
    SELECT hour.hour_id, hour.stamp, hour.quantity, usage_key.name, usage_key.license_product,
           COALESCE(hour.hour <= ledger.held_through OR hour.opened_at <= ledger.adopted_at
                AND EXISTS (SELECT 1 FROM carried WHERE carried.hour_id = hour.hour_id
                            AND carried.origin <= ledger.held_through), 0) AS held
    FROM hour CROSS JOIN usage_key ON usage_key.key_id = hour.key_id CROSS JOIN ledger
    WHERE hour.state = 'open' AND hour.seal_at <= ? ORDER BY hour.seal_at LIMIT ?
"""
"""By the index of hours: SQLite begins a CROSS JOIN with the table that is named first."""
FREEZE: Final = """
    UPDATE hour SET state = 'frozen', sealed_at = ?, region_name = ?, deadline = ?, member = ?,
        digest = ?
    WHERE hour_id = ?
"""
HOLD: Final = "UPDATE hour SET state = 'unconfirmed', settled_at = ? WHERE hour_id = ?"
SEALED: Final = """
    UPDATE ledger
    SET sealings = sealings + 1, sealed_through = max(?, COALESCE(sealed_through, 0))
"""
UNCLAIMED: Final = """
    SELECT hour.hour_id, hour.stamp, hour.quantity, hour.member, hour.region_name, hour.digest,
           hour.fence, hour.attempts, hour.crashes, hour.in_doubt <> 0 AS in_doubt,
           hour.lease_until IS NOT NULL AS lapsed, hour.urgent <> 0 AS urgent, usage_key.name,
           usage_key.license_product, COALESCE(:now - 2 * :lease <=
               (SELECT last_success_at FROM ledger), 0) <> 0 AS others_sent
    FROM hour JOIN usage_key ON usage_key.key_id = hour.key_id
    WHERE hour.state = 'frozen' AND hour.region_name = :region_name
      AND (hour.not_before <= :begun
           OR hour.not_before > :now + min(:longest, :first << min(hour.attempts, 10)))
      AND (hour.lease_until IS NULL OR hour.lease_until <= :now
           OR hour.lease_until > :now + :lease)
      AND CASE WHEN usage_key.license_arn = '' THEN usage_key.product_code
               WHEN usage_key.license_product = '' THEN usage_key.license_arn
               ELSE 'license ' || usage_key.license_product END
          NOT IN (SELECT value FROM json_each(:without))
    ORDER BY hour.urgent DESC, hour.deadline, hour.hour_id LIMIT :limit
"""
LEASE: Final = """
    UPDATE hour SET fence = ?, crashes = crashes + 1, lease_until = ?, in_doubt = ?
    WHERE hour_id = ?
"""
RETURN: Final = """
    UPDATE hour SET lease_until = NULL, crashes = crashes - 1, not_before = max(not_before, ?),
        in_doubt = ?
    WHERE hour_id = ? AND fence = ? AND state = 'frozen' AND lease_until IS NOT NULL
"""
STANDING: Final = """
    SELECT hour_id, fence, state FROM hour WHERE hour_id IN (SELECT value FROM json_each(?))
"""
SETTLE: Final = """
    UPDATE hour SET state = ?, not_before = ?, in_doubt = ?, settled_at = ?,
        metering_record_id = ?, reason = ?, lease_until = NULL, crashes = 0, attempts = attempts + 1
    WHERE hour_id = ?
"""
ATTEMPT: Final = """
    INSERT INTO attempt (hour_id, fence, at, status, error, request_id, metering_record_id)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hour_id, fence) DO NOTHING
"""


def seal_due(
    db: Connection,
    now: int,
    limit: int,
    region_name: str,
    reach: FailPoint,
) -> Sealed:
    """Freeze hours that are due; see Store."""
    due = db.execute(DUE, (now, limit)).fetchall()
    reach("seal: read")
    if not due:
        return Sealed()
    sealing = sealing_of(due, region_name, now)
    db.executemany(FREEZE, sealing.frozen)
    db.executemany(HOLD, [(now, hour_id) for hour_id in sealing.held])
    keep_sums(db, sealing.sums)
    db.execute(SEALED, (sealing.through,))
    reach("seal: written")
    return Sealed(len(sealing.frozen), len(sealing.held))


def claim(db: Connection, now: int, rules: ClaimRules, reach: FailPoint) -> list[FrozenHour]:
    """Lease frozen records; see Store."""
    rows = db.execute(
        UNCLAIMED,
        {
            "now": now,
            "begun": rules.begun,
            "lease": rules.lease,
            "region_name": rules.region_name,
            "without": json.dumps([*rules.without]),
            "limit": rules.limit,
            "first": FIRST_PAUSE,
            "longest": LONGEST_PAUSE,
        },
    )
    candidates = [Candidate(key=key_of(row["name"]), **_without_name(row)) for row in rows]
    reach("claim: read")
    claimed, aside = choose(candidates, rules.limit)
    until = now + rules.lease
    db.executemany(LEASE, [(one.fence, until, one.in_doubt, one.hour_id) for one in claimed])
    if aside:
        settle(db, aside, now, reach)
    reach("claim: written")
    return claimed


def _without_name(row: Any) -> dict[str, Any]:  # noqa: ANN401
    return {name: row[name] for name in row.keys() if name != "name"}  # noqa: SIM118 - a row


def settle(
    db: Connection,
    settlements: Sequence[Settlement],
    now: int,
    reach: FailPoint,
) -> list[Settlement]:
    """Write down what claims came to; see Store."""
    ids = json.dumps([one.hour_id for one in settlements])
    rows = {
        hour_id: Standing(fence, HourState(state))
        for hour_id, fence, state in db.execute(STANDING, (ids,))
    }
    writing = writing_of(settlements, rows)
    db.executemany(SETTLE, writing.hour_rows(now))
    reach("settle: hours written")
    db.executemany(ATTEMPT, writing.attempt_rows(now))
    keep_sums(db, writing.sums())
    if writing.has_success:
        db.execute("UPDATE ledger SET last_success_at = ?", (now,))
    reach("settle: attempts written")
    return writing.heard


def return_claims(db: Connection, claims: Sequence[FrozenHour], not_before: int) -> None:
    """End claims that had no answer; see Store."""
    db.executemany(RETURN, [(not_before, one.in_doubt, one.hour_id, one.fence) for one in claims])


def next_due(db: Connection) -> float | None:
    """Return when there will be something to seal or send."""
    times = db.execute(
        "SELECT (SELECT MIN(seal_at) FROM hour WHERE state = 'open' "
        "AND (SELECT guarded_since FROM ledger) IS NULL), (SELECT MIN(not_before) "
        "FROM hour WHERE state = 'frozen' AND lease_until IS NULL)"
    ).fetchone()
    return min((time for time in times if time is not None), default=None)
