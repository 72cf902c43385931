"""A delivery that records may join as long as it runs."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from marketplace_metering_async.batcher.entries import Entry
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.errors import MeteringError, UnexpectedError
from marketplace_metering_async.events import BatchEnded, tell
from marketplace_metering_async.planning import Backlog
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import Outcome, RecordStatus, Verdict, in_order
from marketplace_metering_async.sending import Delivery

Settle = Callable[[Entry, Verdict, str | None], None]


class Session:
    """
    One delivery of a batcher.

    It ends when it has nothing left, or, once retired, when all it has is settled: what a delivery
    learns of offenders and stopped products is not held against records for ever.

    Attributes:
        begun: Monotonic time.
    """

    def __init__(
        self,
        client: MarketplaceMeteringClient,
        product_code: str | None,
        settle: Settle,
        forget: "Callable[[Session], None]",
    ) -> None:
        """Begin to deliver to *client*; each entry is settled once, and *forget* told the end."""
        self._caller = client.caller
        self._settle = settle
        self._entries: dict[int, Entry] = {}
        self._backlog = Backlog(self._records_at, product_code=product_code)
        self._retiring = asyncio.Event()
        self._counter: Counter[RecordStatus] = Counter()
        self._delivery = Delivery(
            self._caller, self._backlog, self._take, policy=client.retry, random=Random()
        )
        self.begun = self._caller.clock.monotonic()
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(lambda _: forget(self))

    @property
    def is_retired(self) -> bool:
        """Whether records must join another one."""
        return self._retiring.is_set() or self._delivery.stopped is not None

    def add(self, entries: Sequence[Entry]) -> None:
        """Let *entries* go."""
        self._entries.update((entry.position, entry) for entry in entries)
        self._backlog.add([entry.position for entry in entries], [e.record for e in entries])
        self._delivery.ring()

    def retire(self) -> None:
        """Take no more, and end when all is settled."""
        self._retiring.set()

    def stop(self, error: MeteringError) -> None:
        """Start nothing new; what is on the wire is awaited, the rest left open."""
        self._delivery.stop(error)
        self.retire()

    async def ended(self) -> None:
        """Return when it has ended."""
        await asyncio.wait((self._running,))

    async def _run(self) -> None:
        started = self._caller.clock.monotonic()
        try:
            await self._caller.open()
            await self._delivery.run(self._caller.max_concurrency, intake=self._until_retired())
        except asyncio.CancelledError:
            self._fail(UnexpectedError("the event loop ended before the record had its verdict"))
            raise
        except MeteringError as error:
            self.retire()  # first, or what becomes due by the verdicts would join this one
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            self.retire()
            unexpected = UnexpectedError(f"{type(error).__name__}: {error}")
            unexpected.__cause__ = error
            self._fail(unexpected)
        finally:
            self.retire()
            ended = BatchEnded(
                counts=in_order(self._counter),
                calls=self._delivery.calls,
                throttled=self._delivery.throttled,
                seconds=self._caller.clock.monotonic() - started,
            )
            tell(self._caller.observer, ended)

    def _records_at(self, positions: Sequence[int]) -> list[UsageRecord]:
        return [self._entries[position].record for position in positions]

    async def _until_retired(self) -> None:
        await self._retiring.wait()

    def _take(self, outcomes: Sequence[Outcome]) -> None:
        for verdict, positions, record_ids in outcomes:
            self._counter[verdict.status] += len(positions)
            for position, record_id in zip(positions, record_ids, strict=True):
                self._settle(self._entries.pop(position), verdict, record_id)
        if not self._entries:
            self.retire()

    def _fail(self, error: MeteringError) -> None:
        """Leave nobody waiting: what became of records on the wire is unknown."""
        self._backlog.drop()
        begun = self._delivery.calls > 0
        status = RecordStatus.UNCONFIRMED if begun else RecordStatus.UNPROCESSED
        for position in list(self._entries):
            verdict = Verdict(status=status, error=error, ambiguous=begun)
            self._counter[status] += 1
            self._settle(self._entries.pop(position), verdict, None)
