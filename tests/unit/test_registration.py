"""RegisterUsage's signature: what proves a registration, and what does not."""

import sys
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import rsa
from support.memory import MemoryService, client_of
from support.virtual import run_virtual

from marketplace_metering_async import (
    ConfigurationError,
    InvalidRegistrationError,
    MarketplaceMeteringClient,
    MarketplaceMeteringException,
    verify_registration,
)
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.results import RegisterUsageResult
from marketplace_metering_async.sandbox import Sandbox

CLAIMS = {"ProductCode": "prod", "PublicKeyVersion": 1, "Nonce": "once"}
SENT: dict[str, Any] = {"product_code": "prod", "public_key_version": 1, "nonce": "once"}


def pems_of(key: rsa.RSAPrivateKey) -> tuple[bytes, str]:
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public.decode()


PRIVATE, PUBLIC = pems_of(rsa.generate_private_key(65537, 2048))
OTHER_PRIVATE, _ = pems_of(rsa.generate_private_key(65537, 2048))


def signed(key: bytes | str = PRIVATE, algorithm: str = "PS256", **claims: Any) -> str:
    return jwt.encode(CLAIMS | claims, key, algorithm=algorithm)


def test_a_signature_proves_what_was_sent() -> None:
    """
    As text or bytes; the time of a rotation is told in UTC.
    """
    plain = verify_registration(signed(), PUBLIC, **SENT)
    rotated = verify_registration(
        signed(PublicKeyRotationTimestamp=1_780_000_000), PUBLIC.encode(), **SENT
    )

    assert ("prod", 1, "once") == (plain.product_code, plain.public_key_version, plain.nonce)
    assert plain.public_key_rotation_timestamp is None
    moment = datetime.fromtimestamp(1_780_000_000, UTC)
    assert moment == rotated.public_key_rotation_timestamp


@pytest.mark.parametrize("absent", [None, ""])
def test_without_a_nonce_none_is_signed(absent: str | None) -> None:
    """
    An empty claim says the same as none.
    """
    token = signed(Nonce=absent)

    assert verify_registration(token, PUBLIC, **SENT | {"nonce": None}).nonce is None


@pytest.mark.parametrize(
    ("claim", "value", "sent"),
    [
        ("ProductCode", "another", "once"),
        ("PublicKeyVersion", 2, "once"),
        ("Nonce", "twice", "once"),
        ("Nonce", None, "once"),
        ("Nonce", "another", None),  # of somebody else's request
        ("PublicKeyRotationTimestamp", "soon", "once"),
        ("PublicKeyRotationTimestamp", "0001-01-01T00:00:00+01:00", "once"),
        ("PublicKeyRotationTimestamp", 10**40, "once"),
    ],
)
def test_another_claim_proves_nothing(claim: str, value: Any, sent: str | None) -> None:
    """
    The text names the claim, and not what it says.
    """
    with pytest.raises(InvalidRegistrationError, match=f"^{claim} is") as caught:
        verify_registration(signed(**{claim: value}), PUBLIC, **SENT | {"nonce": sent})

    assert str(value) not in str(caught.value)


def tampered() -> str:
    head, _, tail = signed().split(".")
    body = signed(ProductCode="prod2").split(".")[1]
    return f"{head}.{body}.{tail}"


@pytest.mark.parametrize(
    "token",
    [
        signed(OTHER_PRIVATE),
        tampered(),
        signed(algorithm="RS256"),
        jwt.encode(CLAIMS, "a-shared-secret-of-some-length-is-no-key", algorithm="HS256"),
        jwt.encode(CLAIMS, "", algorithm="none"),
        signed()[:-10],
        "",
        "no token",
        "a.b.c",
        "\ud800",
    ],
    ids=[
        "key",
        "tampered",
        "rs256",
        "hs256",
        "none",
        "short",
        "empty",
        "text",
        "dots",
        "surrogate",
    ],
)
def test_what_this_key_did_not_sign_proves_nothing(token: str) -> None:
    """
    Nor does a token that chooses another way to be checked.
    """
    with pytest.raises(InvalidRegistrationError):
        verify_registration(token, PUBLIC, **SENT)


@pytest.mark.parametrize("key", ["", "no key", PRIVATE])
def test_what_is_no_public_key_is_a_mistake_of_ours(key: str | bytes) -> None:
    """
    The private half as well: it has no business in a container.
    """
    with pytest.raises(ConfigurationError, match="public_key"):
        verify_registration(signed(), key, **SENT)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With the command that brings it.
    """
    monkeypatch.setitem(sys.modules, "jwt", None)

    with pytest.raises(ConfigurationError, match=r"marketplace-metering-async\[jwt\]"):
        verify_registration("", PUBLIC, **SENT)


async def test_the_sandbox_signs_as_the_service_does() -> None:
    """
    With the key that it serves; a rotated key says since when.
    """
    async with Sandbox() as sandbox:
        sandbox.declare_product("prod")
        async with MarketplaceMeteringClient(**sandbox.client_arguments) as client:
            first = await client.register_usage(
                product_code="prod", public_key_version=1, nonce="once"
            )
            sandbox.rotate_key("prod")
            old = await client.register_usage(product_code="prod", public_key_version=1)
            new = await client.register_usage(product_code="prod", public_key_version=2)
        keys = [sandbox.public_key(version) for version in (1, 2)]

    assert "PS256" == jwt.get_unverified_header(first.signature)["alg"]
    assert "once" == verify_registration(first.signature, keys[0], **SENT).nonce
    again = verify_registration(
        old.signature, keys[0], product_code="prod", public_key_version=1
    ).public_key_rotation_timestamp
    assert again is not None
    assert again == old.public_key_rotation_timestamp
    assert first.public_key_rotation_timestamp is None
    verify_registration(new.signature, keys[1], product_code="prod", public_key_version=2)
    with pytest.raises(InvalidRegistrationError):
        verify_registration(new.signature, keys[0], product_code="prod", public_key_version=2)


async def test_a_sandbox_without_the_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In the answer, and no client takes it for an outage.
    """
    monkeypatch.setitem(sys.modules, "jwt", None)
    async with (
        Sandbox() as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments) as client,
    ):
        with pytest.raises(MarketplaceMeteringException) as caught:
            await client.register_usage(product_code="prod", public_key_version=1)

    assert "marketplace-metering-async[jwt]" in caught.value.message
    assert 1 == sandbox.refusals["SandboxExtraMissing"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("1780000000", datetime.fromtimestamp(1_780_000_000, UTC)),
        ("1780000000.5", datetime.fromtimestamp(1_780_000_000.5, UTC)),
        ("9" * 400, None),
        ("1e300", None),
        ("-1e300", None),
        ("253402300800", None),
        ("true", None),
        ('"soon"', None),
        ("null", None),
        ("[]", None),
    ],
)
def test_an_odd_time_does_not_undo_a_registration(said: str, expected: datetime | None) -> None:
    """
    The container is registered; the time of a rotation is then None. (core F19)
    """

    class Registrar(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            body = f'{{"Signature": "signed", "PublicKeyRotationTimestamp": {said}}}'
            return Response(200, {"x-amzn-RequestId": "r"}, body.encode())

    async def register() -> RegisterUsageResult:
        async with client_of(Registrar()) as client:
            return await client.register_usage(product_code="prod", public_key_version=1)

    result = run_virtual(register())

    assert ("signed", expected) == (result.signature, result.public_key_rotation_timestamp)
