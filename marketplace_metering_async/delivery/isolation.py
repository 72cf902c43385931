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
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from attrs import define

from marketplace_metering_async.delivery.model import Chunk, PendingRecord
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.records import UsageRecord


def first_share(size: int) -> int:
    """
    Return how many records of a bad part of *size* are tried first: what costs least at worst.

    A Fibonacci number is divided into the two before it, the smaller of them first. Any other size
    is treated as the next of them, but never is more than half tried first.
    """
    before, fibonacci = 1, 2
    while fibonacci < size:
        before, fibonacci = fibonacci, before + fibonacci
    return min(size // 2, fibonacci - before)


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


class Search:
    """
    The search for the bad records of one refused chunk.

    Take `next_part()` to the service, and say whether it was `taken()` or `refused()`, until there
    is none. What was neither says nothing: its records are sent again with others.

    Attributes:
        chunk: What was refused, with what its records have been through by now.
        error: The refusal.
        tried: How many parts were handed out.
        parts_taken: What the service took of it, part by part.
        refused_alone: How many records were refused alone.
    """

    def __init__(
        self, chunk: Chunk, error: MarketplaceMeteringException, *, by_license: bool
    ) -> None:
        """
        Begin with a refused chunk of at least two records.

        Those that the refusal names are tried first, together.

        Where it is searched *by_license*, records of one license stay together as long as others
        are there.
        """
        self.chunk = chunk
        self.error = error
        self.tried = 0
        self.parts_taken: list[Chunk] = []
        self.refused_alone = 0
        self._trying = Part(())
        self._pile: list[Part] = []
        self._labels = [r.license_arn if by_license else n for n, r in enumerate(chunk.records)]
        everybody = sorted(range(len(chunk)), key=lambda n: self._labels.index(self._labels[n]))
        hinted = named_in(error.message, chunk.records)
        named = tuple(index for index in everybody if index in hinted)
        others = tuple(index for index in everybody if index not in hinted)
        if named and others:
            self._push_pair(named, others)
        else:
            self._divide(tuple(everybody))

    def next_part(self) -> Chunk | None:
        """Return what to try next, or None when every record is settled."""
        while self._pile:
            part = self._pile.pop()
            if part.holds_bad and len(part.indices) > 1:
                self._divide(part.indices)
            elif part.indices:
                self.tried += 1
                self._trying = part
                return self.chunk.part(part.indices)
        return None

    def taken(self, part: Chunk) -> None:
        """Note that the service took the last part: none of its records is bad."""
        self.parts_taken.append(part)
        sibling = self._trying.sibling
        if sibling is not None and not (self._trying.is_reduced or sibling.is_reduced):
            sibling.holds_bad = True

    def refused(self, part: Chunk) -> None:
        """Note that it refused the last part, which by now is *part*, for a record's sake."""
        indices = self._trying.indices
        for index, history in zip(indices, part.histories, strict=True):
            self.chunk.histories[index] = history
        if len(indices) > 1:
            self._divide(indices)
        else:
            self.refused_alone += 1

    def remove(self, entries: Sequence[PendingRecord]) -> None:
        """Leave records out from now on: they are settled otherwise."""
        gone = {entry.position for entry in entries}
        for part in self._pile:
            kept = tuple(i for i in part.indices if self.chunk.positions[i] not in gone)
            if len(kept) < len(part.indices):
                part.indices = kept
                part.holds_bad = False
                part.is_reduced = True

    def waiting(self) -> list[PendingRecord]:
        """Return the records that wait for their part to be tried."""
        entries = self.chunk.entries
        return [entries[index] for part in self._pile for index in part.indices]

    def _divide(self, indices: tuple[int, ...]) -> None:
        """Part them where it costs least, or at the place nearest to it where the label changes."""
        share, labels = first_share(len(indices)), [self._labels[index] for index in indices]
        changes = [n for n in range(1, len(indices)) if labels[n - 1] != labels[n]]
        share = min(changes, key=lambda n: abs(n - share), default=share)
        self._push_pair(indices[:share], indices[share:])

    def _push_pair(self, first: tuple[int, ...], rest: tuple[int, ...]) -> None:
        sibling = Part(rest)
        self._pile += [sibling, Part(first, sibling=sibling)]


_WORD: Final = re.compile(r"[^\s'\"`,;()\[\]{}<>]+")
_SHORTEST_NAME: Final = 4
_names_of: Final = attrgetter(
    "dimension", "customer_aws_account_id", "customer_identifier", "license_arn"
)


def named_in(message: str, records: Sequence[UsageRecord]) -> set[int]:
    """
    Return which of *records* the service's text names, by dimension, customer or license.

    It only says where to look first: none is refused for a text, which may change at any time.
    """
    words = {word.strip(".:") for word in _WORD.findall(message)}
    names = {word for word in words if len(word) >= _SHORTEST_NAME}
    named = {index for index, one in enumerate(records) if not names.isdisjoint(_names_of(one))}
    return named if len(named) < len(records) else set()
