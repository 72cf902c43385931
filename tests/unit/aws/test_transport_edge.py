"""
The transport's edge towards aiohttp: what aiohttp raises, and what becomes of it.

aioresponses stands in aiohttp's place, for every error. It takes the place of the whole request, so
whether one left is proven on loopback servers, as is all that comes back (test_transport).
"""

import json
import re
import ssl
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from aioresponses import aioresponses
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from marketplace_metering_async.aws.transport import AiohttpTransport, Request, TransportSettings
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import MarketplaceMeteringException, TransportError
from marketplace_metering_async.service_errors import MODELLED_ERRORS

HOST = "metering.marketplace.us-east-1.amazonaws.com"
URL_OF = f"https://{HOST}"
ANY_URL = re.compile(rf"^{URL_OF}/?$")
INFO = RequestInfo(
    URL(URL_OF), "POST", CIMultiDictProxy(CIMultiDict({"X-Amz-Security-Token": "canary"}))
)
PLACE = ConnectionKey(HOST, 443, True, True, None, None, None)


class Answer(aiohttp.ClientResponse):
    """aiohttp's response, which since 3.14 needs the writer of its request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(), **kwargs)


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
async def test_every_error_of_aiohttp_is_a_transport_error(error: Exception, reason: str) -> None:
    """
    In our words, without what aiohttp's texts may repeat; and, as no tracing says that it was not,
    taken for sent.
    """
    transport = AiohttpTransport(TransportSettings())
    with aioresponses() as web, pytest.raises(TransportError) as caught:
        web.post(ANY_URL, exception=error)
        await transport.send(Request(URL_OF, {"Host": HOST}, b"{}"), timeout=5)
    await transport.aclose()

    lost = caught.value
    assert reason in lost.reason
    assert lost.sent is True
    assert (lost.__cause__, lost.__context__) == (None, None)
    assert "canary" not in f"{lost} {lost!r}"


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
