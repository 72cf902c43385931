"""The sums that a ledger keeps: what a transaction changes of them."""

from marketplace_metering_async.ledger.model import ProductDimension
from marketplace_metering_async.ledger.sums import Sum, Sums

ONE = ProductDimension("one", "requests")
TWO = ProductDimension("two", "requests")


def test_changes_of_one_sum_are_added_up() -> None:
    """
    Far beyond 64 bits, and the latest moment of all.
    """
    sums = Sums()
    for latest in (5, 9, 7):
        sums.add(ONE, "recorded", 2**62, 1, latest)

    assert [Sum("one", "requests", "recorded", 3 * 2**62, 3, 9)] == sums.changes()


def test_what_moves_is_taken_from_one_and_added_to_the_other() -> None:
    """
    And what comes back is no change at all.
    """
    sums = Sums()
    sums.move(TWO, "open", "frozen", 7)
    sums.move(ONE, "frozen", "frozen", 3)

    assert [
        Sum("two", "requests", "frozen", 7, 1, 0),
        Sum("two", "requests", "open", -7, -1, 0),
    ] == sums.changes()


def test_all_write_in_one_order() -> None:
    """
    Whatever the order of the changes: two who lock rows in different orders wait for each other.
    """
    one, other = Sums(), Sums()
    for sums, order in ((one, (ONE, TWO)), (other, (TWO, ONE))):
        for of in order:
            sums.move(of, "open", "frozen", 1)

    assert one.changes() == other.changes()


def test_a_record_of_zero_is_one() -> None:
    """
    Its hour is open or not, whatever is in it.
    """
    sums = Sums()
    sums.add(ONE, "open", 0, 1)

    assert [Sum("one", "requests", "open", 0, 1, 0)] == sums.changes()
