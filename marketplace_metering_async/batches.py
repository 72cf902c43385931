"""
What was given, on its way to a Delivery: a whole batch at once, or a stream read as it is sent.

Both look at every record before it is sent (law 3 and the service's rules), and give each
position exactly one result.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import compress, islice
from random import Random
from typing import Final, cast

from marketplace_metering_async.calls import Caller
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    InvalidRecordError,
    MeteringError,
)
from marketplace_metering_async.events import BatchEnded, Settled, tell
from marketplace_metering_async.limits import MAX_RECORDS_PER_REQUEST
from marketplace_metering_async.pages import Pages
from marketplace_metering_async.planning import Backlog, Open
from marketplace_metering_async.records import UsageRecord, key_hashes
from marketplace_metering_async.results import (
    BatchMeterUsageResult,
    Merger,
    Outcome,
    RecordResult,
    RecordStatus,
    Verdict,
    count,
    in_order,
    without_ids,
)
from marketplace_metering_async.retries import RetryPolicy
from marketplace_metering_async.sending import Delivery
from marketplace_metering_async.turns import STEPS, Breather
from marketplace_metering_async.validation import Admission, Hashes, Repeats

_LINGER: Final = 1.0
"""Seconds that a stream's source may be silent before chunks with room left go."""


def require_iterable(records: object) -> None:
    """Raise TypeError for what can be no batch, such as one record, or a table by its columns."""
    got = f"records: expected an iterable of records, got a {type(records).__name__}"
    if hasattr(records, "__dataframe__"):
        raise TypeError(f'{got}; give its rows, such as frame.to_dict("records")')
    if not isinstance(records, Iterable | AsyncIterable) or isinstance(
        records, str | bytes | bytearray | Mapping
    ):
        raise TypeError(got)


async def _in_steps(records: object) -> AsyncGenerator[list[object], None]:
    """Yield all of *records*, some at a time."""
    if isinstance(records, AsyncIterable):
        some: list[object] = []
        async for record in records:
            some.append(record)
            if len(some) == STEPS:
                yield some
                some = []
        if some:
            yield some
    elif isinstance(records, Iterable):
        source = iter(records)
        while some := list(islice(source, STEPS)):
            yield some


def _rejected(error: MeteringError) -> Verdict:
    return Verdict(status=RecordStatus.REJECTED, error=error)


class Batch:
    """All records of one call: looked at together, sent together, answered together."""

    def __init__(
        self,
        caller: Caller,
        *,
        product_code: str | None,
        policy: RetryPolicy,
        random: Random,
    ) -> None:
        self._caller = caller
        self._product_code = product_code
        self._policy = policy
        self._random = random
        self._breather = Breather(caller.clock)
        self._merger = Merger()
        self._sent: Pages[UsageRecord | None] = Pages()  # None where nothing is sent
        self._hashes = Hashes()  # of the keys of all records
        self._repeats = Repeats(product_code, self._sent.__getitem__)
        self._backlog = self._new_backlog()

    async def deliver(self, records: object, timeout: float | None) -> BatchMeterUsageResult:
        """Return a result for each of *records*; see the client for what it raises."""
        started = self._caller.clock.monotonic()
        await self._take_in(records)
        if self._hashes.repeated:
            await self._part_repeats()
        if rejected := self._merger.counts[RecordStatus.REJECTED]:
            tell(self._caller.observer, Settled(counts={RecordStatus.REJECTED: rejected}))
        for _ in self._hashes.forget():
            await self._breather.breathe()
        delivery = Delivery(
            self._caller, self._backlog, self._settle, policy=self._policy, random=self._random
        )
        if self._backlog:
            await self._caller.open()
            chunks = self._backlog.lanes + len(self._backlog) // MAX_RECORDS_PER_REQUEST
            await delivery.run(min(chunks, self._caller.max_concurrency), timeout=timeout)
        for page in self._sent.pages:  # all at once would hold up the event loop
            while page:
                del page[-STEPS:]
                await self._breather.breathe()
        result = self._merger.merged(calls=delivery.calls, throttled=delivery.throttled)
        _tell_end(self._caller, result.counts, delivery, started)
        return result

    async def _take_in(self, given: object) -> None:
        """Read all that was given, settle what cannot be sent, and line up the rest."""
        admission = Admission(self._caller.span(), product_code=self._product_code)
        sent = self._sent
        async with aclosing(_in_steps(given)) as steps:
            async for some in steps:
                start = len(sent)
                self._merger.expect(some)
                if (alike := admission.alike(some)) is not None:
                    records = alike.records
                    sent.extend(records)
                    self._backlog.add_alike(range(start, len(sent)), records, alike.epochs)
                else:
                    sent.extend([None] * len(some))
                    positions, records = self._admitted(some, start, admission)
                    self._backlog.add(positions, records)
                self._hashes.note(key_hashes(records, self._product_code))
                if await self._breather.breathe(start):
                    admission.at(self._caller.span())

    def _admitted(
        self, some: Sequence[object], start: int, admission: Admission
    ) -> tuple[list[int], list[UsageRecord]]:
        """Settle those of *some* that cannot be sent; return the others and their positions."""
        positions: list[int] = []
        records: list[UsageRecord] = []
        for position, given in enumerate(some, start):
            try:
                record = admission.admit(position, given)
            except InvalidRecordError as error:
                self._merger.add((without_ids(_rejected(error), (position,)),))
            else:
                self._sent.put(position, record)
                positions.append(position)
                records.append(record)
        return positions, records

    async def _part_repeats(self) -> None:
        """
        Find the records that have a key in common, and line up anew those that are sent.

        Of identical ones that is the first; those that differ are refused.
        """
        repeated = self._hashes.repeated
        async for positions, records in self._those_to_send():
            hashes = key_hashes(records, self._product_code)
            for position, record, hashed in zip(positions, records, hashes, strict=True):
                if hashed in repeated and self._repeats.note(position, record):
                    self._sent.put(position, None)
        for conflict in self._repeats.conflicts():
            await self._breather.breathe()
            for position in conflict.positions:
                self._sent.put(position, None)
            self._merger.add((without_ids(_rejected(conflict), conflict.positions),))
        self._backlog = self._new_backlog()
        async for positions, records in self._those_to_send():
            self._backlog.add(positions, records)

    async def _those_to_send(self) -> AsyncGenerator[tuple[list[int], list[UsageRecord]], None]:
        """Yield the positions and records that are to be sent, some at a time."""
        for start in range(0, len(self._sent), STEPS):
            await self._breather.breathe()
            some = self._sent[start : start + STEPS]
            yield (
                list(compress(range(start, start + len(some)), some)),
                list(filter(None, some)),
            )

    def _new_backlog(self) -> Backlog:
        records_at = cast("Callable[[Sequence[int]], list[UsageRecord]]", self._sent.at)
        return Backlog(records_at, product_code=self._product_code)

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        self._merger.add(outcomes)
        if self._repeats.followers and (shared := _shared(outcomes, self._repeats.followers)):
            self._merger.add(shared)
            tell(self._caller.observer, Settled(counts=count(shared)))


def _shared(outcomes: Sequence[Outcome], followers: dict[int, list[int]]) -> list[Outcome]:
    """The outcomes of records identical to ones that were sent."""
    return [
        Outcome(verdict._replace(duplicate_of=position), alike, [record_id] * len(alike))
        for verdict, positions, record_ids in outcomes
        for position, record_id in zip(positions, record_ids, strict=True)
        if (alike := followers.get(position))
    ]


def _tell_end(
    caller: Caller, counts: Mapping[RecordStatus, int], delivery: Delivery, started: float
) -> None:
    ended = BatchEnded(
        counts=counts,
        calls=delivery.calls,
        throttled=delivery.throttled,
        seconds=caller.clock.monotonic() - started,
    )
    tell(caller.observer, ended)


class Stream:
    """
    Records that are read while they are sent, in flat memory.

    What is read and not yet yielded is bounded, so a slow service, or a slow reader of the
    results, holds back the source.
    """

    def __init__(
        self,
        caller: Caller,
        records: object,
        *,
        product_code: str | None,
        policy: RetryPolicy,
        random: Random,
        stop: asyncio.Event | None = None,
    ) -> None:
        self._caller = caller
        self._records = records
        self._product_code = product_code
        self._originals: dict[int, object] = {}  # what was given, where that was no UsageRecord
        self._sent: dict[int, UsageRecord] = {}  # records in flight, by position
        self._backlog = Backlog(self._sent_at, product_code=product_code)
        self._repeats = Repeats(product_code, self._sent.get)
        self._followers: dict[int, object] = {}  # what was given for those identical to them
        self._ready: deque[Sequence[RecordResult]] = deque()
        self._counter: Counter[RecordStatus] = Counter()
        self._read = 0
        self._yielded = 0
        self._most_open = 4 * MAX_RECORDS_PER_REQUEST * caller.max_concurrency
        self._news = asyncio.Event()  # set when there are results, or the end
        self._room = asyncio.Event()  # set when results were taken away
        self._source_error: BaseException | None = None
        self._stop = stop  # the caller's: set when nothing new may start
        self._delivery = Delivery(
            caller,
            self._backlog,
            self._take_results,
            policy=policy,
            random=random,
            screen=self._screen,
        )

    async def results(self) -> AsyncGenerator[RecordResult, None]:
        """Yield a result for each record as chunks end; then raise what the source raised."""
        started = self._caller.clock.monotonic()
        await self._caller.open()
        running = asyncio.ensure_future(self._run())
        running.add_done_callback(lambda _: self._news.set())
        try:
            while self._ready or not running.done():
                while self._ready:
                    for result in self._ready.popleft():
                        self._yielded += 1
                        yield result
                    self._room.set()
                if not running.done():
                    await self._news.wait()
                self._news.clear()
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            _tell_end(self._caller, in_order(self._counter), self._delivery, started)
        if self._source_error is not None:
            raise self._source_error

    async def _run(self) -> None:
        taking = asyncio.ensure_future(self._take_in())
        besides = [taking, asyncio.ensure_future(self._linger())]
        if self._stop is not None:
            besides.append(asyncio.ensure_future(self._heed(self._stop, taking)))
        try:
            self._delivery.only_full = True
            await self._delivery.run(self._caller.max_concurrency, intake=_ended(taking))
        finally:
            for task in besides:
                task.cancel()
            await asyncio.gather(*besides, return_exceptions=True)

    async def _heed(self, stop: asyncio.Event, taking: "asyncio.Task[None]") -> None:
        """Once told to *stop*, take nothing more in and start nothing more."""
        await stop.wait()
        taking.cancel()
        self._delivery.stop(DeliveryTimeoutError("the stream was stopped"))

    async def _linger(self) -> None:
        """Let chunks with room left go while the source is silent."""
        while True:
            before = self._read
            await self._caller.clock.sleep(_LINGER)
            if self._read == before and self._backlog:
                self._delivery.only_full = False
                self._delivery.ring()

    async def _take_in(self) -> None:
        breather = Breather(self._caller.clock)
        admission = Admission(self._caller.span(), product_code=self._product_code)
        try:
            if isinstance(self._records, AsyncIterable):
                async for given in self._records:
                    await self._take_one(given, admission, breather)
            elif isinstance(self._records, Iterable):
                for given in self._records:
                    await self._take_one(given, admission, breather)
        except Exception as error:  # noqa: BLE001 - raised by results() once all is yielded
            self._source_error = error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._source_error = error  # the source's own: something that it awaits was cancelled

    async def _take_one(self, given: object, admission: Admission, breather: Breather) -> None:
        position = self._read
        self._read += 1
        if not position % STEPS:
            admission.at(self._caller.span())
        self._admit(position, given, admission)  # before any wait: a stop must not lose it
        if not position % STEPS:
            await breather.breathe()
        self._delivery.only_full = True
        if self._backlog.ready(self._caller.clock.monotonic(), full=True):
            self._delivery.ring()
        while self._read - self._yielded >= self._most_open:
            self._delivery.only_full = False
            self._delivery.ring()
            self._room.clear()
            await self._room.wait()

    def _admit(self, position: int, given: object, admission: Admission) -> None:
        try:
            record = admission.admit(position, given)
        except InvalidRecordError as error:
            self._give_unsent(position, given, _rejected(error))
            return
        stopped = self._delivery.stopped
        if stopped is not None:
            verdict = Verdict(status=RecordStatus.UNPROCESSED, error=stopped)
            self._give_unsent(position, given, verdict)
        elif not self._repeats.note(position, record):
            self._sent[position] = record
            if record is not given:
                self._originals[position] = given
            self._backlog.add((position,), (record,))
        elif (conflict := self._repeats.conflict(record)) is not None:
            self._give_unsent(position, given, _rejected(conflict))
        else:
            self._followers[position] = given

    def _screen(self, entry: Open) -> Verdict | None:
        """A record that was joined by a different one of its key before it was sent is not sent."""
        conflict = self._repeats.conflict(entry.record)
        if conflict is None or entry.history.attempts:
            return None
        return Verdict(status=RecordStatus.REJECTED, error=conflict)

    def _take_results(self, outcomes: Sequence[Outcome]) -> None:
        """Take verdicts from the delivery, and share them with identical records."""
        complete: list[RecordResult] = []
        shared: list[Outcome] = []
        for verdict, positions, record_ids in outcomes:
            for position, record_id in zip(positions, record_ids, strict=True):
                record = self._sent.pop(position)
                given = self._originals.pop(position, record)
                complete.append(RecordResult(position, given, verdict, record_id))
                for follower in self._repeats.forget(position, record):
                    given = self._followers.pop(follower)
                    alike = verdict._replace(duplicate_of=position)
                    complete.append(RecordResult(follower, given, alike, record_id))
                    shared.append(without_ids(alike, (follower,)))
        self._give(complete)
        if shared:
            tell(self._caller.observer, Settled(counts=count(shared)))

    def _sent_at(self, positions: Sequence[int]) -> list[UsageRecord]:
        return [self._sent[position] for position in positions]

    def _give_unsent(self, position: int, given: object, verdict: Verdict) -> None:
        self._give((RecordResult(position, given, verdict),))
        tell(self._caller.observer, Settled(counts={verdict.status: 1}))

    def _give(self, results: Sequence[RecordResult]) -> None:
        for result in results:
            self._counter[result.verdict.status] += 1
        self._ready.append(results)
        self._news.set()


async def _ended(task: "asyncio.Task[None]") -> None:
    """Return when *task* has ended, also where it was cancelled."""
    await asyncio.wait((task,))
