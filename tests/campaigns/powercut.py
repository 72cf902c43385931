"""
Cuts the power under a ledger in a SQLite file, again and again, and audits what is left.

    python tests/campaigns/powercut.py --cuts 2000 --seed 1
    python tests/campaigns/powercut.py --cuts 200 --synchronous NORMAL    (must find lost usage)
    python tests/campaigns/powercut.py --cuts 2000 --failing 0.1    (a tenth of all syncs fail)

A ledger lives for a while on a disk that notes each write, sync and deletion that SQLite asks for.
The power goes at any of them: what was not synced by then is lost, kept or torn, sector by sector.
The next start finds that disk, and the service as it was. Whatever was acknowledged must be there,
and once all usage is given again under its ids and relayed, it must be billed once. Some ledgers
go on from where the power went, until it goes again.

A seed repeats all choices but the order in which threads come to run. The disk of the first cut
that fails is kept.
"""

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Final, Self

sys.path.insert(0, str(Path(__file__).parents[1]))

from attrs import Factory, define, evolve, field, frozen
from support.disk import Disk, Mark, Operation, Sync, memory, without_cut
from support.ledgers import SetClock
from support.memory import MemoryService
from support.recorded import FILE, Connect, Life, Outside, add, client_for, connect_with, ledger_in
from support.vfs import recording

from marketplace_metering_async import HourState, LedgerError, UsageLedger
from marketplace_metering_async.quantities import millionths
from marketplace_metering_async.sandbox import Book

CUTS_OF_ONE_LIFE: Final = 50
MOST_LIVES: Final = 2
"""With more of them, a day goes by, and the service takes the first usage no more."""


def copy_of(book: Book, count: int | None = None) -> Book:
    """Return a book with the first *count* records of another one."""
    return Book(records=dict(book.metered.entries()[:count]))


@frozen
class Wreck:
    """
    What is there after a cut.

    Attributes:
        files: Name to content.
        book: What the service has.
        lives: How often the power went.
    """

    files: dict[str, bytes] = Factory(dict)
    outside: Outside = Factory(Outside)
    book: Book = Factory(Book)
    lives: int = 0

    @classmethod
    def at(cls, disk: Disk, outside: Outside, book: Book, chance: Random, lives: int) -> Self:
        """Return what is left of a disk, some time after the cut."""
        then = evolve(
            outside,
            meant=dict(outside.meant),
            told=set(outside.told),
            on_the_wire=set(),
            now=outside.now + timedelta(minutes=chance.choice([0, 2, 45, 150])),
        )
        return cls(disk.after_cut(), then, copy_of(book, outside.billed), lives)

    def write_to(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


@frozen
class Recording:
    """
    All that was asked of a disk from *begins* on, and the service's book in the end.

    What comes before, brings the disk to where the life began.
    """

    operations: Sequence[Operation]
    begins: int
    book: Book
    lives: int

    @classmethod
    def of_life_after(
        cls, wreck: Wreck, chance: Random, connect: Connect, failing: float = 0.0
    ) -> Self:
        """Live on from a *wreck*; what is recorded must be all that is on the disk."""
        outside, book = wreck.outside, copy_of(wreck.book)
        with (
            tempfile.TemporaryDirectory(dir=memory()) as name,
            recording(Path(name)) as recorder,
        ):
            wreck.write_to(Path(name))
            recorder.begin_with(wreck.files)
            recorder.operations += [
                Mark("time", outside.now),
                *(Mark("means", event) for event in outside.meant.values()),
                *(Mark("told", event_id) for event_id in outside.told),
                Mark("billed", (-1, outside.billed)),
            ]
            begins = len(recorder.operations)
            failures = Random(chance.random())
            recorder.sync_fails = lambda: failures.random() < failing
            asyncio.run(Life(Path(name), recorder, chance, outside, book).live(connect))
            # All but the shared memory, which stays where a failing disk keeps it from going.
            files = {str(path.relative_to(name)): path for path in Path(name).rglob("*")}
            found = {
                relative: path.read_bytes()
                for relative, path in files.items()
                if path.is_file() and not relative.endswith("-shm")
            }
        if len(recorder.operations) == begins or without_cut(recorder.operations) != found:
            raise RuntimeError("the simulation missed something that was done to the disk")
        return cls(recorder.operations, begins, book, wreck.lives + 1)

    def wrecks(self, cuts: int, chance: Random) -> Iterator[Wreck]:
        """Yield what is left after each of so many cuts, in order."""
        disk, outside, done = Disk(chance), Outside(), 0
        for cut in self._cuts(cuts, chance):
            for operation in self.operations[done:cut]:
                disk.take(operation)
                if isinstance(operation, Mark):
                    outside.hear(operation)
            done = cut
            arrived = evolve(outside, billed=self._billed_after(cut, outside, chance))
            yield Wreck.at(disk, arrived, self.book, chance, self.lives)

    def _cuts(self, cuts: int, chance: Random) -> list[int]:
        """Choose when the power goes: anywhere, at the start, after a mark, or before a sync."""
        anywhere = range(self.begins, len(self.operations) + 1)
        marks = [n for n in anywhere if isinstance(self.operations[n - 1], Mark)]
        syncs = [n for n in anywhere[:-1] if isinstance(self.operations[n], Sync)]
        places = [anywhere, anywhere[:200], marks, syncs]
        return sorted(chance.choice(chance.choice(places)) for _ in range(cuts))

    def _billed_after(self, cut: int, outside: Outside, chance: Random) -> int:
        """Let the next request arrive that was on the wire when the power went, or not."""
        for mark in self.operations[cut:]:
            match mark:
                case Mark("billed", (number, count)):
                    arrives = number in outside.on_the_wire and chance.random() < 0.5
                    return int(count) if arrives else outside.billed
        return outside.billed


@define
class Audit:
    """
    What was found after all cuts.

    Attributes:
        acknowledged: Pieces of usage that had been acknowledged, at all cuts together.
        failed: How many cuts left something wrong.
        lost: How many acknowledged pieces were not in the ledger.
        unbilled: Units used and not billed, after all usage was given again.
        doubled: Units billed and not used.
        conflicting: Units that the service refused, since it has others for the hour.
        damaged: Ledgers that did not open, or whose file was not whole.
        untrue: Ledgers that did not add up, or said other than the service's book.
        first: What was left by the first cut that failed.
    """

    cuts: int = 0
    acknowledged: int = 0
    failed: int = 0
    lost: int = 0
    unbilled: int = 0
    doubled: int = 0
    conflicting: int = 0
    damaged: int = 0
    untrue: int = 0
    first: Wreck | None = field(default=None, repr=False)

    @property
    def is_clean(self) -> bool:
        return not self.failed

    def add(self, wreck: Wreck, found: "Audit") -> None:
        """Count what was found after one cut."""
        self.cuts += 1
        self.acknowledged += len(wreck.outside.told)
        for name in ("lost", "unbilled", "doubled", "conflicting", "damaged", "untrue"):
            setattr(self, name, getattr(self, name) + getattr(found, name))
        if not found.is_clean:
            self.failed += 1
            self.first = self.first or wreck


async def audited(wreck: Wreck) -> Audit:
    """Start again from a *wreck*, give all usage again, relay it, and compare."""
    found = Audit()
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        wreck.write_to(Path(name))
        try:
            await _start_again(Path(name), wreck, found)
        except LedgerError:
            found.damaged = 1
    found.failed = int(evolve(found, failed=0) != Audit())
    return found


async def _start_again(folder: Path, wreck: Wreck, found: Audit) -> None:
    clock, outside = SetClock(wreck.outside.now), wreck.outside
    book = copy_of(wreck.book)
    service = MemoryService(book=book, clock=clock)
    service.round_trip = 0.0
    async with ledger_in(folder, clock) as ledger, client_for(service, clock) as client:
        found.damaged = int(not _is_whole(folder / FILE))
        added = await asyncio.gather(*(add(ledger, event) for event in outside.meant.values()))
        known = {e for e, one in zip(outside.meant, added, strict=True) if one.repeated}
        found.lost = len(outside.told - known)
        for minutes in (11, *[60] * 8):  # late usage may be about to be too late
            clock.step(minutes=minutes)
            await ledger.relay_once(client)
        await _compare(ledger, outside, book, found)


async def _compare(ledger: UsageLedger, outside: Outside, book: Book, found: Audit) -> None:
    used, billed = Counter[str](), Counter[str]()
    for event in outside.meant.values():
        used[event.customer] += millionths(event.quantity)
    for record in book.records:
        billed[record.customer] += millionths(record.quantity)
    found.unbilled, found.doubled = (used - billed).total(), (billed - used).total()
    status = await ledger.status()
    found.conflicting = millionths(status.ended.get(HourState.CONFLICT, 0))
    billed_by_its_word = {
        (entry.customer_aws_account_id or "", entry.dimension, entry.hour): entry.quantity
        async for entry in ledger.history()
        if entry.state in (HourState.METERED, HourState.PROBABLY_METERED)
    }
    places = (status.metered, status.ended.get(HourState.PROBABLY_METERED, 0))
    adds_up = millionths(status.recorded) == sum(map(millionths, places)) == used.total()
    found.untrue = int(not adds_up or bool(book.differences(billed_by_its_word)))


def _is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        try:
            whole = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return whole and not connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.DatabaseError:
            return False


def powercuts(cuts: int, seed: int, *, synchronous: str = "FULL", failing: float = 0.0) -> Audit:
    """Cut the power so many times, and audit; a share of syncs is *failing* before."""
    audit, wreck, chance = Audit(), Wreck(), Random(seed)
    while audit.cuts < cuts:
        connect = connect_with(synchronous, chance.choice([None, 8, 50]))
        recorded = Recording.of_life_after(wreck, chance, connect, failing)
        wrecks = list(recorded.wrecks(min(CUTS_OF_ONE_LIFE, cuts - audit.cuts), chance))
        for wreck in wrecks:
            audit.add(wreck, asyncio.run(audited(wreck)))
        wreck = chance.choice([Wreck(), chance.choice(wrecks)])
        wreck = Wreck() if wreck.lives == MOST_LIVES else wreck
    return audit


def main() -> int:
    parser = argparse.ArgumentParser(description="Cut the power under a ledger, and audit.")
    parser.add_argument("--cuts", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL", "OFF"], default="FULL")
    parser.add_argument("--failing", type=float, default=0.0, help="share of syncs that fail")
    given = parser.parse_args()
    began = time.monotonic()
    audit = powercuts(given.cuts, given.seed, synchronous=given.synchronous, failing=given.failing)
    took = time.monotonic() - began
    sys.stdout.write(f"{given.synchronous}, seed {given.seed}, {took:.0f} s: {audit}\n")
    if audit.first is not None:
        folder = Path(tempfile.mkdtemp(prefix="powercut-"))
        audit.first.write_to(folder)
        sys.stdout.write(f"the first disk that failed is in {folder}\n")
    return int(not audit.is_clean)


if __name__ == "__main__":
    sys.exit(main())
