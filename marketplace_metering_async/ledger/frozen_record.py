"""
The frozen record: what an hour becomes when it is sealed, byte for byte the same in each attempt.

A digest over everything that the service counts by, the region among it, is kept beside the row and
compared before each send: one flipped bit on a disk must not become somebody's bill.
"""

import json
from hashlib import blake2b
from typing import Final, NamedTuple

from attrs import field, frozen

from marketplace_metering_async import quantities
from marketplace_metering_async.ledger.hours import deadline_of
from marketplace_metering_async.ledger.model import FrozenHour, SealedHour, UsageKey, name_of
from marketplace_metering_async.records import UsageRecord, utc_of

EVENT_DIGEST_BYTES: Final = 20
"""A key's 8, a moment's 5 and a quantity's 7."""
_BEFORE_1970: Final = 1 << 37
_NO_MOMENT: Final = 1 << 38  # seconds since 1970: in the year 10,680

QUANTITY: Final = "Quantity"
QUANTITY_AS_DECIMAL: Final = f"{QUANTITY}{quantities.AS_DECIMAL}"


@frozen
class FrozenRecord(UsageRecord):
    """
    A record that is sent as it was sealed, whatever a later version of the package would choose.

    Attributes:
        member: The member that carries its quantity.
    """

    member: str = field(kw_only=True)

    def _is_whole(self) -> bool:
        return self.member == QUANTITY


class Frozen(NamedTuple):
    """
    What sealing adds to an hour.

    Attributes:
        deadline: When the service stops taking its record, in seconds since 1970.
        member: In which member of a record its quantity is sent, now and in each attempt.
        digest: Of all that the service counts by.
    """

    deadline: int
    member: str
    digest: bytes


def freeze(
    region_name: str, key: UsageKey, stamp: int, quantity: int, *, license_product: str
) -> Frozen:
    """Make a record of an hour; *stamp* in seconds since 1970, *quantity* in millionths."""
    member = member_of(quantity)
    content = digest(region_name, key, stamp, quantity, member, license_product=license_product)
    return Frozen(deadline_of(stamp), member, content)


def member_of(quantity: int) -> str:
    """Return the member in which *quantity*, in millionths, is sent."""
    whole = quantities.travels_whole(quantities.of_millionths(quantity))
    return QUANTITY if whole else QUANTITY_AS_DECIMAL


def digest(
    region_name: str, key: UsageKey, stamp: int, quantity: int, member: str, *, license_product: str
) -> bytes:
    """Return the digest of a frozen record; *stamp* in seconds since 1970."""
    where = json.dumps([region_name, license_product])[1:-1]
    content = f'[{where}, {name_of(key)[1:-1]}, {stamp}, {quantity}, "{member}"]'
    return blake2b(content.encode(), digest_size=16).digest()


def is_whole(hour: SealedHour) -> bool:
    """Return whether an hour matches its digest."""
    content = (hour.region_name, hour.key, hour.stamp, hour.quantity, hour.member)
    return hour.digest == digest(*content, license_product=hour.license_product)


def number_of(key: UsageKey) -> int:
    """Return 64 bits that stand for a key in the digests of its events."""
    return int.from_bytes(blake2b(name_of(key).encode(), digest_size=8).digest())


def digest_of_event(key: int, at: int | None, quantity: int) -> bytes:
    """
    Return the digest of what a caller said of an event: its key's, and the rest as it is.

    Args:
        key: The key's number.
        at: None where the caller did not say.
        quantity: Millionths.
    """
    moment = _NO_MOMENT if at is None else at
    return (key << 96 | moment + _BEFORE_1970 << 56 | quantity).to_bytes(EVENT_DIGEST_BYTES)


def record_of(held: FrozenHour) -> FrozenRecord:
    """
    Return the record that is sent.

    Raises:
        InvalidRecordError: if the row makes none: it was damaged.
    """
    key = held.key
    return FrozenRecord(
        timestamp=utc_of(held.stamp),
        dimension=key.dimension,
        quantity=quantities.of_millionths(held.quantity),
        member=held.member,
        customer_aws_account_id=key.customer_aws_account_id or None,
        customer_identifier=key.customer_identifier or None,
        license_arn=key.license_arn or None,
        product_code=(held.license_product if key.license_arn else key.product_code) or None,
    )
