"""What the sandbox says of a signature that is missing or incomplete, or of another service."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.unsigned import Sent, request_of

from marketplace_metering_async.sandbox import Sandbox

LATER, EARLIER = "+6", "-6"
INCOMPLETE, INVALID = "IncompleteSignatureException", "InvalidSignatureException"


def signed(**changed: str) -> Sent:
    """
    Return a request whose signature is taken, but for the parts that are *changed*.

    A date of another time is written as minutes from now.
    """
    now = datetime.now(UTC)
    sent = request_of("http://sandbox", {"ProductCode": "p", "UsageRecords": []}, now=now)
    date = changed.get("date", sent.headers["X-Amz-Date"])
    if date in {LATER, EARLIER}:
        date = f"{now + timedelta(minutes=int(date)):%Y%m%dT%H%M%SZ}"
    day = date[:8] or f"{now:%Y%m%d}"
    scope = changed.get("scope", f"AKID/{day}/us-east-1/aws-marketplace/aws4_request")
    names = changed.get("names", "host;x-amz-date")
    plain = f"Credential={scope}, SignedHeaders={names}, Signature={'0' * 64}"
    header = changed.get("header", f"AWS4-HMAC-SHA256 {plain}")
    return Sent(sent.url, {**sent.headers, "X-Amz-Date": date, "Authorization": header}, sent.body)


@pytest.mark.parametrize(
    ("changed", "code", "text"),
    [
        ({"header": ""}, "MissingAuthenticationTokenException", "Missing Authentication Token"),
        ({"header": "Bearer abc"}, INCOMPLETE, "the algorithm AWS4-HMAC-SHA256"),
        ({"header": "AWS4-HMAC-SHA256 Credential=a"}, INCOMPLETE, "'SignedHeaders' parameter"),
        ({"header": "AWS4-HMAC-SHA256 SignedHeaders=host"}, INCOMPLETE, "'Credential' parameter"),
        (
            {"header": "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature="},
            INCOMPLETE,
            "'Signature' parameter",
        ),
        ({"scope": "AKID/20260101/us-east-1/aws-marketplace"}, INCOMPLETE, "Credential must have"),
        ({"scope": "AKID/20260101//aws-marketplace/aws4_request"}, INCOMPLETE, "must have an"),
        ({"scope": "AKID/20260101/us-east-1/aws-marketplace/aws5"}, INCOMPLETE, "aws4_request"),
        ({"names": "x-amz-date"}, INVALID, "'host' must be a 'SignedHeader'"),
        ({"names": "host"}, INVALID, "'x-amz-date' must be a 'SignedHeader'"),
        ({"scope": "AKID/20260101/us-east-1/sqs/aws4_request"}, INVALID, "correct service"),
        (
            {"scope": "AKID/20200101/us-east-1/aws-marketplace/aws4_request"},
            INVALID,
            "does not match YYYYMMDD",
        ),
        ({"date": LATER}, INVALID, "Signature not yet current"),
        ({"date": EARLIER}, INVALID, "Signature expired"),
        ({"date": "20261332T000000Z"}, INCOMPLETE, "X-Amz-Date must be there"),
        ({"date": "2026-11-23T12:30"}, INCOMPLETE, "X-Amz-Date must be there"),
        ({"date": ""}, INCOMPLETE, "X-Amz-Date must be there"),
    ],
)
async def test_what_is_wrong_with_a_signature_is_named(
    changed: dict[str, str], code: str, text: str
) -> None:
    """By AWS's code, with the part that is at fault, before the body is looked at."""
    sandbox = Sandbox()

    answer = await sandbox.transport().send(signed(**changed), timeout=5)

    said = json.loads(answer.body)
    assert code == said["__type"].rpartition("#")[2]
    assert text in said["message"]
    assert answer.status in {400, 403}


async def test_a_whole_signature_is_taken() -> None:
    """The request that the table changes is at fault in nothing: its body is what is looked at."""
    answer = await Sandbox().transport().send(signed(), timeout=5)
    assert {"Results": [], "UnprocessedRecords": []} == json.loads(answer.body)
