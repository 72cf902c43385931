"""
The wire: one signed request out, one response back. Only this file knows aiohttp.

Redirects, cookies, `.netrc` and environment proxies are not followed: a request carries a security
token, which must not reach another host. Responses are bounded in size, and compressed ones, which
nobody asked for, are refused unread.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from attrs import field, frozen
from yarl import URL

from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    InvalidResponseError,
    TransportError,
)

LARGEST_RESPONSE: Final = 8 * 2**20
"""Bytes. The largest request is a megabyte, and a response repeats it, with an id a record."""
_TOO_LARGE: Final = f"a response of more than {LARGEST_RESPONSE} bytes"

_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for name, connection, proxy and TLS together: most of an attempt is for the response."""
_KEEPALIVE: Final = 15.0
"""Seconds an idle connection is kept: servers and NAT gateways drop them without a word later."""


@frozen
class Request:
    """
    A signed request.

    Attributes:
        url: Where to POST it.
        headers: All of them, the signature among them.
        body: What to send.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Response:
    """
    A response, whatever its status.

    Attributes:
        status: The HTTP status.
        headers: By name, in any letter case.
        body: What came, unpacked.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport(Protocol):
    """Carries requests. Whoever hands one in also closes it."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        """
        Send *request* and return the response; *timeout* is for all of it, in seconds.

        Cancelling closes the connection; the service may have acted on the request.

        Raises:
            TransportError: no whole response came; `sent` is False only where it is certain that
                nothing was sent.
            InvalidResponseError: a response that is too large, or compressed.

        Whatever else it raises is taken for a request that may have been acted upon.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; calling it again does nothing."""
        ...


@frozen(kw_only=True)
class TransportSettings:
    """
    What a transport knows of the machine it runs on.

    Certificates are always verified: there is no setting that turns it off.

    Raises:
        ConfigurationError: a proxy's URL that cannot be used.

    Attributes:
        ca_bundle: Path of the certificate authorities to trust; None: those of the system.
        client_cert: Paths of a client certificate and its key.
        proxy_url: The proxy to the endpoint, with user and password where it asks for them.
    """

    ca_bundle: str | None = None
    client_cert: tuple[str, str | None] | None = None
    proxy_url: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        """Refuse a proxy that is none, without showing its password."""
        if self.proxy_url is not None and not _is_proxy(self.proxy_url):
            raise ConfigurationError("proxy: expected http(s)://host:port, got something else")

    @property
    def proxy(self) -> str | None:
        """The proxy's address without user and password, for texts."""
        return None if self.proxy_url is None else str(URL(self.proxy_url).origin())


class AiohttpTransport:
    """
    A transport over aiohttp with one pool of connections, made at the first request.

    Making one needs neither a running loop nor the network; from the first request on it belongs
    to that request's loop.

    Raises, beside what Transport says:
        ConfigurationError: the certificates of the settings cannot be read.
        ClientClosedError: after aclose().
    """

    def __init__(self, settings: TransportSettings, max_connections: int = 32) -> None:
        """Have at most so many connections to the endpoint at once."""
        self._settings = settings
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._proxy_headers = _proxy_headers(settings)
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send *request*; see Transport."""
        session = self._session or await self._open()
        body = _Body(request.body)
        try:
            response = await session.post(
                URL(request.url, encoded=True),
                data=body,
                headers=request.headers,
                proxy_headers=self._proxy_headers,
                timeout=aiohttp.ClientTimeout(timeout, _CONNECT_TIMEOUT),
                allow_redirects=False,
            )
            try:
                return Response(response.status, response.headers, await _read(response))
            except BaseException:
                response.close()  # and its connection, which goes back to the pool at the end
                raise
        except TimeoutError:
            late = f"no response within {timeout:g} s"
            reason = "no connection in time" if body.connecting else late
        except (aiohttp.ClientError, OSError) as error:
            reason = _words(error)
        finally:
            body.drop_connection()
        # Raised out here, since aiohttp's errors, which hold all headers, would hang on as context.
        raise TransportError(reason, sent=not body.connecting)

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                trust, proxy = await _trust(self._settings), self._settings.proxy_url
                if self._closed:
                    raise ClientClosedError("the transport is closed")
                self._session = aiohttp.ClientSession(
                    connector=_Connector(
                        limit=self._max_connections,
                        keepalive_timeout=_KEEPALIVE,
                        ssl=trust,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    proxy=None if proxy is None else URL(proxy).with_user(None),
                    request_class=_Request,
                )
            return self._session


class _Request(aiohttp.ClientRequest):
    """A request without aiohttp's own headers: to have it skip them takes longer."""

    DEFAULT_HEADERS = {}  # noqa: RUF012 - aiohttp's own way


class _Body(aiohttp.BytesPayload):
    """
    A request's body, which notes how far the request has come.

    Attributes:
        connecting: Whether it waits for a connection, so that certainly nothing was sent. Should
            aiohttp ever cease to ask the connector for one, a request counts as sent.
        transport: The connection that it is written to.
    """

    connecting = False
    transport: asyncio.WriteTransport | None = None

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self.transport = writer.transport
        await super().write_with_length(writer, content_length)

    def drop_connection(self) -> None:
        """
        Drop one that is closing at once: it would wait until all is read that was sent.

        One that is not closing has brought the response, and may be another request's by now.
        """
        if self.transport is not None and self.transport.is_closing():
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """The pool of connections; it notes which requests wait for one."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        body = cast("_Body", req.body)
        body.connecting = True
        connection = await super().connect(req, traces, timeout)
        body.connecting = False
        return connection


def _is_proxy(url: str) -> bool:
    try:
        proxy = URL(url)
    except ValueError:
        return False
    is_place = proxy.scheme in ("http", "https") and bool(proxy.host) and proxy.path == "/"
    return is_place and ":" not in (proxy.user or "")  # which no header can carry


def _proxy_headers(settings: TransportSettings) -> dict[str, str] | None:
    proxy = URL(settings.proxy_url or "")
    if proxy.user is None:
        return None
    return {"Proxy-Authorization": aiohttp.encode_basic_auth(proxy.user, proxy.password or "")}


async def _trust(settings: TransportSettings) -> ssl.SSLContext | bool:
    if settings.ca_bundle is None and settings.client_cert is None:
        return True  # aiohttp has the system's certificates already; to read them takes 20 ms
    try:
        return await asyncio.to_thread(_read_certificates, settings)
    except OSError as error:  # which ssl.SSLError is too
        where, reason = settings.ca_bundle or "the system", _cause(error)
    raise ConfigurationError(f"cannot read the certificates of {where}: {reason}")


def _read_certificates(settings: TransportSettings) -> ssl.SSLContext:
    """Read the certificates; it takes some 20 ms, so not on the event loop."""
    context = ssl.create_default_context(cafile=settings.ca_bundle)
    context.set_alpn_protocols(["http/1.1"])
    if settings.client_cert is not None:
        context.load_cert_chain(*settings.client_cert)
    return context


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body as it comes, since what a response says of its own length need not be true."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidResponseError("a compressed response, which nobody asked for", response.status)
    if (response.content_length or 0) > LARGEST_RESPONSE:
        raise InvalidResponseError(_TOO_LARGE, response.status)
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > LARGEST_RESPONSE:
            raise InvalidResponseError(_TOO_LARGE, response.status)
    return bytes(body)


def _words(error: Exception) -> str:
    """Say what happened without aiohttp's texts: they may repeat a proxy's URL and password."""
    match error:
        case aiohttp.ClientHttpProxyError(status=status):
            wants = ": it asks for a user and a password" if status == 407 else ""
            return f"the proxy answered HTTP {status} to CONNECT{wants}"
        case aiohttp.ClientConnectorDNSError(host=host):
            return f"the name {host} cannot be resolved"
        case aiohttp.ClientConnectorCertificateError(host=host, certificate_error=why):
            what = getattr(why, "verify_message", type(why).__name__)
            return f"the certificate of {host} is not trusted: {what}"
        case aiohttp.ClientProxyConnectionError(os_error=why):
            return f"the proxy cannot be reached: {_cause(why)}"
        case aiohttp.ClientConnectorError(host=host, port=port, os_error=why):
            return f"no connection to {host}:{port}: {_cause(why)}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before the response"
        case aiohttp.ClientPayloadError():
            return "the response was cut short"
        case aiohttp.ClientResponseError():
            return "the response is not HTTP"
    return f"the connection broke: {_cause(error)}"


def _cause(why: Exception) -> str:
    return getattr(why, "strerror", None) or type(why).__name__
