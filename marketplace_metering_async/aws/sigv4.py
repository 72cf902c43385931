"""
AWS Signature Version 4 for this service's one kind of request: POST to one path, headers known.

What requests of one operation, second and set of keys have in common is made once.
botocore's signer is the witness.
"""

import hashlib
import hmac
import posixpath
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlsplit

from attrs import Attribute, field, frozen
from attrs.validators import optional
from yarl import URL

from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.limits import SERVICE_NAME, TARGET_PREFIX

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_VISIBLE: Final = re.compile(r"[!-~]+")


def _or_none(token: str | None) -> str | None:
    return token or None


def _require_visible(_: "Keys", attribute: "Attribute[str]", text: str | None) -> None:
    """Refuse what would break out of a header, without showing it."""
    if not (isinstance(text, str) and _VISIBLE.fullmatch(text)):
        raise ConfigurationError(
            f"credentials: expected visible ASCII characters, without blanks or line breaks, as "
            f"{attribute.name.replace('_', ' ')}, got something else"
        )


@frozen(cache_hash=True)
class Keys:
    """
    One set of credentials; taken as a whole, so that no key meets another's token.

    Raises:
        ConfigurationError: one of them holds what no header may, as keys read from a file with
            its line break do.
    """

    access_key_id: str = field(repr=False, validator=_require_visible)
    secret_access_key: str = field(repr=False, validator=_require_visible)
    session_token: str | None = field(
        default=None, converter=_or_none, repr=False, validator=optional(_require_visible)
    )

    def signed(self, headers: Mapping[str, str]) -> bool:
        """Whether *headers* were signed with these keys."""
        start = f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/"
        token = headers.get("X-Amz-Security-Token")
        return headers.get("Authorization", "").startswith(start) and token == self.session_token


class SigV4:
    """Signs requests to one URL in one region."""

    def __init__(self, url: str, region_name: str, *, unsigned: Mapping[str, str]) -> None:
        """Sign for *url*; the *unsigned* headers go along with every request."""
        self._host = URL(url).host_port_subcomponent or ""  # without the scheme's own port
        self._path = _canonical_path(urlsplit(url).path)
        self._region = region_name
        self._unsigned = dict(unsigned)
        self._prepared = lru_cache(maxsize=4)(self._prepare)

    def headers(self, operation: str, body: bytes, now: datetime, keys: Keys) -> dict[str, str]:
        """Return the headers of a request of *operation* with *body*, signed at *now* (aware)."""
        key, canonical, text, headers = self._prepared(operation, int(now.timestamp()), keys)
        canonical += hashlib.sha256(body).hexdigest()
        text += hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return {**headers, "Authorization": f"{headers['Authorization']}{signature}"}

    def _prepare(
        self, operation: str, second: int, keys: Keys
    ) -> tuple[bytes, str, str, dict[str, str]]:
        """Return the key, and the beginnings of the request's form, the signed text and headers."""
        date = datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ")  # noqa: TID251 - today
        headers = {
            "Content-Type": CONTENT_TYPE,
            "Host": self._host,
            "X-Amz-Date": date,
            "X-Amz-Target": f"{TARGET_PREFIX}.{operation}",
        }
        if keys.session_token is not None:
            headers["X-Amz-Security-Token"] = keys.session_token
        lines = "".join(sorted(f"{name.lower()}:{value}\n" for name, value in headers.items()))
        names = ";".join(sorted(headers)).lower()
        parts = (date[:8], self._region, SERVICE_NAME, "aws4_request")
        scope, key = "/".join(parts), f"AWS4{keys.secret_access_key}".encode()
        for part in parts:
            key = hmac.digest(key, part.encode(), "sha256")
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature="
        )
        canonical = f"POST\n{self._path}\n\n{lines}\n{names}\n"
        return key, canonical, f"AWS4-HMAC-SHA256\n{date}\n{scope}\n", self._unsigned | headers


def _canonical_path(path: str) -> str:
    """Leave out empty and dot segments, then quote once more, as every service but S3 does."""
    tidy = posixpath.normpath(f"/{path}").lstrip("/")
    end = "/" if tidy and path.endswith("/") else ""
    return quote(f"/{tidy}{end}", safe="/~")
