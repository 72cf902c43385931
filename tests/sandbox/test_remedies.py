"""What a person can do about a refusal: the advice of its own cause, wherever it is shown."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.sandbox import (
    AccessKey,
    Fault,
    FaultKind,
    Rules,
    Sandbox,
    SandboxClock,
)

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = NOW - timedelta(hours=1)
BUYER = "111122223333"


async def send(sandbox: Sandbox, **members: Any) -> None:
    usage: dict[str, Any] = {
        "timestamp": HOUR,
        "customer_aws_account_id": BUYER,
        "dimension": "requests",
        "quantity": 5,
        "product_code": "p",
    }
    arguments: dict[str, Any] = {**sandbox.client_arguments, "aws_session_token": None}
    async with MarketplaceMeteringClient(**arguments) as client:
        await client.batch_meter_usage([UsageRecord(**(usage | members))])


async def shown(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    """Return code, rule and remedy of each refusal that the page lists; the state agrees."""
    async with aiohttp.ClientSession() as web:
        async with web.get(f"{sandbox.url}/_sandbox/page/view") as answer:
            listed = (await answer.json())["refusals"]
        async with web.get(f"{sandbox.url}/_sandbox/state") as answer:
            state = (await answer.json())["refusals"]
    assert state == {
        one["code"]: {name: one[name] for name in ("count", "rule", "remedy")} for one in listed
    }
    return [(one["code"], one["rule"], one["remedy"]) for one in listed]


def before_the_agreement(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.declare_product("p")
    sandbox.subscribe("p", BUYER)
    return {}


def unknown_dimension(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.declare_product("p", dimensions=["seats", "bytes"])
    return {}


def undeclared_product(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.declare_product("another")
    return {}


def product_of_another_seller(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.access_keys["sandbox"] = AccessKey("sandbox", account_id="9")
    sandbox.declare_product("p", seller="8")
    return {}


def license_of_another_seller(sandbox: Sandbox) -> dict[str, Any]:
    product_of_another_seller(sandbox)
    agreement = sandbox.subscribe("p", BUYER, begins=HOUR)
    return {"product_code": None, "license_arn": agreement.license_arn}


def usage_of_the_future(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.advance(minutes=-2)
    return {"timestamp": NOW}


def usage_that_is_too_old(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.change_rules(age=1800)
    return {}


def usage_of_a_closed_month(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.change_rules(age=timedelta(days=40), month_end=0)
    sandbox.clock.set((NOW + timedelta(days=31)).replace(day=1))
    return {}


def session_token_of_another_key(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.access_keys["sandbox"] = AccessKey("sandbox", session_token="another")
    return {}


def fault(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.inject(Fault(kind=FaultKind.REFUSE))
    return {}


CAUSES: list[tuple[Callable[[Sandbox], dict[str, Any]], str, str]] = [
    (before_the_agreement, "TimestampOutOfBoundsException", "between the agreement's begin and"),
    (unknown_dimension, "InvalidUsageDimensionException", "dimensions: bytes, seats."),
    (undeclared_product, "InvalidProductCodeException", "Declared: another."),
    (product_of_another_seller, "InvalidProductCodeException", "account that published"),
    (license_of_another_seller, "InvalidLicenseException", "account that published"),
    (usage_of_the_future, "TimestampOutOfBoundsException", "the clocks agree"),
    (usage_that_is_too_old, "TimestampOutOfBoundsException", "within 0.5 hours"),
    (usage_of_a_closed_month, "TimestampOutOfBoundsException", "06:00 UTC on the 1st"),
    (session_token_of_another_key, "UnrecognizedClientException", "session token"),
    (fault, "AccessDeniedException", "Remove the fault"),
]
"""What makes the sandbox refuse a record, under which code, and a part of the advice."""


@pytest.mark.parametrize("history", [200, 0])
@pytest.mark.parametrize(("cause", "code", "advice"), CAUSES)
async def test_the_advice_is_of_the_refusals_own_cause(
    cause: Callable[[Sandbox], dict[str, Any]], code: str, advice: str, history: int
) -> None:
    """
    Sandbox P1. In the page's list and in the state as in the call's details, if that is kept.
    """
    async with Sandbox(clock=SandboxClock(NOW, speed=0), history=history) as sandbox:
        await send(sandbox, **cause(sandbox))
        listed = await shown(sandbox)

    assert [code] == [listed_code for listed_code, _, _ in listed]
    assert advice in listed[0][2]
    assert {(call.code, call.rule, call.remedy) for call in sandbox.history} <= set(listed)


@pytest.mark.parametrize(
    ("rules", "at", "advice"),
    [({"workload_age": 1800}, HOUR, "within 0.5 hours"), ({}, NOW, "the clocks agree")],
)
async def test_a_workload_has_advice_of_its_own_window(
    rules: dict[str, Any], at: datetime, advice: str
) -> None:
    """
    Which is not that of batches.
    """
    clock = SandboxClock(NOW - timedelta(minutes=2), speed=0)
    async with Sandbox(clock=clock, rules=Rules(**rules)) as sandbox:
        async with MarketplaceMeteringClient(**sandbox.client_arguments) as client:
            with pytest.raises(MarketplaceMeteringException, match="TimestampOutOfBounds"):
                await client.meter_usage(
                    product_code="p", timestamp=at, usage_dimension="d", usage_quantity=1
                )
        ((_, _, remedy),) = await shown(sandbox)

    assert advice in remedy


async def test_a_code_has_rule_and_advice_of_its_latest_refusal() -> None:
    """
    Both of the same one, also when later calls have pushed it out of the history.
    """
    async with Sandbox(clock=SandboxClock(NOW, speed=0), history=1) as sandbox:
        await send(sandbox, **usage_that_is_too_old(sandbox))
        sandbox.change_rules(age=86400)
        await send(sandbox, **before_the_agreement(sandbox))
        await send(sandbox, timestamp=NOW)
        ((_, rule, remedy),) = await shown(sandbox)

    assert 2 == sandbox.refusals["TimestampOutOfBoundsException"]
    assert "before the agreement began" in rule
    assert "the agreement's begin" in remedy
    assert [None] == [call.code for call in sandbox.history]


async def test_a_reset_forgets_them() -> None:
    """
    With their counts.
    """
    async with Sandbox() as sandbox:
        await send(sandbox, **usage_that_is_too_old(sandbox))
        assert 1 == len(await shown(sandbox))
        sandbox.reset()
        assert [] == await shown(sandbox)
        assert {} == sandbox.causes
