"""The command line, `marketplace-metering` (extra `cli`)."""

from marketplace_metering_async.cli.app import main

__all__ = ["main"]
