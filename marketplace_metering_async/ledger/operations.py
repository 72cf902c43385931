"""What an operator does with a ledger: decide what has ended, tidy it up, copy and move it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock
from marketplace_metering_async.errors import LedgerRegionMismatchError, LedgerUnusableError
from marketplace_metering_async.events import Observer, WarningIssued, emit
from marketplace_metering_async.ledger.explanations import EXPLANATIONS, Explanation
from marketplace_metering_async.ledger.history import HistoryEntry
from marketplace_metering_async.ledger.model import DECIDED, ENDED, HourState, Note
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.resolutions import (
    ResolvedAs,
    Taken,
    require_note,
    rows_of,
    state_of_taken,
    state_resolved,
)
from marketplace_metering_async.ledger.status import LedgerStatus
from marketplace_metering_async.ledger.stores import Store, store_at
from marketplace_metering_async.ledger.usage import moment_of

_KEPT: Final = timedelta(days=3)
"""No row younger than this is pruned: the service's window is a day, a month's end included."""
_IDS_KEPT: Final = timedelta(days=32)
"""No event id younger than this is: usage may be carried for a month, and six hours more."""
CHANGED_AT_ONCE: Final = 500
"""
Rows that one transaction changes or removes: in SQLite whoever adds usage waits for it. With ten
times as many all took a quarter less, and whoever added meanwhile waited three to eight times as
long.
"""


class LedgerOperations(ABC):
    """The half of UsageLedger that is for its operator; the command line has the same verbs."""

    _store: Store
    _clock: Clock
    _observer: Observer
    _rules: PostingRules

    async def retry(self, *states: HourState) -> int:
        """
        Send ended records again, unchanged, where the service still takes them.

        Usage that no hour could carry (MONTH_OVER, SUBSCRIPTION_OVER, and what was resolved of it)
        goes to the hour that runs now, but only where you name its state: that is your decision,
        since it moves a charge to another month or agreement.

        Args:
            states: Which: end states, or FROZEN, whose records wait no longer. By default all but
                those of which a person has to decide: MONTH_OVER, SUBSCRIPTION_OVER, OTHER_SCHEME
                (which the service would bill beside the other scheme), WRITTEN_OFF. What is
                UNCONFIRMED is to be resolved first.

        It goes on in small transactions, so that nobody waits; where it fails or is cancelled, a
        part is on its way. Call it again for the rest.

        Returns: how many are on their way again.

        Raises:
            ValueError: for another state, and for UNCONFIRMED; nothing is changed.
            LedgerError: the database cannot be used.
        """
        await self._require_writable()
        if wrong := [state for state in states if state not in (*ENDED, HourState.FROZEN)]:
            raise ValueError(f"states: expected end states or frozen, got {wrong[0]}")
        if HourState.UNCONFIRMED in states:
            raise ValueError("resolve what is unconfirmed first: it may be metered already")
        asked = states or (HourState.FROZEN, *(one for one in ENDED if one not in DECIDED))
        hours, stranded = await self._store.rearmable(asked, self._now())
        count = 0
        for some in _parts(hours):
            count += await self._store.rearm(some, asked, self._now())
        for some in _parts(stranded if states else ()):
            count += await self._store.carry(some, states, self._now(), self._rules)
        return count

    async def resolve(
        self, hours: Iterable[HistoryEntry | str], as_: ResolvedAs, *, note: str
    ) -> int:
        """
        Say what became of usage that has ended; it stands in the history, with your *note*.

        The way out of PROBABLY_METERED, CONFLICT and every other end state, once you have looked
        into CloudTrail or the usage report. A success that the service says later wins over it, and
        is reported as a warning.

        In SQLite all others wait meanwhile, a second for 20,000: give a thousand at a time, as the
        command line does.

        Args:
            hours: Entries of `history()`, or their names. All of them are resolved, or none.
            as_: "metered": the customer is billed for it, and it cannot be undone. "not_metered":
                the service does not have it; `retry()` may send the identical record within its
                window, and `reopen()` bill it in another hour. "written_off": nobody is billed.
            note: Why, for those who read the history later; 1 to 1000 characters.

        Returns: how many are resolved.

        Raises:
            CannotResolveError: one has not ended (a relay may hold it), or is gone; nothing is
                changed. Of what was never sent (MONTH_OVER, SUBSCRIPTION_OVER) one can only say
                "written_off".
            ValueError: for another word, an empty note, or what names no entry.
            LedgerError: the database cannot be used.
        """
        await self._require_writable()
        after, rows = state_resolved(as_), rows_of(map(_name_of, hours))
        return await self._store.resolve(*rows, after, self._note(note))

    async def reopen(self, hours: Iterable[HistoryEntry | str], *, note: str) -> int:
        """
        Bill the usage of ended *hours* in the hour that runs, with your *note* in the history.

        Only where the service surely does not have it: resolved as not metered, or refused while no
        attempt was in doubt. It moves a charge to another hour, and maybe to another month.

        Returns: of how many.

        Raises: as `resolve`; CannotResolveError also where it may be metered, or is damaged.
        """
        await self._require_writable()
        ids, stranded = rows_of(map(_name_of, hours))
        if stranded:
            raise ValueError("hours: move what no hour carries with retry(), by its state")
        return await self._store.rebill(ids, self._note(note), self._rules)

    async def rebind(
        self, client: MarketplaceMeteringClient, *, taken: Taken | None = None, note: str
    ) -> int:
        """
        Send records to the host of *client* from now on, such as another endpoint of the region.

        Stop all relays first. In SQLite, whoever adds usage waits meanwhile: 25 seconds for a
        million records that are metered no more.

        Args:
            client: Of the ledger's region.
            taken: What becomes of records that the old host has taken: "billed" (all is well),
                "send" (again, to the new one; those whose window is closed end as not metered) or
                "written_off". Needed where the old one is none of AWS's, such as a sandbox.
            note: Why; it stands in the history of what is metered no more.

        Returns: how many records are metered no more.

        Raises:
            LedgerRegionMismatchError: the client is of another region.
            CannotResolveError: *taken* is needed, or a relay has records in its hands.
            ValueError: for another word, or an empty note.
            ClientClosedError, ConfigurationError, LedgerError: as `relay_once`.
        """
        await self._require_writable()
        endpoint = await client.endpoint()
        status = await self.status()
        if status.region_name not in (None, endpoint.region_name):
            raise LedgerRegionMismatchError(
                f"the ledger's records go to {status.region_name}, not to {endpoint.region_name}"
            )
        after = state_of_taken(taken, status.host, status.metered)
        host = urlsplit(endpoint.url).hostname or ""
        return await self._store.rebind(host, after, self._note(note))

    async def un_retire(self, url: str) -> None:
        """
        Go on with this ledger, which moved to the one at *url*, where that has nothing of it.

        So it is where whatever moved it was killed. Where that one has other usage, a warning says
        so: two ledgers must never meter the same customers and dimensions.

        Raises:
            LedgerUnusableError: that ledger has this one's usage, this one moved elsewhere, or not
                at all.
            ConfigurationError: for a URL of another kind, or where that one is not in PostgreSQL.
            LedgerError: one of the databases cannot be used.
        """
        await self._require_writable()
        if (moved_to := await self._moved_to()) is None:
            raise LedgerUnusableError("this ledger has not moved, and can be used")
        target = store_at(url, create=False)
        await target.open(self._warn)
        try:
            has_other = await target.let_go(self._store)
        finally:
            await target.aclose()
        if await self._moved_to() is not None:
            raise LedgerUnusableError(f"this ledger has moved to {moved_to}, not to that one")
        if has_other:
            self._warn(
                "let all producers add to one of the two ledgers: the other one has usage, too, "
                "and what both meter of a customer's hour ends as a conflict in one of them"
            )

    def _note(self, text: str) -> Note:
        return Note(require_note(text), self._now())

    async def _moved_to(self) -> str | None:
        return (await self._store.status(self._now())).ledger.moved_to

    @staticmethod
    def explain(state: HourState) -> Explanation:
        """
        Return what *state* means, and what to do about usage in it.

        Raises:
            ValueError: it is no HourState, nor the value of one.
        """
        return EXPLANATIONS[HourState(state)]

    async def prune(self, before: datetime) -> int:
        """
        Remove hours that were metered, written off or reopened before *before*, but for their sums.

        So it does with usage that no hour carried, and that was written off by then. What has ended
        otherwise stays for as long as nobody has said what becomes of it.

        Event ids of that age are forgotten, too, but none before it is 32 days old, as long as
        usage may be late; from then on, an event older than they are is refused.

        It goes on in small transactions, so that nobody waits; cancelled, it has removed a part.

        Returns: how many hours, those of usage that no hour carried among them.

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
        end, pruned = int(before.timestamp()), 0
        while some := await self._store.prune(end, CHANGED_AT_ONCE):
            pruned += some
        if old := await self._store.old_stranded(end):
            for rows in _parts(old):
                pruned += await self._store.prune_stranded(rows, end)
        ids = min(end, int((now - _IDS_KEPT).timestamp())), int(now.timestamp())
        while await self._store.prune_events(*ids, CHANGED_AT_ONCE):
            pass
        return pruned

    async def adopt_copy(self) -> None:
        """
        Say that this copy of a ledger, such as a restored backup, is the one to go on with.

        Until then its frozen records go out, which is harmless, and its open hours wait: what the
        copy lacks may have metered them. Let the producers repeat their usage by event id first.

        From then on usage is metered again, but for what may be metered already: hours up to the
        latest one that had been claimed (where nobody knows which, up to now) end as UNCONFIRMED
        when they are due, and so does late usage of that time. Compare with CloudTrail what the
        service has of them.

        A ledger that is no copy stays as it is.

        Raises:
            LedgerError: the database cannot be used, or the watermark not be written: nothing is
                sent until it can.
        """
        await self._require_writable()
        await self._store.adopt(self._now())

    async def back_up(self, path: str | os.PathLike[str]) -> None:
        """
        Write a copy of a ledger in SQLite into a new file, while all others go on using it.

        It has all usage that was stored before. To put it back, see OPERATING.md. Cancelling leaves
        open whether it is written.

        Raises:
            ConfigurationError: the ledger is in PostgreSQL: `pg_dump` it.
            LedgerError: there is such a file already, or it cannot be written; none is left then.
        """
        self._require_open()
        await self._store.back_up(os.fspath(path))

    async def take_over(self, url: str) -> int:
        """
        Move the ledger at *url*, such as a SQLite file that has become too small, into this one.

        This one must be new and in PostgreSQL. The old one takes no more usage from then on, but
        can be read; stop whatever uses it first. A copy that nobody has adopted is one here, too.
        Where nothing is moved, because it is refused, fails or is cancelled, the old one stays as
        it was. If the process is killed, or a database lost in the middle of it, call it again.

        Returns: how many hours were moved.

        Raises:
            ConfigurationError: for a URL of another kind, or where this one is not in PostgreSQL.
            LedgerMissingError: there is no ledger at *url*.
            LedgerUnusableError: this ledger has usage already, or the other one moved elsewhere.
            LedgerOutcomeUnknownError: this database went away at the commit.
            LedgerError: one of the databases cannot be used, or a relay wrote verdicts into the old
                ledger while it was copied.
        """
        await self._require_writable()
        source = store_at(url, create=False)
        await source.open(self._warn)
        try:
            return await self._store.take_over(source)
        finally:
            await source.aclose()

    @abstractmethod
    async def status(self) -> LedgerStatus:
        """See UsageLedger."""

    @abstractmethod
    def _require_open(self) -> None: ...

    @abstractmethod
    async def _require_writable(self) -> None: ...

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    def _warn(self, text: str) -> None:
        emit(self._observer, WarningIssued(text=text))


def _parts(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows) or 1, CHANGED_AT_ONCE):  # a ledger that moved says so
        yield rows[start : start + CHANGED_AT_ONCE]


def _name_of(hour: HistoryEntry | str) -> str:
    return hour if isinstance(hour, str) else hour.name
