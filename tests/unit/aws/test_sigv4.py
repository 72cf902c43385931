"""Signatures: botocore's signer is the witness, whatever is signed, in whatever order."""

import datetime as dt
from collections.abc import Mapping
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import regions, urls, visible

from marketplace_metering_async.aws.sigv4 import Keys, SigV4
from marketplace_metering_async.errors import ConfigurationError

keys = st.builds(Keys, visible, visible, st.none() | visible)
operations = st.sampled_from(
    ["BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer", "Other"]
)
moments = st.datetimes(
    min_value=dt.datetime(2020, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=dt.datetime(2040, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=13, minutes=45))]),
)


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
    assert str(caught.value).startswith("credentials: expected visible ASCII")
