"""What the aiohttp transport does when the other side does not behave."""

import asyncio
import gc
import gzip
import os
import socket
import ssl
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.certificates import Authority, new_authority
from support.loopback import Connection, Loopback, Script, after_one, answers, serve

from marketplace_metering_async.aws import transport as wire
from marketplace_metering_async.aws.transport import (
    LARGEST_RESPONSE,
    AiohttpTransport,
    Request,
    Response,
    TransportSettings,
)
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    InvalidResponseError,
    TransportError,
)

TOKEN = "canary-session-token"
PASSWORD = "canary-p%40ssword"
SHORT = 0.3
"""Seconds given to requests that are meant to run out of time."""


def request(url: str, body: bytes = b'{"UsageRecords":[]}') -> Request:
    """Return a request to *url*, with a canary among its headers."""
    headers = {
        "Host": url.split("/")[2],
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Security-Token": TOKEN,
        "User-Agent": "ours",
        "Accept-Encoding": "identity",
    }
    return Request(url, headers, body)


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    """A transport with four connections that leaves no task behind."""
    transport = AiohttpTransport(TransportSettings(), max_connections=4)
    before = asyncio.all_tasks()
    yield transport
    await transport.aclose()
    await asyncio.sleep(0)
    assert {t for t in asyncio.all_tasks() - before if "aiohttp" in repr(t)} == set()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that only this file's transports trust."""
    return new_authority(tmp_path_factory.mktemp("authority"))


async def failure(transport: AiohttpTransport, url: str, **more: Any) -> TransportError:
    """Return the TransportError that a request to *url* ends in, checked for secrets."""
    body: bytes = more.get("body", b"{}")
    with pytest.raises(TransportError) as caught:
        await transport.send(request(url, body), timeout=more.get("timeout", 5.0))
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    for text in (str(error), repr(error)):
        assert TOKEN not in text
        assert "canary" not in text
    return error


# What is sent, and what comes back.


async def test_a_request_goes_out_as_it_was_signed(transport: AiohttpTransport) -> None:
    """The signed headers go out once and unchanged, and nothing is added that tells of us."""
    async with Loopback() as server:
        await transport.send(request(server.url, b"body"), timeout=5)
    received = server.requests[0]
    assert received.start == "POST / HTTP/1.1"
    assert received.body == b"body"
    assert dict(received.headers) == {
        "host": f"127.0.0.1:{server.port}",
        "content-type": "application/x-amz-json-1.1",
        "x-amz-security-token": TOKEN,
        "user-agent": "ours",
        "accept-encoding": "identity",
        "content-length": "4",
    }


async def test_a_path_goes_out_as_it_was_signed(transport: AiohttpTransport) -> None:
    """The URL is not quoted anew on its way."""
    async with Loopback() as server:
        await transport.send(request(f"{server.url}/a%2Fb/./c~"), timeout=5)
    assert server.requests[0].start == "POST /a%2Fb/./c~ HTTP/1.1"


async def test_an_answer_comes_back_whole(transport: AiohttpTransport) -> None:
    """Status, body and headers come back; header names are of any letter case."""
    script = answers(b'{"a":1}', status=400, headers={"x-amzn-RequestId": "id"})
    async with Loopback(script) as server:
        response = await transport.send(request(server.url), timeout=5)
    assert (response.status, response.body) == (400, b'{"a":1}')
    assert response.headers.get("X-AMZN-REQUESTID") == "id"


async def test_every_status_is_an_answer(transport: AiohttpTransport) -> None:
    """
    Any status from 200 to 599 comes back as it is.

    Covers: W15.
    """

    async def script(connection: Connection) -> None:
        for status in range(200, 600):
            await connection.request()
            if status in (204, 304):
                await connection.send(f"HTTP/1.1 {status} Some\r\n\r\n".encode())
            else:
                await connection.answer(status=status)

    async with Loopback(script) as server:
        for status in range(200, 600):
            assert (await transport.send(request(server.url), timeout=5)).status == status


@pytest.mark.parametrize("interim", [100, 102, 103, 199])
async def test_interim_answers_are_passed_over(transport: AiohttpTransport, interim: int) -> None:
    """
    An answer of class 1xx is not the answer.

    Covers: W15.
    """

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(f"HTTP/1.1 {interim} Wait\r\nLink: x\r\n\r\n".encode() * 2)
        await connection.answer(b"the answer")

    async with Loopback(script) as server:
        assert (await transport.send(request(server.url), timeout=5)).body == b"the answer"


async def test_an_upgrade_is_not_taken(transport: AiohttpTransport) -> None:
    """
    An offer to switch protocols is an answer like any other, and its connection is not kept.

    Covers: W19.
    """
    upgrade = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with Loopback(says(upgrade, then="wait"), serve) as server:
        assert (await transport.send(request(server.url), timeout=5)).status == 101
        assert (await transport.send(request(server.url), timeout=5)).status == 200
        assert server.accepted == 2


async def test_an_answer_before_the_request_was_read(transport: AiohttpTransport) -> None:
    """A refusal that comes while the body is still going out is the answer."""

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.answer(status=413, headers={"Connection": "close"})
        await connection.closed()

    async with Loopback(script) as server:
        large = request(server.url, b"x" * 900_000)
        assert (await transport.send(large, timeout=5)).status == 413


# Connections.


async def test_a_connection_is_kept(transport: AiohttpTransport) -> None:
    """Requests that follow each other share a connection."""
    async with Loopback() as server:
        for _ in range(20):
            await transport.send(request(server.url), timeout=5)
        assert server.accepted == 1


async def test_connections_are_bounded(transport: AiohttpTransport) -> None:
    """Twenty requests at once take no more than the four connections of the settings."""
    async with Loopback() as server:
        sends = [transport.send(request(server.url), timeout=5) for _ in range(20)]
        await asyncio.gather(*sends)
        assert (len(server.requests), server.most_open) == (20, 4)


async def test_connections_that_are_not_kept(transport: AiohttpTransport) -> None:
    """
    A server that closes after each answer is served by a new connection each time.

    Covers: W19.
    """
    async with Loopback(answers(headers={"Connection": "close"})) as server:
        for _ in range(10):
            await transport.send(request(server.url), timeout=5)
        assert (server.accepted, server.most_open) == (10, 1)


async def test_an_address_that_is_dead_is_passed_over(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where a name has two addresses and the first refuses, the second is used.

    Covers: W16.
    """
    async with Loopback() as server:
        names(monkeypatch, "127.0.0.2", "127.0.0.1")
        url = f"http://metering.example:{server.port}"
        assert (await transport.send(request(url), timeout=5)).status == 200


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have *addresses*."""

    async def resolve(self: object, host: str, port: int = 0, **_: Any) -> list[Any]:
        kind = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [{**kind, "host": address} for address in addresses]

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)


# No answer, and whether the request may have arrived.


async def test_nobody_listens(transport: AiohttpTransport) -> None:
    """
    A refused connection is no answer, and nothing was sent.

    Covers: W02.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = await failure(transport, f"http://127.0.0.1:{port}")
    assert error.sent is False
    assert error.reason.startswith(f"no connection to 127.0.0.1:{port}: ")


async def test_a_name_that_is_not_known(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A name that cannot be resolved is named, and nothing was sent; it may be known later.

    Covers: W01.
    """
    async with Loopback() as server:
        url = f"http://metering.example:{server.port}"

        async def getaddrinfo(*_: Any, **__: Any) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        with monkeypatch.context() as away:
            away.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            error = await failure(transport, url)
        names(monkeypatch, "127.0.0.1")
        assert (await transport.send(request(url), timeout=5)).status == 200
    assert error.reason == "the name metering.example cannot be resolved"
    assert error.sent is False


async def hang(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("step", "host"),
    [("getaddrinfo", "metering.example"), ("sock_connect", "127.0.0.1")],
    ids=["a resolver", "a connection that is never taken"],
)
async def test_what_hangs_before_anything_is_sent(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch, step: str, host: str
) -> None:
    """
    The time limit covers the name's resolution and the connection, and then nothing was sent.

    Covers: W01, W02.
    """
    monkeypatch.setattr(asyncio.get_running_loop(), step, hang)
    error = await failure(transport, f"http://{host}:1", timeout=SHORT)
    assert (error.reason, error.sent) == ("no connection in time", False)


async def test_connecting_takes_a_part_of_the_time(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An attempt with much time left ends early where no connection comes about.

    Covers: W02.
    """
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", hang)
    monkeypatch.setattr(wire, "_CONNECT_TIMEOUT", SHORT)
    async with asyncio.timeout(10):
        error = await failure(transport, "http://127.0.0.1:1", timeout=30)
    assert (error.reason, error.sent) == ("no connection in time", False)


async def test_a_connection_that_comes_too_late(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is not used: what would be sent then, nobody would wait for.

    Covers: W02.
    """
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def sock_connect(*to: Any) -> None:
        await asyncio.sleep(SHORT)
        await connect(*to)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    async with Loopback() as server:
        error = await failure(transport, server.url, timeout=SHORT / 10)
        assert (error.reason, error.sent) == ("no connection in time", False)
        await asyncio.sleep(2 * SHORT)
        assert not server.requests


OK = b"HTTP/1.1 200 OK\r\n"


def says(data: bytes = b"", *, then: str = "close") -> Script:
    """Answer a request with *data*; *then* close, reset, or wait until the other side closes."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        match then:
            case "reset":
                connection.reset()
            case "wait":
                await connection.closed()

    return script


def repeats(first: bytes, piece: bytes, *, pause: float = 0) -> Script:
    """Answer a request with *first*, and then one *piece* after the other."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(first)
        while True:
            await connection.send(piece)
            await asyncio.sleep(pause)

    return script


STALLS = says(then="wait")
STALLS_IN_THE_HEAD = says(OK + b"Content-Le", then="wait")
STALLS_IN_THE_BODY = says(OK + b"Content-Length: 100\r\n\r\n{", then="wait")
EVASIONS = {
    "stalls": STALLS,
    "stalls in the head": STALLS_IN_THE_HEAD,
    "stalls in the body": STALLS_IN_THE_BODY,
    "stalls without a length": says(OK + b"\r\n{", then="wait"),
    "drips": repeats(OK + b"Content-Length: 100000\r\n\r\n", b"x", pause=SHORT / 20),
    "drips interim answers": repeats(b"", b"HTTP/1.1 102 Processing\r\n\r\n", pause=SHORT / 20),
}


async def require_time_limit(transport: AiohttpTransport, server: Loopback) -> None:
    await transport.send(request(server.url), timeout=5)
    error = await failure(transport, server.url, timeout=SHORT)
    assert (error.reason, error.sent) == (f"no response within {SHORT:g} s", True)
    await server.all_closed()
    assert (await transport.send(request(server.url), timeout=5)).status == 200


@pytest.mark.parametrize("script", EVASIONS.values(), ids=EVASIONS)
async def test_the_time_limit_cannot_be_evaded(transport: AiohttpTransport, script: Script) -> None:
    """
    The limit is for the whole attempt, however the time is spent; the connection is dropped.

    Covers: W07, W09.
    """
    async with Loopback(after_one(script), serve) as server:
        await require_time_limit(transport, server)


@pytest.mark.parametrize("script", EVASIONS.values(), ids=EVASIONS)
async def test_nor_can_it_over_tls(authority: Authority, script: Script) -> None:
    """
    There, too, it is the connection that is dropped.

    Covers: W07, W09.
    """
    tls = authority.server("127.0.0.1")
    async with (
        Loopback(after_one(script), serve, tls=tls) as server,
        trusting(authority) as transport,
    ):
        await require_time_limit(transport, server)


async def test_a_time_limit_ends_with_its_request(transport: AiohttpTransport) -> None:
    """
    A connection that serves another by then is left alone, and closing leaves no timer behind.
    """

    async def slowly(connection: Connection) -> None:
        await connection.request()
        await asyncio.sleep(3 * SHORT)
        await connection.answer()
        await connection.closed()

    async with Loopback(after_one(slowly)) as server:
        await transport.send(request(server.url), timeout=2 * SHORT)
        assert (await transport.send(request(server.url), timeout=60)).status == 200
        assert server.accepted == 1
        await transport.aclose()
        loop: Any = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):
            pytest.skip("another event loop does not show its timers")
        timers: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
        assert not [t for t in timers if not t.cancelled() and "on_timeout" in repr(t)]


async def stops_reading(connection: Connection) -> None:
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await hang()


async def test_a_server_that_stops_reading(transport: AiohttpTransport) -> None:
    """
    A large request that is not read runs out of time, and the next takes a fresh connection.

    So it is with a connection that a NAT gateway has forgotten without a word.

    Covers: W08, W20.
    """
    async with Loopback(after_one(stops_reading), serve, window=4096) as server:
        await transport.send(request(server.url), timeout=5)
        error = await failure(transport, server.url, body=b"x" * 999_999, timeout=SHORT)
        assert (error.reason, error.sent) == (f"no response within {SHORT:g} s", True)
        assert (await transport.send(request(server.url), timeout=5)).status == 200
        assert server.accepted == 2


async def test_an_idle_connection_that_was_closed(transport: AiohttpTransport) -> None:
    """
    A connection that the server closes under the request is no answer; the next one is fresh.

    Covers: W04.
    """
    async with Loopback(after_one(says()), serve) as server:
        await transport.send(request(server.url), timeout=5)
        error = await failure(transport, server.url)
        assert (error.reason, error.sent) == ("the connection was closed before the response", True)
        assert (await transport.send(request(server.url), timeout=5)).status == 200


HALF_A_BODY = OK + b'Content-Length: 100\r\n\r\n{"Results":'
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSED, CUT = "the connection was closed before the response", "the response was cut short"
NO_HTTP = "the response is not HTTP"
BROKEN = {
    "ends": (says(), CLOSED),
    "resets": (says(then="reset"), "the connection broke: Connection reset by peer"),
    "cuts the head": (says(OK + b"Content-"), CLOSED),
    "cuts the body": (says(HALF_A_BODY), CUT),
    "resets in the body": (says(HALF_A_BODY, then="reset"), CUT),
    "cuts a chunk": (says(CHUNKED + b"40\r\n{"), CUT),
    "forgets the last chunk": (says(CHUNKED + b"2\r\n{}\r\n"), CUT),
    "speaks no HTTP": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), NO_HTTP),
    "an endless head": (says(OK + b"X-Line: y\r\n" * 100_000, then="wait"), NO_HTTP),
    "an endless line": (says(OK + b"X-Line: " + b"y" * 1_000_000, then="wait"), NO_HTTP),
}


@pytest.mark.parametrize(("script", "reason"), BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_does_not_come_whole(
    transport: AiohttpTransport, script: Script, reason: str
) -> None:
    """
    A lost or broken answer may stand for a request that was acted upon.

    Covers: W05, W06.
    """
    async with Loopback(script, serve) as server:
        error = await failure(transport, server.url)
        assert (error.reason, error.sent) == (reason, True)
        await server.all_closed()
        assert (await transport.send(request(server.url), timeout=5)).status == 200


# Answers that are refused.


async def test_a_compression_bomb(transport: AiohttpTransport) -> None:
    """
    A compressed answer is refused unread, so that it cannot fill the memory.

    Covers: W14, A18.
    """
    bomb = gzip.compress(bytes(200 * 2**20))

    async def script(connection: Connection) -> None:
        await connection.request()
        with suppress(ConnectionError):
            await connection.answer(bomb, headers={"Content-Encoding": "gzip"})

    async with Loopback(script, serve) as server:
        gc.collect()
        tracemalloc.start()
        with pytest.raises(InvalidResponseError, match=r"^HTTP 200: a compressed response"):
            await transport.send(request(server.url), timeout=5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await server.all_closed()
    assert peak < 8 * 2**20


TOO_LARGE = {
    "declared": says(OK + f"Content-Length: {LARGEST_RESPONSE + 1}\r\n\r\n".encode(), then="wait"),
    "in chunks": repeats(CHUNKED, b"10000\r\n" + bytes(2**16) + b"\r\n"),
    "without a length": repeats(OK + b"\r\n", bytes(2**16)),
}


@pytest.mark.parametrize("script", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_an_answer_that_is_too_large(transport: AiohttpTransport, script: Script) -> None:
    """
    An answer above the bound is refused, whether it tells its length or not.

    Covers: W14.
    """
    async with Loopback(script) as server:
        with pytest.raises(
            InvalidResponseError, match=r"^HTTP 200: a response of more than 8388608"
        ):
            await transport.send(request(server.url), timeout=30)
        await server.all_closed()


async def test_the_largest_answer(transport: AiohttpTransport) -> None:
    """An answer as large as the bound is taken, and its connection kept."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(bytes(LARGEST_RESPONSE))
        await serve(connection)

    async with Loopback(script) as server:
        response = await transport.send(request(server.url), timeout=30)
        await transport.send(request(server.url), timeout=5)
        assert (len(response.body), server.accepted) == (LARGEST_RESPONSE, 1)


# The token stays with the service.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(transport: AiohttpTransport, status: int) -> None:
    """
    A redirect is an answer; the other origin hears nothing.

    Covers: W11.
    """
    async with Loopback() as other:
        script = answers(status=status, headers={"Location": other.url})
        async with Loopback(script) as server:
            assert (await transport.send(request(server.url), timeout=5)).status == status
        assert (other.accepted, other.requests) == (0, [])


async def test_cookies_are_not_kept(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cookie that the service sets is not sent back."""
    names(monkeypatch, "127.0.0.1")  # cookies of bare addresses are not kept anyway

    cookie = {"Set-Cookie": "a=b; Path=/", "Connection": "close"}
    async with Loopback(answers(headers=cookie)) as server:
        for _ in range(2):
            await transport.send(request(f"http://metering.example:{server.port}"), timeout=5)
    assert server.requests[1].header("cookie") is None


async def test_neither_netrc_nor_proxies_of_the_environment(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    The transport takes nothing from the environment: no password of `.netrc`, no proxy.

    Covers: A14.
    """
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with Loopback() as server:
        await transport.send(request(server.url), timeout=5)
    assert server.requests[0].header("authorization") is None


def test_secrets_stay_out_of_repr() -> None:
    """
    Neither headers nor bodies nor a proxy's password are part of any repr.

    Covers: A08.
    """
    values = [
        request("https://host", TOKEN.encode()),
        Response(200, {"a": TOKEN}, TOKEN.encode()),
        TransportSettings(proxy_url=f"http://user:{PASSWORD}@proxy:3128"),
        AiohttpTransport(TransportSettings(proxy_url=f"http://user:{PASSWORD}@proxy:3128")),
    ]
    assert "canary" not in repr(values)


# TLS.


async def test_tls_with_a_bundle(authority: Authority) -> None:
    """
    A server whose authority is in the bundle is trusted, and asked for HTTP/1.1 alone.

    Covers: W19.
    """
    tls = authority.server("127.0.0.1")
    tls.set_alpn_protocols(["h2", "http/1.1"])
    spoken: list[str | None] = []

    async def script(connection: Connection) -> None:
        spoken.append(connection.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await serve(connection)

    async with Loopback(script, tls=tls) as server, trusting(authority) as transport:
        url = server.url.replace("https", "HTTPS")
        assert (await transport.send(request(url), timeout=5)).status == 200
    assert spoken == ["http/1.1"]


@asynccontextmanager
async def trusting(authority: Authority, **more: Any) -> AsyncIterator[AiohttpTransport]:
    """A transport that trusts *authority*."""
    transport = AiohttpTransport(TransportSettings(ca_bundle=authority.bundle, **more))
    yield transport
    await transport.aclose()


@pytest.mark.parametrize(
    ("name", "age", "reason"),
    [
        ("metering.example", timedelta(0), "IP address mismatch"),
        ("127.0.0.1", timedelta(days=2), "certificate has expired"),
    ],
)
async def test_a_certificate_that_does_not_fit(
    authority: Authority, name: str, age: timedelta, reason: str
) -> None:
    """
    A certificate for another name, or of yesterday, ends it before anything is sent.

    Covers: W03.
    """
    tls = authority.server(name, age=age)
    async with Loopback(tls=tls) as server, trusting(authority) as transport:
        error = await failure(transport, server.url)
        assert error.sent is False
        assert error.reason.startswith("the certificate of 127.0.0.1 is not trusted: ")
        assert reason in error.reason
        assert server.requests == []


async def test_an_authority_that_is_not_known(
    authority: Authority, transport: AiohttpTransport
) -> None:
    """
    A server that only its own authority knows is refused by those who have another bundle.

    Covers: W03, A15.
    """
    async with Loopback(tls=authority.server("127.0.0.1")) as server:
        error = await failure(transport, server.url)
        assert error.sent is False
        assert "is not trusted" in error.reason
        assert server.requests == []


async def test_a_server_without_tls(authority: Authority) -> None:
    """
    TLS is not given up where the server speaks plain HTTP.

    Covers: W03.
    """

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 No TLS here\r\nContent-Length: 0\r\n\r\n")

    async with Loopback(script) as server, trusting(authority) as transport:
        error = await failure(transport, f"https://127.0.0.1:{server.port}")
    assert error.sent is False


async def test_old_tls(authority: Authority, recwarn: pytest.WarningsRecorder) -> None:
    """
    A server that knows nothing newer than TLS 1.1 is refused.

    Covers: W03.
    """
    tls = authority.server("127.0.0.1")
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.maximum_version = ssl.TLSVersion.TLSv1_1
    recwarn.clear()
    async with Loopback(tls=tls) as server, trusting(authority) as transport:
        assert (await failure(transport, server.url)).sent is False


async def test_a_handshake_that_hangs(authority: Authority) -> None:
    """
    The time limit covers the handshake, and then nothing was sent.

    Covers: W03.
    """
    async with Loopback(STALLS) as server, trusting(authority) as transport:
        error = await failure(transport, f"https://127.0.0.1:{server.port}", timeout=SHORT)
    assert (error.reason, error.sent) == ("no connection in time", False)


async def test_a_client_certificate(authority: Authority) -> None:
    """A server that asks for a client's certificate gets the one of the settings."""
    tls = authority.server("127.0.0.1")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(authority.bundle)
    own = (authority.issue("someone"), None)
    async with Loopback(tls=tls) as server, trusting(authority, client_cert=own) as transport:
        assert (await transport.send(request(server.url), timeout=5)).status == 200


@pytest.mark.parametrize("content", [None, "this is no certificate"])
async def test_a_bundle_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    """A missing or broken bundle is a fault of the configuration, which names it."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    transport = AiohttpTransport(TransportSettings(ca_bundle=str(bundle)))
    with pytest.raises(ConfigurationError, match=f"^cannot read the certificates of {bundle}: "):
        await transport.send(request("https://127.0.0.1:1"), timeout=5)
    await transport.aclose()


async def test_a_client_certificate_that_is_not_there(tmp_path: Path) -> None:
    """It is asked for beside the system's authorities, too, and not left out."""
    transport = AiohttpTransport(TransportSettings(client_cert=(str(tmp_path / "own.pem"), None)))
    with pytest.raises(ConfigurationError, match=r"^cannot read .* of the system: "):
        await transport.send(request("https://127.0.0.1:1"), timeout=5)
    await transport.aclose()


# Proxies.


class Proxy:
    """What a proxy heard, and the script that plays it: it tunnels to wherever it is asked."""

    def __init__(self, refusal: bytes | None = None) -> None:
        self.refusal = refusal
        self.heads: list[str] = []

    async def script(self, connection: Connection) -> None:
        """Answer CONNECT, and then carry bytes both ways."""
        head = await connection.head()
        self.heads.append(head)
        if self.refusal is not None:
            await connection.send(self.refusal)
            return
        host, port = head.split()[1].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        await connection.send(b"HTTP/1.1 200 Established\r\n\r\n")
        there = asyncio.create_task(self._pump(connection.reader, writer))
        try:
            await self._pump(reader, connection.writer)
        finally:
            there.cancel()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_through_a_proxy(authority: Authority, scheme: str) -> None:
    """The proxy, with TLS or without, gets its password, and the endpoint everything else."""
    proxy = Proxy()
    tls = authority.server("127.0.0.1") if scheme == "https" else None
    async with (
        Loopback(proxy.script, tls=tls) as tunnel,
        Loopback(tls=authority.server("127.0.0.1")) as server,
        trusting(
            authority, proxy_url=f"{scheme}://us%C3%A9r:{PASSWORD}@127.0.0.1:{tunnel.port}"
        ) as own,
    ):
        assert (await own.send(request(server.url), timeout=5)).status == 200
        await own.send(request(server.url), timeout=5)
    lines = proxy.heads[0].split("\r\n")
    assert lines[0] == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
    assert "Proxy-Authorization: Basic dXPDqXI6Y2FuYXJ5LXBAc3N3b3Jk" in lines
    assert len(proxy.heads) == 1
    assert TOKEN not in proxy.heads[0]
    assert server.requests[0].header("proxy-authorization") is None


def proxied(port: int) -> AiohttpTransport:
    """Return a transport that goes through the proxy at *port* with a password."""
    return AiohttpTransport(TransportSettings(proxy_url=f"http://u:{PASSWORD}@127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (
            b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
            "the proxy answered HTTP 407 to CONNECT: it asks for a user and a password",
        ),
        (b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", "the proxy answered HTTP 502 to CONNECT"),
        (b"HTTP/1.1 302 No\r\nLocation: /\r\n\r\n", "the proxy answered HTTP 302 to CONNECT"),
        (b"", "the connection was closed before the response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the response is not HTTP"),
    ],
)
async def test_a_proxy_that_refuses(refusal: bytes, reason: str) -> None:
    """
    Where the proxy makes no tunnel, nothing was sent.

    Covers: W12.
    """
    async with Loopback(Proxy(refusal).script) as tunnel:
        transport = proxied(tunnel.port)
        error = await failure(transport, "https://metering.example")
        await transport.aclose()
    assert (error.reason, error.sent) == (reason, False)


async def test_a_proxy_that_drops_the_request(authority: Authority) -> None:
    """
    A tunnel that ends with the request under way is a lost answer.

    Covers: W12.
    """
    async with (
        Loopback(Proxy().script) as tunnel,
        Loopback(says(then="reset"), tls=authority.server("127.0.0.1")) as server,
        trusting(authority, proxy_url=f"http://127.0.0.1:{tunnel.port}") as own,
    ):
        assert (await failure(own, server.url)).sent is True


async def test_a_proxy_that_is_not_there() -> None:
    """A proxy that cannot be reached is told apart from the service, without its password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        transport = proxied(taken.getsockname()[1])
        error = await failure(transport, "https://metering.example")
        await transport.aclose()
    assert error.reason.startswith("the proxy cannot be reached: ")
    assert error.sent is False


@pytest.mark.parametrize(
    "url",
    [
        "socks5://canary@host",
        "canary",
        "http://",
        "http://u:canary@h:x",
        "http://socks5://canary",
        "http://a%3Acanary@h",
    ],
)
def test_a_proxy_that_is_none(url: str) -> None:
    """What cannot be a proxy is refused, and not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        TransportSettings(proxy_url=url)
    assert str(caught.value) == "proxy: expected http(s)://host:port, got something else"


def test_a_proxy_for_a_person_to_read() -> None:
    """The proxy's address can be shown without its password."""
    settings = TransportSettings(proxy_url=f"http://user:{PASSWORD}@proxy:3128")
    assert settings.proxy == "http://proxy:3128"
    assert TransportSettings().proxy is None


def test_a_proxys_user_needs_no_password() -> None:
    """It is sent with an empty one."""
    transport = AiohttpTransport(TransportSettings(proxy_url="http://user@proxy:3128"))
    assert transport._proxy_headers == {"Proxy-Authorization": "Basic dXNlcjo="}


# Cancelling and closing.


async def until(holds: Callable[[], bool]) -> None:
    """Wait until *holds* does, which it must within seconds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
            await asyncio.sleep(0.001)


async def cancelled(transport: AiohttpTransport, url: str, at: Callable[[], bool]) -> None:
    """Send a request and cancel it as soon as *at* holds."""
    task = asyncio.create_task(transport.send(request(url), timeout=5))
    await until(at)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("script", [STALLS, STALLS_IN_THE_HEAD, STALLS_IN_THE_BODY])
async def test_cancelling_drops_the_connection(transport: AiohttpTransport, script: Script) -> None:
    """
    A request that is cancelled while its answer is awaited leaves no connection to the next.

    Covers: C03, C04.
    """
    async with Loopback(script, serve) as server:
        await cancelled(transport, server.url, lambda: len(server.requests) == 1)
        await server.all_closed()
        assert (await transport.send(request(server.url), timeout=5)).status == 200


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_a_request_that_is_answered_costs_no_other_one_its_connection(
    transport: AiohttpTransport, turns: int
) -> None:
    """
    Once an answer is read to its end, the next request has the connection.

    It was dropped under that one, which was in doubt for it. Covers: C03.
    """
    ends = asyncio.Event()

    async def in_two_parts(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await ends.wait()
            await connection.send(b"{}")

    async with Loopback(in_two_parts) as server:
        first = asyncio.create_task(transport.send(request(server.url), timeout=5))
        await until(lambda: bool(server.requests))
        await asyncio.sleep(0.02)
        ends.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        assert (await transport.send(request(server.url), timeout=5)).status == 200
        await asyncio.gather(first, return_exceptions=True)


async def test_cancelling_before_anything_is_sent(
    transport: AiohttpTransport,
) -> None:
    """
    A request that is cancelled while connecting sends nothing, and gives its place back.

    Covers: C01, C02.
    """
    async with Loopback(STALLS) as server, Loopback() as other:  # and never a handshake
        for count in range(1, 6):
            url = f"https://127.0.0.1:{server.port}"
            await cancelled(transport, url, lambda count=count: server.accepted == count)  # type: ignore[misc]
        await server.all_closed()
        assert (await transport.send(request(other.url), timeout=5)).status == 200


async def test_closing_with_a_request_under_way(transport: AiohttpTransport) -> None:
    """
    Closing ends requests that wait for an answer; they may have been acted upon.

    Covers: C11.
    """
    async with Loopback(STALLS) as server:
        waiting = asyncio.create_task(failure(transport, server.url))
        await until(lambda: bool(server.requests))
        await transport.aclose()
        assert (await waiting).sent is True
        await server.all_closed()


async def test_closing_under_a_request_that_is_not_read(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its time limit: what is left to send would keep the connection for ever."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def sock_connect(sock: socket.socket, to: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await connect(sock, to)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    async with Loopback(stops_reading, window=4096) as server, asyncio.timeout(10):
        body = b"x" * 999_999
        sending = asyncio.create_task(transport.send(request(server.url, body), timeout=3 * SHORT))
        await until(lambda: server.accepted == 1)
        await asyncio.sleep(SHORT)
        closing = asyncio.create_task(transport.aclose())
        with pytest.raises(TransportError, match="no response within"):
            await sending
        await closing


async def test_closing_twice() -> None:
    """
    Closing again does nothing, at once or later.

    Covers: C12.
    """
    transport = AiohttpTransport(TransportSettings())
    async with Loopback() as server:
        await transport.send(request(server.url), timeout=5)
        await asyncio.gather(transport.aclose(), transport.aclose())
        await transport.aclose()
        await server.all_closed()


async def test_closed_means_closed() -> None:
    """After closing, nothing is sent, whether anything was before or not."""
    async with Loopback() as server:
        for first in (False, True):
            transport = AiohttpTransport(TransportSettings())
            if first:
                await transport.send(request(server.url), timeout=5)
            await transport.aclose()
            with pytest.raises(ClientClosedError, match=r"^the transport is closed$"):
                await transport.send(request(server.url), timeout=5)


async def test_closing_while_it_opens(authority: Authority, tmp_path: Path) -> None:
    """A transport that is closed while it reads certificates opens nothing."""
    slow = tmp_path / "certificates.pem"
    os.mkfifo(slow)  # who reads it waits until somebody writes
    transport = AiohttpTransport(TransportSettings(ca_bundle=str(slow)))
    opening = asyncio.create_task(transport.send(request("https://127.0.0.1:1"), timeout=5))
    await asyncio.sleep(0)
    await transport.aclose()
    await asyncio.to_thread(lambda: slow.write_bytes(Path(authority.bundle).read_bytes()))
    with pytest.raises(ClientClosedError):
        await opening


async def test_closing_does_not_wait_for_a_dead_server(authority: Authority) -> None:
    """
    A server that answers no more, over TLS as well, does not hold up closing.

    Covers: C11.
    """
    tls = authority.server("127.0.0.1")
    async with Loopback(STALLS, tls=tls) as server, trusting(authority) as transport:
        with pytest.raises(TransportError):
            await transport.send(request(server.url), timeout=SHORT)
        async with asyncio.timeout(10):
            await transport.aclose()


def test_one_is_made_anywhere() -> None:
    """A transport can be made without a running loop and on another thread."""
    made: list[AiohttpTransport] = []
    thread = threading.Thread(target=lambda: made.append(AiohttpTransport(TransportSettings())))
    thread.start()
    thread.join()

    async def use() -> int:
        async with Loopback() as server:
            response = await made[0].send(request(server.url), timeout=5)
            await made[0].aclose()
            return response.status

    assert asyncio.run(use()) == 200


# Whether a request left, should aiohttp change.


@pytest.mark.parametrize(
    ("ours", "step", "theirs"),
    [
        (wire._Connector, "connect", aiohttp.TCPConnector),
        (wire._Body, "write_with_length", aiohttp.BytesPayload),
    ],
    ids=["its connector", "its body"],
)
async def test_without_what_aiohttp_asks_a_request_counts_as_sent(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch, ours: Any, step: str, theirs: Any
) -> None:
    """
    Should aiohttp cease to ask it for connections, or to write bodies so: none is called unsent.
    (core F9)
    """
    monkeypatch.setattr(ours, step, getattr(theirs, step))
    async with Loopback(says(), STALLS, serve) as server:
        assert (await failure(transport, server.url)).sent is True
        assert (await failure(transport, server.url, timeout=SHORT)).sent is True
    if ours is wire._Connector:
        assert (await failure(transport, "http://127.0.0.1:1")).sent is True
