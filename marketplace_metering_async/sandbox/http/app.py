"""
The sandbox as a web application: the service at `/`, its own controls at `/_sandbox/`, the page.

Nothing but loopback names may talk to it, and no page of another site.
"""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from marketplace_metering_async.sandbox.guard import ANSWER_HEADERS, Forbidden, Guard
from marketplace_metering_async.sandbox.http.connection_limit import ConnectionLimit
from marketplace_metering_async.sandbox.http.controls import HEALTH, Controls
from marketplace_metering_async.sandbox.http.exchange import (
    CONNECTIONS,
    LARGEST_BODY,
    body_of,
    deliver,
)
from marketplace_metering_async.sandbox.http.operations import Operations
from marketplace_metering_async.sandbox.http.responses import ServiceResponse
from marketplace_metering_async.sandbox.http.signatures import ServiceRequest
from marketplace_metering_async.sandbox.page.page import Page, is_static, shows_page
from marketplace_metering_async.sandbox.page.view import Entrance
from marketplace_metering_async.sandbox.world import World

_OWN: Final = "/_sandbox/"


def application(
    world: World, guard: Guard, entrance: Entrance, connections: ConnectionLimit
) -> web.Application:
    """
    Return what answers every request to a sandbox.

    Args:
        world: What it is about.
        guard: Who may ask.
        entrance: What the page says of how to get in.
        connections: Hears which of them have brought a request.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse whom the guard refuses; keep what others are answered out of caches and frames.

        Probes come under addresses that nobody names beforehand, and learn nothing.
        """
        connections.heard(request.protocol)
        if request.path == HEALTH:
            return await handler(request)
        try:
            _check(request, guard)
        except Forbidden as forbidden:
            return web.Response(status=403, text=f"{forbidden}\n")
        response = await handler(request)
        if request.path.startswith(_OWN) and not response.prepared:
            response.headers.update(ANSWER_HEADERS)
        return response

    app = web.Application(middlewares=[guarded], client_max_size=LARGEST_BODY)
    app[CONNECTIONS] = connections
    controls = Controls(world)
    app.router.add_post("/", _service(Operations(world)))
    for path, handler in {**Page(world, entrance).routes(), **controls.asked()}.items():
        app.router.add_get(path, handler, allow_head=path == HEALTH)  # `wget --spider`
    for path, handler in controls.ordered().items():
        app.router.add_post(path, handler)
    return app


def _service(operations: Operations) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        async def read() -> bytes | None:
            try:
                return await body_of(request)
            except web.HTTPRequestEntityTooLarge:
                return None

        async def send(response: ServiceResponse) -> web.StreamResponse:
            return await deliver(response, request)

        path, _, query = request.raw_path.partition("?")
        try:
            return await operations.answer(ServiceRequest(request.headers, path, query, read), send)
        except ConnectionError:
            return web.Response()  # for nobody

    return handler


def _check(request: web.Request, guard: Guard) -> None:
    transport = request.transport
    port = transport.get_extra_info("sockname")[1] if transport else 0
    guard.check(request.headers, port)
    if not _is_public(request):
        guard.check_controls(request.headers)


def _is_public(request: web.Request) -> bool:
    """Return whether a request needs no token: to the service, for the page, or for its files."""
    if request.path == "/":
        return request.method == "POST" or shows_page(request)
    return is_static(request.path)
