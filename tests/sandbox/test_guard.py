"""Who may talk to the sandbox, how much it takes in, and that the book is untouched by the rest."""

import asyncio
import gzip
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.raw import exchange, status_of

from marketplace_metering_async.sandbox import AccessKey, Rules, Sandbox
from marketplace_metering_async.sandbox import sandbox as server
from marketplace_metering_async.sandbox.guard import Forbidden, Guard, is_loopback
from marketplace_metering_async.sandbox.http import exchange as bodies
from marketplace_metering_async.sandbox.http.connection_limit import _BETWEEN_LOOKS, ConnectionLimit

PORT = 8765
HERE = f"127.0.0.1:{PORT}"


def passes(headers: dict[str, str], guard: Guard | None = None, *, controls: bool = True) -> bool:
    guard = guard or Guard()
    try:
        guard.check(headers, PORT)
        if controls:
            guard.check_controls(headers)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    "host", [HERE, f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}", f"127.8.9.1:{PORT}"]
)
def test_names_of_this_machine_are_let_in(host: str) -> None:
    """
    Loopback by name and by address, with our port. Covers: X02
    """
    assert passes({"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        "127.0.0.1:99999999",
        "127.0.0.1:",
        f"127.evil.example:{PORT}",
        f"127.0.0.1.evil.example:{PORT}",
        f"localhost.evil.example:{PORT}",
        f"evil.example:{PORT}",
        f"localhost.:{PORT}",
        f"0.0.0.0:{PORT}",
        f"10.0.0.1:{PORT}",
        f"2130706433:{PORT}",
        f"0x7f.1:{PORT}",
        f"127.1:{PORT}",
        f"[::]:{PORT}",
        f"[::1%25lo]:{PORT}",
        f"[::1:{PORT}",
        f"me@127.0.0.1:{PORT}",
        f"127.0.0.1:{PORT}@evil.example",
        f"127.0.0.1:{PORT}/",
        f"127.0.0.1:{PORT} ",
        f"127.0.0.1:{PORT},evil.example",
        f"１２７.0.0.1:{PORT}",  # noqa: RUF001 - wide digits, on purpose
        f"127.0.0.1:{PORT}\x00",
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    """
    Read as an address, never by its beginning, and with another port neither. Covers: X02
    """
    assert not passes({"Host": host})


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"Origin": f"http://{HERE}"}, True),
        ({"Origin": f"http://{HERE}", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": f"http://127.0.0.1:{PORT + 1}"}, False),
        ({"Origin": f"http://localhost:{PORT}"}, False),
        ({"Origin": f"http://{HERE}.evil.example"}, False),
        ({"Origin": f"http://evil.example/{HERE}"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": f"http://{HERE}", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], let_in: bool) -> None:  # noqa: FBT001
    """
    Whatever they send, and another port of this machine is another site. Covers: X03
    """
    assert let_in is passes({"Host": HERE} | headers)


def test_a_link_may_open_the_page() -> None:
    """
    From anywhere: it shows the page to the person who clicked, and to nobody else.
    """
    link = {"Host": HERE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}

    assert passes(link, controls=False)
    assert not passes(link | {"Origin": "https://evil.example"}, controls=False)


def test_what_is_let_in_needs_the_token() -> None:
    """
    A further host opens the service; page and controls ask for the token. Covers: X01
    """
    guard = Guard(["sandbox", "Localhost:9000"], "secret")

    assert passes({"Host": "sandbox:1"}, guard, controls=False)
    assert passes({"Host": "localhost:9000"}, guard, controls=False)
    assert not passes({"Host": "localhost:9001"}, guard, controls=False)
    assert not passes({"Host": "sandbox:1"}, guard)
    assert not passes({"Host": "sandbox:1", "X-Sandbox-Token": "secre"}, guard)
    assert not passes({"Host": "sandbox:1", "X-Sandbox-Token": "\udcff"}, guard)  # no UTF-8
    assert passes({"Host": "sandbox:1", "X-Sandbox-Token": "secret"}, guard)
    assert Guard(["a"]).token != Guard(["a"]).token
    with pytest.raises(ValueError, match="open_to"):
        Guard(["http://sandbox"])


def test_other_addresses_are_bound_only_when_told() -> None:
    """
    A host that is not loopback needs names to be let in. Covers: X01
    """
    for host in ("0.0.0.0", "::", "192.168.1.1", "evil.example", "127.evil.example"):
        assert not is_loopback(host)
        with pytest.raises(ValueError, match="loopback"):
            Sandbox(host=host)
    assert "#token=t" in Sandbox(host="0.0.0.0", open_to=["box"], token="t").page_url


@pytest.fixture
async def place() -> AsyncIterator[Sandbox]:
    async with Sandbox(calls_per_second=None) as sandbox:
        sandbox.declare_product("p", customers=["1"])
        yield sandbox


ATTACKS = ["clock", "faults", "products", "quota", "tokens", "reset", "buyers"]
ATTACKS += ["rules", "subscribe", "cancel", "expire", "suspend", "restore", "rotate-key"]
ATTACKS += ["set-up-account"]


@pytest.mark.parametrize("path", ATTACKS)
async def test_no_control_obeys_a_foreign_page(place: Sandbox, path: str) -> None:
    """
    Not by script, not by form, not by a name that points here. Covers: X02, X03
    """
    order = json.dumps({"faults": [], "product_code": "q", "speed": 0}).encode()
    here = place.url.removeprefix("http://")
    for headers in (
        {"Origin": "http://evil.example", "Content-Type": "application/json"},
        {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"},
        {"Host": "evil.example", "Content-Type": "application/json"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
    ):
        status = await status_of("POST", place.url, f"/_sandbox/{path}", order, headers)
        assert status in (403, 415), headers
    with_get = await status_of("GET", place.url, f"/_sandbox/{path}", b"", {"Host": here})

    assert with_get == 405
    assert {"p"} == set(place.book.products)
    assert 1 == place.clock.speed


async def test_nothing_is_told_to_a_foreign_page(place: Sandbox) -> None:
    """
    Neither figures nor calls, and no answer allows another origin to read it.
    """
    for path in ("state", "book", "memory", "page/view", "page/call?number=1"):
        foreign = {"Origin": "http://evil.example"}
        assert 403 == await status_of("GET", place.url, f"/_sandbox/{path}", b"", foreign)
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert 403 == await status_of("GET", place.url, f"/_sandbox/{path}", b"", foreign)
    async with aiohttp.ClientSession() as web, web.get(f"{place.url}/_sandbox/state") as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "nosniff" == answer.headers["X-Content-Type-Options"]
        assert "same-origin" == answer.headers["Cross-Origin-Resource-Policy"]


@pytest.mark.parametrize(
    ("host", "local"),
    [("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")],
)
async def test_every_address_that_is_printed_is_let_in(host: str, local: str) -> None:
    """
    On this machine by loopback, where all addresses are listened to; by its names elsewhere. S2
    """
    async with (
        Sandbox(host=host, open_to=["Box", "localhost:9000", "[fe80::1]"]) as sandbox,
        aiohttp.ClientSession() as web,
    ):
        port = sandbox.url.rpartition(":")[2]
        assert f"http://{local}:{port}" == sandbox.url
        assert [
            sandbox.url,
            f"http://Box:{port}",
            "http://localhost:9000",
            f"http://[fe80::1]:{port}",
        ] == sandbox.urls
        assert sandbox.url in sandbox.instructions()
        assert sandbox.page_url.startswith(f"{sandbox.url}/#token=")
        token = sandbox.guard.token or ""
        for url in sandbox.urls:
            headers = {"Host": url.removeprefix("http://"), "X-Sandbox-Token": token}
            async with web.get(f"{sandbox.url}/_sandbox/state", headers=headers) as answer:
                assert 200 == answer.status, url
        async with web.get(f"{sandbox.url}/", headers={"Accept": "text/html"}) as answer:
            assert 200 == answer.status


def test_the_host_is_let_in_as_well() -> None:
    """
    An address cannot be rebound to another one, as a name can.
    """
    place = Sandbox(8765, host="192.168.1.5", open_to=["box"])
    assert passes({"Host": "192.168.1.5:8765"}, place.guard, controls=False)
    assert "http://192.168.1.5:8765" == place.url
    assert "http://box:8765" == Sandbox(8765, host="box", open_to=["pen"]).url
    assert "http://[fd00::5]:8765" == Sandbox(8765, host="fd00::5", open_to=["box"]).url
    assert "http://[::1]:8765" == Sandbox(8765, host="::", open_to=["box"]).url


@pytest.mark.parametrize("token", ["", "a b", "\n", "é"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    """
    At once, and not with every request.
    """
    with pytest.raises(ValueError, match="token"):
        Guard(token=token)


async def test_a_token_is_asked_for_on_loopback_where_one_was_given() -> None:
    """
    And a probe needs neither it nor a name that is let in; it learns and changes nothing.
    """
    async with Sandbox(token="t") as sandbox:
        for headers, status in (({}, 403), ({"X-Sandbox-Token": "t"}, 200)):
            assert status == await status_of("GET", sandbox.url, "/_sandbox/state", b"", headers)
        foreign = {"Host": "10.0.0.1:80", "Origin": "http://evil.example"}
        for method in ("GET", "HEAD"):  # which `wget --spider` asks by
            assert 200 == await status_of(method, sandbox.url, "/_sandbox/health", b"", foreign)
        assert 405 == await status_of("POST", sandbox.url, "/_sandbox/health", b"{}", foreign)


async def test_the_token_is_asked_for_where_more_is_let_in() -> None:
    """
    By controls and figures; the service itself asks for signatures only. Covers: X16
    """
    async with (
        Sandbox(open_to=["sandbox"], token="secret") as sandbox,
        aiohttp.ClientSession() as web,
    ):
        state = f"{sandbox.url}/_sandbox/state"
        async with web.get(state) as answer:
            assert 403 == answer.status
        async with web.get(state, headers={"X-Sandbox-Token": "secret"}) as answer:
            assert 200 == answer.status
        async with web.get(f"{sandbox.url}/_sandbox/page/page.css") as answer:
            assert 200 == answer.status


BROKEN = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"null",
    b"\xff\xfe",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b'{"speed": ' + b"9" * 5000 + b"}",
    b'{"speed": NaN}',
    b'{"speed": -1}',
    b'{"now": "yesterday"}',
    b'{"now": "2026-01-01T00:00:00"}',
    b'{"now": 5}',
    b'{"advance": 1e300}',
    b'{"faults": [{"kind": "none"}]}',
    b'{"faults": [5]}',
    b'{"faults": {"kind": 1}}',
    b'{"remove": 7}',
    b'{"product_code": []}',
    b'{"product_code": "q", "licenses": 5}',
    b'{"product_code": "q", "dimensions": [1, "a"]}',
    b'{"product_code": "q", "dimensions": "requests"}',
    b'{"regions": [1, "a"]}',
    b'{"regions": "us-east-1"}',
    b'{"calls_per_second": 0}',
    b'{"calls_per_second": NaN}',
    b'{"calls_per_second": [1]}',
    b'{"product_code": "none", "customer": "1", "subscribed": true}',
    b'{"product_code": "p", "customer": 1, "subscribed": true}',
    b'{"product_code": "p", "customer": "2", "subscribed": "yes"}',
    b'{"__proto__": {}, "constructor": 1}',
]


@pytest.mark.parametrize("path", [path for path in ATTACKS if path != "reset"])
async def test_broken_orders_are_refused(place: Sandbox, path: str) -> None:
    """
    With a 400 that says why, and nothing is changed. Covers: X05
    """
    kind = {"Content-Type": "application/json"}
    for body in BROKEN:
        status = await status_of("POST", place.url, f"/_sandbox/{path}", body, kind)
        harmless = path == "clock" and b"speed" not in body and b"now" not in body
        assert status == 400 or (harmless and status == 200), (path, body[:60], status)
    assert {"p": {"1": True}} == {c: p.customers for c, p in place.book.products.items()}
    assert ([], 1, None) == (place.faults.rules, place.clock.speed, place.calls_per_second)
    assert Rules() == place.book.rules


@pytest.mark.parametrize("path", ["/", "/_sandbox/clock", "/_sandbox/products"])
async def test_what_is_too_much_is_not_read(place: Sandbox, path: str) -> None:
    """
    Large bodies, endless chunks, bombs; memory and book stay as they were. Covers: X05
    """
    headers = {
        "Content-Type": "application/json",
        "X-Amz-Target": "AWSMPMeteringService.BatchMeterUsage",
    }
    large = await status_of("POST", place.url, path, b" " * (17 * 2**20), headers)
    more = await status_of("POST", place.url, path, b" " * (2**20 + 1), headers)
    bomb = gzip.compress(b" " * (64 * 2**20))
    packed = await status_of("POST", place.url, path, bomb, headers | {"Content-Encoding": "gzip"})
    endless = await status_of("POST", place.url, path, None, headers)

    assert {413} == {large, more, packed, endless}
    assert 0 == len(place.book)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /_sandbox/page/../../book.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00" * 1000,
    ],
)
async def test_junk_is_answered_or_cut_off(place: Sandbox, junk: bytes) -> None:
    """
    And the next client is served as ever. Covers: X02, X05
    """
    answer = await exchange(place.url, junk)

    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert 200 == await status_of("GET", place.url, "/_sandbox/state", b"", {})


async def test_a_thousand_idle_and_slow_connections_lock_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Neither a client for each request, nor who says nothing, half a head or half a body: whoever
    comes is served within a second of looks for a place, at the first attempt. Covers: X06
    """
    limit = ConnectionLimit()
    monkeypatch.setattr(server, "ConnectionLimit", lambda: limit)
    async with Sandbox(calls_per_second=None) as sandbox, AsyncExitStack() as stack:
        place = sandbox.url.removeprefix("http://")
        host, port = place.split(":")
        head = f"GET /_sandbox/state HTTP/1.1\r\nHost: {place}\r\n".encode()
        half = head.replace(b"GET", b"POST").replace(b"state", b"clock")
        half += b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        cases = [b"", head, half, head + b"\r\n"]

        async def connect(number: int) -> None:
            said = cases[number % 4]
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(said)
            if said.endswith(b"\r\n\r\n"):
                assert b"200" in await reader.readline()

        for hundred in range(10):
            began = limit._looks
            await asyncio.gather(*(connect(number) for number in range(100)))
            assert 200 == await status_of("GET", sandbox.url, "/_sandbox/state", b"", {})
            assert (limit._looks - began) * _BETWEEN_LOOKS < 1, hundred

        assert sandbox._runner is not None
        assert sandbox._runner.server is not None
        assert len(sandbox._runner.server.connections) <= 512


async def test_a_thousand_clients_of_one_request_each_are_all_served() -> None:
    """
    All at once and keeping their connections, as a program does that makes a client a request.
    """
    async with Sandbox(calls_per_second=None) as sandbox, AsyncExitStack() as stack:
        place = sandbox.url.removeprefix("http://")
        host, port = place.split(":")

        async def once() -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(f"GET /_sandbox/state HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            return await reader.readline()

        answers: set[bytes] = set()
        for _ in range(2):
            answers.update(await asyncio.gather(*(once() for _ in range(600))))

    assert {b"HTTP/1.1 200 OK\r\n"} == answers


@pytest.fixture
async def own() -> AsyncIterator[web.Server]:
    async with Sandbox() as sandbox:
        assert sandbox._runner is not None
        assert sandbox._runner.server is not None
        yield sandbox._runner.server


class _Limited:
    """A limit of two connections."""

    def __init__(self, server: web.Server, *, patience: int = 3) -> None:
        self.limit = ConnectionLimit(most=2, most_waiting=1, patience=patience)
        self._server = server

    async def come(self) -> tuple[Any, "_Wire"]:
        """Return a new connection, and its wire."""
        protocol = self.limit.protocol(self._server)
        wire = _Wire()
        protocol.connection_made(wire)
        await asyncio.sleep(0)  # the loop's next turn, in which the server knows of it
        return protocol, wire

    async def settle(self) -> None:
        """Let as many looks pass as there is patience for."""
        for _ in range(10):
            await asyncio.sleep(0.02)


async def test_at_the_limit_the_longest_idle_connection_makes_room(
    own: web.Server,
) -> None:
    """
    At once, and before any that owes a request; not one whose response is under way. Covers: X06
    """
    limited = _Limited(own)
    (busy, its), (idle, idles) = await limited.come(), await limited.come()
    limited.limit.heard(busy)
    limited.limit.heard(idle)
    limited.limit.answered(idle)
    newcomer, wire = await limited.come()

    assert [False, True, False] == [its.closed, idles.closed, wire.closed]
    for protocol in (busy, idle, newcomer):
        protocol.connection_lost(None)


async def test_at_the_limit_who_owes_a_request_makes_room_after_a_while(
    own: web.Server,
) -> None:
    """
    Until then a new one waits, without a byte of it read; one more is closed. Covers: X06
    """
    limited = _Limited(own)
    (first, firsts), (second, seconds) = await limited.come(), await limited.come()
    limited.limit.heard(first)
    limited.limit.owes(first)  # the head has come, and not all of the body
    _, waits = await limited.come()
    _, turned_away = await limited.come()
    assert turned_away.closed
    assert waits.paused
    await limited.settle()

    assert [False, True, False] == [firsts.closed, seconds.closed, waits.closed]
    assert not waits.paused
    for protocol in (first, second, waits.protocol):
        protocol.connection_lost(None)


async def test_who_waits_for_a_place_may_go_away(own: web.Server) -> None:
    """
    The place is for the next one then.
    """
    limited = _Limited(own)
    (first, _), (second, _) = await limited.come(), await limited.come()
    _, wire = await limited.come()
    wire.close()
    await limited.settle()
    assert wire.protocol is None
    _, his = await limited.come()
    await limited.settle()

    assert not his.closed
    assert not his.paused
    for protocol in (first, second, his.protocol):
        protocol.connection_lost(None)


async def test_what_comes_from_who_waits_is_not_lost(own: web.Server) -> None:
    """
    Uvloop reads on after a pause that comes before it has begun to read.
    """
    limited = _Limited(own)
    (first, _), (second, _) = await limited.come(), await limited.come()
    waits, wire = await limited.come()
    wire.paused = False
    waits.data_received(b"POST / HTTP")
    assert wire.paused
    waits.data_received(b"/x\r\n\r\n")
    await limited.settle()

    assert wire.written.startswith(b"HTTP/1.0 400 ")
    for protocol in (first, second, wire.protocol):
        protocol.connection_lost(None)


async def test_connections_that_are_gone_are_forgotten(own: web.Server) -> None:
    """
    However many there were, with a client for each request.
    """
    limited = _Limited(own)
    for _ in range(50):
        protocol, _ = await limited.come()
        limited.limit.answered(protocol)
        protocol.connection_lost(None)
        await asyncio.sleep(0)

    assert len(limited.limit._idle) + len(limited.limit._owing) <= 6


async def test_an_idle_connection_is_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not after aiohttp's hour.
    """
    assert server._SECONDS_IDLE <= 100
    monkeypatch.setattr(server, "_SECONDS_IDLE", 0.1)
    async with Sandbox() as sandbox:
        host, port = sandbox.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /_sandbox/state HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        async with asyncio.timeout(5):
            assert b"200" in await reader.read()
        writer.close()


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on(place: Sandbox) -> None:
    """
    Before its body comes, so that no timer of its own runs out.
    """
    host, port = place.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /_sandbox/reset HTTP/1.1\r\nHost: {host}:{port}\r\nExpect: 100-continue\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode())
    async with asyncio.timeout(10):
        assert b"HTTP/1.1 100 Continue\r\n" == await reader.readline()
    writer.write(b"{}")
    assert b"\r\n" == await reader.readline()
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    writer.close()


async def test_a_malformed_request_is_a_line_in_the_log(
    place: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """
    And no traceback; a token of odd bytes is a wrong one.
    """
    caplog.set_level(logging.DEBUG)
    host = place.url.removeprefix("http://")
    head = f"GET /_sandbox/state HTTP/1.1\r\nHost: {host}\r\n"
    for junk in (b"x\r\n\r\n", f"{head}Content-Length: x\r\n\r\n".encode(), b"\x16\x03\x01"):
        await exchange(place.url, junk)
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert "Traceback" not in caplog.text
    assert all(not record.exc_info for record in caplog.records if record.levelname != "DEBUG")
    assert "a malformed request: " in caplog.text
    async with Sandbox(open_to=["other"]) as guarded:
        name, port = guarded.url[7:].split(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        head = head.replace(host, guarded.url[7:])
        writer.write(head.encode() + b"X-Sandbox-Token: \xff\r\n\r\n")
        assert b"403" in await reader.readline()
        writer.close()


@pytest.mark.parametrize("path", ["/", "/_sandbox/clock"])
async def test_a_body_that_comes_too_slowly_is_not_waited_for(
    place: Sandbox, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A 408, after half a minute.
    """
    monkeypatch.setattr(bodies, "_SECONDS_TO_SEND", 0.05)
    host = place.url.removeprefix("http://")
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write("\r\n".join([*lines, "Content-Length: 2", "", "{"]).encode())

    async with asyncio.timeout(10):
        assert b" 408 " in await reader.readline()
    writer.close()


@pytest.mark.parametrize("path", ["/", "/_sandbox/clock"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_encoded_as_it_says_is_refused(
    place: Sandbox, path: str, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    As a malformed request is: it was answered with a 500 and a traceback in the log.
    """
    headers = {"Content-Type": "application/json"}
    coded = headers | {"Content-Encoding": encoding}

    for body in (b'{"advance": 1}', b'{"advance": 1}' * 1000):
        assert 400 == await status_of("POST", place.url, path, body, coded)
    assert 200 == await status_of("POST", place.url, "/_sandbox/clock", b'{"advance": 1}', headers)
    assert "Traceback" not in caplog.text


class _Wire(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = self.paused = False
        self.protocol: Any = None
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def test_lines_to_paste_are_for_powershell_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`export` is no command there; a quote in a secret is doubled."""
    sandbox = Sandbox(access_keys={"AKID": AccessKey("it's $ecret")})
    on_unix = sandbox.instructions().splitlines()
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        on_windows = sandbox.instructions().splitlines()
    assert """export AWS_SECRET_ACCESS_KEY='it'"'"'s $ecret'""" in on_unix
    assert "$env:AWS_SECRET_ACCESS_KEY = 'it''s $ecret'" in on_windows
    assert "$env:AWS_REGION = 'us-east-1'" in on_windows
