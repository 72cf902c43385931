"""The ledger's way in: usage to the hours of its keys, subscriptions that end, and re-arming."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from marketplace_metering_async.errors import LedgerUnusableError
from marketplace_metering_async.ledger.model import (
    STRANDED,
    CustomerKey,
    HourState,
    Usage,
    UsageKey,
    key_of,
    name_of,
)
from marketplace_metering_async.ledger.posting import (
    KeyState,
    OpenHour,
    Posting,
    PostingResult,
    PostingRules,
    deadline_of,
    hour_of,
)
from marketplace_metering_async.ledger.sql import FailPoint, Row, Transaction

_CUSTOMER: Final = (
    "product_code = :product_code AND customer_aws_account_id = :customer_aws_account_id "
    "AND customer_identifier = :customer_identifier AND license_arn = :license_arn"
)


async def post(
    tx: Transaction, group: Sequence[Usage], now: int, rules: PostingRules, reach: FailPoint
) -> list[PostingResult]:
    """
    Add a *group* of usage to the hours of its keys; one outcome for each, in order.

    Raises:
        LedgerUnusableError: if the ledger has moved to another database.
    """
    keys = await _load(tx, {usage.key: usage.license_product for usage in group}, group, now)
    known = await _known_events(tx, [u.event_id for u in group if u.event_id is not None])
    reach("post: loaded")
    posting = Posting(now, rules, keys, known)
    outcomes = [posting.post(usage) for usage in group]
    await _write(tx, keys.values(), now)
    reach("post: hours written")
    if posting.events:
        await tx.for_each(
            _NEW_EVENT, [(name, digest, now) for name, digest in posting.events.items()]
        )
    reach("post: events written")
    return outcomes


async def _load(
    tx: Transaction, wanted: dict[UsageKey, str], group: Iterable[Usage], now: int
) -> dict[UsageKey, KeyState]:
    """Return the state of the keys, locked; those that are new get their rows."""
    by_name = {name_of(key): key for key in wanted}
    found = await _keys(tx, list(by_name))
    if len(found) < len(by_name):
        missing = sorted(by_name.keys() - found.keys())  # one order for all who make them
        keys = [by_name[name] for name in missing]
        await tx.for_each(
            _NEW_KEY, [(name, *key, wanted[key]) for name, key in zip(missing, keys, strict=True)]
        )
        await tx.for_each(_CLOSED_BEFORE, [(name,) for name in missing])
        found |= await _keys(tx, missing)
    by_id = {state.key_id: state for state in found.values()}
    first = min([hour_of(usage.at) for usage in group] + [hour_of(now)])
    for key_id, *hour in await tx.rows(
        "SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, "
        "urgent <> 0, hour_id FROM hour "
        f"WHERE key_id IN {tx.dialect.integers('ids')} AND hour >= :first "
        f"ORDER BY hour_id {tx.dialect.for_update}",
        ids=sorted(by_id),
        first=first,
    ):
        by_id[key_id].hours[hour[0]] = OpenHour(*hour)
    return {by_name[name]: state for name, state in found.items()}


_NEW_EVENT: Final = """
    INSERT INTO event (event_id, digest, added_at)
    SELECT given.event_id, given.digest, given.added_at
    FROM given (event_id text, digest bytea, added_at bigint)
"""
_NEW_KEY: Final = """
    INSERT INTO usage_key (name, product_code, customer_aws_account_id, customer_identifier,
                           license_arn, dimension, license_product)
    SELECT given.name, given.product_code, given.customer_aws_account_id,
           given.customer_identifier, given.license_arn, given.dimension, given.license_product
    FROM given (name text, product_code text, customer_aws_account_id text,
                customer_identifier text, license_arn text, dimension text, license_product text)
    WHERE true ON CONFLICT (name) DO NOTHING
"""
_CLOSED_BEFORE: Final = """
    UPDATE usage_key SET closed_at = c.closed_at
    FROM closed_customer AS c, given (name text)
    WHERE usage_key.name = given.name
      AND c.product_code = usage_key.product_code
      AND c.customer_aws_account_id = usage_key.customer_aws_account_id
      AND c.customer_identifier = usage_key.customer_identifier
      AND c.license_arn = usage_key.license_arn
"""


async def _keys(tx: Transaction, names: list[str]) -> dict[str, KeyState]:
    """Return those keys that are there, locked; refuse, if the ledger has moved, to go on."""
    rows = await tx.rows(
        "SELECT name, key_id, closed_at, (SELECT moved_to FROM ledger) AS moved_to FROM usage_key "
        f"WHERE name IN {tx.dialect.texts('names')} ORDER BY key_id {tx.dialect.for_update}",
        names=names,
    )
    if rows and rows[0]["moved_to"] is not None:
        raise LedgerUnusableError(f"this ledger has moved to {rows[0]['moved_to']}; use that one")
    return {name: KeyState(key_id, closed_at) for name, key_id, closed_at, _ in rows}


async def _known_events(tx: Transaction, ids: list[str]) -> dict[str, bytes]:
    if not ids:
        return {}
    rows = await tx.rows(
        f"SELECT event_id, digest FROM event WHERE event_id IN {tx.dialect.texts('ids')}", ids=ids
    )
    return {event_id: bytes(digest) for event_id, digest in rows}


async def _write(tx: Transaction, keys: Iterable[KeyState], now: int) -> None:
    """Write down what a posting changed."""
    changed = [(key, hour) for key in keys for hour in key.hours.values() if hour.changed]
    stranded = [
        (key.key_id, origin, state, units, pieces, now)
        for key in keys
        for (origin, state), (units, pieces) in key.stranded.items()
    ]
    for statement, rows in (
        (_MORE_OF_HOUR, [_more(hour) for _, hour in changed if hour.hour_id is not None]),
        (_NEW_HOUR, [_new(key, hour) for key, hour in changed if hour.hour_id is None]),
        (_CARRIED, [row for key, hour in changed for row in _carried(key, hour)]),
        (_STRANDED, stranded),
        (_RECORDED, [(key.recorded, key.key_id) for key in keys if key.recorded]),
    ):
        if rows:
            await tx.for_each(statement, rows)


_MORE_OF_HOUR: Final = """
    UPDATE hour SET quantity = given.quantity, events = given.events, stamp = given.stamp,
        opened_at = given.opened_at, seal_at = given.seal_at, deadline = given.deadline
    FROM given (quantity bigint, events bigint, stamp bigint, opened_at bigint, seal_at bigint,
                deadline bigint, hour_id bigint)
    WHERE hour.hour_id = given.hour_id
"""
_NEW_HOUR: Final = """
    INSERT INTO hour (key_id, hour, urgent, quantity, events, stamp, opened_at, seal_at, deadline,
                      state)
    SELECT given.key_id, given.hour, given.urgent, given.quantity, given.events, given.stamp,
           given.opened_at, given.seal_at, given.deadline, 'open'
    FROM given (key_id bigint, hour bigint, urgent bigint, quantity bigint, events bigint,
                stamp bigint, opened_at bigint, seal_at bigint, deadline bigint)
"""
_CARRIED: Final = """
    INSERT INTO carried (origin, quantity, events, hour_id)
    SELECT given.origin, given.quantity, given.events, hour.hour_id
    FROM hour, given (origin bigint, quantity bigint, events bigint, key_id bigint, hour bigint)
    WHERE hour.key_id = given.key_id AND hour.hour = given.hour
    ON CONFLICT (hour_id, origin) DO UPDATE SET
        quantity = carried.quantity + excluded.quantity, events = carried.events + excluded.events
"""
_STRANDED: Final = """
    INSERT INTO stranded (key_id, origin, state, quantity, events, since)
    SELECT given.key_id, given.origin, given.state, given.quantity, given.events, given.since
    FROM given (key_id bigint, origin bigint, state text, quantity bigint, events bigint,
                since bigint)
    WHERE true ON CONFLICT (key_id, origin, state) DO UPDATE SET
        quantity = stranded.quantity + excluded.quantity,
        events = stranded.events + excluded.events
"""
_RECORDED: Final = """
    UPDATE usage_key SET recorded = usage_key.recorded + given.recorded
    FROM given (recorded bigint, key_id bigint) WHERE usage_key.key_id = given.key_id
"""


def _more(hour: OpenHour) -> tuple[int | None, ...]:
    return (*_sums(hour), hour.hour_id)


def _new(key: KeyState, hour: OpenHour) -> tuple[int, ...]:
    return (key.key_id, hour.hour, int(hour.urgent), *_sums(hour))


def _sums(hour: OpenHour) -> tuple[int, ...]:
    return (
        hour.quantity,
        hour.events,
        hour.stamp,
        hour.opened_at,
        hour.seal_at,
        deadline_of(hour.stamp),
    )


def _carried(key: KeyState, hour: OpenHour) -> Iterator[tuple[int, ...]]:
    for origin, (units, pieces) in hour.carried.items():
        yield (origin, units, pieces, key.key_id, hour.hour)


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
        row["key_id"]: (key_of(row["name"]), row["license_product"])
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
