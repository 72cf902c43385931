"""A world that a test's thread changes, while the sandbox's thread keeps and shows it."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from marketplace_metering_async.sandbox.figures import agreements_figures, world_figures
from marketplace_metering_async.sandbox.page.products_view import ProductsView
from marketplace_metering_async.sandbox.service.book import Book
from marketplace_metering_async.sandbox.service.memory import News, remember
from marketplace_metering_async.sandbox.service.principal import Principal
from marketplace_metering_async.sandbox.world import World

SHARED = "shared"
MOST = 1500


@pytest.fixture(autouse=True)
def _many_turns() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def change(world: World) -> None:
    """Do what tests do, as fast as it goes."""
    for number in range(MOST):
        product = f"p{number}"
        world.declare_product(product, licenses={f"license {product}": "1"})
        world.set_subscribed(SHARED, str(number), subscribed=True)
        world.subscribe(product, "111122223333")
        world.suspend(str(number))
        world.issue_token(product)


def meanwhile(world: World, look: Callable[[], object]) -> None:
    """Look again and again while the world changes, and once after that."""
    world.declare_product(SHARED)
    with ThreadPoolExecutor(1) as others:
        changing = others.submit(change, world)
        while not changing.done():
            look()
        changing.result()
    look()


def test_all_that_is_new_is_told_once_at_least() -> None:
    """
    What comes while somebody looks is there now, or the next time.
    """
    world, copy = World(), Book()
    news = News(world.book)

    meanwhile(world, lambda: remember(copy, news.take()))

    assert world.book.catalogue == copy.catalogue
    assert list(world.book.tokens) == list(copy.tokens)


@pytest.mark.parametrize(
    "look",
    [
        lambda world: list(agreements_figures(world)),
        lambda world: world_figures(world, 0.0),
        lambda world: ProductsView(world).figures(),
        lambda world: world.book.double_billed(),
        lambda world: world.book.catalogue.product_of_license("none"),
    ],
)
def test_what_is_shown_meanwhile_is_no_accident(look: Callable[[World], Any]) -> None:
    """
    A page that is open asks all the time.
    """
    world = World()

    meanwhile(world, lambda: look(world))


def test_the_quota_is_changed_under_load() -> None:
    """
    By a test, while new accounts call.
    """
    world, numbers = World(), count()

    def look() -> None:
        world.quota_of(Principal(region=str(next(numbers))), "BatchMeterUsage").require(0.0)

    def turn() -> None:
        for number in range(1, 100):
            world.calls_per_second = number
        world.set_quota(5)

    for _ in range(MOST):
        world.quota_of(Principal(region=str(next(numbers))), "BatchMeterUsage")

    with ThreadPoolExecutor(1) as others:
        turning = others.submit(turn)
        while not turning.done():
            look()
        turning.result()
