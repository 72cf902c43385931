"""
Whose fault an error is: one table from the service's code, or its HTTP status, to a ErrorKind.

The order of the questions: is it a response of the service? Then a 5xx is the service's fault, the
code decides otherwise, and where the code is unknown the status. Is it somebody else's response,
or none at all? Then it is the service's fault, or that of the way to it, whatever broke: it says
nothing of any record, and nothing of what became of the request.

What is unknown is not the record's fault: a new code of the service must not burn records.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from marketplace_metering_async.errors import (
    InvalidResponseError,
    MarketplaceMeteringException,
    MeteringError,
    TransportError,
    UnexpectedError,
)
from marketplace_metering_async.service_codes import is_stale_registration


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


_CODES: Final[Mapping[ErrorKind, tuple[str, ...]]] = MappingProxyType(
    {
        ErrorKind.CONTENT: (
            "InvalidCustomerIdentifierException",
            "InvalidTagException",
            "InvalidUsageAllocationsException",
            "InvalidUsageDimensionException",
            "RequestEntityTooLargeException",
            "RequestEntityTooLarge",
        ),
        ErrorKind.STATE: ("InvalidLicenseException", "TimestampOutOfBoundsException"),
        ErrorKind.PRODUCT: ("InvalidProductCodeException",),
        ErrorKind.ACCOUNT: (
            "AccessDenied",
            "AccessDeniedException",
            "AuthFailure",
            "DisabledApiException",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidAction",
            "InvalidEndpointRegionException",
            "InvalidRegionException",
            "MalformedHttpRequestException",
            "MissingAction",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorized",
            "OptInRequired",
            "SubscriptionRequiredException",
            "UnauthorizedException",
            "UnauthorizedOperation",
            "UnknownOperationException",
        ),
        ErrorKind.CREDENTIALS: (
            "ExpiredToken",
            "ExpiredTokenException",
            "InvalidAccessKeyId",  # this and the likes of it: a key that was rotated away
            "InvalidClientTokenId",
            "TokenRefreshRequired",
            "UnrecognizedClientException",
        ),
        ErrorKind.CLOCK: (
            "InvalidSignatureException",
            "RequestExpired",
            "RequestInTheFuture",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
        ),
        ErrorKind.THROTTLE: (
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
            "ThrottlingException",
            "TooManyRequestsException",
            "TransactionInProgressException",
        ),
        ErrorKind.SERVICE: (
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "InternalServerErrorException",
            "InternalServerException",
            "InternalServiceError",
            "InternalServiceErrorException",
            "InternalServiceException",  # so misspelled in AWS's own pipeline, which burns records
            "RequestTimeout",
            "RequestTimeoutException",
            "ServiceUnavailable",
            "ServiceUnavailableException",
        ),
    }
)

FAULT_OF_CODE: Final[Mapping[str, ErrorKind]] = MappingProxyType(
    {code: fault for fault, codes in _CODES.items() for code in codes}
)
"""
The service's modelled errors, AWS's common errors
(docs.aws.amazon.com/awsconsolehelpdocs/latest/gsg/common-errors.html) and the throttling and
transient codes of AWS's SDKs. The modelled errors of the other operations are not in it: those
operations send no records, and are not retried.
"""

_FAULT_OF_STATUS: Final[Mapping[int, ErrorKind]] = MappingProxyType(
    {
        401: ErrorKind.ACCOUNT,
        403: ErrorKind.ACCOUNT,
        404: ErrorKind.ACCOUNT,
        405: ErrorKind.ACCOUNT,
        408: ErrorKind.SERVICE,
        413: ErrorKind.CONTENT,
        429: ErrorKind.THROTTLE,
    }
)
"""Of a code that nobody has heard of."""

_TOO_LARGE_STATUS: Final = 413


def classify(error: MeteringError) -> ErrorKind:
    """
    Return whose fault *error* is.

    Any text of the service's message is ignored: it may be reworded or translated at any time.
    """
    match error:
        case TransportError() | InvalidResponseError() | UnexpectedError():
            return ErrorKind.SERVICE
        case MarketplaceMeteringException(code=code, operation=operation, status=status):
            if status is not None and status >= 500:
                return ErrorKind.SERVICE
            if is_stale_registration(code, operation, status):
                return ErrorKind.UNKNOWN
            return FAULT_OF_CODE.get(code) or _FAULT_OF_STATUS.get(status or 0, ErrorKind.UNKNOWN)
    return ErrorKind.ACCOUNT


def may_have_been_applied(error: MeteringError) -> bool:
    """
    Return whether the service may have acted on the request that *error* ended.

    Only the service itself proves that it has not, by a 4xx with a code and its request id; or
    the transport, where nothing was sent.
    """
    match error:
        case TransportError(sent=sent):
            return sent
        case _:
            return classify(error) is ErrorKind.SERVICE


def is_foreign_too_large(error: MeteringError) -> bool:
    """
    Return whether somebody on the way, such as a proxy, found the request too large (HTTP 413).

    It leaves doubt, and blames no record; smaller requests may get through.
    """
    return isinstance(error, InvalidResponseError) and error.status == _TOO_LARGE_STATUS
