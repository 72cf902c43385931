"""The options that commands share, and what they make of them."""

import ipaddress
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from attrs import frozen

from marketplace_metering_async import rules
from marketplace_metering_async.aws.endpoints import Endpoint, FoundEndpoint
from marketplace_metering_async.aws.signing import Signer
from marketplace_metering_async.cli.input.lines import doubt_of_account
from marketplace_metering_async.cli.output.console import Console, Log, LogFormat
from marketplace_metering_async.cli.output.steps import Steps
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import InvalidRecordError, mask
from marketplace_metering_async.events import Observer
from marketplace_metering_async.limits import CALLS_PER_SECOND, service_metadata
from marketplace_metering_async.records import usage_timestamp


def option(spec: str, text: str, **more: Any) -> Any:  # noqa: ANN401 - as typer has it
    """Return an option as help shows it, such as `-v --verbose` or `--port PORT`, with its help."""
    words = spec.split()
    names = [word for word in words if word.startswith("-")]
    metavar = " ".join(words[len(names) :]) or None
    return typer.Option(*names, metavar=metavar, help=text, **more)


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


def seconds(text: str | float) -> float:
    """Read a time limit in seconds."""
    number = rate(text)
    if not number:
        raise typer.BadParameter("expected seconds above 0, got 0")
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


_known_account = _kept(lambda text: rules.identity(text, None, None))


def _account(text: str | None) -> str | None:
    if doubt := doubt_of_account(_known_account(text)):
        Console().complain(f"--account: {doubt}")
    return text


def some_text(text: str | None) -> str | None:
    """Refuse what a script gives of a variable that is not set: it would mean nothing was given."""
    if text == "":
        raise typer.BadParameter("expected a text, got none: is a variable not set?")
    return text


EndpointUrl = Annotated[
    str | None,
    option(
        "--endpoint-url URL",
        "Send to another endpoint than AWS's, such as the sandbox's.",
        callback=some_text,
    ),
]
Profile = Annotated[
    str | None,
    option(
        "--profile NAME",
        "Take credentials and region from this profile of ~/.aws/config.",
        callback=some_text,
    ),
]
Region = Annotated[
    str | None,
    option(
        "--region NAME",
        "The AWS region; otherwise AWS_DEFAULT_REGION, AWS_REGION or the profile says which.",
        callback=some_text,
    ),
]
_PRODUCT: Final = "MARKETPLACE_METERING_PRODUCT_CODE"
_product = partial(option, "--product-code CODE", callback=_kept(rules.product_code))
ProductCode = Annotated[
    str | None, _product("The product of all usage that names none.", envvar=_PRODUCT)
]
TheProduct = Annotated[str, _product("The product, by the code of its listing.", envvar=_PRODUCT)]
OfProduct = Annotated[str | None, _product("Only of this product.")]
Account = Annotated[
    str | None, option("--account ID", "The buyer's AWS account, 12 digits.", callback=_account)
]
CustomerIdentifier = Annotated[
    str | None,
    option(
        "--customer-identifier ID",
        "In place of --account: the buyer's id in integrations from before 2026.",
        callback=_kept(lambda text: rules.identity(None, text, None)),
    ),
]
License = Annotated[
    str | None,
    option(
        "--license-arn ARN",
        "The buyer's license, together with --account.",
        callback=_kept(lambda text: rules.identity("0", None, text)),
    ),
]
Quantity = Annotated[
    Decimal,
    option(
        "--quantity NUMBER",
        "How many units: 5, or 17.42; exact to six decimal places.",
        parser=exact,
    ),
]
CallsPerSecond = Annotated[
    float,
    option(
        "--calls-per-second NUMBER",
        "The account's quota; 0: find it out by being throttled.",
        parser=rate,
    ),
]
Dimension = Annotated[str, option("--dimension NAME", "A dimension of the listing; case counts.")]
Timeout = Annotated[
    float | None,
    option(
        "--timeout SECONDS",
        "Start nothing new after so long; what is on its way is awaited.",
        parser=seconds,
    ),
]
Verbose = Annotated[
    bool, option("-v --verbose", "Also tell of every call, retry and search on stderr.")
]
Format = Annotated[
    LogFormat,
    option(
        "--log-format FORMAT",
        "What stderr is: text for people, or json, an object a line, for a log.",
    ),
]


def doubt_of(endpoint: Endpoint) -> str:
    """Return why the service may not be there, or nothing: a mistyped region has no host at all."""
    region = endpoint.region_name
    if region in service_metadata().regions or region not in endpoint.url:
        return ""
    return f"{region} is no region that is known to offer BatchMeterUsage"


async def open_client(client: MarketplaceMeteringClient, console: Console) -> Endpoint:
    """
    Return where the calls of *client* go, and complain where nobody may be there.

    Raises:
        ConfigurationError: no region, no credentials, or an endpoint that cannot be used.
    """
    endpoint = await client.endpoint()
    if doubt := doubt_of(endpoint):
        console.complain(f"{doubt}: check --region, AWS_DEFAULT_REGION and AWS_REGION")
    return endpoint


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
        where = f"{self.endpoint.url} ({self.endpoint.region_name})"
        doubt = doubt_of(self.endpoint)
        return f"{where}, access key {self.access_key}" + (f"; {doubt}" if doubt else "")


@frozen(kw_only=True)
class Settings:
    """
    Which service to talk to, and how.

    Attributes:
        endpoint_url: In place of AWS's.
        profile: Of the shared config.
        region: The AWS region.
        calls_per_second: The quota; 0: unknown.
        timeout: Seconds after which nothing new starts.
        verbose: Whether the console tells of every call, retry and search.
        log_format: For whom it writes.
    """

    endpoint_url: EndpointUrl = None
    profile: Profile = None
    region: Region = None
    calls_per_second: float = CALLS_PER_SECOND
    timeout: float | None = None
    verbose: bool = False
    log_format: LogFormat = LogFormat.TEXT

    @property
    def log(self) -> Log:
        """How much is said on stderr, and in what form."""
        return Log(verbose=self.verbose, format=self.log_format)

    def client(
        self,
        console: Console,
        *,
        observer: Observer | None = None,
        **more: Any,  # noqa: ANN401 - arguments of the client
    ) -> MarketplaceMeteringClient:
        """Return a client; the caller closes it. Its steps go to *console* where asked for."""
        if console.log_as.verbose:
            observer = Steps(console, observer)
        return MarketplaceMeteringClient(
            observer=observer,
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


@frozen(kw_only=True)
class CallSettings(Settings):
    """The options of a command that makes one call."""

    timeout: Timeout = None
    verbose: Verbose = False
    log_format: Format = LogFormat.TEXT


@frozen(kw_only=True)
class SendSettings(Settings):
    """The options of a command that sends records."""

    calls_per_second: CallsPerSecond = CALLS_PER_SECOND
    timeout: Timeout = None
    verbose: Verbose = False
    log_format: Format = LogFormat.TEXT
