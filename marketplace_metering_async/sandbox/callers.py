"""Who calls the service, and from where."""

from collections.abc import Mapping
from typing import Any

from attrs import define, setters

from marketplace_metering_async.sandbox.refusals import Refusal


@define(kw_only=True, on_setattr=setters.frozen)
class Caller:
    """
    Who made a request.

    Attributes:
        region: Of the endpoint, from the credential scope of the signature.
        access_key_id: Of the signature; for MeterUsage and RegisterUsage it is the workload.
        account_id: The account it belongs to, if declared.
        home_region: The region the workload runs in, if declared.
        may: The operations it may call; None: all.
        platform: What the workload runs on, if declared: "ec2", "ecs", "eks" or "agentcore".
    """

    region: str = "us-east-1"
    access_key_id: str = "sandbox"
    account_id: str | None = None
    home_region: str | None = None
    platform: str | None = None
    may: frozenset[str] | None = None

    @property
    def account(self) -> str:
        """What counts as one account: the declared one, or the access key."""
        return self.account_id or self.access_key_id

    def check_permission(self, operation: str, request: Mapping[str, Any]) -> None:
        """
        Refuse what the caller may not do.

        A dry run is refused by a name of its own (API reference of MeterUsage, Nov 2026).
        """
        if self.may is None or operation in self.may:
            return
        text = f"The caller is not authorized to perform: aws-marketplace:{operation}"
        dry = operation == "MeterUsage" and request.get("DryRun") is True
        raise Refusal("UnauthorizedException" if dry else "AccessDeniedException", text, 403)
