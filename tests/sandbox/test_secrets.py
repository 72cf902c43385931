"""What a sandbox that lets others in keeps to itself: keys and token, without the token."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from marketplace_metering_async.sandbox import AccessKey, Sandbox
from marketplace_metering_async.sandbox.http.app import application
from marketplace_metering_async.sandbox.http.connection_limit import ConnectionLimit

SECRETS = ("hush/secret-key", "hush/session-token", "hush/token-of-the-sandbox")


@pytest.fixture
async def opened() -> AsyncIterator[Sandbox]:
    """A sandbox that lets others in, with a declared access key, and something to tell."""
    secret_key, session_token, token = SECRETS
    sandbox = Sandbox(
        open_to=["sandbox"],
        token=token,
        access_keys={"AKIDOPEN": AccessKey(secret_key, session_token)},
    )
    async with sandbox:
        sandbox.declare_product("p", registration_url="http://seller.example/")
        sandbox.subscribe("p", "1")
        yield sandbox


async def said_to(web: aiohttp.ClientSession, sandbox: Sandbox, *how: Any, **more: Any) -> str:
    """Return all that the answer to a request says."""
    method, path = how
    async with web.request(method, f"{sandbox.url}{path}", **more) as answer:
        return f"{answer.status} {answer.reason} {answer.headers} {await answer.text()}"


@pytest.mark.parametrize("accept", [None, "text/html", "text/plain", "*/*", "application/json"])
async def test_no_secret_is_said_without_the_token(
    opened: Sandbox, accept: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Sandbox S1. By no path, to nobody, in no error, and in no log.
    """
    caplog.set_level(0)
    headers = {"Accept": accept} if accept else {}
    tried = [{}, {"X-Sandbox-Token": "guessed"}, {"Host": "sandbox"}]
    said = []
    async with aiohttp.ClientSession(skip_auto_headers=["Accept"]) as web:
        app = application(opened, opened.guard, opened, ConnectionLimit())
        for route in app.router.routes():
            method, path = route.method, route.resource.canonical if route.resource else ""
            for more in tried:
                order = {"json": {"wrong": 1}} if method == "POST" else {}
                said.append(
                    await said_to(web, opened, method, path, headers=headers | more, **order)
                )
        for path in ("/nothing", "/_sandbox/nothing", "/?x=1", "//", "/_sandbox/page/view.js"):
            said += [await said_to(web, opened, m, path, headers=headers) for m in ("GET", "PUT")]

    assert [] == [line for line in said if line.startswith("500")]
    for secret in SECRETS:
        assert not any(secret in line for line in said)
        assert secret not in caplog.text


async def test_the_token_brings_the_lines_to_paste(opened: Sandbox) -> None:
    """
    To a shell; without it the answer says what to send.
    """
    secret_key, _, token = SECRETS
    async with aiohttp.ClientSession() as web:
        without = await said_to(web, opened, "GET", "/")
        lines = await said_to(web, opened, "GET", "/", headers={"X-Sandbox-Token": token})

    assert without.startswith("403 ")
    assert "X-Sandbox-Token" in without
    assert lines.startswith("200 ")
    assert secret_key in lines
