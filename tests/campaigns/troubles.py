"""What befalls a ledger: places that can be put back, and a service with faults."""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from campaigns.truth import Truth
from campaigns.victims import SPEED, FastClock, Victims, in_child
from support.clusters import POOLER_PORT, Cluster, Pooler, clusters, pooler
from support.ledgers import PostgresServer, new_postgres_database, postgres_server

from marketplace_metering_async.sandbox import Fault, FaultKind, Rules, Sandbox, SandboxClock
from marketplace_metering_async.sandbox.http import signatures

FAULTS = (
    Fault(kind=FaultKind.RESET_AFTER, probability=0.10),
    Fault(kind=FaultKind.TRUNCATED, probability=0.05),
    Fault(kind=FaultKind.THROTTLE, probability=0.05),
    Fault(kind=FaultKind.UNPROCESSED, probability=0.05),
    Fault(kind=FaultKind.ERROR_500_AFTER, probability=0.02),
    Fault(kind=FaultKind.ERROR_500, probability=0.02),
)
LOST_COMMITS = 0.04
"""The share of them that a network cuts off: half before the server hears of them, half after."""
ACCOUNT_FAULTS = ("AccessDeniedException", "ExpiredTokenException")


class Place(Protocol):
    """
    Where a ledger is.

    Attributes:
        url: Its URL.
    """

    url: str

    def crash(self) -> None:
        """Kill its server, if it has one, and start it again."""
        ...

    def keep(self, truth: Truth, *, lossy: bool) -> None:
        """Note what is stored, to be put back to; not *lossy*: nothing will be."""
        ...

    def put_back(self, victims: Victims, chance: random.Random) -> bool:
        """Let the ledger be what was kept, and all since then be repeated; whether it was lossy."""
        ...


class FilePlace:
    """A SQLite file, which is restored in every way in which people do it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "usage.db"
        self._backup = folder / "usage.backup"
        self._known: set[str] | None = None
        self.url = f"sqlite:///{self._file}"

    def crash(self) -> None:
        """Do nothing: it has no server."""

    def keep(self, truth: Truth, *, lossy: bool) -> None:
        if not lossy:
            return
        known = truth.stored()
        with closing(sqlite3.connect(self._file, timeout=60)) as of:
            if of.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0:
                return
            with closing(sqlite3.connect(self._backup)) as into:
                of.backup(into)
        self._known = known

    def put_back(self, victims: Victims, chance: random.Random) -> bool:
        victims.kill_all()
        if self._known is None:
            return False
        if chance.random() < 0.3:
            with (
                closing(sqlite3.connect(self._backup)) as of,
                closing(sqlite3.connect(self._file)) as into,
            ):
                of.backup(into)
        else:
            for end in ("-wal", "-shm"):
                self._file.with_name(self._file.name + end).unlink(missing_ok=True)
            if chance.random() < 0.5:
                self._file.unlink()
            shutil.copyfile(self._backup, self._file)
        victims.truth.repeat_all_but(self._known)
        self._known = None
        return True


class ServerPlace:
    """A database in a PostgreSQL that is crashed, behind a network that loses commits."""

    def __init__(self, server: PostgresServer, network: Path) -> None:
        self._server = server
        made = urlsplit(asyncio.run(new_postgres_database(server.url)))
        self.url = made._replace(query=f"host={network}").geturl()

    def crash(self) -> None:
        self._server.crash()

    def keep(self, truth: Truth, *, lossy: bool) -> None:
        """Do nothing: it has no standby."""

    def put_back(self, victims: Victims, chance: random.Random) -> bool:
        """Do nothing: it has no standby."""
        del victims, chance
        return False


class PairPlace:
    """
    A primary with a standby that takes over, and a pooler in front of them if there is one.

    The victims live through it: they find the new primary by the pooler, or by the addresses.
    """

    def __init__(self, pair: list[Cluster], front: Pooler | None, watermark: Path) -> None:
        self._primary, self._standby = pair
        self._front = front
        self._follows = False  # whether the standby is there
        self._known: set[str] | None = None
        self._primary.make()
        if front is None:
            hosts = f"host={self._primary.socket},{self._standby.socket}"
            where = f"{hosts}&target_session_attrs=primary"
        else:
            front.lead_to(self._primary)
            where = f"host={front.socket}&port={POOLER_PORT}"
        self.url = f"postgresql://postgres@/postgres?{where}&watermark={watermark}"

    def crash(self) -> None:
        self._primary.restart()

    def keep(self, truth: Truth, *, lossy: bool) -> None:
        self._known = None
        if not self._follows:
            self._standby.follow(self._primary)
            self._follows = True
        if lossy:
            self._known = truth.stored()
            asyncio.run(self._standby.caught_up(self._primary))
            asyncio.run(self._standby.cut_off())

    def put_back(self, victims: Victims, chance: random.Random) -> bool:
        """Fail over."""
        del chance
        victims.signal_all(signal.SIGSTOP)
        if self._known is None:
            time.sleep(0.05)  # what has left the victims ends
            asyncio.run(self._standby.caught_up(self._primary))
        self._primary.stop()
        victims.listen_to_all()
        self._standby.promote()
        if self._front is not None:
            self._front.lead_to(self._standby)
        if self._known is not None:
            victims.truth.repeat_all_but(self._known)
        victims.signal_all(signal.SIGCONT)
        self._primary.forget()
        self._primary, self._standby = self._standby, self._primary
        self._follows = False
        return self._known is not None


@contextmanager
def file_place() -> Iterator[Place]:
    """Yield a new file."""
    with tempfile.TemporaryDirectory(prefix="torture") as folder:
        yield FilePlace(Path(folder))


@contextmanager
def server_place() -> Iterator[Place]:
    """Yield a database in a PostgreSQL of its own."""
    with postgres_server() as server, tempfile.TemporaryDirectory(prefix="torture") as folder:
        theirs, ours = server.socket, Path(folder) / server.socket.name
        child = in_child(lambda: asyncio.run(lose_commits(theirs, ours)))
        try:
            while not ours.exists():
                time.sleep(0.01)
            yield ServerPlace(server, Path(folder))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


async def lose_commits(server: Path, at: Path) -> None:
    """Listen *at* a socket, be the *server*, and cut some clients off at their COMMIT."""
    chance = random.Random(0)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            fate = chance.random() if data.endswith(b"COMMIT;\0") else 1.0
            if fate >= LOST_COMMITS / 2:  # it reaches the server
                writer.write(data)
                await writer.drain()
            if fate < LOST_COMMITS:
                await asyncio.sleep(0.02)
                return

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_unix_connection(str(server))
            ways = [asyncio.create_task(carry(*way)) for way in ((reader, back), (there, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.transport.abort()
        writer.transport.abort()

    async with await asyncio.start_unix_server(connected, str(at)) as listening:
        await listening.serve_forever()


@contextmanager
def pair_place(*, pooled: bool) -> Iterator[Place]:
    """Yield a database in a primary with a standby: Debian's."""
    with ExitStack() as stack:
        watermark = stack.enter_context(tempfile.TemporaryDirectory(prefix="torture"))
        pair = stack.enter_context(clusters("first", "second"))
        front = stack.enter_context(pooler()) if pooled else None
        yield PairPlace(pair, front, Path(watermark))


def serve(begun: float, pipe: int, seed: int) -> None:
    """Run the sandbox until killed; it says where on the pipe."""
    signatures._SKEW = timedelta(days=30)  # type: ignore[misc]  # minutes go by between signing and reading

    async def run() -> None:
        rules = Rules(future=timedelta(minutes=5))
        clock = SandboxClock(FastClock(begun).now(), speed=SPEED)
        async with Sandbox(
            clock=clock, calls_per_second=None, faults=FAULTS, seed=seed, rules=rules
        ) as box:
            os.write(pipe, f"{box.url}\n".encode())
            await asyncio.Event().wait()

    asyncio.run(run())


class Service:
    """The sandbox, in a process of its own."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def fail(self, code: str) -> None:
        """Refuse all, for what lies with the account."""
        self._order("faults", {"faults": [{"kind": "refuse", "code": code}]})

    def recover(self) -> None:
        """Have the usual faults."""
        usual = [{"kind": fault.kind, "probability": fault.probability} for fault in FAULTS]
        self._order("faults", {"faults": usual})

    def be_well(self) -> None:
        """Have no faults."""
        self._order("faults", {"faults": []})

    def records(self) -> list[dict[str, Any]]:
        """Return what was billed."""
        found: list[dict[str, Any]] = self._order("book?records=1")["records"]
        return found

    def _order(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.endpoint}/_sandbox/{path}", data, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=300) as reply:  # noqa: S310 - our own
            return json.load(reply)


@contextmanager
def service(begun: float, seed: int) -> Iterator[Service]:
    """Run the sandbox, which nobody kills."""
    reading, writing = os.pipe()
    child = in_child(lambda: serve(begun, writing, seed))
    try:
        yield Service(os.read(reading, 200).decode().strip())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
