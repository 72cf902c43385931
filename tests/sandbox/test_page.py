"""What the page is told: sums, calls, refusals and controls, bounded whatever the book holds."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
from marketplace_metering_async import sandbox as package
from marketplace_metering_async.sandbox import (
    Book,
    Fault,
    FaultKind,
    Principal,
    Sandbox,
    SandboxClock,
)
from marketplace_metering_async.sandbox.page import page
from marketplace_metering_async.sandbox.page.sums import COLUMNS, TableSums
from marketplace_metering_async.sandbox.page.view import View

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
FOLDER = Path(package.__file__).parent / "page" / "assets"


def meter(book: Book, *usage: Any, product: str = "p") -> None:
    customer, dimension, hours_ago, quantity = usage
    record = {
        "Timestamp": int((NOW - timedelta(hours=hours_ago)).timestamp()),
        "CustomerAWSAccountId": customer,
        "Dimension": dimension,
        "QuantityAsDecimal" if isinstance(quantity, str) else "Quantity": quantity,
    }
    request = {"ProductCode": product, "UsageRecords": [record]}
    book.batch_meter_usage(request, now=NOW, region="us-east-1")


usages = st.lists(
    st.tuples(
        st.sampled_from(["1", "2"]),
        st.sampled_from(["requests", "seats"]),
        st.integers(0, 20),
        st.integers(0, 99) | st.decimals(0, 9, places=6).map("{:f}".format),
        st.sampled_from(["p", "q"]),
    ),
    max_size=30,
)


@given(usages, st.sets(st.sampled_from(COLUMNS), min_size=1), st.integers(0, 30))
def test_every_breakdown_adds_up(usage: list[Any], chosen: set[str], first: int) -> None:
    """
    Whatever columns are asked for, and however the book has grown between two looks; but nothing is
    added up over several units.
    """

    async def run() -> None:
        book = Book()
        sums = TableSums(book)
        for number, one in enumerate(usage):
            meter(book, *one[:4], product=one[4])
            if number == first:
                await sums.follow()
        await sums.follow()
        by = tuple(name for name in COLUMNS if name in chosen)

        rows, count = await sums.rows(by, "", 1000)

        assert len(rows) == count == len({row.place for row in rows})
        assert len(book) == len(sums) == sum(row.records for row in rows)
        named = {"product": "product_code"}
        units: dict[Any, set[Any]] = defaultdict(set)
        for record in book.records:
            place = tuple(getattr(record, named.get(name, name)) for name in by)
            units[place].add((record.product_code, record.dimension))
        exact = book.totals(by=tuple(named.get(name, name) for name in by))
        for row in rows:
            single = len(units[row.place]) == 1
            assert row.quantity == (exact[row.place] if single else None)
        hours = sums.latest_hours(NOW, 24)
        found, all_units = sums.units(hours, 10)
        whole = book.totals(by=("product_code", "dimension"))
        assert all_units == len(found)
        assert {(one.product, one.dimension): one.quantity for one in found} == whole
        assert all(one.quantity == sum(one.hours) for one in found)
        assert sum(one.records for one in found) == len(book)

    asyncio.run(run())


async def test_a_book_that_forgot_is_begun_anew() -> None:
    """
    Also where it has as many records as before.
    """
    book = Book()
    sums = TableSums(book)
    meter(book, "1", "requests", 1, 5)
    await sums.follow()
    book.forget()
    meter(book, "2", "requests", 1, 7)
    await sums.follow()

    (unit,), _ = sums.units([], 9)
    assert (7, 1, 1) == (unit.quantity, unit.records, len(sums))
    assert [("2",)] == [row.place for row in (await sums.rows(["customer"], "", 10))[0]]


async def test_rows_are_narrowed_and_bounded() -> None:
    """
    The latest hours first, without them the largest; any part of a name finds it.
    """
    book = Book()
    sums = TableSums(book)
    for customer in range(30):
        meter(book, str(customer), "Requests", customer % 10, customer)
    await sums.follow()

    rows, count = await sums.rows(COLUMNS, "", 5)
    assert (5, 30) == (len(rows), count)
    assert {NOW.replace(minute=0)} == {row.place[3] for row in rows[:3]}
    largest, _ = await sums.rows(["customer"], "", 3)
    assert [29, 28, 27] == [row.quantity for row in largest]
    assert 30 == (await sums.rows(COLUMNS, "rEQUEST", 99))[1]
    assert 0 == (await sums.rows(COLUMNS, "seats", 99))[1]


async def test_the_charts_show_where_usage_is() -> None:
    """
    The hours up to now, or up to the latest usage where the clock has left it behind.
    """
    book = Book()
    sums = TableSums(book)
    assert NOW.replace(minute=0) == sums.latest_hours(NOW, 24)[-1]
    meter(book, "1", "requests", 2, 5)
    await sums.follow()

    assert NOW.replace(minute=0) == sums.latest_hours(NOW, 24)[-1]
    month_later = sums.latest_hours(NOW + timedelta(days=30), 24)
    assert 24 == len(month_later)
    assert NOW.replace(minute=0) - timedelta(hours=2) == month_later[-1]
    assert [0] * 23 + [5] == sums.units(month_later, 9)[0][0].hours


async def test_licenses_of_one_product_are_one_unit_and_the_busiest_are_shown() -> None:
    """
    A license for each buyer makes no chart for each; of many dimensions, those with most records.
    """
    place = Sandbox(clock=SandboxClock(NOW, speed=0))
    place.declare_product("p", concurrent_agreements=True)
    for account in ("1", "2"):
        license_arn = place.subscribe("p", account).license_arn
        record = {"Timestamp": NOW.timestamp(), "Dimension": "requests", "Quantity": 5}
        record |= {"CustomerAWSAccountId": account, "LicenseArn": license_arn}
        place.book.batch_meter_usage({"UsageRecords": [record]}, now=NOW, principal=Principal())
    sums = TableSums(place.book)
    await sums.follow()
    (unit,), count = sums.units([], 9)
    assert ("p", "requests", 10, 1) == (unit.product, unit.dimension, unit.quantity, count)
    place.reset(everything=True)
    for number in range(20):
        for customer in range(number + 1):
            meter(place.book, str(customer), f"d{number:02}", 0, 1)
    await sums.follow()
    shown, count = sums.units([], 3)
    assert (20, ["d17", "d18", "d19"]) == (count, [one.dimension for one in shown])


@pytest.fixture
async def place() -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=SandboxClock(NOW, speed=0), history=5) as sandbox:
        yield sandbox


async def look(place: Sandbox, web: aiohttp.ClientSession, **query: Any) -> Any:
    async with web.get(f"{place.url}/_sandbox/page/view", params=query) as answer:
        assert 200 == answer.status, await answer.text()
        return await answer.json()


def usage(count: int, **members: Any) -> list[UsageRecord]:
    common: dict[str, Any] = {"quantity": 2, "dimension": "requests", "product_code": "p"}
    now = datetime.now(UTC)
    return [
        UsageRecord(timestamp=now, customer_aws_account_id=f"{n:012d}", **(common | members))
        for n in range(count)
    ]


async def test_the_view_tells_what_happened(place: Sandbox, web: aiohttp.ClientSession) -> None:
    """
    Usage, calls with verdicts, refusals with the rule and how to fix it, quota and faults.
    """
    place.clock.set(datetime.now(UTC) + timedelta(seconds=1))
    place.declare_product("p", dimensions=["requests"], customers={f"{0:012d}": True})
    place.inject(Fault(kind=FaultKind.THROTTLE, max_hits=1), Fault(kind=FaultKind.DROP, after=100))
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        await client.batch_meter_usage(usage(1))
        await client.batch_meter_usage(usage(1, dimension="Requests"))

    told = await look(place, web, by="customer")

    assert [{"customer": f"{0:012d}", "quantity": 2, "records": 1}] == told["usage"]["rows"]
    assert (1, 1) == (told["totals"]["refused"], told["totals"]["throttled"])
    codes = [call["code"] for call in told["calls"]]
    assert ["InvalidUsageDimensionException", None, "ThrottlingException"] == codes
    assert [{}, {"Success": 1}, {}] == [call["verdicts"] for call in told["calls"]]
    assert [None, None, "throttle"] == [call["fault"] for call in told["calls"]]
    refusals = {entry["code"]: entry for entry in told["refusals"]}
    wrong = refusals["InvalidUsageDimensionException"]
    assert "usageRecords.1.member.dimension: the product has no such dimension" == wrong["rule"]
    assert "The product's dimensions: requests." == wrong["remedy"]
    (bucket,) = told["quota"]["buckets"]
    assert 7 <= bucket["left"] <= 10
    assert [0, None] == [rule["max_hits"] for rule in told["faults"]["in_force"]]
    assert [{"customer": f"{0:012d}", "subscribed": True}] == told["products"][0]["customers"]
    number = told["calls"][1]["number"]
    async with web.get(f"{place.url}/_sandbox/page/call?number={number}") as answer:
        call = await answer.json()
    assert 2 == call["request"]["UsageRecords"][0]["Quantity"]
    assert "Success" == call["results"][0]["Status"]


async def test_the_history_is_bounded(place: Sandbox, web: aiohttp.ClientSession) -> None:
    """
    The latest calls are kept, and what was forgotten is a 404.
    """
    place.set_quota(None)
    async with MarketplaceMeteringClient(**place.client_arguments) as client:
        for _ in range(8):
            await client.batch_meter_usage(usage(1))

    told = await look(place, web)

    assert [8, 7, 6, 5, 4] == [call["number"] for call in told["calls"]]
    for number in ("1", "x", "-1", "9" * 5000):
        async with web.get(f"{place.url}/_sandbox/page/call?number={number}") as answer:
            assert 404 == answer.status


async def test_a_look_waits_for_a_change(
    place: Sandbox, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And comes back with it; without one, after the time it was given. Only so many pages wait.
    """
    before = await look(place, web)
    waiting = asyncio.create_task(look(place, web, after=before["change"], wait=20))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    place.advance(hours=2)
    async with asyncio.timeout(5):
        after = await waiting

    assert after["change"] > before["change"]
    assert (NOW + timedelta(hours=2)).isoformat() == after["clock"]["now"]
    same = await look(place, web, after=after["change"], wait=0.05)
    assert after["change"] == same["change"]
    monkeypatch.setattr(page, "_MOST_WATCHERS", 0)
    url = f"{place.url}/_sandbox/page/view?after={same['change']}&wait=5"
    async with web.get(url) as answer:
        assert (503, "too many pages are open\n") == (answer.status, await answer.text())


async def test_agreements_are_told_as_of_the_clock(
    place: Sandbox, web: aiohttp.ClientSession
) -> None:
    """
    Newest first, with what each is now, and whether its buyer may subscribe again.
    """
    place.declare_product("p", title="Widgets", registration_url="http://seller.example/welcome")
    assert (await look(place, web))["products"][0]["open"]
    first = place.subscribe("p", "1" * 12, customer_identifier="c-1", free_trial=timedelta(days=1))
    place.cancel(first.agreement_id)
    place.subscribe("p", "2" * 12, begins=NOW + timedelta(hours=1))
    place.suspend("2" * 12)

    (product,) = (await look(place, web))["products"]

    assert ("Widgets", False, 0) == (product["title"], product["open"], product["more_agreements"])
    assert "http://seller.example/welcome" == product["registration_url"]
    assert not product["concurrent_agreements"]
    second, ended = product["agreements"]
    assert (2, "coming", True, False, None) == tuple(
        second[name] for name in ("number", "state", "suspended", "may_subscribe_again", "closes")
    )
    assert (1, "closing", False, True, True, "cancelled", "c-1") == tuple(
        ended[name]
        for name in (
            *("number", "state", "suspended", "may_subscribe_again", "free", "reason"),
            "customer_identifier",
        )
    )
    assert (NOW + timedelta(hours=1)).isoformat() == ended["closes"]
    place.advance(days=1)
    states = [
        (entry["state"], entry["free"])
        for entry in (await look(place, web))["products"][0]["agreements"]
    ]
    assert [("active", False), ("ended", False)] == states


async def test_agreements_shown_are_bounded(place: Sandbox, web: aiohttp.ClientSession) -> None:
    """
    The latest are, and how many more there are is told.
    """
    place.declare_product("p")
    for number in range(40):
        place.subscribe("p", f"{number:012d}")

    (product,) = (await look(place, web))["products"]

    assert f"{39:012d}" == product["agreements"][0]["customer_aws_account_id"]
    assert (30, 10) == (len(product["agreements"]), product["more_agreements"])


async def test_a_look_ends_when_an_agreement_does(web: aiohttp.ClientSession) -> None:
    """
    The clock alone brings that about, and it may run fast; a clock that stands never does.
    """
    async with Sandbox(clock=SandboxClock(NOW, speed=0)) as place:
        place.declare_product("p")
        place.subscribe("p", "1" * 12, ends=NOW + timedelta(hours=1))
        place.subscribe("p", "2" * 12, ends=datetime.max.replace(tzinfo=UTC))
        change = (await look(place, web))["change"]
        states = set()
        place.clock.run(7200)
        async with asyncio.timeout(19):
            while "ended" not in states:
                told = await look(place, web, after=change, wait=20)
                assert change == told["change"]
                states.add(told["products"][0]["agreements"][1]["state"])
        place.clock.freeze()
        view = View(place, place).products
        assert view.seconds_to_next_change() is None


async def test_a_page_that_waits_does_not_hold_up_the_end(web: aiohttp.ClientSession) -> None:
    """
    Closing the sandbox answers it.
    """
    async with Sandbox() as place:
        before = await look(place, web)
        waiting = asyncio.create_task(look(place, web, after=before["change"], wait=20))
        await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    "query", [{"by": "price"}, {"after": "x"}, {"wait": "x"}, {"after": "9" * 5000}]
)
async def test_odd_questions_are_refused(
    place: Sandbox, web: aiohttp.ClientSession, query: dict[str, str]
) -> None:
    """
    With a 400 that says why.
    """
    async with web.get(f"{place.url}/_sandbox/page/view", params=query) as answer:
        assert 400 == answer.status


async def test_buyers_and_faults_are_changed_one_by_one(
    place: Sandbox, web: aiohttp.ClientSession
) -> None:
    """
    Without a word about the others, whose number may be large.
    """
    place.declare_product("p", customers=["1", "2"])

    async def order(path: str, **members: Any) -> int:
        async with web.post(f"{place.url}/_sandbox/{path}", json=members) as answer:
            return answer.status

    assert 200 == await order("buyers", product_code="p", customer="1", subscribed=False)
    assert {"1": False, "2": True} == place.book.products["p"].customers
    place.inject(lambda operation, body: None)
    assert 200 == await order("faults", faults=[{"kind": "slow"}], add=True)
    assert 2 == len(place.faults.rules)
    assert "<lambda>" in (await look(place, web))["faults"]["in_force"][0]["function"]
    assert 200 == await order("faults", remove=0)
    assert ["slow"] == [str(getattr(rule, "kind", "")) for rule in place.faults.rules]


async def test_a_browser_gets_the_page_and_a_shell_its_lines(
    place: Sandbox, web: aiohttp.ClientSession
) -> None:
    """
    At the same address; the page lets nothing run but its own files.
    """
    async with web.get(place.url) as answer:
        assert "AWS_ENDPOINT_URL_MARKETPLACE_METERING" in await answer.text()
    async with web.get(place.url, headers={"Accept": "text/html,*/*"}) as answer:
        assert "text/html" == answer.content_type
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src 'self';" in policy
    for file in FOLDER.iterdir():
        async with web.get(f"{place.url}/_sandbox/page/{file.name}") as answer:
            assert (200, file.read_bytes()) == (answer.status, await answer.read())
    for path in ("", "/", "/../app.py", "/%2e%2e/app.py", "/page.css/", "/nothing.js"):
        async with web.get(f"{place.url}/_sandbox/page{path}") as answer:
            assert 404 == answer.status


def test_the_page_brings_all_it_needs() -> None:
    """
    No address elsewhere, nothing inline, and no markup made from strings.
    """
    for file in FOLDER.iterdir():
        text = file.read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\"' )]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function"
            r"|javascript:|@import",
            text,
        ), file
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page)
