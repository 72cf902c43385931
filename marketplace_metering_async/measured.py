"""What is measured of events: the names, units and attributes of all metrics of clients."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from marketplace_metering_async import errors, service_codes, service_errors
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.events import (
    Event,
    Isolated,
    RelayBlocked,
    RelayWorking,
    Retrying,
    SendingStopped,
    Throttled,
    UsageEndedUnmetered,
    WarningIssued,
)
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.ledger.metrics import Measure

_OTHER: Final = "_OTHER"
"""What the conventions call whatever is none of the values that are known."""
CODES: Final = frozenset(
    {
        *service_codes.KNOWN,
        "cancelled",
        *(
            name
            for module in (errors, service_errors)
            for name, found in vars(module).items()
            if isinstance(found, type) and issubclass(found, MeteringError)
        ),
    }
)
STATES: Final = frozenset(state.value for state in HourState)

_COUNTED: Final[Mapping[type, str]] = {
    Throttled: "client.throttles",
    SendingStopped: "client.stops",
    WarningIssued: "client.warnings",
}

Attributes = dict[str, str | int | Sequence[str]]


def of_ended(operation: str, code: str | None) -> Attributes:
    """Return the attributes of a call that has ended, with a code if it failed."""
    known: Attributes = {"rpc.method": operation}
    if code is not None:
        known["error.type"] = _one_of(CODES, code)
    return known


def measured(event: Event) -> Iterator[tuple[str, float, Attributes]]:
    """Yield the name, the value and the attributes of each measure that *event* is."""
    match event:
        case Retrying(records=records, delay=delay):
            yield "client.retries", records, {}
            yield "client.retry.delay", delay, {}
        case Isolated(calls=calls):
            yield "client.isolation.calls", calls, {}
        case Throttled() | SendingStopped() | WarningIssued():
            yield _COUNTED[type(event)], 1, {}
        case UsageEndedUnmetered(state=state, records=records):
            yield "relay.ended_records", records, {"state": _one_of(STATES, state)}


def relay_of(event: RelayWorking | RelayBlocked) -> Measure:
    """Return whether the relay works, as a measure."""
    text = "1 where the ledger's relay works, 0 where it is blocked."
    works = int(isinstance(event, RelayWorking))
    return Measure(name="relay.is_working", text=text, samples=[({}, works)])


def _one_of(known: frozenset[str], text: str) -> str:
    return text if text in known else _OTHER


COUNTERS: Final = {
    "client.records": ("{record}", "Records that have a verdict, by verdict."),
    "client.throttles": ("{call}", "Calls that the service refused because of its quota."),
    "client.retries": ("{record}", "Records that are sent again after a fault not theirs."),
    "client.isolation.calls": ("{call}", "Calls spent on finding records that are at fault."),
    "client.stops": ("{stop}", "Times that the account's fault stopped what was to be sent."),
    "client.warnings": ("{warning}", "What a person should know of; the log has it in words."),
    "relay.ended_records": ("{record}", "Records of the ledger that ended otherwise than metered."),
}
HISTOGRAMS: Final[Mapping[str, tuple[str, str, list[float]]]] = {
    "client.operation.duration": (
        "s",
        "Duration of a call to the service.",
        [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    ),
    "client.retry.delay": ("s", "Wait before records are sent again.", [0.1, 0.5, 1, 5, 10, 30]),
    "batcher.batch.records": ("{record}", "Records that go together.", [1, 5, 10, 15, 20, 24]),
    "batcher.wait": ("s", "Since the first of them came.", [0.01, 0.05, 0.1, 0.5, 1, 5]),
}
GAUGES: Final = {
    "batcher.queue.size": ("{record}", "Records that are gathered still."),
    "batcher.in_flight": ("{record}", "Records of it that are on their way."),
}
