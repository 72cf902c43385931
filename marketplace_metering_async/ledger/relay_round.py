"""One round of a relay: what it sends, what it learns, and what ends it."""

import asyncio
from collections.abc import Iterator, Sequence

from attrs import evolve

from marketplace_metering_async.errors import LedgerError, MeteringError
from marketplace_metering_async.ledger.frozen_record import record_of
from marketplace_metering_async.ledger.model import FrozenHour
from marketplace_metering_async.ledger.relay_report import RelayNews
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult


class Sending:
    """Claimed records on their way through the client."""

    def __init__(self, claimed: Sequence[FrozenHour]) -> None:
        self._claimed = claimed
        self._given = 0  # to the client
        self._open = set(range(len(claimed)))  # without a result
        self._unsent: list[FrozenHour] = []

    def records(self) -> Iterator[UsageRecord]:
        """Make records one by one as they are sent: at once they would hold up what is sent."""
        for claim in self._claimed:
            self._given += 1
            yield record_of(claim)

    def claim_of(self, result: RecordResult) -> FrozenHour:
        """Return the claim that has its result now."""
        self._open.remove(result.position)
        return self._claimed[result.position]

    def note_unsent(self, claim: FrozenHour) -> None:
        """Note that the client has not sent the record of *claim*."""
        self._unsent.append(claim)

    def unanswered(self) -> list[FrozenHour]:
        """Return the claims without a verdict; in doubt where the client may have sent it."""
        return self._unsent + [
            evolve(claim, in_doubt=claim.in_doubt or position < self._given)
            for position, claim in enumerate(self._claimed)
            if position in self._open
        ]


class Round:
    """
    One look at all that may be sent now.

    Attributes:
        begun: When: what comes back later waits for the next one.
        news: What is learnt.
        failure: Of the database, which ends it.
    """

    def __init__(self, begun: int) -> None:
        self.begun = begun
        self.news = RelayNews()
        self.failure: LedgerError | None = None
        self.endings: set[asyncio.Event] = set()  # of what is being sent

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it is to be sent."""
        return self.failure is not None or self.news.report.stopped_by is not None

    def fail(self, failure: LedgerError) -> None:
        """Let nothing more start, for the database cannot be used."""
        self.failure = failure
        self.end()

    def stop(self, fault: MeteringError) -> None:
        """Let nothing more start, for the account is at fault."""
        self.news.report.stopped_by = fault
        self.end()

    def end(self) -> None:
        """Let nothing more start."""
        for ending in self.endings:
            ending.set()
