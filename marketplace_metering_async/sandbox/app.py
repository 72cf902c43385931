"""
The sandbox over HTTP: the service's four operations at `/`, and its own controls at `/_sandbox/`.

Requests are dealt with in the order of the real service: signature, quota, faults, rules. Nothing
but loopback names may talk to it, and no page of another site.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from marketplace_metering_async.sandbox.doors import LARGEST_ORDER, body_of
from marketplace_metering_async.sandbox.faults import Fault, Kind
from marketplace_metering_async.sandbox.guard import ANSWER_HEADERS, Forbidden
from marketplace_metering_async.sandbox.page import Page, is_static
from marketplace_metering_async.sandbox.refusals import MENDING, Refusal
from marketplace_metering_async.sandbox.signatures import Signed, check
from marketplace_metering_async.sandbox.visits import Visit

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox import Sandbox

_TARGET: Final = "AWSMPMeteringService."
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_LARGEST_BODY: Final = 16 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(sandbox: "Sandbox") -> web.Application:
    """Return the web application of *sandbox*."""
    app = web.Application(middlewares=[_guarded(sandbox)])
    app.router.add_post("/", Service(sandbox).answer)
    for path, handler in Page(sandbox).routes().items():
        app.router.add_get(path, handler, allow_head=False)
    controls = _Controls(sandbox)
    app.router.add_get("/_sandbox/state", controls.state)
    app.router.add_get("/_sandbox/book", controls.book)
    app.router.add_post("/_sandbox/clock", controls.clock)
    app.router.add_post("/_sandbox/faults", controls.faults)
    app.router.add_post("/_sandbox/products", controls.products)
    app.router.add_post("/_sandbox/buyers", controls.buyers)
    app.router.add_post("/_sandbox/quota", controls.quota)
    app.router.add_post("/_sandbox/tokens", controls.tokens)
    app.router.add_post("/_sandbox/reset", controls.reset)
    return app


def _guarded(sandbox: "Sandbox") -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse whom the guard refuses; tell those who watch of every order."""
        sandbox.heard(request.protocol)
        port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
        try:
            sandbox.guard.check(request.headers, port)
            if request.path.startswith("/_sandbox/") and not is_static(request.path):
                sandbox.guard.check_controls(request.headers)
        except Forbidden as forbidden:
            return web.Response(status=403, text=f"{forbidden}\n")
        answer = await handler(request)
        if request.method == "POST":
            sandbox.pulse.beat()
        if request.path.startswith("/_sandbox/") and not answer.prepared:
            answer.headers.update(ANSWER_HEADERS)
        return answer

    return middleware


class Quota:
    """A token bucket on real time: so many calls a second, and so many at once."""

    def __init__(self, calls_per_second: float | None, burst: float) -> None:
        self.calls_per_second = calls_per_second
        self.burst = burst
        self._tokens = burst
        self._since: float | None = None

    def require(self, now: float) -> None:
        """Take a token at monotonic *now*, or raise the refusal that says there is none."""
        if not self._spend(now):
            raise Refusal("ThrottlingException", "Rate exceeded")

    def left(self, now: float) -> float:
        """Return how many calls could be made at once at monotonic *now*."""
        elapsed = 0.0 if self._since is None else now - self._since
        return min(self.burst, self._tokens + elapsed * (self.calls_per_second or 0.0))

    def _spend(self, now: float) -> bool:
        if self.calls_per_second is None:
            return True
        self._tokens = self.left(now)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Service:
    """Answers the service's operations."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, or do to it what a fault says; and remember it."""
        sandbox = self._sandbox
        visit = Visit(
            operation=_operation(request),
            received=sandbox.clock.now(),
            began=asyncio.get_running_loop().time(),
        )
        sandbox.calls[visit.operation] += 1
        try:
            answer = await self._answered(request, visit)
            visit.status = None if _is_cut(request) else answer.status
        except Refusal as refusal:
            answer = self._refused(refusal, visit)
        except web.HTTPRequestEntityTooLarge:
            text = "the request is too large"
            answer = self._refused(Refusal("RequestEntityTooLargeException", text, 413), visit)
        finally:
            seconds = asyncio.get_running_loop().time() - visit.began
            sandbox.history.add(visit.call(sandbox.history.next_number(), seconds))
        return answer

    async def _answered(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        sandbox = self._sandbox
        body = await body_of(request, _LARGEST_BODY)
        visit.size = len(body)
        visit.signed = signed = check(
            request.headers,
            request.path,
            body,
            sandbox.access_keys,
            now=datetime.now(UTC),
            sandbox_now=sandbox.clock.now(),
        )
        sandbox.quota_of(signed, visit.operation).require(asyncio.get_running_loop().time())
        visit.members = members = _members(body, sandbox.book.rules.most_bytes)
        fault = sandbox.faults.strike(visit.operation, members)
        if fault is None:
            reply = self._reply(visit, members, signed)
            return _json(reply, 200, visit.request_id)
        visit.fault = fault.kind
        sandbox.struck[fault.kind] += 1
        return await self._misbehave(fault, request, members, signed, visit)

    def _refused(self, refusal: Refusal, visit: Visit) -> web.Response:
        visit.refusal, visit.status = refusal, refusal.status
        self._sandbox.refusals[refusal.code] += 1
        return _error(refusal, visit.request_id)

    def _reply(
        self,
        visit: Visit,
        members: dict[str, Any],
        signed: Signed,
        unprocessed: Sequence[int] = (),
    ) -> dict[str, Any]:
        visit.reply = self._applied(visit.operation, members, signed, unprocessed)
        return visit.reply

    def _applied(
        self,
        operation: str,
        members: dict[str, Any],
        signed: Signed,
        unprocessed: Sequence[int],
    ) -> dict[str, Any]:
        sandbox = self._sandbox
        now = sandbox.clock.now()
        match operation:
            case "BatchMeterUsage":
                return sandbox.book.batch_meter_usage(
                    members, now=now, region=signed.region, unprocessed=unprocessed
                )
            case "MeterUsage":
                return sandbox.book.meter_usage(
                    members, now=now, region=signed.region, caller=signed.access_key_id
                )
            case "RegisterUsage":
                version = sandbox.book.register_usage(members)
                claims = {
                    "ProductCode": members["ProductCode"],
                    "PublicKeyVersion": version,
                    "Nonce": members.get("Nonce"),
                }
                return {"Signature": sandbox.sign_registration(claims)}
            case "ResolveCustomer":
                return sandbox.book.resolve_customer(members, now=now)
        raise Refusal("UnknownOperationException", f"no operation {operation[:60]!r}")

    async def _misbehave(
        self,
        fault: Fault,
        request: web.Request,
        members: dict[str, Any],
        signed: Signed,
        visit: Visit,
    ) -> web.StreamResponse:
        """Do what *fault* says, before or after the request is applied."""
        match fault.kind:
            case Kind.THROTTLE:
                raise Refusal("ThrottlingException", "Rate exceeded")
            case Kind.ERROR_500:
                raise Refusal("InternalServiceErrorException", "an internal error occurred", 500)
            case Kind.REFUSE:
                raise Refusal(fault.code, "refused on demand", fault.status)
            case Kind.ERROR_503:
                page = "<html><body><h1>503 Service Unavailable</h1></body></html>"
                return web.Response(status=503, text=page, content_type="text/html")
            case Kind.HTML:
                page = "<html><body>Please log in</body></html>"
                return web.Response(text=page, content_type="text/html")
            case Kind.REDIRECT:
                return web.Response(status=307, headers={"Location": "http://other.invalid/"})
            case Kind.RESET_BEFORE:
                return _reset(request)
            case Kind.UNPROCESSED:
                records = members.get("UsageRecords")
                size = len(records) if isinstance(records, list) else 0
                chance = self._sandbox.faults.random.random
                left = [index for index in range(size) if chance() < fault.part]
                reply = self._reply(visit, members, signed, unprocessed=left)
                return _json(reply, 200, visit.request_id)
        reply = self._reply(visit, members, signed)
        return await self._answer_badly(fault, request, reply, visit.request_id)

    async def _answer_badly(
        self, fault: Fault, request: web.Request, reply: dict[str, Any], request_id: str
    ) -> web.StreamResponse:
        """Spoil the answer to a request that was applied."""
        match fault.kind:
            case Kind.ERROR_500_AFTER:
                raise Refusal("InternalServiceErrorException", "an internal error occurred", 500)
            case Kind.RESET_AFTER:
                return _reset(request)
            case Kind.SLOW:
                await asyncio.sleep(fault.seconds)
            case Kind.GARBAGE:
                return web.Response(body=b'{"Results": [{"', content_type=_CONTENT_TYPE)
            case Kind.EMPTY:
                return web.Response(body=b"", content_type=_CONTENT_TYPE)
            case Kind.TRUNCATED | Kind.STALL:
                return await _cut_short(fault, request, reply)
            case _:
                _spoil(fault.kind, reply, self._sandbox.faults.random)
        return _json(reply, 200, request_id)


def _operation(request: web.Request) -> str:
    return request.headers.get("X-Amz-Target", "").removeprefix(_TARGET)


def _spoil(kind: Kind, reply: dict[str, Any], random: Any) -> None:  # noqa: ANN401
    """Change the results of a BatchMeterUsage answer, where there are any."""
    results = reply.get("Results") or []
    match kind:
        case Kind.SHUFFLE:
            random.shuffle(results)
        case Kind.DROP if results:
            results.pop(random.randrange(len(results)))
        case Kind.ALTER if results:
            at = random.randrange(len(results))
            echo = dict(results[at]["UsageRecord"])
            echo["Quantity"] = echo.get("Quantity", 0) + 1
            results[at] = {**results[at], "UsageRecord": echo}
        case Kind.FOREIGN if results:
            echo = {**results[0]["UsageRecord"], "Dimension": "of-somebody-else"}
            results.append({**results[0], "UsageRecord": echo})
        case Kind.DISAGREE if results:
            results.append({**results[0], "Status": "CustomerNotSubscribed"})
        case Kind.UNKNOWN_STATUS if results:
            results[0] = {**results[0], "Status": "Postponed"}


async def _cut_short(
    fault: Fault, request: web.Request, reply: dict[str, Any]
) -> web.StreamResponse:
    body = json.dumps(reply).encode()
    headers = {"Content-Length": str(len(body)), "Content-Type": _CONTENT_TYPE}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if fault.kind is Kind.STALL:
        await asyncio.sleep(fault.seconds)
    _reset(request)
    return response


def _reset(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _is_cut(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _members(body: bytes, most_bytes: int) -> dict[str, Any]:
    if len(body) >= most_bytes:
        raise Refusal("RequestEntityTooLargeException", "the request is too large", 413)
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal("SerializationException", "the body is no JSON") from None
    if not isinstance(members, dict):
        raise Refusal("SerializationException", "the body must be a structure")
    return members


def _json(reply: dict[str, Any], status: int, request_id: str) -> web.Response:
    headers = {"x-amzn-RequestId": request_id, "Content-Type": _CONTENT_TYPE}
    return web.Response(status=status, body=json.dumps(reply).encode(), headers=headers)


def _error(refusal: Refusal, request_id: str) -> web.Response:
    members = {"__type": refusal.code, "message": refusal.message}
    return _json(members, refusal.status, request_id)


class _Controls:
    """The sandbox's own paths, for programs in other languages and other processes."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    async def state(self, _: web.Request) -> web.Response:
        """Tell counts, clock, quota and rules in force."""
        sandbox = self._sandbox
        return web.json_response(
            {
                "now": sandbox.clock.now().isoformat(),
                "speed": sandbox.clock.speed,
                "calls_per_second": sandbox.calls_per_second,
                "calls": dict(sandbox.calls),
                "faults": dict(sandbox.struck),
                "refusals": {
                    code: {"count": count, "mend": MENDING.get(code, "")}
                    for code, count in sandbox.refusals.items()
                },
                "statuses": dict(sandbox.book.statuses),
                "products": sorted(sandbox.book.products),
                "records": len(sandbox.book),
            }
        )

    async def book(self, request: web.Request) -> web.Response:
        """Tell sums by ?by=dimension (or customer, product_code); ?records=1 lists them all."""
        book = self._sandbox.book
        by = request.query.get("by", "dimension")
        if by not in ("dimension", "customer", "product_code", "region", "license_arn"):
            raise web.HTTPBadRequest(text="by: dimension, customer, product_code, region\n")
        answer: dict[str, Any] = {"records": len(book), "totals": book.totals(by=by)}
        if request.query.get("records"):
            answer["records"] = [
                {
                    "region": record.region,
                    "product_code": record.product_code,
                    "license_arn": record.license_arn,
                    "customer_aws_account_id": record.customer_aws_account_id,
                    "customer_identifier": record.customer_identifier,
                    "dimension": record.dimension,
                    "timestamp": record.timestamp.isoformat(),
                    "quantity": record.quantity,
                    "metering_record_id": record.metering_record_id,
                }
                for record in book.records
            ]
        return web.json_response(answer)

    async def clock(self, request: web.Request) -> web.Response:
        """Set the clock: {"now": ISO time}, {"advance": seconds} and {"speed": factor}."""
        order = await _order(request)
        try:
            if "speed" in order:
                self._sandbox.clock.run(float(order["speed"]))
            if "now" in order:
                self._sandbox.clock.set(datetime.fromisoformat(order["now"]))
            if "advance" in order:
                self._sandbox.clock.step(timedelta(seconds=float(order["advance"])))
        except (TypeError, ValueError, OverflowError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"now": self._sandbox.clock.now().isoformat()})

    async def faults(self, request: web.Request) -> web.Response:
        """
        Put rules in force in place of those before: {"faults": [{"kind": "throttle", …}]}.

        With "add": true beside them; {"remove": 0} takes away the one at that index.
        """
        order = await _order(request)
        rules = self._sandbox.faults.rules
        try:
            if "remove" in order:
                rules.pop(int(order["remove"]))
            else:
                added = [Fault(**rule) for rule in order["faults"]]
                rules[:] = [*rules, *added] if order.get("add") else added
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"faults": len(rules)})

    async def products(self, request: web.Request) -> web.Response:
        """Declare a product: {"product_code": …, "dimensions": […], "customers": […], …}."""
        order = await _order(request)
        try:
            self._sandbox.declare_product(**order)
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"products": sorted(self._sandbox.book.products)})

    async def buyers(self, request: web.Request) -> web.Response:
        """Change a buyer: {"product_code": …, "customer": …, "subscribed": true}."""
        order = await _order(request)
        try:
            self._sandbox.set_subscribed(**order)
        except (KeyError, TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response(order)

    async def quota(self, request: web.Request) -> web.Response:
        """Set the quota: {"calls_per_second": 10, "burst": 10}; null is none."""
        order = await _order(request)
        try:
            rate = order["calls_per_second"]
            burst = float(order.get("burst", 10))
            self._sandbox.set_quota(None if rate is None else float(rate), burst=burst)
        except (KeyError, TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"calls_per_second": self._sandbox.calls_per_second})

    async def tokens(self, request: web.Request) -> web.Response:
        """Issue a registration token: {"product_code": …, "customer_aws_account_id": …, …}."""
        order = await _order(request)
        try:
            token = self._sandbox.issue_token(**_texts(order))
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"token": token})

    async def reset(self, request: web.Request) -> web.Response:
        """Forget what was metered, the counts and the faults; {"everything": true}: all."""
        order = await _order(request)
        self._sandbox.reset(everything=order.get("everything") is True)
        return web.json_response({"records": 0})


def _texts(order: dict[str, Any]) -> dict[str, str]:
    for name, value in order.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, got {value!r}")
    return order


async def _order(request: web.Request) -> dict[str, Any]:
    """Read a control's JSON; its content type keeps forms of other sites out."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json\n")
    try:
        order = json.loads(await body_of(request, LARGEST_ORDER))
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is no JSON\n") from None
    if not isinstance(order, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object\n")
    return order
