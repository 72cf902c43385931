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
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import Any, Final, NamedTuple

from attrs import Factory, define

from marketplace_metering_async import limits, wire
from marketplace_metering_async.calls import Caller, RepairedError
from marketplace_metering_async.clock import Span
from marketplace_metering_async.delivery import decisions, verdicts
from marketplace_metering_async.delivery.admission import expired, premature
from marketplace_metering_async.delivery.backlog import Backlog, deadline
from marketplace_metering_async.delivery.chunks import Chunk, Lane, PendingRecord
from marketplace_metering_async.delivery.decisions import Decision, Refusal, Scope
from marketplace_metering_async.delivery.refusals import (
    REMEMBERED,
    LicenseGroups,
    SimilarRefusals,
    is_about_a_member,
)
from marketplace_metering_async.delivery.search import Search
from marketplace_metering_async.errors import MeteringError, UnexpectedError
from marketplace_metering_async.events import (
    Isolated,
    Isolating,
    Paused,
    Retrying,
    Settled,
    Throttled,
    Warned,
    tell,
)
from marketplace_metering_async.pacing import CallEnd
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import Outcome, RecordStatus, Verdict, without_ids
from marketplace_metering_async.results import count as counted
from marketplace_metering_async.retries import Backoff, RetryPolicy
from marketplace_metering_async.starts import Ticket
from marketplace_metering_async.triage import Fault, triage
from marketplace_metering_async.turns import Breather

_OPERATION: Final = "BatchMeterUsage"
_EDGE: Final = limits.EDGE.total_seconds()
_MAX_FUTURE: Final = limits.MAX_FUTURE.total_seconds()
_STEP: Final = 256
"""Records that are given up between two looks at the clock."""
_WHOLE_REFUSALS: Final = 3
"""Chunks refused to the last record by an unknown code, after which their lane stops."""
_INVALID_LICENSE: Final = "InvalidLicenseException"

Settle = Callable[[Sequence[Outcome]], None]
"""Takes verdicts as they come."""


class _Stop(NamedTuple):
    """
    Why nothing new of a lane, or of all, starts.

    Attributes:
        error: The reason.
        since: Monotonic time; what was on the wire then is not sent again.
        until: Monotonic time from which it may be tried again.
    """

    error: MeteringError
    since: float
    until: float


@define(eq=False)
class _Call:
    """
    A call that is being made.

    Attributes:
        chunk: What it carries.
        search: The search that the chunk is a part of.
        permit: The right to make it.
        begun: Monotonic time.
        left: Whether the request was handed to the transport.
        task: What makes it.
    """

    chunk: Chunk
    search: Search | None
    permit: Ticket
    begun: float
    left: bool = False
    task: "asyncio.Task[None] | None" = None


@define
class _Stall:
    """
    How long a lane has been without progress, its waits for a turn left out.

    Attributes:
        seconds: So long, since its first failed attempt.
        ended: Monotonic time at which the latest failed attempt ended.
        rest: Seconds that its records were to rest then.
    """

    seconds: float
    ended: float
    rest: float = 0.0


@define(eq=False)
class _LaneSearch:
    search: Search
    waiting: deque[Refusal] = Factory(deque)
    """Chunks that were refused meanwhile."""


class Delivery:
    """
    Brings the records of a backlog to the service.

    Attributes:
        calls: HTTP requests made.
        throttled: How many of them the service throttled.
    """

    def __init__(
        self,
        connection: Caller,
        backlog: Backlog,
        settle: Settle,
        unsettled: Callable[[], Sequence[int]],
        *,
        policy: RetryPolicy,
        random: Random,
        product_code: str | None = None,
        goes_on: bool = False,
        screen: Callable[[PendingRecord], Verdict | None] | None = None,
        leaving: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        """
        Prepare to send what is in *backlog*.

        Args:
            connection: Makes the calls.
            backlog: What is to be sent.
            settle: Takes verdicts; each position gets one.
            unsettled: Returns the positions without a verdict: the net below a bug.
            policy: When to give up.
            random: Where jitter comes from.
            product_code: The product of records that name none.
            goes_on: Whether records may come later, so that what is stopped is tried again after
                a minute.
            screen: May still have a verdict on a record when its turn comes.
            leaving: Takes the positions of records that are about to be sent for the first time.
        """
        self.calls = 0
        self.throttled = 0
        self.backlog = backlog
        self._connection = connection
        self._clock = connection.clock
        self._settle_at_door = settle
        self._unsettled = unsettled
        self._policy = policy
        self._backoff = Backoff(policy, random)
        self._goes_on = goes_on
        self._screen = screen
        self._leaving = leaving
        self._similar = SimilarRefusals(product_code)
        self._licenses = LicenseGroups()
        self._mixing: set[Lane] = set()  # lanes whose licenses turned out to be of several products
        self._whole_refusals: dict[Lane, list[frozenset[object]]] = {}  # their customers
        backlog.group_by(self._licenses.group_of)
        self._searches: dict[Lane, _LaneSearch] = {}
        self._parts: deque[tuple[Search, Chunk]] = deque()  # that may go
        self._stopped: MeteringError | None = None  # nothing new starts any more
        self._stops: dict[Lane | None, _Stop] = {}  # None: of all lanes
        self._given_up: deque[tuple[Lane | None, MeteringError]] = deque()  # what is to be settled
        self._stalls: dict[Lane, _Stall] = {}
        self._stalled_since: float | None = None  # when nothing of any lane has progressed
        self._watch: asyncio.Task[None] | None = None
        self._open = len(backlog)  # records without a verdict
        self._on_the_wire: set[_Call] = set()
        self._latest_error: MeteringError = UnexpectedError("no progress")
        self._dispatcher: asyncio.Task[None] | None = None
        self._runs = count()  # numbers the dispatchers
        self._running: int | None = None  # the number of the one that runs
        self._asks_for_permit = False
        self._sleeps_until: float | None = None  # the dispatcher; None while it is awake
        self._wakeup: asyncio.Future[None] | None = None
        self._finished: list[asyncio.Future[None]] = []
        self._bug: MeteringError | None = None

    # What the doors say and ask.

    def add(self, positions: Sequence[int], records: Sequence[UsageRecord]) -> None:
        """Add records at *positions*; sending begins by itself."""
        self._open += len(positions)
        self.backlog.add(positions, records, self._clock.monotonic())
        self._wake_if_due()

    def take_back(self, position: int, record: UsageRecord) -> bool:
        """Forget a record that was not taken up yet; return whether that was so."""
        if not self.backlog.discard(position, record, self._clock.monotonic()):
            return False
        self._open -= 1
        self._wake()
        return True

    def start(self) -> None:
        """Begin to send what is in the backlog."""
        self._wake()

    def flush(self) -> None:
        """Let everything go that waits for company."""
        self.backlog.flush(self._clock.monotonic())
        self._wake()

    def stop(self, error: MeteringError) -> None:
        """Start nothing new; await what is on the wire; leave the rest open because of *error*."""
        if self._stopped is not None:
            return
        self._stopped = error
        self._given_up.append((None, error))
        for call in self._on_the_wire:
            if not call.left and call.task is not None:
                call.task.cancel()
        if self._dispatcher is not None and self._running is not None:
            self._dispatcher.cancel()  # it may wait for credentials, or for a permit
            self._running = None
        self._wake()

    @property
    def stopped(self) -> MeteringError | None:
        """Why nothing new starts any more, if so."""
        return self._stopped

    @property
    def open(self) -> int:
        """How many records have no verdict."""
        return self._open

    async def finished(self) -> None:
        """Return when every record has its verdict. Cancelling it changes nothing."""
        if self._open:
            future = asyncio.get_running_loop().create_future()
            self._finished.append(future)
            await future

    async def abort(self) -> None:
        """Cancel whatever runs and await its end; records may be left without a verdict."""
        self._stopped = self._stopped or UnexpectedError("cancelled")
        self._open = 0
        tasks = [call.task for call in self._on_the_wire if call.task is not None]
        tasks += [task for task in (self._dispatcher, self._watch) if task is not None]
        self._on_the_wire.clear()
        self._dispatcher = self._watch = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The dispatcher: sleep, permit, chunk, call.

    def _wake_if_due(self) -> None:
        until = self._sleeps_until
        if until is not None and not self.backlog.ready(self._clock.monotonic()):
            due = self.backlog.next_due()
            if due is None or due >= until:
                return
        self._wake()

    def _wake(self) -> None:
        """Have the dispatcher look again, and start it if it does not run."""
        if self._running is None:
            number = self._running = next(self._runs)  # first: an eager task runs at once
            self._dispatcher = task = asyncio.create_task(self._dispatch_while_needed(number))
            task.add_done_callback(self._dispatcher_ended)
        elif self._wakeup is not None:
            _set(self._wakeup)
        elif self._asks_for_permit and not self._wanted():
            self._connection.starts.look_again()

    async def _dispatch_while_needed(self, number: int) -> None:
        try:
            await self._dispatch()
        finally:
            if self._running == number:
                self._running = None

    async def _dispatch(self) -> None:
        if self._stopped is None:
            try:
                await self._connection.open()
            except MeteringError as error:
                self._given_up.append((None, error))
        breather = Breather(self._clock)
        while True:
            if self._given_up:
                self._give_up_some()
                await breather.breathe()
            elif self._stopped_for_now():
                self._given_up.append((None, self._stops[None].error))
            elif self._wanted():
                self._asks_for_permit = True
                try:
                    permit = await self._connection.starts.admit(self._wanted)
                finally:
                    self._asks_for_permit = False
                if permit is not None:
                    await self._send_next(permit, breather)
            elif (due := self.backlog.next_due()) is not None:
                await self._sleep(due)
            else:
                return

    def _stopped_for_now(self) -> bool:
        """Return whether nothing at all may start now, though something would."""
        stop = self._stops.get(None)
        return stop is not None and self._clock.monotonic() < stop.until and self._wanted()

    def _wanted(self) -> bool:
        if self._stopped is not None or self._given_up:
            return False
        return bool(self._parts) or self.backlog.ready(self._clock.monotonic())

    async def _sleep(self, due: float) -> None:
        """Return at the monotonic time *due*, or when something woke the dispatcher."""
        wakeup = self._wakeup = asyncio.get_running_loop().create_future()
        self._sleeps_until = due
        timer = asyncio.create_task(self._nap(due - self._clock.monotonic()))
        timer.add_done_callback(lambda _: _set(wakeup))
        try:
            await wakeup
        finally:
            timer.cancel()
            if self._wakeup is wakeup:
                self._wakeup = self._sleeps_until = None

    async def _nap(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    async def _send_next(self, permit: Ticket, breather: Breather) -> None:
        """Start a call with *permit*, or give it back where nothing is left to send."""
        try:
            while self._wanted():
                if (found := self._take()) is not None:
                    chunk, search = found
                    call = _Call(chunk, search, permit, self._clock.monotonic())
                    self._on_the_wire.add(call)
                    call.task = asyncio.create_task(self._make(call))
                    call.task.add_done_callback(partial(self._call_ended, call))
                    return
                await breather.breathe()
        except BaseException:
            permit.give_back()
            raise
        permit.give_back()

    def _take(self) -> tuple[Chunk, Search | None] | None:
        """Return what goes next, without the records on which there is a verdict by now."""
        moment, span = self._clock.monotonic(), self._connection.span()
        if self._parts:
            search, part = self._parts.popleft()
            kept = self._sift(part, span, moment)
            if len(kept) == len(part):
                return part, search
            self._return(kept.entries, part.lane, moment)
            search.left_open()
            self._go_on(search)
            return None
        chunk = self.backlog.take(self._connection.now().timestamp(), moment)
        if chunk is None:
            return None
        chunk = self._sift(chunk, span, moment)
        return (chunk, None) if len(chunk) else None

    def _sift(self, chunk: Chunk, span: Span, moment: float) -> Chunk:
        """Settle the records of *chunk* on which there is a verdict; return the others."""
        if self._similar:
            self._similar.forget(moment)
        epochs = [record.epoch for record in chunk.records]
        late = deadline(min(epochs)) + _EDGE < span.earliest
        early = max(epochs) > span.latest + _MAX_FUTURE
        stop = self._stop_of(chunk.lane, moment)
        if not (late or early or stop or self._similar or self._screen):
            return chunk
        kept: list[int] = []
        outcomes: list[Outcome] = []
        for index, entry in enumerate(chunk.entries):
            verdict = self._early_verdict(entry, span, stop)
            if verdict is None:
                kept.append(index)
            else:
                outcomes.append(without_ids(verdict, (entry.position,)))
        self._settle(outcomes)
        return chunk.part(kept) if outcomes else chunk

    def _early_verdict(
        self, entry: PendingRecord, span: Span, stop: MeteringError | None
    ) -> Verdict | None:
        if stop is not None:
            return verdicts.gave_up(stop, entry.history)
        if self._screen is not None and (screened := self._screen(entry)) is not None:
            return screened
        if (similar := self._similar.find(entry.record)) is not None:
            return verdicts.similar_refused(similar.refusal, similar.member, entry.history)
        if (closes := deadline(entry.record.epoch)) + _EDGE < span.earliest:
            error = expired(entry.position, entry.record, closes)
            return verdicts.out_of_window(error, entry.history)
        if entry.record.epoch > (newest := span.latest + _MAX_FUTURE):
            error = premature(entry.position, entry.record, newest)
            return verdicts.out_of_window(error, entry.history)
        return None

    # One call.

    async def _make(self, call: _Call) -> None:
        try:
            decision = await self._decide(call)
        except asyncio.CancelledError:
            if call not in self._on_the_wire:  # aborted: nobody asks any more
                raise
            if self._stopped is None or call.left:  # the event loop ends
                error = UnexpectedError("the event loop ended before the record had its verdict")
                decision = decisions.on_bug(call.chunk, error, left=call.left)
                self._finish(call, decision)
                raise
            settled = decisions.give_up(call.chunk.entries, self._stopped)
            decision = Decision(ended=CallEnd.ABANDONED, settled=settled, error=self._stopped)
        except Exception as error:  # noqa: BLE001 - a bug ends the records that it touched
            decision = decisions.on_bug(call.chunk, error, left=call.left)
        self._finish(call, decision)

    async def _decide(self, call: _Call) -> Decision:
        chunk, policy = call.chunk, self._policy

        def leaving() -> None:
            call.left = call.permit.spent = True
            call.begun = self._clock.monotonic()
            self.calls += 1
            if self._leaving is not None:
                self._leaving(chunk.positions)

        try:
            answer = await self._connection.exchange(
                _OPERATION,
                chunk.body,
                records=len(chunk),
                attempt=chunk.histories[0].attempts + 1,
                leaving=leaving,
            )
            if (turn := self._connection.turns.wait()) is not None:
                await turn
            reply = wire.read_reply(chunk.members, answer.body)
        except RepairedError as repaired:
            return decisions.on_repaired(chunk, repaired.error, call.begun)
        except MeteringError as error:
            return decisions.on_error(
                chunk,
                error,
                call.begun,
                policy,
                left=call.left,
                service_time=self._connection.service_time(),
            )
        if reply.oddities:
            oddities = "; ".join(dict.fromkeys(reply.oddities))
            text = f"odd response to request {answer.request_id}: {oddities}"
            tell(self._connection.observer, Warned(text=text))
        return decisions.on_reply(chunk, reply, answer.request_id, call.begun, policy)

    def _finish(self, call: _Call, decision: Decision) -> None:
        """Apply what was decided."""
        retry_after = getattr(decision.error, "retry_after", None)
        if call.left:
            call.permit.end(decision.ended, retry_after=retry_after)
        else:
            call.permit.give_back()
        self._on_the_wire.discard(call)
        self._apply(call, decision)
        self._wake()

    def _apply(self, call: _Call, decision: Decision) -> None:
        moment, lane = self._clock.monotonic(), call.chunk.lane
        self._settle(decision.settled)
        if decision.progress:
            self._stalled_since = None
            self._stalls.pop(lane.whole, None)
        if decision.ended is CallEnd.THROTTLED:
            self.throttled += 1
            tell(self._connection.observer, Throttled(records=len(call.chunk)))
        if decision.narrow is not None:
            self.backlog.narrow(lane, decision.narrow)
        rest = self._put_back(call, decision, moment)
        if decision.failed or decision.ended is CallEnd.THROTTLED:
            self._note_no_progress(call, decision, rest, moment)
        if decision.taken:
            self._whole_refusals.pop(lane.whole, None)
        if decision.stop is not None and decision.error is not None:
            self._stop(None if decision.stop is Scope.EVERYTHING else lane.whole, decision.error)
        if call.search is not None:
            self._advance(call, call.search, decision, moment)
        elif decision.refusal is not None:
            self._refused(decision.refusal, moment)

    def _put_back(self, call: _Call, decision: Decision, moment: float) -> float:
        """Put back what is sent again; return how long it rests."""
        longest = 0.0
        for entries, failures, seconds in decision.returned:
            if self._ends(call, entries, moment):
                continue
            if failures and decision.error is not None:
                seconds = self._backoff.delay(failures, decision.error)
                closing = min(deadline(entry.record.epoch) for entry in entries)
                now = self._connection.now().timestamp()
                seconds = max(0.0, min(seconds, closing - now))  # rather early than too late
                retrying = Retrying(
                    records=len(entries),
                    attempt=max(entry.history.attempts for entry in entries),
                    delay=seconds,
                    error=decision.error,
                )
                tell(self._connection.observer, retrying)
            self.backlog.put_back(entries, moment, not_before=moment + seconds)
            longest = max(longest, seconds)
        return longest

    def _return(self, entries: Sequence[PendingRecord], lane: Lane, moment: float) -> None:
        """Put back records at once, unless their lane has stopped."""
        stop = self._stop_of(lane, moment)
        if stop is not None:
            self._settle(decisions.give_up(entries, stop))
        elif entries:
            self.backlog.put_back(entries, moment)

    def _ends(self, call: _Call, entries: Sequence[PendingRecord], moment: float) -> bool:
        """Settle *entries* if what was on the wire when the call began is not sent again."""
        error = self._stop_of(call.chunk.lane, moment)
        for key in (None, call.chunk.lane.whole):
            stop = self._stops.get(key)
            if stop is not None and call.begun <= stop.since:
                error = error or stop.error
        if error is not None:
            self._settle(decisions.give_up(entries, error))
        return error is not None

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        if self._connection.tells_details:
            request_id = outcomes[0].verdict.request_id
            settled = Settled(counts=counted(outcomes), request_id=request_id)
            tell(self._connection.observer, settled)
        self._open -= sum(len(outcome.positions) for outcome in outcomes)
        self._settle_at_door(outcomes)

    # What stops, and when.

    def _stop_of(self, lane: Lane, moment: float) -> MeteringError | None:
        """Return why nothing of *lane* starts now, if so."""
        if self._stopped is not None or not self._stops:
            return self._stopped
        for key in (None, lane.whole):
            stop = self._stops.get(key)
            if stop is not None and moment < stop.until:
                return stop.error
        return None

    def _stop(self, lane: Lane | None, error: MeteringError) -> None:
        """Start nothing new of a lane, or of all, for a minute; in a batch no more at all."""
        moment = self._clock.monotonic()
        known = self._stops.get(lane)
        if known is None or known.until <= moment:
            product = None if lane is None else lane.product_code
            tell(self._connection.observer, Paused(product_code=product, error=error))
        until = moment + REMEMBERED if self._goes_on else math.inf
        self._end(lane, error, until)

    def _end(self, lane: Lane | None, error: MeteringError, until: float) -> None:
        moment = self._clock.monotonic()
        oldest = min((call.begun for call in self._on_the_wire), default=moment)
        self._stops = {
            key: stop
            for key, stop in self._stops.items()
            if stop.until > moment or stop.since >= oldest
        }
        self._stops[lane] = _Stop(error, moment, until)
        self._given_up.append((lane, error))
        self._wake()

    def _give_up_some(self) -> None:
        """Settle some of what was given up; the dispatcher comes again for the rest."""
        lane, error = self._given_up[0]
        entries = self.backlog.drop(_STEP, lane)
        if not entries:
            entries = self._drop_searches(lane)
        if not entries:
            self._given_up.popleft()
        self._settle(decisions.give_up(entries, error))

    def _drop_searches(self, lane: Lane | None) -> list[PendingRecord]:
        """Take out what searches hold of a lane, or of all."""
        dropped: list[PendingRecord] = []
        for key in [key for key in self._searches if lane in (None, key)]:
            found = self._searches.pop(key)
            self.backlog.release(found.search.chunk.lane, self._clock.monotonic())
            for search, part in list(self._parts):
                if search is found.search:
                    self._parts.remove((search, part))
                    dropped += part.entries
            dropped += found.search.waiting()
            for refusal in found.waiting:
                dropped += refusal.chunk.entries
        return dropped

    def _note_no_progress(
        self, call: _Call, decision: Decision, rest: float, moment: float
    ) -> None:
        """Let time run against the lane, and against the whole delivery."""
        if self._stalled_since is None and not decision.progress:
            self._stalled_since = call.begun
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._watch_the_time())
        if decision.error is not None:
            self._latest_error = decision.error
        if not decision.failed or decision.progress:
            return
        lane = call.chunk.lane.whole
        stall = self._stalls.get(lane)
        if stall is None:
            stall = self._stalls[lane] = _Stall(moment - call.begun, moment)
        else:
            worked = moment - call.begun + stall.rest
            stall.seconds += min(moment - stall.ended, worked)
        stall.ended, stall.rest = moment, rest
        if stall.seconds >= self._policy.timeout and decision.error is not None:
            del self._stalls[lane]
            self._end(lane, decision.error, until=moment)

    async def _watch_the_time(self) -> None:
        """End everything once nothing has progressed for as long as the policy allows."""
        while (since := self._stalled_since) is not None and self._stopped is None:
            left = since + self._policy.timeout - self._clock.monotonic()
            if left > 0:
                await self._clock.sleep(left)
            else:
                self._stalled_since = None
                self._end(None, self._latest_error, until=self._clock.monotonic())

    # What is refused.

    def _refused(self, refusal: Refusal, moment: float) -> None:
        """Search a refused chunk; where its lane is being searched, later."""
        chunk, error = refusal
        lane = chunk.lane.whole
        if len(chunk) == 1:
            self._refused_alone(chunk.entries[0], error, moment)
            self._count_whole_refusal(chunk, error)
            return
        if self._is_of_mixed_licenses(refusal) and lane in self._mixing:
            if not self._licenses.explain(chunk.records):
                self._licenses.separate([record] for record in chunk.records)
            self._return(chunk.entries, chunk.lane, moment)
            return
        if lane in self._searches:
            self._searches[lane].waiting.append(refusal)
            return
        kept = self._sift(chunk, self._connection.span(), moment)
        if len(kept) < len(chunk):
            self._return(kept.entries, chunk.lane, moment)
            return
        tell(self._connection.observer, Isolating(records=len(chunk), code=error.code))
        by_license = lane.licensed and lane.product_code is None
        search = Search(chunk, error, by_license=by_license)
        self._searches[lane] = _LaneSearch(search)
        if is_about_a_member(error.code):  # more of the lane would be refused for the same
            self.backlog.hold(chunk.lane, moment + REMEMBERED, moment)
        self._go_on(search)

    def _advance(self, call: _Call, search: Search, decision: Decision, moment: float) -> None:
        """Tell *search* what came of a part, and go on with it."""
        found = self._searches.get(call.chunk.lane.whole)
        if found is None or found.search is not search:  # given up meanwhile
            if decision.refusal is not None:
                entries = decision.refusal.chunk.entries
                if not self._ends(call, entries, moment):
                    self._return(entries, call.chunk.lane, moment)
            return
        if decision.refusal is not None:
            alone = search.refused(decision.refusal.chunk.entries)
            if alone is not None:
                self._refused_alone(alone, decision.refusal.error, moment)
                self._settle_similar(search)
        elif decision.taken:
            search.taken(call.chunk)
        else:
            search.left_open()
        self._go_on(search)

    def _go_on(self, search: Search) -> None:
        """Line up the next part of *search*, or end it."""
        part = search.next_part()
        if part is not None:
            self._parts.append((search, part))
            return
        chunk, error = search.chunk, search.error
        ended = Isolated(code=error.code, calls=search.tried, offenders=search.refused_alone)
        tell(self._connection.observer, ended)
        lane, moment = chunk.lane.whole, self._clock.monotonic()
        self.backlog.release(chunk.lane, moment)
        waiting = self._searches.pop(lane).waiting
        if search.refused_alone == len(chunk):
            self._count_whole_refusal(chunk, error)
        if (
            self._is_of_mixed_licenses(Refusal(chunk, error))
            and not search.refused_alone
            and len(search.parts_taken) > 1
        ):
            self._mixing.add(lane)
            self._licenses.separate(part.records for part in search.parts_taken)
        for refusal in waiting:  # the first begins a search, and the others wait for it again
            self._refused(refusal, moment)

    def _refused_alone(self, entry: PendingRecord, error: Any, moment: float) -> None:
        self._similar.note(entry.record, error, moment)
        if error.code == _INVALID_LICENSE:
            self._mixing.discard(self.backlog.lane_of(entry.record).whole)
        self._settle(decisions.on_refused_alone(entry, error))

    def _settle_similar(self, search: Search) -> None:
        """Settle what waits in *search* and is similar to what was refused."""
        similar: list[PendingRecord] = []
        outcomes: list[Outcome] = []
        for entry in search.waiting():
            if (found := self._similar.find(entry.record)) is not None:
                verdict = verdicts.similar_refused(found.refusal, found.member, entry.history)
                similar.append(entry)
                outcomes.append(without_ids(verdict, (entry.position,)))
        search.remove(similar)
        search.refused_alone += len(similar)
        self._settle(outcomes)

    @staticmethod
    def _is_of_mixed_licenses(refusal: Refusal) -> bool:
        """Licenses of unnamed products may be of several, which refuses each request they share."""
        lane = refusal.chunk.lane
        if refusal.error.code != _INVALID_LICENSE or not lane.licensed or lane.product_code:
            return False
        return len({record.license_arn for record in refusal.chunk.records}) > 1

    def _count_whole_refusal(self, chunk: Chunk, error: Any) -> None:
        """Stop a lane of which three chunks of different customers met an unknown code alone."""
        if triage(error) is not Fault.UNKNOWN:
            return
        customers = frozenset(_customer(record) for record in chunk.records)
        known = self._whole_refusals.setdefault(chunk.lane.whole, [])
        if not any(customers <= others for others in known):
            known.append(customers)
        if len(known) >= _WHOLE_REFUSALS:
            del self._whole_refusals[chunk.lane.whole]
            self._stop(chunk.lane.whole, error)

    # The net below a bug.

    def _dispatcher_ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self._rescue_if_lost()
            return
        error = task.exception()
        if isinstance(error, Exception):  # everything that it had is over; what comes is tried
            self._bug = decisions.unexpected(error)
            self._given_up.append((None, self._bug))
            self._wake()
        self._rescue_if_lost()

    def _call_ended(self, call: _Call, task: "asyncio.Task[None]") -> None:
        call.permit.give_back()
        if call in self._on_the_wire:  # cancelled before it began
            error = self._stopped or decisions.unexpected(asyncio.InvalidStateError())
            settled = decisions.give_up(call.chunk.entries, error)
            self._finish(call, Decision(ended=CallEnd.ABANDONED, settled=settled, error=error))
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._bug = decisions.unexpected(error)
        self._rescue_if_lost()

    def _rescue_if_lost(self) -> None:
        """Once nothing runs any more, leave nobody waiting."""
        if self._running is not None or self._on_the_wire:
            return
        if self._watch is not None:
            self._watch.cancel()
        if self._open:
            error = self._bug or UnexpectedError("the event loop ended before the verdict")
            doubt = self.calls > 0
            status = RecordStatus.UNCONFIRMED if doubt else RecordStatus.UNPROCESSED
            verdict = Verdict(status=status, error=error, ambiguous=doubt)
            lost = self._unsettled()
            self._open = len(lost)
            self._settle([without_ids(verdict, lost)] if lost else [])
        finished, self._finished = self._finished, []
        for future in finished:
            _set(future)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _customer(record: UsageRecord) -> object:
    return (record.customer_aws_account_id, record.customer_identifier, record.license_arn)
