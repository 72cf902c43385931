"""`ledger serve-metrics` and `ledger serve`: what a ledger knows, over HTTP; they only read."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from socket import gaierror
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from marketplace_metering_async.cli.commands.ledger_status import unheard
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.cli.output.ledger_page import FIELDS, Hours, page
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.ledger import HistoryEntry, UsageLedger
from marketplace_metering_async.ledger.metrics import CONTENT_TYPE
from marketplace_metering_async.sandbox.guard import PAGE_HEADERS, Forbidden, Guard
from marketplace_metering_async.sandbox.http.connection_limit import ConnectionLimit, answered_log
from marketplace_metering_async.sandbox.http.exchange import request_logger

_LOOPBACK: Final = "127.0.0.1"
_SHOWN: Final = 200
_FILES: Final = {
    "/page.css": ("sandbox.page", "assets/page.css", "text/css"),
    "/icon.svg": ("sandbox.page", "assets/icon.svg", "image/svg+xml"),
    "/ledger_page.css": ("cli.output", "ledger_page.css", "text/css"),
}
"""The page is in the style of the sandbox's."""
_PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def serve_metrics(url: str, host: str, port: int, console: Console) -> Exit:
    """
    Serve `/metrics` and `/healthz` until interrupted.

    Raises:
        LedgerError: the ledger cannot be read when it begins.
        MisuseError: *host* is none.
        OSError: the port is taken.
    """
    async with UsageLedger.open(url, create=False, observer=unheard) as ledger:
        await ledger.status()
        return await _serve(_app(routes_of(ledger)), host, port, "/metrics", console)


async def serve_page(url: str, port: int, console: Console) -> Exit:
    """
    Serve the page of a ledger on loopback until interrupted.

    Raises:
        LedgerError: the ledger cannot be read when it begins.
        OSError: the port is taken.
    """
    async with UsageLedger.open(url, create=False, observer=unheard) as ledger:
        await ledger.status()
        return await _serve(page_app(ledger), _LOOPBACK, port, "/", console)


def page_app(ledger: UsageLedger) -> web.Application:
    """Return what shows *ledger* to a browser of this machine, and to no page of another site."""
    guard = Guard()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        own = request.transport.get_extra_info("sockname") if request.transport else None
        try:
            guard.check(request.headers, own[1] if own else 0)
        except Forbidden:
            raise web.HTTPForbidden(text="open it by the address that was printed\n") from None
        return await handler(request)

    async def shown(request: web.Request) -> web.Response:
        asked = {name: request.query.get(name, "").strip() for name in FIELDS}
        try:
            status, hours = await ledger.status(), await latest_hours(ledger, asked)
        except LedgerError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n", headers=_PLAIN) from None
        text = page(status, hours, SystemClock().now())
        return web.Response(text=text, content_type="text/html", headers=PAGE_HEADERS)

    routes = {path: _file(*where) for path, where in _FILES.items()}
    return _app({"/": shown, **routes}, guarded)


async def latest_hours(ledger: UsageLedger, asked: Mapping[str, str]) -> Hours:
    """Return the latest hours of those that are asked for."""
    for name, text in asked.items():
        if not text.isprintable():
            return Hours(asked=asked, problem=f"{FIELDS[name]}: no id or month has such characters")
    given: dict[str, Any] = {name: text for name, text in asked.items() if text}
    month = given.pop("month", None)
    try:
        when = None if month is None else datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return Hours(asked=asked, problem=f"Give the month as YYYY-MM, not {month}")
    latest: list[HistoryEntry] = []
    async for entry in ledger.history(month=when, newest_first=True, **given):
        latest.append(entry)
        if len(latest) > _SHOWN:
            break
    return Hours(asked=asked, entries=latest[:_SHOWN], are_all=len(latest) <= _SHOWN)


def _file(folder: str, name: str, kind: str) -> Handler:
    body = files(f"marketplace_metering_async.{folder}").joinpath(name).read_bytes()

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, headers=PAGE_HEADERS)

    return handler


def routes_of(ledger: UsageLedger) -> dict[str, Handler]:
    """Return what is got at which path."""

    async def metrics(_: web.Request) -> web.Response:
        try:
            text = await ledger.metrics()
        except LedgerError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n", headers=_PLAIN) from None
        return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE, **_PLAIN})

    async def alive(_: web.Request) -> web.Response:
        """Say that the server lives, whatever has become of the ledger: no restart cures that."""
        return web.Response(text="ok\n", headers=_PLAIN)

    return {"/metrics": metrics, "/healthz": alive}


def _app(routes: Mapping[str, Handler], *middlewares: Middleware) -> web.Application:
    app = web.Application(middlewares=middlewares)
    app.add_routes([web.get(where, handler) for where, handler in routes.items()])
    return app


async def _serve(app: web.Application, host: str, port: int, path: str, console: Console) -> Exit:
    connections = ConnectionLimit()
    runner = web.AppRunner(
        app,
        access_log=request_logger,
        access_log_class=answered_log(connections),
        logger=request_logger,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - for the type checker: it is set up
    protocol = partial(connections.protocol, runner.server)
    async with AsyncExitStack() as exits:
        exits.push_async_callback(runner.cleanup)
        with Interrupts(console, "the server closes.") as interrupts:
            try:
                server = await asyncio.get_running_loop().create_server(protocol, host, port)
            except (UnicodeError, gaierror):
                expected = "--host: expected a name or an address of this machine"
                raise MisuseError(f"{expected}, got {host!r}") from None
            exits.callback(server.close)
            own, number = server.sockets[0].getsockname()[:2]
            shown = f"[{own}]" if ":" in own else own
            console.print(f"serving http://{shown}:{number}{path}; Ctrl-C ends it", markup=False)
            await interrupts.stopped.wait()
    return Exit.OK if interrupts.is_of_service else Exit.INTERRUPTED
