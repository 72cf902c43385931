"""The service without a socket is the service at a port: one world, the same answers."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from support.unsigned import Sent, request_of
from support.virtual import START, run_virtual

from marketplace_metering_async import (
    MarketplaceMeteringClient,
    MarketplaceMeteringException,
    TransportError,
    UsageRecord,
)
from marketplace_metering_async.sandbox import AccessKey, Fault, FaultKind, Sandbox, SandboxClock
from marketplace_metering_async.testing import SandboxTransport

Outcome = tuple[int, str, str] | str
SECRET = {"AKIDTEST": AccessKey("secret")}


def request(url: str, *, operation: str = "BatchMeterUsage", now: datetime | None = None) -> Sent:
    """Return a request that meters three records of the hour before."""
    now = now or datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    usage = {"Timestamp": hour.timestamp(), "Dimension": "requests", "Quantity": 5}
    records = [{**usage, "CustomerAWSAccountId": f"{customer:012d}"} for customer in range(3)]
    members = {"ProductCode": "p", "UsageRecords": records}
    return request_of(url, members, operation=operation, now=now)


def outcome(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """Return what came, but for the ids that no two calls share."""
    text = re.sub(r'("MeteringRecordId": ?")[^"]+', r"\1", body.decode())
    return status, headers.get("Content-Type", ""), text


async def by_port(sandbox: Sandbox, sent: Sent) -> Outcome:
    async with sandbox, aiohttp.ClientSession() as web:
        url = f"{sandbox.url}/"
        try:
            async with web.post(
                url, data=sent.body, headers=sent.headers, allow_redirects=False
            ) as answer:
                return outcome(answer.status, answer.headers, await answer.read())
        except aiohttp.ClientError:
            return "lost"


async def without(sandbox: Sandbox, sent: Sent) -> Outcome:
    try:
        answer = await sandbox.transport().send(sent, timeout=5)
    except ConnectionResetError:
        return "lost"
    return outcome(answer.status, answer.headers, answer.body)


def sandbox_with(*kinds: FaultKind) -> Sandbox:
    faults = [Fault(kind=kind, seconds=0.05, operation=None) for kind in kinds]
    return Sandbox(faults=faults, seed=7)


@pytest.mark.parametrize("kind", [*FaultKind, None])
async def test_every_fault_is_the_same_without_a_socket(kind: FaultKind | None) -> None:
    """
    The same bytes or the same loss, the same book, the same counts and history.
    """
    kinds = [] if kind is None else [kind]
    there, here = sandbox_with(*kinds), sandbox_with(*kinds)
    sent = request("http://127.0.0.1:1")

    expected = await by_port(there, sent)
    found = await without(here, sent)

    if kind in (
        FaultKind.REDIRECT,
        FaultKind.EMPTY,
    ):  # aiohttp names a type where there is no content
        expected, found = (expected[0], expected[2]), (found[0], found[2])  # type: ignore[assignment]
    assert expected == found
    assert there.book.totals(by="customer") == here.book.totals(by="customer")
    assert (there.calls, there.hits, there.refusals) == (here.calls, here.hits, here.refusals)
    for name in ("operation", "status", "code", "fault", "verdicts", "size"):
        assert [getattr(c, name) for c in there.history] == [getattr(c, name) for c in here.history]


@pytest.mark.parametrize("change", ["X-Amz-Target", "X-Amz-Date", "Authorization", "Content-Type"])
async def test_what_the_port_refuses_is_refused_without_one(change: str) -> None:
    """
    An unknown operation, a date of last year, no signature, another content.
    """
    sent = request("http://127.0.0.1:1")
    wrong = {"X-Amz-Date": "20200101T000000Z"}.get(change, "none")
    sent = Sent(sent.url, {**sent.headers, change: wrong}, sent.body)

    expected = await by_port(Sandbox(), sent)

    assert expected == await without(Sandbox(), sent)
    assert expected[0] in (400, 403)


async def test_the_quota_holds_without_a_socket() -> None:
    """
    And the bucket is the world's, whoever asks.
    """
    sandbox = Sandbox(calls_per_second=0.001, burst=1)
    sent = request("http://127.0.0.1:1")

    first = await sandbox.transport().send(sent, timeout=5)
    second = await sandbox.transport().send(sent, timeout=5)

    assert (200, 400) == (first.status, second.status)
    assert b"ThrottlingException" in second.body


async def buyer_of(sandbox: Sandbox, *, secret: str) -> str | None:
    """Resolve a new token, with a client that has this secret access key."""
    token = sandbox.issue_token("p", customer_aws_account_id="111122223333")
    arguments: Any = sandbox.client_arguments | {"aws_secret_access_key": secret}
    transport = SandboxTransport(sandbox)
    async with MarketplaceMeteringClient(transport=transport, **arguments) as client:
        return (await client.resolve_customer(token)).customer_aws_account_id


async def test_a_client_signs_for_it() -> None:
    """
    The signature is verified where access keys are declared, and no port is opened.
    """
    sandbox = Sandbox(access_keys=SECRET)

    assert "111122223333" == await buyer_of(sandbox, secret="secret")
    with pytest.raises(MarketplaceMeteringException) as refused:
        await buyer_of(sandbox, secret="wrong")
    assert "InvalidSignatureException" == refused.value.code
    assert sandbox.url.endswith(":0")


@pytest.mark.parametrize("kind", [FaultKind.SLOW, FaultKind.STALL, FaultKind.DRIP])
def test_time_is_the_loop_s_own(kind: FaultKind) -> None:
    """
    An hour of a slow service is over at once in virtual time; records of that time are taken.
    """
    sandbox = Sandbox(clock=SandboxClock(START, speed=0))
    sandbox.inject(Fault(kind=kind, seconds=3600, max_hits=1))
    sent = request("http://127.0.0.1:1", now=START)

    async def send() -> int:
        transport = SandboxTransport(sandbox, round_trip=0.02)
        with pytest.raises(TransportError, match="within 60 s") as late:
            await transport.send(sent, timeout=60)
        assert late.value.sent
        return (await transport.send(sent, timeout=60)).status

    assert 200 == run_virtual(send())
    assert 3 == len(sandbox.book)


async def test_a_batch_is_metered_without_a_socket() -> None:
    """
    In the usual way: the book has it, and a lost answer is a doubt that the next try settles.
    """
    sandbox = Sandbox(faults=[Fault(kind=FaultKind.RESET_AFTER, max_hits=1)])
    now = datetime.now(UTC)
    record = UsageRecord(
        timestamp=now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1),
        dimension="requests",
        quantity=5,
        customer_aws_account_id="111122223333",
        product_code="p",
    )

    async with MarketplaceMeteringClient(
        transport=SandboxTransport(sandbox), **sandbox.client_arguments
    ) as client:
        await client.batch_meter_usage([record])

    assert {"111122223333": 5} == sandbox.book.totals(by="customer")
    assert 2 == sandbox.calls["BatchMeterUsage"]


@pytest.mark.parametrize(
    ("code", "asked", "status"),
    [
        ("AccessDeniedException", None, 403),
        ("UnrecognizedClientException", None, 403),
        ("InternalServiceErrorException", None, 500),
        ("RequestEntityTooLargeException", None, 413),
        ("ServiceUnavailable", None, 503),
        ("DryRunOperation", None, 412),
        ("InvalidProductCodeException", None, 400),
        ("NobodyKnowsThis", None, 400),
        ("AccessDeniedException", 400, 400),
    ],
)
async def test_a_refusal_on_demand_has_the_status_of_its_code(
    code: str, asked: int | None, status: int
) -> None:
    """
    Unless another one is asked for.
    """
    place = Sandbox(faults=[Fault(kind=FaultKind.REFUSE, code=code, status=asked)])
    found = await place.transport().send(request(place.url), timeout=5)

    assert (status, code) == (found.status, json.loads(found.body)["__type"])
