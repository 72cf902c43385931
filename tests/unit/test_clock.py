"""Clocks: the one that follows another machine's."""

import pytest

from marketplace_metering_async import clock
from marketplace_metering_async.clock import FollowingClock


def test_a_clock_follows_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    By what has passed since it was heard, and not by this machine's wall time. Design, Laws of the
    ledger
    """
    following = FollowingClock()
    monkeypatch.setattr(following, "passed", lambda: 100.0)
    following.hear(1_000_000, asked=99.5)
    monkeypatch.setattr(following, "passed", lambda: 160.0)

    assert 1_000_060 == following.now().timestamp()


def test_a_reply_that_took_long_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Unless it is the first one: it is behind by as much.
    """
    following = FollowingClock()
    monkeypatch.setattr(following, "passed", lambda: 100.0)
    following.hear(1_000_000, asked=50)
    following.hear(1_000_020, asked=98.9)
    late = following.now().timestamp()
    following.hear(1_000_040, asked=99.1)

    assert (1_000_000, 1_000_040) == (late, following.now().timestamp())


def test_a_clock_that_heard_nothing_shows_the_machines_time() -> None:
    """
    And time passes in any case.
    """
    following = FollowingClock()

    assert abs((following.now() - clock.SystemClock().now()).total_seconds()) < 60
    assert 0 <= following.passed() <= following.passed()
