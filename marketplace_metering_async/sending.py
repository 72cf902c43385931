"""
The records of one batch on their way, until every one of them has a verdict.

A Delivery has a backlog and some workers. A worker waits for its turn, takes the chunk with the
earliest deadline, makes one call, and settles what the answer settles. What it leaves open goes
back to the backlog, with its history, and travels again with others. A refusal is triaged: the
record's fault starts a search, the account's stops a lane or everything, the service's is waited
out. Nothing that the service or the network does makes a Delivery raise.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import Random
from typing import Final

from attrs import frozen

from marketplace_metering_async import limits, verdicts, wire
from marketplace_metering_async.calls import Caller, RepairedError
from marketplace_metering_async.clock import Span, sleep
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    InvalidAnswerError,
    LeftUnprocessedError,
    MarketplaceMeteringException,
    MeteringError,
)
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
from marketplace_metering_async.isolation import (
    Isolation,
    Offenders,
    has_trait,
    named_in,
    shared_trait,
)
from marketplace_metering_async.pacing import CallEnd
from marketplace_metering_async.planning import Backlog, Chunk, History, Lane, Open
from marketplace_metering_async.results import Outcome, Verdict, count, without_ids
from marketplace_metering_async.retries import RetryPolicy, backoff
from marketplace_metering_async.starts import Permit
from marketplace_metering_async.triage import Fault, leaves_doubt, triage
from marketplace_metering_async.validation import expired, premature

_OPERATION: Final = "BatchMeterUsage"
_EDGE: Final = limits.EDGE.total_seconds()
_MAX_FUTURE: Final = limits.MAX_FUTURE.total_seconds()
_MOST_REPAIRS: Final = 2
"""Times in a row that a record is sent again because credentials or clock were put right."""

Settle = Callable[[Sequence[Outcome]], None]
"""Takes verdicts as they come."""


@frozen
class _Refusal:
    """A chunk that the service refused whole for the sake of some record in it."""

    chunk: Chunk
    error: MarketplaceMeteringException


class Delivery:
    """
    Brings the records of a backlog to the service.

    Attributes:
        calls: HTTP requests made.
        throttled: How many of them the service throttled.
    """

    def __init__(
        self,
        caller: Caller,
        backlog: Backlog,
        settle: Settle,
        *,
        policy: RetryPolicy,
        random: Random,
        screen: Callable[[Open], Verdict | None] | None = None,
    ) -> None:
        """
        Prepare to send what is, or will be, in *backlog*.

        *screen* may still have a verdict on a record when its turn comes.
        """
        self.calls = 0
        self.throttled = 0
        self._caller = caller
        self._backlog = backlog
        self._settle = settle
        self._policy = policy
        self._random = random
        self._screen = screen
        self._offenders = Offenders()
        self._searches: dict[Lane, list[_Refusal]] = {}  # lanes under search; refusals that wait
        self._taken_lanes: set[Lane] = set()  # lanes of which the service took something
        self._stopped_lanes: dict[Lane, MeteringError] = {}
        self._stopped: MeteringError | None = None
        self._bell = asyncio.Event()  # rung, and replaced, when the backlog has news
        self._more_to_come = False  # while an intake runs
        self.only_full = False  # while it is worth waiting for full chunks

    async def run(
        self,
        workers: int,
        *,
        intake: Coroutine[None, None, None] | None = None,
        timeout: float | None = None,
    ) -> None:
        """
        Return when every record has its verdict; an *intake* may add records meanwhile.

        After *timeout* seconds nothing new starts, and what is open then stays open.
        """
        clock = self._caller.clock
        timer = None if timeout is None else asyncio.ensure_future(clock.sleep(timeout))
        if timer is not None:
            timer.add_done_callback(self._time_is_over)
        try:
            async with asyncio.TaskGroup() as group:
                if intake is not None:
                    self._more_to_come = True
                    group.create_task(self._take_in(intake))
                for _ in range(workers):
                    group.create_task(self._work())
        finally:
            if timer is not None:
                timer.cancel()

    def ring(self) -> None:
        """Wake the workers that have nothing to do: the backlog has news."""
        self._bell.set()
        self._bell = asyncio.Event()

    def stop(self, error: MeteringError) -> None:
        """Start nothing new; await what is on the wire; leave the rest open because of *error*."""
        if self._stopped is None:
            self._stopped = error
            self._give_up(self._backlog.drop(), error)
            self.ring()
            self._caller.permits.recheck(self)

    @property
    def stopped(self) -> MeteringError | None:
        """Why nothing new starts any more, if so."""
        return self._stopped

    def _time_is_over(self, timer: "asyncio.Future[None]") -> None:
        if not timer.cancelled() and timer.exception() is None:
            self.stop(DeliveryTimeoutError("the time allowed for the call is over"))

    async def _take_in(self, intake: Coroutine[None, None, None]) -> None:
        try:
            await intake
        finally:
            self._more_to_come = False
            self.only_full = False
            self.ring()

    # The worker's round: wait, take, attempt, search.

    async def _work(self) -> None:
        if (turn := self._caller.turns.wait()) is not None:
            await turn
        while (permit := await self._next_permit()) is not None:
            refusal: _Refusal | bool = False
            try:
                chunk = self._take()
                if chunk is not None:
                    refusal = await self._attempt(chunk, permit)
            finally:
                permit.release()
            if isinstance(refusal, _Refusal):
                await self._isolate(refusal)

    async def _next_permit(self) -> Permit | None:
        """Wait until there is something to send and a permit to send it; None when all is done."""
        while (permit := await self._caller.permits.acquire(self._wanted, self)) is None:
            if self._stopped is not None or not (self._backlog or self._more_to_come):
                return None
            await self._rest()
        return permit

    def _wanted(self) -> bool:
        if self._stopped is not None:
            return False
        return self._backlog.ready(self._caller.clock.monotonic(), full=self.only_full)

    async def _rest(self) -> None:
        due = self._backlog.next_due()
        if due is None:
            await self._bell.wait()
        else:
            clock = self._caller.clock
            await sleep(clock, due - clock.monotonic(), self._bell)

    def _take(self) -> Chunk | None:
        """Return the next chunk, without the records on which there is a verdict by now."""
        span, moment = self._caller.span(), self._caller.clock.monotonic()
        while (chunk := self._backlog.take(span.latest, moment, full=self.only_full)) is not None:
            chunk = self._sift(chunk, span)
            if chunk.positions:
                return chunk
        return None

    def _sift(self, chunk: Chunk, span: Span) -> Chunk:
        late = self._backlog.deadline(chunk.records[0].epoch) + _EDGE < span.earliest
        early = chunk.records[-1].epoch > span.latest + _MAX_FUTURE
        if not (late or early or self._offenders or self._stopped_lanes or self._screen):
            return chunk
        stopped = self._stopped_by(chunk.lane)
        kept: list[int] = []
        outcomes: list[Outcome] = []
        for index, entry in enumerate(chunk.entries):
            verdict = self._early_verdict(entry, span, stopped)
            if verdict is None:
                kept.append(index)
            else:
                outcomes.append(_outcome(entry, verdict))
        self._settled(outcomes)
        return chunk.part(kept) if outcomes else chunk

    def _early_verdict(
        self, entry: Open, span: Span, stopped: MeteringError | None
    ) -> Verdict | None:
        if stopped is not None:
            return verdicts.gave_up(stopped, entry.history)
        if self._screen is not None and (screened := self._screen(entry)) is not None:
            return screened
        if (refusal := self._offenders.refusal(entry.record)) is not None:
            return verdicts.of_refused_kind(refusal, shared_trait(refusal.code), entry.history)
        if (deadline := self._backlog.deadline(entry.record.epoch)) + _EDGE < span.earliest:
            error = expired(entry.position, entry.record, deadline)
            return verdicts.out_of_window(error, entry.history)
        if entry.record.epoch > (newest := span.latest + _MAX_FUTURE):
            error = premature(entry.position, entry.record, newest)
            return verdicts.out_of_window(error, entry.history)
        return None

    async def _attempt(self, chunk: Chunk, permit: Permit) -> "_Refusal | bool":
        """
        Make one call with *chunk*; settle or put back all of it, unless it is refused.

        Return the refusal, or whether the service took the chunk.
        """
        moment = self._caller.clock.monotonic()
        attempt = chunk.histories[0].attempts + 1
        permit.sent = True
        self.calls += 1
        try:
            answer = await self._caller.exchange(
                _OPERATION, chunk.body, records=len(chunk.positions), attempt=attempt
            )
            if (turn := self._caller.turns.wait()) is not None:
                await turn
            reply = wire.read_reply(chunk.members, answer.body)
        except RepairedError as repaired:
            permit.end(CallEnd.DELIVERED)
            self._repaired(chunk, repaired.error, moment)
            return False
        except MeteringError as error:
            return self._failed(chunk, error, moment, permit)
        settled = self._answered(chunk, reply, answer.request_id)
        permit.end(CallEnd.DELIVERED if settled else CallEnd.FAILED)
        self._taken_lanes.add(chunk.lane)
        return True

    # What an answer settles.

    def _answered(self, chunk: Chunk, reply: wire.Reply, request_id: str | None) -> bool:
        """Settle what *reply* settles and put the rest back; return whether it settled any."""
        outcomes: list[Outcome] = []
        left: list[Open] = []
        unanswered: list[Open] = []
        for part, status, record_ids in _alike(chunk, reply):
            if status is None:
                unanswered += part.entries
            elif status == wire.UNPROCESSED:
                left += part.entries
            else:
                verdict = verdicts.answered(status, part.histories[0], request_id)
                outcomes.append(Outcome(verdict, part.positions, record_ids))
        self._settled(outcomes, request_id)
        if reply.oddities:
            self._warn_of(reply, request_id)
        progress = bool(outcomes)
        if left:
            error: MeteringError = LeftUnprocessedError()
            self._back_off(left, error, progress=progress, request_id=request_id)
        if unanswered:
            error = InvalidAnswerError(reply.oddities[0], 200, request_id)
            self._back_off(unanswered, error, doubt=True, progress=progress, request_id=request_id)
        return progress

    def _warn_of(self, reply: wire.Reply, request_id: str | None) -> None:
        oddities = "; ".join(dict.fromkeys(reply.oddities))
        tell(self._caller.observer, Warned(text=f"odd answer to request {request_id}: {oddities}"))

    def _settled(self, outcomes: Sequence[Outcome], request_id: str | None = None) -> None:
        if outcomes:
            if self._caller.tells_details:
                settled = Settled(counts=count(outcomes), request_id=request_id)
                tell(self._caller.observer, settled)
            self._settle(outcomes)

    # What an error asks for.

    def _failed(
        self, chunk: Chunk, error: MeteringError, moment: float, permit: Permit
    ) -> "_Refusal | bool":
        fault = triage(error)
        doubt = leaves_doubt(error)
        match fault:
            case Fault.THROTTLE:
                permit.end(CallEnd.THROTTLED, retry_after=getattr(error, "retry_after", None))
                self.throttled += 1
                tell(self._caller.observer, Throttled(records=len(chunk)))
                self._put_back(_advanced(chunk.entries, moment, error))
            case Fault.SERVICE:
                permit.end(CallEnd.FAILED)
                self._back_off(chunk.entries, error, moment=moment, doubt=doubt)
            case Fault.CONTENT | Fault.STATE | Fault.UNKNOWN:
                permit.end(CallEnd.DELIVERED)
                advanced = chunk.advanced(_advanced(chunk.entries, moment, error))
                if isinstance(error, MarketplaceMeteringException):
                    return _Refusal(advanced, error)
                return _Refusal(advanced, _as_refusal(error))
            case Fault.PRODUCT:
                permit.end(CallEnd.DELIVERED)
                self._give_up(_advanced(chunk.entries, moment, error), error)
                self._stop_lane(chunk.lane, error)
            case Fault.ACCOUNT | Fault.CREDENTIALS | Fault.CLOCK:
                permit.end(CallEnd.DELIVERED)
                self._give_up(_advanced(chunk.entries, moment, error, doubt=doubt), error)
                self._stop_all(error)
        return False

    def _repaired(self, chunk: Chunk, error: MeteringError, moment: float) -> None:
        entries = _advanced(chunk.entries, moment, error, repaired=True)
        if any(entry.history.repairs > _MOST_REPAIRS for entry in entries):
            self._give_up(entries, error)
            self._stop_all(error)
        else:
            self._put_back(entries)

    def _back_off(
        self,
        entries: Sequence[Open],
        error: MeteringError,
        *,
        moment: float | None = None,
        doubt: bool = False,
        progress: bool = False,
        request_id: str | None = None,
    ) -> None:
        """Put back records that an attempt left open for the service's fault, to rest a while."""
        begun = self._caller.clock.monotonic() if moment is None else moment
        advanced = _advanced(
            entries,
            begun,
            error,
            failed=True,
            doubt=doubt,
            progress=progress,
            request_id=request_id,
        )
        failures = max(entry.history.failures for entry in advanced)
        delay = backoff(self._policy, failures, self._random.random(), error)
        attempt = max(entry.history.attempts for entry in advanced)
        retrying = Retrying(records=len(entries), attempt=attempt, delay=delay, error=error)
        tell(self._caller.observer, retrying)
        self._put_back(advanced, delay)

    def _put_back(self, entries: Sequence[Open], delay: float = 0.0) -> None:
        """Put *entries* into the backlog, but for those whose time or attempts are over."""
        now = self._caller.now().timestamp()
        span = self._caller.span()
        moment = self._caller.clock.monotonic()
        kept: list[Open] = []
        outcomes: list[Outcome] = []
        for entry in entries:
            verdict = self._last_verdict(entry, moment, span)
            if verdict is None:
                kept.append(entry)
            else:
                outcomes.append(_outcome(entry, verdict))
        self._settled(outcomes)
        if kept:
            closing = min(self._backlog.deadline(entry.record.epoch) for entry in kept)
            rest = max(0.0, min(delay, closing - now))  # rather early than too late
            self._backlog.put_back(kept, not_before=moment + rest if rest else None)
            self.ring()

    def _last_verdict(self, entry: Open, moment: float, span: Span) -> Verdict | None:
        history, policy = entry.history, self._policy
        stopped = self._stopped or self._stopped_by(self._backlog.lane_of(entry.record))
        if stopped is not None:
            return verdicts.gave_up(stopped, history)
        if policy.max_attempts is not None and history.failures >= policy.max_attempts:
            return verdicts.gave_up(history.error, history)
        if history.since is not None and moment - history.since >= policy.timeout:
            return verdicts.gave_up(history.error, history)
        return self._early_verdict(entry, span, None)

    def _give_up(self, entries: Iterable[Open], error: MeteringError) -> None:
        self._settled([_outcome(e, verdicts.gave_up(error, e.history)) for e in entries])

    # What stops.

    def _stopped_by(self, lane: Lane) -> MeteringError | None:
        if not self._stopped_lanes:
            return None
        whole = Lane(lane.product_code, licensed=lane.licensed)
        return self._stopped_lanes.get(lane) or self._stopped_lanes.get(whole)

    def _stop_lane(self, lane: Lane, error: MeteringError) -> None:
        if lane not in self._stopped_lanes:
            self._stopped_lanes[lane] = error
            tell(self._caller.observer, Paused(product_code=lane.product_code, error=error))
            self._give_up(self._backlog.drop(lane), error)
            self.ring()
            self._caller.permits.recheck(self)

    def _stop_all(self, error: MeteringError) -> None:
        if self._stopped is None:
            tell(self._caller.observer, Paused(product_code=None, error=error))
            self.stop(error)

    # The search for the records that a refusal is about.

    async def _isolate(self, refusal: _Refusal) -> None:
        """Search *refusal*, and those of its lane that come meanwhile, one after the other."""
        lane = refusal.chunk.lane
        if self._licenses_may_not_mix(refusal):
            self._backlog.divide(lane)
            self._put_back(refusal.chunk.entries)
            return
        waiting = self._searches.get(lane)
        if waiting is not None:
            waiting.append(refusal)
            return
        waiting = self._searches[lane] = [refusal]
        if has_trait(refusal.error.code):
            self._backlog.hold(lane)  # more of the lane would be refused for the same trait
        try:
            while waiting:
                refusal = waiting.pop()
                innocent = self._sift(refusal.chunk, self._caller.span())
                if len(innocent) == len(refusal.chunk):
                    await self._search(refusal)
                elif len(innocent):
                    self._put_back(innocent.entries)
        finally:
            del self._searches[lane]
            self._backlog.release(lane)
            self.ring()

    @staticmethod
    def _licenses_may_not_mix(refusal: _Refusal) -> bool:
        """Licenses of unnamed products may be of several, which refuses each request they share."""
        lane = refusal.chunk.lane
        if refusal.error.code != "InvalidLicenseException":
            return False
        if not lane.licensed or lane.product_code is not None or lane.license_arn is not None:
            return False
        return len({record.license_arn for record in refusal.chunk.records}) > 1

    async def _search(self, refusal: _Refusal) -> None:
        """Try parts of a refused chunk until every record is settled or put back."""
        chunk, code = refusal.chunk, refusal.error.code
        tell(self._caller.observer, Isolating(records=len(chunk), code=code))
        search = Isolation(len(chunk), named_in(refusal.error.message, chunk.records))
        entries = list(chunk.entries)
        offenders = 0
        if search.culprits:
            offenders += self._blame(search, entries, 0, refusal.error)
        while (indices := search.next_part()) is not None:
            part = chunk.advanced(entries).part(indices)
            outcome = await self._try(part)
            if isinstance(outcome, _Refusal):
                for index, entry in zip(indices, outcome.chunk.entries, strict=True):
                    entries[index] = entry
                search.refused()
                if len(indices) == 1:
                    offenders += self._blame(search, entries, indices[0], outcome.error)
                    self._stop_if_nobody_is_taken(outcome)
            elif outcome:
                search.taken()
            else:
                search.left_open()
            if self._stopped or self._stopped_by(chunk.lane):
                self._put_back([entries[index] for index in search.remaining()])
                break
        ended = Isolated(code=code, calls=search.tried, offenders=offenders)
        tell(self._caller.observer, ended)

    async def _try(self, part: Chunk) -> "_Refusal | bool":
        def wanted() -> bool:
            return self._stopped is None and self._stopped_by(part.lane) is None

        permit = await self._caller.permits.acquire(wanted, self)
        if permit is None:
            self._put_back(part.entries)
            return False
        try:
            return await self._attempt(part, permit)
        finally:
            permit.release()

    def _blame(
        self,
        search: Isolation,
        entries: Sequence[Open],
        index: int,
        error: MarketplaceMeteringException,
    ) -> int:
        """Settle a record that was refused alone, and those of its kind; return how many."""
        culprit = entries[index]
        verdict = verdicts.refused_alone(error, culprit.history)
        outcomes = [_outcome(culprit, verdict)]
        self._offenders.remember(culprit.record, error)
        alike = [
            (other, refusal)
            for other in search.remaining()
            if (refusal := self._offenders.refusal(entries[other].record)) is not None
        ]
        for other, refusal in alike:
            trait = shared_trait(refusal.code)
            verdict = verdicts.of_refused_kind(refusal, trait, entries[other].history)
            outcomes.append(_outcome(entries[other], verdict))
        search.excuse(other for other, _ in alike)
        self._settled(outcomes, error.request_id)
        return len(outcomes)

    def _stop_if_nobody_is_taken(self, refusal: _Refusal) -> None:
        """A refusal nobody has heard of, of every part of a lane, is about more than a record."""
        lane = refusal.chunk.lane
        if triage(refusal.error) is Fault.UNKNOWN and lane not in self._taken_lanes:
            self._stop_lane(lane, refusal.error)


def _alike(chunk: Chunk, reply: wire.Reply) -> list[tuple[Chunk, str | None, Sequence[str | None]]]:
    """Part records that have status and history in common: mostly all do."""
    statuses, histories, size = reply.statuses, chunk.histories, len(chunk.positions)
    if statuses.count(statuses[0]) == size == histories.count(histories[0]):
        return [(chunk, statuses[0], reply.record_ids)]
    groups: dict[tuple[str | None, int], list[int]] = {}
    for index, (status, history) in enumerate(zip(statuses, histories, strict=True)):
        groups.setdefault((status, id(history)), []).append(index)
    return [
        (chunk.part(indices), status, [reply.record_ids[i] for i in indices])
        for (status, _), indices in groups.items()
    ]


def _outcome(entry: Open, verdict: Verdict) -> Outcome:
    return without_ids(verdict, (entry.position,))


def _as_refusal(error: MeteringError) -> MarketplaceMeteringException:
    """A proxy's 413 has no code of the service; it refuses a chunk all the same."""
    status = getattr(error, "status", None)
    request_id = getattr(error, "request_id", None)
    return MarketplaceMeteringException(
        "RequestEntityTooLarge", str(error), status=status, request_id=request_id
    )


def _advanced(
    entries: Sequence[Open],
    moment: float,
    error: MeteringError | None,
    *,
    failed: bool = False,
    repaired: bool = False,
    doubt: bool = False,
    progress: bool = False,
    request_id: str | None = None,
) -> list[Open]:
    """Return *entries* with the histories after one more attempt, shared as before."""
    histories: dict[int, History] = {}
    advanced: list[Open] = []
    for position, record, history in entries:
        after = histories.get(id(history))
        if after is None:
            after = histories[id(history)] = history.after(
                moment,
                error,
                failed=failed,
                repaired=repaired,
                doubt=doubt,
                progress=progress,
                request_id=request_id,
            )
        advanced.append(Open(position, record, after))
    return advanced
