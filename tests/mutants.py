"""
Wrong ledgers, each with one mistake that somebody has made: a harness that misses one is blind.

Each mutant changes the package in the process that calls it, and in no other.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

from attrs import evolve

from marketplace_metering_async.ledger import group_commit, intake, ledger, outlet, posting, relay
from marketplace_metering_async.ledger.frozen_record import digest
from marketplace_metering_async.ledger.model import HourState, Settlement
from marketplace_metering_async.ledger.settlement import settlement
from marketplace_metering_async.ledger.sql import Transaction, no_failure
from marketplace_metering_async.results import RecordStatus


def acknowledge_before_send() -> None:
    """Claimed is called metered; a relay that dies has lost what it held."""
    claim = outlet.claim

    async def claimed(tx: Transaction, now: int, **more: Any) -> Any:
        held = await claim(tx, now, **more)
        metered = [
            Settlement(hour_id=h.hour_id, fence=h.fence, state=HourState.METERED, status="Success")
            for h in held
        ]
        await outlet.settle(tx, metered, now, no_failure)
        return held

    outlet.claim = claimed


def add_to_what_is_sealed() -> None:
    """Each attempt sends the sum of the moment."""
    posting._has_room = lambda hour, quantity: True
    outlet._reason_to_hold = lambda row: None


def fresh_timestamp() -> None:
    """Each attempt is stamped anew."""
    frozen_hour = outlet._frozen_hour

    def stamped(row: Any) -> Any:
        held = frozen_hour(row)
        return evolve(held, stamp=held.stamp + 3600 * held.fence - 3600)

    outlet._frozen_hour = stamped


def no_event_id() -> None:
    """A repetition counts again."""
    numbers = count()
    post = posting.Posting.post

    def forgetful(self: Any, usage: Any) -> Any:
        return post(self, evolve(usage, event_id=f"{usage.event_id}-{id(self)}-{next(numbers)}"))

    posting.Posting.post = forgetful  # type: ignore[method-assign]


def events_first_sums_later() -> None:
    """The event id and the sum are stored in two transactions."""
    real = intake.post

    async def post(self: Any, usages: Any) -> Any:
        now = self._now()

        async def known(tx: Transaction) -> set[str]:
            ids = [usage.event_id for usage in usages]
            found = set(await intake._known_events(tx, ids))
            new = {u.event_id: u.digest for u in usages if u.event_id not in found}
            await tx.many(
                "INSERT INTO event (event_id, digest, added_at) VALUES (:id, :digest, :now)",
                [{"id": i, "digest": d, "now": now} for i, d in new.items()],
            )
            return set(new)

        new = await self._database.run(known)
        plain = [evolve(u, event_id=None) for u in {u.event_id: u for u in usages}.values()]
        fresh = [
            u
            for u, named in zip(plain, {u.event_id: u for u in usages}, strict=True)
            if named in new
        ]
        await self._database.run(lambda tx: real(tx, fresh, now, self._rules, no_failure))
        return [posting.AddedUsage() for _ in usages]

    ledger.UsageLedger._post = post  # type: ignore[method-assign]


def late_usage_dropped() -> None:
    """Usage of a sealed hour is acknowledged and forgotten."""
    post = posting.Posting.post

    def dropping(self: Any, usage: Any) -> Any:
        key = self.keys[usage.key]
        own = key.hours.get(posting.hour_of(usage.at))
        if own is not None and not own.is_open:
            return posting.AddedUsage()
        return post(self, usage)

    posting.Posting.post = dropping  # type: ignore[method-assign]


def seal_in_two_transactions() -> None:
    """The sum is read in one transaction and frozen in the next."""

    async def sealed(self: Any) -> int:
        now = self._now()

        async def read(tx: Transaction) -> list[Any]:
            return [
                dict(row)
                for row in await tx.rows(
                    "SELECT hour.hour_id, hour.stamp, hour.quantity, usage_key.name FROM hour "
                    "JOIN usage_key ON usage_key.key_id = hour.key_id "
                    "WHERE hour.state = 'open' AND hour.seal_at <= :now",
                    now=now,
                )
            ]

        due = await self._database.run(read)

        async def write(tx: Transaction) -> None:
            await tx.many(
                "UPDATE hour SET state = 'frozen', sealed_at = :now, region_name = :region, "
                "quantity = :quantity, digest = :digest WHERE hour_id = :hour_id "
                "AND state = 'open'",
                [
                    {
                        "hour_id": row["hour_id"],
                        "now": now,
                        "region": self._region_name,
                        "quantity": row["quantity"],
                        "digest": digest(
                            self._region_name, outlet._key(row), row["stamp"], row["quantity"]
                        ),
                    }
                    for row in due
                ],
            )

        await self._database.run(write)
        return 0

    relay.Relay._seal = sealed  # type: ignore[method-assign]


def acknowledge_before_commit() -> None:
    """Usage is called stored while it is only in memory."""
    commit = group_commit.GroupCommit._commit

    async def hasty(self: Any, group: Any) -> None:
        for _, waiting in group:
            if not waiting.done():
                waiting.set_result(posting.AddedUsage())
        await commit(self, group)

    group_commit.GroupCommit._commit = hasty  # type: ignore[method-assign]


def unprocessed_is_success() -> None:
    """Whatever is no refusal counts as metered."""

    def hopeful(claimed: Any, result: Any, now: int) -> Settlement:
        one = settlement(claimed, result, now)
        return evolve(one, state=HourState.METERED) if one.state is HourState.FROZEN else one

    relay.settlement = hopeful  # type: ignore[attr-defined]


def duplicate_is_sent_again() -> None:
    """A DuplicateRecord is taken for a failure, and the usage goes out with another hour's."""
    real = outlet.settle

    async def moving(tx: Transaction, settlements: Any, now: int, reach: Any) -> Any:
        counted = await real(tx, settlements, now, reach)
        again = [o.hour_id for o in counted if o.status == RecordStatus.DUPLICATE_RECORD]
        await tx.rows(
            "UPDATE hour SET quantity = quantity + (SELECT d.quantity FROM hour AS d "
            f"WHERE d.hour_id IN {tx.dialect.integers('ids')} AND d.key_id = hour.key_id LIMIT 1) "
            "WHERE state = 'open' AND key_id IN (SELECT key_id FROM hour "
            f"WHERE hour_id IN {tx.dialect.integers('ids')})",
            ids=again,
        )
        return counted

    outlet.settle = moving


def prune_by_age() -> None:
    """Old rows go, whatever has become of them."""
    claim = outlet.claim

    async def pruning(tx: Transaction, now: int, **more: Any) -> Any:
        held = await claim(tx, now, **more)
        old = "SELECT hour_id FROM hour WHERE hour < :old"
        for table in ("attempt", "carried", "hour"):
            await tx.rows(f"DELETE FROM {table} WHERE hour_id IN ({old})", old=now - 3 * 3600)
        return held

    outlet.claim = pruning


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        acknowledge_before_commit,
        acknowledge_before_send,
        add_to_what_is_sealed,
        duplicate_is_sent_again,
        events_first_sums_later,
        fresh_timestamp,
        late_usage_dropped,
        no_event_id,
        prune_by_age,
        seal_in_two_transactions,
        unprocessed_is_success,
    )
}
