"""Which ledger a database holds, and who may use it."""

import pytest
from attrs import evolve

from marketplace_metering_async.errors import LedgerRegionMismatchError, LedgerUnusableError
from marketplace_metering_async.ledger.identity import (
    Identity,
    introduction,
    require_here,
    require_known,
)

LEDGER = Identity(
    ledger_id="one",
    region_name="us-east-1",
    host="metering",
    mark="here",
    guarded_since=None,
    moved_to=None,
    last_success_at=None,
    sealings=0,
    event_ids_since=0,
)


def test_a_foreign_mark_is_that_of_a_copy() -> None:
    """
    It is found to be one once, and said to be one until a person releases it. Covers: K19, K20
    """
    found, text = introduction(LEDGER, None, "there")
    still = introduction(evolve(LEDGER, mark="there", guarded_since=1), None, "there")

    assert found
    assert text is not None
    assert "copy" in text
    assert (False, text) == still
    assert (False, None) == introduction(LEDGER, "us-east-1", "here")


def test_a_ledger_serves_one_region() -> None:
    """
    Or the first that is named. Covers: M16
    """
    with pytest.raises(LedgerRegionMismatchError, match="us-east-1, not to eu-west-1"):
        introduction(LEDGER, "eu-west-1", "here")

    assert (False, None) == introduction(evolve(LEDGER, region_name=None), "eu-west-1", "here")


def test_a_ledger_that_has_moved_is_no_copy() -> None:
    """
    Nor is its region looked at: it can only be read.
    """
    found, text = introduction(evolve(LEDGER, moved_to="x"), "eu-west-1", "there")

    assert (False, "this ledger has moved to x; it can only be read") == (found, text)
    with pytest.raises(LedgerUnusableError, match="has moved to x"):
        require_here("x")


@pytest.mark.parametrize(("region", "host"), [("eu-west-1", "metering"), ("us-east-1", "other")])
def test_records_go_to_one_host(region: str, host: str) -> None:
    """
    Covers: M20
    """
    LEDGER.require_host("us-east-1", "metering")
    with pytest.raises(LedgerRegionMismatchError, match=f"{host} in {region}"):
        LEDGER.require_host(region, host)


def test_a_ledger_moves_to_one_other() -> None:
    """
    Again, if it was not done; never to itself, nor to a second one.
    """
    LEDGER.require_movable("two")
    evolve(LEDGER, moved_to="ledger two").require_movable("two")
    with pytest.raises(LedgerUnusableError, match="itself"):
        LEDGER.require_movable("one")
    with pytest.raises(LedgerUnusableError, match="moved to ledger two already"):
        evolve(LEDGER, moved_to="ledger two").require_movable("three")
    with pytest.raises(LedgerUnusableError, match="no ledger"):
        evolve(LEDGER, ledger_id=None).require_movable("two")


def test_a_process_goes_on_until_the_schema_leaves_it_behind() -> None:
    """
    Covers: M14
    """
    require_known(2, 2)
    with pytest.raises(LedgerUnusableError, match="knows schema 3; this one knows 2"):
        require_known(3, 2)
