"""Call: how it ended, for the pacer."""

import asyncio
from collections.abc import Sequence

import pytest
from support.chunks import chunk_of
from support.memory import MemoryService, client_of, usage

from marketplace_metering_async.client import shared_of
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.delivery.call import Call, Door
from marketplace_metering_async.delivery.decisions import Decision
from marketplace_metering_async.errors import InvalidResponseError
from marketplace_metering_async.events import Event, Observer, WarningIssued
from marketplace_metering_async.flow.pacing import CallEnd, Pacer
from marketplace_metering_async.results import SettledRecords


class Noting:
    """A pacer that agrees to everything, and notes how calls end; or breaks then."""

    def __init__(self, breaks: BaseException | None = None) -> None:
        self.ends: list[tuple[CallEnd, float | None]] = []
        self.breaks = breaks

    def start(self, now: float) -> float:
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.ends.append((how, retry_after))


class Nobody(Door):
    """Gave the records, and does not care."""

    def settle(self, outcomes: Sequence[SettledRecords]) -> None:
        raise AssertionError

    def unsettled(self, among: Sequence[int] | None) -> Sequence[int]:
        raise AssertionError


def call_of(pacer: Pacer, observer: Observer, *, sent: bool) -> Call:
    client = client_of(MemoryService(), clock=SystemClock(), pacer=pacer, observer=observer)
    return Call(shared_of(client), Nobody(), chunk_of(usage(1)), None, 0.0, sent=sent)


FAILED = Decision(
    ended=CallEnd.FAILED, error=InvalidResponseError("a portal", 503, retry_after=2.0)
)


@pytest.mark.parametrize(
    ("sent", "decision", "end"),
    [
        (True, None, (CallEnd.CANCELLED, None)),
        (False, None, (CallEnd.ABANDONED, None)),
        (True, FAILED, (CallEnd.FAILED, 2.0)),
        (False, FAILED, (CallEnd.ABANDONED, None)),
    ],
)
def test_a_call_that_was_cancelled_is_no_failure(
    sent: bool,  # noqa: FBT001
    decision: Decision | None,
    end: tuple[CallEnd, float | None],
) -> None:
    """
    It may have spent quota if it was sent; one that was not spent none, whatever was decided.
    Covers core F15
    """
    pacer, events = Noting(), list[Event]()

    call_of(pacer, events.append, sent=sent).return_permit(decision)

    assert [end] == pacer.ends
    assert [] == events


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError()], ids=repr)
def test_a_pacer_that_breaks_is_a_warning(error: BaseException) -> None:
    """
    It changes no verdict; of a future that was cancelled neither, which is no Exception.
    """
    events: list[Event] = []

    call_of(Noting(error), events.append, sent=True).return_permit()

    text = f"the pacer raised {type(error).__name__} when a call had ended"
    assert [WarningIssued(text=text)] == events
