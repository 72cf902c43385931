"""
The file of a ledger in SQLite: opened, kept from places where it would lose data, and written to.

WAL with `synchronous=FULL`: a commit is on the disk before anybody hears of it. One thread owns
the connection that writes, another the one that reads, and a third makes backups. Every transaction
that writes begins IMMEDIATE, since one that turns from reading to writing may be refused without
waiting.
"""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from copy import copy
from importlib.resources.abc import Traversable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, Self, TypeVar

from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import (
    LedgerClosedError,
    LedgerError,
    LedgerMissingError,
    LedgerOutcomeUnknownError,
    LedgerUnusableError,
    UsageRefusedError,
)
from marketplace_metering_async.ledger.identity import COPY, require_here, require_known
from marketplace_metering_async.ledger.stores.database import Verb
from marketplace_metering_async.ledger.stores.identifying import guard
from marketplace_metering_async.ledger.stores.migrations import (
    first_edition,
    migrate,
    migrations_in,
    migrations_of,
    version_in,
)
from marketplace_metering_async.ledger.stores.new_file import new_file
from marketplace_metering_async.ledger.stores.sqlite_database import run
from marketplace_metering_async.ledger.stores.sqlite_place import (
    OpenFiles,
    is_there,
    leave_open,
    let_go,
    may_write,
    require_place,
    take_into_use,
)
from marketplace_metering_async.ledger.stores.sqlite_plain import Connection
from marketplace_metering_async.ledger.stores.words import FailPoint, Warn
from marketplace_metering_async.ledger.watermark import Memory, Missing

T = TypeVar("T")

_OLDEST_SQLITE: Final = (3, 37, 0)
"""The first with STRICT tables."""
_NOT_OPENED: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY)
_BUSY_SECONDS: Final = 30.0
_LOOKS_AGAIN: Final = 0.01
"""Seconds between two looks at a lock, where SQLite does not wait by itself."""
_LOG_WAITS: Final = 1_000
"""
Milliseconds for which opening waits to empty the log. After a sync that failed, the system shows a
commit which the disk does not have: before anything is added behind it, all is written elsewhere.
Where others hold the log, they have it since before.
"""
_LOG_KEPT: Final = 2**24
"""Bytes to which the log is cut once nobody reads what it had grown by; it would keep its size."""
_MACHINE_ID: Final = Path("/etc/machine-id")
_THREADS: Final = ("writer", "reader", "copier")

Connect = Callable[[str], Connection]


def connect(path: str) -> sqlite3.Connection:
    """Open a file."""
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def connect_to_read(path: Path) -> sqlite3.Connection:
    """
    Open a file that may not be written, or not its folder.

    Without a log beside it nobody has it open, and none need be made to read it.
    """
    there = Path(os.path.realpath(path))
    others = "mode=ro" if is_there(Path(f"{there}-wal")) else "immutable=1"
    connection = sqlite3.connect(
        f"{there.as_uri()}?{others}", timeout=_BUSY_SECONDS, isolation_level=None, uri=True
    )
    connection.row_factory = sqlite3.Row
    return connection


class SqliteFile:
    """One file, opened by this process."""

    def __init__(
        self,
        path: str,
        *,
        create: bool,
        reach: FailPoint,
        connect: Connect = connect,
        schema: Traversable | None = None,
    ) -> None:
        """Note where; open() does the work. Another *schema* is for tests of upgrades."""
        self._path = Path(path).absolute()  # the program may go to another directory meanwhile
        self._create = create
        self._connect = connect
        self._reach = reach
        self._migrations = migrations_in(schema) if schema else migrations_of("sqlite")
        self._known = self._migrations[-1].version
        self.may_write = True
        self._writer: Any = None
        self._reader: Any = None
        self._threads: Sequence[ThreadPoolExecutor] | None = None
        self._process = 0
        self._files = OpenFiles(())
        self._memory = Memory()
        self._warn: Warn

    def anew(self) -> Self:
        """
        Return the same file, not opened, with what this process remembers of it.

        A thread cannot be cancelled: what a cancelled call or a closed loop has left to one goes on
        with the connections of before.
        """
        if self._process not in (0, os.getpid()):
            leave_open(self)
        anew = copy(self)
        nothing = {"_writer": None, "_reader": None, "_threads": None, "_process": 0}
        vars(anew).update(nothing, _files=OpenFiles(()))
        return anew

    async def open(self, warn: Warn) -> None:
        """Connect, and bring the schema up to date under a lock; see Store."""
        self._warn = warn
        self._threads = [ThreadPoolExecutor(1, f"ledger-{name}") for name in _THREADS]
        self._process = os.getpid()
        try:
            mode = await self._in_thread(0, self._open)
        except BaseException:
            await self.aclose()
            raise
        if self.may_write and mode & 0o007 and os.name != "nt":
            warn(f"chmod o= {self._path}: everybody on this machine may use it ({mode:03o})")

    async def run(
        self,
        operation: Verb[T],
        *,
        once: bool = True,  # noqa: ARG002 - as all are
        though_moved: bool = False,
    ) -> T:
        """
        Run *operation* in one durable transaction.

        Raises:
            LedgerUnusableError: the ledger has moved, and this is not to be done *though_moved*; or
                its schema was upgraded beyond what this process knows.
            LedgerOutcomeUnknownError: the disk failed at the commit.
            LedgerError: the file cannot be written to; nothing has happened then.
        """
        if not self.may_write:
            raise LedgerError(
                f"this process may only read {self._path}, or the folder that its log needs; "
                "nothing was stored"
            )
        result, missing = await self._in_thread(
            0, lambda: self._run(operation, though_moved=though_moved)
        )
        if missing is not None:
            self._warn(f"{COPY}; {missing.text}")
        return result

    def _run(self, operation: Verb[T], *, though_moved: bool) -> tuple[T, Missing | None]:
        """Return also what is missing, which makes a copy of the file."""
        with _named(self._path):
            self._files.require_same()
            with self._transaction():
                own = self._writer.execute(
                    "SELECT moved_to, min_compatible, claims FROM ledger"
                ).fetchone()
                moved_to, min_compatible, claims = own or (None, None, 0)
                if not though_moved:
                    require_here(moved_to)
                require_known(min_compatible, self._known)
                missing = self._memory.missing(claims)
                if missing is not None:
                    now = int(SystemClock().now().timestamp())
                    run(self._writer, lambda db: guard(db, now))
                result = run(self._writer, operation)
            self._memory = Memory(claims=claims)
            return result, missing

    async def read(self, operation: Verb[T]) -> T:
        """
        Run *operation* on what is committed.

        Raises:
            LedgerUnusableError: its schema was upgraded beyond what this process knows.
            LedgerError: the file cannot be read.
        """

        def checked(db: Connection) -> T:
            own = db.execute("SELECT min_compatible FROM ledger").fetchone()
            require_known(None if own is None else own["min_compatible"], self._known)
            return run(db, operation)

        return await self._in_thread(1, lambda: self._read(checked))

    async def back_up(self, to: str) -> None:
        """
        Write a copy of what is committed into a new file, on the disk when this returns.

        By SQLite itself: whoever copies the file alone misses what is still in its log. By a
        connection of its own, for a large file takes long.
        """
        await self._in_thread(2, lambda: self._back_up(Path(to).absolute()))

    def _back_up(self, to: Path) -> None:
        self._files.require_same()
        with _named(to), new_file(to) as part:
            with (
                _named(self._path, f"{self._path}, copied to {to}"),
                closing(connect_to_read(self._path)) as db,
                closing(connect(str(part))) as copy,
            ):
                db.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, no log beside
            self._reach("backup: written")

    @property
    def path(self) -> Path:
        """The file, as it was named."""
        return self._path

    def log_size(self) -> int:
        """Return how many bytes the log has that stands beside the file."""
        try:
            return Path(f"{os.path.realpath(self._path)}-wal").stat().st_size
        except OSError:
            return 0

    @property
    def folder(self) -> Path:
        """Where the file itself lies, whatever links lead to it."""
        return Path(os.path.realpath(self._path)).parent

    def mark(self) -> str:
        """Return the file's number on its disk and the machine's: a copy has others."""
        with _named(self._path):
            found = self._path.stat()
        try:
            machine = _MACHINE_ID.read_text("ascii").strip()
        except OSError:
            machine = ""
        return f"{found.st_ino} {machine}".strip()

    async def aclose(self) -> None:
        """Close the file; twice is fine."""
        threads, self._threads = self._threads, None
        if threads is None:
            return
        loop = asyncio.get_running_loop()
        writing, reading, copying = threads
        closing = loop.run_in_executor(writing, self._disconnect, reading, copying)
        writing.shutdown(wait=False)
        await asyncio.shield(closing)

    def _disconnect(self, reading: ThreadPoolExecutor, copying: ThreadPoolExecutor) -> None:
        """Close what there is, after all that the threads have begun: even the opening itself."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        reading.submit(self._end_reading).result()
        reading.shutdown(wait=False)
        copying.shutdown()
        let_go(self)

    def _end_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    async def _in_thread(self, which: int, work: Callable[[], T]) -> T:
        if self._threads is None:
            raise LedgerClosedError("the ledger is closed")
        if self._process != os.getpid():
            raise LedgerClosedError("the ledger belongs to another process; open one for this")
        return await asyncio.get_running_loop().run_in_executor(self._threads[which], work)

    def _open(self) -> int:
        """Connect; return who may do what with the file."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise LedgerUnusableError(
                f"SQLite {sqlite3.sqlite_version} is older than 3.37, which the ledger needs"
            )
        with _named(self._path):
            if not self._create and not is_there(self._path):
                raise self._missing()
            require_place(self._path)
            self.may_write = may_write(self._path)
            if self.may_write and not is_there(self._path):  # so that nobody else may read it
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            take_into_use(self._path, self)
            if not self.may_write:
                self._require_upgraded(self._read(self._version))
                return 0
            self._writer = self._connect(str(self._path))
            self._writer.row_factory = sqlite3.Row
            self._version(self._writer)  # what is none of ours gets no other kind of log
            mode = self._with_log()
            if mode != "wal":
                raise LedgerUnusableError(
                    f"keep {self._path} on another disk: SQLite cannot use WAL here (its journal "
                    f"stays {mode!r}), without which a commit may be lost"
                )
            for pragma in (
                "synchronous = FULL",
                "fullfsync = ON",  # on macOS, a sync alone leaves a commit in the disk's cache
                "foreign_keys = ON",
                f"journal_size_limit = {_LOG_KEPT}",
                f"busy_timeout = {_LOG_WAITS}",
                "wal_checkpoint(TRUNCATE)",
                f"busy_timeout = {int(_BUSY_SECONDS * 1000)}",
            ):
                self._writer.execute(f"PRAGMA {pragma}").fetchall()
            self._migrate()
            self._reader = self._connect(str(self._path))
            self._reader.row_factory = sqlite3.Row
            self._reader.execute("PRAGMA query_only = ON").fetchall()
        there = os.path.realpath(self._path)
        names = (str(self._path), there, f"{there}-wal", f"{there}-shm")
        self._files = OpenFiles([Path(name) for name in names])
        return stat.S_IMODE(self._path.stat().st_mode)

    def _with_log(self) -> str:
        """
        Give the file a log, if it can have one; return the kind of its journal.

        SQLite does not wait here for whoever does the same to a new file: it has read already.
        """
        until = monotonic() + _BUSY_SECONDS
        while True:
            try:
                return str(self._writer.execute("PRAGMA journal_mode = WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or monotonic() > until:
                    raise
                sleep(_LOOKS_AGAIN)

    def _migrate(self) -> None:
        with self._transaction():
            version = self._version(self._writer)
            run(self._writer, lambda db: migrate(db, self._migrations, version, self._reach))

    def _version(self, db: Connection) -> int:
        """Return the version of the schema; 0 in an empty file, which is to become a ledger."""
        if not db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]:
            if not self._create:
                raise self._missing()
            return 0
        columns = {row["name"] for row in db.execute("PRAGMA table_info(ledger)")}
        if "min_compatible" not in columns:
            if "mark" in columns:
                raise first_edition(str(self._path))
            raise LedgerUnusableError(f"{self._path} is a database of something else")
        found = db.execute("SELECT version, min_compatible FROM ledger").fetchone()
        return version_in(found, str(self._path), self._known)

    def _require_upgraded(self, version: int) -> None:
        """Refuse to read a schema of before, which this process may not upgrade."""
        if not version:
            raise self._missing()
        if version < self._known:
            raise LedgerUnusableError(
                f"open {self._path} once as a user who may write it: the ledger is of an older "
                "version of the package, and is upgraded then"
            )

    def _missing(self) -> LedgerMissingError:
        return LedgerMissingError(f"there is no ledger at {self._path}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._reach("transaction: begins")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._reach("transaction: commits")
            self._commit()
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        self._reach("transaction: committed")

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
                raise
            raise LedgerOutcomeUnknownError(
                f"{self._path}: the disk failed at the commit ({error}), and whether this was "
                "stored is unknown"
            ) from error

    def _read(self, operation: Callable[[Connection], T]) -> T:
        with _named(self._path), self._to_read() as db:
            db.execute("BEGIN")
            try:
                return operation(db)
            finally:
                db.execute("COMMIT")

    @contextmanager
    def _to_read(self) -> Iterator[Connection]:
        if self.may_write:
            self._files.require_same()
            yield self._reader
            return
        with closing(connect_to_read(self._path)) as db:  # others may have made a log since
            yield db


@contextmanager
def _named(path: Path, work: str | None = None) -> Iterator[None]:
    """Give what SQLite or the system complains of the ledger's words, in *work* on a file."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise _worded(path, work or str(path), error) from error


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _worded(path: Path, work: str, error: Exception) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerUnusableError(f"{work} is damaged, or no ledger ({text}); restore a backup")
    if _is_busy(error):
        return LedgerError(f"{work} was locked by another process for {_BUSY_SECONDS:g} s")
    if isinstance(error, (sqlite3.DataError, sqlite3.IntegrityError)):
        return UsageRefusedError(f"{work}: {text}; nothing was stored")
    if code is not None and code & 0xFF in _NOT_OPENED and not may_write(path):
        return LedgerError(
            f"{work}: {text}; give it and its folder to the user that this runs as (chown), or run "
            "this as theirs"
        )
    return LedgerError(f"{work}: {getattr(error, 'strerror', None) or text}")
