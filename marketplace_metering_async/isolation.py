"""
Which part of a refused chunk to try next, so that the good records are metered in few calls.

The service refuses a chunk whole for the sake of one record and does not say which. A search
keeps a pile of parts. It tries the first share of a guilty part: if that is taken, the rest must
be guilty and is divided without a call of its own; if it is refused, the rest is unknown and is
tried. So a guilty first share costs two calls and a guilty rest one, and the cheapest division is
the uneven one of the Fibonacci numbers: one culprit of 25 is found with at most 8 more calls, and
25 culprits with 48. No record is blamed unless it was refused alone.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from attrs import define

from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.records import UsageRecord


def _first_shares() -> tuple[int, ...]:
    """For each size of a guilty part up to 25, the first share that makes the worst case best."""
    worst, shares = [0, 1], [0, 1]
    for size in range(2, 26):
        # A single first share that is refused is a culprit at once; a single rest is tried alone.
        costs = {
            share: max(2 + (0 if share == 1 else worst[share]), 1 + worst[size - share])
            for share in range(1, size)
        }
        best = min(costs, key=lambda share: (costs[share], abs(size - 2 * share)))
        worst.append(costs[best])
        shares.append(best)
    return tuple(shares)


FIRST_SHARE: Final = _first_shares()


@define
class _Part:
    indices: tuple[int, ...]
    guilty: bool
    """Known to hold a culprit, because all else of a guilty part was taken."""
    thinned: bool = False
    """Has lost records to `excuse`, so that nothing follows any more from what it was part of."""
    sibling: "_Part | None" = None
    """The rest of the same guilty part, which is guilty if this one is taken."""


class Isolation:
    """
    The search for the culprits of one refused chunk.

    Ask `next_part()`, try it, and say `taken()` or `refused()`, until there is no next part.

    Attributes:
        culprits: Indices that were refused alone, in the order in which they were found.
        tried: How many parts were handed out.
    """

    def __init__(self, size: int, suspects: Collection[int] = ()) -> None:
        """Begin with a refused chunk of *size* records; *suspects* are tried first, together."""
        self.culprits: list[int] = []
        self.tried = 0
        self._pile: list[_Part] = []
        self._current: _Part | None = None
        everybody = tuple(range(size))
        accused = tuple(index for index in everybody if index in suspects)
        others = tuple(index for index in everybody if index not in suspects)
        if size == 1:
            self.culprits.append(0)
        elif accused and others:
            self._push_pair(accused, others)
        else:
            self._divide(everybody)

    def next_part(self) -> Sequence[int] | None:
        """Return the indices to try next, or None when every record is settled."""
        while self._pile:
            part = self._pile.pop()
            if not part.indices:
                continue
            if part.guilty and len(part.indices) > 1:
                self._divide(part.indices)
                continue
            self._current = part
            self.tried += 1
            return part.indices
        return None

    def taken(self) -> None:
        """Note that the service took the last part: its records are no culprits."""
        part = self._finish()
        if part.sibling is not None and not (part.thinned or part.sibling.thinned):
            part.sibling.guilty = True

    def refused(self) -> None:
        """Note that the service refused the last part for the sake of some record in it."""
        part = self._finish()
        if len(part.indices) == 1:
            self.culprits.append(part.indices[0])
        else:
            self._divide(part.indices)

    def left_open(self) -> None:
        """Note that the last part has neither been taken nor refused: it says nothing."""
        self._finish()

    def excuse(self, indices: Iterable[int]) -> None:
        """Leave *indices* out from now on: they are settled otherwise."""
        gone = frozenset(indices)
        for part in self._pile:
            kept = tuple(index for index in part.indices if index not in gone)
            if len(kept) < len(part.indices):
                part.indices = kept
                part.guilty = False
                part.thinned = True

    def remaining(self) -> list[int]:
        """Return the indices that are not settled yet."""
        return [index for part in self._pile for index in part.indices]

    def _finish(self) -> _Part:
        part, self._current = self._current, None
        if part is None:
            raise RuntimeError("no part is being tried")
        return part

    def _divide(self, indices: tuple[int, ...]) -> None:
        share = FIRST_SHARE[len(indices)]
        self._push_pair(indices[:share], indices[share:])

    def _push_pair(self, first: tuple[int, ...], rest: tuple[int, ...]) -> None:
        sibling = _Part(rest, guilty=False)
        self._pile += [sibling, _Part(first, guilty=False, sibling=sibling)]


_TRAITS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "InvalidCustomerIdentifierException": ("customer_identifier", "customer_aws_account_id"),
        "InvalidUsageDimensionException": ("dimension",),
    }
)
"""
The members that such a refusal is about: records of a product that share them would be refused
alike. No refusal of a time or a license is among them: it says nothing of another hour.
"""

_REMEMBERED: Final = 60.0
"""Seconds for which a refusal holds back records unsent: a customer may subscribe meanwhile."""


class _Refused(NamedTuple):
    refusal: MarketplaceMeteringException
    until: float


class Offenders:
    """
    The traits that the service refused lately in one delivery.

    A wrong customer with a thousand records then costs one search and not a thousand. Moments are
    monotonic times in seconds.
    """

    def __init__(self, product_of: Callable[[UsageRecord], str | None]) -> None:
        """Begin with none; *product_of* returns the product of a record, or None if unnamed."""
        self._product_of = product_of
        self._refused: dict[tuple[str | None, ...], _Refused] = {}

    def __bool__(self) -> bool:
        """Whether any trait is known."""
        return bool(self._refused)

    def remember(
        self, record: UsageRecord, refusal: MarketplaceMeteringException, moment: float
    ) -> None:
        """Note that *record* was refused alone, if the refusal is about a trait."""
        self._refused = {key: one for key, one in self._refused.items() if one.until > moment}
        if members := _TRAITS.get(refusal.code):
            trait = self._trait(refusal.code, members, record)
            self._refused[trait] = _Refused(refusal, moment + _REMEMBERED)

    def refusal(self, record: UsageRecord, moment: float) -> MarketplaceMeteringException | None:
        """Return the refusal that a record of the same trait met lately, if there was one."""
        for code, members in _TRAITS.items():
            found = self._refused.get(self._trait(code, members, record))
            if found is not None and found.until > moment:
                return found.refusal
        return None

    def _trait(
        self, code: str, members: tuple[str, ...], record: UsageRecord
    ) -> tuple[str | None, ...]:
        product = self._product_of(record) or record.license_arn  # which is of one product
        return (code, product, *(getattr(record, member) for member in members))


def has_trait(code: str) -> bool:
    """Return whether a refusal with *code* tells something of other records too."""
    return code in _TRAITS


def shared_trait(code: str) -> str:
    """Return in words what the records of a refused kind share."""
    return " and ".join(_TRAITS[code])


_MOST_REFUSED: Final = 3


class UnknownRefusals:
    """
    The chunks of one lane that a code nobody has heard of refused to the last record.

    One odd record, or one odd customer, must not keep the others from being metered. Only where
    three chunks with different customers went this way, and nothing was taken in between, is the
    refusal about the lane.
    """

    def __init__(self) -> None:
        self._customers: set[str | None] = set()  # one for each of the chunks

    def note(self, records: Iterable[UsageRecord]) -> bool:
        """Note that each of *records*, a whole chunk, was refused alone; whether to stop now."""
        others = {_customer(record) for record in records} - self._customers
        self._customers.update(sorted(others, key=str)[:1])
        return len(self._customers) >= _MOST_REFUSED

    def taken(self) -> None:
        """Note that the service took something of the lane."""
        self._customers.clear()


def _customer(record: UsageRecord) -> str | None:
    return record.customer_aws_account_id or record.customer_identifier


_WORD: Final = re.compile(r"[^\s'\"`,;()\[\]{}<>]+")
_SHORTEST_NAME: Final = 4


def named_in(message: str, records: Sequence[UsageRecord]) -> set[int]:
    """
    Return which of *records* the service's text names, by dimension, customer or license.

    It only says where to look first: no record is blamed for a text, which may change at any time.
    """
    words = {word.strip(".:") for word in _WORD.findall(message)}
    named = {index for index, record in enumerate(records) if not words.isdisjoint(_names(record))}
    return named if len(named) < len(records) else set()


def _names(record: UsageRecord) -> Iterable[str]:
    names = (
        record.dimension,
        record.customer_aws_account_id,
        record.customer_identifier,
        record.license_arn,
    )
    return (name for name in names if name is not None and len(name) >= _SHORTEST_NAME)
