"""The fixture `metering_ledger`: one clock for sandbox, client and ledger."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from support.clusters import asked
from support.suites import Suite, suite_of

from marketplace_metering_async import ConfigurationError, Customer, UsageLedger
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox, SandboxClock
from marketplace_metering_async.testing import LedgerSandbox, SandboxThread
from marketplace_metering_async.testing.ledgers import place_in

pytest_plugins = ["pytester"]
BUYER = Customer(product_code="p", customer_aws_account_id="111122223333")
NOON = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def bench(url: str) -> Iterator[LedgerSandbox]:
    """What the fixture gives, on both stores."""
    with (
        SandboxThread(Sandbox(clock=SandboxClock(NOON, speed=0))) as running,
        place_in(url) as place,
    ):
        yield LedgerSandbox(place, running.sandbox)


async def use(bench: LedgerSandbox, quantity: int, **more: Any) -> None:
    async with bench.open() as ledger:
        await ledger.add_usage(dimension="requests", quantity=quantity, customer=BUYER, **more)


async def test_advancing_seals_and_sends(bench: LedgerSandbox) -> None:
    """
    Issue 21.8, newcomer M3. Both hours of usage, each as one record; the one that runs stays open.
    """
    await use(bench, 40)
    await use(bench, 2)
    status = await bench.advance(hours=1)
    assert 42 == status.metered
    await use(bench, 5)
    await bench.advance()
    bench.book.assert_metered({("111122223333", "requests", NOON): 42})

    status = await bench.advance(hours=2)

    hours = {
        ("111122223333", "requests", NOON): 42,
        ("111122223333", "requests", NOON + HOUR): 5,
    }
    bench.book.assert_metered(hours)
    assert (47, 0, 0) == (status.metered, status.open, status.frozen)
    assert bench.clock.now() == bench.sandbox.clock.now() == NOON + 3 * HOUR


@pytest.mark.parametrize(
    "kind",
    [FaultKind.RESET_AFTER, FaultKind.RESET_BEFORE, FaultKind.THROTTLE, FaultKind.REFUSE],
)
async def test_retries_do_not_hang_it(bench: LedgerSandbox, kind: FaultKind) -> None:
    """
    Issue 21.8, newcomer M3. Nor do they take the seconds that they say.
    """
    await use(bench, 42)
    bench.sandbox.inject(Fault(kind=kind, max_hits=3))
    began = monotonic()

    status = await bench.advance(hours=2)

    bench.book.assert_metered({("111122223333", "requests", NOON): 42})
    probably = status.ended.get(HourState.PROBABLY_METERED, 0)
    assert 42 == status.metered + probably
    assert monotonic() - began < 5


async def test_a_service_that_is_down_for_long_does_not_hang_it(bench: LedgerSandbox) -> None:
    """
    The time goes on to where it was to go, and the usage stays for later.
    """
    await use(bench, 42)
    bench.sandbox.inject(Fault(kind=FaultKind.REFUSE))

    status = await bench.advance(hours=3)

    assert (0, 42) == (status.metered, status.frozen)
    assert bench.clock.now() == NOON + 3 * HOUR
    bench.sandbox.faults.clear()
    assert 42 == (await bench.advance(hours=1)).metered


async def test_the_clock_is_not_moved_back(bench: LedgerSandbox) -> None:
    """
    Sealed is sealed.
    """
    with pytest.raises(ValueError, match="no time before now"):
        await bench.advance(hours=-1)


async def test_a_place_in_postgresql_leaves_nothing_behind(place: str) -> None:
    """
    The schema of the test's ledger is dropped, and nobody else's.
    """
    with (
        SandboxThread(Sandbox(clock=SandboxClock(NOON, speed=0))) as running,
        place_in(place) as url,
    ):
        await use(LedgerSandbox(url, running.sandbox), 1)
        assert 1 == await schemas_in(place)

    assert 0 == await schemas_in(place)


async def test_nor_does_one_whose_test_was_ended_early(place: str) -> None:
    """
    Ctrl-C, or a fixture that fails on top of it.
    """
    with pytest.raises(KeyboardInterrupt), place_in(place) as url:
        async with UsageLedger.open(url):
            assert 1 == await schemas_in(place)
        raise KeyboardInterrupt

    assert 0 == await schemas_in(place)


def test_a_place_in_postgresql_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Said before the test, and not by what cleans up after it.
    """
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(ConfigurationError, match=r"\[postgres\]"), place_in("postgresql://h/d"):
        pytest.fail("there can be no ledger")


async def schemas_in(place: str) -> int:
    question = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'metering_test_%'"
    found: int = await asked(place, question)
    return found


SUITE = """
import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from marketplace_metering_async import MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.sandbox import Fault, FaultKind

NOON = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)

async def sell(url, clock, quantity):
    "The program under test: it opens what its settings name."
    async with UsageLedger.open(url, clock=clock) as ledger:
        await ledger.add_usage(dimension="seats", quantity=quantity, product_code="p",
                               customer_aws_account_id="111122223333")

async def test_the_bill_of_november(metering_ledger):
    metering_ledger.sandbox.clock.set(NOON)
    await sell(metering_ledger.url, metering_ledger.clock, "1.5")
    metering_ledger.sandbox.inject(Fault(kind=FaultKind.RESET_AFTER, max_hits=1))
    await metering_ledger.advance(days=2)
    metering_ledger.book.assert_metered({("111122223333", "seats", NOON): Decimal("1.5")})

async def test_a_relay_of_the_program(metering_ledger, metering_sandbox):
    metering_sandbox.clock.set(NOON)
    async with (
        metering_ledger.open() as ledger,
        MarketplaceMeteringClient(clock=metering_ledger.clock) as client,
        ledger.relaying(client),
    ):
        await sell(metering_ledger.url, metering_ledger.clock, 3)
        metering_sandbox.advance(hours=2)
        async with asyncio.timeout(10):
            while not len(metering_ledger.book):
                await asyncio.sleep(0.01)
    metering_ledger.book.assert_metered({("111122223333", "seats", NOON): 3})

def test_without_a_loop(metering_ledger):
    asyncio.run(sell(metering_ledger.url, metering_ledger.clock, 4))
    status = asyncio.run(metering_ledger.advance(hours=3))
    assert status.metered == 4
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return suite_of(pytester, monkeypatch)


def test_a_suite_of_a_user(run: Suite) -> None:
    """
    Asyncio or not, a program with a relay or without; each test has a ledger of its own.
    """
    run(SUITE).assert_outcomes(passed=3)


def test_a_suite_on_postgresql(run: Suite, pytester: pytest.Pytester, postgres: str) -> None:
    """
    Where the suite's conftest.py says so.
    """
    pytester.makeconftest(f"""
        import pytest

        @pytest.fixture
        def metering_ledger_url():
            return {postgres!r}
    """)
    run("""
        from marketplace_metering_async import Customer

        async def test_it(metering_ledger):
            assert metering_ledger.url.startswith("postgresql:")
            buyer = Customer(product_code="p", customer_aws_account_id="111122223333")
            async with metering_ledger.open(grace=0) as ledger:
                await ledger.add_usage(dimension="seats", quantity=4, customer=buyer)
                assert (await metering_ledger.advance(hours=2)).metered == 4
    """).assert_outcomes(passed=1)
