"""The service's four operations over HTTP: signature, quota, faults, rules; and the history."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from marketplace_metering_async.sandbox.answers import (
    CONTENT_TYPE,
    LostError,
    misbehave,
    refusal_answer,
    reply_answer,
)
from marketplace_metering_async.sandbox.callers import Caller
from marketplace_metering_async.sandbox.clock import real_now
from marketplace_metering_async.sandbox.doors import body_of
from marketplace_metering_async.sandbox.faults import Strike
from marketplace_metering_async.sandbox.keys import ExtraMissingError, refusal_of
from marketplace_metering_async.sandbox.members import members_of
from marketplace_metering_async.sandbox.refusals import Cause, Refusal
from marketplace_metering_async.sandbox.signatures import SignedRequest, check
from marketplace_metering_async.sandbox.visits import Visit

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox.sandbox import Sandbox

_TARGET: Final = "AWSMPMeteringService."
_OPERATIONS: Final = frozenset(
    {"BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer"}
)
_REGIONAL: Final = frozenset({"BatchMeterUsage", "ResolveCustomer"})
_UNKNOWN: Final = "UnknownOperation"
_LARGEST_BODY: Final = 16 * 2**20


class Service:
    """Answers the service's operations."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, or do to it what a fault says; and remember it."""
        sandbox = self._sandbox
        operation = request.headers.get("X-Amz-Target", "").removeprefix(_TARGET)
        visit = Visit(
            # A header must not fill the memory.
            operation=operation if operation in _OPERATIONS else _UNKNOWN,
            received=sandbox.clock.now(),
            began=asyncio.get_running_loop().time(),
        )
        sandbox.calls[visit.operation] += 1
        answer: web.StreamResponse
        try:
            answer = await self._answered(request, visit)
            visit.status = answer.status
        except Refusal as refusal:
            answer = self._refused(refusal, visit)
        except web.HTTPRequestEntityTooLarge:
            answer = self._refused(_too_large(sandbox.book.rules.most_bytes), visit)
        except LostError:
            answer = web.Response()
        finally:
            if sandbox.history.keeps:
                seconds = asyncio.get_running_loop().time() - visit.began
                sandbox.history.add(visit.call(sandbox.history.next_number(), seconds))
        return answer

    async def _answered(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        sandbox = self._sandbox
        body = await body_of(request, _LARGEST_BODY)
        visit.size = len(body)
        if visit.size >= sandbox.book.rules.most_bytes:
            raise _too_large(sandbox.book.rules.most_bytes)
        _check_operation(request, visit.operation)
        path, _, query = request.raw_path.partition("?")
        visit.caller = caller = check(
            SignedRequest(request.headers, path, query, body),
            sandbox.access_keys,
            now=real_now(),
            sandbox_now=visit.received,
        )
        quota = sandbox.quota_of(caller, visit.operation)
        quota.require(asyncio.get_running_loop().time())
        self._check_region(visit.operation, caller)
        visit.members = members = members_of(body)
        caller.check_permission(visit.operation, members)
        strike = sandbox.faults.strike(visit.operation, members)
        if strike is None:
            visit.reply = reply = await self._reply(visit.operation, members, caller)
            return reply_answer(reply, visit.request_id)
        return await self._struck(strike, request, visit, members, caller)

    async def _struck(
        self,
        strike: Strike,
        request: web.BaseRequest,
        visit: Visit,
        members: dict[str, Any],
        caller: Caller,
    ) -> web.StreamResponse:
        visit.fault = strike.name
        self._sandbox.struck[strike.name] += 1

        async def apply() -> dict[str, Any]:
            reply = await self._reply(visit.operation, members, caller, strike)
            visit.reply = reply  # as it should have been
            return {**reply, "Results": [*reply["Results"]]} if "Results" in reply else reply

        return await misbehave(strike, apply, request, visit.request_id)

    def _refused(self, refusal: Refusal, visit: Visit) -> web.Response:
        visit.refusal, visit.status = refusal, refusal.status
        self._sandbox.refusals[refusal.code] += 1
        self._sandbox.causes[refusal.code] = Cause(refusal.message, refusal.remedy)
        return refusal_answer(refusal, visit.request_id)

    def _check_region(self, operation: str, caller: Caller) -> None:
        regions = self._sandbox.book.rules.regions
        if operation in _REGIONAL and regions and caller.region not in regions:
            raise Refusal("DisabledApiException", f"{operation} is not offered in this region")

    async def _reply(
        self,
        operation: str,
        members: dict[str, Any],
        caller: Caller,
        strike: Strike | None = None,
    ) -> dict[str, Any]:
        book, now = self._sandbox.book, self._sandbox.clock.now()
        match operation:
            case "BatchMeterUsage":
                left = strike.left(members) if strike else ()
                return book.batch_meter_usage(members, now=now, caller=caller, unprocessed=left)
            case "MeterUsage":
                return book.meter_usage(members, now=now, caller=caller)
            case "RegisterUsage":
                return await self._register(members, caller)
            case _:
                return book.resolve_customer(members, now=now, caller=caller)

    async def _register(self, members: dict[str, Any], caller: Caller) -> dict[str, Any]:
        sandbox = self._sandbox
        registration = sandbox.book.register_usage(members, now=sandbox.clock.now(), caller=caller)
        claims, reply = dict(registration.claims), {}
        if registration.rotated is not None:
            seconds = int(registration.rotated.timestamp())
            claims["PublicKeyRotationTimestamp"] = reply["PublicKeyRotationTimestamp"] = seconds
        sign, version = sandbox.keys.sign, members["PublicKeyVersion"]
        try:
            signature = await asyncio.to_thread(sign, claims, version)  # a new key takes a while
        except ExtraMissingError as error:
            raise refusal_of(error) from error
        return {"Signature": signature, **reply}


def _too_large(most_bytes: int) -> Refusal:
    text = f"the request is not smaller than {most_bytes} bytes"
    return Refusal("RequestEntityTooLargeException", text, 413)


def _check_operation(request: web.BaseRequest, operation: str) -> None:
    if operation == _UNKNOWN:
        raise Refusal("UnknownOperationException", "X-Amz-Target names none of the operations")
    if request.content_type != CONTENT_TYPE:
        text = f"Content-Type is not {CONTENT_TYPE}"
        raise Refusal(
            "UnknownOperationException", text, remedy=f"Send Content-Type: {CONTENT_TYPE}."
        )
