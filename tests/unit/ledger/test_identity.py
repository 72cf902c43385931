"""Which ledger a database holds, and who may use it."""

import pytest
from attrs import evolve
from support.statuses import EMPTY

from marketplace_metering_async.errors import LedgerRegionMismatchError, LedgerUnusableError
from marketplace_metering_async.ledger.identity import (
    claimed_by_a_copy,
    held_through,
    introduction,
    lost_watermark,
    require_here,
    require_known,
    require_watermark,
    sign_of_a_copy,
)
from marketplace_metering_async.ledger.watermark import UNKNOWN, Place, Watermark

LEDGER = evolve(
    EMPTY.ledger,
    region_name="us-east-1",
    host="metering",
    mark="here",
    claims=3,
    claimed_through=3600,
    watermark="/w/one",
)
HERE = Place(mark="here", mark_is_proof=True, path="/w/one", watermark=LEDGER.claimed())


def test_a_copy_is_known_by_what_it_lacks() -> None:
    """
    A counter outside that is above its own, whatever else is as it was. Less is a crash between the
    two. Covers: K19. ledger C1
    """
    above = evolve(HERE, watermark=Watermark(claims=4, through=7200))
    below = evolve(HERE, watermark=Watermark(claims=2, through=0))
    sign = sign_of_a_copy(LEDGER, above)

    assert sign == "it has claimed records 3 times, and /w/one says 4: what came between is missing"
    since = sign_of_a_copy(evolve(LEDGER, guarded_since=1), above)
    assert since == f"{sign}, or was sent by this copy since"
    assert 7200 == held_through(LEDGER, above)
    assert sign_of_a_copy(LEDGER, HERE) is sign_of_a_copy(LEDGER, below) is None


def test_a_foreign_mark_is_that_of_a_copy() -> None:
    """
    What the other one has claimed is unknown then. Covers: K20
    """
    there = evolve(HERE, mark="there", path="/there/one", watermark=None)

    assert sign_of_a_copy(LEDGER, there) == "its database is not where it was made"
    assert UNKNOWN == held_through(LEDGER, there)


def test_what_a_copy_claims_stands_outside_above_all_that_was_counted() -> None:
    """
    But not where that would seem to be known which is not.
    """
    moved = evolve(HERE, mark="new", mark_is_proof=False)
    above = evolve(HERE, watermark=Watermark(claims=9, through=7200))

    assert Watermark(claims=4, through=7200) == claimed_by_a_copy(LEDGER, moved, 7200)
    assert Watermark(claims=10, through=7200) == claimed_by_a_copy(LEDGER, above, 3600)
    assert Watermark(claims=10, through=9000) == claimed_by_a_copy(LEDGER, above, 9000)
    assert claimed_by_a_copy(LEDGER, HERE, 7200) is None
    for lower in (None, Watermark(claims=2, through=3600)):
        assert claimed_by_a_copy(LEDGER, evolve(moved, watermark=lower), 7200) is None


def test_what_has_all_that_was_claimed_holds_no_later_hour() -> None:
    """
    A cluster that was upgraded with another identity lacks nothing, as its watermark shows; one
    that travels with its database, or is lower, shows nothing. ledger section 7
    """
    new = evolve(HERE, mark="new", mark_is_proof=False)
    lower = evolve(new, watermark=Watermark(claims=2, through=0))

    assert sign_of_a_copy(LEDGER, new) is not None
    assert 3600 == held_through(LEDGER, new)
    assert UNKNOWN == held_through(LEDGER, lower)
    assert UNKNOWN == held_through(LEDGER, evolve(new, mark_is_proof=True))


@pytest.mark.parametrize(
    ("mark", "found", "is_copy"),
    [
        ("7 5", "7 5", False),
        ("7 5", "- 5", False),
        ("- 5", "7 5", False),
        ("7 5", "- 6", True),
        ("7 5", "8 5", True),
        ("7 5", "7", True),
    ],
)
def test_what_a_server_does_not_show_is_no_sign(mark: str, found: str, *, is_copy: bool) -> None:
    """
    Be it that it did before, or does now. ledger M7, section 7
    """
    place = evolve(HERE, mark=found)

    assert is_copy == (sign_of_a_copy(evolve(LEDGER, mark=mark), place) is not None)


@pytest.mark.parametrize("mark_is_proof", [True, False])
def test_a_watermark_that_is_missing_is_a_sign_where_the_place_proves_nothing(
    *, mark_is_proof: bool
) -> None:
    """
    A file whose number and machine are the known ones was moved, or somebody has removed the
    watermark: it is made anew, and that is said. A database in a server is as it was in any case.
    """
    bare = evolve(HERE, watermark=None, mark_is_proof=mark_is_proof)
    moved = evolve(bare, path="/elsewhere/one")
    never = evolve(LEDGER, watermark=None)

    assert (sign_of_a_copy(LEDGER, bare) is None) == mark_is_proof
    assert sign_of_a_copy(LEDGER, moved) is None
    assert sign_of_a_copy(never, bare) is None
    assert "made anew at /elsewhere/one" in str(lost_watermark(LEDGER, moved))
    assert lost_watermark(never, bare) is lost_watermark(LEDGER, HERE) is None


def test_nothing_is_sent_where_the_watermark_cannot_be_written() -> None:
    """
    By a process that does not know where it is.
    """
    require_watermark(LEDGER, "/w/one")
    require_watermark(evolve(LEDGER, watermark=None), None)
    with pytest.raises(LedgerUnusableError, match="watermark=FOLDER"):
        require_watermark(LEDGER, None)


def test_a_copy_is_said_to_be_one_until_somebody_adopts_it() -> None:
    """
    With what shows it, while it shows.
    """
    still = introduction(evolve(LEDGER, guarded_since=1), None, None)

    assert str(introduction(LEDGER, None, "a sign")).endswith("; a sign")
    assert "copy" in str(still)
    assert introduction(LEDGER, "us-east-1", None) is None


def test_a_ledger_serves_one_region() -> None:
    """
    Or the first that is named. Covers: M16
    """
    with pytest.raises(LedgerRegionMismatchError, match="us-east-1, not to eu-west-1"):
        introduction(LEDGER, "eu-west-1", None)

    assert introduction(evolve(LEDGER, region_name=None), "eu-west-1", None) is None


def test_a_ledger_that_has_moved_is_no_copy() -> None:
    """
    Nor is its region looked at: it can only be read.
    """
    moved = evolve(LEDGER, moved_to="x")

    assert sign_of_a_copy(moved, evolve(HERE, mark="there")) is None
    assert introduction(moved, "eu-west-1", None) == (
        "this ledger has moved to x; it can only be read"
    )
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
