"""
What is still to be sent, and which of it goes next: records to chunks.

A chunk holds records of one lane, at most 25, in fewer than a million bytes. The earliest
deadline goes first; records near an edge of the service's window share chunks of their own, so
that a refusal for their sake costs nobody else. What one chunk leaves open travels with others.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, NamedTuple

from attrs import Factory, define, evolve, field, frozen

from marketplace_metering_async import limits, wire
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.slots import SLOT, Slots

_EDGE: Final = limits.EDGE.total_seconds()
_STALE: Final = 64
"""Places in line that are kept though their queue stands elsewhere by now."""


class Lane(NamedTuple):
    """
    What shares requests: the records of one product and identity scheme.

    Attributes:
        product_code: The product; None for licenses whose product nobody named.
        licensed: Whether the records name a license, so that no product code is sent.
        license_arn: One license alone, once licenses turned out not to mix.
    """

    product_code: str | None
    licensed: bool = False
    license_arn: str | None = None

    def __repr__(self) -> str:
        """Return nothing of the license: it is nobody else's business."""
        return f"<Lane {self.product_code}{' with licenses' if self.licensed else ''}>"

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


@define
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
    histories: list[History]
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


class _Taken(NamedTuple):
    """Records that were taken out, in columns, and the bytes left; below 0 once one did not fit."""

    positions: list[int]
    records: list[UsageRecord]
    histories: list[History]
    members: list[wire.Members]
    room: int


@define(eq=False)
class _Queue:
    """The records of one lane that may go now, in slots of timestamps, the oldest first."""

    lane: Lane
    room: int
    """Bytes that a request of the lane has for its records."""
    records_at: Callable[[Sequence[int]], list[UsageRecord]]
    slots: Slots = Factory(Slots)
    histories: dict[int, History] = Factory(dict)
    """Of the records that have one."""
    has_allocations: bool = False
    """Whether a record had any, and requests may be full before they have 25 records."""
    turn: int = -1
    """Where it stands in line: the newest of its places in the backlog's heap; others are stale."""

    def take(self, most: int, room: int, *, alone: bool = True) -> _Taken:
        """
        Take out the next records of the first slot, at *most* so many.

        They fit into *room* bytes, but for one that is *alone*.
        """
        positions = self.slots.ahead(most)
        records = self.records_at(positions)
        members = wire.members_of_all(records)
        left = room - wire.LARGEST_PLAIN_RECORD * len(members)
        if left < 0 or self.has_allocations:
            fitting, left = 0, room
            for one in members:
                left -= wire.record_size(one)
                if left < 0 and (fitting or not alone):
                    break
                fitting += 1
            positions, records, members = positions[:fitting], records[:fitting], members[:fitting]
        return _Taken(positions, records, self._pop(positions), members, left)

    def _pop(self, positions: Sequence[int]) -> list[History]:
        """Take out the next records of the first slot; return their histories."""
        self.slots.drop(len(positions))
        known = self.histories
        return [known.pop(p, FRESH) for p in positions] if known else [FRESH] * len(positions)

    def drain(self) -> list[Open]:
        """Take out all records."""
        entries: list[Open] = []
        while self.slots.size:
            positions = self.slots.ahead(self.slots.size)
            records, histories = self.records_at(positions), self._pop(positions)
            entries += map(Open, positions, records, histories)
        return entries


class Backlog:
    """
    All records of a batch that have no verdict and are not on the wire.

    It knows no clock: times come in. `now` is wall time in seconds since 1970, corrected by the
    service's; `moment` is monotonic time in seconds.
    """

    def __init__(
        self,
        records_at: Callable[[Sequence[int]], list[UsageRecord]],
        *,
        product_code: str | None = None,
        limit: int = limits.MAX_RECORDS_PER_REQUEST,
        window: limits.MeteringWindow = limits.BATCH_WINDOW,
    ) -> None:
        """Line records up by their positions; *records_at* returns those at some."""
        self._records_at = records_at
        self._product_code = product_code
        self._limit = limit
        self._window = window
        self._queues: dict[Lane, _Queue] = {}
        self._lanes: dict[tuple[str | None, bool], Lane] = {}  # saves making a Lane a record
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
        held = sum(self._queues[lane].slots.size for lane in self._held if lane in self._queues)
        return self._ready + self._waiting + held

    @property
    def lanes(self) -> int:
        """How many lanes have had records."""
        return len(self._queues)

    def add(self, positions: Sequence[int], records: Sequence[UsageRecord]) -> None:
        """Put records, which stand at *positions* of what was given, among those that may go."""
        product_code = records[0].product_code if records else None
        others = [
            record
            for record in records
            if record.product_code != product_code
            or record.license_arn is not None
            or record.usage_allocations
        ]
        if records and not others:  # as most are
            self.add_alike(positions, records, [record.epoch for record in records])
            return
        parts: dict[Lane, tuple[list[int], list[UsageRecord]]] = {}
        for position, record in zip(positions, records, strict=True):
            part = parts.setdefault(self.lane_of(record), ([], []))
            part[0].append(position)
            part[1].append(record)
        for at, alike in parts.values():
            has_allocations = any(record.usage_allocations for record in alike)
            self._queue(alike[0]).has_allocations |= has_allocations
            self.add_alike(at, alike, [record.epoch for record in alike])

    def add_alike(
        self, positions: Sequence[int], records: Sequence[UsageRecord], epochs: Sequence[int]
    ) -> None:
        """Do the same with records of one lane, of which these are the *epochs*."""
        queue = self._queue(records[0])
        is_older = queue.slots.add(positions, epochs)
        if queue.lane in self._held:
            return
        if is_older:
            self._line_up(queue)
        self._ready += len(positions)
        if queue.slots.size >= self._limit:
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
        if self._later:
            self.wake(moment)
        return bool(self._full) if full else self._ready > 0

    def take(self, now: float, moment: float, *, full: bool = False) -> Chunk | None:
        """Return the chunk whose deadline is the earliest, or None where nothing may go now."""
        if not self.ready(moment, full=full):
            return None
        queue = self._queues[next(iter(self._full))] if full else self._first_in_line()
        chunk = self._cut(queue, now)
        if queue.slots.size:
            self._line_up(queue)
        return chunk

    def hold(self, lane: Lane) -> None:
        """Keep the records of *lane* back until `release`."""
        if lane not in self._held:
            self._held.add(lane)
            self._full.pop(lane, None)
            if lane in self._queues:
                self._ready -= self._queues[lane].slots.size

    def release(self, lane: Lane) -> None:
        """Let the records of *lane* go again."""
        if lane in self._held:
            self._held.discard(lane)
            queue = self._queues.get(lane)
            if queue is not None and queue.slots.size:
                self._ready += queue.slots.size
                self._line_up(queue)
                if queue.slots.size >= self._limit:
                    self._full[lane] = None

    def drop(self, lane: Lane | None = None) -> list[Open]:
        """Take out and return all records, or all of *lane* and the lanes it was divided into."""
        dropped: list[Open] = []
        for queue in self._queues.values():
            if lane is None or _covers(lane, queue.lane):
                self._ready -= 0 if queue.lane in self._held else queue.slots.size
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
        self.release(lane)
        queue = self._queues.get(lane)
        if queue is not None:
            self._ready -= queue.slots.size
            self._full.pop(lane, None)
            self._enqueue(queue.drain())

    def deadline(self, epoch: int) -> float:
        """Return when the window of a timestamp closes; both in seconds since 1970."""
        found = self._deadlines.get(epoch)
        if found is None:  # there are no more of them than seconds
            stamp = datetime.fromtimestamp(epoch, UTC)
            found = self._deadlines[epoch] = limits.deadline(stamp, self._window).timestamp()
        return found

    def lane_of(self, record: UsageRecord) -> Lane:
        """Return the lane that *record* travels in now."""
        known = (record.product_code, record.license_arn is not None)
        lane = self._lanes.get(known)
        if lane is None:
            lane = self._lanes[known] = chunk_key(record, self._product_code)
        if lane in self._divided:
            return Lane(lane.product_code, licensed=True, license_arn=record.license_arn)
        return lane

    def _enqueue(self, entries: Sequence[Open]) -> None:
        for position, record, history in entries:
            if history is not FRESH:
                self._queue(record).histories[position] = history
        if entries:
            self.add([e.position for e in entries], [e.record for e in entries])

    def _queue(self, record: UsageRecord) -> _Queue:
        lane = self.lane_of(record)
        queue = self._queues.get(lane)
        if queue is None:
            room = limits.REQUEST_BYTES - 1 - wire.batch_overhead(lane.sent_product_code)
            queue = self._queues[lane] = _Queue(lane, room, self._records_at)
        return queue

    def _line_up(self, queue: _Queue) -> None:
        queue.turn = next(self._turns)
        heappush(self._line, (queue.slots.oldest, queue.turn, queue))
        if len(self._line) > 2 * len(self._queues) + _STALE:
            self._line = [place for place in self._line if place[1] == place[2].turn]
            heapify(self._line)

    def _first_in_line(self) -> _Queue:
        while True:
            _, turn, queue = heappop(self._line)
            if turn == queue.turn and queue.slots.size and queue.lane not in self._held:
                return queue

    def _cut(self, queue: _Queue, now: float) -> Chunk:
        number = queue.slots.oldest
        positions, records, histories, members, room = queue.take(self._limit, queue.room)
        while room >= 0 and queue.slots.size and len(members) < self._limit:
            if self._kind(queue.slots.oldest, now) != self._kind(number, now):
                break
            more = queue.take(self._limit - len(members), room, alone=False)
            positions += more.positions
            records += more.records
            histories += more.histories
            members += more.members
            room = more.room
        self._ready -= len(members)
        if queue.slots.size < self._limit:
            self._full.pop(queue.lane, None)
        return Chunk(queue.lane, positions, records, histories, members)

    def _kind(self, number: int, now: float) -> str:
        """Return what a slot's records may share a chunk with: an edge goes with its like."""
        if self.deadline(number * SLOT) - now <= _EDGE:
            return "late"
        return "ahead" if (number + 1) * SLOT > now else "inside"


def _covers(lane: Lane, other: Lane) -> bool:
    if lane.license_arn is not None:
        return lane == other
    return (lane.product_code, lane.licensed) == (other.product_code, other.licensed)
