"""MeterUsage, RegisterUsage, ResolveCustomer: what says nothing of the matter is no result."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.memory import MemoryService, client_of
from support.virtual import START, run_virtual

from marketplace_metering_async import MarketplaceMeteringClient, RetryPolicy
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    InvalidResponseError,
    MarketplaceMeteringException,
)

METER: dict[str, Any] = {
    "product_code": "product",
    "timestamp": START,
    "usage_dimension": "requests",
    "usage_quantity": 1,
}


class Saying(MemoryService):
    """A service that says one thing, or somebody in its place."""

    def __init__(self, said: object) -> None:
        super().__init__()
        self._said = said

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(json.loads(request.body))
        headers = {"x-amzn-RequestId": "request"}
        return Response(200, headers, json.dumps(self._said).encode())


class Pages(MemoryService):
    """A service whose first response a proxy replaces by a page of its own."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self._page = page

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(json.loads(request.body))
        if len(self.requests) == 1:
            return Response(200, {}, self._page)
        return Response(200, {"x-amzn-RequestId": "request"}, b'{"MeteringRecordId": "id"}')


@pytest.mark.parametrize(
    ("call", "lacks", "said"),
    [
        (lambda c: c.resolve_customer("token"), "customer", {}),
        (lambda c: c.resolve_customer("token"), "customer", {"ProductCode": "product"}),
        (lambda c: c.resolve_customer("token"), "customer", {"CustomerAWSAccountId": 1}),
        (lambda c: c.resolve_customer("token"), "customer", {"CustomerIdentifier": ["id"]}),
        (
            lambda c: c.register_usage(product_code="product", public_key_version=1),
            "Signature",
            {"Signature": ""},
        ),
        (lambda c: c.meter_usage(**METER), "MeteringRecordId", {"MeteringRecordId": ""}),
    ],
)
async def test_a_response_that_says_nothing_is_none_of_the_services(
    call: Callable[[MarketplaceMeteringClient], Any], lacks: str, said: object
) -> None:
    """
    A registration page that went on with nobody would have let somebody in. Covers: R12
    """
    service = Saying(said)

    async with client_of(service, retry=RetryPolicy(max_attempts=2)) as client:
        with pytest.raises(InvalidResponseError, match=f"no {lacks} in the response") as raised:
            await call(client)

    assert "request" == raised.value.request_id
    assert 2 == len(service.requests)


@pytest.mark.parametrize("page", [b"<html>", b"", b"[]", b'{"status": "ok"}'])
async def test_a_page_in_place_of_the_response_is_asked_again(page: bytes) -> None:
    """
    With the same token, so that usage which the service took behind it counts once.
    """
    service = Pages(page)

    async with client_of(service) as client:
        result = await client.meter_usage(**METER)

    assert "id" == result.metering_record_id
    assert [result.client_token] * 2 == [one["ClientToken"] for one in service.requests]


async def test_what_the_service_adds_to_a_customer_is_text_or_nothing() -> None:
    """
    A member of another type than the model's does not undo that the customer is known.
    """
    said = {"CustomerAWSAccountId": "1" * 12, "ProductCode": 5, "Metadata": {"AgreementId": 7}}

    async with client_of(Saying(said)) as client:
        found = await client.resolve_customer("token")

    assert ("1" * 12, None, None) == (
        found.customer_aws_account_id,
        found.product_code,
        found.agreement_id,
    )


@pytest.mark.parametrize("dry_run", ["false", "true", None, 0])
async def test_a_dry_run_is_a_yes_or_a_no(dry_run: Any) -> None:
    """
    A text of the environment that says "false" would have metered nothing.
    """
    service = Saying({"MeteringRecordId": "id"})

    async with client_of(service) as client:
        with pytest.raises(TypeError, match=r"^dry_run: expected a bool, got "):
            await client.meter_usage(**METER, dry_run=dry_run)

    assert [] == service.requests


@pytest.mark.parametrize("timeout", [0, -1.0, float("-inf")])
def test_nothing_is_sent_in_no_time(timeout: float) -> None:
    """
    As by the other doors: what is left of a deadline may be nothing. Design, law 10
    """
    service = Saying({"MeteringRecordId": "id"})

    async def send() -> None:
        async with client_of(service) as client:
            await client.endpoint()
            with pytest.raises(DeliveryTimeoutError, match="no time was allowed; nothing was sent"):
                await client.meter_usage(**METER, timeout=timeout)

    run_virtual(send())

    assert [] == service.requests


class Skewed(MemoryService):
    """A service with another time, which says so after five seconds."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(json.loads(request.body))
        await asyncio.sleep(5)
        headers = {"x-amzn-RequestId": "request", "Date": "Mon, 23 Nov 2026 16:00:00 GMT"}
        return Response(403, headers, b'{"__type": "InvalidSignatureException"}')


@pytest.mark.parametrize(("timeout", "requests"), [(3.0, 1), (8.0, 2)])
def test_no_repair_is_tried_after_the_time(timeout: float, requests: int) -> None:
    """
    A clock that was corrected by the refusal has it sent again, where there is time for that.
    """
    service = Skewed()

    async def send() -> None:
        async with client_of(service) as client:
            with pytest.raises(MarketplaceMeteringException, match="InvalidSignature"):
                await client.meter_usage(**METER, timeout=timeout)

    run_virtual(send())

    assert requests == len(service.requests)


def test_no_subclass_of_datetime_is_asked_for_its_seconds() -> None:
    """
    Those of pandas round the last part of an hour up, which would be metered in the next one.
    """

    class Rounding(datetime):
        def timestamp(self) -> float:
            return float(round(super().timestamp()))

    service = Saying({"MeteringRecordId": "id"})
    last = Rounding(2026, 11, 23, 11, 59, 59, 999_999, tzinfo=UTC)

    async def send() -> None:
        async with client_of(service) as client:
            await client.meter_usage(**METER | {"timestamp": last})

    run_virtual(send())

    (request,) = service.requests
    assert datetime(2026, 11, 23, 11, 59, 59, tzinfo=UTC).timestamp() == request["Timestamp"]


def test_an_error_says_the_token_by_which_the_request_can_be_repeated() -> None:
    """
    A call that gives none has one all the same. Where each token counts, as on AgentCore, whoever
    follows the advice to send it again and gives another meters twice.
    """
    service = Saying({"no": "id"})

    async def run() -> InvalidResponseError:
        async with client_of(service) as client:
            with pytest.raises(InvalidResponseError) as caught:
                await client.meter_usage(**METER, timeout=1.0)
            return caught.value

    notes = run_virtual(run()).__notes__

    (token,) = {request["ClientToken"] for request in service.requests}
    assert [f"to repeat this very request, give client_token={token!r}"] == notes
