"""The life of products, buyers and agreements, at the sandbox's time."""

import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from marketplace_metering_async import MarketplaceMeteringClient
from marketplace_metering_async.sandbox import (
    AccessKey,
    Agreement,
    AgreementState,
    Principal,
    Refusal,
    RegistrationError,
    Rules,
    Sandbox,
    SandboxClock,
)
from marketplace_metering_async.service_errors import ExpiredTokenException, InvalidTokenException

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
BUYER = "111122223333"


@pytest.fixture
def place() -> Sandbox:
    sandbox = Sandbox(clock=SandboxClock(NOW, speed=0))
    sandbox.declare_product("p", dimensions=["requests", "seats"])
    return sandbox


def meter(
    place: Sandbox, at: datetime, principal: Principal | None = None, /, **members: Any
) -> str:
    """Return the status of a record at a moment, or the code of the refusal."""
    licensed = "LicenseArn" in members
    record = {
        "Timestamp": int(at.timestamp()),
        "CustomerAWSAccountId": BUYER,
        "Dimension": "requests",
        "Quantity": 5,
    }
    request = {"UsageRecords": [{n: v for n, v in (record | members).items() if v is not None}]}
    if not licensed:
        request["ProductCode"] = "p"  # type: ignore[assignment]
    try:
        reply = place.book.batch_meter_usage(request, now=place.clock.now(), principal=principal)
    except Refusal as refusal:
        return refusal.code
    return str(reply["Results"][0]["Status"])


def state(place: Sandbox, agreement: Agreement) -> AgreementState:
    kept = place.book.catalogue.agreements[agreement.agreement_id]
    return kept.state(place.clock.now(), place.book.rules.closing)


def test_a_buyer_subscribes_cancels_and_comes_back(place: Sandbox) -> None:
    """
    The closing hour takes usage stamped now, or by a switch what was used until the end; then usage
    is not subscribed.
    """
    place.subscribe("p", "999999999999")
    assert "InvalidCustomerIdentifierException" == meter(place, NOW)
    agreement = place.subscribe("p", BUYER)
    place.advance(hours=1)
    assert "Success" == meter(place, NOW)
    place.cancel(agreement.agreement_id)
    place.advance(minutes=59)
    assert AgreementState.CLOSING is state(place, agreement)
    assert "Success" == meter(place, NOW + timedelta(hours=1))
    assert "Success" == meter(place, place.clock.now(), Dimension="seats")
    place.change_rules(ends_at="instant")
    assert "TimestampOutOfBoundsException" == meter(place, NOW + timedelta(hours=1, minutes=30))
    place.advance(minutes=1)
    assert AgreementState.ENDED is state(place, agreement)
    assert "CustomerNotSubscribed" == meter(place, NOW + timedelta(minutes=59))
    place.subscribe("p", BUYER)
    place.advance(minutes=10)

    assert "Success" == meter(place, place.clock.now())
    assert 4 == len(place.book)


def test_an_agreement_expires_by_itself_or_by_order(place: Sandbox) -> None:
    """
    And cannot end twice.
    """
    coming = place.subscribe("p", "1", begins=NOW + timedelta(days=1), ends=NOW + timedelta(days=2))
    assert AgreementState.COMING is state(place, coming)
    place.advance(days=1)
    assert AgreementState.ACTIVE is state(place, coming)
    place.advance(days=1)
    assert AgreementState.CLOSING is state(place, coming)
    place.advance(hours=1)
    assert AgreementState.ENDED is state(place, coming)
    other = place.subscribe("p", "2")
    assert "expired" == place.expire(other.agreement_id).reason
    with pytest.raises(ValueError, match="has ended"):
        place.cancel(other.agreement_id)
    with pytest.raises(KeyError):
        place.cancel("agmt-none")


def test_usage_before_the_agreement_is_outside_it(place: Sandbox) -> None:
    """
    Unless a switch says otherwise: from its begin to the second, or as a status.
    """
    place.advance(minutes=30)
    place.subscribe("p", BUYER)

    assert "TimestampOutOfBoundsException" == meter(place, NOW - timedelta(seconds=1))
    place.change_rules(begins_from="instant")
    assert "TimestampOutOfBoundsException" == meter(place, NOW)
    place.change_rules(outside_agreement="status")
    assert "CustomerNotSubscribed" == meter(place, NOW)
    place.change_rules(outside_agreement="take")
    assert "Success" == meter(place, NOW - timedelta(hours=3))


@pytest.mark.parametrize("licensed", [False, True])
@pytest.mark.parametrize("begins_from", ["hour", "instant"])
def test_the_first_hour_can_be_metered(place: Sandbox, begins_from: str, *, licensed: bool) -> None:
    """
    With the start of the hour, as coalesce() and every guide stamp it; and in any reading with the
    whole second of the subscription, which is all that many SDKs can say.
    """
    place.change_rules(begins_from=begins_from)
    place.clock.set(NOW + timedelta(minutes=30, microseconds=987_654))
    agreement = place.subscribe("p", BUYER)
    how: dict[str, Any] = {"LicenseArn": agreement.license_arn} if licensed else {}
    second = place.clock.now().replace(microsecond=0)

    assert AgreementState.ACTIVE is state(place, agreement)
    at = NOW if begins_from == "hour" else second
    assert "Success" == meter(place, at, **how)
    assert second == agreement.begins


@pytest.mark.parametrize("licensed", [False, True])
def test_the_last_flush_is_taken_until_the_closing_hour_is_over(
    place: Sandbox, *, licensed: bool
) -> None:
    """
    A seller that stamps usage with the time of sending loses none of it; nothing before the begin
    is let in by that.
    """
    agreement = place.subscribe("p", BUYER)
    how: dict[str, Any] = {"LicenseArn": agreement.license_arn} if licensed else {}
    place.advance(hours=2)
    place.cancel(agreement.agreement_id)
    place.advance(minutes=59)
    refused = "InvalidLicenseException" if licensed else "TimestampOutOfBoundsException"

    assert "Success" == meter(place, place.clock.now(), **how)
    assert refused == meter(place, NOW - timedelta(seconds=1), **how)
    place.change_rules(ends_at="instant")
    assert refused == meter(place, place.clock.now(), Dimension="seats", **how)


def test_a_cancelled_buyer_who_comes_back_within_the_hour_is_metered(place: Sandbox) -> None:
    """
    The hour belongs to the new agreement, whatever the old one would have taken. A free trial is
    of one agreement only.
    """
    first = place.subscribe("p", BUYER, free_trial=timedelta(days=7))
    place.advance(minutes=20)
    place.cancel(first.agreement_id)
    place.advance(minutes=20)
    place.subscribe("p", BUYER)
    place.advance(minutes=10)
    assert "Success" == meter(place, place.clock.now())

    assert [False] == [record.free for record in place.book.records]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ends": NOW - timedelta(seconds=1)},
        {"begins": NOW, "ends": NOW - timedelta(days=1)},
        {"begins": "2026-11-23T12:00:00+00:00"},
        {"begins": NOW.replace(tzinfo=None)},
        {"customer_aws_account_id": 5},
        {"customer_aws_account_id": ""},
        {"customer_identifier": ["x"]},
        {"license_arn": 7},
        {"free_trial": timedelta(days=4_000_000)},
        {"free_trial": timedelta(days=-1)},
        {"product_code": 5},
    ],
)
def test_an_agreement_that_cannot_be_is_refused(place: Sandbox, wrong: dict[str, Any]) -> None:
    """
    And leaves nothing behind.
    """
    members: dict[str, Any] = {"product_code": "p", "customer_aws_account_id": BUYER} | wrong
    with pytest.raises((TypeError, ValueError, OverflowError)):
        place.subscribe(**members)
    assert {} == place.book.catalogue.agreements
    place.subscribe("p", BUYER)


def test_a_free_trial_is_metered_and_marked(place: Sandbox) -> None:
    """
    Usage in it is on file as free; usage after it is not.
    """
    place.subscribe("p", BUYER, free_trial=timedelta(hours=2))
    place.advance(hours=4)
    assert "Success" == meter(place, NOW + timedelta(hours=1))
    assert "Success" == meter(place, NOW + timedelta(hours=2))

    assert {(True,): 5, (False,): 5} == place.book.totals(by=("free",))


def test_one_agreement_at_a_time_unless_the_product_has_concurrent_ones(place: Sandbox) -> None:
    """
    With them each license is metered for itself, and a product code is refused.
    """
    place.subscribe("p", BUYER, ends=NOW + timedelta(hours=1))
    with pytest.raises(ValueError, match="concurrent_agreements"):
        place.subscribe("p", BUYER)
    place.subscribe("p", BUYER, begins=NOW + timedelta(hours=1))
    place.declare_product("c", dimensions=["requests"], concurrent_agreements=True)
    first, second = (place.subscribe("c", BUYER).license_arn for _ in range(2))

    assert "Success" == meter(place, NOW, LicenseArn=first)
    assert "Success" == meter(place, NOW, LicenseArn=second)
    assert "DuplicateRecord" == meter(place, NOW, LicenseArn=first)
    assert "InvalidLicenseException" == meter(
        place, NOW, LicenseArn=first, CustomerAWSAccountId="9"
    )
    assert [] == place.book.double_billed()
    place.book.products["p"].concurrent_agreements = True
    assert "InvalidProductCodeException" == meter(place, NOW)


def test_two_ways_to_name_a_buyer_bill_twice(place: Sandbox) -> None:
    """
    And the book finds it: by code and license, by account and identifier, in two regions.
    """
    agreement = place.subscribe("p", BUYER, customer_identifier="legacy")
    meter(place, NOW)
    meter(place, NOW, LicenseArn=agreement.license_arn)
    meter(place, NOW, CustomerAWSAccountId=None, CustomerIdentifier="legacy")

    (line,) = place.book.double_billed()
    assert f"p {BUYER} requests 2026-11-23T12:00Z" in line
    assert 3 == line.count("us-east-1")


def test_a_license_outside_its_time_is_invalid(place: Sandbox) -> None:
    """
    Before its agreement begins, and not subscribed after its closing hour.
    """
    license_arn = place.subscribe("p", BUYER).license_arn
    assert "InvalidLicenseException" == meter(
        place, NOW - timedelta(seconds=1), LicenseArn=license_arn
    )
    (agreement,) = place.book.catalogue.agreements.values()
    place.cancel(agreement.agreement_id)
    place.advance(hours=2)
    assert "CustomerNotSubscribed" == meter(place, NOW, LicenseArn=license_arn)


def test_a_license_goes_with_the_account_that_holds_it(place: Sandbox) -> None:
    """
    With no legacy identifier in its place; nor while AWS has suspended the account.
    """
    licensed = {"LicenseArn": str(place.subscribe("p", BUYER).license_arn)}
    assert ":license-manager::000000000000:license:" in licensed["LicenseArn"]

    assert "ValidationException" == meter(
        place, NOW, **licensed, CustomerAWSAccountId=None, CustomerIdentifier="legacy"
    )
    place.suspend(BUYER)
    assert "CustomerNotSubscribed" == meter(place, NOW, **licensed)
    place.restore(BUYER)
    assert "Success" == meter(place, NOW, **licensed)


def test_a_declared_license_needs_no_agreement(place: Sandbox) -> None:
    """
    It is metered for its account and for dimensions of its product, unless that has left.
    """
    arn = "arn:aws:license-manager::000000000000:license:l-1"
    place.declare_product("q", dimensions=["requests"], licenses={arn: BUYER})

    assert "InvalidUsageDimensionException" == meter(place, NOW, LicenseArn=arn, Dimension="other")
    assert "InvalidLicenseException" == meter(
        place, NOW, LicenseArn=arn, CustomerAWSAccountId="444455556666"
    )
    place.set_subscribed("q", BUYER, subscribed=False)
    assert "CustomerNotSubscribed" == meter(place, NOW, LicenseArn=arn)
    place.set_subscribed("q", BUYER, subscribed=True)
    assert "Success" == meter(place, NOW, LicenseArn=arn)


@pytest.mark.parametrize("licensed", [False, True])
@pytest.mark.parametrize("seller", [None, "1", "2"])
def test_only_the_publisher_meters_and_resolves(
    place: Sandbox, seller: str | None, *, licensed: bool
) -> None:
    """
    A key of which no account is known may be anybody's, and is taken.
    """
    place.declare_product("p", seller="1")
    arn = str(place.subscribe("p", BUYER).license_arn)
    assert ":license-manager::1:license:" in arn
    whose = {"LicenseArn": arn} if licensed else {}
    refusal = "InvalidLicenseException" if licensed else "InvalidProductCodeException"

    principal = Principal(account_id=seller)
    token = {"RegistrationToken": place.issue_token("p", customer_aws_account_id=BUYER)}

    assert (refusal if seller == "2" else "Success") == meter(place, NOW, principal, **whose)
    with pytest.raises(Refusal, match="Token") if seller == "2" else nullcontext():
        place.book.resolve_customer(token, now=NOW, principal=principal)


async def test_a_token_lives_four_hours_and_resolves_the_same(place: Sandbox) -> None:
    """
    Then the buyer has to click again; no subscription is needed for that.
    """
    agreement = place.subscribe("p", BUYER)
    place.book.products["p"].registration_url = "http://127.0.0.1:9/"
    token = place.set_up_account(agreement.agreement_id).fields["x-amzn-marketplace-token"]
    async with place, MarketplaceMeteringClient(**place.client_arguments) as client:
        first = await client.resolve_customer(token)
        place.advance(hours=3, minutes=59)
        assert (first.customer_aws_account_id, first.license_arn, first.agreement_id) == (
            BUYER,
            agreement.license_arn,
            agreement.agreement_id,
        )
        assert agreement.license_arn == (await client.resolve_customer(token)).license_arn
        place.advance(minutes=1)
        with pytest.raises(ExpiredTokenException):
            await client.resolve_customer(token)
        place.change_rules(token_use="once", token_life=60)
        once = place.issue_token("p", customer_aws_account_id=BUYER)
        await client.resolve_customer(once)
        with pytest.raises(ExpiredTokenException):
            await client.resolve_customer(once)


async def test_only_the_publisher_resolves_and_meters() -> None:
    """
    Where access keys belong to accounts; an operation that a key may not call is denied.
    """
    keys = {
        "seller": AccessKey("s", account_id="1"),
        "other": AccessKey("s", account_id="2"),
        "reader": AccessKey("s", account_id="1", may=["ResolveCustomer"]),
    }
    async with Sandbox(access_keys=keys) as place:
        place.declare_product("p", seller="1")
        token = place.issue_token("p", customer_aws_account_id=BUYER)

        def client_of(key: str) -> MarketplaceMeteringClient:
            arguments: Any = place.client_arguments | {
                "aws_access_key_id": key,
                "aws_secret_access_key": "s",
            }
            return MarketplaceMeteringClient(**arguments)

        async with client_of("seller") as seller, client_of("other") as other:
            assert BUYER == (await seller.resolve_customer(token)).customer_aws_account_id
            with pytest.raises(InvalidTokenException):
                await other.resolve_customer(token)
        async with client_of("reader") as reader:
            await reader.resolve_customer(token)
            with pytest.raises(Exception, match="AccessDenied"):
                await reader.register_usage(product_code="p", public_key_version=1)


def test_a_workload_is_metered_for_an_account_that_has_subscribed(place: Sandbox) -> None:
    """
    By an agreement that is active or by declaration, unless AWS has suspended it; where nobody was
    named for a product, for anybody.
    """

    def metered() -> bool:
        now = place.clock.now()
        request = {"ProductCode": "p", "UsageDimension": "requests", "Timestamp": now.timestamp()}
        try:
            place.book.meter_usage(request, now=now, principal=Principal(account_id=BUYER))
        except Refusal as refusal:
            return "CustomerNotEntitledException" != refusal.code
        return True

    assert metered()
    place.subscribe("p", "9")
    assert not metered()
    agreement = place.subscribe("p", BUYER)
    assert metered()
    place.suspend(BUYER)
    assert not metered()
    place.restore(BUYER)
    place.cancel(agreement.agreement_id)
    assert not metered()
    place.set_subscribed("p", BUYER, subscribed=True)
    assert metered()


@pytest.fixture
async def page() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A seller's registration page, and the forms that it got."""
    forms: list[dict[str, str]] = []

    async def register(request: web.Request) -> web.Response:
        forms.append({name: str(value) for name, value in (await request.post()).items()})
        raise web.HTTPSeeOther("/welcome")

    app = web.Application()
    app.router.add_post("/register", register)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/register", forms
    await runner.cleanup()


async def test_set_up_your_account_posts_a_token_to_the_seller(
    place: Sandbox, page: tuple[str, list[dict[str, str]]]
) -> None:
    """
    As a buyer's browser does; a free trial says so. The seller resolves what came.
    """
    url, forms = page
    place.declare_product("p", registration_url=url)
    agreement = place.subscribe("p", BUYER, free_trial=timedelta(days=7))
    async with place, MarketplaceMeteringClient(**place.client_arguments) as client:
        answer = await place.register_account(agreement.agreement_id)
        (form,) = forms
        who = await client.resolve_customer(form["x-amzn-marketplace-token"])

    assert (303, "/welcome") == (answer.status, answer.location)
    assert "free-trial" == form["x-amzn-marketplace-offer-type"]
    assert (BUYER, "p") == (who.customer_aws_account_id, who.product_code)


async def test_set_up_your_account_is_ordered_over_http(
    place: Sandbox, page: tuple[str, list[dict[str, str]]]
) -> None:
    """
    The form alone, or posted at once; a page that does not answer is a 502.
    """
    url, forms = page
    place.declare_product("p", registration_url=url)
    agreement = place.subscribe("p", BUYER)
    order = {"agreement_id": agreement.agreement_id}

    async def ask(web_: aiohttp.ClientSession, **order: Any) -> tuple[int, Any]:
        async with web_.post(f"{place.url}/_sandbox/set-up-account", json=order) as answer:
            text = await answer.text()
            return answer.status, await answer.json() if answer.status == 200 else text

    async with place, aiohttp.ClientSession() as browser:
        _, told = await ask(browser, **order)
        assert (url, []) == (told["url"], forms)
        assert {"x-amzn-marketplace-token"} == set(told["fields"])
        _, told = await ask(browser, **order, post=True)
        assert (303, 1) == (told["answer"]["status"], len(forms))
        assert 400 == (await ask(browser, agreement_id="none"))[0]
        place.book.products["p"].registration_url = "http://127.0.0.1:1/"
        assert 502 == (await ask(browser, **order, post=True))[0]


async def test_a_page_that_does_not_answer_is_said_so(place: Sandbox) -> None:
    """
    And so is a product without a page.
    """
    agreement = place.subscribe("p", BUYER)
    with pytest.raises(ValueError, match="registration_url"):
        await place.register_account(agreement.agreement_id)
    place.book.products["p"].registration_url = "http://127.0.0.1:1/"
    with pytest.raises(RegistrationError, match=r"http://127\.0\.0\.1:1/"):
        await place.register_account(agreement.agreement_id)
    with pytest.raises(ValueError, match="http"):
        place.declare_product("q", registration_url="javascript:alert(1)")


async def test_the_life_cycle_is_ordered_over_http(place: Sandbox) -> None:
    """
    Subscribe, cancel, expire, suspend, restore, rotate; and it is told how all stands.
    """
    async with place, aiohttp.ClientSession() as browser:

        async def order(path: str, **members: Any) -> Any:
            async with browser.post(f"{place.url}/_sandbox/{path}", json=members) as answer:
                assert 200 == answer.status, await answer.text()
                return await answer.json()

        who = {"product_code": "p", "customer_aws_account_id": BUYER}
        first = await order("subscribe", **who, free_trial=3600, begins=NOW.isoformat())
        assert "active" == first["state"]
        assert "closing" == (await order("cancel", agreement_id=first["agreement_id"]))["state"]
        second = await order("subscribe", **who)
        told = await order("expire", agreement_id=second["agreement_id"])
        assert "expired" == told["reason"]
        assert [BUYER] == (await order("suspend", customer_aws_account_id=BUYER))["suspended"]
        assert [] == (await order("restore", customer_aws_account_id=BUYER))["suspended"]
        assert 2 == (await order("rotate-key", product_code="p"))["public_key_version"]
        changed = await order("rules", identical_resend="success", age=7200)
        assert ("success", 7200) == (changed["identical_resend"], changed["age"])
        assert timedelta(hours=2) == place.book.rules.age
        async with browser.get(f"{place.url}/_sandbox/marketplace") as answer:
            told = await answer.json()
        async with browser.get(f"{place.url}/_sandbox/public-key?version=2") as answer:
            key = await answer.text()

    assert ["closing", "closing"] == [agreement["state"] for agreement in told["agreements"]]
    assert 2 == told["products"]["p"]["public_key_version"]
    assert place.public_key(2) == key
    assert key.startswith("-----BEGIN PUBLIC KEY-----")


def test_odd_agreements_are_refused(place: Sandbox) -> None:
    """
    Of no product, without a time zone, with a license that is somebody else's.
    """
    with pytest.raises(ValueError, match="not declared"):
        place.subscribe("none", BUYER)
    with pytest.raises(ValueError, match="time zone"):
        place.subscribe("p", BUYER, begins=datetime(2026, 1, 1))  # noqa: DTZ001
    license_arn = place.subscribe("p", BUYER).license_arn
    with pytest.raises(ValueError, match="another agreement"):
        place.subscribe("p", "2", license_arn=license_arn)
    with pytest.raises(TypeError):
        place.change_rules(nothing=1)
    with pytest.raises(ValueError, match="key_by"):
        place.change_rules(key_by="minute")
    assert Rules() == place.book.rules


def test_a_clock_speeds_to_the_end_of_a_month(place: Sandbox) -> None:
    """
    Hours go by in a blink, and then the month is closed. Covers: H07
    """
    place.subscribe("p", BUYER, begins=NOW)
    place.clock.set(datetime(2026, 11, 30, 23, 30, tzinfo=UTC))
    usage = place.clock.now() - timedelta(minutes=1)
    place.clock.run(360_000)
    while place.clock.now() < datetime(2026, 12, 1, 6, tzinfo=UTC):
        time.sleep(0.01)
    place.clock.freeze()

    assert place.clock.now() == place.clock.now()
    assert "TimestampOutOfBoundsException" == meter(place, usage)
