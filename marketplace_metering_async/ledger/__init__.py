"""The ledger: usage that survives a crash and is billed exactly once."""

from marketplace_metering_async.ledger.explanations import Explanation
from marketplace_metering_async.ledger.history import (
    Attempt,
    CarriedUsage,
    HistoryEntry,
    Resolution,
)
from marketplace_metering_async.ledger.ledger import UsageLedger
from marketplace_metering_async.ledger.model import HourState, ProductDimension
from marketplace_metering_async.ledger.posting import AddedUsage
from marketplace_metering_async.ledger.relay_report import RelayReport
from marketplace_metering_async.ledger.relaying import Relaying
from marketplace_metering_async.ledger.status import LedgerStatus, ProductStatus
from marketplace_metering_async.ledger.usage import UsageToAdd

__all__ = [
    "AddedUsage",
    "Attempt",
    "CarriedUsage",
    "Explanation",
    "HistoryEntry",
    "HourState",
    "LedgerStatus",
    "ProductDimension",
    "ProductStatus",
    "RelayReport",
    "Relaying",
    "Resolution",
    "UsageLedger",
    "UsageToAdd",
]
