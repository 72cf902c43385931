"""Where requests go: botocore's own client is asked what it would do."""

import ssl
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

import botocore.httpsession
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from support.aws import LOADER, Machine, bare_machine

from marketplace_metering_async import limits
from marketplace_metering_async.aws import endpoints
from marketplace_metering_async.aws.endpoints import FoundEndpoint
from marketplace_metering_async.aws.signing import Signer
from marketplace_metering_async.errors import ConfigurationError, NoRegionError

OWN: Final = "https://metering.marketplace.us-east-1.amazonaws.com"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine on which nothing is configured."""
    return bare_machine(tmp_path, monkeypatch)


def new_session(profile: str | None = None) -> Any:
    """Return a session of botocore."""
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", LOADER)
    return session


def found(
    session: Any = None, *, region: str | None = "us-east-1", url: str | None = None
) -> FoundEndpoint:
    """Return the endpoint found by asking botocore's configuration."""
    session = session or new_session()
    return endpoints.from_session(session, region_name=region, endpoint_url=url)


def shortcut(
    environ: Mapping[str, str], *, region: str | None = "us-east-1", url: str | None = None
) -> FoundEndpoint | None:
    """Return the endpoint that *environ* alone decides about, if it does."""
    return endpoints.from_environment(environ, region_name=region, endpoint_url=url)


def sent_to(session: Any, **arguments: Any) -> tuple[str, str]:
    """Return URL and signing region of the request that botocore's own client sends."""
    seen: list[Any] = []

    def instead(request: Any, **_: Any) -> AWSResponse:
        seen.append(request)
        answer = AWSResponse(request.url, 200, {}, None)
        answer._content = b"{}"
        return answer

    client = session.create_client(
        "meteringmarketplace", aws_access_key_id="a", aws_secret_access_key="b", **arguments
    )
    client.meta.events.register("before-send", instead)
    client.batch_meter_usage(UsageRecords=[])
    scope = seen[0].headers["Authorization"].decode().split("/")
    return seen[0].url.removesuffix("/"), scope[2]


REGIONS: Final = [
    "us-east-1",
    "cn-northwest-1",
    "us-gov-west-1",
    "us-isob-east-1",
    "eusc-de-east-1",
    "mx-central-1",
    "xx-unheard-1",
    "fips-us-west-2",
    "us-gov-west-1-fips",
]


@pytest.mark.parametrize("region", REGIONS)
def test_hosts_are_those_of_botocore(machine: Machine, region: str) -> None:
    """Region, FIPS and dual-stack lead to the host and signing region of botocore's client."""
    for fips, dual in product(["true", "false"], repeat=2):
        machine.set(AWS_USE_FIPS_ENDPOINT=fips, AWS_USE_DUALSTACK_ENDPOINT=dual)
        try:
            expected = sent_to(new_session(), region_name=region)
        except BotoCoreError:
            with pytest.raises(ConfigurationError):
                found(region=region)
        else:
            endpoint = found(region=region)
            assert expected == (endpoint.url, endpoint.region_name)


def test_hosts_of_the_shortcut() -> None:
    """What is known without botocore are the hosts that botocore finds."""
    for region in limits.service_metadata().endpoints:
        endpoint = shortcut({}, region=region)
        assert endpoint is not None
        assert found(region=region) == endpoint


def test_flags_in_a_profile(machine: Machine) -> None:
    """FIPS and dual-stack may stand in the profile."""
    machine.write("config", "[default]\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\n")
    expected, _ = sent_to(new_session(), region_name="us-east-1")
    assert expected == found().url
    assert "fips" in expected


URLS: Final = {
    "AWS_ENDPOINT_URL_MARKETPLACE_METERING": "https://service-variable.example",
    "AWS_ENDPOINT_URL": "https://global-variable.example",
}
PROFILE: Final = """
[default]
services = mine
endpoint_url = https://global-profile.example
[services mine]
marketplace_metering =
  endpoint_url = https://service-profile.example
"""


def test_the_order_of_configured_urls(machine: Machine) -> None:
    """An argument comes first, then variables, then the profile; the service before the world."""
    path = machine.write("config", PROFILE)
    machine.set(**URLS)
    assert found(url="https://argument.example").url == "https://argument.example"
    order = [found().url]
    for name in URLS:
        machine.monkeypatch.delenv(name)
        order.append(found().url)
    path.write_text(PROFILE.replace("services = mine", ""))
    order.append(found().url)
    path.write_text("")
    order.append(found().url)
    assert order == [
        "https://service-variable.example",
        "https://global-variable.example",
        "https://service-profile.example",
        "https://global-profile.example",
        OWN,
    ]


def test_the_order_of_urls_in_the_environment() -> None:
    """The shortcut takes the argument, then the service's variable, then the global one."""
    environ = dict(URLS)
    argument = shortcut(environ, url="https://argument.example")
    order = [argument, shortcut(environ)]
    for name in URLS:
        del environ[name]
        order.append(shortcut(environ))
    assert [endpoint and endpoint.url for endpoint in order] == [
        "https://argument.example",
        "https://service-variable.example",
        "https://global-variable.example",
        OWN,
    ]


@pytest.mark.parametrize("where", ["variable", "profile"])
def test_configured_urls_can_be_ignored(machine: Machine, where: str) -> None:
    """One setting switches configured URLs off, though not an argument."""
    machine.write("config", PROFILE)
    if where == "variable":
        machine.set(AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true")
    else:
        flag = "[default]\nignore_configured_endpoint_urls = true\n"
        machine.write("config", PROFILE.replace("[default]\n", flag))
    machine.set(**URLS)
    assert found().url == OWN
    assert found(url="https://argument.example").url == "https://argument.example"


def test_a_configured_url_leaves_fips_aside(machine: Machine) -> None:
    """As in botocore, a URL of one's own stands, whatever FIPS and dual-stack say."""
    machine.set(AWS_USE_FIPS_ENDPOINT="true", AWS_ENDPOINT_URL="https://mine.example")
    assert sent_to(new_session(), region_name="us-east-1")[0] == found().url


def test_configured_or_not(machine: Machine) -> None:
    """An endpoint tells whether somebody named its URL."""
    assert found().configured is False
    machine.set(AWS_ENDPOINT_URL="https://mine.example")
    assert found().configured is True


def test_the_order_of_regions(machine: Machine) -> None:
    """An argument, the session's own, AWS_DEFAULT_REGION, AWS_REGION, the profile."""
    machine.write("config", "[default]\nregion = eu-west-1\n")
    machine.set(AWS_DEFAULT_REGION="eu-west-3", AWS_REGION="eu-west-2")
    session = new_session()
    session.set_config_variable("region", "eu-north-1")
    order = [found(region="eu-south-1"), found(session, region=None), found(region=None)]
    machine.monkeypatch.delenv("AWS_DEFAULT_REGION")
    order.append(found(region=None))
    machine.monkeypatch.delenv("AWS_REGION")
    order.append(found(region=None))
    assert [endpoint.region_name for endpoint in order] == [
        "eu-south-1",
        "eu-north-1",
        "eu-west-3",
        "eu-west-2",
        "eu-west-1",
    ]


def test_no_region() -> None:
    """Without a region anywhere there is an error that says where one may come from."""
    assert shortcut({}, region=None) is None
    with pytest.raises(NoRegionError, match=r"AWS_REGION or the profile"):
        found(region=None)


@pytest.mark.parametrize(
    "region",
    ["evil.example/", "x@evil.example", "us-east-1.evil", "-us", "us-", "1", "a" * 64, "ü"],
)
def test_a_region_that_would_be_another_host(region: str) -> None:
    """
    A region is a single label of a host name, or refused, since hosts are made of it.

    Covers: A13.
    """
    for url in (None, "https://mine.example"):
        with pytest.raises(ConfigurationError, match=r"^region: expected"):
            found(region=region, url=url)
    with pytest.raises(ConfigurationError, match=r"^region: expected"):
        shortcut({}, region=region, url="https://mine.example")


def test_a_profile_that_is_not_there() -> None:
    """A missing profile is named."""
    with pytest.raises(ConfigurationError, match=r"\(nobody\)") as caught:
        found(new_session("nobody"))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_services_section_that_is_not_there(machine: Machine) -> None:
    """A profile that points into the void is an error of the configuration."""
    machine.write("config", "[default]\nservices = void\n")
    with pytest.raises(ConfigurationError, match="void"):
        found()


@pytest.mark.parametrize(
    "lines",
    [
        "services = s\n[services s]\nmarketplace_metering = https://mine.example",
        "services =\n  marketplace_metering = https://mine.example",
        "endpoint_url =\n  metering = https://mine.example",
        "ca_bundle =\n  file = ca.pem",
        "region =\n  metering = us-east-1",
    ],
)
def test_a_text_and_a_section_in_each_others_place(machine: Machine, lines: str) -> None:
    """It is an error of the configuration, and none of Python's; none goes on to AWS."""
    machine.write("config", f"[default]\n{lines}\n")
    with pytest.raises(ConfigurationError, match=r"profile .* indented lines"):
        found(region=None if "region" in lines else "us-east-1")


SAFE: Final = [
    "https://vpce-1.metering.example",
    "https://metering.example:8443/stage",
    "https://192.0.2.1",
    "https://[2001:db8::1]:8443",
    "HTTPS://Metering.Example",
    "http://127.0.0.1:4566",
    "http://127.1.2.3",
    "http://localhost:8000/",
    "http://[::1]:8000",
    "http://LOCALHOST",
]
UNSAFE: Final = [
    "HTTP://metering.example",
    "http://metering.example",
    "http://127.evil.example",
    "http://127.0.0.1.evil.example",
    "http://localhost.evil.example",
    "http://169.254.169.254",
    "http://10.0.0.1",
    "http://0.0.0.0",
    "http://[::]",
    "http://[fe80::1]",
    "http://2130706433",
    "http://127.1",
    "http://0x7f000001",
    "http://localhost.",
]
UNREADABLE: Final = [
    "metering.example",
    "//metering.example",
    "ftp://metering.example",
    "https://",
    "https:///path",
    "https://user:canary@metering.example",
    "https://@metering.example",
    "http://127.0.0.1@evil.example",
    "http://127.0.0.1:80@evil.example",
    "http://evil.example\\@127.0.0.1",
    "http://127.0.0.1%2f.evil.example",
    "http://evil.example#@127.0.0.1",
    "https://metering.example/?a=b",
    "https://metering.example/#a",
    "https://metering.example:port",
    "https://metering.example:0443",
    "https://metering.example:99999",
    "https://metering.example/a b",
    "https://metering.example\n.evil.example",
    "https://metering\t.example",
    "https://métering.example",
    "https://metering.example/é",
    "https://[::1",
    "https://[v1.x]",
]


@pytest.mark.parametrize("url", SAFE)
def test_an_endpoint_that_can_be_used(url: str) -> None:
    """Any host over TLS, and loopback without."""
    assert found(url=url).url == url


@pytest.mark.parametrize("url", UNSAFE)
def test_plain_http_is_for_loopback(url: str) -> None:
    """
    A token does not go anywhere in the clear, whatever the host pretends to be.

    Covers: W17, A13.
    """
    with pytest.raises(ConfigurationError, match=r"^endpoint_url: expected https"):
        found(url=url)


@pytest.mark.parametrize("url", UNREADABLE)
def test_an_endpoint_that_can_be_read_in_two_ways(url: str) -> None:
    """
    What is no plain URL of a host is refused, and not repeated: it may hold a password.

    Covers: W17, A08.
    """
    with pytest.raises(ConfigurationError, match=r"^endpoint_url: expected http\(s\)") as caught:
        found(url=url)
    assert "canary" not in str(caught.value)


# Certificates and proxies.


def test_the_bundle_is_that_of_botocore() -> None:
    """Without a word, the authorities are those that botocore trusts."""
    bundle = found().transport.ca_bundle
    assert botocore.httpsession.get_cert_path(True) == bundle
    assert ssl.create_default_context(cafile=bundle).cert_store_stats()["x509_ca"] > 50


def test_the_bundle_without_certifi(machine: Machine) -> None:
    """Where certifi is missing, botocore's own bundle is taken, as botocore does."""
    machine.monkeypatch.setitem(sys.modules, "certifi", None)
    assert found().transport.ca_bundle == botocore.httpsession.DEFAULT_CA_BUNDLE


def test_the_order_of_bundles(machine: Machine) -> None:
    """AWS_CA_BUNDLE, the profile's, REQUESTS_CA_BUNDLE; however the URL spells its scheme."""
    paths = {name: str(machine.write(name, "")) for name in ("a.pem", "b.pem", "c.pem")}
    machine.set(AWS_CA_BUNDLE=paths["a.pem"], REQUESTS_CA_BUNDLE=paths["c.pem"])
    machine.write("config", f"[default]\nca_bundle = {paths['b.pem']}\n")
    order = [found()]
    machine.monkeypatch.delenv("AWS_CA_BUNDLE")
    order.append(found())
    machine.write("config", "")
    order.append(found(url="HTTPS://mine.example"))
    assert [endpoint.transport.ca_bundle for endpoint in order] == list(paths.values())


def test_a_bundle_that_is_not_there(machine: Machine) -> None:
    """A bundle that is no file is refused before the first request, except where none is used."""
    machine.set(AWS_CA_BUNDLE="/nonexistent/bundle.pem")
    with pytest.raises(ConfigurationError, match=r"^AWS_CA_BUNDLE: expected a file, got '/none"):
        found()
    assert found(url="http://127.0.0.1").transport.ca_bundle is None
    machine.set(AWS_CA_BUNDLE="-----BEGIN CERTIFICATE-----\n" + 40 * "0123456789")
    with pytest.raises(ConfigurationError, match=r"^AWS_CA_BUNDLE: expected a file, got '-----BEG"):
        found()


def test_an_empty_bundle_does_not_switch_verification_off(machine: Machine) -> None:
    """
    A variable that is set to nothing means nothing; verification cannot be switched off.

    Covers: A15.
    """
    machine.set(AWS_CA_BUNDLE="")
    assert found().transport.ca_bundle is not None


def test_proxies_of_the_environment(machine: Machine) -> None:
    """
    HTTPS_PROXY applies but for the hosts of NO_PROXY, and its password is not shown.

    Covers: A08, A14.
    """
    machine.set(HTTPS_PROXY="http://user:canary@proxy:3128", HTTP_PROXY="http://wrong:1")
    transport = found().transport
    assert transport.proxy_url == "http://user:canary@proxy:3128"
    assert "canary" not in repr(found())
    assert transport.proxy == "http://proxy:3128"
    for exempt in ("*", ".amazonaws.com", "metering.marketplace.us-east-1.amazonaws.com"):
        machine.set(NO_PROXY=exempt)
        assert found().transport.proxy_url is None


def test_a_proxy_that_is_none(machine: Machine) -> None:
    """A proxy that cannot be used is refused without its password."""
    machine.set(HTTPS_PROXY="socks5://user:canary@proxy:1")
    with pytest.raises(ConfigurationError, match=r"^proxy: expected") as caught:
        found()
    assert "canary" not in str(caught.value)


def test_loopback_is_reached_directly(machine: Machine) -> None:
    """
    What is not encrypted is not handed to a proxy either.

    Covers: W17, A14.
    """
    machine.set(HTTP_PROXY="http://proxy:1", HTTPS_PROXY="http://proxy:1")
    assert found(url="http://127.0.0.1:8000").transport.proxy_url is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_fips_endpoint": "false"}, "UseFIPS"),
        ({"use_dualstack_endpoint": "false"}, "UseDualStack"),
        ({"region_name": ""}, "no region"),
    ],
)
def test_what_a_sessions_owner_set_is_not_taken_for_another(
    machine: Machine, settings: dict[str, Any], says: str
) -> None:
    """
    A text is no flag, and an empty region no other one: botocore's client refuses them, too.

    "false" led to the FIPS host, and an empty region to that of the environment.
    """
    machine.set(AWS_REGION="eu-west-1")
    session = new_session()
    session.set_default_client_config(Config(**{"region_name": "us-east-1"} | settings))
    with pytest.raises(ConfigurationError, match=says):
        found(session, region=None)


def test_the_configuration_of_a_session(machine: Machine) -> None:
    """What a session's owner set for all its clients holds for ours."""
    machine.set(HTTPS_PROXY="http://wrong:1", AWS_DEFAULT_REGION="eu-west-1", AWS_ENDPOINT_URL=OWN)
    session = new_session()
    session.set_default_client_config(
        Config(
            region_name="us-west-2",
            use_fips_endpoint=True,
            ignore_configured_endpoint_urls=True,
            proxies={"https": "proxy:1"},
            client_cert=("own.pem", "own.key"),
        )
    )
    endpoint = found(session, region=None)
    expected, _ = sent_to(session)
    assert expected == endpoint.url
    assert endpoint.region_name == "us-west-2"
    assert endpoint.transport.proxy_url == "http://proxy:1"
    assert endpoint.transport.client_cert == ("own.pem", "own.key")
    session.set_default_client_config(Config(client_cert="own.pem"))
    assert found(session).transport.client_cert == ("own.pem", None)


# When the shortcut is taken.


@pytest.mark.parametrize(
    "variable", [*endpoints._BEYOND_US, "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]
)
def test_what_the_shortcut_leaves_to_botocore(machine: Machine, variable: str) -> None:
    """A profile, a file or a flag is botocore's to interpret."""
    path = str(machine.write("somewhere", ""))
    assert shortcut({variable: path}) is None
    assert shortcut({variable: ""}) is not None


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_files_in_the_home_are_left_to_botocore(machine: Machine, name: str) -> None:
    """Files of profiles are botocore's to read."""
    machine.write(name, "")
    assert shortcut({}) is None


def test_regions_unheard_of_are_left_to_botocore() -> None:
    """A region that is not in our list may be in botocore's."""
    assert shortcut({}, region="mx-central-1") is None
    assert shortcut({}, region="fips-us-east-1", url="https://mine.example") is None


async def test_both_ways_from_a_signer(machine: Machine) -> None:
    """A signer ends with the same endpoint with and without a file of profiles."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    machine.set(AWS_REGION="eu-central-2")
    plain = await Signer(**keys).open()
    machine.write("config", "[default]\n")
    assert await Signer(**keys).open() == plain
