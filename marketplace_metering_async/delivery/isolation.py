"""
Which part of a refused chunk to try next, so that the good records are metered in few calls.

The service refuses a chunk whole for the sake of one record and does not say which. A search
keeps a pile of parts. It tries the first share of a part that is known to hold a bad record: if
that is taken, the bad one is in the rest, which is divided without a call of its own; if it is
refused, the rest is unknown and is tried. So a bad first share costs two calls and a bad rest one,
and the cheapest division is the uneven one of the Fibonacci numbers: one bad record of 25 is found
with at most 8 more calls, and 25 with 48. No record is refused unless it was refused alone.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from attrs import define

from marketplace_metering_async.records import UsageRecord


def _first_shares() -> tuple[int, ...]:
    """For each size of a part with a bad record, up to 25, the share that costs least at worst."""
    worst, shares = [0, 1], [0, 1]
    for size in range(2, 26):
        # A single first share that is refused is bad at once; a single rest is tried alone.
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
class Part:
    """
    Records that are tried together.

    Attributes:
        indices: They, by their places in the chunk.
        holds_bad: Whether one of them is known to be bad, because all else of a bad part was taken.
        is_reduced: Whether records were removed, so that nothing follows from its sibling's state.
        sibling: The rest of the same part, which holds a bad record if this one is taken.
    """

    indices: tuple[int, ...]
    holds_bad: bool = False
    is_reduced: bool = False
    sibling: "Part | None" = None


class Isolation:
    """
    The search for the bad records of one refused chunk.

    Ask `next_part()`, try it, and say whether it was `taken()` or `refused()`, unless neither was
    so, until there is no next part.

    Attributes:
        tried: How many parts were handed out.
    """

    def __init__(
        self, size: int, hinted: Collection[int] = (), labels: Sequence[object] | None = None
    ) -> None:
        """
        Begin with a refused chunk of *size* records, at least two.

        Those *hinted* at are tried first, together.

        Where *labels* are given, records of one label stay together as long as others are there.
        """
        self.tried = 0
        self._labels = labels
        self._pile: list[Part] = []
        everybody = tuple(range(size))
        if labels is not None:
            first = {label: index for index, label in reversed(list(enumerate(labels)))}
            everybody = tuple(sorted(everybody, key=lambda index: first[labels[index]]))
        named = tuple(index for index in everybody if index in hinted)
        others = tuple(index for index in everybody if index not in hinted)
        if named and others:
            self._push_pair(named, others)
        else:
            self._divide(everybody)

    def next_part(self) -> Part | None:
        """Return what to try next, or None when every record is settled."""
        while self._pile:
            part = self._pile.pop()
            if not part.indices:
                continue
            if part.holds_bad and len(part.indices) > 1:
                self._divide(part.indices)
                continue
            self.tried += 1
            return part
        return None

    def taken(self, part: Part) -> None:
        """Note that the service took *part*: none of its records is bad."""
        if part.sibling is not None and not (part.is_reduced or part.sibling.is_reduced):
            part.sibling.holds_bad = True

    def refused(self, part: Part) -> None:
        """Note that the service refused *part* for the sake of some record in it."""
        if len(part.indices) > 1:
            self._divide(part.indices)

    def remove(self, indices: Iterable[int]) -> None:
        """Leave *indices* out from now on: they are settled otherwise."""
        gone = frozenset(indices)
        for part in self._pile:
            kept = tuple(index for index in part.indices if index not in gone)
            if len(kept) < len(part.indices):
                part.indices = kept
                part.holds_bad = False
                part.is_reduced = True

    def remaining(self) -> list[int]:
        """Return the indices that are not settled yet, but for those being tried."""
        return [index for part in self._pile for index in part.indices]

    def _divide(self, indices: tuple[int, ...]) -> None:
        share = FIRST_SHARE[len(indices)]
        if self._labels is not None:
            share = self._between_labels(self._labels, indices, share)
        self._push_pair(indices[:share], indices[share:])

    @staticmethod
    def _between_labels(labels: Sequence[object], indices: tuple[int, ...], share: int) -> int:
        """Return the place nearest to *share* where the label changes, if it does anywhere."""
        changes = [
            n for n in range(1, len(indices)) if labels[indices[n - 1]] != labels[indices[n]]
        ]
        return min(changes, key=lambda n: abs(n - share), default=share)

    def _push_pair(self, first: tuple[int, ...], rest: tuple[int, ...]) -> None:
        sibling = Part(rest)
        self._pile += [sibling, Part(first, sibling=sibling)]


_WORD: Final = re.compile(r"[^\s'\"`,;()\[\]{}<>]+")
_SHORTEST_NAME: Final = 4


def named_in(message: str, records: Sequence[UsageRecord]) -> set[int]:
    """
    Return which of *records* the service's text names, by dimension, customer or license.

    It only says where to look first: none is refused for a text, which may change at any time.
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
