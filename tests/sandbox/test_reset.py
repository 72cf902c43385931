"""A reset: what is forgotten, what stays, and that the next test finds all as it was made."""

from typing import Any

import pytest

from marketplace_metering_async.sandbox import Fault, FaultKind, Principal, Rules, Sandbox

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


@pytest.mark.parametrize(("everything", "products"), [(False, ["p"]), (True, [])])
def test_declared_products_stay(*, everything: bool, products: list[str]) -> None:
    """
    Unless everything is to be forgotten.
    """
    sandbox = Sandbox()
    sandbox.declare_product("p")
    sandbox.reset(everything=everything)

    assert products == list(sandbox.book.products)
