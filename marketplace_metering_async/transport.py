"""
The wire: one signed request out, one answer back. Only this file knows aiohttp.

Redirects, cookies, `.netrc` and environment proxies are not followed: a request carries a security
token, which must not reach another host. Answers are bounded in size, and compressed ones, which
nobody asked for, are refused unread.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, Protocol

import aiohttp
from attrs import field, frozen
from yarl import URL

from marketplace_metering_async.errors import InvalidAnswerError, TransportError

LARGEST_ANSWER: Final = 8 * 2**20
"""Bytes. The largest request is a megabyte, and an answer repeats it with an id for each record."""

_CONNECT_TIMEOUT: Final = 10.0
_KEEPALIVE: Final = 15.0
"""Seconds an idle connection is kept: servers and NAT gateways drop them without a word later."""
_CHUNK: Final = 2**16

_NEVER_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientProxyConnectionError,
)


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
            TransportError: no answer came; `sent` says whether the request may have arrived.
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

    Attributes:
        ca_bundle: Path of the certificate authorities to trust; None: those of the system.
        client_cert: Paths of a client certificate and its key.
        proxy_url: The proxy for the endpoint.
        max_connections: To the endpoint, at once.
    """

    ca_bundle: str | None = None
    client_cert: tuple[str, str | None] | None = None
    proxy_url: str | None = field(default=None, repr=False)
    max_connections: int = 32


class AiohttpTransport:
    """A transport over aiohttp with one pool of connections, made at the first request."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._url: tuple[str, URL] = ("", URL())

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send *request*; see Transport."""
        session = self._session or await self._open()
        if self._url[0] != request.url:
            self._url = (request.url, URL(request.url, encoded=True))
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(_CONNECT_TIMEOUT, timeout))
        try:
            async with session.post(
                self._url[1],
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                timeout=limits,
            ) as answer:
                body = await _bounded(answer)
                return Response(answer.status, answer.headers, body)
        except aiohttp.ClientHttpProxyError as error:
            return _of_proxy(error)
        except _NEVER_SENT as error:
            raise TransportError(_words(error), sent=False) from None
        except TimeoutError:
            raise TransportError(f"no answer within {timeout:g} s", sent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(_words(error), sent=True) from None

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                context = await asyncio.to_thread(_ssl_context, self._settings)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        limit=self._settings.max_connections,
                        ssl=context,
                        keepalive_timeout=_KEEPALIVE,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    proxy=self._settings.proxy_url,
                    skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                )
            return self._session


def _ssl_context(settings: TransportSettings) -> ssl.SSLContext:
    """Read the certificates; it takes some 20 ms, so not on the event loop."""
    context = ssl.create_default_context(cafile=settings.ca_bundle)
    if settings.client_cert is not None:
        context.load_cert_chain(*settings.client_cert)
    return context


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidAnswerError("a compressed answer, which nobody asked for", answer.status)
    if answer.content_length is not None and answer.content_length <= LARGEST_ANSWER:
        return await answer.read()
    body = bytearray()
    while chunk := await answer.content.read(_CHUNK):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise InvalidAnswerError(f"more than {LARGEST_ANSWER} bytes", answer.status)
    return bytes(body)


def _of_proxy(error: aiohttp.ClientHttpProxyError) -> Response:
    """A proxy refused the tunnel: its 407 is an answer, anything else a failure to connect."""
    if error.status == 407:
        return Response(407, {}, b"")
    reason = f"the proxy answered HTTP {error.status} to CONNECT"
    raise TransportError(reason, sent=False) from None


def _words(error: Exception) -> str:
    """Say what happened without aiohttp's texts: they may repeat a proxy's URL and password."""
    match error:
        case aiohttp.ClientConnectorDNSError(host=host):
            return f"the name {host} cannot be resolved"
        case aiohttp.ClientConnectorCertificateError(host=host):
            return f"the certificate of {host} is not valid for it, or not trusted"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached"
        case aiohttp.ClientConnectorError(host=host, port=port, os_error=os_error):
            why = os_error.strerror or type(os_error).__name__
            return f"no connection to {host}:{port}: {why}"
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before the answer"
        case aiohttp.ClientPayloadError():
            return "the answer was cut short"
        case OSError(strerror=str(why)):
            return f"the connection broke: {why}"
    return f"the connection broke ({type(error).__name__})"
