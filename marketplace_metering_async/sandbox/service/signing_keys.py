"""The key pairs that RegisterUsage signs with; the public halves are anybody's."""

from collections.abc import Mapping
from typing import Any, Final

_MISSING: Final = (
    "RegisterUsage signs with PS256, which needs the extra: "
    "pip install 'marketplace-metering-async[jwt]'"
)
_BITS: Final = 2048
_PUBLIC_EXPONENT: Final = 65537


class ExtraMissingError(RuntimeError):
    """What signs is not installed; the text says how to install it."""


class SigningKeys:
    """
    A key pair for each version, made when it is first needed.

    Attributes:
        private_pems: The private keys by version, as PEM.
    """

    def __init__(self) -> None:
        self.private_pems: dict[int, str] = {}

    def sign(self, claims: Mapping[str, Any], version: int) -> str:
        """
        Return a JWT of *claims* with PS256, as RegisterUsage answers.

        Raises:
            ExtraMissingError: where the extra `jwt` is not installed.
        """
        key = self._private_pem(version)
        try:
            import jwt  # noqa: PLC0415 - of an extra
        except ImportError as error:
            raise ExtraMissingError(_MISSING) from error
        return jwt.encode(dict(claims), key, algorithm="PS256")

    def public_pem(self, version: int = 1) -> str:
        """
        Return the public key of a version, as PEM.

        Raises:
            ExtraMissingError: where the extra `jwt` is not installed.
            ValueError: for a version below 1.
        """
        private = self._private_pem(version)
        from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415

        key = form.load_pem_private_key(private.encode(), password=None)
        public = key.public_key().public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        )
        return public.decode()

    def _private_pem(self, version: int) -> str:
        if version < 1:
            raise ValueError(f"version: expected 1 or more, got {version}")
        if version not in self.private_pems:
            self.private_pems[version] = _new_private_pem()
        return self.private_pems[version]


def _new_private_pem() -> str:
    try:
        from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissingError(_MISSING) from error
    key = rsa.generate_private_key(_PUBLIC_EXPONENT, _BITS)
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem.decode()
