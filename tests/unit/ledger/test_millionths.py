"""Quantities in millionths."""

from marketplace_metering_async.ledger.millionths import millionths_of, units_of


def test_units_come_back_as_they_were() -> None:
    """
    Exact, however large.
    """
    for units in (0, 1, 17, 2**31 - 1, 10**30):
        assert units == units_of(millionths_of(units))
    assert 17_000_000 == millionths_of(17)
