"""
Whether the marketplace itself answered RegisterUsage: the signature, checked with the public key.

RegisterUsage answers with a JSON Web Token, signed with PS256 by the private half of the product's
key pair; the public half is in the seller's portal. (API reference of RegisterUsage, Nov 2026.)
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.errors import ConfigurationError, InvalidRegistrationError

_ALGORITHMS: Final = ["PS256"]  # and no other: the token must not choose how it is checked
_MISSING: Final = (
    "verify_registration() needs its extra: pip install 'marketplace-metering-async[jwt]'"
)


@frozen(kw_only=True)
class Registration:
    """
    What the marketplace signed.

    Attributes:
        product_code: Of the product that was registered.
        public_key_version: Of the key pair it signed with.
        nonce: What the request said; None if it said nothing.
        public_key_rotation_timestamp: When that key version expired, in UTC; None while in force.
    """

    product_code: str
    public_key_version: int
    nonce: str | None = None
    public_key_rotation_timestamp: datetime | None = None


def verify_registration(
    signature: str,
    public_key: str | bytes,
    *,
    product_code: str,
    public_key_version: int,
    nonce: str | None = None,
) -> Registration:
    """
    Return what RegisterUsage signed, or say why it is not what was asked for.

    A container that runs at a customer's calls this with what it sent to `register_usage()`, so
    that nobody in between can answer in the marketplace's place. Give each request a nonce of its
    own, or an old response can be replayed again.

    Args:
        signature: `RegisterUsageResult.signature`.
        public_key: The public key of that version, as PEM.
        product_code: As sent.
        public_key_version: As sent.
        nonce: As sent; None if none was.

    Raises:
        InvalidRegistrationError: if the signature is not by that key, or over something else.
        ConfigurationError: if *public_key* is no public key in PEM, or the extra `jwt` is missing.
    """
    claims = _claims_of(signature, public_key)
    expected = {"ProductCode": product_code, "PublicKeyVersion": public_key_version, "Nonce": nonce}
    for name, value in expected.items():
        signed = claims.get(name)
        if _text(signed) != _text(value):
            raise InvalidRegistrationError(f"{name} is not the one that was sent")
    return Registration(
        product_code=product_code,
        public_key_version=public_key_version,
        nonce=nonce,
        public_key_rotation_timestamp=_moment(claims.get("PublicKeyRotationTimestamp")),
    )


def _claims_of(signature: str, public_key: str | bytes) -> Mapping[str, Any]:
    try:
        import jwt  # noqa: PLC0415 - of an extra
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    pem = public_key.encode() if isinstance(public_key, str) else public_key
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"public_key: expected a public key in PEM, {error}") from error
    try:
        # No claim is a time: rotation may well lie in the past.
        claims: Mapping[str, Any] = jwt.decode(signature, key, algorithms=_ALGORITHMS)  # type: ignore[arg-type]
    except jwt.InvalidSignatureError as error:
        raise InvalidRegistrationError("it is not signed by this key") from error
    except (jwt.PyJWTError, TypeError, ValueError) as error:
        raise InvalidRegistrationError(f"it is no token signed with PS256: {error}") from error
    return claims


def _text(value: object) -> str:
    """An absent claim and an empty one say the same, a number and its digits as well."""
    return "" if value is None else str(value)


def _moment(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)  # noqa: TID251 - its errors are caught
        moment = datetime.fromisoformat(str(value))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidRegistrationError("PublicKeyRotationTimestamp is no time") from error
