"""
What to do about error codes of the service that have no exception class of their own.

AWS's common errors (docs.aws.amazon.com/awsconsolehelpdocs/latest/gsg/common-errors.html), the
codes of its SDKs, and the one code that means two things. Codes of the service's model have their
advice in `service_errors`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_OF_CREDENTIALS: Final = 403
_REFRESH: Final = (
    "The AWS credentials have expired: refresh them (AWS_SESSION_TOKEN, `aws sso login`, the role)."
)
_ALLOWED: Final = (
    "Allow aws-marketplace:{operation} on * in an IAM policy of the role or user that these "
    "credentials are of; no policy, permissions boundary or service control policy may deny it."
)
_UNKNOWN_KEY: Final = (
    "AWS does not know this access key id: check AWS_ACCESS_KEY_ID or the profile (was the key "
    "deleted or rotated? is it of another partition, as China's?)."
)
_WRONG_SIGNATURE: Final = (
    "The signature is not that of this access key: check that AWS_SECRET_ACCESS_KEY belongs to "
    "AWS_ACCESS_KEY_ID, and that no proxy changes requests."
)
_CLOCK: Final = "Set this machine's clock: the service refuses signatures of another time."
_SLOWER: Final = "Send again later; lower calls_per_second if others use the same quota."
_AGAIN: Final = "The service, or the way to it, failed: send the identical records again."
_ACCOUNT: Final = (
    "Sign in to the AWS Marketplace Management Portal with this account: it has to be a seller's, "
    "opted in to the region."
)
_SHAPE: Final = (
    "The request has a form that the service does not take. Read `message`: it names the member. "
    "Where the service has changed, a newer version of this package may know it."
)
_ENDPOINT: Final = (
    "What answers at the endpoint does not know the operation: check the endpoint URL and the "
    "region."
)
_TOO_LARGE: Final = (
    "One record makes the request too large for the service: give it fewer or shorter allocations."
)
_BUYER_AGAIN: Final = (
    'Let the buyer click "Set up your account" again: a registration token lives four hours. If '
    "all buyers' tokens are refused so, the AWS credentials have expired: "
    "`marketplace-metering doctor` tells."
)
_UNKNOWN: Final = (
    "This version does not know the code: read `message`, and look the code up in the reference "
    "of {operation}. No record is blamed for it."
)

_CODES: Final = {
    _REFRESH: ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"),
    _ALLOWED: (
        "AccessDenied",
        "AccessDeniedException",
        "NotAuthorized",
        "UnauthorizedException",
        "UnauthorizedOperation",
    ),
    _UNKNOWN_KEY: (
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    ),
    _WRONG_SIGNATURE: (
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
    ),
    _CLOCK: ("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"),
    _ACCOUNT: ("OptInRequired", "SubscriptionRequiredException"),
    _ENDPOINT: (
        "InvalidAction",
        "MalformedHttpRequestException",
        "MissingAction",
        "UnknownOperationException",
    ),
    _SHAPE: ("SerializationException", "ValidationError", "ValidationException"),
    _TOO_LARGE: ("RequestEntityTooLarge", "RequestEntityTooLargeException"),
    _SLOWER: (
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "TooManyRequestsException",
        "TransactionInProgressException",
    ),
    _AGAIN: (
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerErrorException",
        "InternalServerException",
        "InternalServiceError",
        "InternalServiceException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    ),
}
_ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {code: advice for advice, codes in _CODES.items() for code in codes}
)

KNOWN: Final = frozenset(_ADVICE)
"""The codes that have advice here."""


def is_stale_registration(code: str, operation: str, status: int | None) -> bool:
    """
    Return whether `ExpiredTokenException` is about a buyer's registration token.

    It is on ResolveCustomer, unless the status is that of refused credentials. On every other
    operation, which has no such token, it is about the AWS credentials, whatever the status.
    """
    of_a_token = code == "ExpiredTokenException" and operation == "ResolveCustomer"
    return of_a_token and status != _OF_CREDENTIALS


def advice_on(code: str, operation: str, status: int | None) -> str:
    """Return what to do about *code*, met in *operation* with the HTTP *status*."""
    if is_stale_registration(code, operation, status):
        return _BUYER_AGAIN
    return _ADVICE.get(code, _UNKNOWN).replace("{operation}", operation)
