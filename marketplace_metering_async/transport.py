"""
The seam between a signed request and the network: what every transport takes, gives and keeps to.

Redirects, cookies, `.netrc` and environment proxies are not followed: a request carries a security
token, which must not reach another host. Answers are bounded in size, and compressed ones, which
nobody asked for, are refused unread. `direct` speaks to the endpoint itself; `proxied` goes through
a proxy, which takes aiohttp.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

from attrs import field, frozen

from marketplace_metering_async.errors import ConfigurationError

LARGEST_ANSWER: Final = 8 * 2**20
"""Bytes. The largest request is a megabyte, and an answer repeats it with an id for each record."""
TOO_LARGE: Final = f"an answer of more than {LARGEST_ANSWER} bytes"
COMPRESSED: Final = "a compressed answer, which nobody asked for"

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for name, connection, proxy and TLS together: most of an attempt is for the answer."""
KEEPALIVE: Final = 15.0
"""Seconds an idle connection is kept: servers and NAT gateways drop them without a word later."""


@frozen
class Request:
    """A signed request: POST to *url*."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Response:
    """An answer, whatever its status; the headers' names are of any letter case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport(Protocol):
    """Carries requests. Whoever hands one in also closes it."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        """
        Send *request* and return the answer; *timeout* is for all of it, in seconds.

        Cancelling closes the connection; the service may have acted on the request.

        Raises:
            TransportError: no whole answer came; `sent` says whether the request may have arrived.
            InvalidAnswerError: an answer that is too large, or compressed.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; calling it again does nothing."""
        ...


@frozen(kw_only=True)
class TransportSettings:
    """
    What a transport is told of the machine it runs on.

    Certificates are always verified: there is no setting that turns it off.

    Raises:
        ConfigurationError: a proxy's URL that cannot be used.

    Attributes:
        ca_bundle: Path of the certificate authorities to trust; None: those of the system.
        client_cert: Paths of a client certificate and its key.
        proxy_url: The proxy to the endpoint, with user and password where it asks for them.
        max_connections: To the endpoint, at once.
    """

    ca_bundle: str | None = None
    client_cert: tuple[str, str | None] | None = None
    proxy_url: str | None = field(default=None, repr=False)
    max_connections: int = 32

    def __attrs_post_init__(self) -> None:
        """Refuse a proxy that is none, without showing its password."""
        if self.proxy_url is not None and not _is_proxy(self.proxy_url):
            raise ConfigurationError("proxy: expected http(s)://host:port, got something else")

    @property
    def proxy(self) -> str | None:
        """The proxy's address without user and password, for a person to read."""
        if self.proxy_url is None:
            return None
        parts = urlsplit(self.proxy_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _is_proxy(url: str) -> bool:
    try:
        proxy = urlsplit(url)
        _ = proxy.port  # raises for one that is no number
    except ValueError:
        return False
    return proxy.scheme in ("http", "https") and bool(proxy.hostname) and proxy.path in ("", "/")


async def trust(settings: TransportSettings) -> ssl.SSLContext:
    """
    Return whom to trust, and how to speak TLS.

    Raises:
        ConfigurationError: the certificates of the settings cannot be read.
    """
    try:
        return await asyncio.to_thread(_read_certificates, settings)
    except OSError as error:  # which ssl.SSLError is too
        where = settings.ca_bundle or "the system"
        reason = error.strerror or type(error).__name__
    raise ConfigurationError(f"cannot read the certificates of {where}: {reason}")


def _read_certificates(settings: TransportSettings) -> ssl.SSLContext:
    """Read the certificates; it takes some 20 ms, so not on the event loop."""
    context = ssl.create_default_context(cafile=settings.ca_bundle)
    context.set_alpn_protocols(["http/1.1"])
    if settings.client_cert is not None:
        context.load_cert_chain(*settings.client_cert)
    return context


def cause(why: OSError) -> str:
    """Return the system's words for an error."""
    return why.strerror or type(why).__name__
