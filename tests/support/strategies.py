"""Hypothesis strategies: valid records, JSON of any shape, and URLs."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from hypothesis import strategies as st

from marketplace_metering_async import quantities as exact
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY, MAX_QUANTITY
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
accounts = st.text("0123456789", min_size=12, max_size=12)
products = st.sampled_from(["prod-a", "prod-b", "prod-c"])
licenses = st.sampled_from(
    [f"arn:aws:license-manager::123456789012:license:l-{name}" for name in "abc"]
)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=zones)  # noqa: DTZ001
tag_texts = st.text("abcXYZ019 +-=._:/@", min_size=1, max_size=20)
tags = st.builds(Tag, tag_texts, tag_texts)
whole_quantities = st.integers(0, MAX_QUANTITY)
quantities = st.one_of(
    whole_quantities,
    st.integers(0, exact.millionths(MAX_DECIMAL_QUANTITY)).map(exact.of_millionths),
    st.decimals(0, 100, places=2).map(exact.kept),
)
"""Whole ones and decimals, as records keep them."""


@st.composite
def allocations(draw: st.DrawFn, *, whole: bool = False) -> list[UsageAllocation]:
    """Allocations with tag sets of their own."""
    sets = draw(st.lists(st.frozensets(tag_texts, max_size=3), unique=True, max_size=4))
    fractions = not whole and draw(st.booleans())
    parts: st.SearchStrategy[int | Decimal] = st.integers(0, 1000)
    if fractions:
        parts = st.decimals(0, 1000, places=2)
    return [UsageAllocation(draw(parts), [Tag(key, "v") for key in sorted(keys)]) for keys in sets]


@st.composite
def records(
    draw: st.DrawFn,
    timestamps: st.SearchStrategy[datetime] = times,
    with_allocations: bool = True,  # noqa: FBT001, FBT002
    *,
    whole: bool = False,
) -> UsageRecord:
    """Any valid record, under any of the identity schemes; *whole* is what int32 carries."""
    parts = draw(allocations(whole=whole)) if with_allocations and draw(st.booleans()) else []
    total = sum(exact.millionths(part.allocated_usage_quantity) for part in parts)
    scheme = draw(st.sampled_from(["account", "identifier", "license"]))
    return UsageRecord(
        timestamp=draw(timestamps),
        dimension=draw(texts),
        quantity=exact.of_millionths(total)
        if parts
        else draw(whole_quantities if whole else quantities),
        customer_aws_account_id=None if scheme == "identifier" else draw(accounts),
        customer_identifier=draw(texts) if scheme == "identifier" else None,
        license_arn=draw(licenses) if scheme == "license" else None,
        product_code=draw(products),
        usage_allocations=parts,
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
recent = st.integers(0, 20 * 60).map(lambda minutes: NOON - timedelta(minutes=minutes))

visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
regions = st.sampled_from(["us-east-1", "cn-northwest-1", "us-gov-west-1", "eu-central-2"])
hosts = st.sampled_from(
    ["metering.marketplace.us-east-1.amazonaws.com", "127.0.0.1", "[::1]", "Localhost"]
)
ports = st.sampled_from(["", ":80", ":443", ":8080"])
segments = st.sampled_from(["a", "b~", "%2F", "c+:@=", ".", "..", ""])
paths = st.lists(segments, max_size=5).map(lambda parts: "".join(f"/{part}" for part in parts))
urls = st.builds("{}://{}{}{}".format, st.sampled_from(["http", "https"]), hosts, ports, paths)
