"""The options that commands share, and what they make of them."""

import ipaddress
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from attrs import frozen

from marketplace_metering_async import rules
from marketplace_metering_async.aws.signing import FoundEndpoint, Signer
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import InvalidRecordError, mask
from marketplace_metering_async.limits import CALLS_PER_SECOND
from marketplace_metering_async.records import usage_timestamp

# Typer hands a default to the parser as it is, and what was typed as text.


def rate(text: str | float) -> float:
    """Read calls a second; neither `nan` nor `inf` is a quota."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise typer.BadParameter(f"expected a number from 0 on, got {text!r}")
    return number


def whole_number(text: str | int) -> int:
    """Read digits and nothing else: int() would take `1_000` and the digits of any script."""
    text = str(text)
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise typer.BadParameter(f"expected a whole number in digits, got {text!r}")
    return int(text)


def exact(text: str) -> Decimal:
    """Read a quantity as files have it: digits with at most one point."""
    with _as_option_error():
        rules.raise_if_any(rules.quantity("", text))
    return Decimal(text)


def moment(text: str) -> datetime:
    """Read a time as files have it: ISO 8601 with a time zone, or whole seconds since 1970."""
    digits = text.isascii() and text.isdigit() and len(text) < 20
    with _as_option_error():
        time = usage_timestamp(int(text) if digits else text)
        rules.raise_if_any(rules.timestamp("", time))
    return time


def _kept(rule: Callable[[str], rules.Violations]) -> Callable[[str | None], str | None]:
    """Return a callback that refuses what breaks *rule*."""

    def check(text: str | None) -> str | None:
        if text is not None:
            with _as_option_error():
                rules.raise_if_any(rule(text))
        return text

    return check


@contextmanager
def _as_option_error() -> Iterator[None]:
    """Turn the complaint of a record's rule into one of the option at hand."""
    try:
        yield
    except InvalidRecordError as error:
        violation = error.violations[0]
        text = f"expected {violation.expected}, got {violation.got}"
        raise typer.BadParameter(text) from None


_product_code = _kept(rules.product_code)


EndpointUrl = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="Another endpoint, such as the sandbox's."),
]
Profile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="A profile of the shared config.")
]
Region = Annotated[str | None, typer.Option("--region", metavar="NAME", help="The AWS region.")]
ProductCode = Annotated[
    str | None,
    typer.Option(
        "--product-code",
        metavar="CODE",
        help="The product of records that name none.",
        callback=_product_code,
    ),
]
TheProduct = Annotated[
    str,
    typer.Option("--product-code", metavar="CODE", help="The product.", callback=_product_code),
]
Account = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="ID",
        help="The buyer's AWS account.",
        callback=_kept(lambda text: rules.identity(text, None, None)),
    ),
]
CustomerIdentifier = Annotated[
    str | None,
    typer.Option(
        "--customer-identifier",
        metavar="ID",
        help="Of legacy integrations.",
        callback=_kept(lambda text: rules.identity(None, text, None)),
    ),
]
License = Annotated[
    str | None,
    typer.Option(
        "--license-arn",
        metavar="ARN",
        help="The buyer's license, together with the account.",
        callback=_kept(lambda text: rules.identity("0", None, text)),
    ),
]
Quantity = Annotated[
    Decimal,
    typer.Option("--quantity", metavar="NUMBER", parser=exact, help="Units, as 5 or 17.42."),
]
CallsPerSecond = Annotated[
    float,
    typer.Option(
        "--calls-per-second",
        metavar="NUMBER",
        parser=rate,
        help="The account's quota; 0: find it out.",
    ),
]
QUOTA = CALLS_PER_SECOND


@frozen(kw_only=True)
class Target:
    """
    Which service is talked to, and as whom.

    Attributes:
        endpoint: Where requests go.
        access_key: The id of the access key, masked.
        source: Where the credentials were found, in a word.
        signer: Signs requests for it.
    """

    endpoint: FoundEndpoint
    access_key: str
    source: str
    signer: Signer

    @property
    def is_live(self) -> bool:
        """Whether real customers would be billed: the endpoint is not on this machine."""
        host = urlsplit(self.endpoint.url).hostname or ""
        try:
            return not (host == "localhost" or ipaddress.ip_address(host).is_loopback)
        except ValueError:
            return True

    def __str__(self) -> str:
        """As text, masked."""
        return f"{self.endpoint.url} ({self.endpoint.region_name}), access key {self.access_key}"


@frozen(kw_only=True)
class Settings:
    """Which service to talk to, and how."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    calls_per_second: float = QUOTA

    def client(self, **more: Any) -> MarketplaceMeteringClient:  # noqa: ANN401
        """Return a client; the caller closes it."""
        return MarketplaceMeteringClient(
            endpoint_url=self.endpoint_url,
            profile_name=self.profile,
            region_name=self.region,
            calls_per_second=self.calls_per_second or None,
            **more,
        )

    async def target(self) -> Target:
        """
        Find out, as a client would, where requests would go and as whom.

        Raises:
            ConfigurationError: no region, no credentials, or an endpoint that cannot be used.
        """
        signer = Signer(
            region_name=self.region, endpoint_url=self.endpoint_url, profile_name=self.profile
        )
        endpoint = await signer.open()
        request = await signer.sign("ResolveCustomer", b"{}", SystemClock().now)
        credential = request.headers["Authorization"].partition("Credential=")[2]
        return Target(
            endpoint=endpoint,
            access_key=mask(credential.partition("/")[0]),
            source=signer.source or "somewhere",
            signer=signer,
        )
