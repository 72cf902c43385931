"""
Kills processes that use one ledger, again and again, and audits what was billed.

    python tests/campaigns/torture.py --kills 5000 --processes 4 --all
    python tests/campaigns/torture.py --kills 1000 --processes 4 --pair --pooler --all
    python tests/campaigns/torture.py --kills 1000 --postgresql --all
    python tests/campaigns/torture.py --mutants                        (each must be found)

The truth is outside of the victims: this process knows every event, and which of them were
acknowledged; the sandbox, which no one kills, holds what was billed. An event whose caller was
killed before it was told is given again, with its id, by the next process. In the end all usage
must be billed once, in its month: lost, doubled and conflicting units are counted: none.

Meanwhile, as the options say, clocks are stepped, the account's access is denied for a while, event
ids are pruned and old events repeated, usage is added in transactions of callers who commit, roll
back or die, and events without an id are never repeated. Now and then the ledger is put back to
what it was some kills ago, by a restored file or by a standby that takes over without the last
commits; the producers repeat what came since: nothing may be doubled, and what is not billed must
be named.
"""

import argparse
import asyncio
import itertools
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from attrs import evolve, frozen
from campaigns.mutants import MUTANTS
from campaigns.troubles import (
    ACCOUNT_FAULTS,
    Place,
    Service,
    file_place,
    pair_place,
    server_place,
    service,
)
from campaigns.truth import Audit, Event, Said, audited
from campaigns.victims import (
    SPEED,
    START,
    FastClock,
    Victim,
    Victims,
    World,
    add,
    client_at,
    in_child,
    ledger_at,
)

from marketplace_metering_async import CannotResolveError, LedgerError, UsageLedger
from marketplace_metering_async.errors import EventTooOldError
from marketplace_metering_async.ledger import HourState, LedgerStatus
from marketplace_metering_async.ledger.model import ENDED

EDGE = datetime(2026, 12, 1, tzinfo=UTC)
ROUNDS = 12
"""Chance decides whether a round meets a mistake: where one does not, the next has another seed."""
_TO_THE_EDGE = (EDGE - START).total_seconds() - 5400


@frozen(kw_only=True)
class Round:
    """
    What a round does to a ledger.

    Attributes:
        kills: How many processes are killed.
        processes: How many there are at a time.
        seed: Of all chance.
        mutant: Which mistake the ledger has; None: none.
        setbacks: How often it is put back to what it was, and adopted.
        failovers: How often another server takes over without a loss.
        crashes: How often its server is crashed.
        account_faults: How often the account's access is denied, for a few kills.
        prunes: How often event ids are pruned, and old events repeated.
        pace: How long a victim lives: 1 is 50 ms for each of them, at the mean.
        month_end: Whether it begins shortly before the end of a month.
        clock_jumps, transactions, unnamed: As in World.
    """

    kills: int
    processes: int = 3
    seed: int = 0
    mutant: str | None = None
    setbacks: int = 0
    failovers: int = 0
    crashes: int = 0
    account_faults: int = 0
    prunes: int = 0
    pace: float = 1.0
    month_end: bool = False
    clock_jumps: bool = False
    transactions: bool = False
    unnamed: bool = False

    @property
    def ids_kept(self) -> float:
        """Seconds for which event ids are kept: longer than usage is late."""
        return 4.2 * 3600 if self.clock_jumps else 2.2 * 3600

    def act(self) -> None:
        """Make the mistake in this process."""
        if self.mutant is not None:
            MUTANTS[self.mutant]()

    def moments(self, times: int, offset: float) -> set[int]:
        """Return the kills at which something happens, so many *times*."""
        return {int(self.kills * (n + offset) / times) for n in range(times)}


class Torture:
    """One round."""

    def __init__(self, place: Place, this: Round) -> None:
        self._place = place
        self._this = this
        self._chance = random.Random(this.seed)
        self._numbers = itertools.count()
        self._victims = Victims(self._start)
        self._old: list[Event] = []  # to be repeated by the next victim
        self._all_old: set[str] = set()
        self._setbacks = 0
        self._begun = time.time() - (_TO_THE_EDGE / SPEED if this.month_end else 0)
        self._kept_at = self._now()
        self._world: World
        self._service: Service

    def run(self) -> Audit:
        """Do it, drain, and audit."""
        this = self._this
        with service(self._begun, this.seed) as self._service:
            self._world = World(
                self._place.url,
                self._service.endpoint,
                self._begun,
                clock_jumps=this.clock_jumps,
                transactions=this.transactions,
                unnamed=this.unnamed,
                late=1 if this.prunes and not this.setbacks else 2,
            )
            plan = dict(self._plan())
            for kill in range(this.kills):
                if kill % 500 == 499:
                    say(f"{kill + 1} kills")
                while len(self._victims.children) < this.processes:
                    self._victims.spawn(next(self._numbers), old=self._old)
                    self._old = []
                self._wait()
                for happens in plan.get(kill, ()):
                    happens()
                if not self._victims.bury_the_dead() and self._victims.children:
                    self._victims.kill(self._chance.choice(self._victims.children))
            self._victims.kill_all()
            self._service.be_well()
            status, said, stuck = self._drained()
            return audited(
                self._victims.truth,
                status,
                said,
                self._service.records(),
                kills=this.kills,
                stuck=stuck,
                setbacks=self._setbacks,
                is_month_over=self._now() > EDGE.timestamp(),
            )

    def _plan(self) -> Iterator[tuple[int, list[Callable[[], None]]]]:
        """Yield the kills at which something happens, and what."""
        this, plan = self._this, dict[int, list[Callable[[], None]]]()

        def at(times: int, offset: float, happens: Callable[[], None]) -> None:
            for kill in this.moments(times, offset):
                plan.setdefault(kill, []).append(happens)

        at(this.setbacks, 0.25, self._keep)
        at(this.setbacks, 0.6, self._put_back)
        at(this.setbacks, 0.8, lambda: self._by_a_person(adopt))
        at(this.failovers, 0.95, self._fail_over)
        at(this.crashes, 0.5, self._place.crash)
        at(
            this.account_faults,
            0.3,
            lambda: self._service.fail(self._chance.choice(ACCOUNT_FAULTS)),
        )
        at(this.account_faults, 0.45, self._service.recover)
        at(this.prunes, 0.99, self._prune)
        yield from plan.items()

    def _wait(self) -> None:
        pause = self._chance.choice([0.03, 0.06, 0.12, 0.25]) * self._chance.random()
        until = time.monotonic() + pause * self._this.pace
        while time.monotonic() < until:
            time.sleep(0.005)
            self._victims.listen_to_all()

    def _now(self) -> float:
        return FastClock(self._begun).now().timestamp()

    def _keep(self) -> None:
        self._kept_at = self._now()
        self._place.keep(self._victims.truth, lossy=True)

    def _put_back(self) -> None:
        self._setbacks += self._place.put_back(self._victims, self._chance)

    def _fail_over(self) -> None:
        self._place.keep(self._victims.truth, lossy=False)
        self._place.put_back(self._victims, self._chance)

    def _prune(self) -> None:
        before = self._pruned_before()
        old = self._victims.truth.older_than(before)
        some = self._chance.sample(old, min(20, len(old)))
        self._old = [event for event in some if event["named"]]
        self._all_old |= {event["id"] for event in self._old}
        self._by_a_person(lambda world: prune(world, before))

    def _pruned_before(self) -> float:
        """Return the time from which on nobody may forget: whatever may be repeated is later."""
        self._victims.listen_to_all()
        repeated: list[float] = [event["at"] for event in self._victims.truth.doubtful.values()]
        if self._this.setbacks:
            repeated.append(self._kept_at)
        return min([self._now() - self._this.ids_kept, *(at - 4.2 * 3600 for at in repeated)])

    def _start(self, number: int, again: list[Event], pipe: int) -> int:
        def work() -> None:
            self._this.act()
            seed = self._this.seed * 10**6 + number
            asyncio.run(Victim(self._world, seed, again, pipe).run())

        return in_child(work, may_end_by=(LedgerError,))  # a server is away

    def _by_a_person(self, does: Callable[[World], Coroutine[None, None, None]]) -> None:
        def work() -> None:
            self._this.act()
            asyncio.run(does(self._world))

        os.waitpid(in_child(work), 0)

    def _drained(self) -> tuple[LedgerStatus, list[Said], int]:
        """Drain in a process, so that a mutant stays in it; return what drain does."""
        reading, writing = os.pipe()
        given = self._victims.truth.to_repeat()  # old ones, whose victim was killed, are stored
        doubtful = [event for event in given if event["id"] not in self._all_old]

        def work() -> None:
            self._this.act()
            patience = 120.0 if self._this.mutant is None else 15.0
            found = asyncio.run(drain(self._world, doubtful, patience))
            os.write(writing, pickle.dumps(found))

        child = in_child(work)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        if not said:
            raise RuntimeError("the ledger could not be drained")
        found: tuple[LedgerStatus, list[Said], int] = pickle.loads(said)  # noqa: S301 - our own
        return found


def torture(place: Place, this: Round) -> Audit:
    """Kill the users of the ledger at *place*, one by one; then drain and audit."""
    return Torture(place, this).run()


async def adopt(world: World) -> None:
    """Say that the ledger that was put back is the one to go on with."""
    async with ledger_at(world.url, FastClock(world.begun)) as ledger:
        await ledger.adopt_copy()


async def prune(world: World, before: float) -> None:
    """Forget old event ids, sooner than anybody may."""
    clock = FastClock(world.begun)
    async with ledger_at(world.url, clock) as ledger:
        now = int(clock.now().timestamp())
        while await ledger._store.prune_events(int(before), now, 5_000):
            pass


async def drain(
    world: World, doubtful: list[Event], patience: float
) -> tuple[LedgerStatus, list[Said], int]:
    """
    Give doubtful events again, and relay until nothing is open, for so many seconds.

    Return the status, what it says of each record, and how many that have ended have no way out.
    """
    clock = FastClock(world.begun)
    async with ledger_at(world.url, clock) as ledger, client_at(world.endpoint, clock) as client:
        latest = max((event["at"] for event in doubtful), default=0)
        ahead = latest - clock.now().timestamp()  # of a process whose clock was ahead
        await asyncio.sleep(max(0, ahead) / SPEED)
        for event in doubtful:
            try:
                await add(ledger, event)
            except EventTooOldError:
                raise AssertionError("ids were pruned of events that may yet be repeated") from None
        await ledger.adopt_copy()
        give_up = time.monotonic() + patience
        status = await ledger.status()
        held = HourState.QUARANTINED
        while (status.open or status.frozen or held in status.ended) and time.monotonic() < give_up:
            await ledger.retry(held)  # as a person would, after so many crashes
            await ledger.relay_once(client)
            await asyncio.sleep(0.05)
            status = await ledger.status()
        said = [
            Said(entry.customer_aws_account_id, int(stamp.timestamp()), entry.quantity, entry.state)
            async for entry in ledger.history()
            if (stamp := entry.timestamp) is not None and entry.customer_aws_account_id is not None
        ]
        return status, said, await without_a_way_out(ledger)


async def without_a_way_out(ledger: UsageLedger) -> int:
    """Write off all that has ended, as a person may; return how much cannot be."""
    ended = [entry.name async for entry in ledger.history() if entry.state in ENDED]
    if ended:
        with suppress(CannotResolveError):
            await ledger.resolve(ended, "written_off", note="the torture is over")
    return sum(
        [
            entry.state is not HourState.WRITTEN_OFF
            async for entry in ledger.history()
            if entry.state in ENDED
        ]
    )


def where_it_shows(mutant: str, seed: int) -> tuple[AbstractContextManager[Place], Round]:
    """Return the place and the round in which a mistake shows, if chance has it."""
    usual = Round(kills=60, processes=2, seed=seed, mutant=mutant)
    match mutant:
        case "acknowledge_before_commit" | "acknowledge_before_send":
            return file_place(), usual
        case "no_event_id":
            return file_place(), evolve(usual, kills=15)
        case (
            "adopted_copy_holds_nothing"
            | "adoption_raises_no_counter"
            | "claims_are_not_counted"
            | "copy_is_not_seen"
            | "sent_before_it_is_written_down"
        ):
            return file_place(), evolve(usual, setbacks=3)
        case (
            "callers_usage_is_committed_at_once"
            | "callers_usage_is_folded_twice"
            | "callers_usage_is_rolled_back"
        ):
            return server_place(), evolve(usual, kills=12, pace=8, transactions=True)
        case "callers_usage_is_removed_by_number":
            return server_place(), evolve(usual, kills=40, pace=8, transactions=True)
        case "plain_hours_are_not_counted" | "plain_events_are_not_counted":
            return server_place(), evolve(usual, kills=40, pace=8)
        case "lost_commit_counts_as_done" | "lost_commit_is_repeated":
            return server_place(), evolve(usual, kills=4, pace=80, unnamed=True)
        case "months_have_no_end" | "usage_is_of_when_it_comes":
            return file_place(), evolve(usual, month_end=True)
        case "old_events_are_new" | "pruning_leaves_no_note":
            return file_place(), evolve(usual, kills=120, prunes=3)
        case "denied_is_metered" | "denied_is_refused":
            return file_place(), evolve(usual, account_faults=3)
    return file_place(), evolve(usual, kills=400, processes=4)


def find(mutant: str, seeds: int) -> Audit | None:
    """Return the first audit, by so many *seeds*, that finds a mistake; None: it is not found."""
    for seed in range(seeds):
        context, this = where_it_shows(mutant, seed)
        with context as place:
            audit = torture(place, this)
        if not audit.is_clean:
            return audit
    return None


def place_of(given: argparse.Namespace) -> AbstractContextManager[Place]:
    """Return where the ledger is, as the options say."""
    if given.pair or given.pooler:
        return pair_place(pooled=given.pooler)
    return server_place() if given.postgresql else file_place()


def round_of(given: argparse.Namespace) -> Round:
    """Return what the options say."""
    is_file = not (given.pair or given.pooler or given.postgresql)
    is_single = given.postgresql and not (given.pair or given.pooler)
    every = max(1, given.kills // 50) if given.all else 0
    return Round(
        kills=given.kills,
        pace=1 if is_file else 4,
        processes=given.processes,
        seed=given.seed,
        setbacks=given.setbacks or (0 if is_single else every // 2),
        failovers=given.failovers or (0 if is_file or is_single else every // 2),
        crashes=given.crashes or (0 if is_file else every // 2),
        account_faults=given.account_faults or every,
        prunes=given.prunes or every // 2,
        month_end=given.month_end,
        clock_jumps=given.clock_jumps or given.all,
        transactions=(given.transactions or given.all) and not is_file,
        unnamed=given.unnamed or (given.all and is_single),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes that use one ledger, and audit.")
    parser.add_argument("--kills", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--postgresql", action="store_true", help="a server of its own")
    parser.add_argument("--pair", action="store_true", help="Debian's, with a standby")
    parser.add_argument("--pooler", action="store_true", help="and behind PgBouncer")
    parser.add_argument("--all", action="store_true", help="all that may happen there")
    for name in ("setbacks", "failovers", "crashes", "account-faults", "prunes"):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name in ("month-end", "clock-jumps", "transactions", "unnamed"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--mutants", nargs="*", choices=sorted(MUTANTS), help="by default all")
    given = parser.parse_args()
    if given.mutants is not None:
        return find_all(given.mutants or sorted(MUTANTS))
    this = round_of(given)
    began = time.monotonic()
    with place_of(given) as place:
        audit = torture(place, this)
    say(f"{this}, {time.monotonic() - began:.0f} s: {audit}")
    if not audit.is_clean:
        say(f"FAILED; again with: python {' '.join(sys.argv)} --seed {given.seed}")
        return 1
    return 0


def find_all(mutants: list[str]) -> int:
    """Look for mistakes; return 1 if one of them is not found."""
    missed = 0
    for mutant in mutants:
        audit = find(mutant, ROUNDS)
        say(f"{mutant}: {audit or 'NOT FOUND'}")
        missed += audit is None
    return min(missed, 1)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
