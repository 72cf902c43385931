"""How the sandbox says no: the service's codes, and for people the rule and how to mend it."""

from typing import Final


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the sandbox
    """
    A request that the service answers with an error; nothing of it is applied.

    Attributes:
        code: The service's error code.
        message: The text in the answer.
        status: The HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code = code
        self.message = message
        self.status = status
        super().__init__(code, message)


MENDING: Final[dict[str, str]] = {
    "AccessDeniedException": "Let the credentials call aws-marketplace:BatchMeterUsage.",
    "CustomerNotEntitledException": "Subscribe the buyer before the workload starts.",
    "DuplicateRequestException": "The first quantity of an hour stands; meter in the next hour.",
    "ExpiredTokenException": "Renew the credentials, or let the buyer click again.",
    "IdempotencyConflictException": "Use a new ClientToken for a new request.",
    "InvalidCustomerIdentifierException": "Send the id that ResolveCustomer returned.",
    "InvalidLicenseException": "One product's licenses a call, each with its own account.",
    "InvalidProductCodeException": "Send the code of a declared product.",
    "InvalidPublicKeyVersionException": "Send the version that the product has.",
    "InvalidSignatureException": "Check secret key, region and the machine's clock.",
    "InvalidTagException": "At most five tags of letters, digits, blanks and +-=._:/@.",
    "InvalidTokenException": "Decode the form field once and send its value.",
    "InvalidUsageAllocationsException": "Let the allocations add up, each with its own tags.",
    "InvalidUsageDimensionException": "Send a dimension of the product; letter case counts.",
    "MissingAuthenticationTokenException": "Sign the request with Signature Version 4.",
    "RequestEntityTooLargeException": "Send fewer than 1,000,000 bytes a request.",
    "SerializationException": "Send JSON of the types that the service's model has.",
    "ThrottlingException": "Slow down, and send the same records again.",
    "TimestampOutOfBoundsException": "Send within 24 hours, and by 06:00 UTC on the 1st.",
    "UnknownOperationException": "Name one of the four operations in X-Amz-Target.",
    "UnrecognizedClientException": "Use a declared access key.",
    "ValidationException": "Keep to the members and limits of the service's model.",
}
"""What a person can do about each refusal."""
