"""Short rounds of the torture, longer ones by .ci/run; long ones are commands (see torture.py)."""

import pytest
from campaigns.mutants import MUTANTS
from campaigns.torture import ROUNDS, Round, find, torture
from campaigns.troubles import file_place, pair_place, server_place


@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.campaign)])
def test_killed_processes_on_one_file_lose_and_double_nothing(kills: int) -> None:
    """
    While clocks jump, the account's access is denied for a while, and old events are repeated whose
    ids are pruned.
    Covers: K01, K02, K03, K04, K05, K06, K07, K08, K09, K10, K16, M05, M06, B08, C05, C14
    """
    this = Round(kills=kills, seed=1, clock_jumps=True, account_faults=2, prunes=1)
    with file_place() as place:
        audit = torture(place, this)

    assert audit.is_clean, audit


@pytest.mark.parametrize("kills", [12, pytest.param(40, marks=pytest.mark.campaign)])
def test_a_file_that_is_put_back_loses_and_doubles_nothing(kills: int) -> None:
    """
    The producers repeat; what may be billed already is named as unconfirmed. Covers: K19, K21
    ledger C1
    """
    with file_place() as place:
        audit = torture(place, Round(kills=kills, seed=4, setbacks=2))

    assert audit.setbacks == 2
    assert audit.is_clean, audit


def test_killed_relays_and_a_killed_server_lose_and_double_nothing() -> None:
    """
    With usage of callers' transactions, and usage without an id. Covers: M09, M12, M13
    """
    this = Round(kills=8, seed=2, pace=4, crashes=1, transactions=True, unnamed=True)
    with server_place() as place:
        audit = torture(place, this)

    assert audit.is_clean, audit


def test_servers_that_take_over_lose_and_double_nothing() -> None:
    """
    Behind a pooler in transaction mode, by a standby that lacks the last commits, whose producers
    repeat. Covers: M10, M11
    """
    this = Round(kills=10, seed=3, pace=4, setbacks=1, transactions=True)
    with pair_place(pooled=True) as place:
        audit = torture(place, this)

    assert audit.setbacks == 1
    assert audit.is_clean, audit


IN_EACH_RUN = ("no_event_id",)
"""The quickest; .ci/run has three others, and torture.py --mutants all."""


@pytest.mark.parametrize(
    "mutant",
    [
        *IN_EACH_RUN,
        *(
            pytest.param(mutant, marks=pytest.mark.campaign)
            for mutant in MUTANTS
            if mutant not in IN_EACH_RUN
        ),
    ],
)
def test_the_harness_finds_mistakes(mutant: str) -> None:
    """
    Otherwise it would prove nothing.
    """
    assert find(mutant, ROUNDS)
