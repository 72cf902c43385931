"""
The numbers of the AWS Marketplace Metering Service, as data, each with its source and date.

Sources: the service model `meteringmarketplace` 2016-01-14 as botocore 1.43.117 carries it, and as
1.44.8 does where a number says so, and the pages API_marketplace-metering_BatchMeterUsage,
metering-service-quotas and metering-regions of
docs.aws.amazon.com/marketplace/latest/APIReference. A test holds the numbers against the model, and
`.ci/run` against the newest one (`tests/support/service_model.py`).
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from attrs import frozen

SERVICE_NAME: Final = "aws-marketplace"
"""The name requests are signed for, and the prefix of the IAM actions (service model)."""

ENDPOINT_PREFIX: Final = "metering.marketplace"
TARGET_PREFIX: Final = "AWSMPMeteringService"

MAX_RECORDS_PER_REQUEST: Final = 25
"""Records in one BatchMeterUsage request (service model, UsageRecordList)."""

REQUEST_BYTES: Final = 1_000_000
"""
A request is smaller than this (BatchMeterUsage page: "less than 1 MB"). The page does not say
whether a megabyte is 10**6 or 2**20 bytes; the smaller reading is right under both.
"""

CALLS_PER_SECOND: Final = 10.0
"""BatchMeterUsage calls an account may make a second in a region (quotas page)."""

CALL_BURST: Final = 10.0
"""Calls that a rested account may make at once. Unpublished; a second's worth is assumed."""

MAX_QUANTITY: Final = 2_147_483_647
"""
The greatest that the integer members carry (service model, UsageQuantity, AllocatedUsageQuantity:
int32). They are deprecated since 20 October 2026 (botocore 1.44.8), with no end named.
"""

MAX_DECIMAL_QUANTITY: Final = Decimal("9999999999.999999")
"""The greatest that the decimal members carry, and so the greatest of all (botocore 1.44.8)."""

DECIMAL_PLACES: Final = 6
"""Digits behind the point of a decimal quantity (botocore 1.44.8)."""

DECIMAL_QUANTITY: Final = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")
"""
UsageQuantityAsDecimalString, AllocatedUsageQuantityAsDecimalString of the service model (botocore
1.44.8; 1.44.1 of 11 November 2026 is the first with them). Match the whole text.
"""

MAX_TEXT: Final = 255
"""Characters in a dimension, product code, customer identifier, account id or nonce (model)."""

MAX_ALLOCATIONS: Final = 2_500
"""Allocations in one record (service model, since February 2022)."""

MAX_TAGS: Final = 5
"""Tags in one allocation (service model)."""

MAX_TAG_KEY: Final = 100
MAX_TAG_VALUE: Final = 256
MAX_CLIENT_TOKEN: Final = 64

PRODUCT_CODE: Final = re.compile(r"[-a-zA-Z0-9/=:_.@]{1,255}")
ACCOUNT_ID: Final = re.compile(r"[0-9]{1,255}")
TAG_TEXT: Final = re.compile(r"[a-zA-Z0-9+ -=._:\\/@]+")
"""
The model's pattern `[a-zA-Z0-9+ -=._:\\/@]+`, in which a blank to an equals sign is a range, plus
the backslash that the seller guide's prose allows: what either would take goes to the service.
"""
LICENSE_ARN: Final = re.compile(
    r"arn:aws[a-zA-Z-]*:[A-Za-z0-9][A-Za-z0-9_/.-]{0,62}:[A-Za-z0-9_/.-]{0,63}"
    r":[A-Za-z0-9_/.-]{0,63}:[A-Za-z0-9][A-Za-z0-9:_/+=,@.-]{0,1023}"
)
"""LicenseArn of the service model (since February 2026). Match the whole text, in ASCII."""

MAX_FUTURE: Final = timedelta(minutes=15)
"""How far ahead of the service's clock a timestamp may be before it is refused for good."""

EDGE: Final = timedelta(minutes=5)
"""Records this close to an edge of the window travel apart: which clock decides is unknown."""


MAX_AGE: Final = timedelta(hours=24)
"""From its timestamp on a record is taken (BatchMeterUsage since July 2026; before, 6 hours)."""

MONTH_END: Final = timedelta(hours=6)
"""From the first of the next month, 00:00 UTC, on records of a month are taken (likewise)."""


def deadline(timestamp: datetime) -> datetime:
    """
    Return when the service stops taking a record stamped *timestamp* (both in UTC).

    The month's end only ever tightens the window. Source: the BatchMeterUsage page.
    """
    year, month = timestamp.year, timestamp.month
    try:
        next_month = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        return min(timestamp + MAX_AGE, next_month + MONTH_END)
    except (OverflowError, ValueError):  # the last month that a calendar has
        return datetime.max.replace(tzinfo=UTC)


def oldest_open(now: datetime) -> datetime:
    """Return the earliest timestamp whose deadline has not passed at *now* (both in UTC)."""
    by_age = now - MAX_AGE
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    return max(by_age, month) if now > month + MONTH_END else by_age


@frozen(kw_only=True)
class ServiceMetadata:
    """
    What is known of the service without asking it.

    Attributes:
        endpoint_prefix: The first labels of its host names.
        signing_name: The service name in SigV4 signatures.
        target_prefix: What stands before the operation in the `X-Amz-Target` header.
        regions: Where BatchMeterUsage and ResolveCustomer are offered (metering-regions page).
        meter_usage_regions: Where MeterUsage is offered; AWS GovCloud for AMI products only.
        endpoints: Region to host name over IPv4, for every region of both lists.
    """

    endpoint_prefix: str
    signing_name: str
    target_prefix: str
    regions: tuple[str, ...]
    meter_usage_regions: tuple[str, ...]
    endpoints: dict[str, str]


_COMMERCIAL: Final = (
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
)
_CHINA: Final = ("cn-northwest-1",)
_GOVERNMENT: Final = ("us-gov-east-1", "us-gov-west-1")


_DOMAINS: Final = (
    *(".amazonaws.com", ".api.aws"),
    *(".amazonaws.com.cn", ".api.amazonwebservices.com.cn"),
    *(".amazonaws.eu", ".api.amazonwebservices.eu"),
    *(".ic.gov", ".sgov.gov", ".adc-e.uk", ".api.aws.scloud"),
)
"""
Of every partition, over IPv4 and where both IPv4 and IPv6 go (botocore 1.44.8, partitions.json).
"""


def is_of_aws(host: str) -> bool:
    """Return whether a *host*, perhaps with a port, is anything at AWS, also a customer's own."""
    return _plain(host).endswith(_DOMAINS)


def is_of_service(host: str) -> bool:
    """Return whether a *host*, perhaps with a port, is the service's own, also in a VPC of AWS."""
    labels = f".{_plain(host)}".replace("metering.marketplace", "metering-marketplace")
    return is_of_aws(host) and ".metering-marketplace" in labels


def _plain(host: str) -> str:
    return host.partition(":")[0].rstrip(".").lower()


def service_metadata() -> ServiceMetadata:
    """Return the service's names, regions and hosts, from this module's data alone."""
    hosts = {region: f"{ENDPOINT_PREFIX}.{region}.amazonaws.com" for region in _COMMERCIAL}
    hosts |= {region: f"{ENDPOINT_PREFIX}.{region}.amazonaws.com.cn" for region in _CHINA}
    hosts |= {region: f"{ENDPOINT_PREFIX}.{region}.amazonaws.com" for region in _GOVERNMENT}
    return ServiceMetadata(
        endpoint_prefix=ENDPOINT_PREFIX,
        signing_name=SERVICE_NAME,
        target_prefix=TARGET_PREFIX,
        regions=_COMMERCIAL + _CHINA,
        meter_usage_regions=_COMMERCIAL + _GOVERNMENT,
        endpoints=hosts,
    )
