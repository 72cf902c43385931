"""
Error codes of the service without an exception class of their own: whose fault, and what to do.

AWS's common errors (docs.aws.amazon.com/awsconsolehelpdocs/latest/gsg/common-errors.html), the
throttling and transient codes of its SDKs, and the one code that means two things. Codes of the
service's model have their advice in `service_errors`, and their kind in `error_kinds`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class ErrorKind(StrEnum):
    """Whose fault an error is, and so what to do about it."""

    CONTENT = "content"
    """The record's: what it says. It would be refused at any time: isolate it, REJECTED."""
    STATE = "state"
    """The record's, at this time: timestamp, license. Isolate it; it may have been taken before."""
    UNKNOWN = "unknown"
    """A refusal nobody has heard of: isolate, but blame no record."""
    PRODUCT = "product"
    """The account's, for one product: stop its lane."""
    ACCOUNT = "account"
    """The account's or the configuration's: stop all lanes."""
    CREDENTIALS = "credentials"
    """The keys are too old: look once for newer ones, then it is the account's."""
    CLOCK = "clock"
    """The signature's time is off: correct the clock once, then it is the account's."""
    THROTTLE = "throttle"
    """The service's: too many calls. Not acted upon: slow down and send again."""
    SERVICE = "service"
    """The service's, or the way to it: send again. It may have been acted upon."""


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

_CODES: Final[Mapping[tuple[ErrorKind | None, str], tuple[str, ...]]] = {
    (ErrorKind.ACCOUNT, _ALLOWED): (
        "AccessDenied",
        "AccessDeniedException",
        "NotAuthorized",
        "UnauthorizedException",
        "UnauthorizedOperation",
    ),
    (ErrorKind.ACCOUNT, _UNKNOWN_KEY): ("AuthFailure",),
    (ErrorKind.ACCOUNT, _WRONG_SIGNATURE): (
        "IncompleteSignature",
        "IncompleteSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    ),
    (ErrorKind.ACCOUNT, _ACCOUNT): ("OptInRequired", "SubscriptionRequiredException"),
    (ErrorKind.ACCOUNT, _ENDPOINT): (
        "InvalidAction",
        "MalformedHttpRequestException",
        "MissingAction",
        "UnknownOperationException",
    ),
    (ErrorKind.CREDENTIALS, _REFRESH): (
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
    ),
    (ErrorKind.CREDENTIALS, _UNKNOWN_KEY): (
        "InvalidAccessKeyId",  # this and the likes of it: a key that was rotated away
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    ),
    (ErrorKind.CLOCK, _WRONG_SIGNATURE): ("InvalidSignatureException", "SignatureDoesNotMatch"),
    (ErrorKind.CLOCK, _CLOCK): ("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"),
    (ErrorKind.CONTENT, _TOO_LARGE): ("RequestEntityTooLarge", "RequestEntityTooLargeException"),
    (ErrorKind.THROTTLE, _SLOWER): (
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
    (ErrorKind.SERVICE, _AGAIN): (
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerErrorException",
        "InternalServerException",
        "InternalServiceError",
        "InternalServiceException",  # so misspelled in AWS's own pipeline, which burns records
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    ),
    (None, _SHAPE): ("SerializationException", "ValidationError", "ValidationException"),
}
"""Kind (None: by the HTTP status) and advice, and the codes that have them."""

KNOWN: Final = {code: meaning for meaning, codes in _CODES.items() for code in codes}
"""The same the other way round: the codes that have advice here."""


def kind_of(code: str) -> ErrorKind | None:
    """Return whose fault *code* is; None where it is none of these, or does not say."""
    return KNOWN[code][0] if code in KNOWN else None


def is_stale_registration(code: str, operation: str, status: int | None) -> bool:
    """
    Return whether `ExpiredTokenException` is about a buyer's registration token.

    It is on ResolveCustomer, unless the status is that of refused credentials. On every other
    operation, which has no such token, it is about the AWS credentials, whatever the status.
    """
    return code == "ExpiredTokenException" and operation == "ResolveCustomer" and status != 403


def advice_on(code: str, operation: str, status: int | None) -> str:
    """Return what to do about *code*, met in *operation* with the HTTP *status*."""
    if is_stale_registration(code, operation, status):
        return _BUYER_AGAIN
    advice = KNOWN[code][1] if code in KNOWN else _UNKNOWN
    return advice.replace("{operation}", operation)
