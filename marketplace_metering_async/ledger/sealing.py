"""Sealing: what hours become that are due, each closed for good with the record that is sent."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from marketplace_metering_async.ledger.frozen_record import freeze
from marketplace_metering_async.ledger.model import HourState, key_of
from marketplace_metering_async.ledger.sums import Sum, Sums


class DueHour(NamedTuple):
    """
    An open hour that is due, as its row says.

    Attributes:
        stamp: Its latest usage, in seconds since 1970.
        quantity: Millionths.
        name: Of its key.
        is_held: Whether the ledger is a copy, and the one that it is of may have sent it.
    """

    hour_id: int
    stamp: int
    quantity: int
    name: str
    license_product: str
    is_held: bool


class Sealing(NamedTuple):
    """
    What is to be written.

    Attributes:
        frozen: When, region, deadline, member and digest of each record, and its hour's id.
        held: The hours that are not sent, but end as UNCONFIRMED.
        sums: How the kept sums change.
    """

    frozen: Sequence[tuple[Any, ...]]
    held: Sequence[int]
    sums: Sequence[Sum]


def sealing_of(due: Iterable[Sequence[Any]], region_name: str, now: int) -> Sealing:
    """Return what rows of DueHour, at least one, become at *now* (seconds since 1970)."""
    hours = [DueHour(*row) for row in due]
    sums, frozen = Sums(), []
    for hour in hours:
        key = key_of(hour.name)
        record = freeze(
            region_name, key, hour.stamp, hour.quantity, license_product=hour.license_product
        )
        frozen.append((now, region_name, *record, hour.hour_id))
        state = HourState.UNCONFIRMED if hour.is_held else HourState.FROZEN
        sums.move(key.summed_under(hour.license_product), HourState.OPEN, state, hour.quantity)
    return Sealing(frozen, [hour.hour_id for hour in hours if hour.is_held], sums.changes())
