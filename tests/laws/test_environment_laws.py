"""botocore as the witness of our endpoints and of how the environment is read."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from unittest import mock

import botocore.auth
import botocore.session
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.utils import get_environ_proxies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.strategies import hosts, paths, ports, regions, urls, visible
from urllib3.util import parse_url
from yarl import URL

from marketplace_metering_async.aws import credentials, endpoints
from marketplace_metering_async.aws.endpoints import FoundEndpoint
from marketplace_metering_async.aws.sigv4 import Keys
from marketplace_metering_async.errors import ConfigurationError

NOT_OURS = {
    "AWS_ACCOUNT_ID_ENDPOINT_MODE",
    "AWS_AUTH_SCHEME_PREFERENCE",
    "AWS_CSM_CLIENT_ID",
    "AWS_CSM_ENABLED",
    "AWS_CSM_HOST",
    "AWS_CSM_PORT",
    "AWS_DEFAULTS_MODE",
    "AWS_DISABLE_HOST_PREFIX_INJECTION",
    "AWS_DISABLE_REQUEST_COMPRESSION",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_ENDPOINT_DISCOVERY_ENABLED",
    "AWS_IMDS_USE_IPV6",
    "AWS_MAX_ATTEMPTS",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_METADATA_SERVICE_TIMEOUT",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_RETRY_MODE",
    "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH",
    "AWS_SDK_UA_APP_ID",
    "AWS_SIGV4A_SIGNING_REGION_SET",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "BOTOCORE_TCP_KEEPALIVE",
}
"""Variables that change neither where this service's requests go nor keys in the environment."""

READ = {"AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}


def test_every_variable_of_botocore_is_accounted_for() -> None:
    """A variable that botocore reads is read by us, left to botocore, or none of our business."""
    known: set[str] = set()
    for _, names, _, _ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values():
        known.update(names if isinstance(names, list) else [names] if names else [])
    assert known - NOT_OURS - READ == set(endpoints._BEYOND_US) & known


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let *variables* be all there is, with a home that holds nothing."""
    with mock.patch.dict(os.environ, {"HOME": "/nonexistent", **variables}, clear=True):
        yield


def outcome(of: FoundEndpoint | ConfigurationError | None) -> object:
    """Return what can be compared: an endpoint with its proxy, or the text of an error."""
    if isinstance(of, FoundEndpoint):
        return (of, of.transport.proxy_url)
    return str(of)


safe_urls = st.builds("https://{}{}{}".format, hosts, ports, paths) | st.just("http://[::1]:1")
plain = st.fixed_dictionaries(
    {},
    optional={
        "AWS_ACCESS_KEY_ID": visible | st.just(""),
        "AWS_SECRET_ACCESS_KEY": visible | st.just(""),
        "AWS_SESSION_TOKEN": visible | st.just(""),
        "AWS_SECURITY_TOKEN": visible,
        "AWS_DEFAULT_REGION": regions,
        "AWS_REGION": regions,
        "AWS_ENDPOINT_URL": safe_urls | st.just(""),
        "AWS_ENDPOINT_URL_MARKETPLACE_METERING": safe_urls,
        "AWS_CA_BUNDLE": st.just(__file__),
        "REQUESTS_CA_BUNDLE": st.sampled_from(["/nonexistent/bundle.pem", ""]),
        "HTTPS_PROXY": st.sampled_from(["http://proxy:1", "proxy:2", "//proxy:3", ""]),
        "https_proxy": st.sampled_from(["https://u:p@other:4", ""]),
        "HTTP_PROXY": st.just("http://wrong:5"),
        "ALL_PROXY": st.just("http://wrong:6"),
        "NO_PROXY": st.sampled_from(["*", ".amazonaws.com", "127.0.0.1", "example.com,localhost"]),
    },
)
odd = st.fixed_dictionaries(
    {},
    optional={
        "AWS_DEFAULT_REGION": st.sampled_from(["xx-none-1", "fips-us-east-1", "a.b/", ""]),
        "AWS_ENDPOINT_URL": urls,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": st.sampled_from(["true", "false", ""]),
        "AWS_USE_FIPS_ENDPOINT": st.sampled_from(["true", "false"]),
        "AWS_USE_DUALSTACK_ENDPOINT": st.sampled_from(["true", "false"]),
        "HTTPS_PROXY": st.just("socks5://p"),
    },
)
variables = plain | st.builds(lambda usual, strange: usual | strange, plain, odd)


@given(found=variables, region=st.none() | regions, url=st.none() | urls)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_environment_means_to_us_what_it_means_to_botocore(
    found: dict[str, str], region: str | None, url: str | None
) -> None:
    """Where the environment alone decides, the endpoint is the one found by asking botocore."""
    with environment(found):
        here: FoundEndpoint | ConfigurationError | None
        there: FoundEndpoint | ConfigurationError
        try:
            here = endpoints.from_environment(os.environ, region_name=region, endpoint_url=url)
        except ConfigurationError as error:
            here = error
        if here is None:
            return
        try:
            session = botocore.session.Session()
            there = endpoints.from_session(session, region_name=region, endpoint_url=url)
        except ConfigurationError as error:
            there = error
    assert outcome(there) == outcome(here)


@given(found=variables)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_keys_of_the_environment_are_those_that_botocore_finds(found: dict[str, str]) -> None:
    """Keys and token are taken from the environment as botocore takes them."""
    with environment(found):
        own = credentials.from_environment(os.environ)
        if own is None:
            return
        theirs = botocore.session.Session().get_credentials().get_frozen_credentials()
    assert Keys(theirs.access_key, theirs.secret_key, theirs.token) == own


@given(
    found=variables,
    host=st.sampled_from(["metering.marketplace.us-east-1.amazonaws.com", "example.com:8443"]),
)
@settings(deadline=None)
def test_proxies_are_those_of_botocore(found: dict[str, str], host: str) -> None:
    """HTTPS_PROXY and NO_PROXY mean what they mean to botocore's client."""
    from botocore.httpsession import ProxyConfiguration  # noqa: PLC0415 - the witness

    url = f"https://{host}"
    with environment(found):
        theirs = ProxyConfiguration(get_environ_proxies(url)).proxy_url_for(url)
        assert (theirs or None) == endpoints._proxy(url, None)


PIECES = ["127.0.0.1", "localhost", "[::1]", "evil.example", "127.1", "0x7f.1", "80", "user"]
GLUE = ["@", ":", "/", "\\", "#", "?", "%2f", "%40", ".", "\t", "\n", " ", "//", ":80", ":080"]


@given(st.lists(st.sampled_from(PIECES + GLUE), max_size=5).map("".join))
@settings(max_examples=examples(400))
def test_no_plain_http_but_to_loopback(rest: str) -> None:
    """
    Whatever is written after `http://`, what is let through goes to loopback for every parser.

    Covers: W17, A13.
    """
    url = f"http://{rest}"
    try:
        endpoints._require_safe(url)
    except ConfigurationError:
        return
    for seen in (URL(url, encoded=True).host, parse_url(url).host):  # aiohttp's parser, botocore's
        assert seen == "localhost" or ip_address(str(seen).strip("[]")).is_loopback
