"""A sandbox in a process of its own, steered over HTTP."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Self
from urllib.parse import urlencode

from marketplace_metering_async.sandbox import (
    Advice,
    Agreement,
    Book,
    Fault,
    RegistrationForm,
    RegistrationResponse,
)
from marketplace_metering_async.sandbox.arguments import arguments_as_json
from marketplace_metering_async.sandbox.as_json import as_json, from_json
from marketplace_metering_async.sandbox.conformance.http_client import HttpControls
from marketplace_metering_async.sandbox.expected import duration, texts
from marketplace_metering_async.sandbox.service.memory import Copy, book_of

_PATIENCE: Final = 30.0


class SandboxServer:
    """
    A sandbox in a subprocess, for clients in any language, and for what blocks the event loop.

    It ends with the process that started it, however that ends.

    Attributes:
        url: Where it listens.
        environment: What clients in any language read: endpoint, region and dummy credentials.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - the arguments of Sandbox
        """
        Prepare a sandbox; entering it starts the process.

        Args:
            arguments: Those of `Sandbox`.

        Raises:
            TypeError, ValueError: for one that another process cannot be given, such as a fault
                that is a function.
        """
        self._arguments = arguments_as_json(arguments)
        self.url = ""
        self.environment: dict[str, str] = {}
        self._token: str | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """
        Return when it listens.

        Raises:
            RuntimeError: if it ends before that; its complaint is on standard error.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "marketplace_metering_async.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, and may end no more than a line
        )
        to, of = self._process.stdin, self._process.stdout
        assert to is not None and of is not None  # noqa: S101, PT018 - for the type checker: pipes
        with suppress(BrokenPipeError):  # it has ended, and said why
            to.write(json.dumps(self._arguments) + "\n")
            to.flush()
        line = of.readline()
        if not line:
            self.__exit__()
            raise RuntimeError("the sandbox's process ended before it listened")
        place = json.loads(line)
        self.url, self.environment = place["url"], place["environment"]
        self._token = place["token"]
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process is None:
            return
        with self._process as process:
            try:
                # A line, since a process that the tested code forked may keep the pipe open.
                process.communicate("end\n", _PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def _controls(self) -> HttpControls:
        return HttpControls(self.url, self._token)

    @property
    def book(self) -> Book:
        """
        The server's book as it is now: every record, the products and buyers, the rules.

        It is a copy, which does not see what comes later; ask for another one then.

        Raises:
            ValueError: if the server refuses.
            OSError: if it does not answer within half a minute.
        """
        return book_of(from_json(Copy, self.ask("memory")))

    @property
    def state(self) -> dict[str, Any]:
        """Counts, clock and quota now."""
        state: dict[str, Any] = self.ask("state")
        return state

    def advice(self) -> list[Advice]:
        """Return what to change in the client, by the latest calls; nothing where all is well."""
        return from_json(list[Advice], self.ask("advice")["advice"])

    def advance(self, **difference: float) -> None:
        """Move the clock: `advance(hours=2)`, with the words of timedelta."""
        self.order("clock", advance=duration(difference).total_seconds())

    def set_clock(self, now: datetime, *, speed: float | None = None) -> None:
        """Go on from *now*, which must have a time zone, at *speed* (0 stands still)."""
        self.order("clock", now=now.isoformat(), **({} if speed is None else {"speed": speed}))

    def inject(self, *faults: Fault) -> None:
        """Let *faults* hit requests from now on, after those in force."""
        self.order("faults", faults=as_json(faults), add=True)

    def declare_product(
        self,
        product_code: str,
        *,
        dimensions: Iterable[str] = (),
        customers: Iterable[str] | Mapping[str, bool] = (),
        **more: Any,  # noqa: ANN401 - the other arguments of Sandbox.declare_product
    ) -> None:
        """Declare a product, as Sandbox.declare_product does."""
        named = isinstance(customers, Mapping)
        known = customers if named else sorted(texts("customers", customers))
        self.order(
            "products",
            product_code=product_code,
            dimensions=sorted(texts("dimensions", dimensions)),
            customers=as_json(known),
            **more,
        )

    def set_quota(self, calls_per_second: float | None, *, burst: float = 10.0) -> None:
        """Change the quota; None switches it off."""
        self.order("quota", calls_per_second=calls_per_second, burst=burst)

    def issue_token(self, product_code: str, **buyer: str) -> str:
        """Return a registration token for a *buyer*, as Sandbox.issue_token does."""
        return str(self.order("tokens", product_code=product_code, **buyer)["token"])

    def change_rules(self, **changes: Any) -> None:  # noqa: ANN401 - as Sandbox.change_rules
        """Turn some switches of Rules, as Sandbox.change_rules does."""
        self.order("rules", **as_json(changes))

    def set_subscribed(self, product_code: str, customer: str, *, subscribed: bool) -> None:
        """Let a buyer without an agreement subscribe, or cancel, without a closing hour."""
        self.order("buyers", product_code=product_code, customer=customer, subscribed=subscribed)

    def subscribe(
        self,
        product_code: str,
        customer_aws_account_id: str,
        **more: Any,  # noqa: ANN401 - the other arguments of Sandbox.subscribe
    ) -> Agreement:
        """Let a buyer subscribe, as Sandbox.subscribe does."""
        buyer = {"product_code": product_code, "customer_aws_account_id": customer_aws_account_id}
        return self._agreement("subscribe", **buyer, **as_json(more))

    def cancel(self, agreement_id: str) -> Agreement:
        """Let a buyer cancel: the agreement ends now, and its closing hour begins."""
        return self._agreement("cancel", agreement_id=agreement_id)

    def expire(self, agreement_id: str) -> Agreement:
        """Let an agreement run out now, as `cancel` does."""
        return self._agreement("expire", agreement_id=agreement_id)

    def _agreement(self, path: str, **members: Any) -> Agreement:  # noqa: ANN401 - JSON
        figures = self.order(path, **members)
        del figures["state"]  # which is what it is at the moment
        return from_json(Agreement, figures)

    def suspend(self, customer_aws_account_id: str) -> None:
        """Let AWS suspend an account: its usage is CustomerNotSubscribed."""
        self.order("suspend", customer_aws_account_id=customer_aws_account_id)

    def restore(self, customer_aws_account_id: str) -> None:
        """Take a suspension back."""
        self.order("restore", customer_aws_account_id=customer_aws_account_id)

    def set_up_account(self, agreement_id: str) -> RegistrationForm:
        """Return what a buyer's browser posts on "Set up your account", with a token of its own."""
        return from_json(RegistrationForm, self.order("set-up-account", agreement_id=agreement_id))

    def register_account(self, agreement_id: str) -> RegistrationResponse:
        """
        Click "Set up your account" for a buyer: post a registration token to the seller's page.

        Raises:
            ValueError: for an agreement that does not exist, a product without a registration_url,
                or a page that does not answer.
        """
        posted = self.order("set-up-account", agreement_id=agreement_id, post=True)
        return from_json(RegistrationResponse, posted["answer"])

    def public_key(self, version: int = 1) -> str:
        """
        Return the public half of what RegisterUsage signs with, as PEM (extra `jwt`).

        Raises:
            ValueError: for a version below 1, or where the server lacks the extra.
        """
        return self._controls.read(f"public-key?version={version}").decode()

    def rotate_key(self, product_code: str) -> int:
        """Give a product its next key version, and return it."""
        return int(self.order("rotate-key", product_code=product_code)["public_key_version"])

    def reset(self) -> None:
        """Forget all, also products; rules and quota are as it was made, and the time is real."""
        self.order("reset", everything=True)

    def ask(self, path: str, **query: str) -> Any:  # noqa: ANN401 - JSON
        """
        Return what the sandbox tells at a path under /_sandbox/.

        Raises:
            ValueError: if it refuses.
        """
        return self._controls.ask(f"{path}?{urlencode(query)}")

    def order(self, path: str, **members: Any) -> Any:  # noqa: ANN401 - JSON
        """
        Carry out an order at a path under /_sandbox/.

        Raises:
            ValueError: if it refuses.
        """
        return self._controls.order(path, members)
