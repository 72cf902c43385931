"""What a ledger lacks, by what stands outside of it and by what a process remembers."""

from datetime import UTC, datetime

import pytest
from attrs import evolve

from marketplace_metering_async.ledger.watermark import (
    LEAP,
    UNKNOWN,
    Memory,
    Watermark,
    adopted,
    watermark_named,
)

STORED = Memory(claims=5, notes=("note",), stored_at=datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC))


def test_a_watermark_is_read_as_it_was_written() -> None:
    """
    Of several, that of the latest claim counts.
    """
    earlier, later = Watermark(claims=9, through=7200), Watermark(claims=10, through=3600)

    assert earlier < later == watermark_named(later.as_name())


@pytest.mark.parametrize("name", ["", "3", "3-", "-3", "3-4-5", "3-4~", ".nfs0001", "٣-4"])
def test_what_is_no_watermark_is_none(name: str) -> None:
    """
    Systems leave names of their own in folders.
    """
    assert watermark_named(name) is None


def test_a_process_misses_what_it_has_seen() -> None:
    """
    Claims, or its own latest usage. ledger C1
    """
    assert STORED.missing(5) is STORED.missing(6) is None
    fewer, lost = STORED.missing(4), STORED.missing(5, note_found=False)
    assert fewer is not None
    assert lost is not None
    assert (True, "the ledger has claimed records 4 times, and had 5 times") == (
        fewer.is_copy,
        fewer.text,
    )
    assert lost.is_copy
    assert "stored at 2026-11-23 12:00:01 UTC is missing" in lost.text
    assert STORED.without_notes().missing(5, note_found=False) is None


def test_what_may_have_taken_the_place_of_a_note_is_looked_for_besides() -> None:
    """
    While there are few of them: a false alarm would be the end of many. ledger C1
    """
    doubted = STORED.or_with("second").or_with("third")

    assert ("note", "second", "third") == doubted.notes
    assert doubted.missing(5, note_found=False) == STORED.missing(5, note_found=False)
    assert () == STORED.without_notes().or_with("note").notes
    for number in range(100):
        doubted = doubted.or_with(str(number))
        assert not doubted.notes or len(doubted.notes) <= 100
    assert () == doubted.notes


def test_what_is_missing_in_an_adopted_copy_is_named_and_makes_no_copy_of_it() -> None:
    """
    A person has said already to go on with it.
    """
    missing = STORED.missing(1 + LEAP, note_found=False)  # it had claimed less often

    assert missing is not None
    assert not missing.is_copy


def test_an_adopted_copy_goes_on_above_all_that_is_known() -> None:
    """
    And holds what may be metered: up to the watermark where that is above it, to now if nobody
    knows. ledger C1
    """
    outside = Watermark(claims=9, through=3600)

    assert Watermark(claims=9 + LEAP, through=3600) == adopted(4, UNKNOWN, outside, 9000)
    assert Watermark(claims=9 + LEAP, through=9000) == adopted(9, UNKNOWN, outside, 9000)
    assert Watermark(claims=9 + LEAP, through=5400) == adopted(9, 5400, None, 9000)
    assert Watermark(claims=4 + LEAP, through=9000) == adopted(4, UNKNOWN, None, 9000)
    assert Watermark(claims=9 + LEAP, through=7200) == adopted(
        4, 3600, evolve(outside, through=7200), 9000
    )
