"""The backlog: it loses nothing, repeats nothing, mixes nothing, fills chunks, and is on time."""

import itertools
import math
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from attrs import Factory, define
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.chunks import at, large_record
from support.examples import examples
from support.memory import usage
from support.strategies import NOON, recent, records

from marketplace_metering_async import limits
from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery.admission import deadline
from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.delivery.model import (
    NO_ATTEMPTS,
    AttemptHistory,
    Chunk,
    Lane,
    PendingRecord,
)
from marketplace_metering_async.records import UsageRecord

NOW: Final = (NOON + timedelta(hours=1)).timestamp()
EDGE: Final = limits.EDGE.total_seconds()
SENT: Final = AttemptHistory(attempts=1)
LINGER: Final = 2.0


def chunks_of(backlog: Backlog, now: float = NOW, moment: float = 0.0) -> list[Chunk]:
    taken = []
    while (chunk := backlog.take(now, moment)) is not None:
        taken.append(chunk)
    return taken


def filled(given_: list[UsageRecord], *, linger: float = 0.0) -> Backlog:
    backlog = Backlog(at(given_), linger=linger)
    backlog.add(range(len(given_)), given_, 0.0)
    return backlog


def sent(positions: Sequence[int], given_: Sequence[UsageRecord]) -> list[PendingRecord]:
    return [PendingRecord(position, given_[position], SENT) for position in positions]


@given(st.lists(records(recent), max_size=120))
def test_every_record_is_in_one_chunk_of_its_lane(given_: list[UsageRecord]) -> None:
    """
    A plan loses nothing, repeats nothing, mixes no lanes, and keeps to 25 and a million bytes.
    """
    backlog = filled(given_)

    chunks = chunks_of(backlog)

    assert list(range(len(given_))) == sorted(p for chunk in chunks for p in chunk.positions)
    for chunk in chunks:
        assert 1 <= len(chunk) <= 25
        assert {(chunk.lane.product_code, chunk.lane.licensed)} == {
            (record.product_code, record.license_arn is not None) for record in chunk.records
        }
        assert {chunk.lane} == set(map(backlog.lane_of, chunk.records))
        assert len(chunk.body) < limits.REQUEST_BYTES
        assert chunk.members == [record.to_wire() for record in chunk.records]
        assert chunk.records == [given_[position] for position in chunk.positions]


@given(st.lists(st.sampled_from("abc"), max_size=200))
def test_chunks_are_full(products: list[str]) -> None:
    """
    Only the last chunk of a lane has room left.
    """
    given_ = [usage(1, product_code=product)[0] for product in products]

    chunks = Counter(chunk.lane.product_code for chunk in chunks_of(filled(given_)))

    assert {p: -(-size // 25) for p, size in Counter(products).items()} == dict(chunks)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 22 * 60), st.sampled_from("ab")), max_size=40), max_size=6
    )
)
def test_the_earliest_deadline_goes_first(parts: list[list[tuple[int, str]]]) -> None:
    """
    To the minute, of all lanes, however they come; nothing of these is near an edge. Covers: T08
    """
    given_ = [
        usage(1, timestamp=NOON - timedelta(minutes=minutes), product_code=product)[0]
        for minutes, product in itertools.chain(*parts)
    ]
    backlog = Backlog(at(given_))
    start = 0
    for part in parts:
        end = start + len(part)
        backlog.add(range(start, end), given_[start:end], 0.0)
        start = end

    chunks = chunks_of(backlog)

    for product in "ab":
        own = [chunk for chunk in chunks if chunk.lane.product_code == product]
        stamps = [record.epoch // 60 for chunk in own for record in chunk.records]
        assert sorted(stamps) == stamps
    first = [chunk.records[0].epoch // 60 for chunk in chunks]
    assert sorted(first) == first


def test_lanes_take_turns() -> None:
    """
    A flood of one product does not keep another waiting. Covers: T09
    """
    backlog = filled(usage(2500, product_code="flood") + usage(50, product_code="brook"))

    order = [chunk.lane.product_code for chunk in chunks_of(backlog)]

    assert order.index("brook") < 3
    assert set(order[:4]) == {"flood", "brook"}


@pytest.mark.parametrize(
    ("timestamp", "apart"),
    [
        (NOON - timedelta(hours=22), False),
        (NOON - timedelta(hours=22, minutes=54), False),
        (NOON - timedelta(hours=22, minutes=55), True),
        (NOON - timedelta(hours=22, minutes=57), True),
        (NOON + timedelta(hours=1, minutes=2), True),
        (NOON + timedelta(hours=1), True),
        (NOON + timedelta(minutes=59), False),
    ],
)
def test_records_near_an_edge_travel_apart(timestamp: datetime, apart: bool) -> None:  # noqa: FBT001
    """
    Within five minutes of being too old, or ahead of the clock. Covers: H05, H06
    """
    edge = usage(1, timestamp=timestamp, dimension="edge")
    chunks = chunks_of(filled(usage(3, timestamp=NOON - timedelta(hours=2)) + edge))

    assert (2 if apart else 1) == len(chunks)


@pytest.mark.parametrize(
    ("stamp", "closes"),
    [
        (datetime(2026, 11, 30, 23, 30, tzinfo=UTC), datetime(2026, 12, 1, 6, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 30, tzinfo=UTC), datetime(2027, 1, 1, 6, tzinfo=UTC)),
        (datetime(2026, 11, 30, 2, 0, tzinfo=UTC), datetime(2026, 12, 1, 2, tzinfo=UTC)),
        (datetime(2026, 12, 1, 0, 0, tzinfo=UTC), datetime(2026, 12, 2, tzinfo=UTC)),
    ],
)
def test_deadlines_are_the_services(stamp: datetime, closes: datetime) -> None:
    """
    24 hours, and 06:00 UTC on the first for the month before. Covers: H07
    """
    assert closes.timestamp() == deadline(int(stamp.timestamp()))
    assert limits.deadline(stamp) == closes


def test_the_last_month_that_python_knows_closes_with_it() -> None:
    """
    There is no first of the next; what is stamped so is refused elsewhere.
    """
    last = int(datetime(9999, 12, 31, 12, tzinfo=UTC).timestamp())

    assert datetime.max.replace(tzinfo=UTC).timestamp() == deadline(last)


# Licenses of products that nobody named.


def licensed(name: int, **members: object) -> UsageRecord:
    arn = f"arn:aws:license-manager::123456789012:license:l-{name}"
    return usage(1, product_code=None, license_arn=arn, **members)[0]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 2)), max_size=4),
    st.integers(0, 3),
)
def test_licenses_are_grouped_on_demand(
    names: list[int], separations: list[dict[int, int]], before: int
) -> None:
    """
    From then on no request mixes groups, of those that wait either; none is lost, and any that
    waits can be taken out again.
    """
    given_ = [licensed(name) for name in names]
    groups: dict[str | None, int] = {}
    backlog = filled(given_)
    backlog.group_of = lambda record: groups.get(record.license_arn)
    taken: list[int] = []
    for separation in separations:
        for _ in range(before):
            if (chunk := backlog.take(NOW, 0.0)) is not None:
                taken += chunk.positions
        for name, group in separation.items():
            groups.setdefault(licensed(name).license_arn, group)
    waiting = [position for position in range(len(names)) if position not in taken]
    assert len(waiting) == len(backlog)
    gone = [p for p in waiting[::3] if backlog.discard(p, given_[p], 0.0)]

    for chunk in chunks_of(backlog):
        assert {chunk.lane.group} == {groups.get(record.license_arn) for record in chunk.records}
        assert chunk.lane.licensed
        taken += chunk.positions

    assert waiting[::3] == gone
    assert list(range(len(names))) == sorted(taken + gone)
    assert 0 == len(backlog)


def test_only_licenses_of_unnamed_products_are_grouped() -> None:
    """
    A product that is named says who may share.
    """
    arn = licensed(1).license_arn
    for backlog in (Backlog(at([])), Backlog(at([]), product_code="p")):
        backlog.group_of = lambda record: 7
        assert Lane("q") == backlog.lane_of(usage(1, product_code="q")[0])
        assert Lane("q", licensed=True) == backlog.lane_of(
            usage(1, product_code="q", license_arn=arn)[0]
        )
    assert Lane("p", licensed=True) == backlog.lane_of(licensed(1))
    unnamed = Backlog(at([]))
    assert Lane(None, licensed=True) == unnamed.lane_of(licensed(1))
    unnamed.group_of = lambda record: 7
    assert Lane(None, licensed=True, group=7) == unnamed.lane_of(licensed(1))


# What is given up.


@pytest.mark.parametrize("lane", [None, Lane(None, licensed=True)])
def test_at_most_so_many_are_dropped(lane: Lane | None) -> None:
    """
    Of a lane with all its groups, or of any; resting ones too. Law 14: in steps.
    """
    given_ = [licensed(n % 4) for n in range(60)] + usage(10)
    backlog = Backlog(at(given_))
    backlog.group_of = lambda record: int((record.license_arn or "0")[-1])
    backlog.add(range(20), given_[:20], 0.0)
    backlog.add(range(60, 70), given_[60:], 0.0)
    for start in (20, 40):
        entries = sent(range(start, start + 20), given_)
        backlog.put_back(entries, 0.0, float(start))
    dropped: list[int] = []

    while entries := backlog.drop(7, lane):
        assert len(entries) <= 7
        dropped += [entry.position for entry in entries]
        assert 70 - len(dropped) == len(backlog)

    assert (list(range(60)) if lane else list(range(70))) == sorted(dropped)
    left = chunks_of(backlog, moment=100.0)
    assert ([] if lane is None else [*range(60, 70)]) == [p for c in left for p in c.positions]


# Memory.


def test_a_long_stream_leaves_nothing_behind() -> None:
    """
    However many lanes and chunks come and go, held, dropped and taken out, no memory grows.
    """
    given_: list[UsageRecord] = []
    backlog = Backlog(lambda positions: [given_[p] for p in positions], linger=LINGER)

    def live(start: int) -> None:
        moment = float(start)
        for number in range(start, start + 300):
            lane = Lane(f"product-{number}")
            given_[:] = usage(30, product_code=lane.product_code)
            backlog.add(range(30), given_, moment)
            backlog.hold(lane, moment + 5, moment)
            if number % 3 == 0:
                backlog.drop(30, lane)
            backlog.release(lane, moment)
            if number % 3 == 1:
                backlog.flush(moment)
            while (chunk := backlog.take(NOW, moment + number % 2 * LINGER)) is not None:
                pass
            backlog.narrow(Lane(f"other-{number}"), 25)
            assert chunk is None
        for chunk in chunks_of(backlog, moment=moment + LINGER):
            assert len(chunk) <= 25

    live(0)
    tracemalloc.start()
    live(1_000)
    before = tracemalloc.get_traced_memory()[0]
    for start in range(2_000, 12_000, 1_000):
        live(start)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert 0 == len(backlog)
    assert grown < 100_000


def test_a_hold_that_is_over_keeps_no_empty_lane() -> None:
    """
    Whatever looks at the lane next forgets it.
    """
    backlog = Backlog(at([]))
    for name in "ab":
        backlog.hold(Lane(name), 5.0, 0.0)

    backlog.flush(5.0)

    assert not backlog.ready(5.0)
    assert backlog.next_due() is None


def test_an_empty_lane_that_was_narrowed_stays_so() -> None:
    """
    A proxy that found 25 records too large finds them so an hour later, too.
    """
    given_ = usage(50)
    backlog = Backlog(at(given_))
    backlog.narrow(Lane("product"), 12)
    backlog.narrow(Lane("product"), 20)
    for _ in range(2):
        backlog.add(range(50), given_, 0.0)
        assert [12, 12, 12, 12, 2] == list(map(len, chunks_of(backlog)))
    backlog.narrow(Lane("product"), 0)
    backlog.add(range(2), given_[:2], 0.0)
    assert [1, 1] == list(map(len, chunks_of(backlog)))


def test_a_lane_that_is_narrowed_below_what_waits_goes_at_once() -> None:
    """
    It is full then.
    """
    backlog = filled(usage(10), linger=LINGER)
    assert not backlog.ready(0.0)

    backlog.narrow(Lane("product"), 10)

    assert backlog.ready(0.0)


# Its whole life, beside a naive model.


@define
class _ModelLane:
    """What is known of a lane: never sent, sent before, and when it may go."""

    fresh: list[tuple[int, int]] = Factory(list)
    """Minute and position, in the order in which they came."""
    returned: list[tuple[int, int, PendingRecord]] = Factory(list)
    """Minute, number and entry."""
    since: float = -math.inf
    held_until: float = -math.inf
    limit: int = 25


LARGE: Final = {product: large_record(240, product) for product in "ab"}
minutes_ago = st.lists(st.integers(0, 3) | st.integers(-65, 23 * 60), min_size=1, max_size=30)
products = st.sampled_from("ab")


class BacklogLife(RuleBasedStateMachine):
    """Records that are added, taken, put back, held, narrowed, dropped: each is somewhere, once."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[UsageRecord] = []
        self.backlog = Backlog(at(self.records), linger=LINGER)
        self.moment = 0.0
        self.lanes = {"a": _ModelLane(), "b": _ModelLane()}
        self.resting: list[tuple[float, int, Sequence[PendingRecord]]] = []
        self.numbers = itertools.count()
        self.out: list[Chunk] = []

    # What the model says.

    def size_of(self, lane: _ModelLane) -> int:
        return len(lane.fresh) + len(lane.returned)

    def bytes_of(self, lane: _ModelLane) -> int:
        positions = [p for _, p in lane.fresh] + [entry.position for _, _, entry in lane.returned]
        large = [self.records[p] for p in positions if self.records[p].usage_allocations]
        return sum(wire.record_size(record.to_wire()) for record in large)

    def room(self, product: str) -> int:
        return limits.REQUEST_BYTES - 1 - wire.batch_overhead(product)

    def due(self, product: str, lane: _ModelLane) -> float:
        """Return from when on what waits in a lane may go."""
        if not self.size_of(lane):
            return math.inf
        full = self.size_of(lane) >= lane.limit or self.bytes_of(lane) >= self.room(product)
        if lane.returned or full:
            return lane.held_until
        return max(lane.held_until, lane.since + LINGER)

    def wake(self) -> None:
        """Let what has rested wait in its lane."""
        awake = sorted(part for part in self.resting if part[0] <= self.moment)
        self.resting = [part for part in self.resting if part[0] > self.moment]
        for _, _, entries in awake:
            self.line_up(entries)

    def line_up(self, entries: Sequence[PendingRecord]) -> None:
        for entry in entries:
            lane = self.lanes[str(entry.record.product_code)]
            lane.returned.append((entry.record.epoch // 60, next(self.numbers), entry))

    def kind(self, minute: int) -> str:
        start, now = datetime.fromtimestamp(minute * 60, UTC), NOW + self.moment
        if limits.deadline(start).timestamp() - now <= EDGE:
            return "late"
        return "ahead" if minute * 60 + 60 > now else "inside"

    def next_chunk(self, product: str) -> list[tuple[int, AttemptHistory]]:
        """Take the next records of a lane out of the model."""
        lane = self.lanes[product]
        lane.returned.sort(key=lambda part: part[:2])
        order = [(minute, entry.position, entry.history) for minute, _, entry in lane.returned]
        fresh = sorted(lane.fresh, key=lambda part: part[0])  # stable: first in, first out
        kinds = [self.kind(minute) for minute, _, _ in order]
        same = len(list(itertools.takewhile(lambda kind: kind == kinds[0], kinds)))
        first = kinds[0] if kinds else self.kind(fresh[0][0])
        order = order[:same]
        order += [
            (minute, position, NO_ATTEMPTS)
            for minute, position in itertools.takewhile(lambda p: self.kind(p[0]) == first, fresh)
        ]
        left = self.room(product)
        chosen: list[tuple[int, AttemptHistory]] = []
        for _, position, history in order[: lane.limit]:
            left -= wire.record_size(self.records[position].to_wire())
            if left < 0 and chosen:
                break
            chosen.append((position, history))
        gone = {position for position, _ in chosen}
        lane.fresh = [part for part in lane.fresh if part[1] not in gone]
        lane.returned = [part for part in lane.returned if part[2].position not in gone]
        return chosen

    def oldest(self, product: str) -> int:
        lane = self.lanes[product]
        return min(part[0] for part in lane.returned or lane.fresh)

    # What happens.

    def added(self, product: str, given: list[UsageRecord]) -> None:
        positions = range(len(self.records), len(self.records) + len(given))
        self.records += given
        self.backlog.add(positions, given, self.moment)
        lane = self.lanes[product]
        if not lane.fresh:
            lane.since = self.moment
        lane.fresh += [
            (record.epoch // 60, position)
            for position, record in zip(positions, given, strict=True)
        ]

    @rule(product=products, minutes=minutes_ago)
    def add(self, product: str, minutes: list[int]) -> None:
        self.added(
            product,
            [
                usage(1, product_code=product, timestamp=NOON - timedelta(minutes=m))[0]
                for m in minutes
            ],
        )

    @rule(product=products, number=st.integers(1, 5))
    def add_large(self, product: str, number: int) -> None:
        self.added(product, [LARGE[product]] * number)

    @rule()
    def take(self) -> None:
        self.wake()
        may_go = {p for p, lane in self.lanes.items() if self.due(p, lane) <= self.moment}
        chunk = self.backlog.take(NOW + self.moment, self.moment)
        assert bool(may_go) == (chunk is not None)
        if chunk is None:
            return
        product = str(chunk.lane.product_code)
        assert product in may_go
        assert self.oldest(product) == min(map(self.oldest, may_go))
        expected = self.next_chunk(product)
        assert expected == list(zip(chunk.positions, chunk.histories, strict=True))
        assert chunk.records == [self.records[position] for position in chunk.positions]
        assert len(chunk) <= 25
        assert len(chunk.body) < limits.REQUEST_BYTES
        self.out.append(chunk)

    @precondition(lambda self: self.out)
    @rule(rest=st.sampled_from([None, 0.0, 0.5, 3.0]), parts=st.booleans())
    def put_back(self, rest: float | None, parts: bool) -> None:  # noqa: FBT001
        chunk = self.out.pop()
        entries = [entry._replace(history=SENT) for entry in chunk.entries]
        for part in (entries[::2], entries[1::2]) if parts else (entries,):
            if not part:
                continue
            self.backlog.put_back(part, self.moment, rest or 0.0)
            if rest:
                self.resting.append((self.moment + rest, next(self.numbers), part))
            else:
                self.line_up(part)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.moment += seconds

    @rule()
    def pass_time_until_something_is_due(self) -> None:
        if (due := self.backlog.next_due()) is not None:
            self.moment = max(self.moment, due)

    @rule(product=products, seconds=st.sampled_from([1.0, 5.0, 90.0]))
    def hold(self, product: str, seconds: float) -> None:
        self.lanes[product].held_until = self.moment + seconds
        self.backlog.hold(Lane(product), self.moment + seconds, self.moment)

    @rule(product=products)
    def release(self, product: str) -> None:
        self.lanes[product].held_until = -math.inf
        self.backlog.release(Lane(product), self.moment)

    @rule()
    def flush(self) -> None:
        self.backlog.flush(self.moment)
        for lane in self.lanes.values():
            lane.since = -math.inf

    @rule(product=products, most=st.integers(10, 25))
    def narrow(self, product: str, most: int) -> None:
        self.backlog.narrow(Lane(product), most)
        self.lanes[product].limit = min(self.lanes[product].limit, most)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        if not self.records:
            return
        position = data.draw(st.integers(0, len(self.records) - 1))
        record = self.records[position]
        lane = self.lanes[str(record.product_code)]
        part = (record.epoch // 60, position)
        assert (part in lane.fresh) == self.backlog.discard(position, record, self.moment)
        if part in lane.fresh:
            lane.fresh.remove(part)

    @rule(product=st.none() | products, most=st.integers(1, 60))
    def drop(self, product: str | None, most: int) -> None:
        lane = None if product is None else Lane(product)
        before = len(self.backlog)
        dropped = self.backlog.drop(most, lane)
        assert len(dropped) <= most
        gone = {entry.position: entry.history for entry in dropped}
        assert len(dropped) == len(gone) == before - len(self.backlog)
        assert {product} >= {e.record.product_code for e in dropped} or product is None
        for model in self.lanes.values():
            model.fresh = [part for part in model.fresh if gone.pop(part[1], None) is None]
            model.returned = [
                part for part in model.returned if gone.pop(part[2].position, None) is None
            ]
        kept: list[tuple[float, int, Sequence[PendingRecord]]] = []
        for until, number, entries in self.resting:
            rest = [entry for entry in entries if gone.pop(entry.position, None) is None]
            if rest:
                kept.append((until, number, rest))
        self.resting = kept
        assert {} == gone
        if len(dropped) < most:  # nothing of it is left
            left = {name for name, model in self.lanes.items() if self.size_of(model)}
            left |= {str(e.record.product_code) for _, _, part in self.resting for e in part}
            assert not left & ({"a", "b"} if product is None else {product})

    # What always holds.

    @invariant()
    def counts(self) -> None:
        resting = sum(len(entries) for _, _, entries in self.resting)
        assert resting + sum(map(self.size_of, self.lanes.values())) == len(self.backlog)

    @invariant()
    def is_on_time(self) -> None:
        """Whoever sleeps until `next_due` is not late, and does not sleep for nothing."""
        self.wake()
        first = min(self.due(product, lane) for product, lane in self.lanes.items())
        assert (first <= self.moment) == self.backlog.ready(self.moment)
        for until, _, entries in self.resting:
            for entry in entries:
                held = self.lanes[str(entry.record.product_code)].held_until
                first = min(first, max(until, held))
        due = self.backlog.next_due()
        if first > self.moment:
            assert (math.inf if due is None else due) <= first
            assert due is None or due > self.moment

    def teardown(self) -> None:
        for product in self.lanes:
            self.release(product)
        self.moment += 100.0
        self.flush()
        while len(self.backlog):
            before = len(self.backlog)
            self.take()
            assert len(self.backlog) < before


TestBacklogLife = BacklogLife.TestCase
TestBacklogLife.settings = settings(max_examples=examples(40), stateful_step_count=40)
