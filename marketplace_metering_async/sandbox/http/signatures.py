"""Signature Version 4 as a service checks it; written apart from the client's signer on purpose."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, quote

from attrs import define, frozen

from marketplace_metering_async.sandbox.service.principal import AccessKey, Principal
from marketplace_metering_async.sandbox.service.refusals import Refusal

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "aws-marketplace"
_SKEW: Final = timedelta(minutes=5)
_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_SIGNED: Final = ("host", "x-amz-date")


@define
class _Authorization:
    access_key_id: str
    day: str
    region: str
    service: str
    signed_headers: str
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


@frozen
class ServiceRequest:
    """
    A request to the service.

    Attributes:
        headers: Found in any letter case.
        path: As it came, percent-encoded.
        query: The same.
        read: Reads the body; None where it is larger than anybody may send.
    """

    headers: Mapping[str, str]
    path: str
    query: str
    read: Callable[[], Awaitable[bytes | None]]


def check(
    request: ServiceRequest,
    body: bytes,
    keys: Mapping[str, AccessKey],
    *,
    now: datetime,
    sandbox_now: datetime,
) -> Principal:
    """
    Return who signed the request, or refuse it as the service would; *now* is real time.

    The signature is verified for declared keys only; a skewed date is refused for all. A client
    under test may go by the sandbox's own time.
    """
    authorization = _authorization(request.headers.get("Authorization"))
    if authorization.service != _SERVICE:
        text = f"Credential should be scoped to correct service: '{_SERVICE}'"
        raise Refusal("InvalidSignatureException", text)
    date = request.headers.get("X-Amz-Date", "")
    signed_at = _instant(date)
    own_time = abs(signed_at - sandbox_now) <= _SKEW
    _check_date(date, signed_at, authorization.day, sandbox_now if own_time else now)
    key = keys.get(authorization.access_key_id)
    if key is None:
        if keys:
            text = "The security token included in the request is invalid"
            raise Refusal("UnrecognizedClientException", text)
        return Principal(region=authorization.region, access_key_id=authorization.access_key_id)
    _check_token(request.headers.get("X-Amz-Security-Token"), key, now)
    signature = _signature(request, body, authorization, date, key.secret)
    if not hmac.compare_digest(signature, authorization.signature):
        text = "The request signature we calculated does not match the signature you provided"
        raise Refusal("InvalidSignatureException", text)
    return Principal(
        region=authorization.region,
        access_key_id=authorization.access_key_id,
        account_id=key.account_id,
        home_region=key.region,
        platform=key.platform,
        may=key.may,
    )


def _authorization(header: str | None) -> _Authorization:
    if not header:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
    algorithm, _, rest = header.partition(" ")
    if algorithm != _ALGORITHM:
        text = f"Authorization header requires the algorithm {_ALGORITHM}"
        raise Refusal("IncompleteSignatureException", text)
    parts = (part.strip().partition("=") for part in rest.split(","))
    found = {name: value for name, _, value in parts}
    for name in _PARTS:
        if not found.get(name):
            text = f"Authorization header requires '{name}' parameter"
            raise Refusal("IncompleteSignatureException", text)
    scope = found["Credential"].rsplit("/", 4)
    if len(scope) != 5 or scope[4] != "aws4_request" or not all(scope):
        text = "Credential must have an access key, date, region, service and 'aws4_request'"
        raise Refusal("IncompleteSignatureException", text)
    for name in _SIGNED:
        if name not in found["SignedHeaders"].split(";"):
            text = f"'{name}' must be a 'SignedHeader' in the AWS Authorization"
            raise Refusal("InvalidSignatureException", text)
    access_key_id, day, region, service, _ = scope
    return _Authorization(
        access_key_id, day, region, service, found["SignedHeaders"], found["Signature"]
    )


def _check_date(date: str, signed_at: datetime, day: str, now: datetime) -> None:
    if not date.startswith(day):
        text = "Date in Credential scope does not match YYYYMMDD from X-Amz-Date"
        raise Refusal("InvalidSignatureException", text)
    if signed_at < now - _SKEW:
        text = f"Signature expired: {date} is now earlier than {_stamp(now - _SKEW)}"
        raise Refusal("InvalidSignatureException", f"{text} ({_stamp(now)} - 5 min.)")
    if signed_at > now + _SKEW:
        text = f"Signature not yet current: {date} is still later than {_stamp(now + _SKEW)}"
        raise Refusal("InvalidSignatureException", f"{text} ({_stamp(now)} + 5 min.)")


def _instant(date: str) -> datetime:
    """Read YYYYMMDDTHHMMSSZ; strptime would be the slowest step of a call."""
    digits = f"{date[:8]}{date[9:15]}"
    if len(date) == 16 and date[8] == "T" and date[15] == "Z" and digits.isdecimal():
        year, rest = int(digits[:4]), [int(digits[at : at + 2]) for at in range(4, 14, 2)]
        try:
            return datetime(year, rest[0], rest[1], rest[2], rest[3], rest[4], tzinfo=UTC)
        except ValueError:
            pass
    text = "X-Amz-Date must be there, as YYYYMMDDTHHMMSSZ"
    raise Refusal("IncompleteSignatureException", text)


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%SZ}"


def _check_token(token: str | None, key: AccessKey, now: datetime) -> None:
    if key.expires is not None and now >= key.expires:
        text = "The security token included in the request is expired"
        raise Refusal("ExpiredTokenException", text, 403)
    if token != key.session_token:
        text = "The security token included in the request is invalid"
        remedy = "Send the session token that belongs to the access key; none where it has none."
        raise Refusal("UnrecognizedClientException", text, remedy=remedy)


def _signature(
    request: ServiceRequest, body: bytes, authorization: _Authorization, date: str, secret: str
) -> str:
    """Return the signature that *secret* makes (Signature Version 4, AWS General Reference)."""
    names = authorization.signed_headers
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names.split(";")
    )
    canonical = "\n".join(
        (
            "POST",
            quote(request.path, safe="/~%"),
            _canonical_query(request.query),
            headers,
            names,
            _sha256(body),
        )
    )
    to_sign = "\n".join((_ALGORITHM, date, authorization.scope, _sha256(canonical.encode())))
    key = f"AWS4{secret}".encode()
    for part in authorization.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
