"""What a ledger serves over HTTP: its metrics, and whether the server lives."""

import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from attrs import frozen
from support.commands import Shell, pipe, started
from support.ended import end
from support.ledgers import house_at

from marketplace_metering_async import LedgerError
from marketplace_metering_async.cli.commands import ledger_serve
from marketplace_metering_async.cli.commands.ledger_serve import latest_hours, routes_of
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output.ledger_page import Hours, page
from marketplace_metering_async.ledger import HourState


@frozen
class Running:
    """A server that listens at *url*."""

    url: str
    process: "subprocess.Popen[bytes]"

    def get(self, path: str) -> tuple[int, str, str]:
        """Return status, type and text of what is at a path."""
        try:
            with build_opener(ProxyHandler({})).open(self.url + path, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except HTTPError as refused:
            with refused:
                return refused.code, refused.headers["Content-Type"], refused.read().decode()


@contextmanager
def server(*arguments: object, **how: Any) -> Iterator[Running]:
    with started("ledger", *arguments, "--port", 0, **how) as process:
        said = pipe(process.stderr).readline().decode()
        found = re.search(r"http://[^/]+", said)
        assert found, said
        yield Running(found[0], process)


def test_metrics_are_served_until_it_is_ended(url: str, shell: Shell) -> None:
    """
    The text of `ledger status --prometheus`, and whether the server lives.
    """
    shell("ledger", "create", url)
    printed = shell("ledger", "status", url, "--prometheus").out

    with server("serve-metrics", url) as running:
        status, kind, text = running.get("/metrics")
        assert (200, "text/plain; version=0.0.4; charset=utf-8", printed) == (status, kind, text)
        assert (200, "ok\n") == running.get("/healthz")[::2]
        assert 404 == running.get("/")[0]
        running.process.send_signal(signal.SIGTERM)
        assert Exit.OK == running.process.wait(timeout=20)


def few_files() -> None:
    """As many as a process may have that nobody gives more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, 1_024))


@pytest.mark.parametrize("what", ["serve", "serve-metrics"])
def test_nobody_locks_others_out_or_fills_the_log(what: str, url: str, shell: Shell) -> None:
    """
    Neither who sends what is no HTTP, nor who opens connections and says nothing.
    """
    shell("ledger", "create", url)
    path = "/" if what == "serve" else "/healthz"
    with server(what, url, preexec_fn=few_files) as running, ExitStack() as left:
        host, _, port = running.url.removeprefix("http://").partition(":")
        for said in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=10) as refused:
                refused.sendall(said)
                assert refused.recv(100).startswith(b"HTTP/1.")
        for _ in range(1_200):
            left.enter_context(socket.create_connection((host, int(port)), timeout=10))
        assert 200 == running.get(path)[0]
        running.process.send_signal(signal.SIGTERM)
        _, err = running.process.communicate(timeout=20)

    assert b"Traceback" not in err
    assert len(err.splitlines()) < 20


async def test_a_ledger_that_is_away_is_a_503_of_a_server_that_lives() -> None:
    """
    Prometheus then has no value, in place of an old one; and nobody restarts what is well.
    """

    class Away:
        async def metrics(self) -> str:
            raise LedgerError("the database is away")

    routes = routes_of(Away())  # type: ignore[arg-type]
    request = make_mocked_request("GET", "/")
    with pytest.raises(web.HTTPServiceUnavailable) as refused:
        await routes["/metrics"](request)

    assert "the database is away\n" == refused.value.text
    assert 200 == (await routes["/healthz"](request)).status


def test_a_ledger_that_is_not_there_is_not_served(tmp_path: Path, shell: Shell) -> None:
    """
    Nor made: a mistyped URL is an error.
    """
    done = shell("ledger", "serve-metrics", f"sqlite:///{tmp_path}/none.db", "--port", "0")

    assert Exit.USAGE == done.code
    assert [] == list(tmp_path.iterdir())


async def test_the_page_shows_the_latest_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However many there were before, and whether there are others.
    """
    monkeypatch.setattr(ledger_serve, "_SHOWN", 2)
    async with house_at(f"sqlite:///{tmp_path}/u.db") as house:
        for quantity in (1, 2, 3):
            await house.use(quantity)
            house.clock.step(hours=1)
        some = await latest_hours(house.ledger, {"month": "2026-11", "license_arn": ""})
        all_ = await latest_hours(house.ledger, {"customer_aws_account_id": "000000000000"})

    assert ([3, 2], False) == ([entry.quantity for entry in some.entries], some.are_all)
    assert ([], True) == (all_.entries, all_.are_all)


@pytest.mark.parametrize(
    "what", ["license_arn", "customer_aws_account_id", "product_code", "month"]
)
async def test_what_is_in_no_id_is_found_nowhere(what: str, url: str) -> None:
    """
    And is no fault of the database, which refuses such a text.
    """
    async with house_at(url) as house:
        await house.use(1)
        hours = await latest_hours(house.ledger, {what: "2026-11\0"})

    assert () == hours.entries
    assert hours.problem
    assert "\0" not in hours.problem


def test_a_host_that_nobody_knows_is_named(url: str, shell: Shell) -> None:
    """
    With the option that it was given by.
    """
    shell("ledger", "create", url)
    done = shell("ledger", "serve-metrics", url, "--host", "nowhere.invalid", "--port", "0")

    assert Exit.USAGE == done.code
    assert (
        "--host: expected a name or an address of this machine, got 'nowhere.invalid'" in done.err
    )


async def test_usage_that_no_hour_carries_is_in_no_record(tmp_path: Path) -> None:
    """
    So the page does not count 0 of them.
    """
    async with house_at(f"sqlite:///{tmp_path}/u.db") as house:
        await end(house, HourState.MONTH_OVER)
        status = await house.ledger.status()
        shown = page(status, Hours(asked={}), house.clock.now())

    assert status.ended.keys() == {HourState.MONTH_OVER}
    (heading,) = re.findall(r"month_over</span>(.*?)</h3>", shown)
    assert re.fullmatch(r" [\d,]+ units", heading)
