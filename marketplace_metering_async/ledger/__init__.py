"""
The ledger: usage that survives a crash and is billed exactly once.

`UsageLedger` is a façade over a store (`stores`), which keeps everything and decides nothing. In:
`usage` reads what a caller says, `group_commit` stores it together with what others bring, and
`posting` decides into which hour it goes, late usage too (`plain_usage` where that is plain).
Out: `sealing` closes `open_hours`, `frozen_record` is what is sent, `claims` says what a `relay`
may take, and `settlement` what a verdict makes of it. What an operator says of the rest is in
`resolutions`; `watermark` and `identity` tell a copy.
"""

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
