"""Responses in the service's shape, and what a fault makes of them: values, not sent yet."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.sandbox.as_json import encoded
from marketplace_metering_async.sandbox.faults import Fault, FaultHit, FaultKind, ScriptedResponse
from marketplace_metering_async.sandbox.service.refusals import Refusal

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_PIECES: Final = 20
_PAGE: Final = "<html><body><h1>{}</h1></body></html>"


@frozen
class ServiceResponse:
    """
    A response, and how it travels.

    Attributes:
        status: The HTTP status.
        body: Its bytes.
        headers: Its headers.
        comes: How many bytes of the body come before the connection is reset; 0: nothing comes,
            not even a status; None: all of it comes.
        pieces: In how many pieces the body comes.
        seconds: How long the pieces take, or how long the connection is silent before its reset.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]
    comes: int | None = None
    pieces: int = 1
    seconds: float = 0.0

    def parts(self) -> list[bytes]:
        """Return the pieces of the body that come."""
        body = self.body[: self.comes]
        step = len(body) // self.pieces + 1
        return [body[at : at + step] for at in range(0, len(body), step)]


_RESET: Final = ServiceResponse(0, b"", {}, comes=0)


def service_response(
    members: dict[str, Any], request_id: str, *, status: int = 200
) -> ServiceResponse:
    """Return the service's own response."""
    headers = {"x-amzn-RequestId": request_id, "Content-Type": CONTENT_TYPE}
    return ServiceResponse(status, encoded(members), headers)


def _foreign(status: int, body: bytes, content_type: str = CONTENT_TYPE) -> ServiceResponse:
    """Return a response that has no request id of the service."""
    return ServiceResponse(status, body, {"Content-Type": content_type})


async def apply_fault(
    hit: FaultHit, apply: Callable[[], Awaitable[dict[str, Any]]], request_id: str
) -> ServiceResponse:
    """
    Do what a fault says, before or after the request is applied.

    Args:
        hit: The fault.
        apply: Applies the request and returns the reply.
        request_id: For the response.

    Raises:
        Refusal: where the fault is an error of the service, or the request breaks a rule.
    """
    fault = hit.fault
    if isinstance(fault, ScriptedResponse):
        return ServiceResponse(fault.status, fault.body, fault.headers)
    match fault.kind:
        case FaultKind.THROTTLE:
            raise Refusal("ThrottlingException", "Rate exceeded")
        case FaultKind.ERROR_500:
            raise Refusal("InternalServiceErrorException", "an internal error occurred")
        case FaultKind.REFUSE:
            remedy = "Remove the fault: it refuses whatever is sent."
            raise Refusal(fault.code, "refused on demand", fault.status, remedy=remedy)
        case FaultKind.ERROR_503:
            return _page(503, "503 Service Unavailable")
        case FaultKind.HTML:
            return _page(200, "Please log in")
        case FaultKind.REDIRECT:
            return ServiceResponse(307, b"", {"Location": "http://other.invalid/"})
        case FaultKind.RESET_BEFORE:
            return _RESET
    reply = await apply()
    return await _after(fault, hit.random, reply, request_id)


async def _after(
    fault: Fault, random: Random, reply: dict[str, Any], request_id: str
) -> ServiceResponse:
    """Return what comes of the response to a request that was applied."""
    match fault.kind:
        case FaultKind.ERROR_500_AFTER:
            raise Refusal("InternalServiceErrorException", "an internal error occurred")
        case FaultKind.RESET_AFTER:
            return _RESET
        case FaultKind.GARBAGE:
            return _foreign(200, b'{"Results": [{"')
        case FaultKind.WRONG_CONTENT:
            return _foreign(200, b'{"status": "ok"}', "application/json")
        case FaultKind.EMPTY:
            return _foreign(200, b"")
        case FaultKind.TRUNCATED:
            return _cut_short(reply, seconds=0)
        case FaultKind.STALL:
            return _cut_short(reply, seconds=fault.seconds)
        case FaultKind.DRIP:
            return ServiceResponse(
                200,
                encoded(reply),
                {"Content-Type": CONTENT_TYPE},
                pieces=_PIECES,
                seconds=fault.seconds,
            )
        case FaultKind.SLOW:
            await asyncio.sleep(fault.seconds)
        case _:
            _spoil(fault.kind, reply, random)
    return service_response(reply, request_id)


def _cut_short(reply: dict[str, Any], *, seconds: float) -> ServiceResponse:
    body, headers = encoded(reply), {"Content-Type": CONTENT_TYPE}
    return ServiceResponse(200, body, headers, comes=len(body) // 2, seconds=seconds)


def _spoil(kind: FaultKind, reply: dict[str, Any], random: Random) -> None:
    """Change the results of a BatchMeterUsage response, where there are any."""
    results: list[dict[str, Any]] = reply.get("Results") or []
    if not results:
        return
    at = random.randrange(len(results))
    one = results[at]
    echo = one["UsageRecord"]
    match kind:
        case FaultKind.SHUFFLE:
            random.shuffle(results)
        case FaultKind.DROP:
            del results[at]
        case FaultKind.DUPLICATE:
            results.append(one)
        case FaultKind.ALTER:
            results[at] = {**one, "UsageRecord": _altered(echo)}
        case FaultKind.FOREIGN:
            foreign = {**echo, "Dimension": "of-somebody-else"}
            results.append({**one, "UsageRecord": foreign})
        case FaultKind.DISAGREE:
            results.append({**one, "Status": "CustomerNotSubscribed"})
        case FaultKind.UNKNOWN_STATUS:
            results[at] = {**one, "Status": "Postponed"}


def _altered(echo: dict[str, Any]) -> dict[str, Any]:
    """Return *echo* with another quantity, in a member that it has."""
    decimal = echo.get("QuantityAsDecimal")
    if decimal is None:
        return {**echo, "Quantity": (echo.get("Quantity") or 0) ^ 1}
    return {**echo, "QuantityAsDecimal": "0.5" if decimal != "0.5" else "0.25"}


def _page(status: int, text: str) -> ServiceResponse:
    return _foreign(status, _PAGE.format(text).encode(), "text/html; charset=utf-8")
