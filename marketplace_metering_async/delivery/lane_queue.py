"""
The records of one lane that wait, and the chunks that are cut of them: the oldest minute first, and
first of all what was sent.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import attrgetter
from typing import Final

from attrs import Factory, define

from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery.model import (
    NO_ATTEMPTS,
    AttemptHistory,
    Chunk,
    Lane,
    PendingRecord,
)
from marketplace_metering_async.limits import MAX_RECORDS_PER_REQUEST
from marketplace_metering_async.records import UsageRecord

MINUTE: Final = 60
"""Seconds of timestamps that are planned as one: fine beside the five minutes of an edge."""
_GONE: Final = 64
"""Positions of a minute that may have been taken out, beside as many that are left."""


class Minutes:
    """
    Positions by the minute of their timestamps; within one, first in, first out.

    Bare numbers: objects for a million records that wait would keep the garbage collector busy.

    Attributes:
        size: How many there are.
    """

    def __init__(self) -> None:
        self.size = 0
        self._minutes: dict[int, deque[int]] = {}
        self._order: list[int] = []  # a heap of the minutes
        # What is left of a minute of which something was taken out: to look for each position, and
        # to close each gap, would be quadratic in callers who cancel.
        self._left: dict[int, set[int]] = {}

    @property
    def oldest(self) -> int:
        """The oldest minute, of which there must be one."""
        while True:
            minute = self._order[0]
            if self._left.get(minute, self._minutes[minute]):
                return minute
            heappop(self._order)
            del self._minutes[minute]
            self._left.pop(minute, None)

    def add(self, positions: Sequence[int], epochs: Sequence[int]) -> None:
        """Add positions of records with these *epochs*."""
        self.size += len(positions)
        minutes = self._minutes
        for position, epoch in zip(positions, epochs, strict=True):
            minute = epoch // MINUTE
            if minute not in minutes:
                heappush(self._order, minute)
                minutes[minute] = deque()
            minutes[minute].append(position)
            if minute in self._left:
                self._left[minute].add(position)

    def peek(self, most: int) -> list[int]:
        """Return the next positions of the oldest minute, at *most* that many."""
        minute = self.oldest
        positions, left = self._minutes[minute], self._left.get(minute)
        there = positions if left is None else filter(left.__contains__, positions)
        return list(islice(there, most))

    def pop(self, first: Sequence[int]) -> None:
        """Take out the *first* of what `peek` returned last."""
        positions, left = self._minutes[self._order[0]], self._left.get(self._order[0])
        self.size -= len(first)
        for position in first:
            while positions.popleft() != position:
                pass  # which was taken out before
            if left is not None:
                left.remove(position)

    def discard(self, position: int, epoch: int) -> bool:
        """Take out one position, which never comes back; return whether it was there."""
        minute = epoch // MINUTE
        if minute not in self._minutes:
            return False
        positions = self._minutes[minute]
        if minute not in self._left:
            self._left[minute] = set(positions)
        left = self._left[minute]
        if position not in left:
            return False
        left.remove(position)
        self.size -= 1
        if len(positions) > 2 * len(left) + _GONE:
            self._minutes[minute] = deque(filter(left.__contains__, positions))
        return True


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
        fresh: Those that were never sent.
        returned: Those that were, which go ahead of them.
        histories: Of those, by position.
    """

    lane: Lane
    room: int
    records_at: Callable[[Sequence[int]], list[UsageRecord]]
    limit: int = MAX_RECORDS_PER_REQUEST
    since: float = -math.inf
    bytes: int = 0
    held_until: float = -math.inf
    place: int = -1
    fresh: Minutes = Factory(Minutes)
    returned: Minutes = Factory(Minutes)
    histories: dict[int, AttemptHistory] = Factory(dict)

    @property
    def size(self) -> int:
        """How many records there are."""
        return self.fresh.size + self.returned.size

    @property
    def is_full(self) -> bool:
        """Whether they fill a request."""
        return self.size >= self.limit or self.bytes >= self.room

    @property
    def oldest(self) -> int:
        """The minute of the timestamp whose record goes next."""
        return (self.returned if self.returned.size else self.fresh).oldest

    def add(self, positions: Sequence[int], records: Sequence[UsageRecord], moment: float) -> None:
        """Add records that were never sent, and came by *moment*."""
        self.since = min(self.since, moment) if self.fresh.size else moment
        self.fresh.add(positions, [record.epoch for record in records])
        for record in filter(attrgetter("usage_allocations"), records):
            self._count_bytes(record)

    def put_back(self, entry: PendingRecord) -> None:
        """Add a record that was sent; it goes ahead of those that never were."""
        self.returned.add((entry.position,), (entry.record.epoch,))
        self.histories[entry.position] = entry.history
        self._count_bytes(entry.record)

    def discard(self, position: int, record: UsageRecord) -> bool:
        """Take out a record that was never sent; return whether it was here."""
        found = self.fresh.discard(position, record.epoch)
        if found:
            self._count_bytes(record, -1)
        return found

    def cut(self, kind: Callable[[int], str]) -> Chunk:
        """Take out the records of the next request; minutes of one *kind* share it."""
        cut = Chunk(self.lane, [], [], [], [])
        first, left = kind(self.oldest), self.room
        for waiting in (self.returned, self.fresh):
            while left > 0 and waiting.size and len(cut.positions) < self.limit:
                if cut.positions and kind(waiting.oldest) != first:
                    break
                left = self._cut_some(waiting, cut, left)
        return cut

    def drain(self, most: int) -> list[PendingRecord]:
        """Take out at *most* that many records, in no particular order."""
        entries: list[PendingRecord] = []
        for waiting in (self.returned, self.fresh):
            while waiting.size and len(entries) < most:
                positions = waiting.peek(most - len(entries))
                waiting.pop(positions)
                records, histories = self.records_at(positions), self._take_histories(positions)
                entries += map(PendingRecord, positions, records, histories)
        for entry in entries:
            self._count_bytes(entry.record, -1)
        return entries

    def _cut_some(self, waiting: Minutes, cut: Chunk, left: int) -> int:
        """Take out what fits of the oldest minute; return the bytes left, < 0 once one did not."""
        positions = waiting.peek(self.limit - len(cut.positions))
        records = self.records_at(positions)
        members = [record.to_wire() for record in records]
        fitting = 0 if self.bytes or left < self.room else len(records)  # all, without allocations
        for record, one in zip(records[fitting:], members[fitting:], strict=True):
            size = wire.record_size(one)
            left -= size
            if left < 0 and (fitting or cut.positions):
                break
            fitting += 1
            if record.usage_allocations:
                self.bytes -= size
        waiting.pop(positions[:fitting])
        cut.positions.extend(positions[:fitting])
        cut.records.extend(records[:fitting])
        cut.histories.extend(self._take_histories(positions[:fitting]))
        cut.members.extend(members[:fitting])
        return left

    def _count_bytes(self, record: UsageRecord, times: int = 1) -> None:
        """Take note of the size of a record with allocations that was added; -1: taken out."""
        if record.usage_allocations:
            self.bytes += times * wire.record_size(record.to_wire())

    def _take_histories(self, positions: Sequence[int]) -> list[AttemptHistory]:
        if not self.histories:
            return [NO_ATTEMPTS] * len(positions)
        return [self.histories.pop(position, NO_ATTEMPTS) for position in positions]
