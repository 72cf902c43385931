"""UsageBatcher: gathers single records of many callers into full requests."""

import asyncio
from collections import deque
from collections.abc import Mapping
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from attrs import define, field

from marketplace_metering_async import wire
from marketplace_metering_async.batcher.entries import Entry, Key, SentKeys, Waiter, result_for
from marketplace_metering_async.batcher.room import Room
from marketplace_metering_async.batcher.session import Session
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.errors import (
    ClientClosedError,
    DeliveryTimeoutError,
    InvalidRecordError,
    KeyAlreadySentError,
    MeteringError,
)
from marketplace_metering_async.events import Released, tell
from marketplace_metering_async.limits import MAX_RECORDS_PER_REQUEST, REQUEST_BYTES
from marketplace_metering_async.planning import Lane, chunk_key
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict
from marketplace_metering_async.validation import Admission

_LONGEST_SESSION: Final = 30.0
"""Seconds after which records join a new delivery, which has forgotten whom the service refused."""
_ADMISSION_HOLDS: Final = 1.0
"""Seconds: fine beside the minutes of the service's window."""
_LEAST_SHARE: Final = 2 * MAX_RECORDS_PER_REQUEST


@define(eq=False)
class _Gathering:
    """The records of one lane that wait for company."""

    entries: deque[Entry] = field(factory=deque)
    size: int = 0
    """Bytes of those with allocations: others cannot fill a request before they are 25."""
    timer: "asyncio.Task[None] | None" = None
    due: bool = False
    """Whether they may go as soon as their lane has its turn."""
    in_flight: int = 0


class UsageBatcher:
    """
    Gathers single records into full requests, and gives every caller the verdict on its own.

    For finished hourly records that come one by one from many tasks; raw events belong in a
    UsageLedger, since the service keeps the first quantity of a customer's hour. Use it with
    `async with`, inside that of its client.

    Attributes:
        waiting: Records that are gathered and not let go yet.
        in_flight: Records on their way.
    """

    def __init__(
        self,
        client: MarketplaceMeteringClient,
        *,
        product_code: str | None = None,
        linger: float = 0.05,
        max_pending: int = 10_000,
    ) -> None:
        """
        Batch for *client*; nothing runs before the first record comes.

        Args:
            client: Sends the requests; close it after the batcher.
            product_code: The product of records that name none.
            linger: Seconds that a record waits for company at the most.
            max_pending: Records without a verdict at the most; further callers wait.

        Raises:
            ValueError: for a negative linger, or less than one record pending.
        """
        if not linger >= 0:
            raise ValueError(f"linger: expected 0 seconds or more, got {linger}")
        if max_pending < 1:
            raise ValueError(f"max_pending: expected at least 1, got {max_pending}")
        self._client = client
        self._product_code = product_code
        self._linger = linger
        self._room = Room(max_pending)
        self._admission: Admission | None = None
        self._admission_of = 0.0  # the monotonic time that it goes by
        self._positions = count()
        self._pending: dict[Key, Entry] = {}
        self._sent = SentKeys()
        self._lanes: dict[Lane, _Gathering] = {}
        self._session: Session | None = None
        self._sessions: set[Session] = set()
        self._closed = False
        self._unsure: list[RecordResult] | None = None  # kept while draining
        self.waiting = 0
        self.in_flight = 0

    async def meter(self, record: UsageRecord | Mapping[str, Any]) -> RecordResult:
        """
        Meter one record, and return the verdict on it.

        It travels with others: as soon as a request is full, or when it has waited `linger`
        seconds. Identical records share one verdict. A record of the same key (product or license,
        customer, dimension, hour) that differs from one before it waits for that one's verdict; it
        is Rejected with KeyAlreadySentError, a ConflictingRecordsError, unless the first is not
        metered for certain. Keys are remembered for the latest 100,000 records.

        Cancelling withdraws a record that has not been let go; after that it may still be metered,
        and its verdict is lost to you. Others are not affected.

        Returns: its result; `position` counts the records of this batcher.

        Raises:
            ClientClosedError: after drain() or aclose(), or after the client was closed, or on
                another event loop.
        """
        self._require_open()
        caller = self._client.caller
        position = next(self._positions)
        try:
            admitted = self._current_admission().admit(position, record)
        except InvalidRecordError as error:
            return RecordResult(
                position, record, Verdict(status=RecordStatus.REJECTED, error=error)
            )
        lane = chunk_key(admitted, self._product_code)
        key = admitted.key(self._product_code)
        while True:
            await self._room.enter(lane)
            earlier = self._pending.get(key)
            known = self._known(position, record, admitted, key) if earlier is None else None
            if earlier is None and known is None:  # the record keeps its place in the room
                entry = Entry(position, admitted, key, lane, caller.clock.monotonic())
                self._gather(entry)
                return await self._verdict(entry, position, record)
            self._room.leave()
            if known is not None:
                return known
            if earlier is not None and self._same(earlier.record, admitted):
                return await self._verdict(earlier, position, record)
            if earlier is not None:
                await asyncio.shield(earlier.over())

    async def flush(self) -> None:
        """
        Let all go that is gathered, and return when everything pending now has its verdict.

        Cancelling it takes nothing back.
        """
        self._let_all_go()
        await self._until_over(list(self._pending.values()))

    async def drain(self, timeout: float | None = None) -> list[RecordResult]:
        """
        Take no more records, let all go, and return what is not metered for certain.

        After *timeout* seconds nothing new starts; requests on the wire are awaited, and what is
        left is Unprocessed, or Unconfirmed where an attempt had no answer. Every caller of meter()
        has its verdict then. A second call waits for the same end, and returns nothing.

        Cancelling it leaves the batcher closed and its deliveries running; call it again to wait.
        """
        self._closed = True
        self._room.close()
        unsure: list[RecordResult] = []
        if self._unsure is None:
            self._unsure = unsure
        self._let_all_go()
        everything = list(self._pending.values())
        if timeout is None:
            await self._until_over(everything)
        else:
            await self._until_over_or(timeout, everything)
        for session in list(self._sessions):
            await session.ended()
        return unsure

    async def aclose(self) -> None:
        """Drain without a limit; twice is fine. Cancelling it is as cancelling `drain`."""
        await self.drain()

    async def __aenter__(self) -> Self:
        """Return the batcher; nothing runs before the first record comes."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drain."""
        await self.aclose()

    # Who waits for what.

    def _current_admission(self) -> Admission:
        """Return what looks at records; it looks at the time once a second."""
        caller = self._client.caller
        moment = caller.clock.monotonic()
        if self._admission is None:
            self._admission = Admission(caller.span(), product_code=self._product_code)
        elif moment - self._admission_of > _ADMISSION_HOLDS:
            self._admission.at(caller.span())
        else:
            return self._admission
        self._admission_of = moment
        return self._admission

    def _require_open(self) -> None:
        if self._closed:
            raise ClientClosedError("the batcher is closed")
        self._client.caller.require_home()

    def _same(self, one: UsageRecord, other: UsageRecord) -> bool:
        """Whether the service would take both for the same record."""
        return (one.epoch, one.quantity, one.usage_allocations) == (
            other.epoch,
            other.quantity,
            other.usage_allocations,
        )

    def _known(
        self, position: int, given: object, record: UsageRecord, key: Key
    ) -> RecordResult | None:
        """Return the result of a record whose key went out before; None where it may be sent."""
        sent = self._sent.get(key)
        if sent is None:
            return None
        if not self._same(sent.record, record):
            error = KeyAlreadySentError((sent.position, position))
            return RecordResult(position, given, Verdict(status=RecordStatus.REJECTED, error=error))
        if sent.verdict.status is RecordStatus.UNCONFIRMED:
            return None  # only the identical record may be sent again, and this is it
        return result_for(position, given, sent.position, sent.verdict, sent.record_id)

    async def _verdict(self, entry: Entry, position: int, given: object) -> RecordResult:
        waiter = Waiter(position, given, asyncio.get_running_loop().create_future())
        entry.waiters.append(waiter)
        try:
            return await waiter.result
        except asyncio.CancelledError:
            entry.waiters.remove(waiter)
            if entry.gathered and not entry.waiters:
                self._withdraw(entry)
            raise

    async def _until_over(self, entries: list[Entry]) -> None:
        if entries:
            await asyncio.wait([entry.over() for entry in entries])

    async def _until_over_or(self, timeout: float, entries: list[Entry]) -> None:
        waiting = asyncio.create_task(self._until_over(entries))
        timer = asyncio.create_task(self._nap(timeout))
        try:
            await asyncio.wait((waiting, timer), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._stop(DeliveryTimeoutError("the time allowed for draining is over"))
                await asyncio.wait((waiting,))
        finally:
            for task in (waiting, timer):
                task.cancel()
            await asyncio.gather(waiting, timer, return_exceptions=True)

    def _stop(self, error: MeteringError) -> None:
        for session in list(self._sessions):
            session.stop(error)
        for gathering in self._lanes.values():
            left, gathering.entries = gathering.entries, deque()
            for entry in left:
                entry.gathered = False
                self.waiting -= 1
                gathering.in_flight += 1
                self.in_flight += 1
                self._settle(entry, Verdict(status=RecordStatus.UNPROCESSED, error=error), None)

    # From gathering to flight.

    def _gather(self, entry: Entry) -> None:
        self._pending[entry.key] = entry
        gathering = self._lanes.setdefault(entry.lane, _Gathering())
        gathering.entries.append(entry)
        self.waiting += 1
        if entry.record.usage_allocations:
            gathering.size += wire.record_size(wire.members_of(entry.record))
        full = len(gathering.entries) >= MAX_RECORDS_PER_REQUEST or gathering.size >= REQUEST_BYTES
        if full or not self._linger:
            self._let_go(gathering)
        elif gathering.timer is None and not gathering.due:
            gathering.timer = asyncio.create_task(self._end_linger(gathering))

    async def _end_linger(self, gathering: _Gathering) -> None:
        await self._nap(self._linger)
        gathering.timer = None
        self._let_go(gathering)

    async def _nap(self, seconds: float) -> None:
        await self._client.caller.clock.sleep(seconds)

    def _withdraw(self, entry: Entry) -> None:
        gathering = self._lanes[entry.lane]
        gathering.entries.remove(entry)
        self.waiting -= 1
        del self._pending[entry.key]
        self._room.leave()
        entry.end()
        if not gathering.entries:
            self._leave(entry.lane, gathering)

    def _let_all_go(self) -> None:
        for gathering in list(self._lanes.values()):
            if gathering.entries:
                self._let_go(gathering)

    def _let_go(self, gathering: _Gathering) -> None:
        """Let as many go as the lane's share of what is in flight allows; the rest is due."""
        if gathering.timer is not None:
            gathering.timer.cancel()
            gathering.timer = None
        share = max(
            _LEAST_SHARE,
            MAX_RECORDS_PER_REQUEST
            * self._client.caller.max_concurrency
            // max(1, len(self._lanes)),
        )
        number = min(len(gathering.entries), share - gathering.in_flight)
        gathering.due = number < len(gathering.entries)
        if number <= 0:
            return
        leaving = [gathering.entries.popleft() for _ in range(number)]
        gathering.size = 0
        gathering.in_flight += number
        self.waiting -= number
        self.in_flight += number
        for entry in leaving:
            entry.gathered = False
        waited = self._client.caller.clock.monotonic() - leaving[0].since
        released = Released(
            records=number, waited=waited, waiting=self.waiting, in_flight=self.in_flight
        )
        tell(self._client.caller.observer, released)
        self._current_session().add(leaving)

    def _current_session(self) -> Session:
        session = self._session
        now = self._client.caller.clock.monotonic()
        if session is not None and now - session.begun > _LONGEST_SESSION:
            session.retire()
        if session is None or session.is_retired:
            session = Session(
                self._client, self._product_code, self._settle, self._sessions.discard
            )
            self._sessions.add(session)
            self._session = session
        return session

    def _settle(self, entry: Entry, verdict: Verdict, record_id: str | None) -> None:
        """Take a verdict on a record in flight."""
        del self._pending[entry.key]
        self._sent.remember(entry, verdict, record_id)
        self.in_flight -= 1
        self._room.leave()
        result = entry.settle(verdict, record_id)
        if self._unsure is not None and result.metered is not True:
            self._unsure.append(result)
        gathering = self._lanes[entry.lane]
        gathering.in_flight -= 1
        if gathering.due:
            self._let_go(gathering)
        elif not gathering.entries:
            self._leave(entry.lane, gathering)

    def _leave(self, lane: Lane, gathering: _Gathering) -> None:
        """Forget a lane that has nothing; no timer runs where nothing waits."""
        if gathering.timer is not None:
            gathering.timer.cancel()
            gathering.timer = None
        gathering.size = 0
        if not gathering.in_flight:
            self._lanes.pop(lane, None)
