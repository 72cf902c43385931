"""
Usage metering for AWS Marketplace from asyncio.

`MarketplaceMeteringClient.batch_meter_usage()` takes any number of records and returns a verdict
on each; `UsageBatcher` fills requests from single records, `UsageLedger` keeps usage safe until it
is metered, and `coalesce()` adds events up to hourly records.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from marketplace_metering_async.aws.endpoints import Endpoint
    from marketplace_metering_async.aws.transport import Request, Response, Transport
    from marketplace_metering_async.batcher import UsageBatcher
    from marketplace_metering_async.client import MarketplaceMeteringClient
    from marketplace_metering_async.clock import Clock, SystemClock
    from marketplace_metering_async.coalescing import Coalesced, Coalescer, HeldHour, coalesce
    from marketplace_metering_async.customers import Customer
    from marketplace_metering_async.errors import (
        BatchMeterUsageError,
        BothSchemesError,
        CannotResolveError,
        ClientClosedError,
        ConfigurationError,
        ConflictingRecordsError,
        DeliveryTimeoutError,
        EventConflictError,
        EventTooOldError,
        InvalidRecordError,
        InvalidRecordTypeError,
        InvalidRegistrationError,
        InvalidResponseError,
        KeyAlreadySentError,
        LateUsageError,
        LedgerClosedError,
        LedgerError,
        LedgerMissingError,
        LedgerOutcomeUnknownError,
        LedgerRegionMismatchError,
        LedgerUnusableError,
        MarketplaceMeteringException,
        MeteringError,
        NoCredentialsError,
        NoRegionError,
        NotProcessedError,
        OutOfWindowError,
        QuantityOverflowError,
        RecordNotMeteredError,
        SdkClientError,
        SimilarRecordRefusedError,
        TransportError,
        UnexpectedError,
        UsageRefusedError,
        Violation,
    )
    from marketplace_metering_async.events import (
        BatchEnded,
        BatchReleased,
        CallEnded,
        Event,
        Isolated,
        Isolating,
        LoggingObserver,
        Observer,
        RelayBlocked,
        RelayWorking,
        Retrying,
        SendingStopped,
        Settled,
        Throttled,
        UsageEndedUnmetered,
        WarningIssued,
    )
    from marketplace_metering_async.flow.pacing import AdaptivePacer, CallEnd, Pacer
    from marketplace_metering_async.flow.retries import RetryPolicy
    from marketplace_metering_async.ledger import *
    from marketplace_metering_async.limits import ServiceMetadata
    from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord
    from marketplace_metering_async.registration import Registration, verify_registration
    from marketplace_metering_async.results import (
        BatchMeterUsageResult,
        MeterUsageResult,
        RecordResult,
        RecordStatus,
        RegisterUsageResult,
        ResolveCustomerResult,
        Verdict,
    )
    from marketplace_metering_async.service_errors import (
        CustomerNotEntitledException,
        DisabledApiException,
        DuplicateRequestException,
        ExpiredTokenException,
        IdempotencyConflictException,
        InternalServiceErrorException,
        InvalidCustomerIdentifierException,
        InvalidEndpointRegionException,
        InvalidLicenseException,
        InvalidProductCodeException,
        InvalidPublicKeyVersionException,
        InvalidRegionException,
        InvalidTagException,
        InvalidTokenException,
        InvalidUsageAllocationsException,
        InvalidUsageDimensionException,
        PlatformNotSupportedException,
        ThrottlingException,
        TimestampOutOfBoundsException,
    )
    from marketplace_metering_async.telemetry import OpenTelemetryObserver

__all__ = [
    "AdaptivePacer",
    "AddedUsage",
    "Attempt",
    "BatchEnded",
    "BatchMeterUsageError",
    "BatchMeterUsageResult",
    "BatchReleased",
    "BothSchemesError",
    "CallEnd",
    "CallEnded",
    "CannotResolveError",
    "CarriedUsage",
    "ClientClosedError",
    "Clock",
    "Coalesced",
    "Coalescer",
    "ConfigurationError",
    "ConflictingRecordsError",
    "Customer",
    "CustomerNotEntitledException",
    "DeliveryTimeoutError",
    "DisabledApiException",
    "DuplicateRequestException",
    "Endpoint",
    "Event",
    "EventConflictError",
    "EventTooOldError",
    "ExpiredTokenException",
    "Explanation",
    "HeldHour",
    "HistoryEntry",
    "HourState",
    "IdempotencyConflictException",
    "InternalServiceErrorException",
    "InvalidCustomerIdentifierException",
    "InvalidEndpointRegionException",
    "InvalidLicenseException",
    "InvalidProductCodeException",
    "InvalidPublicKeyVersionException",
    "InvalidRecordError",
    "InvalidRecordTypeError",
    "InvalidRegionException",
    "InvalidRegistrationError",
    "InvalidResponseError",
    "InvalidTagException",
    "InvalidTokenException",
    "InvalidUsageAllocationsException",
    "InvalidUsageDimensionException",
    "Isolated",
    "Isolating",
    "KeyAlreadySentError",
    "LateUsageError",
    "LedgerClosedError",
    "LedgerError",
    "LedgerMissingError",
    "LedgerOutcomeUnknownError",
    "LedgerRegionMismatchError",
    "LedgerStatus",
    "LedgerUnusableError",
    "LoggingObserver",
    "MarketplaceMeteringClient",
    "MarketplaceMeteringException",
    "MeterUsageResult",
    "MeteringError",
    "NoCredentialsError",
    "NoRegionError",
    "NotProcessedError",
    "Observer",
    "OpenTelemetryObserver",
    "OutOfWindowError",
    "Pacer",
    "PlatformNotSupportedException",
    "ProductDimension",
    "ProductStatus",
    "QuantityOverflowError",
    "RecordNotMeteredError",
    "RecordResult",
    "RecordStatus",
    "RegisterUsageResult",
    "Registration",
    "RelayBlocked",
    "RelayReport",
    "RelayWorking",
    "Relaying",
    "Request",
    "Resolution",
    "ResolveCustomerResult",
    "Response",
    "RetryPolicy",
    "Retrying",
    "SdkClientError",
    "SendingStopped",
    "ServiceMetadata",
    "Settled",
    "SimilarRecordRefusedError",
    "SystemClock",
    "Tag",
    "Throttled",
    "ThrottlingException",
    "TimestampOutOfBoundsException",
    "Transport",
    "TransportError",
    "UnexpectedError",
    "UsageAllocation",
    "UsageBatcher",
    "UsageEndedUnmetered",
    "UsageLedger",
    "UsageRecord",
    "UsageRefusedError",
    "UsageToAdd",
    "Verdict",
    "Violation",
    "WarningIssued",
    "coalesce",
    "verify_registration",
]

_HOMES: Final = (
    "errors",
    "service_errors",
    "limits",
    "customers",
    "records",
    "results",
    "coalescing",
    "registration",
    "clock",
    "events",
    "flow.pacing",
    "flow.retries",
    "aws.transport",
    "aws.endpoints",
    "client",
    "batcher",
    "ledger",
    "telemetry",
)
"""Where the names are, lower floors first: what is asked for loads none that is above it."""


def __dir__() -> list[str]:
    """List what a program may import, for completion and help()."""
    return sorted(__all__)


if not TYPE_CHECKING:  # where it would make a name of any misspelled one

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
        """Import what is asked for: pytest loads our plugin in every project, used or not."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        modules = (import_module(f"{__name__}.{home}") for home in _HOMES)
        found = next(vars(module)[name] for module in modules if name in vars(module))
        globals()[name] = found
        return found
