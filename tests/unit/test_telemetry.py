"""Spans and metrics: names after the conventions, values after what happened."""

import asyncio
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
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
    RelayBlocked,
    RelayWorking,
    SendingStopped,
    UsageEndedUnmetered,
    WarningIssued,
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
    seen = collected(clock=clock, then=said.append)

    async def work() -> Any:
        async with client_of(
            MemoryService(fault), observer=seen.observer, clock=clock, **settings
        ) as client:
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
        SendingStopped(product_code="p", error=error),
        WarningIssued(text="odd"),
    ):
        seen.observer(event)
    values = seen.values()

    ended = {dict(labels)["state"]: n for labels, n in values["relay.ended_records"].items()}
    assert {"conflict": 2, "_OTHER": 3} == ended
    assert [0] == list(values["relay.is_working"].values())
    assert [1] == list(values["client.stops"].values())
    assert [1] == list(values["client.warnings"].values())


def test_no_customer_is_in_any_attribute() -> None:
    """
    Nor a license, in spans, metrics and their descriptions. Issue 26
    """
    licensed = usage(3, license_arn=LICENSE)
    seen, _ = delivered([usage(111122223333), licensed])
    told = "".join(span.to_json() for span in seen.spans()) + str(seen.metrics())

    assert "aws.request_id" in told
    assert not re.search("111122223333|000000000003|999988887777|l-0123", told)


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
