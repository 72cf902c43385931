"""The sandbox's own paths under /_sandbox/, for other processes, other languages, and the page."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any, Final

import attrs
from aiohttp import web
from aiohttp.typedefs import Handler

from marketplace_metering_async.sandbox.as_json import arguments_from_json, as_json, decoded
from marketplace_metering_async.sandbox.faults import Fault
from marketplace_metering_async.sandbox.figures import (
    agreement_figures,
    agreements_figures,
    call_figures,
    record_figures,
    world_figures,
)
from marketplace_metering_async.sandbox.http.exchange import body_of
from marketplace_metering_async.sandbox.http.json_stream import JsonStream
from marketplace_metering_async.sandbox.http.registration_page import (
    RegistrationError,
    post_registration,
)
from marketplace_metering_async.sandbox.service.agreements import Agreement
from marketplace_metering_async.sandbox.service.memory import copy_of
from marketplace_metering_async.sandbox.service.readings import PRESETS, readings
from marketplace_metering_async.sandbox.service.signing_keys import ExtraMissingError
from marketplace_metering_async.sandbox.world import World

ROOT: Final = "/_sandbox"
HEALTH: Final = f"{ROOT}/health"
_LARGEST_ORDER: Final = 2**20

_MISTAKES: Final = (TypeError, ValueError, OverflowError, LookupError)


class Controls:
    """Tells what is going on, and takes orders."""

    def __init__(self, world: World) -> None:
        self._world = world

    def asked(self) -> dict[str, Handler]:
        """Return the paths that tell something, by GET."""
        handlers: dict[str, Handler] = {
            "health": self.health,
            "state": self.state,
            "book": self.book,
            "memory": self.memory,
            "calls": self.calls,
            "marketplace": self.marketplace,
            "readings": self.readings,
            "advice": self.advice,
            "public-key": self.public_key,
        }
        return {f"{ROOT}/{name}": handler for name, handler in handlers.items()}

    def ordered(self) -> dict[str, Handler]:
        """Return the paths that take an order, by POST."""
        world, ordered = self._world, self._ordered
        handlers: dict[str, Handler] = {
            "clock": ordered(self.set_clock),
            "faults": ordered(self.set_faults),
            "rules": ordered(self.set_rules),
            "quota": ordered(
                world.set_quota, lambda _: {"calls_per_second": world.calls_per_second}
            ),
            "products": ordered(
                world.declare_product, lambda _: {"products": sorted(world.book.products)}
            ),
            "buyers": ordered(self.set_buyer),
            "rotate-key": ordered(world.rotate_key, lambda to: {"public_key_version": to}),
            "subscribe": ordered(world.subscribe, self._figures_of),
            "cancel": ordered(world.cancel, self._figures_of),
            "expire": ordered(world.expire, self._figures_of),
            "suspend": ordered(world.suspend, self._suspended),
            "restore": ordered(world.restore, self._suspended),
            "set-up-account": ordered(self.set_up_account),
            "tokens": ordered(world.issue_token, lambda token: {"token": token}),
            "reset": ordered(world.reset, lambda _: {"records": len(world.book)}),
        }
        return {f"{ROOT}/{name}": handler for name, handler in handlers.items()}

    def _ordered(
        self, carry_out: Callable[..., Any], answer: Callable[[Any], object] = lambda done: done
    ) -> Handler:
        """Return what has an order carried out; *answer* makes JSON of what that returns."""

        async def handler(request: web.Request) -> web.StreamResponse:
            order = await order_of(request)
            try:
                # Rules have a check of their own for each of their names.
                free = carry_out == self.set_rules
                done = carry_out(**(order if free else arguments_from_json(carry_out, order)))
                reply = answer(await done if isawaitable(done) else done)
            except _MISTAKES as error:
                why = f"unknown: {error}" if isinstance(error, LookupError) else str(error)
                raise web.HTTPBadRequest(text=f"{why}\n") from error
            except RegistrationError as error:
                raise web.HTTPBadGateway(text=f"{error}\n") from error
            self._world.changes.bump()
            return web.json_response(reply)

        return handler

    # What is shown

    async def health(self, _: web.Request) -> web.StreamResponse:
        """Whether it listens, for probes: the only path that asks for no token and no Host."""
        return web.json_response({"status": "ok"})

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
        by = names[0] if len(names) == 1 else names
        totals = book.sums(by)
        for sums in (book.repeated, totals):
            for _ in sums.catch_up(book.metered):
                await asyncio.sleep(0)
        answer = JsonStream(request)
        await answer.array("double_billed", book.repeated.lines())
        if len(names) == 1:
            await answer.object("totals", totals.items())
        else:
            rows = ([*as_json(case), as_json(total)] for case, total in totals.items())
            await answer.array("totals", rows)
        if request.query.get("records"):
            await answer.array("records", map(record_figures, book.records))
        else:
            await answer.member("records", len(book))
        return await answer.end()

    async def memory(self, request: web.Request) -> web.StreamResponse:
        """All that the book remembers, with its rules, for a Book in another process."""
        copy = copy_of(self._world.book)
        answer = JsonStream(request)
        await answer.member("rules", as_json(copy.rules))
        await answer.member("memory", as_json(copy.memory))
        await answer.array("agreements", map(as_json, copy.agreements))
        await answer.array("records", map(as_json, copy.records))
        return await answer.end()

    async def calls(self, request: web.Request) -> web.StreamResponse:
        """The latest calls, oldest first; ?since=NUMBER leaves out that one and those before."""
        try:
            since = int(request.query.get("since", "0"))
        except ValueError as error:
            raise web.HTTPBadRequest(text="since: expected the number of a call\n") from error
        return web.json_response(
            {"calls": [call_figures(call) for call in self._world.history.since(since)]}
        )

    async def marketplace(self, request: web.Request) -> web.StreamResponse:
        """The declared products, the agreements with what they are now, suspended accounts."""
        catalogue = self._world.book.catalogue
        answer = JsonStream(request)
        await answer.member("products", as_json(catalogue.products))
        await answer.array("agreements", agreements_figures(self._world))
        await answer.member("suspended", sorted(catalogue.suspended))
        return await answer.end()

    async def readings(self, _: web.Request) -> web.StreamResponse:
        """The switches of Rules, each with what it decides, by which page, and its readings."""
        return web.json_response({"readings": as_json(readings(self._world.book.rules))})

    async def advice(self, _: web.Request) -> web.StreamResponse:
        """What to change in the client, by the latest calls."""
        found = await asyncio.to_thread(self._world.advice)
        return web.json_response({"advice": as_json(found)})

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

    def set_clock(
        self,
        *,
        now: datetime | None = None,
        advance: timedelta = timedelta(0),
        speed: float | None = None,
        reset: bool = False,
    ) -> dict[str, Any]:
        """Show the real time, run faster or slower, go on from a time, move; each or several."""
        clock = self._world.clock
        before = clock.setting
        try:
            if reset:
                clock.reset()
            if speed is not None:
                clock.run(speed)
            if now is not None:
                clock.set(now)
            if advance:
                clock.step(advance)
        except BaseException:
            clock.reset()
            clock.restore(before)
            raise
        return {"now": clock.now().isoformat(), "speed": clock.speed}

    def set_faults(
        self, *, faults: list[Fault] | None = None, add: bool = False, remove: int | None = None
    ) -> dict[str, Any]:
        """Let faults hit requests, in place of those before or beside them; or take one away."""
        in_force = self._world.faults
        if (faults is None) is (remove is None):
            raise ValueError("expected faults, or the index of one to remove")
        if remove is not None:
            in_force.remove(remove)
        elif add:
            in_force.add(*faults or ())
        else:
            in_force.replace(*faults or ())
        return {"faults": len(in_force.rules)}

    def set_rules(self, *, preset: str | None = None, **changes: object) -> dict[str, Any]:
        """Turn switches of Rules; times in seconds. A preset comes first: usual, strict or kind."""
        if preset is not None:
            changes = {**attrs.asdict(PRESETS[preset], recurse=False), **changes}
        self._world.change_rules(**changes)
        rules: dict[str, Any] = as_json(self._world.book.rules)
        return rules

    def set_buyer(self, *, product_code: str, customer: str, subscribed: bool) -> dict[str, Any]:
        """Let a buyer without an agreement subscribe, or cancel."""
        self._world.set_subscribed(product_code, customer, subscribed=subscribed)
        return {"product_code": product_code, "customer": customer, "subscribed": subscribed}

    async def set_up_account(self, *, agreement_id: str, post: bool = False) -> dict[str, Any]:
        """
        Return what the buyer's browser posts on "Set up your account", and where to.

        With *post* it is posted here and now, and the seller's answer shown as well.
        """
        form = self._world.set_up_account(agreement_id)
        answer: dict[str, Any] = {"url": form.url, "fields": form.fields}
        if post:
            answer["answer"] = as_json(await post_registration(form))
        return answer

    # What the answer to an order says

    def _figures_of(self, agreement: Agreement) -> dict[str, Any]:
        closing = self._world.book.rules.closing
        return agreement_figures(agreement, self._world.clock.now(), closing)

    def _suspended(self, _: object) -> dict[str, Any]:
        return {"suspended": sorted(self._world.book.catalogue.suspended)}


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


async def order_of(request: web.Request) -> dict[str, Any]:
    """
    Read a control's JSON; its content type keeps forms of other sites out.

    Raises:
        web.HTTPException: for another content type, a body over 1 MiB or one that comes slowly,
            and for what is no JSON object.
    """
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type: expected application/json\n")
    try:
        body = await body_of(request)
        if len(body) > _LARGEST_ORDER:
            raise web.HTTPRequestEntityTooLarge(_LARGEST_ORDER, len(body))
        order = decoded(body)
    except ValueError:
        raise web.HTTPBadRequest(text="the body is no JSON\n") from None
    if not isinstance(order, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object\n")
    return order
