"""UsageLedger: usage is safe from the moment it happens until AWS has acknowledged it."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock
from marketplace_metering_async.errors import LedgerClosedError, MeteringError
from marketplace_metering_async.events import (
    LoggingObserver,
    Observer,
    UsageEndedUnmetered,
    WarningIssued,
    emit,
)
from marketplace_metering_async.flow.pacing import AdaptivePacer, Pacer
from marketplace_metering_async.ledger.group_commit import GroupCommit
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryQuery
from marketplace_metering_async.ledger.model import ENDED, HourState, Usage
from marketplace_metering_async.ledger.posting import (
    LONGEST_GRACE,
    AddedUsage,
    Late,
    PostingResult,
    PostingRules,
)
from marketplace_metering_async.ledger.relay import SLICE, OnAccountError, Relay, RelayReport
from marketplace_metering_async.ledger.shared_pacer import SharedPacer
from marketplace_metering_async.ledger.status import LedgerStatus, status_of
from marketplace_metering_async.ledger.stores import FailPoint, Store, no_failure, store_at
from marketplace_metering_async.ledger.usage import UsageReader, customer_of, moment_of
from marketplace_metering_async.limits import CALLS_PER_SECOND

_KEPT: Final = timedelta(days=3)
"""No row younger than this is pruned: the service's window is a day, a month's end included."""
_IDS_KEPT: Final = timedelta(days=32)
"""No event id younger than this is: usage may be carried for a month, and six hours more."""
_PAGE: Final = 200
_PRUNED_AT_ONCE: Final = 5_000
"""Rows that one transaction removes: others wait for it, and its log is kept until it ends."""


class UsageLedger:
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
            if not 0 <= seconds <= LONGEST_GRACE:
                raise ValueError(f"{name}: expected 0 to {LONGEST_GRACE} seconds, got {seconds}")
        if late not in ("carry", "refuse"):
            raise ValueError(f"late: expected 'carry' or 'refuse', got {late!r}")
        self._store = store
        self._region_name = region_name
        self._rules = PostingRules(
            grace=int(grace), month_end_grace=int(month_end_grace), late=late
        )
        self._clock = store.clock if clock is None else clock
        self._observer = LoggingObserver() if observer is None else observer
        self._reach = reach
        self._slice = slice_seconds
        self._is_open = False
        self._is_checked = False
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._reader = UsageReader()
        self._groups = GroupCommit(self._post)

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
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """
        Return the ledger at *url*, to be used with `async with`.

        Args:
            url: `sqlite:///usage.db` (relative), `sqlite:////var/lib/usage.db` (absolute) or
                `postgresql://user:password@host/database` (extra `postgres`), which lies in the
                schema `marketplace_metering` or in that of `?schema=NAME`. A role that may only
                read suffices for status and history.
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
            clock: A clock of yours, for tests. By default usage without `at`, sealing and the ends
                of windows go by the server's in PostgreSQL, whatever this machine's clock shows,
                and by the machine's with SQLite.
            observer: Gets warnings and events; by default the package's logger.

        Raises:
            ConfigurationError: for a URL of another kind, of memory, or with options of a file.
            ValueError: for a grace below 0 or above four hours, or another word for late.

        Entering it raises LedgerMissingError where there is no ledger and *create* is false;
        LedgerUnusableError (a superclass of that, and a subclass of LedgerError) where the database
        is damaged, newer, something else's, or does not keep what it commits: on a network file
        system, without WAL, with `fsync = off`; LedgerRegionMismatchError where it belongs to
        another region; ConfigurationError where an extra is missing. One that has moved can only be
        read.
        """
        return cls(
            store_at(url, create=create),
            region_name=region_name,
            grace=grace,
            month_end_grace=month_end_grace,
            late=late,
            clock=clock,
            observer=observer,
        )

    async def __aenter__(self) -> Self:
        """Connect, and bring the schema up to date; see `open` for what it raises."""
        self._home = (os.getpid(), asyncio.get_running_loop())
        await self._store.open()
        try:
            if self._store.may_write:
                await self._check_identity()
        except BaseException:
            await self._store.aclose()
            raise
        self._is_open = True
        return self

    async def _check_identity(self) -> None:
        about = await self._store.check_identity(self._region_name, self._now())
        self._is_checked = True
        if about is not None:
            emit(self._observer, WarningIssued(text=about))

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

        In another process or event loop than the one that opened it, it does nothing.
        """
        self._is_open = False
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            return  # its connections are in use elsewhere
        await self._groups.settled()
        await self._store.aclose()

    async def add_usage(
        self,
        *,
        dimension: str,
        quantity: int,
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
            quantity: Whole units, 0 to 2147483647; they add up with the rest of the hour.
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
                or savepoint: usage commits or rolls back together with it.

        Raises:
            InvalidRecordError: what the service would refuse; nothing was stored.
            EventConflictError: the event id is known with other content; nothing was stored.
            EventTooOldError: it is older than all event ids that are known; nothing was stored.
            LateUsageError: the hour is sealed and the ledger refuses late usage.
            LedgerOutcomeUnknownError: the database went away at the commit, and whether it was
                stored is unknown; with an event id, call again.
            UsageRefusedError: the database cannot hold this usage; nothing was stored.
            LedgerError: the database cannot be used, or *connection* is in no transaction, is
                another kind of connection, or one to another database; nothing was stored.
            LedgerClosedError: outside `async with`, or in another process or event loop.

        Cancelling leaves open whether it was stored; with an event id, call again.
        """
        await self._require_writable()
        usage = self._reader.usage(
            self._clock.now(),
            dimension=dimension,
            quantity=quantity,
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
            at=at,
            event_id=event_id,
        )
        if connection is None:
            return await self._groups.add(usage)
        result = await self._store.post_on(connection, usage, self._now(), self._rules)
        if isinstance(result, MeteringError):
            raise result
        self._report([result])
        return result

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

        Cancelling it is as cancelling `relay_once`.
        """
        await self._require_writable()
        if on_account_error not in ("retry", "raise"):
            raise ValueError(
                f"on_account_error: expected 'retry' or 'raise', got {on_account_error!r}"
            )
        await self._relay(client, stop).until_stopped(on_account_error)

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
        customer = customer_of(
            self._clock.now(),
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
        )
        now = self._now()
        closed_at = now if at is None else int(moment_of("at", at).timestamp())
        return await self._store.close(customer, closed_at, now, self._rules)

    async def reopen_customer(
        self,
        *,
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
        customer = customer_of(
            self._clock.now(),
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
        )
        await self._store.reopen(customer)

    async def status(self) -> LedgerStatus:
        """
        Return where all usage is, in units that add up.

        Raises:
            LedgerError: the database cannot be used.
        """
        self._require_open()
        now = self._now()
        return status_of(await self._store.status(now), now)

    async def history(
        self,
        *,
        month: datetime | None = None,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        product_code: str | None = None,
    ) -> AsyncIterator[HistoryEntry]:
        """
        Yield the story of every hour, by hour: the evidence in a dispute.

        Args:
            month: Any moment of the month (UTC); all months by default.
            customer_aws_account_id: Of this account alone.
            customer_identifier: Of this customer alone.
            license_arn: Of this license alone.
            product_code: Of this product alone; licenses have none.

        Raises:
            LedgerError: the database cannot be used.
        """
        self._require_open()
        query = HistoryQuery.of(
            month,
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
            product_code=product_code,
        )
        place, full = (-1, -1), True
        while full:
            found = await self._store.history(query, place, _PAGE)
            for _, entry in found:
                yield entry
            full = len(found) == _PAGE
            place = found[-1][0] if full else place
        for entry in await self._store.stranded(query):
            yield entry

    async def retry(self, *states: HourState) -> int:
        """
        Send ended records again, unchanged, where the service still takes them.

        Usage that no hour could carry (MONTH_OVER, SUBSCRIPTION_OVER) goes to the hour that runs
        now: that is your decision, since it moves a charge to another month or agreement.

        Args:
            states: Which; all end states by default but OTHER_SCHEME, whose usage would be billed
                beside that of the other scheme.

        Returns: how many are on their way again.

        Raises:
            ValueError: for a state that is no end state.
            LedgerError: the database cannot be used.
        """
        await self._require_writable()
        if wrong := [state for state in states if state not in ENDED]:
            raise ValueError(f"states: expected end states, got {wrong[0]}")
        usual = [state for state in ENDED if state is not HourState.OTHER_SCHEME]
        return await self._store.rearm(states or usual, self._now(), self._rules)

    async def prune(self, before: datetime) -> int:
        """
        Remove metered and ended hours that were settled before *before*, but for their sums.

        Event ids of that age are forgotten, too, but none before it is 32 days old, as long as
        usage may be late; from then on, an event older than they are is refused.

        It goes on in small transactions, so that nobody waits; cancelled, it has removed a part.

        Returns: how many hours.

        Raises:
            ValueError: *before* is naive, or less than three days ago: sealed hours must be known
                for as long as the service takes records of them.
            LedgerError: the database cannot be used.
        """
        await self._require_writable()
        before = moment_of("before", before)
        now = self._clock.now()
        if before > now - _KEPT:
            raise ValueError(f"before: expected at least {_KEPT.days} days ago, got {before}")
        while await self._store.tidy():
            pass
        end, pruned, full = int(before.timestamp()), 0, True
        while full:
            some = await self._store.prune(end, _PRUNED_AT_ONCE)
            pruned, full = pruned + some, some == _PRUNED_AT_ONCE
        place: str | None = ""
        forgotten = min(end, int((now - _IDS_KEPT).timestamp()))
        while place is not None:
            place = await self._store.prune_events(forgotten, place, _PRUNED_AT_ONCE)
        return pruned

    async def adopt_copy(self) -> None:
        """
        Say that this copy of a ledger, such as a restored backup, is the one to go on with.

        Until then its frozen records go out, which is harmless, and its open hours wait: they may
        have been sent by the ledger that it is a copy of. Compare with CloudTrail first.

        Raises:
            LedgerError: the database cannot be used.
        """
        await self._require_writable()
        await self._store.release()

    async def take_over(self, url: str) -> int:
        """
        Move the ledger at *url*, such as a SQLite file that has become too small, into this one.

        This one must be new and in PostgreSQL. The old one takes no more usage from then on, but
        can be read; stop whatever uses it first. Where nothing is moved, because it is refused,
        fails or is cancelled, the old one stays as it was. If the process is killed, or a database
        lost in the middle of it, call it again.

        Returns: how many hours were moved.

        Raises:
            ConfigurationError: for a URL of another kind, or where this one is not in PostgreSQL.
            LedgerMissingError: there is no ledger at *url*.
            LedgerUnusableError: this ledger has usage already, or the other one moved elsewhere.
            LedgerOutcomeUnknownError: this database went away at the commit.
            LedgerError: one of the databases cannot be used.
        """
        await self._require_writable()
        source = store_at(url, create=False)
        await source.open()
        try:
            return await self._store.take_over(source)
        finally:
            await source.aclose()

    def _relay(self, client: MarketplaceMeteringClient, stop: asyncio.Event | None) -> Relay:
        return Relay(
            client,
            self._store,
            stop=asyncio.Event() if stop is None else stop,
            slice_seconds=self._slice,
            clock=self._clock,
            observer=self._observer,
            reach=self._reach,
        )

    def _require_open(self) -> None:
        if not self._is_open:
            raise LedgerClosedError("the ledger is not open")
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            raise LedgerClosedError(
                "the ledger belongs to another process or event loop; open one here"
            )

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    async def _post(self, usages: Sequence[Usage]) -> Sequence[PostingResult]:
        results = await self._store.post(usages, self._now(), self._rules)
        self._report(results)
        return results

    def _report(self, results: Sequence[PostingResult]) -> None:
        """Report usage that no hour carries, as the relay does with records that have ended."""
        for state, pieces in Counter(getattr(one, "ended", None) for one in results).items():
            if state is not None:
                emit(self._observer, UsageEndedUnmetered(state=state.value, records=pieces))
