"""
The transport for machines that reach the service through a proxy. Only this file knows aiohttp.

aiohttp does what `direct` has no need of: CONNECT, TLS to the proxy and TLS within TLS.
"""

import asyncio
import ssl
from base64 import b64encode
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from marketplace_metering_async import transport
from marketplace_metering_async.errors import ClientClosedError, InvalidAnswerError, TransportError
from marketplace_metering_async.transport import Request, Response, TransportSettings, cause, trust


class ProxiedTransport:
    """
    A transport over aiohttp with one pool of connections, made at the first request.

    Making one needs neither a running loop nor the network; from the first request on it belongs
    to that request's loop.

    Raises, beside what Transport says:
        ConfigurationError: the certificates of the settings cannot be read.
        ClientClosedError: after aclose().
    """

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._trust: ssl.SSLContext | bool = True  # replaced before the first use of TLS
        self._proxy_headers = _proxy_headers(settings)
        self._opening = asyncio.Lock()
        self._closed = False
        self._url = ("", URL())
        self._limits = aiohttp.ClientTimeout()

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send *request*; see Transport."""
        session, url = self._session, self._parsed(request.url)
        if session is None or (self._trust is True and url.scheme == "https"):
            session = await self._open(url)
        body = _Body(request.body)
        try:
            async with session.post(
                url,
                data=body,
                headers=request.headers,
                ssl=self._trust,
                proxy_headers=self._proxy_headers,
                timeout=self._limits_of(timeout),
                allow_redirects=False,
            ) as answer:
                return await _read(answer)
        except aiohttp.ClientHttpProxyError as error:
            if error.status == 407:
                return Response(407, {}, b"")
            reason = f"the proxy answered HTTP {error.status} to CONNECT"
        except TimeoutError:
            reason = f"no answer within {timeout:g} s" if body.leaving else "no connection in time"
        except (aiohttp.ClientError, OSError) as error:
            reason = _words(error)
        # Raised out here, since aiohttp's errors, which hold all headers, would hang on as context.
        raise TransportError(reason, sent=body.leaving)

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        async with self._opening:
            session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self, url: URL) -> aiohttp.ClientSession:
        async with self._opening:
            if self._trust is True and url.scheme == "https":
                self._trust = await trust(self._settings)
            if self._closed:
                raise ClientClosedError("the transport is closed")
            if self._session is None:
                self._session = _new_session(self._settings)
            return self._session

    def _parsed(self, url: str) -> URL:
        if self._url[0] != url:
            self._url = (url, URL(url, encoded=True))
        return self._url[1]

    def _limits_of(self, timeout: float) -> aiohttp.ClientTimeout:
        if self._limits.total != timeout:
            self._limits = aiohttp.ClientTimeout(
                total=timeout, connect=min(transport.CONNECT_TIMEOUT, timeout)
            )
        return self._limits


class _Body(aiohttp.BytesPayload):
    """A request's body, which knows whether a connection was given any of the request."""

    leaving = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self.leaving = True  # head and body go out together
        await super().write_with_length(writer, content_length)


def _new_session(settings: TransportSettings) -> aiohttp.ClientSession:
    proxy = None if settings.proxy_url is None else URL(settings.proxy_url)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=settings.max_connections, keepalive_timeout=transport.KEEPALIVE
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        proxy=None if proxy is None else proxy.with_user(None),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
    )


def _proxy_headers(settings: TransportSettings) -> dict[str, str] | None:
    proxy = URL(settings.proxy_url or "")
    if proxy.raw_user is None:
        return None
    user, password = unquote(proxy.raw_user), unquote(proxy.raw_password or "")
    return {"Proxy-Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


async def _read(answer: aiohttp.ClientResponse) -> Response:
    """Read the body as it comes, since what an answer says of its own length need not be true."""
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidAnswerError(transport.COMPRESSED, answer.status)
    if (answer.content_length or 0) > transport.LARGEST_ANSWER:
        raise InvalidAnswerError(transport.TOO_LARGE, answer.status)
    content = answer.content
    body = await content.readany()
    if not content.at_eof():
        parts, size = [body], len(body)
        while part := await content.readany():
            parts.append(part)
            size += len(part)
            if size > transport.LARGEST_ANSWER:
                raise InvalidAnswerError(transport.TOO_LARGE, answer.status)
        body = b"".join(parts)
    return Response(answer.status, answer.headers, body)


def _words(error: Exception) -> str:
    """Say what happened without aiohttp's texts: they may repeat a proxy's URL and password."""
    match error:
        case aiohttp.ClientConnectorDNSError(host=host):
            return f"the name {host} cannot be resolved"
        case aiohttp.ClientConnectorCertificateError(host=host, certificate_error=why):
            return f"the certificate of {host} is not trusted: {_verdict(why)}"
        case aiohttp.ClientProxyConnectionError(os_error=why):
            return f"the proxy cannot be reached: {cause(why)}"
        case aiohttp.ClientConnectorError(host=host, port=port, os_error=why):
            return f"no connection to {host}:{port}: {cause(why)}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before the answer"
        case aiohttp.ClientPayloadError():
            return "the answer was cut short"
        case aiohttp.ClientResponseError():
            return "what came is no HTTP"
        case OSError():
            return f"the connection broke: {cause(error)}"
    return f"the connection broke ({type(error).__name__})"


def _verdict(why: Exception) -> str:
    return str(getattr(why, "verify_message", type(why).__name__))
