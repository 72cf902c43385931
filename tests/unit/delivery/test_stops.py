"""Stops and progress: what starts nothing new, until when, and whose time is over."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.delivery.model import Lane
from marketplace_metering_async.delivery.stops import PROBED_AFTER, Progress, Stops
from marketplace_metering_async.errors import NoCredentialsError, TransportError

LANE, OTHER = Lane("product"), Lane("other")
GROUP = LANE._replace(group=3)
WRONG, LATER = NoCredentialsError(), TransportError("reset", sent=True)


@pytest.mark.parametrize("stopped", [LANE, GROUP.whole, None])
def test_a_stop_concerns_its_lane_with_all_groups(stopped: Lane | None) -> None:
    """
    And where it names none, all lanes.
    """
    stops = Stops()
    stops.add(stopped, WRONG, 100, lasts=60)

    assert [WRONG, WRONG] == [stops.error_for(lane, 100) for lane in (LANE, GROUP)]
    assert (WRONG if stopped is None else None) is stops.error_for(OTHER, 100)


@pytest.mark.parametrize(("moment", "error"), [(159.9, WRONG), (160, None)])
def test_a_stop_that_is_probed_lasts_a_minute(
    moment: float, error: NoCredentialsError | None
) -> None:
    """
    Where records go on coming; any other lasts.
    """
    stops = Stops()
    stops.add(LANE, WRONG, 100, lasts=PROBED_AFTER)
    stops.add(OTHER, WRONG, 100, lasts=math.inf)

    assert error is stops.error_for(LANE, moment)
    assert WRONG is stops.error_for(OTHER, 1e9)


def test_a_stop_is_news_once_a_minute() -> None:
    """
    What fails while its lane is stopped already says nothing new.
    """
    stops = Stops()

    news = [stops.add(LANE, WRONG, moment, lasts=60) for moment in (0, 59, 118, 178)]

    assert [True, False, False, True] == news


def test_what_was_on_the_wire_at_a_stop_is_not_sent_again() -> None:
    """
    Even after the minute; what began later is.
    """
    stops = Stops()
    stops.add(LANE, WRONG, 100, lasts=60)

    assert WRONG is stops.error_for(GROUP, 200, 100)
    assert None is stops.error_for(GROUP, 200, 100.1)
    assert WRONG is stops.error_for(GROUP, 150, 100.1)
    assert None is stops.error_for(OTHER, 150, 99)


def test_what_is_ended_stays_ended_and_what_comes_later_is_tried() -> None:
    """
    The end of a lane's time is no stop.
    """
    stops = Stops()
    stops.add(LANE, LATER, 100, lasts=0)

    assert None is stops.error_for(LANE, 100)
    assert LATER is stops.error_for(LANE, 100, 90)
    assert None is stops.error_for(LANE, 101, 101)


def test_a_final_stop_is_one_of_everything() -> None:
    """
    Whatever lanes are stopped besides.
    """
    stops = Stops()
    assert not stops
    stops.final = LATER
    stops.add(LANE, WRONG, 0, lasts=60)

    assert stops
    assert {LATER} == {stops.error_for(lane, 1e9) for lane in (None, LANE, OTHER)}


def test_a_stop_is_forgotten_once_nothing_of_it_is_on_the_wire() -> None:
    """
    Not before: what began earlier would be sent again.
    """
    stops = Stops()
    stops.add(LANE, WRONG, 100, lasts=60)
    for moment, oldest in ((159, 200), (300, 100)):
        stops.forget(moment, oldest)
        assert stops

    stops.forget(160, 100.1)

    assert not stops


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 100), st.floats(0, 20)), min_size=1),
    st.floats(1, 200),
)
def test_waiting_for_a_turn_is_no_stall(
    attempts: list[tuple[float, float, float]], timeout: float
) -> None:
    """
    A lane's time is that of its failed attempts and the rests they asked for, and no other.
    """
    progress, now, spent, rest = Progress(timeout), 0.0, 0.0, 0.0
    for seconds, waited, next_rest in attempts:
        begun = now + rest + waited
        now = begun + seconds
        spent += seconds + rest
        over = progress.failed(GROUP, begun, now, next_rest)
        if abs(spent - timeout) < 1e-6:
            return
        assert (spent >= timeout) == over
        rest = next_rest
        if over:
            spent = rest = 0.0


def test_attempts_beside_each_other_count_once() -> None:
    """
    Thirty-two calls that fail for ten seconds are ten seconds.
    """
    progress = Progress(20)

    assert [False] * 32 == [progress.failed(LANE, 0, 10, 0) for _ in range(32)]
    assert progress.failed(LANE, 10, 20, 0)


def test_progress_of_a_lane_ends_its_stall_and_that_of_all() -> None:
    """
    But not the stall of another lane.
    """
    progress = Progress(20)
    progress.failed(LANE, 0, 19, 0)
    progress.failed(OTHER, 0, 19, 0)
    progress.missing(0, LATER)
    assert (0, LATER, 1) == (progress.stalled_since, progress.latest, progress.seconds_left(19))

    progress.made(GROUP)

    assert None is progress.seconds_left(19)
    assert not progress.failed(LANE, 19, 38, 0)
    assert progress.failed(OTHER, 19, 38, 0)


def test_the_stall_of_all_begins_with_the_first_attempt_without_progress() -> None:
    """
    A throttle is such an attempt, but no error.
    """
    progress = Progress(60)
    progress.missing(5, LATER)
    progress.missing(9, None)

    assert (LATER, 45) == (progress.latest, progress.seconds_left(20))

    progress.reset()

    assert None is progress.seconds_left(20)
