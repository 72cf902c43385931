"""
The one engine that brings records to verdicts: a permit, a chunk, a call, a decision applied.

The doors (batch, stream, batcher) add records and take verdicts. One dispatcher sleeps until a lane
may go, waits for the permit to start a call, takes the chunk with the earliest deadline, and starts
the call. `decisions` says what follows from it; this file puts that into practice: verdicts go to
the door, what is open goes back, what was refused is searched, what is stopped starts nothing.
Nothing that the service, the network or our own code does makes a Delivery raise.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from marketplace_metering_async.delivery import decisions
from marketplace_metering_async.delivery.admission import deadline
from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.delivery.call import Call, Door, Shared
from marketplace_metering_async.delivery.decisions import Decision
from marketplace_metering_async.delivery.dispatcher import Dispatcher
from marketplace_metering_async.delivery.model import AttemptHistory, Chunk, Lane, PendingRecord
from marketplace_metering_async.delivery.searches import Findings, Searches
from marketplace_metering_async.delivery.stops import PROBED_AFTER, Progress, Stops
from marketplace_metering_async.delivery.verdicts import gave_up, screen
from marketplace_metering_async.errors import MeteringError, UnexpectedError
from marketplace_metering_async.events import (
    BatchEnded,
    Retrying,
    SendingStopped,
    Settled,
    Throttled,
    emit,
    flush,
)
from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.flow.retries import backoff
from marketplace_metering_async.flow.work_stretch import RECORDS_PER_STEP, WorkStretch
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus, SettledRecords, in_order, unmetered
from marketplace_metering_async.results import count as counted

_CUT_OFF: Final = "the event loop ended before the record had its verdict"


class Delivery:
    """
    Brings the records of a backlog to the service.

    Attributes:
        calls: HTTP requests made, and ended.
        throttled: How many of them the service throttled.
    """

    def __init__(self, shared: Shared, backlog: Backlog, door: Door) -> None:
        """
        Prepare to send what is in *backlog*.

        Args:
            shared: What all deliveries of a client have in common.
            backlog: What is to be sent.
            door: Who gave it, and gets the verdicts.
        """
        self.calls = 0
        self.throttled = 0
        self._reported = (0, 0)  # how many of both the last report counted
        self.backlog = backlog
        self._shared = shared
        self._connection = shared.connection
        self._observer = shared.connection.observer
        self._clock = shared.connection.clock
        self._door = door
        self._searches = Searches(backlog, self._observer)
        self._stops = Stops()
        self._progress = Progress(shared.policy.timeout)
        self._watch: asyncio.Task[None] | None = None  # of the time without progress
        self._open = len(backlog)  # records without a verdict
        self._on_the_wire: dict[asyncio.Task[Decision], Call] = {}
        self._dispatcher = Dispatcher(
            self._clock, shared.permits, self._has_work, self._dispatch, self._rescue_if_lost
        )
        self._idle = asyncio.Event()  # set when nothing is open any more, or can be brought on
        self._bug: MeteringError | None = None
        shared.connection.stop_at_close(self)

    # What the doors say and ask.

    def add(self, position: int, record: UsageRecord) -> None:
        """Add a record; sending begins by itself. After `stop` it ends as the others did."""
        self._open += 1
        moment = self._clock.monotonic()
        self.backlog.add((position,), (record,), moment)
        due = moment if self.backlog.ready(moment) else self.backlog.next_due()
        if due is not None:
            self._dispatcher.wake_for(due)

    def take_back(self, position: int, record: UsageRecord) -> bool:
        """Forget a record that was not taken up yet; return whether that was so."""
        if not self.backlog.discard(position, record, self._clock.monotonic()):
            return False
        self._open -= 1
        self._dispatcher.wake()
        return True

    def flush(self) -> None:
        """Send what is in the backlog, whether it waits for company or not."""
        self.backlog.flush(self._clock.monotonic())
        self._dispatcher.wake()

    def stop(self, error: MeteringError) -> None:
        """Start nothing new; await what is on the wire; leave the rest open because of *error*."""
        if self._stops.final is not None:
            return
        self._stops.final = error
        self.backlog.linger = 0.0  # what comes from now on ends at once
        self._cancel_what_has_not_left()
        if self._open:
            self._stops.given_up.append((None, error))
            self._dispatcher.restart()
        self._rescue_if_lost()

    def _cancel_what_has_not_left(self) -> None:
        for task, call in self._on_the_wire.items():
            if not call.sent:
                task.cancel()

    async def finished(self) -> None:
        """Return when every record has its verdict. Cancelling it changes nothing."""
        while self._open:
            self._idle.clear()
            await self._idle.wait()

    def report(self, counts: Mapping[RecordStatus, int], since: float) -> None:
        """Report verdicts given *since* a monotonic time, and the calls since the last report."""
        (calls, throttled), self._reported = self._reported, (self.calls, self.throttled)
        ended = BatchEnded(
            counts=in_order(counts),
            calls=self.calls - calls,
            throttled=self.throttled - throttled,
            seconds=self._clock.monotonic() - since,
        )
        emit(self._observer, ended)

    async def abort(self) -> None:
        """Cancel whatever runs and await its end; records may be left without a verdict."""
        self._stops.final = self._stops.final or UnexpectedError("cancelled")
        self._open = 0
        calls, self._on_the_wire = self._on_the_wire, {}
        tasks = (self._dispatcher.former, self._dispatcher.task, self._watch, *calls)
        running: list[asyncio.Task[Any]] = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        try:
            await asyncio.gather(*running, return_exceptions=True)
        finally:
            for call in calls.values():
                call.return_permit()
                self.calls += call.sent
            flush(self._observer)

    # What the dispatcher does.

    async def _dispatch(self) -> None:
        """Give up and send; a bug ends what waits, and what comes later is tried."""
        given_up = self._stops.given_up
        while True:
            try:
                return await self._go_on()
            except Exception as error:  # noqa: BLE001 - see above
                if given_up:  # which is what failed: what is left ends with the rest
                    given_up.clear()
                    return None
                self._bug = UnexpectedError.of(error)
                given_up.append((None, self._bug))

    async def _go_on(self) -> None:
        stretch = WorkStretch(self._clock)
        while True:
            await stretch.yield_if_due()
            if self._give_up_some():
                continue
            if self._wanted():
                await self._send(stretch)
            elif (due := self.backlog.next_due()) is not None:
                await self._dispatcher.sleep(due)
            else:
                return

    def _has_work(self) -> bool:
        """Return whether anything is to be settled, or sent now or later."""
        return bool(self._stops.given_up) or self._wanted() or self.backlog.next_due() is not None

    def _wanted(self) -> bool:
        """Return whether a call may be started now."""
        if self._stops.given_up:
            return False
        return bool(self._searches.parts) or self.backlog.ready(self._clock.monotonic())

    def _give_up_some(self) -> bool:
        """Settle some of what is not sent any more; return whether there was anything."""
        moment, given_up = self._clock.monotonic(), self._stops.given_up
        stop = self._stops.error_for(None, moment)
        if stop is not None and self._wanted():
            given_up.append((None, stop))
        if not given_up:
            return False
        lane, error = given_up[0]
        entries = self.backlog.drop(RECORDS_PER_STEP, lane)
        if not entries:
            given_up.popleft()
            entries = self._searches.drop(lane, moment)
        self._settle(decisions.give_up(entries, error))
        return True

    async def _send(self, stretch: WorkStretch) -> None:
        """Start a call once it is permitted; what waits for it ends where it cannot be made."""
        try:
            if not self._connection.is_open:
                await self._connection.open()
        except MeteringError as error:
            self._stops.given_up.append((None, error))
            return
        if not await self._shared.permits.acquire(self._wanted, self._dispatcher):
            return
        call = None
        try:
            while (call := self._next_call()) is None and self._wanted():
                await stretch.yield_if_due()
        finally:
            if call is None:
                self._shared.permits.end(CallEnd.ABANDONED)
        if call is not None:
            self._begin(call)

    def _next_call(self) -> Call | None:
        """Return a call with what goes next; None if there is a verdict on some of it."""
        now, moment = self._connection.now().timestamp(), self._clock.monotonic()
        parts = self._searches.parts
        search, chunk = parts.popleft() if parts else (None, self.backlog.take(now, moment))
        if chunk is None:
            return None
        kept = self._sift(chunk, moment)
        if kept is chunk:
            return Call(self._shared, self._door, chunk, search, moment)
        self.backlog.put_back(kept.entries, moment)  # and is filled up before it goes
        if search is not None:
            findings = self._searches.advance(search, kept, decisions.NOT_SENT, moment)
            self._follow(chunk.lane, findings, moment)
        return None

    def _begin(self, call: Call) -> None:
        """Begin a call, which gives the permit back when it ends."""
        try:
            task = asyncio.create_task(call.make())
        except BaseException as error:  # of its first step, where tasks begin eagerly, for one
            self._finish(call, decisions.on_bug(call.chunk, error, sent=call.sent))
            raise
        self._on_the_wire[task] = call
        task.add_done_callback(self._task_ended)

    def _sift(self, chunk: Chunk, moment: float) -> Chunk:
        """Settle the records of *chunk* on which there is a verdict; return the others."""
        self._searches.similar.forget(moment)
        stop = self._stops.error_for(chunk.lane, moment)
        similar, bounds = self._searches.similar, self._connection.bounds()
        try:
            kept, outcomes = screen(chunk, bounds, stop, similar, self._door.screen)
            self._settle(outcomes)
        except Exception as error:  # noqa: BLE001 - a bug ends the records that it touched
            self._end_lost(chunk, error, sent=False)
            return chunk.part(())
        return kept

    # Its calls.

    def _task_ended(self, task: "asyncio.Task[Decision]") -> None:
        """Apply what follows from a call, unless the delivery was aborted."""
        call = self._on_the_wire.pop(task, None)
        try:
            if call is not None:
                self._finish(call, self._decision_of(call, task))
        except Exception as error:  # noqa: BLE001 - a bug ends what is left
            self._bug = UnexpectedError.of(error)
        finally:
            if call is not None:
                self._dispatcher.wake()
            self._rescue_if_lost()

    def _decision_of(self, call: Call, task: "asyncio.Task[Decision]") -> Decision:
        """Return what was decided, or follows from being cancelled or from a bug."""
        error = UnexpectedError(_CUT_OFF) if task.cancelled() else task.exception()
        if error is None:
            return task.result()
        stop = self._stops.error_for(call.chunk.lane, self._clock.monotonic())
        if task.cancelled() and stop is not None and not call.sent:
            return decisions.NOT_SENT._replace(settled=decisions.give_up(call.chunk.entries, stop))
        return decisions.on_bug(call.chunk, error, sent=call.sent)

    def _finish(self, call: Call, decision: Decision) -> None:
        """Apply what was decided."""
        call.return_permit(decision)
        self.calls += call.sent
        try:
            self._apply(call, decision)
        except BaseException as error:
            moment, lane = self._clock.monotonic(), call.chunk.lane
            rest = self._searches.drop(lane.whole, moment)
            gone = set(call.chunk.positions)
            self.backlog.put_back([e for e in rest if e.position not in gone], moment)
            self._end_lost(call.chunk, error, sent=call.sent)
            if not isinstance(error, Exception):  # who runs the event loop is to hear of it
                raise

    def _apply(self, call: Call, decision: Decision) -> None:
        moment, lane = self._clock.monotonic(), call.chunk.lane
        self._settle(decision.settled)
        if decision.progress:
            self._progress.made(lane)
        if decision.ended is CallEnd.THROTTLED:
            self.throttled += 1
            emit(self._observer, Throttled(records=len(call.chunk)))
        if decision.narrow is not None:
            self.backlog.narrow(lane, decision.narrow)
        rest = self._put_back(call, decision, moment)
        if not decision.progress and (decision.failed or decision.ended is CallEnd.THROTTLED):
            self._note_no_progress(call, decision, rest)
        if decision.taken:
            self._searches.note_taken(lane)
        if decision.stop is not None:
            self._stop(*decision.stop)
        self._search(call, decision, moment)
        if self._stops:
            oldest = min((other.begun for other in self._on_the_wire.values()), default=moment)
            self._stops.forget(moment, oldest)

    def _search(self, call: Call, decision: Decision, moment: float) -> None:
        """Go on with the search that the call was a part of, or begin one."""
        lane, refusal = call.chunk.lane, decision.refusal
        if call.search is not None:
            findings = self._searches.advance(call.search, call.chunk, decision, moment)
            self._follow(lane, findings, call.begun)
        elif refusal is not None and (
            len(refusal.chunk) == 1 or not self._ends(lane, refusal.chunk.entries, call.begun)
        ):
            self._follow(lane, self._searches.refused(refusal, moment), call.begun)

    def _follow(self, lane: Lane, findings: Findings, begun: float) -> None:
        """Put into practice what the searches found, after a call of a lane that *begun* then."""
        moment = self._clock.monotonic()
        self._settle(findings.settled)
        if findings.returned and not self._ends(lane, findings.returned, begun):
            self.backlog.put_back(findings.returned, moment)
        if findings.stop is not None:
            self._stop(lane.whole, findings.stop)

    def _put_back(self, call: Call, decision: Decision, moment: float) -> float:
        """Put back what is sent again; return how long it rests."""
        longest = 0.0
        for entries, seconds in decision.returned:
            if self._ends(call.chunk.lane, entries, call.begun):
                continue
            rest = seconds
            if decision.failed:
                failures = max(entry.history.failures for entry in entries)
                random = self._shared.random.random()
                delay = backoff(self._shared.policy, failures, random, decision.error)
                now = self._connection.now().timestamp()
                closings = [deadline(entry.record.epoch) for entry in entries]
                # It comes again before a window closes.
                rest = min([delay, *((at - now) / 2 for at in closings if at > now)])
                retrying = Retrying(
                    records=len(entries),
                    attempt=max(entry.history.attempts for entry in entries),
                    delay=rest,
                    error=decision.error,
                )
                emit(self._observer, retrying)
            self.backlog.put_back(entries, moment, rest)
            longest = max(longest, rest)
        return longest

    def _ends(self, lane: Lane, entries: Sequence[PendingRecord], begun: float) -> bool:
        """Settle *entries* if what was sent at *begun*, and is open, is not sent again."""
        error = self._stops.error_for(lane, self._clock.monotonic(), begun)
        if error is not None:
            self._settle(decisions.give_up(entries, error))
        return error is not None

    def _settle(self, outcomes: Sequence[SettledRecords]) -> None:
        if not outcomes:
            return
        if self._connection.observes_calls:
            request_id = outcomes[0].verdict.request_id
            settled = Settled(counts=counted(outcomes), request_id=request_id)
            emit(self._observer, settled)
        self._open -= sum(len(outcome.positions) for outcome in outcomes)
        self._door.settle(outcomes)

    # What stops, and when.

    def _stop(self, lane: Lane | None, error: MeteringError) -> None:
        """Start nothing new of a lane, or of all; where records go on coming, for a minute."""
        lasts = PROBED_AFTER if self._door.goes_on else math.inf
        if self._stops.add(lane, error, self._clock.monotonic(), lasts=lasts):
            product = None if lane is None else lane.product_code
            stopped = SendingStopped(product_code=product, all_products=lane is None, error=error)
            emit(self._observer, stopped)
        if lane is None:
            self._cancel_what_has_not_left()

    def _note_no_progress(self, call: Call, decision: Decision, rest: float) -> None:
        """Let time run against the lane, and against the whole delivery."""
        self._progress.missing(call.begun, decision.error)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_the_time())
        moment, lane = self._clock.monotonic(), call.chunk.lane
        if decision.failed and self._progress.failed(lane, call.begun, moment, rest):
            self._stops.add(lane.whole, self._progress.latest, moment, lasts=0.0)

    async def _watch_the_time(self) -> None:
        """End everything once nothing has progressed for as long as the policy allows."""
        progress = self._progress
        while (left := progress.seconds_left(self._clock.monotonic())) is not None:
            if left > 0:
                await self._clock.sleep(left)
            else:
                progress.stalled_since = None
                self._stops.add(None, progress.latest, self._clock.monotonic(), lasts=0.0)
                self._dispatcher.wake()

    # The net below a bug.

    def _end_lost(self, chunk: Chunk, error: BaseException, *, sent: bool) -> None:
        """End those of *chunk* that a bug has left in nobody's hands."""
        self._bug = UnexpectedError.of(error)
        lost = frozenset(self._door.unsettled(chunk.positions)) - self.backlog.sent_before()
        part = chunk.part(n for n, at in enumerate(chunk.positions) if at in lost)
        self._settle(decisions.on_bug(part, error, sent=sent).settled)

    def _rescue_if_lost(self) -> None:
        """Once nothing runs any more, leave nobody waiting."""
        if self._dispatcher.is_running or self._on_the_wire:
            return
        if self._watch is not None:
            self._watch.cancel()
        self._progress.reset()
        try:
            if self._open:
                self._end_all()
        finally:
            self._idle.set()

    def _end_all(self) -> None:
        error = self._bug or UnexpectedError("the event loop ended before the verdict")
        verdict = gave_up(error, AttemptHistory(doubt=self.calls > 0))
        lost = self._door.unsettled(None)
        self._open = len(lost)
        self.backlog.clear()
        self._searches.drop(None, self._clock.monotonic())
        self._settle([unmetered(verdict, lost)] if lost else [])
