"""`--verbose`: what happens on the way, in a line each."""

from collections.abc import Mapping
from typing import Final

from attrs import asdict

from marketplace_metering_async.cli.output.console import Console, counted
from marketplace_metering_async.events import (
    BatchEnded,
    CallEnded,
    Event,
    Isolated,
    Isolating,
    LoggingObserver,
    Observer,
    RelayWorking,
    Retrying,
    Settled,
    Throttled,
)
from marketplace_metering_async.results import RecordStatus


class Steps:
    """An observer that tells a console of every step, and hands it on."""

    def __init__(self, console: Console, then: Observer | None) -> None:
        """*then* is who gets the events besides, by default the package's logger."""
        self._console: Final = console
        self._then: Final = LoggingObserver() if then is None else then

    def __call__(self, event: Event, /) -> None:
        """Tell of *event*, unless whoever gets it besides does."""
        if text := step(event):
            self._console.tell(type(event).__name__, text, asdict(event))
        self._then(event)


def step(event: Event) -> str:
    """Return what a person reads of *event*; nothing for what is printed anyway."""
    match event:
        case CallEnded(operation=operation, records=records, seconds=seconds, code=code):
            carried = f", {counted(records, 'record')}" if records else ""
            request = f", request {event.request_id}" if event.request_id else ""
            attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"{operation}{carried}: {code or 'ok'} in {seconds:.2f} s{attempt}{request}"
        case Retrying(records=records, delay=delay, error=error):
            return f"{_waiting(records)} {delay:.1f} s to be sent again: {error}"
        case Throttled(records=records):
            return f"throttled: {_waiting(records)} for another turn"
        case Isolating(records=records, code=code):
            return f"{code} for {counted(records, 'record')}: looking for those at fault"
        case Isolated(code=code, calls=calls, refused=refused):
            found = f"{code}: {counted(refused, 'record')} at fault"
            return f"{found}, found with {counted(calls, 'more call')}"
        case Settled(counts=counts):
            return _counted(counts)
        case RelayWorking(metered=metered, returned=returned):
            done = f"sealed {event.sealed:,}, metered {counted(metered, 'record')}"
            return f"the relay works: {done} ({event.units:,} units), {returned:,} to be sent again"
        case BatchEnded(counts=counts, calls=calls, throttled=throttled, seconds=seconds):
            total = f"{counted(calls, 'call')}, {throttled:,} throttled, in {seconds:.1f} s"
            return f"ended: {_counted(counts) or 'no records'}; {total}"
    return ""


def _waiting(records: int) -> str:
    return f"{counted(records, 'record')} {'waits' if records == 1 else 'wait'}"


def _counted(counts: Mapping[RecordStatus, int]) -> str:
    return ", ".join(f"{number:,} {status}" for status, number in counts.items())
