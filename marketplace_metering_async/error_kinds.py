"""
Whose fault an error is: from the service's code, or its HTTP status, to an ErrorKind.

The order of the questions: is it a response of the service? Then a 5xx is the service's fault, the
code decides otherwise, and where the code is unknown the status. Is it somebody else's response,
or none at all? Then it is the service's fault, or that of the way to it, whatever broke: it says
nothing of any record, and nothing of what became of the request.

What is unknown is not the record's fault: a new code of the service must not burn records.
"""

from collections.abc import Mapping
from typing import Final

from marketplace_metering_async.errors import (
    InvalidResponseError,
    MarketplaceMeteringException,
    MeteringError,
    TransportError,
    UnexpectedError,
)
from marketplace_metering_async.service_codes import ErrorKind, is_stale_registration, kind_of

_MODELLED: Final[Mapping[str, ErrorKind]] = {
    "DisabledApiException": ErrorKind.ACCOUNT,
    "InternalServiceErrorException": ErrorKind.SERVICE,
    "InvalidCustomerIdentifierException": ErrorKind.CONTENT,
    "InvalidEndpointRegionException": ErrorKind.ACCOUNT,
    "InvalidLicenseException": ErrorKind.STATE,
    "InvalidProductCodeException": ErrorKind.PRODUCT,
    "InvalidRegionException": ErrorKind.ACCOUNT,
    "InvalidTagException": ErrorKind.CONTENT,
    "InvalidUsageAllocationsException": ErrorKind.CONTENT,
    "InvalidUsageDimensionException": ErrorKind.CONTENT,
    "ThrottlingException": ErrorKind.THROTTLE,
    "TimestampOutOfBoundsException": ErrorKind.STATE,
}
"""
The errors of the service's model. Those that only the other operations have are not in it: those
operations send no records, and are not retried.
"""

_FAULT_OF_STATUS: Final[Mapping[int | None, ErrorKind]] = {
    401: ErrorKind.ACCOUNT,
    403: ErrorKind.ACCOUNT,
    404: ErrorKind.ACCOUNT,
    405: ErrorKind.ACCOUNT,
    408: ErrorKind.SERVICE,
    413: ErrorKind.CONTENT,
    429: ErrorKind.THROTTLE,
}
"""Of a code that nobody has heard of."""


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
            known = _MODELLED.get(code) or kind_of(code)
            return known or _FAULT_OF_STATUS.get(status, ErrorKind.UNKNOWN)
    return ErrorKind.ACCOUNT


def may_have_been_applied(error: MeteringError) -> bool:
    """
    Return whether the service may have acted on the request that *error* ended.

    Only the service itself proves that it has not, by a 4xx with a code and its request id; or
    the transport, where nothing was sent.
    """
    if isinstance(error, TransportError):
        return error.sent
    return classify(error) is ErrorKind.SERVICE


def is_foreign_too_large(error: MeteringError) -> bool:
    """
    Return whether somebody on the way, such as a proxy, found the request too large (HTTP 413).

    It leaves doubt, and blames no record; smaller requests may get through.
    """
    return isinstance(error, InvalidResponseError) and error.status == 413
