"""Requests to the sandbox whose signature has the form of one, for a transport without a socket."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import frozen


@frozen
class Sent:
    """A request, as transports carry it."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def request_of(
    url: str,
    members: Any,
    *,
    operation: str = "BatchMeterUsage",
    region: str = "us-east-1",
    now: datetime | None = None,
) -> Sent:
    """Return a request of *operation* with *members*."""
    date = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    scope = f"AKID/{date[:8]}/{region}/aws-marketplace/aws4_request"
    parts = f"Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"AWSMPMeteringService.{operation}",
        "X-Amz-Date": date,
        "Authorization": f"AWS4-HMAC-SHA256 {parts}",
    }
    return Sent(f"{url}/", headers, json.dumps(members).encode())
