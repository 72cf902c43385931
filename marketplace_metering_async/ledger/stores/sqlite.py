"""
A ledger in one SQLite file: for one machine, any number of processes.

SQLite has one writer at a time: what a verb reads stays so until it has written.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources.abc import Traversable
from typing import Any
from uuid import uuid4

from marketplace_metering_async.clock import Clock, SystemClock
from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryQuery
from marketplace_metering_async.ledger.identity import Identity, introduction, moved_name
from marketplace_metering_async.ledger.model import (
    CustomerKey,
    FrozenHour,
    HourState,
    Note,
    Settlement,
    Usage,
)
from marketplace_metering_async.ledger.posting import PostingResult, PostingRules
from marketplace_metering_async.ledger.status import Figures
from marketplace_metering_async.ledger.stores import (
    sqlite_adding,
    sqlite_operator,
    sqlite_reports,
    sqlite_sending,
)
from marketplace_metering_async.ledger.stores.sqlite_file import (
    Connect,
    Connection,
    SqliteFile,
    connect,
)
from marketplace_metering_async.ledger.stores.store import ClaimRules, FailPoint, Store, no_failure
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions


class SqliteStore:
    """A ledger in one file; see Store for what its verbs do."""

    shares_quota = False
    may_write = True

    def __init__(
        self,
        path: str,
        *,
        create: bool = True,
        reach: FailPoint = no_failure,
        connect: Connect = connect,
        schema: Traversable | None = None,
    ) -> None:
        """Note where; open() does the work. *connect* and *schema* are for tests."""
        self._file = SqliteFile(path, create=create, reach=reach, connect=connect, schema=schema)
        self._reach = reach
        self.clock: Clock = SystemClock()

    async def open(self) -> None:
        """See Store."""
        await self._file.open()

    async def aclose(self) -> None:
        """See Store."""
        await self._file.aclose()

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """See Store."""
        mark = self._file.mark()
        return await self._file.change(
            lambda db: _check_identity(db, region_name, mark, now), though_moved=True
        )

    async def bind(self, region_name: str, host: str) -> None:
        """See Store."""
        await self._file.change(lambda db: _bind(db, region_name, host))

    async def release(self) -> None:
        """See Store."""
        await self._file.change(lambda db: db.execute("UPDATE ledger SET guarded_since = NULL"))

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> list[PostingResult]:
        """See Store."""
        post = sqlite_adding.post
        return await self._file.change(lambda db: post(db, group, now, rules, self._reach))

    async def post_on(
        self,
        connection: Any,  # noqa: ANN401
        usage: Usage,
        now: int,
        rules: PostingRules,
    ) -> PostingResult:
        """See Store."""
        raise ConfigurationError("connection: only a ledger in PostgreSQL can share yours")

    async def whole_dimensions(self) -> WholeDimensions:
        """See Store."""
        return await self._file.read(sqlite_adding.whole_dimensions)

    async def declare_whole(self, whole: WholeDimensions, now: int) -> None:
        """See Store."""
        declare = sqlite_adding.declare_whole
        await self._file.change(lambda db: declare(db, whole, now))

    async def close(self, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
        """See Store."""
        close = sqlite_adding.close
        return await self._file.change(lambda db: close(db, customer, at, now, rules))

    async def reopen(self, customer: CustomerKey) -> None:
        """See Store."""
        await self._file.change(lambda db: sqlite_adding.reopen(db, customer))

    async def rearm(self, states: Sequence[HourState], now: int, rules: PostingRules) -> int:
        """See Store."""
        return await self._file.change(lambda db: sqlite_adding.rearm(db, states, now, rules))

    async def resolve(
        self,
        hours: Sequence[int],
        stranded: Sequence[int],
        after: HourState,
        note: Note,
    ) -> int:
        """See Store."""
        resolve = sqlite_operator.resolve
        return await self._file.change(lambda db: resolve(db, hours, stranded, after, note))

    async def rebill(self, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
        """See Store."""
        return await self._file.change(lambda db: sqlite_operator.rebill(db, hours, note, rules))

    async def rebind(self, host: str, taken: HourState | None, note: Note) -> int:
        """See Store."""
        return await self._file.change(lambda db: sqlite_operator.rebind(db, host, taken, note))

    async def seal_due(self, now: int, limit: int, region_name: str) -> int:
        """See Store."""
        seal = sqlite_sending.seal_due
        return await self._file.change(lambda db: seal(db, now, limit, region_name, self._reach))

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """See Store."""
        claim = sqlite_sending.claim
        return await self._file.change(lambda db: claim(db, now, rules, self._reach))

    async def return_claims(self, claims: Sequence[FrozenHour], not_before: int) -> None:
        """See Store."""
        returned = sqlite_sending.return_claims
        await self._file.change(lambda db: returned(db, claims, not_before), though_moved=True)

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """See Store."""
        settle = sqlite_sending.settle
        return await self._file.change(
            lambda db: settle(db, settlements, now, self._reach), though_moved=True
        )

    async def next_due(self) -> float | None:
        """See Store."""
        return await self._file.read(sqlite_sending.next_due)

    async def reserve_calls(self, seconds: float) -> float:
        """See Store."""
        raise ConfigurationError("relays of a ledger in SQLite share no quota")

    async def status(self, now: int) -> Figures:
        """See Store."""
        return await self._file.read(lambda db: sqlite_reports.figures(db, identity(db), now))

    async def history(
        self, query: HistoryQuery, after: tuple[int, int], limit: int
    ) -> list[tuple[tuple[int, int], HistoryEntry]]:
        """See Store."""
        return await self._file.read(lambda db: sqlite_reports.history(db, query, after, limit))

    async def stranded(self, query: HistoryQuery) -> list[HistoryEntry]:
        """See Store."""
        return await self._file.read(lambda db: sqlite_reports.stranded(db, query))

    async def prune(self, before: int, limit: int) -> int:
        """See Store."""
        return await self._file.change(lambda db: sqlite_reports.prune(db, before, limit))

    async def prune_events(self, before: int, after: str, limit: int) -> str | None:
        """See Store."""
        prune = partial(sqlite_reports.prune_events, before=before, after=after, limit=limit)
        return await self._file.change(prune)

    async def tidy(self) -> bool:
        """See Store: a file needs no notes."""
        return False

    async def take_over(self, source: Store) -> int:
        """See Store."""
        raise ConfigurationError("only a ledger in PostgreSQL can take over another one")

    async def let_go(self, source: Store) -> None:
        """See Store."""
        raise ConfigurationError("no ledger moves into one in SQLite")

    async def retire(self, to: str) -> Identity:
        """See Store."""
        return await self._file.change(lambda db: _retire(db, to), though_moved=True)

    async def reinstate(self, to: str) -> None:
        """See Store."""
        undo = "UPDATE ledger SET moved_to = NULL WHERE moved_to = ?"
        name = moved_name(to)
        await self._file.change(lambda db: db.execute(undo, (name,)), though_moved=True)

    async def dump(
        self, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """See Store."""
        return await self._file.read(lambda db: sqlite_reports.dump(db, table, after, limit))


def identity(db: Connection) -> Identity:
    """Return the ledger's one row."""
    found = db.execute(
        "SELECT ledger_id, region_name, host, mark, guarded_since, moved_to, last_success_at, "
        "sealings, event_ids_since FROM ledger"
    ).fetchone()
    return Identity(**found)


def _check_identity(db: Connection, region_name: str | None, mark: str, now: int) -> str | None:
    ledger = identity(db)
    if ledger.ledger_id is None:
        db.execute(
            "UPDATE ledger SET ledger_id = ?, created_at = ?, region_name = ?, mark = ?",
            (str(uuid4()), now, region_name, mark),
        )
        return None
    is_copy, text = introduction(ledger, region_name, mark)
    if is_copy:
        db.execute("UPDATE ledger SET mark = ?, guarded_since = ?", (mark, now))
    return text


def _bind(db: Connection, region_name: str, host: str) -> None:
    db.execute(
        "UPDATE ledger SET region_name = COALESCE(region_name, ?), host = COALESCE(host, ?)",
        (region_name, host),
    )
    identity(db).require_host(region_name, host)


def _retire(db: Connection, to: str) -> Identity:
    ledger = identity(db)
    ledger.require_movable(to)
    db.execute("UPDATE ledger SET moved_to = ?", (moved_name(to),))
    db.execute("UPDATE hour SET lease_until = NULL, in_doubt = 1 WHERE lease_until IS NOT NULL")
    return ledger
