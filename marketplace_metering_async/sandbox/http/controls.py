"""The sandbox's own paths under /_sandbox/, for other processes, other languages, and the page."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any, Final

from aiohttp import web

from marketplace_metering_async.sandbox.as_json import as_json, from_json
from marketplace_metering_async.sandbox.faults import Fault
from marketplace_metering_async.sandbox.figures import (
    agreement_figures,
    call_figures,
    marketplace_figures,
    record_figures,
    world_figures,
)
from marketplace_metering_async.sandbox.http.exchange import body_of
from marketplace_metering_async.sandbox.http.registration_page import (
    RegistrationError,
    post_registration,
)
from marketplace_metering_async.sandbox.service.memory import copy_of
from marketplace_metering_async.sandbox.service.signing_keys import ExtraMissingError
from marketplace_metering_async.sandbox.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ROOT: Final = "/_sandbox"
_LARGEST_ORDER: Final = 2**20
_MISTAKES: Final = (TypeError, ValueError, OverflowError, LookupError)


class Controls:
    """Tells what is going on, and takes orders."""

    def __init__(self, world: World) -> None:
        self._world = world

    def asked(self) -> dict[str, Handler]:
        """Return the paths that tell something, by GET."""
        handlers: dict[str, Handler] = {
            "state": self.state,
            "book": self.book,
            "memory": self.memory,
            "calls": self.calls,
            "marketplace": self.marketplace,
            "public-key": self.public_key,
        }
        return {f"{ROOT}/{name}": handler for name, handler in handlers.items()}

    def ordered(self) -> dict[str, Handler]:
        """Return the paths that take an order, by POST."""
        orders: dict[str, Callable[[dict[str, Any]], Any]] = {
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
        return {f"{ROOT}/{name}": self._ordered(carry_out) for name, carry_out in orders.items()}

    def _ordered(self, carry_out: Callable[[dict[str, Any]], Any]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            order = await order_of(request)
            try:
                answer = carry_out(order)
                if isawaitable(answer):
                    answer = await answer
            except _MISTAKES as error:
                why = (
                    f"missing or unknown: {error}" if isinstance(error, LookupError) else str(error)
                )
                raise web.HTTPBadRequest(text=f"{why}\n") from error
            except RegistrationError as error:
                raise web.HTTPBadGateway(text=f"{error}\n") from error
            self._world.changes.bump()
            return web.json_response(answer)

        return handler

    # What is shown

    async def state(self, _: web.Request) -> web.StreamResponse:
        """Counts, clock, quota in use, rules, faults, products and buyers."""
        return web.json_response(world_figures(self._world, asyncio.get_running_loop().time()))

    async def book(self, request: web.Request) -> web.StreamResponse:
        """Sums by ?by=dimension, or several as ?by=customer,hour; ?records=1 lists records."""
        book = self._world.book
        names = tuple(request.query.get("by", "dimension").split(","))
        unknown = [name for name in names if name not in _GROUPS]
        if unknown:
            raise web.HTTPBadRequest(text=f"by: expected some of {', '.join(_GROUPS)}\n")
        answer: dict[str, Any] = {"records": len(book), "double_billed": book.double_billed()}
        if len(names) == 1:
            answer["totals"] = as_json(book.totals(by=names[0]))
        else:
            sums = book.totals(by=names)
            answer["totals"] = [[*as_json(case), as_json(total)] for case, total in sums.items()]
        if request.query.get("records"):
            answer["records"] = [record_figures(record) for record in book.records]
        return web.json_response(answer)

    async def memory(self, _: web.Request) -> web.StreamResponse:
        """All that the book remembers, with its rules, for a Book in another process."""
        return web.json_response(as_json(copy_of(self._world.book)))

    async def calls(self, request: web.Request) -> web.StreamResponse:
        """The latest calls, oldest first; ?since=NUMBER leaves out that one and those before."""
        try:
            since = int(request.query.get("since", "0"))
        except ValueError as error:
            raise web.HTTPBadRequest(text="since: expected the number of a call\n") from error
        return web.json_response(
            {"calls": [call_figures(call) for call in self._world.history.since(since)]}
        )

    async def marketplace(self, _: web.Request) -> web.StreamResponse:
        """The declared products, the agreements with what they are now, suspended accounts."""
        return web.json_response(marketplace_figures(self._world))

    async def public_key(self, request: web.Request) -> web.StreamResponse:
        """The public half of what RegisterUsage signs with, as PEM; ?version=1."""
        try:
            version = int(request.query.get("version", "1"))
            pem = await asyncio.to_thread(self._world.public_key, version)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"version: {error}\n") from error
        except ExtraMissingError as error:
            raise web.HTTPNotImplemented(text=f"{error}\n") from error
        return web.Response(text=pem, content_type="application/x-pem-file")

    # What is ordered

    def set_clock(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"now": ISO time}, {"advance": seconds}, {"speed": factor}, {"reset": true}; or some."""
        clock = self._world.clock
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
        faults = self._world.faults
        if "remove" in order:
            faults.remove(int(order["remove"]))
            return {"faults": len(faults.rules)}
        rules = from_json(list[Fault], order["faults"])
        if order.get("add"):
            faults.add(*rules)
        else:
            faults.replace(*rules)
        return {"faults": len(self._world.faults.rules)}

    def set_rules(self, order: dict[str, Any]) -> dict[str, Any]:
        """The switches to change, times in seconds."""
        self._world.change_rules(**order)
        rules: dict[str, Any] = as_json(self._world.book.rules)
        return rules

    def set_quota(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"calls_per_second": 10, "burst": 10}; null is none."""
        _check_names(order, {"calls_per_second", "burst"})
        rate = order["calls_per_second"]
        burst = float(order.get("burst", 10))
        self._world.set_quota(None if rate is None else float(rate), burst=burst)
        return {"calls_per_second": self._world.calls_per_second}

    def declare_product(self, order: dict[str, Any]) -> dict[str, Any]:
        """The arguments of Sandbox.declare_product."""
        self._world.declare_product(**order)
        return {"products": sorted(self._world.book.products)}

    def set_buyer(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"product_code": …, "customer": …, "subscribed": true}, for buyers without agreement."""
        self._world.set_subscribed(**order)
        return order

    def rotate_key(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"product_code": …}."""
        _check_names(order, {"product_code"})
        return {"public_key_version": self._world.rotate_key(order["product_code"])}

    def subscribe(self, order: dict[str, Any]) -> dict[str, Any]:
        """The arguments of Sandbox.subscribe, "free_trial" in seconds."""
        for name in ("begins", "ends"):
            if order.get(name) is not None:
                order[name] = datetime.fromisoformat(order[name])
        if order.get("free_trial") is not None:
            order["free_trial"] = timedelta(seconds=float(order["free_trial"]))
        return self._agreement(self._world.subscribe(**order).agreement_id)

    def cancel(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"agreement_id": …}."""
        return self._agreement(self._world.cancel(order["agreement_id"]).agreement_id)

    def expire(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"agreement_id": …}."""
        return self._agreement(self._world.expire(order["agreement_id"]).agreement_id)

    def _agreement(self, agreement_id: str) -> dict[str, Any]:
        agreement = self._world.book.catalogue.agreements[agreement_id]
        closing = self._world.book.rules.closing
        return agreement_figures(agreement, self._world.clock.now(), closing)

    def suspend(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"customer_aws_account_id": …}."""
        self._world.suspend(str(order["customer_aws_account_id"]))
        return {"suspended": sorted(self._world.book.catalogue.suspended)}

    def restore(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"customer_aws_account_id": …}."""
        self._world.restore(str(order["customer_aws_account_id"]))
        return {"suspended": sorted(self._world.book.catalogue.suspended)}

    async def set_up_account(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        {"agreement_id": …}: what the buyer's browser posts, and where to.

        With "post": true it is posted here and now, and the seller's answer shown as well.
        """
        _check_names(order, {"agreement_id", "post"})
        form = self._world.set_up_account(order["agreement_id"])
        answer: dict[str, Any] = {"url": form.url, "fields": form.fields}
        if order.get("post"):
            answer["answer"] = as_json(await post_registration(form))
        return answer

    def issue_token(self, order: dict[str, Any]) -> dict[str, Any]:
        """The arguments of Sandbox.issue_token."""
        return {"token": self._world.issue_token(**_texts(order))}

    def reset(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        Forget records, counts and faults; rules and quota are those the sandbox was made with.

        {"everything": true}: products and buyers are forgotten as well, and the time is real.
        """
        _check_names(order, {"everything"})
        self._world.reset(everything=bool(order.get("everything")))
        return {"records": len(self._world.book)}


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


def _check_names(order: Mapping[str, Any], known: set[str]) -> None:
    unknown = order.keys() - known
    if unknown:
        raise ValueError(f"expected {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")


def _texts(order: dict[str, Any]) -> dict[str, str]:
    for name, value in order.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, got {value!r}")
    return order


async def order_of(request: web.Request) -> dict[str, Any]:
    """
    Read a control's JSON; its content type keeps forms of other sites out.

    Raises:
        web.HTTPException: for another content type, a body over 1 MiB or one that comes slowly,
            and for what is no JSON object.
    """
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json\n")
    try:
        body = await body_of(request)
        if len(body) > _LARGEST_ORDER:
            raise web.HTTPRequestEntityTooLarge(_LARGEST_ORDER, len(body))
        order = json.loads(body)
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is no JSON\n") from None
    if not isinstance(order, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object\n")
    return order
