"""Which frozen records a relay may take, without a store."""

from typing import Any

import pytest
from attrs import evolve
from support.claims import CLAIM, RECORD

from marketplace_metering_async.ledger.claims import MOST_CRASHES, choose
from marketplace_metering_async.ledger.frozen_record import QUANTITY
from marketplace_metering_async.ledger.model import (
    FrozenHour,
    HourState,
    ProductDimension,
    UsageKey,
)


def candidate(number: int = 1, **more: Any) -> FrozenHour:
    whole = evolve(CLAIM, hour_id=number, fence=3, attempts=2, others_sent=True)
    return evolve(whole, **more)


def test_what_is_claimed_has_a_later_fence() -> None:
    """
    A later claim invalidates an earlier one. Covers: M01
    """
    (one,), aside = choose([candidate()], 10, 700)

    assert (1, 703, 2) == (one.hour_id, one.fence, one.attempts)
    assert (5_000_000, QUANTITY) == (one.quantity, one.member)
    assert [] == aside


@pytest.mark.parametrize(
    ("in_doubt", "lapsed", "doubt"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_doubt_is_of_the_row_or_of_a_claim_that_ran_out(
    *, in_doubt: bool, lapsed: bool, doubt: bool
) -> None:
    """
    That had no answer, and the service may have acted on it. Covers: M02
    """
    (one,), _ = choose([candidate(in_doubt=in_doubt, lapsed=lapsed)], 10, 1)

    assert doubt == one.in_doubt


@pytest.mark.parametrize(
    "flipped",
    [
        {"quantity": 5_000_001},
        {"stamp": RECORD[1] + 1},
        {"member": "QuantityAsDecimal"},
        {"region_name": "eu-west-1"},
        {"key": UsageKey("product", "111122223334", "", "", "requests")},
    ],
)
def test_a_row_that_was_damaged_is_put_aside(flipped: dict[str, Any]) -> None:
    """
    Whatever of all that the service counts by was changed. Covers: D08
    """
    claimed, (one,) = choose([candidate(**flipped), candidate(2)], 10, 1)

    assert [2] == [other.hour_id for other in claimed]
    assert (HourState.DAMAGED, 3) == (one.state, one.claim.fence)


@pytest.mark.parametrize("doubt", ["in_doubt", "lapsed"])
def test_a_record_that_kills_its_relays_is_put_aside(doubt: str) -> None:
    """
    With the doubt that it has, and where its units are summed up. Covers: K15
    """
    once_more, _ = choose([candidate(crashes=MOST_CRASHES - 1, **{doubt: True})], 10, 1)
    claimed, (one,) = choose([candidate(crashes=MOST_CRASHES, **{doubt: True})], 10, 1)

    assert (1, 0) == (len(once_more), len(claimed))
    assert (HourState.QUARANTINED, True) == (one.state, one.in_doubt)
    assert (5_000_000, ProductDimension("product", "requests")) == (
        one.claim.quantity,
        one.claim.of,
    )


def test_relays_that_die_of_something_else_put_nothing_aside() -> None:
    """
    They send nothing at all, however often they start. ledger section 7, suspicion: reproduced.
    Covers: K15
    """
    (one,), aside = choose([candidate(crashes=9 * MOST_CRASHES, others_sent=False)], 10, 1)

    assert 1 == one.hour_id
    assert [] == aside


@pytest.mark.parametrize(("crashes", "taken"), [(0, 16), (1, 4), (2, 1), (3, 1), (9, 1)])
def test_the_more_relays_died_the_fewer_are_claimed(crashes: int, taken: int) -> None:
    """
    So that a record which kills its relay is soon alone. Covers: K15
    """
    claimed, _ = choose([candidate(n, crashes=crashes) for n in range(20)], 16, 1)

    assert taken == len(claimed)


@pytest.mark.parametrize(
    "line",
    [
        [candidate(0), candidate(1), candidate(2, crashes=9), candidate(3)],
        [candidate(0, urgent=True), candidate(1, urgent=True), candidate(2)],
    ],
    ids=["before one that kills", "last hours, which the service takes for about an hour"],
)
def test_some_go_without_the_others(line: list[FrozenHour]) -> None:
    """
    Only what would share a claim with a record that kills is held up, or what is not urgent.
    """
    assert [0, 1] == [one.hour_id for one in choose(line, 16, 1)[0]]
