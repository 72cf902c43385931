"""HTTP answers in the service's shape, and doing to an answer what a fault says."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

from aiohttp import web

from marketplace_metering_async.sandbox.bodies import encoded
from marketplace_metering_async.sandbox.faults import Answer, Fault, Kind, Strike
from marketplace_metering_async.sandbox.refusals import Refusal

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_PIECES: Final = 20
_PAGE: Final = "<html><body><h1>{}</h1></body></html>"

Reply = dict[str, Any]


def reply_answer(reply: Reply, request_id: str) -> web.Response:
    """Return the answer of an operation that was carried out."""
    return _json(reply, 200, request_id)


def refusal_answer(refusal: Refusal, request_id: str) -> web.Response:
    """Return the answer to a request that was refused."""
    members = {"__type": refusal.code, "message": refusal.message}
    return _json(members, refusal.status, request_id)


def _json(members: Reply, status: int, request_id: str) -> web.Response:
    headers = {"x-amzn-RequestId": request_id, "Content-Type": CONTENT_TYPE}
    return web.Response(status=status, body=encoded(members), headers=headers)


class LostError(Exception):
    """The connection was reset, as a fault wanted it: there is no answer."""


async def misbehave(
    strike: Strike,
    apply: Callable[[], Awaitable[Reply]],
    request: web.BaseRequest,
    request_id: str,
) -> web.StreamResponse:
    """
    Do what a fault says, before or after the request is applied.

    Args:
        strike: The fault.
        apply: Applies the request and returns the reply.
        request: As it came.
        request_id: For the answer.

    Raises:
        Refusal: where the fault is an error of the service, or the request breaks a rule.
        LostError: where the connection was reset.
    """
    fault = strike.fault
    if isinstance(fault, Answer):
        return web.Response(status=fault.status, body=fault.body, headers=dict(fault.headers))
    match fault.kind:
        case Kind.THROTTLE:
            raise Refusal("ThrottlingException", "Rate exceeded")
        case Kind.ERROR_500:
            raise Refusal("InternalServiceErrorException", "an internal error occurred", 500)
        case Kind.REFUSE:
            remedy = "Remove the fault: it refuses whatever is sent."
            raise Refusal(fault.code, "refused on demand", fault.status, remedy=remedy)
        case Kind.ERROR_503:
            return _page(503, "503 Service Unavailable")
        case Kind.HTML:
            return _page(200, "Please log in")
        case Kind.REDIRECT:
            return web.Response(status=307, headers={"Location": "http://other.invalid/"})
        case Kind.RESET_BEFORE:
            raise _reset(request)
    reply = await apply()
    try:
        return await _answer_badly(fault, strike.random, reply, request, request_id)
    except ConnectionResetError:  # whoever asked has gone away meanwhile
        raise LostError from None


async def _answer_badly(
    fault: Fault, random: Random, reply: Reply, request: web.BaseRequest, request_id: str
) -> web.StreamResponse:
    """Spoil the answer to a request that was applied."""
    match fault.kind:
        case Kind.ERROR_500_AFTER:
            raise Refusal("InternalServiceErrorException", "an internal error occurred", 500)
        case Kind.RESET_AFTER:
            raise _reset(request)
        case Kind.GARBAGE:
            return web.Response(body=b'{"Results": [{"', content_type=CONTENT_TYPE)
        case Kind.WRONG_CONTENT:
            return web.Response(body=b'{"status": "ok"}', content_type="application/json")
        case Kind.EMPTY:
            return web.Response(body=b"", content_type=CONTENT_TYPE)
        case Kind.TRUNCATED:
            return await _cut_short(request, reply, pause=0)
        case Kind.STALL:
            return await _cut_short(request, reply, pause=fault.seconds)
        case Kind.DRIP:
            return await _drip(request, reply, fault.seconds)
        case Kind.SLOW:
            await asyncio.sleep(fault.seconds)
        case _:
            _spoil(fault.kind, reply, random)
    return reply_answer(reply, request_id)


def _spoil(kind: Kind, reply: Reply, random: Random) -> None:
    """Change the results of a BatchMeterUsage answer, where there are any."""
    results: list[dict[str, Any]] = reply.get("Results") or []
    if not results:
        return
    at = random.randrange(len(results))
    one = results[at]
    echo = one["UsageRecord"]
    match kind:
        case Kind.SHUFFLE:
            random.shuffle(results)
        case Kind.DROP:
            del results[at]
        case Kind.DUPLICATE:
            results.append(one)
        case Kind.ALTER:
            results[at] = {
                **one,
                "UsageRecord": {**echo, "Quantity": (echo.get("Quantity") or 0) ^ 1},
            }
        case Kind.FOREIGN:
            foreign = {**echo, "Dimension": "of-somebody-else"}
            results.append({**one, "UsageRecord": foreign})
        case Kind.DISAGREE:
            results.append({**one, "Status": "CustomerNotSubscribed"})
        case Kind.UNKNOWN_STATUS:
            results[at] = {**one, "Status": "Postponed"}


async def _begin(request: web.BaseRequest, reply: Reply) -> tuple[web.StreamResponse, bytes]:
    body = encoded(reply)
    headers = {"Content-Length": str(len(body)), "Content-Type": CONTENT_TYPE}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response, body


async def _cut_short(request: web.BaseRequest, reply: Reply, *, pause: float) -> web.StreamResponse:
    response, body = await _begin(request, reply)
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(pause)
    raise _reset(request)


async def _drip(request: web.BaseRequest, reply: Reply, seconds: float) -> web.StreamResponse:
    response, body = await _begin(request, reply)
    piece = len(body) // _PIECES + 1
    for start in range(0, len(body), piece):
        await asyncio.sleep(seconds / _PIECES)
        await response.write(body[start : start + piece])
    await response.write_eof()
    return response


def _page(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=_PAGE.format(text), content_type="text/html")


def _reset(request: web.BaseRequest) -> LostError:
    if request.transport is not None:
        request.transport.abort()
    return LostError()
