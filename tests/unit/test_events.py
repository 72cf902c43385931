"""The log: at which level an event stands, in what words, and with which fields."""

import asyncio
import json
import logging
import pickle
from contextvars import copy_context
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, get_args

import pytest
from attrs import asdict
from support.memory import MemoryService, client_of, usage
from support.virtual import run_virtual

from marketplace_metering_async import (
    LedgerError,
    LoggingObserver,
    RecordStatus,
    UsageRecord,
    events,
)
from marketplace_metering_async.events import (
    BatchEnded,
    BatchReleased,
    CallEnded,
    Event,
    Isolated,
    Isolating,
    RelayBlocked,
    RelayWorking,
    Retrying,
    SendingStopped,
    Settled,
    Throttled,
    UsageEndedUnmetered,
    WarningIssued,
    emit,
    emit_call,
    flush,
    observes_calls,
)

ERROR = LedgerError("away")
OF_A_CUSTOMER = UsageRecord(
    timestamp=datetime(2026, 11, 23, tzinfo=UTC),
    dimension="requests",
    quantity=1,
    customer_aws_account_id="111122223333",
)
SAID: list[tuple[Event, str, dict[str, object]]] = [
    (
        CallEnded(
            operation="BatchMeterUsage",
            records=25,
            seconds=0.5,
            request_id="r",
        ),
        "DEBUG",
        {"operation": "BatchMeterUsage", "records": 25, "seconds": 0.5, "request_id": "r"}
        | {"attempt": 1},
    ),
    (
        Retrying(records=1, attempt=2, delay=0.5, error=ERROR),
        "DEBUG",
        {"records": 1, "attempt": 2, "delay": 0.5, "error": "away"},
    ),
    (Throttled(records=3), "DEBUG", {"records": 3}),
    (
        SendingStopped(product_code="p", all_products=False, error=ERROR),
        "WARNING",
        {"product_code": "p", "all_products": False, "error": "away"},
    ),
    (Isolating(records=25, code="X"), "DEBUG", {"records": 25, "code": "X"}),
    (Isolated(code="X", calls=5, refused=1), "DEBUG", {"code": "X", "calls": 5, "refused": 1}),
    (Settled(counts={RecordStatus.SUCCESS: 2}), "DEBUG", {"counts": {"Success": 2}}),
    (WarningIssued(text="100 % odd"), "WARNING", {"text": "100 % odd"}),
    (
        BatchEnded(counts={RecordStatus.SUCCESS: 2}, calls=1, throttled=0, seconds=1.0),
        "DEBUG",
        {"counts": {"Success": 2}, "calls": 1, "throttled": 0, "seconds": 1.0},
    ),
    (
        BatchEnded(counts={RecordStatus.REJECTED: 2}, calls=1, throttled=0, seconds=1.0),
        "WARNING",
        {"counts": {"Rejected": 2}, "calls": 1, "throttled": 0, "seconds": 1.0},
    ),
    (
        BatchReleased(records=25, waited=0.5, waiting=1, in_flight=25),
        "DEBUG",
        {"records": 25, "waited": 0.5, "waiting": 1, "in_flight": 25},
    ),
    (
        UsageEndedUnmetered(state="conflict", records=1),
        "WARNING",
        {"state": "conflict", "records": 1},
    ),
    (
        RelayBlocked(
            error=ERROR,
            seconds=61.0,
            units=Decimal("1.5"),
            first_loss_at=datetime(2026, 11, 23, tzinfo=UTC),
        ),
        "ERROR",
        {"error": "away", "seconds": 61.0, "units": "1.5"}
        | {"first_loss_at": "2026-11-23T00:00:00+00:00"},
    ),
    (
        RelayWorking(sealed=1, metered=2, ended=3, returned=4, units=5),
        "INFO",
        {"sealed": 1, "metered": 2, "ended": 3, "returned": 4, "units": 5},
    ),
]


@pytest.mark.parametrize(
    ("product_code", "all_products", "said"),
    [
        ("p", False, "p"),
        (None, False, "licenses without a product code"),
        (None, True, "any product"),
    ],
)
def test_what_stops_is_named(
    product_code: str | None,
    all_products: bool,  # noqa: FBT001
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    Of licenses whose product nobody named the log would have said that all products stop.
    """
    LoggingObserver()(
        SendingStopped(product_code=product_code, all_products=all_products, error=ERROR)
    )

    assert [f"nothing more is sent for {said}: {ERROR}"] == [one.message for one in caplog.records]


@pytest.mark.parametrize(("event", "level", "fields"), SAID, ids=lambda one: type(one).__name__)
def test_a_record_of_the_log_has_the_event_as_fields(
    event: Event, level: str, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Plain values, which any formatter of JSON can write. Issue 26
    """
    caplog.set_level(logging.DEBUG, "marketplace_metering_async")
    LoggingObserver()(event)
    (record,) = caplog.records
    named = {
        name.removeprefix("metering_"): value
        for name, value in vars(record).items()
        if name.startswith("metering_")
    }

    assert (level, {"event": type(event).__name__, **fields}) == (record.levelname, named)
    assert record.getMessage()
    assert "111122223333" not in record.getMessage()
    assert json.loads(json.dumps(named)) == named


def test_every_event_is_among_them() -> None:
    """
    Every event that there is, is logged above.
    """
    assert set(get_args(events.Event)) == {type(event) for event, _, _ in SAID}


def test_nothing_is_made_for_a_level_that_is_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Most programs log from INFO on.
    """
    caplog.set_level(logging.INFO, "marketplace_metering_async")
    monkeypatch.setattr(events, "_fields", lambda event: pytest.fail("made"))
    LoggingObserver()(Throttled(records=1))

    assert [] == caplog.records


class Odd:
    """An observer that cannot even say whether calls are of use to it."""

    def __call__(self, event: Event, /) -> None:
        """Take note of nothing."""

    @property
    def observes_calls(self) -> bool:
        raise ValueError("odd")


def test_an_observer_says_whether_calls_are_of_use_to_it(caplog: pytest.LogCaptureFixture) -> None:
    """
    All are, where it does not say so; and what it raises hurts nobody.
    """
    caplog.set_level(logging.INFO, "marketplace_metering_async")

    assert not observes_calls(LoggingObserver())
    assert observes_calls(lambda event: None)
    assert observes_calls(Odd())
    assert ["the observer raised on observes_calls"] == [one.message for one in caplog.records]
    caplog.set_level(logging.DEBUG, "marketplace_metering_async")
    assert observes_calls(LoggingObserver())


ENDED: Final = CallEnded(operation="BatchMeterUsage", records=1, seconds=0.5)


def test_what_a_call_carried_is_no_part_of_its_event() -> None:
    """
    An event is plain data, which names no customer wherever it is written down. An observer with
    `observe_call` gets the rest beside it.
    """
    heard: list[Any] = []

    class Curious:
        def __call__(self, event: Event) -> None:
            raise AssertionError(event)

        def observe_call(self, *facts: Any) -> None:
            heard.append(facts)

    context = copy_context()
    emit_call(Curious(), ENDED, [OF_A_CUSTOMER], [context])
    emit_call(heard.append, ENDED, [OF_A_CUSTOMER], [context])

    assert [(ENDED, [OF_A_CUSTOMER], [context]), ENDED] == heard
    assert {ENDED} == {pickle.loads(pickle.dumps(ENDED))}  # noqa: S301 - our own
    assert "111122223333" not in str(asdict(ENDED))


class Broken:
    """An observer that raises."""

    def __call__(self, event: Event) -> None:
        raise ValueError(event)

    def observe_call(self, *facts: Any) -> None:
        raise ValueError(facts)

    def flush(self) -> None:
        raise ValueError


class Forwarding:
    """A stand-in for an observer that is gone, whose attributes raise."""

    def __call__(self, event: Event) -> None:
        """Take note of nothing."""

    def __getattr__(self, name: str) -> Any:
        raise ReferenceError(name)


@pytest.mark.parametrize("kind", [Broken, Forwarding])
def test_an_observer_that_raises_stops_nothing(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """
    Whichever way it is called: verdicts are kept.
    """
    caplog.set_level(logging.DEBUG, "marketplace_metering_async")

    emit_call(kind(), ENDED, (), None)
    flush(kind())
    flush(Broken().__call__)

    said = [one.message for one in caplog.records]
    assert ["the observer raised on CallEnded", "the observer raised on flush"] == said


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_observer_may_end_the_program(error: type[BaseException]) -> None:
    """
    As where a relay is blocked, and another machine is to take over.
    """

    def end(event: Event) -> None:
        raise error

    for call in (emit, lambda observer, event: emit_call(observer, event, (), None)):
        with pytest.raises(error):
            call(end, ENDED)


@pytest.mark.parametrize(
    "error",
    [ValueError("odd"), asyncio.CancelledError(), GeneratorExit(), pytest.fail.Exception("odd")],
    ids=repr,
)
@pytest.mark.parametrize("observer", ["its own", "the log"])
def test_a_batch_ends_whatever_its_observer_raises(
    observer: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As for a future that was cancelled, or a test that fails in it, which is no Exception; or in a
    filter of the log, which refuses to say so, too.
    """

    def refuse(thing: object) -> bool:
        raise error

    logger = logging.getLogger("marketplace_metering_async")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    monkeypatch.setattr(logger, "filters", [refuse] if observer == "the log" else [])
    chosen = LoggingObserver() if observer == "the log" else refuse

    async def run() -> int:
        async with client_of(MemoryService(), observer=chosen) as client:
            async with asyncio.timeout(60):
                result = await client.batch_meter_usage(usage(60), product_code="product")
        return len(result.succeeded)

    assert 60 == run_virtual(run())
