"""Sealing: what hours become that are due, each closed for good with the record that is sent."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from marketplace_metering_async.ledger.frozen_record import freeze
from marketplace_metering_async.ledger.model import HourState, key_of
from marketplace_metering_async.ledger.sums import Sum, Sums


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
    """
    Return what open hours become at *now* (seconds since 1970).

    Each is *due* as hour_id, stamp, millionths, name and license_product of its key, and whether it
    is held: the ledger is a copy, and the one that it is of may have sent it.
    """
    sums, frozen, held = Sums(), [], []
    for hour_id, stamp, quantity, name, license_product, is_held in due:
        key = key_of(name)
        record = freeze(region_name, key, stamp, quantity, license_product=license_product)
        frozen.append((now, region_name, *record, hour_id))
        if is_held:
            held.append(hour_id)
        state = HourState.UNCONFIRMED if is_held else HourState.FROZEN
        sums.move(key.summed_under(license_product), HourState.OPEN, state, quantity)
    return Sealing(frozen, held, sums.changes())
