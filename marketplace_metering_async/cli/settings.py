"""The options that commands share, and what they make of them."""

import ipaddress
import os
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from attrs import frozen

from marketplace_metering_async.client import MarketplaceMeteringClient

EndpointUrl = Annotated[
    str | None, typer.Option("--endpoint-url", help="Another endpoint, such as the sandbox's.")
]
Profile = Annotated[str | None, typer.Option("--profile", help="A profile of the shared config.")]
Region = Annotated[str | None, typer.Option("--region", help="The AWS region.")]
ProductCode = Annotated[
    str | None, typer.Option("--product-code", help="The product of records that name none.")
]
CallsPerSecond = Annotated[
    float, typer.Option("--calls-per-second", help="The account's quota; 0: find it out.", min=0)
]


@frozen(kw_only=True)
class Settings:
    """Which service to talk to, and as whom."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    calls_per_second: float = 10.0

    def client(self, **more: Any) -> MarketplaceMeteringClient:  # noqa: ANN401
        """Return a client; the caller closes it."""
        return MarketplaceMeteringClient(
            endpoint_url=self.endpoint_url,
            profile_name=self.profile,
            region_name=self.region,
            calls_per_second=self.calls_per_second or None,
            **more,
        )

    @property
    def is_live(self) -> bool:
        """Whether real customers would be billed: the endpoint is not on this machine."""
        url = (
            self.endpoint_url
            or os.environ.get("AWS_ENDPOINT_URL_MARKETPLACE_METERING")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        host = urlsplit(url).hostname if url else None
        try:
            return host is None or not (
                host == "localhost" or ipaddress.ip_address(host).is_loopback
            )
        except ValueError:
            return True
