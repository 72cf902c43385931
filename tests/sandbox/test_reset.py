"""A reset: what is forgotten, what stays, and that the next test finds all as it was made."""

from typing import Any

import pytest

from marketplace_metering_async.sandbox import Fault, FaultKind, Principal, Rules, Sandbox
from marketplace_metering_async.sandbox.as_json import as_json
from marketplace_metering_async.sandbox.service.memory import copy_of

everything = pytest.mark.parametrize("everything", [False, True])


def behaviour(sandbox: Sandbox) -> tuple[Any, ...]:
    """Return how the sandbox decides, and how much it lets through."""
    quota = sandbox.quota_of(Principal(), "BatchMeterUsage")
    return sandbox.book.rules, sandbox.calls_per_second, quota.calls_per_second, quota.burst


@everything
@pytest.mark.parametrize(
    "made_with",
    [
        {},
        {"calls_per_second": None},
        {"calls_per_second": 5, "burst": 3, "rules": Rules(identical_resend="success")},
    ],
)
def test_rules_and_quota_are_those_it_was_made_with(
    made_with: dict[str, Any], *, everything: bool
) -> None:
    """
    Sandbox T2. What one test has switched does not turn the next one red.
    """
    sandbox = Sandbox(**made_with)
    before = behaviour(sandbox)
    sandbox.change_rules(identical_means="quantity", key_memory=3600)
    sandbox.set_quota(77, burst=7)
    sandbox.calls_per_second = 78
    assert before != behaviour(sandbox)

    sandbox.reset(everything=everything)

    assert before == behaviour(sandbox)


@everything
def test_buckets_are_full(*, everything: bool) -> None:
    """
    The calls of one test count against no other's quota.
    """
    sandbox = Sandbox(burst=3)
    sandbox.quota_of(Principal(), "BatchMeterUsage").require(0.0)
    assert 2 == sandbox.quota_of(Principal(), "BatchMeterUsage").left(0.0)

    sandbox.reset(everything=everything)

    assert 3 == sandbox.quota_of(Principal(), "BatchMeterUsage").left(0.0)


@everything
def test_faults_strike_by_the_same_chance(*, everything: bool) -> None:
    """
    However many were injected before.
    """
    sandbox = Sandbox(seed=5)

    def strikes() -> list[bool]:
        sandbox.inject(Fault(kind=FaultKind.THROTTLE, probability=0.5))
        return [sandbox.faults.hit("BatchMeterUsage", {}) is not None for _ in range(64)]

    first = strikes()
    sandbox.reset(everything=everything)

    assert first == strikes()


def test_nothing_that_happened_is_left() -> None:
    """
    Whatever a book remembers; and a product that is declared anew is anybody's again.
    """
    rules = Rules(not_subscribed_takes_key=True)
    sandbox, untouched = Sandbox(rules=rules), Sandbox(rules=rules)
    now, principal = sandbox.clock.now(), Principal()

    def statuses(*accounts: str) -> list[str]:
        record = {"Timestamp": now.timestamp(), "Dimension": "requests", "Quantity": 1}
        records = [record | {"CustomerAWSAccountId": account} for account in accounts]
        request = {"ProductCode": "p", "UsageRecords": records}
        reply = sandbox.book.batch_meter_usage(request, now=now)
        return [result["Status"] for result in reply["Results"]]

    sandbox.declare_product("p")
    license_arn = str(sandbox.subscribe("p", "1", begins=now).license_arn)
    sandbox.set_subscribed("p", "2", subscribed=False)
    sandbox.suspend("3")
    sandbox.issue_token("p", customer_aws_account_id="1")
    usage = {"ProductCode": "p", "UsageDimension": "requests", "Timestamp": now.timestamp()}
    sandbox.book.meter_usage(usage | {"ClientToken": "t"}, now=now, principal=principal)
    registration = {"ProductCode": "p", "PublicKeyVersion": 1}
    sandbox.book.register_usage(registration, now=now, principal=principal)
    assert {"Success", "CustomerNotSubscribed"} == {*statuses("1", "2")}

    sandbox.reset(everything=True)

    assert as_json(copy_of(untouched.book)) == as_json(copy_of(sandbox.book))
    assert sandbox.book.catalogue.product_of_license(license_arn) is None
    sandbox.declare_product("p")
    assert ["Success"] * 3 == statuses("1", "2", "3")


@pytest.mark.parametrize(("everything", "products"), [(False, ["p"]), (True, [])])
def test_declared_products_stay(*, everything: bool, products: list[str]) -> None:
    """
    Unless everything is to be forgotten.
    """
    sandbox = Sandbox()
    sandbox.declare_product("p")
    sandbox.reset(everything=everything)

    assert products == list(sandbox.book.products)
