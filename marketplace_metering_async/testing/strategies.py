"""
Hypothesis strategies: records that the service takes, batches of them, and scripts of faults.

    @given(batches(now=NOW), fault_scripts())
    def test_nothing_is_lost(batch, faults): …
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY, MAX_QUANTITY, oldest_open
from marketplace_metering_async.quantities import Quantity, millionths, of_millionths
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord
from marketplace_metering_async.sandbox import Fault, FaultKind

_MARGIN: Final = timedelta(hours=1)

_accounts = st.text("0123456789", min_size=12, max_size=12)
_names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30
)
_licenses = st.from_regex(
    r"arn:aws:license-manager::[0-9]{12}:license:l-[a-f0-9]{8}", fullmatch=True
)
_tag_texts = st.text("abcXYZ019 +-=._:/@", min_size=1, max_size=20)


@st.composite
def usage_records(
    draw: st.DrawFn,
    *,
    now: datetime,
    product_codes: Sequence[str] = ("prod-a", "prod-b"),
    dimensions: Sequence[str] | None = None,
    customers: Sequence[str] | None = None,
    allocations: bool = True,
    licenses: bool = True,
    decimals: bool = True,
) -> UsageRecord:
    """
    A record that the service takes at *now*.

    Args:
        draw: Of Hypothesis.
        now: The time of the sandbox; timestamps are up to 23 hours older, and of this month if
            the last one has closed or closes within the hour.
        product_codes: Of which products.
        dimensions: Of which dimensions; None: any text.
        customers: Of which account ids; None: any.
        allocations: Whether usage may be split by tags.
        licenses: Whether records may go by license in place of the product code.
        decimals: Whether quantities may be other than whole and up to int32.
    """
    fractions = decimals and draw(st.booleans())
    parts = (
        draw(_allocations(_units(1000, fractions))) if allocations and draw(st.booleans()) else []
    )
    units = of_millionths(sum(millionths(part.allocated_usage_quantity) for part in parts))
    most = int(MAX_DECIMAL_QUANTITY) if fractions else MAX_QUANTITY
    license_arn = draw(_licenses) if licenses and draw(st.booleans()) else None
    return UsageRecord(
        timestamp=draw(timestamps(now=now)),
        dimension=draw(_names if dimensions is None else st.sampled_from(list(dimensions))),
        quantity=units if parts else draw(_units(most, fractions)),
        customer_aws_account_id=draw(
            _accounts if customers is None else st.sampled_from(list(customers))
        ),
        license_arn=license_arn,
        product_code=draw(st.sampled_from(list(product_codes))),
        usage_allocations=parts,
    )


def timestamps(*, now: datetime) -> st.SearchStrategy[datetime]:
    """Times of usage that the service takes at *now* and for an hour yet, in whole seconds."""
    earliest = oldest_open(now + _MARGIN)
    seconds = st.integers(0, int((now - earliest).total_seconds()))
    return seconds.map(lambda back: (now - timedelta(seconds=back)).replace(microsecond=0))


def _units(most: int, fractions: bool) -> st.SearchStrategy[Quantity]:  # noqa: FBT001
    """Return quantities up to *most*, in millionths where there may be *fractions*."""
    if not fractions:
        return st.integers(0, most)
    return st.integers(0, millionths(most)).map(of_millionths)


@st.composite
def _allocations(draw: st.DrawFn, quantities: st.SearchStrategy[Quantity]) -> list[UsageAllocation]:
    tag_sets = draw(
        st.lists(st.frozensets(_tag_texts, max_size=3), min_size=1, max_size=4, unique=True)
    )
    return [
        UsageAllocation(draw(quantities), [Tag(key, draw(_tag_texts)) for key in sorted(keys)])
        for keys in tag_sets
    ]


def batches(*, max_size: int = 60, **of_records: Any) -> st.SearchStrategy[list[UsageRecord]]:  # noqa: ANN401 - as usage_records takes them
    """
    Lists of records, each of an hour of its own, as usage_records() makes them.

    An hour of a product's buyer goes by product code or by licenses: both would be billed twice.
    """
    records = st.lists(usage_records(**of_records), max_size=max_size, unique_by=_key)
    return records.map(_by_one_scheme)


def _key(record: UsageRecord) -> tuple[object, ...]:
    return (record.license_arn or record.product_code, *_hour(record))


def _hour(record: UsageRecord) -> tuple[object, ...]:
    hour = record.timestamp.replace(minute=0, second=0)
    return (record.customer_aws_account_id, record.dimension, hour)


def _by_one_scheme(records: list[UsageRecord]) -> list[UsageRecord]:
    by_code = {_key(record) for record in records if record.license_arn is None}
    return [
        record
        for record in records
        if record.license_arn is None or (record.product_code, *_hour(record)) not in by_code
    ]


def faults(*, kinds: Sequence[FaultKind] | None = None) -> st.SearchStrategy[Fault]:
    """
    Rules of misbehaviour that end: each strikes a few times, and no wait is long.

    Args:
        kinds: What may go wrong; None: all but REFUSE, which no client can live through.
    """
    chosen = (
        [kind for kind in FaultKind if kind is not FaultKind.REFUSE]
        if kinds is None
        else list(kinds)
    )
    return st.builds(
        Fault,
        kind=st.sampled_from(chosen),
        after=st.integers(0, 3),
        max_hits=st.integers(1, 3),
        probability=st.sampled_from([0.5, 1.0]),
        seconds=st.just(0.01),
        unprocessed_share=st.sampled_from([0.2, 0.9]),
    )


def fault_scripts(
    *, max_size: int = 4, kinds: Sequence[FaultKind] | None = None
) -> st.SearchStrategy[list[Fault]]:
    """Lists of such rules, asked in their order."""
    return st.lists(faults(kinds=kinds), max_size=max_size)
