"""The ledger's page in a real browser: what it shows, and for whom it works."""

from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from support.accessibility import obstacles
from support.chromium import Browser, Page
from support.ledgers import HOUR, NOON, House, house_at

from marketplace_metering_async import UsageRecord
from marketplace_metering_async.cli.commands.ledger_serve import page_app

pytestmark = pytest.mark.asyncio(loop_scope="session")
ODD = "<b>&'\"\u202e" + "long" * 40


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A ledger with an hour of each kind."""
    folder = tmp_path_factory.mktemp("ledger")
    async with house_at(f"sqlite:///{folder}/u.db") as house:
        await house.use("17.5", at=NOON - HOUR)
        await house.use(3, at=NOON - HOUR, customer_aws_account_id="000000000002")
        house.clock.step(minutes=11)
        async with house.client() as client:
            other = UsageRecord(
                timestamp=NOON - HOUR,
                dimension="requests",
                quantity=9,
                customer_aws_account_id="000000000002",
            )
            await client.batch_meter_usage([other], product_code="product")
            await house.ledger.relay_once(client)
        await house.use(1_234_567, dimension=ODD)
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(house: House) -> AsyncIterator[str]:
    runner = web.AppRunner(page_app(house.ledger), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    async with browser.open(f"{url}/") as page:
        await page.shows("Metering ledger")
        yield page
        assert [] == page.complaints
        own = (url, "about:", "data:")
        assert [] == [address for address in page.requested if not address.startswith(own)]


async def test_it_shows_what_status_and_history_know(page: Page) -> None:
    """
    Sums, what comes next, what ended with its way out, and hours; names as text. Issue 26
    """
    await page.shows("1,234,567", ".figures")
    await page.shows("17.5", ".figures")
    await page.shows("Hours to be sealed at", "#next")
    await page.shows("A relay last worked", "#next")
    await page.shows(ODD, "#products")
    await page.shows("conflict", "#ended")
    await page.shows("3 units, 1 records", "#ended")
    await page.shows("ledger", "#ended p")
    await page.shows("The latest 3, the latest first", "#hours")
    await page.shows("000000000002", "#hours")
    assert "open" == await page.run("document.querySelector('#hours td.state').innerText")


async def test_it_needs_no_scripts(page: Page) -> None:
    """
    Unlike the sandbox's page, whose style it shares.
    """
    await page.send("Emulation.setScriptExecutionDisabled", value=True)
    await page.send("Page.reload")
    try:
        await page.shows("1,234,567", ".figures")
        assert await page.run("document.querySelector('.top nav').offsetHeight > 0")
    finally:
        await page.send("Emulation.setScriptExecutionDisabled", value=False)


async def test_hours_are_narrowed_down(page: Page, url: str) -> None:
    """
    By what is typed; a month that is none is said to be none.
    """
    await page.fill("[name=customer_aws_account_id]", "000000000002")
    await page.click("form button")
    await page.shows("The latest 1,", "#hours")
    await page.shows("000000000002", "#hours")
    await page.until("document.querySelector('[name=customer_aws_account_id]').value !== ''")
    async with aiohttp.ClientSession() as session:
        for month, said in (
            (f"{NOON - timedelta(days=60):%Y-%m}", "No hours."),
            ("May", "YYYY-MM"),
        ):
            async with session.get(f"{url}/", params={"month": month}) as answer:
                assert said in await answer.text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
async def test_nothing_is_in_anybodys_way(
    browser: Browser, url: str, scheme: str, width: int, height: int
) -> None:
    """
    Names, order of headings, contrast, nothing beyond the edge; both schemes and widths. Issue 26
    """
    async with browser.open(f"{url}/", width=width, height=height, scheme=scheme) as page:
        assert [] == await obstacles(page)
        assert await page.run("document.documentElement.scrollWidth <= innerWidth")


async def test_only_this_machine_and_no_other_site_is_answered(url: str) -> None:
    """
    Ids of customers are on the page: a foreign name for loopback is refused, and so is writing.
    """
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/", headers={"Host": "evil.example"}) as answer:
            assert 403 == answer.status
        async with session.get(f"{url}/", headers={"Origin": "http://evil.example"}) as answer:
            assert 403 == answer.status
        async with session.post(f"{url}/") as answer:
            assert 405 == answer.status
        async with session.get(f"{url}/page.css") as answer:
            assert 200 == answer.status
