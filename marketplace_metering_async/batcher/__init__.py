"""The batcher: single records in, full requests out."""

from marketplace_metering_async.batcher.batcher import UsageBatcher

__all__ = ["UsageBatcher"]
