"""
A ledger in one SQLite file: for one machine, any number of processes.

SQLite has one writer at a time: what a verb reads stays so until it has written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, Final
from uuid import uuid4

from attrs import astuple

from marketplace_metering_async.clock import Clock, SystemClock
from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryPlace, HistoryQuery
from marketplace_metering_async.ledger.identity import (
    Identity,
    copy_text,
    held_through,
    introduction,
    lost_watermark,
    moved_name,
    sign_of_a_copy,
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
    sqlite_adding,
    sqlite_operator,
    sqlite_reports,
    sqlite_sending,
)
from marketplace_metering_async.ledger.stores.sqlite_file import (
    DOUBT,
    Connect,
    Connection,
    SqliteFile,
    connect,
)
from marketplace_metering_async.ledger.stores.store import (
    ClaimRules,
    FailPoint,
    Sealed,
    Store,
    Warn,
    no_failure,
)
from marketplace_metering_async.ledger.stores.watermark_file import WatermarkFile
from marketplace_metering_async.ledger.watermark import Place, adopted
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions

_LONG_LOG: Final = 2**28
"""Bytes; SQLite empties it when it has 4 MB, unless somebody reads."""

GUARD: Final = """
    UPDATE ledger SET mark = ?, guarded_since = COALESCE(guarded_since, ?), held_through =
        CASE WHEN guarded_since IS NULL THEN max(COALESCE(held_through, 0), ?)
             ELSE min(held_through, ?) END
"""
ADOPT: Final = """
    UPDATE ledger SET guarded_since = NULL, sealings = ?, held_through = ?,
        sealed_through = max(?, COALESCE(sealed_through, 0)), adopted_at = ?, watermark = ?
"""


class SqliteStore:
    """A ledger in one file; see Store for what its verbs do."""

    shares_quota = False

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
        self._hours = PlainHours()
        self._warn: Warn

    async def open(self, warn: Warn) -> None:
        """See Store."""
        self._warn = warn
        await self._file.open(warn)

    async def aclose(self) -> None:
        """See Store."""
        await self._file.aclose()

    @property
    def may_write(self) -> bool:
        """See Store."""
        return self._file.may_write

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """See Store."""

        def work(db: Connection) -> str | None:
            if identity(db).ledger_id is None:
                made = (str(uuid4()), now, region_name, self._file.mark())
                db.execute(
                    "UPDATE ledger SET ledger_id = ?, created_at = ?, region_name = ?, mark = ?",
                    made,
                )
            sign = _guard_copy(db, self._place(db), now)
            return introduction(identity(db), region_name, sign)

        return await self._file.change(work, though_moved=True)

    async def bind(self, region_name: str, host: str) -> None:
        """See Store."""
        await self._file.change(lambda db: _bind(db, region_name, host))

    async def adopt(self, now: int) -> None:
        """See Store."""

        def work(db: Connection) -> None:
            ledger = identity(db)
            if ledger.guarded_since is None or ledger.held_through is None:
                return
            file = self._watermark(ledger)
            start = adopted(ledger.sealings, ledger.held_through, file.read(), now)
            sealings, through = astuple(start)
            db.execute(ADOPT, (sealings, through, through, now, file.path))
            file.raise_to(start)

        await self._file.change(work)

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> list[PostingResult]:
        """See Store."""
        post = sqlite_adding.post
        return await self._file.change(
            lambda db: post(db, group, now, rules, self._hours, reach=self._reach)
        )

    async def post_on(
        self,
        connection: Any,  # noqa: ANN401
        usage: Usage,
        now: int,
        rules: PostingRules,
    ) -> PostingResult:
        """See Store."""
        raise ConfigurationError("connection: only a ledger in PostgreSQL can share yours")

    async def fold(self, now: int, rules: PostingRules) -> Counter[HourState]:
        """See Store: there is nothing to fold."""
        return Counter()

    async def known_events(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """See Store."""
        return await self._file.read(lambda db: sqlite_adding.known_events(db, names))

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

    async def seal_due(self, now: int, limit: int, region_name: str) -> Sealed:
        """See Store."""

        def work(db: Connection) -> Sealed:
            sign = _guard_copy(db, self._place(db), now)
            if (copy := copy_text(identity(db), sign)) is not None:
                return Sealed(copy=copy)
            return sqlite_sending.seal_due(db, now, limit, region_name, self._reach)

        return await self._file.change(work)

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """See Store."""
        lost: list[str] = []

        def work(db: Connection) -> list[FrozenHour]:
            place = self._place(db)
            _guard_copy(db, place, now)
            if (text := self._keep_watermark(db, place)) is not None:
                lost.append(text)
            return sqlite_sending.claim(db, now, rules, self._reach)

        claimed = await self._file.change(work)
        for text in lost:
            self._warn(text)
        return claimed

    def _watermark(self, ledger: Identity) -> WatermarkFile:
        return WatermarkFile(self._file.folder, str(ledger.ledger_id))

    def _place(self, db: Connection) -> Place:
        file = self._watermark(identity(db))
        return Place(
            mark=self._file.mark(), mark_is_proof=True, path=file.path, watermark=file.read()
        )

    def _keep_watermark(self, db: Connection, place: Place) -> str | None:
        """Write down how far a ledger that is no copy has sealed; return what to say, if so."""
        ledger = identity(db)
        sealed = ledger.sealed()
        if ledger.guarded_since is not None or sealed is None:
            return None
        file = self._watermark(ledger)
        file.raise_to(sealed)
        if ledger.watermark != file.path:
            db.execute("UPDATE ledger SET watermark = ?", (file.path,))
        return lost_watermark(ledger, place)

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

    async def note_relay(self, now: int) -> None:
        """See Store."""
        note = "UPDATE ledger SET last_relay_at = ?"
        await self._file.change(lambda db: db.execute(note, (now,)))

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
        self, query: HistoryQuery, after: HistoryPlace, limit: int
    ) -> list[tuple[HistoryPlace, HistoryEntry]]:
        """See Store."""
        return await self._file.read(lambda db: sqlite_reports.history(db, query, after, limit))

    async def arrivals(self, query: HistoryQuery) -> list[HistoryEntry]:
        """See Store: there are none."""
        return []

    async def prune(self, before: int, limit: int) -> int:
        """See Store."""
        return await self._file.change(lambda db: sqlite_reports.prune(db, before, limit))

    async def prune_events(self, before: int, limit: int) -> int:
        """See Store."""
        prune = sqlite_reports.prune_events
        return await self._file.change(lambda db: prune(db, before, limit))

    async def tidy(self) -> bool:
        """See Store: a file needs no notes, but its log may be long."""
        if (size := self._file.log_size()) > _LONG_LOG:
            self._warn(
                f"end what has been reading {self._file.path} for long: meanwhile its log cannot "
                f"be emptied, and has grown to {size // 2**20} MB"
            )
        return False

    async def back_up(self, to: str) -> None:
        """See Store."""
        await self._file.back_up(to)

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
        if table == "arrival":  # nobody shares a connection
            return []
        return await self._file.read(lambda db: sqlite_reports.dump(db, table, after, limit))


def identity(db: Connection) -> Identity:
    """Return the ledger's one row."""
    found = db.execute(
        "SELECT ledger_id, region_name, host, mark, guarded_since, moved_to, last_success_at, "
        "last_relay_at, sealings, sealed_through, watermark, held_through, adopted_at, "
        "event_ids_since FROM ledger"
    ).fetchone()
    return Identity(**found)


def _guard_copy(db: Connection, place: Place, now: int) -> str | None:
    """Guard the ledger if it is found to be a copy; return what shows that it is one."""
    ledger = identity(db)
    sign = sign_of_a_copy(ledger, place)
    if sign is not None:
        held = held_through(ledger, place)
        db.execute(GUARD, (place.mark, now, held, held))
        db.execute(DOUBT)
    return sign


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
