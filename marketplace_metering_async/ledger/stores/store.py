"""What a ledger asks of the place that it is kept in: verbs, each one durable transaction."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from attrs import astuple

from marketplace_metering_async.clock import Clock, SystemClock
from marketplace_metering_async.errors import ConfigurationError, LedgerError
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryPlace, HistoryQuery
from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.identity import (
    Identity,
    claimed_by_a_copy,
    copy_text,
    introduction,
    lost_watermark,
    moved_name,
    require_watermark,
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
    adding,
    reports,
    resolving,
    sending,
    subscriptions,
)
from marketplace_metering_async.ledger.stores.database import Database, Verb
from marketplace_metering_async.ledger.stores.identifying import (
    ADOPT,
    INTRODUCE,
    bind,
    guard_copy,
    identity,
    retire,
)
from marketplace_metering_async.ledger.stores.watermark_folder import WatermarkFolder
from marketplace_metering_async.ledger.stores.words import ClaimRules, FailPoint, Sealed, Warn
from marketplace_metering_async.ledger.watermark import Place, adopted
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions

T = TypeVar("T")


class Connections(Protocol):
    """How a store reaches its database."""

    @property
    def may_write(self) -> bool:
        """See Store."""
        ...

    async def open(self, warn: Warn) -> None:
        """See Store."""

    async def aclose(self) -> None:
        """See Store."""

    async def run(self, verb: Verb[T], /, *, once: bool, though_moved: bool) -> T:
        """See Store._change."""
        ...

    async def read(self, verb: Verb[T], /) -> T:
        """See Store._read."""
        ...


class Store(ABC):
    """
    A place for one ledger.

    All times are in seconds since 1970. Each verb raises LedgerError where the database cannot do
    it, and nothing has happened then; LedgerOutcomeUnknownError where it failed at the commit and
    nobody can be asked; LedgerUnusableError where it would change a ledger that has moved, or whose
    schema was upgraded beyond what this process knows. What only one kind of store can do or has,
    the others refuse or have none of, as it is here.
    """

    shares_quota: bool
    """Whether relays on other machines use the same quota, and agree on it here."""
    mark_is_proof: bool
    """See Place."""

    def __init__(self, connections: Connections, reach: FailPoint) -> None:
        """Note how its database is reached; open() does the work. *reach* is for tests."""
        self._connections = connections
        self._reach = reach
        self._hours = PlainHours()
        self._warn: Warn

    @property
    def clock(self) -> Clock:
        """The clock of whatever keeps it, the same for all who use it: the machine's for a file."""
        return SystemClock()

    @property
    def may_write(self) -> bool:
        """Whether its role and server let this process write, as it was when it was opened."""
        return self._connections.may_write

    async def open(self, warn: Warn) -> None:
        """
        Connect, and bring the schema up to date under a lock.

        From then on *warn* hears what is found to be missing.

        Raises:
            LedgerUnusableError: it cannot be used; the text says why.
        """
        self._warn = warn
        await self._connections.open(warn)

    async def aclose(self) -> None:
        """Let go of it; twice is fine."""
        await self._connections.aclose()

    # Who it is

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """
        Make it a ledger, or look whether it is the one that was here.

        Returns: what a person should know about it; None where there is nothing.

        Raises:
            LedgerRegionMismatchError: its records go to another region than *region_name*.
        """

        async def work(db: Database) -> str | None:
            await db.fetch(INTRODUCE, str(uuid4()), now, region_name, await self._mark(db))
            _, ledger, sign = await guard_copy(db, self._place, now)
            return introduction(ledger, region_name, sign)

        return await self._change(work, though_moved=True)

    async def bind(self, region_name: str, host: str) -> None:
        """
        Tie it to the region and host that its records go to.

        Raises:
            LedgerRegionMismatchError: it is tied to others.
        """
        await self._change(lambda db: bind(db, region_name, host))

    async def adopt(self, now: int) -> None:
        """
        Note that this copy is the ledger to go on with; one that is no copy stays as it is.

        Usage that what it lacks may have metered is held from then on: see seal_due. Where its new
        count cannot be written outside, it is adopted all the same, and a claim writes that down.
        """

        async def work(db: Database) -> tuple[Place, Identity]:
            place = await self._place(db)
            ledger = await identity(db, locked=True)
            if ledger.guarded_since is not None and ledger.held_through is not None:
                start = adopted(ledger.claims, ledger.held_through, place.watermark, now)
                await db.fetch(ADOPT, *astuple(start), now)
            return place, await identity(db)

        place, ledger = await self._change(work)
        if ledger.adopted_at is not None:
            await self._write_outside(place, ledger)

    # The way in

    @abstractmethod
    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> Sequence[PostingResult | None]:
        """
        Add a group of usage to the hours of its keys, once; one result for each, in order.

        None is said of what was not added, since its event id is in the open transaction of a
        caller: it is to be brought again. However often the connection is lost, it takes place at
        most once.
        """

    async def post_on(
        self,
        connection: Any,  # noqa: ANN401 - asyncpg's, whose types come with an extra
        usage: Usage,
        now: int,
        rules: PostingRules,
    ) -> PostingResult:
        """
        Add usage in the transaction that the caller has begun on *connection*.

        Nobody waits for that but who brings the same event id. What is returned is how it looks
        now: fold() adds it to its hour once the transaction is committed.

        Raises:
            ConfigurationError: this store can share no connection.
            LedgerError: there is no transaction; nothing was stored.
        """
        raise ConfigurationError("connection: only a ledger in PostgreSQL can share yours")

    async def fold(self, now: int, rules: PostingRules) -> Counter[HourState]:
        """
        Add what callers' transactions have committed to its hours; return how many of it ended.

        Usage whose hour is sealed by then is carried, as if it were added now; what the database
        cannot hold is left where it is, and named in a warning.
        """
        return Counter()

    async def known_events(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """Return the event ids among *names* that are known, with the digest of what was said."""
        return (await self._read(lambda db: adding.events_named(db, names))).digests

    async def whole_dimensions(self) -> WholeDimensions:
        """Return the dimensions that are declared whole."""
        return await self._read(adding.whole_dimensions)

    async def declare_whole(self, whole: WholeDimensions, now: int) -> None:
        """Let these dimensions be whole, and no others, for all usage that is added from now on."""
        await self._change(lambda db: adding.declare_whole(db, whole, now))

    async def close(self, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
        """Note that a subscription ends at *at*; return how many hours are due by then."""
        return await self._change(lambda db: subscriptions.close(db, customer, at, now, rules))

    async def reopen(self, customer: CustomerKey, now: int, rules: PostingRules) -> None:
        """Forget that a subscription ended: its open hours are sealed when their time comes."""
        await self._change(lambda db: subscriptions.reopen(db, customer, now, rules))

    # What a person says

    async def rearmable(self, states: Sequence[HourState], now: int) -> tuple[list[int], list[int]]:
        """Return what is in *states*: hours that rearm() sends again now, and rows for carry()."""
        return await self._read(lambda db: resolving.rearmable(db, states, now))

    async def rearm(self, hours: Sequence[int], states: Sequence[HourState], now: int) -> int:
        """
        Send records again, unchanged, where their window is still open; return how many.

        What is in none of *states* any more stays as it is.
        """
        rearm = resolving.rearm
        return await self._change_some(lambda db: rearm(db, hours, states, now), once=True)

    async def carry(
        self,
        stranded: Sequence[int],
        states: Sequence[HourState],
        now: int,
        rules: PostingRules,
    ) -> int:
        """
        Add usage that no hour carries to the first unsealed hour from now on; return of how many.

        What is in none of *states* any more stays as it is.
        """
        carry = resolving.carry
        return await self._change_some(
            lambda db: carry(db, stranded, states, now, rules), once=True
        )

    async def resolve(
        self,
        hours: Sequence[int],
        stranded: Sequence[int],
        after: HourState,
        note: Note,
    ) -> int:
        """
        Write down what became of ended usage, and raise the fence; return of how many rows.

        Raises:
            CannotResolveError: one of them has not ended, or is gone; nothing is changed.
        """
        resolve = resolving.resolve
        return await self._change_some(
            lambda db: resolve(db, hours, stranded, after, note), once=True
        )

    async def rebill(self, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
        """
        Move the usage of ended hours to the first unsealed hour from now on; return of how many.

        Raises:
            CannotResolveError: the service may have one of them; nothing is changed.
        """
        rebill = resolving.rebill
        return await self._change_some(lambda db: rebill(db, hours, note, rules), once=True)

    async def rebind(self, host: str, taken: HourState | None, note: Note) -> int:
        """
        Send records to another host of the region from now on.

        Args:
            host: The other one.
            taken: What becomes of records that the old one has taken: None leaves them metered.
                FROZEN sends them again; those whose window is closed are NOT_METERED then.
            note: Why.

        Returns: how many records are metered no more.
        """
        return await self._change(lambda db: resolving.rebind(db, host, taken, note), once=True)

    # The way out

    async def seal_due(self, now: int, limit: int, region_name: str) -> Sealed:
        """
        Close hours that are due, each permanently, and freeze their records.

        A copy that nobody has adopted seals none. Hours of an adopted one that may have been sent
        by what it lacks end as UNCONFIRMED.
        """

        async def work(db: Database) -> Sealed:
            place, ledger, sign = await guard_copy(db, self._place, now)
            require_watermark(ledger, place.path)
            if (copy := copy_text(ledger, sign)) is not None:
                return Sealed(copy=copy)
            return await sending.seal_due(db, now, limit, region_name, self._reach)

        return await self._change(work)

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """
        Lease frozen records, those with the earliest deadline first.

        A lease that begins later than one of now would end means that the clock went back: it is
        over; so is a pause. Sooner, it may be of a relay that looked at the clock later than this
        one, which has waited for the database. What is not fit to be sent is put aside.

        The claim is counted, and the count written outside once it is committed, before this
        returns; where that fails, it is given back. What is lost in a failover before then is not
        returned either, and what is lost later is missed by whoever compares the two.

        Raises:
            LedgerRegionMismatchError: it is tied to another host, maybe since the relay began.
        """

        async def work(
            db: Database,
        ) -> tuple[list[FrozenHour], Place, Identity, Identity | None]:
            place, ledger, _ = await guard_copy(db, self._place, now)
            require_watermark(ledger, place.path)
            claimed, counted = await sending.claim(db, now, rules, self._reach)
            (counted or ledger).require_host(rules.region_name, rules.host)
            return claimed, place, ledger, counted

        claimed, place, ledger, counted = await self._change(work)
        if not claimed:
            return claimed
        try:
            if counted is not None:
                self._remember(counted)
                await self._write_outside(place, counted)
            else:
                through = max(hour_of(one.stamp) for one in claimed)
                await self._write_outside_of_a_copy(place, ledger, through)
            is_there = await self._read(lambda db: sending.is_claimed(db, claimed[0]))
        except LedgerError:
            with suppress(LedgerError):
                await self.return_claims(claimed, 0)
            raise
        return claimed if is_there else []

    async def return_claims(self, claims: Sequence[FrozenHour], not_before: int) -> None:
        """End *claims* that had no answer; each row is in doubt if its claim says so."""
        returned = sending.return_claims
        await self._change(lambda db: returned(db, claims, not_before), though_moved=True)

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """
        Write down what claims came to, and return what the relay is to hear of.

        A claim that is not the latest any more is fenced off, for a later relay has the record now;
        but for a success, which is written whoever has it. Written twice, it is written once.
        """
        settle = sending.settle
        return await self._change(
            lambda db: settle(db, settlements, now, self._reach), though_moved=True
        )

    async def note_relay(self, now: int) -> None:
        """Note that a relay works: its database lets it, and nothing of the account stops it."""
        note = "UPDATE marketplace_metering.ledger SET last_relay_at = $1"
        await self._change(lambda db: db.fetch(note, now))

    async def next_due(self) -> float | None:
        """Return when there will be something to seal or send."""
        return await self._read(sending.next_due)

    async def reserve_calls(self, seconds: float) -> float:
        """Reserve *seconds* of the quota that all relays share; return in how many they end."""
        raise ConfigurationError("relays of a ledger in SQLite share no quota")

    # What is in it

    async def status(self, now: int) -> Figures:
        """Return the figures of the whole ledger."""
        return await self._read(lambda db: reports.figures(db, now))

    async def history(
        self, query: HistoryQuery, after: HistoryPlace, limit: int
    ) -> list[tuple[HistoryPlace, HistoryEntry]]:
        """Return the next entries *after* a place, with their places, in order."""
        return await self._read(lambda db: reports.history(db, query, after, limit))

    async def arrivals(self, query: HistoryQuery) -> list[HistoryEntry]:
        """
        Return the usage of callers' transactions that is not added to its hour yet, in order.

        It is open, so there is none where other states are asked for.
        """
        return []

    async def prune(self, before: int, limit: int) -> int:
        """Remove some hours decided before *before*, but for their sums; return how many."""
        return await self._change_some(lambda db: reports.prune(db, before, limit))

    async def old_stranded(self, before: int) -> list[int]:
        """Return the rows of usage that no hour carries, decided before *before*."""
        return await self._read(lambda db: reports.old_stranded(db, before))

    async def prune_stranded(self, rows: Sequence[int], before: int) -> int:
        """Remove *rows* that are decided before *before* still; return how many."""
        return await self._change_some(lambda db: reports.prune_stranded(db, rows, before))

    async def prune_events(self, before: int, now: int, limit: int) -> int:
        """Forget some ids of events added before *before*; return how many: 0 if there is none."""
        return await self._change_some(lambda db: reports.prune_events(db, before, now, limit))

    @abstractmethod
    async def tidy(self) -> bool:
        """Remove some notes of its own that are of no use any more; return whether more wait."""

    # Moving

    async def back_up(self, to: str) -> None:
        """
        Write a copy of all that is committed into a new file *to*, while others go on.

        Raises:
            ConfigurationError: the database has programs of its own for that.
        """
        raise ConfigurationError("back up a ledger in PostgreSQL with pg_dump, or as its server is")

    async def take_over(self, source: "Store") -> int:
        """
        Move everything of *source* here, in one transaction; return how many hours there were.

        The source is retired before it is copied, so that the copy lacks nothing. Where nothing is
        copied in the end, it is reinstated.

        Raises:
            ConfigurationError: this store is none to move to.
            LedgerUnusableError: this one is not new, or the source is none that may move.
        """
        raise ConfigurationError("only a ledger in PostgreSQL can take over another one")

    async def let_go(self, source: "Store") -> bool:
        """
        Open *source* again, which moved here, unless its usage is here.

        Returns: whether this ledger has other usage.

        Raises:
            LedgerUnusableError: it is here.
        """
        raise ConfigurationError("no ledger moves into one in SQLite")

    async def retire(self, to: str) -> Identity:
        """
        Close the ledger to usage and relays, for it moves to the ledger *to*; return its row.

        If it is a copy that nobody has adopted, its row says so, and *warn* hears of it.

        Raises:
            LedgerUnusableError: it is that ledger, or has moved to another one.
        """
        ledger, copy = await self._change(lambda db: self._retire(db, to), though_moved=True)
        if copy is not None:
            self._warn(copy)
        return ledger

    async def _retire(self, db: Database, to: str) -> tuple[Identity, str | None]:
        """Return its row, and what to say of a copy: nobody may have opened it before it moves."""
        now = int(self.clock.now().timestamp())
        _, ledger, sign = await guard_copy(db, self._place, now)
        return await retire(db, to), copy_text(ledger, sign)

    async def reinstate(self, to: str) -> None:
        """Take back that it has moved to the ledger *to*."""
        undo = "UPDATE marketplace_metering.ledger SET moved_to = NULL WHERE moved_to = $1"
        await self._change(lambda db: db.fetch(undo, moved_name(to)), though_moved=True)

    async def dump(
        self, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return the next rows of a table of TABLES *after* a key, in the order of its key."""
        return await self._read(lambda db: reports.dump(db, table, after, limit))

    # What they have in common

    async def _change(self, verb: Verb[T], *, once: bool = False, though_moved: bool = False) -> T:
        """
        Run a *verb* in one durable transaction.

        What must take place *once* does, however often the connection is lost. A ledger that has
        moved is changed by nothing but what says *though_moved*.
        """
        return await self._connections.run(verb, once=once, though_moved=though_moved)

    async def _change_some(self, verb: Verb[T], *, once: bool = False) -> T:
        """Run a *verb* that changes a part of many rows, and let others have their turn."""
        return await self._change(verb, once=once)

    async def _read(self, verb: Verb[T]) -> T:
        """Run a *verb* on what is committed."""
        return await self._connections.read(verb)

    @abstractmethod
    async def _mark(self, db: Database) -> str:
        """Return what tells the place of the database from that of a copy."""

    @abstractmethod
    def _watermark(self, ledger: Identity) -> WatermarkFolder | None:
        """Return its folder outside of the database, if there is to be one."""

    @abstractmethod
    def _remember(self, ledger: Identity) -> None:
        """Miss what it has claimed, from now on, if a transaction does not find it."""

    async def _place(self, db: Database) -> Place:
        """
        Look outside before the transaction looks inside: only a copy lacks something then.

        One that is tried again looks again, for it may have met another server.
        """
        folder = self._watermark(await identity(db))
        return Place(
            mark=await self._mark(db),
            mark_is_proof=self.mark_is_proof,
            path=None if folder is None else folder.path,
            watermark=None if folder is None else await db.outside(folder.read),
        )

    async def _write_outside(self, place: Place, ledger: Identity) -> None:
        """
        Write down how much the *ledger* has claimed, as it is committed.

        The first time, it notes afterwards where that is: it would be missed before it is there.
        """
        folder = self._watermark(ledger)
        if folder is None:
            return
        await asyncio.to_thread(folder.raise_to, ledger.claimed())
        if ledger.watermark != folder.path:
            note = "UPDATE marketplace_metering.ledger SET watermark = $1"
            await self._change(lambda db: db.fetch(note, folder.path))
        if (lost := lost_watermark(ledger, place)) is not None:
            self._warn(lost)

    async def _write_outside_of_a_copy(self, place: Place, ledger: Identity, through: int) -> None:
        """Write down that a copy which nobody has adopted has claimed records of up to an hour."""
        folder, watermark = self._watermark(ledger), claimed_by_a_copy(ledger, place, through)
        if folder is not None and watermark is not None:
            await asyncio.to_thread(folder.raise_to, watermark)
