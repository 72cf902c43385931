"""A ledger in a database of SQL: the verbs that SQLite and PostgreSQL have in common."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar
from uuid import uuid4

from attrs import astuple

from marketplace_metering_async.ledger.history import HistoryEntry, HistoryPlace, HistoryQuery
from marketplace_metering_async.ledger.identity import (
    Identity,
    copy_text,
    introduction,
    lost_watermark,
    moved_name,
    require_watermark,
)
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Note, Settlement
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.status import Figures
from marketplace_metering_async.ledger.stores import reports, resolving, sending
from marketplace_metering_async.ledger.stores.database import Database, Verb
from marketplace_metering_async.ledger.stores.identifying import (
    ADOPT,
    INTRODUCE,
    bind,
    guard_copy,
    identity,
)
from marketplace_metering_async.ledger.stores.store import (
    ClaimRules,
    FailPoint,
    Sealed,
    Store,
    Warn,
)
from marketplace_metering_async.ledger.stores.watermark_file import WatermarkFile
from marketplace_metering_async.ledger.watermark import Place, adopted

T = TypeVar("T")


class SqlStore(Store):
    """See Store for what the verbs do."""

    mark_is_proof: bool
    """See Place."""
    _reach: FailPoint
    _warn: Warn

    @abstractmethod
    async def _change(self, verb: Verb[T], *, once: bool = False, though_moved: bool = False) -> T:
        """
        Run a *verb* in one durable transaction.

        What must take place *once* does, however often the connection is lost. A ledger that has
        moved is changed by nothing but what says *though_moved*.
        """

    @abstractmethod
    async def _read(self, verb: Verb[T]) -> T:
        """Run a *verb* on what is committed."""

    @abstractmethod
    async def _mark(self, db: Database) -> str:
        """Return what tells the place of the database from that of a copy."""

    @abstractmethod
    def _watermark(self, ledger: Identity) -> WatermarkFile | None:
        """Return the file outside of the database, if there is to be one."""

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """See Store."""

        async def work(db: Database) -> str | None:
            await db.fetch(INTRODUCE, str(uuid4()), now, region_name, await self._mark(db))
            sign = await guard_copy(db, await self._place(db), now)
            return introduction(await identity(db), region_name, sign)

        return await self._change(work, though_moved=True)

    async def bind(self, region_name: str, host: str) -> None:
        """See Store."""
        await self._change(lambda db: bind(db, region_name, host))

    async def adopt(self, now: int) -> None:
        """See Store."""

        async def work(db: Database) -> Identity:
            place = await self._place(db)
            ledger = await identity(db, locked=True)
            if ledger.guarded_since is not None and ledger.held_through is not None:
                start = adopted(ledger.sealings, ledger.held_through, place.watermark, now)
                await db.fetch(ADOPT, *astuple(start), now)
            return await identity(db)

        ledger = await self._change(work)
        file = self._watermark(ledger)
        if file is not None and ledger.adopted_at is not None and (sealed := ledger.sealed()):
            await asyncio.to_thread(file.raise_to, sealed)

    async def resolve(
        self, hours: Sequence[int], stranded: Sequence[int], after: HourState, note: Note
    ) -> int:
        """See Store."""
        resolve = resolving.resolve
        return await self._change(lambda db: resolve(db, hours, stranded, after, note), once=True)

    async def rebill(self, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
        """See Store."""
        return await self._change(lambda db: resolving.rebill(db, hours, note, rules), once=True)

    async def rebind(self, host: str, taken: HourState | None, note: Note) -> int:
        """See Store."""
        return await self._change(lambda db: resolving.rebind(db, host, taken, note), once=True)

    async def seal_due(self, now: int, limit: int, region_name: str) -> Sealed:
        """See Store."""

        async def work(db: Database) -> Sealed:
            place = await self._place(db)
            sign = await guard_copy(db, place, now)
            ledger = await identity(db)
            require_watermark(ledger, place.path)
            if (copy := copy_text(ledger, sign)) is not None:
                return Sealed(copy=copy)
            return await sending.seal_due(db, now, limit, region_name, self._reach)

        return await self._change(work)

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """See Store."""
        lost: str | None = None

        async def work(db: Database) -> list[FrozenHour]:
            nonlocal lost
            place = await self._place(db)
            await guard_copy(db, place, now)
            claimed = await sending.claim(db, now, rules, self._reach)
            lost = await self._keep_watermark(db, place)
            return claimed

        claimed = await self._change(work)
        if lost is not None:
            self._warn(lost)
        return claimed

    async def _place(self, db: Database) -> Place:
        """
        Look outside before the transaction looks inside: only a copy lacks something then.

        One that is tried again looks again, for it may have met another server.
        """
        file = self._watermark(await identity(db))
        return Place(
            mark=await self._mark(db),
            mark_is_proof=self.mark_is_proof,
            path=None if file is None else file.path,
            watermark=None if file is None else await db.outside(file.read),
        )

    async def _keep_watermark(self, db: Database, place: Place) -> str | None:
        """Write down how far a ledger that is no copy has sealed; return what to say, if so."""
        ledger = await identity(db)
        require_watermark(ledger, place.path)
        file = self._watermark(ledger)
        if file is None or ledger.guarded_since is not None or ledger.sealed() is None:
            return None
        known = place.watermark is not None and place.watermark.sealings == ledger.sealings
        if known and ledger.watermark == file.path:
            return None
        ledger = await identity(db, locked=True)  # one at a time
        if (sealed := ledger.sealed()) is not None:
            raise_to = file.raise_to
            await db.outside(lambda: raise_to(sealed))
        await db.fetch("UPDATE marketplace_metering.ledger SET watermark = $1", file.path)
        return lost_watermark(ledger, place)

    async def return_claims(self, claims: Sequence[FrozenHour], not_before: int) -> None:
        """See Store."""
        returned = sending.return_claims
        await self._change(lambda db: returned(db, claims, not_before), though_moved=True)

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """See Store."""
        settle = sending.settle
        return await self._change(
            lambda db: settle(db, settlements, now, self._reach), though_moved=True
        )

    async def note_relay(self, now: int) -> None:
        """See Store."""
        note = "UPDATE marketplace_metering.ledger SET last_relay_at = $1"
        await self._change(lambda db: db.fetch(note, now))

    async def next_due(self) -> float | None:
        """See Store."""
        return await self._read(sending.next_due)

    async def status(self, now: int) -> Figures:
        """See Store."""
        return await self._read(lambda db: reports.figures(db, now))

    async def history(
        self, query: HistoryQuery, after: HistoryPlace, limit: int
    ) -> list[tuple[HistoryPlace, HistoryEntry]]:
        """See Store."""
        return await self._read(lambda db: reports.history(db, query, after, limit))

    async def prune(self, before: int, limit: int) -> int:
        """See Store."""
        return await self._change(lambda db: reports.prune(db, before, limit))

    async def prune_events(self, before: int, limit: int) -> int:
        """See Store."""
        return await self._change(lambda db: reports.prune_events(db, before, limit))

    async def reinstate(self, to: str) -> None:
        """See Store."""
        undo = "UPDATE marketplace_metering.ledger SET moved_to = NULL WHERE moved_to = $1"
        await self._change(lambda db: db.fetch(undo, moved_name(to)), though_moved=True)
