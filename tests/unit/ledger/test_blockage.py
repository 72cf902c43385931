"""Blockage: what is said of it, when, and how long each wait is."""

from typing import Any

import pytest
from support.ledgers import SetClock

from marketplace_metering_async import LedgerError
from marketplace_metering_async.events import LoggingObserver, RelayBlocked
from marketplace_metering_async.ledger.blockage import Blockage

ERROR = LedgerError("away")


class Steady(SetClock):
    """A clock whose monotonic time is set, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


def a_blockage() -> tuple[Blockage, Steady, list[Any]]:
    clock, said = Steady(), list[Any]()
    return Blockage(clock, said.append, longest=30.0), clock, said


def test_waits_grow_up_to_the_longest() -> None:
    """
    And begin anew once a try has succeeded. ledger H12
    """
    blockage, _, _ = a_blockage()
    waits = [blockage.wait(ERROR, None) for _ in range(7)]
    blockage.end()

    assert [1, 2, 4, 8, 16, 30, 30] == waits
    assert 1 == blockage.wait(ERROR, None)


def test_it_is_said_at_once_and_then_every_minute() -> None:
    """
    With how long it has lasted, for as long as it lasts. ledger H12
    """
    blockage, clock, said = a_blockage()
    for _ in range(50):  # a try every three seconds
        blockage.wait(ERROR, None)
        clock.seconds += 3
    blockage.end()
    blockage.wait(ERROR, None)

    expected = [RelayBlocked(error=ERROR, seconds=seconds) for seconds in (0, 60, 120, 0)]
    assert expected == said


def test_the_log_has_it_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """
    With what to do about it. ledger H12
    """
    Blockage(Steady(), LoggingObserver(), longest=30.0).wait(ERROR, None)

    assert [("ERROR", True)] == [
        (record.levelname, ERROR.advice in record.getMessage()) for record in caplog.records
    ]
