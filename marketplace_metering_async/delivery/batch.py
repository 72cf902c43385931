"""All records of one call: looked at together, sent together, answered together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from functools import partial
from itertools import compress, islice
from typing import Final, cast

from marketplace_metering_async.clock import calling_after, heed_cancelling, unless
from marketplace_metering_async.delivery.admission import Admission
from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.delivery.call import Door, Shared
from marketplace_metering_async.delivery.delivery import Delivery
from marketplace_metering_async.delivery.duplicates import Duplicates, SchemeOverlaps, UsageHashes
from marketplace_metering_async.delivery.verdicts import rejected
from marketplace_metering_async.errors import (
    BothSchemesError,
    DeliveryTimeoutError,
    InvalidRecordError,
    MeteringError,
)
from marketplace_metering_async.events import Settled, WarningIssued, emit
from marketplace_metering_async.flow.work_stretch import RECORDS_PER_STEP, WorkStretch
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import (
    BatchMeterUsageResult,
    RecordStatus,
    ResultCollector,
    SettledRecords,
    count,
    unmetered,
)

UNCLEAR_SCHEMES: Final = (
    "records of one account, dimension and hour came with and without a license; if both are of "
    "one product, the service bills both. Name the product code of the licensed ones, too"
)


def require_iterable(records: object) -> None:
    """Raise TypeError for what can be no batch, such as one record, or a table by its columns."""
    got = f"records: expected an iterable of records, got a {type(records).__name__}"
    if hasattr(records, "__dataframe__"):
        raise TypeError(f'{got}; give its rows, such as frame.to_dict("records")')
    if not isinstance(records, Iterable | AsyncIterable) or isinstance(
        records, str | bytes | bytearray | Mapping
    ):
        raise TypeError(got)


class Batch(Door):
    """The records of one call of `batch_meter_usage`."""

    def __init__(self, shared: Shared, *, product_code: str | None) -> None:
        self._shared = shared
        self._connection = shared.connection
        self._product_code = product_code
        self._admission = Admission(shared.connection.bounds(), product_code=product_code)
        self._stretch = WorkStretch(shared.connection.clock)
        self._collector = ResultCollector()
        self._sent: list[UsageRecord | None] = []  # None where nothing is sent
        self._hashes = UsageHashes()
        self._duplicates = Duplicates(product_code, self._sent.__getitem__)
        self._backlog = Backlog(self._records_at, product_code=product_code)
        self._over = asyncio.get_running_loop().create_future()  # done when the time is over

    async def deliver(self, records: object, timeout: float | None) -> BatchMeterUsageResult:
        """Return a result for each of *records*; see the client for what it raises."""
        started = self._connection.clock.monotonic()
        end = partial(self._over.set_result, None)
        async with calling_after(self._connection.clock, timeout, end):
            await self._read(records)
            await self._compare()
            delivery = await self._send()
        result = self._collector.result(calls=delivery.calls, throttled=delivery.throttled)
        delivery.report(result.counts, started)
        return result

    # Reading.

    async def _read(self, given: object) -> None:
        """Read all that was given, and settle what cannot be sent."""
        if isinstance(given, AsyncIterable):
            if not await unless(self._over, self._read_as_it_comes(given)):
                text = "the time allowed was over before the source ended; what was read of it"
                emit(self._connection.observer, WarningIssued(text=f"{text} has results"))
        elif isinstance(given, Iterable):
            source = iter(given)
            while some := list(islice(source, RECORDS_PER_STEP)):
                await self._take_in(some)

    async def _read_as_it_comes(self, given: AsyncIterable[object]) -> None:
        async for one in given:
            await self._take_in((one,))
            heed_cancelling()  # which a source may have caught for itself, as wait_for did once

    async def _take_in(self, some: Sequence[object]) -> None:
        self._collector.expect(some)
        start = len(self._sent)
        if self._admission.are_plain(some):
            self._sent += cast("Sequence[UsageRecord]", some)
        else:
            for position, given in enumerate(some, start):
                self._sent.append(None)
                try:
                    self._sent[position] = self._admission.admit(position, given)
                except InvalidRecordError as error:
                    self._reject([position], error.unraised())
        self._hashes.note(filter(None, self._sent[start:]))
        if await self._stretch.yield_if_due():
            self._admission.set_time(self._connection.bounds())

    # Records against each other.

    async def _compare(self) -> None:
        """Settle what may not be sent for the sake of other records, and line up the rest."""
        if self._hashes.repeated:
            await self._part_repeats()
            await self._part_schemes()
        del self._hashes  # a million numbers would keep the garbage collector busy
        moment = self._connection.clock.monotonic()
        async for positions, records in self._those_to_send():
            self._backlog.add(positions, records, moment)
        if rejected := self._collector.counts[RecordStatus.REJECTED]:
            emit(self._connection.observer, Settled(counts={RecordStatus.REJECTED: rejected}))

    async def _part_repeats(self) -> None:
        """Send one of several identical records; reject those of one key that differ."""
        async for position, record in self._those_alike():
            if self._duplicates.note(position, record):
                self._sent[position] = None
        for conflict in self._duplicates.conflicts():
            await self._stretch.yield_if_due()
            self._reject(conflict.positions, conflict)

    async def _part_schemes(self) -> None:
        """Reject what came both by product code and by license."""
        overlaps = SchemeOverlaps(self._product_code)
        async for position, record in self._those_alike():
            overlaps.note(position, record)
        for conflicts in overlaps.drain():
            await self._stretch.yield_if_due()
            for together in conflicts:
                copies = [c for p in together for c in self._duplicates.copies.pop(p, ())]
                places = sorted([*together, *copies])
                self._reject(places, BothSchemesError(places))
        if overlaps.is_unclear:
            emit(self._connection.observer, WarningIssued(text=UNCLEAR_SCHEMES))

    def _reject(self, positions: Sequence[int], error: MeteringError) -> None:
        for position in positions:
            self._sent[position] = None
        self._collector.add((unmetered(rejected(error), positions),))

    async def _those_to_send(self) -> AsyncGenerator[tuple[list[int], list[UsageRecord]], None]:
        """Yield the positions and records that are to be sent, some at a time."""
        for start in range(0, len(self._sent), RECORDS_PER_STEP):
            await self._stretch.yield_if_due()
            some = self._sent[start : start + RECORDS_PER_STEP]
            places = range(start, start + len(some))
            yield list(compress(places, some)), list(filter(None, some))

    async def _those_alike(self) -> AsyncGenerator[tuple[int, UsageRecord], None]:
        """Yield positions and records of a customer's dimension and hour that came repeatedly."""
        async for positions, records in self._those_to_send():
            for position, record in zip(positions, records, strict=True):
                if self._hashes.is_repeated(record):
                    yield position, record

    # Sending.

    async def _send(self) -> Delivery:
        delivery = Delivery(self._shared, self._backlog, self)
        too_late = DeliveryTimeoutError("the time allowed for the call is over")
        self._over.add_done_callback(lambda _: delivery.stop(too_late))
        try:
            if self._over.done():
                delivery.stop(too_late)  # now, for tasks may begin eagerly
            elif len(self._backlog):
                await unless(self._over, self._connection.open())
            delivery.flush()
            await delivery.finished()
        finally:
            await delivery.abort()
        return delivery

    def settle(self, outcomes: Sequence[SettledRecords]) -> None:
        """Take verdicts, and share them with identical records."""
        self._collector.add(outcomes)
        if self._duplicates.copies and (shared := self._shared_by(outcomes)):
            self._collector.add(shared)
            emit(self._connection.observer, Settled(counts=count(shared)))

    def _shared_by(self, outcomes: Sequence[SettledRecords]) -> list[SettledRecords]:
        """Return the outcomes of records identical to ones that were sent."""
        return [
            SettledRecords(verdict._replace(duplicate_of=position), alike, [record_id] * len(alike))
            for verdict, positions, record_ids in outcomes
            for position, record_id in zip(positions, record_ids, strict=True)
            if (alike := self._duplicates.copies.get(position))
        ]

    def unsettled(self, among: Sequence[int] | None) -> list[int]:
        """Return which of some positions, or of all, have no verdict."""
        return self._collector.missing(among)

    def _records_at(self, positions: Sequence[int]) -> list[UsageRecord]:
        return list(map(cast("list[UsageRecord]", self._sent).__getitem__, positions))
