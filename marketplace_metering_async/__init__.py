"""
Usage metering for AWS Marketplace from asyncio.

`MarketplaceMeteringClient.batch_meter_usage()` takes any number of records and returns a verdict
on each; `UsageBatcher` fills requests from single records, `UsageLedger` keeps usage safe until it
is metered, and `coalesce()` adds events up to hourly records.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from marketplace_metering_async.batcher import UsageBatcher
    from marketplace_metering_async.client import MarketplaceMeteringClient
    from marketplace_metering_async.clock import Clock, SystemClock
    from marketplace_metering_async.coalescing import Coalesced, Coalescer, HeldHour, coalesce
    from marketplace_metering_async.errors import (
        BatchMeterUsageError,
        BothSchemesError,
        ClientClosedError,
        ConfigurationError,
        ConflictingRecordsError,
        CustomerNotEntitledException,
        DeliveryTimeoutError,
        DisabledApiException,
        DuplicateRequestException,
        EventConflictError,
        ExpiredTokenException,
        IdempotencyConflictException,
        InternalServiceErrorException,
        InvalidCustomerIdentifierException,
        InvalidEndpointRegionException,
        InvalidLicenseException,
        InvalidProductCodeException,
        InvalidPublicKeyVersionException,
        InvalidRecordError,
        InvalidRecordTypeError,
        InvalidRegionException,
        InvalidRegistrationError,
        InvalidResponseError,
        InvalidTagException,
        InvalidTokenException,
        InvalidUsageAllocationsException,
        InvalidUsageDimensionException,
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
        PlatformNotSupportedException,
        QuantityOverflowError,
        RecordNotMeteredError,
        SdkClientError,
        SimilarRecordRefusedError,
        ThrottlingException,
        TimestampOutOfBoundsException,
        TransportError,
        UnexpectedError,
        Violation,
    )
    from marketplace_metering_async.events import LoggingObserver, Observer
    from marketplace_metering_async.flow.pacing import AdaptivePacer, Pacer
    from marketplace_metering_async.flow.retries import RetryPolicy
    from marketplace_metering_async.ledger import HourState, LedgerStatus, UsageLedger
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
    )

__all__ = [
    "AdaptivePacer",
    "BatchMeterUsageError",
    "BatchMeterUsageResult",
    "BothSchemesError",
    "ClientClosedError",
    "Clock",
    "Coalesced",
    "Coalescer",
    "ConfigurationError",
    "ConflictingRecordsError",
    "CustomerNotEntitledException",
    "DeliveryTimeoutError",
    "DisabledApiException",
    "DuplicateRequestException",
    "EventConflictError",
    "ExpiredTokenException",
    "HeldHour",
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
    "OutOfWindowError",
    "Pacer",
    "PlatformNotSupportedException",
    "QuantityOverflowError",
    "RecordNotMeteredError",
    "RecordResult",
    "RecordStatus",
    "RegisterUsageResult",
    "Registration",
    "ResolveCustomerResult",
    "RetryPolicy",
    "SdkClientError",
    "ServiceMetadata",
    "SimilarRecordRefusedError",
    "SystemClock",
    "Tag",
    "ThrottlingException",
    "TimestampOutOfBoundsException",
    "TransportError",
    "UnexpectedError",
    "UsageAllocation",
    "UsageBatcher",
    "UsageLedger",
    "UsageRecord",
    "Violation",
    "coalesce",
    "verify_registration",
]

_NAMES_OF: Final = {
    "batcher": ["UsageBatcher"],
    "client": ["MarketplaceMeteringClient"],
    "clock": ["Clock", "SystemClock"],
    "coalescing": ["Coalesced", "Coalescer", "HeldHour", "coalesce"],
    "events": ["LoggingObserver", "Observer"],
    "ledger": ["HourState", "LedgerStatus", "UsageLedger"],
    "limits": ["ServiceMetadata"],
    "flow.pacing": ["AdaptivePacer", "Pacer"],
    "flow.retries": ["RetryPolicy"],
    "records": ["Tag", "UsageAllocation", "UsageRecord"],
    "registration": ["Registration", "verify_registration"],
    "results": [
        "BatchMeterUsageResult",
        "MeterUsageResult",
        "RecordResult",
        "RecordStatus",
        "RegisterUsageResult",
        "ResolveCustomerResult",
    ],
}
_HOMES: Final = {name: module for module, names in _NAMES_OF.items() for name in names}


def __dir__() -> list[str]:
    """List what a program may import, for completion and help()."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Import what is asked for: pytest loads our plugin in every project, used or not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "errors")
    found = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
