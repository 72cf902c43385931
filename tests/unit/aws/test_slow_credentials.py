"""A provider of credentials that is slow or hangs: who waits for it, and for how long."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from aiobotocore.credentials import AioCredentials, AioRefreshableCredentials
from aiobotocore.session import AioSession
from support.memory import MemoryService, client_of, usage
from support.virtual import START, VirtualClock

from marketplace_metering_async.aws.credentials import FoundCredentials
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import MarketplaceMeteringClient, shared_of
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    DeliveryTimeoutError,
    TransportError,
)
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import RecordStatus

S = RecordStatus


class Provider:
    """
    Gives keys that are good for *minutes*, and brings newer ones once it is *let* to.

    Attributes:
        asked: How often it was asked.
        running: How many ask it now.
    """

    def __init__(self, minutes: float) -> None:
        self.asked = 0
        self.running = 0
        self.let = asyncio.Event()
        self.found = AioRefreshableCredentials(
            "OLD", "s", "t", in_minutes(minutes), refresh_using=self._refresh, method="slow"
        )

    def age(self, minutes: float) -> None:
        """Let the keys be good for *minutes* from now on."""
        self.found._expiry_time = in_minutes(minutes)

    @property
    def session(self) -> AioSession:
        """A session of the caller's own with these credentials."""
        session = AioSession()
        session._credentials = self.found
        return session

    async def again(self) -> None:
        raise AssertionError

    async def _refresh(self) -> dict[str, str]:
        self.asked += 1
        self.running += 1
        try:
            await self.let.wait()
        finally:
            self.running -= 1
        expiry = in_minutes(60).isoformat()
        return {"access_key": "NEW", "secret_key": "s", "token": "t", "expiry_time": expiry}


def in_minutes(minutes: float) -> datetime:
    return datetime.now(UTC) + timedelta(minutes=minutes)


class Clock(VirtualClock):
    """Shows the day of the records; sleeps are real."""

    def now(self) -> datetime:
        return START


class Listening(MemoryService):
    """Notes with which keys requests were signed."""

    def __init__(self) -> None:
        super().__init__(clock=Clock())
        self.round_trip = 0.0
        self.keys: list[str] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        scope = request.headers["Authorization"].partition("Credential=")[2]
        self.keys.append(scope.partition("/")[0])
        return await super().send(request, timeout=timeout)


def client(provider: Provider, service: MemoryService, **more: Any) -> MarketplaceMeteringClient:
    keys = {"aws_access_key_id": None, "aws_secret_access_key": None}
    return client_of(service, session=provider.session, clock=Clock(), **keys, **more)


async def turns(holds: Callable[[], bool] = lambda: False) -> None:
    """Let the event loop turn until something holds, or a while."""
    for _ in range(50):
        if holds():
            return
        await asyncio.sleep(0)


@pytest.mark.parametrize("minutes", [14, 9, 1])
async def test_a_refresh_ahead_of_time_holds_up_nobody(minutes: float) -> None:
    """
    Neither the first call nor those that follow, though the provider hangs. (core F14)
    """
    provider, service = Provider(minutes), Listening()

    async with asyncio.timeout(10), client(provider, service) as own:
        for name in ("a", "b", "c"):
            result = await own.batch_meter_usage(usage(30, dimension=name))
            assert {S.SUCCESS: 30} == result.counts
        assert {"OLD"} == set(service.keys)
        assert (1, 1) == (provider.asked, provider.running)
        provider.let.set()
        await turns(lambda: not provider.running)
        await own.batch_meter_usage(usage(1))

    assert "NEW" == service.keys[-1]


async def test_closing_ends_a_refresh_that_hangs() -> None:
    """
    Nothing is left running.
    """
    provider = Provider(14)
    before = asyncio.all_tasks()

    async with client(provider, Listening()) as own:
        await own.batch_meter_usage(usage(1))
        assert 1 == provider.running

    assert 0 == provider.running
    assert before == asyncio.all_tasks()


async def test_a_refresh_that_must_be_awaited_is_within_the_time_of_the_call() -> None:
    """
    Keys that are over are waited for, but no longer than the caller allows; nothing was sent. When
    they come, all is well. (core F14)
    """
    provider, service = Provider(60), Listening()
    call = {
        "product_code": "product",
        "timestamp": START,
        "usage_dimension": "requests",
        "usage_quantity": 1,
    }

    async with asyncio.timeout(10), client(provider, service) as own:
        await own.endpoint()
        provider.age(-1)
        for _ in range(2):
            with pytest.raises(DeliveryTimeoutError, match="nothing was sent"):
                await own.meter_usage(**call, timeout=0.05)  # type: ignore[arg-type]
        with pytest.raises(DeliveryTimeoutError):
            await own.resolve_customer("token", timeout=0.05)
        assert [] == service.requests
        await turns(lambda: not provider.running)
        assert 0 == provider.running
        provider.let.set()
        assert {S.SUCCESS: 1} == (await own.batch_meter_usage(usage(1))).counts


async def test_what_an_earlier_attempt_left_open_is_not_said_to_be_unsent() -> None:
    """
    Its answer was lost, and then the keys ended: the lost answer is what the caller hears of.
    """
    provider = Provider(60)

    class Lost(Listening):
        async def send(self, request: Request, *, timeout: float) -> Response:
            provider.age(-1)
            raise TransportError("reset", sent=True)

    async with asyncio.timeout(10), client(provider, Lost()) as own:
        await own.endpoint()
        with pytest.raises(TransportError, match="reset"):
            await own.resolve_customer("token", timeout=0.3)

    assert 1 == provider.asked


async def test_finding_credentials_is_within_the_time_of_the_call() -> None:
    """
    The very first call, too. (core F14)
    """
    provider = Provider(-1)

    async with asyncio.timeout(10), client(provider, Listening()) as own:
        with pytest.raises(DeliveryTimeoutError, match="nothing was sent"):
            await own.resolve_customer("token", timeout=0.05)


async def test_whoever_is_cancelled_poisons_nothing() -> None:
    """
    Of ten who wait for keys any may leave: the others get them, from one call for them. (core F14)
    """
    for leaves in range(10):
        provider = Provider(60)
        credentials = FoundCredentials(provider.found, provider.again)
        await credentials.keys()
        provider.age(-1)
        waiting = [asyncio.create_task(credentials.keys()) for _ in range(10)]
        await turns(partial(lambda one: one.running == 1, provider))
        waiting[leaves].cancel()
        await asyncio.wait(waiting[leaves : leaves + 1])
        provider.let.set()
        rest = waiting[:leaves] + waiting[leaves + 1 :]

        assert {"NEW"} == {keys.access_key_id for keys in await asyncio.gather(*rest)}
        assert 1 == provider.asked
        await credentials.aclose()


async def test_what_nobody_waits_for_any_more_ends() -> None:
    """
    All who waited were cancelled: the provider is not left hanging, and the next asks it anew.
    """
    provider = Provider(60)
    credentials = FoundCredentials(provider.found, provider.again)
    await credentials.keys()
    provider.age(-1)
    waiting = [asyncio.create_task(credentials.keys()) for _ in range(3)]
    await turns(lambda: provider.running == 1)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await turns()

    assert 0 == provider.running
    provider.let.set()
    assert "NEW" == (await credentials.keys()).access_key_id
    assert 2 == provider.asked


async def test_a_refresh_ahead_of_time_serves_those_who_need_it() -> None:
    """
    The keys end while it runs: who comes then waits for it, and leaves it running.
    """
    provider = Provider(14)
    credentials = FoundCredentials(provider.found, provider.again)
    assert "OLD" == (await credentials.keys()).access_key_id
    provider.age(-1)
    waiting = [asyncio.create_task(credentials.keys()) for _ in range(2)]
    await turns()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await turns()
    assert 1 == provider.running
    provider.let.set()

    assert "NEW" == (await credentials.keys()).access_key_id
    assert 1 == provider.asked


async def test_a_provider_that_hangs_is_given_up_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    It is a failure like any other: those who need keys hear of it, and it may recover.
    """
    provider, now = Provider(60), [0.0]
    credentials = FoundCredentials(provider.found, provider.again, lambda: now[0])
    await credentials.keys()
    provider.age(-1)

    with monkeypatch.context() as patched:
        patched.setattr("marketplace_metering_async.aws.credentials._LONGEST", 0.02)
        with pytest.raises(
            ConfigurationError, match=r"^credentials of slow: no response within 0\.02 s$"
        ):
            await credentials.keys()
    provider.let.set()
    now[0] += 10
    assert "NEW" == (await credentials.keys()).access_key_id


async def test_closing_ends_whoever_waits_for_keys() -> None:
    """
    With a verdict: nothing was sent.
    """
    provider, service = Provider(60), Listening()

    async with asyncio.timeout(10):
        own = client(provider, service)
        await own.endpoint()
        provider.age(-1)
        sending = asyncio.create_task(own.batch_meter_usage(usage(3)))
        await turns(lambda: provider.running == 1)
        await own.aclose()
        result = await sending

    assert {S.UNPROCESSED: 3} == result.counts
    assert isinstance(result[0].error, ClientClosedError)
    assert (0, 0) == (result.calls, len(service.requests))


async def test_a_renewal_that_hangs_is_within_the_time_of_the_attempt() -> None:
    """
    The service refuses the keys, and the provider hangs: then they stay refused.
    """
    provider = Provider(60)

    class Expired(Listening):
        async def send(self, request: Request, *, timeout: float) -> Response:
            await super().send(request, timeout=timeout)
            body = b'{"__type": "ExpiredTokenException"}'
            return Response(403, {"x-amzn-RequestId": "r"}, body)

    async def hang() -> None:
        await asyncio.Event().wait()

    service = Expired()
    async with (
        asyncio.timeout(10),
        client(provider, service, retry=RetryPolicy(attempt_timeout=0.05)) as own,
    ):
        await own.endpoint()
        shared_of(own).connection._signer._credentials._again = hang  # type: ignore[union-attr]
        result = await own.batch_meter_usage(usage(1))

    assert {S.UNPROCESSED: 1} == result.counts
    assert "ExpiredTokenException" == getattr(result[0].error, "code", None)


async def test_a_call_cancelled_while_it_waits_for_keys_never_left() -> None:
    """
    Whoever cancels it knows, and others are not disturbed. (core F14, F25)
    """
    provider, service = Provider(60), Listening()
    left: list[int] = []

    async with asyncio.timeout(10), client(provider, service) as own:
        await own.endpoint()
        provider.age(-1)

        def call(number: int) -> asyncio.Task[Any]:
            leaving = partial(left.append, number)
            return asyncio.create_task(
                shared_of(own).connection.call(
                    "BatchMeterUsage", b'{"UsageRecords":[]}', leaving=leaving
                )
            )

        first, second = call(1), call(2)
        await turns(lambda: provider.running == 1)
        first.cancel()
        await asyncio.wait((first,))
        provider.let.set()
        await asyncio.wait((second,))

    assert first.cancelled()
    assert [2] == left
    assert ["NEW"] == service.keys


async def test_a_provider_that_hangs_when_it_is_first_asked_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    As a `credential_process` may: no door of a call without a time limit is held up permanently.
    """
    provider = Provider(60)

    class Hanging(AioSession):  # type: ignore[misc]
        async def get_credentials(self) -> Any:
            provider.asked += 1
            await provider.let.wait()
            return provider.found

    monkeypatch.setattr("marketplace_metering_async.aws.credentials._LONGEST", 0.02)
    keyless = {"aws_access_key_id": None, "aws_secret_access_key": None}

    async with client_of(MemoryService(), **keyless, session=Hanging()) as sending:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"of chain: no response within 0\.02 s"):
                await sending.batch_meter_usage(usage(1))
        provider.let.set()
        assert {S.SUCCESS: 1} == (await sending.batch_meter_usage(usage(1))).counts

    assert 3 == provider.asked


@pytest.mark.parametrize("keys", [None, 5, "key"])
async def test_credentials_that_are_none_are_a_matter_of_configuration(keys: Any) -> None:
    """
    A session of the caller's own may bring anything: nothing is signed as "None", nothing raw.
    """

    class Odd(AioSession):  # type: ignore[misc]
        async def get_credentials(self) -> Any:
            return AioCredentials(None, None, method="odd") if keys is None else keys

    service = MemoryService()
    keyless = {"aws_access_key_id": None, "aws_secret_access_key": None}

    async with client_of(service, **keyless, session=Odd()) as sending:
        with pytest.raises(ConfigurationError, match=r"^credentials"):
            await sending.batch_meter_usage(usage(1))

    assert [] == service.requests
