"""`ledger serve-metrics`: what a ledger's status says, to whoever asks over HTTP; read only."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from marketplace_metering_async.cli.commands.ledger_status import unheard
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.ledger import UsageLedger
from marketplace_metering_async.ledger.metrics import CONTENT_TYPE

_PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        return await _serve(routes_of(ledger), host, port, "/metrics", console)


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


async def _serve(
    routes: dict[str, Handler], host: str, port: int, path: str, console: Console
) -> Exit:
    app = web.Application()
    app.add_routes(web.get(where, handler) for where, handler in routes.items())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        with Interrupts(console, "the server closes.") as interrupts:
            try:
                await web.TCPSite(runner, host, port).start()
            except UnicodeError:
                raise MisuseError(f"--host: expected a name or an address, got {host!r}") from None
            own, number = runner.addresses[0][:2]
            shown = f"[{own}]" if ":" in own else own
            console.print(f"serving http://{shown}:{number}{path}; Ctrl-C ends it", markup=False)
            await interrupts.stopped.wait()
    finally:
        await runner.cleanup()
    return Exit.OK if interrupts.is_of_service else Exit.INTERRUPTED
