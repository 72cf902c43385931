"""What only a ledger in a file can meet: disks, copies, locks, and files of other things."""

import asyncio
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta, timezone
from pathlib import Path
from tempfile import mkdtemp
from time import monotonic, sleep
from typing import Any

import pytest
from support.ledgers import HOUR, House, house_at, upgraded

from marketplace_metering_async import (
    ConfigurationError,
    LedgerClosedError,
    LedgerError,
    LedgerMissingError,
    LedgerUnusableError,
    UsageLedger,
    ledger,
)
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.ledger.relay import Relay
from marketplace_metering_async.ledger.stores import sqlite, sqlite_file, sqlite_place
from marketplace_metering_async.ledger.stores.migrations import migrations_of
from marketplace_metering_async.ledger.stores.sqlite import SqliteStore
from marketplace_metering_async.quantities import MILLION


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def names_in(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir())


async def opened(path: Path) -> None:
    async with UsageLedger.open(url_of(path)):
        pass


def file_of(house: House) -> Any:
    store: Any = house.ledger._store
    return store._file


async def test_what_only_postgresql_can_do_is_refused(tmp_path: Path) -> None:
    """
    A caller's transaction and a ledger that moves here; nothing is stored, and the other lives on.
    """
    async with house_at(url_of(tmp_path / "one.db")) as house:
        with pytest.raises(ConfigurationError, match="only a ledger in PostgreSQL can share yours"):
            await house.use(connection=object())
        async with house_at(url_of(tmp_path / "other.db")) as other:
            await other.use(3)
        with pytest.raises(ConfigurationError, match="only a ledger in PostgreSQL can take over"):
            await house.ledger.take_over(other.url)
        async with house_at(other.url) as again:
            assert 3 == (await again.balance()).open
        assert 0 == (await house.balance()).recorded


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """
    Covers: D12
    """
    await opened(tmp_path / "usage.db")

    assert 0o600 == stat.S_IMODE((tmp_path / "usage.db").stat().st_mode)


async def test_every_commit_is_on_the_disk(tmp_path: Path) -> None:
    """
    WAL and FULL, on macOS the whole way, and writing begins IMMEDIATE. Covers: D05, D15
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        file = file_of(house)
        said: list[str] = []
        file._writer.set_trace_callback(said.append)
        await house.use(1)
        pragmas = [
            file._writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "fullfsync")
        ]

    assert ["wal", 2, 1] == pragmas
    assert ["BEGIN IMMEDIATE"] == [text for text in said if text.startswith("BEGIN")]


async def test_a_copy_waits_for_a_person(tmp_path: Path) -> None:
    """
    Its frozen records go out, its open hours wait, and say so in every round. When it is adopted,
    those that may be metered already end by name. Covers: K19, K20. ledger H7
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        await house.use(1)
        await house.relay_after(hours=1)
        await house.use(2)
    shutil.copy(tmp_path / "usage.db", tmp_path / "copy.db")
    async with house_at(url_of(tmp_path / "copy.db")) as copy:
        held = await copy.relay_after(hours=3)
        copied = await copy.balance()
        await copy.relay()
        warned = [e for e in copy.warned if isinstance(e, WarningIssued) and "copy" in e.text]
        await copy.ledger.adopt_copy()
        copy.clock.step(hours=1)
        await copy.use(5)
        sent = await copy.relay_after(hours=2)
        status = await copy.balance()

        assert (0, True, 2) == (held.sealed, copied.is_unconfirmed_copy, copied.open)
        assert 3 == len(warned)  # on opening it, and in two rounds
        assert (1, 5, False) == (sent.metered, sent.units, status.is_unconfirmed_copy)
        assert {HourState.UNCONFIRMED: 2} == status.ended


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """
    And not touched. Covers: D16, M14
    """
    path = tmp_path / "usage.db"
    await opened(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE ledger SET version = 999, min_compatible = 998")
        connection.commit()

    with pytest.raises(LedgerUnusableError, match="schema 998; this one knows 1"):
        await opened(path)


async def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    """
    A ledger does not move in with others.
    """
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")

    with pytest.raises(LedgerUnusableError, match="database of something else"):
        await opened(path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """
    With a word on what to do. Covers: D07
    """
    path = tmp_path / "usage.db"
    path.write_bytes(content)

    with pytest.raises(LedgerUnusableError, match="restore a backup"):
        await opened(path)


FAR_AWAY = (
    "nfs4",
    "fuse.glusterfs",
    "glusterfs",
    "fuse.ceph-fuse",
    "fuse.s3fs",
    "fuse.gcsfuse",
    "fuse.juicefs",
    "fuse.sshfs",
    "fuse",
    "virtiofs",
    "vboxsf",
    "gpfs",
    "beegfs",
)


@pytest.mark.parametrize("kind", FAR_AWAY)
async def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """
    WAL loses data there. ledger M10. Covers: D10, M08
    """
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/data {tmp_path} {kind} rw 0 0\n")
    monkeypatch.setattr(sqlite_place, "_MOUNTS", mounts)

    with pytest.raises(LedgerUnusableError, match=rf"network file system \({kind}\)"):
        await opened(tmp_path / "usage.db")


async def test_a_system_that_does_not_say_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    MacOS and Windows have no list of mounts, and a network drive is not known as one: the
    operator's page says so. ledger section 7, suspicion: reproduced
    """
    monkeypatch.setattr(sqlite_place, "_MOUNTS", tmp_path / "nowhere")
    await opened(tmp_path / "usage.db")
    page = (Path(ledger.__file__).parent / "OPERATING.md").read_text("utf-8")

    assert "macOS and Windows do not say what is one" in page


async def test_a_link_to_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Be it the file that is a link, to one that is there or not, its folder, or a file that is
    mounted by itself. ledger M10
    """
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir()
    near.mkdir()
    (near / "there.db").symlink_to(far / "there.db")
    (near / "folder").symlink_to(far)
    (near / "missing.db").symlink_to(far / "missing.db")
    await opened(far / "there.db")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\ns:/d {far} nfs4 rw 0 0\ns:/d {near}/mounted.db nfs rw 0 0\n"
    )
    monkeypatch.setattr(sqlite_place, "_MOUNTS", mounts)

    for name in ("there.db", "missing.db", "folder/new.db", "mounted.db"):
        with pytest.raises(LedgerUnusableError, match="network file system"):
            await opened(near / name)
    await opened(near / "usage.db")


async def test_a_file_of_several_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    By each of them it has another log: two processes would both hear that all is stored. A link
    that says where it leads is none. Covers: M08
    """
    path, other = tmp_path / "usage.db", tmp_path / "other.db"
    async with house_at(url_of(path)) as house:
        other.hardlink_to(path)
        with pytest.raises(LedgerUnusableError, match=rf"remove the other names of {other}"):
            await opened(other)
        other.unlink()
        other.symlink_to(path)
        await opened(other)
        await house.use(1)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\n/dev/sda {path} ext4 rw 0 0\n")
    monkeypatch.setattr(sqlite_place, "_MOUNTS", mounts)
    for name in (path, other):
        with pytest.raises(LedgerUnusableError, match=rf"mount the folder that {name} lies in"):
            await opened(name)


async def test_a_file_without_a_log_is_refused(tmp_path: Path) -> None:
    """
    With a rollback journal, the last commit may be lost. ledger M10. Covers: D15
    """

    def without_shared_memory(path: str) -> Any:
        return sqlite3.connect(
            f"file:{path}?vfs=unix-dotfile", uri=True, check_same_thread=False, isolation_level=None
        )

    store = SqliteStore(str(tmp_path / "usage.db"), connect=without_shared_memory)
    with pytest.raises(LedgerUnusableError, match="SQLite cannot use WAL here"):
        async with UsageLedger(store):
            pass


async def test_a_new_file_that_somebody_else_prepares_is_waited_for(tmp_path: Path) -> None:
    """
    Two processes that open one new file at the same time both have a ledger. X15
    """
    path = tmp_path / "usage.db"

    class AtOnce(sqlite3.Connection):
        other: sqlite3.Connection | None = None
        tries = 0

        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode = WAL":
                AtOnce.tries += 1
                if AtOnce.tries == 1:
                    AtOnce.other = sqlite3.connect(path, isolation_level=None)
                    AtOnce.other.execute("BEGIN IMMEDIATE")
                elif AtOnce.tries == 3 and AtOnce.other:
                    AtOnce.other.close()
            return super().execute(sql, *more)

    def connect(path: str) -> Any:
        return sqlite3.connect(
            path, timeout=60, isolation_level=None, check_same_thread=False, factory=AtOnce
        )

    async with UsageLedger(SqliteStore(str(path), connect=connect)) as ledger:
        assert 0 == (await ledger.status()).recorded
    assert 3 == AtOnce.tries


async def test_a_program_may_go_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A relative path is one of the folder in which the ledger was opened. ledger M10
    """
    monkeypatch.chdir(tmp_path)
    async with house_at("sqlite:///usage.db") as house:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await house.use(1)

        assert 1 == (await house.ledger.status()).recorded
    assert (tmp_path / "usage.db").is_file()


async def test_a_name_in_a_url_may_be_written_with_percents(tmp_path: Path) -> None:
    """
    As in every URL. ledger M10
    """
    async with house_at(f"sqlite:///{tmp_path}/my%20usage%3F%23.db"):
        pass
    async with house_at(f"sqlite:///{tmp_path}/100%.db"):
        pass

    assert (tmp_path / "my usage?#.db").is_file()
    assert (tmp_path / "100%.db").is_file()


@pytest.mark.parametrize(
    ("rest", "word"),
    [
        (":memory:", "in place of :memory:"),
        ("./:memory:", "in place of :memory:"),
        ("%3Amemory%3A", "in place of :memory:"),
        ("usage.db?mode=ro", r"leave out what follows '\?'.*written %3F"),
        ("usage.db#1", "leave out what follows '#'.*written %23"),
        ("usage%00.db", "NUL"),
    ],
)
def test_what_is_no_file_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str, word: str
) -> None:
    """
    Before anything is made: memory forgets, and an option would be part of the name. ledger M10
    """
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=word):
        UsageLedger.open(f"sqlite:///{rest}")

    assert [] == list(tmp_path.iterdir())


async def test_a_missing_folder_and_a_folder_are_refused(tmp_path: Path) -> None:
    """
    The place is named. Covers: X13
    """
    with pytest.raises(LedgerUnusableError, match="no such directory"):
        await opened(tmp_path / "nowhere" / "usage.db")
    with pytest.raises(LedgerUnusableError, match="expected a file"):
        await opened(tmp_path)
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    with pytest.raises(LedgerError, match=r"loop\.db"):
        await opened(tmp_path / "loop.db")


async def test_a_file_that_goes_away_stops_the_ledger(tmp_path: Path) -> None:
    """
    Nobody would find again what is added to it. Covers: D11
    """
    path = tmp_path / "usage.db"
    async with house_at(url_of(path)) as house:
        await house.use(1)
        shutil.move(path, tmp_path / "elsewhere.db")
        with pytest.raises(LedgerUnusableError, match="deleted"):
            await house.use(2)
        shutil.copy(tmp_path / "elsewhere.db", path)
        with pytest.raises(LedgerUnusableError, match="replaced"):
            await house.use(2)


@pytest.mark.parametrize("end", ["-wal", "-shm"])
async def test_a_log_that_goes_away_stops_the_ledger(tmp_path: Path, end: str) -> None:
    """
    What is committed into a log that was deleted is gone with the process. Covers: D11
    """
    log = tmp_path / f"usage.db{end}"
    (tmp_path / "link.db").symlink_to("usage.db")
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        async with house_at(url_of(tmp_path / "link.db")) as other:
            await house.use(1)
            log.unlink()
            with pytest.raises(LedgerUnusableError, match=f"usage.db{end} was deleted"):
                await house.use(2)
            log.touch()
            with pytest.raises(LedgerUnusableError, match=f"usage.db{end} was replaced"):
                await other.use(2)
        log.unlink()

    async with house_at(url_of(tmp_path / "usage.db")) as house:
        assert 1 == (await house.balance()).recorded


async def test_nobody_looks_at_a_file_that_was_replaced(tmp_path: Path) -> None:
    """
    Whoever watches a ledger that was restored would see for good what was before. Covers: D11
    """
    path = tmp_path / "usage.db"
    async with house_at(url_of(path)) as house:
        await house.use(1)
        await house.ledger.back_up(tmp_path / "copy.db")
        path.rename(tmp_path / "before.db")
        shutil.copy(tmp_path / "copy.db", path)
        with pytest.raises(LedgerUnusableError, match="replaced"):
            await house.ledger.status()
        with pytest.raises(LedgerUnusableError, match="replaced"):
            await anext(house.ledger.history())
        with pytest.raises(LedgerUnusableError, match="replaced"):
            await house.ledger.back_up(tmp_path / "another.db")

    assert not (tmp_path / "another.db").exists()


async def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path) -> None:
    """
    The caller knows, and once there is room the same event counts once. Covers: D01, D02
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        file = file_of(house)
        pages = file._writer.execute("PRAGMA page_count").fetchone()[0]
        file._writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        stored = 0
        with pytest.raises(LedgerError, match="full"):
            for number in range(2_000):
                await house.use(1, customer_aws_account_id=f"{number:012d}", event_id=f"{number}")
                stored += 1
        before = await house.balance()
        file._writer.execute("PRAGMA max_page_count = 1000000").fetchall()
        customer = f"{stored:012d}"
        await house.use(1, customer_aws_account_id=customer, event_id=f"{stored}")

        assert stored == before.recorded
        assert stored + 1 == (await house.balance()).recorded


async def test_a_lock_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Off the event loop. Covers: D04
    """
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0.2)
    path = tmp_path / "usage.db"
    async with house_at(url_of(path)) as house:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = monotonic()
        with pytest.raises(LedgerError, match="locked by another process"):
            await house.use(1)
        assert monotonic() - began < 20
        other.execute("ROLLBACK")
        other.close()
        await house.use(1)

        assert 1 == (await house.balance()).recorded


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    folder = Path(mkdtemp(prefix="ledger-shared-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def somebody_else(path: Path) -> Iterator[None]:
    """Be a user who may read the file and its folder, and no more."""
    migrations_of("sqlite")  # which lies where that user may not look, perhaps
    logs = [log for log in path.parent.glob(f"{path.name}-*") if log.exists()]
    for file in (path, *logs):
        file.chmod(0o644 if os.geteuid() == 0 else 0o444)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
        return
    path.parent.chmod(0o555)
    try:
        yield
    finally:
        path.parent.chmod(0o755)
        for file in (path, *logs):
            file.chmod(0o600)


@pytest.mark.parametrize("in_use", [True, False])
async def test_who_may_only_read_a_file_reads(shared_folder: Path, *, in_use: bool) -> None:
    """
    Status and history, also of what is still in the log, and what comes later; nothing is made
    beside the file. What writes says that it may not. Issue 21.6. Covers: D03
    """
    path = shared_folder / "usage.db"
    house = House(url_of(path))
    async with house.ledger:
        await house.use(3)
        await (asyncio.sleep(0) if in_use else house.ledger.aclose())
        there = names_in(shared_folder)
        with somebody_else(path):
            async with UsageLedger.open(url_of(path), create=False) as reader:
                first = await reader.status()
                entries = [entry.quantity async for entry in reader.history()]
                if in_use:
                    await house.use(4)
                second = await reader.status()
                with pytest.raises(LedgerError, match="this process may only read"):
                    await house.use(5, reader)
        later = names_in(shared_folder)

    assert (3, [3]) == (first.recorded, entries)
    assert (7 if in_use else 3) == second.recorded
    assert there == later


async def test_who_may_only_read_a_file_upgrades_nothing(shared_folder: Path) -> None:
    """
    By whatever name; it says who does. Issue 21.6, ledger M9
    """
    path = shared_folder / "usage.db"
    async with house_at(url_of(path)) as house:
        await house.use(3)
    (shared_folder / "link.db").symlink_to(path)
    later = upgraded(House(url_of(shared_folder / "link.db")), shared_folder, "SELECT 1;\n")
    with somebody_else(path):
        async with UsageLedger.open(url_of(shared_folder / "link.db"), create=False) as reader:
            assert 3 == (await reader.status()).recorded
        with pytest.raises(LedgerUnusableError, match="once as a user who may write it"):
            async with later:
                pass


async def test_an_empty_file_that_may_only_be_read_is_no_ledger(shared_folder: Path) -> None:
    """
    Nor can one be made where nothing may be. Issue 21.6
    """
    (shared_folder / "empty.db").touch()
    with somebody_else(shared_folder / "empty.db"):
        with pytest.raises(LedgerMissingError):
            await opened(shared_folder / "empty.db")
        with pytest.raises(LedgerError, match="Permission denied"):
            await opened(shared_folder / "new.db")


async def test_who_reads_the_history_slowly_holds_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each page is a transaction of its own: the log can be emptied in between. Covers: D09
    """
    monkeypatch.setattr("marketplace_metering_async.ledger.ledger._PAGE", 1)
    async with house_at(url_of(tmp_path / "u.db")) as house:
        for number in range(3):
            await house.use(1, customer_aws_account_id=f"{number:012d}")
        entries = house.ledger.history()
        await anext(entries)
        await house.ledger.status()
        with closing(sqlite3.connect(tmp_path / "u.db")) as connection:
            is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        assert not is_busy
        assert 2 == len([entry async for entry in entries])


async def test_a_log_that_somebody_holds_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A reader that never ends lets it grow, and keeps nobody from adding; once it has ended, the log
    is cut. ledger M11. Covers: D09
    """
    path = tmp_path / "usage.db"
    most = 2**18
    monkeypatch.setattr(sqlite_file, "_LOG_KEPT", most)
    monkeypatch.setattr(sqlite, "_LONG_LOG", most)
    async with house_at(url_of(path)) as house:

        async def said() -> list[str]:
            house.warned.clear()
            await house.ledger._store.tidy()
            return [event.text for event in house.warned if isinstance(event, WarningIssued)]

        await house.use(1)
        assert [] == await said()
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM ledger").fetchall()
            await asyncio.gather(*(house.use(1, event_id=f"{n:0240d}") for n in range(1_000)))
            assert most < file_of(house).log_size()
            (text,) = await said()
        file_of(house)._writer.execute("PRAGMA wal_checkpoint").fetchall()  # it makes one by itself
        await house.use(1)

        assert f"end what has been reading {path} for long" in text
        assert [] == await said()
        assert 1_002 == (await house.balance()).recorded


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True)])
async def test_a_file_that_everybody_may_use_is_said(
    tmp_path: Path, mode: int, *, is_open: bool
) -> None:
    """
    With the command that ends it; a group of those who look is fine. ledger M11. Covers: D12
    """
    path = tmp_path / "usage.db"
    await opened(path)
    path.chmod(mode)
    async with house_at(url_of(path)) as house:
        said = [event.text for event in house.warned if isinstance(event, WarningIssued)]

    expected = f"chmod o= {path}: everybody on this machine may use it (644)"
    assert ([expected] if is_open else []) == said


async def test_a_backup_is_whole_while_others_write(tmp_path: Path) -> None:
    """
    What was stored before is in it, be it still in the log; put back, it is known as a copy.
    ledger M11. Covers: D13, K21
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house:
        await house.use(3)
        adding = asyncio.gather(*(house.use(1, event_id=f"e{n}") for n in range(50)))
        await house.ledger.back_up(backup)
        await adding
        with pytest.raises(LedgerError, match=r"backup\.db: File exists"):
            await house.ledger.back_up(backup)
        with pytest.raises(LedgerError, match="no/where"):
            await house.ledger.back_up(tmp_path / "no/where")
    with closing(sqlite3.connect(backup)) as connection:
        checked = connection.execute("PRAGMA integrity_check").fetchone()
    async with house_at(url_of(backup)) as restored:
        status = await restored.balance()

    assert ("ok",) == checked
    assert 0o600 == stat.S_IMODE(backup.stat().st_mode)
    assert 3 <= status.recorded <= 53
    assert status.is_unconfirmed_copy
    assert ["backup.db", "usage.db"] == names_in(tmp_path)


async def test_nobody_waits_for_a_backup(tmp_path: Path) -> None:
    """
    Of a large file it takes long; meanwhile usage is added, and sent, and its status is asked for.
    Closing waits for it. ledger M11. Covers: D13
    """
    go_on, backup = threading.Event(), tmp_path / "backup.db"

    def wait(name: str) -> None:
        if name == "backup: written":
            assert go_on.wait(60)

    house = House(url_of(tmp_path / "usage.db"))
    house.ledger = UsageLedger(SqliteStore(f"{tmp_path}/usage.db", reach=wait), clock=house.clock)
    async with house.ledger:
        copying = asyncio.create_task(house.ledger.back_up(backup))
        try:
            async with asyncio.timeout(20):
                await house.use(3)
                sent = await house.relay_after(hours=1)
                status = await house.ledger.status()
        finally:
            go_on.set()

    assert (3, 3) == (sent.units, status.metered)
    await copying
    assert backup.exists()


async def test_a_backup_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Half of a ledger would be taken for one. ledger M11. Covers: D13
    """

    def broken(path: str) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    async with house_at(url_of(tmp_path / "usage.db")) as house:
        monkeypatch.setattr(sqlite_file, "connect", broken)
        both = r"usage\.db, copied to .*backup\.db: disk I/O error"  # either disk may be full
        with pytest.raises(LedgerError, match=both):
            await house.ledger.back_up(tmp_path / "backup.db")
        found = names_in(tmp_path)

    assert ["usage.db", "usage.db-shm", "usage.db-wal"] == found


async def test_what_a_crash_leaves_of_a_backup_is_none(tmp_path: Path) -> None:
    """
    Until all of it is on the disk, it has another name. ledger M11. Covers: D13
    """
    backup, sizes = tmp_path / "backup.db", list[int]()

    def crash(name: str) -> None:
        if name == "backup: written":
            sizes.extend([backup.stat().st_size, *(f.stat().st_size for f in _parts_of(backup))])
            raise SystemError

    house = House(url_of(tmp_path / "usage.db"))
    house.ledger = UsageLedger(SqliteStore(f"{tmp_path}/usage.db", reach=crash), clock=house.clock)
    async with house.ledger:
        with pytest.raises(SystemError):
            await house.ledger.back_up(backup)

    nothing, whole = sizes
    assert (0, True) == (nothing, whole > 0)
    assert [False, []] == [backup.exists(), _parts_of(backup)]


def _parts_of(backup: Path) -> list[Path]:
    return [*backup.parent.glob(f"{backup.name}.*.part")]


async def test_a_forked_child_is_sent_away(tmp_path: Path) -> None:
    """
    It would share a connection with its parent. Covers: C17
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        file = file_of(house)
        file._process = -1
        with pytest.raises(LedgerClosedError, match="another process"):
            await house.use(1)
        file._process = os.getpid()


_FORKED_WHILE_OPEN = """
import asyncio, os, sys
from marketplace_metering_async import LedgerUnusableError, UsageLedger

open_in_parent, elsewhere = (UsageLedger.open(url) for url in sys.argv[1:])
usage = {"dimension": "requests", "product_code": "product", "customer_aws_account_id": "1" * 12}


async def added(ledger, event_id):
    async with ledger:
        print(event_id, await ledger.add_usage(quantity=1, event_id=event_id, **usage), flush=True)


def in_a_child(ledgers):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)
    for ledger in ledgers:
        try:
            asyncio.run(added(ledger, "child"))
        except LedgerUnusableError as error:
            print(error, flush=True)
    os._exit(0)


loop = asyncio.new_event_loop()
loop.run_until_complete(open_in_parent.__aenter__())
in_a_child((open_in_parent, UsageLedger.open(sys.argv[1]), elsewhere))
loop.run_until_complete(open_in_parent.add_usage(quantity=1, event_id="parent", **usage))
loop.run_until_complete(open_in_parent.aclose())
in_a_child((open_in_parent, UsageLedger.open(sys.argv[1])))
"""


async def test_a_file_that_was_open_when_the_process_was_forked_is_refused_in_the_child(
    tmp_path: Path,
) -> None:
    """
    SQLite in the child believes that it holds its parent's locks: the file is locked to it for as
    long as it lives, or its log is removed under it. What the parent had closed is free. C17
    """
    urls = url_of(tmp_path / "usage.db"), url_of(tmp_path / "other.db")
    run = (sys.executable, "-W", "ignore", "-c", _FORKED_WHILE_OPEN, *urls)
    ended = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, check=True)
    same, again, other, *after = ended.stdout.splitlines()

    assert all("open it after the fork" in line for line in (same, again)), (same, again)
    assert ["repeated=False", "repeated=False", "repeated=True"] == [
        re.findall(r"repeated=\w+", line)[0] for line in (other, *after)
    ]


USAGE: dict[str, Any] = {
    "dimension": "requests",
    "product_code": "product",
    "customer_aws_account_id": "1" * 12,
    "quantity": 1,
}


class Held:
    """A place in a thread, which it reaches, and where it is held until it may go on."""

    def __init__(self) -> None:
        self.reached, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.may_go_on.wait(20)

    def let_go_soon(self) -> None:
        threading.Timer(0.2, self.may_go_on.set).start()


async def added_once_more(ledger: UsageLedger) -> Any:
    async with asyncio.timeout(20), ledger:
        await ledger.add_usage(event_id="second", **USAGE)
        return (await ledger.status()).recorded


def test_a_commit_that_a_closed_loop_left_to_its_thread_shares_no_connection(
    tmp_path: Path,
) -> None:
    """
    It goes on with its own; a new one in its place would be committed in the middle of it.
    """
    held = Held()
    reach = {"transaction: commits": held}
    store = SqliteStore(
        str(tmp_path / "usage.db"), reach=lambda point: reach.get(point, lambda: None)()
    )
    ledger = UsageLedger(store)
    held.reached.set()  # while it is made

    async def gives_up() -> None:
        await ledger.__aenter__()
        held.reached.clear()
        adding = asyncio.create_task(ledger.add_usage(event_id="first", **USAGE))
        await asyncio.to_thread(held.reached.wait, 20)
        adding.cancel()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # of the task that is left behind
    loop.run_until_complete(gives_up())
    loop.close()
    held.let_go_soon()
    left_behind = store._file

    assert 2 == asyncio.run(added_once_more(ledger))
    asyncio.run(left_behind.aclose())


def test_an_opening_that_was_cancelled_shares_no_connection(tmp_path: Path) -> None:
    """
    Its thread cannot be cancelled, and would go on with those of whoever opens it again.
    """
    held = Held()

    class Noted(sqlite3.Connection):
        users: frozenset[int] = frozenset()

        def execute(self, *given: Any) -> sqlite3.Cursor:
            if not held.may_go_on.is_set():  # the second one, which lets the first one go on
                held.may_go_on.set()
                sleep(0.3)
            self.users |= {threading.get_ident()}
            return super().execute(*given)

    made: list[Noted] = []

    def connect_late(path: str) -> sqlite3.Connection:
        own = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Noted)
        made.append(own)
        held()
        return own

    async def work() -> Any:
        ledger = UsageLedger(SqliteStore(str(tmp_path / "usage.db"), connect=connect_late))
        opening = asyncio.create_task(ledger.__aenter__())
        await asyncio.to_thread(held.reached.wait, 20)
        while not opening.done():
            opening.cancel()
            await asyncio.wait([opening], timeout=0.05)
        assert opening.cancelled()
        return await added_once_more(ledger)

    assert 1 == asyncio.run(work())
    assert [1, 1] == [len(writer.users) for writer in made[:2]]


def forget_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


async def test_flipped_bits_bill_nobody(tmp_path: Path) -> None:
    """
    Wherever in the file: it is refused, named, or makes no difference. Covers: D08, A12
    """
    path = tmp_path / "usage.db"
    house = House(url_of(path))
    async with house.ledger:
        for number in range(5):
            await house.use(7, customer_aws_account_id=f"{number:012d}")
        house.clock.step(hours=1)
        async with house.client() as client:
            relay: Relay = house.ledger._relay(client, None)
            await relay._bind()
            await relay._seal()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    whole = path.read_bytes()
    billed = [(7 * MILLION).to_bytes(3, "big"), b"requests", *(b"%012d" % n for n in range(5))]
    places = {found.end() - 1 for part in billed for found in re.finditer(re.escape(part), whole)}
    for place in sorted({*places, *range(0, len(whole), max(1, len(whole) // 20))}):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        forget_log(path)
        house.book.forget()
        house.ledger = house.another()
        try:
            async with house.ledger:
                await house.relay()
        except (LedgerError, ValueError, KeyError, TypeError):
            pass
        found = {(r.customer, r.dimension, r.quantity) for r in house.book.records}
        assert found <= {(f"{n:012d}", "requests", 7) for n in range(5)}, place


@pytest.mark.parametrize(
    "region", ["", "us-east-1 ", "us-east-1\0", "\udcff", "-", "123", "x" * 64]
)
def test_a_ledger_is_not_tied_to_what_can_be_no_region(tmp_path: Path, region: str) -> None:
    """
    For it would be so for good; it is refused before there is a file.
    """
    with pytest.raises(ConfigurationError, match="region: expected a name such as us-east-1"):
        UsageLedger.open(f"sqlite:///{tmp_path}/usage.db", region_name=region)

    assert [] == [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("url", "got"),
    [
        ("mysql://x/y", "one of scheme 'mysql'"),
        ("usage.db", "text without ://"),
        (None, "None"),
        ("sqlite://", "one of scheme 'sqlite'"),
        ("sqlite:///", "one of scheme 'sqlite'"),
    ],
)
def test_other_urls_are_refused(url: Any, got: str) -> None:
    """
    With what is expected, and what came.
    """
    expected = r"expected sqlite:///usage\.db or postgresql://user@host/database, got "
    with pytest.raises(ConfigurationError, match=expected + got):
        UsageLedger.open(url)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("grace", -1, ValueError), ("grace", "600", TypeError), ("late", "drop", ValueError)],
)
def test_settings_are_looked_at(
    name: str, value: object, kind: type[Exception], tmp_path: Path
) -> None:
    """
    Before anything is opened.
    """
    settings: dict[str, Any] = {name: value}
    with pytest.raises(kind, match=f"{name}: expected"):
        UsageLedger.open(url_of(tmp_path / "usage.db"), **settings)


async def test_an_hour_is_an_hour_of_utc(tmp_path: Path) -> None:
    """
    Whatever zone usage was noted in. Covers: H09, H10
    """
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        added = await house.use(1, at=house.clock.now().astimezone(kathmandu) - HOUR)

        assert (11, 0) == (added.hour.hour, added.hour.minute)


async def test_a_column_of_numbers_takes_no_text(tmp_path: Path) -> None:
    """
    Whoever writes it: SQLite would keep it, and a sum would leave it out. Covers: D17
    """
    path = tmp_path / "usage.db"
    async with house_at(url_of(path)) as house:
        await house.use(1)
        with closing(sqlite3.connect(path)) as other:
            tables = other.execute("SELECT name, strict FROM pragma_table_list").fetchall()
            with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"):
                other.execute("UPDATE hour SET quantity = 'many'")

        assert {1} == {strict for name, strict in tables if not name.startswith("sqlite_")}
        assert 1 == (await house.balance()).recorded


async def test_a_process_without_a_file_to_spare_says_so_and_recovers(tmp_path: Path) -> None:
    """
    Whether its ledger is open already or not. Covers: D18
    """
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    other = UsageLedger.open(url_of(tmp_path / "other.db"))
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        await house.use(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
        try:
            await house.use(1)  # all that it needs is open
            with pytest.raises(LedgerError):
                await other.__aenter__()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        async with other:
            pass

        assert 2 == (await house.balance()).recorded


async def test_a_file_of_another_user_says_what_to_do(shared_folder: Path) -> None:
    """
    Where root has made it, and a service with a user of its own opens it.
    """
    path = shared_folder / "usage.db"
    async with house_at(url_of(path)) as house:
        await house.use(3)
    with somebody_else(path):
        user = os.geteuid()
        os.seteuid(os.getuid())
        path.chmod(0)
        os.seteuid(user)
        if os.access(path, os.R_OK, effective_ids=True):
            pytest.skip("this user may read everything")
        with pytest.raises(LedgerError, match=r"usage\.db: unable to open .*; give it and its f"):
            async with UsageLedger.open(url_of(path)):
                pass


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("name", ["n" * 300, f"{'n' * 300}/usage.db"])
async def test_a_name_that_no_disk_takes_is_said(
    tmp_path: Path, name: str, *, create: bool
) -> None:
    """
    With the file, and as what is wrong with the ledger.
    """
    with pytest.raises(LedgerError, match=r"(nnn|usage\.db): File name too long"):
        async with UsageLedger.open(url_of(tmp_path / name), create=create):
            pass
