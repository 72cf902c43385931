"""The signer as a whole: how it opens, and what it signs."""

import asyncio
import threading
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from support.aws import Machine, bare_machine
from support.loopback import Loopback, Received

from marketplace_metering_async.aws import endpoints
from marketplace_metering_async.aws.signing import Signer
from marketplace_metering_async.aws.transport import AiohttpTransport
from marketplace_metering_async.errors import ConfigurationError, NoRegionError

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
KEYS = {
    "aws_access_key_id": "AKID",
    "aws_secret_access_key": "canary-secret",
    "aws_session_token": "canary-token",
}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with a region and nothing else."""
    machine = bare_machine(tmp_path, monkeypatch)
    machine.set(AWS_REGION="us-east-1")
    return machine


def expected(received: Received, url: str, now: datetime) -> str:
    """Return the `Authorization` that botocore gives to what came over the wire."""
    left_out = {"authorization", "user-agent", "accept-encoding", "content-length"}
    headers = {name: value for name, value in received.headers if name not in left_out}
    request = AWSRequest("POST", url, headers, received.body)
    keys = Credentials("AKID", "canary-secret", received.header("x-amz-security-token"))
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=now):
        botocore.auth.SigV4Auth(keys, "aws-marketplace", "us-east-1").add_auth(request)
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("path", ["", "/", "/stage/a%2Fb"])
async def test_what_arrives_is_what_was_signed(
    token: bool,  # noqa: FBT001
    path: str,
) -> None:
    """
    Over the wire, `Host`, date, path and body are those that the signature is of.

    Covers: A16.
    """
    keys = KEYS if token else {**KEYS, "aws_session_token": None}
    async with Loopback() as server:
        url = f"{server.url}{path}"
        signer = Signer(endpoint_url=url, **keys)
        transport = AiohttpTransport((await signer.open()).transport, 1)
        for seconds in range(3):
            clock = partial(NOW.__add__, timedelta(seconds=seconds))
            body = f'{{"n":{seconds}}}'.encode()
            await transport.send(await signer.sign("MeterUsage", body, clock), timeout=5)
        await transport.aclose()
    for seconds, received in enumerate(server.requests):
        now = NOW + timedelta(seconds=seconds)
        assert expected(received, url, now) == received.header("authorization")
        assert received.header("x-amz-target") == "AWSMPMeteringService.MeterUsage"
        assert received.header("host") == f"127.0.0.1:{server.port}"


async def test_a_request_says_who_we_are() -> None:
    """The user agent is the package with its version, and compression is declined."""
    signer = Signer(**KEYS)
    await signer.open()
    headers = (await signer.sign("MeterUsage", b"{}", lambda: NOW)).headers
    project = Path(__file__).parents[3] / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"]
    assert headers["User-Agent"] == f"marketplace-metering-async/{version}"
    assert headers["Accept-Encoding"] == "identity"


async def test_a_request_goes_to_the_endpoint() -> None:
    """The URL is the endpoint's, and the signing region the one that was found."""
    signer = Signer(region_name="eu-central-2", **KEYS)
    endpoint = await signer.open()
    request = await signer.sign("MeterUsage", b"{}", lambda: NOW)
    assert request.url == endpoint.url == "https://metering.marketplace.eu-central-2.amazonaws.com"
    assert "/eu-central-2/aws-marketplace/aws4_request" in request.headers["Authorization"]


def test_making_one_does_nothing() -> None:
    """A signer is made without a loop, and nothing is looked up before it is opened."""
    with mock.patch.object(endpoints, "from_environment", side_effect=AssertionError):
        Signer(profile_name="nobody", **KEYS)


async def test_secrets_are_not_shown() -> None:
    """
    Neither a signer nor what it returns shows a key or a token.

    Covers: A08.
    """
    signer = Signer(**KEYS)
    shown = [signer, await signer.open(), await signer.sign("MeterUsage", b"{}", lambda: NOW)]
    shown += [
        signer._sigv4,
        signer._credentials,
        signer._credentials and signer._credentials.latest,
    ]
    assert "canary" not in repr(shown)


class Counting:
    """Stands in for the look-up of an endpoint, and says where and how often it ran."""

    def __init__(self, instead: Callable[..., Any]) -> None:
        self.instead = instead
        self.threads: list[threading.Thread] = []

    def __call__(self, *arguments: Any, **names: Any) -> Any:
        self.threads.append(threading.current_thread())
        return self.instead(*arguments, **names)


@pytest.mark.parametrize("door", ["from_environment", "from_session"])
async def test_it_opens_once_and_off_the_loop(machine: Machine, door: str) -> None:
    """A hundred callers cost one look-up, in a thread; later calls return the same endpoint."""
    if door == "from_session":
        machine.write("config", "[default]\n")
    counting = Counting(getattr(endpoints, door))
    machine.monkeypatch.setattr(endpoints, door, counting)
    signer = Signer(**KEYS)
    opened = await asyncio.gather(*(signer.open() for _ in range(100)))
    assert len({id(endpoint) for endpoint in opened}) == 1
    assert await signer.open() is opened[0]
    assert len(counting.threads) == 1
    assert counting.threads[0] is not threading.main_thread()


async def test_it_opens_after_a_failure(machine: Machine) -> None:
    """What failed to open can be opened once the cause is mended."""
    machine.monkeypatch.delenv("AWS_REGION")
    signer = Signer(**KEYS)
    for _ in range(2):
        with pytest.raises(NoRegionError):
            await signer.open()
    with pytest.raises(ConfigurationError, match="not open"):
        await signer.sign("MeterUsage", b"{}", lambda: NOW)
    machine.set(AWS_REGION="eu-west-1")
    assert (await signer.open()).region_name == "eu-west-1"


async def test_it_opens_after_a_cancellation() -> None:
    """
    A signer whose opening was cancelled opens at the next call.

    Covers: C02.
    """
    signer = Signer(**KEYS)
    opening = asyncio.create_task(signer.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (await signer.open()).region_name == "us-east-1"
