"""Settings of the whole test run, and an ear for what must not be said in it."""

import gc
import logging
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.canaries import Ear, listening

settings.register_profile(
    "fast",
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# Workers and the many processes that tests start share what one of them has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


if os.environ.get("METERING_TEST_UVLOOP"):

    def pytest_asyncio_loop_factories() -> dict[str, Any]:
        """Run the tests on sockets on uvloop."""
        uvloop: Any = pytest.importorskip("uvloop")
        return {"uvloop": uvloop.new_event_loop}


def pytest_configure() -> None:
    """Log everything, for the ear; pytest's own handlers take what `log_level` says."""
    logging.getLogger().setLevel(logging.DEBUG)


def pytest_xdist_auto_num_workers() -> int:
    """Four workers on two cores: the tests wait for servers, processes and disks as well."""
    return (os.cpu_count() or 1) * 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """
    Collect tests without garbage collection, which takes half of the time, and never look at them
    again: they stay until the end.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)  # not with every 700 objects
        gc.enable()


@pytest.fixture(scope="session")
def ear() -> Iterator[Ear]:
    """Whoever hears all that the package says."""
    with listening() as ear:
        yield ear


@pytest.fixture(autouse=True)
def _nothing_secret_is_said(ear: Ear) -> Iterator[None]:
    """Fail the test in which a secret, or a whole id, is logged, warned of, told or raised."""
    ear.forget()
    yield
    leaks = ear.leaks()
    assert not leaks, "\n".join(leaks)
