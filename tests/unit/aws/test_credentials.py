"""As whom requests are signed: every kind of provider, expiry, refusal and rotation."""

import asyncio
import json
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import (
    LoginInsufficientPermissions,
    LoginRefreshRequired,
    LoginTokenLoadError,
    MissingDependencyException,
    RefreshWithMFAUnsupportedError,
    SSOTokenLoadError,
    UnauthorizedSSOTokenError,
)
from support.aws import Machine, bare_machine
from support.loopback import Connection, Loopback

from marketplace_metering_async.aws.credentials import FoundCredentials, SingleFlight
from marketplace_metering_async.aws.signing import Signer
from marketplace_metering_async.aws.transport import Request
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    NoCredentialsError,
    NoRegionError,
    UnexpectedError,
)

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
CALLERS = 100


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with a region and no credentials."""
    machine = bare_machine(tmp_path, monkeypatch)
    machine.set(AWS_REGION="us-east-1")
    return machine


async def signed(signer: Signer) -> Request:
    """Return a signed request."""
    return await signer.sign("BatchMeterUsage", b"{}", lambda: NOW)


def who(request: Request) -> tuple[str, str | None]:
    """Return access key id and token of a request."""
    key = request.headers["Authorization"].split("Credential=")[1].split("/")[0]
    return key, request.headers.get("X-Amz-Security-Token")


async def identity(signer: Signer) -> tuple[str, str | None]:
    """Open *signer* and return as whom it signs."""
    await signer.open()
    return who(await signed(signer))


# Where they come from.


async def test_keys_passed_in(machine: Machine) -> None:
    """Keys that are passed in win over all others."""
    machine.set(AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="other")
    signer = Signer(
        aws_access_key_id="AKID", aws_secret_access_key="secret", aws_session_token="token"
    )
    assert await identity(signer) == ("AKID", "token")
    assert signer.source == "arguments"


async def test_keys_passed_in_beside_a_profile(machine: Machine) -> None:
    """Keys may be passed in, and the region come of a profile."""
    machine.monkeypatch.delenv("AWS_REGION")
    machine.write("config", "[profile p]\nregion = eu-west-1\naws_access_key_id = x\n")
    signer = Signer(aws_access_key_id="AKID", aws_secret_access_key="secret", profile_name="p")
    assert await identity(signer) == ("AKID", None)
    assert (await signer.open()).region_name == "eu-west-1"


@pytest.mark.parametrize(
    "halves",
    [
        {"aws_access_key_id": "canary"},
        {"aws_secret_access_key": "canary"},
        {"aws_session_token": "canary"},
        {"aws_access_key_id": "canary", "aws_session_token": "canary"},
    ],
)
async def test_half_of_the_keys(machine: Machine, halves: dict[str, str]) -> None:
    """Keys go together: a half is not filled up from elsewhere."""
    machine.set(AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="other")
    with pytest.raises(ConfigurationError, match="expected both or neither") as caught:
        await Signer(**halves).open()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("files", [False, True])
async def test_the_environment(machine: Machine, files: bool) -> None:  # noqa: FBT001
    """Variables come before any profile, whether there are files of profiles or not."""
    if files:
        machine.write("credentials", "[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    machine.set(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="t")
    signer = Signer()
    assert await identity(signer) == ("AKID", "t")
    assert signer.source == "env"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("AWS_ACCESS_KEY_ID", "AKID", "AWS_SECRET_ACCESS_KEY"),  # a half
        ("AWS_PROFILE", "nobody", "nobody"),  # which is not there
    ],
)
async def test_an_environment_that_leads_nowhere(
    machine: Machine, variable: str, value: str, named: str
) -> None:
    """What is missing is named."""
    machine.set(**{variable: value})
    with pytest.raises(ConfigurationError, match=named):
        await Signer().open()


@pytest.mark.parametrize("name", ["credentials", "config"])
async def test_a_profile(machine: Machine, name: str) -> None:
    """A profile that is asked for wins over variables, in either of the files."""
    machine.set(AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="other")
    section = "p" if name == "credentials" else "profile p"
    machine.write(
        name,
        f"[{section}]\naws_access_key_id = AKID\naws_secret_access_key = s\naws_session_token = t",
    )
    assert await identity(Signer(profile_name="p")) == ("AKID", "t")


def process(machine: Machine, script: str) -> Path:
    """Let a program give the credentials; return its file."""
    path = machine.write("program.py", script)
    command = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(path))}"
    machine.write("config", f"[default]\ncredential_process = {command}\n")
    return path


def printing(key: str, minutes: float | None = None) -> str:
    """Return a program that prints credentials, good for *minutes*."""
    found = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": f"of-{key}"}
    if minutes is not None:
        found["Expiration"] = in_minutes(minutes)
    return f"print({json.dumps(found)!r})"


def in_minutes(minutes: float) -> str:
    """Return a time that comes in *minutes*, as providers write it."""
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_process(machine: Machine) -> None:
    """A program of the profile may give them."""
    process(machine, printing("AKID", minutes=60))
    signer = Signer()
    assert await identity(signer) == ("AKID", "of-AKID")
    assert signer.source == "custom-process"


async def test_a_process_that_fails(machine: Machine) -> None:
    """
    What a failing program prints is not shown, nor kept as a cause.

    Covers: A08.
    """
    process(machine, "import sys; sys.exit('canary')")
    with pytest.raises(ConfigurationError) as caught:
        await Signer().open()
    assert str(caught.value) == "credentials of chain: CredentialRetrievalError"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnauthorizedSSOTokenError(), "aws sso login"),
        (SSOTokenLoadError(error_msg="Token for mine has expired"), "mine has expired"),
        (LoginRefreshRequired(), "reauthenticate using 'aws login'"),
        (LoginInsufficientPermissions(), "signin:CreateOAuth2Token"),
        (LoginTokenLoadError(error_msg="Unable to load a session"), "load a session"),
        (MissingDependencyException(msg='pip install "botocore[crt]"'), "botocore[crt]"),
        (RefreshWithMFAUnsupportedError(), "MFA"),
    ],
)
async def test_what_to_do_is_said_where_a_text_holds_settings_alone(
    error: Exception, says: str
) -> None:
    """Of `aws login` and of MFA nothing was said but the name of botocore's class."""

    async def again() -> Any:
        raise error

    with pytest.raises(ConfigurationError) as caught:
        await FoundCredentials(None, again).renew()
    assert says in str(caught.value)


class Roles:
    """The service that lends roles: it gives another set at each request."""

    def __init__(self) -> None:
        self.asked = 0

    async def script(self, connection: Connection) -> None:
        """Lend the role."""
        while True:
            await connection.request()
            self.asked += 1
            answer = f"""<AssumeRoleResponse><AssumeRoleResult><Credentials>
                <AccessKeyId>ROLE{self.asked}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
                <SessionToken>t</SessionToken><Expiration>{in_minutes(60)}</Expiration>
                </Credentials></AssumeRoleResult></AssumeRoleResponse>"""
            await connection.answer(answer.encode(), headers={"Content-Type": "text/xml"})


async def test_a_role_of_a_profile(machine: Machine) -> None:
    """A role is assumed with the keys of another profile, and anew once it is refused."""
    machine.write(
        "config",
        "[profile p]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = BASE\naws_secret_access_key = s\n",
    )
    roles = Roles()
    async with Loopback(roles.script) as server:
        machine.set(AWS_ENDPOINT_URL_STS=server.url)
        signer = Signer(profile_name="p")
        assert await identity(signer) == ("ROLE1", "t")
        assert signer.source == "assume-role"
        assert await signer.renew(await signed(signer)) is True
        assert who(await signed(signer)) == ("ROLE2", "t")
    assert roles.asked == 2


class Container:
    """The endpoint of a container's role: it gives another set at each request."""

    def __init__(self, *minutes: float) -> None:
        self.minutes = minutes
        self.asked = 0
        self.tokens: list[str | None] = []

    async def script(self, connection: Connection) -> None:
        """Answer with the next set."""
        while True:
            received = await connection.request()
            self.tokens.append(received.header("authorization"))
            minutes = self.minutes[min(self.asked, len(self.minutes) - 1)]
            self.asked += 1
            found = {
                "AccessKeyId": f"AKID{self.asked}",
                "SecretAccessKey": "s",
                "Token": f"of-AKID{self.asked}",
                "Expiration": in_minutes(minutes),
            }
            await connection.answer(json.dumps(found).encode())


async def test_a_container(machine: Machine) -> None:
    """The role of a container gives them, against the container's own token."""
    container = Container(60)
    async with Loopback(container.script) as server:
        machine.set(
            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{server.url}/role",
            AWS_CONTAINER_AUTHORIZATION_TOKEN="Basic abc",
        )
        signer = Signer()
        assert await identity(signer) == ("AKID1", "of-AKID1")
    assert (signer.source, container.tokens) == ("container-role", ["Basic abc"])


async def instance(connection: Connection) -> None:
    """Play an instance's metadata service, version 2."""
    while True:
        received = await connection.request()
        if received.start.startswith("PUT /latest/api/token"):
            await connection.answer(b"session")
        elif received.start.startswith("GET /latest/meta-data/iam/security-credentials/role"):
            assert received.header("x-aws-ec2-metadata-token") == "session"
            found = {
                "Code": "Success",
                "AccessKeyId": "AKID",
                "SecretAccessKey": "s",
                "Token": "t",
                "Expiration": in_minutes(60),
            }
            await connection.answer(json.dumps(found).encode())
        else:
            await connection.answer(b"role")


async def test_an_instance(machine: Machine) -> None:
    """The role of an instance gives them."""
    machine.monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with Loopback(instance) as server:
        machine.set(AWS_EC2_METADATA_SERVICE_ENDPOINT=server.url)
        signer = Signer()
        assert await identity(signer) == ("AKID", "t")
    assert signer.source == "iam-role"


async def test_an_instance_without_a_service(machine: Machine) -> None:
    """
    A metadata service that never answers ends in an error soon, and in one attempt for all.

    Covers: A06.
    """
    machine.monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")

    async def script(connection: Connection) -> None:
        await connection.closed()

    async with Loopback(script) as server:
        machine.set(AWS_EC2_METADATA_SERVICE_ENDPOINT=server.url)
        signer = Signer()
        opens = [asyncio.create_task(signer.open()) for _ in range(CALLERS)]
        async with asyncio.timeout(10):
            done = await asyncio.gather(*opens, return_exceptions=True)
        assert {type(error) for error in done} == {NoCredentialsError}
        assert len(set(map(id, done))) == CALLERS
        assert server.accepted <= 2


async def test_nowhere(machine: Machine) -> None:
    """Where there are none, the error says where they may come from; later there may be some."""
    signer = Signer()
    with pytest.raises(NoCredentialsError, match="environment, a profile or a role"):
        await signer.open()
    machine.set(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s")
    assert await identity(signer) == ("AKID", None)


async def test_region_is_missed_before_credentials(machine: Machine) -> None:
    """A missing region is told of without looking for credentials."""
    machine.monkeypatch.delenv("AWS_REGION")
    with pytest.raises(NoRegionError):
        await Signer().open()


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
async def test_keys_with_a_line_break(machine: Machine, name: str) -> None:
    """
    A key that was read with its line break is named, and not shown.

    Covers: A08.
    """
    machine.set(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="t")
    machine.set(**{name: "canary\n"})
    with pytest.raises(ConfigurationError, match=r"^credentials: expected visible ASCII") as caught:
        await Signer().open()
    assert "canary" not in str(caught.value)


# A session of the caller's.


async def test_a_session_of_the_callers(machine: Machine) -> None:
    """Region and credentials of a session that is handed in are used."""
    machine.set(AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="other")
    session = AioSession()
    session.set_credentials("AKID", "s", "t")
    session.set_config_variable("region", "eu-west-1")
    signer = Signer(session=session)
    assert await identity(signer) == ("AKID", "t")
    assert (await signer.open()).region_name == "eu-west-1"


async def test_keys_that_a_sessions_owner_set(machine: Machine) -> None:
    """Keys that were set by hand are not replaced by those of another provider."""
    machine.set(AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="other")
    session = AioSession()
    session.set_credentials("AKID", "s")
    signer = Signer(session=session)
    await signer.open()
    assert await signer.renew(await signed(signer)) is False
    assert who(await signed(signer)) == ("AKID", None)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("kind", "profile", "says"),
    [
        (boto3.Session, None, r"got boto3\.session\.Session$"),
        (AioSession, "p", "profile_name"),
    ],
    ids=["of another library", "and a profile"],
)
async def test_a_session_that_is_refused(kind: Any, profile: str | None, says: str) -> None:
    """A session is aiobotocore's, and has its profile: another one beside it contradicts it."""
    with pytest.raises(ConfigurationError, match=says):
        await Signer(session=kind(), profile_name=profile).open()


class Rotating:
    """Credentials of a caller's own kind, which differ at every reading."""

    method = "own"

    def __init__(self) -> None:
        self.readings = 0

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        self.readings += 1
        return ReadOnlyCredentials(f"AKID{self.readings}", "s", f"of-AKID{self.readings}")


@pytest.mark.usefixtures("machine")
async def test_a_key_and_its_token() -> None:
    """
    Credentials that change between readings are taken as one: no key meets another's token.

    Covers: A03.
    """
    session = AioSession()
    session._credentials = Rotating()
    signer = Signer(session=session)
    await signer.open()
    requests = await asyncio.gather(*(signed(signer) for _ in range(CALLERS)))
    assert len({who(request) for request in requests}) == CALLERS
    assert all(token == f"of-{key}" for key, token in map(who, requests))


# Before they expire.


async def test_one_refresh_for_all(machine: Machine) -> None:
    """
    A hundred requests that come near the end of some credentials cost one call for new ones, and
    go on with the old ones meanwhile.

    Covers: A01, A02.
    """
    container = Container(5, 60)
    async with Loopback(container.script) as server:
        machine.set(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url)
        session = AioSession()
        found = await session.get_credentials()  # five minutes: within the time to refresh
        credentials = FoundCredentials(found, never)
        keys = await asyncio.gather(*(credentials.keys() for _ in range(CALLERS)))
        assert {key.access_key_id for key in keys} == {"AKID1"}
        assert {key.access_key_id for key in await fresh(credentials)} == {"AKID2"}
    assert container.asked == 2


async def test_one_refresh_for_all_who_need_it(machine: Machine) -> None:
    """
    A hundred requests that meet the end of some credentials wait for the same call.

    Covers: A01, A02.
    """
    container = Container(60, 60)
    async with Loopback(container.script) as server:
        machine.set(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url)
        found = await AioSession().get_credentials()
        credentials = FoundCredentials(found, never)
        await credentials.keys()
        found._expiry_time = datetime.now(UTC) - timedelta(seconds=1)
        keys = await asyncio.gather(*(credentials.keys() for _ in range(CALLERS)))
    assert {key.access_key_id for key in keys} == {"AKID2"}
    assert container.asked == 2


async def fresh(credentials: FoundCredentials) -> list[Any]:
    """Wait for what is refreshed ahead of time, and return the keys of a hundred callers."""
    running = credentials._refreshing._running
    if running is not None:
        await asyncio.wait((running,))
    return await asyncio.gather(*(credentials.keys() for _ in range(CALLERS)))


async def never() -> None:
    """Be no way to ask again."""
    raise AssertionError


class Failing:
    """A provider whose credentials are good for *minutes*, and which fails until it is mended."""

    def __init__(self, minutes: float) -> None:
        self.asked = 0
        self.fails = True
        self.now = 1000.0
        found = self.found("AKID", minutes)
        self.credentials = FoundCredentials(found, self.again, lambda: self.now)

    def found(self, key: str, minutes: float) -> AioRefreshableCredentials:
        """Return credentials that come to this for a refresh."""
        end = datetime.now(UTC) + timedelta(minutes=minutes)
        return AioRefreshableCredentials(
            key, "s", "t", end, refresh_using=self.refresh, method="failing"
        )

    async def ask(self) -> None:
        """Count, and fail."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("canary")

    async def refresh(self) -> dict[str, str]:
        """Fail, or give a fresh set."""
        await self.ask()
        fresh = {"access_key": "FRESH", "secret_key": "s", "token": "t"}
        return {**fresh, "expiry_time": in_minutes(60)}

    async def again(self) -> AioRefreshableCredentials:
        """Fail, or find fresh credentials."""
        await self.ask()
        return self.found("FRESH", minutes=60)

    async def all(self) -> list[Any]:
        """Ask for the keys a hundred times at once."""
        asked = (self.credentials.keys() for _ in range(CALLERS))
        return await asyncio.gather(*asked, return_exceptions=True)


async def primed(minutes: float) -> Failing:
    """Return credentials that were in use while they were good, and now have *minutes* left."""
    failing = Failing(60)
    await failing.credentials.keys()
    failing.credentials._found._expiry_time = datetime.now(UTC) + timedelta(minutes=minutes)
    return failing


@pytest.mark.parametrize("minutes", [14, 5])
async def test_a_refresh_that_fails_in_time(minutes: float) -> None:
    """
    While the keys at hand are good, a failing provider is asked only now and then.

    Covers: A04.
    """
    failing = await primed(minutes)
    for _ in range(3):
        assert {key.access_key_id for key in await failing.all()} == {"AKID"}
    assert {key.access_key_id for key in await fresh(failing.credentials)} == {"AKID"}
    assert failing.asked == 1
    failing.fails = False
    failing.now += 10
    assert {key.access_key_id for key in await failing.all()} == {"AKID"}
    assert {key.access_key_id for key in await fresh(failing.credentials)} == {"FRESH"}


async def test_a_refresh_that_fails_too_late() -> None:
    """
    Once the keys at hand are bad, everybody hears of it, and the provider is left in peace.

    Covers: A04.
    """
    failing = await primed(-1)
    for _ in range(3):
        errors = await failing.all()
        assert {str(error) for error in errors} == {"credentials of failing: OSError"}
        assert {(error.__cause__, error.__context__) for error in errors} == {(None, None)}
    assert failing.asked == 1
    failing.fails = False
    failing.now += 10
    assert {key.access_key_id for key in await failing.all()} == {"FRESH"}


async def test_a_refresh_that_brings_what_is_over(machine: Machine) -> None:
    """
    A provider that gives expired keys is an error, and no reason to ask it in a loop.

    Covers: A05.
    """
    process(machine, printing("AKID", minutes=-5))
    signer = Signer()
    with pytest.raises(ConfigurationError, match=r"^credentials of (chain|custom-process): "):
        await signer.open()


# After the service has refused them.


async def test_the_environment_is_read_again(machine: Machine) -> None:
    """A program that rotates its own variables is heard once the old keys are refused."""
    machine.set(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="t")
    signer = Signer()
    await signer.open()
    refused = await signed(signer)
    assert await signer.renew(refused) is False
    machine.set(AWS_SESSION_TOKEN="fresh")
    assert await signer.renew(refused) is True
    assert who(await signed(signer)) == ("AKID", "fresh")


async def test_keys_passed_in_are_not_renewed(machine: Machine) -> None:
    """Where keys were passed in, nobody else knows better ones."""
    machine.set(AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="other")
    signer = Signer(aws_access_key_id="AKID", aws_secret_access_key="s")
    await signer.open()
    assert await signer.renew(await signed(signer)) is False


async def test_a_file_is_read_again(machine: Machine) -> None:
    """A file of credentials that was rewritten is heard once the old keys are refused."""
    old = "[default]\naws_access_key_id = OLD\naws_secret_access_key = s\n"
    machine.write("credentials", old)
    signer = Signer()
    await signer.open()
    machine.write("credentials", old.replace("OLD", "NEW"))
    assert who(await signed(signer)) == ("OLD", None)
    assert await signer.renew(await signed(signer)) is True
    assert who(await signed(signer)) == ("NEW", None)


async def test_one_renewal_for_all(machine: Machine) -> None:
    """
    A hundred requests that are refused cost one call to the provider, and late ones none.

    Covers: A02.
    """
    container = Container(60)
    async with Loopback(container.script) as server:
        machine.set(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url)
        signer = Signer()
        await signer.open()
        refused = [await signed(signer) for _ in range(CALLERS)]
        assert set(await asyncio.gather(*map(signer.renew, refused))) == {True}
        assert container.asked == 2
        assert await signer.renew(refused[0]) is True
        assert container.asked == 2
        assert who(await signed(signer)) == ("AKID2", "of-AKID2")


async def test_the_same_ones_again(machine: Machine) -> None:
    """
    A provider that brings the same keys is not asked for each of the refusals that follow.

    Covers: A05.
    """
    runs = machine.home / "runs"
    process(machine, f"open({str(runs)!r}, 'a').write('.')\n{printing('AKID', minutes=60)}")
    signer = Signer()
    await signer.open()
    for _ in range(5):
        refused = await signed(signer)
        assert set(await asyncio.gather(signer.renew(refused), signer.renew(refused))) == {False}
    assert runs.read_text() == ".."


async def test_another_provider_is_not_asked(machine: Machine) -> None:
    """New keys come from where the old ones did, since others may be of another account."""
    path = machine.write("credentials", "[default]\naws_access_key_id=A\naws_secret_access_key=s\n")
    machine.write("config", "[default]\naws_access_key_id = OTHER\naws_secret_access_key = s\n")
    signer = Signer()
    await signer.open()
    path.unlink()
    assert await signer.renew(await signed(signer)) is False
    assert who(await signed(signer)) == ("A", None)


async def test_a_provider_that_fails_to_renew() -> None:
    """A provider that fails when asked again leaves the keys as they are, and is let rest."""
    failing = Failing(60)
    await failing.credentials.keys()
    for _ in range(3):
        with pytest.raises(ConfigurationError, match=r"^credentials of failing: OSError$"):
            await failing.credentials.renew()
    assert (await failing.credentials.keys()).access_key_id == "AKID"
    assert failing.asked == 1
    failing.fails = False
    failing.now += 10
    assert await failing.credentials.renew() is True
    assert (await failing.credentials.keys()).access_key_id == "FRESH"


async def test_before_it_is_open() -> None:
    """A signer that is not open neither signs nor renews."""
    with pytest.raises(ConfigurationError, match="not open"):
        await signed(Signer())
    assert await Signer().renew(Request("", {}, b"")) is False
    assert Signer().source is None


# One flight.


async def test_all_get_the_outcome_of_one_run() -> None:
    """Those who ask while it runs share the result; who asks later starts a new run."""
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    flight = SingleFlight[int]()
    assert set(await asyncio.gather(*(flight.run(work) for _ in range(CALLERS)))) == {1}
    assert await flight.run(work) == 2


async def test_closing_ends_the_waiting_and_nothing_begins_any_more() -> None:
    """Whoever waits is told that the client is closed; work that ends itself is a bug."""
    flight, never = SingleFlight[bool](), asyncio.Event()
    waiting = asyncio.create_task(flight.run(never.wait))
    await asyncio.sleep(0)
    await flight.aclose()
    for asked in (waiting, flight.run(never.wait)):
        with pytest.raises(ClientClosedError):
            await asked

    async def ends() -> None:
        raise asyncio.CancelledError

    with pytest.raises(UnexpectedError, match="CancelledError"):
        await SingleFlight[None]().run(ends)


async def test_all_get_their_own_copy_of_an_error() -> None:
    """An error is raised anew for each of those who wait."""

    async def work() -> None:
        await asyncio.sleep(0)
        raise NoCredentialsError

    flight = SingleFlight[None]()
    errors = await asyncio.gather(*(flight.run(work) for _ in range(3)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error, NoCredentialsError) for error in errors)


@pytest.mark.parametrize("leader", [True, False])
async def test_a_cancelled_run_is_taken_over(leader: bool) -> None:  # noqa: FBT001
    """
    Whoever is cancelled, the others get a result, and nothing runs twice at a time.

    Covers: C02.
    """
    running = 0
    gate = asyncio.Event()

    async def work() -> str:
        nonlocal running
        running += 1
        try:
            assert running == 1
            await gate.wait()
            return "done"
        finally:
            running -= 1

    flight = SingleFlight[str]()
    tasks = [asyncio.create_task(flight.run(work)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0 if leader else 2].cancel()
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(map(str, results)) == ["", "done", "done", "done"]


async def test_a_refresh_that_ends_late_takes_no_newer_providers_place() -> None:
    """What was found anew meanwhile stays what is asked."""
    may_end = asyncio.Event()

    class Old:
        def refresh_needed(self, within: int | None = None) -> bool:
            return True

        async def get_frozen_credentials(self) -> ReadOnlyCredentials:
            await may_end.wait()
            return ReadOnlyCredentials("OLD", "s", None)

    class New:
        async def get_frozen_credentials(self) -> ReadOnlyCredentials:
            return ReadOnlyCredentials("NEW", "s", None)

    async def again() -> New:
        return New()

    found = FoundCredentials(Old(), again)
    refreshing = asyncio.create_task(found.keys())
    await asyncio.sleep(0)
    assert await found.renew()
    may_end.set()
    await asyncio.gather(refreshing, return_exceptions=True)

    assert (await found.keys()).access_key_id == "NEW"
