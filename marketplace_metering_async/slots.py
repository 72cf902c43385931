"""Where the records of a lane stand, by the minute of their timestamps: the oldest minute first."""

from array import array
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple

SLOT: Final = 60
"""Seconds of timestamps that are planned as one: fine beside the five minutes of an edge."""
_FEW: Final = 25
"""Positions that are sorted in at once."""
_GONE: Final = 4096
"""Places of a slot that are kept though nobody stands there any more."""


class _Part(NamedTuple):
    """Positions that came together, their oldest slot, and how many came before."""

    oldest: int
    before: int
    positions: Sequence[int]
    epochs: Sequence[int]


class Slots:
    """
    Positions by slot; within one, first in, first out of all that were sorted in together.

    They are sorted in when they are needed: to sort a million beforehand would keep the wire idle.
    Those that are sorted in are bare numbers: an object each would take more memory than all else
    that is kept of records that wait, and the garbage collector would look at it again and again.

    Attributes:
        size: How many there are.
    """

    def __init__(self) -> None:
        self.size = 0
        self._slots: dict[int, array[int]] = {}
        self._order: list[int] = []  # a heap of the slots
        self._gone: dict[int, int] = {}  # how many at the beginning of each have been taken out
        self._unsorted: list[_Part] = []  # a heap
        self._added = 0  # in all

    @property
    def oldest(self) -> int:
        """The oldest slot, of which there must be one."""
        order, unsorted = self._order, self._unsorted
        if not unsorted:
            return order[0]
        return min(order[0], unsorted[0].oldest) if order else unsorted[0].oldest

    def add(self, positions: Sequence[int], epochs: Sequence[int]) -> bool:
        """
        Add positions of these *epochs*, a list that nobody may change from now on.

        Return whether none was there as old as one of them.
        """
        oldest = min(epochs) // SLOT
        is_older = not self.size or oldest < self.oldest
        if len(positions) > _FEW or self._unsorted:  # few must not overtake those that wait
            compact = positions if isinstance(positions, range) else array("q", positions)
            heappush(self._unsorted, _Part(oldest, self._added, compact, epochs))
        else:
            self._sort_in(positions, epochs)
        self._added += len(positions)
        self.size += len(positions)
        return is_older

    def ahead(self, most: int) -> list[int]:
        """Return the next positions of the oldest slot, at *most* so many."""
        self._sort_for(most)
        number = self._order[0]
        gone = self._gone.get(number, 0)
        return self._slots[number][gone : gone + most].tolist()

    def drop(self, many: int) -> None:
        """Take out the first *many* of what `ahead` returned last."""
        number = self._order[0]
        slot, gone = self._slots[number], self._gone.get(number, 0) + many
        self.size -= many
        if gone == len(slot):
            del self._slots[heappop(self._order)]
            gone = 0
        elif gone > _GONE and gone * 2 > len(slot):
            del slot[:gone]
            gone = 0
        if gone:
            self._gone[number] = gone
        else:
            self._gone.pop(number, None)

    def _sort_for(self, most: int) -> None:
        """Sort in what is needed to tell which are the next *most* of the oldest slot."""
        order, unsorted = self._order, self._unsorted
        while unsorted and (
            not order
            or unsorted[0].oldest < order[0]
            or (unsorted[0].oldest == order[0] and self._left(order[0]) < most)
        ):
            _, _, positions, epochs = heappop(unsorted)
            self._sort_in(positions, epochs)

    def _left(self, number: int) -> int:
        return len(self._slots[number]) - self._gone.get(number, 0)

    def _sort_in(self, positions: Sequence[int], epochs: Sequence[int]) -> None:
        append = {epoch: self._slot(epoch // SLOT).append for epoch in set(epochs)}
        for position, epoch in zip(positions, epochs, strict=True):
            append[epoch](position)

    def _slot(self, number: int) -> "array[int]":
        slot = self._slots.get(number)
        if slot is None:
            heappush(self._order, number)
            slot = self._slots[number] = array("q")
        return slot
