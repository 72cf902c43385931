"""botocore as the witness of our signatures, endpoints and reading of the environment."""

import datetime as dt
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from unittest import mock

import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.credentials import Credentials
from botocore.utils import get_environ_proxies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.examples import examples
from urllib3.util import parse_url
from yarl import URL

from marketplace_metering_async.aws import credentials, endpoints
from marketplace_metering_async.aws.endpoints import FoundEndpoint
from marketplace_metering_async.aws.sigv4 import Keys, SigV4
from marketplace_metering_async.errors import ConfigurationError

visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
keys = st.builds(Keys, visible, visible, st.none() | visible)
regions = st.sampled_from(["us-east-1", "cn-northwest-1", "us-gov-west-1", "eu-central-2"])
operations = st.sampled_from(
    ["BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer", "Other"]
)
moments = st.datetimes(
    min_value=dt.datetime(2020, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=dt.datetime(2040, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=13, minutes=45))]),
)
hosts = st.sampled_from(
    ["metering.marketplace.us-east-1.amazonaws.com", "127.0.0.1", "[::1]", "Localhost"]
)
ports = st.sampled_from(["", ":80", ":443", ":8080"])
segments = st.sampled_from(["a", "b~", "%2F", "c+:@=", ".", "..", ""])
paths = st.lists(segments, max_size=5).map(lambda parts: "".join(f"/{part}" for part in parts))
urls = st.builds("{}://{}{}{}".format, st.sampled_from(["http", "https"]), hosts, ports, paths)


def signed_by_botocore(
    url: str, headers: Mapping[str, str], body: bytes, now: dt.datetime, *, by: Keys, region: str
) -> str:
    """Return the `Authorization` that botocore would put to our headers."""
    unsigned = {"Authorization", "Host", "User-Agent"}
    request = AWSRequest("POST", url, {k: v for k, v in headers.items() if k not in unsigned}, body)
    own = Credentials(by.access_key_id, by.secret_access_key, by.session_token)
    utc = now.astimezone(dt.UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=utc):
        botocore.auth.SigV4Auth(own, "aws-marketplace", region).add_auth(request)
    return str(request.headers["Authorization"])


@given(
    url=urls,
    region=regions,
    calls=st.lists(
        st.tuples(operations, st.binary(max_size=80), moments, keys), min_size=1, max_size=6
    ),
)
def test_signatures_are_those_of_botocore(
    url: str, region: str, calls: list[tuple[str, bytes, dt.datetime, Keys]]
) -> None:
    """
    Whatever was signed before, a signature is the one that botocore makes.

    Covers: A16.
    """
    signer = SigV4(url, region, unsigned={"User-Agent": "ours"})
    for operation, body, now, by in [*calls, calls[0]]:
        headers = signer.headers(operation, body, now, by)
        expected = signed_by_botocore(url, headers, body, now, by=by, region=region)
        assert expected == headers["Authorization"]
        assert by.signed(headers)


@given(url=urls, by=keys, body=st.binary(max_size=80), now=moments)
def test_the_host_is_that_of_the_url(url: str, by: Keys, body: bytes, now: dt.datetime) -> None:
    """The signed `Host` is the one that botocore, and so every HTTP client, derives of the URL."""
    headers = SigV4(url, "us-east-1", unsigned={}).headers("MeterUsage", body, now, by)
    assert botocore.auth._host_from_url(url) == headers["Host"]


@given(st.text(max_size=10), st.text(max_size=10), st.integers(0, 2))
def test_keys_that_break_out_of_a_header(before: str, after: str, which: int) -> None:
    """Keys are of visible ASCII, or refused without being shown."""
    text = f"{before}7{after}"  # without a digit it might be a word of the refusal itself
    parts = ["AKID", "secret", "token"]
    parts[which] = text
    if text.isascii() and text.isprintable() and " " not in text:
        assert Keys(*parts).signed({}) is False
        return
    with pytest.raises(ConfigurationError) as caught:
        Keys(*parts)
    assert str(caught.value).startswith("credentials: expected a")


# The environment.

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
