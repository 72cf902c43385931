"""Arguments of another type than is asked for: named where they are given, before anything runs."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from support.figures import DOORS, send_through
from support.memory import MemoryService, client_of, usage
from support.virtual import VirtualClock, run_virtual
from yarl import URL

from marketplace_metering_async import MarketplaceMeteringClient, RetryPolicy, UsageBatcher
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import ConfigurationError, InvalidRecordError
from marketplace_metering_async.flow.pacing import AdaptivePacer
from marketplace_metering_async.results import RecordStatus

HUGE = 10**5_000  # which neither a float nor str() takes


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("region_name", "text"),
        ("endpoint_url", "text"),
        ("profile_name", "text"),
        ("retry", "a RetryPolicy"),
        ("pacer", "a Pacer"),
        ("observer", "an Observer"),
        ("clock", "a Clock"),
        ("transport", "a Transport"),
        ("random", "a random.Random"),
    ],
)
@pytest.mark.parametrize(
    ("odd", "got"),
    [
        (5, r"5 \(int\)"),
        (URL("http://127.0.0.1:1"), "a URL"),
        (b"us-east-1", "a bytes"),
        (SystemClock, "a type"),
        (HUGE, "a number of 16610 bits"),
    ],
    ids=["number", "url", "bytes", "class", "huge"],
)
def test_a_setting_of_another_type_is_named(setting: str, wanted: str, odd: Any, got: str) -> None:
    """
    A URL of another library, a class in place of an object: not met in the depths of a call.
    """
    with pytest.raises(TypeError, match=f"^{setting}: expected {wanted}, got {got}$"):
        MarketplaceMeteringClient(**{setting: odd})


@pytest.mark.parametrize("setting", ["region_name", "endpoint_url", "profile_name"])
def test_a_place_that_is_empty_is_refused(setting: str) -> None:
    """
    It is that of a variable that is not set: a sandbox's address led to AWS, which bills.
    """
    given: dict[str, Any] = {setting: ""}

    with pytest.raises(ValueError, match=f"^{setting}: expected a text or None, got '': is a var"):
        MarketplaceMeteringClient(**given)


@pytest.mark.parametrize("odd", [b"key", ["key"]], ids=["bytes", "list"])
@pytest.mark.parametrize(
    "name", ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"]
)
async def test_keys_that_are_no_text_are_refused_and_not_shown(name: str, odd: Any) -> None:
    """
    As keys with a line break are.
    """
    async with client_of(MemoryService(), **{name: odd}) as client:
        with pytest.raises(
            ConfigurationError, match=r"^credentials: expected visible .* got something"
        ):
            await client.batch_meter_usage(usage(1))


def test_what_has_the_methods_is_of_the_kind() -> None:
    """
    No class of ours needs to be among its bases.
    """
    client_of(
        MemoryService(),
        clock=VirtualClock(),
        pacer=AdaptivePacer(5),
        observer=print,
        random=Random(1),
        retry=RetryPolicy(),
    )


def test_the_arguments_of_the_doors_are_looked_at() -> None:
    """
    A `threading.Event` would have stopped the event loop, and a list the program.
    """
    service = MemoryService()
    odd: Any = ["product"]
    stop: Any = threading.Event()

    async def run() -> None:
        async with client_of(service) as client:
            with pytest.raises(TypeError, match=r"^product_code: expected text, got a list$"):
                await client.batch_meter_usage(usage(1), product_code=odd)
            with pytest.raises(TypeError, match=r"^product_code: expected text, got a list$"):
                client.iter_batch_meter_usage(usage(1), product_code=odd)
            with pytest.raises(TypeError, match=r"^product_code: expected text, got a list$"):
                UsageBatcher(client, product_code=odd)
            with pytest.raises(TypeError, match=r"^stop: expected an asyncio\.Event, got a Event$"):
                client.iter_batch_meter_usage(usage(1), stop=stop)
        with pytest.raises(TypeError, match=r"^client: expected a MarketplaceMeteringClient, got "):
            UsageBatcher(service)  # type: ignore[arg-type]

    run_virtual(run())

    assert [] == service.requests


@pytest.mark.parametrize(
    ("odd", "kind", "got"),
    [
        (True, TypeError, r"expected a number, got True \(bool\)"),
        (Decimal(1), TypeError, r"expected a number, got 1 \(Decimal\)"),
        (HUGE, ValueError, "expected a smaller number, got a number of 16610 bits"),
        (math.nan, ValueError, "expected .*nan"),
    ],
    ids=["bool", "decimal", "huge", "nan"],
)
def test_a_number_that_is_none_for_a_clock_is_refused(
    odd: Any, kind: type[Exception], got: str
) -> None:
    """
    True counts nothing, not a number is no limit, and what no float can stand for no time.
    """
    service = MemoryService()
    client = client_of(service, clock=SystemClock())
    calls: list[tuple[str, Callable[[], object]]] = [
        ("max_concurrency", lambda: client_of(service, max_concurrency=odd)),
        ("calls_per_second", lambda: client_of(service, calls_per_second=odd)),
        ("max_pending", lambda: UsageBatcher(client, max_pending=odd)),
        ("linger", lambda: UsageBatcher(client, linger=odd)),
        ("linger", lambda: client.iter_batch_meter_usage([], linger=odd)),
        ("timeout", lambda: asyncio.run(client.batch_meter_usage([], timeout=odd))),
        ("timeout", lambda: asyncio.run(client.resolve_customer("token", timeout=odd))),
        ("timeout", lambda: asyncio.run(UsageBatcher(client).drain(odd))),
        ("burst", lambda: AdaptivePacer(5, burst=odd)),
        ("timeout", lambda: RetryPolicy(timeout=odd)),
        ("attempt_timeout", lambda: RetryPolicy(attempt_timeout=odd)),
        ("max_attempts", lambda: RetryPolicy(max_attempts=odd)),
    ]

    for name, call in calls:
        with pytest.raises(kind, match=f"^'?{name}'?( must be > 0: nan|: {got})$"):
            call()


def test_a_limit_that_is_not_whole_is_refused() -> None:
    """
    Taken one by one from half a record more, nothing is ever left: it would let everything through.
    A whole one may be a float, as a configuration has it.
    """
    client = client_of(MemoryService(), clock=SystemClock(), max_concurrency=2.0)
    calls: list[tuple[str, Callable[[Any], object]]] = [
        ("max_concurrency", lambda most: client_of(MemoryService(), max_concurrency=most)),
        ("max_pending", lambda most: UsageBatcher(client, max_pending=most)),
        ("max_attempts", lambda most: RetryPolicy(max_attempts=most)),
    ]

    for name, call in calls:
        call(2.0)
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number, got 1.5$"):
            call(1.5)


class Unreadable(Mapping[str, Any]):
    """A row whose connection is gone: to read it raises."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("the connection is gone")

    def __iter__(self) -> Iterator[str]:
        return iter(("Timestamp",))

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("odd", [Unreadable(), {HUGE: 1}], ids=["gone", "name"])
@pytest.mark.parametrize("door", DOORS)
def test_a_mapping_that_cannot_be_read_ends_only_itself(door: str, odd: Any) -> None:
    """
    It is no record, at its place; what came before it and behind it is metered. Law of sending 1
    """
    first, last = usage(2)

    results = send_through(door, MemoryService(), [first, odd, last])

    success, rejected = RecordStatus.SUCCESS, RecordStatus.REJECTED
    assert [success, rejected, success] == [result.status for result in results]
    assert isinstance(results[1].error, InvalidRecordError)
    assert str(results[1].error).startswith("records[1]: expected a mapping that can be read, got")
