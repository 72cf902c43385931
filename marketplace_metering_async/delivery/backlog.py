"""
What is still to be sent, and which of it goes next: records to chunks.

A chunk holds records of one lane, at most 25, in fewer than a million bytes. A lane may go when it
fills a chunk, when its oldest record has waited for `linger` seconds, or when something of it was
sent before. Of the lanes that may go, the earliest deadline goes first. Records near an edge of the
service's window share chunks of their own, so that a refusal for their sake costs nobody else.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import count
from operator import attrgetter
from typing import Final

from attrs import define, field

from marketplace_metering_async import limits
from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery.admission import deadline
from marketplace_metering_async.delivery.lane_queue import MINUTE, LaneQueue
from marketplace_metering_async.delivery.model import NO_ATTEMPTS, Chunk, Lane, PendingRecord
from marketplace_metering_async.records import UsageRecord

_EDGE: Final = limits.EDGE.total_seconds()
_NOW: Final = -math.inf
"""The time at which whoever may go at once may go."""
_STALE: Final = 64
"""Entries of a heap that may be out of date before it is built anew."""
_names_of: Final = attrgetter("product_code", "license_arn")
"""What a record's lane depends on."""
_lane: Final = lru_cache(maxsize=64)(Lane)  # most records are of few


@define(slots=False, eq=False, repr=False)
class Backlog:
    """
    All records of a delivery that have no verdict and are neither on the wire nor searched.

    It knows no clock: times come in. `now` is wall time in seconds since 1970, corrected by the
    service's; `moment` is monotonic time in seconds.

    Attributes:
        product_code: The product of records that name none.
        linger: Seconds that a record waits for company at the most; 0: nobody waits.
        group_of: Returns which group a record of an unnamed product's license is of; only those of
            one group, or of none, may mix. What it says of those that wait may change.
    """

    _records_at: Callable[[Sequence[int]], list[UsageRecord]]  # those at some positions
    product_code: str | None = field(default=None, kw_only=True)
    linger: float = field(default=0.0, kw_only=True)
    group_of: Callable[[UsageRecord], int | None] = field(init=False, default=lambda _: None)
    _queues: dict[Lane, LaneQueue] = field(init=False, factory=dict)
    # Heaps: by the oldest minute, then by place; by the time at which they may go; likewise.
    _line: list[tuple[float, int, LaneQueue]] = field(init=False, factory=list)
    _waiting: list[tuple[float, int, LaneQueue]] = field(init=False, factory=list)
    _resting: list[tuple[float, int, Sequence[PendingRecord]]] = field(init=False, factory=list)
    _places: Iterator[int] = field(init=False, factory=count)

    def __len__(self) -> int:
        """Return how many records are here."""
        resting = sum(len(entries) for _, _, entries in self._resting)
        return resting + sum(queue.size for queue in self._queues.values())

    def add(self, positions: Sequence[int], records: Sequence[UsageRecord], moment: float) -> None:
        """Put records, which stand at *positions* of what was given, among those that wait."""
        if len(set(map(_names_of, records))) == 1:  # as mostly
            queue = self._queue(self.lane_of(records[0]))
            queue.add(positions, records, moment)
            self._line_up(queue, moment)
            return
        parts = defaultdict[Lane, list[int]](list)
        for index, record in enumerate(records):
            parts[self.lane_of(record)].append(index)
        for lane, indices in parts.items():
            queue = self._queue(lane)
            queue.add([positions[i] for i in indices], [records[i] for i in indices], moment)
            self._line_up(queue, moment)

    def put_back(self, entries: Sequence[PendingRecord], moment: float, rest: float = 0.0) -> None:
        """Put records back that an attempt has left open; they *rest* for some seconds."""
        if rest > 0:
            heappush(self._resting, (moment + rest, next(self._places), entries))
        else:
            self._return(entries, moment)

    def ready(self, moment: float) -> bool:
        """Return whether `take` would give a chunk."""
        while self._resting and self._resting[0][0] <= moment:
            self._return(heappop(self._resting)[2], moment)
        while self._waiting and self._waiting[0][0] <= moment:
            _, place, queue = heappop(self._waiting)
            if place == queue.place:
                self._line_up(queue, moment)
        while self._line and not self._is_current(self._line[0]):
            heappop(self._line)
        return bool(self._line)

    def next_due(self) -> float | None:
        """Return the monotonic time at which something that waits may go, if anything does."""
        while self._waiting and not self._is_current(self._waiting[0]):
            heappop(self._waiting)
        times = [heap[0][0] for heap in (self._waiting, self._resting) if heap]
        return min(times, default=None)

    def take(self, now: float, moment: float) -> Chunk | None:
        """Return the chunk whose deadline is the earliest, or None where nothing may go now."""
        while self.ready(moment):
            queue = heappop(self._line)[2]
            chunk = queue.cut(lambda minute: _kind(minute, now))
            self._line_up(queue, moment)
            if not self._is_outdated(chunk):
                return chunk
            self._regroup(chunk, queue.since, moment)
        return None

    def _is_outdated(self, chunk: Chunk) -> bool:
        """Return whether licenses of a chunk were grouped since their records came."""
        lane = chunk.lane
        return lane.is_unnamed and any(self.group_of(one) != lane.group for one in chunk.records)

    def _regroup(self, chunk: Chunk, since: float, moment: float) -> None:
        """Line the records of an outdated chunk up anew; some had come by *since*."""
        sent = [entry for entry in chunk.entries if entry.history != NO_ATTEMPTS]
        fresh = [entry for entry in chunk.entries if entry.history == NO_ATTEMPTS]
        self.put_back(sent, moment)
        self.add([entry.position for entry in fresh], [entry.record for entry in fresh], since)

    def flush(self, moment: float) -> None:
        """Let everything go that waits for company."""
        for queue in list(self._queues.values()):
            queue.since = _NOW
            self._line_up(queue, moment)

    def hold(self, lane: Lane, until: float, moment: float) -> None:
        """Keep what waits of *lane* back until a monotonic time, or until `release`."""
        queue = self._queue(lane)
        queue.held_until = until
        self._line_up(queue, moment)

    def release(self, lane: Lane, moment: float) -> None:
        """Let *lane* go again."""
        self.hold(lane, _NOW, moment)

    def narrow(self, lane: Lane, most: int) -> None:
        """Put at *most* that many records of *lane* into one request from now on."""
        queue = self._queue(lane)
        queue.limit = max(1, min(queue.limit, most))
        self._line_up(queue, _NOW)

    def discard(self, position: int, record: UsageRecord, moment: float) -> bool:
        """Take out a record that was never sent; return whether it was here."""
        lane = self.lane_of(record)
        for place in (lane, lane.whole):  # it may have come before its license had a group
            queue = self._queues.get(place)
            if queue is not None and queue.discard(position, record):
                self._line_up(queue, moment)
                return True
        return False

    def drop(self, most: int, lane: Lane | None = None) -> list[PendingRecord]:
        """Take out at *most* that many records, of *lane* with all its groups or of any."""
        dropped: list[PendingRecord] = []
        for queue in list(self._queues.values()):
            if lane is None or queue.lane.whole == lane:
                dropped += queue.drain(most - len(dropped))
                self._line_up(queue, _NOW)
                if len(dropped) >= most:
                    return dropped
        kept = []
        for until, place, entries in self._resting:
            hit = lane is None or self.lane_of(entries[0].record).whole == lane
            gone = most - len(dropped) if hit else 0
            dropped += entries[:gone]
            if rest := entries[gone:]:
                kept.append((until, place, rest))
        heapify(kept)
        self._resting = kept
        return dropped

    def clear(self) -> None:
        """Forget all records."""
        for part in (self._queues, self._line, self._waiting, self._resting):
            part.clear()

    def sent_before(self) -> set[int]:
        """Return the positions of all that were put back."""
        resting = {entry.position for _, _, entries in self._resting for entry in entries}
        return resting.union(*(queue.histories for queue in self._queues.values()))

    def lane_of(self, record: UsageRecord) -> Lane:
        """Return the lane that *record* travels in now."""
        code, licensed = record.product_code or self.product_code, record.license_arn is not None
        return _lane(code, licensed, self.group_of(record) if licensed and code is None else None)

    def _return(self, entries: Sequence[PendingRecord], moment: float) -> None:
        queues: dict[int, LaneQueue] = {}
        for entry in entries:
            queue = self._queue(self.lane_of(entry.record))
            queue.put_back(entry)
            queues[id(queue)] = queue
        for queue in queues.values():
            self._line_up(queue, moment)

    def _queue(self, lane: Lane) -> LaneQueue:
        queue = self._queues.get(lane)
        if queue is None:
            room = limits.REQUEST_BYTES - 1 - wire.batch_overhead(lane.sent_product_code)
            queue = self._queues[lane] = LaneQueue(lane, room, self._records_at)
        return queue

    def _line_up(self, queue: LaneQueue, moment: float) -> None:
        """Put a lane where it belongs now; places that it had before are out of date."""
        queue.place = next(self._places)
        if queue.held_until <= moment:
            queue.held_until = _NOW
        if not queue.size:
            is_narrowed = queue.limit < limits.MAX_RECORDS_PER_REQUEST
            if queue.held_until == _NOW and not is_narrowed:  # those are remembered
                self._queues.pop(queue.lane, None)
            return
        due = queue.held_until
        if not (queue.returned.size or queue.is_full):
            due = max(due, queue.since + self.linger)
        if due > moment:
            heappush(self._waiting, (due, queue.place, queue))
        else:
            heappush(self._line, (queue.oldest, queue.place, queue))
        if len(self._line) + len(self._waiting) > 2 * len(self._queues) + _STALE:
            for heap in (self._line, self._waiting):
                heap[:] = filter(self._is_current, heap)
                heapify(heap)

    def _is_current(self, entry: tuple[float, int, LaneQueue]) -> bool:
        return entry[1] == entry[2].place


def _kind(minute: int, now: float) -> str:
    """Return what the records of a minute may share a chunk with: an edge goes with its like."""
    start = minute * MINUTE
    if deadline(start) - now <= _EDGE:
        return "late"
    return "ahead" if start + MINUTE > now else "inside"
