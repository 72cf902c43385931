"""
What is still to be sent, and which of it goes next: records to chunks.

A chunk holds records of one lane, at most 25, in fewer than a million bytes. The earliest
deadline goes first; records near an edge of the service's window share chunks of their own, so
that a refusal for their sake costs nobody else. What one chunk leaves open travels with others.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from itertools import count, islice, repeat
from operator import attrgetter
from typing import Any, Final, NamedTuple

from attrs import Factory, define, evolve, field, frozen

from marketplace_metering_async import limits, wire
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.records import UsageRecord

_EDGE: Final = limits.EDGE.total_seconds()
_SLOT: Final = 60
"""Seconds of timestamps that are planned as one: fine beside the five minutes of an edge."""


@frozen(cache_hash=True)
class Lane:
    """
    What shares requests: the records of one product and identity scheme.

    Attributes:
        product_code: The product; None for licenses whose product nobody named.
        licensed: Whether the records name a license, so that no product code is sent.
        license_arn: One license alone, once licenses turned out not to mix.
    """

    product_code: str | None
    licensed: bool = False
    license_arn: str | None = field(default=None, repr=False)

    @property
    def sent_product_code(self) -> str | None:
        """The `ProductCode` of the lane's requests."""
        return None if self.licensed else self.product_code


def chunk_key(record: UsageRecord, product_code: str | None = None) -> Lane:
    """Return the lane of *record*; *product_code* stands in where the record names none."""
    return Lane(record.product_code or product_code, licensed=record.license_arn is not None)


@frozen(kw_only=True)
class History:
    """
    What a record has been through; shared by all records that went through it together.

    Attributes:
        attempts: Calls that carried the record.
        failures: Those that failed for the service's fault, throttles apart.
        repairs: The latest in a row after which credentials or clock were put right.
        ambiguous: Whether one of them may have been acted upon though no answer says so.
        since: Monotonic time of the first attempt; None before it.
        error: Why the last attempt settled nothing.
        request_id: The service's id of the last attempt.
    """

    attempts: int = 0
    failures: int = 0
    repairs: int = 0
    ambiguous: bool = False
    since: float | None = None
    error: MeteringError | None = None
    request_id: str | None = None

    def after(
        self,
        moment: float,
        error: MeteringError | None,
        *,
        failed: bool = False,
        repaired: bool = False,
        doubt: bool = False,
        progress: bool = False,
        request_id: str | None = None,
    ) -> "History":
        """Return the history after one more attempt, begun or with progress at *moment*."""
        return History(
            attempts=self.attempts + 1,
            failures=self.failures + failed,
            repairs=self.repairs + 1 if repaired else 0,
            ambiguous=self.ambiguous or doubt,
            since=moment if progress or self.since is None else self.since,
            error=error,
            request_id=request_id or getattr(error, "request_id", None),
        )


FRESH: Final = History()


class Open(NamedTuple):
    """A record that waits: its position in what was given, itself, and its history."""

    position: int
    record: UsageRecord
    history: History


@frozen
class Chunk:
    """
    Records that travel in one request, in columns: most chunks are settled as a whole.

    Attributes:
        lane: Whose records they are.
        positions: Where they stand in what was given.
        records: The records.
        histories: What each has been through.
        members: The records as the wire carries them.
    """

    lane: Lane
    positions: Sequence[int]
    records: Sequence[UsageRecord]
    histories: Sequence[History]
    members: Sequence[wire.Members] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.positions)

    @property
    def body(self) -> bytes:
        """The body of the request; the bytes of a record are the same in every chunk."""
        return wire.encode_batch(self.lane.sent_product_code, self.members)

    @property
    def entries(self) -> list[Open]:
        """The records with their positions and histories."""
        return list(map(Open, self.positions, self.records, self.histories))

    def part(self, indices: Iterable[int]) -> "Chunk":
        """Return a chunk of some of the records."""
        chosen = list(indices)
        return Chunk(
            self.lane,
            [self.positions[i] for i in chosen],
            [self.records[i] for i in chosen],
            [self.histories[i] for i in chosen],
            [self.members[i] for i in chosen],
        )

    def advanced(self, entries: Iterable[Open]) -> "Chunk":
        """Return the chunk with the histories that its *entries* have by now."""
        return evolve(self, histories=[entry.history for entry in entries])


_allocations: Final = attrgetter("usage_allocations")


@define(eq=False)
class _Queue:
    """The records of one lane that may go now, in slots of timestamps, the oldest first."""

    lane: Lane
    room: int
    """Bytes that a request of the lane has for its records."""
    slots: dict[int, deque[Any]] = Factory(dict)
    """
    Of each slot, positions and records in turn. Of a million records that wait, an object each
    would be looked at by the garbage collector again and again.
    """
    histories: dict[int, History] = Factory(dict)
    """Of the records that have one."""
    order: list[int] = Factory(list)
    """A heap of the slots' numbers."""
    size: int = 0
    turn: int = -1
    """Where it stands in line: the newest of its places in the backlog's heap; others are stale."""

    def begin(self, number: int) -> deque[Any]:
        """Add a slot, and return it."""
        slot = self.slots[number] = deque()
        heappush(self.order, number)
        return slot

    def wired(self, most: int, room: int, *, alone: bool) -> tuple[list[wire.Members], int]:
        """
        Return what the wire carries for the next records of the first slot, at *most* so many.

        They fit into *room* bytes, but for one that is *alone*. Returns the room that is left, too,
        which is negative once a record did not fit.
        """
        records = list(islice(self.slots[self.order[0]], 1, 2 * most, 2))
        members = list(map(wire.members_of, records))
        left = room - wire.LARGEST_PLAIN_RECORD * len(members)
        if left >= 0 and not any(map(_allocations, records)):
            return members, left
        fitting: list[wire.Members] = []
        for one in members:
            room -= wire.record_size(one)
            if room < 0 and (fitting or not alone):
                break
            fitting.append(one)
        return fitting, room

    def pop(self, many: int) -> tuple[list[int], list[UsageRecord], list[History]]:
        """Take out the next records of the first slot: positions, records and histories."""
        slot = self.slots[self.order[0]]
        taken = list(map(deque.popleft, repeat(slot, 2 * many)))
        if not slot:
            del self.slots[heappop(self.order)]
        self.size -= many
        positions, known = taken[::2], self.histories
        histories = [known.pop(p, FRESH) for p in positions] if known else [FRESH] * many
        return positions, taken[1::2], histories

    def drain(self) -> list[Open]:
        """Take out all records."""
        entries: list[Open] = []
        while self.order:
            entries += map(Open, *self.pop(len(self.slots[self.order[0]]) // 2))
        return entries


class Backlog:
    """
    All records of a batch that have no verdict and are not on the wire.

    It knows no clock: times come in. `now` is wall time in seconds since 1970, corrected by the
    service's; `moment` is monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        product_code: str | None = None,
        limit: int = limits.MAX_RECORDS_PER_REQUEST,
        window: limits.MeteringWindow = limits.BATCH_WINDOW,
    ) -> None:
        self._product_code = product_code
        self._limit = limit
        self._window = window
        self._queues: dict[Lane, _Queue] = {}
        self._lanes: dict[tuple[str | None, bool], Lane] = {}  # saves making a Lane a record
        self._known: dict[tuple[str | None, bool], _Queue] = {}  # and finding its queue
        self._divided: set[Lane] = set()  # lanes whose licenses do not mix
        self._held: set[Lane] = set()  # lanes whose records wait for a search to end
        self._line: list[tuple[int, int, _Queue]] = []  # a heap: oldest slot, then longest unserved
        self._turns = count()
        self._full: dict[Lane, None] = {}  # lanes with enough for a full chunk
        self._later: list[tuple[float, int, list[Open]]] = []  # a heap, by monotonic time
        self._waiting = 0
        self._ready = 0
        self._deadlines: dict[int, float] = {}

    def __len__(self) -> int:
        """Return how many records are open here."""
        held = sum(self._queues[lane].size for lane in self._held if lane in self._queues)
        return self._ready + self._waiting + held

    @property
    def lanes(self) -> int:
        """How many lanes have had records."""
        return len(self._queues)

    def add(self, given: Iterable[tuple[int, UsageRecord]]) -> None:
        """Put records that were not sent yet, each with its position, among those that may go."""
        known, held, limit = self._known, self._held, self._limit
        for position, record in given:
            kind = (record.product_code, record.license_arn is not None)
            queue = known.get(kind) or self._queue(record, kind)
            number = record.epoch // _SLOT
            slot = queue.slots.get(number)
            if slot is None:
                slot = queue.begin(number)
                if queue.order[0] == number and queue.lane not in held:
                    self._line_up(queue)
            slot.append(position)
            slot.append(record)
            queue.size += 1
            if held and queue.lane in held:
                continue
            self._ready += 1
            if queue.size == limit:
                self._full[queue.lane] = None

    def put_back(self, entries: Sequence[Open], *, not_before: float | None = None) -> None:
        """Put records back that an attempt has left open; they rest until *not_before*."""
        if not_before is None:
            self._enqueue(entries)
        elif entries:
            heappush(self._later, (not_before, next(self._turns), list(entries)))
            self._waiting += len(entries)

    def next_due(self) -> float | None:
        """Return the monotonic time at which the next resting records may go again."""
        return self._later[0][0] if self._later else None

    def wake(self, moment: float) -> None:
        """Let the records go whose rest is over."""
        while self._later and self._later[0][0] <= moment:
            _, _, entries = heappop(self._later)
            self._waiting -= len(entries)
            self._enqueue(entries)

    def ready(self, moment: float, *, full: bool = False) -> bool:
        """Whether `take` would give a chunk; with *full*, one with no room left."""
        self.wake(moment)
        return bool(self._full) if full else self._ready > 0

    def take(self, now: float, moment: float, *, full: bool = False) -> Chunk | None:
        """Return the chunk whose deadline is the earliest, or None where nothing may go now."""
        if not self.ready(moment, full=full):
            return None
        queue = self._queues[next(iter(self._full))] if full else self._first_in_line()
        chunk = self._cut(queue, now)
        if queue.size:
            self._line_up(queue)
        return chunk

    def hold(self, lane: Lane) -> None:
        """Keep the records of *lane* back until `release`."""
        if lane not in self._held:
            self._held.add(lane)
            self._full.pop(lane, None)
            if lane in self._queues:
                self._ready -= self._queues[lane].size

    def release(self, lane: Lane) -> None:
        """Let the records of *lane* go again."""
        if lane in self._held:
            self._held.discard(lane)
            queue = self._queues.get(lane)
            if queue is not None and queue.size:
                self._ready += queue.size
                self._line_up(queue)
                if queue.size >= self._limit:
                    self._full[lane] = None

    def drop(self, lane: Lane | None = None) -> list[Open]:
        """Take out and return all records, or all of *lane* and the lanes it was divided into."""
        dropped: list[Open] = []
        for queue in self._queues.values():
            if lane is None or _covers(lane, queue.lane):
                self._ready -= 0 if queue.lane in self._held else queue.size
                dropped += queue.drain()
                self._full.pop(queue.lane, None)
        kept: list[tuple[float, int, list[Open]]] = []
        for due, turn, entries in self._later:
            rest: list[Open] = []
            for entry in entries:
                hit = lane is None or _covers(lane, self.lane_of(entry.record))
                (dropped if hit else rest).append(entry)
            if rest:
                kept.append((due, turn, rest))
        heapify(kept)
        self._later = kept
        self._waiting = sum(len(entries) for _, _, entries in kept)
        return dropped

    def divide(self, lane: Lane) -> None:
        """Let the licenses of *lane* share no request any more: they turned out not to mix."""
        self._divided.add(lane)
        self._known.clear()
        self.release(lane)
        queue = self._queues.get(lane)
        if queue is not None:
            self._ready -= queue.size
            self._full.pop(lane, None)
            self._enqueue(queue.drain())

    def deadline(self, record: UsageRecord) -> float:
        """Return when the window of *record* closes, in seconds since 1970."""
        return self._closes(record.epoch)

    def lane_of(self, record: UsageRecord) -> Lane:
        """Return the lane that *record* travels in now."""
        known = (record.product_code, record.license_arn is not None)
        lane = self._lanes.get(known)
        if lane is None:
            lane = self._lanes[known] = chunk_key(record, self._product_code)
        if lane in self._divided:
            return Lane(lane.product_code, licensed=True, license_arn=record.license_arn)
        return lane

    def _enqueue(self, entries: Iterable[Open]) -> None:
        for position, record, history in entries:
            if history is not FRESH:
                kind = (record.product_code, record.license_arn is not None)
                self._queue(record, kind).histories[position] = history
            self.add(((position, record),))

    def _queue(self, record: UsageRecord, kind: tuple[str | None, bool]) -> _Queue:
        lane = self.lane_of(record)
        queue = self._queues.get(lane)
        if queue is None:
            overhead = wire.batch_overhead(lane.sent_product_code)
            queue = self._queues[lane] = _Queue(lane, limits.REQUEST_BYTES - 1 - overhead)
        if lane.license_arn is None:
            self._known[kind] = queue
        return queue

    def _line_up(self, queue: _Queue) -> None:
        queue.turn = next(self._turns)
        heappush(self._line, (queue.order[0], queue.turn, queue))

    def _first_in_line(self) -> _Queue:
        while True:
            _, turn, queue = heappop(self._line)
            if turn == queue.turn and queue.size and queue.lane not in self._held:
                return queue

    def _cut(self, queue: _Queue, now: float) -> Chunk:
        positions: list[int] = []
        records: list[UsageRecord] = []
        histories: list[History] = []
        members: list[wire.Members] = []
        room = queue.room
        kind = self._kind(queue.order[0], now)
        while room >= 0 and queue.order and len(members) < self._limit:
            if members and self._kind(queue.order[0], now) != kind:
                break
            fitting, room = queue.wired(self._limit - len(members), room, alone=not members)
            members += fitting
            more = queue.pop(len(fitting))
            positions += more[0]
            records += more[1]
            histories += more[2]
        self._ready -= len(members)
        if queue.size < self._limit:
            self._full.pop(queue.lane, None)
        return Chunk(queue.lane, positions, records, histories, members)

    def _kind(self, number: int, now: float) -> str:
        """Return what a slot's records may share a chunk with: an edge goes with its like."""
        if self._closes(number * _SLOT) - now <= _EDGE:
            return "late"
        return "ahead" if (number + 1) * _SLOT > now else "inside"

    def _closes(self, epoch: int) -> float:
        """Return when the window of a timestamp closes; there are no more of them than seconds."""
        found = self._deadlines.get(epoch)
        if found is None:
            stamp = datetime.fromtimestamp(epoch, UTC)
            found = self._deadlines[epoch] = limits.deadline(stamp, self._window).timestamp()
        return found


def _covers(lane: Lane, other: Lane) -> bool:
    if lane.license_arn is not None:
        return lane == other
    return (lane.product_code, lane.licensed) == (other.product_code, other.licensed)
