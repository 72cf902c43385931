"""What a verdict changes when it comes to its row, without a store."""

from typing import Any

import pytest
from attrs import evolve
from support.claims import CLAIM

from marketplace_metering_async.ledger.fences import Standing, writing_of
from marketplace_metering_async.ledger.model import HourState, Settlement
from marketplace_metering_async.ledger.sums import Sum

DIGEST, HOST, UNITS = CLAIM.digest, CLAIM.host, CLAIM.quantity


def verdict(state: HourState, fence: int = 2, **more: Any) -> Settlement:
    claim = evolve(CLAIM, fence=fence)
    return Settlement(claim=claim, state=state, status=state.value, **more)


@pytest.mark.parametrize("digest", [b"of another record", None])
def test_a_row_of_another_record_stays_as_it_is(digest: bytes | None) -> None:
    """
    After a failover that lost commits its number is given again; None: it is not sealed.
    """
    for state in HourState:
        writing = writing_of([verdict(state)], {1: Standing(2, HourState.FROZEN, digest, HOST)})

        assert ({}, [], [], []) == tuple(writing)


def test_the_latest_claim_settles_a_frozen_row() -> None:
    """
    Once, with its line in the history.
    """
    one = verdict(HourState.CONFLICT)
    writing = writing_of([one], {1: Standing(2, HourState.FROZEN, DIGEST, HOST)})

    assert ({1: one}, [one], [one], [one]) == tuple(writing)


@pytest.mark.parametrize("state", [s for s in HourState if s is not HourState.METERED])
def test_a_stale_verdict_is_history_only(state: HourState) -> None:
    """
    Whatever it says, but for a success. ledger H8
    """
    one = verdict(state, fence=1)
    writing = writing_of([one], {1: Standing(2, HourState.FROZEN, DIGEST, HOST)})

    assert ({}, [one], [], []) == tuple(writing)


@pytest.mark.parametrize("state", list(HourState))
@pytest.mark.parametrize("said", list(HourState))
def test_what_another_host_says_is_history_only(state: HourState, said: HourState) -> None:
    """
    Be it a success: the ledger was bound to another host while the relay was asleep.
    """
    one = verdict(said)
    writing = writing_of([one], {1: Standing(2, state, DIGEST, "another.example")})

    assert ({}, [one], [], []) == tuple(writing)


@pytest.mark.parametrize("state", list(HourState))
def test_a_success_lifts_every_state_that_bills_nobody(state: HourState) -> None:
    """
    Under any fence; usage that another hour bills is only reported. ledger H8
    """
    one = verdict(HourState.METERED, fence=1)
    writing = writing_of([one], {1: Standing(7, state, DIGEST, HOST)})
    stands = state in (HourState.METERED, HourState.REOPENED)

    assert ({} if stands else {1: one}) == writing.rows
    assert [one] == writing.attempts
    heard = [] if state is HourState.METERED else [state]
    assert heard == [found.before for found in writing.heard]
    assert ([] if stands else heard) == [found.before for found in writing.moves]


def test_a_refusal_of_before_says_nothing_of_usage_that_another_hour_bills() -> None:
    """
    It stands in the history alone.
    """
    one = verdict(HourState.REJECTED, fence=1)
    writing = writing_of([one], {1: Standing(7, HourState.REOPENED, DIGEST, HOST)})

    assert ({}, [one], [], []) == tuple(writing)


def test_a_verdict_that_was_written_is_heard_again() -> None:
    """
    And changes nothing; another one of the same claim is not heard. ledger H8
    """
    one = verdict(HourState.REJECTED)
    for stands, heard in ((HourState.REJECTED, [one]), (HourState.CONFLICT, [])):
        writing = writing_of([one], {1: Standing(2, stands, DIGEST, HOST)})

        assert ({}, heard, []) == (writing.rows, writing.heard, writing.moves)


def test_verdicts_of_one_row_are_written_in_turn() -> None:
    """
    The row gets the last one, the sums every step between. ledger H8
    """
    later, first = verdict(HourState.PROBABLY_METERED), verdict(HourState.METERED, fence=1)
    writing = writing_of([later, first], {1: Standing(2, HourState.FROZEN, DIGEST, HOST)})

    assert {1: first} == writing.rows
    assert [
        (HourState.FROZEN, HourState.PROBABLY_METERED),
        (HourState.PROBABLY_METERED, HourState.METERED),
    ] == [(one.before, one.state) for one in writing.moves]


def test_what_was_pruned_has_no_row() -> None:
    """
    And no history that could say more.
    """
    assert ({}, [], [], []) == tuple(writing_of([verdict(HourState.METERED)], {}))


def test_what_is_written_stands_in_rows() -> None:
    """
    An end has its time, what is sent again has none; sums move by each step.
    """
    ended = verdict(HourState.CONFLICT, error="taken", request_id="r", metering_record_id="m")
    again = verdict(HourState.FROZEN, not_before=90, in_doubt=True)

    writing = writing_of([ended], {1: Standing(2, HourState.FROZEN, DIGEST, HOST)})
    waiting = writing_of([again], {1: Standing(2, HourState.FROZEN, DIGEST, HOST)})

    assert [("conflict", 0, 0, 70, "m", "taken", 1)] == writing.hour_rows(70)
    assert [(1, 2, 70, "conflict", "taken", "r", "m")] == writing.attempt_rows(70)
    assert [
        Sum("product", "requests", "conflict", UNITS, 1, 0),
        Sum("product", "requests", "frozen", -UNITS, -1, 0),
    ] == writing.sums()
    assert not writing.has_success
    assert [("frozen", 90, 1, None, None, None, 1)] == waiting.hour_rows(70)
    assert [] == waiting.sums()
    met = writing_of([verdict(HourState.METERED)], {1: Standing(2, HourState.FROZEN, DIGEST, HOST)})
    assert met.has_success
