"""Signature Version 4 as a service checks it; written apart from the client's signer on purpose."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from attrs import field, frozen

from marketplace_metering_async.sandbox.refusals import Refusal

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/\s]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_SKEW: Final = timedelta(minutes=5)


@frozen
class AccessKey:
    """
    A declared access key; requests under it must be signed right.

    Attributes:
        secret: The secret access key.
        session_token: The token that belongs to it, for temporary credentials.
        expires: Real time from which on the token is refused.
    """

    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: datetime | None = None


@frozen
class Signed:
    """Who signed a request, and for which region."""

    access_key_id: str
    region: str


def check(
    headers: Mapping[str, str],
    path: str,
    body: bytes,
    keys: Mapping[str, AccessKey],
    *,
    now: datetime,
    sandbox_now: datetime,
) -> Signed:
    """
    Return who signed the request, or refuse it as the service would; *now* is real time.

    The signature is verified for declared keys only; a skewed date is refused for all. A client
    under test may go by the sandbox's own time.
    """
    authorization = headers.get("Authorization")
    if not authorization:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
    match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        raise Refusal("IncompleteSignatureException", "the Authorization header is broken", 400)
    access_key_id, day, region, service, names, signature = match.groups()
    if service != "aws-marketplace":
        text = "Credential should be scoped to correct service: 'aws-marketplace'"
        raise Refusal("InvalidSignatureException", text, 403)
    date = headers.get("X-Amz-Date", "")
    own_time = abs(_signed_at(date) - sandbox_now) <= _SKEW
    _check_date(date, day, sandbox_now if own_time else now)
    key = keys.get(access_key_id)
    if key is None:
        if keys:
            text = "The security token included in the request is invalid"
            raise Refusal("UnrecognizedClientException", text, 403)
        return Signed(access_key_id, region)
    _check_token(headers.get("X-Amz-Security-Token"), key, now)
    scope = f"{day}/{region}/{service}/aws4_request"
    lines = "".join(f"{n}:{' '.join(headers.get(n, '').split())}\n" for n in names.split(";"))
    request = f"POST\n{quote(path, safe='/~%')}\n\n{lines}\n{names}\n{_sha(body)}"
    to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{_sha(request.encode())}"
    secret = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    expected = hmac.digest(secret, to_sign.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, signature):
        text = "The request signature we calculated does not match the signature you provided"
        raise Refusal("InvalidSignatureException", text, 403)
    return Signed(access_key_id, region)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _signed_at(date: str) -> datetime:
    try:
        return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refusal("IncompleteSignatureException", "X-Amz-Date is missing or broken") from None


def _check_date(date: str, day: str, now: datetime) -> None:
    signed_at = _signed_at(date)
    if not date.startswith(day):
        text = "Date in Credential scope does not match YYYYMMDD from X-Amz-Date"
        raise Refusal("InvalidSignatureException", text, 403)
    if signed_at < now - _SKEW:
        text = f"Signature expired: {date} is now earlier than {now - _SKEW:%Y%m%dT%H%M%SZ}"
        raise Refusal("InvalidSignatureException", text, 403)
    if signed_at > now + _SKEW:
        text = f"Signature not yet current: {date} is still later than {now + _SKEW:%Y%m%dT%H%M%SZ}"
        raise Refusal("InvalidSignatureException", text, 403)


def _check_token(token: str | None, key: AccessKey, now: datetime) -> None:
    if key.expires is not None and now >= key.expires:
        text = "The security token included in the request is expired"
        raise Refusal("ExpiredTokenException", text, 403)
    if token != key.session_token:
        text = "The security token included in the request is invalid"
        raise Refusal("UnrecognizedClientException", text, 403)
