"""
AWS Signature Version 4 for this service's one kind of request: POST to one path, headers known.

What changes once a day (the key), and once a second (the date in the headers), is kept; what is
left to do for a request is a hash of its body and the end of an HMAC. botocore's signer is the
witness.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from attrs import field, frozen

from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.limits import SERVICE_NAME, TARGET_PREFIX

CONTENT_TYPE: Final = "application/x-amz-json-1.1"

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _or_none(token: str | None) -> str | None:
    return token or None


def _visible(text: str) -> bool:
    return text != "" and text.isascii() and text.isprintable() and " " not in text


@frozen
class Keys:
    """
    One set of credentials; taken as a whole, so that no key meets another's token.

    Raises:
        ConfigurationError: one of them holds what no header may, as keys read from a file with
            its line break do.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, converter=_or_none, repr=False)

    def __attrs_post_init__(self) -> None:
        """Refuse what would break out of a header, without showing it."""
        parts = {
            "access key id": self.access_key_id,
            "secret access key": self.secret_access_key,
            "session token": self.session_token,
        }
        for name, text in parts.items():
            if text is not None and not _visible(text):
                raise ConfigurationError(
                    f"credentials: expected a {name} of visible ASCII characters, without blanks "
                    "or line breaks, got something else"
                )

    def signed(self, headers: Mapping[str, str]) -> bool:
        """Whether *headers* were signed with these keys."""
        start = f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/"
        token = headers.get("X-Amz-Security-Token")
        return headers.get("Authorization", "").startswith(start) and token == self.session_token


class _Prepared(NamedTuple):
    """What requests of one operation, second and set of keys have in common."""

    canonical: "hashlib._Hash"
    mac: hmac.HMAC
    authorization: str
    headers: dict[str, str]


class SigV4:
    """
    Signs requests to one URL in one region.

    Attributes:
        host: The `Host` header: without the port where it is the scheme's own.
    """

    def __init__(self, url: str, region_name: str, *, unsigned: Mapping[str, str]) -> None:
        """Sign for *url*; the *unsigned* headers go along with every request."""
        parts = urlsplit(url)
        name = parts.hostname or ""
        name = f"[{name}]" if ":" in name else name
        own_port = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
        self.host: Final = name if own_port else f"{name}:{parts.port}"
        self._path = _canonical_path(parts.path)
        self._region = region_name
        self._unsigned = dict(unsigned)
        self._prepared = lru_cache(maxsize=4)(self._prepare)
        self._day_key = lru_cache(maxsize=1)(self._key)

    def headers(self, operation: str, body: bytes, now: datetime, keys: Keys) -> dict[str, str]:
        """Return the headers of a request of *operation* with *body*, signed at *now* (aware)."""
        prepared = self._prepared(operation, int(now.timestamp()), keys)
        canonical = prepared.canonical.copy()
        canonical.update(hashlib.sha256(body).hexdigest().encode())
        signature = prepared.mac.copy()
        signature.update(canonical.hexdigest().encode())
        authorization = prepared.authorization + signature.hexdigest()
        return {**prepared.headers, "Authorization": authorization}

    def _prepare(self, operation: str, second: int, keys: Keys) -> _Prepared:
        date = datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ")
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
            canonical=hashlib.sha256(f"POST\n{self._path}\n\n{lines}\n{names}\n".encode()),
            mac=hmac.new(
                self._day_key(day, keys), f"AWS4-HMAC-SHA256\n{date}\n{scope}\n".encode(), "sha256"
            ),
            authorization=(
                f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, "
                f"SignedHeaders={names}, Signature="
            ),
            headers=self._unsigned | headers,
        )

    def _key(self, day: str, keys: Keys) -> bytes:
        key = f"AWS4{keys.secret_access_key}".encode()
        for part in (day, self._region, SERVICE_NAME, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def _canonical_path(path: str) -> str:
    """Leave out empty and dot segments, then quote once more, as every service but S3 does."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    end = "/" if segments and path.endswith("/") else ""
    return quote(f"/{'/'.join(segments)}{end}", safe="/~")
