"""Records: keys and their hashes."""

from attrs import evolve
from hypothesis import given
from support.strategies import recent, records

from marketplace_metering_async.records import UsageRecord, key_hashes


@given(records(recent))
def test_equal_keys_have_equal_hashes(record: UsageRecord) -> None:
    """
    So that no repeat is overlooked, whoever names the product, and whatever else differs.
    """
    ours = record.product_code or "product"
    alike = [
        record,
        evolve(record, product_code=ours),
        evolve(record, usage_allocations=(), quantity=7),
        evolve(record, timestamp=record.timestamp.replace(minute=59, second=59)),
    ]

    assert {record.key(ours)} == {one.key(ours) for one in alike}
    assert 1 == len(set(key_hashes(alike, ours)))
