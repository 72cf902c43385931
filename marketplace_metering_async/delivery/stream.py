"""Records that are read while they are sent, in flat memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any

from marketplace_metering_async.clock import heed_cancelling, is_cancelled, running, unless
from marketplace_metering_async.delivery.call import Shared
from marketplace_metering_async.delivery.feed import Feed
from marketplace_metering_async.errors import DeliveryTimeoutError, InvalidRecordError
from marketplace_metering_async.flow.work_stretch import RECORDS_PER_STEP, WorkStretch
from marketplace_metering_async.limits import MAX_RECORDS_PER_REQUEST
from marketplace_metering_async.results import RecordResult


class Stream:
    """
    The records of one call of `iter_batch_meter_usage`.

    What is read and not yet yielded is bounded, so a slow service, or a slow reader of the
    results, holds back the source.
    """

    def __init__(
        self,
        shared: Shared,
        records: object,
        *,
        product_code: str | None,
        linger: float,
        stop: asyncio.Event | None = None,
    ) -> None:
        self._connection = shared.connection
        self._records = records
        self._stop = asyncio.Event() if stop is None else stop  # set when nothing new may start
        self._ready: asyncio.Queue[Sequence[RecordResult]] = asyncio.Queue()
        self._feed = Feed(shared, self._ready.put_nowait, product_code=product_code, linger=linger)
        self._read = 0
        # For what is read and not yet yielded, beside the record that is waited with.
        self._room = asyncio.Semaphore(4 * MAX_RECORDS_PER_REQUEST * shared.permits.most - 1)
        self._source_error: BaseException | None = None

    async def results(self) -> AsyncGenerator[RecordResult, None]:
        """Yield a result for each record as chunks end; then raise what the source raised."""
        started = self._connection.clock.monotonic()
        async with running(self._stop.wait()) as stopped:
            if not await unless(stopped, self._connection.open()):
                return
            stopped.add_done_callback(self._heed)
            try:
                async with running(self._run(stopped)) as delivering:
                    delivering.add_done_callback(lambda _: self._ready.put_nowait(()))  # the end
                    while not (delivering.done() and self._ready.empty()):
                        for result in await self._ready.get():
                            self._room.release()
                            yield result
                    await delivering
            finally:  # even if it is cancelled once more
                await self._feed.delivery.abort()
                self._feed.report(started)
        if self._source_error is not None:
            raise self._source_error

    def _heed(self, stopped: "asyncio.Future[Any]") -> None:
        if not stopped.cancelled():
            self._feed.delivery.stop(DeliveryTimeoutError("the stream was stopped"))

    async def _run(self, stopped: "asyncio.Future[Any]") -> None:
        await unless(stopped, self._read_all())
        self._feed.delivery.backlog.linger = 0.0  # nobody comes for whom to wait
        self._feed.delivery.flush()
        await self._feed.delivery.finished()

    async def _read_all(self) -> None:
        stretch = WorkStretch(self._connection.clock)
        try:
            if isinstance(self._records, AsyncIterable):
                async for given in self._records:
                    await self._read_one(given, stretch)
            elif isinstance(self._records, Iterable):
                for given in self._records:
                    await self._read_one(given, stretch)
        except (KeyboardInterrupt, SystemExit):
            raise  # they end the event loop
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise  # otherwise it is the source's own: something that it awaits was cancelled
            self._source_error = error  # raised by results() once all is yielded

    async def _read_one(self, given: object, stretch: WorkStretch) -> None:
        position = self._read
        self._read += 1
        try:  # before any wait: a stop must not lose it
            record = self._feed.admit(position, given)
        except InvalidRecordError as error:
            self._feed.reject(position, given, error.unraised())
        else:
            self._feed.join(position, given, record)
        heed_cancelling()  # which a source may have caught for itself, as wait_for did once
        if not position % RECORDS_PER_STEP:
            await stretch.yield_if_due()
        await self._room.acquire()
