"""The page in a real browser: what it shows, what its buttons do, and for whom it works."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
import pytest_asyncio
from aiohttp import web
from support.accessibility import obstacles
from support.chromium import PATIENCE, Browser, Page

from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
from marketplace_metering_async.sandbox import Fault, FaultKind, Rules, Sandbox
from marketplace_metering_async.sandbox.sdks import SDKS

pytestmark = pytest.mark.asyncio(loop_scope="session")
BUYER = "111122223333"


@pytest_asyncio.fixture(loop_scope="session")
async def place() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, place: Sandbox) -> AsyncIterator[Page]:
    """An open page that follows, and at the end has had nothing to complain about."""
    async with browser.open(place.page_url) as page:
        await page.shows("Live", "#live")
        yield page
        assert [] == page.complaints
        own = (place.url, "about:", "data:")  # data: chromium's own icons
        assert [] == [address for address in page.requested if not address.startswith(own)]


async def meter(place: Sandbox, *records: UsageRecord, product_code: str = "p") -> None:
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        await client.batch_meter_usage(records, product_code=product_code)


def usage(dimension: str = "requests", quantity: int | str = 42, hours: int = 0) -> UsageRecord:
    return UsageRecord(
        timestamp=datetime.now(UTC) - timedelta(hours=hours),
        dimension=dimension,
        quantity=quantity,
        customer_aws_account_id=BUYER,
    )


async def test_a_record_arrives_without_reloading(page: Page, place: Sandbox) -> None:
    """
    In figures, table, chart and calls; and a screen reader is told.
    """
    await page.run("window.loaded_once = true")
    await page.shows("No call has come yet", "#calls")
    await meter(place, usage())

    await page.shows(BUYER, "#usage-rows")
    await page.shows("1 Success", "#calls-list")
    await page.shows("42", "#units .amount")
    await page.until(
        "document.querySelectorAll('#units .s0[height]:not([height=\"0\"])').length === 1"
    )
    await page.until("document.querySelector('#said').textContent.includes('BatchMeterUsage')")
    await page.click("#calls-list summary")
    await page.shows('"Quantity": 42', "#calls-list pre")
    await meter(place, usage("seats", 7))
    await page.shows("seats", "#usage-rows")
    await page.shows("seats", "#units")
    assert ["requests", "42", "seats", "7"] == await page.run(
        "[...document.querySelectorAll('#units h3, #units .amount')].map((node) => node.innerText)"
    )
    assert await page.run("loaded_once && document.querySelectorAll('#calls details')[1].open")


async def test_decimals_are_shown_to_the_last_millionth(page: Page, place: Sandbox) -> None:
    """
    Figures and table are exact, also where a number of JavaScript is not; the chart has its bar.
    """
    large = [usage(name, "9999999999.999998") for name in ("requests", "tokens", "bytes")]
    await meter(place, *large, usage("seats", "0.000001"))

    await page.shows("9,999,999,999.999998", "#usage-rows")
    await page.shows("0.000001", "#usage-rows")
    await page.until("document.querySelector('#units .amount').title === '9,999,999,999.999998'")
    await page.until(
        "document.querySelectorAll('#units .s3[height]:not([height=\"0\"])').length === 1"
    )


async def test_the_table_is_broken_down_and_narrowed(page: Page, place: Sandbox) -> None:
    """
    By the columns that are ticked and the text that is typed.
    """
    await meter(place, usage(), usage(hours=1), usage("seats", 7))
    await page.shows("3 rows", "#usage-caption")
    await page.click("#usage-tools [value=hour]")
    await page.shows("2 rows", "#usage-caption")
    await page.shows("84", "#usage-rows")
    await page.fill("#usage-tools [name=search]", "seat")
    await page.shows("1 row", "#usage-caption")
    await page.until("!document.querySelector('#usage-rows').innerText.includes('requests')")


async def test_units_are_never_added_up(page: Page, place: Sandbox) -> None:
    """
    Neither at the top nor in the table, where it is broken down by something else.
    """
    await meter(place, usage(quantity=3), usage(hours=1), usage("kilobytes", 5000))
    await page.shows("3 rows", "#usage-caption")
    await page.click("#usage-tools [value=dimension]")
    await page.shows("several units", "#usage-rows")
    await page.click("#usage-tools [value=hour]")
    await page.shows("1 row", "#usage-caption")
    text = await page.run("document.querySelector('main').innerText")
    assert "5,045" not in text
    assert "45" in text


async def test_connect_comes_first_until_somebody_has(page: Page, place: Sandbox) -> None:
    """
    With the lines, and for each client from which version on they bring it here, or what to write.
    """
    first = "document.querySelector('.column').firstElementChild.id"
    assert "connect" == await page.run(first)
    await page.shows("AWS_ENDPOINT_URL_MARKETPLACE_METERING", "#environment")
    for sdk in SDKS:
        await page.shows(sdk.name, "#sdks")
        await page.shows(sdk.by_environment, "#sdks")
        await page.shows(sdk.in_code_at(place.url), "#sdks")
    await page.click("#connect summary")
    await meter(place, usage())
    await page.shows("42", "#units")
    await page.run("document.activeElement.blur()")
    await meter(place, usage("seats"))
    await page.until(f"{first} === 'usage'")


async def test_lists_are_capped(page: Page, place: Sandbox) -> None:
    """
    Forty calls, thirty refusals and fifty products do not push the rest of the page away.
    """
    place.set_quota(None)
    for number in range(50):
        place.declare_product(f"p{number}", dimensions=["requests"], customers=["1", "2"])
    for number in range(30):
        place.inject(Fault(kind=FaultKind.REFUSE, code=f"Code{number}", max_hits=1))
    for _ in range(45):
        await meter(place, usage(), product_code="p1")
    await page.shows("Code28", "#refusals-list")
    await page.until("document.querySelectorAll('#calls-list > li').length === 40")

    for part in ("calls", "refusals", "buyers", "connect", "faults"):
        height = await page.run(f"document.querySelector('#{part}').offsetHeight")
        assert height < 1000, (part, height)


async def test_a_rule_is_turned_and_turned_back(page: Page, place: Sandbox) -> None:
    """
    Readings, times and regions; what is not as usual stands there.
    """
    await page.shows("All as usual", "#rules")
    await page.click("#rules-turn summary")
    choose = "(() => { const s = document.querySelector('#rules-name'); s.value = '{}'; "
    choose += "s.dispatchEvent(new Event('change')); })()"
    await page.run(choose.replace("{}", "key_by"))
    await page.shows("clock hour or the exact timestamp", "#rules-means")
    await page.run("document.querySelector('#rules-value select').value = '\"timestamp\"'")
    await page.click("#rules-form button")
    await page.shows("timestamp, usually hour", "#rules-list")
    await page.run(choose.replace("{}", "closing"))
    await page.fill("#rules-value input", "7200")
    await page.click("#rules-form button")
    await page.shows("7200 s, usually 3600 s", "#rules-list")
    await page.run(choose.replace("{}", "regions"))
    await page.fill("#rules-value input", "us-east-1, eu-west-1")
    await page.click("#rules-form button")
    await page.shows("2 named", "#rules-list")
    rules = place.book.rules
    assert Rules(key_by="timestamp", closing=2 * HOUR, regions=["us-east-1", "eu-west-1"]) == rules
    for left in (2, 1, 0):
        await page.click("#rules-list button")
        await page.until(f"document.querySelectorAll('#rules-list button').length === {left}")
    await page.shows("All as usual", "#rules")
    assert Rules() == place.book.rules


async def test_advice_is_given_as_long_as_it_holds(page: Page, place: Sandbox) -> None:
    """
    On what the calls show, with what to do; hidden where all is well.
    """
    one = usage(quantity=43, hours=1)

    def send() -> None:
        client = boto3.client("meteringmarketplace", **place.client_arguments)
        record = {
            "Timestamp": one.timestamp,
            "Dimension": one.dimension,
            "Quantity": 43,
            "CustomerAWSAccountId": BUYER,
        }
        client.batch_meter_usage(ProductCode="p", UsageRecords=[record])
        client.close()

    assert await page.run("document.querySelector('#advice').hidden")
    place.inject(Fault(kind=FaultKind.UNPROCESSED, records=[0], max_hits=1))
    await asyncio.to_thread(send)
    await page.shows("were not sent again", "#advice")
    await page.shows("Do: A 200 with UnprocessedRecords", "#advice")
    assert [] == await obstacles(page)
    await asyncio.to_thread(send)
    await page.until("document.querySelector('#advice').hidden")


async def test_every_reading_is_shown_with_its_source(page: Page, place: Sandbox) -> None:
    """
    A preset turns them all; one is turned from where it stands.
    """
    await page.click("#rules-strict")
    await page.shows("instant, usually hour", "#rules-list")
    assert Rules.strict() == place.book.rules
    await page.click("#rules summary")
    await page.shows("Open: Seller guide and agent skill say hour", "#rules-readings")
    await page.shows("Documented: API reference of MeterUsage", "#rules-readings")
    await page.click("#rules-readings [aria-label='Turn key by']")
    await page.until("document.activeElement.value === 'key_by'")
    await page.click("#rules-usual")
    await page.shows("All as usual", "#rules")
    assert Rules() == place.book.rules


async def test_a_buyer_since_a_while_is_metered_from_then(page: Page, place: Sandbox) -> None:
    """
    The obvious next step works: the last full hour, also of who subscribes now.
    """
    place.declare_product("p", dimensions=["requests"])
    place.subscribe("p", "4" * 12)
    await page.shows("Subscribe a buyer", "#buyers-list")
    await page.click("#buyers-list details:first-of-type summary")
    await page.fill("#buyers-list [name=account]", BUYER)
    await page.run("document.querySelector('#buyers-list [name=since]').value = '2026-01-02T03:04'")
    await page.click("#buyers-list .subscribing button")
    await page.shows("Since 2 Jan 2026, 03:04", "#buyers-list")
    await meter(place, usage(hours=1), usage(hours=2))
    await page.shows("84", "#units")
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    record = UsageRecord(
        timestamp=now, dimension="requests", quantity=7, customer_aws_account_id="4" * 12
    )
    await meter(place, record)
    await page.shows("91", "#units")


async def test_a_refusal_tells_the_rule_and_how_to_fix_it(page: Page, place: Sandbox) -> None:
    """
    Among the refusals and in the call; throttles are shown apart.
    """
    place.declare_product("p", dimensions=["seats"])
    place.inject(Fault(kind=FaultKind.THROTTLE, max_hits=1))
    await meter(place, usage())

    await page.shows("InvalidUsageDimensionException", "#refusals-list")
    await page.shows("the product has no such dimension", "#refusals-list")
    await page.shows("The product's dimensions: seats.", "#refusals-list")
    await page.click("#calls-form [value=throttled]")
    await page.until("document.querySelectorAll('#calls-list > li').length === 1")
    await page.shows("ThrottlingException", "#calls-list")


async def test_the_clock_obeys(page: Page, place: Sandbox) -> None:
    """
    Moved, frozen, sent to the month's end, set, sped up, and back.
    """
    await page.click("#clock-day")
    await page.shows("away from the real time", "#clock-note")
    assert place.clock.now() - datetime.now(UTC) > timedelta(hours=23)
    await page.click("#clock-freeze")
    await page.shows("Stands still", "#clock-note")
    assert 0 == place.clock.speed
    await page.click("#clock-month")
    await page.shows("23:50:00", "#clock-time")
    assert 1 == (place.clock.now() + timedelta(minutes=11)).day
    await page.run(
        "document.querySelector('#clock-form [name=now]').value = '2026-12-01T05:59:30';"
        "document.querySelector('#clock-form [name=speed]').value = '60'"
    )
    await page.click("#clock-form button")
    await page.shows("60 times", "#clock-note")
    assert datetime(2026, 12, 1, 5, 59, tzinfo=UTC) < place.clock.now()
    await page.click("#clock-real")
    await page.until("document.querySelector('#clock-note').innerText === 'Runs in real time'")
    assert abs(place.clock.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert place.clock.is_real, "set to what the browser shows, it stood still between two runs"


async def test_quota_and_faults_obey(page: Page, place: Sandbox) -> None:
    """
    A quota is set and switched off, a fault added, shown as it is spent, and removed.
    """
    await page.fill("#quota-form [name=rate]", "5")
    await page.click("#quota-form button")
    await page.shows("5 calls a second", "#quota-note")
    await meter(place, usage())
    await page.shows("left", "#quota-list")
    await page.click("#quota-off")
    await page.shows("No quota", "#quota-note")
    assert place.calls_per_second is None

    await page.click("#faults summary")
    await page.run("document.querySelector('#faults-kind').value = 'unprocessed'")
    await page.fill("#faults-form [name=times]", "3")
    await page.click("#faults-form button.main")
    await page.shows("3 times more", "#faults-list")
    await meter(place, usage("seats"))
    await page.shows("spent", "#faults-list")
    await page.shows("fault: unprocessed", "#calls-list")
    await page.click("#faults-list button")
    await page.shows("Nothing goes wrong", "#faults")
    assert [] == place.faults.rules


async def test_buyers_subscribe_and_cancel(page: Page, place: Sandbox) -> None:
    """
    A product is declared, a buyer added and cancelled by keyboard, and the focus stays there.
    """
    await page.click("#buyers > details > summary")
    await page.fill("#product-form [name=product_code]", "prod-1")
    await page.fill("#product-form [name=dimensions]", "requests, seats")
    await page.click("#product-form button")
    await page.shows("prod-1", "#buyers-list")
    assert {"requests", "seats"} == place.book.products["prod-1"].dimensions
    await page.click("#buyers-list details:last-of-type summary")
    await page.fill("#buyers-list .add input", BUYER)
    await page.press("Enter")
    await page.shows(BUYER, "#buyers-list")
    await page.run("document.querySelector('.buyers button').focus()")
    await page.press("Enter")
    await page.shows("cancelled", "#buyers-list")
    assert {BUYER: False} == place.book.products["prod-1"].customers
    label = await page.run("document.activeElement.ariaLabel")
    assert f"Subscribe {BUYER}, buyer of prod-1" == label
    await page.press("Enter")
    await page.shows("subscribed", "#buyers-list")
    await page.click(".buyers button:nth-child(2)")
    token = await page.until("document.querySelector('#token-text').value")
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        assert BUYER == (await client.resolve_customer(token)).customer_aws_account_id


async def test_an_agreement_lives_and_ends(page: Page, place: Sandbox) -> None:
    """
    Subscribed, cancelled, closed an hour later, and subscribed again; the focus stays at hand.
    """
    await page.click("#buyers > details > summary")
    await page.fill("#product-form [name=product_code]", "prod-1")
    await page.fill("#product-form [name=title]", "Widgets")
    await page.fill("#product-form [name=registration_url]", "http://seller.example/welcome")
    await page.click("#product-form button")
    await page.shows("Widgets", "#buyers-list")
    await page.shows("http://seller.example/welcome", "#buyers-list")
    await page.click("#buyers-list summary")
    await page.fill(".subscribing [name=account]", BUYER)
    await page.fill(".subscribing [name=identifier]", "cust-1")
    await page.fill(".subscribing [name=days]", "7")
    await page.press("Enter")

    await page.shows("active", AGREEMENT)
    for text in (BUYER, "cust-1", "free trial", "license:l-"):
        await page.shows(text, AGREEMENT)
    assert "" == await page.run("document.querySelector('.subscribing [name=account]').value")
    (agreement,) = place.book.catalogue.agreements.values()
    assert agreement.free_until == agreement.begins + timedelta(days=7)

    await page.fill(".subscribing [name=account]", "4444")
    await page.run(f"{button('Cancel')}.focus()")
    await page.press("Enter")
    await page.shows("closing", AGREEMENT)
    await page.shows("Cancelled", AGREEMENT)
    said = f", {BUYER}, agreement 1 of prod-1"
    assert (await page.run("document.activeElement.ariaLabel")).endswith(said)
    await page.click("#clock-hour")
    await page.shows("ended", AGREEMENT)
    await page.run(f"{button('Subscribe again')}.click()")
    await page.shows("Agreement 2", AGREEMENT)
    await page.shows("active", AGREEMENT)
    await page.shows("ended", f"{AGREEMENT} + li")
    assert "4444" == await page.run("document.querySelector('.subscribing [name=account]').value")
    first, second = place.book.catalogue.agreements.values()
    assert (BUYER, "cust-1") == (second.customer_aws_account_id, second.customer_identifier)
    assert first.license_arn != second.license_arn


async def test_an_agreement_is_suspended_and_expires(page: Page, place: Sandbox) -> None:
    """
    And its token tells which agreement it is.
    """
    place.declare_product("prod-1", concurrent_agreements=True)
    agreement = place.subscribe("prod-1", BUYER)
    await page.shows("active", AGREEMENT)
    await page.run(f"{button('Suspend')}.click()")
    await page.shows("suspended", AGREEMENT)
    assert {BUYER} == place.book.catalogue.suspended
    await page.run(f"{button('Restore')}.click()")
    await page.until(f"{button('Suspend')} !== undefined")
    assert set() == place.book.catalogue.suspended
    await page.shows("concurrent agreements", "#buyers-list")
    await page.shows("“Set up your account” needs one", "#buyers-list")
    assert await page.run(f"{button('Set up your account')} === undefined")
    await page.run(f"{button('Token')}.click()")
    token = await page.until("document.querySelector('#token-text').value")
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        assert agreement.license_arn == (await client.resolve_customer(token)).license_arn
    await page.run(f"{button('Expire')}.click()")
    await page.shows("Expired", AGREEMENT)


async def test_an_agreement_ends_before_ones_eyes(page: Page, place: Sandbox) -> None:
    """
    Where the clock runs fast and nothing else happens, its state is still right.
    """
    place.declare_product("prod-1")
    place.subscribe("prod-1", BUYER, ends=place.clock.now() + timedelta(hours=5))
    await page.shows("active", AGREEMENT)
    place.clock.run(7200)
    place.changes.bump()

    await page.shows("closing", AGREEMENT)
    await page.shows("ended", AGREEMENT)


async def test_an_account_is_set_up_at_the_sellers_page(page: Page, place: Sandbox) -> None:
    """
    A form brings a token to it, in a tab of its own, as from AWS; and the token resolves.
    """
    brought: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def welcome(request: web.Request) -> web.Response:
        assert "application/x-www-form-urlencoded" == request.content_type
        brought.set_result({name: str(value) for name, value in (await request.post()).items()})
        return web.Response(text="welcome")

    app = web.Application()
    app.router.add_post("/welcome", welcome)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://localhost:{runner.addresses[0][1]}/welcome"
        place.declare_product("prod-1", registration_url=url)
        agreement = place.subscribe("prod-1", BUYER, free_trial=DAY)
        await page.click(f"{AGREEMENT} button[aria-label^='Set up your account']")
        async with asyncio.timeout(PATIENCE):
            fields = await brought
    finally:
        await runner.cleanup()

    assert "free-trial" == fields["x-amzn-marketplace-offer-type"]
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        customer = await client.resolve_customer(fields["x-amzn-marketplace-token"])
    assert (BUYER, "prod-1") == (customer.customer_aws_account_id, customer.product_code)
    assert agreement.license_arn == customer.license_arn
    await page.shows(url, "#notice")
    assert f"{place.url}/" == await page.run("location.href")
    assert await page.run("document.querySelector('body > form') === null")


AGREEMENT = "#buyers-list .agreements > li"
"""The newest agreement over the first product."""


def button(title: str) -> str:
    """Return the script that finds a button of the newest agreement."""
    return (
        f"[...document.querySelectorAll('{AGREEMENT}:first-child button')]"
        f".find((node) => node.textContent === '{title}')"
    )


async def test_reset_asks_first(page: Page, place: Sandbox) -> None:
    """
    Escape keeps everything.
    """
    await meter(place, usage())
    await page.shows("42", "#usage-rows")
    await page.click("#reset")
    await page.until("document.querySelector('dialog').open")
    await page.press("Escape")
    await page.until("!document.querySelector('dialog').open")
    assert 1 == len(place.book)
    await page.click("#reset")
    await page.until("document.querySelector('dialog').open")
    await page.click("dialog .danger")
    await page.shows("nothing to show", "#usage-caption")
    assert 0 == len(place.book)


async def test_the_keyboard_reaches_everything(page: Page) -> None:
    """
    First the way past the menu, then each control once, and the focus can be seen.
    """
    await page.press("Tab")
    assert "Skip to the figures" == await page.run("document.activeElement.innerText")
    reached: list[str] = []
    unseen: list[str] = []
    while len(reached) < 200:
        await page.press("Tab")
        name, seen = await page.run(
            """(() => { const node = document.activeElement, style = getComputedStyle(node);
            return [node === document.body ? "" : node.outerHTML.slice(0, 80),
            style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2]; })()"""
        )
        if not name or name.startswith('<a class="skip"'):
            break
        reached.append(name)
        unseen += [] if seen else [name]
    wanted = await page.run(
        "document.querySelectorAll('a, button, input:not([type=radio]), select, summary, pre')"
        ".values().filter((node) => node.checkVisibility()).toArray().length"
    )
    assert [] == unseen
    assert len(set(reached)) >= wanted - 1


def show_agreements(place: Sandbox) -> None:
    """Let there be an agreement of each kind."""
    url = "https://seller.example/aws-marketplace/welcome"
    place.declare_product("prod-x2", title="Widgets", registration_url=url)
    now = place.clock.now()
    old = place.subscribe("prod-x2", BUYER, begins=now - timedelta(days=40), free_trial=7 * DAY)
    place.book.catalogue.end(old.agreement_id, now=now - timedelta(days=9), reason="expired")
    place.subscribe("prod-x2", "5" * 12, begins=now + DAY, ends=now + 31 * DAY)
    closing = place.subscribe("prod-x2", "6" * 12, customer_identifier="cust-6a")
    place.cancel(closing.agreement_id)
    place.subscribe("prod-x2", BUYER, customer_identifier="cust-1b", free_trial=31 * DAY)
    place.subscribe("prod-x2", "7" * 12)
    place.suspend("7" * 12)
    place.declare_product("prod-x3", concurrent_agreements=True)
    for _ in range(2):
        place.subscribe("prod-x3", BUYER)


DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
ATTACK = "<img src=x onerror=pwned=1><script>pwned=1</script>\"'><svg onload=pwned=1>"


async def test_script_in_every_field_stays_text(page: Page, place: Sandbox) -> None:
    """
    Names, operations, requests, refusals, fault names, products and buyers. Covers: X04
    """
    place.declare_product(
        ATTACK,
        title=f"title {ATTACK}",
        dimensions=[ATTACK],
        customers=[ATTACK],
        registration_url=f"http://seller.example/{ATTACK}",
    )
    place.subscribe(
        ATTACK,
        f"account {ATTACK}",
        customer_identifier=f"identifier {ATTACK}",
        license_arn=f"license {ATTACK}",
        free_trial=DAY,
    )
    place.inject(Fault(kind=FaultKind.SLOW, product_code=ATTACK, customer=ATTACK, after=9))
    place.inject(Fault(kind=FaultKind.REFUSE, operation="MeterUsage", code=ATTACK))
    license_arn = "arn:aws:license-manager::123456789012:license:l-1"
    place.book.products["q"] = type(place.book.products[ATTACK])(licenses={license_arn: "1"})
    hostile = {
        "Timestamp": datetime.now(UTC).timestamp(),
        "CustomerIdentifier": ATTACK,
        "Dimension": ATTACK,
        "Quantity": 5,
    }
    place.book.products["r"] = type(place.book.products[ATTACK])()
    now = place.clock.now() + timedelta(seconds=5)
    request: dict[str, Any] = {"ProductCode": "r", "UsageRecords": [hostile]}
    place.book.batch_meter_usage(request, now=now, region=ATTACK)
    day = datetime.now(UTC)
    signature = (
        f"AWS4-HMAC-SHA256 Credential=<b>pwned<|b>/{day:%Y%m%d}/us-east-1/aws-marketplace/"
        f"aws4_request, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    )
    async with aiohttp.ClientSession() as session:
        for operation in ("BatchMeterUsage", "MeterUsage", "ResolveCustomer", ATTACK):
            async with session.post(
                place.url,
                json=request | {"ProductCode": "<i>", "x": ATTACK},
                headers={
                    "Content-Type": "application/x-amz-json-1.1",
                    "X-Amz-Target": f"AWSMPMeteringService.{operation}",
                    "X-Amz-Date": f"{day:%Y%m%dT%H%M%SZ}",
                    "Authorization": signature,
                },
            ) as answer:
                assert answer.status in {400, 403}

    await page.shows(ATTACK, "#usage-rows")
    for what in ("title ", "account ", "identifier ", "license ", "http://seller.example/"):
        await page.shows(f"{what}{ATTACK}", "#buyers-list")
    await page.shows(ATTACK, "#buyers-list .buyers:not(.agreements)")
    await page.shows(ATTACK, "#faults-list")
    await page.shows(ATTACK, "#calls-list")
    await page.shows(ATTACK, "#refusals-list")
    await page.shows(ATTACK, "#units")
    for number in (2, 3, 4):
        await page.click(f"#calls-list > li:nth-child({number}) summary")
        await page.shows('"ProductCode": "<i>"', f"#calls-list > li:nth-child({number})")
    await page.fill("#usage-tools [name=search]", ATTACK)
    await page.shows("1 row", "#usage-caption")
    place.cancel(next(iter(place.book.catalogue.agreements)))
    await page.shows("closing", AGREEMENT)
    assert await page.run("typeof pwned === 'undefined'")
    assert 0 == await page.run(
        "document.querySelectorAll('main img, main script, main b b').length"
    )


async def test_a_foreign_page_gets_nowhere(browser: Browser, place: Sandbox) -> None:
    """
    It can neither read, nor order, nor meter, nor frame. Covers: X02, X03
    """
    await meter(place, usage())

    async def serve(_: web.Request) -> web.Response:
        return web.Response(text="<title>elsewhere</title><p>here", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        for name in ("127.0.0.1", "localhost"):
            async with browser.open(f"http://{name}:{port}/") as evil:
                await _attack(evil, f"{place.url}/_sandbox")
    finally:
        await runner.cleanup()

    assert 1 == len(place.book)


async def _attack(evil: Page, controls: str) -> None:
    order = "{method: 'POST', body: '{}', headers: {'Content-Type': 'application/json'}}"
    for what in (f"'{controls}/state'", f"'{controls}/reset', {order}"):
        asked = f"fetch({what}).then((answer) => answer.text()).catch(() => 'no')"
        assert "no" == await evil.run(asked)
    await evil.run(
        f"fetch('{controls}/reset', {{method: 'POST', mode: 'no-cors', body: '{{}}'}})"
        ".catch(() => 'no')"
    )
    await evil.run(
        f"""(() => {{ const form = document.createElement("form");
        form.method = "post"; form.enctype = "text/plain"; form.target = "inside";
        form.action = "{controls}/reset";
        const frame = document.createElement("iframe"); frame.name = "inside";
        document.body.append(frame, form); form.submit();
        return new Promise((done) => {{ frame.onload = done; setTimeout(done, 2000); }});
        }})()"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
async def test_the_page_is_for_everybody(
    browser: Browser, place: Sandbox, width: int, scheme: str, tmp_path: Path
) -> None:
    """
    Every control has a name, headings are in order, contrasts suffice, nothing is cut off.

    METERING_TEST_SCREENSHOTS names a folder for the pictures.
    """
    place.declare_product("prod-x1", dimensions=["requests", "seats", "storage-gb"])
    place.set_subscribed("prod-x1", BUYER, subscribed=True)
    place.set_subscribed("prod-x1", "4" * 12, subscribed=False)
    show_agreements(place)
    records = [
        usage(dimension, 90 + 7 * hours * (5 - hours % 5) // 3, hours)
        for hours in range(20)
        for dimension in ("requests", "seats", "storage-gb")
    ]
    await meter(place, *records, product_code="prod-x1")
    place.inject(
        Fault(kind=FaultKind.THROTTLE, max_hits=1),
        Fault(kind=FaultKind.RESET_AFTER, probability=0.5),
    )
    await meter(place, usage("Requests"), product_code="prod-x1")
    async with browser.open(place.page_url, width=width, height=900, scheme=scheme) as page:
        await page.shows("InvalidUsageDimensionException", "#refusals-list")
        await page.run("document.querySelectorAll('summary').forEach((node) => node.click())")
        await page.shows('"UsageRecords"', "#calls-list")
        await page.until("document.querySelectorAll('tr.new').length === 0")

        found = await obstacles(page)
        folder = Path(os.environ.get("METERING_TEST_SCREENSHOTS", tmp_path))
        await page.run("document.querySelectorAll('#calls details').forEach((n) => n.open = false)")
        await page.picture(folder / f"page-{width}-{scheme}.png")

        assert [] == found
        assert [] == page.complaints


async def test_without_scripts_nothing_is_claimed(page: Page, place: Sandbox) -> None:
    """
    "Nothing is metered yet" would be untrue; the page says that it needs them, and no more.
    """
    await meter(place, usage())
    await page.send("Emulation.setScriptExecutionDisabled", value=True)
    await page.send("Page.reload")
    try:
        await page.until("document.querySelector('noscript p')?.offsetHeight > 0")
        await page.until("!document.body.innerText.includes('yet')")
        text = await page.run("document.querySelector('body').innerText")
    finally:
        await page.send("Emulation.setScriptExecutionDisabled", value=False)
        await page.send("Page.reload")
        await page.shows("Live", "#live")

    assert "needs JavaScript" in text
    assert "Nothing was refused" not in text
    assert "Connecting" not in text


async def test_the_check_for_obstacles_sees_them(page: Page) -> None:
    """
    A missing name, one given twice, a heading out of order, a weak colour, what is too wide.
    """
    assert [] == await obstacles(page)
    await page.run(
        """(() => { const find = (selector) => document.querySelector(selector);
        find("#clock-hour").textContent = "";
        find("#clock-day").textContent = find("#clock-month").textContent;
        const low = document.createElement("h5"); low.textContent = "h5";
        find("#quota").prepend(low);
        find("#usage-title").style.color = "#bbb";
        find("#figures").style.width = "3000px"; find("#reset").style.minHeight = 0;
        find("#reset").style.height = "12px"; find("footer").remove(); })()"""
    )

    found = "\n".join(await obstacles(page))

    for line in (
        "button without a name",
        "named as another one: button Month",
        "h5 follows h2",
        "too weak a contrast: Usage",
        "wider than the screen",
        "too small to hit",
        "no contentinfo",
    ):
        assert line in found


async def test_a_sandbox_that_ends_is_told_and_found_again(browser: Browser) -> None:
    """
    The page says so, and goes on when the sandbox is back.
    """
    async with AsyncExitStack() as pages:
        async with Sandbox() as first:
            page = await pages.enter_async_context(browser.open(first.page_url))
            await page.shows("Live", "#live")
        await page.shows("No contact", "#live")
        async with Sandbox(first._port) as second:
            await page.shows("Live", "#live")
            await meter(second, usage())
            await page.shows(BUYER, "#usage-rows")


async def test_the_token_opens_the_page(browser: Browser) -> None:
    """
    It leaves the address at once; without it, the page tells nothing.
    """
    async with (
        Sandbox(open_to=["sandbox"]) as sandbox,
        browser.open(sandbox.page_url) as page,
        browser.open(f"{sandbox.url}/") as without,
    ):
        await page.shows("Live", "#live")
        assert f"{sandbox.url}/" == await page.run("location.href")
        await page.click("#clock-freeze")
        await page.shows("Stands still", "#clock-note")
        await without.shows("X-Sandbox-Token", "#live")
        await without.shows("asks for its token", "#token-form")
        await without.fill("#token-form input", "wrong")
        await without.press("Enter")
        await without.shows("X-Sandbox-Token", "#live")
        await without.fill("#token-form input", sandbox.guard.token or "")
        await without.press("Enter")
        await without.shows("Live", "#live")
        await without.until("!document.querySelector('#token-form').checkVisibility()")
        await without.run("location.reload()")  # the tab keeps it
        await without.until("performance.getEntriesByType('navigation')[0].type === 'reload'")
        await without.shows("Live", "#live")
