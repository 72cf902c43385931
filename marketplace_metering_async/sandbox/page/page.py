"""The page: its files, and what its script asks for."""

import asyncio
from functools import partial
from importlib import resources
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from marketplace_metering_async.sandbox.guard import ANSWER_HEADERS, PAGE_HEADERS
from marketplace_metering_async.sandbox.page.view import Entrance, View, columns_of
from marketplace_metering_async.sandbox.world import World

ROOT: Final = "/_sandbox/page"
_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_MOST_WATCHERS: Final = 32
_LONGEST_WAIT: Final = 20.0
_BETWEEN_LOOKS: Final = 0.15
_LONGEST_SEARCH: Final = 300
_LONGEST_NUMBER: Final = 18


def is_static(path: str) -> bool:
    """Return whether a path is a file of the page, which holds nothing of the book."""
    return path.startswith(f"{ROOT}/") and path.endswith(tuple(_TYPES))


def shows_page(request: web.Request) -> bool:
    """Return whether whoever asks for the root is shown the page, and no line to paste."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


class Page:
    """Answers a browser."""

    def __init__(self, world: World, entrance: Entrance) -> None:
        self._changes = world.changes
        self._entrance = entrance
        self._view = View(world, entrance)
        folder = resources.files("marketplace_metering_async.sandbox.page").joinpath("assets")
        self._files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self._watchers = 0

    def routes(self) -> dict[str, Handler]:
        """Return what is got at which path."""
        files = {f"{ROOT}/{name}": partial(self._file, name) for name in self._files}
        return {"/": self.start, **files, f"{ROOT}/view": self.view, f"{ROOT}/call": self.call}

    async def start(self, request: web.Request) -> web.StreamResponse:
        """
        Show the page to a browser, and to anybody else what to paste into a shell.

        The lines have the secret access key, so that they need the token where there is one.
        """
        if shows_page(request):
            return await self._file("index.html", request)
        return web.Response(text=self._entrance.instructions())

    async def view(self, request: web.Request) -> web.StreamResponse:
        """
        Tell all that the page shows, as soon as it differs from ?after=CHANGE.

        ?by=product,hour breaks the usage down, ?search=TEXT narrows it, ?wait=SECONDS is how long
        to wait for a change; that an agreement becomes something else as time goes by is one.
        """
        query = request.query
        try:
            by = columns_of(query.get("by", ""))
            after = int(query.get("after", "-1"))
            wait = min(max(float(query.get("wait", "0")), 0.0), _LONGEST_WAIT)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        await self._wait_beyond(after, wait)
        time = asyncio.get_running_loop().time
        began = time()
        search = query.get("search", "")[:_LONGEST_SEARCH]
        figures = await self._view.figures(by=by, search=search, monotonic=began)
        figures["took"] = round(time() - began, 6)
        return web.json_response(figures, headers=ANSWER_HEADERS)

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Tell one of the latest calls in full: ?number=1."""
        number = request.query.get("number", "")
        known = number.isdecimal() and len(number) <= _LONGEST_NUMBER
        figures = self._view.call(int(number)) if known else None
        if figures is None:
            raise web.HTTPNotFound(text="this call is no longer known\n")
        return web.json_response(figures, headers=ANSWER_HEADERS)

    async def _wait_beyond(self, change: int, seconds: float) -> None:
        changes = self._changes
        if not seconds or changes.count != change:
            return
        if self._watchers >= _MOST_WATCHERS:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n")
        self._watchers += 1
        by_itself = self._view.products.seconds_to_next_change()
        if by_itself is not None:
            seconds = min(seconds, max(by_itself, _BETWEEN_LOOKS))
        try:
            async with asyncio.timeout(seconds):
                await changes.wait_beyond(change)
                await asyncio.sleep(_BETWEEN_LOOKS)  # what comes together is shown together
        except TimeoutError:
            pass  # nothing has changed, but for what changes by itself, and the page is shown that
        finally:
            self._watchers -= 1

    async def _file(self, name: str, _: web.Request) -> web.StreamResponse:
        kind = _TYPES[name[name.rindex(".") :]]
        charset = None if kind == "image/svg+xml" else "utf-8"
        body = self._files[name]
        return web.Response(body=body, content_type=kind, charset=charset, headers=PAGE_HEADERS)
