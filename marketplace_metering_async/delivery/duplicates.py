"""Records that the service would take for one: of one key, or of one hour under both schemes."""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Final

from attrs import define, field

from marketplace_metering_async.errors import ConflictingRecordsError
from marketplace_metering_async.records import SECONDS_PER_HOUR, Key, UsageRecord

_content_of: Final = attrgetter("epoch", "quantity", "usage_allocations", "license_arn")


def is_same(one: UsageRecord, other: UsageRecord) -> bool:
    """Return whether two records of one key, or of two schemes, are the same for the service."""
    return _content_of(one) == _content_of(other)


class UsageHashes:
    """
    Hashes of a customer's dimension and hour: usage whose hash came once is like no other.

    Whatever shares a key has this in common, and so does one hour under both schemes.

    Attributes:
        repeated: Those that came twice: of usage that is alike in this, or of hashes that collide.
    """

    def __init__(self) -> None:
        self.repeated: set[int] = set()
        self._seen: set[int] = set()

    def note(self, records: Iterable[UsageRecord]) -> None:
        """Take note of more records."""
        seen = self._seen
        for one in map(hash, map(_place, records)):
            (self.repeated if one in seen else seen).add(one)

    def is_repeated(self, record: UsageRecord) -> bool:
        """Return whether another record may be like one that was noted."""
        return hash(_place(record)) in self.repeated


@define(slots=False, eq=False, repr=False)
class Duplicates:
    """
    Records of a batch that have a key in common.

    Identical ones are sent once and share the verdict; where any differ, none is sent, since the
    service would keep whichever came first.

    Attributes:
        copies: Position of the record that is sent, to the positions of those identical to it.
    """

    _product_code: str | None
    _record_at: Callable[[int], UsageRecord | None]  # one that was noted, by its position
    copies: dict[int, list[int]] = field(init=False, factory=dict)
    _first: dict[Key, int] = field(init=False, factory=dict)  # its position, of each key
    _conflicts: dict[Key, list[int]] = field(init=False, factory=dict)

    def note(self, position: int, record: UsageRecord) -> bool:
        """Take note of a record; return whether one of its key was there before."""
        key = record.key(self._product_code)
        first = self._first.setdefault(key, position)
        if first == position:
            return False
        before = self._record_at(first)
        if key in self._conflicts:
            self._conflicts[key].append(position)
        elif before is not None and is_same(before, record):
            self.copies.setdefault(first, []).append(position)
        else:
            self._conflicts[key] = [first, *self.copies.pop(first, []), position]
        return True

    def conflicts(self) -> Iterator[ConflictingRecordsError]:
        """Yield an error for each key whose records differ, with all their positions."""
        return map(ConflictingRecordsError, self._conflicts.values())


class SchemeOverlaps:
    """
    Finds one customer's hour and dimension by product code as well as by license.

    The service model says of such that both are billed.

    Attributes:
        is_unclear: Whether that was suspected where product or account are not both named.
    """

    def __init__(self, product_code: str | None) -> None:
        self.is_unclear = False
        self._product_code = product_code
        self._positions: dict[tuple[object, ...], dict[tuple[str | None, bool], list[int]]] = {}

    def note(self, position: int, record: UsageRecord) -> list[int]:
        """Take note of a record; return the positions of those under the other scheme."""
        product = record.product_code or self._product_code
        licensed = record.license_arn is not None
        schemes = self._positions.setdefault(_place(record), {})
        schemes.setdefault((product, licensed), []).append(position)
        if any(other != licensed and None in (code, product) for code, other in schemes):
            self.is_unclear = True
        return list(schemes.get((product, not licensed), ())) if product else []

    def drain(self) -> Iterator[list[list[int]]]:
        """
        Let go of all that was noted, a customer's hour and dimension at a step.

        Yield for each which positions came under both schemes of a product: mostly none.
        """
        while self._positions:
            _, schemes = self._positions.popitem()
            yield [
                sorted(positions + schemes[product, False])
                for (product, licensed), positions in schemes.items()
                if licensed and product and (product, False) in schemes
            ]

    def forget(self, position: int, record: UsageRecord) -> None:
        """Forget a record that has its verdict."""
        place = _place(record)
        scheme = (record.product_code or self._product_code, record.license_arn is not None)
        positions = self._positions.get(place, {}).get(scheme, [])
        if position in positions:
            positions.remove(position)
            if not positions:
                del self._positions[place][scheme]
            if not self._positions[place]:
                del self._positions[place]


def _place(record: UsageRecord) -> tuple[object, ...]:
    """Return whose usage of what it is, and in which hour, whatever the product and the scheme."""
    return (
        record.customer_aws_account_id,
        record.customer_identifier,
        record.dimension,
        record.epoch // SECONDS_PER_HOUR,
    )
