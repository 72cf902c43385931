"""What the ledger can prove: sums that add up, and the story of every hour."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from attrs import field, frozen

from marketplace_metering_async.ledger.model import ENDED, HourState
from marketplace_metering_async.ledger.sql import Row, Transaction

_AT_RISK_WITHIN: Final = 6 * 3600
"""Seconds before its window closes from which on unsent usage counts as at risk."""


@frozen(kw_only=True)
class ProductStatus:
    """The units of one product (or, of licenses, their product; '' if unknown) and dimension."""

    product_code: str
    dimension: str
    open: int = 0
    frozen: int = 0
    metered: int = 0
    ended: Mapping[HourState, int] = field(factory=dict)


@frozen(kw_only=True)
class LedgerStatus:
    """
    Where all usage is, in units: recorded == open + frozen + metered + sum(ended.values()).

    Attributes:
        recorded: All that was ever added, counted apart from the rest.
        open: In hours that still take usage.
        frozen: In records that are not settled yet, those in flight among them.
        in_flight: In records that a relay holds.
        metered: Taken by the service.
        ended: By named end state, what nobody sends any more.
        products: The same by product and dimension.
        oldest_unsent_seconds: Since the hour of the oldest usage that is not settled was over;
            None where there is none.
        seconds_to_first_loss: Until the service takes the first of it no more; below 0: too late.
        at_risk: Unsettled units whose window closes within six hours.
        last_success_seconds: Since the service last took a record; None: never.
        last_usage_seconds: Since the latest usage in the ledger happened; None: there is none.
        claimed_until: When the last claim of a relay on a frozen record ends, were the relay dead;
            None where there is no claim.
        next_send_at: When a frozen record that no relay holds is due to be sent; None: there is
            none.
        next_seal_at: When an open hour is next due for sealing; None where none is open.
        records: How many records are in each state.
        guarded: Whether this is a copy that a person has not released: open hours wait.
        region_name: Where its records go; None until the first relay.
        host: The service's host; None until the first relay.
    """

    recorded: int
    open: int
    frozen: int
    in_flight: int
    metered: int
    ended: Mapping[HourState, int]
    products: Sequence[ProductStatus]
    oldest_unsent_seconds: float | None
    seconds_to_first_loss: float | None
    at_risk: int
    last_success_seconds: float | None
    last_usage_seconds: float | None
    claimed_until: datetime | None
    next_send_at: datetime | None
    next_seal_at: datetime | None
    records: Mapping[HourState, int]
    guarded: bool
    region_name: str | None
    host: str | None


@frozen(kw_only=True)
class Attempt:
    """One try of a frozen record, and what came of it."""

    at: datetime
    status: str
    error: str | None
    request_id: str | None
    metering_record_id: str | None


@frozen(kw_only=True)
class CarriedUsage:
    """Units that happened in another hour than the one whose record has them."""

    origin: datetime
    quantity: int
    events: int


@frozen(kw_only=True)
class HistoryEntry:
    """
    The story of one hour of a key, or of usage that no hour may carry.

    Attributes:
        hour: The start of the hour (UTC); of stranded usage the one in which it happened.
        quantity: Units, those carried from other hours among them.
        events: Pieces of usage.
        timestamp: Of the frozen record; of an open hour what it would be now.
        digest: Of the frozen record, as hexadecimal text.
    """

    product_code: str | None
    customer_aws_account_id: str | None = field(repr=False)
    customer_identifier: str | None = field(repr=False)
    license_arn: str | None = field(repr=False)
    dimension: str
    hour: datetime
    state: HourState
    quantity: int
    events: int
    carried: Sequence[CarriedUsage] = ()
    timestamp: datetime | None = None
    sealed_at: datetime | None = None
    region_name: str | None = None
    digest: str | None = None
    attempts: Sequence[Attempt] = ()
    settled_at: datetime | None = None
    metering_record_id: str | None = None
    reason: str | None = None


async def status(tx: Transaction, now: int) -> LedgerStatus:
    """Return the sums of the whole ledger; *now* in seconds since 1970."""
    by_lane = await tx.rows(_SUMS)
    recorded = await tx.rows("SELECT COALESCE(SUM(recorded), 0) AS units FROM usage_key")
    unsent = (
        await tx.rows(
            "SELECT MIN(hour) AS oldest, MIN(deadline) AS deadline, "
            "COALESCE(SUM(CASE WHEN deadline <= :soon THEN quantity ELSE 0 END), 0) AS at_risk, "
            "COALESCE(SUM(CASE WHEN state = 'frozen' AND lease_until IS NOT NULL "
            "THEN quantity ELSE 0 END), 0) AS in_flight, "
            "MAX(CASE WHEN state = 'frozen' THEN lease_until END) AS claimed_until, "
            "MIN(CASE WHEN state = 'frozen' AND lease_until IS NULL THEN not_before END) "
            "AS next_send, MIN(CASE WHEN state = 'open' THEN seal_at END) AS next_seal "
            "FROM hour WHERE state IN ('open', 'frozen')",
            soon=now + _AT_RISK_WITHIN,
        )
    )[0]
    latest = (await tx.rows("SELECT MAX(stamp) AS stamp FROM hour"))[0]["stamp"]
    ledger = (await tx.rows("SELECT * FROM ledger"))[0]
    products = _products(by_lane)
    return LedgerStatus(
        recorded=int(recorded[0]["units"]),
        open=sum(product.open for product in products),
        frozen=sum(product.frozen for product in products),
        in_flight=int(unsent["in_flight"]),
        metered=sum(product.metered for product in products),
        ended=_added(products),
        products=products,
        oldest_unsent_seconds=_seconds(now, unsent["oldest"], 3600),
        seconds_to_first_loss=None if unsent["deadline"] is None else unsent["deadline"] - now,
        at_risk=int(unsent["at_risk"]),
        last_success_seconds=_seconds(now, ledger["last_success_at"], 0),
        last_usage_seconds=_seconds(now, latest, 0),
        claimed_until=_when(unsent["claimed_until"]),
        next_send_at=_when(unsent["next_send"]),
        next_seal_at=_when(unsent["next_seal"]),
        records=_records(by_lane),
        guarded=ledger["guarded_since"] is not None,
        region_name=ledger["region_name"],
        host=ledger["host"],
    )


async def oldest_unsent(tx: Transaction) -> int | None:
    """Return the start of the oldest hour that is not settled, in seconds since 1970."""
    rows = await tx.rows("SELECT MIN(hour) AS oldest FROM hour WHERE state IN ('open', 'frozen')")
    oldest: int | None = rows[0]["oldest"]
    return oldest


_SUMS: Final = """
    SELECT product_code, dimension, state, SUM(quantity) AS units, SUM(records) AS records FROM (
        SELECT CASE WHEN license_arn = '' THEN product_code ELSE license_product END
                   AS product_code, dimension, state, SUM(quantity) AS quantity,
               COUNT(*) AS records
        FROM hour JOIN usage_key ON usage_key.key_id = hour.key_id GROUP BY 1, 2, 3
        UNION ALL
        SELECT CASE WHEN license_arn = '' THEN product_code ELSE license_product END,
               dimension, state, SUM(quantity), 0
        FROM stranded JOIN usage_key ON usage_key.key_id = stranded.key_id GROUP BY 1, 2, 3
        UNION ALL
        SELECT product_code, dimension, state, quantity, 0 FROM pruned
    ) AS sums GROUP BY product_code, dimension, state ORDER BY 1, 2, 3
"""


def _seconds(now: int, since: int | None, after: int) -> float | None:
    return None if since is None else max(0, now - since - after)


def _products(rows: Sequence[Row]) -> list[ProductStatus]:
    lanes: dict[tuple[str, str], dict[HourState, int]] = {}
    for row in rows:
        units = lanes.setdefault((row["product_code"], row["dimension"]), {})
        units[HourState(row["state"])] = int(row["units"])
    return [
        ProductStatus(
            product_code=product,
            dimension=dimension,
            open=units.get(HourState.OPEN, 0),
            frozen=units.get(HourState.FROZEN, 0),
            metered=units.get(HourState.METERED, 0),
            ended={state: units[state] for state in ENDED if state in units},
        )
        for (product, dimension), units in lanes.items()
    ]


def _added(products: Sequence[ProductStatus]) -> dict[HourState, int]:
    found = {state: sum(p.ended.get(state, 0) for p in products) for state in ENDED}
    held = {state for product in products for state in product.ended}
    return {state: units for state, units in found.items() if state in held}


def _records(rows: Sequence[Row]) -> dict[HourState, int]:
    found: dict[HourState, int] = {}
    for row in rows:
        state = HourState(row["state"])
        found[state] = found.get(state, 0) + int(row["records"])
    return {state: count for state, count in found.items() if count}


async def history(
    tx: Transaction, where: Mapping[str, Any], after: tuple[int, int], limit: int
) -> list[tuple[tuple[int, int], HistoryEntry]]:
    """Return the next hours *after* a place (hour, id), with their places, in order."""
    named = " AND ".join(f"k.{name} = :{name}" for name in where if name not in ("first", "end"))
    parameters = {**where, "after_hour": after[0], "after_id": after[1], "limit": limit}
    rows = await tx.rows(
        "SELECT h.*, k.product_code, k.customer_aws_account_id, k.customer_identifier, "
        "k.license_arn, k.license_product, k.dimension "
        "FROM hour AS h JOIN usage_key AS k ON k.key_id = h.key_id "
        "WHERE h.hour >= :first AND h.hour < :end "
        "AND (h.hour > :after_hour OR (h.hour = :after_hour AND h.hour_id > :after_id)) "
        f"{'AND ' + named if named else ''} ORDER BY h.hour, h.hour_id LIMIT :limit",
        **parameters,
    )
    ids = [row["hour_id"] for row in rows]
    carried = _by_hour(
        await tx.rows(
            f"SELECT * FROM carried WHERE hour_id IN {tx.dialect.integers('ids')} ORDER BY origin",
            ids=ids,
        )
    )
    attempts = _by_hour(
        await tx.rows(
            f"SELECT * FROM attempt WHERE hour_id IN {tx.dialect.integers('ids')} ORDER BY fence",
            ids=ids,
        )
    )
    return [
        (
            (row["hour"], row["hour_id"]),
            _entry(row, carried.get(row["hour_id"], []), attempts.get(row["hour_id"], [])),
        )
        for row in rows
    ]


async def stranded(tx: Transaction, where: Mapping[str, Any]) -> list[HistoryEntry]:
    """Return the usage that no hour may carry."""
    named = " AND ".join(f"k.{name} = :{name}" for name in where if name not in ("first", "end"))
    rows = await tx.rows(
        "SELECT s.*, s.origin AS hour, k.product_code, k.customer_aws_account_id, "
        "k.customer_identifier, k.license_arn, k.license_product, k.dimension "
        "FROM stranded AS s JOIN usage_key AS k ON k.key_id = s.key_id "
        "WHERE s.origin >= :first AND s.origin < :end "
        f"{'AND ' + named if named else ''} ORDER BY s.origin, s.stranded_id",
        **where,
    )
    return [HistoryEntry(**_common(row)) for row in rows]


def _by_hour(rows: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["hour_id"], []).append(row)
    return found


def _when(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _common(row: Row) -> dict[str, Any]:
    product = row["license_product"] if row["license_arn"] else row["product_code"]
    return {
        "product_code": product or None,
        "customer_aws_account_id": row["customer_aws_account_id"] or None,
        "customer_identifier": row["customer_identifier"] or None,
        "license_arn": row["license_arn"] or None,
        "dimension": row["dimension"],
        "hour": datetime.fromtimestamp(row["hour"], UTC),
        "state": HourState(row["state"]),
        "quantity": row["quantity"],
        "events": row["events"],
    }


def _entry(row: Row, carried: Sequence[Row], attempts: Sequence[Row]) -> HistoryEntry:
    return HistoryEntry(
        **_common(row),
        carried=[
            CarriedUsage(
                origin=datetime.fromtimestamp(one["origin"], UTC),
                quantity=one["quantity"],
                events=one["events"],
            )
            for one in carried
        ],
        timestamp=_when(row["stamp"]),
        sealed_at=_when(row["sealed_at"]),
        region_name=row["region_name"],
        digest=None if row["digest"] is None else bytes(row["digest"]).hex(),
        attempts=[
            Attempt(
                at=datetime.fromtimestamp(one["at"], UTC),
                status=one["status"],
                error=one["error"],
                request_id=one["request_id"],
                metering_record_id=one["metering_record_id"],
            )
            for one in attempts
        ],
        settled_at=_when(row["settled_at"]),
        metering_record_id=row["metering_record_id"],
        reason=row["reason"],
    )


async def prune(tx: Transaction, before: int, limit: int) -> int:
    """Remove some hours settled before *before*, but for their sums; return how many."""
    found = await tx.rows(
        f"SELECT hour_id FROM hour WHERE state IN {tx.dialect.texts('states')} "
        "AND settled_at < :before ORDER BY settled_at LIMIT :limit " + tx.dialect.for_update,
        states=[HourState.METERED, *ENDED],
        before=before,
        limit=limit,
    )
    ids = [row["hour_id"] for row in found]
    gone = f"hour_id IN {tx.dialect.integers('ids')}"
    await tx.rows(
        "INSERT INTO pruned (product_code, dimension, state, quantity) "
        "SELECT CASE WHEN license_arn = '' THEN product_code ELSE license_product END, dimension, "
        "state, SUM(quantity) FROM hour JOIN usage_key ON usage_key.key_id = hour.key_id "
        f"WHERE {gone} GROUP BY 1, 2, 3 ON CONFLICT (product_code, dimension, state) "
        "DO UPDATE SET quantity = pruned.quantity + excluded.quantity",
        ids=ids,
    )
    for table in ("attempt", "carried", "hour"):
        await tx.rows(f"DELETE FROM {table} WHERE {gone}", ids=ids)
    return len(ids)


async def prune_events(tx: Transaction, before: int, after: str, limit: int) -> str | None:
    """
    Forget the ids of old events among the next ones *after* an id.

    Returns: the id to go on from; None at the end.
    """
    last = await tx.rows(
        "SELECT event_id FROM event WHERE event_id > :after "
        "ORDER BY event_id LIMIT 1 OFFSET :offset",
        after=after,
        offset=limit - 1,
    )
    until: str | None = last[0]["event_id"] if last else None
    up_to = "" if until is None else "AND event_id <= :until"
    await tx.rows(
        f"DELETE FROM event WHERE event_id > :after {up_to} AND added_at < :before",
        after=after,
        before=before,
        **({} if until is None else {"until": until}),
    )
    return until
