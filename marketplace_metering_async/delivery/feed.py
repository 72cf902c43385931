"""Records that join a delivery while it runs: what a stream and a batcher have in common."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Final, cast

from attrs import define, field

from marketplace_metering_async.delivery.admission import Admission
from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.delivery.batch import UNCLEAR_SCHEMES
from marketplace_metering_async.delivery.call import Door, Shared
from marketplace_metering_async.delivery.delivery import Delivery
from marketplace_metering_async.delivery.duplicates import SchemeOverlaps, is_same
from marketplace_metering_async.delivery.model import PendingRecord
from marketplace_metering_async.delivery.verdicts import rejected
from marketplace_metering_async.errors import (
    BothSchemesError,
    ConflictingRecordsError,
    KeyAlreadySentError,
    MeteringError,
)
from marketplace_metering_async.events import BatchReleased, Settled, WarningIssued, emit
from marketplace_metering_async.records import Key, UsageRecord
from marketplace_metering_async.results import (
    RecordResult,
    RecordStatus,
    SettledRecords,
    Verdict,
    in_order,
)
from marketplace_metering_async.rules import require_linger

_ADMISSION_HOLDS: Final = 1.0
"""Seconds: fine beside the minutes of the service's window."""


@define(eq=False)
class Entry:
    """
    A record without a verdict, and others of its key.

    Attributes:
        position: Where it stands in what was given.
        record: The record.
        given: What was given for it.
        key: What the service counts as one.
        since: Monotonic time at which it came.
        others: What was given for the others, and the record that it makes, by position.
        conflict: Why none of the records of the key is sent.
        sent: Whether it was handed to the transport.
        is_wanted: Whether who gave it still waits for its verdict.
    """

    position: int
    record: UsageRecord
    given: object
    key: Key
    since: float
    others: dict[int, tuple[object, UsageRecord]] = field(factory=dict)
    conflict: list[int] = field(factory=list)
    conflict_kind: type[ConflictingRecordsError] = ConflictingRecordsError
    sent: bool = False
    is_wanted: bool = True


_Joining = tuple[int, object, UsageRecord]
"""A position, what was given at it, and the record that it makes."""


class Feed(Door):
    """
    Compares records with those that have no verdict yet, and hands them to a delivery.

    Attributes:
        delivery: What sends them.
        waiting: Records that were not sent yet.
        counts: How many got which verdict since the last report.
    """

    goes_on = True

    def __init__(
        self,
        shared: Shared,
        take_results: Callable[[Sequence[RecordResult]], None],
        *,
        product_code: str | None,
        linger: float,
        keys_remembered: int = 0,
        callers: Mapping[int, Context] | None = None,
    ) -> None:
        """
        Make a feed whose results *take_results* gets.

        Args:
            shared: What all deliveries of a client have in common.
            take_results: Is given each result once.
            product_code: The product of records that name none.
            linger: Seconds that a record waits for company at the most.
            keys_remembered: Keys that may be on file with the service and are remembered after
                their verdict.
            callers: The contexts of those who gave the records, by position, as far as somebody
                observes them; None where all are of one caller.

        Raises:
            TypeError, ValueError: for a linger that is no number, or negative.
        """
        require_linger(linger)
        self.waiting = 0
        self.counts: Counter[RecordStatus] = Counter()
        self._connection = shared.connection
        self._hand_on = take_results
        self._product_code = product_code
        self._keys_remembered = keys_remembered
        self._callers = callers
        self._admission = Admission(shared.connection.bounds(), product_code=product_code)
        self._admission_of = shared.connection.clock.monotonic()
        self._entries: dict[int, Entry] = {}
        self._by_key: dict[Key, Entry] = {}
        self._sent: OrderedDict[Key, RecordResult] = OrderedDict()
        self._schemes: SchemeOverlaps | None = None  # once a record had a license
        self._awaited: set[Entry] = set()  # by records of the other scheme
        backlog = Backlog(self._records_at, product_code=product_code, linger=linger)
        self.delivery = Delivery(shared, backlog, self)

    @property
    def in_flight(self) -> int:
        """How many records were sent, and have no verdict."""
        return len(self._entries) - self.waiting

    def admit(self, position: int, given: object) -> UsageRecord:
        """
        Return the record to send for what was *given*.

        Raises:
            InvalidRecordError: as `Admission.admit`.
        """
        moment = self._connection.clock.monotonic()
        if moment - self._admission_of > _ADMISSION_HOLDS:
            self._admission.set_time(self._connection.bounds())
            self._admission_of = moment
        return self._admission.admit(position, given)

    def join(self, position: int, given: object, record: UsageRecord) -> None:
        """Let a record be sent, or share the fate of one with its key."""
        key = record.key(self._product_code)
        first = self._by_key.get(key)
        if first is None:
            self._join_first(position, given, record, key)
            return
        first.others[position] = (given, record)
        if first.conflict:
            first.conflict.append(position)
        elif not first.sent and not is_same(first.record, record):
            first.conflict = [first.position, *first.others]

    def leave(self, position: int, record: UsageRecord) -> list[int]:
        """
        Take back what was given at *position*; it is not sent if nobody else wants that.

        Returns: positions that get no result any more: none where it may be sent all the same.
        """
        of_other_scheme = (one for one in self._awaited if position in one.others)
        entry = self._by_key.get(record.key(self._product_code)) or next(of_other_scheme, None)
        if entry is None:
            return []
        gone: list[int] = []
        if position == entry.position:
            entry.is_wanted = False
        elif entry.others.pop(position, None) is not None:
            gone.append(position)
        is_needed = entry.is_wanted or entry.others or entry.sent or entry.conflict
        if not is_needed and self.delivery.take_back(entry.position, entry.record):
            del self._entries[entry.position]
            self._forget(entry)
            gone.append(entry.position)
        return gone

    def report(self, since: float) -> None:
        """Report the verdicts given *since* a monotonic time, which that of the last report is."""
        counts, self.counts = self.counts, Counter()
        self.delivery.report(counts, since)

    def _join_first(self, position: int, given: object, record: UsageRecord, key: Key) -> None:
        if (result := self._sent.get(key)) is not None:
            if not is_same(cast("UsageRecord", result.record), record):
                if result.metered is not False:
                    self.reject(position, given, KeyAlreadySentError((result.position, position)))
                    return
            elif result.status is not RecordStatus.UNCONFIRMED:
                verdict = result.verdict._replace(duplicate_of=result.position)
                self._give(RecordResult(position, given, verdict, result.metering_record_id))
                return
        entry = Entry(position, record, given, key, self._connection.clock.monotonic())
        if self._waits_for_other_scheme(entry):
            return
        self._entries[position] = self._by_key[key] = entry
        self.waiting += 1
        self.delivery.add(position, record)

    def _waits_for_other_scheme(self, entry: Entry) -> bool:
        """
        Refuse what comes by product code as well as by license, where it can be known.

        Returns: whether one of them was sent, so that *entry* waits for the verdict on that.
        """
        if self._schemes is None:
            if entry.record.license_arn is None:
                return False
            self._schemes = SchemeOverlaps(self._product_code)
            for other in self._entries.values():
                self._schemes.note(other.position, other.record)
        was_unclear = self._schemes.is_unclear
        others = [self._entries[at] for at in self._schemes.note(entry.position, entry.record)]
        if self._schemes.is_unclear and not was_unclear:
            emit(self._connection.observer, WarningIssued(text=UNCLEAR_SCHEMES))
        for other in others:
            if other.sent:
                self._schemes.forget(entry.position, entry.record)
                other.others[entry.position] = (entry.given, entry.record)
                self._awaited.add(other)
                return True
        if others:
            positions = [*(other.position for other in others), entry.position]
            for one in (*others, entry):
                one.conflict, one.conflict_kind = positions, BothSchemesError
        return False

    # What the delivery asks and says.

    def _records_at(self, positions: Sequence[int]) -> list[UsageRecord]:
        return [self._entries[position].record for position in positions]

    def unsettled(self, among: Sequence[int] | None) -> list[int]:
        """Return which of some positions, or of all, have no verdict."""
        return [p for p in (self._entries if among is None else among) if p in self._entries]

    def screen(self, pending: PendingRecord) -> Verdict | None:
        """A record is not sent once a different one of its key has come."""
        entry = self._entries[pending.position]
        if entry.conflict and not entry.sent:
            return rejected(entry.conflict_kind(sorted(entry.conflict)))
        return None

    def leaving(self, positions: Sequence[int]) -> None:
        """Take note of those that are sent for the first time."""
        fresh = [entry for entry in map(self._entries.__getitem__, positions) if not entry.sent]
        if not fresh:
            return
        for entry in fresh:
            entry.sent = True
        self.waiting -= len(fresh)
        if self._connection.observes_calls:
            waited = self._connection.clock.monotonic() - min(entry.since for entry in fresh)
            released = BatchReleased(
                records=len(fresh), waited=waited, waiting=self.waiting, in_flight=self.in_flight
            )
            emit(self._connection.observer, released)

    def callers(self, positions: Sequence[int]) -> list[Context] | None:
        """Return the contexts of those who wait for records, copies among them."""
        if self._callers is None:
            return None
        given = list(positions)
        for entry in map(self._entries.__getitem__, positions):
            given += [at for at, (_, one) in entry.others.items() if is_same(entry.record, one)]
        return [self._callers[at] for at in given if at in self._callers]

    def settle(self, outcomes: Sequence[SettledRecords]) -> None:
        """Take verdicts; others of a key share that of its first record, or join once more."""
        results: list[RecordResult] = []
        copies: list[RecordResult] = []
        again: list[_Joining] = []
        try:
            for verdict, positions, record_ids in outcomes:
                for position, record_id in zip(positions, record_ids, strict=True):
                    entry = self._entries[position]
                    result = RecordResult(position, entry.given, verdict, record_id)
                    shared, joining = _fate_of_others(entry, result)
                    del self._entries[position]
                    results.append(result)
                    copies += shared
                    again += joining
                    self._forget(entry)
                    self._remember(entry, result)
        finally:  # whatever broke: what is no entry any more has its result, and the rest is one
            if copies:
                counts = in_order(Counter(copy.status for copy in copies))
                emit(self._connection.observer, Settled(counts=counts))
            self._take_results(results + copies)
            for one in again:
                self.join(*one)

    def _forget(self, entry: Entry) -> None:
        del self._by_key[entry.key]
        self._awaited.discard(entry)
        if self._schemes is not None:
            self._schemes.forget(entry.position, entry.record)
        if not entry.sent:
            self.waiting -= 1

    def _remember(self, entry: Entry, result: RecordResult) -> None:
        """Keep what may be on file with the service for those of its key that come later."""
        if not self._keys_remembered:
            return
        if result.metered is not False or result.status is RecordStatus.DUPLICATE_RECORD:
            position, record_id = result.position, result.metering_record_id
            self._sent[entry.key] = RecordResult(position, entry.record, result.verdict, record_id)
            self._sent.move_to_end(entry.key)
            if len(self._sent) > self._keys_remembered:
                self._sent.popitem(last=False)
        else:
            self._sent.pop(entry.key, None)

    def _take_results(self, results: Sequence[RecordResult]) -> None:
        self.counts.update(result.verdict.status for result in results)
        self._hand_on(results)

    def count(self, result: RecordResult) -> None:
        """Count the result of a record that no delivery has."""
        emit(self._connection.observer, Settled(counts={result.status: 1}))
        self.counts[result.status] += 1

    def _give(self, result: RecordResult) -> None:
        self.count(result)
        self._hand_on([result])

    def reject(self, position: int, given: object, error: MeteringError) -> None:
        """Give the result of what is no record, or may not be sent."""
        self._give(RecordResult(position, given, rejected(error)))


def _fate_of_others(
    entry: Entry, result: RecordResult
) -> tuple[list[RecordResult], list[_Joining]]:
    """Return the results of the others of a key, whose first has its *result*."""
    shared: list[RecordResult] = []
    again: list[_Joining] = []
    for at, (given, record) in entry.others.items():
        if entry.conflict and not entry.sent:  # so that none of them was
            shared.append(RecordResult(at, given, result.verdict))
        elif is_same(entry.record, record):
            copy = result.verdict._replace(duplicate_of=entry.position)
            shared.append(RecordResult(at, given, copy, result.metering_record_id))
        elif result.metered is not False:
            refused = rejected(KeyAlreadySentError((entry.position, at)))
            shared.append(RecordResult(at, given, refused))
        else:
            again.append((at, given, record))
    return shared, again
