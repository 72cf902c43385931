"""UsageBatcher: gathers single records of many callers into full requests."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Final, Self

from marketplace_metering_async import rules
from marketplace_metering_async.client import MarketplaceMeteringClient, shared_of
from marketplace_metering_async.clock import calling_after
from marketplace_metering_async.delivery.feed import Feed
from marketplace_metering_async.delivery.verdicts import rejected
from marketplace_metering_async.errors import (
    ClientClosedError,
    DeliveryTimeoutError,
    InvalidRecordError,
)
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult

_KEYS_REMEMBERED: Final = 100_000
"""Keys that are remembered after their verdict: an hour of 100,000 customers and dimensions."""
_REPORT_EVERY: Final = 60.0
"""Seconds after which a batcher that is never idle reports what became of its records."""


class UsageBatcher:
    """
    Gathers single records into full requests, and gives every caller the verdict on its own.

    For finished hourly records that come one by one from many tasks; raw events belong in a
    UsageLedger, since the service keeps the first quantity of a customer's hour. Use it with
    `async with`, inside that of its client.

    What it sends and reports is nobody's alone, so it runs in the context (`contextvars`) that the
    batcher was made in, and not in that of a caller.
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
            TypeError, ValueError: for another kind of *client*, a product code that is no text, a
                linger or a limit that is no number, a negative linger, or a limit that is below 1
                or not whole.
        """
        rules.require_kind("client", client, MarketplaceMeteringClient)
        rules.require_optional("product_code", product_code, str)
        rules.require_count("max_pending", max_pending)
        shared = shared_of(client)
        self._connection = shared.connection
        self._product_code = product_code
        self._places = _PendingLimit(max_pending)
        self._positions = count()
        self._waiters: dict[int, asyncio.Future[RecordResult]] = {}
        self._callers: dict[int, Context] = {}  # of those, where calls are observed
        self._feed = Feed(
            shared,
            self._take_results,
            product_code=product_code,
            linger=linger,
            keys_remembered=_KEYS_REMEMBERED,
            callers=self._callers,
        )
        self._unsure: list[RecordResult] | None = None  # what drain() returns; None: still open
        self._reported_at = self._connection.clock.monotonic()
        # A caller's context would be held, and stand in the log, for as long as records come.
        self._context = copy_context()

    @property
    def waiting(self) -> int:
        """How many records are gathered and not sent yet."""
        return self._feed.waiting

    @property
    def in_flight(self) -> int:
        """How many records are on their way."""
        return self._feed.in_flight

    async def meter(self, record: UsageRecord | Mapping[str, Any]) -> RecordResult:
        """
        Meter one record, and return the verdict on it.

        It travels with others: as soon as a request is full, or when it has waited `linger`
        seconds. Identical records share one verdict. Of a key (product or license, customer,
        dimension, hour), records that differ are all Rejected with ConflictingRecordsError while
        none of them has left. One that comes later waits for the verdict of what left; it is
        Rejected with KeyAlreadySentError unless that one is not metered for certain. Keys are
        remembered for the latest 100,000 records. So it is with one customer's hour by product code
        and by license, but only while the first of them has no verdict.

        Cancelling takes back a record that has not left; after that it may still be metered, and
        its verdict is lost to you. Others are not affected.

        Returns: its result; `position` counts the records of this batcher.

        Raises:
            ClientClosedError: after drain() or aclose(), or after the client was closed, or on
                another event loop.
        """
        self._require_open()
        self._connection.require_home()
        position = next(self._positions)
        try:
            admitted = self._feed.admit(position, record)
        except InvalidRecordError as error:
            result = RecordResult(position, record, rejected(error.unraised()))
            self._own_context().run(self._feed.count, result)
            self._own_context().run(self._report)
            return result
        await self._places.enter(admitted.product_code or self._product_code)
        self._require_open()  # drain() lets in whoever waits
        waiter: asyncio.Future[RecordResult] = asyncio.get_running_loop().create_future()
        self._waiters[position] = waiter
        if self._connection.observes_calls:
            self._callers[position] = copy_context()
        try:
            self._own_context().run(self._feed.join, position, record, admitted)
            return _with_own_error(await waiter)
        except asyncio.CancelledError:
            for _ in self._own_context().run(self._feed.leave, position, admitted):
                self._places.leave()
            raise
        finally:
            del self._waiters[position]
            self._callers.pop(position, None)

    async def flush(self) -> None:
        """
        Let all go that is gathered, and return when everything pending now has its verdict.

        Cancelling it takes nothing back.

        Raises:
            ClientClosedError: as `drain`.
        """
        self._connection.require_no_other_home()
        pending = list(self._waiters.values())
        self._own_context().run(self._feed.delivery.flush)
        if pending:
            await asyncio.wait(pending)

    async def drain(self, timeout: float | None = None) -> list[RecordResult]:
        """
        Take no more records, let all go, and return what is not metered for certain.

        That includes records that had left when their callers were cancelled.

        After *timeout* seconds nothing new starts; requests on the wire are awaited, and what is
        left is Unprocessed, or Unconfirmed where an attempt had no response. Every caller of
        meter() has its verdict then. A second call waits for the same end, and returns nothing.

        Cancelling it leaves the batcher closed and its delivery running; call it again to wait.

        Raises:
            TypeError, ValueError: if *timeout* is no number; nothing has changed then.
            ClientClosedError: in a forked process, or on another event loop while its own is open.
        """
        rules.require_optional_timeout(timeout)
        self._connection.require_no_other_home()
        self._places.let_all_in()
        unsure: list[RecordResult] = []
        if self._unsure is None:
            self._unsure = unsure
        delivery = self._feed.delivery
        self._own_context().run(delivery.flush)
        error = DeliveryTimeoutError("the time allowed for draining is over")
        async with calling_after(self._connection.clock, timeout, lambda: delivery.stop(error)):
            await delivery.finished()
        await delivery.abort()
        return unsure

    async def aclose(self) -> None:
        """Drain without a limit; twice is fine. What it raises, and cancelling it: as `drain`."""
        await self.drain()

    async def __aenter__(self) -> Self:
        """Return the batcher; nothing runs before the first record comes."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drain."""
        await self.aclose()

    def _own_context(self) -> Context:
        """Return one for what may begin a task, which has the context that it is begun in."""
        return self._context.copy()  # since a context runs once at a time

    def _require_open(self) -> None:
        if self._unsure is not None:
            raise ClientClosedError("the batcher is closed")

    def _take_results(self, results: Sequence[RecordResult]) -> None:
        left = iter(results)
        try:
            for result in left:
                self._take_result(result)
        finally:
            for result in left:  # whatever broke, the other callers have their results
                self._take_result(result)
        self._report()

    def _take_result(self, result: RecordResult) -> None:
        waiter = self._waiters.get(result.position)
        if waiter is not None and not waiter.done():
            waiter.set_result(result)
        is_unsure = result.metered is not True and result.duplicate_of is None
        if self._unsure is not None and is_unsure:
            self._unsure.append(result)
        self._places.leave()

    def _report(self) -> None:
        """Tell the observer what became of records, once idle and every minute."""
        since, moment = self._reported_at, self._connection.clock.monotonic()
        is_idle = not (self.waiting or self.in_flight)
        if self._feed.counts and (is_idle or moment - since >= _REPORT_EVERY):
            self._reported_at = moment
            self._feed.report(since)


def _with_own_error(result: RecordResult) -> RecordResult:
    """Return *result* with an exception of its own: raised by several, one would pile up traces."""
    error = result.error
    if error is None:
        return result
    verdict = result.verdict._replace(error=error.unraised())
    return RecordResult(result.position, result.record, verdict, result.metering_record_id)


class _PendingLimit:
    """How many records may be pending: whoever comes later waits, product by product in turn."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting = OrderedDict[str | None, OrderedDict[asyncio.Future[None], None]]()

    async def enter(self, product_code: str | None) -> None:
        """Take a place, waiting for one if need be."""
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(product_code, OrderedDict())[place] = None
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self.leave()  # it was given to us at the same moment
            elif (queue := self._waiting.get(product_code)) is not None:
                queue.pop(place, None)  # or outages gather those who gave up
                if not queue:
                    del self._waiting[product_code]
            raise

    def leave(self) -> None:
        """Give a place back; the next product in turn gets it, so that no flood starves others."""
        while self._waiting:
            product_code, queue = self._waiting.popitem(last=False)
            place, _ = queue.popitem(last=False)
            if queue:
                self._waiting[product_code] = queue  # and goes to the end of the line
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def let_all_in(self) -> None:
        """Let in whoever waits, whether there is a place or not."""
        while self._waiting:
            self.leave()
