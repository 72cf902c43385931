"""Usage metering for AWS Marketplace from asyncio."""

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.records import UsageRecord

__all__ = ["MarketplaceMeteringClient", "UsageRecord"]
