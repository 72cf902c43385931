"""What a ledger asks of the place that it is kept in: verbs, each one durable transaction."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from attrs import frozen

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryPlace, HistoryQuery
from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.model import (
    CustomerKey,
    FrozenHour,
    HourState,
    Note,
    Settlement,
    Usage,
)
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import PostingResult
from marketplace_metering_async.ledger.status import Figures
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions

FailPoint = Callable[[str], None]
"""Called with the name of each point at which a process may die; a seam for fault injection."""


Warn = Callable[[str], None]
"""Called with what a person should know."""


def no_failure(point: str, /) -> None:
    """Pass every point by."""


class Sealed(NamedTuple):
    """
    How many hours were closed.

    Attributes:
        hours: All of them.
        held: Those that are not sent, since the ledger that this is a copy of may have sent them.
        copy: What to say of a copy that nobody has adopted, and that seals none; None: it is none.
    """

    hours: int = 0
    held: int = 0
    copy: str | None = None


@frozen(kw_only=True)
class ClaimRules:
    """
    What a relay may take.

    Attributes:
        begun: When its round has begun: what is put back later waits for the next one.
        limit: How many records at most.
        lease: For how many seconds.
        region_name: Of which region.
        without: Lanes that are left alone; see UsageKey.lane.
    """

    begun: int
    limit: int
    lease: float
    region_name: str
    without: Sequence[str] = ()


class Store(Protocol):
    """
    A place for one ledger.

    All times are in seconds since 1970. Each verb raises LedgerError where the database cannot do
    it, and nothing has happened then; LedgerOutcomeUnknownError where it failed at the commit and
    nobody can be asked; LedgerUnusableError where it would change a ledger that has moved, or whose
    schema was upgraded beyond what this process knows.
    """

    shares_quota: bool
    """Whether relays on other machines use the same quota, and agree on it here."""

    @property
    def clock(self) -> Clock:
        """The clock of whatever keeps it, the same for all who use it."""
        ...

    @property
    def may_write(self) -> bool:
        """Whether its role and server let this process write, as it was when it was opened."""
        ...

    async def open(self, warn: Warn) -> None:
        """
        Connect, and bring the schema up to date under a lock.

        From then on *warn* hears what is found to be missing.

        Raises:
            LedgerUnusableError: it cannot be used; the text says why.
        """
        ...

    async def aclose(self) -> None:
        """Let go of it; twice is fine."""
        ...

    # Who it is

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """
        Make it a ledger, or look whether it is the one that was here.

        Returns: what a person should know about it; None where there is nothing.

        Raises:
            LedgerRegionMismatchError: its records go to another region than *region_name*.
        """
        ...

    async def bind(self, region_name: str, host: str) -> None:
        """
        Tie it to the region and host that its records go to.

        Raises:
            LedgerRegionMismatchError: it is tied to others.
        """
        ...

    async def adopt(self, now: int) -> None:
        """
        Note that this copy is the ledger to go on with; one that is no copy stays as it is.

        Usage that what it lacks may have metered is held from then on: see seal_due.
        """
        ...

    # The way in

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> Sequence[PostingResult | None]:
        """
        Add a group of usage to the hours of its keys, once; one result for each, in order.

        None is said of what was not added, since its event id is in the open transaction of a
        caller: it is to be brought again. However often the connection is lost, it takes place at
        most once.
        """
        ...

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
        ...

    async def fold(self, now: int, rules: PostingRules) -> Counter[HourState]:
        """
        Add what callers' transactions have committed to its hours; return how many of it ended.

        Usage whose hour is sealed by then is carried, as if it were added now; what the database
        cannot hold is left where it is, and named in a warning.
        """
        ...

    async def known_events(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """Return the event ids among *names* that are known, with the digest of what was said."""
        ...

    async def whole_dimensions(self) -> WholeDimensions:
        """Return the dimensions that are declared whole."""
        ...

    async def declare_whole(self, whole: WholeDimensions, now: int) -> None:
        """Let these dimensions be whole, and no others, for all usage that is added from now on."""
        ...

    async def close(self, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
        """Note that a subscription ends at *at*; return how many hours are due by then."""
        ...

    async def reopen(self, customer: CustomerKey) -> None:
        """Forget that a subscription ended."""
        ...

    async def rearm(self, states: Sequence[HourState], now: int, rules: PostingRules) -> int:
        """
        Send ended records again, unchanged, where their window is still open; return how many.

        Usage that no hour carries goes to the first unsealed hour from now on.
        """
        ...

    # What a person says

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
        ...

    async def rebill(self, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
        """
        Move the usage of ended hours to the first unsealed hour from now on; return of how many.

        Raises:
            CannotResolveError: the service may have one of them; nothing is changed.
        """
        ...

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
        ...

    # The way out

    async def seal_due(self, now: int, limit: int, region_name: str) -> Sealed:
        """
        Close hours that are due, each permanently, and freeze their records.

        A copy that nobody has adopted seals none. Hours of an adopted one that may have been sent
        by what it lacks end as UNCONFIRMED.
        """
        ...

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """
        Lease frozen records, those with the earliest deadline first.

        A lease further in the future than its length means that the clock went back: it is over;
        so is a pause. What is not fit to be sent is put aside. How far the ledger has sealed is
        written outside of it before; where that fails, nothing is claimed.
        """
        ...

    async def return_claims(self, claims: Sequence[FrozenHour], not_before: int) -> None:
        """End *claims* that had no answer; each row is in doubt if its claim says so."""
        ...

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """
        Write down what claims came to, and return what the relay is to hear of.

        A claim that is not the latest any more is fenced off, for a later relay has the record now;
        but for a success, which is written whoever has it. Written twice, it is written once.
        """
        ...

    async def note_relay(self, now: int) -> None:
        """Note that a relay works: its database lets it, and nothing of the account stops it."""
        ...

    async def next_due(self) -> float | None:
        """Return when there will be something to seal or send."""
        ...

    async def reserve_calls(self, seconds: float) -> float:
        """Reserve *seconds* of the quota that all relays share; return in how many they end."""
        ...

    # What is in it

    async def status(self, now: int) -> Figures:
        """Return the figures of the whole ledger."""
        ...

    async def history(
        self, query: HistoryQuery, after: HistoryPlace, limit: int
    ) -> list[tuple[HistoryPlace, HistoryEntry]]:
        """Return the next entries *after* a place, with their places, in order."""
        ...

    async def arrivals(self, query: HistoryQuery) -> list[HistoryEntry]:
        """
        Return the usage of callers' transactions that is not added to its hour yet, in order.

        It is open, so there is none where other states are asked for.
        """
        ...

    async def prune(self, before: int, limit: int) -> int:
        """Remove some hours settled before *before*, but for their sums; return how many."""
        ...

    async def prune_events(self, before: int, limit: int) -> int:
        """Forget some ids of events that were added before *before*; return how many."""
        ...

    async def tidy(self) -> bool:
        """Remove some notes of its own that are of no use any more; return whether more wait."""
        ...

    # Moving

    async def back_up(self, to: str) -> None:
        """
        Write a copy of all that is committed into a new file *to*, while others go on.

        Raises:
            ConfigurationError: the database has programs of its own for that.
        """
        ...

    async def take_over(self, source: "Store") -> int:
        """
        Move everything of *source* here, in one transaction; return how many hours there were.

        The source is retired before it is copied, so that the copy lacks nothing. Where nothing is
        copied in the end, it is reinstated.

        Raises:
            ConfigurationError: this store is none to move to.
            LedgerUnusableError: this one is not new, or the source is none that may move.
        """
        ...

    async def let_go(self, source: "Store") -> None:
        """
        Open *source* again, which moved here, unless this ledger has usage.

        Raises:
            LedgerUnusableError: it has, or the source moved elsewhere.
        """
        ...

    async def retire(self, to: str) -> Identity:
        """
        Close the ledger to usage and relays, for it moves to the ledger *to*; return its row.

        Raises:
            LedgerUnusableError: it is that ledger, or has moved to another one.
        """
        ...

    async def reinstate(self, to: str) -> None:
        """Take back that it has moved to the ledger *to*."""
        ...

    async def dump(
        self, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return the next rows of a table of TABLES *after* a key, in the order of its key."""
        ...
