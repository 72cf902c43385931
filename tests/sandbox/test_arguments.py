"""What is no argument of the sandbox is refused where it is given, in its own words."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from marketplace_metering_async.sandbox import (
    AccessKey,
    Fault,
    Product,
    Rules,
    Sandbox,
    SandboxClock,
    ScriptedResponse,
    World,
)
from marketplace_metering_async.testing import SandboxServer

THROTTLE = Fault(kind="throttle")
NAIVE = datetime(2026, 11, 23)  # noqa: DTZ001 - as a seller may write it

WRONG: dict[str, list[Any]] = {
    "port": ["8765", 1.5, None, True, -1, 65536],
    "host": [None, 5, b"127.0.0.1", ["127.0.0.1"]],
    "clock": [5, "2026-11-23", datetime.now(UTC), SandboxClock],
    "calls_per_second": [True],
    "burst": [float("inf"), True],
    "faults": ["throttle", 5, None, ["throttle"], [None], {"kind": "throttle"}, THROTTLE],
    "seed": ["x", None, 1.5, []],
    "rules": ["strict", 5, {}, {"age": 1}, Rules],
    "access_keys": ["AK", 5, ["AK"], {"AK": "s"}, {5: AccessKey("s")}, AccessKey("s")],
    "history": ["200", 1.5, None, True, -1, 10**30],
    "open_to": [5, None, [5], [None]],
    "token": [5, b"x", []],
    "state": [5, b"x", []],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, some in WRONG.items() for value in some]
)
def test_what_is_no_argument_is_named_at_once(name: str, value: object) -> None:
    """
    A clock that is none came up as a 500 at the first call, rules as one at every call.
    """
    with pytest.raises((TypeError, ValueError), match=rf"^{name}.*: expected .+, got "):
        Sandbox(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("secrets", [{"AK": "hush"}, {"AK": {"secret": "hush"}}, ["hush"], "hush"])
def test_no_secret_is_said(secrets: Any) -> None:
    """
    Only of which type it came. Law 11
    """
    with pytest.raises(TypeError) as refused:
        Sandbox(access_keys=secrets)

    assert "hush" not in str(refused.value)


def test_what_is_iterated_once_is_taken_whole() -> None:
    """
    Faults, names and buyers may come from a generator.
    """
    sandbox = Sandbox(faults=(one for one in [THROTTLE]), open_to=(one for one in ["sandbox"]))
    product = sandbox.declare_product("p", customers=(one for one in ["1"]))

    assert ([THROTTLE], {"1": True}) == (sandbox.faults.rules, product.customers)
    assert 2 == len(sandbox.urls)


AT_OTHER_DOORS: list[Callable[[World], object]] = [
    lambda _: SandboxClock("2026"),  # type: ignore[arg-type]
    lambda _: SandboxClock(speed="fast"),  # type: ignore[arg-type]
    lambda world: world.clock.set(5),  # type: ignore[arg-type]
    lambda world: world.clock.step(5),  # type: ignore[arg-type]
    lambda world: world.clock.run(None),  # type: ignore[arg-type]
    lambda world: world.clock.restore(5),  # type: ignore[arg-type]
    lambda world: world.advance(hours="2"),  # type: ignore[arg-type]
    lambda world: world.advance(fortnights=2),
    lambda world: world.advance(hours=1e30),
    lambda _: Fault(kind="throttle", operation=5),  # type: ignore[arg-type]
    lambda _: Fault(kind="throttle", after="1"),  # type: ignore[arg-type]
    lambda _: Fault(kind="throttle", records=5),  # type: ignore[arg-type]
    lambda _: Fault(kind="throttle", records="12"),  # type: ignore[arg-type]
    lambda _: Fault(kind="refuse", code=5),  # type: ignore[arg-type]
    lambda _: ScriptedResponse(body="text"),  # type: ignore[arg-type]
    lambda _: ScriptedResponse(status="200"),  # type: ignore[arg-type]
    lambda world: world.inject("throttle"),  # type: ignore[arg-type]
    lambda world: world.faults.replace(5),  # type: ignore[arg-type]
    lambda _: AccessKey(5),  # type: ignore[arg-type]
    lambda _: AccessKey("s", may="BatchMeterUsage"),
    lambda _: AccessKey("s", expires=NAIVE),
    lambda _: AccessKey("s", platform="AgentCore"),
    lambda _: AccessKey("s", account_id=5),  # type: ignore[arg-type]
    lambda _: Rules(age="x"),  # type: ignore[arg-type]
    lambda _: Rules(age=1e30),  # type: ignore[arg-type]
    lambda _: Rules(regions="us-east-1"),
    lambda _: Rules(key_by="week"),  # type: ignore[arg-type]
    lambda _: Rules(not_subscribed_takes_key=5),  # type: ignore[arg-type]
    lambda _: Product(dimensions=5),  # type: ignore[arg-type]
    lambda _: Product(customers={"1": "yes"}),  # type: ignore[dict-item]
    lambda world: world.declare_product("q", dimensions=5),  # type: ignore[arg-type]
    lambda world: world.declare_product("q", customers=5),  # type: ignore[arg-type]
    lambda world: world.declare_product("q", licenses=["arn"]),  # type: ignore[arg-type]
    lambda world: world.declare_product("q", public_key_version="1"),  # type: ignore[arg-type]
    lambda world: world.rotate_key([]),  # type: ignore[arg-type]
    lambda world: world.set_subscribed([], "1", subscribed=True),  # type: ignore[arg-type]
    lambda world: world.subscribe([], "1"),  # type: ignore[arg-type]
    lambda world: world.subscribe("p", "1", free_trial=5),  # type: ignore[arg-type]
    lambda world: world.cancel([]),  # type: ignore[arg-type]
    lambda world: world.suspend(111122223333),  # type: ignore[arg-type]
    lambda world: world.restore([]),  # type: ignore[arg-type]
    lambda world: world.issue_token("p", customer_aws_account_id=5),  # type: ignore[arg-type]
    lambda world: world.set_up_account([]),  # type: ignore[arg-type]
    lambda world: world.public_key("1"),  # type: ignore[arg-type]
    lambda world: world.reset(everything="yes"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("act", AT_OTHER_DOORS)
def test_so_it_is_at_every_other_door(act: Callable[[World], object]) -> None:
    """
    And nothing has changed: an account id that is a number suspended nobody, in silence.
    """
    world = World(faults=[THROTTLE])
    world.declare_product("p")

    with pytest.raises((TypeError, ValueError, OverflowError)) as refused:
        act(world)

    assert re.match(r"(\w+(\[.*\])?: )?expected .+, got ", str(refused.value)), refused.value
    assert 1 == len(refused.value.args)
    assert (["p"], [THROTTLE]) == ([*world.book.products], world.faults.rules)
    assert not world.book.catalogue.suspended


def test_a_function_of_faults_that_returns_something_else_is_named() -> None:
    """
    Where it is asked.
    """
    world = World(faults=[lambda *_: "throttle"])  # type: ignore[list-item]

    with pytest.raises(TypeError, match=r"a function of faults returned: expected Fault .*'thr"):
        world.faults.hit("BatchMeterUsage", {})


def test_a_server_names_what_no_other_process_can_be_given() -> None:
    """
    Before the process is started.
    """
    for wrong in ({"faults": [lambda *_: None]}, {"clock": object()}, {"port": "80"}):
        with pytest.raises(TypeError, match=rf"^{next(iter(wrong))}: expected .+, got "):
            SandboxServer(**wrong)


def test_what_a_server_is_given_is_no_part_of_its_command_line() -> None:
    """
    Every user of the machine could read token and keys there; and a thousand keys are more than a
    command line takes.
    """
    keys = {f"AK{number}": AccessKey("hush") for number in range(2000)}

    with SandboxServer(access_keys=keys, token="hush-token") as server:
        assert "hush" == server.environment["AWS_SECRET_ACCESS_KEY"]
        assert server._process is not None
        assert "hush" not in " ".join(map(str, server._process.args))  # type: ignore[arg-type]
