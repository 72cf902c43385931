"""The sandbox's own paths under /_sandbox/, for other processes, other languages, and the page."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

import attrs
from aiohttp import web

from marketplace_metering_async.sandbox.doors import LARGEST_ORDER, body_of
from marketplace_metering_async.sandbox.faults import Fault
from marketplace_metering_async.sandbox.keys import ExtraMissingError
from marketplace_metering_async.sandbox.memory import book_to_json
from marketplace_metering_async.sandbox.posting import RegistrationError, post_registration
from marketplace_metering_async.sandbox.telling import (
    agreement_to_json,
    marketplace_to_json,
    metered_to_json,
    state_to_json,
)

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox.sandbox import Sandbox

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Routes = dict[tuple[str, str], Handler]
"""(Method, path) to what answers it."""

ROOT: Final = "/_sandbox"
_MISTAKES: Final = (TypeError, ValueError, OverflowError, LookupError)


class Controls:
    """Tells what is going on, and takes orders."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def routes(self) -> Routes:
        """Return the paths."""
        asked: dict[str, Handler] = {
            "state": self.state,
            "book": self.book,
            "memory": self.memory,
            "calls": self.calls,
            "marketplace": self.marketplace,
            "public-key": self.public_key,
        }
        ordered: dict[str, Callable[[dict[str, Any]], Any]] = {
            "clock": self.set_clock,
            "faults": self.set_faults,
            "rules": self.set_rules,
            "quota": self.set_quota,
            "products": self.declare_product,
            "buyers": self.set_buyer,
            "rotate-key": self.rotate_key,
            "subscribe": self.subscribe,
            "cancel": self.cancel,
            "expire": self.expire,
            "suspend": self.suspend,
            "restore": self.restore,
            "set-up-account": self.set_up_account,
            "tokens": self.issue_token,
            "reset": self.reset,
        }
        routes: Routes = {("GET", f"{ROOT}/{name}"): handler for name, handler in asked.items()}
        for name, carry_out in ordered.items():
            routes["POST", f"{ROOT}/{name}"] = self._ordered(carry_out)
        return routes

    def _ordered(self, carry_out: Callable[[dict[str, Any]], Any]) -> Handler:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            order = await order_of(request)
            try:
                told = carry_out(order)
                if isawaitable(told):
                    told = await told
            except _MISTAKES as error:
                why = (
                    f"missing or unknown: {error}" if isinstance(error, LookupError) else str(error)
                )
                raise web.HTTPBadRequest(text=f"{why}\n") from error
            except RegistrationError as error:
                raise web.HTTPBadGateway(text=f"{error}\n") from error
            return web.json_response(told)

        return handler

    # What is told

    async def state(self, _: web.BaseRequest) -> web.StreamResponse:
        """Counts, clock, quota in use, rules, faults, products and buyers."""
        return web.json_response(state_to_json(self._sandbox))

    async def book(self, request: web.BaseRequest) -> web.StreamResponse:
        """Sums by ?by=dimension, or several as ?by=customer,hour; ?records=1 lists records."""
        book = self._sandbox.book
        names = tuple(request.query.get("by", "dimension").split(","))
        unknown = [name for name in names if name not in _GROUPS]
        if unknown:
            raise web.HTTPBadRequest(text=f"by: expected some of {', '.join(_GROUPS)}\n")
        answer: dict[str, Any] = {"records": len(book), "double_billed": book.double_billed()}
        if len(names) == 1:
            answer["totals"] = book.totals(by=names[0])
        else:
            sums = book.totals(by=names)
            answer["totals"] = [[*map(_plain, case), total] for case, total in sums.items()]
        if request.query.get("records"):
            answer["records"] = [metered_to_json(record) for record in book.records]
        return web.json_response(answer)

    async def memory(self, _: web.BaseRequest) -> web.StreamResponse:
        """All that the book remembers, with its rules, for a Book in another process."""
        return web.json_response(book_to_json(self._sandbox.book))

    async def calls(self, request: web.BaseRequest) -> web.StreamResponse:
        """The latest calls, oldest first; ?since=NUMBER leaves out that one and those before."""
        try:
            since = int(request.query.get("since", "0"))
        except ValueError as error:
            raise web.HTTPBadRequest(text="since: expected the number of a call\n") from error
        return web.json_response(
            {"calls": [call.to_json() for call in self._sandbox.history.since(since)]}
        )

    async def marketplace(self, _: web.BaseRequest) -> web.StreamResponse:
        """The declared products, the agreements with what they are now, suspended accounts."""
        return web.json_response(marketplace_to_json(self._sandbox))

    async def public_key(self, request: web.BaseRequest) -> web.StreamResponse:
        """The public half of what RegisterUsage signs with, as PEM; ?version=1."""
        try:
            version = int(request.query.get("version", "1"))
            pem = await asyncio.to_thread(self._sandbox.public_key, version)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"version: {error}\n") from error
        except ExtraMissingError as error:
            raise web.HTTPNotImplemented(text=f"{error}\n") from error
        return web.Response(text=pem, content_type="application/x-pem-file")

    # What is ordered

    def set_clock(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"now": ISO time}, {"advance": seconds}, {"speed": factor}, {"reset": true}; or some."""
        clock = self._sandbox.clock
        _check_names(order, {"now", "advance", "speed", "reset"})
        moment = datetime.fromisoformat(order["now"]) if "now" in order else None
        if order.get("reset"):
            clock.reset()
        if "speed" in order:
            clock.run(float(order["speed"]))
        if moment is not None:
            clock.set(moment)
        if "advance" in order:
            clock.step(timedelta(seconds=float(order["advance"])))
        return {"now": clock.now().isoformat(), "speed": clock.speed}

    def set_faults(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        {"faults": [{"kind": "throttle", …}]} in place of those before; "add": true beside them.

        {"remove": 0} takes away the one at that index.
        """
        _check_names(order, {"faults", "add", "remove"})
        faults = self._sandbox.faults
        if "remove" in order:
            faults.remove(int(order["remove"]))
            return {"faults": len(faults.rules)}
        rules = [Fault(**rule) for rule in order["faults"]]
        if order.get("add"):
            faults.add(*rules)
        else:
            faults.replace(*rules)
        return {"faults": len(self._sandbox.faults.rules)}

    def set_rules(self, order: dict[str, Any]) -> dict[str, Any]:
        """The switches to change, times in seconds."""
        self._sandbox.change_rules(**order)
        return self._sandbox.book.rules.to_json()

    def set_quota(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"calls_per_second": 10, "burst": 10}; null is none."""
        _check_names(order, {"calls_per_second", "burst"})
        rate = order["calls_per_second"]
        burst = float(order.get("burst", 10))
        self._sandbox.set_quota(None if rate is None else float(rate), burst=burst)
        return {"calls_per_second": self._sandbox.calls_per_second}

    def declare_product(self, order: dict[str, Any]) -> dict[str, Any]:
        """The arguments of Sandbox.declare_product."""
        self._sandbox.declare_product(**order)
        return {"products": sorted(self._sandbox.book.products)}

    def set_buyer(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"product_code": …, "customer": …, "subscribed": true}, for buyers without agreement."""
        self._sandbox.set_subscribed(**order)
        return order

    def rotate_key(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"product_code": …}."""
        _check_names(order, {"product_code"})
        return {"public_key_version": self._sandbox.rotate_key(order["product_code"])}

    def subscribe(self, order: dict[str, Any]) -> dict[str, Any]:
        """The arguments of Sandbox.subscribe, "free_trial" in seconds."""
        for name in ("begins", "ends"):
            if order.get(name) is not None:
                order[name] = datetime.fromisoformat(order[name])
        if order.get("free_trial") is not None:
            order["free_trial"] = timedelta(seconds=float(order["free_trial"]))
        return self._told(self._sandbox.subscribe(**order).agreement_id)

    def cancel(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"agreement_id": …}."""
        return self._told(self._sandbox.cancel(order["agreement_id"]).agreement_id)

    def expire(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"agreement_id": …}."""
        return self._told(self._sandbox.expire(order["agreement_id"]).agreement_id)

    def _told(self, agreement_id: str) -> dict[str, Any]:
        agreement = self._sandbox.book.catalogue.agreements[agreement_id]
        closing = self._sandbox.book.rules.closing
        return agreement_to_json(agreement, self._sandbox.clock.now(), closing)

    def suspend(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"customer_aws_account_id": …}."""
        self._sandbox.suspend(str(order["customer_aws_account_id"]))
        return {"suspended": sorted(self._sandbox.book.catalogue.suspended)}

    def restore(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"customer_aws_account_id": …}."""
        self._sandbox.restore(str(order["customer_aws_account_id"]))
        return {"suspended": sorted(self._sandbox.book.catalogue.suspended)}

    async def set_up_account(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        {"agreement_id": …}: what the buyer's browser posts, and where to.

        With "post": true it is posted here and now, and the seller's answer told as well.
        """
        _check_names(order, {"agreement_id", "post"})
        form = self._sandbox.set_up_account(order["agreement_id"])
        told: dict[str, Any] = {"url": form.url, "fields": form.fields}
        if order.get("post"):
            told["answer"] = attrs.asdict(await post_registration(form))
        return told

    def issue_token(self, order: dict[str, Any]) -> dict[str, Any]:
        """The arguments of Sandbox.issue_token."""
        return {"token": self._sandbox.issue_token(**_texts(order))}

    def reset(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        Forget records, counts and faults; rules and quota are those the sandbox was made with.

        {"everything": true}: products and buyers are forgotten as well, and the time is real.
        """
        _check_names(order, {"everything"})
        self._sandbox.reset(everything=bool(order.get("everything")))
        return {"records": len(self._sandbox.book)}


_GROUPS: Final = (
    "dimension",
    "customer",
    "product_code",
    "license_arn",
    "region",
    "hour",
    "customer_aws_account_id",
    "customer_identifier",
    "identity",
    "free",
)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _check_names(order: Mapping[str, Any], known: set[str]) -> None:
    unknown = order.keys() - known
    if unknown:
        raise ValueError(f"expected {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")


def _texts(order: dict[str, Any]) -> dict[str, str]:
    for name, value in order.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, got {value!r}")
    return order


async def order_of(request: web.BaseRequest) -> dict[str, Any]:
    """
    Read a control's JSON; its content type keeps forms of other sites out.

    Raises:
        web.HTTPException: for another content type, a body over 1 MiB or one that comes slowly,
            and for what is no JSON object.
    """
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json\n")
    try:
        order = json.loads(await body_of(request, LARGEST_ORDER))
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is no JSON\n") from None
    if not isinstance(order, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object\n")
    return order
