"""
A local stand-in for the AWS Marketplace Metering Service, for development and tests.

    async with Sandbox() as sandbox:
        client = MarketplaceMeteringClient(endpoint_url=sandbox.url, …)

It imports nothing of the client, so that a mistake is not made twice alike.
"""

import asyncio
import base64
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypedDict

from aiohttp import web

from marketplace_metering_async.sandbox.app import Quota, make_app
from marketplace_metering_async.sandbox.book import Book, Metered, Product, Rules
from marketplace_metering_async.sandbox.clock import SandboxClock
from marketplace_metering_async.sandbox.doors import GuardedSite
from marketplace_metering_async.sandbox.faults import Fault, FaultFunction, Faults, Kind
from marketplace_metering_async.sandbox.guard import Guard, is_loopback
from marketplace_metering_async.sandbox.history import History, Pulse
from marketplace_metering_async.sandbox.refusals import Refusal
from marketplace_metering_async.sandbox.signatures import AccessKey, Signed

__all__ = [
    "AccessKey",
    "Book",
    "ClientArguments",
    "Fault",
    "FaultFunction",
    "Kind",
    "Metered",
    "Product",
    "Refusal",
    "Rules",
    "Sandbox",
    "SandboxClock",
]


class ClientArguments(TypedDict):
    """Arguments of a client that talks to a sandbox."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str


class Sandbox:
    """
    The service on a port of this machine.

    Attributes:
        book: What was metered.
        clock: The service's time, which can be set.
        faults: The misbehaviour in force.
        access_keys: Declared access keys; with any, others are refused and signatures verified.
        calls: Requests by operation.
        refusals: Refused requests by code, throttles among them.
        struck: Faults that struck, by kind.
        history: The latest calls.
        pulse: Beats with every change.
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
    ) -> None:
        """
        Prepare a sandbox; entering it opens the port.

        Args:
            port: 0 takes a free one.
            host: A loopback address; any, with *open_to*.
            clock: The service's time; by default real.
            calls_per_second: The quota for each access key, region and operation; None: off.
            burst: Calls that a rested account may make at once.
            faults: What goes wrong, asked in this order.
            seed: Of the faults' chance.
            rules: What the service's pages leave open.
            access_keys: Whose signatures to verify.
            history: How many of the latest calls are kept; 0: none.
            open_to: Hosts beside loopback that clients may use, as `name` or `name:port`; with
                any, page and controls ask for a token.
            token: The token; by default a new one.

        Raises:
            ValueError: for a host that is not loopback, unless there is *open_to*.
        """
        self.guard = Guard(open_to, token)
        if not is_loopback(host) and self.guard.token is None:
            raise ValueError(f"host: expected a loopback address, got {host!r}; see open_to=")
        self.book = Book(rules=rules or Rules())
        self.clock = clock or SandboxClock()
        self.faults = Faults(list(faults), seed=seed)
        self.access_keys = dict(access_keys or {})
        self.calls: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.history = History(history)
        self.pulse = Pulse()
        self.calls_per_second = calls_per_second
        self._burst = burst
        self.quotas: dict[tuple[str, str, str], Quota] = {}
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._site: GuardedSite | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def page_url(self) -> str:
        """Where a browser finds the page; the token is in the fragment, which is never sent."""
        return f"{self.url}/" + (f"#token={self.guard.token}" if self.guard.token else "")

    @property
    def client_arguments(self) -> ClientArguments:
        """What a MarketplaceMeteringClient, or a boto3 client, needs to be told to come here."""
        return {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": next(iter(self.access_keys), "sandbox"),
            "aws_secret_access_key": next((k.secret for k in self.access_keys.values()), "sandbox"),
        }

    async def __aenter__(self) -> Self:
        """Open the port."""
        runner = web.AppRunner(make_app(self), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        self._site = GuardedSite(runner, self._host, self._port)
        await self._site.start()
        if not self._port:
            self._port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port; what was metered can still be read."""
        self.pulse.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def heard(self, connection: web.RequestHandler) -> None:
        """Take note that a connection brought a request."""
        if self._site is not None and self._site.doors is not None:
            self._site.doors.heard(connection)

    async def serve(self) -> None:
        """Run until cancelled."""
        async with self:
            await asyncio.Event().wait()

    def advance(self, **difference: float) -> None:
        """Move the clock: `advance(hours=2)`, with the words of timedelta."""
        self.clock.step(timedelta(**difference))
        self.pulse.beat()

    def inject(self, *faults: Fault | FaultFunction) -> None:
        """Let *faults* strike from now on, after those in force."""
        self.faults.rules += faults
        self.pulse.beat()

    def declare_product(
        self,
        product_code: str,
        *,
        dimensions: Iterable[str] = (),
        customers: Iterable[str] | Mapping[str, bool] = (),
        licenses: Mapping[str, str] | None = None,
        public_key_version: int = 1,
    ) -> Product:
        """
        Declare a product; from then on the book refuses what is unknown.

        Args:
            product_code: Its code.
            dimensions: What may be metered; empty: anything.
            customers: Account ids or customer identifiers, or a mapping of them to whether they
                are subscribed; empty: anybody is.
            licenses: License ARNs to the account each belongs to.
            public_key_version: Of its key pair.
        """
        known = customers if isinstance(customers, Mapping) else dict.fromkeys(customers, True)
        product = Product(
            dimensions=frozenset(dimensions),
            customers=dict(known),
            licenses=dict(licenses or {}),
            public_key_version=public_key_version,
        )
        self.book.products[product_code] = product
        self.pulse.beat()
        return product

    def set_subscribed(self, product_code: str, customer: str, *, subscribed: bool) -> None:
        """
        Let a buyer of a declared product subscribe, or cancel.

        Raises:
            KeyError: for a product that is not declared.
            TypeError, ValueError: for what is no customer, or neither true nor false.
        """
        if not isinstance(subscribed, bool):
            raise TypeError(f"subscribed: expected true or false, got {subscribed!r}")
        if not isinstance(customer, str) or not customer:
            raise ValueError(f"customer: expected an id, got {customer!r}")
        self.book.products[product_code].customers[customer] = subscribed
        self.pulse.beat()

    def issue_token(self, product_code: str, **buyer: str) -> str:
        """Return a registration token for a *buyer*; see Book.issue_token."""
        return self.book.issue_token(product_code, now=self.clock.now(), **buyer)

    def set_quota(self, calls_per_second: float | None, *, burst: float = 10.0) -> None:
        """Change the quota; None switches it off."""
        if calls_per_second is not None and not calls_per_second > 0:
            raise ValueError(f"calls_per_second: expected above 0, got {calls_per_second}")
        self.calls_per_second, self._burst = calls_per_second, burst
        self.quotas.clear()
        self.pulse.beat()

    def quota_of(self, signed: Signed, operation: str) -> Quota:
        """Return the quota that a request counts against."""
        whose = (signed.access_key_id, signed.region, operation)
        if whose not in self.quotas:
            self.quotas[whose] = Quota(self.calls_per_second, self._burst)
        return self.quotas[whose]

    def sign_registration(self, claims: Mapping[str, Any]) -> str:
        """Return RegisterUsage's signature: an unsecured JWT (RFC 7519, 6.1) of *claims*."""
        parts = [{"alg": "none", "typ": "JWT"}, dict(claims)]
        encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in parts]
        return ".".join([*(part.decode() for part in encoded), ""])

    def reset(self, *, everything: bool = False) -> None:
        """
        Forget what was metered, the counts and the faults; declared products stay.

        With *everything*, they do not, the clock shows the real time, and the quota is the usual.
        """
        self.book.forget()
        if everything:
            self.book.products.clear()
            self.clock.run(1)
            self.clock.set(datetime.now(UTC))
            self.set_quota(10.0)
        self.faults.rules.clear()
        for counter in (self.calls, self.refusals, self.struck):
            counter.clear()
        self.history.clear()
        self.quotas.clear()
        self.pulse.beat()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that bring a client in any language here."""
        client = self.client_arguments
        return {
            "AWS_ENDPOINT_URL_MARKETPLACE_METERING": client["endpoint_url"],
            "AWS_ACCESS_KEY_ID": client["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": client["aws_secret_access_key"],
            "AWS_REGION": client["region_name"],
            "AWS_DEFAULT_REGION": client["region_name"],
        }

    def instructions(self) -> str:
        """Return what to set for a client in any language, as lines to paste in a shell."""
        lines = (f"export {name}={shlex.quote(v)}\n" for name, v in self.environment.items())
        return "".join(lines)
