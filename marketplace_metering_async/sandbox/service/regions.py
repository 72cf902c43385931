"""Where the service offers what."""

from typing import Final

REGIONS: Final = frozenset(
    [
        "af-south-1",
        "ap-east-1",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-south-2",
        "ap-southeast-1",
        "ap-southeast-2",
        "ap-southeast-3",
        "ap-southeast-4",
        "ca-central-1",
        "eu-central-1",
        "eu-central-2",
        "eu-north-1",
        "eu-south-1",
        "eu-south-2",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "il-central-1",
        "me-central-1",
        "me-south-1",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
        "cn-northwest-1",
    ]
)
"""Where BatchMeterUsage and ResolveCustomer are offered (Metering Region support, Nov 2026)."""

GOVERNMENT: Final = frozenset(["us-gov-east-1", "us-gov-west-1"])
"""Where software of AMIs is metered as well, and no container (the same page)."""

WORKLOAD_REGIONS: Final = REGIONS - {"cn-northwest-1"} | GOVERNMENT
"""Where MeterUsage is offered (the same page)."""

EKS_REGIONS: Final = frozenset(
    [
        "ap-east-1",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-south-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ca-central-1",
        "eu-central-1",
        "eu-north-1",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    ]
)
"""Where MeterUsage takes usage of pods of Amazon EKS (the service's model, Nov 2026)."""
