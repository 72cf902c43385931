"""RegisterUsage: a container asks whether it may run, and the response is signed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.service.parsing import (
    check_names,
    optional_text_of,
    required_product_code_of,
)
from marketplace_metering_async.sandbox.service.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.service.workload import Workload

_CONTAINERS: Final = (None, "ecs", "eks")


@frozen
class RegisteredWorkload:
    """
    A registration that was taken.

    Attributes:
        claims: To be signed.
        rotated: When the public key version was replaced, if it was.
    """

    claims: dict[str, Any]
    rotated: datetime | None


class RegisterUsage(Workload):
    """The operation of one workload at one moment."""

    def answer(self, request: Mapping[str, Any]) -> RegisteredWorkload:
        """
        Apply a request and return the reply, but for the signature.

        Raises:
            Refusal: when the workload may not run; a workload that has registered before may.
        """
        check_names(request, "RegisterUsage", self.rules)
        product_code = required_product_code_of(request)
        version = request.get("PublicKeyVersion")
        if version is None:
            raise invalid("publicKeyVersion", "Member must not be null")
        if type(version) is not int:
            raise unreadable("publicKeyVersion", "an integer")
        if version < 1:
            text = "Member must have value greater than or equal to 1"
            raise invalid("publicKeyVersion", text)
        nonce = optional_text_of(request, "Nonce", 255)
        self.check_offered("DisabledApiException", in_government=False)
        self.check_place("InvalidRegionException")
        product = self.product(product_code)
        rotated = _rotation_of(product, version)
        registered = (self.principal.access_key_id, product_code)
        if registered not in self.memory.registered:
            if self.principal.platform not in _CONTAINERS:
                text = "the workload runs on no platform that containers are metered on"
                raise Refusal("PlatformNotSupportedException", text)
            if product is not None:
                self.check_entitled(product_code, product)
        self.memory.registered.add(registered)
        claims: dict[str, Any] = {"ProductCode": product_code, "PublicKeyVersion": version}
        if nonce is not None:
            claims["Nonce"] = nonce
        return RegisteredWorkload(claims, rotated)


def _rotation_of(product: Product | None, version: int) -> datetime | None:
    """Return when a key version was replaced; refuse one that has not come yet."""
    if product is None or version == product.public_key_version:
        return None
    if version > product.public_key_version or product.key_rotated is None:
        text = "publicKeyVersion: the product has no such version"
        raise Refusal("InvalidPublicKeyVersionException", text)
    return product.key_rotated
