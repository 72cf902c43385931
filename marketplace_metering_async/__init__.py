"""Usage metering for AWS Marketplace from asyncio."""
