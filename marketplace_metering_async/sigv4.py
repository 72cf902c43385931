"""
AWS Signature Version 4 for this service's one kind of request: POST to one path, headers known.

What changes once a day (the key), and once a second (the date in the headers), is kept; what is
left to do for a request is a hash of its body and one HMAC. botocore's signer is the witness.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from attrs import field, frozen

from marketplace_metering_async.limits import SERVICE_NAME, TARGET_PREFIX

CONTENT_TYPE: Final = "application/x-amz-json-1.1"


@frozen
class Keys:
    """One set of credentials; taken as a whole, so that no key meets another's token."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class _Prepared(NamedTuple):
    """What requests of one operation, second and set of keys have in common."""

    keys: Keys
    second: int
    canonical: "hashlib._Hash"
    to_sign: str
    key: bytes
    authorization: str
    headers: dict[str, str]


class SigV4:
    """Signs requests to one URL in one region."""

    def __init__(self, url: str, region_name: str) -> None:
        parts = urlsplit(url)
        default_port = {"http": 80, "https": 443}.get(parts.scheme)
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        self.host: Final = name if parts.port in (None, default_port) else f"{name}:{parts.port}"
        self._path = quote(parts.path or "/", safe="/~")
        self._region = region_name
        self._prepared: dict[str, _Prepared] = {}
        self._day_key: tuple[str, Keys, bytes] | None = None

    def headers(self, operation: str, body: bytes, now: datetime, keys: Keys) -> dict[str, str]:
        """Return the headers of a request of *operation* with *body*, signed at *now* (UTC)."""
        prepared = self._prepared.get(operation)
        second = int(now.timestamp())
        if prepared is None or prepared.second != second or prepared.keys != keys:
            prepared = self._prepared[operation] = self._prepare(operation, now, second, keys)
        canonical = prepared.canonical.copy()
        canonical.update(hashlib.sha256(body).hexdigest().encode())
        to_sign = prepared.to_sign + canonical.hexdigest()
        signature = hmac.digest(prepared.key, to_sign.encode(), "sha256").hex()
        return {**prepared.headers, "Authorization": prepared.authorization + signature}

    def _prepare(self, operation: str, now: datetime, second: int, keys: Keys) -> _Prepared:
        date = now.strftime("%Y%m%dT%H%M%SZ")
        day = date[:8]
        headers = {
            "Content-Type": CONTENT_TYPE,
            "Host": self.host,
            "X-Amz-Date": date,
            "X-Amz-Target": f"{TARGET_PREFIX}.{operation}",
        }
        if keys.session_token is not None:
            headers["X-Amz-Security-Token"] = keys.session_token
        signed = sorted((name.lower(), value) for name, value in headers.items())
        names = ";".join(name for name, _ in signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed)
        scope = f"{day}/{self._region}/{SERVICE_NAME}/aws4_request"
        return _Prepared(
            keys=keys,
            second=second,
            canonical=hashlib.sha256(f"POST\n{self._path}\n\n{lines}\n{names}\n".encode()),
            to_sign=f"AWS4-HMAC-SHA256\n{date}\n{scope}\n",
            key=self._key(day, keys),
            authorization=(
                f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, "
                f"SignedHeaders={names}, Signature="
            ),
            headers=headers,
        )

    def _key(self, day: str, keys: Keys) -> bytes:
        if self._day_key is None or self._day_key[:2] != (day, keys):
            key = f"AWS4{keys.secret_access_key}".encode()
            for part in (day, self._region, SERVICE_NAME, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day_key = (day, keys, key)
        return self._day_key[2]
