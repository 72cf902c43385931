"""A short round of the torture; the long ones are commands (see torture.py)."""

import asyncio
from pathlib import Path

import pytest
from campaigns import torture
from support.ledgers import new_postgres_database, postgres_server


def test_killed_processes_on_one_file_lose_and_double_nothing(tmp_path: Path) -> None:
    """
    Covers: K01, K02, K03, K04, K05, K06, K07, K08, K09, K10, K16, M05, M06, C05, C14
    """
    audit = torture.torture(f"sqlite:///{tmp_path}/usage.db", kills=40, processes=3, seed=1)

    assert audit.is_clean, audit


def test_a_file_that_is_put_back_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """
    The producers repeat; what may be billed already is named as unconfirmed. Covers: K19, K21
    ledger C1
    """
    audit = torture.torture(
        f"sqlite:///{tmp_path}/usage.db", kills=60, processes=3, seed=4, restores=2
    )

    assert audit.restores == 2
    assert audit.is_clean, audit


def test_killed_relays_and_a_killed_server_lose_and_double_nothing() -> None:
    """
    Covers: M09, M12, M13
    """
    with postgres_server() as server:
        url = asyncio.run(new_postgres_database(server.url))

        def between(kill: int) -> None:
            if kill == 7:
                server.crash()

        audit = torture.torture(url, kills=15, processes=3, seed=2, between=between)

    assert audit.is_clean, audit


ROUNDS = 6


@pytest.mark.parametrize(
    ("mutant", "kills", "restores"),
    [
        ("acknowledge_before_send", 60, 0),
        ("adopted_copy_holds_nothing", 60, 3),
        ("copy_is_not_seen", 60, 3),
        ("no_event_id", 15, 0),
    ],
)
def test_the_harness_finds_mistakes(tmp_path: Path, mutant: str, kills: int, restores: int) -> None:
    """
    Otherwise it would prove nothing. Chance decides whether a round meets the mistake: where one
    does not, the next has another seed.
    """
    audits = (
        torture.torture(
            f"sqlite:///{tmp_path}/{seed}.db",
            kills=kills,
            processes=2,
            seed=seed,
            restores=restores,
            mutant=mutant,
        )
        for seed in range(ROUNDS)
    )

    assert any(not audit.is_clean for audit in audits)
