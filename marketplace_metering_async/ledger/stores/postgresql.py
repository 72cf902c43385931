"""
A ledger in PostgreSQL: for many machines, with the caller's own transactions if it wants.

Everything lies in one schema of the database, `marketplace_metering` or what the URL says, and
every statement says so, since a caller's connection may look elsewhere first. Leases go by the
database's clock.

Whatever a transaction locks it locks in one order: keys, hours, event ids, kept sums, the ledger's
one row; and rows of a table by their key, but hours that take usage by key_id and hour. Who has
hours already and wants keys waits for none, but begins anew in that order. Where two meet in
another order after all, such as events of each other's in other places, one of them is tried again.
A transaction of a caller locks its event ids alone.
"""

from collections import Counter
from collections.abc import Awaitable, Collection, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Final

from attrs import evolve

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.errors import LedgerError, UsageRefusedError
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryQuery
from marketplace_metering_async.ledger.identity import HIDDEN, Identity
from marketplace_metering_async.ledger.model import HourState, Settlement, Usage
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import PostingResult
from marketplace_metering_async.ledger.stores import (
    adding,
    postgresql_arrivals,
    postgresql_moving,
    postgresql_plain,
)
from marketplace_metering_async.ledger.stores.database import Database
from marketplace_metering_async.ledger.stores.identifying import identity
from marketplace_metering_async.ledger.stores.postgresql_connections import (
    CLUSTER,
    PostgresConnections,
)
from marketplace_metering_async.ledger.stores.postgresql_errors import (
    names_no_value,
    was_kept_waiting,
)
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.stores.store import Store
from marketplace_metering_async.ledger.stores.watermark_folder import WatermarkFolder, watermark_of
from marketplace_metering_async.ledger.stores.words import FailPoint, no_failure

_WORDS_OF_THE_SERVICE: Final = ("status", "error", "request_id", "metering_record_id")
_NOTES_AT_ONCE: Final = 1_000
_PATIENCE: Final = (0.25, 1.0, 4.0, 16.0)
"""Seconds for which a group waits for others, each time that it is tried."""
_FOLDED_AT_ONCE: Final = 1_000
_OLD_NOTES: Final = """
    DELETE FROM marketplace_metering.posting WHERE posting_id IN (
        SELECT posting_id FROM marketplace_metering.posting
        WHERE posted_at < now() - interval '7 days' LIMIT $1)
    RETURNING posting_id
"""
_RESERVE: Final = """
    INSERT INTO marketplace_metering.quota (operation, next_at)
    VALUES ('BatchMeterUsage', clock_timestamp() + $1::double precision * interval '1 s')
    ON CONFLICT (operation) DO UPDATE SET
        next_at = CASE WHEN quota.next_at - clock_timestamp() BETWEEN interval '0'
                            AND greatest(60, 100 * $1::double precision) * interval '1 s'
                       THEN quota.next_at ELSE clock_timestamp() END
                  + $1::double precision * interval '1 s'
    RETURNING EXTRACT(EPOCH FROM next_at - clock_timestamp())::double precision
"""
"""Further away than a hundred relays reserve: noted by a clock that was ahead, and over."""


class PostgresStore(Store):
    """A ledger in a database; see Store for what its verbs do."""

    shares_quota = True
    mark_is_proof = False

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        reach: FailPoint = no_failure,
        schema: Traversable | None = None,
    ) -> None:
        """Note where; open() does the work. *schema* is for tests."""
        plain, self._folder = watermark_of(url)
        self._database = PostgresConnections(plain, create=create, reach=reach, schema=schema)
        super().__init__(self._database, reach)
        self._unfit = set[int]()  # rows of callers that no hour can hold, and that were named

    @property
    def clock(self) -> Clock:
        """See Store: the server's."""
        return self._database.clock

    async def _mark(self, db: Database) -> str:
        """Return the cluster and the database in it."""
        cluster = HIDDEN
        if self._database.shows_cluster:
            cluster = await db.fetchval(CLUSTER)
        database = await db.fetchval(
            "SELECT oid FROM pg_database WHERE datname = current_database()"
        )
        return f"{cluster} {database}"

    def _watermark(self, ledger: Identity) -> WatermarkFolder | None:
        if self._folder is None:
            return None
        return WatermarkFolder(self._folder, str(ledger.ledger_id))

    def _remember(self, ledger: Identity) -> None:
        self._database.remember(ledger.claims)

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> Sequence[PostingResult | None]:
        """
        See Store.

        A group that waits asks whether a caller's transaction has one of its event ids, and leaves
        that out; otherwise it has met others who are slow or have what it wants in another order,
        and goes on carefully, and more patient.
        """
        held: Collection[str] = ()
        for patience in _PATIENCE:
            free = [usage for usage in group if usage.event_id not in held] if held else group
            blindly = patience == _PATIENCE[0]
            try:
                posted = (
                    await self._post(free, now, rules, patience, blindly=blindly) if free else []
                )
            except LedgerError as error:
                if not was_kept_waiting(error) or patience == _PATIENCE[-1]:
                    raise
                held = await self._held(group)
            else:
                if not held:
                    return posted
                left = iter(posted)
                return [None if usage.event_id in held else next(left) for usage in group]
        raise AssertionError("the last one returned or raised")

    async def _post(
        self,
        group: Sequence[Usage],
        now: int,
        rules: PostingRules,
        patience: float,
        *,
        blindly: bool,
    ) -> list[PostingResult]:
        given, reach = (now, rules, self._hours), self._reach
        plan = self._hours.plan(group, now, rules, blindly=blindly)

        def rest(db: Database) -> Awaitable[list[PostingResult]]:
            return adding.post_the_rest(db, plan, *given, reach=reach)

        if not blindly:
            return await self._database.run(rest, once=True, patience=patience)
        return await self._database.run(
            lambda db: adding.post(db, group, *given, reach=reach),
            once=True,
            patience=patience,
            at_once=postgresql_plain.at_once(group, plan, rules, self._database.shard, rest),
        )

    async def _held(self, group: Sequence[Usage]) -> Collection[str]:
        names = [usage.event_id for usage in group if usage.event_id is not None]
        rows = await self._read(lambda db: db.fetch(postgresql_arrivals.HELD, names))
        return {row["event_id"] for row in rows}

    async def post_on(
        self, connection: Connection, usage: Usage, now: int, rules: PostingRules
    ) -> PostingResult:
        """See Store."""
        arrive = postgresql_arrivals.arrive
        return await self._database.run_on(
            connection, lambda db: arrive(db, usage, now, rules, self._reach)
        )

    async def known_events(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """See Store; where the database has no characters for one of them, part by part."""
        try:
            return await super().known_events(names)
        except LedgerError as error:
            if not names_no_value(error):
                raise
        if (half := len(names) // 2) == 0:
            return {}
        first = await self.known_events(names[:half])
        return {**first, **await self.known_events(names[half:])}

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """See Store; where the database has no characters for the service's words, in ASCII."""
        try:
            return await super().settle(settlements, now)
        except LedgerError as error:
            if not names_no_value(error):
                raise
        return await super().settle([*map(_in_ascii, settlements)], now)

    async def fold(self, now: int, rules: PostingRules) -> Counter[HourState]:
        """See Store."""
        ended, ids = Counter[HourState](), await self._arrived(0)
        while ids:
            ended += await self._fold(ids, now, rules)
            ids = await self._arrived(ids[-1])
        return ended

    async def _arrived(self, after: int) -> list[int]:
        arrived = postgresql_arrivals.ARRIVED
        rows = await self._read(lambda db: db.fetch(arrived, after, _FOLDED_AT_ONCE))
        return [row["arrival_id"] for row in rows]

    async def _fold(self, ids: Sequence[int], now: int, rules: PostingRules) -> Counter[HourState]:
        """Fold some rows; where the database refuses one of them, part by part."""
        fold = postgresql_arrivals.fold
        try:
            return await self._change(lambda db: fold(db, ids, now, rules, self._reach))
        except UsageRefusedError as error:
            if len(ids) == 1:
                if ids[0] not in self._unfit:
                    self._warn(f"arrival-{ids[0]} in the history can be added to no hour: {error}")
                self._unfit.add(ids[0])
                return Counter()
        half = len(ids) // 2
        return await self._fold(ids[:half], now, rules) + await self._fold(ids[half:], now, rules)

    async def reserve_calls(self, seconds: float) -> float:
        """See Store."""
        until: float = await self._change(lambda db: db.fetchval(_RESERVE, seconds))
        return until

    async def arrivals(self, query: HistoryQuery) -> list[HistoryEntry]:
        """See Store."""
        return await self._read(lambda db: postgresql_arrivals.entries(db, query))

    async def tidy(self) -> bool:
        """See Store: notes of processes that have ended."""
        removed = await self._change(lambda db: db.fetch(_OLD_NOTES, _NOTES_AT_ONCE))
        return len(removed) == _NOTES_AT_ONCE

    async def take_over(self, source: Store) -> int:
        """See Store."""
        return await postgresql_moving.take_over(self._database, source)

    async def let_go(self, source: Store) -> bool:
        """See Store."""
        return await self._change(lambda db: postgresql_moving.let_go(db, source))

    async def retire(self, to: str) -> Identity:
        """See Store."""
        (await self._read(identity)).require_movable(to)  # before others are kept out
        return await super().retire(to)

    async def _retire(self, db: Database, to: str) -> tuple[Identity, str | None]:
        """Wait for all that saw a ledger which has not moved; what comes later sees it move."""
        await db.fetch("LOCK TABLE marketplace_metering.ledger IN ACCESS EXCLUSIVE MODE")
        return await super()._retire(db, to)


def _in_ascii(one: Settlement) -> Settlement:
    texts = {name: getattr(one, name) for name in _WORDS_OF_THE_SERVICE}
    return evolve(
        one,
        **{name: text and text.encode("ascii", "replace").decode() for name, text in texts.items()},
    )
