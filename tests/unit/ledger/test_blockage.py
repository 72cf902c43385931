"""Blockage: what is said of it, when, and how long each wait is."""

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from support.ledgers import Steady

from marketplace_metering_async import LedgerError
from marketplace_metering_async.events import LoggingObserver, RelayBlocked
from marketplace_metering_async.ledger.blockage import Blockage

ERROR = LedgerError("away")


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
    caplog.set_level(logging.DEBUG, "marketplace_metering_async")
    Blockage(Steady(), LoggingObserver(), longest=30.0).wait(ERROR, None)

    assert [("ERROR", True)] == [
        (record.levelname, ERROR.advice in record.getMessage()) for record in caplog.records
    ]


def test_the_log_has_the_amount_and_the_time_of_the_first_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    As far as they are known. Newcomer H3
    """
    at = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    for units, first_loss_at in ((12_345, at), (0, None)):
        LoggingObserver()(
            RelayBlocked(error=ERROR, seconds=61.0, units=units, first_loss_at=first_loss_at)
        )
    lost, empty = (record.getMessage() for record in caplog.records)

    assert (
        "blocked for 61 s and goes on trying; 12,345 units are unsent, "
        "the first of them is lost at 2026-11-24 12:30 UTC: away"
    ) in lost
    assert "blocked for 61 s and goes on trying: away" in empty


def test_it_is_known_while_it_lasts() -> None:
    """
    For a health check.
    """
    blockage, _, _ = a_blockage()
    before = blockage.error
    blockage.wait(ERROR, None)
    during = blockage.error
    blockage.end()

    assert (None, ERROR, None) == (before, during, blockage.error)
