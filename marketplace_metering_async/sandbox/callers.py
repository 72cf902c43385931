"""Who calls the service, and from where."""

from attrs import frozen


@frozen(kw_only=True)
class Caller:
    """
    Who made a request.

    Attributes:
        region: Of the endpoint, from the credential scope of the signature.
        access_key_id: Of the signature; for MeterUsage and RegisterUsage it is the workload.
        account_id: The account it belongs to, if declared.
        home_region: The region the workload runs in, if declared.
        platform: What the workload runs on, if declared: "ec2", "ecs", "eks" or "agentcore".
    """

    region: str = "us-east-1"
    access_key_id: str = "sandbox"
    account_id: str | None = None
    home_region: str | None = None
    platform: str | None = None

    @property
    def account(self) -> str:
        """What counts as one account: the declared one, or the access key."""
        return self.account_id or self.access_key_id
