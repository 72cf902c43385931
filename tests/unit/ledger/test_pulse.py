"""The pulse of a relay: when it is felt, and what it says."""

from collections import Counter
from decimal import Decimal
from typing import Any

from support.ledgers import Steady

from marketplace_metering_async.events import RelayWorking
from marketplace_metering_async.ledger.model import HourState
from marketplace_metering_async.ledger.pulse import Pulse
from marketplace_metering_async.ledger.relay_report import RelayReport


def test_it_is_due_at_once_and_then_every_minute() -> None:
    """
    By the clock that it is given.
    """
    clock, beats = Steady(), []
    pulse = Pulse(clock, print)
    for _ in range(130):
        if pulse.is_due():
            beats.append(clock.seconds)
        clock.seconds += 1

    assert [1_000, 1_060, 1_120] == beats


def test_each_beat_says_what_was_done_since_the_last_one() -> None:
    """
    Within a round, over several of them, and none of it twice.
    """
    said = list[Any]()
    pulse = Pulse(Steady(), said.append)
    first = RelayReport(sealed=3, metered=2, units=Decimal("2.5"))
    pulse.beat(first)
    first.metered, first.units = 5, 7
    first.ended = Counter({HourState.CONFLICT: 1})
    pulse.end_round(first)
    pulse.end_round(RelayReport(metered=10, returned=4, units=1))
    pulse.beat(RelayReport(sealed=1))
    pulse.beat(RelayReport(sealed=1))

    assert [
        RelayWorking(sealed=3, metered=2, ended=0, returned=0, units=Decimal("2.5")),
        RelayWorking(sealed=1, metered=13, ended=1, returned=4, units=Decimal("5.5")),
        RelayWorking(sealed=0, metered=0, ended=0, returned=0, units=0),
    ] == said
