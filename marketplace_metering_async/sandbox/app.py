"""
The sandbox over HTTP: the service's four operations at `/`, and its own controls at `/_sandbox/`.

Nothing but loopback names may talk to it, and no page of another site.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from marketplace_metering_async.sandbox.controls import Controls
from marketplace_metering_async.sandbox.guard import ANSWER_HEADERS, Forbidden
from marketplace_metering_async.sandbox.page import Page, is_static, shows_page
from marketplace_metering_async.sandbox.service import Service

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox.sandbox import Sandbox

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_OWN = "/_sandbox/"


class App:
    """
    Answers every request to a sandbox.

    Its paths are few and have no parts that vary, so that a dict finds them sooner than a router:
    that, and no more, is what a web application would do here.
    """

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", "/"): Service(sandbox).answer,
            **{("GET", path): handler for path, handler in Page(sandbox).routes().items()},
            **Controls(sandbox).routes(),
        }
        self._paths = {path for _, path in self._routes}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Refuse whom the guard refuses; answer others, and tell those who watch of every order."""
        sandbox = self._sandbox
        method, path = request.method, request.path
        sandbox.heard(request.protocol)
        try:
            self._check(request)
        except Forbidden as forbidden:
            return web.Response(status=403, text=f"{forbidden}\n")
        answer = await self._found(method, path)(request)
        if method == "POST":
            sandbox.pulse.beat()
        if path.startswith(_OWN) and not answer.prepared:
            answer.headers.update(ANSWER_HEADERS)
        return answer

    def _check(self, request: web.BaseRequest) -> None:
        guard, transport = self._sandbox.guard, request.transport
        port = transport.get_extra_info("sockname")[1] if transport else 0
        guard.check(request.headers, port)
        if not _is_public(request):
            guard.check_controls(request.headers)

    def _found(self, method: str, path: str) -> Handler:
        handler = self._routes.get((method, path))
        if handler is not None:
            return handler
        if path not in self._paths:
            raise web.HTTPNotFound
        raise web.HTTPMethodNotAllowed(method, {m for m, p in self._routes if p == path})


def _is_public(request: web.BaseRequest) -> bool:
    """Return whether a request needs no token: to the service, for the page, or for its files."""
    if request.path == "/":
        return request.method == "POST" or shows_page(request)
    return is_static(request.path)
