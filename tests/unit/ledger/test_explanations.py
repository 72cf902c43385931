"""Every state of the ledger is explained to whoever finds it."""

import re

import pytest

from marketplace_metering_async.cli.commands.ledger import app
from marketplace_metering_async.ledger import HourState, UsageLedger
from marketplace_metering_async.ledger.explanations import EXPLANATIONS


def test_every_state_has_a_meaning_and_an_advice() -> None:
    """
    Newcomer M11
    """
    assert set(HourState) == set(EXPLANATIONS)
    for meaning, advice in EXPLANATIONS.values():
        assert re.fullmatch(r"[A-Z].+\.", meaning)
        assert re.fullmatch(r"[A-Z`].+\.", advice)


def test_a_state_is_explained_by_its_name_too() -> None:
    """
    And what is none is named.
    """
    assert EXPLANATIONS[HourState.CONFLICT] == UsageLedger.explain("conflict")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'typo' is not a valid HourState"):
        UsageLedger.explain("typo")  # type: ignore[arg-type]


def test_the_commands_that_are_named_exist() -> None:
    """
    With the states that they name.
    """
    names = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    text = " ".join(explanation.advice for explanation in EXPLANATIONS.values())

    assert set(re.findall(r"`ledger ([a-z-]+)", text)) <= names
    assert set(re.findall(r"--state ([a-z_]+)", text)) <= {*HourState}
