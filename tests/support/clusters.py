"""Clusters of Debian's PostgreSQL that a test dumps, restores, stops and promotes."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import chown, rmtree, which
from tempfile import mkdtemp
from typing import Any

import pytest

from support.ledgers import execute

POOLER_PORT = 6432


def programs() -> Path:
    """Return the folder with the server's programs, or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    if not found:
        pytest.skip("Debian's PostgreSQL is not here: .ci/run installs it")
    if os.geteuid() == 0 and which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
    return found[-1]


def as_postgres(*command: str) -> list[str]:
    """Return how to run *command* as a user that PostgreSQL's programs agree to."""
    if os.geteuid():
        return [*command]
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


class Cluster:
    """A server with its data, whose socket is in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Note where; it has no data yet."""
        self._folder = folder
        self._data = folder / "data"
        self._programs = programs()

    @property
    def socket(self) -> Path:
        """The folder with its socket."""
        return self._folder

    @property
    def url(self) -> str:
        """Its own database."""
        return f"postgresql://postgres@/postgres?host={self._folder}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, as the user that it asks for."""
        command = as_postgres(str(self._programs / program), *arguments)
        subprocess.run(command, check=True, cwd=self._folder, capture_output=True)  # noqa: S603

    def make(self) -> None:
        """Give it data that are new, and start it."""
        self.run("initdb", "--auth=trust", "--username=postgres", "--no-sync", str(self._data))
        self._start()

    def follow(self, primary: "Cluster") -> None:
        """Give it the data of another one, start it, and stream what comes from then on."""
        source = f"host={primary.socket} user=postgres"
        self.run("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-d", source, "-D", "data")
        self._start()

    def _start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses='' -c max_connections=50"
        log = str(self._folder / "log")
        self.run("pg_ctl", "-w", "-D", str(self._data), "-l", log, "-o", options, "start")

    def restart(self) -> None:
        """Stop it as a crash would, and start it again."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """Stop it as a crash would, if it runs."""
        if (self._data / "postmaster.pid").exists():
            self.run("pg_ctl", "-w", "-D", str(self._data), "-m", "immediate", "stop")

    def promote(self) -> None:
        """Make a primary of a standby."""
        self.run("pg_ctl", "-w", "-D", str(self._data), "promote")

    def forget(self) -> None:
        """Stop it and remove its data, so that it may follow another one."""
        self.stop()
        rmtree(self._data)

    def dump(self, database: str) -> None:
        """Back up a database."""
        self.run("pg_dump", "-Fc", "-d", database, "-f", "dump")

    def restore(self, database: str) -> None:
        """Put what was backed up into the place of what is there."""
        self.run("pg_restore", "--clean", "--if-exists", "-d", database, "dump")

    async def cut_off(self) -> None:
        """Let a standby hear nothing more of its primary."""
        await execute(self.url, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        await self._until("SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)")

    async def caught_up(self, primary: "Cluster") -> None:
        """Wait until a standby has all that its primary has."""
        place = await asked(primary.url, "SELECT pg_current_wal_lsn()::text")
        await self._until(f"SELECT pg_last_wal_replay_lsn() >= '{place}'")

    async def _until(self, question: str) -> None:
        async with asyncio.timeout(60):
            while not await asked(self.url, question):  # noqa: ASYNC110 - the server sets no event
                await asyncio.sleep(0.05)


async def asked(url: str, question: str) -> Any:
    """Return the one value that a statement has."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


class Pooler:
    """Debian's PgBouncer in transaction mode: each transaction gets another session."""

    def __init__(self, folder: Path) -> None:
        """Note where its socket, its settings and its log are."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The folder with its socket."""
        return self._folder

    def lead_to(self, cluster: Cluster) -> None:
        """Be in front of *cluster*, and of no other from now on."""
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={cluster.socket} user=postgres\n"
            f"[pgbouncer]\nunix_socket_dir = {self._folder}\nlisten_port = {POOLER_PORT}\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 10\n"
            "server_round_robin = 1\nserver_login_retry = 0\nmax_client_conn = 500\n"
            f"logfile = {self._folder}/pgbouncer.log\n"
        )
        if self._process is None:
            command = as_postgres(str(which("pgbouncer")), "--quiet", str(settings))
            self._process = subprocess.Popen(command, cwd=self._folder)  # noqa: S603 - our own
            while not (self._folder / f".s.PGSQL.{POOLER_PORT}").exists():
                time.sleep(0.01)
        else:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def pooler() -> Iterator[Pooler]:
    """Make a folder for a pooler, or skip the test; stop it in the end."""
    if which("pgbouncer") is None:
        pytest.skip("Debian's PgBouncer is not here: .ci/run installs it")
    folder = Path(mkdtemp(prefix="pooler-"))
    if os.geteuid() == 0:
        chown(folder, "postgres")
    made = Pooler(folder)
    try:
        yield made
    finally:
        made.stop()
        rmtree(folder, ignore_errors=True)


@contextmanager
def clusters(*names: str) -> Iterator[list[Cluster]]:
    """Make folders for clusters, and stop those that run in the end."""
    programs()
    folder = Path(mkdtemp(prefix="clusters-"))
    folder.chmod(0o755)
    made = []
    try:
        for name in names:
            (folder / name).mkdir()
            if os.geteuid() == 0:
                chown(folder / name, "postgres")
            made.append(Cluster(folder / name))
        yield made
    finally:
        for cluster in made:
            cluster.stop()
        rmtree(folder, ignore_errors=True)
