"""The relay: moves frozen records from the ledger to the client, and their fates back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock, sleep_or_wake
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    LedgerClosedError,
    LedgerError,
    LedgerRegionMismatchError,
    LedgerUnusableError,
    MarketplaceMeteringException,
    MeteringError,
    NoRegionError,
)
from marketplace_metering_async.events import Observer, WarningIssued, emit
from marketplace_metering_async.ledger.blockage import Blockage
from marketplace_metering_async.ledger.claims import mixed_identifiers
from marketplace_metering_async.ledger.known_verdicts import KnownVerdicts
from marketplace_metering_async.ledger.model import FrozenHour
from marketplace_metering_async.ledger.pulse import Pulse
from marketplace_metering_async.ledger.relay_report import RelayNews, RelayReport
from marketplace_metering_async.ledger.relay_round import Round, Sending
from marketplace_metering_async.ledger.settlement import settlement
from marketplace_metering_async.ledger.status import LedgerStatus, status_of
from marketplace_metering_async.ledger.stores.store import Store
from marketplace_metering_async.ledger.stores.words import ClaimRules, FailPoint, Sealed
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.service_codes import ErrorKind

_SEALED_AT_ONCE: Final = 1_000
_CLAIMED_AT_ONCE: Final = 2_000
"""Eight seconds of the quota: enough for full chunks, few enough to go by deadline."""
_CLAIMED_TO_TRY: Final = 1
"""After a fault of the account: each try leaves a row for each record, and a fault may last."""
SLICE: Final = 60.0
"""Seconds after which no more of a claim is sent, so that it surely ends before its lease."""
_LEASE_MARGIN: Final = 0.5
"""The share of a slice that settling may take."""
_FAREWELL: Final = 1.0
"""Seconds that a relay which is cancelled listens for what was not sent, or is answered soon."""
_LAST_TRIES: Final = 30.0
"""Seconds for which a relay that was stopped tries to write down what it knows."""
_LONGEST_WAIT: Final = 30.0
"""Seconds between two looks at the ledger: other processes add to it, too."""
_SHORTEST_WAIT: Final = 0.2
_TIDIED_EACH: Final = 3600.0
"""Seconds between two looks for notes in the ledger that nobody needs any more."""
_PRODUCT_PAUSE: Final = 60.0
"""Seconds for which a lane whose product the service refuses is left alone."""
_LOOKS_EACH: Final = 60.0
"""Seconds between two looks at all that is unsent."""
_TARGET: Final = 6 * 3600
"""The age by which usage should be out under every rule that the service has had so far."""
_ALARMS: Final = (0.8, 0.5)

OnAccountError = Literal["retry", "raise"]


def require_word(on_account_error: str) -> None:
    """
    Refuse another word than those of OnAccountError.

    Raises:
        ValueError: it is one.
    """
    if on_account_error not in get_args(OnAccountError):
        raise ValueError(f"on_account_error: expected 'retry' or 'raise', got {on_account_error!r}")


_UNCURED: Final = (LedgerRegionMismatchError, LedgerUnusableError, NoRegionError)
"""What is as it is when a relay begins, however long it tries."""
_STOPS_ALL: Final = (ErrorKind.ACCOUNT, ErrorKind.CREDENTIALS, ErrorKind.CLOCK)


class Relay:
    """Relays for one client."""

    def __init__(
        self,
        client: MarketplaceMeteringClient,
        store: Store,
        known: KnownVerdicts,
        *,
        stop: asyncio.Event,
        slice_seconds: float,
        clock: Clock,
        observer: Observer,
        reach: FailPoint,
        fold: Callable[[], Awaitable[None]],
    ) -> None:
        """Relay from *store* to *client*; before sealing, *fold* what callers have committed."""
        self._client = client
        self._store = store
        self._known = known
        self._clock = clock
        self._observer = observer
        self._reach = reach
        self._fold = fold
        self._region_name = self._host = ""
        self._stop = stop
        self._slice = slice_seconds
        self._paused: dict[str, float] = {}  # lane to the monotonic time until which it rests
        self._mixed: set[str] = set()  # products of which that was said
        self._alarm = 0.0
        self._idle = 0  # rounds with nothing to do, in a row
        self._seen: tuple[float, LedgerStatus] | None = None  # the latest look, its monotonic time
        self._at_once = _CLAIMED_AT_ONCE  # records that the next claim takes
        self._blockage = Blockage(clock, observer, longest=_LONGEST_WAIT)
        self._pulse = Pulse(clock, observer)
        self._tidy_at = 0.0  # monotonic time

    async def once(self) -> RelayReport:
        """Seal what is due and send what may be sent; see UsageLedger.relay_once."""
        if not self._region_name:
            await self._bind()
        this = Round(self._now())
        await self._known.write(this.begun, this.news.hear)
        try:
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(self._lane(this, lanes))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._pulse.end_round(this.news.report)
            this.news.tell(self._observer)
        if this.failure is not None:
            raise this.failure
        await self._tidy()
        return this.news.report

    async def _lane(self, this: Round, others: asyncio.TaskGroup | None) -> None:
        """
        Seal, claim and deliver until nothing is left.

        Where there is much to do, an other lane sends while this one is at the database. Not where
        claims are small, for then relays have died of a record, which is to be sent alone.
        """
        report = this.news.report
        while not (self._stop.is_set() or this.is_over):
            try:
                sealed = await self._seal()
                claimed = await self._claim(this.begun)
            except LedgerError as error:  # the other lane loses no answer by it
                this.fail(error)
                break
            this.news.hear_sealed(*sealed)
            if others is not None and len(claimed) >= _SEALED_AT_ONCE:
                others.create_task(self._lane(this, None))
                others = None
            if claimed:
                await self._deliver(claimed, this)
                self._at_once = _CLAIMED_TO_TRY if report.stopped_by else _CLAIMED_AT_ONCE
            if claimed or not this.endings:  # what another lane is sending may be denied yet
                await self._beat(this)
            if not claimed and sealed.hours < _SEALED_AT_ONCE:
                break

    async def _beat(self, this: Round) -> None:
        """Note in the ledger that it works, now and then, where nothing of the account stops it."""
        if this.is_over or self._at_once == _CLAIMED_TO_TRY or not self._pulse.is_due():
            return
        try:
            await self._store.note_relay(self._now())
        except LedgerError as error:
            this.fail(error)
        else:
            self._pulse.beat(this.news.report)

    async def check(self, on_account_error: OnAccountError) -> None:
        """Raise what is known to keep it from relaying, unless time may cure it."""
        try:
            await self._bind()
        except (LedgerClosedError, ClientClosedError, *_UNCURED):
            raise
        except LedgerError:
            pass  # the first round says so
        except ConfigurationError:
            if on_account_error == "raise":
                raise

    @property
    def problem(self) -> MeteringError | None:
        """What keeps it from relaying now; None where nothing does."""
        return self._blockage.error

    async def until_stopped(self, on_account_error: OnAccountError) -> None:
        """Relay until *stop* is set; see UsageLedger.relay."""
        while not self._stop.is_set():
            wait, problem = await self._round()
            if problem is None:
                self._blockage.end()
            elif on_account_error == "raise" and not isinstance(problem, LedgerError):
                raise problem
            else:
                wait = self._blockage.wait(problem, await self._seen_last(problem))
            await self._rest(wait)
        await self._write_the_rest()

    async def _round(self) -> tuple[float, MeteringError | None]:
        """Relay once; return the seconds until the next time, and what has come between, if so."""
        try:
            report = await self.once()
            self._idle = self._idle + 1 if report.is_empty else 0
            await self._look()
            return await self._wait(), report.stopped_by
        except (LedgerClosedError, ClientClosedError):
            raise
        except (LedgerError, ConfigurationError) as error:
            if not self._region_name and isinstance(error, _UNCURED):
                raise
            return 0.0, error

    async def _seen_last(self, problem: MeteringError) -> LedgerStatus | None:
        """Return the latest look at what is unsent, a new one where the database may be asked."""
        if not isinstance(problem, LedgerError):
            with suppress(LedgerError):
                await self._look()
        return None if self._seen is None else self._seen[1]

    async def _write_the_rest(self) -> None:
        """Write down what is known, though the database be away for a while."""
        until = self._clock.monotonic() + _LAST_TRIES
        news = RelayNews()
        while self._known:
            try:
                await self._known.write(self._now(), news.hear)
            except LedgerError:
                if self._clock.monotonic() >= until:
                    raise
                await self._clock.sleep(_SHORTEST_WAIT)
        news.tell(self._observer)

    async def _bind(self) -> None:
        """Tie the ledger to the client's region and host, or refuse another one."""
        endpoint = await self._client.endpoint()
        region, host = endpoint.region_name, urlsplit(endpoint.url).hostname or ""

        await self._store.bind(region, host)
        self._region_name, self._host = region, host

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    async def _seal(self) -> Sealed:
        await self._fold()
        return await self._store.seal_due(self._now(), _SEALED_AT_ONCE, self._region_name)

    async def _claim(self, begun: int) -> list[FrozenHour]:
        """Claim what could go when the round had *begun*: what comes back waits for the next."""
        now, monotonic = self._now(), self._clock.monotonic()
        self._paused = {lane: end for lane, end in self._paused.items() if end > monotonic}
        lease = self._slice * (1 + _LEASE_MARGIN) + self._client.retry.attempt_timeout
        rules = ClaimRules(
            begun=begun,
            limit=self._at_once,
            lease=lease,
            region_name=self._region_name,
            host=self._host,
            without=sorted(self._paused),
        )
        claiming = asyncio.create_task(self._store.claim(now, rules))
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:  # it may take place all the same
            with suppress(LedgerError):
                await self._return(await claiming, 0)
            raise
        self._reach("claimed")
        self._say_mixed(claimed)
        return claimed

    def _say_mixed(self, claimed: Sequence[FrozenHour]) -> None:
        """Say once of a product what may be one customer's usage by two names."""
        for product in sorted(mixed_identifiers(claimed) - self._mixed):
            self._mixed.add(product)
            text = (
                "give each customer's usage by account, or by legacy identifier, but not by both: "
                f"product {product or 'of unnamed licenses'} has both in one hour, and of one "
                "customer the service refuses the second, or bills it again"
            )
            emit(self._observer, WarningIssued(text=text))

    async def _deliver(self, claimed: Sequence[FrozenHour], this: Round) -> None:
        """Send what was *claimed*, and write down each verdict soon after it is known."""
        ending, sending = asyncio.Event(), Sending(claimed)
        this.endings.add(ending)
        timer = asyncio.create_task(self._end_slice(ending))
        taking = asyncio.create_task(self._take_results(sending, this, ending))
        at_once = False
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            ending.set()
            await asyncio.wait((taking,), timeout=_FAREWELL)
            at_once = True
            raise
        finally:
            for task in (timer, taking):
                task.cancel()
            await asyncio.gather(timer, taking, return_exceptions=True)
            this.endings.discard(ending)
            self._reach("delivered")
            if self._known:
                await self._write(this)
            again_at = 0 if at_once else self._again_at(this)
            this.news.report.returned += await self._return(sending.unanswered(), again_at)

    def _again_at(self, this: Round) -> int:
        """Return from when on what comes back may be claimed: not in the round that goes on."""
        return 0 if this.is_over or self._stop.is_set() else this.begun + 1

    async def _take_results(self, sending: Sending, this: Round, ending: asyncio.Event) -> None:
        results = self._client.iter_batch_meter_usage(sending.records(), stop=ending)
        async with aclosing(results):
            async for result in results:
                claim = sending.claim_of(result)
                self._note_fault(claim, result, this)
                if result.status is RecordStatus.UNPROCESSED and not result.attempts:
                    sending.note_unsent(claim)
                else:
                    again_at = self._again_at(this)
                    self._known.keep(settlement(claim, result, self._now(), again_at=again_at))
                if self._known.is_enough and this.failure is None:
                    await self._write(this)

    async def _end_slice(self, ending: asyncio.Event) -> None:
        await self._rest(self._slice)
        ending.set()

    def _note_fault(self, claim: FrozenHour, result: RecordResult, this: Round) -> None:
        """Let the account's fault end the round, and a product's leave its lane alone."""
        error = result.error
        if not result.retryable or not isinstance(
            error, MarketplaceMeteringException | ConfigurationError
        ):
            return
        fault = classify(error)
        if fault in _STOPS_ALL:
            this.stop(error)
        elif fault is ErrorKind.PRODUCT:
            lane = claim.key.lane(claim.license_product)
            self._paused[lane] = self._clock.monotonic() + _PRODUCT_PAUSE

    async def _write(self, this: Round) -> None:
        """Write down what is known; where that fails, the round ends, and it is kept."""
        try:
            await self._known.write(self._now(), this.news.hear)
        except LedgerError as error:
            this.fail(error)
        else:
            self._reach("settled")

    async def _return(self, unanswered: Sequence[FrozenHour], again_at: int) -> int:
        """Give claims back, to be sent from *again_at* on; return how many."""
        if not unanswered:
            return 0
        try:
            await self._store.return_claims(unanswered, again_at)
        except LedgerError:  # they lapse
            return 0
        return len(unanswered)

    async def _wait(self) -> float:
        due = await self._store.next_due()
        ahead = _LONGEST_WAIT if due is None else due - self._clock.now().timestamp()
        if ahead <= 0:  # what is due and was not done cannot be done yet
            ahead = _SHORTEST_WAIT * 2.0 ** min(self._idle, 10)
        return min(_LONGEST_WAIT, max(_SHORTEST_WAIT, ahead))

    async def _tidy(self) -> None:
        """Remove some of the notes in the ledger that nobody needs any more, now and then."""
        now = self._clock.monotonic()
        if now >= self._tidy_at:
            more = await self._store.tidy()
            self._tidy_at = now if more else now + _TIDIED_EACH

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless asked to stop."""
        await sleep_or_wake(self._clock, seconds, self._stop)

    async def _look(self) -> None:
        """
        See what is unsent, now and then, for it may be asked for when nobody can look.

        Raise the alarm, once for each line that the age of the oldest usage crosses.
        """
        moment, now = self._clock.monotonic(), self._now()
        if self._seen is not None and moment < self._seen[0] + _LOOKS_EACH:
            return
        status = status_of(await self._store.status(now), now)
        self._seen = moment, status
        age = status.oldest_unsent_seconds or 0
        crossed = next((share for share in _ALARMS if age >= share * _TARGET), 0.0)
        if crossed > self._alarm:
            text = f"usage has been waiting to be metered for {age / 3600:.1f} hours"
            emit(self._observer, WarningIssued(text=text))
        self._alarm = crossed
