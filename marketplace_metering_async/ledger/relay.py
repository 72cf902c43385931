"""The relay: moves frozen records from the ledger to the client, and their fates back."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, Literal
from urllib.parse import urlsplit

from attrs import define, field

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock, sleep_or_wake
from marketplace_metering_async.error_kinds import ErrorKind, classify
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
from marketplace_metering_async.events import Observer, UsageEndedUnmetered, WarningIssued, emit
from marketplace_metering_async.ledger.blockage import Blockage
from marketplace_metering_async.ledger.frozen_record import record_of
from marketplace_metering_async.ledger.millionths import units_of
from marketplace_metering_async.ledger.model import ENDED, FrozenHour, HourState, Settlement
from marketplace_metering_async.ledger.settlement import settlement
from marketplace_metering_async.ledger.stores.store import ClaimRules, FailPoint, Sealed, Store
from marketplace_metering_async.results import RecordResult

_SEALED_AT_ONCE: Final = 1_000
_CLAIMED_AT_ONCE: Final = 2_000
"""Eight seconds of the quota: enough for full chunks, few enough to go by deadline."""
_CLAIMED_TO_TRY: Final = 1
"""After a fault of the account: each try leaves a row for each record, and a fault may last."""
SLICE: Final = 60.0
"""Seconds after which no more of a claim is sent, so that it surely ends before its lease."""
_LEASE_MARGIN: Final = 0.5
"""The share of a slice that settling may take."""
_SETTLED_AT_ONCE: Final = 250
_LONGEST_WAIT: Final = 30.0
"""Seconds between two looks at the ledger: other processes add to it, too."""
_SHORTEST_WAIT: Final = 0.2
_TIDIED_EACH: Final = 3600.0
"""Seconds between two looks for notes in the ledger that nobody needs any more."""
_PRODUCT_PAUSE: Final = 60.0
"""Seconds for which a product that the service refuses is left alone."""
_TARGET: Final = 6 * 3600
"""The age by which usage should be out under every rule that the service has had so far."""
_ALARMS: Final = (0.8, 0.5)

OnAccountError = Literal["retry", "raise"]

_UNCURED: Final = (LedgerRegionMismatchError, LedgerUnusableError, NoRegionError)
"""What is as it is when a relay begins, however long it tries."""
_STOPS_ALL: Final = (ErrorKind.ACCOUNT, ErrorKind.CREDENTIALS, ErrorKind.CLOCK)


@define
class RelayReport:
    """
    What one round of relaying came to.

    Attributes:
        sealed: Hours that were closed and frozen.
        metered: Records that the service has taken.
        ended: Records that ended in another way, by state.
        returned: Records that stay frozen, to be sent again later.
        units: Units metered.
        stopped_by: What lies with the account and ended the round; None otherwise.
        copy: What to say of a copy that nobody has adopted, and that seals nothing; None otherwise.
    """

    sealed: int = 0
    metered: int = 0
    ended: Counter[HourState] = field(factory=Counter)
    returned: int = 0
    units: int = 0
    stopped_by: MeteringError | None = None
    copy: str | None = None

    def note_sealed(self, sealed: Sealed) -> None:
        """Note what was sealed; hours that are held have ended by it."""
        self.sealed += sealed.hours
        if sealed.held:
            self.ended[HourState.UNCONFIRMED] += sealed.held
        self.copy = sealed.copy


class Relay:
    """Relays for one client."""

    def __init__(
        self,
        client: MarketplaceMeteringClient,
        store: Store,
        *,
        stop: asyncio.Event,
        slice_seconds: float,
        clock: Clock,
        observer: Observer,
        reach: FailPoint,
    ) -> None:
        """Relay from *store* to *client*."""
        self._client = client
        self._store = store
        self._clock = clock
        self._observer = observer
        self._reach = reach
        self._region_name = ""
        self._stop = stop
        self._slice = slice_seconds
        self._paused: dict[str, float] = {}  # product to the monotonic time until which it rests
        self._alarm = 0.0
        self._at_once = _CLAIMED_AT_ONCE  # records that the next claim takes
        self._blockage = Blockage(clock, observer, longest=_LONGEST_WAIT)
        self._tidy_at = 0.0  # monotonic time

    async def once(self) -> RelayReport:
        """Seal what is due and send what may be sent; see UsageLedger.relay_once."""
        if not self._region_name:
            await self._bind()
        report = RelayReport()
        begun = self._now()
        try:
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(self._lane(begun, report, lanes))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await self._tidy()
        if report.copy is not None:
            emit(self._observer, WarningIssued(text=report.copy))
        for state, count in report.ended.items():
            emit(self._observer, UsageEndedUnmetered(state=state.value, records=count))
        return report

    async def _lane(
        self, begun: int, report: RelayReport, others: asyncio.TaskGroup | None
    ) -> None:
        """
        Seal, claim and deliver until nothing is left.

        Where there is much to do, an other lane sends while this one is at the database. Not where
        claims are small, for then relays have died of a record, which is to be sent alone.
        """
        while not self._stop.is_set() and report.stopped_by is None:
            sealed = await self._seal()
            report.note_sealed(sealed)
            claimed = await self._claim(begun)
            if others is not None and len(claimed) >= _SEALED_AT_ONCE:
                others.create_task(self._lane(begun, report, None))
                others = None
            if claimed:
                await self._deliver(claimed, report)
                self._at_once = _CLAIMED_TO_TRY if report.stopped_by else _CLAIMED_AT_ONCE
            elif sealed.hours < _SEALED_AT_ONCE:
                break

    async def until_stopped(self, on_account_error: OnAccountError) -> None:
        """Relay until *stop* is set; see UsageLedger.relay."""
        while not self._stop.is_set():
            wait, problem = await self._round()
            if problem is None:
                self._blockage.end()
            elif on_account_error == "raise" and not isinstance(problem, LedgerError):
                raise problem
            else:
                wait = self._blockage.wait(problem)
            await self._rest(wait)

    async def _round(self) -> tuple[float, MeteringError | None]:
        """Relay once; return the seconds until the next time, and what has come between, if so."""
        try:
            report = await self.once()
            await self._watch_age()
            return await self._wait(), report.stopped_by
        except (LedgerClosedError, ClientClosedError):
            raise
        except (LedgerError, ConfigurationError) as error:
            if not self._region_name and isinstance(error, _UNCURED):
                raise
            return 0.0, error

    async def _bind(self) -> None:
        """Tie the ledger to the client's region and host, or refuse another one."""
        endpoint = await self._client.endpoint()
        region, host = endpoint.region_name, urlsplit(endpoint.url).hostname or ""

        await self._store.bind(region, host)
        self._region_name = region

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    async def _seal(self) -> Sealed:
        return await self._store.seal_due(self._now(), _SEALED_AT_ONCE, self._region_name)

    async def _claim(self, begun: int) -> list[FrozenHour]:
        """Claim what could go when the round had *begun*: what comes back waits for the next."""
        now, monotonic = self._now(), self._clock.monotonic()
        self._paused = {p: until for p, until in self._paused.items() if until > monotonic}
        lease = self._slice * (1 + _LEASE_MARGIN) + self._client.retry.attempt_timeout
        rules = ClaimRules(
            begun=begun,
            limit=self._at_once,
            lease=lease,
            region_name=self._region_name,
            without=sorted(self._paused),
        )
        claimed = await self._store.claim(now, rules)
        self._reach("claimed")
        return claimed

    async def _deliver(self, claimed: Sequence[FrozenHour], report: RelayReport) -> None:
        """Send what was *claimed*, and write down each verdict soon after it is known."""
        ending = asyncio.Event()
        timer = asyncio.create_task(self._end_slice(ending))
        known: list[Settlement] = []
        try:
            # Made one by one as they are sent: all at once, they would hold up what is on the wire.
            results = self._client.iter_batch_meter_usage(map(record_of, claimed), stop=ending)
            async with aclosing(results):
                async for result in results:
                    known.append(self._settlement(claimed[result.position], result, report, ending))
                    if len(known) >= _SETTLED_AT_ONCE:
                        await self._settle(known, report)
                        known = []
        finally:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
            self._reach("delivered")
            if known:
                await self._settle(known, report)

    async def _end_slice(self, ending: asyncio.Event) -> None:
        await self._rest(self._slice)
        ending.set()

    def _settlement(
        self, claim: FrozenHour, result: RecordResult, report: RelayReport, ending: asyncio.Event
    ) -> Settlement:
        error = result.error
        if result.retryable and isinstance(
            error, MarketplaceMeteringException | ConfigurationError
        ):
            fault = classify(error)
            if fault in _STOPS_ALL:
                report.stopped_by = error
                ending.set()
            elif fault is ErrorKind.PRODUCT and claim.key.product_code:
                until = self._clock.monotonic() + _PRODUCT_PAUSE
                self._paused[claim.key.product_code] = until
        return settlement(claim, result, self._now())

    async def _settle(self, known: Sequence[Settlement], report: RelayReport) -> None:
        counted = await self._store.settle(known, self._now())
        self._reach("settled")
        for one in counted:
            if one.state is HourState.METERED:
                report.metered += 1
                report.units += units_of(one.quantity)
            elif one.state in ENDED:
                report.ended[one.state] += 1
            else:
                report.returned += 1

    async def _wait(self) -> float:
        due = await self._store.next_due()
        if due is None:
            return _LONGEST_WAIT
        return min(_LONGEST_WAIT, max(_SHORTEST_WAIT, due - self._clock.now().timestamp()))

    async def _tidy(self) -> None:
        """Remove some of the notes in the ledger that nobody needs any more, now and then."""
        now = self._clock.monotonic()
        if now >= self._tidy_at:
            more = await self._store.tidy()
            self._tidy_at = now if more else now + _TIDIED_EACH

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless asked to stop."""
        await sleep_or_wake(self._clock, seconds, self._stop)

    async def _watch_age(self) -> None:
        """Raise the alarm, once for each line that the oldest usage crosses."""
        oldest = await self._store.oldest_unsettled()
        age = 0 if oldest is None else self._now() - oldest - 3600
        crossed = next((share for share in _ALARMS if age >= share * _TARGET), 0.0)
        if crossed > self._alarm:
            text = f"usage has been waiting to be metered for {age / 3600:.1f} hours"
            emit(self._observer, WarningIssued(text=text))
        self._alarm = crossed
