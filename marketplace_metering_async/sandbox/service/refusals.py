"""How the sandbox says no: the service's codes, and for people how to fix what was refused."""

from typing import Final

from attrs import frozen


@frozen
class Cause:
    """
    Why a request was refused.

    Attributes:
        rule: The rule that was broken, as in the answer.
        remedy: What a person can do about it.
    """

    rule: str
    remedy: str


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the sandbox
    """
    A request that the service answers with an error; nothing of it is applied.

    Attributes:
        code: The service's error code.
        message: The rule that was broken, as in the answer; it names no customer and no license,
            since clients put it into their logs.
        status: The HTTP status; by default the one that goes with the code.
        remedy: What a person can do about it; never sent.
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        status: int | None = None,
        *,
        remedy: str | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.status = _STATUSES.get(code, 400) if status is None else status
        self.remedy = REMEDIES.get(code, "") if remedy is None else remedy
        super().__init__(code, message)


ANOTHER_SELLER: Final = Cause(
    "another account published the product",
    "Use credentials of the account that published the product.",
)
"""Why a seller may not meter, or resolve, for a product."""


def invalid(path: str, constraint: str) -> Refusal:
    """Return the refusal of a member whose value breaks a *constraint* of the service's model."""
    text = f"1 validation error detected: Value at '{path}' failed to satisfy constraint: "
    return Refusal("ValidationException", text + constraint)


def unreadable(path: str, expected: str) -> Refusal:
    """Return the refusal of a member that has another type than the service's model says."""
    return Refusal("SerializationException", f"{path}: expected {expected}")


_STATUSES: Final = {
    "AccessDeniedException": 403,
    "DryRunOperation": 412,
    "IncompleteSignatureException": 403,
    "InternalFailure": 500,
    "InternalServiceErrorException": 500,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "RequestEntityTooLargeException": 413,
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
    "UnauthorizedException": 403,
    "UnrecognizedClientException": 403,
}
"""Where it is not 400. ExpiredTokenException has two: 400 of a registration, 403 of credentials."""

REMEDIES: Final[dict[str, str]] = {
    "AccessDeniedException": "Let the credentials call aws-marketplace:<operation>.",
    "CustomerNotEntitledException": "Subscribe the buyer before the workload starts.",
    "DisabledApiException": "Use a region where the operation is offered, such as us-east-1.",
    "DryRunOperation": "Nothing: without DryRun the request would have succeeded.",
    "DuplicateRequestException": "The first quantity of an hour stands; meter in the next hour.",
    "ExpiredTokenException": "Renew the credentials, or let the buyer click again.",
    "IdempotencyConflictException": "Use a new ClientToken for a new request.",
    "IncompleteSignatureException": "Sign the request with Signature Version 4, all parts of it.",
    "InternalServiceErrorException": "Send the same records again, later.",
    "InvalidCustomerIdentifierException": "Send the id that ResolveCustomer returned.",
    "InvalidEndpointRegionException": "Call the endpoint of the region the workload runs in.",
    "InvalidLicenseException": (
        "Send licenses of one product a call, each with its own account, "
        "and usage from within the agreement."
    ),
    "InvalidProductCodeException": (
        "Send the code of a declared product; none for a product with concurrent agreements."
    ),
    "InvalidPublicKeyVersionException": "Send the version that the product has.",
    "InvalidRegionException": "Call the endpoint of the region the task runs in.",
    "InvalidSignatureException": "Check secret key, region and the machine's clock.",
    "InvalidTagException": "At most five tags of letters, digits, blanks and +-=._:/@.",
    "InvalidTokenException": "Decode the form field once and send its value.",
    "InvalidUsageAllocationsException": "Let the allocations add up, each with its own tags.",
    "MissingAuthenticationTokenException": "Sign the request with Signature Version 4.",
    "PlatformNotSupportedException": "Call from a task of Amazon ECS or a pod of Amazon EKS.",
    "RequestEntityTooLargeException": "Send fewer than 1,000,000 bytes a request.",
    "SerializationException": "Send JSON of the types that the service's model has.",
    "ThrottlingException": "Slow down, and send the same records again.",
    "UnauthorizedException": "Let the credentials call aws-marketplace:MeterUsage.",
    "UnknownOperationException": "Name one of the four operations in X-Amz-Target.",
    "UnrecognizedClientException": "Use a declared access key.",
    "ValidationException": "Keep to the members and limits of the service's model.",
}
"""What a person can do about a refusal that names no remedy of its own."""
