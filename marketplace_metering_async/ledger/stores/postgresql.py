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

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.resources.abc import Traversable
from random import randrange
from typing import Any, Final
from uuid import uuid4

from attrs import astuple

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.errors import ConfigurationError, LedgerError, UsageRefusedError
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryPlace, HistoryQuery
from marketplace_metering_async.ledger.identity import (
    Identity,
    copy_text,
    introduction,
    lost_watermark,
    moved_name,
    require_watermark,
)
from marketplace_metering_async.ledger.model import (
    CustomerKey,
    FrozenHour,
    HourState,
    Note,
    Settlement,
    Usage,
)
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainHours
from marketplace_metering_async.ledger.posting import PostingResult
from marketplace_metering_async.ledger.status import Figures
from marketplace_metering_async.ledger.stores import (
    postgresql_adding,
    postgresql_arrivals,
    postgresql_moving,
    postgresql_operator,
    postgresql_plain,
    postgresql_reports,
    postgresql_sending,
)
from marketplace_metering_async.ledger.stores.postgresql_connections import PostgresConnections
from marketplace_metering_async.ledger.stores.postgresql_errors import was_kept_waiting
from marketplace_metering_async.ledger.stores.postgresql_identity import (
    ADOPT,
    INTRODUCE,
    bind,
    guard_copy,
    identity,
    marked,
    retire,
)
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.stores.store import (
    ClaimRules,
    FailPoint,
    Sealed,
    Store,
    Warn,
    no_failure,
)
from marketplace_metering_async.ledger.stores.watermark_file import WatermarkFile, watermark_of
from marketplace_metering_async.ledger.watermark import Place, adopted
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions

_NOTES_AT_ONCE: Final = 1_000
_SHARDS: Final = 16
"""Of each kept sum."""
_PATIENCE: Final = (0.25, 1.0, 4.0, 16.0)
"""Seconds for which a group waits for others, each time that it is tried."""
_FOLDED_AT_ONCE: Final = 1_000


class PostgresStore:
    """A ledger in a database; see Store for what its verbs do."""

    shares_quota = True

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
        self._connections = PostgresConnections(plain, create=create, reach=reach, schema=schema)
        self._reach = reach
        self._warn: Warn
        self._shard = randrange(_SHARDS)
        self._hours = PlainHours()
        self._unfit = set[int]()  # rows of callers that no hour can hold, and that were named

    async def open(self, warn: Warn) -> None:
        """See Store."""
        self._warn = warn
        await self._connections.open(warn)

    async def aclose(self) -> None:
        """See Store."""
        await self._connections.aclose()

    @property
    def may_write(self) -> bool:
        """See Store."""
        return self._connections.may_write

    @property
    def clock(self) -> Clock:
        """See Store: the server's."""
        return self._connections.clock

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """See Store."""
        mark, _ = await self._connections.read(marked)
        await self._connections.run(
            lambda db: db.execute(INTRODUCE, str(uuid4()), now, region_name, mark),
            though_moved=True,
        )

        async def work(db: Connection) -> str | None:
            place = await self._place(db)
            sign = await guard_copy(db, place, now)
            return introduction(await identity(db), region_name, sign)

        return await self._connections.run(work, though_moved=True)

    async def bind(self, region_name: str, host: str) -> None:
        """See Store."""
        await self._connections.run(lambda db: bind(db, region_name, host))

    async def adopt(self, now: int) -> None:
        """See Store."""

        async def work(db: Connection) -> Identity:
            place = await self._place(db)
            ledger = await identity(db, "FOR UPDATE")
            if ledger.guarded_since is not None and ledger.held_through is not None:
                start = adopted(ledger.sealings, ledger.held_through, place.watermark, now)
                await db.execute(ADOPT, *astuple(start), now)
            return await identity(db)

        ledger = await self._connections.run(work)
        file = self._watermark(ledger)
        if file is not None and ledger.adopted_at is not None and (sealed := ledger.sealed()):
            await asyncio.to_thread(file.raise_to, sealed)

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> list[PostingResult | None]:
        """
        See Store.

        A group that waits asks whether a caller's transaction has one of its event ids, and leaves
        that out; otherwise it has met others who are slow or have what it wants in another order,
        and goes on carefully, and more patient.
        """
        held: Collection[str] = ()
        for patience in _PATIENCE:
            free = [usage for usage in group if usage.event_id not in held]
            blindly = patience == _PATIENCE[0]
            try:
                posted = iter(
                    await self._post(free, now, rules, patience, blindly=blindly) if free else ()
                )
            except LedgerError as error:
                if not was_kept_waiting(error) or patience == _PATIENCE[-1]:
                    raise
                held = await self._held(group)
            else:
                return [None if usage.event_id in held else next(posted) for usage in group]
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
        given = (group, now, rules, self._hours)
        post = partial(postgresql_adding.post, shard=self._shard, reach=self._reach)
        at_once = partial(postgresql_adding.at_once, shard=self._shard, reach=self._reach)
        return await self._connections.run(
            lambda db: post(db, *given, blindly=blindly),
            once=True,
            patience=patience,
            at_once=at_once(*given) if blindly else None,
        )

    async def _held(self, group: Sequence[Usage]) -> Collection[str]:
        names = [usage.event_id for usage in group if usage.event_id is not None]
        held = postgresql_arrivals.held_events
        return await self._connections.read(lambda db: held(db, names))

    async def post_on(
        self, connection: Connection, usage: Usage, now: int, rules: PostingRules
    ) -> PostingResult:
        """See Store."""
        arrive = postgresql_arrivals.arrive
        return await self._connections.run_on(
            connection, lambda db: arrive(db, usage, now, rules, self._reach)
        )

    async def fold(self, now: int, rules: PostingRules) -> Counter[HourState]:
        """See Store."""
        ended, ids = Counter[HourState](), await self._arrived(0)
        while ids:
            ended += await self._fold(ids, now, rules)
            ids = await self._arrived(ids[-1])
        return ended

    async def _arrived(self, after: int) -> list[int]:
        arrived = postgresql_arrivals.arrived
        return await self._connections.read(lambda db: arrived(db, after, _FOLDED_AT_ONCE))

    async def _fold(self, ids: Sequence[int], now: int, rules: PostingRules) -> Counter[HourState]:
        """Fold some rows; where the database refuses one of them, part by part."""
        fold = postgresql_arrivals.fold
        try:
            return await self._connections.run(
                lambda db: fold(db, ids, now, rules, shard=self._shard, reach=self._reach)
            )
        except UsageRefusedError as error:
            if len(ids) == 1:
                if ids[0] not in self._unfit:
                    self._warn(f"arrival-{ids[0]} in the history can be added to no hour: {error}")
                self._unfit.add(ids[0])
                return Counter()
        half = len(ids) // 2
        return await self._fold(ids[:half], now, rules) + await self._fold(ids[half:], now, rules)

    async def known_events(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """See Store."""
        known = await self._connections.read(lambda db: postgresql_plain.known_events(db, names))
        return known.digests

    async def whole_dimensions(self) -> WholeDimensions:
        """See Store."""
        return await self._connections.read(postgresql_adding.whole_dimensions)

    async def declare_whole(self, whole: WholeDimensions, now: int) -> None:
        """See Store."""
        declare = postgresql_adding.declare_whole
        await self._connections.run(lambda db: declare(db, whole, now))

    async def close(self, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
        """See Store."""
        close = postgresql_adding.close
        return await self._connections.run(
            lambda db: close(db, customer, at, now, rules, shard=self._shard)
        )

    async def reopen(self, customer: CustomerKey) -> None:
        """See Store."""
        await self._connections.run(lambda db: postgresql_adding.reopen(db, customer))

    async def rearm(self, states: Sequence[HourState], now: int, rules: PostingRules) -> int:
        """See Store."""
        rearm = postgresql_adding.rearm
        return await self._connections.run(lambda db: rearm(db, states, now, rules, self._shard))

    async def resolve(
        self,
        hours: Sequence[int],
        stranded: Sequence[int],
        after: HourState,
        note: Note,
    ) -> int:
        """See Store."""
        resolve = postgresql_operator.resolve
        return await self._connections.run(
            lambda db: resolve(db, hours, stranded, after, note, shard=self._shard), once=True
        )

    async def rebill(self, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
        """See Store."""
        rebill = postgresql_operator.rebill
        return await self._connections.run(
            lambda db: rebill(db, hours, note, rules, self._shard), once=True
        )

    async def rebind(self, host: str, taken: HourState | None, note: Note) -> int:
        """See Store."""
        rebind = postgresql_operator.rebind
        return await self._connections.run(
            lambda db: rebind(db, host, taken, note, self._shard), once=True
        )

    async def seal_due(self, now: int, limit: int, region_name: str) -> Sealed:
        """See Store."""
        seal = postgresql_sending.seal_due

        async def work(db: Connection) -> Sealed:
            place = await self._place(db)
            sign = await guard_copy(db, place, now)
            ledger = await identity(db)
            require_watermark(ledger, place.path)
            if (copy := copy_text(ledger, sign)) is not None:
                return Sealed(copy=copy)
            return await seal(db, now, limit, region_name, shard=self._shard, reach=self._reach)

        return await self._connections.run(work)

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """See Store."""
        claim = postgresql_sending.claim
        lost: str | None = None

        async def work(db: Connection) -> list[FrozenHour]:
            nonlocal lost
            place = await self._place(db)
            await guard_copy(db, place, now)
            claimed = await claim(db, now, rules, self._shard, self._reach)
            lost = await self._keep_watermark(db, place)
            return claimed

        claimed = await self._connections.run(work)
        if lost is not None:
            self._warn(lost)
        return claimed

    def _watermark(self, ledger: Identity) -> WatermarkFile | None:
        return None if self._folder is None else WatermarkFile(self._folder, str(ledger.ledger_id))

    async def _place(self, db: Connection) -> Place:
        """
        Look outside before the transaction looks inside: only a copy lacks something then.

        One that is tried again looks again, for it may have met another server.
        """
        mark, ledger = await marked(db)
        file = self._watermark(ledger)
        if file is None:
            return Place(mark=mark, mark_is_proof=False, path=None, watermark=None)
        watermark = await asyncio.to_thread(file.read)
        return Place(mark=mark, mark_is_proof=False, path=file.path, watermark=watermark)

    async def _keep_watermark(self, db: Connection, place: Place) -> str | None:
        """Write down how far a ledger that is no copy has sealed; return what to say, if so."""
        ledger = await identity(db)
        require_watermark(ledger, place.path)
        file = self._watermark(ledger)
        if file is None or ledger.guarded_since is not None or ledger.sealed() is None:
            return None
        known = place.watermark is not None and place.watermark.sealings == ledger.sealings
        if known and ledger.watermark == file.path:
            return None
        ledger = await identity(db, "FOR UPDATE")  # one at a time
        if (sealed := ledger.sealed()) is not None:
            await asyncio.to_thread(file.raise_to, sealed)
        await db.execute("UPDATE marketplace_metering.ledger SET watermark = $1", file.path)
        return lost_watermark(ledger, place)

    async def return_claims(self, claims: Sequence[FrozenHour], not_before: int) -> None:
        """See Store."""
        returned = postgresql_sending.return_claims
        await self._connections.run(lambda db: returned(db, claims, not_before), though_moved=True)

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """See Store."""
        settle = postgresql_sending.settle
        return await self._connections.run(
            lambda db: settle(db, settlements, now, self._shard, self._reach), though_moved=True
        )

    async def note_relay(self, now: int) -> None:
        """See Store."""
        note = "UPDATE marketplace_metering.ledger SET last_relay_at = $1"
        await self._connections.run(lambda db: db.execute(note, now))

    async def next_due(self) -> float | None:
        """See Store."""
        return await self._connections.read(postgresql_sending.next_due)

    async def reserve_calls(self, seconds: float) -> float:
        """See Store."""
        reserve = postgresql_sending.reserve_calls
        return await self._connections.run(lambda db: reserve(db, seconds))

    async def status(self, now: int) -> Figures:
        """See Store."""

        async def read(db: Connection) -> Figures:
            return await postgresql_reports.figures(db, await identity(db), now)

        return await self._connections.read(read)

    async def history(
        self, query: HistoryQuery, after: HistoryPlace, limit: int
    ) -> list[tuple[HistoryPlace, HistoryEntry]]:
        """See Store."""
        history = postgresql_reports.history
        return await self._connections.read(lambda db: history(db, query, after, limit))

    async def arrivals(self, query: HistoryQuery) -> list[HistoryEntry]:
        """See Store."""
        return await self._connections.read(lambda db: postgresql_arrivals.entries(db, query))

    async def prune(self, before: int, limit: int) -> int:
        """See Store."""
        prune = postgresql_reports.prune
        return await self._connections.run(lambda db: prune(db, before, limit, self._shard))

    async def prune_events(self, before: int, limit: int) -> int:
        """See Store."""
        prune = postgresql_reports.prune_events
        return await self._connections.run(lambda db: prune(db, before, limit))

    async def tidy(self) -> bool:
        """See Store: notes of processes that have ended."""
        tidy = postgresql_reports.tidy
        removed = await self._connections.run(lambda db: tidy(db, _NOTES_AT_ONCE))
        return removed == _NOTES_AT_ONCE

    async def back_up(self, to: str) -> None:
        """See Store."""
        raise ConfigurationError("back up a ledger in PostgreSQL with pg_dump, or as its server is")

    async def take_over(self, source: Store) -> int:
        """See Store."""
        return await postgresql_moving.take_over(self._connections, source)

    async def let_go(self, source: Store) -> None:
        """See Store."""
        await postgresql_moving.let_go(self._connections, source)

    async def retire(self, to: str) -> Identity:
        """See Store."""
        (await self._connections.read(identity)).require_movable(to)  # before others are kept out
        return await self._connections.run(lambda db: retire(db, to), though_moved=True)

    async def reinstate(self, to: str) -> None:
        """See Store."""
        undo = "UPDATE marketplace_metering.ledger SET moved_to = NULL WHERE moved_to = $1"
        await self._connections.run(lambda db: db.execute(undo, moved_name(to)), though_moved=True)

    async def dump(
        self, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """See Store."""
        return await self._connections.read(
            lambda db: postgresql_moving.dump(db, table, after, limit)
        )
