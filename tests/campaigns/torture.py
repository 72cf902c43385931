"""
Kills processes that use one ledger, again and again, and audits what was billed.

    python tests/campaigns/torture.py --kills 5000 --processes 4 --seed 1
    python tests/campaigns/torture.py --kills 1000 --processes 4 --postgresql [--server-kills 20]
    python tests/campaigns/torture.py --kills 400 --processes 3 --restores 8
    python tests/campaigns/torture.py --kills 400 --restores 8 --mutants    (each must be found)

The truth is outside of the victims: this process knows every event, and which of them were
acknowledged; the sandbox, which no one kills, holds what was billed. An event whose caller was
killed before it was told is given again, with its id, by the next process. In the end all usage
must be billed once: lost, doubled and conflicting units are counted, and must be none.

Now and then the file is put back to what it was some kills ago, in every way in which people do it,
and the producers repeat what came since: nothing may be doubled, and what is not billed must be
named as unconfirmed.
"""

import argparse
import asyncio
import itertools
import json
import logging
import os
import pickle
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from attrs import frozen
from campaigns.mutants import MUTANTS
from support.ledgers import new_postgres_database, postgres_server, some_quantity

from marketplace_metering_async import (
    InvalidRecordError,
    LedgerError,
    MarketplaceMeteringClient,
    RetryPolicy,
    UsageLedger,
)
from marketplace_metering_async.ledger import HourState, LedgerStatus
from marketplace_metering_async.ledger.stores import store_at
from marketplace_metering_async.quantities import Quantity, kept, millionths, of_millionths
from marketplace_metering_async.sandbox import Fault, FaultKind, Rules, Sandbox, SandboxClock
from marketplace_metering_async.sandbox.http import signatures

START = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)
SPEED = 1800.0
"""Seconds of the ledger in a real second: an hour in two."""
CUSTOMERS = 12
PRODUCT = "product"

FAULTS = (
    (FaultKind.RESET_AFTER, 0.10),
    (FaultKind.TRUNCATED, 0.05),
    (FaultKind.THROTTLE, 0.05),
    (FaultKind.UNPROCESSED, 0.05),
    (FaultKind.ERROR_500_AFTER, 0.02),
    (FaultKind.ERROR_500, 0.02),
)


class World(NamedTuple):
    """Where the ledger and the sandbox are, and when time began."""

    url: str
    endpoint: str
    begun: float


class FastClock:
    """The time of all processes, faster than the real one; stepped now and then, as clocks are."""

    def __init__(self, begun: float, offset: float = 0.0) -> None:
        self._begun = begun
        self._offset = offset

    def now(self) -> datetime:
        return START + timedelta(seconds=(time.time() - self._begun) * SPEED + self._offset)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def ledger_at(url: str, clock: FastClock) -> UsageLedger:
    return UsageLedger(
        store_at(url), clock=clock, grace=600, observer=lambda event: None, slice_seconds=0.3
    )


def client_at(endpoint: str, clock: FastClock) -> MarketplaceMeteringClient:
    return MarketplaceMeteringClient(
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        calls_per_second=None,
        clock=clock,
        observer=lambda event: None,
        retry=RetryPolicy(timeout=0.3, attempt_timeout=0.3, base_delay=0.005, max_delay=0.02),
    )


async def add(ledger: UsageLedger, event: dict[str, Any]) -> None:
    await ledger.add_usage(
        dimension="requests",
        quantity=event["quantity"],
        customer_aws_account_id=event["customer"],
        product_code=PRODUCT,
        at=datetime.fromtimestamp(event["at"], UTC),
        event_id=event["id"],
    )


async def victim(world: World, seed: int, again: list[dict[str, Any]], pipe: int) -> None:
    """Add usage and relay it until killed; tell the pipe what is meant, and what is on the disk."""
    chance = random.Random(seed)
    steps = chance.choice([0.0] * 8 + [-5400.0, 7200.0])
    clock = FastClock(world.begun, steps)

    def tell(word: str, event: dict[str, Any]) -> None:
        os.write(pipe, (json.dumps([word, event], default=str) + "\n").encode())

    async def give(ledger: UsageLedger, event: dict[str, Any]) -> None:
        tell("means", event)
        with suppress(InvalidRecordError):  # of a process whose clock was ahead of ours
            await add(ledger, event)
            tell("stored", event)

    def new_event(number: int) -> dict[str, Any]:
        late = chance.choice([0, 0, 0, 0, 0, 0, 0, 1, 2]) * 3600
        return {
            "id": f"{seed}-{number}",
            "quantity": some_quantity(chance),
            "customer": f"{chance.randrange(CUSTOMERS):012d}",
            "at": int(clock.now().timestamp()) - late - chance.randrange(60),
        }

    right = FastClock(world.begun)  # a client corrects its clock by the service's
    async with ledger_at(world.url, clock) as ledger, client_at(world.endpoint, right) as client:
        await asyncio.gather(*(give(ledger, event) for event in again))
        number = 0
        while True:
            events = [new_event(number + n) for n in range(chance.randrange(1, 6))]
            number += len(events)
            if chance.random() < 0.2:  # a caller that was not sure
                events.append(events[0])
            await asyncio.gather(
                *(give(ledger, event) for event in events), ledger.relay_once(client)
            )


logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # its server is killed on purpose


def in_child(work: Callable[[], None]) -> int:
    """Run *work* in a forked process that has no loop and no thread yet."""
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        work()
    except BaseException as error:  # noqa: BLE001 - told here, since nobody else hears of it
        if not isinstance(error, LedgerError):
            traceback.print_exc()
    finally:
        os._exit(1)


class Truth:
    """Every event that was meant, and whether somebody was told that it is on the disk."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.doubtful: dict[str, dict[str, Any]] = {}

    def hear(self, line: bytes) -> None:
        word, event = json.loads(line)
        self.events[event["id"]] = event
        if word == "means":
            self.doubtful[event["id"]] = event
        else:
            self.doubtful.pop(event["id"], None)

    def stored(self) -> set[str]:
        """Return the events that are on the disk by now."""
        return self.events.keys() - self.doubtful.keys()

    def repeat_all_but(self, known: set[str]) -> None:
        """Let the next producer repeat all events that are not *known*."""
        self.doubtful = {name: event for name, event in self.events.items() if name not in known}

    def used(self) -> Counter[str]:
        """Return each customer's usage in millionths."""
        found: Counter[str] = Counter()
        for event in self.events.values():
            found[event["customer"]] += millionths(kept(event["quantity"]))
        return found


class Victims:
    """The processes under test, each with the pipe on which it tells what it does."""

    def __init__(self, start: Callable[[int, list[dict[str, Any]], int], int]) -> None:
        self._start = start
        self._alive: dict[int, tuple[int, bytes]] = {}  # process to pipe and what is half read
        self.truth = Truth()

    def spawn(self, seed: int) -> None:
        again = list(self.truth.doubtful.values())
        reading, writing = os.pipe()
        child = self._start(seed, again, writing)
        os.close(writing)
        os.set_blocking(reading, False)
        self._alive[child] = (reading, b"")

    def listen(self, child: int) -> None:
        pipe, rest = self._alive[child]
        while True:
            try:
                data = os.read(pipe, 2**16)
            except BlockingIOError:
                break
            if not data:
                break
            rest += data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            self.truth.hear(line)
        self._alive[child] = (pipe, rest)

    def listen_to_all(self) -> None:
        for child in list(self._alive):
            self.listen(child)

    def kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self._bury(child)

    def bury_the_dead(self) -> int:
        """Forget those that ended by themselves, and say how many."""
        dead = [child for child in self._alive if os.waitpid(child, os.WNOHANG)[0]]
        for child in dead:
            self._bury(child)
        return len(dead)

    def _bury(self, child: int) -> None:
        self.listen(child)
        os.close(self._alive.pop(child)[0])

    @property
    def children(self) -> list[int]:
        return list(self._alive)


class Backup:
    """The ledger's file as it was, and the events that were in it."""

    def __init__(self, url: str) -> None:
        self._file = Path(url.removeprefix("sqlite:///"))
        self._backup = self._file.with_suffix(".backup")
        self._known: set[str] | None = None

    def take(self, truth: Truth) -> None:
        """Back the file up, whoever uses it."""
        known = truth.stored()
        with closing(sqlite3.connect(self._file, timeout=60)) as of:
            if of.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0:
                return
            with closing(sqlite3.connect(self._backup)) as into:
                of.backup(into)
        self._known = known

    def put_back(self, truth: Truth, chance: random.Random) -> bool:
        """Put the file back, which nobody uses now, and have everything since then repeated."""
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
        truth.repeat_all_but(self._known)
        return True


async def adopt(world: World) -> None:
    """Say that the file that was put back is the ledger to go on with."""
    async with ledger_at(world.url, FastClock(world.begun)) as ledger:
        await ledger.adopt_copy()


def serve(begun: float, pipe: int, seed: int) -> None:
    """Run the sandbox until killed; it says where on the pipe."""
    signatures._SKEW = timedelta(days=30)  # type: ignore[misc]  # minutes go by between signing and reading

    async def run() -> None:
        faults = [Fault(kind=kind, probability=share) for kind, share in FAULTS]
        rules = Rules(future=timedelta(minutes=5))
        clock = SandboxClock(FastClock(begun).now(), speed=SPEED)
        async with Sandbox(
            clock=clock, calls_per_second=None, faults=faults, seed=seed, rules=rules
        ) as box:
            os.write(pipe, f"{box.url}\n".encode())
            await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def sandbox(begun: float, seed: int) -> Iterator[str]:
    """Run the sandbox in a process of its own and yield its URL."""
    reading, writing = os.pipe()
    child = in_child(lambda: serve(begun, writing, seed))
    try:
        yield os.read(reading, 200).decode().strip()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def ask(endpoint: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/_sandbox/{path}", data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - our own
        return json.load(reply)


@frozen(kw_only=True)
class Audit:
    """
    What was billed against what was used, in units.

    Attributes:
        lost: Used and not billed, to the last millionth.
        doubled: Billed and not used.
        conflicting: Refused, since something else was billed for the hour.
        ended: What the ledger says ended otherwise, by state. Some is quarantined where leases run
            out at once, as on this fast clock, and relay after relay takes over; it is billed.
            After a restore some is unconfirmed: billed by the ledger that is no more, or not.
    """

    kills: int
    restores: int
    events: int
    lost: Quantity
    doubled: Quantity
    conflicting: Quantity
    ended: dict[str, Quantity]
    balanced: bool

    @property
    def is_clean(self) -> bool:
        others = set(self.ended) - {
            HourState.PROBABLY_METERED,
            HourState.CONFLICT,
            HourState.QUARANTINED,
        }
        others -= {HourState.UNCONFIRMED} if self.restores else set()
        return self.balanced and not (self.lost or self.doubled or self.conflicting or others)


async def drain(world: World, doubtful: list[dict[str, Any]]) -> LedgerStatus:
    """Give doubtful events again, and relay until nothing is open; return the status."""
    clock = FastClock(world.begun)
    async with ledger_at(world.url, clock) as ledger, client_at(world.endpoint, clock) as client:
        latest = max((event["at"] for event in doubtful), default=0)
        ahead = latest - clock.now().timestamp()  # of a process whose clock was ahead
        await asyncio.sleep(max(0, ahead) / SPEED)
        for event in doubtful:
            await add(ledger, event)
        await ledger.adopt_copy()
        give_up = time.monotonic() + 30
        status = await ledger.status()
        held = HourState.QUARANTINED
        while (status.open or status.frozen or held in status.ended) and time.monotonic() < give_up:
            await ledger.retry(held)  # as a person would, after so many crashes
            await ledger.relay_once(client)
            await asyncio.sleep(0.05)
            status = await ledger.status()
        return status


def audited(
    truth: Truth, status: LedgerStatus, book: list[dict[str, Any]], kills: int, restores: int
) -> Audit:
    used, billed = truth.used(), Counter[str]()
    for record in book:
        billed[record["customer_aws_account_id"]] += millionths(kept(record["quantity"]))
    places = (status.open, status.frozen, status.metered, *status.ended.values())
    in_ledger = of_millionths(sum(map(millionths, places)))
    unconfirmed = millionths(status.ended.get(HourState.UNCONFIRMED, 0))
    return Audit(
        kills=kills,
        restores=restores,
        events=len(truth.events),
        lost=of_millionths(max(0, (used - billed).total() - unconfirmed)),
        doubled=of_millionths((billed - used).total()),
        conflicting=status.ended.get(HourState.CONFLICT, 0),
        ended={str(state): units for state, units in status.ended.items()},
        balanced=status.recorded == in_ledger == of_millionths(used.total()),
    )


def torture(
    url: str,
    *,
    kills: int,
    processes: int,
    seed: int,
    mutant: str | None = None,
    restores: int = 0,
    between: Callable[[int], None] = lambda kill: None,
) -> Audit:
    """Kill *processes* one by one, so many times, and put a file back; then drain and audit."""
    chance = random.Random(seed)
    backup, restored = Backup(url), 0
    turns = kills // max(restores, 1)  # a backup, a restore, and an adoption in each
    begun = time.time()
    with sandbox(begun, seed) as endpoint:
        world = World(url, endpoint, begun)

        def start(number: int, again: list[dict[str, Any]], pipe: int) -> int:
            def work() -> None:
                if mutant is not None:
                    MUTANTS[mutant]()
                asyncio.run(victim(world, seed * 10**6 + number, again, pipe))

            return in_child(work)

        def by_a_person() -> None:
            if mutant is not None:
                MUTANTS[mutant]()
            asyncio.run(adopt(world))

        victims = Victims(start)
        numbers = itertools.count()
        for kill in range(kills):
            while len(victims.children) < processes:
                victims.spawn(next(numbers))
            until = time.monotonic() + chance.choice([0.03, 0.06, 0.12, 0.25]) * chance.random()
            while time.monotonic() < until:
                time.sleep(0.005)
                victims.listen_to_all()
            between(kill)
            if restores and kill % turns == turns // 4:
                backup.take(victims.truth)
            if restores and kill % turns == turns * 3 // 4:
                for child in victims.children:
                    victims.kill(child)
                restored += backup.put_back(victims.truth, chance)
                continue
            if restores and kill % turns == turns - 1:
                os.waitpid(in_child(by_a_person), 0)
            if not victims.bury_the_dead():
                victims.kill(chance.choice(victims.children))
        for child in victims.children:
            victims.kill(child)
        ask(endpoint, "faults", {"faults": []})
        doubtful = list(victims.truth.doubtful.values())

        def finish(pipe: int) -> None:
            if mutant is not None:
                MUTANTS[mutant]()
            status = asyncio.run(drain(world, doubtful))
            os.write(pipe, pickle.dumps(status))

        status = _status_of(finish)
        book = ask(endpoint, "book?records=1")["records"]
        return audited(victims.truth, status, book, kills, restored)


def _status_of(finish: Callable[[int], None]) -> LedgerStatus:
    """Drain in a process, so that a mutant stays in it."""
    reading, writing = os.pipe()
    child = in_child(lambda: finish(writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError("the ledger could not be drained")
    status: LedgerStatus = pickle.loads(said)  # noqa: S301 - our own
    return status


@contextmanager
def place(*, postgresql: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the URL of a new ledger, and how to crash its server."""
    if postgresql:
        with postgres_server() as server:
            yield asyncio.run(new_postgres_database(server.url)), server.crash
    else:
        with tempfile.TemporaryDirectory(prefix="torture") as folder:
            yield f"sqlite:///{folder}/usage.db", lambda: None


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes that use one ledger, and audit.")
    parser.add_argument("--kills", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--server-kills", type=int, default=0)
    parser.add_argument("--restores", type=int, default=0)
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    given = parser.parse_args()
    failures = 0
    for name in sorted(MUTANTS) if given.mutants else [given.mutant]:
        began = time.monotonic()
        audit = one_round(given, name)
        took = time.monotonic() - began
        say(f"{name or 'as shipped'}, seed {given.seed}, {took:.0f} s: {audit}")
        failures += audit.is_clean if name else not audit.is_clean
    if failures:
        say(f"FAILED; again with: python {' '.join(sys.argv)} --seed {given.seed}")
    return bool(failures)


def one_round(given: argparse.Namespace, mutant: str | None) -> Audit:
    every = given.kills // (given.server_kills + 1)
    with place(postgresql=given.postgresql) as (url, crash):

        def between(kill: int) -> None:
            if given.server_kills and kill % every == every - 1:
                crash()

        return torture(
            url,
            kills=given.kills,
            processes=given.processes,
            seed=given.seed,
            mutant=mutant,
            restores=given.restores,
            between=between,
        )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
