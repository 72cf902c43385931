"""The ledger's way out: hours are sealed, claimed by one relay each, and settled."""

from collections.abc import Iterator, Sequence
from typing import Final

from marketplace_metering_async.ledger.frozen_record import digest
from marketplace_metering_async.ledger.identity import require_here
from marketplace_metering_async.ledger.model import (
    FrozenHour,
    HourState,
    Settlement,
    UsageKey,
    key_of,
)
from marketplace_metering_async.ledger.sql import FailPoint, Row, Transaction

MOST_CRASHES: Final = 25
"""Claims in a row that ended with their relay: then the record is put aside."""


async def seal(tx: Transaction, now: int, limit: int, region_name: str, reach: FailPoint) -> int:
    """
    Close hours that are due, each permanently, and freeze their records; return how many.

    The sum is read in the transaction that closes the hour, under a lock, so that no usage can slip
    in between.

    Raises:
        LedgerUnusableError: if the ledger has moved to another database.
    """
    if (await require_here(tx))["guarded_since"] is not None:
        return 0
    due = await tx.rows(
        "SELECT hour.hour_id, hour.stamp, hour.quantity, usage_key.name FROM hour "
        "JOIN usage_key ON usage_key.key_id = hour.key_id "
        "WHERE hour.state = 'open' AND hour.seal_at <= :now ORDER BY hour.seal_at LIMIT :limit "
        + _of_hour(tx),
        now=now,
        limit=limit,
    )
    reach("seal: read")
    if due:
        await tx.for_each(
            _FREEZE,
            [
                (
                    now,
                    region_name,
                    digest(region_name, _key(row), row["stamp"], row["quantity"]),
                    row["hour_id"],
                )
                for row in due
            ],
        )
    reach("seal: written")
    return len(due)


_FREEZE: Final = """
    UPDATE hour SET state = 'frozen', sealed_at = given.sealed_at,
        region_name = given.region_name, digest = given.digest
    FROM given (sealed_at bigint, region_name text, digest bytea, hour_id bigint)
    WHERE hour.hour_id = given.hour_id AND hour.state = 'open'
"""


def _of_hour(tx: Transaction) -> str:
    return tx.dialect.skip_locked.replace("UPDATE", "UPDATE OF hour")


def _key(row: Row) -> UsageKey:
    return key_of(row["name"])


async def claim(
    tx: Transaction,
    now: int,
    *,
    begun: int,
    limit: int,
    lease: float,
    region_name: str,
    without: Sequence[str],
    reach: FailPoint,
) -> list[FrozenHour]:
    """
    Lease frozen records, those with the earliest deadline first.

    A lease that outlasts its own length can only come of a clock that was set back, and is over.
    What does not match its digest is put aside.

    Raises:
        LedgerUnusableError: if the ledger has moved to another database.
    """
    await require_here(tx)
    clock = tx.dialect.now
    rows = await tx.rows(
        "SELECT hour.hour_id, hour.stamp, hour.quantity, hour.digest, hour.region_name, "
        "hour.fence, hour.attempts, hour.ambiguous, hour.crashes, hour.lease_until, hour.urgent, "
        "usage_key.name, usage_key.license_product "
        "FROM hour JOIN usage_key ON usage_key.key_id = hour.key_id "
        "WHERE hour.state = 'frozen' AND hour.not_before <= :begun "
        "AND hour.region_name = :region_name "
        f"AND (hour.lease_until IS NULL OR hour.lease_until <= {clock} "
        f"OR hour.lease_until > {clock} + CAST(:lease AS double precision)) "
        f"AND usage_key.product_code NOT IN {tx.dialect.texts('without')} "
        "ORDER BY hour.urgent DESC, hour.deadline, hour.hour_id LIMIT :limit " + _of_hour(tx),
        now=now,
        begun=begun,
        lease=lease,
        region_name=region_name,
        without=list(without),
        limit=limit,
    )
    reach("claim: read")
    claimed, aside = [], []
    last_hours = [row for row in rows if row["urgent"]]  # alone, for nothing may go before them
    for row in _few(last_hours or rows, limit):
        why = _reason_to_hold(row)
        if why is None:
            claimed.append(_frozen_hour(row))
        else:
            aside.append(_put_aside(row, why))
    if claimed:
        (times,) = await tx.rows(f"SELECT CAST({clock} AS double precision) AS clock", now=now)
        until = times["clock"] + lease
        await tx.for_each(_LEASE, [(until, int(one.ambiguous), one.hour_id) for one in claimed])
    if aside:
        await settle(tx, aside, now, reach)
    reach("claim: written")
    return claimed


_LEASE: Final = """
    UPDATE hour SET fence = fence + 1, crashes = crashes + 1,
        lease_until = given.lease_until, ambiguous = given.ambiguous
    FROM given (lease_until double precision, ambiguous bigint, hour_id bigint)
    WHERE hour.hour_id = given.hour_id
"""


def _few(rows: Sequence[Row], limit: int) -> Iterator[Row]:
    """
    Yield fewer of *rows* the more often relays have died with the next one in their hands.

    So a record that kills its relay is soon alone, and costs the others nothing.
    """
    for taken, row in enumerate(rows):
        if taken >= max(1, limit >> (2 * row["crashes"])):
            return
        yield row


def _reason_to_hold(row: Row) -> HourState | None:
    expected = digest(row["region_name"], _key(row), row["stamp"], row["quantity"])
    if bytes(row["digest"]) != expected:
        return HourState.DAMAGED
    if row["crashes"] >= MOST_CRASHES:
        return HourState.QUARANTINED
    return None


def _frozen_hour(row: Row) -> FrozenHour:
    return FrozenHour(
        hour_id=row["hour_id"],
        fence=row["fence"] + 1,
        key=_key(row),
        license_product=row["license_product"],
        stamp=row["stamp"],
        quantity=row["quantity"],
        attempts=row["attempts"],
        # A lease that ran out had no answer: the service may have acted on it.
        ambiguous=bool(row["ambiguous"]) or row["lease_until"] is not None,
    )


def _put_aside(row: Row, state: HourState) -> Settlement:
    return Settlement(
        hour_id=row["hour_id"],
        fence=row["fence"],
        state=state,
        ambiguous=bool(row["ambiguous"]) or row["lease_until"] is not None,
        status=state.value,
        quantity=row["quantity"],
    )


async def settle(
    tx: Transaction, settlements: Sequence[Settlement], now: int, reach: FailPoint
) -> list[Settlement]:
    """
    Write down what claims came to, and return those that counted.

    A claim that is not the latest any more is fenced off: a later relay has the record now.
    """
    done = await tx.for_each(
        _SETTLE,
        [
            (
                one.state,
                one.not_before,
                int(one.ambiguous),
                None if one.state is HourState.FROZEN else now,
                one.metering_record_id,
                one.error,
                one.hour_id,
                one.fence,
            )
            for one in settlements
        ],
    )
    written = {(row["hour_id"], row["fence"]) for row in done}
    counted = [one for one in settlements if (one.hour_id, one.fence) in written]
    reach("settle: hours written")
    if counted:
        await tx.for_each(
            _ATTEMPT,
            [
                (
                    one.hour_id,
                    one.fence,
                    now,
                    one.status,
                    one.error,
                    one.request_id,
                    one.metering_record_id,
                )
                for one in counted
            ],
        )
    if any(one.state is HourState.METERED for one in counted):
        await tx.rows("UPDATE ledger SET last_success_at = :now", now=now)
    reach("settle: attempts written")
    return counted


_SETTLE: Final = """
    UPDATE hour SET state = given.state, not_before = given.not_before,
        ambiguous = given.ambiguous, settled_at = given.settled_at,
        metering_record_id = given.metering_record_id, reason = given.reason,
        lease_until = NULL, crashes = 0, attempts = attempts + 1
    FROM given (state text, not_before bigint, ambiguous bigint, settled_at bigint,
                metering_record_id text, reason text, hour_id bigint, fence bigint)
    WHERE hour.hour_id = given.hour_id AND hour.fence = given.fence AND hour.state = 'frozen'
    RETURNING hour.hour_id, hour.fence
"""
_ATTEMPT: Final = """
    INSERT INTO attempt (hour_id, fence, at, status, error, request_id, metering_record_id)
    SELECT given.hour_id, given.fence, given.at, given.status, given.error, given.request_id,
           given.metering_record_id
    FROM given (hour_id bigint, fence bigint, at bigint, status text, error text,
                request_id text, metering_record_id text)
    WHERE true ON CONFLICT (hour_id, fence) DO NOTHING
"""


async def next_due(tx: Transaction) -> float | None:
    """Return when there will be something to seal or send, in seconds since 1970."""
    found = await tx.rows(
        "SELECT (SELECT MIN(seal_at) FROM hour WHERE state = 'open') AS seal, "
        "(SELECT MIN(not_before) FROM hour WHERE state = 'frozen' AND lease_until IS NULL) AS send"
    )
    times = [time for time in (found[0]["seal"], found[0]["send"]) if time is not None]
    return min(times, default=None)
