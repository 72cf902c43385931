"""The sandbox: the service on a port of this machine, with its clock, quota, faults and book."""

import asyncio
import logging
import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import NoneType
from typing import Final, NotRequired, Self, TypedDict

from aiohttp import web

from marketplace_metering_async.sandbox.clock import SandboxClock
from marketplace_metering_async.sandbox.expected import require, several
from marketplace_metering_async.sandbox.faults import Fault, FaultFunction
from marketplace_metering_async.sandbox.guard import Guard, is_loopback, is_unspecified
from marketplace_metering_async.sandbox.http.app import application
from marketplace_metering_async.sandbox.http.connection_limit import ConnectionLimit, answered_log
from marketplace_metering_async.sandbox.http.exchange import request_logger
from marketplace_metering_async.sandbox.http.registration_page import (
    RegistrationResponse,
    post_registration,
)
from marketplace_metering_async.sandbox.service.principal import AccessKey
from marketplace_metering_async.sandbox.service.rules import Rules
from marketplace_metering_async.sandbox.state import StateFile
from marketplace_metering_async.sandbox.transport import SocketlessTransport
from marketplace_metering_async.sandbox.world import World

_BETWEEN_SAVES: Final = 0.5
_LAST_PORT: Final = 65535
_SECONDS_IDLE: Final = 75.0
_logger: Final = logging.getLogger(__name__)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _line_to_paste(name: str, value: str) -> str:
    if os.name == "nt":
        doubled = value.replace("'", "''")
        return f"$env:{name} = '{doubled}'"
    return f"export {name}={shlex.quote(value)}"


def _has_port(name: str) -> bool:
    return ":" in name.rpartition("]")[2]


class ClientArguments(TypedDict):
    """Arguments of a client that talks to a sandbox."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str
    aws_session_token: NotRequired[str]


class Sandbox(World):
    """
    The service on a port of this machine: a World that listens.

    Attributes:
        guard: Who may talk to it.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        clock: SandboxClock | None = None,
        calls_per_second: float | None = 10.0,
        burst: float = 10.0,
        faults: Iterable[Fault | FaultFunction] = (),
        seed: int = 0,
        rules: Rules | None = None,
        access_keys: Mapping[str, AccessKey] | None = None,
        history: int = 200,
        open_to: Iterable[str] = (),
        token: str | None = None,
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        """
        Prepare a sandbox; entering it opens the port.

        Args:
            port: 0 takes a free one.
            host: A loopback address; any, with *open_to*, and then it is let in as well.
            clock: The service's time; by default real.
            calls_per_second: The quota for each account (or access key), region and operation,
                half of it for RegisterUsage; None: off.
            burst: Calls that a rested account may make at once.
            faults: What goes wrong, asked in this order.
            seed: Of the faults' chance.
            rules: What the service's pages leave open.
            access_keys: Whose signatures to verify.
            history: How many of the latest calls are kept; 0: none.
            open_to: Hosts beside loopback that clients may use, as `name` or `name:port`; with
                any, page and controls ask for a token.
            token: The token that page and controls ask for; by default a new one with *open_to*,
                and none without.
            state: A file that keeps the sandbox's memory between runs, written twice a second and
                at the end: records, products, buyers, tokens, keys, clock.

        Raises:
            TypeError: for an argument of another type, which it names; one text is not several.
            ValueError: for an argument that cannot be, such as a host that is not loopback,
                unless there is *open_to*.
            StateFileError: if *state* cannot be read.
        """
        require("port", port, int)
        if not 0 <= port <= _LAST_PORT:
            raise ValueError(f"port: expected 0 to {_LAST_PORT}, got {port}")
        require("host", host, str)
        require("token", token, str, NoneType)
        require("state", state, str, os.PathLike, NoneType)
        names = [*several("open_to", open_to, str, what="texts")]
        if not is_loopback(host) and not names:
            raise ValueError(f"host: expected a loopback address, got {host!r}; see open_to=")
        if not is_loopback(host) and not is_unspecified(host):
            names.append(_in_url(host))
        self.guard = Guard(names, token)
        super().__init__(
            clock=clock,
            calls_per_second=calls_per_second,
            burst=burst,
            faults=faults,
            seed=seed,
            rules=rules,
            access_keys=access_keys,
            history=history,
        )
        self._host = host
        self._port = port
        self._open_to = names
        self._runner: web.AppRunner | None = None
        self._state = None if state is None else StateFile(state)
        self._exits = AsyncExitStack()
        if self._state is not None:
            self._state.restore(self)

    @property
    def url(self) -> str:
        """Where it listens, for clients of this machine."""
        return f"http://{self._local_host}:{self._port}"

    @property
    def _local_host(self) -> str:
        """A name that the guard lets in: no request is let in for 0.0.0.0."""
        if not is_unspecified(self._host):
            return _in_url(self._host)
        return "[::1]" if ":" in self._host else "127.0.0.1"

    @property
    def urls(self) -> list[str]:
        """Where clients find it: on this machine, then under the names of *open_to*."""
        named = (name if _has_port(name) else f"{name}:{self._port}" for name in self._open_to)
        return list(dict.fromkeys([self.url, *(f"http://{name}" for name in named)]))

    @property
    def page_url(self) -> str:
        """Where a browser finds the page; the token is in the fragment, which is never sent."""
        return f"{self.url}/" + (f"#token={self.guard.token}" if self.guard.token else "")

    @property
    def client_arguments(self) -> ClientArguments:
        """The arguments that bring a MarketplaceMeteringClient, or a boto3 client, here."""
        nobody = ("sandbox", AccessKey("sandbox"))
        access_key_id, key = next(iter(self.access_keys.items()), nobody)
        arguments: ClientArguments = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": access_key_id,
            "aws_secret_access_key": key.secret,
        }
        if key.session_token is not None:
            arguments["aws_session_token"] = key.session_token
        return arguments

    @property
    def environment(self) -> dict[str, str]:
        """The variables that bring clients here which read them; see `sdks.SDKS`."""
        client = self.client_arguments
        environment = {
            "AWS_ENDPOINT_URL_MARKETPLACE_METERING": client["endpoint_url"],
            "AWS_ACCESS_KEY_ID": client["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": client["aws_secret_access_key"],
            "AWS_REGION": client["region_name"],
            "AWS_DEFAULT_REGION": client["region_name"],
        }
        if "aws_session_token" in client:
            environment["AWS_SESSION_TOKEN"] = client["aws_session_token"]
        return environment

    def instructions(self) -> str:
        """Return what to set for clients that read the environment: lines for PowerShell or sh."""
        return "".join(f"{_line_to_paste(*pair)}\n" for pair in self.environment.items())

    async def __aenter__(self) -> Self:
        """
        Open the port.

        Raises:
            OSError: if the port is taken.
            StateFileError: if another sandbox has the state file, or has had it since this one was
                made; if it cannot be written.
        """
        async with AsyncExitStack() as exits:
            if self._state is not None:
                self._state.open(self)
                exits.callback(self._state.close)
                exits.callback(self._state.save, self)
                saving = asyncio.create_task(self._save_now_and_then(self._state))
                exits.push_async_callback(asyncio.wait, [saving])
                exits.callback(saving.cancel)
            await self._listen(exits)
            exits.callback(self.changes.stop)
            self._exits = exits.pop_all()
        return self

    async def _listen(self, exits: AsyncExitStack) -> None:
        connections = ConnectionLimit()
        app = application(self, self.guard, self, connections)
        self._runner = runner = web.AppRunner(
            app,
            access_log=_logger,
            access_log_class=answered_log(connections),
            logger=request_logger,
            keepalive_timeout=_SECONDS_IDLE,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        exits.push_async_callback(runner.cleanup)
        assert runner.server is not None  # noqa: S101 - for the type checker: it is set up
        protocol = partial(connections.protocol, runner.server)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, self._host, self._port, backlog=1024)
        exits.callback(server.close)
        self._port = server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        """Close the port; what was metered can still be read. OSError if it cannot be kept."""
        await self._exits.aclose()

    async def _save_now_and_then(self, state: StateFile) -> None:
        """Keep what has changed; a full disk stops the keeping, not the service."""
        saved = -1
        while True:
            if self.changes.count != saved:
                saved = self.changes.count
                try:
                    state.save(self)
                except OSError as error:
                    _logger.error("the sandbox's state file could not be written: %s", error)  # noqa: TRY400 - it says where
            await asyncio.sleep(_BETWEEN_SAVES)

    def transport(self) -> SocketlessTransport:
        """
        Return the service without a socket, for tests in this process; no port is needed.

        It raises what a socket does. A client of this package takes
        `marketplace_metering_async.testing.SandboxTransport(sandbox)`, which is the same with the
        package's own errors.
        """
        return SocketlessTransport(self)

    async def serve(self) -> None:
        """Run until cancelled."""
        async with self:
            await asyncio.Event().wait()

    async def register_account(self, agreement_id: str) -> RegistrationResponse:
        """
        Click "Set up your account" for a buyer: post a registration token to the seller's page.

        Raises:
            KeyError: for an agreement that does not exist.
            ValueError: where the product has no registration_url.
            RegistrationError: where the seller's page does not answer.
        """
        return await post_registration(self.set_up_account(agreement_id))
