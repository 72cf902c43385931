"""
The sandbox over HTTP: the service's four operations at `/`, and its own controls at `/_sandbox/`.

Nothing but loopback names may talk to it, and no page of another site.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Middleware

from marketplace_metering_async.sandbox.controls import Controls
from marketplace_metering_async.sandbox.guard import ANSWER_HEADERS, Forbidden
from marketplace_metering_async.sandbox.page import Page, is_static
from marketplace_metering_async.sandbox.service import Service

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox.sandbox import Sandbox

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(sandbox: "Sandbox") -> web.Application:
    """Return the web application of *sandbox*."""
    app = web.Application(middlewares=[_guarded(sandbox)])
    app.router.add_post("/", Service(sandbox).answer)
    for path, handler in Page(sandbox).routes().items():
        app.router.add_get(path, handler, allow_head=False)
    for (method, path), handler in Controls(sandbox).routes().items():
        app.router.add_route(method, path, handler)
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
