"""The law of metrics: whatever happens, they are few."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.spans_and_metrics import collected

from marketplace_metering_async import MeteringError, RecordStatus
from marketplace_metering_async.events import (
    BatchEnded,
    BatchReleased,
    CallEnded,
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
)
from marketplace_metering_async.measured import CODES, STATES

OPERATIONS = ["BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer"]
VERDICTS = {status.value for status in RecordStatus}
numbers = st.integers(0, 2**31)
seconds = st.floats(0, 1e6)
texts = st.text(max_size=40)
codes = texts | st.sampled_from(sorted(CODES))
errors = texts.map(MeteringError)
counts = st.dictionaries(st.sampled_from(RecordStatus), st.integers(1, 9))
events = st.one_of(
    st.builds(
        CallEnded,
        operation=st.sampled_from(OPERATIONS),
        records=numbers,
        seconds=seconds,
        code=st.none() | codes,
        request_id=st.none() | texts,
        attempt=numbers,
    ),
    st.builds(Retrying, records=numbers, attempt=numbers, delay=seconds, error=errors),
    st.builds(Throttled, records=numbers),
    st.builds(SendingStopped, product_code=st.none() | texts, error=errors),
    st.builds(Isolating, records=numbers, code=codes),
    st.builds(Isolated, code=codes, calls=numbers, refused=numbers),
    st.builds(Settled, counts=counts, request_id=texts),
    st.builds(WarningIssued, text=texts),
    st.builds(BatchEnded, counts=counts, calls=numbers, throttled=numbers, seconds=seconds),
    st.builds(BatchReleased, records=numbers, waited=seconds, waiting=numbers, in_flight=numbers),
    st.builds(UsageEndedUnmetered, state=texts | st.sampled_from(sorted(STATES)), records=numbers),
    st.builds(
        RelayBlocked,
        error=errors,
        seconds=seconds,
        units=numbers,
        first_loss_at=st.just(datetime(2026, 11, 23, tzinfo=UTC)),
    ),
    st.builds(
        RelayWorking,
        sealed=numbers,
        metered=numbers,
        ended=numbers,
        returned=numbers,
        units=numbers,
    ),
)
KNOWN: dict[str, set[Any]] = {
    "rpc.method": set(OPERATIONS),
    "error.type": {*CODES, "_OTHER"},
    "state": {*STATES, "_OTHER"},
    "marketplace_metering.verdict": VERDICTS,
}


@given(st.lists(events, max_size=30))
def test_the_values_of_all_attributes_are_known_beforehand(happened: list[Any]) -> None:
    """
    However many products, codes, texts and request ids there are, and whatever they say: a series
    is never made of what a stranger wrote. Issue 26
    """
    seen = collected(then=lambda event: None)
    ended = BatchEnded(counts={}, calls=0, throttled=0, seconds=0)  # what waits is recorded then

    async def happen() -> None:
        for event in (*happened, ended):
            seen.observer(event)

    asyncio.run(happen())
    for by_labels in seen.values().values():
        for labels in by_labels:
            for name, value in labels:
                assert value in KNOWN[name]
