"""The sums that a book keeps: right whatever comes between two questions, and whoever asks."""

from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Thread

import pytest

from marketplace_metering_async.sandbox.service.agreements import Agreement
from marketplace_metering_async.sandbox.service.book import Book
from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.service.metered import Metered

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LICENSE = "arn:aws:license-manager::0:license:l-1"


def meter(
    book: Book, quantity: int, *, customer: str = "1", license_arn: str | None = None
) -> None:
    number = len(book)
    product = None if license_arn else "p"
    key = ("us-east-1", product, license_arn, customer, None, "requests", str(number))
    one = Metered(*key[:5], None, "requests", NOW, quantity, (), str(number), NOW)
    book.metered.add(key, one)


def test_sums_grow_with_the_book_and_end_with_it() -> None:
    """
    Asked before, between and after; what was forgotten is not in them, also where as many came.
    """
    book = Book()
    assert {} == book.totals()
    meter(book, 3)
    assert {"requests": 3} == book.totals()
    meter(book, 4, customer="2")
    assert {"requests": 7} == book.totals()
    assert {"1": 3, "2": 4} == book.totals(by="customer")
    book.forget()
    meter(book, 1)
    meter(book, 2)
    assert {"requests": 3} == book.totals()
    assert {("1", "p"): 3} == book.totals(by=("customer", "product_code"))


def test_a_double_is_found_once_the_catalogue_says_so() -> None:
    """
    The product of a license and the account of an identifier may become known later.
    """
    book = Book()
    meter(book, 3)
    meter(book, 4, license_arn=LICENSE)
    assert [] == book.double_billed()
    book.products["p"] = Product(licenses={LICENSE: "1"})
    assert 1 == len(book.double_billed())
    book.products["p"] = Product()
    assert [] == book.double_billed()

    meter(book, 5, customer="legacy")
    assert [] == book.double_billed()
    book.catalogue.subscribe("p", "1", begins=NOW, customer_identifier="legacy")
    assert 1 == len(book.double_billed())


def test_more_combinations_are_asked_for_than_are_kept() -> None:
    """
    Each is right, and there is an end to what is kept.
    """
    book = Book()
    meter(book, 3)
    for number in range(40):
        by = ("customer",) * (number + 1)
        assert {("1",) * (number + 1): 3} == book.totals(by=by)
    assert book.sums.cache_info().currsize <= 16


@pytest.mark.parametrize("by", ["dimension", ("customer", "hour")])
def test_threads_ask_at_once(by: str | tuple[str, ...]) -> None:
    """
    No record is counted twice.
    """
    book = Book()
    for number in range(20_000):
        meter(book, 1, customer=str(number % 7))
    threads = [Thread(target=book.totals, kwargs={"by": by}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 20_000 == sum(book.totals(by=by).values())


def test_slices_are_no_seam() -> None:
    """
    Records that come while others are taken in are taken in as well, and whatever else is asked for
    meanwhile.
    """
    book = Book()
    for _ in range(4500):
        meter(book, 1)
    totals = book.sums("dimension")
    steps = totals.catch_up(book.metered)
    next(steps)
    meter(book, 1)
    for number in range(40):
        book.totals(by=("customer",) * (number + 1))
    assert 1 == len(list(steps))
    assert [("requests", 4501)] == list(totals.items())


def test_two_who_ask_while_the_catalogue_changes_come_to_an_end() -> None:
    """
    Both go by what it is now, instead of beginning anew for each other.
    """
    book = Book()
    for _ in range(9000):
        meter(book, 1)
    one = book.repeated.catch_up(book.metered)
    next(one)
    book.products["p"] = Product(licenses={LICENSE: "1"})
    other = book.repeated.catch_up(book.metered)
    turns = 0
    going = [one, other]
    while going:
        going = [steps for steps in going if next(steps, "end") is None]
        turns += 1
        assert turns < 12
    assert 1 == len(book.double_billed())


def test_no_slice_of_a_book_walks_all_agreements() -> None:
    """
    A hundred thousand of them, and a million records, of which each slice looks whether more came.
    """
    walks = 0

    class Counted(dict[str, Agreement]):
        def __iter__(self) -> Iterator[str]:
            nonlocal walks
            walks += 1
            return super().__iter__()

    book = Book()
    book.catalogue.agreements = Counted()
    for _ in range(4500):
        meter(book, 1)

    assert 1 == len(book.double_billed())
    assert not walks
