"""UsageLedger: usage is safe from the moment it happens until AWS has acknowledged it."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from marketplace_metering_async.aws.endpoints import require_region
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock
from marketplace_metering_async.customers import Customer, ids_of
from marketplace_metering_async.errors import (
    InvalidRecordError,
    LedgerClosedError,
    LedgerError,
    MeteringError,
)
from marketplace_metering_async.events import LoggingObserver, Observer, UsageEndedUnmetered, emit
from marketplace_metering_async.flow.pacing import AdaptivePacer, Pacer
from marketplace_metering_async.flow.work_stretch import RECORDS_PER_STEP, WorkStretch
from marketplace_metering_async.ledger.group_commit import GroupCommit, Outcome, failure_of_all
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryQuery
from marketplace_metering_async.ledger.known_verdicts import KnownVerdicts
from marketplace_metering_async.ledger.metrics import prometheus_text
from marketplace_metering_async.ledger.model import HourState, ProductDimension, Usage
from marketplace_metering_async.ledger.open_hours import LONGEST_GRACE, Late, PostingRules
from marketplace_metering_async.ledger.operations import LedgerOperations
from marketplace_metering_async.ledger.posting import AddedUsage, PostingResult
from marketplace_metering_async.ledger.relay import SLICE, OnAccountError, Relay, require_word
from marketplace_metering_async.ledger.relay_report import RelayReport
from marketplace_metering_async.ledger.relaying import Relaying, running
from marketplace_metering_async.ledger.shared_pacer import SharedPacer
from marketplace_metering_async.ledger.status import LedgerStatus, status_of
from marketplace_metering_async.ledger.stores import FailPoint, Store, no_failure, store_at
from marketplace_metering_async.ledger.usage import UsageReader, UsageToAdd, customer_of, moment_of
from marketplace_metering_async.ledger.whole_dimensions import declared
from marketplace_metering_async.limits import CALLS_PER_SECOND
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.rules import require_number

_PAGE: Final = 200
_MANY: Final = 10_000
"""
Pieces of usage for one commit: a tenth of a second, in which the file is nobody else's, or a second
where each is the first of its customer's hour.
"""


class UsageLedger(LedgerOperations):
    """
    A durable place for usage, which adds up each customer's hour, sends it once, and can prove it.

    Use it with `async with`; nothing is read or written before. Any number of processes may use
    one ledger at the same time: on one machine with SQLite, on many with PostgreSQL. Two ledgers
    must never meter the same customers and dimensions: the service keeps the first record of an
    hour and refuses the other ledger's.
    """

    def __init__(
        self,
        store: Store,
        *,
        region_name: str | None = None,
        grace: float = 600.0,
        month_end_grace: float = 3600.0,
        late: Late = "carry",
        whole: Iterable[str | tuple[str, str]] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        reach: FailPoint = no_failure,
        slice_seconds: float = SLICE,
    ) -> None:
        """
        Keep it in *store*; see `open`, which is the way to make one.

        A relay holds a claim for *slice_seconds* and a little more; less is for tests of crashes.
        """
        for name, seconds in (("grace", grace), ("month_end_grace", month_end_grace)):
            require_number(name, seconds)
            if not 0 <= seconds <= LONGEST_GRACE:
                raise ValueError(f"{name}: expected 0 to {LONGEST_GRACE} seconds, got {seconds}")
        if late not in ("carry", "refuse"):
            raise ValueError(f"late: expected 'carry' or 'refuse', got {late!r}")
        if region_name is not None:
            require_region(region_name)
        self._store = store
        self._region_name = region_name
        self._whole = None if whole is None else declared(whole)
        self._rules = PostingRules(
            grace=int(grace), month_end_grace=int(month_end_grace), late=late
        )
        self._clock = store.clock if clock is None else clock
        self._observer = LoggingObserver() if observer is None else observer
        self._reach = reach
        self._slice = slice_seconds
        self._is_open = False
        self._is_checked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._reader = UsageReader()
        self._groups = GroupCommit(self._post)
        self._known = KnownVerdicts(store)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        create: bool = True,
        region_name: str | None = None,
        grace: float = 600.0,
        month_end_grace: float = 3600.0,
        late: Late = "carry",
        whole: Iterable[str | tuple[str, str]] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """
        Return the ledger at *url*, to be used with `async with`.

        Args:
            url: `sqlite:///usage.db` (relative), `sqlite:////var/lib/usage.db` (absolute) or
                `postgresql://user:password@host/database` (extra `postgres`). The latter lies in
                the schema `marketplace_metering`, or in that of `?schema=NAME`; a role that may
                only read suffices for status and history. To it, `?watermark=/folder` adds where
                relays write down, outside of the database, how often they have claimed records, so
                that a restored one is known by what it lacks: a folder that all of them share, and
                that no backup of the database brings back. A file has its own beside it.
            create: Whether it is made if it is not there. Say no where you only look, so that a
                mistyped URL is an error and not an empty ledger.
            region_name: The region that its records go to; by default that of the client which
                relays first. One ledger serves one region.
            grace: Seconds after an hour, and after the first usage of an hour that is over, before
                its record is frozen; at most four hours.
            month_end_grace: The same after a month's last hour, if more, since no hour of its month
                can carry what comes later: until 01:00 UTC on the first by default. The service
                takes records of a month until 06:00.
            late: What becomes of usage whose hour is sealed: "carry" to the first unsealed hour
                after it in its month and subscription, or "refuse" with LateUsageError.
            whole: Dimensions of which the service takes whole quantities only: their names, or
                pairs of a product's code and a name (a license's usage is of the product that it
                names). Usage of them that is a fraction, or above 2147483647, is refused where it
                is added. The ledger keeps this list, for all who use it, until it is opened with
                another one; [] ends it, and None leaves it as it is.
            clock: A clock of yours, for tests. By default usage without `at`, sealing and the ends
                of windows go by the server's in PostgreSQL, whatever this machine's clock shows,
                and by the machine's with SQLite.
            observer: Gets warnings and events; by default the package's logger.

        Raises:
            ConfigurationError: for a URL of another kind, of memory, or with options of a file; or
                for what can be no region.
            ValueError: for a grace below 0 or above four hours, another word for late, or what
                names no dimension.
            TypeError: for one text in place of a list of dimensions, or a grace that is no number.

        Entering it raises LedgerMissingError where there is no ledger and *create* is false;
        LedgerUnusableError (a superclass of that, and a subclass of LedgerError) where the database
        is damaged, newer, something else's, or does not keep what it commits: on a network file
        system, without WAL, with `fsync = off`, or a file that was open in the process which this
        one was forked from; LedgerRegionMismatchError where it belongs to another region;
        ConfigurationError where an extra is missing; LedgerError where it is open already. One that
        has moved can only be read.
        """
        return cls(
            store_at(url, create=create),
            region_name=region_name,
            grace=grace,
            month_end_grace=month_end_grace,
            late=late,
            whole=whole,
            clock=clock,
            observer=observer,
        )

    async def __aenter__(self) -> Self:
        """Connect, and bring the schema up to date; see `open` for what it raises."""
        if self._loop and self._process == os.getpid() and not self._loop.is_closed():
            raise LedgerError("the ledger is open already: enter it once, and share it")
        self._loop, self._process = asyncio.get_running_loop(), os.getpid()
        self._groups = GroupCommit(self._post)  # a loop that was closed ends what it had begun
        try:
            await self._store.open(self._warn)
            if self._store.may_write:
                await self._check_identity()
        except BaseException:
            await self._store.aclose()
            self._loop = None
            raise
        self._is_open = True
        return self

    async def _check_identity(self) -> None:
        about = await self._store.check_identity(self._region_name, self._now())
        await self._declare_whole()
        self._is_checked = True
        if about is not None:
            self._warn(about)

    async def _require_writable(self) -> None:
        """Who could only read when the ledger was opened has not looked which one it is."""
        self._require_open()
        if not self._is_checked:
            await self._check_identity()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()

    async def aclose(self) -> None:
        """
        Wait for usage that is being stored, and close the database; twice is fine.

        Verdicts that could not be written down before are tried once more; if that fails, a warning
        says how many, and those records are sent again, unchanged. In another process or event loop
        than the one that opened it, it does nothing.
        """
        if self._loop is not asyncio.get_running_loop() or self._process != os.getpid():
            return  # its connections are in use elsewhere
        self._is_open = False
        await self._groups.settled()
        if self._known:
            await self._known.write_or_warn(self._now(), self._observer)
        await self._store.aclose()
        self._loop = None

    async def add_usage(
        self,
        *,
        dimension: str,
        quantity: Quantity | str,
        customer: Customer | None = None,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        product_code: str | None = None,
        at: datetime | None = None,
        event_id: str | None = None,
        connection: Any = None,  # noqa: ANN401 - asyncpg's, whose types come with an extra
    ) -> AddedUsage:
        """
        Store usage, and return once it is on the disk. Concurrent calls share commits.

        Args:
            dimension: One of the product's dimensions.
            quantity: Units, 0 to 9999999999.999999 in steps of a millionth, as an int, a Decimal
                or a text as "17.42"; they add up exactly with the rest of the hour.
            customer: The buyer with the product, in place of the four ids that follow.
            customer_aws_account_id: The buyer's AWS account.
            customer_identifier: The buyer in legacy integrations, in place of the account.
            license_arn: The buyer's license (Concurrent Agreements), together with the account.
            product_code: The product; needed but for a license.
            at: When it happened (aware); now by default; at most five minutes ahead.
            event_id: Your name for it, of 1 to 255 characters: given again with the same content it
                adds nothing. Without one, a call whose outcome you do not know cannot be repeated
                safely.
            connection: An asyncpg connection of yours to the ledger's database, or SQLAlchemy's
                AsyncConnection or AsyncSession over asyncpg, on which you have begun a transaction
                or savepoint: usage commits or rolls back together with it. However long it is open,
                nobody waits for it but whoever brings the same event id (for a minute at most). It
                may bring as many event ids as half of the server's locks (3,200 by default), and
                nothing else is to be asked on the connection meanwhile. Relays add it to its hour
                once it is committed, or carry it where its hour is sealed by then; so what is
                returned is how it looks now, and `late` and `ended` may still change.

        Raises:
            InvalidRecordError: what the service would refuse, or a fraction of a dimension that is
                declared whole; nothing was stored.
            EventConflictError: the event id is known with other content; nothing was stored.
            EventTooOldError: it is older than all event ids that are known; nothing was stored.
            LateUsageError: the hour is sealed and the ledger refuses late usage.
            LedgerOutcomeUnknownError: the database went away at the commit, or *connection* was
                used meanwhile, and whether it was stored is unknown; with an event id, call again,
                on *connection* after a rollback.
            UsageRefusedError: the database cannot hold this usage; nothing was stored.
            LedgerError: the database cannot be used, or *connection* is in no transaction, is
                another kind of connection, or one to another database; nothing was stored.
            LedgerClosedError: outside `async with`, or in another process or event loop.

        Cancelling leaves open whether it was stored; with an event id, call again.
        """
        self._require_open()
        if not self._is_checked:
            await self._check_identity()
        usage = self._reader.usage(
            self._clock.now(),
            dimension=dimension,
            quantity=quantity,
            customer=customer,
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
            at=at,
            event_id=event_id,
        )
        result: Outcome | None
        if connection is None:
            result = await self._groups.add(usage)
            if result is None:
                (result,) = await self._groups.add_later((usage,), (result,))
        else:
            result = await self._store.post_on(connection, usage, self._now(), self._rules)
        if isinstance(result, BaseException):
            raise result
        return result

    async def add_many(self, usages: Iterable[UsageToAdd]) -> list[AddedUsage | MeteringError]:
        """
        Store usage in one commit, and return once it is on the disk: one outcome each, in order.

        For what comes in lists, such as the messages of a queue: it takes less time than as many
        calls of `add_usage`. What is refused refuses nothing else; look at the outcomes, for what
        is refused is not stored.

        Args:
            usages: Mappings of what `add_usage` takes, by the same names, `connection` excepted;
                at most 10,000, since others wait for their commit.

        Returns: for each an AddedUsage, or the error that `add_usage` would raise for it alone:
            InvalidRecordError (its paths begin with the place, as in `usages[3].quantity`),
            EventConflictError, EventTooOldError, LateUsageError, UsageRefusedError. If the database
            refuses to hold some of it, the rest is stored part by part, and what a failure of the
            database then keeps from being stored has its LedgerError.

        Raises:
            TypeError: for one mapping in place of a list of them; nothing was stored.
            ValueError: for more than 10,000; nothing was stored.
            LedgerOutcomeUnknownError: the database went away at the commit, and whether it was
                stored, all of it or nothing, is unknown; with event ids, call again.
            LedgerError: the database cannot be used; nothing was stored.
            LedgerClosedError: outside `async with`, or in another process or event loop.

        Cancelling leaves open whether it was stored, all of it or nothing; with event ids, call
        again.
        """
        await self._require_writable()
        if isinstance(usages, Mapping):
            raise TypeError("usages: expected a list of mappings, got one mapping")
        outcomes: list[Usage | InvalidRecordError] = []
        now, stretch = self._clock.now(), WorkStretch(self._clock)
        for position, given in enumerate(usages):
            if position == _MANY:
                raise ValueError(f"usages: expected at most {_MANY}, got more")
            if position and not position % RECORDS_PER_STEP:
                await stretch.yield_if_due()
            outcomes.append(self._reader.one_of_many(now, position, given))
        read = [one for one in outcomes if isinstance(one, Usage)]
        stored = (
            await self._groups.add_later(read, await self._groups.add_many(read)) if read else []
        )
        if (failed := failure_of_all(stored)) is not None:
            raise failed
        found: Iterator[Any] = iter(stored)
        return [next(found) if isinstance(one, Usage) else one for one in outcomes]

    async def relay_once(
        self, client: MarketplaceMeteringClient, *, stop: asyncio.Event | None = None
    ) -> RelayReport:
        """
        Seal what is due and send all that may be sent now; return when each has an answer.

        Records go in the order of their deadlines, each the same bytes in every attempt. Several
        relays may run at once, in any number of processes.

        Raises:
            LedgerRegionMismatchError: the client is of another region or host than the ledger.
            LedgerUnusableError: the ledger has moved.
            LedgerError: the database cannot be used; what was sent is sent again, unchanged, later.
            ClientClosedError, ConfigurationError: as `batch_meter_usage`.

        Cancelling it gives up claims; what was on the wire is sent again, unchanged, later. Setting
        *stop* ends it early and loses no answer.
        """
        await self._require_writable()
        return await self._relay(client, stop).once()

    async def relay(
        self,
        client: MarketplaceMeteringClient,
        *,
        stop: asyncio.Event | None = None,
        on_account_error: OnAccountError = "retry",
    ) -> None:
        """
        Relay until *stop* is set, for as long as the program runs.

        It outlives whatever may pass: a database that is away or read-only, missing credentials, a
        denied access. It reports that at once and then every minute (RelayBlocked, an ERROR in the
        log), and goes on trying, at least every 30 seconds; all records are kept as they are.

        Args:
            client: Of the ledger's own region and host.
            stop: Ends it, and loses no answer.
            on_account_error: "retry", or "raise" to end with what lies with the account.

        Raises:
            LedgerRegionMismatchError: the client is of another region or host than the ledger.
            LedgerUnusableError: at the beginning alone: the ledger has moved, or cannot be used.
            NoRegionError: the client knows no region.
            LedgerClosedError, ClientClosedError: one of them was closed.
            MarketplaceMeteringException, ConfigurationError: with "raise": access is denied, there
                are no credentials, or the like.
            ValueError: for another word for on_account_error.
            RuntimeError: after the first round, for a *stop* that waits on another event loop.

        Cancelling it is as cancelling `relay_once`.
        """
        await self._require_writable()
        require_word(on_account_error)
        await self._relay(client, stop).until_stopped(on_account_error)

    def relaying(
        self, client: MarketplaceMeteringClient, *, on_account_error: OnAccountError = "retry"
    ) -> AbstractAsyncContextManager[Relaying]:
        """
        Return what relays for as long as it is entered: `async with ledger.relaying(client):`.

        The service for a program that goes on: it does what `relay` does beside the block, and at
        the end of the block stops, loses no answer, and writes down all that it knows.

        Entering it raises what no time cures: LedgerRegionMismatchError, LedgerUnusableError,
        NoRegionError, ValueError, LedgerClosedError, ClientClosedError; with "raise" also
        ConfigurationError, where there are no credentials. With "retry" those are reported at once
        (RelayBlocked, an ERROR in the log) and waited for. If the relay ends before the block, as
        with "raise" where access is denied, the block is cancelled, and the relay's error raised.

        Cancelling the block ends the relay in the same way. Leaving waits for what is on the wire,
        and half a minute for a database that is away; cancelled meanwhile, claims are given back.
        """
        self._require_open()
        if not self._is_checked:
            raise LedgerError("open the ledger again: it could only be read when it was opened")
        require_word(on_account_error)
        stop = asyncio.Event()
        return running(self._relay(client, stop), stop, on_account_error)

    def pacer(self, calls_per_second: float = CALLS_PER_SECOND) -> Pacer:
        """
        Return a pacer for a client that relays, so that all relays together keep the quota.

        With PostgreSQL, relays on all machines take turns through the database; with SQLite it is
        the pacer that every client has.
        """
        if self._store.shares_quota:
            return SharedPacer(self._store.reserve_calls, calls_per_second)
        return AdaptivePacer(calls_per_second)

    async def close_customer(
        self,
        *,
        customer: Customer | None = None,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        product_code: str | None = None,
        at: datetime | None = None,
    ) -> int:
        """
        End a customer's subscription: seal the open hours then, and send them before all others.

        It ends *at* a moment that was, or that is still to come; now by default. No record is
        stamped later, and usage of a later hour, or added now that happened later, ends as
        SUBSCRIPTION_OVER. The service takes a customer's last records for about an hour after a
        cancellation, so relay soon. Return how many hours are on their way.

        Raises:
            InvalidRecordError: no such customer can be, or *at* is no aware time.
            LedgerError: the database cannot be used.
        """
        await self._require_writable()
        who = customer_of(
            self._clock.now(),
            customer,
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
        )
        now = self._now()
        closed_at = now if at is None else int(moment_of("at", at).timestamp())
        await self._fold()
        return await self._store.close(who, closed_at, now, self._rules)

    async def reopen_customer(
        self,
        *,
        customer: Customer | None = None,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        product_code: str | None = None,
    ) -> None:
        """
        Take usage of a customer again, who has subscribed again.

        Raises: as `close_customer`.
        """
        await self._require_writable()
        who = customer_of(
            self._clock.now(),
            customer,
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
        )
        await self._store.reopen(who, self._now(), self._rules)

    async def known_events(self, event_ids: Iterable[str]) -> Mapping[str, bytes]:
        """
        Return those of *event_ids* that are known, each with a digest of what was said under it.

        Raises:
            LedgerError: the database cannot be used.
        """
        self._require_open()
        return await self._store.known_events(list(event_ids))

    async def whole_dimensions(self) -> frozenset[ProductDimension]:
        """
        Return the dimensions declared whole: of a product, or of all where its code is ''.

        Raises:
            LedgerError: the database cannot be used.
        """
        self._require_open()
        return await self._store.whole_dimensions()

    async def status(self) -> LedgerStatus:
        """
        Return where all usage is, in units that add up.

        Raises:
            LedgerError: the database cannot be used.
        """
        self._require_open()
        now = self._now()
        return status_of(await self._store.status(now), now)

    async def metrics(self) -> str:
        """
        Return the status as Prometheus text, with HELP and TYPE, for an exporter of yours.

        TELEMETRY.md says what each metric means. No customer is in it.

        Raises:
            LedgerError: the database cannot be used.
        """
        return prometheus_text(await self.status())

    async def history(
        self,
        *,
        month: datetime | None = None,
        states: Iterable[HourState] = (),
        newest_first: bool = False,
        customer: Customer | None = None,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        product_code: str | None = None,
    ) -> AsyncIterator[HistoryEntry]:
        """
        Yield the story of every hour, by hour: the evidence in a dispute.

        It is read in pages, so that a long one holds up nobody. Usage of callers' transactions that
        no relay has added to its hour yet comes apart, as open.

        Args:
            month: Any moment (aware) of the month in UTC; all months by default.
            states: Of what is in one of these states alone; in whatever state by default.
            newest_first: Begin with the latest hour.
            customer: Of this customer of a product alone, in place of the four ids that follow.
            customer_aws_account_id: Of this account alone.
            customer_identifier: Of this customer alone.
            license_arn: Of this license alone.
            product_code: Of this product alone; licenses have none.

        Raises:
            ValueError: one of *states* is none.
            InvalidRecordError: (a ValueError) *month* is no aware time.
            LedgerError: the database cannot be used.
        """
        self._require_open()
        query = HistoryQuery.of(
            None if month is None else moment_of("month", month),
            states,
            newest_first=newest_first,
            **ids_of(
                customer,
                customer_aws_account_id=customer_aws_account_id,
                customer_identifier=customer_identifier,
                license_arn=license_arn,
                product_code=product_code,
            ),
        )
        if query.newest_first:
            for entry in await self._store.arrivals(query):
                yield entry
        place, full = query.start, True
        while full:
            found = await self._store.history(query, place, _PAGE)
            for _, entry in found:
                yield entry
            full = len(found) == _PAGE
            place = found[-1][0] if full else place
        if not query.newest_first:
            for entry in await self._store.arrivals(query):
                yield entry

    def _relay(self, client: MarketplaceMeteringClient, stop: asyncio.Event | None) -> Relay:
        return Relay(
            client,
            self._store,
            self._known,
            stop=asyncio.Event() if stop is None else stop,
            slice_seconds=self._slice,
            clock=self._clock,
            observer=self._observer,
            reach=self._reach,
            fold=self._fold,
        )

    async def _declare_whole(self) -> None:
        """Keep what is declared now, and warn of what was declared before and is so no more."""
        if self._whole is None or self._whole == (kept := await self._store.whole_dimensions()):
            return
        await self._store.declare_whole(self._whole, self._now())
        if kept - self._whole:
            names = ", ".join(sorted({dimension for _, dimension in kept - self._whole}))
            self._warn(f"the ledger takes fractions of what was declared whole until now: {names}")

    def _require_open(self) -> None:
        if not self._is_open:
            raise LedgerClosedError("the ledger is not open")
        if self._loop is not asyncio.get_running_loop():  # the store knows its process
            raise LedgerClosedError(
                "the ledger belongs to another process or event loop; open one here"
            )

    async def _post(self, usages: Sequence[Usage]) -> Sequence[PostingResult | None]:
        results = await self._store.post(usages, self._now(), self._rules)
        ended = [one.ended for one in results if isinstance(one, AddedUsage) and one.ended]
        self._report(Counter(ended))
        return results

    async def _fold(self) -> None:
        """Add what callers' transactions have committed to its hours."""
        self._report(await self._store.fold(self._now(), self._rules))

    def _report(self, ended: Counter[HourState]) -> None:
        """Report usage that no hour carries, as the relay does with records that have ended."""
        for state, pieces in ended.items():
            emit(self._observer, UsageEndedUnmetered(state=state.value, records=pieces))
