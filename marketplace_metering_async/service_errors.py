"""The errors that the service's model names, each with what to do about it."""

from collections.abc import Mapping
from typing import Final

from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.service_codes import is_stale_registration


class InternalServiceErrorException(MarketplaceMeteringException):
    """The service failed inside (HTTP 500); it may have acted on the request."""

    advice = "Send the identical records again."


class ThrottlingException(MarketplaceMeteringException):
    """More calls a second than the account's quota for the operation in the region."""

    advice = "Send again later; lower calls_per_second if others use the same quota."


class DisabledApiException(MarketplaceMeteringException):
    """The operation is not offered in this region."""

    advice = "Use a region in which the service offers the operation."


class InvalidProductCodeException(MarketplaceMeteringException):
    """The product code is not one of the account's products."""

    advice = "Check the product code, and that the credentials are of the account that sells it."


class InvalidUsageDimensionException(MarketplaceMeteringException):
    """The dimension is none of the product's."""

    advice = "Use a dimension of the listing; letter case counts."


class InvalidTagException(MarketplaceMeteringException):
    """A tag is not acceptable, or there are too many."""

    advice = "Use at most five tags an allocation, of letters, digits, blanks and +-=._:/@."


class InvalidUsageAllocationsException(MarketplaceMeteringException):
    """The allocations do not add up to the quantity, or repeat a tag set."""

    advice = "Make the allocations add up to the quantity, each with a tag set of its own."


class TimestampOutOfBoundsException(MarketplaceMeteringException):
    """The timestamp is too old, in the future, or before the subscription."""

    advice = (
        "A record older than 24 hours, or of last month after 06:00 UTC on the first, cannot be "
        "metered any more; ask AWS Support, or meter the usage in the current hour. One from the "
        "future can be sent once its time has come."
    )


class InvalidCustomerIdentifierException(MarketplaceMeteringException):
    """The customer is not known for this product."""

    advice = "Use the id that ResolveCustomer returned for this customer and product."


class InvalidLicenseException(MarketplaceMeteringException):
    """The license is not the account's, or not active then, or those of two products were mixed."""

    advice = (
        "Use the license ARN that ResolveCustomer returned for this customer, and usage of a time "
        "at which that license is active."
    )


class InvalidEndpointRegionException(MarketplaceMeteringException):
    """MeterUsage was called in another region than the one the workload runs in."""

    advice = "Call the endpoint of the region that the workload runs in."


class DuplicateRequestException(MarketplaceMeteringException):
    """MeterUsage: the hour of this dimension already has another quantity."""

    advice = "The first quantity of the hour stands; meter the difference in the next hour."


class IdempotencyConflictException(MarketplaceMeteringException):
    """MeterUsage: the client token was used before with other parameters."""

    advice = "Use a new client token for a new request, the same one only for the same request."


class CustomerNotEntitledException(MarketplaceMeteringException):
    """The customer of this workload has no valid subscription."""

    advice = "The buyer must subscribe to the product."


class InvalidRegionException(MarketplaceMeteringException):
    """RegisterUsage was called in another region than the one the task or pod runs in."""

    advice = "Call the endpoint of the region that the task or pod runs in."


class InvalidPublicKeyVersionException(MarketplaceMeteringException):
    """The public key version is not one of the product's."""

    advice = "Use the version of the key that the Marketplace portal shows for the product."


class PlatformNotSupportedException(MarketplaceMeteringException):
    """The container runs on a platform that RegisterUsage does not know."""

    advice = "Run on Amazon ECS, Amazon EKS or AWS Fargate."


class InvalidTokenException(MarketplaceMeteringException):
    """The registration token is not valid."""

    advice = "Decode the form field once and pass its value; the buyer may have to click again."


class ExpiredTokenException(MarketplaceMeteringException):
    """
    A token is too old.

    Which one says `is_stale_registration`: on ResolveCustomer the buyer's registration token, and
    on every other operation the session token of the AWS credentials.
    """

    @property
    def is_stale_registration(self) -> bool:
        """Whether the buyer has to click "Set up your account" again; else refresh the keys."""
        return is_stale_registration(self.code, self.operation, self.status)


MODELLED_ERRORS: Final[Mapping[str, type[MarketplaceMeteringException]]] = {
    kind.__name__: kind
    for kind in MarketplaceMeteringException.__subclasses__()
    if kind.__module__ == __name__
}
"""The service's code to its class; a test holds it against botocore's model."""
