"""Spans and metrics: names after the conventions, values after what happened."""

import asyncio
import gc
import logging
import os
import re
import sys
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import (
    aws_attributes,
    cloud_attributes,
    error_attributes,
    rpc_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode
from support.ledgers import HOUR, NOON, SetClock, house_at
from support.memory import MemoryService, client_of
from support.spans_and_metrics import Collected, collected
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async import (
    ConfigurationError,
    OpenTelemetryObserver,
    RecordStatus,
    UsageBatcher,
    UsageRecord,
)
from marketplace_metering_async.events import (
    BatchEnded,
    CallEnded,
    RelayBlocked,
    RelayWorking,
    SendingStopped,
    Settled,
    UsageEndedUnmetered,
    WarningIssued,
    emit,
    observes_calls,
)
from marketplace_metering_async.sandbox import FaultKind

PREFIX = "marketplace_metering"
LICENSE = (
    "arn:aws:license-manager:us-east-1:999988887777:license:l-0123456789abcdef0123456789abcdef"
)


def usage(number: int, **members: Any) -> UsageRecord:
    return UsageRecord(
        **{
            "timestamp": START - timedelta(hours=1),
            "dimension": "requests",
            "quantity": 1,
            "customer_aws_account_id": f"{number:012}",
            **members,
        }
    )


def fault(number: int, body: dict[str, Any]) -> FaultKind | None:
    return {1: FaultKind.THROTTLE, 2: FaultKind.ERROR_500}.get(number)


def delivered(records: list[UsageRecord], **settings: Any) -> tuple[Collected, Any]:
    """Meter *records* within a span of the program, and return what was recorded."""
    clock = VirtualClock()
    said: list[Any] = []
    seen = collected(clock=clock, then=said.append, **settings)

    async def work() -> Any:
        async with client_of(MemoryService(fault), observer=seen.observer, clock=clock) as client:
            with seen.tracer_provider.get_tracer("program").start_as_current_span("job"):
                return await client.batch_meter_usage(records, product_code="p")

    result = run_virtual(work())
    (ended,) = (one for one in said if isinstance(one, BatchEnded))
    assert dict(ended.counts) == {
        frozen["marketplace_metering.verdict"]: count
        for labels, count in seen.values()["client.records"].items()
        for frozen in [{key: RecordStatus(value) for key, value in labels}]
    }
    return seen, result


def test_each_call_is_a_span_after_the_conventions_of_the_sdks() -> None:
    """
    Below the span of the program, with request id, attempt and code. Issue 26
    """
    seen, _ = delivered([usage(number) for number in range(3)])
    *calls, job = seen.spans()
    facts = [dict(call.attributes or {}) for call in calls]

    assert {"MarketplaceMetering.BatchMeterUsage"} == {call.name for call in calls}
    assert {SpanKind.CLIENT} == {call.kind for call in calls}
    assert {job.context.span_id} == {call.parent.span_id for call in calls if call.parent}
    assert [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET] == [
        call.status.status_code for call in calls
    ]
    assert ["ThrottlingException", "InternalServiceErrorException", None] == [
        one.pop("error.type", None) for one in facts
    ]
    assert [None, 2, 3] == [one.pop("marketplace_metering.attempt", None) for one in facts]
    assert 3 == len({one.pop("aws.request_id") for one in facts})
    for one in facts:
        assert {
            "rpc.system": "aws-api",
            "rpc.service": "Marketplace Metering",
            "rpc.method": "BatchMeterUsage",
            "cloud.region": "us-east-1",
            "marketplace_metering.records": 3,
        } == one
    for call in calls:
        assert call.start_time is not None
        assert call.end_time is not None
        assert 0.01 < (call.end_time - call.start_time) / 1e9 < 0.03


def test_records_are_counted_by_verdict_and_calls_by_code() -> None:
    """
    Each record once, also where two share a verdict. Issue 26
    """
    twice = usage(1)
    records = [*(usage(number) for number in range(30)), twice, usage(7, quantity=2)]
    values = delivered(records)[0].values()

    by_verdict = {
        dict(labels)["marketplace_metering.verdict"]: n
        for labels, n in values["client.records"].items()
    }
    calls = {
        dict(k).get("error.type"): count
        for k, (count, _) in values["client.operation.duration"].items()
    }
    assert {"Success": 30, "Rejected": 2} == by_verdict
    assert {"ThrottlingException": 1, "InternalServiceErrorException": 1, None: 2} == calls
    assert {frozenset(): 1} == values["client.throttles"]
    assert (1,) == tuple(count for count, _ in values["client.retry.delay"].values())


def test_the_batcher_shows_its_fill_and_its_queue() -> None:
    """
    How many go together, how long the first of them waited, and how many wait still. Issue 26
    """
    clock = VirtualClock()
    seen = collected(clock=clock)

    async def work() -> None:
        async with (
            client_of(MemoryService(), observer=seen.observer, clock=clock) as client,
            UsageBatcher(client, product_code="p") as batcher,
        ):
            await asyncio.gather(*(batcher.meter(usage(number)) for number in range(26)))

    run_virtual(work())
    values = seen.values()

    ((count, total),) = values["batcher.batch.records"].values()
    assert (2, 26) == (count, total)
    assert 2 == next(iter(values["batcher.wait"].values()))[0]
    assert [0] == list(values["batcher.queue.size"].values())


def test_the_relay_and_what_stops_are_seen() -> None:
    """
    By state and by whether it works; a word that nobody knows makes no series of its own.
    """
    seen, error = collected(then=lambda event: None), ConfigurationError("x")
    for event in (
        UsageEndedUnmetered(state="conflict", records=2),
        UsageEndedUnmetered(state="of tomorrow", records=3),
        RelayWorking(sealed=0, metered=0, ended=0, returned=0, units=0),
        RelayBlocked(error=error, seconds=0),
        SendingStopped(product_code="p", all_products=False, error=error),
        WarningIssued(text="odd"),
    ):
        seen.observer(event)
    values = seen.values()

    ended = {dict(labels)["state"]: n for labels, n in values["relay.ended_records"].items()}
    assert {"conflict": 2, "_OTHER": 3} == ended
    assert [0] == list(values["relay.is_working"].values())
    assert [1] == list(values["client.stops"].values())
    assert [1] == list(values["client.warnings"].values())


async def test_an_observer_that_comes_after_another_one_reports_as_well(tmp_path: Path) -> None:
    """
    An SDK asks only whoever made an instrument first; that of two at a time one is hidden, is said.
    """
    seen, said = collected(), list[Any]()
    provider = seen.observer._providers()[1]
    another = OpenTelemetryObserver(meter_provider=provider, then=said.append)  # type: ignore[arg-type]

    def units() -> list[Any]:
        return [*seen.values().get("ledger.recorded_units", {}).values()]

    async with (
        house_at(f"sqlite:///{tmp_path}/1.db") as first,
        house_at(f"sqlite:///{tmp_path}/2.db") as second,
    ):
        await first.use(1)
        await second.use(2)
        async with seen.observer.watching(first.ledger):
            before = units()
            assert [] == said
            async with another.watching(second.ledger):
                both = said.copy()
        between = units()
        async with another.watching(second.ledger):
            after = units()
    relays = []
    for observer, event in (
        (seen.observer, RelayBlocked(error=ConfigurationError("x"), seconds=0)),
        (another, RelayWorking(sealed=0, metered=0, ended=0, returned=0, units=0)),
    ):
        observer(event)
        relays.append([*seen.values()["relay.is_working"].values()])

    assert ([1], [], [2]) == (before, between, after)
    (warned,) = both
    assert "meter_provider" in warned.text
    assert [[0], [1]] == relays


def test_a_relay_that_says_nothing_more_does_not_work() -> None:
    """
    It says something every minute: what it said last is not shown for as long as the process lives.
    """
    clock = SetClock()
    seen = collected(then=lambda event: None, clock=clock)
    now = [0.0]
    clock.monotonic = lambda: now[0]  # type: ignore[method-assign]
    seen.observer(RelayWorking(sealed=0, metered=0, ended=0, returned=0, units=0))
    shown = []
    for now[0] in (0, 179, 181):
        shown.append(list(seen.values().get("relay.is_working", {}).values()))

    assert [[1], [1], []] == shown


def test_no_customer_is_in_any_attribute() -> None:
    """
    Nor a license, in spans, metrics and their descriptions. Issue 26
    """
    licensed = usage(3, license_arn=LICENSE)
    seen, _ = delivered([usage(111122223333), licensed])
    told = "".join(span.to_json() for span in seen.spans()) + str(seen.metrics())

    assert "aws.request_id" in told
    assert not re.search("111122223333|000000000003|999988887777|l-0123", told)


def test_only_spans_name_customers_and_only_where_asked_to() -> None:
    """
    Each once a call, under whichever identity it has. Issue 26
    """
    legacy = usage(1, customer_aws_account_id=None, customer_identifier="legacy")
    records = [usage(7), usage(7, dimension="other"), legacy]
    seen, _ = delivered(records, customers=True)
    *calls, _ = seen.spans()

    named = [dict(call.attributes or {})["marketplace_metering.customers"] for call in calls]
    assert [("000000000007", "legacy")] * 3 == named
    assert not re.search("000000000007|legacy", str(seen.metrics()))


def test_names_that_are_not_ours_are_those_of_the_conventions() -> None:
    """
    As OpenTelemetry's own package of them has them. Issue 26
    """
    registry = (aws_attributes, cloud_attributes, error_attributes, rpc_attributes)
    known = {str(value) for module in registry for value in vars(module).values()}
    seen, _ = delivered([usage(1)])
    spans = [name for span in seen.spans() for name in span.attributes or {}]
    points = [name for labels in seen.values().values() for one in labels for name, _ in one]

    assert {name for name in (*spans, *points) if not name.startswith(PREFIX)} <= known


def batched(
    callers: int, wanted: Callable[[int], UsageRecord], theirs: TracerProvider | None = None
) -> Collected:
    """Hand records to a batcher, each from a span of its own; return what was recorded."""
    clock = VirtualClock()
    seen = collected(clock=clock)
    tracer = (theirs or seen.tracer_provider).get_tracer("program")

    async def call(batcher: UsageBatcher, number: int) -> None:
        with tracer.start_as_current_span(f"caller {number}"):
            assert (await batcher.meter(wanted(number))).metered

    async def work() -> None:
        async with (
            client_of(MemoryService(), observer=seen.observer, clock=clock) as client,
            UsageBatcher(client, product_code="p") as batcher,
        ):
            await asyncio.gather(*(call(batcher, number) for number in range(callers)))

    run_virtual(work())
    return seen


def calls_and_callers(seen: Collected) -> tuple[list[ReadableSpan], dict[int, str]]:
    """Return the spans of calls, and the names of all others by their ids."""
    calls = [span for span in seen.spans() if span.kind is SpanKind.CLIENT]
    return calls, {span.context.span_id: span.name for span in seen.spans() if span not in calls}


def test_a_call_of_the_batcher_is_linked_to_those_who_handed_its_records_in() -> None:
    """
    It is below none of them: it is made for all. Issue 26
    """
    calls, callers = calls_and_callers(batched(26, usage))

    linked = [{callers[link.context.span_id] for link in call.links} for call in calls]
    assert [None, None] == [call.parent for call in calls]
    assert [25, 1] == [len(call.links) for call in calls]
    assert {f"caller {number}" for number in range(26)} == set.union(*linked)


def test_those_who_share_a_record_are_linked_too_and_no_more_than_a_request_has_records() -> None:
    """
    However many hand in the same. Issue 26
    """
    (few,), _ = calls_and_callers(batched(3, lambda _: usage(1)))
    (many,), _ = calls_and_callers(batched(60, lambda _: usage(1)))

    assert (3, 25) == (len(few.links), len(many.links))


def test_there_is_no_link_to_what_nobody_will_see() -> None:
    """
    A span that is not sampled is nowhere.
    """
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    (call,), _ = calls_and_callers(batched(2, usage, unsampled))

    assert call.parent is None
    assert () == tuple(call.links)


def test_what_a_stream_sends_is_below_who_reads_it() -> None:
    """
    Each call, without a link. Issue 26
    """
    clock = VirtualClock()
    seen = collected(clock=clock)

    async def work() -> None:
        async with client_of(MemoryService(), observer=seen.observer, clock=clock) as client:
            with seen.tracer_provider.get_tracer("program").start_as_current_span("job"):
                records = map(usage, range(30))
                async for result in client.iter_batch_meter_usage(records, product_code="p"):
                    assert result.metered

    run_virtual(work())
    calls, others = calls_and_callers(seen)
    assert ["job", "job"] == [others[call.parent.span_id] for call in calls if call.parent]
    assert [(), ()] == [tuple(call.links) for call in calls]


def test_calls_of_what_goes_on_show_soon() -> None:
    """
    A quarter of a second after the call, though the stream waits for more.
    """
    clock = VirtualClock()
    seen = collected(clock=clock)
    counts: list[int] = []

    async def records() -> AsyncIterator[UsageRecord]:
        yield usage(1)
        await clock.sleep(2)
        counts.append(len(seen.spans()))

    async def work() -> None:
        async with client_of(MemoryService(), observer=seen.observer, clock=clock) as client:
            source = client.iter_batch_meter_usage(records(), product_code="p", linger=1.7)
            assert 1 == len([result async for result in source])

    run_virtual(work())
    assert [1] == counts


def ended(**members: Any) -> CallEnded:
    return CallEnded(**{"operation": "BatchMeterUsage", "records": 1, "seconds": 0.1, **members})


@pytest.mark.parametrize(
    ("happened", "shown"),
    [
        ([ended()], 0),
        ([ended(), ended(code="ThrottlingException")], 2),
        ([ended(), ended(operation="RegisterUsage")], 2),
        ([ended()] * 255, 0),
        ([ended()] * 256, 256),
    ],
    ids=["one", "a failure", "no batch", "255", "256"],
)
async def test_calls_are_recorded_together(happened: list[CallEnded], shown: int) -> None:
    """
    Where more is to come for certain, or so many wait that it pays no more.
    """
    seen = collected(then=lambda event: None)
    for event in happened:
        seen.observer(event)

    assert shown == len(seen.spans())


def test_a_processor_that_raises_costs_no_count_and_no_other_span(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The log says so; what waits besides is recorded the next time.
    """
    seen = collected(then=lambda event: None)
    given: list[ReadableSpan] = []

    def on_end(span: ReadableSpan) -> None:
        given.append(span)
        if len(given) != 2:
            raise ValueError("odd")

    broken = SpanProcessor()
    monkeypatch.setattr(broken, "on_end", on_end)
    seen.tracer_provider.add_span_processor(broken)

    async def work() -> None:
        settled = Settled(counts={RecordStatus.SUCCESS: 1})
        for event in (settled, ended(), ended(code="X"), ended(code="X")):
            emit(seen.observer, event)

    run_virtual(work())
    assert 3 == len(given) == len(seen.spans())
    assert [1] == list(seen.values()["client.records"].values())
    assert {1, 2} == {count for count, _ in seen.values()["client.operation.duration"].values()}
    logged = [one.message for one in caplog.records if one.levelno == logging.ERROR]
    assert ["the observer raised on CallEnded"] * 2 == logged


@pytest.mark.parametrize("door", ["batch", "stream", "batcher"])
def test_what_is_cancelled_has_shown_its_calls(door: str) -> None:
    """
    Though the event loop ends with it: what was metered then is not missing from what is watched.
    """
    clock = VirtualClock()
    seen = collected(clock=clock)
    service = MemoryService()
    records = [usage(number) for number in range(60)]

    async def work() -> int:
        async with client_of(
            service, observer=seen.observer, clock=clock, calls_per_second=1.0
        ) as client:
            await client.endpoint()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.05):
                    if door == "batch":
                        await client.batch_meter_usage(records, product_code="p")
                    elif door == "stream":
                        async for _ in client.iter_batch_meter_usage(records, product_code="p"):
                            pass
                    else:
                        async with UsageBatcher(client, product_code="p") as batcher:
                            await asyncio.gather(*map(batcher.meter, records))
            return len(seen.spans())

    assert 1 <= run_virtual(work()) <= 3
    (counted,) = seen.values()["client.records"].values()
    assert len(service.book) == counted


async def test_who_gets_the_events_besides_gets_all_of_them() -> None:
    """
    Such as a second observer, with providers of its own: the customers, and when calls have ended.
    """
    inner = collected(customers=True, then=lambda event: None)
    outer = collected(then=inner.observer)
    outer.observer.observe_call(ended(), [usage(7)], None)
    outer.observer.flush()

    (seen,) = inner.spans()
    assert ("000000000007",) == (seen.attributes or {})[f"{PREFIX}.customers"]
    assert 1 == len(outer.spans())


async def test_a_client_that_is_closed_has_shown_its_calls() -> None:
    """
    Those too of a batcher that nobody has closed.
    """
    seen = collected()
    async with client_of(MemoryService(), observer=seen.observer):
        seen.observer(ended())
        before = len(seen.spans())

    assert (0, 1) == (before, len(seen.spans()))


def test_an_observer_that_is_called_where_no_event_loop_runs_records_at_once() -> None:
    """
    As by a queue's listener in a thread of its own.
    """
    seen = collected(then=lambda event: None)
    seen.observer(ended())

    assert 1 == len(seen.spans())


@pytest.mark.parametrize("sdk", ["no SDK", "an SDK"])
def test_an_observer_leaves_nothing_behind(sdk: str) -> None:
    """
    A worker that makes one for each job would grow by it: neither the API, which keeps what it made
    while there is no SDK, nor the system's list of what to do at a fork has anything of it.
    """
    given: dict[str, Any] = {}
    if sdk == "an SDK":
        given = {"tracer_provider": TracerProvider(), "meter_provider": MeterProvider()}

    def kept_after(jobs: int) -> int:
        for _ in range(jobs):
            observer = OpenTelemetryObserver(then=lambda event: None, **given)
            observer(UsageEndedUnmetered(state="too_late", records=1))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    kept_after(10)
    tracemalloc.start()
    try:
        before = kept_after(1)
        assert kept_after(200) - before < 200 * 100
    finally:
        tracemalloc.stop()


def test_a_forked_process_records_no_call_of_its_parent() -> None:
    """
    It happened to the parent, which records it.
    """
    seen = collected(then=lambda event: None)

    def recorded_in_a_child() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python 3.12, where other threads run
            child = os.fork()
        if not child:
            seen.observer.flush()
            os._exit(len(seen.spans()))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    async def work() -> list[int]:
        seen.observer(ended())
        in_child = recorded_in_a_child()
        seen.observer.flush()
        return [in_child, len(seen.spans())]

    assert [0, 1] == run_virtual(work())


def test_an_event_loop_that_has_ended_holds_up_no_other() -> None:
    """
    What waited then is recorded with what comes in the next one.
    """
    seen = collected(then=lambda event: None)

    async def call_at(second: float, then: float) -> int:
        await asyncio.sleep(second)
        seen.observer(ended())
        await asyncio.sleep(then)
        return len(seen.spans())

    assert 0 == run_virtual(call_at(1, 0.1))
    assert 2 == run_virtual(call_at(2, 0.3))
    assert 2 == run_virtual(call_at(3, 0.1))
    assert 4 == run_virtual(call_at(3.1, 0.25))  # before what waited is due in the first


def test_without_an_sdk_calls_are_not_observed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Unless somebody gets the events besides; or a twentieth of a second after the program has set
    one up.
    """
    caplog.set_level(logging.INFO, "marketplace_metering_async")
    clock = MovedClock(NOON)
    provider = trace.get_tracer_provider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    observer = OpenTelemetryObserver(clock=clock)

    assert not observes_calls(observer)
    assert observes_calls(OpenTelemetryObserver(then=lambda event: None))
    assert observes_calls(collected().observer)
    provider = TracerProvider(shutdown_on_exit=False)
    assert not observes_calls(observer)
    clock.seconds += 0.05
    assert observes_calls(observer)


def test_an_sdk_for_metrics_alone_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    """
    As one for spans alone is.
    """
    caplog.set_level(logging.INFO, "marketplace_metering_async")
    meters, tracers = (
        MeterProvider(shutdown_on_exit=False),
        TracerProvider(shutdown_on_exit=False),
    )

    assert OpenTelemetryObserver(meter_provider=meters).observes_calls
    assert OpenTelemetryObserver(tracer_provider=tracers).observes_calls


class MovedClock(SetClock):
    """A clock whose sleepers wait for a hundredth, and whose monotonic time is set."""

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


async def test_the_ledger_is_watched_under_the_names_of_its_metrics(tmp_path: Path) -> None:
    """
    As an exporter to Prometheus spells them, so that one set of alarms fits both; and where the
    ledger cannot be read any more, there is nothing, in place of what was. Issue 26
    """
    async with house_at(f"sqlite:///{tmp_path}/u.db") as house:
        clock = MovedClock(NOON)
        seen = collected(clock=clock)
        await house.use("1.5")
        async with seen.observer.watching(house.ledger, every=60):
            names = {
                re.sub(r"\W", "_", one.name)
                + {"s": "_seconds", "": ""}[one.unit]
                + ("_total" if getattr(one.data, "is_monotonic", False) else "")
                for one in seen.metrics()
            }
            printed = set(re.findall(r"# TYPE (\w+)", await house.ledger.metrics()))
            units = seen.values()["ledger.units"]
            with pytest.raises(ValueError, match="watches one already"):
                async with seen.observer.watching(house.ledger):
                    pytest.fail("it was entered")
            clock.seconds += 181
            stale = seen.values()
        assert printed == names
        assert (
            1.5
            == units[
                frozenset(
                    {"product_code": "product", "dimension": "requests", "state": "open"}.items()
                )
            ]
        )
        assert {} == stale
        async with seen.observer.watching(house.ledger, every=60):
            assert seen.values()["ledger.units"]
        assert {} == seen.values()


async def test_the_ledger_is_looked_at_again(tmp_path: Path) -> None:
    """
    Every so often.
    """
    async with house_at(f"sqlite:///{tmp_path}/u.db") as house:
        seen = collected()
        async with seen.observer.watching(house.ledger, every=0.01):
            await house.use(2, at=NOON - HOUR)
            await house.until(lambda: 2 in seen.values()["ledger.recorded_units"].values())


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The name can be imported, as all others.
    """
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigurationError, match=r"marketplace-metering-async\[otel\]"):
        OpenTelemetryObserver()


def test_every_metric_is_named_and_described() -> None:
    """
    Below one prefix, with a unit of UCUM.
    """
    seen, _ = delivered([usage(1)])

    for one in seen.metrics():
        assert re.fullmatch(rf"{PREFIX}\.[a-z]+(\.[a-z_]+)+", one.name)
        assert re.fullmatch(r"s|\{[a-z]+\}|", one.unit)
        assert one.description.endswith(".")
