"""
The service's four operations: signature, quota, region, permission, faults, rules; and the history.

A request comes in as a value and a response goes out as one, so that a port serves them and a
transport without a socket does.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from marketplace_metering_async.sandbox.clock import real_now
from marketplace_metering_async.sandbox.faults import OPERATIONS, FaultHit
from marketplace_metering_async.sandbox.history import Call
from marketplace_metering_async.sandbox.http.responses import (
    CONTENT_TYPE,
    ServiceResponse,
    apply_fault,
    service_response,
)
from marketplace_metering_async.sandbox.http.signatures import ServiceRequest, check
from marketplace_metering_async.sandbox.service.parsing import members_of
from marketplace_metering_async.sandbox.service.principal import Principal
from marketplace_metering_async.sandbox.service.refusals import Refusal
from marketplace_metering_async.sandbox.service.signing_keys import ExtraMissingError
from marketplace_metering_async.sandbox.world import World

_TARGET: Final = "AWSMPMeteringService."
_REGIONAL: Final = frozenset({"BatchMeterUsage", "ResolveCustomer"})
_UNKNOWN: Final = "UnknownOperation"
_LARGEST_KEPT: Final = 2**16
"""Bytes of a request that the history keeps whole."""
_TOO_LARGE: Final = 1_000_000
"""Bytes; a request is smaller (API reference: 1 MB)."""

T = TypeVar("T")


class Operations:
    """Answers requests to one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def answer(
        self, request: ServiceRequest, deliver: Callable[[ServiceResponse], Awaitable[T]]
    ) -> T:
        """
        Answer one request, or do to it what a fault says; and remember it.

        Args:
            request: What came.
            deliver: Sends the response; ConnectionError where the connection ends before that.

        Raises:
            ConnectionError: of *deliver*.
        """
        world, time = self._world, asyncio.get_running_loop().time
        operation = request.headers.get("X-Amz-Target", "").removeprefix(_TARGET)
        began = time()
        call = Call(
            # A header must not fill the memory.
            operation=operation if operation in OPERATIONS else _UNKNOWN,
            received=world.clock.now(),
            request_id=str(uuid.uuid4()),
        )
        world.calls[call.operation] += 1
        try:
            response = await self._response(request, call)
            delivered = await deliver(response)
            call.status = response.status
            return delivered
        finally:
            call.seconds = time() - began
            if world.history.keeps:
                world.history.add(call)
            world.changes.bump()

    async def _response(self, request: ServiceRequest, call: Call) -> ServiceResponse:
        try:
            return await self._answered(request, call)
        except Refusal as refusal:
            call.code, call.rule, call.remedy = refusal.code, refusal.message, refusal.remedy
            self._world.note_refusal(refusal)
            members = {"__type": refusal.code, "message": refusal.message}
            return service_response(members, call.request_id, status=refusal.status)

    async def _answered(self, request: ServiceRequest, call: Call) -> ServiceResponse:
        world, operation = self._world, call.operation
        body = await request.read()
        call.size = 0 if body is None else len(body)
        if body is None or call.size >= _TOO_LARGE:
            text = f"the request is not smaller than {_TOO_LARGE} bytes"
            raise Refusal("RequestEntityTooLargeException", text)
        _check_operation(request, operation)
        principal = check(
            request, body, world.access_keys, now=real_now(), sandbox_now=call.received
        )
        call.region, call.access_key_id = principal.region, principal.access_key_id
        world.quota_of(principal, operation).require(asyncio.get_running_loop().time())
        self._check_region(operation, principal)
        members = members_of(body)
        call.request = members if call.size <= _LARGEST_KEPT else None
        principal.check_permission(operation, members)
        hit = world.faults.hit(operation, members)
        if hit is None:
            reply = await self._reply(operation, members, principal)
            call.note_reply(reply)
            return service_response(reply, call.request_id)
        call.fault = hit.name
        world.hits[hit.name] += 1

        async def apply() -> dict[str, Any]:
            reply = await self._reply(operation, members, principal, hit)
            call.note_reply(reply)
            return {**reply, "Results": [*reply["Results"]]} if "Results" in reply else reply

        return await apply_fault(hit, apply, call.request_id)

    def _check_region(self, operation: str, principal: Principal) -> None:
        regions = self._world.book.rules.regions
        if operation in _REGIONAL and regions and principal.region not in regions:
            raise Refusal("DisabledApiException", f"{operation} is not offered in this region")

    async def _reply(
        self,
        operation: str,
        members: dict[str, Any],
        principal: Principal,
        hit: FaultHit | None = None,
    ) -> dict[str, Any]:
        book, now = self._world.book, self._world.clock.now()
        match operation:
            case "BatchMeterUsage":
                left = hit.left(members) if hit else ()
                return book.batch_meter_usage(
                    members, now=now, principal=principal, unprocessed=left
                )
            case "MeterUsage":
                return book.meter_usage(members, now=now, principal=principal)
            case "RegisterUsage":
                return await self._register(members, principal)
            case _:
                return book.resolve_customer(members, now=now, principal=principal)

    async def _register(self, members: dict[str, Any], principal: Principal) -> dict[str, Any]:
        world = self._world
        registration = world.book.register_usage(
            members, now=world.clock.now(), principal=principal
        )
        claims, reply = dict(registration.claims), {}
        if registration.rotated is not None:
            seconds = int(registration.rotated.timestamp())
            claims["PublicKeyRotationTimestamp"] = reply["PublicKeyRotationTimestamp"] = seconds
        sign, version = world.keys.sign, members["PublicKeyVersion"]
        try:
            signature = await asyncio.to_thread(sign, claims, version)  # a new key takes a while
        except ExtraMissingError as error:
            # No client takes it for an outage.
            raise Refusal("SandboxExtraMissing", str(error), remedy=str(error)) from error
        return {"Signature": signature, **reply}


def _check_operation(request: ServiceRequest, operation: str) -> None:
    if operation == _UNKNOWN:
        raise Refusal("UnknownOperationException", "X-Amz-Target names none of the operations")
    given = request.headers.get("Content-Type", "")
    if given.partition(";")[0].strip().lower() != CONTENT_TYPE:
        text = f"Content-Type is not {CONTENT_TYPE}"
        raise Refusal(
            "UnknownOperationException", text, remedy=f"Send Content-Type: {CONTENT_TYPE}."
        )
