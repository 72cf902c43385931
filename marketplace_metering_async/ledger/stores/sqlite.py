"""
A ledger in one SQLite file: for one machine, any number of processes.

SQLite has one writer at a time: what a verb reads stays so until it has written.
"""

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, Final, TypeVar

from attrs import evolve

from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.model import FrozenHour, Usage
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import PostingResult
from marketplace_metering_async.ledger.stores import adding, sending
from marketplace_metering_async.ledger.stores.database import Database, Verb
from marketplace_metering_async.ledger.stores.sqlite_file import Connect, SqliteFile, connect
from marketplace_metering_async.ledger.stores.store import Store
from marketplace_metering_async.ledger.stores.watermark_folder import WatermarkFolder
from marketplace_metering_async.ledger.stores.words import ClaimRules, FailPoint, Warn, no_failure

T = TypeVar("T")

_LONG_LOG: Final = 2**28
"""Bytes; SQLite empties it when it has 4 MB, unless somebody reads."""


class SqliteStore(Store):
    """A ledger in one file; see Store for what its verbs do."""

    shares_quota = False
    mark_is_proof = True

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
        super().__init__(self._file, reach)

    async def open(self, warn: Warn) -> None:
        """See Store; each opening has connections of its own."""
        self._file = self._connections = self._file.anew()
        await super().open(warn)

    async def _mark(self, db: Database) -> str:
        return self._file.mark()

    def _watermark(self, ledger: Identity) -> WatermarkFolder:
        return WatermarkFolder(self._file.folder, str(ledger.ledger_id))

    def _remember(self, ledger: Identity) -> None:
        """Do nothing: it stands beside the file."""

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> list[PostingResult]:
        """See Store."""
        hours, reach = self._hours, self._reach
        return await self._change(lambda db: adding.post(db, group, now, rules, hours, reach=reach))

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """
        See Store.

        What it may take is looked for before, while others write: a lane that is left alone may
        have any number of records, each of which is passed.
        """
        seen = await self._read(lambda db: sending.unclaimed(db, now, rules))
        return await super().claim(now, evolve(rules, among=[row["hour_id"] for row in seen]))

    async def tidy(self) -> bool:
        """See Store: a file needs no notes, but its log may be long."""
        if (size := self._file.log_size()) > _LONG_LOG:
            self._warn(
                f"end what has been reading {self._file.path} for long: meanwhile its log cannot "
                f"be emptied, and has grown to {size // 2**20} MB"
            )
        return False

    async def _change_some(self, verb: Verb[T], *, once: bool = False) -> T:
        """
        Run a *verb* that changes a part of many rows, and leave others as much time as it took.

        Other processes only look now and then whether the file is free: without such pauses they
        would wait for all parts, and give up after half a minute.
        """
        begun = self.clock.monotonic()
        done = await super()._change_some(verb, once=once)
        await self.clock.sleep(self.clock.monotonic() - begun)
        return done

    async def back_up(self, to: str) -> None:
        """See Store."""
        await self._file.back_up(to)

    async def dump(
        self, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """See Store."""
        if table == "arrival":  # nobody shares a connection
            return []
        return await super().dump(table, after, limit)
