"""Planning: a backlog loses nothing, repeats nothing, mixes nothing, and fills chunks."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from marketplace_metering_async.planning import Backlog, Chunk, Lane, chunk_key
from support.memory import usage
from support.strategies import NOON, recent, records

from marketplace_metering_async import limits, wire
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

NOW = (NOON + timedelta(hours=1)).timestamp()


def chunks_of(backlog: Backlog, now: float = NOW) -> list[Chunk]:
    taken = []
    while (chunk := backlog.take(now, 0.0)) is not None:
        taken.append(chunk)
    return taken


def at(given_: list[UsageRecord]) -> Callable[[Sequence[int]], list[UsageRecord]]:
    return lambda positions: [given_[position] for position in positions]


def filled(given_: list[UsageRecord]) -> Backlog:
    backlog = Backlog(at(given_))
    backlog.add(range(len(given_)), given_)
    return backlog


@given(st.lists(records(recent), max_size=120))
def test_every_record_is_in_one_chunk_of_its_lane(given_: list[UsageRecord]) -> None:
    """
    A plan loses nothing, repeats nothing, mixes no lanes, and keeps to 25 and a million bytes.
    """
    chunks = chunks_of(filled(given_))

    positions = [entry.position for chunk in chunks for entry in chunk.entries]
    assert sorted(positions) == list(range(len(given_)))
    for chunk in chunks:
        assert 1 <= len(chunk) <= 25
        assert {chunk.lane} == {chunk_key(record) for record in chunk.records}
        assert len(chunk.body) < limits.REQUEST_BYTES
        assert chunk.members == [wire.members_of(record) for record in chunk.records]
        assert chunk.records == [given_[position] for position in chunk.positions]


@given(st.lists(st.sampled_from("abc"), max_size=200))
def test_chunks_are_full(products: list[str]) -> None:
    """
    Only the last chunk of a lane has room left.
    """
    given_ = [usage(1, product_code=product)[0] for product in products]

    sizes = Counter(products)
    chunks = Counter(chunk.lane.product_code for chunk in chunks_of(filled(given_), NOW))

    assert {p: -(-size // 25) for p, size in sizes.items()} == dict(chunks)


@given(st.lists(st.lists(st.integers(0, 22 * 60), min_size=1, max_size=40), max_size=6))
def test_the_earliest_deadline_goes_first(parts: list[list[int]]) -> None:
    """
    To the minute, however they come; after noon nothing of these is near an edge. Covers: T08
    """
    given_ = [usage(1, timestamp=NOON - timedelta(minutes=m))[0] for m in itertools.chain(*parts)]
    backlog = Backlog(at(given_))
    start = 0
    for part in parts:
        end = start + len(part)
        backlog.add(range(start, end), given_[start:end])
        start = end

    sent = [entry.record.epoch // 60 for c in chunks_of(backlog) for entry in c.entries]

    assert sorted(record.epoch // 60 for record in given_) == sent


def test_nobody_is_overtaken_for_ever() -> None:
    """
    Many that came together go before few of the same minute that come later.
    """
    given_ = usage(30 + 20 * 25)
    backlog = Backlog(at(given_))
    backlog.add(range(30), given_[:30])
    sent: list[int] = []

    for start in range(30, len(given_), 25):
        backlog.add(range(start, start + 25), given_[start : start + 25])
        chunk = backlog.take(NOW, 0.0)
        assert chunk is not None
        sent += chunk.positions

    assert list(range(20 * 25)) == sent


def test_records_of_one_minute_go_in_their_order() -> None:
    """
    First in, first out, also where thousands were taken and others come meanwhile.
    """
    given_ = usage(20_000)
    backlog = Backlog(at(given_))
    backlog.add(range(15_000), given_[:15_000])
    first = [backlog.take(NOW, 0.0) for _ in range(500)]
    backlog.add(range(15_000, 20_000), given_[15_000:])

    chunks = [chunk for chunk in first if chunk is not None] + chunks_of(backlog)

    assert list(range(20_000)) == [p for chunk in chunks for p in chunk.positions]


def test_a_long_stream_leaves_nothing_behind() -> None:
    """
    However many full chunks come and go, the line of lanes does not grow.
    """
    given_ = usage(30)
    backlog = Backlog(lambda positions: [given_[p % 30] for p in positions])

    for start in range(0, 30_000, 30):
        backlog.add(range(start, start + 30), given_)
        while backlog.take(NOW, 0.0, full=True) is not None:
            pass

    assert len(backlog) < 25
    assert len(backlog._line) < 100


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
        (NOON - timedelta(hours=22, minutes=57), True),
        (NOON + timedelta(hours=1, minutes=2), True),
        (NOON + timedelta(minutes=50), False),
    ],
)
def test_records_near_an_edge_travel_apart(timestamp: datetime, apart: bool) -> None:  # noqa: FBT001
    """
    Within five minutes of being too old, or ahead of the clock. Covers: H05, H06
    """
    edge = usage(1, timestamp=timestamp, dimension="edge")
    chunks = chunks_of(filled(usage(3, timestamp=NOON - timedelta(hours=2)) + edge))

    assert (2 if apart else 1) == len(chunks)


def test_large_records_are_cut_by_bytes() -> None:
    """
    A chunk stays under a million bytes, however few records that makes. Covers: W18
    """
    tag = [Tag(f"k{n}", "v" * 250) for n in range(5)]
    parts = [UsageAllocation(0, [*tag[:4], Tag("n", str(n))]) for n in range(300)]
    given_ = usage(10, quantity=0, usage_allocations=parts)

    chunks = chunks_of(filled(given_))

    assert 10 == sum(map(len, chunks))
    assert all(len(chunk.body) < limits.REQUEST_BYTES for chunk in chunks)
    assert len(chunks) < 10


def test_licenses_are_divided_on_demand() -> None:
    """
    From then on each license has a lane of its own, put-back records too.
    """
    arn = "arn:aws:license-manager::123456789012:license:l-{}"
    given_ = [usage(1, product_code=None, license_arn=arn.format(n % 3))[0] for n in range(9)]
    backlog = filled(given_)
    (chunk,) = chunks_of(backlog)

    backlog.divide(chunk.lane)
    backlog.put_back(chunk.entries)
    divided = chunks_of(backlog)

    assert [3, 3, 3] == [len(c) for c in divided]
    assert all(c.lane.license_arn is not None for c in divided)


minutes_ago = st.lists(st.integers(0, 9) | st.integers(0, 1200), min_size=1)


class BacklogLife(RuleBasedStateMachine):
    """Records that are added, taken, put back, held, dropped: each is somewhere, once."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[UsageRecord] = []
        self.backlog = Backlog(at(self.records))
        self.moment = 0.0
        self.inside: set[int] = set()
        self.out: list[Chunk] = []
        self.held: set[Lane] = set()

    @rule(product=st.sampled_from("ab"), minutes=minutes_ago)
    def add(self, product: str, minutes: list[int]) -> None:
        given = [
            usage(1, product_code=product, timestamp=NOON - timedelta(minutes=m))[0]
            for m in minutes * 5
        ]
        positions = range(len(self.records), len(self.records) + len(given))
        self.records += given
        self.backlog.add(positions, given)
        self.inside |= set(positions)

    @rule(full=st.booleans())
    def take(self, full: bool) -> None:  # noqa: FBT001
        chunk = self.backlog.take(NOW, self.moment, full=full)
        if chunk is not None:
            positions = {entry.position for entry in chunk.entries}
            assert positions <= self.inside
            assert chunk.lane not in self.held
            self.inside -= positions
            self.out.append(chunk)

    @rule(rest=st.sampled_from([None, 0.5, 3.0]))
    def put_back(self, rest: float | None) -> None:
        if self.out:
            chunk = self.out.pop()
            not_before = None if rest is None else self.moment + rest
            self.backlog.put_back(chunk.entries, not_before=not_before)
            self.inside |= {entry.position for entry in chunk.entries}

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.moment += seconds
        self.backlog.wake(self.moment)

    @rule(product=st.sampled_from("ab"))
    def hold_or_release(self, product: str) -> None:
        lane = Lane(product)
        if lane in self.held:
            self.backlog.release(lane)
        else:
            self.backlog.hold(lane)
        self.held ^= {lane}

    @rule(product=st.sampled_from("ab"))
    def drop(self, product: str) -> None:
        dropped = {entry.position for entry in self.backlog.drop(Lane(product))}
        assert dropped <= self.inside
        self.inside -= dropped

    @invariant()
    def conserves(self) -> None:
        assert len(self.backlog) == len(self.inside)

    def teardown(self) -> None:
        for lane in self.held:
            self.backlog.release(lane)
        self.backlog.wake(self.moment + 100)
        chunks = chunks_of(self.backlog)
        assert sorted(self.inside) == sorted(e.position for c in chunks for e in c.entries)


TestBacklogLife = BacklogLife.TestCase


def test_deadlines_are_the_services() -> None:
    """
    24 hours, and 06:00 UTC on the first for the month before. Covers: H07
    """
    backlog = filled([])
    last = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    (record,) = usage(1, timestamp=last)

    assert datetime(2026, 12, 1, 6, tzinfo=UTC).timestamp() == backlog.deadline(record.epoch)
