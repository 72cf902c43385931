"""The client that is HTTP itself, signed as the service asks for; and the controls."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from attrs import define

from marketplace_metering_async.sandbox.as_json import decoded
from marketplace_metering_async.sandbox.clock import real_now
from marketplace_metering_async.sandbox.conformance.judge import Answer
from marketplace_metering_async.sandbox.guard import TOKEN_HEADER

_PATIENCE: Final = 30.0
_SERVICE: Final = "aws-marketplace"
_TARGET: Final = "AWSMPMeteringService."
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"


_OPENER: Final = build_opener(ProxyHandler({}))
"""Goes straight to an address: a stand-in is near."""


@define
class HttpClient:
    """
    Calls a stand-in without any SDK, and without retries.

    Attributes:
        url: Where it listens.
        access_key_id: To sign with.
        secret: To sign with.
        can: As of `Client`.
    """

    url: str
    access_key_id: str = "sandbox"
    secret: str = "sandbox"  # noqa: S105 - of nobody
    can: frozenset[str] = frozenset({"wire", "untyped", "single"})

    def call(self, operation: str, request: Mapping[str, Any], region: str) -> Answer:
        """Make a call."""
        return self.send(operation, json.dumps(request).encode(), region)

    def send(self, operation: str, body: bytes, region: str) -> Answer:
        """Send any bytes."""
        headers = {
            "Content-Type": _CONTENT_TYPE,
            "X-Amz-Target": _TARGET + operation,
            **self._signature(operation, body, region),
        }
        request = Request(f"{self.url}/", data=body, headers=headers)  # noqa: S310 - http
        try:
            with _OPENER.open(request, timeout=_PATIENCE) as answer:
                return _success(answer.status, answer.read())
        except HTTPError as error:
            with error:
                return _refusal(error.code, error.read(), error.headers.get("x-amzn-ErrorType"))
        except (OSError, HTTPException) as error:
            return Answer(status=0, code=type(error).__name__)

    def _signature(self, operation: str, body: bytes, region: str) -> dict[str, str]:
        """Sign with Signature Version 4 (AWS General Reference)."""
        date = f"{real_now():%Y%m%dT%H%M%SZ}"
        scope = f"{date[:8]}/{region}/{_SERVICE}/aws4_request"
        signed = {
            "content-type": _CONTENT_TYPE,
            "host": urlsplit(self.url).netloc,
            "x-amz-date": date,
            "x-amz-target": _TARGET + operation,
        }
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        names = ";".join(signed)
        canonical = f"POST\n/\n\n{lines}\n{names}\n{_sha256(body)}"
        to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{_sha256(canonical.encode())}"
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return {"X-Amz-Date": date, "Authorization": authorization}


@define
class HttpControls:
    """
    The controls of a sandbox at an address.

    Attributes:
        url: Where it listens.
        token: What they ask for, if they do.
    """

    url: str
    token: str | None = None

    def are_there(self) -> bool:
        """
        Return whether it is a sandbox that listens there.

        Raises:
            ValueError: if it refuses the token.
            OSError: if nobody answers.
        """
        try:
            found = self.ask("state")
        except ValueError as error:
            if TOKEN_HEADER in str(error):
                raise
            return False
        return isinstance(found, dict) and "rules" in found

    def order(self, path: str, members: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """
        Carry out an order.

        Raises:
            ValueError: if it is refused.
            OSError: if nobody answers.
        """
        return decoded(self._exchange(path, json.dumps(members).encode()))

    def ask(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """
        Return what the sandbox tells at a path.

        Raises:
            ValueError: if it refuses, or says no JSON.
            OSError: if nobody answers.
        """
        return decoded(self.read(path))

    def read(self, path: str) -> bytes:
        """Return what it tells as it is; ValueError if it refuses, OSError if nobody answers."""
        return self._exchange(path, None)

    def _exchange(self, path: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers[TOKEN_HEADER] = self.token
        url = f"{self.url}/_sandbox/{path}"
        request = Request(url, data=body, headers=headers)  # noqa: S310 - http
        try:
            with _OPENER.open(request, timeout=_PATIENCE) as answer:
                return bytes(answer.read())
        except HTTPError as refused:
            with refused:
                raise ValueError(f"{path}: {refused.read().decode().strip()}") from refused
        except HTTPException as error:
            raise ConnectionError(f"{path}: {type(error).__name__}: {error}") from error


def _success(status: int, body: bytes) -> Answer:
    try:
        reply = decoded(body)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        return Answer(status=status, code="an answer that is no JSON object")
    return Answer(status=status, reply=reply)


def _refusal(status: int, body: bytes, header: str | None) -> Answer:
    try:
        said = decoded(body)
    except ValueError:
        said = {}
    named = (said.get("__type") if isinstance(said, dict) else None) or header or ""
    return Answer(status=status, code=str(named).rpartition("#")[2].partition(":")[0])


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
