"""
The one engine that brings records to verdicts: a permit, a chunk, a call, a decision applied.

The doors (batch, stream, batcher) add records and take verdicts. One dispatcher sleeps until a lane
may go, waits for the permit to start a call, takes the chunk with the earliest deadline, and starts
the call. `decisions` says what follows from it; this file puts that into practice: verdicts go to
the door, what is open goes back, what was refused is searched, what is stopped starts nothing.
Nothing that the service, the network or our own code does makes a Delivery raise.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Final

from marketplace_metering_async.delivery import decisions
from marketplace_metering_async.delivery.backlog import Backlog, deadline
from marketplace_metering_async.delivery.call import Call
from marketplace_metering_async.delivery.decisions import Decision, Scope
from marketplace_metering_async.delivery.dispatcher import Dispatcher
from marketplace_metering_async.delivery.model import Chunk, Lane, PendingRecord
from marketplace_metering_async.delivery.refusals import REMEMBERED, is_about_a_member
from marketplace_metering_async.delivery.screening import Screen, screen
from marketplace_metering_async.delivery.search import Search
from marketplace_metering_async.delivery.searches import Findings, Searches
from marketplace_metering_async.delivery.shared import Shared
from marketplace_metering_async.delivery.stops import Progress, Stops
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
from marketplace_metering_async.flow.permits import Permit
from marketplace_metering_async.flow.retries import backoff
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import (
    RecordStatus,
    SettledRecords,
    Verdict,
    in_order,
    unmetered,
)
from marketplace_metering_async.results import count as counted

_STEP: Final = 256
"""Records that are given up between two looks at the clock."""

Settle = Callable[[Sequence[SettledRecords]], None]
"""Takes verdicts as they come."""


class Delivery:
    """
    Brings the records of a backlog to the service.

    Attributes:
        calls: HTTP requests made.
        throttled: How many of them the service throttled.
    """

    def __init__(
        self,
        shared: Shared,
        backlog: Backlog,
        settle: Settle,
        unsettled: Callable[[Sequence[int] | None], Sequence[int]],
        *,
        product_code: str | None = None,
        goes_on: bool = False,
        screen: Screen | None = None,
        leaving: Callable[[Sequence[int]], None] | None = None,
        callers: Callable[[Sequence[int]], Sequence[Context]] | None = None,
    ) -> None:
        """
        Prepare to send what is in *backlog*.

        Args:
            shared: What all deliveries of a client have in common.
            backlog: What is to be sent.
            settle: Takes verdicts; each position gets one.
            unsettled: Returns which of some positions, or of all, have no verdict: the net below
                a bug.
            product_code: The product of records that name none.
            goes_on: Whether records may come later, so that what is stopped is tried again after
                a minute.
            screen: May still have a verdict on a record when its turn comes.
            leaving: Takes the positions of records that are about to be sent for the first time.
            callers: Returns the contexts of those who gave the records of some positions; None
                where all are of one caller, in whose context the delivery runs.
        """
        self.calls = 0
        self.throttled = 0
        self._reported = (0, 0)  # how many of both the last report counted
        self.backlog = backlog
        self._shared = shared
        self._connection = shared.connection
        self._observer = shared.observer
        self._clock = shared.clock
        self._settle_at_door = settle
        self._unsettled = unsettled
        self._goes_on = goes_on
        self._screen = screen
        self._leaving = leaving
        self._callers = callers
        self._searches = Searches(product_code)
        self._stops = Stops()
        self._progress = Progress(shared.policy.timeout)
        self._watch: asyncio.Task[None] | None = None  # of the time without progress
        self._given_up: deque[tuple[Lane | None, MeteringError]] = deque()  # what is to be settled
        backlog.group_by(self._searches.licenses.group_of)
        self._open = len(backlog)  # records without a verdict
        self._on_the_wire: dict[Call, None] = {}  # in the order in which they began
        self._dispatcher = Dispatcher(self._clock, shared.permits, self, self._rescue_if_lost)
        self._idle = asyncio.Event()  # set when nothing is open any more, or can be brought on
        self._bug: MeteringError | None = None

    # What the doors say and ask.

    def add(self, positions: Sequence[int], records: Sequence[UsageRecord]) -> None:
        """Add records at *positions*; sending begins by itself."""
        self._open += len(positions)
        moment = self._clock.monotonic()
        self.backlog.add(positions, records, moment)
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
        self._given_up.append((None, error))
        self._cancel_what_has_not_left()
        self._dispatcher.restart()
        self._rescue_if_lost()

    def _cancel_what_has_not_left(self) -> None:
        for call in self._on_the_wire:
            if not call.permit.sent and call.task is not None:
                call.task.cancel()

    @property
    def stopped(self) -> MeteringError | None:
        """Why nothing new starts any more, if so."""
        return self._stops.final

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
        calls = list(self._on_the_wire)
        self._on_the_wire.clear()
        tasks = [call.task for call in calls if call.task is not None]
        tasks += [t for t in (self._dispatcher.cancel(), self._watch) if t is not None]
        self._watch = None
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for call in calls:
                call.return_permit(self._observer)  # its task may never have begun
            flush(self._observer)

    # What the dispatcher asks.

    def has_work(self) -> bool:
        """Return whether anything is to be settled, or sent now or later."""
        return bool(self._given_up) or self.wanted() or self.next_due() is not None

    def wanted(self) -> bool:
        """Return whether a call may be started now."""
        if self._stops.final is not None or self._given_up:
            return False
        return bool(self._searches.parts) or self.backlog.ready(self._clock.monotonic())

    def next_due(self) -> float | None:
        """Return the monotonic time at which one may be, if nothing else happens."""
        return self.backlog.next_due() if self._stops.final is None else None

    def give_up_some(self) -> bool:
        """Settle some of what is not sent any more; return whether there was anything."""
        stop = self._stops.error_for(None, self._clock.monotonic())
        if stop is not None and self.wanted():
            self._given_up.append((None, stop))
        if not self._given_up:
            return False
        lane, error = self._given_up[0]
        entries = self.backlog.drop(_STEP, lane)
        if not entries:
            self._given_up.popleft()
            entries = self._release(self._searches.drop(lane)).returned
        self._settle(decisions.give_up(entries, error))
        return True

    async def prepare(self) -> bool:
        """Find region and credentials; what waits for nothing ends where they are not found."""
        try:
            await self._connection.open()
        except MeteringError as error:
            self._given_up.append((None, error))
            return False
        return True

    def send_some(self, permit: Permit) -> bool:
        """Start a call, which takes the *permit* over; return False if none was ready after all."""
        call = self._begin(permit)
        if call is None:
            return False
        call.task = asyncio.create_task(self._make(call))
        call.task.add_done_callback(partial(self._task_ended, call))
        return True

    def met_bug(self, error: Exception) -> bool:
        """
        End what waits, and try what comes.

        Return False where the bug was met while giving up: what is left then ends with the rest.
        """
        in_vain = bool(self._given_up)
        self._given_up.clear()
        if not in_vain:
            self._bug = UnexpectedError.of(error)
            self._given_up.append((None, self._bug))
        return not in_vain

    def _begin(self, permit: Permit) -> Call | None:
        """Begin a call with what goes next, unless there is a verdict on some of it by now."""
        moment = self._clock.monotonic()
        search: Search | None = None
        if self._searches.parts:
            search, chunk = self._searches.parts.popleft()
        elif (waiting := self.backlog.take(self._connection.now().timestamp(), moment)) is not None:
            chunk = waiting
        else:
            return None
        kept = self._sift(chunk, moment)
        if len(kept) == len(chunk):
            call = Call(chunk, search, permit, self._clock.monotonic())
            self._on_the_wire[call] = None
            return call
        self.backlog.put_back(kept.entries, moment)  # and is filled up before it goes
        if search is not None:
            self._follow(self._searches.advance(search, kept, decisions.NOT_SENT, moment), moment)
        return None

    def _sift(self, chunk: Chunk, moment: float) -> Chunk:
        """Settle the records of *chunk* on which there is a verdict; return the others."""
        self._searches.similar.forget(moment)
        stop = self._stops.error_for(chunk.lane, moment)
        similar, bounds = self._searches.similar, self._connection.bounds()
        try:
            kept, outcomes = screen(chunk, bounds, stop, similar, self._screen)
            self._settle(outcomes)
        except Exception as error:  # noqa: BLE001 - a bug ends the records that it touched
            self._end_lost(chunk, error, sent=False)
            return chunk.part(())
        return kept

    # Its calls.

    async def _make(self, call: Call) -> None:
        try:
            decision = await call.make(self._shared, self._note_leaving, self._callers)
        except asyncio.CancelledError:
            if call not in self._on_the_wire:  # aborted: nobody asks any more
                raise
            stop = self._stops.error_for(call.chunk.lane, self._clock.monotonic())
            if stop is None or call.permit.sent:  # the event loop ends
                error = UnexpectedError("the event loop ended before the record had its verdict")
                self._finish(call, decisions.on_bug(call.chunk, error, sent=call.permit.sent))
                raise
            decision = decisions.on_cancelled(call.chunk, stop)
        except Exception as error:  # noqa: BLE001 - a bug ends the records that it touched
            decision = decisions.on_bug(call.chunk, error, sent=call.permit.sent)
        self._finish(call, decision)
        self._dispatcher.wake()

    def _note_leaving(self, positions: Sequence[int]) -> None:
        self.calls += 1
        if self._leaving is not None:
            self._leaving(positions)

    def _finish(self, call: Call, decision: Decision) -> None:
        """Apply what was decided."""
        call.return_permit(self._observer, decision)
        self._on_the_wire.pop(call, None)
        try:
            self._apply(call, decision)
        except Exception as error:  # noqa: BLE001 - a bug ends the records that it touched
            moment, lane = self._clock.monotonic(), call.chunk.lane
            rest = self._release(self._searches.drop(lane.whole)).returned
            gone = set(call.chunk.positions)
            self.backlog.put_back([e for e in rest if e.position not in gone], moment)
            self._end_lost(call.chunk, error, sent=call.permit.sent)

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
        if decision.failed or decision.ended is CallEnd.THROTTLED:
            self._note_no_progress(call, decision, rest)
        if decision.taken:
            self._searches.note_taken(lane)
        if decision.stop is not None and decision.error is not None:
            self._stop(None if decision.stop is Scope.EVERYTHING else lane.whole, decision.error)
        self._go_on_searching(call, decision, moment)
        if self._stops:
            oldest = min((other.begun for other in self._on_the_wire), default=moment)
            self._stops.forget(moment, oldest)

    def _go_on_searching(self, call: Call, decision: Decision, moment: float) -> None:
        """Go on with the search that the call was a part of, or begin one."""
        if call.search is not None:
            findings = self._searches.advance(call.search, call.chunk, decision, moment)
            self._follow(findings, call.begun)
        elif (refusal := decision.refusal) is not None:
            entries = refusal.chunk.entries
            if len(entries) == 1 or not self._ends(call.chunk.lane, entries, call.begun, moment):
                self._follow(self._searches.refused(refusal, moment), call.begun)

    def _put_back(self, call: Call, decision: Decision, moment: float) -> float:
        """Put back what is sent again; return how long it rests."""
        longest = 0.0
        for entries, failures, seconds in decision.returned:
            if self._ends(call.chunk.lane, entries, call.begun, moment):
                continue
            rest = seconds
            if failures and decision.error is not None:
                delay = backoff(
                    self._shared.policy, failures, self._shared.random.random(), decision.error
                )
                closing = min(deadline(entry.record.epoch) for entry in entries)
                left = closing - self._connection.now().timestamp()
                rest = max(0.0, min(delay, left))  # rather early than too late
                retrying = Retrying(
                    records=len(entries),
                    attempt=max(entry.history.attempts for entry in entries),
                    delay=rest,
                    error=decision.error,
                )
                emit(self._observer, retrying)
            self.backlog.put_back(entries, moment, not_before=moment + rest)
            longest = max(longest, rest)
        return longest

    def _ends(
        self, lane: Lane, entries: Sequence[PendingRecord], begun: float, moment: float
    ) -> bool:
        """Settle *entries* if what was sent at *begun*, and is open, is not sent again."""
        error = self._stops.error_after(lane, begun, moment)
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
        self._settle_at_door(outcomes)

    # What stops, and when.

    def _stop(self, lane: Lane | None, error: MeteringError) -> None:
        """Start nothing new of a lane, or of all; where records go on coming, for a minute."""
        if self._stops.add(lane, error, self._clock.monotonic(), probed=self._goes_on):
            product = None if lane is None else lane.product_code
            emit(self._observer, SendingStopped(product_code=product, error=error))
        self._given_up.append((lane, error))
        if lane is None:
            self._cancel_what_has_not_left()

    def _end(self, lane: Lane | None, error: MeteringError) -> None:
        """End what is open of a lane, or of all: its time is over."""
        self._stops.end(lane, error, self._clock.monotonic())
        self._given_up.append((lane, error))

    def _note_no_progress(self, call: Call, decision: Decision, rest: float) -> None:
        """Let time run against the lane, and against the whole delivery."""
        if decision.progress:
            return
        self._progress.missing(call.begun, decision.error)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_the_time())
        moment, lane = self._clock.monotonic(), call.chunk.lane
        if decision.failed and self._progress.failed(lane, call.begun, moment, rest):
            self._end(lane.whole, self._progress.latest)

    async def _watch_the_time(self) -> None:
        """End everything once nothing has progressed for as long as the policy allows."""
        progress = self._progress
        while (left := progress.seconds_left(self._clock.monotonic())) is not None:
            if left > 0:
                await self._clock.sleep(left)
            else:
                progress.stalled_since = None
                self._end(None, progress.latest)
                self._dispatcher.wake()

    # What is refused.

    def _follow(self, findings: Findings, begun: float) -> None:
        """Put into practice what the searches found, after a call that *begun* then."""
        moment = self._clock.monotonic()
        self._release(findings)
        for event in findings.events:
            emit(self._observer, event)
        for refusal in findings.begun:
            if is_about_a_member(refusal.error.code):  # more of the lane would be refused for it
                self.backlog.hold(refusal.chunk.lane, moment + REMEMBERED, moment)
        self._settle(findings.settled)
        for lane, entries in _by_lane(self.backlog, findings.returned).items():
            if not self._ends(lane, entries, begun, moment):
                self.backlog.put_back(entries, moment)
        if findings.stop is not None:
            self._stop(*findings.stop)

    def _release(self, findings: Findings) -> Findings:
        for lane in findings.ended:
            self.backlog.release(lane, self._clock.monotonic())
        return findings

    # The net below a bug.

    def _task_ended(self, call: Call, task: "asyncio.Task[None]") -> None:
        if call in self._on_the_wire:  # it never began
            stop = self._stops.final or UnexpectedError("cancelled before it began")
            self._finish(call, decisions.on_cancelled(call.chunk, stop))
            self._dispatcher.wake()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._bug = UnexpectedError.of(error)
        self._rescue_if_lost()

    def _end_lost(self, chunk: Chunk, error: Exception, *, sent: bool) -> None:
        """End those of *chunk* that a bug has left in nobody's hands."""
        self._bug = UnexpectedError.of(error)
        kept = self.backlog.sent_before() | self._searches.positions()
        lost = frozenset(self._unsettled(chunk.positions)) - kept
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
        doubt = self.calls > 0
        status = RecordStatus.UNCONFIRMED if doubt else RecordStatus.UNPROCESSED
        verdict = Verdict(status=status, error=error, ambiguous=doubt)
        lost = self._unsettled(None)
        self._open = len(lost)
        self.backlog.clear()
        self._release(self._searches.drop(None))
        self._settle([unmetered(verdict, lost)] if lost else [])


def _by_lane(backlog: Backlog, entries: Sequence[PendingRecord]) -> dict[Lane, list[PendingRecord]]:
    lanes: dict[Lane, list[PendingRecord]] = {}
    for entry in entries:
        lanes.setdefault(backlog.lane_of(entry.record), []).append(entry)
    return lanes
