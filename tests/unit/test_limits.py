"""Limits: the service's windows."""

from datetime import UTC, datetime, timedelta

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import limits

MONTHS = st.integers(2024 * 12, 2028 * 12).map(
    lambda n: datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC)
)


@given(MONTHS, st.integers(-3 * 86400, 2 * 86400))
def test_deadline_and_oldest_open_agree(month: datetime, offset: int) -> None:
    """
    Over every month's end, leap years too. Covers: H06, H07
    """
    stamp = month + timedelta(seconds=offset)
    closes = limits.deadline(stamp)

    assert closes <= stamp + timedelta(hours=24)
    assert limits.oldest_open(closes) <= stamp
    assert limits.oldest_open(closes + timedelta(seconds=1)) > stamp
    if stamp < month and stamp + timedelta(hours=24) > month + timedelta(hours=6):
        assert month + timedelta(hours=6) == closes


PARTITIONS = botocore.session.Session().get_data("partitions")["partitions"]


@pytest.mark.parametrize(
    "domain",
    [p["outputs"][name] for p in PARTITIONS for name in ("dnsSuffix", "dualStackDnsSuffix")],
)
def test_every_domain_of_aws_is_known(domain: str) -> None:
    """
    Of each partition that botocore knows; and nothing that only ends alike.
    """
    service = f"metering.marketplace.region.{domain}"

    assert limits.is_of_service(service)
    assert limits.is_of_service(f"Metering-Marketplace-fips.region.{domain.upper()}.:443")
    assert not limits.is_of_service(f"ec2-1.compute.{domain}")
    assert limits.is_of_aws(f"ec2-1.compute.{domain}:8765")
    for foreign in ("metering.marketplace.evil-amazonaws.com", f"{service}.example", "[::1]:1", ""):
        assert not limits.is_of_aws(foreign)
