"""Events and the ledger's status as spans and metrics of OpenTelemetry (extra `otel`)."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from datetime import datetime
from functools import cache, cached_property, partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakSet

from marketplace_metering_async.clock import Clock, SystemClock
from marketplace_metering_async.errors import ConfigurationError, LedgerError
from marketplace_metering_async.events import (
    BatchReleased,
    CallEnded,
    Event,
    LoggingObserver,
    Observer,
    RelayBlocked,
    RelayWorking,
    Settled,
    WarningIssued,
    emit,
    emit_call,
    flush,
    observes_calls,
)
from marketplace_metering_async.ledger import UsageLedger
from marketplace_metering_async.ledger.metrics import Measure, measures_of
from marketplace_metering_async.limits import MAX_RECORDS_PER_REQUEST
from marketplace_metering_async.measured import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Attributes,
    measured,
    of_ended,
    relay_of,
)
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus

if TYPE_CHECKING:
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Link, TracerProvider

_MISSING: Final = (
    "OpenTelemetryObserver needs its extra: pip install 'marketplace-metering-async[otel]'"
)
_SCOPE: Final = "marketplace_metering_async"
_SERVICE: Final = "Marketplace Metering"
"""The service's id in AWS's own models, which every SDK reports."""
_SPAN: Final = "MarketplaceMetering"
_API: Final = ("opentelemetry.trace", "opentelemetry.metrics")
"""Where the providers stand that the API has for programs without an SDK."""
_LOOKS_AGAIN: Final = 0.05
"""Seconds until an SDK is looked for again, where there is none: the API reads the environment."""
_TOGETHER: Final = 256
"""Events that wait at most: a span made right after another one costs a third of the CPU."""
_LATEST: Final = 0.2
"""Seconds that they wait at most."""
_STALE: Final = 3
"""Looks at a ledger that may fail before its gauges say nothing in place of what was."""
_HIDES: Final = (
    "give each observer that watches a ledger a meter_provider of its own: of two ledgers at a "
    "time the metrics show one"
)
_SILENT: Final = 180.0
"""Seconds after which a relay that has said nothing, as it does every minute, is not shown."""


class _Call(NamedTuple):
    """A call that is recorded later: how it *ended*, *at* which moment, and *around* what span."""

    ended: CallEnded
    records: Sequence[UsageRecord]
    callers: Sequence[Context] | None
    at: datetime
    around: OtelContext


class OpenTelemetryObserver:
    """
    An observer that makes spans and metrics: `MarketplaceMeteringClient(observer=…)`.

    A span for each call to the service, after the conventions of AWS's SDKs, below the span that is
    current where the call was made; of a batcher's calls it is a root, with links to the spans that
    were current where its records were handed in. TELEMETRY.md has a table of all metrics. It uses
    the API of OpenTelemetry alone: where the program has set up no SDK, nothing is recorded.

    Calls show at the end of their batch, and after a fifth of a second at the latest. No customer,
    license or token is in any attribute, unless spans are to name customers; and the values of a
    metric's attributes are few, whatever the service says.
    """

    def __init__(
        self,
        *,
        customers: bool = False,
        then: Observer | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Record with the program's providers.

        Args:
            customers: Whether spans name the customers whose records a call carried; metrics never
                do.
            then: Who gets the events besides; by default the package's logger.
            tracer_provider: In place of the program's own.
            meter_provider: In place of the program's own.
            clock: That of the client, if it has one of its own.

        Raises:
            ConfigurationError: the extra `otel` is missing.
        """
        try:
            from opentelemetry import context, metrics, trace  # noqa: PLC0415 - of an extra
        except ImportError:
            raise ConfigurationError(_MISSING) from None
        self._then = LoggingObserver() if then is None else then
        self._clock = SystemClock() if clock is None else clock
        self._customers = customers
        self._is_recorded, self._looks_at = False, -inf  # as far as is known, and until when
        self._providers: Callable[[], tuple[object, object]] = lambda: (
            tracer_provider or trace.get_tracer_provider(),
            meter_provider or metrics.get_meter_provider(),
        )
        self._due = -inf  # by the time of the event loop that is to record what waits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._passes_on = True  # each call, where nobody asks beforehand whether it is of use
        self._waiting: deque[_Call | Settled | BatchReleased] = deque()
        _observers.add(self)
        self._context = context.get_current
        self._no_span = trace.set_span_in_context(trace.INVALID_SPAN, context.Context())
        self._span, self._link = trace.get_current_span, trace.Link
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._kind = trace.SpanKind.CLIENT
        self._failed = partial(trace.Status, trace.StatusCode.ERROR)
        self._get_meter = partial(metrics.get_meter, _SCOPE, meter_provider=meter_provider)
        self._gauges: set[str] = set()  # that are made
        self._shown: dict[str, tuple[float, Measure]] = {}  # with when it is too old
        self._watches = False

    @cached_property
    def _meter(self) -> Meter:
        return self._get_meter()

    @cached_property
    def _record(self) -> dict[str, Callable[..., None]]:
        """The instruments: made once there is an SDK, for the API keeps all that it makes."""
        return _recorder(self._meter)

    @property
    def observes_calls(self) -> bool:
        """Whether what comes with each call is of use: to an SDK, or to who gets it besides."""
        self._passes_on = observes_calls(self._then)
        return self._records() or self._passes_on

    def _records(self) -> bool:
        """Whether there is more than the API, whose own providers record nothing."""
        if not self._is_recorded and self._clock.monotonic() >= self._looks_at:
            self._looks_at = self._clock.monotonic() + _LOOKS_AGAIN
            modules = [type(provider).__module__ for provider in self._providers()]
            self._is_recorded = not all(module.startswith(_API) for module in modules)
        return self._is_recorded

    def __call__(self, event: Event, /) -> None:
        """Record *event*, and hand it on."""
        if isinstance(event, CallEnded):
            self.observe_call(event, (), None)
        elif isinstance(event, Settled | BatchReleased):
            if self._passes_on:
                emit(self._then, event)
            if self._records():
                self._put_off(event)
        else:
            emit(self._then, event)
            if self._records():
                for name, value, attributes in measured(event):
                    self._record[name](value, attributes)
                if isinstance(event, RelayWorking | RelayBlocked):
                    self._show("relay.is_working", relay_of(event), _SILENT)

    def observe_call(
        self, call: CallEnded, records: Sequence[UsageRecord], callers: Sequence[Context] | None
    ) -> None:
        """Record *call*, which carried *records*, of a batcher's *callers* if it has any."""
        if self._passes_on:
            emit_call(self._then, call, records, callers)
        if self._records():
            self._put_off(_Call(call, records, callers, self._clock.now(), self._context()))
            if call.code is not None or call.operation != "BatchMeterUsage":
                self.flush()  # nothing may come after it

    def _put_off(self, event: _Call | Settled | BatchReleased) -> None:
        """Let *event* wait for others, for a fifth of a second at most."""
        self._waiting.append(event)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # handed on from another thread, where nothing can wait
            self.flush()
            return
        if len(self._waiting) >= _TOGETHER:
            self.flush()
        elif self._loop is None or self._loop.is_closed() or self._due <= loop.time():
            self._loop, self._due = loop, loop.call_later(_LATEST, self.flush).when()

    def flush(self) -> None:
        """Record what waits; clients call it where a batch, a stream or they themselves end."""
        if self._waiting:
            self._record_waiting()
        flush(self._then)

    def _record_waiting(self) -> None:
        record, of_many = self._record, self._no_span
        verdicts: dict[RecordStatus, int] = defaultdict(int)
        released: BatchReleased | None = None
        while self._waiting:
            event = self._waiting.popleft()
            if isinstance(event, _Call):
                emit(partial(self._record_call, event), event.ended)
            elif isinstance(event, Settled):
                for status, count in event.counts.items():
                    verdicts[status] += count
            else:
                released = event
                record["batcher.batch.records"](event.records, {}, of_many)
                record["batcher.wait"](event.waited, {}, of_many)
        for status, count in verdicts.items():
            verdict = {"marketplace_metering.verdict": status.value}
            record["client.records"](count, verdict, of_many)
        if released is not None:
            record["batcher.queue.size"](released.waiting, {}, of_many)
            record["batcher.in_flight"](released.in_flight, {}, of_many)

    def _record_call(self, one: _Call, _: Event) -> None:
        call, end = one.ended, round(one.at.timestamp() * 1e9)
        around = one.around if one.callers is None else self._no_span
        ended = of_ended(call.operation, call.code)
        self._record["client.operation.duration"](call.seconds, ended, around)
        attributes = _of_call(call)
        if self._customers and one.records:
            attributes["marketplace_metering.customers"] = _customers_of(one.records)
        span = self._tracer.start_span(
            f"{_SPAN}.{call.operation}",
            around,
            kind=self._kind,
            attributes=attributes,
            links=self._links(one.callers) if one.callers else None,
            start_time=end - round(call.seconds * 1e9),
        )
        if call.code is not None:
            span.set_status(self._failed(call.code))
        span.end(end_time=end)

    def _links(self, callers: Sequence[Context]) -> list[Link]:
        """Return a link to each span of *callers* that somebody will see."""
        spans = (caller.run(self._span).get_span_context() for caller in callers)
        found = {span.span_id: span for span in spans if span.is_valid and span.trace_flags.sampled}
        return [self._link(span) for span in islice(found.values(), MAX_RECORDS_PER_REQUEST)]

    @asynccontextmanager
    async def watching(self, ledger: UsageLedger, *, every: float = 30.0) -> AsyncIterator[None]:
        """
        Look at *ledger* while the block lasts, and report its status: `async with`.

        Args:
            ledger: One that is open; an observer watches one at a time.
            every: Seconds between two looks. Where three of them fail in a row, its metrics are
                absent, so that no old value looks like a new one.

        Raises:
            ValueError: it watches one already.
            LedgerError: the ledger cannot be read when it begins.
        """
        if self._watches:
            raise ValueError("ledger: this observer watches one already")
        if any(one._watches for one in _observers_of(self._providers)):  # noqa: SLF001
            emit(self._then, WarningIssued(text=_HIDES))
        self._watches = True
        try:
            await self._look(ledger, every)
            task = asyncio.create_task(self._watch(ledger, every))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        finally:
            self._watches = False
            for name in [name for name in self._shown if name.startswith("ledger.")]:
                del self._shown[name]

    async def _watch(self, ledger: UsageLedger, every: float) -> None:
        while True:
            await self._clock.sleep(every)
            with suppress(LedgerError):  # whoever uses the ledger hears of it
                await self._look(ledger, every)

    async def _look(self, ledger: UsageLedger, every: float) -> None:
        for one in measures_of(await ledger.status()):
            self._show(f"ledger.{one.name}", one, _STALE * every)

    def _show(self, name: str, what: Measure, seconds: float) -> None:
        """Report *what* for so long, if nothing newer comes."""
        if name not in self._gauges:
            make = self._meter.create_observable_gauge
            if what.kind == "counter":
                make = self._meter.create_observable_counter  # type: ignore[assignment]
            callbacks = [partial(_observed, name, self._providers)]
            make(f"marketplace_metering.{name}", callbacks, what.unit, what.text)
            self._gauges.add(name)
        self._shown[name] = self._clock.monotonic() + seconds, what

    def _fresh(self, name: str) -> tuple[float, Measure] | None:
        shown = self._shown.get(name)
        return None if shown is None or self._clock.monotonic() > shown[0] else shown


def _observers_of(providers: Callable[[], tuple[object, object]]) -> list[OpenTelemetryObserver]:
    """Return those with the same provider of meters."""
    own = providers()[1]
    return [one for one in list(_observers) if one._providers()[1] is own]  # noqa: SLF001


def _observed(
    name: str, providers: Callable[[], tuple[object, object]], _: CallbackOptions
) -> Iterable[Observation]:
    """
    Return what was seen last, from whatever thread the SDK asks in.

    By whichever observer: of several that make an instrument, an SDK asks the first one alone.
    """
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - of an extra

    ours = _observers_of(providers)
    fresh = [shown for one in ours if (shown := one._fresh(name)) is not None]  # noqa: SLF001
    if not fresh:
        return []
    what = max(fresh, key=lambda shown: shown[0])[1]
    return [Observation(float(value), dict(labels)) for labels, value in what.samples]


_observers: Final = WeakSet[OpenTelemetryObserver]()


def _leave_to_parent() -> None:
    """What waits is recorded by the process that it happened to."""
    for observer in _observers:
        observer._waiting.clear()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


@cache
def _of_operation(operation: str, region_name: str | None) -> Attributes:
    """Return what all spans of an operation have in common."""
    common: Attributes = {
        "rpc.system": "aws-api",
        "rpc.service": _SERVICE,
        "rpc.method": operation,
    }
    return common if region_name is None else {**common, "cloud.region": region_name}


def _of_call(call: CallEnded) -> Attributes:
    known = _of_operation(call.operation, call.region_name).copy()
    known["marketplace_metering.records"] = call.records
    if call.attempt > 1:
        known["marketplace_metering.attempt"] = call.attempt
    if call.request_id is not None:
        known["aws.request_id"] = call.request_id
    if call.code is not None:
        known["error.type"] = call.code
    return known


def _customers_of(records: Sequence[UsageRecord]) -> list[str]:
    ids = (record.customer_aws_account_id or record.customer_identifier for record in records)
    return list(dict.fromkeys(known for known in ids if known is not None))


def _recorder(meter: Meter) -> dict[str, Callable[..., None]]:
    """Make the instruments; return what records a value, by name."""
    made: dict[str, Callable[..., None]] = {}
    for name, (unit, text) in COUNTERS.items():
        made[name] = meter.create_counter(f"marketplace_metering.{name}", unit, text).add
    for name, (unit, text, bounds) in HISTOGRAMS.items():
        histogram = meter.create_histogram(
            f"marketplace_metering.{name}",
            unit,
            text,
            explicit_bucket_boundaries_advisory=bounds,
        )
        made[name] = histogram.record
    for name, (unit, text) in GAUGES.items():
        made[name] = meter.create_gauge(f"marketplace_metering.{name}", unit, text).set
    return made
