"""
The transport's edge towards aiohttp: what aiohttp brings or raises, and what becomes of it.

aioresponses stands in aiohttp's place, for every status, header, body and error. It takes the
place of the whole request, so whether one left is proven on loopback servers (test_transport).
"""

import json
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from itertools import repeat
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from aioresponses import aioresponses
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from marketplace_metering_async.aws import wire
from marketplace_metering_async.aws.transport import (
    LARGEST_RESPONSE,
    AiohttpTransport,
    Request,
    Response,
    TransportSettings,
)
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import (
    InvalidResponseError,
    MarketplaceMeteringException,
    TransportError,
)
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.service_errors import MODELLED_ERRORS

HOST = "metering.marketplace.us-east-1.amazonaws.com"
URL_OF = f"https://{HOST}"
ANY_URL = re.compile(rf"^{URL_OF}/?$")
INFO = RequestInfo(
    URL(URL_OF), "POST", CIMultiDictProxy(CIMultiDict({"X-Amz-Security-Token": "canary"}))
)
PLACE = ConnectionKey(HOST, 443, True, True, None, None, None)
S = RecordStatus


class Answer(aiohttp.ClientResponse):
    """aiohttp's response, which since 3.14 needs the writer of its request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(), **kwargs)


class Parts:
    """A body in parts, in the place of aiohttp's stream; an error among them is raised."""

    def __init__(self, parts: Iterable[bytes | Exception]) -> None:
        self._parts = iter(parts)

    def feed_data(self, *_: Any) -> None:
        """Take no other body."""

    def feed_eof(self) -> None:
        """Take no end."""

    def exception(self) -> None:
        return None

    def set_exception(self, *_: Any) -> None:
        """Is closed."""

    async def readany(self) -> bytes:
        part = next(self._parts, b"")
        if isinstance(part, Exception):
            raise part
        return part


def of(parts: Iterable[bytes | Exception]) -> type[Answer]:
    """Return a response with a body of *parts*."""

    class Parted(Answer):
        @property
        def content(self) -> Any:
            return self._in_parts

        @content.setter
        def content(self, _: Any) -> None:
            self._in_parts = Parts(parts)

    return Parted


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(TransportSettings())
    yield transport
    await transport.aclose()


async def sent(transport: AiohttpTransport, **answer: Any) -> Response:
    """Return what a request with that answer comes to."""
    with aioresponses() as web:
        web.post(ANY_URL, **{"response_class": Answer, "content_type": "text/plain"} | answer)
        return await transport.send(Request(URL_OF, {"Host": HOST}, b"{}"), timeout=5)


async def failed(transport: AiohttpTransport, **answer: Any) -> TransportError:
    """Return the TransportError that it comes to, checked for secrets and for its context."""
    with pytest.raises(TransportError) as caught:
        await sent(transport, **answer)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "canary" not in f"{caught.value} {caught.value!r}"
    return caught.value


async def test_every_status_is_an_answer(transport: AiohttpTransport) -> None:
    """
    With its body; what it means is for others to say.
    """
    for status in range(200, 600):
        response = await sent(transport, status=status, body=b"body")

        assert (status, b"body") == (response.status, response.body)


@pytest.mark.parametrize("name", ["x-amzn-RequestId", "X-AMZN-REQUESTID", "x-amzn-requestid"])
async def test_headers_are_found_in_any_letter_case(transport: AiohttpTransport, name: str) -> None:
    """
    The request id decides whether the service itself has answered.
    """
    response = await sent(transport, headers={name: "r-1", "Date": "today"})

    assert "r-1" == wire.header(response.headers, "x-amzn-RequestId")
    assert "today" == wire.header(response.headers, "date")


@pytest.mark.parametrize("body", [b"", b"\xff\x00\xfe", b"{}", b"x" * 100_000])
async def test_bodies_come_as_they_are(transport: AiohttpTransport, body: bytes) -> None:
    """
    Whatever they are made of.
    """
    assert body == (await sent(transport, body=body)).body


@pytest.mark.parametrize(
    "answer",
    [
        {"headers": {"Content-Encoding": "gzip"}, "body": b"\x1f\x8b"},
        {"headers": {"Content-Encoding": "br"}},
        {"headers": {"Content-Length": str(LARGEST_RESPONSE + 1)}},
        {"response_class": of(repeat(bytes(2**20)))},
    ],
)
async def test_answers_that_are_refused(
    transport: AiohttpTransport, answer: dict[str, Any]
) -> None:
    """
    Compressed, which nobody asked for, or too large, whether they say so or not.
    """
    with pytest.raises(
        InvalidResponseError, match=r"HTTP 200: a (compressed response|response of more)"
    ):
        await sent(transport, **answer)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiohttp.ClientPayloadError("cut"), "the response was cut short"),
        (aiohttp.ServerDisconnectedError(), "the connection was closed before the response"),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (TimeoutError(), "no response within 5 s"),
    ],
)
@pytest.mark.parametrize("before", [[], [b'{"Results": [', b"{"]])
async def test_broken_bodies(
    transport: AiohttpTransport, error: Exception, reason: str, before: list[bytes]
) -> None:
    """
    Whatever came before: it is no answer, and the request may have been acted upon.
    """
    lost = await failed(transport, response_class=of([*before, error]))

    assert reason in lost.reason
    assert lost.sent is True


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiohttp.ClientConnectorDNSError(PLACE, OSError(-2, "unknown")), f"the name {HOST} cannot"),
        (aiohttp.ClientConnectorError(PLACE, OSError(111, "refused")), f"to {HOST}:443: refused"),
        (aiohttp.ClientProxyConnectionError(PLACE, OSError(111, "refused")), "the proxy cannot be"),
        (aiohttp.ClientConnectorSSLError(PLACE, ssl.SSLError(1, "bad")), f"to {HOST}:443"),
        (
            aiohttp.ClientConnectorCertificateError(PLACE, ssl.CertificateError("expired")),
            f"the certificate of {HOST} is not trusted",
        ),
        (aiohttp.ClientHttpProxyError(INFO, (), status=403), "HTTP 403 to CONNECT"),
        (aiohttp.ClientHttpProxyError(INFO, (), status=407), "asks for a user and a password"),
        (aiohttp.ClientResponseError(INFO, (), status=400), "the response is not HTTP"),
        (aiohttp.ServerDisconnectedError(), "the connection was closed before the response"),
        (aiohttp.ClientOSError(32, "Broken pipe"), "the connection broke: Broken pipe"),
        (aiohttp.ConnectionTimeoutError("canary"), "no response within 5 s"),
        (aiohttp.SocketTimeoutError("canary"), "no response within 5 s"),
        (aiohttp.ClientConnectionError("canary"), "the connection broke: ClientConnectionError"),
        (aiohttp.ClientError("canary"), "the connection broke: ClientError"),
        (OSError(24, "Too many open files"), "the connection broke: Too many open files"),
        (TimeoutError(), "no response within 5 s"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_every_error_of_aiohttp_is_a_transport_error(
    transport: AiohttpTransport, error: Exception, reason: str
) -> None:
    """
    In our words, without what aiohttp's texts may repeat; and, as no tracing says that it was not,
    taken for sent.
    """
    lost = await failed(transport, exception=error)

    assert reason in lost.reason
    assert lost.sent is True


class HastyClock(SystemClock):
    """Whoever sleeps is awake at once, and it is as late as if he had slept."""

    slept = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.slept

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        await super().sleep(0)


@pytest.mark.parametrize("code", sorted(MODELLED_ERRORS))
async def test_every_modelled_error_comes_under_its_own_name(code: str) -> None:
    """
    From its header or its body; no request is made but those that search for a record.
    """
    client = MarketplaceMeteringClient(
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        clock=HastyClock(),
    )
    headers = {"x-amzn-RequestId": "r-0", "x-amzn-ErrorType": f"{code}:http://internal/"}
    refusal: dict[str, Any] = {"status": 400, "headers": headers, "response_class": Answer}
    with aioresponses() as web:
        web.post(ANY_URL, repeat=True, body=json.dumps({"__type": code}), **refusal)
        async with client:
            with pytest.raises(MODELLED_ERRORS[code]) as caught:
                await client.resolve_customer("token", timeout=60)

    assert isinstance(caught.value, MarketplaceMeteringException)
    assert (400, "r-0") == (caught.value.status, caught.value.request_id)
