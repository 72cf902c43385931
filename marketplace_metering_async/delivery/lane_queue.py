"""The records of one lane that wait: the oldest minute first, and first of all what was sent."""

import math
from array import array
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, NamedTuple

from attrs import Factory, define

from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery.model import (
    NO_ATTEMPTS,
    AttemptHistory,
    Lane,
    PendingRecord,
)
from marketplace_metering_async.limits import MAX_RECORDS_PER_REQUEST
from marketplace_metering_async.records import UsageRecord

MINUTE: Final = 60
"""Seconds of timestamps that are planned as one: fine beside the five minutes of an edge."""
_SPENT: Final = 4096
"""Positions at the beginning of a minute that are kept after they were taken."""


class Minutes:
    """
    Positions by the minute of their timestamps; within one, first in, first out.

    Bare numbers: an object for each of a million records that wait would take more memory than all
    else that is kept of them.

    Attributes:
        size: How many there are.
    """

    def __init__(self) -> None:
        self.size = 0
        self._minutes: dict[int, array[int]] = {}
        self._order: list[int] = []  # a heap of the minutes
        self._taken: dict[int, int] = {}  # how many at the beginning of each are gone

    @property
    def oldest(self) -> int:
        """The oldest minute, of which there must be one."""
        return self._order[0]

    def add(self, positions: Sequence[int], epochs: Sequence[int]) -> None:
        """Add positions of records with these *epochs*."""
        self.size += len(positions)
        for position, epoch in zip(positions, epochs, strict=True):
            minute = epoch // MINUTE
            if minute not in self._minutes:
                heappush(self._order, minute)
                self._minutes[minute] = array("q")
            self._minutes[minute].append(position)

    def peek(self, most: int) -> list[int]:
        """Return the next positions of the oldest minute, at *most* that many."""
        minute = self._order[0]
        taken = self._taken.get(minute, 0)
        return self._minutes[minute][taken : taken + most].tolist()

    def pop(self, number: int) -> None:
        """Take out the first *number* of what `peek` returned last."""
        minute = self._order[0]
        positions, taken = self._minutes[minute], self._taken.get(minute, 0) + number
        self.size -= number
        if taken == len(positions):
            del self._minutes[heappop(self._order)]
            taken = 0
        elif taken > _SPENT and taken * 2 > len(positions):
            del positions[:taken]
            taken = 0
        if taken:
            self._taken[minute] = taken
        else:
            self._taken.pop(minute, None)

    def discard(self, position: int, epoch: int) -> bool:
        """Take out one position; return whether it was there."""
        minute = epoch // MINUTE
        positions, taken = self._minutes.get(minute), self._taken.get(minute, 0)
        if positions is None:
            return False
        try:
            del positions[positions.index(position, taken)]
        except ValueError:
            return False
        self.size -= 1
        if taken == len(positions):
            del self._minutes[minute]
            self._taken.pop(minute, None)
            self._order.remove(minute)
            heapify(self._order)
        return True


class Cut(NamedTuple):
    """Records that were taken out of a lane, in columns."""

    positions: list[int]
    records: list[UsageRecord]
    histories: list[AttemptHistory]
    members: list[wire.Members]


@define(eq=False)
class LaneQueue:
    """
    The records of one lane that are not on the wire.

    Attributes:
        lane: Whose records they are.
        room: Bytes that a request of the lane has for its records.
        records_at: Returns the records at some positions.
        limit: The most records of a request.
        since: Monotonic time by which the oldest of those never sent had come.
        bytes: Of records with allocations, which may fill a request before they are 25.
        held_until: Monotonic time until which a search keeps them back.
        place: The newest of its places in the backlog's heaps; older ones are stale.
    """

    lane: Lane
    room: int
    records_at: Callable[[Sequence[int]], list[UsageRecord]]
    limit: int = MAX_RECORDS_PER_REQUEST
    since: float = -math.inf
    bytes: int = 0
    held_until: float = -math.inf
    place: int = -1
    _fresh: Minutes = Factory(Minutes)
    _returned: list[tuple[int, int, PendingRecord]] = Factory(list)  # a heap
    _numbers: "count[int]" = Factory(count)

    @property
    def size(self) -> int:
        """How many records there are."""
        return self._fresh.size + len(self._returned)

    @property
    def is_full(self) -> bool:
        """Whether they fill a request."""
        return self.size >= self.limit or self.bytes >= self.room

    @property
    def is_narrowed(self) -> bool:
        """Whether its requests are smaller than the service allows."""
        return self.limit < MAX_RECORDS_PER_REQUEST

    @property
    def has_fresh(self) -> bool:
        """Whether some were never sent."""
        return self._fresh.size > 0

    @property
    def has_returned(self) -> bool:
        """Whether some were sent before."""
        return bool(self._returned)

    def returned_positions(self) -> set[int]:
        """Return the positions of those that were sent before."""
        return {entry.position for _, _, entry in self._returned}

    @property
    def oldest(self) -> int:
        """The minute of the timestamp whose record goes next."""
        return self._returned[0][0] if self._returned else self._fresh.oldest

    def add(self, positions: Sequence[int], epochs: Sequence[int]) -> None:
        """Add records that were never sent; say `count_bytes` of each that has allocations."""
        self._fresh.add(positions, epochs)

    def put_back(self, entry: PendingRecord) -> None:
        """Add a record that was sent; it goes ahead of those that never were."""
        heappush(self._returned, (entry.record.epoch // MINUTE, next(self._numbers), entry))
        self.count_bytes(entry.record)

    def count_bytes(self, record: UsageRecord) -> None:
        """Take note of the size of a record that was added, if it has allocations."""
        if record.usage_allocations:
            self.bytes += wire.record_size(wire.members_of(record))

    def discard(self, position: int, record: UsageRecord) -> bool:
        """Take out a record that was never sent; return whether it was here."""
        found = self._fresh.discard(position, record.epoch)
        if found:
            self._uncount_bytes(record)
        return found

    def cut(self, kind: Callable[[int], str]) -> Cut:
        """Take out the records of the next request; minutes of one *kind* share it."""
        taken = Cut([], [], [], [])
        first = kind(self.oldest)
        left = self._cut_returned(taken, kind, first)
        while left > 0 and self._fresh.size and len(taken.positions) < self.limit:
            if kind(self._fresh.oldest) != first:
                break
            left = self._cut_fresh(taken, left)
        return taken

    def drain(self, most: int) -> list[PendingRecord]:
        """Take out at *most* that many records, in no particular order."""
        entries: list[PendingRecord] = []
        while self._returned and len(entries) < most:
            entries.append(self._returned.pop()[2])
        while self._fresh.size and len(entries) < most:
            positions = self._fresh.peek(most - len(entries))
            self._fresh.pop(len(positions))
            records = self.records_at(positions)
            entries += [
                PendingRecord(p, r, NO_ATTEMPTS) for p, r in zip(positions, records, strict=True)
            ]
        for entry in entries:
            self._uncount_bytes(entry.record)
        return entries

    def _cut_returned(self, taken: Cut, kind: Callable[[int], str], first: str) -> int:
        """Take out those that were sent before; return the bytes left, 0 once one did not fit."""
        left = self.room
        while self._returned and len(taken.positions) < self.limit:
            minute, _, entry = self._returned[0]
            if kind(minute) != first:
                break
            members = wire.members_of(entry.record)
            left -= wire.record_size(members)
            if left < 0 and taken.positions:
                return 0
            heappop(self._returned)
            self._forget_bytes(members)
            taken.positions.append(entry.position)
            taken.records.append(entry.record)
            taken.histories.append(entry.history)
            taken.members.append(members)
        return left

    def _cut_fresh(self, taken: Cut, left: int) -> int:
        """Take out the next of the oldest minute; return as `_cut_returned`."""
        positions = self._fresh.peek(self.limit - len(taken.positions))
        records = self.records_at(positions)
        members = wire.members_of_all(records)
        if self.bytes or left < wire.LARGEST_PLAIN_RECORD * len(members):
            fitting = 0
            for one in members:
                size = wire.record_size(one)
                if size > left and (fitting or taken.positions):
                    break
                left -= size
                fitting += 1
                self._forget_bytes(one)
            if fitting < len(members):
                left = 0
            positions, records, members = positions[:fitting], records[:fitting], members[:fitting]
        else:
            left -= wire.LARGEST_PLAIN_RECORD * len(members)
        self._fresh.pop(len(positions))
        taken.positions.extend(positions)
        taken.records.extend(records)
        taken.histories.extend([NO_ATTEMPTS] * len(positions))
        taken.members.extend(members)
        return left

    def _uncount_bytes(self, record: UsageRecord) -> None:
        if record.usage_allocations:
            self._forget_bytes(wire.members_of(record))

    def _forget_bytes(self, members: wire.Members) -> None:
        if "UsageAllocations" in members:
            self.bytes -= wire.record_size(members)
